//! This node's own key pair, and the public keys of others.

use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::store::{PrivateFile, StoreError, ensure_private_dir, io_error};

/// Name of the key file within the state folder.
const FILE_NAME: &str = "node.key";

/// Length of a raw Ed25519 public key (RFC 8032 §5.1.5).
pub const PUBLIC_KEY_BYTES: usize = 32;

/// What stands before the raw key in a SubjectPublicKeyInfo of Ed25519 (RFC 8410 §4): a sequence of
/// the algorithm 1.3.101.112 and a bit string of 32 bytes.
const SPKI_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// Length of a public key as SubjectPublicKeyInfo.
pub const SPKI_BYTES: usize = SPKI_PREFIX.len() + PUBLIC_KEY_BYTES;

/// Context of the hash that people compare.
const FINGERPRINT_CONTEXT: &str = "wormhole node key fingerprint v1";

/// Hash bytes in a fingerprint: 128 bits, so that nobody finds a second key for one.
const FINGERPRINT_BYTES: usize = 16;

/// The public key of a node: the 32 raw bytes of Ed25519. It is the node's identity.
///
/// Displayed as a fingerprint for people, eight groups of four hexadecimal digits of a BLAKE3 hash;
/// stored, serialised and parsed as 64 hexadecimal digits of the key itself.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PublicKey([u8; PUBLIC_KEY_BYTES]);

impl PublicKey {
    /// Takes the raw bytes, as RFC 8032 lays them out.
    pub fn from_raw(bytes: [u8; PUBLIC_KEY_BYTES]) -> Self {
        Self(bytes)
    }

    /// The raw bytes.
    pub fn as_raw(&self) -> &[u8; PUBLIC_KEY_BYTES] {
        &self.0
    }

    /// Reads a SubjectPublicKeyInfo in DER, as TLS carries raw public keys (RFC 7250).
    ///
    /// # Errors
    /// [`PublicKeyError::Spki`] for any other algorithm, length or form.
    pub fn from_spki_der(der: &[u8]) -> Result<Self, PublicKeyError> {
        let raw = der.strip_prefix(&SPKI_PREFIX).and_then(|raw| raw.try_into().ok());
        raw.map(Self).ok_or(PublicKeyError::Spki)
    }

    /// Writes a SubjectPublicKeyInfo in DER.
    pub fn to_spki_der(&self) -> [u8; SPKI_BYTES] {
        let mut der = [0; SPKI_BYTES];
        der[..SPKI_PREFIX.len()].copy_from_slice(&SPKI_PREFIX);
        der[SPKI_PREFIX.len()..].copy_from_slice(&self.0);
        der
    }

    /// Writes the key as 64 hexadecimal digits.
    pub fn to_hex(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The fingerprint without dashes, 32 hexadecimal digits.
    pub fn fingerprint_hex(&self) -> String {
        let hash = blake3::derive_key(FINGERPRINT_CONTEXT, &self.0);
        hash[..FINGERPRINT_BYTES].iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = self.fingerprint_hex();
        for start in (0..digits.len()).step_by(4) {
            let dash = if start > 0 { "-" } else { "" };
            write!(f, "{dash}{}", &digits[start..start + 4])?;
        }
        Ok(())
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

impl FromStr for PublicKey {
    type Err = PublicKeyError;

    /// Reads 64 hexadecimal digits.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digit = |byte: u8| char::from(byte).to_digit(16).map(|value| value as u8);
        let (pairs, []) = text.as_bytes().as_chunks::<2>() else {
            return Err(PublicKeyError::Hex);
        };
        let bytes: Option<Vec<u8>> = pairs.iter().map(|&[high, low]| Some(digit(high)? << 4 | digit(low)?)).collect();
        bytes.and_then(|bytes| bytes.try_into().ok()).map(Self).ok_or(PublicKeyError::Hex)
    }
}

impl TryFrom<String> for PublicKey {
    type Error = PublicKeyError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<PublicKey> for String {
    fn from(key: PublicKey) -> Self {
        key.to_hex()
    }
}

/// Why bytes or text are not a node's public key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PublicKeyError {
    /// Not the SubjectPublicKeyInfo of an Ed25519 key.
    #[error("not an Ed25519 public key in DER")]
    Spki,
    /// Not 64 hexadecimal digits.
    #[error("a public key is written as 64 hexadecimal digits")]
    Hex,
}

/// This node's key pair. The private half is wiped when dropped, and `Debug` shows the public one.
pub struct NodeKey {
    pkcs8: Zeroizing<Vec<u8>>,
    public: PublicKey,
}

impl NodeKey {
    /// Reads the key pair of the state folder, or makes one on the first start.
    ///
    /// The folder is made 0700 and the file 0600. Processes that start together end with one key:
    /// the first to take the lock makes it, the others read it.
    ///
    /// # Errors
    /// A [`NodeKeyError`]. A key that is damaged or open to others is never replaced silently, since
    /// every host and device that trusts this node knows it by its key.
    pub fn load_or_create(state_dir: &Path) -> Result<Self, NodeKeyError> {
        ensure_private_dir(state_dir)?;
        let file = PrivateFile::new(state_dir, FILE_NAME);
        if let Some(key) = Self::load(&file)? {
            return Ok(key);
        }
        let lock = file.lock()?;
        if let Some(key) = Self::load(&file)? {
            return Ok(key);
        }
        let key = Self::generate()?;
        file.replace(&lock, &key.pkcs8)?;
        Ok(key)
    }

    /// Makes a key pair that lives in memory only.
    ///
    /// # Errors
    /// [`NodeKeyError::Generate`] when the system yields no randomness.
    pub fn generate() -> Result<Self, NodeKeyError> {
        let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(|_| NodeKeyError::Generate)?;
        let pkcs8 = Zeroizing::new(document.as_ref().to_vec());
        Self::from_pkcs8(pkcs8).ok_or(NodeKeyError::Generate)
    }

    /// The key pair as PKCS#8 DER (RFC 5958), as TLS takes it.
    pub fn pkcs8_der(&self) -> &[u8] {
        &self.pkcs8
    }

    /// The public half.
    pub fn public(&self) -> PublicKey {
        self.public
    }

    fn load(file: &PrivateFile) -> Result<Option<Self>, NodeKeyError> {
        let Some((opened, bytes)) = file.read()? else {
            return Ok(None);
        };
        let bytes = Zeroizing::new(bytes);
        let path = || file.path().to_owned();
        let metadata = opened.metadata().map_err(io_error("look at", file.path()))?;
        if metadata.mode() & 0o077 != 0 {
            return Err(NodeKeyError::Exposed { path: path(), mode: metadata.mode() & 0o7777 });
        }
        let us = rustix::process::geteuid().as_raw();
        if metadata.uid() != us && metadata.uid() != 0 {
            return Err(NodeKeyError::Owner { path: path(), owner: metadata.uid() });
        }
        Self::from_pkcs8(bytes).map(Some).ok_or_else(|| NodeKeyError::Damaged { path: path() })
    }

    fn from_pkcs8(pkcs8: Zeroizing<Vec<u8>>) -> Option<Self> {
        let pair = Ed25519KeyPair::from_pkcs8(&pkcs8).ok()?;
        let public = PublicKey(pair.public_key().as_ref().try_into().ok()?);
        Some(Self { pkcs8, public })
    }
}

impl fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeKey").field("public", &self.public).finish_non_exhaustive()
    }
}

/// Why this node has no key to work with.
#[derive(Debug, thiserror::Error)]
pub enum NodeKeyError {
    /// The file or its folder could not be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Other users can read or change the key, so it may no longer be ours alone.
    #[error(
        "other users can reach the private key {} (mode {mode:04o}): run chmod 600 on it, or move it \
         away to have a new one made, if somebody may have read it",
        path.display()
    )]
    Exposed {
        /// The key file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// The key file belongs to another user.
    #[error("the private key {} belongs to user {owner}, not to us", path.display())]
    Owner {
        /// The key file.
        path: PathBuf,
        /// The numeric id of its owner.
        owner: u32,
    },
    /// The file is no Ed25519 key pair in PKCS#8.
    #[error(
        "the private key {} is damaged; restore it, or move it away to have a new one made, which \
         hosts and devices must then enrol again",
        path.display()
    )]
    Damaged {
        /// The key file.
        path: PathBuf,
    },
    /// The system yields no randomness.
    #[error("cannot generate a key: the system yields no randomness")]
    Generate,
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;
    use std::sync::Barrier;
    use std::thread;

    use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_first_start_makes_a_private_key_and_later_ones_read_it() {
        let root = tempfile::tempdir().unwrap();
        let state = root.path().join("state");
        let made = NodeKey::load_or_create(&state).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
        assert_eq!((mode(&state), mode(&state.join("node.key"))), (0o700, 0o600));
        let read = NodeKey::load_or_create(&state).unwrap();
        assert_eq!((read.public(), read.pkcs8_der()), (made.public(), made.pkcs8_der()));
        assert_ne!(NodeKey::generate().unwrap().public(), made.public());

        let pair = Ed25519KeyPair::from_pkcs8(read.pkcs8_der()).unwrap();
        let signature = pair.sign(b"text");
        let public = UnparsedPublicKey::new(&ED25519, made.public.as_raw());
        public.verify(b"text", signature.as_ref()).unwrap();
    }

    #[test]
    fn processes_that_start_together_end_with_one_key() {
        const STARTERS: usize = 8;
        let root = tempfile::tempdir().unwrap();
        let barrier = Barrier::new(STARTERS);
        let keys: Vec<PublicKey> = thread::scope(|scope| {
            let start = || {
                barrier.wait();
                NodeKey::load_or_create(root.path()).unwrap().public()
            };
            let starters: Vec<_> = (0..STARTERS).map(|_| scope.spawn(start)).collect();
            starters.into_iter().map(|starter| starter.join().unwrap()).collect()
        });
        assert!(keys.iter().all(|key| *key == keys[0]));
        assert_eq!(NodeKey::load_or_create(root.path()).unwrap().public(), keys[0]);
    }

    #[test]
    fn an_exposed_key_is_refused_with_the_remedy() {
        let root = tempfile::tempdir().unwrap();
        NodeKey::load_or_create(root.path()).unwrap();
        let path = root.path().join("node.key");
        for mode in [0o640, 0o604, 0o620, 0o644] {
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            let refused = NodeKey::load_or_create(root.path()).unwrap_err();
            assert!(matches!(refused, NodeKeyError::Exposed { mode: found, .. } if found == mode));
            let text = refused.to_string();
            assert!(text.contains("node.key") && text.contains("chmod 600"), "{text}");
        }
    }

    #[test]
    fn a_damaged_key_is_reported_and_kept() {
        let root = tempfile::tempdir().unwrap();
        let key = NodeKey::load_or_create(root.path()).unwrap();
        let path = root.path().join("node.key");
        let half = &key.pkcs8_der()[..40];
        for damaged in [&b""[..], b"not a key", half] {
            fs::write(&path, damaged).unwrap();
            let refused = NodeKey::load_or_create(root.path()).unwrap_err();
            assert!(matches!(&refused, NodeKeyError::Damaged { path: named } if *named == path));
            assert_eq!(fs::read(&path).unwrap(), damaged);
        }
    }

    #[test]
    fn a_temporary_file_of_a_crashed_start_is_no_obstacle() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("node.key.tmp"), "half a k").unwrap();
        let made = NodeKey::load_or_create(root.path()).unwrap();
        assert_eq!(NodeKey::load_or_create(root.path()).unwrap().public(), made.public());
    }

    #[test]
    fn debug_shows_the_public_half_only() {
        let key = NodeKey::generate().unwrap();
        assert_eq!(format!("{key:?}"), format!("NodeKey {{ public: {:?}, .. }}", key.public()));
    }

    #[test]
    fn the_fingerprint_is_eight_groups_and_stays_as_it_is() {
        let key = PublicKey::from_raw([7; 32]);
        assert_eq!(key.to_string(), "2eb9-1145-078c-403e-81a9-beb7-2e7c-d282");
        assert_eq!(key.to_string().replace('-', ""), key.fingerprint_hex());
    }

    proptest! {
        #[test]
        fn every_written_form_reads_back(raw: [u8; 32]) {
            let key = PublicKey::from_raw(raw);
            prop_assert_eq!(PublicKey::from_spki_der(&key.to_spki_der()), Ok(key));
            prop_assert_eq!(key.to_hex().parse(), Ok(key));
            let json = serde_json::to_string(&key).unwrap();
            prop_assert_eq!(serde_json::from_str::<PublicKey>(&json).unwrap(), key);
        }

        #[test]
        fn other_der_and_text_are_refused(der in prop::collection::vec(any::<u8>(), 0..60), text in "\\PC{0,70}") {
            prop_assert_eq!(PublicKey::from_spki_der(&der), Err(PublicKeyError::Spki));
            prop_assert!(text.parse::<PublicKey>().is_err() || text.len() == 64);
        }
    }
}
