//! From TARGET to a connected host.

use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;

use engine::{IoMode, Remote, RemoteOptions};
use signal::{Host, HostAddress, JoinCode, RemotePath, Target};
use tracing_subscriber::filter::LevelFilter;

use crate::args::{Io, IoFlags, RemoteFlags};
use crate::exit::{Exit, Failure};
use crate::output::Output;
use crate::secret::environment::EnvironmentCode;
use crate::secret::hidden::Hidden;
use crate::secret::{self, Sources};
use crate::settings::{self, Settings};
use crate::signals::Interrupts;

/// Addresses that are tried; a name with more, or a link with many names, is cut off here.
const ADDRESSES_MAX: usize = 16;

/// What every command that talks to a host has at hand.
#[derive(Debug)]
pub struct Context<'a> {
    /// Where to print.
    pub output: &'a Output,
    /// Settings below the flags.
    pub settings: &'a Settings,
    /// `WORMHOLE_CODE`.
    pub environment: &'a EnvironmentCode,
    /// What signals do.
    pub interrupts: &'a Interrupts,
    /// How much is logged, also by the processes this one starts.
    pub log_level: LevelFilter,
}

impl Context<'_> {
    /// Flag over setting for `--io`.
    pub fn io(&self, flags: IoFlags) -> Io {
        flags.io.unwrap_or_else(|| match self.settings.text("io") {
            Some("uring") => Io::Uring,
            Some("poll") => Io::Poll,
            _ => Io::Auto,
        })
    }
}

/// Where to go, how long to wait there, and with which code.
#[derive(Debug)]
pub struct Destination {
    /// Addresses to try in turn; never empty.
    pub addresses: Vec<SocketAddr>,
    /// The code that was given.
    pub code: Option<JoinCode>,
    /// How to drive the sockets.
    pub io: Io,
    /// Bound on every call while the host does not answer.
    pub timeout: Duration,
}

impl Destination {
    /// Resolves TARGET and takes the first code that was given.
    ///
    /// # Errors
    /// When TARGET cannot be reached without a signal server, its name is unknown, or what was given
    /// as a code is none.
    pub fn new(context: &Context<'_>, target: Target, flags: &RemoteFlags) -> Result<Self, Failure> {
        let (argument, hosts) = match target {
            Target::Code(_) => return Err(bare_code(context)),
            Target::Link(link) => {
                let (code, hosts) = link.into_parts();
                if hosts.is_empty() {
                    return Err(bare_code(context));
                }
                (Some(code), hosts)
            }
            Target::Host(host) => (None, vec![host]),
        };
        if argument.is_some() && flags.code_file.is_some() {
            return Err(Failure::usage("the target holds a join code; leave --code-file out, or give HOST[:PORT]"));
        }
        if argument.is_some()
            && let Some(warning) = secret::argument_warning()
        {
            context.output.say(warning);
        }
        let sources = Sources { argument, file: flags.code_file.as_deref(), environment: context.environment.value() };
        let timeout_s = flags
            .timeout_s
            .map(u32::from)
            .or_else(|| context.settings.number("timeout_s"))
            .expect("the setting has a default");
        Ok(Self {
            code: sources.first(JoinCode::parse)?,
            addresses: resolve(&hosts)?,
            io: context.io(flags.io),
            timeout: Duration::from_secs(timeout_s.into()),
        })
    }

    /// Connects, and asks for a code where the host wants one that was not given.
    ///
    /// # Errors
    /// What the engine reports.
    pub fn connect(self, context: &Context<'_>) -> Result<Remote, Failure> {
        let state_dir = engine::trust::state_dir()?;
        let io = IoMode::from(self.io);
        secret::with_code(
            self.code,
            |why| secret::prompt(context.output, context.interrupts, why),
            |code| {
                let options = RemoteOptions {
                    addresses: self.addresses.clone(),
                    code,
                    io,
                    state_dir: state_dir.clone(),
                    timeout: self.timeout,
                };
                Remote::connect(options).map_err(Failure::from)
            },
        )
    }
}

/// Reads `TARGET[:SUBPATH]`.
///
/// # Errors
/// A usage error that repeats none of the argument, which may hold a code.
pub fn parse(argument: &Hidden) -> Result<RemotePath, Failure> {
    RemotePath::parse(argument.as_bytes()).map_err(|error| Failure::usage(format!("the target: {error}")))
}

fn bare_code(context: &Context<'_>) -> Failure {
    if let Err(failure) = context.settings.refuse(settings::SIGNAL_SERVER) {
        return failure;
    }
    Failure::usage(
        "a join code alone does not say where its host is, and there is no signal server yet: give the \
         whole wormhole:// link that `wormhole host` printed, or HOST[:PORT] and the code by prompt, \
         --code-file or WORMHOLE_CODE",
    )
}

/// Says that a name is unknown; one that may be a code cut short is not repeated.
fn unknown_host(name: &str, error: &std::io::Error) -> String {
    let after_digits = name.trim_start_matches(|c: char| c.is_ascii_digit());
    if after_digits.len() < name.len() && after_digits.starts_with('-') {
        return format!("there is no such host ({error}); if a join code was meant, some of its words are missing");
    }
    format!("there is no host named {name}: {error}")
}

fn resolve(hosts: &[HostAddress]) -> Result<Vec<SocketAddr>, Failure> {
    let mut addresses: Vec<SocketAddr> = Vec::new();
    let mut failure = None;
    for host in hosts {
        let found = match (&host.host, host.socket_addr()) {
            (_, Some(address)) => vec![address],
            (Host::Name(name), None) => match (name.as_str(), host.port).to_socket_addrs() {
                Ok(found) => found.collect(),
                Err(error) => {
                    let message = unknown_host(name, &error);
                    failure = Some(Failure::new(Exit::NotFound, message));
                    continue;
                }
            },
            (Host::V4(_) | Host::V6(_), None) => unreachable!("addresses need no resolving"),
        };
        for address in found {
            if !addresses.contains(&address) && addresses.len() < ADDRESSES_MAX {
                addresses.push(address);
            }
        }
    }
    match failure {
        Some(failure) if addresses.is_empty() => Err(failure),
        _ if addresses.is_empty() => Err(Failure::new(Exit::NotFound, "the host has no address")),
        _ => Ok(addresses),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(texts: &[&str]) -> Vec<HostAddress> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn addresses_keep_their_order_and_come_once() {
        let found = resolve(&hosts(&["10.0.0.2", "[fd00::1]:7", "10.0.0.2"])).unwrap();
        let expected: [SocketAddr; 2] = ["10.0.0.2:4433".parse().unwrap(), "[fd00::1]:7".parse().unwrap()];
        assert_eq!(found, expected);
    }

    #[test]
    fn an_unknown_name_matters_only_alone() {
        // RFC 6761 §6.4: no resolver knows a name below `invalid`.
        let failure = resolve(&hosts(&["no.such.host.invalid"])).unwrap_err();
        assert_eq!(failure.exit, Exit::NotFound);
        assert!(resolve(&hosts(&["no.such.host.invalid", "10.0.0.2"])).is_ok());
    }

    #[test]
    fn a_code_cut_short_is_not_repeated() {
        let error = std::io::Error::other("unknown");
        let message = unknown_host("4821-nebula-orbit", &error);
        assert!(!message.contains("nebula") && message.contains("join code"), "{message}");
        assert!(unknown_host("studio-2", &error).contains("studio-2"));
    }

    #[test]
    fn a_bad_target_is_not_repeated() {
        let failure = parse(&Hidden::from("4821 hunter2")).unwrap_err();
        assert_eq!(failure.exit, Exit::Usage);
        assert!(!failure.message.contains("hunter2"), "{}", failure.message);
    }
}
