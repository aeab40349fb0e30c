//! Layouts against numbers written down from the kernel's header, and bytes of any kind against the parser.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::attr::{Attr, FileId, FileKind, StatFs, Timestamp};

fn header(opcode: u32) -> InHeader {
    InHeader { len: 0, opcode, unique: 9, nodeid: 5 }
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_ne_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn some_attr() -> Attr {
    Attr {
        id: FileId { ino: 11, birth_ns: 7 },
        kind: FileKind::Regular,
        mode: 0o4755,
        nlink: 3,
        uid: 4,
        gid: 5,
        rdev: 6,
        size: 1 << 40,
        blocks: 99,
        atime: Timestamp { seconds: -1, nanoseconds: 1 },
        mtime: Timestamp { seconds: 2, nanoseconds: 20 },
        ctime: Timestamp { seconds: 3, nanoseconds: 30 },
        version: 1,
    }
}

#[test]
fn requests_of_each_shape() {
    let check = |opcode, first: &[u8], rest: &[u8], expected| {
        assert_eq!(Asked::parse(&header(opcode), first, rest), Ok(expected));
    };
    check(1, &[], b"name\0", Asked::Lookup { name: b"name".to_vec() });
    check(2, &words(&[7, 0]), &[], Asked::Forget(vec![(5, 7)]));
    let two = [1_u64, 2, 3, 4].map(u64::to_ne_bytes).concat();
    check(42, &words(&[2, 0]), &two, Asked::Forget(vec![(1, 2), (3, 4)]));
    // A ring's field for the first argument is longer than the argument.
    let mut read = words(&[1, 0, 2, 0, 3, 0, 0, 0, 0, 0]);
    check(15, &read, &[], Asked::Read { fh: 1, offset: 2, size: 3 });
    read.resize(128, 0xff);
    check(28, &read, &[], Asked::Readdir { fh: 1, offset: 2, size: 3 });
    check(44, &read, &[], Asked::ReaddirPlus { fh: 1, offset: 2, size: 3 });
    check(14, &words(&[libc::O_RDWR as u32, 0]), &[], Asked::Open { flags: libc::O_RDWR });
    for change in [4, 6, 8, 9, 10, 11, 12, 13, 16, 35, 43, 45, 47, 51] {
        check(change, &[], &[], Asked::Change);
    }
    for unknown in [22, 23, 34, 46, 52, 4096] {
        check(unknown, &[], &[], Asked::Unknown);
    }
}

#[test]
fn both_ways_of_delivery_parse_alike() {
    let body = words(&[1, 0, 2, 0, 3, 0, 0, 0, 0, 0]);
    let header = header(15);
    let (first, rest) = split(&header, &body).unwrap();
    assert_eq!((first.len(), rest.len()), (40, 0));
    assert_eq!(Asked::parse(&header, first, rest).unwrap(), Asked::Read { fh: 1, offset: 2, size: 3 });
    assert!(split(&header, &body[..39]).is_err());
}

#[test]
fn short_requests_are_malformed() {
    for (opcode, first, rest) in [(1, 0, &b"no end"[..]), (2, 7, &[]), (14, 3, &[]), (15, 19, &[]), (42, 8, &[1; 15])] {
        let first = vec![1; first];
        assert_eq!(Asked::parse(&header(opcode), &first, rest), Err(Malformed { opcode }), "{opcode}");
    }
    assert!(InHeader::parse(&[0; IN_HEADER_BYTES - 1]).is_err());
}

#[test]
fn init_has_more_flags_where_it_says_so() {
    let parse = |low: u32, rest: &[u8]| match Asked::parse(&header(26), &words(&[7, 45, 131_072, low]), rest) {
        Ok(Asked::Init(init)) => init.flags,
        other => panic!("{other:?}"),
    };
    let extended = init_flag::INIT_EXT as u32;
    assert_eq!(parse(1, &words(&[1 << 9])), 1);
    assert_eq!(parse(extended, &words(&[1 << 9])), init_flag::INIT_EXT | init_flag::OVER_IO_URING);
    assert_eq!(parse(extended, &[]), init_flag::INIT_EXT);
}

#[test]
fn answers_lie_as_the_kernel_reads_them() {
    let attr = some_attr();
    let out = entry_out(&attr, Duration::new(4, 5), Duration::new(6, 7));
    assert_eq!(out.len(), 128);
    let at = |offset| u64_at(&out, offset);
    assert_eq!((at(0), at(8), at(16), at(24)), (11, attr.id.generation(), 6, 4));
    assert_eq!((u32_at(&out, 32), u32_at(&out, 36)), (7, 5));
    // struct fuse_attr
    assert_eq!((at(40), at(48), at(56)), (11, 1 << 40, 99));
    assert_eq!((at(64), at(72), at(80)), (u64::MAX, 2, 3));
    let word = |offset| u32_at(&out, offset);
    assert_eq!((word(88), word(92), word(96)), (1, 20, 30));
    assert_eq!(word(100), 0o104_755);
    assert_eq!((word(104), word(108), word(112), word(116)), (3, 4, 5, 6));
    assert_eq!((word(120), word(124)), (1 << 20, 0));

    let out = attr_out(&attr, Duration::new(4, 5));
    assert_eq!((out.len(), u64_at(&out, 0), u32_at(&out, 8), u64_at(&out, 16)), (104, 4, 5, 11));
    assert_eq!(u64_at(&absent_out(Duration::new(6, 7)), 0), 0);
    assert_eq!(u64_at(&absent_out(Duration::new(6, 7)), 16), 6);
    let out = open_out(1, 0x22);
    assert_eq!((out.len(), u64_at(&out, 0), u32_at(&out, 8), u32_at(&out, 12)), (16, 1, 0x22, 0));

    let stat = StatFs {
        blocks: 1,
        blocks_free: 2,
        blocks_available: 3,
        files: 4,
        files_free: 5,
        block_size: 6,
        name_bytes_max: 7,
        fragment_size: 8,
    };
    let out = statfs_out(&stat);
    let wide = [0, 8, 16, 24, 32].map(|at| u64_at(&out, at));
    assert_eq!((out.len(), wide), (80, [1, 2, 3, 4, 5]));
    assert_eq!([40, 44, 48].map(|at| u32_at(&out, at)), [6, 7, 8]);

    let header = out_header(9, libc::EIO, 0);
    assert_eq!((u32_at(&header, 0), u32_at(&header, 4).cast_signed(), u64_at(&header, 8)), (16, -libc::EIO, 9));
    let notice = inval_inode_out(3, -1, 0);
    assert_eq!((u32_at(&notice, 0), u32_at(&notice, 4), u64_at(&notice, 8)), (40, 2, 0));
    assert_eq!([16, 24, 32].map(|at| u64_at(&notice, at)), [3, u64::MAX, 0]);
}

#[test]
fn init_says_what_was_chosen() {
    let out = init_out(&InitOut {
        minor: 45,
        max_readahead: 131_072,
        flags: init_flag::INIT_EXT | init_flag::OVER_IO_URING,
        max_background: 64,
        max_write: 1 << 20,
        max_pages: 256,
    });
    assert_eq!([0, 4, 8, 12].map(|at| u32_at(&out, at)), [7, 45, 131_072, 1 << 30]);
    assert_eq!(out[16..20], [64_u16.to_ne_bytes(), 64_u16.to_ne_bytes()].concat());
    assert_eq!([20, 24].map(|at| u32_at(&out, at)), [1 << 20, 1]);
    assert_eq!(out[28..30], 256_u16.to_ne_bytes());
    assert_eq!(u32_at(&out, 32), 1 << 9);
}

#[test]
fn listed_entries_are_padded_to_eight() {
    let mut out = Vec::new();
    push_dirent(&mut out, 1, 2, FileKind::Directory, b"abc");
    assert_eq!((out.len(), u32_at(&out, 16), u32_at(&out, 20)), (32, 3, u32::from(libc::DT_DIR)));
    assert_eq!(out[24..], *b"abc\0\0\0\0\0");
    push_direntplus(&mut out, 3, b"12345678", &some_attr(), Duration::from_secs(1));
    assert_eq!(out.len(), 32 + 160);
    assert_eq!((u64_at(&out, 32), u64_at(&out, 32 + 128), u64_at(&out, 32 + 136)), (11, 11, 3));
}

proptest! {
    /// Whatever comes is a request or is malformed, and says no more than its bytes do.
    #[test]
    fn bytes_of_any_kind_parse_or_are_refused(
        opcode in 0_u32..60,
        bytes in proptest::collection::vec(any::<u8>(), 0..400),
        cut in 0_usize..400,
    ) {
        let _any_header = InHeader::parse(&bytes);
        let header = header(opcode);
        let (first, rest) = bytes.split_at(cut.min(bytes.len()));
        match Asked::parse(&header, first, rest) {
            Ok(Asked::Lookup { name }) => prop_assert!(name.len() < rest.len() && !name.contains(&0)),
            Ok(Asked::Forget(ones)) => prop_assert!(opcode == 2 || ones.len() * 16 <= rest.len()),
            Ok(_) => {}
            Err(malformed) => prop_assert_eq!(malformed.opcode, opcode),
        }
        if let Ok((first, rest)) = split(&header, &bytes) {
            prop_assert_eq!(first.len() + rest.len(), bytes.len());
            let _any_request = Asked::parse(&header, first, rest);
        }
    }
}
