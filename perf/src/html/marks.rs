//! The words along an axis: kept inside of the drawing, and thinned out until they fit side by side on a phone.

use super::scale::Scale;

/// Narrowest axis, px: a chart on a phone 360 px wide.
const NARROW_PX: f64 = 225.0;

/// Width of a character of a mark, px, at its widest.
const CHAR_PX: f64 = 7.2;

/// Least room between two marks, px.
const GAP_PX: f64 = 6.0;

/// One word at its place.
#[derive(Clone, Debug, PartialEq)]
pub struct Mark {
    /// In per cent of the axis.
    pub place: f64,
    /// What stands there.
    pub text: String,
}

impl Mark {
    /// Where the word begins and ends on the narrowest axis.
    fn extent_px(&self) -> (f64, f64) {
        let width = CHAR_PX * f64::from(u32::try_from(self.text.chars().count()).unwrap_or(u32::MAX));
        let place = self.place / 100.0 * NARROW_PX;
        match anchor(self.place) {
            "start" => (place, place + width),
            "end" => (place - width, place),
            _ => (place - width / 2.0, place + width / 2.0),
        }
    }
}

/// The values as marks of an axis, without those for which there is no room; the ends go first.
pub fn fitting(scale: &Scale, values: &[f64], text: impl Fn(f64) -> String) -> Vec<Mark> {
    let mut candidates: Vec<Mark> =
        values.iter().map(|&value| Mark { place: scale.place(value), text: text(value) }).collect();
    candidates.sort_by(|one, other| one.place.total_cmp(&other.place));
    // The ends say what the axis covers, so they choose their room first.
    let last = candidates.pop();
    let mut kept: Vec<Mark> = Vec::new();
    for mark in candidates {
        let (from, to) = mark.extent_px();
        let is_free = |(other_from, other_to): (f64, f64)| to + GAP_PX <= other_from || other_to + GAP_PX <= from;
        let before = kept.last().map(Mark::extent_px);
        let after = last.as_ref().map(Mark::extent_px);
        if [before, after].into_iter().flatten().all(is_free) {
            kept.push(mark);
        }
    }
    kept.extend(last);
    kept
}

/// A place as an attribute's value.
pub fn per_cent(place: f64) -> String {
    format!("{place:.2}%")
}

/// Keeps the text at a place inside of the drawing.
pub fn anchor(place: f64) -> &'static str {
    match place {
        place if place < 12.0 => "start",
        place if place > 88.0 => "end",
        _ => "middle",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(scale: &Scale, values: &[f64], text: fn(f64) -> String) -> String {
        let marks = fitting(scale, values, text);
        marks.iter().map(|mark| mark.text.as_str()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn short_marks_all_stay() {
        let scale = Scale::from_zero(4.0);
        assert_eq!(texts(&scale, &scale.marks(), |value| value.to_string()), "0 1 2 3 4");
    }

    #[test]
    fn long_marks_give_way_to_the_ends() {
        let scale = Scale::from_zero(4.0);
        assert_eq!(texts(&scale, &scale.marks(), |value| format!("{value}00,000,000")), "000,000,000 400,000,000");
        let close = Scale::between(0.0, 100.0);
        assert_eq!(texts(&close, &[0.0, 98.0, 99.0, 100.0], |value| value.to_string()), "0 100");
    }

    #[test]
    fn one_mark_or_none_is_kept_as_it_is() {
        let scale = Scale::from_zero(1.0);
        assert_eq!(texts(&scale, &[1.0], |_| "a very long word that fits nowhere at all on a phone".into()).len(), 52);
        assert_eq!(texts(&scale, &[], |value| value.to_string()), "");
    }

    #[test]
    fn words_at_the_ends_grow_inwards() {
        assert_eq!([anchor(0.0), anchor(50.0), anchor(100.0)], ["start", "middle", "end"]);
    }
}
