//! A row as horizontal bars: medians, the spread of the runs as whiskers, and the 10 GbE line.

use maud::{Markup, html};

use super::headline::verdict;
use super::marks::{self, anchor, per_cent};
use super::scale::Scale;
use crate::recorded::RecordedRow;
use crate::report::OURS;
use crate::words;

/// Most payload 10 Gbit/s Ethernet carries at MTU 1500 over QUIC and IPv4, GB/s: 1430 bytes of every packet's 1538 on
/// the wire, at 1.25e9 bytes a second.
pub const LINE_1500: f64 = 1.162;

/// The same at MTU 9000: 8930 bytes of every 9038.
pub const LINE_9000: f64 = 1.235;

/// A line further out than this many times the longest bar is only named: drawing it would flatten the bars.
const LINE_REACH: f64 = 4.0;

/// Height of one contender's name and bar, px.
const LANE_PX: usize = 42;

/// Room above for the name of the line, px.
const TOP_PX: usize = 20;

/// Room below for the marks, px.
const BOTTOM_PX: usize = 20;

/// Where 10 GbE ends in a row; none if the row does not count GB/s.
pub fn line(row: &RecordedRow) -> Option<f64> {
    let value = if words::mtu(&row.name) == Some(9000) { LINE_9000 } else { LINE_1500 };
    (row.unit == "GB/s").then_some(value)
}

/// The bars of a row, and the same as a table. Empty if nobody has a figure.
pub fn chart(index: usize, row: &RecordedRow) -> Markup {
    let contenders = row.contenders();
    let failed: Vec<&str> = row.failures().into_iter().map(|(name, _)| name).collect();
    if contenders.is_empty() {
        return html! { @if !row.has_curves() { p { "No contender completed." } } };
    }
    let longest = contenders
        .iter()
        .map(|&(name, median)| row.spread_of(name).map_or(median, |spread| spread.max.max(median)))
        .fold(0.0, f64::max);
    let line = line(row);
    let drawn = line.filter(|&line| line <= longest * LINE_REACH);
    let scale = Scale::from_zero(drawn.map_or(longest, |line| longest.max(line)));
    let lanes = contenders.len() + failed.len();
    let ground = TOP_PX + lanes * LANE_PX;
    let (title, description) = (format!("bars-{index}-title"), format!("bars-{index}-text"));
    html! {
        figure {
            svg.bars role="img" width="100%" height=(ground + BOTTOM_PX)
                aria-labelledby=(format!("{title} {description}")) {
                title id=(title) { (words::full(&row.name)) " in " (words::unit(&row.unit)) }
                desc id=(description) { (describe(row)) }
                @for mark in scale.marks() {
                    @let place = per_cent(scale.place(mark));
                    line.grid x1=(place) x2=(place) y1=(TOP_PX) y2=(ground) {}
                }
                @for mark in marks::fitting(&scale, &scale.marks(), words::tick) {
                    text.tick x=(per_cent(mark.place)) y=(ground + 15) text-anchor=(anchor(mark.place)) { (mark.text) }
                }
                @if let Some(line) = drawn {
                    @let place = per_cent(scale.place(line));
                    line.limit x1=(place) x2=(place) y1=(TOP_PX - 4) y2=(ground) {}
                    text.limit x=(place) y="11" text-anchor=(anchor(scale.place(line))) {
                        "10 GbE " (words::tick(line))
                    }
                }
                @for (lane, &(name, median)) in contenders.iter().enumerate() {
                    (bar(row, name, median, &scale, TOP_PX + lane * LANE_PX))
                }
                @for (lane, name) in failed.iter().enumerate() {
                    @let top = TOP_PX + (contenders.len() + lane) * LANE_PX;
                    text.name x="0" y=(top + 15) { (words::chart_name(name)) }
                    text.value.bad x="100%" y=(top + 15) text-anchor="end" { "failed" }
                    rect.none x="0" y=(top + 22) width="100%" height="12" rx="3" {}
                }
            }
            @if let (Some(line), None) = (line, drawn) {
                p.sub { "10 GbE (" (words::tick(line)) " GB/s) lies far to the right of this scale." }
            }
            (table(row))
        }
    }
}

fn bar(row: &RecordedRow, name: &str, median: f64, scale: &Scale, top: usize) -> Markup {
    let class = if name == OURS { "bar ours" } else { "bar" };
    let clear = row.is_in_clear(name);
    let ratio = row.ratio(name);
    let spread = row.spread_of(name).filter(|spread| spread.max > spread.min);
    html! {
        g {
            title { (words::contender(name)) ": " (words::figure(median)) " " (words::unit(&row.unit)) (range(row, name)) }
            text.name.ours[name == OURS] x="0" y=(top + 15) {
                (words::chart_name(name)) @if clear { tspan.quiet { " in clear" } }
            }
            text.value.ours[name == OURS] x="100%" y=(top + 15) text-anchor="end" { (words::figure(median)) }
            rect class=(class) x="0" y=(top + 22) width=(per_cent(scale.place(median))) height="12" rx="3" {}
            @if let Some(spread) = spread {
                @let (least, greatest) = (per_cent(scale.place(spread.min)), per_cent(scale.place(spread.max)));
                line.whisker x1=(least) x2=(greatest) y1=(top + 28) y2=(top + 28) {}
                line.whisker x1=(least) x2=(least) y1=(top + 24) y2=(top + 32) {}
                line.whisker x1=(greatest) x2=(greatest) y1=(top + 24) y2=(top + 32) {}
            }
            @if let Some(ratio) = ratio {
                text class=(format!("ratio {}", row.advantage(name).map_or("level", verdict))) x="100%" dx="56" y=(top + 32)
                    text-anchor="end" { (words::times(ratio)) }
            }
        }
    }
}

fn range(row: &RecordedRow, name: &str) -> String {
    row.spread_of(name).map_or_else(String::new, |spread| {
        format!(", runs {} to {}", words::figure(spread.min), words::figure(spread.max))
    })
}

/// The chart in words, for those who hear it.
fn describe(row: &RecordedRow) -> String {
    let figures = row.contenders().into_iter().map(|(name, median)| {
        let ratio = row.ratio(name).map_or_else(String::new, |ratio| format!(" (ours is {})", words::times(ratio)));
        format!("{} {}{ratio}", words::contender(name), words::figure(median))
    });
    let failed = row.failures().into_iter().map(|(name, _)| format!("{} failed", words::contender(name)));
    figures.chain(failed).collect::<Vec<_>>().join(", ")
}

fn table(row: &RecordedRow) -> Markup {
    html! {
        details {
            summary { "Figures" }
            div.scroll tabindex="0" role="group" aria-label="Figures" {
                table {
                    thead { tr {
                        th scope="col" { "contender" } th scope="col" { "median" } th scope="col" { "fastest and slowest run" }
                        th scope="col" { "MAD" } th scope="col" { "runs" } th scope="col" { "ours ÷ it" }
                    } }
                    tbody {
                        @for (name, median) in row.contenders() {
                            @let spread = row.spread_of(name);
                            tr {
                                th scope="row" { (words::contender(name)) }
                                td { (words::figure(median)) }
                                td { @if let Some(spread) = spread { (words::figure(spread.min)) "–" (words::figure(spread.max)) } }
                                td { @if let Some(spread) = spread { (words::figure(spread.mad)) } }
                                td { (row.runs_of(name).len()) }
                                td { @if let Some(ratio) = row.ratio(name) { (words::times(ratio)) } }
                            }
                        }
                        @for (name, reason) in row.failures() {
                            tr { th scope="row" { (words::contender(name)) } td colspan="5" { "failed: " (reason) } }
                        }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::recorded::Recorded;

    fn row(mut extra: Value) -> RecordedRow {
        let fields = extra.as_object_mut().unwrap();
        fields.entry("name").or_insert(json!("transport.mtu1500.goodput"));
        fields.entry("unit").or_insert(json!("GB/s"));
        let mut recorded = Recorded::from_json(json!({"rows": [extra]})).unwrap();
        recorded.rows.remove(0)
    }

    fn drawn(extra: Value) -> String {
        chart(0, &row(extra)).into_string()
    }

    #[test]
    fn the_line_is_the_one_of_the_links_mtu() {
        let line_of = |name: &str, unit: &str| line(&row(json!({"name": name, "unit": unit})));
        assert_eq!(line_of("transport.mtu1500.goodput", "GB/s"), Some(1.162));
        assert_eq!(line_of("mount.mtu9000.sequential_cold", "GB/s"), Some(1.235));
        assert_eq!(line_of("scaling.shards", "GB/s"), Some(1.162));
        assert_eq!(line_of("transport.mtu1500.cpu_sender", "s/GB"), None);
    }

    #[test]
    fn the_lines_are_what_ethernet_carries() {
        // Preamble 8, Ethernet header 14, check sequence 4, gap 12.
        let wire = |mtu: f64| mtu + 38.0;
        assert!((1.25 * 1430.0 / wire(1500.0) - LINE_1500).abs() < 0.001);
        assert!((1.25 * 8930.0 / wire(9000.0) - LINE_9000).abs() < 0.001);
    }

    #[test]
    fn bars_are_in_proportion_and_whiskers_span_the_runs() {
        let chart = drawn(json!({
            "ours": 2.0, "peers": {"quinn": 1.0},
            "runs": [{"ours": 2.0, "quinn": 1.0}, {"ours": 1.5, "quinn": 1.0}, {"ours": 2.0, "quinn": 1.0}],
        }));
        assert!(chart.contains(r#"class="bar ours" x="0" y="42" width="100.00%""#), "{chart}");
        assert!(chart.contains(r#"class="bar" x="0" y="84" width="50.00%""#));
        assert!(chart.contains(r#"class="whisker" x1="75.00%" x2="100.00%""#));
        assert!(chart.contains("2.00×"));
        // Only the one whose runs differ has whiskers: a line and two ends.
        assert_eq!(chart.matches("whisker").count(), 3);
    }

    #[test]
    fn a_line_far_out_is_named_and_not_drawn() {
        assert!(drawn(json!({"ours": 1.162 / LINE_REACH})).contains(r#"class="limit""#));
        let far = drawn(json!({"ours": 1.16 / LINE_REACH}));
        assert!(!far.contains(r#"class="limit""#) && far.contains("far to the right"));
    }

    #[test]
    fn a_failed_contender_has_a_lane_and_no_bar() {
        let chart = drawn(json!({"ours": 2.0, "failures": {"quinn": "cut off"}, "failed": "quinn: cut off"}));
        assert_eq!(chart.matches(r#"<rect class="bar"#).count(), 1);
        assert!(chart.contains("failed: cut off") && chart.contains(r#"class="none""#));
        assert!(drawn(json!({})).contains("No contender completed"));
    }

    #[test]
    fn where_we_lose_the_ratio_says_so_whichever_way_the_row_counts() {
        let standing_of = |extra: Value| if drawn(extra).contains("ratio bad") { "bad" } else { "good" };
        assert_eq!(standing_of(json!({"ours": 1.0, "peers": {"q": 2.0}})), "bad");
        assert_eq!(standing_of(json!({"ours": 2.0, "peers": {"q": 1.0}})), "good");
        assert_eq!(standing_of(json!({"unit": "s/GB", "better": "lower", "ours": 1.0, "peers": {"q": 2.0}})), "good");
        assert_eq!(standing_of(json!({"unit": "s/GB", "better": "lower", "ours": 2.0, "peers": {"q": 1.0}})), "bad");
    }
}
