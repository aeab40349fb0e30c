//! The middle of a few runs and how far they scatter, by ranks: one bad run on a busy machine must not move a figure.

/// Median, extremes and median absolute deviation of a series.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    /// The middle value; with an even count, the mean of the two middle ones.
    pub median: f64,
    /// The smallest value.
    pub min: f64,
    /// The largest value.
    pub max: f64,
    /// The median distance from the median, in the unit of the values.
    pub median_deviation: f64,
}

/// What the median deviation of so many values is to be multiplied by: from few values it comes out too small.
///
/// From simulation (Croux and Rousseeuw, "Time-efficient algorithms for two highly robust estimators of scale", 1992),
/// and `n / (n - 0.8)` from ten on. Infinite for fewer than two values, which say nothing.
// Counts of runs are far below 2^53.
#[expect(clippy::cast_precision_loss, reason = "see above")]
pub fn deviation_factor(count: usize) -> f64 {
    const OF_FEW: [f64; 8] = [1.196, 1.495, 1.363, 1.206, 1.200, 1.140, 1.129, 1.107];
    match count {
        0 | 1 => f64::INFINITY,
        2..=9 => OF_FEW[count - 2],
        _ => count as f64 / (count as f64 - 0.8),
    }
}

impl Summary {
    /// Summarises a series; `None` if it is empty or holds a value that is not finite.
    pub fn of(values: &[f64]) -> Option<Self> {
        if values.iter().any(|value| !value.is_finite()) {
            return None;
        }
        let sorted = sorted(values.to_vec());
        let median = middle(&sorted)?;
        let deviations = sorted.iter().map(|value| (value - median).abs()).collect();
        Some(Self {
            median,
            min: *sorted.first()?,
            max: *sorted.last()?,
            median_deviation: middle(&self::sorted(deviations))?,
        })
    }
}

fn sorted(mut values: Vec<f64>) -> Vec<f64> {
    values.sort_by(f64::total_cmp);
    values
}

fn middle(sorted: &[f64]) -> Option<f64> {
    let upper = *sorted.get(sorted.len() / 2)?;
    if sorted.len() % 2 == 1 {
        return Some(upper);
    }
    Some(f64::midpoint(sorted[sorted.len() / 2 - 1], upper))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(values: &[f64], expected: Option<[f64; 4]>) {
        let found = Summary::of(values);
        let found = found.map(|s| [s.median, s.min, s.max, s.median_deviation]);
        assert_eq!(found, expected, "{values:?}");
    }

    #[test]
    fn summaries() {
        check(&[], None);
        check(&[2.0], Some([2.0, 2.0, 2.0, 0.0]));
        check(&[4.0, 1.0], Some([2.5, 1.0, 4.0, 1.5]));
        check(&[1.0, 1.0, 2.0, 2.0, 100.0], Some([2.0, 1.0, 100.0, 1.0]));
        check(&[5.0, 3.0, 1.0, 2.0], Some([2.5, 1.0, 5.0, 1.0]));
        check(&[1.0, f64::NAN], None);
        check(&[1.0, f64::INFINITY], None);
    }

    #[test]
    fn few_values_deviate_by_more_than_they_say() {
        assert_eq!([deviation_factor(0), deviation_factor(1)], [f64::INFINITY; 2]);
        assert_eq!([deviation_factor(2), deviation_factor(5), deviation_factor(9)], [1.196, 1.206, 1.107]);
        assert!((deviation_factor(10) - 10.0 / 9.2).abs() < 1e-12 && deviation_factor(1000) < 1.001);
    }

    #[test]
    fn one_wild_run_does_not_move_the_median() {
        let calm = Summary::of(&[1.0, 1.0, 1.0, 1.0, 1.0]).unwrap();
        let wild = Summary::of(&[1.0, 1.0, 1.0, 1.0, 1e9]).unwrap();
        assert_eq!(calm.median, wild.median);
        assert_eq!(calm.median_deviation, wild.median_deviation);
    }
}
