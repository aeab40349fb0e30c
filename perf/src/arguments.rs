//! The command line of `perf`, and the hidden verbs it starts itself with inside the lab.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};

use crate::quinn_peer::{Identity, Settings, Variant};
use crate::suite::{Plan, Scale};
use crate::verbs::{self, Verb};
use crate::{fixture, lab};

/// Timed runs of each contender; the median of five shrugs off two bad ones.
pub const RUNS: usize = 5;

/// Timed runs with `--quick`.
pub const RUNS_QUICK: usize = 3;

/// More runs than this add hours and no knowledge.
pub const RUNS_MAX: u64 = 1000;

/// What one invocation is to do.
#[derive(Clone, Debug)]
pub enum Action {
    /// Measure, print the table, perhaps write JSON.
    Measure {
        /// Which suites.
        suites: Suites,
        /// How long and how often.
        plan: Plan,
        /// What to write.
        outputs: Outputs,
    },
    /// Draw a report as a page.
    Html {
        /// The report's JSON.
        report: PathBuf,
        /// Where the page goes.
        page: PathBuf,
    },
    /// Say what changed between two reports.
    Compare {
        /// The report before.
        old: PathBuf,
        /// The report after.
        new: PathBuf,
        /// Print JSON instead of words.
        json: bool,
        /// Exit with 1 if a row became worse.
        fail_on_regression: bool,
    },
    /// Generate the specification's table of figures.
    Specification {
        /// The reports; none means all of [`crate::specification::REPORTS`].
        reports: Vec<PathBuf>,
        /// What to do with the table.
        purpose: Purpose,
    },
    /// Serve a fixture to another machine.
    Serve {
        /// Where.
        bind: SocketAddr,
        /// The link's; that of the interface unless given.
        mtu: Option<u32>,
        /// How large a fixture.
        plan: Plan,
    },
    /// Measure against another machine that serves.
    Run {
        /// Address or name, perhaps with a port.
        host: String,
        /// How often.
        plan: Plan,
        /// What to write.
        outputs: Outputs,
    },
    /// List the peers, perhaps install them first.
    Peers {
        /// Whether to install what is missing.
        install: bool,
    },
    /// Be the quinn server inside the lab.
    QuinnServer {
        /// Address to bind.
        listen: SocketAddr,
        /// Certificate and key.
        identity: Identity,
        /// Shared with the client.
        settings: Settings,
        /// The longest answer it gives.
        bytes_max: u64,
    },
    /// Be the quinn client inside the lab.
    QuinnClient {
        /// Time or check.
        mode: Mode,
        /// Where the server is.
        server: SocketAddr,
        /// What the client trusts.
        certificate: PathBuf,
        /// Shared with the server.
        settings: Settings,
        /// How much to fetch.
        bytes: u64,
    },
    /// Be Wormhole's reading client inside the lab.
    Client {
        /// Time or check.
        mode: Mode,
        /// Where the host is.
        host: SocketAddr,
        /// The file in its share.
        path: String,
        /// Its length.
        bytes: u64,
    },
    /// Hash a file.
    Hash {
        /// Which.
        file: PathBuf,
    },
    /// One of the other hidden verbs.
    Verb(Verb),
}

/// Where the report of a measurement goes, beside the table that is printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outputs {
    /// As JSON.
    pub json: Option<PathBuf>,
    /// As a page.
    pub html: Option<PathBuf>,
}

/// What becomes of a generated table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Print it.
    Print,
    /// Fail if the specification has another one.
    Check,
    /// Put it into the specification.
    Write,
}

/// Which suites run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suites {
    /// Bare streams.
    Transport,
    /// Mounts and copies.
    Mount,
    /// Small reads in random order.
    Random,
    /// Names and attributes.
    Metadata,
    /// Many small files.
    Smallfiles,
    /// CPU time and memory.
    Cpu,
    /// Everything.
    All,
}

impl Suites {
    /// Whether `suite` is to run.
    pub fn include(self, suite: Self) -> bool {
        self == suite || self == Self::All
    }
}

/// What a client in the lab is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Print a [`crate::sample::Sample`].
    Read,
    /// Check the content, untimed.
    Verify,
}

impl Mode {
    /// Its word on the command line.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Verify => "verify",
        }
    }
}

fn command() -> Command {
    let measuring = [
        Command::new("transport").about("One stream, one core at each end, beside QUIC peers, HTTPS and iperf3"),
        Command::new("mount").about("Sequential reads through a mount, cold and warm, and copies"),
        Command::new("random").about("4 KiB random reads through a cold mount: latency and IOPS"),
        Command::new("metadata").about("Walking trees, stat and open, mounting a large share"),
        Command::new("smallfiles").about("Many small files, copied and read"),
        Command::new("cpu").about("CPU time per byte, idle CPU time, memory"),
        Command::new("all").about("Everything (the default)"),
    ];
    Command::new("perf")
        .about("Measures Wormhole beside the tools you would pick instead, on this machine")
        .arg(Arg::new("quick").long("quick").global(true).action(ArgAction::SetTrue).help("Smaller file, three runs"))
        .arg(
            Arg::new("runs")
                .long("runs")
                .global(true)
                .value_name("N")
                .value_parser(value_parser!(u64).range(1..=RUNS_MAX))
                .help("Timed runs of each contender"),
        )
        .arg(
            Arg::new("json")
                .long("json")
                .global(true)
                .value_name("FILE")
                .value_parser(value_parser!(PathBuf))
                .help("Write the report there as JSON"),
        )
        .arg(
            Arg::new("html")
                .long("html")
                .global(true)
                .value_name("FILE")
                .value_parser(value_parser!(PathBuf))
                .help("Write the report there as a page"),
        )
        .subcommands(measuring)
        .subcommands(reading())
        .subcommand(
            Command::new("serve").about("Serves a fixture to another machine that measures with `run`").args([
                Arg::new("bind")
                    .long("bind")
                    .value_name("ADDR:PORT")
                    .default_value("0.0.0.0:4433")
                    .value_parser(value_parser!(SocketAddr))
                    .help("Listen here; the peers' servers use the same address"),
                Arg::new("mtu")
                    .long("mtu")
                    .value_name("BYTES")
                    .value_parser(value_parser!(u32).range(i64::from(lab::MTU_MIN)..=i64::from(lab::MTU_MAX)))
                    .help("The MTU of the link, which QUIC peers are told [default: the interface's]"),
            ]),
        )
        .subcommand(
            Command::new("run")
                .about("Measures against a machine that runs `serve`; asks for its join code")
                .arg(Arg::new("host").value_name("HOST[:PORT]").required(true)),
        )
        .subcommand(
            Command::new("peers").about("Lists the peers and whether this machine has them").arg(
                Arg::new("install")
                    .long("install")
                    .action(ArgAction::SetTrue)
                    .help("Install what is missing (root, apt); Debian's nginx and openssh-server start services"),
            ),
        )
        .subcommand(
            inner("__quinn-server")
                .args([
                    required::<SocketAddr>("address"),
                    required::<PathBuf>("certificate"),
                    required::<PathBuf>("key"),
                    required::<u64>("bytes_max"),
                ])
                .args(quinn_arguments()),
        )
        .subcommand(
            inner("__quinn-client")
                .args([
                    mode(),
                    required::<SocketAddr>("address"),
                    required::<PathBuf>("certificate"),
                    required::<u64>("bytes"),
                ])
                .args(quinn_arguments()),
        )
        .subcommand(inner("__client").args([
            mode(),
            required::<SocketAddr>("address"),
            required::<String>("path"),
            required::<u64>("bytes"),
        ]))
        .subcommand(inner("__hash").arg(required::<PathBuf>("file")))
        .subcommands(verbs::commands())
}

/// The verbs that measure nothing and read reports instead.
fn reading() -> [Command; 3] {
    let flag = |name: &'static str, help: &'static str| Arg::new(name).long(name).action(ArgAction::SetTrue).help(help);
    [
        Command::new("html")
            .about("Draws a report as one page, with nothing to load and no script")
            .args([file("report", "REPORT", "JSON of a run"), file("page", "PAGE", "Where the page goes")]),
        Command::new("compare").about("Says what changed beyond noise from one report to another").args([
            file("old", "OLD", "JSON of the run before"),
            file("new", "NEW", "JSON of the run after"),
            flag("json", "Print JSON instead of words"),
            flag("fail-on-regression", "Exit with 1 if a row became worse"),
        ]),
        Command::new("specification").about("Generates the figures of SPECIFICATION.md from reports").args([
            file("reports", "REPORT", "JSON of runs; all of docs/figures unless named").required(false).num_args(0..),
            flag("check", "Fail if the file has other figures").conflicts_with("write"),
            flag("write", "Put the figures into the file"),
        ]),
    ]
}

fn file(name: &'static str, value: &'static str, help: &'static str) -> Arg {
    Arg::new(name).required(true).value_name(value).value_parser(value_parser!(PathBuf)).help(help)
}

fn inner(name: &'static str) -> Command {
    Command::new(name).hide(true)
}

fn required<T>(name: &'static str) -> Arg
where
    T: Clone + Send + Sync + std::str::FromStr + 'static,
    T::Err: std::error::Error + Send + Sync,
{
    Arg::new(name).required(true).value_parser(str::parse::<T>)
}

fn mode() -> Arg {
    required::<String>("mode").value_parser([Mode::Read.word(), Mode::Verify.word()])
}

fn quinn_arguments() -> [Arg; 2] {
    [
        Arg::new("mtu").long("mtu").required(true).value_parser(value_parser!(u32)),
        Arg::new("variant")
            .long("variant")
            .required(true)
            .value_parser(|word: &str| Variant::from_word(word).ok_or("no such variant")),
    ]
}

/// Reads the arguments of this program, its own name first.
///
/// # Errors
/// What clap has to say, help and usage errors alike.
pub fn parse<I, T>(arguments: I) -> Result<Action, clap::Error>
where
    I: IntoIterator<Item = T>,
    T: Into<std::ffi::OsString> + Clone,
{
    let matches = command().try_get_matches_from(arguments)?;
    refuse_measuring_flags(&matches)?;
    Ok(match matches.subcommand() {
        None => measure(Suites::All, &matches),
        Some(("transport", inner)) => measure(Suites::Transport, inner),
        Some(("mount", inner)) => measure(Suites::Mount, inner),
        Some(("random", inner)) => measure(Suites::Random, inner),
        Some(("metadata", inner)) => measure(Suites::Metadata, inner),
        Some(("smallfiles", inner)) => measure(Suites::Smallfiles, inner),
        Some(("cpu", inner)) => measure(Suites::Cpu, inner),
        Some(("all", inner)) => measure(Suites::All, inner),
        Some(("html", inner)) => Action::Html {
            report: value::<PathBuf>(inner, "report").clone(),
            page: value::<PathBuf>(inner, "page").clone(),
        },
        Some(("compare", inner)) => Action::Compare {
            old: value::<PathBuf>(inner, "old").clone(),
            new: value::<PathBuf>(inner, "new").clone(),
            json: inner.get_flag("json"),
            fail_on_regression: inner.get_flag("fail-on-regression"),
        },
        Some(("specification", inner)) => Action::Specification {
            reports: inner.get_many::<PathBuf>("reports").into_iter().flatten().cloned().collect(),
            purpose: match (inner.get_flag("check"), inner.get_flag("write")) {
                (true, _) => Purpose::Check,
                (false, true) => Purpose::Write,
                (false, false) => Purpose::Print,
            },
        },
        Some(("serve", inner)) => {
            Action::Serve { bind: *value(inner, "bind"), mtu: inner.get_one::<u32>("mtu").copied(), plan: plan(inner) }
        }
        Some(("run", inner)) => {
            Action::Run { host: value::<String>(inner, "host").clone(), plan: plan(inner), outputs: outputs(inner) }
        }
        Some(("peers", inner)) => Action::Peers { install: inner.get_flag("install") },
        Some(("__quinn-server", inner)) => Action::QuinnServer {
            listen: *value(inner, "address"),
            identity: Identity {
                certificate: value::<PathBuf>(inner, "certificate").clone(),
                key: value::<PathBuf>(inner, "key").clone(),
            },
            settings: settings(inner),
            bytes_max: *value(inner, "bytes_max"),
        },
        Some(("__quinn-client", inner)) => Action::QuinnClient {
            mode: read_mode(inner),
            server: *value(inner, "address"),
            certificate: value::<PathBuf>(inner, "certificate").clone(),
            settings: settings(inner),
            bytes: *value(inner, "bytes"),
        },
        Some(("__client", inner)) => Action::Client {
            mode: read_mode(inner),
            host: *value(inner, "address"),
            path: value::<String>(inner, "path").clone(),
            bytes: *value(inner, "bytes"),
        },
        Some(("__hash", inner)) => Action::Hash { file: value::<PathBuf>(inner, "file").clone() },
        Some((verb, inner)) => match Verb::parse(verb, inner) {
            Some(verb) => Action::Verb(verb),
            None => unreachable!("clap admitted the unknown verb {verb}"),
        },
    })
}

fn measure(suites: Suites, matches: &ArgMatches) -> Action {
    Action::Measure { suites, plan: plan(matches), outputs: outputs(matches) }
}

fn plan(matches: &ArgMatches) -> Plan {
    let (scale, bytes, default_runs) = if matches.get_flag("quick") {
        (Scale::Quick, fixture::BYTES_QUICK, RUNS_QUICK)
    } else {
        (Scale::Full, fixture::BYTES, RUNS)
    };
    let runs = matches
        .get_one::<u64>("runs")
        .map_or(default_runs, |&runs| usize::try_from(runs).expect("clap admits RUNS_MAX at most"));
    Plan { bytes, runs, scale }
}

fn outputs(matches: &ArgMatches) -> Outputs {
    let path = |name: &str| matches.get_one::<PathBuf>(name).cloned();
    Outputs { json: path("json"), html: path("html") }
}

/// The flags of a measurement are known everywhere, for the sake of `perf --quick all`; where nothing is measured they
/// are an error and not ignored.
fn refuse_measuring_flags(matches: &ArgMatches) -> Result<(), clap::Error> {
    let Some((verb @ ("html" | "compare" | "specification" | "peers" | "serve"), inner)) = matches.subcommand() else {
        return Ok(());
    };
    // `compare` has a flag of its own named json: there only a file's name is the measurement's.
    let is_given = |name: &&&str| {
        inner.value_source(name) == Some(ValueSource::CommandLine)
            && !(verb == "compare" && inner.try_get_one::<bool>(name).is_ok() && **name == "json")
    };
    // Whoever serves says how large a fixture there is.
    let refused: &[&str] = if verb == "serve" { &["runs", "json", "html"] } else { &["quick", "runs", "json", "html"] };
    match refused.iter().find(is_given) {
        Some(name) => Err(command().error(ErrorKind::ArgumentConflict, format!("{verb} measures nothing: --{name}"))),
        None => Ok(()),
    }
}

fn settings(matches: &ArgMatches) -> Settings {
    let address: &SocketAddr = value(matches, "address");
    Settings::for_link(*value(matches, "mtu"), address.ip(), *value(matches, "variant"))
}

fn read_mode(matches: &ArgMatches) -> Mode {
    if value::<String>(matches, "mode") == Mode::Read.word() { Mode::Read } else { Mode::Verify }
}

fn value<'m, T: Clone + Send + Sync + 'static>(matches: &'m ArgMatches, name: &str) -> &'m T {
    matches.get_one::<T>(name).expect("clap refuses a command without its required arguments")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn action(line: &str) -> Result<Action, clap::Error> {
        parse(line.split(' '))
    }

    fn measured(line: &str) -> (Suites, Plan, Option<PathBuf>) {
        match action(line).unwrap() {
            Action::Measure { suites, plan, outputs } => (suites, plan, outputs.json),
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn the_table_of_clap_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn suites_and_their_plans() {
        let full = Plan { bytes: 2 << 30, runs: 5, scale: Scale::Full };
        let quick = Plan { bytes: 256 << 20, runs: 3, scale: Scale::Quick };
        assert_eq!(measured("perf"), (Suites::All, full, None));
        assert_eq!(measured("perf --quick"), (Suites::All, quick, None));
        assert_eq!(measured("perf mount --quick"), (Suites::Mount, quick, None));
        assert_eq!(measured("perf random --quick"), (Suites::Random, quick, None));
        assert_eq!(measured("perf metadata"), (Suites::Metadata, full, None));
        assert_eq!(measured("perf smallfiles"), (Suites::Smallfiles, full, None));
        assert_eq!(measured("perf cpu"), (Suites::Cpu, full, None));
        assert_eq!(measured("perf --quick all"), (Suites::All, quick, None));
        let (suites, plan, json) = measured("perf transport --runs 9 --json out.json");
        assert_eq!((suites, plan.runs), (Suites::Transport, 9));
        assert_eq!(json, Some(PathBuf::from("out.json")));
    }

    #[test]
    fn two_machines_are_told_where_and_never_the_code() {
        match action("perf serve --bind 10.0.0.1:5000 --mtu 9000 --quick").unwrap() {
            Action::Serve { bind, mtu, plan } => {
                assert_eq!((bind.to_string().as_str(), mtu, plan.scale), ("10.0.0.1:5000", Some(9000), Scale::Quick));
            }
            other => panic!("{other:?}"),
        }
        assert!(
            matches!(action("perf run farm01:5000 --json f").unwrap(), Action::Run { host, .. } if host == "farm01:5000")
        );
        assert!(action("perf run farm01 7-nebula-orbit-cedar").is_err());
        assert!(matches!(action("perf serve").unwrap(), Action::Serve { mtu: None, .. }));
        assert!(action("perf serve --mtu 100").is_err());
    }

    #[test]
    fn nonsense_is_refused() {
        for line in [
            "perf disk",
            "perf --runs 0",
            "perf --runs 1001",
            "perf --runs x",
            "perf mount --install",
            "perf html report.json",
            "perf html report.json page.html --quick",
            "perf --html page.html html report.json page.html",
            "perf compare old.json",
            "perf compare old.json new.json --runs 3",
            "perf --json f compare old.json new.json",
            "perf specification --check --write",
            "perf specification --json f",
            "perf peers --quick",
            "perf __client skip 1.2.3.4:5 f 1",
        ] {
            assert!(action(line).is_err(), "{line}");
        }
    }

    #[test]
    fn a_measurement_may_be_drawn_at_once() {
        match action("perf mount --quick --html page.html").unwrap() {
            Action::Measure { outputs, .. } => {
                assert_eq!((outputs.html, outputs.json), (Some(PathBuf::from("page.html")), None));
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn reports_are_drawn_compared_and_written_down() {
        assert!(matches!(action("perf html report.json page.html").unwrap(), Action::Html { report, page }
            if report.as_os_str() == "report.json" && page.as_os_str() == "page.html"));
        let compared = |line: &str| match action(line).unwrap() {
            Action::Compare { json, fail_on_regression, .. } => (json, fail_on_regression),
            other => panic!("{line}: {other:?}"),
        };
        assert_eq!(compared("perf compare old.json new.json"), (false, false));
        assert_eq!(compared("perf compare old.json new.json --json"), (true, false));
        assert_eq!(compared("perf compare --fail-on-regression old.json new.json"), (false, true));
        let specified = |line: &str| match action(line).unwrap() {
            Action::Specification { reports, purpose } => (reports.len(), purpose),
            other => panic!("{line}: {other:?}"),
        };
        assert_eq!(specified("perf specification"), (0, Purpose::Print));
        assert_eq!(specified("perf specification one.json two.json --check"), (2, Purpose::Check));
        assert_eq!(specified("perf specification --write"), (0, Purpose::Write));
    }

    #[test]
    fn peers_may_be_installed() {
        assert!(matches!(action("perf peers").unwrap(), Action::Peers { install: false }));
        assert!(matches!(action("perf peers --install").unwrap(), Action::Peers { install: true }));
    }

    #[test]
    fn inner_verbs_carry_their_settings() {
        let line = "perf __quinn-client verify 10.77.0.1:4434 cert.der 1000 --mtu 9000 --variant ack-frequency";
        match action(line).unwrap() {
            Action::QuinnClient { mode, settings, bytes, .. } => {
                assert_eq!((mode, bytes), (Mode::Verify, 1000));
                assert_eq!(settings, Settings::for_link(9000, "10.77.0.1".parse().unwrap(), Variant::AckFrequency));
            }
            other => panic!("{other:?}"),
        }
    }
}
