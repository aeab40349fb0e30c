//! Proof that both ends know the same join code, bound to the TLS connection that carries it.
//!
//! ```text
//!   client                                            host
//!   ClientStart::new      ── share, 33 bytes ──▶      HostExchange::respond
//!   ClientStart::confirm  ◀── share, 33 bytes ──
//!                         ── proof, 32 bytes ──▶      HostExchange::verify   wrong: count the guess
//!   ClientConfirm::verify ◀── proof, 32 bytes ──
//! ```
//!
//! SPAKE2 over Ed25519 yields a key on both sides whether or not the codes agree; the proofs tell.
//! The client proves first, so whoever guesses learns nothing from a host that has not yet counted
//! the guess. A proof covers its maker's role, the nameplate, both shares, the keying material that
//! TLS exports (RFC 5705, RFC 8446 §7.5) and both nodes' public keys: somebody who ends one TLS
//! connection and opens another shares neither of the last two with the far side.
//!
//! Keys and proofs are wiped when dropped. `spake2` 0.4 does not wipe what it holds during an
//! exchange (the words and one scalar), so a stage should not be kept longer than needed.

use std::fmt;

use spake2::{Ed25519Group, Identity, Password, Spake2};
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, Zeroizing};

use crate::code::{JoinCode, Nameplate};

/// Length of a share: one byte for the role, a compressed point.
pub const SHARE_BYTES: usize = 33;

/// Length of a proof: one BLAKE3 hash.
pub const PROOF_BYTES: usize = 32;

/// Protocol version and purpose, part of both identities and both hash contexts.
const PURPOSE: &str = "wormhole/1 join";

/// BLAKE3 context of the key under which proofs are made.
const PROOF_KEY_CONTEXT: &str = "wormhole/1 join: proof key";

/// BLAKE3 context of the transcript that proofs cover.
const TRANSCRIPT_CONTEXT: &str = "wormhole/1 join: transcript";

/// What ties an exchange to one TLS connection. Both ends must pass equal values.
#[derive(Clone, Copy)]
pub struct Binding<'a> {
    /// Keying material exported from the connection under a label of this protocol's own.
    pub exporter: &'a [u8; 32],
    /// The host's public key as its certificate carries it.
    pub host_key: &'a [u8],
    /// The client's public key as its certificate carries it.
    pub client_key: &'a [u8],
}

impl fmt::Debug for Binding<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Binding").finish_non_exhaustive()
    }
}

/// The client before the host has answered.
#[must_use = "the exchange goes on with `confirm`"]
pub struct ClientStart {
    spake: Spake2<Ed25519Group>,
    share: [u8; SHARE_BYTES],
    transcript: Transcript,
}

impl ClientStart {
    /// Begins an exchange; send the share to the host.
    ///
    /// # Panics
    /// If the operating system yields no randomness.
    pub fn new(code: &JoinCode, binding: Binding<'_>) -> (Self, [u8; SHARE_BYTES]) {
        let (password, client, host) = credentials(code);
        let (spake, share) = Spake2::start_a(&password, &client, &host);
        let share = own_share(share);
        (Self { spake, share, transcript: Transcript::new(code.nameplate(), binding) }, share)
    }

    /// Takes the host's share; send the proof to the host.
    ///
    /// The proof is made whether or not the codes agree.
    ///
    /// # Errors
    /// A [`PakeError`] when the share is none a host of this protocol sends; nothing was guessed.
    pub fn confirm(self, host_share: &[u8]) -> Result<(ClientConfirm, [u8; PROOF_BYTES]), PakeError> {
        let host_share = peer_share(host_share)?;
        // The first byte names the role and is easily changed on the way; the point is what counts.
        if host_share[1..] == self.share[1..] {
            return Err(PakeError::Reflected);
        }
        let key = finish(self.spake, host_share)?;
        let proofs = self.transcript.into_proofs(&self.share, host_share, &key);
        Ok((ClientConfirm { expected: proofs.host }, *proofs.client))
    }
}

/// The client waiting for the host's proof.
#[must_use = "the host has proved nothing before `verify`"]
pub struct ClientConfirm {
    expected: Zeroizing<[u8; PROOF_BYTES]>,
}

impl ClientConfirm {
    /// Checks that the host knows the code and sees the same connection and keys.
    ///
    /// # Errors
    /// [`WrongCode`] on any difference, the length included: hang up and trust nothing received.
    pub fn verify(self, host_proof: &[u8]) -> Result<(), WrongCode> {
        verify(&self.expected, host_proof)
    }
}

/// The host after its share, waiting for the client's proof.
#[must_use = "the client has proved nothing before `verify`"]
pub struct HostExchange {
    expected: Zeroizing<[u8; PROOF_BYTES]>,
    answer: Zeroizing<[u8; PROOF_BYTES]>,
}

impl HostExchange {
    /// Answers a client's share; send the share to the client.
    ///
    /// Begin only with an [`crate::Attempt`] in hand, so that guesses stay counted.
    ///
    /// # Errors
    /// A [`PakeError`] when the share is none a client of this protocol sends; nothing was guessed.
    ///
    /// # Panics
    /// If the operating system yields no randomness.
    pub fn respond(
        code: &JoinCode,
        binding: Binding<'_>,
        client_share: &[u8],
    ) -> Result<(Self, [u8; SHARE_BYTES]), PakeError> {
        let client_share = peer_share(client_share)?;
        let (password, client, host) = credentials(code);
        let (spake, share) = Spake2::start_b(&password, &client, &host);
        let share = own_share(share);
        // Our scalar is younger than the client's share, so equality cannot come about honestly.
        if client_share[1..] == share[1..] {
            return Err(PakeError::Reflected);
        }
        let key = finish(spake, client_share)?;
        let transcript = Transcript::new(code.nameplate(), binding);
        let proofs = transcript.into_proofs(client_share, &share, &key);
        Ok((Self { expected: proofs.client, answer: proofs.host }, share))
    }

    /// Checks the client's proof; send the proof that is returned.
    ///
    /// # Errors
    /// [`WrongCode`] on any difference, the length included: that was a guess, so count it, and
    /// send nothing that depends on the code.
    pub fn verify(self, client_proof: &[u8]) -> Result<[u8; PROOF_BYTES], WrongCode> {
        verify(&self.expected, client_proof)?;
        Ok(*self.answer)
    }
}

macro_rules! opaque_debug {
    ($($stage:ident),*) => {$(
        impl fmt::Debug for $stage {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($stage)).finish_non_exhaustive()
            }
        }
    )*};
}
opaque_debug!(ClientStart, ClientConfirm, HostExchange);

/// Why a share was refused. All are the peer's fault, and none counts as a guess.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PakeError {
    /// Not [`SHARE_BYTES`] long.
    #[error("the peer's key share has {found} bytes instead of {SHARE_BYTES}")]
    ShareLength {
        /// How long it is.
        found: usize,
    },
    /// It is marked as coming from our own role.
    #[error("the peer's key share is marked with the wrong role")]
    ShareRole,
    /// It is no point of the curve.
    #[error("the peer's key share is no point of the curve")]
    SharePoint,
    /// It is our own, sent back.
    #[error("the peer sent our own key share back")]
    Reflected,
}

/// The proof does not match: the codes differ, or somebody stands between the two ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the join code is wrong, or somebody stands between the two machines")]
pub struct WrongCode;

/// What both proofs cover, but for the shares.
struct Transcript(blake3::Hasher);

/// One proof each way.
struct Proofs {
    client: Zeroizing<[u8; PROOF_BYTES]>,
    host: Zeroizing<[u8; PROOF_BYTES]>,
}

impl Transcript {
    fn new(nameplate: Nameplate, binding: Binding<'_>) -> Self {
        let mut transcript = Self(blake3::Hasher::new_derive_key(TRANSCRIPT_CONTEXT));
        transcript.append(nameplate.to_string().as_bytes());
        transcript.append(binding.exporter);
        transcript.append(binding.host_key);
        transcript.append(binding.client_key);
        transcript
    }

    /// Adds a field behind its length, so that no two lists of fields read the same.
    fn append(&mut self, field: &[u8]) {
        self.0.update(&(field.len() as u64).to_le_bytes());
        self.0.update(field);
    }

    fn into_proofs(mut self, client_share: &[u8; SHARE_BYTES], host_share: &[u8; SHARE_BYTES], key: &[u8]) -> Proofs {
        self.append(client_share);
        self.append(host_share);
        let transcript = Zeroizing::new(*self.0.finalize().as_bytes());
        let proof_key = Zeroizing::new(blake3::derive_key(PROOF_KEY_CONTEXT, key));
        let proof = |role: &[u8]| {
            let mut hasher = blake3::Hasher::new_keyed(&proof_key);
            hasher.update(role);
            hasher.update(&*transcript);
            let proof = Zeroizing::new(*hasher.finalize().as_bytes());
            hasher.zeroize();
            proof
        };
        Proofs { client: proof(b"client"), host: proof(b"host  ") }
    }
}

impl Drop for Transcript {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// The password and the identities of client and host.
fn credentials(code: &JoinCode) -> (Password, Identity, Identity) {
    let identity = |role: &str| Identity::new(format!("{PURPOSE} {role} {}", code.nameplate()).as_bytes());
    (Password::new(code.secret()), identity("client"), identity("host"))
}

fn own_share(share: Vec<u8>) -> [u8; SHARE_BYTES] {
    share.try_into().expect("an Ed25519 share is one role byte and 32 bytes of point")
}

fn peer_share(share: &[u8]) -> Result<&[u8; SHARE_BYTES], PakeError> {
    share.try_into().map_err(|_| PakeError::ShareLength { found: share.len() })
}

fn finish(spake: Spake2<Ed25519Group>, share: &[u8; SHARE_BYTES]) -> Result<Zeroizing<Vec<u8>>, PakeError> {
    spake.finish(share).map(Zeroizing::new).map_err(|error| match error {
        spake2::Error::BadSide => PakeError::ShareRole,
        spake2::Error::CorruptMessage => PakeError::SharePoint,
        spake2::Error::WrongLength => PakeError::ShareLength { found: share.len() },
    })
}

fn verify(expected: &[u8; PROOF_BYTES], found: &[u8]) -> Result<(), WrongCode> {
    // `ct_eq` of slices answers at once on different lengths, which are no secret.
    if bool::from(expected.as_slice().ct_eq(found)) { Ok(()) } else { Err(WrongCode) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOST_KEY: &[u8] = &[1; 32];
    const CLIENT_KEY: &[u8] = &[2; 32];

    fn code(text: &str) -> JoinCode {
        JoinCode::parse(text).unwrap()
    }

    fn right() -> JoinCode {
        code("7-nebula-orbit-cedar")
    }

    fn binding(exporter: &[u8; 32]) -> Binding<'_> {
        Binding { exporter, host_key: HOST_KEY, client_key: CLIENT_KEY }
    }

    /// Runs an exchange to its end: what the host concluded, then what the client would conclude
    /// from the proof that the host holds ready.
    fn exchange(
        (client_code, client_binding): (&JoinCode, Binding<'_>),
        (host_code, host_binding): (&JoinCode, Binding<'_>),
    ) -> (Result<(), WrongCode>, Result<(), WrongCode>) {
        let (client, share) = ClientStart::new(client_code, client_binding);
        let (host, share) = HostExchange::respond(host_code, host_binding, &share).unwrap();
        let (client, proof) = client.confirm(&share).unwrap();
        let answer = *host.answer;
        (host.verify(&proof).map(|sent| assert_eq!(sent, answer)), client.verify(&answer))
    }

    const BOTH_FAIL: (Result<(), WrongCode>, Result<(), WrongCode>) = (Err(WrongCode), Err(WrongCode));

    #[test]
    fn the_right_code_convinces_both() {
        let ours = binding(&[9; 32]);
        assert_eq!(exchange((&right(), ours), (&right(), ours)), (Ok(()), Ok(())));
        let typed = code("007 Nebula ORBI CEDAR");
        assert_eq!(exchange((&typed, ours), (&right(), ours)), (Ok(()), Ok(())));
    }

    #[test]
    fn a_wrong_code_convinces_neither() {
        let ours = binding(&[9; 32]);
        for wrong in ["7-nebula-orbit-maple", "7-orbit-nebula-cedar", "8-nebula-orbit-cedar"] {
            assert_eq!(exchange((&code(wrong), ours), (&right(), ours)), BOTH_FAIL, "{wrong}");
        }
    }

    #[test]
    fn one_in_the_middle_with_the_right_shares_convinces_neither() {
        // Two TLS connections export two secrets, even where all messages are passed on unchanged.
        let (near, far) = (binding(&[9; 32]), binding(&[8; 32]));
        assert_eq!(exchange((&right(), near), (&right(), far)), BOTH_FAIL);
        for other in [
            Binding { host_key: &[3; 32], ..near },
            Binding { client_key: &[3; 32], ..near },
            Binding { host_key: CLIENT_KEY, client_key: HOST_KEY, ..near },
            Binding { host_key: &[], ..near },
        ] {
            assert_eq!(exchange((&right(), near), (&right(), other)), BOTH_FAIL);
        }
    }

    #[test]
    fn fields_do_not_run_into_one_another() {
        let near = Binding { exporter: &[0; 32], host_key: b"ab", client_key: b"c" };
        let far = Binding { host_key: b"a", client_key: b"bc", ..near };
        assert_eq!(exchange((&right(), near), (&right(), far)), BOTH_FAIL);
    }

    #[test]
    fn swapped_roles_are_refused() {
        let ours = binding(&[9; 32]);
        let (client, client_share) = ClientStart::new(&right(), ours);
        let (_other, other_share) = ClientStart::new(&right(), ours);
        assert_eq!(client.confirm(&other_share).unwrap_err(), PakeError::ShareRole);
        let (_host, host_share) = HostExchange::respond(&right(), ours, &client_share).unwrap();
        let refused = HostExchange::respond(&right(), ours, &host_share).unwrap_err();
        assert_eq!(refused, PakeError::ShareRole);
    }

    #[test]
    fn two_clients_cannot_be_played_against_each_other() {
        // Relabelling the role byte gets another client's share past the first check, not the proof.
        let ours = binding(&[9; 32]);
        let (one, one_share) = ClientStart::new(&right(), ours);
        let (two, two_share) = ClientStart::new(&right(), ours);
        let relabel = |mut share: [u8; SHARE_BYTES]| {
            share[0] = b'B';
            share
        };
        let (one, one_proof) = one.confirm(&relabel(two_share)).unwrap();
        let (two, two_proof) = two.confirm(&relabel(one_share)).unwrap();
        assert_eq!(one.verify(&two_proof), Err(WrongCode));
        assert_eq!(two.verify(&one_proof), Err(WrongCode));
    }

    #[test]
    fn reflected_shares_and_proofs_are_refused() {
        let ours = binding(&[9; 32]);
        let (client, share) = ClientStart::new(&right(), ours);
        assert_eq!(client.confirm(&share).unwrap_err(), PakeError::Reflected);
        let (client, mut share) = ClientStart::new(&right(), ours);
        share[0] = b'B';
        assert_eq!(client.confirm(&share).unwrap_err(), PakeError::Reflected);

        let (client, share) = ClientStart::new(&right(), ours);
        let (_host, share) = HostExchange::respond(&right(), ours, &share).unwrap();
        let (client, proof) = client.confirm(&share).unwrap();
        assert_eq!(client.verify(&proof), Err(WrongCode));
    }

    #[test]
    fn truncated_and_corrupt_messages_are_refused() {
        let ours = binding(&[9; 32]);
        let (_client, share) = ClientStart::new(&right(), ours);
        for found in [0, 1, 32] {
            let refused = HostExchange::respond(&right(), ours, &share[..found]).unwrap_err();
            assert_eq!(refused, PakeError::ShareLength { found });
        }
        let mut no_point = [0; SHARE_BYTES];
        (no_point[0], no_point[1]) = (b'A', 2); // y = 2 has no x on the curve
        let refused = HostExchange::respond(&right(), ours, &no_point).unwrap_err();
        assert_eq!(refused, PakeError::SharePoint);

        for cut in [0, 31, 33] {
            let (client, share) = ClientStart::new(&right(), ours);
            let (host, share) = HostExchange::respond(&right(), ours, &share).unwrap();
            let (client, proof) = client.confirm(&share).unwrap();
            let resize = |proof: [u8; PROOF_BYTES]| {
                let mut proof = proof.to_vec();
                proof.resize(cut, 0);
                proof
            };
            let answer = *host.answer;
            assert_eq!(host.verify(&resize(proof)), Err(WrongCode));
            assert_eq!(client.verify(&resize(answer)), Err(WrongCode));
        }
    }

    #[test]
    fn every_bit_of_a_proof_counts() {
        let ours = binding(&[9; 32]);
        for bit in 0..PROOF_BYTES * 8 {
            let expected = blake3::keyed_hash(ours.exporter, b"proof");
            let mut found = *expected.as_bytes();
            assert_eq!(verify(expected.as_bytes(), &found), Ok(()));
            found[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(verify(expected.as_bytes(), &found), Err(WrongCode));
        }
    }

    #[test]
    fn debug_says_nothing() {
        let exporter = [0xab; 32];
        let ours = binding(&exporter);
        let (client, share) = ClientStart::new(&right(), ours);
        let (host, share) = HostExchange::respond(&right(), ours, &share).unwrap();
        let mut shown = format!("{ours:?} {client:?} {host:?}");
        let (client, _) = client.confirm(&share).unwrap();
        shown += &format!("{client:?}");
        assert!(!shown.contains("nebula") && !shown.contains("171"), "{shown}");
        assert_eq!(shown, "Binding { .. } ClientStart { .. } HostExchange { .. }ClientConfirm { .. }");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn any_bytes_are_refused_or_convince_nobody(
            role in prop_oneof![Just(b'A'), Just(b'B'), any::<u8>()],
            tail in prop_oneof![prop::collection::vec(any::<u8>(), 32), prop::collection::vec(any::<u8>(), 0..80)],
            proof in prop::collection::vec(any::<u8>(), 0..40),
        ) {
            let exporter = [9; 32];
            let ours = binding(&exporter);
            let message: Vec<u8> = std::iter::once(role).chain(tail).collect();
            if let Ok((host, _)) = HostExchange::respond(&right(), ours, &message) {
                prop_assert_eq!(role, b'A');
                prop_assert_eq!(host.verify(&proof), Err(WrongCode));
            }
            let (client, _) = ClientStart::new(&right(), ours);
            if let Ok((client, _)) = client.confirm(&message) {
                prop_assert_eq!(role, b'B');
                prop_assert_eq!(client.verify(&proof), Err(WrongCode));
            }
        }
    }
}
