//! s2n-quic as a peer: a server and a client on current-thread tokio, one bidirectional stream, N bytes.
//!
//! The exchange, the content, the windows and the cipher are those of [`crate::quinn_peer`]. Its own defaults are for
//! 150 Mbit/s, so its limits are raised; everything else is as it comes, segmentation offload included.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use s2n_quic::client::Connect;
use s2n_quic::provider::{io, limits::Limits, tls};
use s2n_quic::stream::ReceiveStream;
use s2n_quic::{Client, Connection, Server};

use crate::fixture;
use crate::quinn_peer::{
    ALPN, ANSWER_LIMIT, CHUNK_BYTES, CONNECTION_WINDOW_BYTES, CONTENT_BYTES, Identity, REQUEST_LIMIT, SERVER_NAME,
    WINDOW_BYTES, any_port, expected_hash, length_wanted, limited, provider, runtime, socket,
};
use crate::sample::{Sample, Stopwatch};

/// The port the server listens on in its namespace; past those of all variants of quinn.
pub const PORT: u16 = 4454;

/// The smallest packet it takes as its first (RFC 9000 §14: 1200 bytes, and 28 bytes IPv4 and UDP headers).
const PACKET_BYTES_MIN: u16 = 1228;

/// The largest packet it is told to send: that of a jumbo Ethernet link.
const PACKET_BYTES_MAX: u16 = 9000;

/// Unsent and unacknowledged bytes a stream may hold. Its own default of 512 KiB is less than the socket buffers hold.
const SEND_BUFFER_BYTES: u32 = 8 << 20;

/// Chunks taken from the stream in one call.
const CHUNKS_AT_ONCE: usize = 64;

/// How long either end waits for the other's close after the last byte.
const CLOSE_LIMIT: Duration = Duration::from_secs(5);

/// The packet size for a link of `mtu` bytes; s2n-quic counts the IP and UDP headers in.
fn packet_bytes(mtu: u32) -> u16 {
    u16::try_from(mtu).unwrap_or(PACKET_BYTES_MAX).clamp(PACKET_BYTES_MIN, PACKET_BYTES_MAX)
}

fn limits() -> anyhow::Result<Limits> {
    Ok(Limits::new()
        .with_data_window(CONNECTION_WINDOW_BYTES.into())?
        .with_bidirectional_local_data_window(WINDOW_BYTES.into())?
        .with_bidirectional_remote_data_window(WINDOW_BYTES.into())?
        .with_max_send_buffer_size(SEND_BUFFER_BYTES)?)
}

fn door(address: SocketAddr, mtu: u32) -> anyhow::Result<io::tokio::Provider> {
    let packet_bytes = packet_bytes(mtu);
    Ok(io::tokio::Builder::default()
        .with_rx_socket(socket(address)?)?
        .with_max_mtu(packet_bytes)?
        .with_initial_mtu(packet_bytes)?
        .build()?)
}

/// Serves until killed: each connection's one stream names a length and gets that many bytes, at most `bytes_max`; with
/// the limits of [`crate::quinn_peer`]'s.
///
/// # Errors
/// If the address cannot be bound or the identity cannot be read.
pub fn serve(listen: SocketAddr, identity: &Identity, mtu: u32, bytes_max: u64) -> anyhow::Result<()> {
    let key = PrivatePkcs8KeyDer::from(std::fs::read(&identity.key)?);
    let certificate = CertificateDer::from(std::fs::read(&identity.certificate)?);
    let mut tls = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(vec![certificate], PrivateKeyDer::Pkcs8(key))?;
    tls.alpn_protocols = vec![ALPN.to_vec()];

    let mut content = vec![0; usize::try_from(CONTENT_BYTES)?];
    fixture::pattern().fill(&mut content);
    let content = Bytes::from(content);

    runtime()?.block_on(async {
        let mut server = Server::builder()
            .with_tls(tls::rustls::Server::from(tls))?
            .with_limits(limits()?)?
            .with_io(door(listen, mtu)?)?
            .start()?;
        // One client at a time: a run has one.
        while let Some(connection) = server.accept().await {
            if let Err(error) = limited(ANSWER_LIMIT, answer(connection, &content, bytes_max)).await {
                eprintln!("{error:#}");
            }
        }
        Ok(())
    })
}

async fn answer(mut connection: Connection, content: &Bytes, bytes_max: u64) -> anyhow::Result<()> {
    let (mut send, wanted) = limited(REQUEST_LIMIT, async {
        let stream = connection.accept_bidirectional_stream().await?.context("the client closed before it asked")?;
        let (mut receive, send) = stream.split();
        let mut wanted = Vec::with_capacity(8);
        while let Some(chunk) = receive.receive().await? {
            ensure!(wanted.len() + chunk.len() <= 8, "a request is one length");
            wanted.extend_from_slice(&chunk);
        }
        Ok((send, wanted))
    })
    .await?;
    let mut left = length_wanted(&wanted, bytes_max)?;
    let mut at = 0;
    while left > 0 {
        let end = content.len().min(at + CHUNK_BYTES);
        let end = usize::try_from(left).map_or(end, |left| end.min(at + left));
        send.send(content.slice(at..end)).await?;
        left -= (end - at) as u64;
        at = if end == content.len() { 0 } else { end };
    }
    send.close().await?;
    // The client's close ends this with an error of its own, which is the end that is wanted.
    let _closed = tokio::time::timeout(CLOSE_LIMIT, connection.accept()).await;
    Ok(())
}

/// Fetches `bytes` bytes in one stream, counts them and throws them away.
///
/// # Errors
/// If the connection fails or another number of bytes arrives.
pub fn fetch(server: SocketAddr, certificate: &Path, mtu: u32, bytes: u64) -> anyhow::Result<Sample> {
    runtime()?.block_on(async {
        let (client, mut connection) = connect(server, certificate, mtu).await?;
        let watch = Stopwatch::start();
        let mut stream = request(&mut connection, bytes).await?;
        let mut received = 0;
        let mut chunks = vec![Bytes::new(); CHUNKS_AT_ONCE];
        loop {
            let (count, is_open) = stream.receive_vectored(&mut chunks).await?;
            for chunk in &mut chunks[..count] {
                received += std::mem::take(chunk).len() as u64;
            }
            if !is_open {
                break;
            }
        }
        let sample = watch.stop(received);
        ensure!(received == bytes, "{received} of {bytes} bytes arrived");
        close(client, &connection).await?;
        Ok(sample)
    })
}

/// Fetches `bytes` bytes and compares them with what the server was to send.
///
/// # Errors
/// If the connection fails or the bytes differ.
pub fn verify(server: SocketAddr, certificate: &Path, mtu: u32, bytes: u64) -> anyhow::Result<()> {
    let arrived = runtime()?.block_on(async {
        let (client, mut connection) = connect(server, certificate, mtu).await?;
        let mut stream = request(&mut connection, bytes).await?;
        let mut hasher = blake3::Hasher::new();
        while let Some(chunk) = stream.receive().await? {
            hasher.update(&chunk);
        }
        close(client, &connection).await?;
        anyhow::Ok(hasher)
    })?;
    ensure!(arrived.count() == bytes, "{} of {bytes} bytes arrived", arrived.count());
    ensure!(arrived.finalize() == expected_hash(bytes), "the bytes that arrived are not those that were sent");
    Ok(())
}

/// Closes and waits until the server has been told, so that it is free for the next run.
async fn close(mut client: Client, connection: &Connection) -> anyhow::Result<()> {
    connection.close(0_u32.into());
    tokio::time::timeout(CLOSE_LIMIT, client.wait_idle()).await.context("the connection does not close")??;
    Ok(())
}

async fn connect(server: SocketAddr, certificate: &Path, mtu: u32) -> anyhow::Result<(Client, Connection)> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from(std::fs::read(certificate)?))?;
    let mut tls = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![ALPN.to_vec()];
    let any = any_port(server);
    let client = Client::builder()
        .with_tls(tls::rustls::Client::from(tls))?
        .with_limits(limits()?)?
        .with_io(door(any, mtu)?)?
        .start()?;
    let connection =
        client.connect(Connect::new(server).with_server_name(SERVER_NAME)).await.context("no connection")?;
    Ok((client, connection))
}

async fn request(connection: &mut Connection, bytes: u64) -> anyhow::Result<ReceiveStream> {
    let (receive, mut send) = connection.open_bidirectional_stream().await?.split();
    send.send(Bytes::copy_from_slice(&bytes.to_le_bytes())).await?;
    send.finish()?;
    Ok(receive)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_follow_the_link_within_bounds() {
        assert_eq!(packet_bytes(1500), 1500);
        assert_eq!(packet_bytes(9000), 9000);
        assert_eq!(packet_bytes(1280), 1280);
        assert_eq!(packet_bytes(65_535), 9000);
        assert_eq!(packet_bytes(100), PACKET_BYTES_MIN);
    }

    #[test]
    fn the_limits_are_such_as_it_accepts() {
        limits().unwrap();
    }
}
