//! What a process sees through a real mount is what the share holds.

mod mount_support;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::Ordering;

use mount_support::Mounted;
use mount_support::share::{Content, STATFS, Share, bytes_of};
use rustix::fs::SeekFrom;
use rustix::io::Errno;

const LENGTHS: [usize; 6] = [0, 1, 4095, 4096, (1 << 20) + 1, 10_000_000];

fn share_of_lengths() -> Share {
    LENGTHS.iter().fold(Share::new(), |share, &length| share.with_file(&length.to_string(), length))
}

/// Reads to the end in blocks of one size, as `dd` does.
fn read_in_blocks(mut file: &File, block: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut buffer = vec![0; block];
    loop {
        match file.read(&mut buffer).expect("a readable file") {
            0 => return bytes,
            count => bytes.extend_from_slice(&buffer[..count]),
        }
    }
}

#[test]
fn files_of_every_length_in_blocks_of_every_size() {
    let mounted = Mounted::new(share_of_lengths());
    for length in LENGTHS {
        let expected = bytes_of(length);
        for block in [512, 4096, 65_537, 1 << 20, 4 << 20] {
            let file = File::open(mounted.at.join(length.to_string())).expect("it opens");
            let found = read_in_blocks(&file, block);
            assert!(found == expected, "{length} bytes in blocks of {block}");
        }
    }
}

#[test]
fn files_of_every_length_past_the_page_cache() {
    let mounted = Mounted::new(share_of_lengths());
    for length in LENGTHS {
        let expected = bytes_of(length);
        for block in [4096, 1 << 20, 4 << 20] {
            let file = OpenOptions::new()
                .read(true)
                .custom_flags(libc::O_DIRECT)
                .open(mounted.at.join(length.to_string()))
                .expect("it opens");
            let found = read_in_blocks(&file, block);
            assert!(found == expected, "{length} bytes in direct blocks of {block}");
        }
    }
    // 1 MiB is what INIT asked for, and what one direct read of 4 MiB must be cut into.
    let longest = mounted.server.counts.longest_read.load(Ordering::Relaxed);
    assert_eq!(longest, 1 << 20);
}

#[test]
fn many_readers_of_one_file_at_any_offset() {
    let mounted = Mounted::new(share_of_lengths());
    let expected = bytes_of(10_000_000);
    let path = mounted.at.join("10000000");
    std::thread::scope(|scope| {
        for reader in 0..8_u64 {
            let (path, expected) = (&path, &expected);
            scope.spawn(move || {
                let file = File::open(path).expect("it opens");
                let mut buffer = vec![0; 100_003];
                for step in 0..100 {
                    let offset = (reader * 7_919_993 + step * 611_953) % 9_900_000;
                    file.read_exact_at(&mut buffer, offset).expect("bytes");
                    let start = offset as usize;
                    assert!(buffer == expected[start..start + buffer.len()], "at {offset}");
                }
            });
        }
    });
}

#[test]
fn a_program_runs_from_the_mount() {
    // The kernel and the loader map its pages: a read by page fault.
    let program = std::fs::read("/bin/cat").expect("a program to serve");
    let mut share = Share::new();
    share.add(1, "cat", 0o755, Content::Bytes(program));
    let mounted = Mounted::new(share.with_file("text", 300_000));
    let output = Command::new(mounted.at.join("cat")).arg(mounted.at.join("text")).output().expect("it starts");
    assert!(output.status.success());
    assert!(output.stdout == bytes_of(300_000));
}

#[test]
fn names_of_every_byte() {
    let mut names: Vec<Vec<u8>> = (1..=255).filter(|&byte| byte != b'/').map(|byte| vec![b'n', byte]).collect();
    names.push(vec![0xff; 255]);
    let mut share = Share::new();
    for (length, name) in names.iter().enumerate() {
        share.add(1, name.as_slice(), 0o600, Content::Bytes(bytes_of(length)));
    }
    let mounted = Mounted::new(share);
    for (length, name) in names.iter().enumerate() {
        let path = mounted.at.join(OsStr::from_bytes(name));
        assert!(std::fs::read(&path).expect("it opens") == bytes_of(length), "{path:?}");
    }
    let mut listed: Vec<Vec<u8>> = std::fs::read_dir(mounted.at.path())
        .expect("it lists")
        .map(|entry| entry.expect("an entry").file_name().into_vec())
        .collect();
    listed.sort_unstable();
    names.sort_unstable();
    assert_eq!(listed, names);
}

#[test]
fn five_thousand_entries_with_their_attributes() {
    let mut share = Share::new();
    let folder = share.add(1, "folder", 0o755, Content::Folder(Vec::new()));
    for length in 0..5000 {
        let name = format!("entry-{length:0>60}");
        share.add(folder, name, 0o640, Content::Bytes(vec![7; length]));
    }
    let mounted = Mounted::new(share);
    let listed: BTreeMap<_, _> = std::fs::read_dir(mounted.at.join("folder"))
        .expect("it lists")
        .map(|entry| {
            let entry = entry.expect("an entry");
            (entry.file_name(), entry.metadata().expect("attributes"))
        })
        .collect();
    assert_eq!(listed.len(), 5000);
    for (length, (name, metadata)) in listed.iter().enumerate() {
        assert_eq!(name.to_str(), Some(format!("entry-{length:0>60}").as_str()));
        assert_eq!(metadata.len(), length as u64);
        assert_eq!(metadata.permissions().mode(), 0o100_640);
        assert_eq!(metadata.mtime(), 1_000_000_000 + metadata.ino() as i64);
        assert_eq!(metadata.mtime_nsec(), 123_456_789);
    }
    assert!(mounted.server.counts.readdirplus.load(Ordering::Relaxed) > 0);
}

#[test]
fn links_and_figures() {
    let mut share = Share::new();
    let folder = share.add(1, "folder", 0o755, Content::Folder(Vec::new()));
    share.add(folder, "file", 0o644, Content::Bytes(b"found".to_vec()));
    share.add(1, "link", 0o777, Content::Link(b"folder/file".to_vec()));
    let mounted = Mounted::new(share);
    let link = mounted.at.join("link");
    assert_eq!(std::fs::read_link(&link).expect("a link"), Path::new("folder/file"));
    assert_eq!(std::fs::read(&link).expect("it leads somewhere"), b"found");

    let found = rustix::fs::statvfs(mounted.at.path()).expect("figures");
    assert_eq!(found.f_blocks, STATFS.blocks);
    assert_eq!(found.f_bavail, STATFS.blocks_available);
    assert_eq!(found.f_files, STATFS.files);
    assert_eq!(found.f_namemax, u64::from(STATFS.name_bytes_max));
}

#[test]
fn every_change_is_refused() {
    let mut share = Share::new().with_file("file", 10);
    share.add(1, "folder", 0o777, Content::Folder(Vec::new()));
    let mounted = Mounted::new(share);
    let (file, new) = (mounted.at.join("file"), mounted.at.join("new"));
    let changes = [
        std::fs::write(&new, b"x"),
        OpenOptions::new().write(true).open(&file).map(drop),
        OpenOptions::new().append(true).open(&file).map(drop),
        OpenOptions::new().write(true).truncate(true).open(&file).map(drop),
        std::fs::create_dir(&new),
        std::fs::remove_dir(mounted.at.join("folder")),
        std::fs::remove_file(&file),
        std::fs::rename(&file, &new),
        std::fs::hard_link(&file, &new),
        std::os::unix::fs::symlink("file", &new),
        std::fs::set_permissions(&file, PermissionsExt::from_mode(0o777)),
        std::os::unix::fs::chown(&file, Some(1), Some(1)),
        rustix::fs::setxattr(&file, "user.x", b"1", rustix::fs::XattrFlags::empty()).map_err(Into::into),
    ];
    for (index, change) in changes.into_iter().enumerate() {
        let refused = change.expect_err("nothing can be changed");
        let errno = refused.raw_os_error();
        assert_eq!(errno, Some(Errno::ROFS.raw_os_error()), "change {index}: {refused}");
    }
    assert_eq!(std::fs::read(&file).expect("unchanged"), bytes_of(10));
}

#[test]
fn what_is_not_there_is_refused_as_unsupported() {
    let mounted = Mounted::new(Share::new().with_file("file", 10_000));
    let path = mounted.at.join("file");
    let file = File::open(&path).expect("it opens");
    let mut value = [0_u8; 64];
    for _ in 0..2 {
        let refused = rustix::fs::getxattr(&path, "user.x", &mut value[..]);
        assert_eq!(refused.expect_err("no attributes"), Errno::NOTSUP);
    }
    // Without our help the kernel takes a file for data from end to end.
    assert_eq!(rustix::fs::seek(&file, SeekFrom::Hole(0)), Ok(10_000));
    assert_eq!(rustix::fs::seek(&file, SeekFrom::Data(5000)), Ok(5000));
    rustix::fs::fsync(&file).expect("nothing is dirty");
    let missing = std::fs::read(mounted.at.join("none")).expect_err("no such file");
    assert_eq!(missing.raw_os_error(), Some(Errno::NOENT.raw_os_error()));
}
