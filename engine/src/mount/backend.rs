//! What FUSE reader threads do: answer from memory, or hand on.

use super::service::MountMail;
use crate::io::MailSender;
use cache::{ChunkKey, Frame, FrameClass, L1Reader};
use std::cell::RefCell;
use vfs::fuse::Backend;
use vfs::{DataReply, Errno, Op, OpenView};

/// Frames one read may span: 1 MiB of small frames, begun in the middle of one.
const SPAN_MAX: usize = 17;
/// Times an operation is offered to a mailbox that is full before it is refused.
const OFFERS_MAX: usize = 10_000;

/// See the module.
pub(super) struct MountBackend {
    mail: MailSender<MountMail>,
    l1: L1Reader,
}

impl MountBackend {
    pub(super) fn new(mail: MailSender<MountMail>, l1: L1Reader) -> Self {
        Self { mail, l1 }
    }
}

impl Backend for MountBackend {
    /// The mailbox holds more than the kernel sends at once. When the shard is busy for longer than `OFFERS_MAX` offers
    /// the operation is dropped, which answers `EIO`; a forget, which nobody waits for, is offered until it is
    /// taken. A shard that has ended takes everything and drops it.
    fn submit(&self, op: Op) {
        let forget = matches!(op, Op::Forget { .. });
        let mut mail = MountMail::Op(op);
        let mut offers = 0;
        while forget || offers < OFFERS_MAX {
            match self.mail.send(mail) {
                Ok(()) => return,
                Err(back) => mail = back,
            }
            offers += 1;
            std::thread::yield_now();
        }
        tracing::debug!(forget, "the mount's shard takes no more operations");
    }

    fn read_cached(&self, view: OpenView, offset: u64, length: u32, reply: DataReply) -> Option<DataReply> {
        let end = offset.saturating_add(length.into()).min(view.size);
        if offset >= end {
            reply.data(&[]);
            return None;
        }
        // The whole span, or nothing: a miss in the middle goes to the shard with all of it.
        let mut frames: [Option<(Frame, usize, usize)>; SPAN_MAX] = [const { None }; SPAN_MAX];
        let mut count = 0;
        let mut at = offset;
        while at < end {
            let Some(found) = find(&self.l1, view, at, end) else { return Some(reply) };
            at += (found.2 - found.1) as u64;
            *frames.get_mut(count)? = Some(found);
            count += 1;
        }
        let mut parts = frames[..count].iter().flatten().map(|(frame, from, to)| &frame[*from..*to]);
        match (parts.next(), count) {
            (Some(only), 1) => reply.data(only),
            (first, _) => GATHER.with_borrow_mut(|gather| {
                gather.clear();
                first.into_iter().chain(parts).for_each(|part| gather.extend_from_slice(part));
                reply.data(gather);
            }),
        }
        None
    }
}

thread_local! {
    /// One read's bytes where they lie in several frames; a reply takes one slice.
    static GATHER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// The frame that holds the byte at `at`, and which part of it belongs to the read.
fn find(l1: &L1Reader, view: OpenView, at: u64, end: u64) -> Option<(Frame, usize, usize)> {
    for class in [FrameClass::Large, FrameClass::Small] {
        let bytes = class.bytes() as u64;
        let Ok(index) = u32::try_from(at / bytes) else { continue };
        let key = ChunkKey { file: view.file, version: view.version, index, class };
        let Some(frame) = l1.lookup(&key) else { continue };
        let from = usize::try_from(at % bytes).expect("frames fit memory");
        let to = usize::try_from((end - u64::from(index) * bytes).min(frame.len() as u64)).expect("frames fit memory");
        if from < to {
            return Some((frame, from, to));
        }
    }
    None
}

/// The errno of a mount whose service has ended.
pub(super) const ENDED: Errno = Errno::ENOTCONN;
