//! Who is talking: TLS 1.3 with raw public keys (RFC 7250), both ends holding an Ed25519 key.
//!
//! There are no certificates, names or authorities. The handshake proves that each end holds the private half of the
//! key it shows; whether that key may enter is decided above, by enrolment or by the PAKE, before a single name or
//! size is told. Nothing here skips a signature check.

use rustls::client::AlwaysResolvesClientRawPublicKeys;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{
    CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime,
};
use rustls::server::AlwaysResolvesServerRawPublicKeys;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, SignatureScheme};
use std::fmt;
use std::sync::Arc;

/// The protocol's name in the TLS handshake (RFC 7301).
pub const ALPN: &[u8] = b"wormhole/1";
/// The name every client sends: keys identify hosts, names do not.
pub(crate) const SERVER_NAME: &str = "wormhole";
/// Label of the exported secret that ties the PAKE to this very connection (RFC 8446 §7.5).
pub(crate) const EXPORTER_LABEL: &[u8] = b"EXPORTER-wormhole/1 pake binding";

/// An Ed25519 public key as SubjectPublicKeyInfo starts with these bytes (RFC 8410 §4); 32 key bytes follow.
const ED25519_SPKI_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// The Ed25519 public key of a node, 32 bytes: its identity everywhere.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerKey(pub [u8; 32]);

impl PeerKey {
    /// Reads a key out of its SubjectPublicKeyInfo form; `None` for any other kind of key.
    pub fn from_spki(spki: &[u8]) -> Option<Self> {
        let key = spki.strip_prefix(&ED25519_SPKI_PREFIX)?;
        Some(Self(key.try_into().ok()?))
    }
}

impl fmt::Debug for PeerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PeerKey(")?;
        for byte in &self.0[..8] {
            write!(f, "{byte:02x}")?;
        }
        write!(f, "…)")
    }
}

/// Why a node's key could not be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The private key is not an Ed25519 key in PKCS#8 form.
    #[error("the node's private key is not an Ed25519 key in PKCS#8 form")]
    NotEd25519,
    /// rustls refused the key or the configuration.
    #[error("the TLS library refused the node's key")]
    Rustls(#[from] rustls::Error),
}

/// A node's key pair, ready for handshakes.
#[derive(Clone)]
pub struct Identity {
    certified: Arc<CertifiedKey>,
    public: PeerKey,
    /// Derived from the private key: a restarted node still signs the resets its old connections need (RFC 9000 §10.3).
    reset_secret: [u8; 32],
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("public", &self.public).finish_non_exhaustive()
    }
}

impl Identity {
    /// Loads a node's key from its PKCS#8 DER bytes.
    ///
    /// # Errors
    /// [`TlsError::NotEd25519`] for another kind of key, [`TlsError::Rustls`] for malformed DER.
    pub fn from_pkcs8(der: &[u8]) -> Result<Self, TlsError> {
        let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(der.to_vec()));
        let signer = aws_lc_rs::default_provider().key_provider.load_private_key(private)?;
        let spki = signer.public_key().ok_or(TlsError::NotEd25519)?;
        let public = PeerKey::from_spki(&spki).ok_or(TlsError::NotEd25519)?;
        let certificate = CertificateDer::from(spki.to_vec());
        let reset_secret = {
            let key = ::aws_lc_rs::hmac::Key::new(::aws_lc_rs::hmac::HMAC_SHA256, der);
            let tag = ::aws_lc_rs::hmac::sign(&key, b"wormhole/1 stateless reset");
            tag.as_ref().try_into().expect("HMAC-SHA256 is 32 bytes")
        };
        Ok(Self { certified: Arc::new(CertifiedKey::new(vec![certificate], signer)), public, reset_secret })
    }

    /// The public half: what peers know this node by.
    pub fn public(&self) -> PeerKey {
        self.public
    }

    /// The key that signs stateless resets, the same after a restart.
    pub(crate) fn reset_key(&self) -> ::aws_lc_rs::hmac::Key {
        ::aws_lc_rs::hmac::Key::new(::aws_lc_rs::hmac::HMAC_SHA256, &self.reset_secret)
    }

    /// The client's TLS configuration.
    pub(crate) fn client_config(&self) -> Result<rustls::ClientConfig, TlsError> {
        let provider = Arc::new(provider());
        let verifier = Arc::new(RawKeys { algorithms: provider.signature_verification_algorithms });
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_client_cert_resolver(Arc::new(AlwaysResolvesClientRawPublicKeys::new(Arc::clone(&self.certified))));
        config.alpn_protocols = vec![ALPN.to_vec()];
        // Full handshakes only: both keys are shown and proven each time, and nothing is replayable.
        config.resumption = rustls::client::Resumption::disabled();
        config.enable_early_data = false;
        Ok(config)
    }

    /// The host's TLS configuration.
    pub(crate) fn server_config(&self) -> Result<rustls::ServerConfig, TlsError> {
        let provider = Arc::new(provider());
        let verifier = Arc::new(RawKeys { algorithms: provider.signature_verification_algorithms });
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(Arc::clone(&self.certified))));
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.max_early_data_size = 0;
        Ok(config)
    }
}

/// Handshakes by aws-lc-rs (X25519MLKEM768 first); packets by AES-128-GCM from whichever library is fast on this CPU.
///
/// aws-lc has AES-GCM for AVX-512 and else for plain AES-NI; ring has it for VAES with AVX2, which on CPUs without
/// AVX-512 is 1.6 times (1400 bytes) to 1.9 times (8900 bytes) as fast: docs/design/0010-aead-by-cpu.md.
fn provider() -> CryptoProvider {
    let cipher_suites = if prefers_ring() {
        use rustls::crypto::ring::cipher_suite as ring;
        vec![ring::TLS13_AES_128_GCM_SHA256, ring::TLS13_AES_256_GCM_SHA384, ring::TLS13_CHACHA20_POLY1305_SHA256]
    } else {
        use rustls::crypto::aws_lc_rs::cipher_suite as aws;
        vec![aws::TLS13_AES_128_GCM_SHA256, aws::TLS13_AES_256_GCM_SHA384, aws::TLS13_CHACHA20_POLY1305_SHA256]
    };
    CryptoProvider { cipher_suites, ..aws_lc_rs::default_provider() }
}

/// AES-128-GCM as our packets have it: from whichever library is fast on this CPU.
///
/// For peers in benchmarks, so that both sides of a comparison encrypt at the same cost.
pub fn packet_cipher_suite() -> rustls::SupportedCipherSuite {
    provider().cipher_suites[0]
}

#[cfg(target_arch = "x86_64")]
fn prefers_ring() -> bool {
    use std::is_x86_feature_detected as has;
    let avx512 = has!("avx512f") && has!("avx512bw") && has!("avx512vl");
    has!("vaes") && has!("vpclmulqdq") && has!("avx2") && !avx512
}

#[cfg(not(target_arch = "x86_64"))]
fn prefers_ring() -> bool {
    false
}

/// Checks that a peer proves possession of the Ed25519 key it shows; who that is, the session decides.
#[derive(Debug)]
struct RawKeys {
    algorithms: WebPkiSupportedAlgorithms,
}

impl RawKeys {
    fn check_key(spki: &[u8], intermediates: &[CertificateDer<'_>]) -> Result<(), rustls::Error> {
        if PeerKey::from_spki(spki).is_none() || !intermediates.is_empty() {
            return Err(CertificateError::BadEncoding.into());
        }
        Ok(())
    }

    fn check_signature(
        &self,
        message: &[u8],
        spki: &[u8],
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature_with_raw_key(message, &SubjectPublicKeyInfoDer::from(spki), signature, &self.algorithms)
    }

    /// TLS 1.2 is not offered; its signatures are never right.
    fn refuse_tls12() -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::PeerIncompatible(rustls::PeerIncompatible::Tls12NotOffered))
    }
}

impl ServerCertVerifier for RawKeys {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Self::check_key(end_entity, intermediates)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Self::refuse_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.check_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

impl ClientCertVerifier for RawKeys {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Self::check_key(end_entity, intermediates)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Self::refuse_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.check_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}
