//! What one device may take of a host: sessions, and descriptors for open files.
//!
//! Shared by a host's shards and workers. A lock is taken when a session begins and ends; open files are counted by
//! atomics.

use crate::share::OpenFile;
use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use transport::PeerKey;

/// Connections of one device at once: a render node with a dozen mounts and some copies, all of which come back after a
/// break before the host has noticed that the old ones are gone.
pub const SESSIONS_PER_KEY_MAX: usize = 32;

/// Descriptors of a host that are not the open files of clients: 256 files whose windows are kept, 64 listings under
/// way, the names that workers look up, the control socket, the lists on disk, logs.
const DESCRIPTORS_RESERVED: usize = 512;
/// Descriptors of one shard: its socket, ring and wake, and 64 reads of files that were closed meanwhile.
const DESCRIPTORS_PER_SHARD: usize = 72;
/// Most open files where the system sets no limit; each costs the kernel about a KiB.
const OPEN_FILES_MAX: usize = 1 << 20;

/// Files that clients may have open at a host that may hold `descriptors` (`None` is no limit).
///
/// What the host itself needs is left out, so that a host whose clients hold all they may still accepts, lists and looks
/// names up. A quarter is for clients in any case.
pub fn open_files_max(descriptors: Option<u64>, shards: u16) -> usize {
    let all = descriptors.map_or(OPEN_FILES_MAX, |all| usize::try_from(all).unwrap_or(usize::MAX));
    let ours = DESCRIPTORS_RESERVED + usize::from(shards) * DESCRIPTORS_PER_SHARD;
    all.saturating_sub(ours).max(all / 4).min(OPEN_FILES_MAX)
}

/// The shares of all devices.
pub struct Quotas(Arc<Shares>);

struct Shares {
    /// Devices with a session.
    devices: Mutex<BTreeMap<[u8; 32], Device>>,
    files: Arc<Files>,
}

struct Device {
    /// `1..=SESSIONS_PER_KEY_MAX`.
    sessions: usize,
    share: Arc<DeviceFiles>,
}

/// Open files of all devices.
struct Files {
    open: AtomicUsize,
    open_max: usize,
}

/// Open files of one device.
pub(crate) struct DeviceFiles {
    open: AtomicUsize,
    all: Arc<Files>,
}

impl Shares {
    /// A lock whose holder panicked still guards consistent data: sections insert, count or remove.
    fn devices(&self) -> MutexGuard<'_, BTreeMap<[u8; 32], Device>> {
        self.devices.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Quotas {
    /// Creates the shares of a host whose clients may have so many files open, all together.
    pub fn new(open_files_max: usize) -> Self {
        let files = Files { open: AtomicUsize::new(0), open_max: open_files_max };
        Self(Arc::new(Shares { devices: Mutex::default(), files: Arc::new(files) }))
    }

    /// A place for one more session of a device, or `None` when it has [`SESSIONS_PER_KEY_MAX`].
    pub(crate) fn try_enter(&self, key: PeerKey) -> Option<Place> {
        let mut devices = self.0.devices();
        let device = devices.entry(key.0).or_insert_with(|| Device {
            sessions: 0,
            share: Arc::new(DeviceFiles { open: AtomicUsize::new(0), all: Arc::clone(&self.0.files) }),
        });
        if device.sessions == SESSIONS_PER_KEY_MAX {
            return None;
        }
        device.sessions += 1;
        Some(Place { shares: Arc::clone(&self.0), key: key.0, files: Arc::clone(&device.share) })
    }
}

/// One session's place; dropping it makes room for another.
pub(crate) struct Place {
    shares: Arc<Shares>,
    key: [u8; 32],
    files: Arc<DeviceFiles>,
}

impl Place {
    /// The open files of the session's device.
    pub(crate) fn files(&self) -> Arc<DeviceFiles> {
        Arc::clone(&self.files)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut devices = self.shares.devices();
        let device = devices.get_mut(&self.key).expect("a device is there while it has a place");
        device.sessions -= 1;
        if device.sessions == 0 {
            devices.remove(&self.key);
        }
    }
}

impl DeviceFiles {
    /// Room for one more open file, or `None` when this device has as many as are left for all.
    ///
    /// So one greedy device gets half of them, n greedy ones get 1/(n + 1) each, and there is always as much left for
    /// the next one (dynamic thresholds: Choudhury and Hahne, IEEE/ACM Transactions on Networking 6(2), 1998). Devices
    /// that ask at the same moment may be refused some files before that.
    pub(crate) fn try_open(self: &Arc<Self>) -> Option<Slot> {
        let all = self.all.open.fetch_add(1, Ordering::Relaxed);
        let ours = self.open.fetch_add(1, Ordering::Relaxed);
        // Counted already: dropped, it gives both back.
        let slot = Slot(Arc::clone(self));
        (ours < self.all.open_max.saturating_sub(all)).then_some(slot)
    }
}

/// Room for one open file.
pub(crate) struct Slot(Arc<DeviceFiles>);

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
        self.0.all.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A file that is open for a client, in its device's share.
pub(crate) struct HeldFile {
    // Dropped first: the descriptor is gone when its room is given back.
    file: OpenFile,
    _slot: Slot,
}

impl HeldFile {
    pub(crate) fn new(file: OpenFile, slot: Slot) -> Self {
        Self { file, _slot: slot }
    }
}

impl Deref for HeldFile {
    type Target = OpenFile;

    fn deref(&self) -> &OpenFile {
        &self.file
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: PeerKey = PeerKey([1; 32]);

    fn fill(place: &Place) -> Vec<Slot> {
        std::iter::from_fn(|| place.files().try_open()).collect()
    }

    #[test]
    fn a_device_has_so_many_sessions_and_another_has_as_many() {
        let quotas = Quotas::new(1);
        let mut places: Vec<_> = std::iter::from_fn(|| quotas.try_enter(KEY)).collect();
        assert_eq!(places.len(), SESSIONS_PER_KEY_MAX);
        assert!(quotas.try_enter(PeerKey([2; 32])).is_some());
        places.pop();
        let last = quotas.try_enter(KEY).expect("one left");
        assert!(quotas.try_enter(KEY).is_none());
        drop((places, last));
        assert!(quotas.0.devices().is_empty(), "nothing is kept of who is gone");
    }

    #[test]
    fn a_greedy_device_leaves_as_much_as_it_takes() {
        let quotas = Quotas::new(1_000);
        let greedy = [quotas.try_enter(KEY).unwrap(), quotas.try_enter(KEY).unwrap()];
        let held = fill(&greedy[0]);
        assert_eq!(held.len(), 500);
        assert!(greedy[1].files().try_open().is_none(), "its sessions share");
        let other = quotas.try_enter(PeerKey([2; 32])).unwrap();
        assert_eq!(fill(&other).len(), 250);
        drop(held);
        assert_eq!(fill(&greedy[1]).len(), 500, "what is closed is room again");
        assert_eq!(quotas.0.files.open.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn files_outlive_their_session_in_the_count_of_all() {
        let quotas = Quotas::new(100);
        let place = quotas.try_enter(KEY).unwrap();
        let held = fill(&place);
        drop(place);
        assert_eq!(quotas.0.files.open.load(Ordering::Relaxed), held.len());
        let again = quotas.try_enter(KEY).unwrap();
        assert_eq!(fill(&again).len(), 25);
    }

    #[test]
    fn a_reserve_is_left_to_the_host() {
        assert_eq!(open_files_max(Some(1_024), 2), 1_024 - 512 - 144);
        assert_eq!(open_files_max(Some(524_288), 128), 524_288 - 512 - 9_216);
        assert_eq!(open_files_max(Some(256), 1), 64, "a quarter in any case");
        assert_eq!(open_files_max(None, 2), OPEN_FILES_MAX - 656);
    }
}
