//! What a run says in one look: how far ahead of the best peer, and, as plainly, where behind.

use maud::{Markup, html};

use crate::recorded::{Recorded, RecordedRow};
use crate::words;

/// Advantages this close to 1 count as level: what two runs on one quiet machine differ by.
const LEVEL: f64 = 0.03;

/// Cards at the top; the overview below them has every row.
const CARDS_MAX: usize = 5;

/// Defeats shown at once; the others are folded away below them.
const DEFEATS_SHOWN: usize = 6;

/// Ours beside one peer in one row.
#[derive(Clone, Copy, Debug)]
pub struct Standing<'r> {
    /// The row.
    pub row: &'r RecordedRow,
    /// The peer.
    pub peer: &'r str,
    /// How many times better we are; see [`RecordedRow::advantage`].
    pub advantage: f64,
    /// Whether the peer moves its bytes unencrypted.
    pub is_in_clear: bool,
}

impl Standing<'_> {
    /// See [`verdict`].
    pub fn verdict(&self) -> &'static str {
        verdict(self.advantage)
    }
}

/// Ahead, level or behind, by the name of its style.
pub fn verdict(advantage: f64) -> &'static str {
    match advantage {
        advantage if advantage > 1.0 + LEVEL => "good",
        advantage if advantage < 1.0 - LEVEL => "bad",
        _ => "level",
    }
}

/// Every peer of a row that can be compared, the hardest to beat first.
pub fn standings(row: &RecordedRow) -> Vec<Standing<'_>> {
    let standing = |peer: &'_ str| row.advantage(peer);
    let mut standings: Vec<Standing<'_>> = row
        .peers
        .keys()
        .filter_map(|peer| {
            let advantage = standing(peer)?;
            Some(Standing { row, peer, advantage, is_in_clear: row.is_in_clear(peer) })
        })
        .collect();
    standings.sort_by(|one, other| one.advantage.total_cmp(&other.advantage));
    standings
}

/// The encrypted peer of a row that is hardest to beat.
pub fn closest(row: &RecordedRow) -> Option<Standing<'_>> {
    standings(row).into_iter().find(|standing| !standing.is_in_clear)
}

/// The page's title and its one sentence, both from the first speed that has a rival.
pub fn lede(recorded: &Recorded) -> Markup {
    let closest: Vec<Standing<'_>> = recorded.rows.iter().filter_map(closest).collect();
    let Some(first) = closest.iter().find(|standing| standing.row.unit == "GB/s").or(closest.first()) else {
        return html! {
            h1 { "No encrypted peer to compare with" }
            p.lede { "In this run no encrypted peer has a figure beside ours." }
        };
    };
    let count = |verdict: &str| closest.iter().filter(|standing| standing.verdict() == verdict).count();
    let failed = recorded.rows.iter().filter(|row| row.we_failed()).count();
    let best = if first.row.unit == "GB/s" { "fastest" } else { "best" };
    html! {
        h1 { (words::times(first.advantage)) " the " (best) " encrypted peer" }
        p.lede {
            (pair(first)) " (" (words::full(&first.row.name)) "). Over all "
            (closest.len()) " rows with an encrypted peer, Wormhole is ahead of the best of them in "
            strong { (count("good")) } ", level in " strong { (count("level")) } " and behind in "
            strong { (count("bad")) } "."
            @if failed > 0 { " " strong.bad { "It failed in " (failed) "." } }
        }
    }
}

/// The cards of the first speeds, and the list of all defeats.
pub fn cards(recorded: &Recorded) -> Markup {
    let speeds: Vec<Standing<'_>> =
        recorded.rows.iter().filter(|row| row.unit == "GB/s").filter_map(closest).take(CARDS_MAX).collect();
    let mut defeats: Vec<Standing<'_>> =
        recorded.rows.iter().flat_map(standings).filter(|standing| standing.verdict() == "bad").collect();
    defeats
        .sort_by(|one, other| one.is_in_clear.cmp(&other.is_in_clear).then(one.advantage.total_cmp(&other.advantage)));
    let failed: Vec<&RecordedRow> = recorded.rows.iter().filter(|row| row.we_failed()).collect();
    let (shown, folded) = defeats.split_at(defeats.len().min(DEFEATS_SHOWN));
    html! {
        @if !speeds.is_empty() {
            div.cards {
                @for standing in &speeds {
                    div.card.headline {
                        p class=(format!("number {}", standing.verdict())) { (words::times(standing.advantage)) }
                        p.against { "as fast as " (standing.peer) }
                        p.what { (words::full(&standing.row.name)) }
                        p.sub { (pair(standing)) }
                    }
                }
            }
        }
        section id="losses" {
            h2 { "Where we lose" }
            @if shown.is_empty() && failed.is_empty() {
                p { "Nowhere in this run: no peer beat Wormhole by more than what runs differ by." }
            } @else {
                ul.defeats {
                    @for row in failed {
                        li { strong.bad { "failed" } span { (words::full(&row.name)) } span.sub { (reason(row)) } }
                    }
                    @for standing in shown { (defeat(standing)) }
                }
                @if !folded.is_empty() {
                    details {
                        summary { (folded.len()) " more" }
                        ul.defeats { @for standing in folded { (defeat(standing)) } }
                    }
                }
            }
        }
    }
}

fn defeat(standing: &Standing<'_>) -> Markup {
    html! {
        li {
            strong.bad { (words::times(standing.advantage)) }
            span { (words::full(&standing.row.name)) }
            span.sub { (pair(standing)) @if standing.is_in_clear { ", in clear" } }
        }
    }
}

/// Both figures, such as `Wormhole 1.04, quinn 0.650 GB/s`.
fn pair(standing: &Standing<'_>) -> String {
    let figure = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), words::figure);
    let theirs = standing.row.peers.get(standing.peer).copied();
    format!(
        "Wormhole {}, {} {} {}",
        figure(standing.row.ours),
        standing.peer,
        figure(theirs),
        words::unit(&standing.row.unit)
    )
}

fn reason(row: &RecordedRow) -> String {
    let ours = row.failures().into_iter().find(|&(name, _)| name == crate::report::OURS);
    ours.map_or_else(|| "no figure".to_owned(), |(_, reason)| reason.to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn report(rows: Value) -> Recorded {
        Recorded::from_json(json!({ "rows": rows })).unwrap()
    }

    #[test]
    fn the_headline_is_against_the_best_encrypted_peer_and_not_the_easiest() {
        let report = report(json!([{
            "name": "transport.mtu1500.goodput", "unit": "GB/s", "ours": 2.0,
            "peers": {"quinn": 1.0, "s2n-quic": 1.6, "iperf3": 4.0},
        }]));
        let lede = lede(&report).into_string();
        assert!(lede.contains("<h1>1.25× the fastest encrypted peer</h1>"), "{lede}");
        let cards = cards(&report).into_string();
        assert!(cards.contains("as fast as s2n-quic"));
        // TCP in clear is faster, and that is said.
        assert!(cards.contains("0.50×") && cards.contains("in clear"), "{cards}");
    }

    #[test]
    fn a_headline_that_is_a_defeat_is_printed_as_one() {
        let report = report(json!([
            {"name": "get.mtu1500", "unit": "GB/s", "ours": 0.5, "peers": {"scp": 1.0}},
            {"name": "get.cpu", "unit": "s/GB", "better": "lower", "ours": 3.0, "peers": {"scp": 1.0}},
            {"name": "mount.mtu1500.sequential_cold", "unit": "GB/s", "failures": {"ours": "cut off"}},
        ]));
        let lede = lede(&report).into_string();
        assert!(lede.contains("0.50× the fastest") && lede.contains("It failed in 1"), "{lede}");
        let cards = cards(&report).into_string();
        assert!(cards.contains("0.33×") && cards.contains("cut off"), "{cards}");
    }

    #[test]
    fn small_differences_are_level() {
        let verdict = |ours: f64| {
            let report = report(json!([{"name": "n", "unit": "GB/s", "ours": ours, "peers": {"quinn": 1.0}}]));
            closest(&report.rows[0]).unwrap().verdict()
        };
        assert_eq!([verdict(1.04), verdict(1.02), verdict(0.98), verdict(0.96)], ["good", "level", "level", "bad"]);
    }

    #[test]
    fn a_run_without_rivals_says_so() {
        assert!(lede(&report(json!([]))).into_string().contains("No encrypted peer"));
        assert!(cards(&report(json!([]))).into_string().contains("Nowhere in this run"));
    }

    #[test]
    fn many_defeats_are_folded_and_none_is_left_out() {
        let row = |index: usize| json!({"name": format!("a.r{index}"), "unit": "us", "ours": 2.0, "peers": {"q": 1.0}});
        let rows: Vec<Value> = (0..10).map(row).collect();
        let cards = cards(&report(json!(rows))).into_string();
        assert!(cards.contains("4 more"));
        assert_eq!(cards.matches("<li>").count(), 10);
    }
}
