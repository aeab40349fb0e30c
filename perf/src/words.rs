//! Names and numbers as people read them.

use crate::report::OURS;

/// Words of row names that read better spelled out; any other word stands for itself.
const WORDS: [(&str, &str); 26] = [
    ("goodput", "Goodput, one stream"),
    ("cpu_sender", "CPU per GB, sending"),
    ("cpu_receiver", "CPU per GB, receiving"),
    ("sequential_cold", "Sequential read, cold"),
    ("sequential_warm", "Sequential read, warm"),
    ("warm_l1", "Sequential read, warm in memory, kernel caches dropped"),
    ("warm_page_cache", "Sequential read, warm in the kernel"),
    ("by_size", "Open and read of whole files, by size"),
    ("shards", "All readers of a host, by shards"),
    ("qd1_p50", "4 KiB reads one at a time, median"),
    ("qd1_p90", "4 KiB reads one at a time, p90"),
    ("qd1_p99", "4 KiB reads one at a time, p99"),
    ("qd1_p999", "4 KiB reads one at a time, p99.9"),
    ("qd32_iops", "4 KiB reads, 32 at once"),
    ("qd32_p50", "4 KiB reads, 32 at once, median"),
    ("qd32_p99", "4 KiB reads, 32 at once, p99"),
    ("walk_10k_cold", "Walk of 10,000 entries, cold"),
    ("walk_10k_warm", "Walk of 10,000 entries, warm"),
    ("walk_deep_cold", "Walk of a deep tree, cold"),
    ("stat_storm", "stat, cached"),
    ("open_storm", "open and close"),
    ("read_tree", "Reading all files through a mount"),
    ("first_byte_cold", "Open and first byte, cold"),
    ("first_byte_warm", "Open and first byte, warm"),
    ("first_byte_after_open_cold", "First byte after open, cold"),
    ("first_byte_after_open_warm", "First byte after open, warm"),
];

/// Parts of row names that are written in capitals.
const ABBREVIATIONS: [&str; 6] = ["cpu", "io", "lan", "quic", "tcp", "wan"];

/// First words of row names, as headings.
const SECTIONS: [(&str, &str); 7] = [
    ("transport", "Bare streams"),
    ("mount", "Through a mount"),
    ("get", "Copying"),
    ("random", "Random access through a mount"),
    ("metadata", "Names and attributes"),
    ("smallfiles", "Many small files"),
    ("cpu", "CPU and memory"),
];

/// Names longer than this are cut in charts, where nothing can wrap; tables have them whole.
const CHART_NAME_CHARS_MAX: usize = 22;

/// The heading of the section a row belongs to.
pub fn section(row: &str) -> String {
    let word = row.split('.').next().unwrap_or_default();
    known(&SECTIONS, word).map_or_else(|| spelled(word), str::to_owned)
}

/// The heading of a row within its section: what it is first, then under what.
pub fn row(name: &str) -> String {
    let (links, things): (Vec<&str>, Vec<&str>) = name.split('.').skip(1).partition(|part| mtu_of_part(part).is_some());
    let thing = |part: &&str| known(&WORDS, part).map_or_else(|| spelled(part), str::to_owned);
    let mut parts: Vec<String> = things.iter().map(thing).collect();
    if parts.is_empty() {
        parts.push(if links.is_empty() { spelled(name) } else { "Speed".to_owned() });
    }
    parts.extend(links.iter().filter_map(|part| Some(format!("MTU {}", mtu_of_part(part)?))));
    parts.join(" · ")
}

/// A row's heading with its section, for places where rows of all sections meet.
pub fn full(name: &str) -> String {
    let (section, row) = (section(name), row(name));
    if section == row { row } else { format!("{section}: {row}") }
}

/// The MTU a row's name says it was measured at.
pub fn mtu(name: &str) -> Option<u32> {
    name.split('.').find_map(mtu_of_part)
}

fn mtu_of_part(part: &str) -> Option<u32> {
    part.strip_prefix("mtu")?.parse().ok()
}

fn known<'w>(table: &[(&str, &'w str)], word: &str) -> Option<&'w str> {
    table.iter().find(|(key, _)| *key == word).map(|(_, text)| *text)
}

/// A unit as it is printed for people.
pub fn unit(unit: &str) -> &str {
    match unit {
        "us" => "µs",
        "%" => "% of a core",
        other => other,
    }
}

fn spelled(word: &str) -> String {
    let part = |part: &str| match part {
        part if ABBREVIATIONS.contains(&part) => part.to_uppercase(),
        "4k" => "4 KiB".to_owned(),
        part => match part.strip_prefix("qd") {
            Some(depth) if depth.parse::<u32>().is_ok() => format!("QD{depth}"),
            _ => part.to_owned(),
        },
    };
    let text = word.split('_').map(part).collect::<Vec<_>>().join(" ");
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

/// A contender's name for readers.
pub fn contender(name: &str) -> &str {
    if name == OURS { "Wormhole" } else { name }
}

/// A contender's name where there is room for one line only.
pub fn chart_name(name: &str) -> String {
    let name = contender(name);
    if name.chars().count() <= CHART_NAME_CHARS_MAX {
        return name.to_owned();
    }
    name.chars().take(CHART_NAME_CHARS_MAX - 1).chain(['…']).collect()
}

/// A figure with three digits that mean something, or all of a whole one, in groups of thousands.
pub fn figure(value: f64) -> String {
    let digits = match value.abs() {
        0.0 => return "0".to_owned(),
        size if size >= 99.95 => 0,
        size if size >= 9.995 => 1,
        size if size >= 0.9995 => 2,
        _ => 3,
    };
    grouped(&format!("{value:.digits$}"))
}

/// A number of an axis: no zeros behind the point that say nothing.
pub fn tick(value: f64) -> String {
    let text = format!("{value:.3}");
    grouped(text.trim_end_matches('0').trim_end_matches('.'))
}

fn grouped(text: &str) -> String {
    let (whole, rest) = text.split_once('.').map_or((text, None), |(whole, rest)| (whole, Some(rest)));
    let (sign, digits) = whole.strip_prefix('-').map_or(("", whole), |digits| ("-", digits));
    let mut grouped = sign.to_owned();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    match rest {
        Some(rest) => grouped + "." + rest,
        None => grouped,
    }
}

/// A quotient, such as `1.61×`.
pub fn times(ratio: f64) -> String {
    let digits = match ratio {
        ratio if ratio >= 99.5 => 0,
        ratio if ratio >= 9.95 => 1,
        _ => 2,
    };
    grouped(&format!("{ratio:.digits$}")) + "×"
}

/// Bytes as the largest binary unit they fill, such as `4 KiB`.
pub fn size(bytes: f64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{} {}", tick((value * 10.0).round() / 10.0), units[unit])
}

/// RAM, such as `23.4 GiB`.
// Exact below 8 PiB, and rounded to a tenth of a GiB anyway.
#[expect(clippy::cast_precision_loss, reason = "see above")]
pub fn memory(bytes: u64) -> String {
    format!("{} RAM", size(bytes as f64))
}

/// A time in RFC 3339 as two words: the day and the minute. What has another shape is left as it is.
pub fn date(text: &str) -> String {
    let Some((day, time)) = text.split_once('T') else {
        return text.to_owned();
    };
    match (time.get(..5), time.ends_with('Z')) {
        (Some(minute), true) => format!("{day} {minute} UTC"),
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_headings() {
        let check = |name: &str, expected: &str| assert_eq!(full(name), expected, "{name}");
        check("transport.mtu1500.goodput", "Bare streams: Goodput, one stream · MTU 1500");
        check("mount.mtu9000.cpu_sender", "Through a mount: CPU per GB, sending · MTU 9000");
        check("get.mtu1500", "Copying: Speed · MTU 1500");
        check("wan.loss_1_percent", "WAN: Loss 1 percent");
        check("mount.random_read_4k_qd32", "Through a mount: Random read 4 KiB QD32");
        check("idle.qdx", "Idle: Qdx");
        check("idle", "Idle");
        check("", "");
    }

    #[test]
    fn the_mtu_is_in_the_name() {
        assert_eq!(mtu("transport.mtu9000.goodput"), Some(9000));
        assert_eq!(mtu("transport.mtux.goodput"), None);
    }

    #[test]
    fn figures_have_three_digits_that_mean_something() {
        let check = |value: f64, expected: &str| assert_eq!(figure(value), expected);
        check(0.0, "0");
        check(0.4567, "0.457");
        check(0.9996, "1.00");
        check(1.0449, "1.04");
        check(12.34, "12.3");
        check(99.96, "100");
        check(123_456.7, "123,457");
        check(-1234.0, "-1,234");
    }

    #[test]
    fn ticks_sizes_ratios_and_dates() {
        assert_eq!([tick(0.5), tick(2.0), tick(20000.0), tick(0.0)], ["0.5", "2", "20,000", "0"]);
        assert_eq!([size(512.0), size(4096.0), size(1_572_864.0)], ["512 B", "4 KiB", "1.5 MiB"]);
        assert_eq!([times(1.614), times(12.34), times(1204.0)], ["1.61×", "12.3×", "1,204×"]);
        assert_eq!(date("2026-11-21T05:06:07Z"), "2026-11-21 05:06 UTC");
        assert_eq!(date("yesterday"), "yesterday");
        assert_eq!(date("2026T5"), "2026T5");
    }

    #[test]
    fn long_names_are_cut_by_characters() {
        assert_eq!(chart_name("quinn-ack-frequency"), "quinn-ack-frequency");
        assert_eq!(chart_name(&"é".repeat(22)), "é".repeat(22));
        assert_eq!(chart_name(&"é".repeat(23)), "é".repeat(21) + "…");
    }
}
