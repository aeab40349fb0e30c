//! What must be gone when the program ends, however it ends: by return, by panic or by a signal.
//!
//! Return and panic are the business of `Drop`. A signal runs no destructor, so everything that outlives a process
//! (namespaces, mounts, files) also stands in one table, which the signal thread empties before it exits.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context as _;

/// Something outside this process that must be removed before the process ends.
pub(crate) trait Remains: Send + Sync {
    /// Removes it; calling it again, or from two threads at the same time, is harmless.
    fn remove(&self);
}

struct Table {
    entries: Vec<Arc<dyn Remains>>,
    /// Set by the signal thread: from then on it alone removes, and nothing new may come to be.
    is_ending: bool,
}

static TABLE: Mutex<Table> = Mutex::new(Table { entries: Vec::new(), is_ending: false });

fn table() -> MutexGuard<'static, Table> {
    // A panic while the table was held cannot leave a half-pushed entry, so the poison carries no news.
    TABLE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The table for a thread that wants to change it; while the program ends, that thread stops here for good.
///
/// Without this the interrupted work would go on to its next step, or end the program before everything is removed.
fn table_unless_ending() -> MutexGuard<'static, Table> {
    loop {
        let table = table();
        if !table.is_ending {
            return table;
        }
        drop(table);
        std::thread::park();
    }
}

/// Keeps one entry in the table; dropping it removes the thing and then the entry.
pub(crate) struct Registration(Arc<dyn Remains>);

impl Registration {
    pub(crate) fn new(remains: Arc<dyn Remains>) -> Self {
        table_unless_ending().entries.push(Arc::clone(&remains));
        Self(remains)
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        drop(table_unless_ending());
        self.0.remove();
        table_unless_ending().entries.retain(|entry| !Arc::ptr_eq(entry, &self.0));
    }
}

/// Starts the thread that turns SIGINT, SIGTERM and SIGHUP into an orderly end with exit code 130.
///
/// # Errors
/// If the signal handlers cannot be installed.
pub fn end_cleanly_on_signals() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .context("the signal thread has no runtime")?;
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            if let Err(error) = runtime.block_on(first_signal()) {
                eprintln!("perf: signals are not watched: {error}");
                return;
            }
            let entries = {
                let mut table = table();
                table.is_ending = true;
                std::mem::take(&mut table.entries)
            };
            for entry in entries.iter().rev() {
                entry.remove();
            }
            std::process::exit(130);
        })
        .context("the signal thread cannot be started")?;
    Ok(())
}

async fn first_signal() -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    std::future::poll_fn(|context| {
        let arrived = [&mut interrupt, &mut terminate, &mut hangup]
            .into_iter()
            .any(|stream| stream.poll_recv(context).is_ready());
        if arrived { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    Ok(())
}
