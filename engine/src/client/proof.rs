//! The client's half of the entrance: hello, the code's proof where one is needed, welcome.

use super::outcome::ClientError;
use signal::{Binding, ClientConfirm, ClientStart, JoinCode};
use std::time::Duration;
use transport::PeerKey;
use transport::wire::{Attr, Control, Frames, RESPONSE_BYTES_MAX, VERSION_MAX, VERSION_MIN};

enum Stage {
    Hello,
    Shared(Box<ClientStart>),
    Confirmed(ClientConfirm),
    Proven,
}

/// One passage through the entrance.
pub(super) struct Proof {
    host: PeerKey,
    ours: PeerKey,
    exporter: [u8; 32],
    /// The host's key is one this device has enrolled with: its TLS signature is proof enough.
    trusted: bool,
    stage: Stage,
    frames: Frames,
}

/// What follows from the host's bytes.
pub(super) enum Step {
    Send(Control),
    /// The host has proven that it knows the code.
    Proven,
    Welcomed {
        host: String,
        share: String,
        root: Attr,
        enrolled: bool,
    },
}

impl Proof {
    pub(super) fn new(host: PeerKey, ours: PeerKey, exporter: [u8; 32], trusted: bool) -> Self {
        Self { host, ours, exporter, trusted, stage: Stage::Hello, frames: Frames::new(RESPONSE_BYTES_MAX) }
    }

    /// The host being spoken to.
    pub(super) fn host(&self) -> PeerKey {
        self.host
    }

    pub(super) fn hello(&self, device: &str) -> Control {
        Control::Hello {
            version_min: VERSION_MIN,
            version_max: VERSION_MAX,
            capabilities: 0,
            prove: !self.trusted,
            device: device.to_owned(),
        }
    }

    pub(super) fn handle_bytes(&mut self, bytes: &[u8], code: Option<&JoinCode>) -> Result<Vec<Step>, ClientError> {
        self.frames.handle_bytes(bytes);
        let mut steps = Vec::new();
        while let Some(message) =
            self.frames.poll_message().map_err(|error| ClientError::Incompatible(error.to_string()))?
        {
            steps.extend(self.handle_message(message, code)?);
        }
        Ok(steps)
    }

    fn handle_message(&mut self, message: Control, code: Option<&JoinCode>) -> Result<Option<Step>, ClientError> {
        let stage = std::mem::replace(&mut self.stage, Stage::Hello);
        match (stage, message) {
            (_, Control::Refused { reason, retry_after_ms }) => {
                Err(ClientError::Refused(reason, Duration::from_millis(retry_after_ms.into())))
            }
            (Stage::Hello, Control::Challenge { .. }) => {
                let code = code.ok_or(ClientError::NotEnrolled)?;
                let binding = Binding { exporter: &self.exporter, host_key: &self.host.0, client_key: &self.ours.0 };
                let (start, share) = ClientStart::new(code, binding);
                self.stage = Stage::Shared(Box::new(start));
                Ok(Some(Step::Send(Control::ClientShare { share })))
            }
            (Stage::Shared(start), Control::HostShare { share }) => {
                let (confirm, mac) = start.confirm(&share).map_err(|_| ClientError::WrongHost)?;
                self.stage = Stage::Confirmed(confirm);
                Ok(Some(Step::Send(Control::ClientConfirm { mac })))
            }
            (Stage::Confirmed(confirm), Control::HostConfirm { mac }) => {
                confirm.verify(&mac).map_err(|_| ClientError::WrongHost)?;
                self.stage = Stage::Proven;
                Ok(Some(Step::Proven))
            }
            // A host whose key is not known may not just wave us through: it has proven nothing.
            (Stage::Hello, Control::Welcome { host, share, root, .. }) if self.trusted => {
                Ok(Some(Step::Welcomed { host, share, root, enrolled: false }))
            }
            (Stage::Proven, Control::Welcome { host, share, root, .. }) => {
                Ok(Some(Step::Welcomed { host, share, root, enrolled: true }))
            }
            _ => Err(ClientError::Incompatible("unexpected message at the entrance".into())),
        }
    }
}
