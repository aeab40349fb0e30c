//! Stock quinn as a peer: a server and a client on current-thread tokio, one bidirectional stream, N bytes.
//!
//! Set up as its own users would for a LAN: wide windows, large socket buffers, the link's MTU from the start,
//! AES-128-GCM from the library that is the faster on this CPU, as ours. The client trusts exactly the certificate made
//! for the run.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{AckFrequencyConfig, EndpointConfig, TokioRuntime, TransportConfig, VarInt};
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::fixture;
use crate::sample::{Sample, Stopwatch};
use crate::suite::RUN_LIMIT;

/// The port the server of the first variant listens on in its namespace; the others follow.
pub const PORT: u16 = 4434;

/// The port of a variant's server.
pub const fn port(variant: Variant) -> u16 {
    PORT + match variant {
        Variant::Plain => 0,
        Variant::AckFrequency => 1,
        Variant::Trains => 2,
    }
}

/// Stream and send window: twice 10 Gbit/s times 25 ms, far beyond a LAN's need, so that it never limits.
pub(crate) const WINDOW_BYTES: u32 = 64 << 20;

/// Connection window: room for several stream windows.
pub(crate) const CONNECTION_WINDOW_BYTES: u32 = 256 << 20;

/// Socket buffers on both sides: 13 ms at 10 Gbit/s.
const SOCKET_BUFFER_BYTES: usize = 16 << 20;

/// ACK-eliciting packets per acknowledgement with the extension; what quinn's own bulk benchmark asks for.
const ACK_ELICITING_THRESHOLD: u32 = 10;

/// How long a client may take from its first packet to its request.
pub(crate) const REQUEST_LIMIT: Duration = Duration::from_secs(10);

/// How long one client may keep the server to itself: as long as any run may take.
pub(crate) const ANSWER_LIMIT: Duration = RUN_LIMIT;

/// How much distinct content the server holds; it is repeated up to the length asked for. Larger than any cache.
pub(crate) const CONTENT_BYTES: u64 = 256 << 20;

/// The size of the chunks handed to the stream.
pub(crate) const CHUNK_BYTES: usize = 1 << 20;

/// The name in the certificate.
pub(crate) const SERVER_NAME: &str = "peer";

/// The protocol name of the exchange below.
pub(crate) const ALPN: &[u8] = b"perf-bulk/1";

/// The ways stock quinn is set up; which is fastest depends on the link and the machine, so all are tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// Full datagrams of the link.
    Plain,
    /// The same with the ACK frequency extension.
    AckFrequency,
    /// Datagrams small enough for sends in trains; differs from plain on jumbo links only.
    Trains,
}

impl Variant {
    /// Its word on the command line.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::AckFrequency => "ack-frequency",
            Self::Trains => "trains",
        }
    }

    /// Reads [`Variant::word`] back; `None` for anything else.
    pub fn from_word(word: &str) -> Option<Self> {
        [Self::Plain, Self::AckFrequency, Self::Trains].into_iter().find(|variant| variant.word() == word)
    }
}

/// What both ends of a run agree on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// UDP payload of a full packet.
    pub datagram_bytes: u16,
    /// Whether to ask the peer for fewer acknowledgements.
    pub ack_frequency: bool,
}

/// Datagrams in one of quinn's sends: `MAX_TRANSMIT_SEGMENTS` of quinn 0.11.
const TRAIN_DATAGRAMS: u16 = 10;

/// The largest datagram that quinn can send in trains: ten must fit the 65,507 bytes a UDP send over IPv4 can hold.
///
/// With larger ones its sends fail with `EMSGSIZE` and the connection stalls, so trains must be off there.
const TRAIN_DATAGRAM_BYTES_MAX: u16 = 65_507 / TRAIN_DATAGRAMS;

/// The largest initial MTU quinn-proto 0.11 takes: its long header has 14 bits for the length.
const DATAGRAM_BYTES_MAX: u16 = (1 << 14) - 1;

impl Settings {
    /// The settings of a variant for a link of `mtu` bytes to or from `address`.
    pub fn for_link(mtu: u32, address: IpAddr, variant: Variant) -> Self {
        // 20 bytes IPv4 (RFC 791) or 40 bytes IPv6 (RFC 8200), and 8 bytes UDP (RFC 768).
        let headers = if address.is_ipv4() { 28 } else { 48 };
        let full =
            u16::try_from(mtu.saturating_sub(headers)).map_or(DATAGRAM_BYTES_MAX, |full| full.min(DATAGRAM_BYTES_MAX));
        Self {
            datagram_bytes: match variant {
                Variant::Plain | Variant::AckFrequency => full,
                Variant::Trains => full.min(TRAIN_DATAGRAM_BYTES_MAX),
            },
            ack_frequency: variant == Variant::AckFrequency,
        }
    }

    fn fits_trains(self) -> bool {
        self.datagram_bytes <= TRAIN_DATAGRAM_BYTES_MAX
    }

    fn transport(self) -> TransportConfig {
        let mut transport = TransportConfig::default();
        transport
            .stream_receive_window(VarInt::from_u32(WINDOW_BYTES))
            .receive_window(VarInt::from_u32(CONNECTION_WINDOW_BYTES))
            .send_window(u64::from(WINDOW_BYTES))
            .initial_mtu(self.datagram_bytes)
            .mtu_discovery_config(None)
            .enable_segmentation_offload(self.fits_trains());
        if self.ack_frequency {
            let mut frequency = AckFrequencyConfig::default();
            frequency.ack_eliciting_threshold(VarInt::from_u32(ACK_ELICITING_THRESHOLD));
            transport.ack_frequency_config(Some(frequency));
        }
        transport
    }

    fn endpoint(self) -> anyhow::Result<EndpointConfig> {
        let mut endpoint = EndpointConfig::default();
        endpoint.max_udp_payload_size(self.datagram_bytes)?;
        Ok(endpoint)
    }
}

/// The certificate and key files of one run.
#[derive(Clone, Debug)]
pub struct Identity {
    /// DER certificate, which the client trusts.
    pub certificate: PathBuf,
    /// DER PKCS #8 key of the server.
    pub key: PathBuf,
}

impl Identity {
    /// Makes a self-signed certificate in `directory`, in files that start with `name`.
    ///
    /// # Errors
    /// If it cannot be made or written.
    pub fn create(directory: &Path, name: &str) -> anyhow::Result<Self> {
        let made = rcgen::generate_simple_self_signed([SERVER_NAME.to_owned()])?;
        let identity = Self {
            certificate: directory.join(format!("{name}-certificate.der")),
            key: directory.join(format!("{name}-key.der")),
        };
        std::fs::write(&identity.certificate, made.cert.der())?;
        std::fs::write(&identity.key, made.signing_key.serialize_der())?;
        Ok(identity)
    }
}

/// Serves until killed: each connection's one stream names a length and gets that many bytes, at most `bytes_max`.
///
/// Clients come one after the other, so each has 10 s to ask and two minutes for everything.
///
/// # Errors
/// If the address cannot be bound or the identity cannot be read.
pub fn serve(listen: SocketAddr, identity: &Identity, settings: Settings, bytes_max: u64) -> anyhow::Result<()> {
    let key = PrivatePkcs8KeyDer::from(std::fs::read(&identity.key)?);
    let certificate = CertificateDer::from(std::fs::read(&identity.certificate)?);
    let mut tls = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(vec![certificate], PrivateKeyDer::Pkcs8(key))?;
    tls.alpn_protocols = vec![ALPN.to_vec()];
    let mut server = quinn::ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls)?));
    server.transport_config(Arc::new(settings.transport()));

    let mut content = vec![0; usize::try_from(CONTENT_BYTES)?];
    fixture::pattern().fill(&mut content);
    let content = Bytes::from(content);

    runtime()?.block_on(async {
        let endpoint =
            quinn::Endpoint::new(settings.endpoint()?, Some(server), socket(listen)?, Arc::new(TokioRuntime))?;
        // One client at a time: a run has one.
        while let Some(incoming) = endpoint.accept().await {
            if let Err(error) = limited(ANSWER_LIMIT, answer(incoming, &content, bytes_max)).await {
                eprintln!("{error:#}");
            }
        }
        Ok(())
    })
}

/// Waits for `work` no longer than `limit`.
pub(crate) async fn limited<T>(limit: Duration, work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::time::timeout(limit, work).await.with_context(|| format!("a client took longer than {limit:?}"))?
}

/// The length a request names.
pub(crate) fn length_wanted(request: &[u8], bytes_max: u64) -> anyhow::Result<u64> {
    let wanted = u64::from_le_bytes(request.try_into().context("a request is one length")?);
    ensure!(wanted <= bytes_max, "a client asked for {wanted} bytes, more than {bytes_max}");
    Ok(wanted)
}

async fn answer(incoming: quinn::Incoming, content: &Bytes, bytes_max: u64) -> anyhow::Result<()> {
    let (connection, mut send, wanted) = limited(REQUEST_LIMIT, async {
        let connection = incoming.await?;
        let (send, mut receive) = connection.accept_bi().await?;
        let mut wanted = [0; 8];
        receive.read_exact(&mut wanted).await?;
        Ok((connection, send, wanted))
    })
    .await?;
    let mut left = length_wanted(&wanted, bytes_max)?;
    let mut at = 0;
    while left > 0 {
        let end = content.len().min(at + CHUNK_BYTES);
        let end = usize::try_from(left).map_or(end, |left| end.min(at + left));
        send.write_chunk(content.slice(at..end)).await?;
        left -= (end - at) as u64;
        at = if end == content.len() { 0 } else { end };
    }
    send.finish()?;
    connection.closed().await;
    Ok(())
}

/// Fetches `bytes` bytes in one stream, counts them and throws them away.
///
/// # Errors
/// If the connection fails or another number of bytes arrives.
pub fn fetch(server: SocketAddr, certificate: &Path, settings: Settings, bytes: u64) -> anyhow::Result<Sample> {
    runtime()?.block_on(async {
        let (endpoint, connection) = connect(server, certificate, settings).await?;
        let watch = Stopwatch::start();
        let mut stream = request(&connection, bytes).await?;
        let mut received = 0;
        // Unordered: the fastest way quinn offers, and what its own benchmark does.
        while let Some(chunk) = stream.read_chunk(usize::MAX, false).await? {
            received += chunk.bytes.len() as u64;
        }
        let sample = watch.stop(received);
        ensure!(received == bytes, "{received} of {bytes} bytes arrived");
        close(&endpoint, &connection).await;
        Ok(sample)
    })
}

/// Fetches `bytes` bytes and compares them with what the server was to send.
///
/// # Errors
/// If the connection fails or the bytes differ.
pub fn verify(server: SocketAddr, certificate: &Path, settings: Settings, bytes: u64) -> anyhow::Result<()> {
    let arrived = runtime()?.block_on(async {
        let (endpoint, connection) = connect(server, certificate, settings).await?;
        let mut stream = request(&connection, bytes).await?;
        let mut hasher = blake3::Hasher::new();
        while let Some(chunk) = stream.read_chunk(usize::MAX, true).await? {
            hasher.update(&chunk.bytes);
        }
        close(&endpoint, &connection).await;
        anyhow::Ok(hasher)
    })?;
    ensure!(arrived.count() == bytes, "{} of {bytes} bytes arrived", arrived.count());
    ensure!(arrived.finalize() == expected_hash(bytes), "the bytes that arrived are not those that were sent");
    Ok(())
}

/// The hash of the first `bytes` bytes a server sends, made without it.
pub(crate) fn expected_hash(bytes: u64) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    let mut block = vec![0; CHUNK_BYTES];
    let mut left = bytes;
    let mut source = fixture::pattern();
    while left > 0 {
        if source.position() == CONTENT_BYTES {
            source.set_position(0);
        }
        source.fill(&mut block);
        let length = usize::try_from(left).map_or(CHUNK_BYTES, |left| left.min(CHUNK_BYTES));
        hasher.update(&block[..length]);
        left -= length as u64;
    }
    hasher.finalize()
}

const _: () =
    assert!(CONTENT_BYTES.is_multiple_of(CHUNK_BYTES as u64), "the content is sent and checked in whole chunks");

async fn connect(
    server: SocketAddr,
    certificate: &Path,
    settings: Settings,
) -> anyhow::Result<(quinn::Endpoint, quinn::Connection)> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from(std::fs::read(certificate)?))?;
    let mut tls = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![ALPN.to_vec()];
    let mut client = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
    client.transport_config(Arc::new(settings.transport()));
    let any = any_port(server);
    let endpoint = quinn::Endpoint::new(settings.endpoint()?, None, socket(any)?, Arc::new(TokioRuntime))?;
    let connection = endpoint.connect_with(client, server, SERVER_NAME)?.await.context("no connection")?;
    Ok((endpoint, connection))
}

/// The address a client of `server` binds.
pub(crate) fn any_port(server: SocketAddr) -> SocketAddr {
    let any: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    SocketAddr::new(any, 0)
}

async fn request(connection: &quinn::Connection, bytes: u64) -> anyhow::Result<quinn::RecvStream> {
    let (mut send, receive) = connection.open_bi().await?;
    send.write_all(&bytes.to_le_bytes()).await?;
    send.finish()?;
    Ok(receive)
}

/// Closes and waits until the server has been told, so that it is free for the next run.
async fn close(endpoint: &quinn::Endpoint, connection: &quinn::Connection) {
    connection.close(VarInt::from_u32(0), b"done");
    endpoint.wait_idle().await;
}

/// aws-lc-rs with AES-128-GCM alone, as in every measured peer.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider { cipher_suites: vec![transport::tls::packet_cipher_suite()], ..default_provider() })
}

pub(crate) fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

/// A bound socket with large buffers, past the system's limit where this process may (socket(7)).
pub(crate) fn socket(address: SocketAddr) -> std::io::Result<UdpSocket> {
    use rustix::net::sockopt;
    let socket = UdpSocket::bind(address)?;
    if sockopt::set_socket_recv_buffer_size_force(&socket, SOCKET_BUFFER_BYTES).is_err() {
        sockopt::set_socket_recv_buffer_size(&socket, SOCKET_BUFFER_BYTES)?;
    }
    if sockopt::set_socket_send_buffer_size_force(&socket, SOCKET_BUFFER_BYTES).is_err() {
        sockopt::set_socket_send_buffer_size(&socket, SOCKET_BUFFER_BYTES)?;
    }
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_follow_the_link() {
        let check = |mtu, variant, datagram_bytes, trains| {
            let settings = Settings::for_link(mtu, Ipv4Addr::LOCALHOST.into(), variant);
            assert_eq!(settings.datagram_bytes, datagram_bytes, "{mtu} {variant:?}");
            assert_eq!(settings.fits_trains(), trains, "{mtu} {variant:?}");
        };
        check(1500, Variant::Plain, 1472, true);
        check(1500, Variant::Trains, 1472, true);
        check(9000, Variant::AckFrequency, 8972, false);
        check(9000, Variant::Trains, 6550, true);
        check(65_535, Variant::Plain, 16_383, false);
        let longer_headers = Settings::for_link(1500, Ipv6Addr::LOCALHOST.into(), Variant::Plain);
        assert_eq!(longer_headers.datagram_bytes, 1452);
    }

    #[test]
    fn a_request_is_one_length_within_the_bound() {
        assert_eq!(length_wanted(&1000_u64.to_le_bytes(), 1000).unwrap(), 1000);
        assert!(length_wanted(&1001_u64.to_le_bytes(), 1000).is_err());
        assert!(length_wanted(&[1, 2, 3], 1000).is_err() && length_wanted(&[0; 9], 1000).is_err());
    }

    #[test]
    fn a_client_that_asks_for_nothing_is_given_up() {
        let silent = limited(Duration::from_millis(1), std::future::pending::<anyhow::Result<()>>());
        let error = runtime().unwrap().block_on(silent).unwrap_err();
        assert!(error.to_string().contains("took longer"), "{error}");
    }

    /// A server on a free port of loopback, and the address it has.
    fn server(bytes_max: u64) -> (tempfile::TempDir, Identity, SocketAddr) {
        let directory = tempfile::tempdir().unwrap();
        let identity = Identity::create(directory.path(), "test").unwrap();
        let address = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
        let served = identity.clone();
        // It ends with the test program: nothing else ends it.
        std::thread::spawn(move || serve(address, &served, settings(), bytes_max));
        (directory, identity, address)
    }

    fn settings() -> Settings {
        Settings::for_link(1500, Ipv4Addr::LOCALHOST.into(), Variant::Plain)
    }

    #[test]
    fn a_server_gives_no_more_than_its_bound() {
        let (_directory, identity, address) = server(100_000);
        let fetched = |bytes| fetch(address, &identity.certificate, settings(), bytes);
        assert_eq!(fetched(100_000).unwrap().bytes, 100_000);
        assert!(fetched(100_001).is_err());
        // It serves on after a client it refused.
        verify(address, &identity.certificate, settings(), 5000).unwrap();
    }

    #[test]
    fn variants_are_read_back() {
        for variant in [Variant::Plain, Variant::AckFrequency, Variant::Trains] {
            assert_eq!(Variant::from_word(variant.word()), Some(variant));
        }
        assert_eq!(Variant::from_word("quick"), None);
    }

    #[test]
    fn the_expected_hash_is_that_of_the_pattern() {
        let mut bytes = vec![0; CHUNK_BYTES + 5];
        fixture::pattern().fill(&mut bytes);
        assert_eq!(expected_hash(bytes.len() as u64), blake3::hash(&bytes));
        assert_ne!(expected_hash(bytes.len() as u64 - 1), blake3::hash(&bytes));
    }
}
