//! A report as one HTML file a person wants to look at: no script, no font, no request to anywhere.
//!
//! Charts are inline SVG in per cent of the width, so that they follow the window while text keeps its size. Light or
//! dark follows the reader's system. All text of a report is escaped by the templates, and the page's own policy
//! forbids scripts on top. Every chart has its figures as a table below it.
//!
//! ```text
//!   Recorded ─▶ headline   who leads whom, by how much; where we lose
//!             ─▶ overview   every row and peer on one scale
//!             ─▶ bars       a row: medians, spread, the 10 GbE line
//!             ─▶ curves     over time, by percentile, by size
//! ```
//!
//! Read [`render`], then `bars`. How numbers become places is in `scale`, how names become headings in `words`.

mod bars;
mod curves;
mod headline;
mod marks;
mod overview;
mod scale;

use std::collections::BTreeSet;

use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::peers::PEERS;
use crate::recorded::{Machine, Recorded, RecordedRow};
use crate::report::OURS;
use crate::words;

/// Nothing may be loaded and nothing run; the styles stand in the page.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; img-src data:";

/// Renders a run as a complete HTML document.
pub fn render(recorded: &Recorded) -> String {
    let sections = sections(&recorded.rows);
    let palette = Palette::of(recorded);
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content=(POLICY);
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                link rel="icon" href="data:,";
                title { "Wormhole beside its peers" }
                style { (PreEscaped(include_str!("html/style.css"))) }
            }
            body {
                header.top {
                    p.brand { "Wormhole" span { " performance report" } }
                    (headline::lede(recorded))
                    (machine_line(&recorded.machine))
                    nav aria-label="Sections" {
                        a href="#losses" { "Where we lose" }
                        a href="#overview" { "At a glance" }
                        @for section in &sections { a href=(format!("#{}", section.anchor)) { (section.title) } }
                        a href="#run" { "The run" }
                    }
                }
                main {
                    (headline::cards(recorded))
                    (overview::section(recorded))
                    @for section in &sections {
                        section id=(section.anchor) {
                            h2 { (section.title) }
                            div.grid {
                                @for (index, row) in &section.rows { (card(*index, row, &palette)) }
                            }
                        }
                    }
                    (run_section(recorded))
                }
                footer { p { "Made by " code { "perf html" } ". Ratios within one run are what to trust; machines differ and are never quiet." } }
            }
        }
    };
    page.into_string()
}

struct Section<'r> {
    anchor: String,
    title: String,
    rows: Vec<(usize, &'r RecordedRow)>,
}

/// Rows by the first word of their names, in the order measured.
fn sections(rows: &[RecordedRow]) -> Vec<Section<'_>> {
    let mut sections: Vec<Section<'_>> = Vec::new();
    for (index, row) in rows.iter().enumerate() {
        let title = words::section(&row.name);
        match sections.iter_mut().find(|section| section.title == title) {
            Some(section) => section.rows.push((index, row)),
            None => {
                let anchor = format!("section-{}", sections.len() + 1);
                sections.push(Section { anchor, title, rows: vec![(index, row)] });
            }
        }
    }
    sections
}

/// Which of the muted line styles each peer has, the same all over the page.
struct Palette<'r> {
    peers: Vec<&'r str>,
}

impl<'r> Palette<'r> {
    /// Line styles the page has for peers; more peers share them.
    const STYLES: usize = 6;

    fn of(recorded: &'r Recorded) -> Self {
        let names = recorded.rows.iter().flat_map(|row| {
            let curves = [&row.series, &row.percentiles, &row.points];
            curves.into_iter().flat_map(|curves| curves.keys())
        });
        let distinct: BTreeSet<&str> = names.map(String::as_str).filter(|&name| name != OURS).collect();
        Self { peers: distinct.into_iter().collect() }
    }

    fn class(&self, contender: &str) -> String {
        match self.peers.iter().position(|&peer| peer == contender) {
            Some(index) => format!("line peer-{}", index % Self::STYLES),
            None => "line ours".to_owned(),
        }
    }
}

fn card(index: usize, row: &RecordedRow, palette: &Palette<'_>) -> Markup {
    let better = if row.higher_is_better() { "higher is better" } else { "lower is better" };
    html! {
        article.card.wide[row.has_curves()] id=(format!("row-{index}")) {
            h3 { (words::row(&row.name)) }
            p.sub {
                (words::unit(&row.unit)) ", " (better) @if !row.peers.is_empty() { "; × is ours ÷ theirs" }
            }
            p.sub { span.raw { (row.name) } }
            div.charts {
                (bars::chart(index, row))
                (curves::over_time(index, row, palette))
                (curves::by_percentile(index, row, palette))
                (curves::by_size(index, row, palette))
            }
            (notes(row))
        }
    }
}

/// Contenders without a figure, each with the reason.
fn notes(row: &RecordedRow) -> Markup {
    let failures = row.failures();
    html! {
        @if let Some(remark) = &row.remark { p.sub { (remark) } }
        @if !failures.is_empty() || !row.absent.is_empty() || !row.withheld.is_empty() {
            ul.notes {
                @for (contender, reason) in failures {
                    li.failed { strong { (words::contender(contender)) } " failed: " (reason) }
                }
                @for (contender, reason) in &row.withheld {
                    li { strong { (words::contender(contender)) } " has no figure: " (reason) }
                }
                @for (peer, packages) in &row.absent {
                    li { strong { (peer) } " was not there (Debian: " code { (packages) } ")" }
                }
            }
        }
    }
}

fn machine_line(machine: &Machine) -> Markup {
    let facts = [
        machine.cpu.clone(),
        machine.cores.map(|cores| format!("{cores} cores")),
        machine.memory_bytes.map(words::memory),
        machine.kernel.as_ref().map(|kernel| format!("Linux {kernel}")),
        machine.date.as_deref().map(words::date),
        machine.commit_words().map(|commit| format!("commit {commit}")),
    ];
    html! {
        ul.facts { @for fact in facts.into_iter().flatten() { li { (fact) } } }
        @if let Some(words) = machine.debug_words() {
            p.warning { (words) ": no figure here says how fast a release is." }
        }
        @if let Some(load) = machine.busy_load() {
            p.warning { "The machine was busy before the run: load " (format!("{load:.2}")) ". Trust ratios, not figures." }
        }
    }
}

/// How it was measured, and who took part.
fn run_section(recorded: &Recorded) -> Markup {
    let machine = &recorded.machine;
    let names: BTreeSet<&str> = recorded
        .rows
        .iter()
        .flat_map(|row| row.peers.keys().chain(row.absent.keys()).map(String::as_str))
        .chain(recorded.rows.iter().flat_map(|row| row.failures().into_iter().map(|(name, _)| name)))
        .filter(|&name| name != OURS)
        .collect();
    let role = |name: &str| PEERS.iter().find(|peer| peer.name == name).map(|peer| peer.role);
    html! {
        section id="run" {
            h2 { "The run" }
            div.card {
                dl.run {
                    @if let Some(command) = &machine.command { dt { "Command" } dd { code { (command) } } }
                    @if let Some(commit) = &machine.commit {
                        dt { "Commit" }
                        dd { code { (commit) } @if machine.uncommitted_changes == Some(true) { " with uncommitted changes" } }
                    }
                    @for (what, program) in [("Wormhole", &machine.program), ("perf", &machine.perf)] {
                        @if let Some(program) = program {
                            dt { (what) }
                            dd {
                                (program.version.as_deref().unwrap_or("unknown version")) ", "
                                (program.profile.as_deref().unwrap_or("unknown profile"))
                                @if let Some(hash) = &program.blake3 { ", BLAKE3 " code { (hash) } }
                            }
                        }
                    }
                    dt { "Method" }
                    dd {
                        "Contenders take turns within one run, each round in another order, after an untimed check that the right bytes arrive. Bars "
                        "are medians, whiskers the fastest and slowest run. One failed run takes all of a contender’s "
                        "figures."
                    }
                    dt { "10 GbE" }
                    dd {
                        "The dashed line is the most payload a 10 Gbit/s Ethernet carries over QUIC and IPv4: "
                        (words::tick(bars::LINE_1500)) " GB/s at MTU 1500, " (words::tick(bars::LINE_9000))
                        " at 9000. The lab’s link itself has no such limit."
                    }
                    @for name in names {
                        dt { (name) }
                        dd { (role(name).unwrap_or("a peer this release does not know")) }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Text that would break out of an element, an attribute, a style or an SVG if anything let it through.
    const HOSTILE: &str = r#"</style></title></svg><script>alert(1)</script>"'><img src=x onerror=alert(1)>&"#;

    #[test]
    fn no_text_of_a_report_becomes_markup() {
        let recorded = Recorded::from_json(json!({
            "machine": {
                "cpu": HOSTILE, "kernel": HOSTILE, "commit": HOSTILE, "date": HOSTILE, "command": HOSTILE,
                "uncommitted_changes": true, "load_1min": 9.0, "cores": 2,
                "program": {"version": HOSTILE, "blake3": HOSTILE, "profile": HOSTILE},
                "perf": {"profile": "debug"},
            },
            "rows": [
                {
                    "name": format!("{HOSTILE}.{HOSTILE}"), "unit": HOSTILE, "better": HOSTILE, "ours": 1.0,
                    "peers": {HOSTILE: 2.0}, "spread": {HOSTILE: {"min": 1.0, "max": 3.0, "mad": 0.1}},
                    "runs": [{"ours": 1.0, HOSTILE: 2.0}],
                    "absent": {format!("absent {HOSTILE}"): HOSTILE}, "failed": HOSTILE,
                    "failures": {format!("failed {HOSTILE}"): HOSTILE},
                    "withheld": {format!("withheld {HOSTILE}"): HOSTILE}, "remark": HOSTILE,
                    "series": {"ours": [[0, 1], [1, 2]], HOSTILE: [[0, 1], [1, 2]]},
                    "percentiles": {"ours": [[50, 1], [99, 2]], HOSTILE: [[50, 1], [99, 2]]},
                    "points": {"ours": [[1, 1], [2, 2]], HOSTILE: [[1, 1], [2, 2]]}, "x_unit": HOSTILE,
                },
                {"name": HOSTILE, "unit": "GB/s", "failed": HOSTILE},
            ],
        }))
        .unwrap();
        let page = render(&recorded);
        assert!(!page.contains("<script") && !page.contains("<img"), "markup came through");
        assert_eq!(page.matches("</style>").count(), 1);
        assert_eq!(page.matches("<svg").count(), page.matches("</svg>").count());
        // Every quote of an attribute is one of ours: none holds a raw closing quote of the hostile text.
        assert!(!page.contains(r#""'><"#));
        assert!(page.contains("perf, and the peers in it, was a debug build"));
        assert!(page.contains("&lt;script&gt;"), "the names are still there to read");
    }

    #[test]
    fn a_page_asks_nobody_for_anything() {
        let page = render(&Recorded::from_json(json!({"rows": []})).unwrap());
        assert!(!page.contains("http://") && !page.contains("https://") && !page.contains("@import"));
        assert!(!page.contains("url("));
        assert!(page.contains("default-src 'none'"));
    }

    #[test]
    fn no_element_has_an_attribute_twice() {
        let sample =
            Recorded::read(std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/sample/invented.json")));
        let page = render(&sample.unwrap());
        for tag in page.split('<').filter_map(|text| text.split('>').next()) {
            let names: Vec<&str> = tag.split("=\"").filter_map(|part| part.rsplit([' ', '"']).next()).collect();
            let names = &names[..names.len() - 1];
            let distinct: BTreeSet<&&str> = names.iter().collect();
            assert_eq!(distinct.len(), names.len(), "{tag}");
        }
    }

    #[test]
    fn failed_and_absent_contenders_are_named_with_the_reason() {
        let page = render(
            &Recorded::from_json(json!({"rows": [{
                "name": "mount.mtu1500.sequential_cold", "unit": "GB/s", "better": "higher", "ours": null,
                "peers": {"sshfs": 0.3}, "absent": {"rclone": "rclone fuse3"},
                "failed": "ours: run 2: cut off", "failures": {"ours": "run 2: cut off"},
            }]}))
            .unwrap(),
        );
        for text in ["Wormhole", "run 2: cut off", "rclone", "rclone fuse3", "was not there"] {
            assert!(page.contains(text), "{text}");
        }
    }

    #[test]
    fn rows_of_one_suite_stand_together() {
        let names = ["transport.a", "mount.b", "transport.c"];
        let rows: Vec<_> = names.iter().map(|name| json!({"name": name, "unit": "us"})).collect();
        let recorded = Recorded::from_json(json!({"rows": rows})).unwrap();
        let sections = sections(&recorded.rows);
        let indices: Vec<Vec<usize>> =
            sections.iter().map(|section| section.rows.iter().map(|(index, _)| *index).collect()).collect();
        assert_eq!(indices, [vec![0, 2], vec![1]]);
    }

    /// The colours of one scheme, from the style sheet itself.
    fn colours(block: &str) -> std::collections::BTreeMap<&str, [f64; 3]> {
        let declarations = block.split(';').filter_map(|line| line.trim().strip_prefix("--")?.split_once(": #"));
        declarations
            .map(|(name, hex)| {
                let channel = |at: usize| f64::from(u8::from_str_radix(&hex[at..at + 2], 16).unwrap()) / 255.0;
                (name, [channel(0), channel(2), channel(4)])
            })
            .collect()
    }

    /// WCAG 2.2, "contrast ratio" and "relative luminance".
    fn contrast(one: [f64; 3], other: [f64; 3]) -> f64 {
        let luminance = |colour: [f64; 3]| {
            let [red, green, blue] =
                colour.map(|c| if c <= 0.04045 { c / 12.92 } else { ((c + 0.055) / 1.055).powf(2.4) });
            0.2126 * red + 0.7152 * green + 0.0722 * blue
        };
        let (one, other) = (luminance(one), luminance(other));
        (one.max(other) + 0.05) / (one.min(other) + 0.05)
    }

    #[test]
    fn contrast_is_enough_in_both_schemes() {
        let style = include_str!("html/style.css");
        let block = |from: &str| {
            let start = style.find(from).unwrap() + from.len();
            &style[start..start + style[start..].find('}').unwrap()]
        };
        let light = colours(block("/* light */"));
        let dark = colours(block("/* dark */"));
        assert!(light.keys().eq(dark.keys()), "both schemes have the same colours");
        for (scheme, colours) in [("light", light), ("dark", dark)] {
            let check = |colour: &str, ground: &str, least: f64| {
                let found = contrast(colours[colour], colours[ground]);
                assert!(found >= least, "{scheme}: {colour} on {ground} is {found:.2}, needs {least}");
            };
            // AA: 4.5 for text, 3 for parts of a drawing that must be seen to understand it.
            for ground in ["page", "card"] {
                for text in ["ink", "quiet", "accent", "good", "bad", "limit"] {
                    check(text, ground, 4.5);
                }
            }
            for part in ["bar", "peer-0", "peer-1", "peer-2", "peer-3", "peer-4", "peer-5"] {
                check(part, "card", 3.0);
            }
        }
    }
}
