//! Latencies of many requests in a histogram of bounded size and relative error.

use std::time::Duration;

use anyhow::Context as _;
use hdrhistogram::Histogram;
use serde_json::{Value, json};

/// The longest latency told apart; longer ones count as this. No request of a healthy mount takes a minute.
const LATENCY_NS_MAX: u64 = 60_000_000_000;

/// Significant decimal digits: 0.1 % of any latency, 200 KiB of memory.
const DIGITS: u8 = 3;

/// Requests beyond a percentile that make it one: p99 takes 1,000 requests, p99.9 10,000.
pub const BEYOND_MIN: f64 = 10.0;

/// Whether so many requests are enough for a percentile; the greatest of all, the hundredth, always is what it is.
// Counts are far below 2^53.
#[expect(clippy::cast_precision_loss, reason = "see above")]
pub fn is_enough(count: u64, percentile: f64) -> bool {
    // A hair of slack: 1 - 0.999 is a little less than a thousandth.
    percentile >= 100.0 || count as f64 * (100.0 - percentile) / 100.0 >= BEYOND_MIN - 1e-6
}

/// The percentiles of the curve.
const CURVE: [f64; 14] = [0.0, 10.0, 25.0, 50.0, 75.0, 90.0, 95.0, 97.5, 99.0, 99.5, 99.9, 99.95, 99.99, 100.0];

/// A histogram of latencies.
pub struct Latencies(Histogram<u64>);

impl Latencies {
    /// An empty one.
    ///
    /// # Errors
    /// Never with these constants.
    pub fn new() -> anyhow::Result<Self> {
        let histogram = Histogram::new_with_bounds(1, LATENCY_NS_MAX, DIGITS);
        Ok(Self(histogram.map_err(|error| anyhow::anyhow!("the histogram's bounds: {error}"))?))
    }

    /// Counts one request.
    pub fn record(&mut self, latency: Duration) {
        self.0.saturating_record(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX));
    }

    /// How many were counted.
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// `[percentile, microseconds]` at each point of the curve for which there are requests enough.
    pub fn curve(&self) -> Vec<[f64; 2]> {
        let is_enough = |percentile: &f64| is_enough(self.count(), *percentile);
        let point = |percentile| [percentile, microseconds(self.0.value_at_percentile(percentile))];
        CURVE.into_iter().filter(is_enough).map(point).collect()
    }
}

// Nanoseconds of at most a minute: exact.
#[expect(clippy::cast_precision_loss, reason = "see above")]
fn microseconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e3
}

/// The curve of a series of requests after its way through a line of JSON.
#[derive(Clone, Debug, PartialEq)]
pub struct Curve(Vec<[f64; 2]>);

impl Curve {
    /// Reads what [`Latencies::curve`] became in JSON.
    ///
    /// # Errors
    /// If it is not pairs of numbers.
    pub fn from_json(value: &Value) -> anyhow::Result<Self> {
        let points = value.as_array().context("a curve is an array")?;
        let point = |point: &Value| Some([point.get(0)?.as_f64()?, point.get(1)?.as_f64()?]);
        let points: Option<Vec<_>> = points.iter().map(point).collect();
        Ok(Self(points.context("a curve is made of pairs of numbers")?))
    }

    /// The latency at one of the curve's percentiles, microseconds; none where the curve has no such point.
    pub fn at(&self, percentile: f64) -> Option<f64> {
        let point = self.0.iter().find(|point| (point[0] - percentile).abs() < 1e-9);
        point.map(|point| point[1])
    }

    /// The curve as JSON.
    pub fn to_json(&self) -> Value {
        json!(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_within_a_thousandth() {
        let mut latencies = Latencies::new().unwrap();
        for tenth in 1..=10_000 {
            latencies.record(Duration::from_nanos(100 * tenth));
        }
        assert_eq!(latencies.count(), 10_000);
        let curve = Curve::from_json(&json!(latencies.curve())).unwrap();
        for (percentile, expected) in [(50.0, 500.0), (90.0, 900.0), (99.0, 990.0), (99.9, 999.0), (100.0, 1000.0)] {
            let found = curve.at(percentile).unwrap();
            assert!((found / expected - 1.0).abs() < 2e-3, "{percentile}: {found}");
        }
        assert_eq!([curve.at(42.0), curve.at(99.99)], [None; 2]);
    }

    #[test]
    fn a_percentile_takes_ten_requests_beyond_it() {
        for (percentile, least) in [(50.0, 20), (90.0, 100), (99.0, 1000), (99.9, 10_000)] {
            assert!(is_enough(least, percentile) && !is_enough(least - 1, percentile), "{percentile}");
        }
        assert!(is_enough(0, 100.0));
        let mut latencies = Latencies::new().unwrap();
        for _ in 0..999 {
            latencies.record(Duration::from_micros(5));
        }
        let percentiles: Vec<f64> = latencies.curve().into_iter().map(|point| point[0]).collect();
        assert_eq!(percentiles, [0.0, 10.0, 25.0, 50.0, 75.0, 90.0, 95.0, 97.5, 100.0]);
    }

    #[test]
    fn a_latency_beyond_all_bounds_is_counted_as_the_longest() {
        let mut latencies = Latencies::new().unwrap();
        latencies.record(Duration::from_secs(100_000));
        assert_eq!(latencies.count(), 1);
        assert_eq!(latencies.curve().len(), 1);
        assert!(latencies.curve()[0][1] <= 60_100_000.0);
    }

    #[test]
    fn a_curve_of_something_else_is_refused() {
        for value in [json!(null), json!([1]), json!([[1, "x"]]), json!([[1]])] {
            assert!(Curve::from_json(&value).is_err(), "{value}");
        }
    }
}
