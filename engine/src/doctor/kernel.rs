//! The kernel's version, whether io_uring may be used, and the limits of this process.

use super::{Finding, Surroundings};

/// Oldest kernel that has all a shard asks for: multishot receive into provided buffers (6.0) with
/// deferred task work (6.1).
const VERSION_MIN: (u32, u32) = (6, 1);

/// Open files that a host of many clients wants: one for each file being served.
const FILES_WANTED: u64 = 4096;

/// Locked memory in bytes that rings with registered buffers want, the default since Linux 5.16.
const LOCKED_BYTES_WANTED: u64 = 8 << 20;

pub(super) fn version(surroundings: &Surroundings<'_>) -> Finding {
    let name = "kernel";
    let release = surroundings.read("/proc/sys/kernel/osrelease").unwrap_or_default();
    match parse_version(&release) {
        Some(version) if version >= VERSION_MIN => Finding::ok(name, format!("Linux {release}")),
        Some(_) => Finding::warn(
            name,
            format!("Linux {release} lacks parts of io_uring, so --io poll is used"),
            format!("use Linux {}.{} or newer for full speed", VERSION_MIN.0, VERSION_MIN.1),
        ),
        None => Finding::warn(name, "the kernel's version cannot be read", "mount /proc, then run this again"),
    }
}

pub(super) fn io_uring(surroundings: &Surroundings<'_>) -> Finding {
    let name = "io_uring";
    let remedy = match surroundings.read("/proc/sys/kernel/io_uring_disabled").as_deref() {
        // Documentation/admin-guide/sysctl/kernel.rst, `io_uring_disabled`.
        Some("2") => "sudo sysctl -w kernel.io_uring_disabled=0",
        Some("1") if surroundings.uid != 0 => "sudo sysctl -w kernel.io_uring_disabled=0",
        _ => "allow the io_uring system calls in the container's seccomp profile; until then --io poll is used",
    };
    match (surroundings.probe_uring)() {
        Ok(detail) => Finding::ok(name, detail),
        Err(reason) => Finding::warn(
            name,
            format!("io_uring cannot be used ({reason}), so --io poll is used and costs more CPU"),
            remedy,
        ),
    }
}

pub(super) fn limits(surroundings: &Surroundings<'_>) -> Vec<Finding> {
    let Some(text) = surroundings.read("/proc/self/limits") else {
        return Vec::new();
    };
    let mut findings = Vec::new();
    if let Some(limit) = parse_limit(&text, "Max open files") {
        findings.push(if limit.hard >= FILES_WANTED {
            Finding::ok("open files", format!("up to {} at once", show(limit.hard)))
        } else {
            Finding::warn(
                "open files",
                format!("at most {} at once; a host of many clients wants {FILES_WANTED}", limit.hard),
                "raise `nofile` in /etc/security/limits.conf, or LimitNOFILE= in the service's unit",
            )
        });
    }
    if let Some(limit) = parse_limit(&text, "Max locked memory") {
        findings.push(if surroundings.uid == 0 || limit.soft >= LOCKED_BYTES_WANTED {
            Finding::ok(
                "locked memory",
                match surroundings.uid {
                    0 => "root is not limited".into(),
                    _ => format!("{} bytes", show(limit.soft)),
                },
            )
        } else {
            Finding::warn(
                "locked memory",
                format!("{} bytes; registered buffers want {LOCKED_BYTES_WANTED}", limit.soft),
                "raise `memlock` in /etc/security/limits.conf, or LimitMEMLOCK= in the service's unit",
            )
        });
    }
    findings
}

/// One row of /proc/PID/limits, proc_pid_limits(5); unlimited is `u64::MAX`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Limit {
    soft: u64,
    hard: u64,
}

fn parse_limit(text: &str, title: &str) -> Option<Limit> {
    let row = text.lines().find_map(|line| line.strip_prefix(title))?;
    let mut fields = row.split_whitespace().map(|field| match field {
        "unlimited" => Some(u64::MAX),
        digits => digits.parse().ok(),
    });
    Some(Limit { soft: fields.next()??, hard: fields.next()?? })
}

fn show(limit: u64) -> String {
    match limit {
        u64::MAX => "unlimited".into(),
        limit => limit.to_string(),
    }
}

fn parse_version(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_read() {
        assert_eq!(parse_version("6.18.44-fc-v595"), Some((6, 18)));
        assert_eq!(parse_version("6.1"), Some((6, 1)));
        assert_eq!(parse_version("six"), None);
        assert_eq!(parse_version(""), None);
    }

    #[test]
    fn limits_are_read() {
        let text = "Limit  Soft Limit  Hard Limit  Units\n\
                    Max open files            1024                 524288               files     \n\
                    Max locked memory         unlimited            unlimited            bytes     \n";
        let files = Limit { soft: 1024, hard: 524_288 };
        assert_eq!(parse_limit(text, "Max open files"), Some(files));
        let locked = parse_limit(text, "Max locked memory").unwrap();
        assert_eq!(locked.soft, u64::MAX);
        assert_eq!(parse_limit(text, "Max file size"), None);
    }
}
