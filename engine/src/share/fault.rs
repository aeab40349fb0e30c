//! Survives files that shrink while they are mapped: the SIGBUS handler and its table of live
//! mappings.
//!
//! A load from a mapped page that the file no longer has, or that the disk cannot deliver, raises
//! SIGBUS (mmap(2)). The default is death of the host at a stranger's `truncate`. Here the handler
//! looks the address up among the live mappings; if it is one of ours, it marks the mapping torn,
//! replaces the whole of it by zero pages, and the load completes. The reader learns of it from
//! [`Mapping::is_intact`](super::Mapping::is_intact), asked after its copy and before it sends.
//!
//! ```text
//!   reader                      handler, on the reader's thread    whoever truncates
//!   ───────────────────────     ───────────────────────────────    ────────────────────────────
//!   copy a byte of the map                                         1 i_size := shorter
//!     └─ page gone ────────▶    torn := true                       2 unmap the pages beyond
//!                               mmap zeros over the mapping        3 zero the last page's tail
//!     ◀── reads 0 ──────────    return
//!   fence
//!   size ≥ end, and not torn?  → send the copy, else drop it
//! ```
//!
//! # Why no made-up byte is sent
//!
//! A copied byte is made up if it was read from a zero page of ours, or from the tail of a page
//! that a truncation had zeroed.
//!
//! * **Zero page of ours.** *Same thread:* the handler stored `torn` before the load completed, and
//!   the fence in `is_intact` keeps the later load of `torn` behind the copy. *Other thread B*,
//!   copying from the same mapping while A's handler replaces it: B can read a zero of ours only
//!   through a page table entry made after A's mmap(2), so B has faulted and gone through the
//!   kernel's locks of the address space after A released them there, and A stored `torn` before it
//!   entered that call. Lock release and acquire order the store before the end of B's copy, and
//!   B's fence orders the copy before B's load.
//! * **Zeroed tail.** The kernel lowers `i_size` first, then unmaps and zeroes (`truncate_setsize`
//!   and the file systems' `setattr`). A reader that saw a zero of step 3 and then asks for the
//!   size through a system call gets the lowered size, which is below `end`, since the zero lay
//!   below `end` and beyond the new size.
//! * **Truncated and grown again between the copy and the check.** Then the range was a hole, or
//!   new content, when the file grew: a read(2) of that moment, which copies from the page cache
//!   without a lock against truncation on most file systems, can return the same mixture. A mapped
//!   read promises what a read(2) does, no less. If a page of the range faulted meanwhile, the
//!   mapping is torn for good, whatever the size is now.
//!
//! # Order
//!
//! The copy is made of plain loads, so the compiler may move it past a relaxed load of `torn`;
//! `is_intact` starts with a sequentially consistent fence, which neither compiler nor processor
//! moves loads across in that direction. The size comes from a system call behind the same fence.
//!
//! # The table
//!
//! [`SLOTS`] is static memory, so the handler never follows a pointer that may dangle. A slot is
//! written under a generation count (odd while it changes, a sequence lock); the handler reads each
//! slot once and skips those that change under its eyes: the slot it looks for cannot, because the
//! faulting thread holds that mapping. A mapping is entered before it is lent to anyone, and taken
//! out before its addresses are unmapped, when no slice of it is left.
//!
//! # Limits
//!
//! * A fault that is not ours goes to the handler that was there before, in the end to the default,
//!   which kills with the original cause. Code that installs a SIGBUS handler later and does not
//!   pass on what is not its own takes this protection away.
//! * Threads that read mappings must not block SIGBUS: the kernel kills a process whose fault
//!   cannot be delivered.
//! * If the kernel has no memory left for one more mapping the handler cannot help, and the process
//!   dies as by default.
#![allow(unsafe_code)]

use std::ffi::{c_int, c_void};
use std::io;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};
use std::sync::{Mutex, OnceLock, PoisonError};

/// Mappings that may be live at once in the process. Each open file that is being read holds one to
/// four; 4,096 cover 1,000 of them and more, at 32 bytes each, and a handler that looks at all of
/// them still takes microseconds.
const MAPPINGS_MAX: usize = 4096;

static SLOTS: [Slot; MAPPINGS_MAX] = [const { Slot::empty() }; MAPPINGS_MAX];
static FREE: Mutex<FreeSlots> = Mutex::new(FreeSlots { returned: Vec::new(), untouched: 0 });
/// What SIGBUS did before us; set before our handler is installed.
static PREVIOUS: OnceLock<libc::sigaction> = OnceLock::new();
static INSTALLED: OnceLock<Result<(), c_int>> = OnceLock::new();

/// Why a mapping cannot be protected; the environment's.
#[derive(Debug, thiserror::Error)]
pub(super) enum WatchError {
    #[error("all {MAPPINGS_MAX} slots for mappings are taken")]
    Full,
    #[error("no handler for SIGBUS could be installed: {0}")]
    NoHandler(io::Error),
}

/// The entry of one live mapping in the table; leaving takes it out.
pub(super) struct Watch {
    slot: usize,
}

impl Watch {
    /// Enters the addresses `start..start + len`, which must be one mapping of the caller's.
    pub(super) fn new(start: usize, len: usize) -> Result<Self, WatchError> {
        let installed = INSTALLED.get_or_init(install);
        installed.map_err(|errno| WatchError::NoHandler(io::Error::from_raw_os_error(errno)))?;
        let slot = lock_free_slots().take().ok_or(WatchError::Full)?;
        SLOTS[slot].torn.store(false, Ordering::Relaxed);
        SLOTS[slot].set(start, len);
        Ok(Self { slot })
    }

    pub(super) fn is_torn(&self) -> bool {
        SLOTS[self.slot].torn.load(Ordering::Acquire)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        SLOTS[self.slot].set(0, 0);
        lock_free_slots().returned.push(self.slot);
    }
}

/// Never taken by the handler.
struct FreeSlots {
    returned: Vec<usize>,
    /// Slots from here on were never taken.
    untouched: usize,
}

impl FreeSlots {
    fn take(&mut self) -> Option<usize> {
        self.returned.pop().or_else(|| {
            let next = self.untouched;
            (next < MAPPINGS_MAX).then(|| {
                self.untouched += 1;
                next
            })
        })
    }
}

fn lock_free_slots() -> std::sync::MutexGuard<'static, FreeSlots> {
    // Whole at every point a holder could panic.
    FREE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One live mapping, or none while `len` is 0.
struct Slot {
    /// Odd while `start` and `len` change. Only the slot's owner writes.
    generation: AtomicUsize,
    start: AtomicUsize,
    len: AtomicUsize,
    torn: AtomicBool,
}

impl Slot {
    const fn empty() -> Self {
        Self {
            generation: AtomicUsize::new(0),
            start: AtomicUsize::new(0),
            len: AtomicUsize::new(0),
            torn: AtomicBool::new(false),
        }
    }

    fn set(&self, start: usize, len: usize) {
        let generation = self.generation.load(Ordering::Relaxed);
        self.generation.store(generation.wrapping_add(1), Ordering::Relaxed);
        fence(Ordering::Release);
        self.start.store(start, Ordering::Relaxed);
        self.len.store(len, Ordering::Relaxed);
        self.generation.store(generation.wrapping_add(2), Ordering::Release);
    }

    /// Start and length if the mapping holds `address` and does not change meanwhile.
    fn find(&self, address: usize) -> Option<(usize, usize)> {
        let before = self.generation.load(Ordering::Acquire);
        let start = self.start.load(Ordering::Relaxed);
        let len = self.len.load(Ordering::Relaxed);
        fence(Ordering::Acquire);
        let after = self.generation.load(Ordering::Relaxed);
        (before == after && before.is_multiple_of(2) && address.wrapping_sub(start) < len).then_some((start, len))
    }
}

/// Installs the handler; once per process.
fn install() -> Result<(), c_int> {
    let previous = ask_action()?;
    PREVIOUS.get_or_init(|| previous);

    let handler: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) = on_sigbus;
    // The alternate stack is for the case that the handler before us is the one that reports stack
    // overflows.
    set_action(handler as *const () as usize, libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESTART)
}

/// What SIGBUS does now. Async-signal-safe.
fn ask_action() -> Result<libc::sigaction, c_int> {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: a null new action only asks; the old one is written to `action`, which is ours and
    // large enough.
    let asked = unsafe { libc::sigaction(libc::SIGBUS, ptr::null(), action.as_mut_ptr()) };
    check(asked)?;
    // SAFETY: sigaction(2) returned 0, so it has filled `action`; the rest was zeroed, which is
    // valid for its type.
    Ok(unsafe { action.assume_init() })
}

/// Sets what SIGBUS does, with no other signal blocked meanwhile. Async-signal-safe.
fn set_action(handler: usize, flags: c_int) -> Result<(), c_int> {
    // SAFETY: `libc::sigaction` is integers, a set of bits and an optional function pointer: all
    // zero is valid, and means the default action with an empty mask.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler;
    action.sa_flags = flags;
    // SAFETY: `action` is a whole, live sigaction; the old one is not asked for. `handler` is
    // SIG_DFL or `on_sigbus`, which has the signature that SA_SIGINFO demands.
    check(unsafe { libc::sigaction(libc::SIGBUS, &raw const action, ptr::null_mut()) })
}

fn check(outcome: c_int) -> Result<(), c_int> {
    if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error().raw_os_error().unwrap_or(libc::EINVAL)) }
}

/// The handler. Allocates nothing, takes no lock, cannot panic; system calls: mmap(2), and
/// sigaction(2) before death.
extern "C" fn on_sigbus(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: takes nothing, returns the address of this thread's errno.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: valid for this thread as long as it lives, and no reference to it exists while a
    // handler runs.
    let interrupted = unsafe { errno.read() };
    // SAFETY: the kernel passes a siginfo_t that is valid until the handler returns.
    let siginfo = unsafe { &*info };

    // Codes above 0 come from the kernel and carry an address; the rest were sent by a process
    // (sigaction(2)).
    let is_fault = siginfo.si_code > 0;
    if is_fault {
        // SAFETY: `si_addr` is the member of the union that SIGBUS from the kernel fills.
        let address = unsafe { siginfo.si_addr() }.addr();
        if replace_by_zeros(address) {
            // SAFETY: as for the read above.
            unsafe { errno.write(interrupted) };
            return;
        }
    }
    pass_on(signal, info, context, is_fault);
    // SAFETY: as for the read above.
    unsafe { errno.write(interrupted) };
}

/// Tears the mapping that holds an address; `false` if none of ours does, or the kernel has no
/// memory for it.
///
/// The whole mapping goes at once: one system call however much is missing, and no split that would
/// count against the limit of mappings per process. Nothing of a torn mapping is ever sent, so
/// nothing is lost.
fn replace_by_zeros(address: usize) -> bool {
    let Some((slot, (start, len))) = SLOTS.iter().find_map(|slot| Some((slot, slot.find(address)?))) else {
        return false;
    };
    slot.torn.store(true, Ordering::SeqCst); // before the zeros: see the module's argument
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED | libc::MAP_NORESERVE;
    let start = ptr::with_exposed_provenance_mut(start);
    // SAFETY: `start..+len` is exactly a live mapping of ours: the faulting thread holds it, so its
    // slot is stable and its addresses stay mapped until that thread lets go. MAP_FIXED puts
    // readable zero pages in their place in one step; all that was there is a shared read-only view
    // of a file, so no data is lost. The range stays mapped and has the same length, so its owner
    // unmaps it as before. mmap(2) is a bare system call, safe in a handler.
    let zeros = unsafe { libc::mmap(start, len, libc::PROT_READ, flags, -1, 0) };
    zeros != libc::MAP_FAILED
}

/// Does what SIGBUS did before us.
fn pass_on(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void, is_fault: bool) {
    type Plain = extern "C" fn(c_int);
    type WithInfo = extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void);

    let before = PREVIOUS.get().map(|before| (before.sa_sigaction, before.sa_flags));
    match before.unwrap_or((libc::SIG_DFL, 0)) {
        (libc::SIG_IGN, _) if !is_fault => return,
        // A fault cannot be ignored: the kernel kills then, and so do we.
        (libc::SIG_DFL | libc::SIG_IGN, _) => {
            let _ = set_action(libc::SIG_DFL, 0); // fails for no valid signal
        }
        (handler, flags) if flags & libc::SA_SIGINFO != 0 => {
            let handler = handler as *const ();
            // SAFETY: not SIG_DFL or SIG_IGN, so sigaction(2) was given the address of a handler,
            // and SA_SIGINFO says that it takes three arguments, in C's convention.
            let handler = unsafe { std::mem::transmute::<*const (), WithInfo>(handler) };
            handler(signal, info, context);
        }
        (handler, _) => {
            let handler = handler as *const ();
            // SAFETY: as above; without SA_SIGINFO it takes the signal's number alone.
            let handler = unsafe { std::mem::transmute::<*const (), Plain>(handler) };
            handler(signal);
        }
    }
    // A fault needs no more: its instruction runs again, and under the default action dies with its
    // original cause. A signal that was sent is spent by now; without this, a handler that only
    // resets to the default (Rust's own does) would leave the process alive and our protection off.
    if !is_fault && is_default() {
        // SAFETY: sends this thread a signal, blocked until our handler returns; then it kills.
        unsafe { libc::raise(signal) };
    }
}

/// Whether SIGBUS now does what it does by default. Async-signal-safe.
fn is_default() -> bool {
    ask_action().is_ok_and(|action| action.sa_sigaction == libc::SIG_DFL)
}
