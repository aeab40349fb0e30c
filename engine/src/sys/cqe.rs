//! The one place that turns a completion's `res` into a count or an error.

use std::io;

/// Returns the byte count of a completion, or the error that a negative `res` stands for.
pub(crate) fn outcome(res: i32) -> io::Result<usize> {
    usize::try_from(res).map_err(|_| io::Error::from_raw_os_error(res.wrapping_neg()))
}

/// How far one read of a known length came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    /// All wanted bytes are there.
    Complete,
    /// Some came; the rest must be asked for again.
    Short,
    /// None came: the end of the file.
    End,
}

/// Classifies `moved` bytes where `missing` were asked for.
pub(crate) fn progress(moved: usize, missing: usize) -> Progress {
    match moved {
        _ if moved == missing => Progress::Complete,
        0 => Progress::End,
        _ => Progress::Short,
    }
}

/// Returns whether `error` is ordinary weather: try again, nothing is wrong.
///
/// `EINTR`: a signal. `EAGAIN`: short of memory or not ready. `EBUSY`: completions wait to be
/// taken first. Source: io_uring_enter(2).
pub(crate) fn is_weather(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN | libc::EBUSY))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_negative_result_is_its_errno() {
        assert_eq!(outcome(17).ok(), Some(17));
        assert_eq!(outcome(0).ok(), Some(0));
        let error = outcome(-105).expect_err("a negative result");
        assert_eq!(error.raw_os_error(), Some(libc::ENOBUFS));
        assert!(outcome(i32::MIN).is_err());
    }

    #[test]
    fn a_short_result_is_told_from_the_end() {
        assert_eq!(progress(10, 10), Progress::Complete);
        assert_eq!(progress(0, 0), Progress::Complete);
        assert_eq!(progress(9, 10), Progress::Short);
        assert_eq!(progress(0, 10), Progress::End);
    }
}
