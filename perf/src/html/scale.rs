//! From values to places: where on an axis, in per cent of its length, and which values are marked.

/// An axis.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scale {
    kind: Kind,
    /// Ends of the axis, after `project`.
    from: f64,
    to: f64,
    /// What a linear axis marks; on one of percentiles, the room for the greatest value of all.
    step: f64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Linear,
    Logarithmic,
    Percentile,
}

/// Marks on a linear axis, about; more crowd a phone's width.
const MARKS: f64 = 4.0;

/// Marks on any axis, at most, whatever its ends are; with round steps there are never as many.
const MARKS_MAX: u32 = 64;

/// The least magnitude an axis tells from zero, and the greatest it reaches: quotients of any two values a report may
/// have ([`crate::recorded::MAGNITUDE_MIN`]) lie within.
const MAGNITUDES: (f64, f64) = (1e-30, 1e30);

/// Marks on a logarithmic axis, at most.
const LOG_MARKS_MAX: usize = 6;

/// How much further out than the last percentile the greatest value of all stands, in nines.
const MAXIMUM_NINES: f64 = 0.7;

impl Scale {
    /// From zero to a round number not below `greatest`.
    pub fn from_zero(greatest: f64) -> Self {
        let greatest = if greatest.is_finite() && greatest > 0.0 { bounded(greatest) } else { 1.0 };
        let step = round_step(greatest / MARKS);
        // A hair of slack: 0.3 / 0.1 must be 3 steps, not 4.
        let to = (greatest / step - 1e-9).ceil() * step;
        Self { kind: Kind::Linear, from: 0.0, to, step }
    }

    /// From a round number not above `least` to one not below `greatest`, both above zero, in equal quotients.
    pub fn logarithmic(least: f64, greatest: f64) -> Self {
        let least = bounded(least);
        let greatest = bounded(greatest).max(least);
        let to = round_step(greatest);
        // The round number below is the one above, turned over: 1/1, 1/2 and 1/5 are 10, 5 and 2 tenths.
        let from = 1.0 / round_step(1.0 / least);
        let (from, to) = (from.log10(), to.log10());
        let to = if to - from < 1e-9 { from + 1.0 } else { to };
        Self { kind: Kind::Logarithmic, from, to, step: 0.0 }
    }

    /// From `least` to `greatest` exactly, in equal quotients; for axes whose marks are the values themselves.
    pub fn quotients(least: f64, greatest: f64) -> Self {
        let least = bounded(least);
        let (from, to) = (least.log10(), bounded(greatest).max(least).log10());
        // One value alone stands in the middle.
        let (from, to) = if to - from < 1e-9 { (from - 0.5, to + 0.5) } else { (from, to) };
        Self { kind: Kind::Logarithmic, from, to, step: 0.0 }
    }

    /// From `least` to `greatest` exactly, in equal steps.
    pub fn between(least: f64, greatest: f64) -> Self {
        let most = MAGNITUDES.1;
        let (least, greatest) = (least.clamp(-most, most), greatest.clamp(-most, most));
        let least = if least.is_nan() { 0.0 } else { least };
        let (from, to) = if greatest > least { (least, greatest) } else { (least - 0.5, least + 0.5) };
        Self { kind: Kind::Linear, from, to, step: (to - from) / MARKS }
    }

    /// From the least percentile to the greatest, each further nine as long as the one before. The hundredth, the
    /// greatest value of all, has no end of nines and stands a little beyond the others.
    pub fn percentile(percentiles: impl Iterator<Item = f64>) -> Self {
        let (mut from, mut to, mut has_maximum) = (f64::INFINITY, 0.0_f64, false);
        for nines in percentiles.map(nines) {
            if nines.is_finite() {
                (from, to) = (from.min(nines), to.max(nines));
            } else {
                has_maximum = true;
            }
        }
        let from = if from.is_finite() { from } else { 0.0 };
        let to = if has_maximum { to + MAXIMUM_NINES } else { to };
        let to = if to - from < 1e-9 { from + 1.0 } else { to };
        Self { kind: Kind::Percentile, from, to, step: if has_maximum { MAXIMUM_NINES } else { 0.0 } }
    }

    /// Where a value stands, in per cent of the axis; what lies outside stands at the end.
    pub fn place(&self, value: f64) -> f64 {
        let projected = match self.kind {
            Kind::Linear => value,
            Kind::Logarithmic => value.max(f64::MIN_POSITIVE).log10(),
            Kind::Percentile => nines(value),
        };
        let place = (projected - self.from) / (self.to - self.from) * 100.0;
        if place.is_nan() { 0.0 } else { place.clamp(0.0, 100.0) }
    }

    /// The values to mark.
    pub fn marks(&self) -> Vec<f64> {
        match self.kind {
            Kind::Linear => {
                let mark = |index: u32| self.from + f64::from(index) * self.step;
                (0..MARKS_MAX).map(mark).take_while(|&mark| mark <= self.to + self.step / 2.0).collect()
            }
            Kind::Logarithmic => self.log_marks(),
            Kind::Percentile => {
                let last = self.to - self.step + 1e-9;
                let finite = [0.0, 50.0, 90.0, 99.0, 99.9, 99.99, 99.999];
                let marks = finite.into_iter().filter(|&mark| (self.from - 1e-9..=last).contains(&nines(mark)));
                marks.chain((self.step > 0.0).then_some(100.0)).collect()
            }
        }
    }

    /// Powers of ten, with 2 and 5 between them where there is room.
    fn log_marks(&self) -> Vec<f64> {
        let mut best = Vec::new();
        for mantissas in [&[1.0, 2.0, 5.0][..], &[1.0, 3.0], &[1.0]] {
            best = self.decades(mantissas, 1.0);
            if best.len() <= LOG_MARKS_MAX {
                return best;
            }
        }
        // Many decades: every second, every third…
        (2..=MARKS_MAX)
            .map(|every| self.decades(&[1.0], f64::from(every)))
            .find(|marks| marks.len() <= LOG_MARKS_MAX)
            .unwrap_or(best)
    }

    fn decades(&self, mantissas: &[f64], every: f64) -> Vec<f64> {
        let first = (self.from / every).floor() * every;
        (0..MARKS_MAX)
            .map(|index| first + f64::from(index) * every)
            .take_while(|&decade| decade <= self.to)
            .flat_map(|decade| mantissas.iter().map(move |mantissa| mantissa * 10.0_f64.powf(decade)))
            .filter(|mark| (self.from - 1e-9..=self.to + 1e-9).contains(&mark.log10()))
            .collect()
    }
}

/// A value as a logarithmic axis takes it: within [`MAGNITUDES`], and the least of them if it is none above zero.
fn bounded(value: f64) -> f64 {
    if value > MAGNITUDES.0 { value.min(MAGNITUDES.1) } else { MAGNITUDES.0 }
}

/// How many nines a percentile has: 90 has one, 99 two, 50 about a third of one, 100 without end.
fn nines(percentile: f64) -> f64 {
    -(1.0 - percentile.clamp(0.0, 100.0) / 100.0).log10()
}

/// The next number not below `step` that is 1, 2 or 5 times a power of ten.
fn round_step(step: f64) -> f64 {
    let power = 10.0_f64.powf(step.log10().floor());
    let of_power = [1.0, 2.0, 5.0, 10.0].map(|mantissa| mantissa * power);
    of_power.into_iter().find(|&round| round >= step * (1.0 - 1e-9)).unwrap_or(power * 10.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_linear_axis_ends_at_a_round_number() {
        let check = |greatest: f64, expected: &[f64]| {
            let marks = Scale::from_zero(greatest).marks();
            assert_eq!(marks.len(), expected.len(), "{greatest}: {marks:?}");
            for (mark, expected) in marks.iter().zip(expected) {
                assert!((mark - expected).abs() < 1e-9, "{greatest}: {marks:?}");
            }
        };
        check(3.49, &[0.0, 1.0, 2.0, 3.0, 4.0]);
        check(4.0, &[0.0, 1.0, 2.0, 3.0, 4.0]);
        check(1.162, &[0.0, 0.5, 1.0, 1.5]);
        check(0.4, &[0.0, 0.1, 0.2, 0.3, 0.4]);
        check(110_000.0, &[0.0, 50_000.0, 100_000.0, 150_000.0]);
        check(0.0, &[0.0, 0.5, 1.0]);
        check(f64::NAN, &[0.0, 0.5, 1.0]);
    }

    #[test]
    fn places_are_per_cent_and_never_outside() {
        let scale = Scale::from_zero(4.0);
        assert_eq!([scale.place(0.0), scale.place(1.0), scale.place(4.0)], [0.0, 25.0, 100.0]);
        assert_eq!([scale.place(-1.0), scale.place(9.0), scale.place(f64::NAN)], [0.0, 100.0, 0.0]);
    }

    #[test]
    fn each_further_nine_is_as_long_as_the_one_before() {
        let scale = |percentiles: &[f64]| Scale::percentile(percentiles.iter().copied());
        let places = [90.0, 99.0, 99.9].map(|percentile| scale(&[0.0, 99.9]).place(percentile).round());
        assert_eq!(places, [33.0, 67.0, 100.0]);
        assert_eq!(scale(&[50.0, 99.9]).marks(), [50.0, 90.0, 99.0, 99.9]);
        assert_eq!(scale(&[50.0]).place(50.0), 0.0);
    }

    #[test]
    fn the_greatest_value_of_all_stands_beyond_the_last_percentile() {
        let scale = Scale::percentile([50.0, 99.0, 100.0].into_iter());
        assert_eq!(scale.marks(), [50.0, 90.0, 99.0, 100.0]);
        assert_eq!(scale.place(100.0), 100.0);
        assert!(scale.place(99.0) < 80.0);
        let alone = Scale::percentile([100.0].into_iter());
        assert_eq!((alone.place(100.0), alone.marks()), (100.0, vec![0.0, 100.0]));
        assert_eq!(Scale::percentile(std::iter::empty()).place(50.0).round(), 30.0);
    }

    #[test]
    fn a_logarithmic_axis_marks_round_numbers_and_not_too_many() {
        assert_eq!(Scale::logarithmic(10.0, 1000.0).place(100.0).round(), 50.0);
        let marks = |least, greatest| Scale::logarithmic(least, greatest).marks();
        let round = |marks: Vec<f64>| marks.into_iter().map(f64::round).collect::<Vec<_>>();
        assert_eq!(round(marks(60.0, 600.0)), [50.0, 100.0, 200.0, 500.0, 1000.0]);
        assert_eq!(round(marks(65.0, 80.0)), [50.0, 100.0]);
        assert_eq!(marks(1.0, 1000.0).len(), 4);
        for decades in [1, 2, 3, 7, 20, 30] {
            let count = marks(1.0, 10.0_f64.powi(decades)).len();
            assert!((2..=LOG_MARKS_MAX).contains(&count), "{decades}: {count}");
        }
        assert_eq!(Scale::logarithmic(5.0, 5.0).place(5.0).round(), 0.0);
        assert!(Scale::logarithmic(0.0, 5.0).place(0.0) < 0.1);
    }

    #[test]
    fn no_number_makes_an_axis_without_end() {
        let hostile =
            [0.0, -1.0, 5e-324, 1e-310, 1e-12, 1.0, 1e15, 1.7e308, f64::INFINITY, f64::NEG_INFINITY, f64::NAN];
        let check = |scale: Scale, value: f64| {
            assert!(scale.marks().len() <= MARKS_MAX as usize, "{scale:?}");
            assert!((0.0..=100.0).contains(&scale.place(value)), "{scale:?} {value}");
        };
        for one in hostile {
            check(Scale::from_zero(one), one);
            check(Scale::percentile([one, 50.0].into_iter()), one);
            for other in hostile {
                for scale in [Scale::logarithmic(one, other), Scale::quotients(one, other), Scale::between(one, other)]
                {
                    check(scale, one);
                    check(scale, other);
                }
            }
        }
    }

    #[test]
    fn axes_without_rounding_end_at_their_values() {
        let sizes = Scale::quotients(4096.0, 1_048_576.0);
        assert_eq!(
            [sizes.place(4096.0), sizes.place(65536.0), sizes.place(1_048_576.0)].map(f64::round),
            [0.0, 50.0, 100.0]
        );
        assert_eq!(Scale::quotients(5.0, 5.0).place(5.0).round(), 50.0);
        let shards = Scale::between(1.0, 4.0);
        assert_eq!([shards.place(1.0), shards.place(2.5), shards.place(4.0)], [0.0, 50.0, 100.0]);
        assert_eq!(Scale::between(2.0, 2.0).place(2.0), 50.0);
    }
}
