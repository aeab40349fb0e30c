//! Speed over time, read from the byte counter of the sending end's network device while a run is going on.
//!
//! Every contender passes through the same device, so one method serves programs that print no progress. The counter
//! counts packets with their headers; the curve is scaled so that its area is the payload that arrived.

use std::fs;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};

use crate::lab;

/// The time between two readings: some twenty in the second a full run takes, and far below 1 % of a core to read.
pub const INTERVAL: Duration = Duration::from_millis(50);

/// Readings of one run: ten minutes, the longest limit of any run.
const READINGS_MAX: usize = 12_000;

/// Seconds since the transfer began, and 1e9 payload bytes per second in the interval that ends there.
pub type Point = [f64; 2];

/// The device's counter at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Reading {
    at: Duration,
    sent_bytes: u64,
}

/// Bytes the device of the namespace that `process` lives in has sent so far.
///
/// # Errors
/// If there is no such process or device.
pub fn sent_by(process: u32) -> anyhow::Result<u64> {
    read(process).context("the link's device has no counter")
}

/// A thread that reads the counter until [`LinkWatch::finish`] or until it is dropped.
pub struct LinkWatch {
    // Dropping it ends the thread.
    end: Sender<()>,
    thread: JoinHandle<Vec<Reading>>,
}

impl LinkWatch {
    /// Starts to watch the device of the namespace that `process` lives in.
    ///
    /// # Errors
    /// If no thread can be started.
    pub fn start(process: u32) -> std::io::Result<Self> {
        let (end, ended) = channel();
        let thread = std::thread::Builder::new().name("link-watch".into()).spawn(move || {
            let started = Instant::now();
            let mut readings = Vec::new();
            let mut next = started;
            while readings.len() < READINGS_MAX {
                readings.extend(read(process).map(|sent_bytes| Reading { at: started.elapsed(), sent_bytes }));
                next += INTERVAL;
                let left = next.saturating_duration_since(Instant::now());
                if ended.recv_timeout(left) != Err(RecvTimeoutError::Timeout) {
                    readings.extend(read(process).map(|sent_bytes| Reading { at: started.elapsed(), sent_bytes }));
                    break;
                }
            }
            readings
        })?;
        Ok(Self { end, thread })
    }

    /// Stops watching and returns the curve of a run that moved `payload_bytes`.
    ///
    /// # Errors
    /// If the watching thread panicked.
    pub fn finish(self, payload_bytes: u64) -> anyhow::Result<Vec<Point>> {
        drop(self.end);
        let readings = self.thread.join().map_err(|_| anyhow!("the link watch panicked")).context("speed over time")?;
        Ok(curve(&readings, payload_bytes))
    }
}

fn read(process: u32) -> Option<u64> {
    sent_bytes(&fs::read_to_string(format!("/proc/{process}/net/dev")).ok()?, lab::DEVICE)
}

/// The ninth number behind the device's name: transmitted bytes (proc_pid_net(5)).
fn sent_bytes(table: &str, device: &str) -> Option<u64> {
    let counters = table.lines().find_map(|line| line.trim_start().strip_prefix(device)?.strip_prefix(':'))?;
    counters.split_whitespace().nth(8)?.parse().ok()
}

/// Speed in each interval between the first and the last one with traffic worth the name.
// Byte counts stay below 2^53.
#[expect(clippy::cast_precision_loss, reason = "see above")]
fn curve(readings: &[Reading], payload_bytes: u64) -> Vec<Point> {
    let steps: Vec<(Duration, Duration, u64)> = readings
        .windows(2)
        .map(|pair| (pair[0].at, pair[1].at, pair[1].sent_bytes.saturating_sub(pair[0].sent_bytes)))
        .filter(|(from, to, _)| to > from)
        .collect();
    let total: u64 = steps.iter().map(|step| step.2).sum();
    // Joining and closing move some packets too: an interval below a thousandth of all is not part of the transfer.
    let is_busy = |step: &(Duration, Duration, u64)| step.2 > total / 1000;
    let (Some(first), Some(last)) = (steps.iter().position(is_busy), steps.iter().rposition(is_busy)) else {
        return Vec::new();
    };
    let began = steps[first].0;
    let scale = payload_bytes as f64 / total as f64 / 1e9;
    steps[first..=last]
        .iter()
        .map(|&(from, to, sent)| [(to - began).as_secs_f64(), sent as f64 * scale / (to - from).as_secs_f64()])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counter_is_that_of_the_device() {
        let table = "Inter-|   Receive                                                |  Transmit\n \
                     face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs\n    \
                     lo:     100       1    0    0    0     0          0         0      100       1    0\n \
                     veth0: 1000      10    0    0    0     0          0         0   987654      20    0\n";
        assert_eq!(sent_bytes(table, "veth0"), Some(987_654));
        assert_eq!(sent_bytes(table, "veth"), None);
        assert_eq!(sent_bytes("", "veth0"), None);
    }

    fn readings(counters: &[u64]) -> Vec<Reading> {
        (0_u32..).zip(counters).map(|(index, &sent_bytes)| Reading { at: INTERVAL * index, sent_bytes }).collect()
    }

    #[test]
    fn the_area_of_a_curve_is_the_payload() {
        // Idle, then 1.1e9 bytes on the wire for 1e9 of payload, then idle.
        let curve = curve(&readings(&[5, 5, 100_000_005, 1_100_000_005, 1_100_000_005]), 1_000_000_000);
        assert_eq!(curve.len(), 2);
        let area: f64 = curve.iter().map(|point| point[1] * INTERVAL.as_secs_f64()).sum();
        assert!((area - 1.0).abs() < 1e-9, "{area}");
        assert!((curve[0][0] - 0.05).abs() < 1e-9 && (curve[1][0] - 0.1).abs() < 1e-9, "{curve:?}");
    }

    #[test]
    fn a_silent_link_has_no_curve() {
        assert!(curve(&readings(&[7, 7, 7]), 1000).is_empty());
        assert!(curve(&[], 1000).is_empty());
    }
}
