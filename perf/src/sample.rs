//! What one transfer took, as its reader saw it, and the line of JSON it travels in between processes.

use std::time::Duration;

use anyhow::Context as _;
use serde_json::{Value, json};

/// One complete transfer, measured at the receiving end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Payload bytes that arrived.
    pub bytes: u64,
    /// From the request to the last byte.
    pub elapsed: Duration,
    /// CPU time of the receiving process in its whole life so far, its connection's making included.
    pub receiver_cpu: Duration,
}

impl Sample {
    /// The same sample, with the CPU time this process has used by now.
    #[must_use]
    pub fn at_end(self) -> Self {
        Self { receiver_cpu: own_cpu(), ..self }
    }

    /// The sample as one line of JSON, without the newline.
    pub fn to_line(self) -> String {
        json!({
            "bytes": self.bytes,
            "elapsed_ns": nanos(self.elapsed),
            "receiver_cpu_ns": nanos(self.receiver_cpu),
        })
        .to_string()
    }

    /// Reads [`Sample::to_line`] back.
    ///
    /// # Errors
    /// If the line is not such JSON.
    pub fn from_line(line: &str) -> anyhow::Result<Self> {
        let value: Value = serde_json::from_str(line).context("a sample is one JSON object")?;
        let number = |key: &str| value[key].as_u64().with_context(|| format!("a sample has no {key}"));
        Ok(Self {
            bytes: number("bytes")?,
            elapsed: Duration::from_nanos(number("elapsed_ns")?),
            receiver_cpu: Duration::from_nanos(number("receiver_cpu_ns")?),
        })
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// A running measurement of this process.
#[derive(Clone, Copy, Debug)]
pub struct Stopwatch {
    started: std::time::Instant,
}

impl Stopwatch {
    /// Starts now.
    pub fn start() -> Self {
        Self { started: std::time::Instant::now() }
    }

    /// The sample of `bytes` received since the start.
    pub fn stop(self, bytes: u64) -> Sample {
        Sample { bytes, elapsed: self.started.elapsed(), receiver_cpu: own_cpu() }
    }
}

/// CPU time of this process, all threads (`CLOCK_PROCESS_CPUTIME_ID`, clock_gettime(2)).
fn own_cpu() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::try_from(now).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_survives_its_line() {
        let sample = Sample {
            bytes: 2_000_000_000,
            elapsed: Duration::from_nanos(1_234_567_890),
            receiver_cpu: Duration::from_millis(999),
        };
        assert_eq!(Sample::from_line(&sample.to_line()).unwrap(), sample);
    }

    #[test]
    fn a_line_without_a_field_is_refused() {
        let error = Sample::from_line(r#"{"bytes":1,"elapsed_ns":2}"#).unwrap_err();
        assert!(error.to_string().contains("receiver_cpu_ns"), "{error}");
        assert!(Sample::from_line("").is_err());
    }

    #[test]
    fn a_stopwatch_times_the_transfer_and_counts_the_whole_life() {
        std::hint::black_box(blake3::hash(&vec![0; 1 << 22]));
        let before = own_cpu();
        let sample = Stopwatch::start().stop(7);
        assert_eq!(sample.bytes, 7);
        // What was done before the clock ran is in it too.
        assert!(sample.receiver_cpu >= before && !before.is_zero());
        std::hint::black_box(blake3::hash(&vec![0; 1 << 22]));
        let ended = sample.at_end();
        assert!(ended.receiver_cpu > sample.receiver_cpu && ended.elapsed == sample.elapsed);
    }
}
