//! Curves: throughput over time, latency by percentile, and how a figure moves with shards or sizes.

use std::collections::BTreeMap;

use maud::{Markup, html};

use super::Palette;
use super::bars;
use super::marks::{self, Mark, anchor, per_cent};
use super::scale::Scale;
use crate::recorded::{Point, RecordedRow};
use crate::report::OURS;
use crate::words;

/// Height of the plot, px.
const PLOT_PX: f64 = 200.0;

/// Room above the plot for the axis's unit, px.
const TOP_PX: f64 = 22.0;

/// Room below the plot for the marks, px.
const BOTTOM_PX: f64 = 22.0;

/// Width the curves are drawn in before they are stretched to the window's.
const WIDTH: f64 = 1000.0;

/// Most points drawn of one curve, about one for two pixels; more are thinned out evenly.
const DRAWN_POINTS_MAX: usize = 400;

/// Points are drawn as dots up to this many.
const DOTS_MAX: usize = 16;

/// From this quotient of the greatest and the least value on, the axis is logarithmic.
const LOGARITHMIC_FROM: f64 = 20.0;

/// Rows of a table, at most; the JSON has them all.
const TABLE_ROWS_MAX: usize = 60;

type Curves = BTreeMap<String, Vec<Point>>;

struct Chart<'r> {
    id: String,
    title: &'r str,
    x_name: &'r str,
    y_unit: &'r str,
    curves: &'r Curves,
    x: Scale,
    x_marks: Vec<Mark>,
    y: Scale,
    /// A value to draw a line at: 10 GbE.
    limit: Option<f64>,
    x_text: fn(f64) -> String,
}

/// Throughput over time; empty if the row has none.
pub fn over_time(index: usize, row: &RecordedRow, palette: &Palette<'_>) -> Markup {
    let Some(range) = Range::of(&row.series) else {
        return html! {};
    };
    let x = Scale::from_zero(range.x_max);
    let x_marks = marks::fitting(&x, &x.marks(), words::tick);
    let limit = Some(bars::line(row).unwrap_or(bars::LINE_1500)).filter(|&line| line <= range.y_max * 2.0);
    Chart {
        id: format!("time-{index}"),
        title: "Throughput over time",
        x_name: "seconds",
        y_unit: "GB/s",
        curves: &row.series,
        x,
        x_marks,
        y: Scale::from_zero(limit.map_or(range.y_max, |limit| range.y_max.max(limit))),
        limit,
        x_text: |seconds| format!("{} s", words::figure(seconds)),
    }
    .draw(palette)
}

/// Latency by percentile; empty if the row has none.
pub fn by_percentile(index: usize, row: &RecordedRow, palette: &Palette<'_>) -> Markup {
    let Some(range) = Range::of(&row.percentiles) else {
        return html! {};
    };
    let x = Scale::percentile(row.percentiles.values().flatten().map(|point| point[0]));
    let x_marks = marks::fitting(&x, &x.marks(), percentile_mark);
    Chart {
        id: format!("percentiles-{index}"),
        title: "Latency by percentile",
        x_name: "percentile",
        y_unit: "µs",
        curves: &row.percentiles,
        x,
        x_marks,
        y: range.y_scale(),
        limit: None,
        x_text: |percentile| match percentile_mark(percentile) {
            word if word == MAXIMUM => word,
            number => format!("p{number}"),
        },
    }
    .draw(palette)
}

/// The word for the hundredth percentile.
const MAXIMUM: &str = "max";

fn percentile_mark(percentile: f64) -> String {
    if percentile >= 100.0 { MAXIMUM.to_owned() } else { words::tick(percentile) }
}

/// Scaling with the row's `x_unit`; empty if the row has none.
pub fn by_size(index: usize, row: &RecordedRow, palette: &Palette<'_>) -> Markup {
    let Some(range) = Range::of(&row.points) else {
        return html! {};
    };
    let unit = row.x_unit.as_deref().unwrap_or("x");
    let is_bytes = unit == "bytes";
    let x_text: fn(f64) -> String = if is_bytes { words::size } else { words::tick };
    let x = if is_bytes && range.x_min > 0.0 {
        Scale::quotients(range.x_min, range.x_max)
    } else {
        Scale::between(range.x_min, range.x_max)
    };
    let title = if is_bytes { "By size".to_owned() } else { format!("By {unit}") };
    let limit = bars::line(row).filter(|&line| line <= range.y_max * 2.0);
    let y = match limit {
        Some(limit) => Scale::from_zero(range.y_max.max(limit)),
        None => range.y_scale(),
    };
    Chart {
        id: format!("points-{index}"),
        title: &title,
        x_name: if is_bytes { "size" } else { unit },
        y_unit: words::unit(&row.unit),
        curves: &row.points,
        x,
        x_marks: marks::fitting(&x, &places(&row.points), x_text),
        y,
        limit,
        x_text,
    }
    .draw(palette)
}

/// The places that were measured, in order.
fn places(curves: &Curves) -> Vec<f64> {
    let mut places: Vec<f64> = curves.values().flatten().map(|point| point[0]).collect();
    places.sort_by(f64::total_cmp);
    places.dedup();
    places
}

/// What the curves of a chart cover.
struct Range {
    x_min: f64,
    x_max: f64,
    y_min: f64,
    y_max: f64,
}

impl Range {
    fn of(curves: &Curves) -> Option<Self> {
        let points = curves.values().flatten();
        points.fold(None, |range: Option<Self>, &[x, y]| {
            let range = range.unwrap_or(Self { x_min: x, x_max: x, y_min: y, y_max: y });
            Some(Self {
                x_min: range.x_min.min(x),
                x_max: range.x_max.max(x),
                y_min: range.y_min.min(y),
                y_max: range.y_max.max(y),
            })
        })
    }

    fn y_scale(&self) -> Scale {
        if self.y_min > 0.0 && self.y_max / self.y_min >= LOGARITHMIC_FROM {
            Scale::logarithmic(self.y_min, self.y_max)
        } else {
            Scale::from_zero(self.y_max)
        }
    }
}

impl Chart<'_> {
    fn draw(&self, palette: &Palette<'_>) -> Markup {
        let ground = TOP_PX + PLOT_PX;
        let (title, description) = (format!("{}-title", self.id), format!("{}-text", self.id));
        let y_place = |value: f64| TOP_PX + PLOT_PX * (1.0 - self.y.place(value) / 100.0);
        html! {
            figure {
                h4 { (self.title) }
                (self.legend(palette))
                svg.curves role="img" width="100%" height=(ground + BOTTOM_PX)
                    aria-labelledby=(format!("{title} {description}")) {
                    title id=(title) { (self.title) }
                    desc id=(description) { (self.describe()) }
                    text.tick x="-38" y="10" { (self.y_unit) }
                    @for mark in self.y.marks() {
                        @let place = px(y_place(mark));
                        line.grid x1="0" x2="100%" y1=(place) y2=(place) {}
                        text.tick x="-6" y=(place) dy="4" text-anchor="end" { (words::tick(mark)) }
                    }
                    @for Mark { place, text } in &self.x_marks {
                        line.grid x1=(per_cent(*place)) x2=(per_cent(*place)) y1=(ground) y2=(ground + 4.0) {}
                        text.tick x=(per_cent(*place)) y=(ground + 17.0) text-anchor=(anchor(*place)) { (text) }
                    }
                    @if let Some(limit) = self.limit {
                        @let place = y_place(limit);
                        line.limit x1="0" x2="100%" y1=(px(place)) y2=(px(place)) {}
                        text.limit x="100%" y=(px(place - 5.0)) text-anchor="end" { "10 GbE " (words::tick(limit)) }
                    }
                    svg x="0" y="0" width="100%" height=(ground) viewBox=(format!("0 0 {WIDTH} {ground}"))
                        preserveAspectRatio="none" {
                        @for (name, points) in self.drawn_last_ours() {
                            polyline class=(palette.class(name)) points=(self.path(points)) {
                                title { (words::contender(name)) }
                            }
                        }
                    }
                    @for (name, points) in self.drawn_last_ours() {
                        @if points.len() <= DOTS_MAX {
                            @for point in points {
                                circle class=(palette.class(name)) cx=(per_cent(self.x.place(point[0])))
                                    cy=(px(y_place(point[1]))) r="3.5" {
                                    title {
                                        (words::contender(name)) ", " ((self.x_text)(point[0])) ": "
                                        (words::figure(point[1])) " " (self.y_unit)
                                    }
                                }
                            }
                        }
                    }
                }
                p.axis { (self.x_name) }
                (self.table())
            }
        }
    }

    /// The peers first, so that our curve lies over theirs.
    fn drawn_last_ours(&self) -> Vec<(&str, &[Point])> {
        let mut curves: Vec<(&str, &[Point])> =
            self.curves.iter().map(|(name, points)| (name.as_str(), points.as_slice())).collect();
        curves.sort_by_key(|&(name, _)| name == OURS);
        curves
    }

    fn path(&self, points: &[Point]) -> String {
        let every = points.len().div_ceil(DRAWN_POINTS_MAX).max(1);
        // The last point stays, however the others are thinned out.
        let last = points.last().filter(|_| every > 1);
        let place = |&[x, y]: &Point| {
            let (x, y) = (self.x.place(x) / 100.0 * WIDTH, TOP_PX + PLOT_PX * (1.0 - self.y.place(y) / 100.0));
            format!("{x:.1},{y:.1}")
        };
        points.iter().step_by(every).chain(last).map(place).collect::<Vec<_>>().join(" ")
    }

    fn legend(&self, palette: &Palette<'_>) -> Markup {
        let mut curves = self.drawn_last_ours();
        curves.reverse();
        html! {
            ul.legend {
                @for (name, _) in curves {
                    li {
                        svg width="22" height="8" aria-hidden="true" {
                            line class=(palette.class(name)) x1="1" x2="21" y1="4" y2="4" {}
                        }
                        (words::contender(name))
                    }
                }
            }
        }
    }

    fn describe(&self) -> String {
        let curve = |(name, points): (&str, &[Point])| {
            let (first, last) = (points.first()?, points.last()?);
            let at =
                |point: &Point| format!("{} {} at {}", words::figure(point[1]), self.y_unit, (self.x_text)(point[0]));
            Some(format!("{} from {} to {}", words::contender(name), at(first), at(last)))
        };
        let mut curves = self.drawn_last_ours();
        curves.reverse();
        curves.into_iter().filter_map(curve).collect::<Vec<_>>().join("; ")
    }

    fn table(&self) -> Markup {
        let mut curves = self.drawn_last_ours();
        curves.reverse();
        let places = places(self.curves);
        let every = places.len().div_ceil(TABLE_ROWS_MAX).max(1);
        let value = |points: &[Point], place: f64| {
            points.iter().find(|point| point[0] == place).map(|point| words::figure(point[1]))
        };
        html! {
            details {
                summary { "Figures" }
                div.scroll tabindex="0" role="group" aria-label="Figures" {
                    table {
                        thead { tr {
                            th scope="col" { (self.x_name) }
                            @for (name, _) in &curves { th scope="col" { (words::contender(name)) ", " (self.y_unit) } }
                        } }
                        tbody {
                            @for place in places.iter().step_by(every) {
                                tr {
                                    th scope="row" { ((self.x_text)(*place)) }
                                    @for (_, points) in &curves { td { (value(points, *place).unwrap_or_default()) } }
                                }
                            }
                        }
                    }
                }
                @if every > 1 { p.sub { "Every " (ordinal(every)) " point; the JSON has them all." } }
            }
        }
    }
}

fn ordinal(number: usize) -> String {
    let ending = match (number % 10, number % 100) {
        (_, 11..=13) => "th",
        (1, _) => "st",
        (2, _) => "nd",
        (3, _) => "rd",
        _ => "th",
    };
    format!("{number}{ending}")
}

/// A place in pixels as an attribute's value.
fn px(place: f64) -> String {
    format!("{place:.1}")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::recorded::Recorded;

    fn drawn(mut extra: Value, draw: fn(usize, &RecordedRow, &Palette<'_>) -> Markup) -> String {
        let fields = extra.as_object_mut().unwrap();
        fields.insert("name".into(), json!("transport.mtu1500.goodput"));
        fields.insert("unit".into(), json!("GB/s"));
        let recorded = Recorded::from_json(json!({"rows": [extra]})).unwrap();
        draw(0, &recorded.rows[0], &Palette::of(&recorded)).into_string()
    }

    #[test]
    fn a_row_without_curves_has_no_charts() {
        for draw in [over_time, by_percentile, by_size] {
            assert_eq!(drawn(json!({}), draw), "");
        }
    }

    #[test]
    fn our_curve_is_drawn_over_the_others_and_stands_first_in_the_legend() {
        let series = json!({"ours": [[0, 1], [1, 2]], "quinn": [[0, 1], [1, 1]], "zzz": [[0, 1], [1, 1]]});
        let chart = drawn(json!({"series": series}), over_time);
        let plot = chart.split("preserveAspectRatio").nth(1).unwrap();
        assert!(plot.find("line peer-0").unwrap() < plot.find("line ours").unwrap());
        let legend = chart.split("</ul>").next().unwrap();
        assert!(legend.find("Wormhole").unwrap() < legend.find("quinn").unwrap());
        assert!(chart.contains(r#"points="0.0,122.0 1000.0,22.0""#), "{chart}");
    }

    #[test]
    fn a_long_series_is_thinned_out_and_keeps_its_end() {
        let points: Vec<Value> = (0..=3000).map(|tenth| json!([f64::from(tenth) / 10.0, 1])).collect();
        let chart = drawn(json!({"series": {"ours": points}}), over_time);
        let path = chart.split(r#"points=""#).nth(1).unwrap().split('"').next().unwrap();
        let count = path.split(' ').count();
        assert!((300..=DRAWN_POINTS_MAX + 1).contains(&count), "{count}");
        assert!(path.ends_with("750.0,88.7") || path.ends_with("1000.0,88.7"), "{path}");
        assert!(chart.matches("<tr>").count() <= TABLE_ROWS_MAX + 1);
        assert!(chart.contains("Every 51st point"));
    }

    #[test]
    fn latencies_far_apart_have_a_logarithmic_axis() {
        let range = |y_min, y_max| Range { x_min: 0.0, x_max: 1.0, y_min, y_max };
        assert_eq!(range(10.0, 199.0).y_scale(), Scale::from_zero(199.0));
        assert_eq!(range(10.0, 200.0).y_scale(), Scale::logarithmic(10.0, 200.0));
        assert_eq!(range(0.0, 200.0).y_scale(), Scale::from_zero(200.0));
    }

    #[test]
    fn sizes_are_marked_as_sizes_and_not_too_many() {
        let points: Vec<Value> = (0..12).map(|step| json!([4096.0 * 2.0_f64.powi(step), step])).collect();
        let chart = drawn(json!({"points": {"ours": points}, "x_unit": "bytes"}), by_size);
        assert!(chart.contains("4 KiB") && chart.contains("By size"));
        let shards = drawn(json!({"points": {"ours": [[1, 1], [2, 1.9]]}, "x_unit": "shards"}), by_size);
        assert!(shards.contains("By shards"));
    }

    #[test]
    fn percentiles_are_marked_by_nines() {
        let curve = json!({"ours": [[50, 60], [90, 70], [99, 200], [99.9, 900]]});
        let chart = drawn(json!({"percentiles": curve}), by_percentile);
        for mark in [">50<", ">90<", ">99<", ">99.9<"] {
            assert!(chart.contains(mark), "{mark}");
        }
        assert!(chart.contains("Wormhole, p99.9: 900 µs"));
    }

    #[test]
    fn ordinals() {
        assert_eq!([1, 2, 3, 4, 11, 12, 13, 21, 51].map(ordinal).join(" "), "1st 2nd 3rd 4th 11th 12th 13th 21st 51st");
    }
}
