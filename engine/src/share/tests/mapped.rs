//! Mapped bytes: right while the file stands, refused once it shrinks, gone when let go.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::sync::Barrier;
use std::sync::atomic::AtomicBool;

use bytes::Bytes;

use super::*;
use crate::share::{MAP_BYTES_MAX, Residency, blake3_of};

const PAGE: usize = 4096;
const FILL: u8 = 0xab;
/// Races of one truncation against two readers.
const RACE_ROUNDS: u64 = 200;

fn writer(folder: &Path, name: &str) -> File {
    File::options().write(true).open(folder.join(name)).expect("open for writing")
}

/// Bytes that differ from page to page and from byte to byte.
fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at % 251 + at / PAGE) as u8).collect()
}

#[test]
fn a_map_is_the_file_and_survives_its_handle() {
    let folder = tempfile::tempdir().expect("folder");
    let bytes = pattern(10 * PAGE + 100);
    let file = file_in(folder.path(), "f", &bytes);
    for (offset, len) in [(0, 1), (0, usize::MAX), (1, PAGE), (PAGE as u64 - 1, 2), (10 * PAGE as u64, 1000)] {
        let mapped = file.map(offset, len).expect("map");
        let end = bytes.len().min((offset as usize).saturating_add(len));
        assert_eq!(mapped.as_ref(), &bytes[offset as usize..end]);
        assert_eq!(mapped.len(), end - offset as usize);
        assert!(mapped.check().is_intact());
        let mut copy = vec![0; mapped.len() + 1];
        assert_eq!(mapped.copy_to(1, &mut copy), mapped.len() - 1);
        assert_eq!(copy[..mapped.len() - 1], mapped.as_ref()[1..]);
    }
    for past in [bytes.len() as u64, u64::MAX] {
        let empty = file.map(past, 1).expect("map");
        assert!(empty.is_empty() && empty.as_ref().is_empty() && empty.check().is_intact());
        assert_eq!(empty.copy_to(0, &mut [0]), 0);
    }
    let mapped = file.map(5, 3 * PAGE).expect("map");
    let (check, lent) = (mapped.check(), Bytes::from_owner(mapped));
    drop(file);
    assert_eq!(lent.slice(PAGE..2 * PAGE), bytes[5 + PAGE..5 + 2 * PAGE]);
    assert!(check.is_intact());
}

#[test]
fn addresses_are_given_back_with_the_last_slice() {
    let folder = tempfile::tempdir().expect("folder");
    let file = file_in(folder.path(), "a-name-to-look-for", &pattern(3 * PAGE));
    let is_mapped = || fs::read_to_string("/proc/self/maps").expect("proc").contains("a-name-to-look-for");
    assert!(!is_mapped(), "nothing is mapped before it is asked for");
    let lent = Bytes::from_owner(file.map(0, PAGE).expect("map"));
    let slice = lent.slice(10..20);
    drop((file, lent));
    assert!(is_mapped());
    drop(slice);
    assert!(!is_mapped());
}

#[test]
fn a_shrunken_file_kills_no_one_and_sends_nothing() {
    let len = 16 * PAGE;
    for size in [0, 1, PAGE - 1, PAGE, PAGE + 1, 8 * PAGE + 7, len - PAGE, len - 1] {
        let folder = tempfile::tempdir().expect("folder");
        let bytes = pattern(len);
        let file = file_in(folder.path(), "f", &bytes);
        let mapped = file.map(0, len).expect("map");
        let check = mapped.check();
        assert_eq!(mapped.as_ref(), bytes);
        writer(folder.path(), "f").set_len(size as u64).expect("truncate");

        // Up to the new end the old bytes are still there and may be sent.
        let mut head = vec![0; size];
        assert_eq!(mapped.copy_to(0, &mut head), size);
        assert_eq!(head, bytes[..size]);
        assert!(check.is_intact_to(size as u64), "{size}");
        assert!(!check.is_intact_to(size as u64 + 1), "{size}");

        // Beyond it the load is survived, and what it gave is refused.
        let mut whole = vec![0; len];
        assert_eq!(mapped.copy_to(0, &mut whole), len);
        assert!(whole[size..].iter().all(|&byte| byte == 0));
        assert!(!check.is_intact(), "{size}");

        // A tear is for good, even where the file is still there and after it has grown again; a
        // new map is sound.
        let torn = size <= len - PAGE;
        writer(folder.path(), "f").set_len(len as u64).expect("grow");
        assert_eq!(check.is_intact(), !torn, "{size}");
        assert_eq!(check.clone().is_intact_to(1), !torn, "{size}");
        let again = file.map(0, len).expect("map");
        assert_eq!(again.as_ref()[..size], bytes[..size]);
        assert!(again.as_ref()[size..].iter().all(|&byte| byte == 0));
        assert!(again.check().is_intact());
    }
}

#[test]
fn no_copy_that_is_called_intact_holds_a_byte_the_file_never_had() {
    let folder = tempfile::tempdir().expect("folder");
    let len = 64 * PAGE;
    let mut refused = 0;
    for round in 0..RACE_ROUNDS {
        let file = file_in(folder.path(), "f", &vec![FILL; len]);
        let size = round * 7919 % len as u64;
        let start = Barrier::new(3);
        refused += std::thread::scope(|scope| {
            let readers = [(); 2].map(|()| {
                scope.spawn(|| {
                    let mapped = file.map(0, len).expect("map");
                    let (check, mut copy) = (mapped.check(), vec![0; len]);
                    start.wait();
                    // Ends: the truncation comes, and from then on no copy is intact.
                    loop {
                        assert_eq!(mapped.copy_to(0, &mut copy), len);
                        if !check.is_intact() {
                            break 1;
                        }
                        assert!(copy.iter().all(|&byte| byte == FILL), "a made-up byte in round {round}");
                    }
                })
            });
            start.wait();
            writer(folder.path(), "f").set_len(size).expect("truncate");
            readers.map(|reader| reader.join().expect("reader")).iter().sum::<u64>()
        });
    }
    assert_eq!(refused, 2 * RACE_ROUNDS);
}

#[test]
fn a_replaced_file_keeps_its_old_bytes() {
    let folder = tempfile::tempdir().expect("folder");
    let file = file_in(folder.path(), "f", b"old bytes");
    let mapped = file.map(0, 100).expect("map");
    fs::write(folder.path().join("g"), b"new").expect("write");
    fs::rename(folder.path().join("g"), folder.path().join("f")).expect("rename");
    assert_eq!(mapped.as_ref(), b"old bytes");
    assert!(mapped.check().is_intact());
    assert_eq!(content(&file), b"old bytes");
    fs::remove_file(folder.path().join("f")).expect("remove");
    assert_eq!(content(&file), b"old bytes");
    assert_eq!(file.attr().expect("attr").nlink, 0);
}

#[test]
fn a_growing_file_is_read_to_its_new_end() {
    let folder = tempfile::tempdir().expect("folder");
    let file = file_in(folder.path(), "f", b"1");
    let first = file.map(0, 100).expect("map");
    // Within the page, within the window of 2 MiB, and beyond it.
    for len in [10, PAGE + 1, (2 << 20) - 1, (2 << 20) + 1, 9 << 20] {
        let bytes = pattern(len);
        writer(folder.path(), "f").write_all_at(&bytes, 0).expect("write");
        assert!(content(&file) == bytes, "{len}");
    }
    assert_eq!(first.len(), 1, "a range lent stays as long as it was");
    assert!(first.check().is_intact());
}

#[test]
fn a_sparse_file_of_8_gb_is_mapped_in_windows() {
    const GIB: u64 = 1 << 30;
    let folder = tempfile::tempdir().expect("folder");
    let file = file_in(folder.path(), "f", b"");
    let writer = writer(folder.path(), "f");
    writer.set_len(8 * GIB).expect("grow");
    writer.write_all_at(b"over the edge", 4 * GIB - 5).expect("write");
    for offset in [0, 3 * GIB, 5 * GIB + 1, 8 * GIB - 4096] {
        let mapped = file.map(offset, 4096).expect("map");
        assert_eq!(mapped.as_ref().len(), 4096.min(8 * GIB - offset) as usize);
        assert!(mapped.as_ref().iter().all(|&byte| byte == 0));
        assert!(mapped.check().is_intact());
    }
    assert_eq!(file.map(4 * GIB - 5, 13).expect("map").as_ref(), b"over the edge");
    assert_eq!(file.map(4 * GIB, 8).expect("map").as_ref(), b"the edge");
    assert_eq!(file.map(4 * GIB - 1, usize::MAX).expect("map").len(), MAP_BYTES_MAX);
    assert_eq!(file.map(8 * GIB - 1, usize::MAX).expect("map").len(), 1);
}

#[test]
fn residency_knows_written_pages_from_holes() {
    let folder = tempfile::tempdir().expect("folder");
    let file = file_in(folder.path(), "f", &pattern(3 * PAGE + 1));
    assert_eq!(file.residency(0, u64::MAX), Residency::Resident);
    assert_eq!(file.residency(PAGE as u64 - 1, 2), Residency::Resident);
    writer(folder.path(), "f").set_len(100 * PAGE as u64).expect("grow");
    assert_eq!(file.residency(0, 3 * PAGE as u64), Residency::Resident);
    assert_eq!(file.residency(0, 50 * PAGE as u64), Residency::Cold);
    assert_eq!(file.residency(50 * PAGE as u64, 1), Residency::Cold);
    assert_eq!(file.residency(0, 0), Residency::Resident);
    assert_eq!(file.residency(100 * PAGE as u64, 1), Residency::Resident, "nothing to wait for past the end");
}

#[test]
fn read_now_copies_what_is_in_memory() {
    // tmpfs knows no RWF_NOWAIT, and is read all the same.
    for folder in [tempfile::tempdir(), tempfile::tempdir_in("/dev/shm")] {
        let folder = folder.expect("folder");
        let bytes = pattern(PAGE + 10);
        let file = file_in(folder.path(), "f", &bytes);
        let mut target = vec![0; 2 * PAGE];
        assert_eq!(file.read_now(0, &mut target), Ok(bytes.len()));
        assert_eq!(target[..bytes.len()], bytes);
        assert_eq!(file.read_now(PAGE as u64, &mut target[..3]), Ok(3));
        assert_eq!(target[..3], bytes[PAGE..PAGE + 3]);
        assert_eq!(file.read_now(bytes.len() as u64, &mut target), Ok(0));
    }
}

#[test]
fn read_now_leaves_what_may_wait_to_others() {
    let folder = tempfile::tempdir_in("/dev/shm").expect("folder");
    let file = file_in(folder.path(), "f", &pattern(PAGE));
    writer(folder.path(), "f").set_len(10 * PAGE as u64).expect("grow");
    // A hole in tmpfs counts as cold: it might be on swap.
    assert_eq!(file.read_now(0, &mut vec![0; 2 * PAGE]), Err(FsError::WOULD_BLOCK));
}

#[test]
fn hashes_are_blake3_of_the_range() {
    let folder = tempfile::tempdir().expect("folder");
    let bytes = pattern(700_000); // more than two steps, and no multiple of one
    let file = file_in(folder.path(), "f", &bytes);
    let go = AtomicBool::new(false);
    let len = bytes.len() as u64;
    for range in [0..len, 1..len - 1, 0..0, 300_000..300_001] {
        let expected = blake3::hash(&bytes[range.start as usize..range.end as usize]);
        assert_eq!(blake3_of(&file, range, &go), Ok(*expected.as_bytes()));
    }
    assert_eq!(blake3_of(&file, 0..len + 1, &go), Err(FsError::TRUNCATED));
    assert_eq!(blake3_of(&file, 0..len, &AtomicBool::new(true)), Err(FsError::CANCELLED));
    writer(folder.path(), "f").set_len(10).expect("truncate");
    assert_eq!(blake3_of(&file, 0..len, &go), Err(FsError::TRUNCATED));
}
