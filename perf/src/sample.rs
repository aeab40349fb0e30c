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
    /// CPU time the receiving process used in between.
    pub receiver_cpu: Duration,
}

impl Sample {
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

/// A running measurement of this process: the wall clock and the CPU clock, read together.
#[derive(Clone, Copy, Debug)]
pub struct Stopwatch {
    started: std::time::Instant,
    cpu: Duration,
}

impl Stopwatch {
    /// Starts now.
    pub fn start() -> Self {
        Self { cpu: own_cpu(), started: std::time::Instant::now() }
    }

    /// The sample of `bytes` received since the start.
    pub fn stop(self, bytes: u64) -> Sample {
        Sample { bytes, elapsed: self.started.elapsed(), receiver_cpu: own_cpu().saturating_sub(self.cpu) }
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
    fn a_stopwatch_sees_its_own_work() {
        let watch = Stopwatch::start();
        std::hint::black_box(blake3::hash(&vec![0; 1 << 22]));
        let sample = watch.stop(7);
        assert_eq!(sample.bytes, 7);
        assert!(sample.receiver_cpu > Duration::ZERO);
        assert!(sample.elapsed > Duration::ZERO);
    }
}
