//! What is in memory of a read; and what the threads of a FUSE ring do: answer from there, or hand on.

use super::replies::FramePart;
use super::service::MountMail;
use crate::io::MailSender;
use cache::{ChunkKey, FrameClass, L1Reader};
use vfs::{Backend, DataReply, Errno, Op, OpenView};

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
        let Some(parts) = held(&self.l1, view, offset, length) else { return Some(reply) };
        reply.parts(parts.iter().map(|(frame, span)| &frame[span.clone()]));
        None
    }
}

/// Where the bytes of a read lie, if all of them are in memory; nowhere for one behind the file's end.
pub(super) fn held(l1: &L1Reader, view: OpenView, offset: u64, length: u32) -> Option<Vec<FramePart>> {
    let end = offset.saturating_add(length.into()).min(view.size);
    // The whole span, or nothing: a miss in the middle has all of it fetched.
    let mut parts = Vec::new();
    let mut at = offset;
    while at < end {
        // A span of more frames than one answer takes is treated so, too.
        if parts.len() == SPAN_MAX {
            return None;
        }
        let part = find(l1, view, at, end)?;
        at += part.1.len() as u64;
        parts.push(part);
    }
    Some(parts)
}

/// The frame that holds the byte at `at`, and which part of it belongs to the read.
fn find(l1: &L1Reader, view: OpenView, at: u64, end: u64) -> Option<FramePart> {
    for class in [FrameClass::Large, FrameClass::Small] {
        let bytes = class.bytes() as u64;
        let Ok(index) = u32::try_from(at / bytes) else { continue };
        let key = ChunkKey { file: view.file, version: view.version, index, class };
        // One use of a chunk for each pass over it, in however many reads: see `L1Reader::peek`.
        let is_use =
            if is_scan(l1, class, view.size) { ends_chunk(&key, view.size, end) } else { at.is_multiple_of(bytes) };
        let found = if is_use { l1.lookup(&key) } else { l1.peek(&key) };
        let Some(frame) = found else { continue };
        let from = usize::try_from(at % bytes).expect("frames fit memory");
        let to = usize::try_from((end - u64::from(index) * bytes).min(frame.len() as u64)).expect("frames fit memory");
        if from < to {
            return Some((frame, from..to));
        }
    }
    None
}

/// Whether chunks of this class, of a file of `size` bytes, belong to a pass that the cache cannot hold. What it has used
/// gives way, so a chunk of it is used by the read that takes its last byte.
pub(super) fn is_scan(l1: &L1Reader, class: FrameClass, size: u64) -> bool {
    class == FrameClass::Large && size > l1.bytes_max()
}

/// Whether a read up to `end` takes the last byte of a chunk of a file of `size` bytes.
pub(super) fn ends_chunk(key: &ChunkKey, size: u64, end: u64) -> bool {
    end >= size.min((u64::from(key.index) + 1) * key.class.bytes() as u64)
}

/// The errno of a mount whose service has ended.
pub(super) const ENDED: Errno = Errno::ENOTCONN;

#[cfg(test)]
mod tests {
    use super::*;
    use cache::{L1Config, L1Writer};

    const SMALL_BYTES: usize = FrameClass::Small.bytes();
    const LARGE_BYTES: usize = FrameClass::Large.bytes();

    /// A cache with the first `count` chunks of file 1, each filled with its number.
    fn cached(class: FrameClass, count: u32) -> L1Writer {
        let (_, mut l1) = cache::l1(L1Config { bytes_max: 16 << 20, seed: 7 }).unwrap();
        for index in 0..count {
            let mut frame = l1.allocate(class).unwrap();
            frame.fill(u8::try_from(index).unwrap());
            let key = ChunkKey { file: 1, version: 1, index, class };
            l1.insert(key, frame, u32::try_from(class.bytes()).unwrap());
        }
        l1
    }

    fn view(size: usize) -> OpenView {
        OpenView { file: 1, version: 1, size: size as u64 }
    }

    #[test]
    fn a_read_of_more_frames_than_fit_goes_to_the_shard() {
        let frames = u32::try_from(SPAN_MAX).unwrap() + 1;
        let (l1, size) = (cached(FrameClass::Small, frames), (SPAN_MAX + 1) * SMALL_BYTES);
        for (length, is_held) in [(size - SMALL_BYTES, true), (size, false)] {
            let parts = held(&l1.reader(), view(size), 0, u32::try_from(length).unwrap());
            assert_eq!(parts.is_some(), is_held, "{length} bytes");
        }
    }

    #[test]
    fn nothing_is_behind_the_end() {
        let (l1, size) = (cached(FrameClass::Small, 1), SMALL_BYTES);
        assert_eq!(held(&l1.reader(), view(size), size as u64, 4096).expect("no byte is missing").len(), 0);
        let parts = held(&l1.reader(), view(size), size as u64 - 10, 4096).expect("in memory");
        assert_eq!(parts[0].1, size - 10..size);
    }

    #[test]
    fn a_pass_over_a_file_uses_each_chunk_once() {
        let (l1, size) = (cached(FrameClass::Large, 2), 2 * LARGE_BYTES);
        let reader = l1.reader();
        let step = 128 << 10;
        for offset in (0..size).step_by(step) {
            let parts = held(&reader, view(size), offset as u64, u32::try_from(step).unwrap()).expect("in memory");
            let [(frame, span)] = &parts[..] else { panic!("{} parts", parts.len()) };
            let chunk = u8::try_from(offset / LARGE_BYTES).unwrap();
            assert_eq!(frame[span.clone()], vec![chunk; step]);
        }
        assert_eq!(reader.stats().hits, 2);
    }
}
