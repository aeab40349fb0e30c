//! What this kernel and this process's confinement grant: probed once, named plainly.

use super::enter;
use io_uring::{IoUring, Probe, opcode};
use std::fmt;
use std::io;
use std::os::fd::AsRawFd;

/// Why io_uring cannot be used here, and what would help.
#[derive(Debug, thiserror::Error)]
pub enum UringUnavailable {
    /// The administrator switched it off.
    #[error(
        "io_uring is switched off (kernel.io_uring_disabled={0}); \
         `sysctl kernel.io_uring_disabled=0` switches it on"
    )]
    Disabled(u8),
    /// A filter answers in the kernel's place.
    #[error(
        "io_uring is refused by a seccomp filter, as containers do by default; allow \
         io_uring_setup, io_uring_enter and io_uring_register in its profile"
    )]
    Filtered,
    /// The kernel knows no io_uring, or a filter or sandbox says so.
    #[error("this kernel has no io_uring (before Linux 5.1, built without it, or hidden by a sandbox)")]
    Missing,
    /// Locked memory is limited too tightly.
    #[error("the locked-memory limit is too low for a ring; raise RLIMIT_MEMLOCK (ulimit -l)")]
    LockedMemory,
    /// The kernel's io_uring lacks something a shard needs.
    #[error("this kernel's io_uring lacks {0}; Linux 6.0 or later has it")]
    TooOld(&'static str),
    /// Anything else the kernel said while the ring was set up.
    #[error("setting up io_uring failed at {step}")]
    Setup {
        /// What was being done.
        step: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

/// What io_uring offers here beyond the floor; each item has a fallback.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UringReport {
    /// Completions run on our enters only (`DEFER_TASKRUN`, Linux 6.1).
    pub defer_taskrun: bool,
    /// No indirection in the submission queue (`NO_SQARRAY`, Linux 6.6).
    pub no_sqarray: bool,
    /// Deadlines as moments on the enter call (`ABS_TIMER`, Linux 6.12).
    pub absolute_timer: bool,
}

impl fmt::Display for UringReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = |granted| if granted { "yes" } else { "no" };
        write!(
            f,
            "io_uring: defer_taskrun {}, no_sqarray {}, absolute_timer {}",
            word(self.defer_taskrun),
            word(self.no_sqarray),
            word(self.absolute_timer),
        )
    }
}

/// Sets up a ring as a shard would, and says what it got.
///
/// Cost: some ten system calls; the ring is closed again.
///
/// # Errors
/// The likely cause, with its remedy.
pub fn probe_uring() -> Result<UringReport, UringUnavailable> {
    let (uring, report) = build(PROBE_ENTRIES, PROBE_ENTRIES)?;
    super::buf_ring::BufRing::register(&uring, 1, 1)
        .and_then(|mut ring| ring.unregister(&uring))
        .map_err(|_| UringUnavailable::TooOld("provided-buffer rings"))?;
    Ok(report)
}

const PROBE_ENTRIES: u32 = 8;

/// Builds a ring with the best flags granted, after checking that it can do a shard's work.
pub(crate) fn build(entries: u32, completions: u32) -> Result<(IoUring, UringReport), UringUnavailable> {
    let mut refusal = None;
    for (defer_taskrun, no_sqarray) in [(true, true), (true, false), (false, false)] {
        match build_with(entries, completions, defer_taskrun, no_sqarray) {
            Ok(uring) => {
                check(&uring)?;
                let absolute_timer = enter::takes_absolute_timeouts(uring.as_raw_fd());
                let report = UringReport { defer_taskrun, no_sqarray, absolute_timer };
                return Ok((uring, report));
            }
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => refusal = Some(error),
            Err(error) => return Err(explain(error)),
        }
    }
    Err(refusal.map_or(UringUnavailable::Missing, explain))
}

fn build_with(entries: u32, completions: u32, defer_taskrun: bool, no_sqarray: bool) -> io::Result<IoUring> {
    let mut builder = IoUring::builder();
    builder.dontfork().setup_cqsize(completions).setup_submit_all().setup_coop_taskrun().setup_taskrun_flag();
    if defer_taskrun {
        builder.setup_single_issuer().setup_defer_taskrun();
    }
    if no_sqarray {
        builder.setup_no_sqarray();
    }
    builder.build(entries)
}

fn check(uring: &IoUring) -> Result<(), UringUnavailable> {
    let params = uring.params();
    if !params.is_feature_ext_arg() {
        return Err(UringUnavailable::TooOld("timeouts on io_uring_enter"));
    }
    if !params.is_feature_nodrop() {
        return Err(UringUnavailable::TooOld("completions that are never lost"));
    }
    let mut probe = Probe::new();
    uring
        .submitter()
        .register_probe(&mut probe)
        .map_err(|source| UringUnavailable::Setup { step: "IORING_REGISTER_PROBE", source })?;
    // Multishot recvmsg cannot be asked for; it came in the same release as SEND_ZC, Linux 6.0.
    for (code, name) in [
        (opcode::RecvMsg::CODE, "RECVMSG"),
        (opcode::SendMsg::CODE, "SENDMSG"),
        (opcode::Read::CODE, "READ"),
        (opcode::AsyncCancel::CODE, "ASYNC_CANCEL"),
        (opcode::SendZc::CODE, "multishot RECVMSG"),
    ] {
        if !probe.is_supported(code) {
            return Err(UringUnavailable::TooOld(name));
        }
    }
    Ok(())
}

/// Names the likely cause of a failed io_uring_setup(2).
fn explain(source: io::Error) -> UringUnavailable {
    match source.raw_os_error() {
        Some(libc::ENOSYS) => UringUnavailable::Missing,
        Some(libc::EPERM | libc::EACCES) => match disabled_sysctl() {
            0 => UringUnavailable::Filtered,
            level => UringUnavailable::Disabled(level),
        },
        Some(libc::ENOMEM) => UringUnavailable::LockedMemory,
        Some(libc::EINVAL) => UringUnavailable::TooOld("cooperative task running"),
        _ => UringUnavailable::Setup { step: "io_uring_setup", source },
    }
}

/// Reads `kernel.io_uring_disabled`; 0 where the kernel has no such switch (before Linux 6.6).
fn disabled_sysctl() -> u8 {
    let text = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled");
    text.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_names_its_cause() {
        for (errno, part) in [
            (libc::ENOSYS, "no io_uring"),
            (libc::ENOMEM, "RLIMIT_MEMLOCK"),
            (libc::EINVAL, "Linux 6.0"),
            (libc::EMFILE, "io_uring_setup"),
        ] {
            let text = explain(io::Error::from_raw_os_error(errno)).to_string();
            assert!(text.contains(part), "{errno}: {text}");
        }
        // With the switch at 0 a refusal comes from a filter, else the switch is to blame.
        let text = explain(io::Error::from_raw_os_error(libc::EPERM)).to_string();
        let expected = if disabled_sysctl() == 0 { "seccomp" } else { "io_uring_disabled" };
        assert!(text.contains(expected), "{text}");
    }
}
