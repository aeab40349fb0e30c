//! Every row and every peer on one scale: to the right of the middle we lead, to the left we follow.

use maud::{Markup, html};

use super::headline::{Standing, closest, standings};
use super::marks::{self, anchor, per_cent};
use super::scale::Scale;
use crate::recorded::{Recorded, RecordedRow};
use crate::words;

/// The scale covers at least this much to either side, so that small differences look small.
const REACH: f64 = 2.0;

/// The section; empty if nothing can be compared.
pub fn section(recorded: &Recorded) -> Markup {
    let lanes: Vec<(&RecordedRow, Vec<Standing<'_>>)> =
        recorded.rows.iter().map(|row| (row, standings(row))).filter(|(_, standings)| !standings.is_empty()).collect();
    let advantages = || lanes.iter().flat_map(|(_, standings)| standings.iter().map(|standing| standing.advantage));
    let scale = Scale::logarithmic(advantages().fold(1.0 / REACH, f64::min), advantages().fold(REACH, f64::max));
    html! {
        section id="overview" {
            h2 { "At a glance" }
            @if lanes.is_empty() {
                p { "No peer has a figure to compare with." }
            } @else {
                div.card {
                    p.sub {
                        "How many times better Wormhole is than each peer, whichever way the row counts. "
                        (key("good")) " encrypted peer "
                        (key("clear")) " in clear. Right of 1× Wormhole leads. "
                        "The number is against the best encrypted peer."
                    }
                    ul.overview {
                        @for (row, standings) in &lanes { (lane(row, standings, &scale)) }
                        li.scale aria-hidden="true" { (axis(&scale)) }
                    }
                }
            }
        }
    }
}

fn lane(row: &RecordedRow, standings: &[Standing<'_>], scale: &Scale) -> Markup {
    let closest = closest(row);
    html! {
        li {
            span.what { (words::full(&row.name)) }
            @match closest {
                Some(standing) => span.rival {
                    strong class=(standing.verdict()) { (words::times(standing.advantage)) } " " (standing.peer)
                },
                None => span.rival.quiet { "only in clear" },
            }
            svg.lane width="100%" height="20" role="img" {
                title { (words::full(&row.name)) ": " (describe(standings)) }
                line.grid x1="0" x2="100%" y1="10" y2="10" {}
                line.one x1=(per_cent(scale.place(1.0))) x2=(per_cent(scale.place(1.0))) y1="0" y2="20" {}
                @for standing in standings.iter().rev() {
                    @let class = if standing.is_in_clear { "clear" } else { standing.verdict() };
                    (dot(class, &per_cent(scale.place(standing.advantage))))
                }
            }
        }
    }
}

fn dot(class: &str, place: &str) -> Markup {
    html! { circle class=(format!("dot {class}")) cx=(place) cy="10" r="6" {} }
}

fn key(class: &str) -> Markup {
    html! { svg.key width="14" height="20" aria-hidden="true" { (dot(class, "7")) } }
}

fn axis(scale: &Scale) -> Markup {
    html! {
        svg.lane width="100%" height="16" {
            @for mark in marks::fitting(scale, &scale.marks(), |mark| format!("{}×", words::tick(mark))) {
                text.tick x=(per_cent(mark.place)) y="12" text-anchor=(anchor(mark.place)) { (mark.text) }
            }
        }
    }
}

fn describe(standings: &[Standing<'_>]) -> String {
    let standing = |standing: &Standing<'_>| {
        let clear = if standing.is_in_clear { " in clear" } else { "" };
        format!("{} {}{clear}", words::times(standing.advantage), standing.peer)
    };
    standings.iter().map(standing).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn drawn(rows: Value) -> String {
        section(&Recorded::from_json(json!({ "rows": rows })).unwrap()).into_string()
    }

    #[test]
    fn leads_stand_on_the_right_whichever_way_a_row_counts() {
        // The scale reaches from 1/2 to 2, so 1 is in the middle.
        let higher = drawn(json!([{"name": "n", "unit": "GB/s", "ours": 2.0, "peers": {"q": 1.0}}]));
        let lower = drawn(json!([{"name": "n", "unit": "s/GB", "better": "lower", "ours": 1.0, "peers": {"q": 2.0}}]));
        for page in [higher, lower] {
            assert!(page.contains(r#"class="dot good" cx="100.00%""#), "{page}");
        }
        let behind = drawn(json!([{"name": "n", "unit": "GB/s", "ours": 1.0, "peers": {"q": 2.0}}]));
        assert!(behind.contains(r#"class="dot bad" cx="0.00%""#), "{behind}");
        assert!(behind.contains(r#"class="one" x1="50.00%""#));
    }

    #[test]
    fn peers_in_clear_are_marked_and_are_not_the_number() {
        let page = drawn(json!([{"name": "n", "unit": "GB/s", "ours": 1.0, "peers": {"iperf3": 3.0, "quinn": 0.5}}]));
        assert!(page.contains(r#"class="dot clear""#) && page.contains("0.33× iperf3 in clear"), "{page}");
        assert!(page.contains("2.00×</strong> quinn"));
        let only = drawn(json!([{"name": "n", "unit": "GB/s", "ours": 1.0, "peers": {"iperf3": 3.0}}]));
        assert!(only.contains("only in clear"));
    }

    #[test]
    fn rows_without_peers_are_left_out() {
        assert!(drawn(json!([{"name": "n", "unit": "GB/s", "ours": 1.0}])).contains("No peer has a figure"));
    }
}
