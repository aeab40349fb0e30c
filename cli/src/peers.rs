//! `wormhole peers`: the devices that may join without a code.

use engine::status::{ServiceKind, reload_all};
use engine::trust::{self, PeerRecord};

use crate::args::PeersCommand;
use crate::exit::{Exit, Failure};
use crate::output::Output;
use crate::quote;
use crate::status;
use crate::time;

/// Runs `peers`.
///
/// # Errors
/// What the trust store reports; exit 1 where a running host did not take a revocation.
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
            output.event("PeerRevoked", &peer)?;
            output.say(&format!("Revoked {} ({})", quote::text(&peer.name), quote::text(&peer.fingerprint)));
            reload_all(&trust::runtime_dir()?, ServiceKind::Host).map_err(|error| status::failure(&error))?;
        }
    }
    Ok(Exit::Ok)
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
