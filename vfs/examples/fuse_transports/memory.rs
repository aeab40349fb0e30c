//! A share that is all in memory, and whoever serves it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Sender, bounded};
use vfs::backend::Backend;
use vfs::handle::OpenView;
use vfs::reply::Added;
use vfs::session::{FuseSession, FuseTransport, MountOptions, Transport};
use vfs::{Attr, DataReply, Errno, FileId, FileKind, Op, ROOT_INO, StatFs, Timestamp, Tree, TreeOptions};

const TTL: Duration = Duration::ZERO;
/// Inode numbers of the large file, of the folder, and of the first small file.
const FILE: u64 = 2;
const MANY: u64 = 3;
const SMALL: u64 = 10;
pub const SMALL_COUNT: u64 = 1_000;
const SMALL_BYTES: u64 = 4_096;
const MAILBOX_MAX: usize = 4_096;

struct Share {
    bytes: Vec<u8>,
}

impl Share {
    fn attr(&self, ino: u64) -> Attr {
        let (kind, size) = match ino {
            ROOT_INO | MANY => (FileKind::Directory, 4_096),
            FILE => (FileKind::Regular, self.bytes.len() as u64),
            _ => (FileKind::Regular, SMALL_BYTES),
        };
        Attr {
            id: FileId { ino, birth_ns: 0 },
            kind,
            mode: 0o755,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            size,
            blocks: size / 512,
            atime: Timestamp::default(),
            mtime: Timestamp::default(),
            ctime: Timestamp::default(),
            version: 1,
        }
    }

    fn find(parent: u64, name: &[u8]) -> Option<u64> {
        match (parent, name) {
            (ROOT_INO, b"file") => Some(FILE),
            (ROOT_INO, b"many") => Some(MANY),
            (MANY, name) => {
                let number: u64 = std::str::from_utf8(name).ok()?.parse().ok()?;
                (number < SMALL_COUNT).then_some(SMALL + number)
            }
            _ => None,
        }
    }

    fn answer(&self, op: Op) {
        match op {
            Op::Lookup { parent, name, reply } => match Self::find(parent, &name) {
                Some(ino) => reply.entry(&self.attr(ino), TTL, TTL),
                None => reply.error(Errno::ENOENT),
            },
            Op::Getattr { ino, reply } => reply.attr(&self.attr(ino), TTL),
            Op::Open { ino, reply, .. } | Op::Opendir { ino, reply } => reply.opened(ino, false),
            Op::Read { offset, length, reply, .. } => {
                let begin = (offset as usize).min(self.bytes.len());
                let end = (begin + length as usize).min(self.bytes.len());
                reply.data(&self.bytes[begin..end]);
            }
            Op::Release { reply, .. } | Op::Releasedir { reply, .. } => reply.ok(),
            Op::ReaddirPlus { ino, offset, mut reply, .. } => {
                for number in offset..if ino == MANY { SMALL_COUNT } else { 0 } {
                    let name = number.to_string();
                    if reply.add(number + 1, name.as_bytes(), &self.attr(SMALL + number), TTL) == Added::Full {
                        break;
                    }
                }
                reply.ok();
            }
            Op::Readdir { ino, offset, mut reply, .. } => {
                for number in offset..if ino == MANY { SMALL_COUNT } else { 0 } {
                    let name = number.to_string();
                    if reply.add(SMALL + number, number + 1, FileKind::Regular, name.as_bytes()) == Added::Full {
                        break;
                    }
                }
                reply.ok();
            }
            Op::Statfs { reply } => reply.statfs(&StatFs {
                blocks: 0,
                blocks_free: 0,
                blocks_available: 0,
                files: 0,
                files_free: 0,
                block_size: 4096,
                name_bytes_max: 255,
                fragment_size: 4096,
            }),
            Op::Readlink { reply, .. } => reply.error(Errno::EINVAL),
            Op::Forget { .. } => {}
        }
    }
}

enum Memory {
    Inline(Share),
    Shard(Sender<Op>),
}

impl Backend for Memory {
    fn submit(&self, op: Op) {
        match self {
            Self::Inline(share) => share.answer(op),
            // One that does not fit is dropped, which answers EIO.
            Self::Shard(mailbox) => drop(mailbox.try_send(op)),
        }
    }

    fn read_cached(&self, _: OpenView, _: u64, _: u32, reply: DataReply) -> Option<DataReply> {
        Some(reply)
    }
}

/// Serves until the mount is taken away.
pub fn serve(transport: FuseTransport, is_inline: bool, mountpoint: &Path, file_mib: usize) {
    let share = Share { bytes: vec![7; file_mib << 20] };
    let handles = Tree::new(TreeOptions::CLOSE_TO_OPEN, share.attr(ROOT_INO)).handle_table();
    let backend = if is_inline {
        Memory::Inline(share)
    } else {
        let (mailbox, ops) = bounded(MAILBOX_MAX);
        std::thread::spawn(move || ops.iter().for_each(|op| share.answer(op)));
        Memory::Shard(mailbox)
    };
    let mut options = MountOptions::new(mountpoint);
    options.transport = transport;
    let backend = Arc::new(backend);
    let (session, intake) = FuseSession::mount(options, Arc::clone(&backend), handles).expect("a mount");
    std::thread::spawn(move || intake.run(backend));
    let found = &session.report().transport;
    assert_eq!(matches!(found, Transport::Ring { .. }), transport == FuseTransport::Ring, "{found:?}");
    println!("MOUNTED");
    session.wait();
}
