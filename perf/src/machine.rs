//! What machine the figures come from.

use std::fs;
use std::process::Command;

use serde_json::{Value, json};

use crate::fixture::hash_file;

/// How this program was built.
pub const PROFILE: &str = if cfg!(debug_assertions) { "debug" } else { "release" };

/// The machine, the commit, the date and the programs, as the `machine` object of the report.
///
/// What cannot be found out is `null`, never a guess.
pub fn describe() -> Value {
    json!({
        "cpu": cpu_model(&read("/proc/cpuinfo")),
        "cores": std::thread::available_parallelism().ok().map(std::num::NonZero::get),
        "kernel": Some(read("/proc/sys/kernel/osrelease").trim()).filter(|text| !text.is_empty()),
        "memory_bytes": memory_bytes(&read("/proc/meminfo")),
        "load_1min": read("/proc/loadavg").split(' ').next().and_then(|text| text.parse::<f64>().ok()),
        "commit": said("git", &["rev-parse", "HEAD"]),
        "uncommitted_changes": said("git", &["status", "--porcelain"]).map(|text| !text.is_empty()),
        "date": said("date", &["-u", "+%Y-%m-%dT%H:%M:%SZ"]),
        "command": command(std::env::args()),
        "perf": {
            "version": env!("CARGO_PKG_VERSION"),
            "blake3": std::env::current_exe().ok().and_then(|own| Some(hash_file(&own).ok()?.1.to_hex().as_str().to_owned())),
            "profile": PROFILE,
        },
    })
}

/// The command line, with the program by its name alone: where it lies says nothing about the run.
fn command(arguments: impl IntoIterator<Item = String>) -> String {
    let rest = arguments.into_iter().skip(1);
    std::iter::once("perf".to_owned()).chain(rest).collect::<Vec<_>>().join(" ")
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn said(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}

fn cpu_model(cpuinfo: &str) -> Option<&str> {
    let line = cpuinfo.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim())
}

fn memory_bytes(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find(|line| line.starts_with("MemTotal:"))?;
    let kibibytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_files_are_read() {
        let cpuinfo = "processor\t: 0\nmodel name\t: Some CPU @ 3 GHz\nmodel name\t: second\n";
        assert_eq!(cpu_model(cpuinfo), Some("Some CPU @ 3 GHz"));
        assert_eq!(cpu_model(""), None);
        let meminfo = "MemTotal:       2048 kB\nMemFree: 1 kB\n";
        assert_eq!(memory_bytes(meminfo), Some(2_097_152));
        assert_eq!(memory_bytes("MemTotal: many kB"), None);
    }

    #[test]
    fn the_command_tells_no_place() {
        let line = ["/somewhere/target/release/perf", "mount", "--quick"].map(str::to_owned);
        assert_eq!(command(line), "perf mount --quick");
    }

    #[test]
    fn this_machine_has_the_fields_a_reader_compares_by() {
        let machine = describe();
        assert!(machine["cores"].as_u64() >= Some(1));
        assert!(machine["kernel"].is_string());
        assert!(machine["memory_bytes"].as_u64() > Some(1 << 20));
        assert!(machine["date"].as_str().unwrap().ends_with('Z'));
        assert_eq!(machine["perf"]["blake3"].as_str().unwrap().len(), 64);
        assert_eq!(machine["perf"]["profile"], PROFILE);
    }
}
