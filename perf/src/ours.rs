//! Wormhole's own client as the transport suite drives it: one file, one stream, on the calling thread's core.
//!
//! With [`crate::random_load`], the only place of this crate that knows the engine's interface.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::ensure;
use engine::{IoMode, Remote, RemoteOptions};

use crate::sample::{Sample, Stopwatch};

/// Bound on every call while the host does not answer: the product's own.
const TIMEOUT: Duration = Duration::from_secs(10);

fn join(target: SocketAddr, code: &str) -> anyhow::Result<Remote> {
    let options = RemoteOptions {
        addresses: vec![target],
        code: Some(signal::JoinCode::parse(code)?),
        io: IoMode::Auto,
        state_dir: engine::trust::state_dir()?,
        timeout: TIMEOUT,
    };
    Ok(Remote::connect(options)?)
}

/// Reads the file `path` of the share at `target` in one stream, counts it and throws it away.
///
/// The clock runs from the request to the last byte; joining with `code` is not in it.
///
/// # Errors
/// If the host refuses, the connection ends early, or the file is not `bytes` long.
pub fn read_discard(target: SocketAddr, code: &str, path: &str, bytes: u64) -> anyhow::Result<Sample> {
    let remote = join(target, code)?;
    let watch = Stopwatch::start();
    let received = remote.read_and_discard(path.as_bytes())?;
    let sample = watch.stop(received);
    ensure!(received == bytes, "{received} bytes came instead of {bytes}");
    Ok(sample)
}

/// Reads the file `path` of the share at `target` and returns its BLAKE3 hash.
///
/// # Errors
/// As [`read_discard`].
pub fn read_hash(target: SocketAddr, code: &str, path: &str, bytes: u64) -> anyhow::Result<blake3::Hash> {
    let remote = join(target, code)?;
    let mut hasher = blake3::Hasher::new();
    let received = remote.read_each(path.as_bytes(), &mut |piece| {
        hasher.update(piece);
    })?;
    ensure!(received == bytes, "{received} bytes came instead of {bytes}");
    Ok(hasher.finalize())
}

/// Reads the file `path` of the share at `target`, which must be text of at most `limit` bytes.
///
/// # Errors
/// If the host refuses, the connection ends early, or the file is longer or no text.
pub fn read_text(target: SocketAddr, code: &str, path: &str, limit: usize) -> anyhow::Result<String> {
    let remote = join(target, code)?;
    let mut text = Vec::new();
    let received = remote.read_each(path.as_bytes(), &mut |piece| {
        // What is over the limit is counted and not kept.
        let room = limit - text.len();
        text.extend_from_slice(&piece[..piece.len().min(room)]);
    })?;
    ensure!(received == text.len() as u64, "{path} has {received} bytes, more than {limit}");
    Ok(String::from_utf8(text)?)
}
