//! An answer owed to the kernel by a session of our own: sent once, `EIO` when dropped.

use crate::device;
use crate::errno::Errno;
use crate::ring;

/// Where the answer to one request goes. Dropped unsent it says [`Errno::EIO`].
#[derive(Debug)]
pub(crate) enum Owed {
    /// Into the payload of a ring's entry, which then goes back to the kernel.
    Ring(ring::Slot),
    /// To `/dev/fuse`.
    Device(device::Pending),
}

impl Owed {
    /// Answers with the bytes of `parts`, one after the other.
    pub(crate) fn answer<'a>(self, parts: impl Iterator<Item = &'a [u8]>) {
        match self {
            Self::Ring(slot) => slot.answer(parts),
            Self::Device(pending) => pending.answer(parts),
        }
    }

    /// Answers with one structure, or with nothing but success.
    pub(crate) fn answer_with(self, bytes: &[u8]) {
        self.answer(std::iter::once(bytes));
    }

    /// Answers with an error.
    pub(crate) fn refuse(self, errno: Errno) {
        match self {
            Self::Ring(slot) => slot.refuse(errno),
            Self::Device(pending) => pending.refuse(errno),
        }
    }
}
