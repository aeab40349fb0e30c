//! The grammar of the command line, one struct for each group of flags.

use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use engine::{FuseTransport, IoMode};
use serde::{Deserialize, Serialize};

use crate::secret::hidden::Hidden;

const EXIT_CODES: &str = "\
Exit codes:
  0    all was done
  1    failed: disk, permissions, kernel
  2    the arguments make no sense
  3    a file, folder or host is not there
  4    the host refused, or the join code is wrong
  5    network: nobody answers, or the link broke
  130  interrupted by SIGINT or SIGTERM

Environment:
  WORMHOLE_CODE        a join code, kept out of the arguments
  WORMHOLE_PORT        UDP port on which `host` listens
  WORMHOLE_LOG_LEVEL   off, error, warn, info, debug or trace
  NO_COLOR             no bold text";

const TARGET_HELP: &str = "HOST[:PORT] or the wormhole:// link that `wormhole host` printed";
const REMOTE_HELP: &str = "HOST[:PORT][:PATH], or the wormhole:// link with #PATH; PATH is inside the share";

/// Any folder on one machine becomes a drive on another: encrypted, one command on each side.
#[derive(Debug, Parser)]
#[command(name = "wormhole", version, after_help = EXIT_CODES, max_term_width = 100)]
pub struct Arguments {
    /// How the run prints.
    #[command(flatten)]
    pub output: OutputFlags,
    /// What it does.
    #[command(subcommand)]
    pub command: Command,
}

/// What every command takes.
#[derive(Debug, Clone, Copy, Args)]
pub struct OutputFlags {
    /// Print one JSON object a line on stdout; words for people go to stderr
    #[arg(long, global = true)]
    pub json: bool,
    /// Log more on stderr, or in the log of a mount in the background; twice for debugging, three
    /// times for tracing
    #[arg(short, long, global = true, action = ArgAction::Count, conflicts_with = "quiet")]
    pub verbose: u8,
    /// Print errors and results only
    #[arg(short, long, global = true)]
    pub quiet: bool,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve a folder until SIGINT or SIGTERM, and print the join code
    Host(HostArguments),
    /// Mount a shared folder; returns once it is mounted
    Mount(MountArguments),
    /// Unmount a folder that `mount` mounted
    Unmount(UnmountArguments),
    /// Copy a shared file or folder here: verified, resumed where it was cut short
    Get(GetArguments),
    /// List a shared folder
    Ls(LsArguments),
    /// Show the running hosts and mounts of this user
    Status,
    /// List, revoke or forget the devices that may join without a code
    Peers(PeersArguments),
    /// Examine this machine and say what to do about what is found
    Doctor,
    /// Host, mount, read and verify in temporary folders on this machine
    Demo(DemoArguments),
    /// Show and change settings
    Config(ConfigArguments),
    /// Print a completion script for a shell
    Completions(CompletionsArguments),
    /// Run a mount whose parameters come on stdin
    #[command(hide = true)]
    MountDaemon,
    /// Remove the mount of a process that died; ends with stdin
    #[command(hide = true)]
    MountGuard(MountGuardArguments),
}

/// What `host` takes.
#[derive(Debug, Args)]
pub struct HostArguments {
    /// The folder to share, read-only
    pub path: PathBuf,
    /// Listen here [default: 0.0.0.0, port 4433 or the setting `port`]
    #[arg(long, value_name = "ADDR:PORT")]
    pub bind: Option<SocketAddr>,
    /// The share's name as others see it [default: the folder's name]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Where the join code comes from.
    #[command(flatten)]
    pub code: HostCodeFlags,
    /// How hosts are found.
    #[command(flatten)]
    pub signal: SignalFlags,
    /// Not yet: shares are read-only, and asking for more is an error
    #[arg(long)]
    pub allow_write: bool,
    /// Threads that serve [default: one for each core]
    #[arg(long, value_name = "N")]
    pub shards: Option<NonZeroU16>,
    /// How sockets and files are driven.
    #[command(flatten)]
    pub io: IoFlags,
}

/// A chosen join code; a fresh one is drawn without.
#[derive(Debug, Args)]
pub struct HostCodeFlags {
    /// Use this join code instead of a fresh one; others may see it in the list of processes
    #[arg(long, value_name = "CODE", conflicts_with = "code_file")]
    pub code: Option<Hidden>,
    /// Read the join code from a file, or from stdin with -
    #[arg(long, value_name = "FILE")]
    pub code_file: Option<PathBuf>,
}

/// How hosts are found without an address.
#[derive(Debug, Args)]
pub struct SignalFlags {
    /// Not yet: there is no signal server, and asking for one is an error
    #[arg(long, value_name = "URL", conflicts_with = "no_signal")]
    pub signal: Option<String>,
    /// Use no signal server; for now that is always so
    #[arg(long)]
    pub no_signal: bool,
}

/// How sockets and files are driven.
#[derive(Debug, Clone, Copy, Args)]
pub struct IoFlags {
    /// Drive sockets and files with io_uring, with epoll, or with what works best [default: auto]
    #[arg(long, value_name = "MODE")]
    pub io: Option<Io>,
}

/// The values of `--io`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Io {
    /// io_uring where it works, epoll elsewhere
    Auto,
    /// io_uring or nothing
    Uring,
    /// epoll
    Poll,
}

impl From<Io> for IoMode {
    fn from(io: Io) -> Self {
        match io {
            Io::Auto => Self::Auto,
            Io::Uring => Self::Uring,
            Io::Poll => Self::Poll,
        }
    }
}

/// What every command that talks to a host takes.
#[derive(Debug, Args)]
pub struct RemoteFlags {
    /// Read the join code from a file, or from stdin with -
    #[arg(long, value_name = "FILE")]
    pub code_file: Option<PathBuf>,
    /// Give up on a host that does not answer for so long [default: 10]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=3600))]
    pub timeout_s: Option<u16>,
    /// How sockets and files are driven.
    #[command(flatten)]
    pub io: IoFlags,
}

/// What `mount` takes.
#[derive(Debug, Args)]
pub struct MountArguments {
    #[arg(help = TARGET_HELP)]
    pub target: Hidden,
    /// An existing folder
    pub mountpoint: PathBuf,
    /// Stay in the foreground until SIGINT or SIGTERM
    #[arg(long)]
    pub foreground: bool,
    /// Mount read-only; for now that is always so
    #[arg(long)]
    pub read_only: bool,
    /// Let other users into the mount
    #[arg(long)]
    pub allow_other: bool,
    /// What the mount keeps in memory.
    #[command(flatten)]
    pub memory: MemoryFlags,
    /// Take the kernel's requests by /dev/fuse, through io_uring, or as suits most uses [default:
    /// auto]
    #[arg(long, value_name = "MODE")]
    pub fuse: Option<Fuse>,
    /// How to reach the host.
    #[command(flatten)]
    pub remote: RemoteFlags,
}

/// What a mount keeps in memory.
#[derive(Debug, Clone, Copy, Args)]
pub struct MemoryFlags {
    /// Memory for file contents, in MiB; a larger file takes a tenth of it [default: 512]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    pub ram_cache_mb: Option<u32>,
    /// What the kernel reads ahead of a reader, in KiB [default: 4096 where permitted]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=1_048_576))]
    pub read_ahead_kb: Option<u32>,
}

/// The values of `--fuse`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
pub enum Fuse {
    /// what was measured to suit most uses: /dev/fuse
    Auto,
    /// /dev/fuse
    Device,
    /// io_uring where the kernel offers it (see `wormhole doctor`), /dev/fuse elsewhere
    Uring,
}

impl From<Fuse> for FuseTransport {
    fn from(fuse: Fuse) -> Self {
        match fuse {
            Fuse::Auto => Self::Auto,
            Fuse::Device => Self::Device,
            Fuse::Uring => Self::Ring,
        }
    }
}

/// What `unmount` takes.
#[derive(Debug, Args)]
pub struct UnmountArguments {
    /// The mounted folder
    pub mountpoint: PathBuf,
}

/// What `get` takes.
#[derive(Debug, Args)]
pub struct GetArguments {
    #[arg(value_name = "TARGET[:SUBPATH]", help = REMOTE_HELP)]
    pub source: Hidden,
    /// Where to; an existing folder receives the source under its own name
    #[arg(value_name = "DEST")]
    pub target: PathBuf,
    /// How to reach the host.
    #[command(flatten)]
    pub remote: RemoteFlags,
}

/// What `ls` takes.
#[derive(Debug, Args)]
pub struct LsArguments {
    #[arg(value_name = "TARGET[:SUBPATH]", help = REMOTE_HELP)]
    pub source: Hidden,
    /// Show mode, links, owner, group, size and time (UTC) too
    #[arg(short, long)]
    pub long: bool,
    /// End each name with NUL instead of a newline, and print its bytes as they are
    #[arg(short = '0', long, conflicts_with = "long")]
    pub zero: bool,
    /// How to reach the host.
    #[command(flatten)]
    pub remote: RemoteFlags,
}

/// What `peers` takes.
#[derive(Debug, Args)]
pub struct PeersArguments {
    /// What to do.
    #[command(subcommand)]
    pub command: PeersCommand,
}

/// What `peers` does.
#[derive(Debug, Subcommand)]
pub enum PeersCommand {
    /// List the devices that joined
    List,
    /// Let a device in no more; running hosts drop it at once
    Revoke {
        /// Its name, or the beginning of its fingerprint
        which: String,
    },
    /// Forget a device, a revocation too: it may join again with the code
    Forget {
        /// Its name, or the beginning of its fingerprint
        which: String,
    },
}

/// What `demo` takes.
#[derive(Debug, Clone, Copy, Args)]
pub struct DemoArguments {
    /// Size of the large file, in MiB
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    pub size_mb: u32,
}

/// What `config` takes.
#[derive(Debug, Args)]
pub struct ConfigArguments {
    /// What to do.
    #[command(subcommand)]
    pub command: ConfigCommand,
}

/// What `config` does.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Print the path of the settings file
    Path,
    /// Print every setting, its value and where that comes from
    Show,
    /// Print one setting
    Get {
        /// Its name
        key: String,
    },
    /// Change one setting in the file
    Set {
        /// Its name
        key: String,
        /// Its new value
        value: String,
    },
}

/// What `completions` takes.
#[derive(Debug, Clone, Copy, Args)]
pub struct CompletionsArguments {
    /// The shell
    pub shell: clap_complete::Shell,
}

/// What `mount-guard` takes.
#[derive(Debug, Args)]
pub struct MountGuardArguments {
    /// The mounted folder
    pub mountpoint: PathBuf,
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_grammar_is_sound() {
        Arguments::command().debug_assert();
    }

    /// Help texts are an interface: a change shows up in review. `WORMHOLE_BLESS=1` rewrites them.
    #[test]
    fn help_is_as_written_down() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("help");
        let mut root = Arguments::command().term_width(100);
        root.build();
        let mut commands = vec![("wormhole".to_owned(), root.clone())];
        commands.extend(
            root.get_subcommands()
                .filter(|command| !command.is_hide_set() && command.get_name() != "help")
                .map(|command| (command.get_name().to_owned(), command.clone())),
        );
        for (name, mut command) in commands {
            let path = folder.join(format!("{name}.txt"));
            let help = command.render_long_help().to_string();
            if std::env::var_os("WORMHOLE_BLESS").is_some() {
                std::fs::create_dir_all(&folder).unwrap();
                std::fs::write(&path, &help).unwrap();
            }
            let golden = std::fs::read_to_string(&path).unwrap_or_default();
            assert_eq!(help, golden, "{}", path.display());
        }
    }

    #[test]
    fn arguments_that_contradict_are_refused() {
        for line in [
            "host",
            "host . --signal u --no-signal",
            "host . --code 1-a-b-c --code-file f",
            "host . --shards 0",
            "host . --io fast",
            "host . --bind 4433",
            "mount studio",
            "mount studio /mnt --cache-dir /c",
            "mount studio /mnt --disk-cache-gb 1",
            "mount studio /mnt --timeout-s 0",
            "mount studio /mnt --fuse fast",
            "ls studio -0 -l",
            "demo --size-mb 0",
            "status -q -v",
            "put a studio:",
            "cache stats",
        ] {
            let words = std::iter::once("wormhole").chain(line.split(' '));
            assert!(Arguments::try_parse_from(words).is_err(), "{line}");
        }
    }

    #[test]
    fn debug_hides_what_may_hold_a_code() {
        for line in [
            "host . --code 7-nebula-orbit-cedar",
            "mount wormhole://join/7-nebula-orbit-cedar?host=h /mnt",
            "ls 7-nebula-orbit-cedar",
            "get 7-nebula-orbit-cedar:a .",
        ] {
            let words = std::iter::once("wormhole").chain(line.split(' '));
            let shown = format!("{:?}", Arguments::try_parse_from(words).unwrap());
            assert!(!shown.contains("nebula"), "{shown}");
        }
    }

    #[test]
    fn json_goes_anywhere() {
        for line in ["--json status", "status --json", "peers --json list"] {
            let words = std::iter::once("wormhole").chain(line.split(' '));
            assert!(Arguments::try_parse_from(words).unwrap().output.json, "{line}");
        }
    }
}
