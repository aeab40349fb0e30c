//! The hidden verbs of the load generators and of s2n-quic: what this program runs itself as inside the lab.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Arg, ArgMatches, Command, value_parser};

use crate::arguments::Mode;
use crate::quinn_peer::Identity;
use crate::random_load::{self, DEPTH_MAX, Load, Pattern};
use crate::tree::{self, Depth, Storm};
use crate::wormhole::CODE_VARIABLE;
use crate::{ours, pair, s2n_peer};

/// A hidden verb with its arguments.
#[derive(Clone, Debug)]
pub enum Verb {
    /// Be the s2n-quic server.
    S2nServer {
        /// Address to bind.
        listen: SocketAddr,
        /// Certificate and key.
        identity: Identity,
        /// The longest answer it gives.
        bytes_max: u64,
        /// The link's.
        mtu: u32,
    },
    /// Be the s2n-quic client.
    S2nClient {
        /// Time or check.
        mode: Mode,
        /// Where the server is.
        server: SocketAddr,
        /// What the client trusts.
        certificate: PathBuf,
        /// How much to fetch.
        bytes: u64,
        /// The link's.
        mtu: u32,
    },
    /// Read blocks in random order.
    Random {
        /// The file, through the mount.
        file: PathBuf,
        /// The same file, not through the mount.
        reference: PathBuf,
        /// How.
        load: Load,
    },
    /// Walk a tree.
    Walk {
        /// What to do with its files.
        depth: Depth,
        /// The tree.
        root: PathBuf,
    },
    /// Ask for one file after the other.
    Storm {
        /// What to ask.
        storm: Storm,
        /// The tree.
        root: PathBuf,
        /// For how long.
        limit: Duration,
    },
    /// Print a short file of a share; the join code is in the environment.
    Text {
        /// Where the host is.
        host: SocketAddr,
        /// The file in its share.
        path: String,
    },
    /// Open files and read their first block.
    FirstBytes {
        /// The folder they lie in.
        root: PathBuf,
        /// The length of each.
        file_bytes: u64,
    },
    /// Open a file and read all of it.
    OpenRead {
        /// Which.
        file: PathBuf,
    },
}

/// The verbs as clap knows them.
pub fn commands() -> [Command; 8] {
    let mtu = || Arg::new("mtu").long("mtu").required(true).value_parser(value_parser!(u32));
    let milliseconds = || Arg::new("limit_ms").required(true).value_parser(value_parser!(u64));
    [
        hidden("__s2n-server").args([
            address(),
            path("certificate"),
            path("key"),
            Arg::new("bytes_max").required(true).value_parser(value_parser!(u64)),
            mtu(),
        ]),
        hidden("__s2n-client").args([
            Arg::new("mode").required(true).value_parser([Mode::Read.word(), Mode::Verify.word()]),
            address(),
            path("certificate"),
            Arg::new("bytes").required(true).value_parser(value_parser!(u64)),
            mtu(),
        ]),
        hidden("__random").args([
            path("file"),
            path("reference"),
            Arg::new("pattern")
                .required(true)
                .value_parser(|word: &str| Pattern::from_word(word).ok_or("no such pattern")),
            Arg::new("depth").required(true).value_parser(value_parser!(u16).range(1..=i64::from(DEPTH_MAX))),
            milliseconds(),
            Arg::new("seed").required(true).value_parser(value_parser!(u64)),
        ]),
        hidden("__walk").args([
            Arg::new("depth").required(true).value_parser(|word: &str| Depth::from_word(word).ok_or("no such depth")),
            path("root"),
        ]),
        hidden("__storm").args([
            Arg::new("storm").required(true).value_parser(|word: &str| Storm::from_word(word).ok_or("no such storm")),
            path("root"),
            milliseconds(),
        ]),
        hidden("__first-bytes")
            .args([path("root"), Arg::new("file_bytes").required(true).value_parser(value_parser!(u64))]),
        hidden("__open-read").arg(path("file")),
        hidden("__text").args([address(), Arg::new("path").required(true)]),
    ]
}

fn hidden(name: &'static str) -> Command {
    Command::new(name).hide(true)
}

fn path(name: &'static str) -> Arg {
    Arg::new(name).required(true).value_parser(value_parser!(PathBuf))
}

fn address() -> Arg {
    Arg::new("address").required(true).value_parser(value_parser!(SocketAddr))
}

impl Verb {
    /// Reads the arguments of the verb `name`; `None` if it is not one of these.
    pub fn parse(name: &str, matches: &ArgMatches) -> Option<Self> {
        let path = |name: &str| value::<PathBuf>(matches, name);
        let limit = || Duration::from_millis(value(matches, "limit_ms"));
        Some(match name {
            "__s2n-server" => Self::S2nServer {
                listen: value(matches, "address"),
                identity: Identity { certificate: path("certificate"), key: path("key") },
                bytes_max: value(matches, "bytes_max"),
                mtu: value(matches, "mtu"),
            },
            "__s2n-client" => Self::S2nClient {
                mode: if value::<String>(matches, "mode") == Mode::Read.word() { Mode::Read } else { Mode::Verify },
                server: value(matches, "address"),
                certificate: path("certificate"),
                bytes: value(matches, "bytes"),
                mtu: value(matches, "mtu"),
            },
            "__random" => Self::Random {
                file: path("file"),
                reference: path("reference"),
                load: Load {
                    pattern: value(matches, "pattern"),
                    depth: value(matches, "depth"),
                    limit: limit(),
                    seed: value(matches, "seed"),
                },
            },
            "__walk" => Self::Walk { depth: value(matches, "depth"), root: path("root") },
            "__storm" => Self::Storm { storm: value(matches, "storm"), root: path("root"), limit: limit() },
            "__text" => Self::Text { host: value(matches, "address"), path: value(matches, "path") },
            "__first-bytes" => Self::FirstBytes { root: path("root"), file_bytes: value(matches, "file_bytes") },
            "__open-read" => Self::OpenRead { file: path("file") },
            _ => return None,
        })
    }

    /// Does what the verb says and returns the line it prints, if it prints one.
    ///
    /// # Errors
    /// Whatever it is about goes wrong.
    pub fn perform(self) -> anyhow::Result<Option<String>> {
        match self {
            Self::S2nServer { listen, identity, bytes_max, mtu } => {
                s2n_peer::serve(listen, &identity, mtu, bytes_max).map(|()| None)
            }
            Self::S2nClient { mode, server, certificate, bytes, mtu } => match mode {
                Mode::Read => {
                    s2n_peer::fetch(server, &certificate, mtu, bytes).map(|sample| Some(sample.at_end().to_line()))
                }
                Mode::Verify => s2n_peer::verify(server, &certificate, mtu, bytes).map(|()| None),
            },
            Self::Random { file, reference, load } => random_load::run(&file, &reference, load).map(Some),
            Self::Walk { depth, root } => tree::walk(&root, depth).map(|walk| Some(walk.to_line())),
            Self::Storm { storm, root, limit } => tree::storm(&root, storm, limit).map(|rate| Some(rate.to_string())),
            Self::Text { host, path } => {
                let code = std::env::var(CODE_VARIABLE).with_context(|| format!("{CODE_VARIABLE} is not set"))?;
                ours::read_text(host, &code, &path, pair::MANIFEST_BYTES_MAX).map(Some)
            }
            Self::FirstBytes { root, file_bytes } => tree::first_bytes(&root, file_bytes).map(Some),
            Self::OpenRead { file } => tree::open_and_read(&file).map(|sample| Some(sample.to_line())),
        }
    }
}

fn value<T: Clone + Send + Sync + 'static>(matches: &ArgMatches, name: &str) -> T {
    matches.get_one::<T>(name).expect("clap refuses a command without its required arguments").clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Option<Verb> {
        let matches = Command::new("perf").subcommands(commands()).try_get_matches_from(line.split(' ')).ok()?;
        let (name, inner) = matches.subcommand()?;
        Verb::parse(name, inner)
    }

    #[test]
    fn verbs_carry_what_they_are_given() {
        match parsed("perf __random /m/big /s/big dense 32 2500 7") {
            Some(Verb::Random { load, .. }) => {
                assert_eq!(
                    load,
                    Load { pattern: Pattern::Dense, depth: 32, limit: Duration::from_millis(2500), seed: 7 }
                );
            }
            other => panic!("{other:?}"),
        }
        assert!(matches!(
            parsed("perf __s2n-client verify 10.77.0.1:4454 c.der 5 --mtu 9000"),
            Some(Verb::S2nClient { mode: Mode::Verify, bytes: 5, mtu: 9000, .. })
        ));
        assert!(matches!(parsed("perf __walk content /m"), Some(Verb::Walk { depth: Depth::Content, .. })));
        assert!(matches!(
            parsed("perf __first-bytes /m/first 65536"),
            Some(Verb::FirstBytes { file_bytes: 65_536, .. })
        ));
        assert!(matches!(parsed("perf __open-read /m/file"), Some(Verb::OpenRead { .. })));
        assert!(matches!(parsed("perf __storm open /m 10"), Some(Verb::Storm { storm: Storm::Open, .. })));
    }

    #[test]
    fn nonsense_is_refused() {
        for line in [
            "perf __random /m/big /s/big dense 0 2500 7",
            "perf __random /m/big /s/big spread 2000 2500 7",
            "perf __walk everything /m",
            "perf __storm rename /m 10",
            "perf __s2n-server 10.77.0.1 c k 5 --mtu 1500",
            "perf __s2n-server 10.77.0.1:4454 c k --mtu 1500",
        ] {
            assert!(parsed(line).is_none(), "{line}");
        }
    }
}
