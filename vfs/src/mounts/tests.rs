use proptest::prelude::*;

use super::*;

/// Escapes as the kernel's `show_mountinfo` does: `seq_path(" \t\n\\")` and `mangle` (`#` too).
fn escape(plain: &[u8]) -> String {
    let mut escaped = String::new();
    for &byte in plain {
        if b" \t\n\\#".contains(&byte) || byte >= 0x80 {
            escaped.push_str(&format!("\\{byte:03o}"));
        } else {
            escaped.push(char::from(byte));
        }
    }
    escaped
}

#[test]
fn reads_the_example_of_the_manual() {
    let line = b"36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue";
    let entry = MountEntry::parse(line).expect("the documented shape");
    assert_eq!(entry.device, DeviceNumber { major: 98, minor: 0 });
    assert_eq!(entry.mountpoint, Path::new("/mnt2"));
    assert_eq!(entry.fs_type, "ext3");
    assert_eq!(entry.source, "/dev/root");
    assert!(!entry.is_wormhole());
}

#[test]
fn reads_lines_without_and_with_many_optional_fields() {
    for optional in ["", "shared:1 ", "shared:1 master:2 propagate_from:3 unbindable "] {
        let line = format!("9 1 0:52 / /a\\040b ro {optional}- fuse.wormhole farm ro,user_id=0");
        let entry = MountEntry::parse(line.as_bytes()).expect("a whole line");
        assert_eq!(entry.mountpoint, Path::new("/a b"));
        assert!(entry.is_wormhole());
    }
}

#[test]
fn passes_over_every_cut_line() {
    let line = "9 1 0:52 / /mnt ro shared:1 - fuse.wormhole farm ro";
    for end in 0..line.len() - 2 {
        assert_eq!(MountEntry::parse(&line.as_bytes()[..end]), None, "{end}");
    }
}

#[test]
fn keeps_a_backslash_that_escapes_nothing() {
    assert_eq!(unescape(b"a\\"), b"a\\");
    assert_eq!(unescape(b"a\\04"), b"a\\04");
    assert_eq!(unescape(b"a\\400"), b"a\\400", "not a byte");
    assert_eq!(unescape(b"\\134\\040"), b"\\ ");
}

#[test]
fn resolves_links_without_looking_at_the_target() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let root = folder.path().canonicalize().expect("the folder exists");
    std::fs::create_dir(root.join("real")).expect("a folder");
    std::os::unix::fs::symlink("real", root.join("link")).expect("a link");
    std::os::unix::fs::symlink("turn", root.join("turn")).expect("a link");
    assert_eq!(resolve(&root.join("link")).expect("resolves"), root.join("real"));
    assert_eq!(resolve(&root.join("real/../real/.")).expect("resolves"), root.join("real"));
    assert_eq!(resolve(&root.join("none")).expect_err("missing").kind(), io::ErrorKind::NotFound);
    let turning = resolve(&root.join("turn")).expect_err("a link to itself");
    assert_eq!(turning.raw_os_error(), Some(Errno::LOOP.raw_os_error()));
}

#[test]
fn this_machine_has_a_root_mount() {
    assert!(topmost_at(Path::new("/")).expect("a mount table").is_some());
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_a_panic(table in proptest::collection::vec(any::<u8>(), 0..4096)) {
        for entry in parse_mountinfo(&table) {
            prop_assert!(entry.mountpoint.is_absolute());
        }
    }

    #[test]
    fn near_misses_are_read_without_a_panic(
        line in "[0-9]{1,12} [0-9] [0-9]{0,3}:?[0-9]{0,11} /[a-z\\\\0-7]{0,9} /?[a-z\\\\0-7]{0,9}( [-a-z:\\\\0-7]{0,4}){0,9}"
    ) {
        for entry in parse_mountinfo(line.as_bytes()) {
            prop_assert!(entry.mountpoint.is_absolute());
        }
    }

    #[test]
    fn every_mountpoint_comes_back(
        names in proptest::collection::vec(proptest::collection::vec(1_u8.., 0..32), 1..16),
        minor in any::<u32>(),
    ) {
        let table: String = names
            .iter()
            .map(|name| {
                let path = escape(&[b"/", name.as_slice()].concat());
                format!("9 1 0:{minor} / {path} ro shared:7 - fuse.wormhole farm ro\n")
            })
            .collect();
        let entries: Vec<_> = parse_mountinfo(table.as_bytes()).collect();
        prop_assert_eq!(entries.len(), names.len());
        for (entry, name) in entries.iter().zip(&names) {
            let expected = [b"/", name.as_slice()].concat();
            prop_assert_eq!(entry.mountpoint.as_os_str().as_bytes(), expected.as_slice());
            prop_assert_eq!(entry.device, DeviceNumber { major: 0, minor });
        }
    }
}
