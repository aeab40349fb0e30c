//! `wormhole peers`: the devices that may join without a code.

use engine::status::{ServiceKind, reload_all};
use engine::trust::{self, PeerRecord};
use serde_json::json;

use crate::args::PeersCommand;
use crate::exit::{Exit, Failure};
use crate::output::Output;
use crate::quote;
use crate::status;
use crate::time;

/// Runs `peers`.
///
/// # Errors
/// What the trust store reports; exit 1 where a running host did not take a change.
pub fn run(output: &Output, command: &PeersCommand) -> Result<Exit, Failure> {
    let state_dir = trust::state_dir()?;
    match command {
        PeersCommand::List => {
            let peers = trust::list_peers(&state_dir)?;
            if peers.is_empty() {
                output.say("No device has joined");
            }
            for peer in &peers {
                output.event("Peer", peer)?;
                output.line(&line(peer))?;
            }
        }
        PeersCommand::Revoke { which } => {
            let peer = trust::revoke_peer(&state_dir, which)?;
            tell(output, "PeerRevoked", "Revoked", &peer)?;
        }
        PeersCommand::Forget { which } => {
            let peer = trust::forget_peer(&state_dir, which)?;
            tell(output, "PeerForgotten", "Forgot", &peer)?;
        }
    }
    Ok(Exit::Ok)
}

/// Says what was done to a device, then has the running hosts read the list again and says how many did.
fn tell(output: &Output, event: &str, done: &str, peer: &PeerRecord) -> Result<(), Failure> {
    output.event(event, peer)?;
    output.say(&format!("{done} {} ({})", quote::text(&peer.name), quote::text(&peer.fingerprint)));
    let told = reload_all(&trust::runtime_dir()?, ServiceKind::Host).map_err(|error| status::failure(&error))?;
    output.event("HostsTold", json!({ "count": told }))?;
    output.say(&told_line(told));
    Ok(())
}

fn told_line(told: usize) -> String {
    match told {
        0 => "No running host was found to tell; one that runs all the same notices within a second".to_owned(),
        1 => "One running host was told".to_owned(),
        _ => format!("{told} running hosts were told"),
    }
}

fn line(peer: &PeerRecord) -> String {
    let date = |seconds: u64| time::utc(i64::try_from(seconds).unwrap_or(i64::MAX));
    format!(
        "{}  first {}  last {}  {}{}",
        quote::text(&peer.fingerprint),
        date(peer.first_seen_s),
        date(peer.last_seen_s),
        quote::text(&peer.name),
        if peer.revoked { "  (revoked)" } else { "" }
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_told_is_said_as_it_is() {
        assert!(told_line(0).starts_with("No running host"));
        assert!(told_line(0).contains("within a second"));
        assert_eq!(told_line(1), "One running host was told");
        assert_eq!(told_line(2), "2 running hosts were told");
    }

    #[test]
    fn a_peer_is_one_line_whatever_its_name() {
        let peer = PeerRecord {
            fingerprint: "ab12".into(),
            name: "farm\n01".into(),
            first_seen_s: 0,
            last_seen_s: u64::from(u32::MAX),
            revoked: true,
        };
        assert_eq!(line(&peer), "ab12  first 1970-01-01 00:00  last 2106-02-07 06:28  farm 01  (revoked)");
    }
}
