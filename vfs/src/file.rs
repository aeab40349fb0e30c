//! The open files as the shard sees them, and what it publishes of them.

#![forbid(unsafe_code)]

use std::sync::Arc;

use crate::arena::Arena;
use crate::attr::FileId;
use crate::handle::{HandlePublisher, HandleTable, OPEN_FILES_MAX, OpenView};
use crate::readahead::Readahead;

/// One open file.
#[derive(Debug)]
pub(crate) struct OpenFile {
    pub(crate) id: FileId,
    pub(crate) version: u64,
    pub(crate) size: u64,
    pub(crate) readahead: Readahead,
    /// False until the host has said yes.
    pub(crate) is_open: bool,
}

/// All open files; each that is open stands in the shared table too.
#[derive(Debug)]
pub(crate) struct OpenFiles {
    files: Arena<OpenFile>,
    publisher: HandlePublisher,
}

impl OpenFiles {
    pub(crate) fn new() -> Self {
        Self { files: Arena::new(OPEN_FILES_MAX), publisher: HandlePublisher::new(OPEN_FILES_MAX) }
    }

    pub(crate) fn table(&self) -> Arc<HandleTable> {
        self.publisher.table()
    }

    pub(crate) fn len(&self) -> usize {
        self.files.len()
    }

    /// Takes a handle for a file that is being opened; `None` when there are too many.
    pub(crate) fn reserve(&mut self, id: FileId) -> Option<u64> {
        let readahead = Readahead::default();
        self.files.insert(OpenFile { id, version: 0, size: 0, readahead, is_open: false }).ok()
    }

    pub(crate) fn get(&self, fh: u64) -> Option<&OpenFile> {
        self.files.get(fh)
    }

    /// The file under a handle the kernel may use.
    pub(crate) fn open_mut(&mut self, fh: u64) -> Option<&mut OpenFile> {
        self.files.get_mut(fh).filter(|file| file.is_open)
    }

    /// Opens a reserved handle, or tells an open one what its file has become.
    pub(crate) fn set_content(&mut self, fh: u64, version: u64, size: u64) {
        if let Some(file) = self.files.get_mut(fh)
            && (!file.is_open || (file.version, file.size) != (version, size))
        {
            (file.version, file.size, file.is_open) = (version, size, true);
            self.publisher.publish(fh, OpenView { file: file.id.ino, version, size });
        }
    }

    /// Tells all handles of one file what it has become.
    ///
    /// They always agree, so the first tells whether there is anything to do: a file that is open
    /// ten thousand times costs nothing until it changes.
    pub(crate) fn set_contents(&mut self, handles: &[u64], version: u64, size: u64) {
        let first = handles.first().and_then(|&fh| self.files.get(fh));
        if first.is_some_and(|file| (file.version, file.size) != (version, size)) {
            for &fh in handles {
                self.set_content(fh, version, size);
            }
        }
    }

    pub(crate) fn remove(&mut self, fh: u64) -> Option<OpenFile> {
        let file = self.files.remove(fh)?;
        self.publisher.retract(fh);
        Some(file)
    }

    pub(crate) fn check_invariants(&self) {
        let table = self.publisher.table();
        for (fh, file) in self.files.iter() {
            let OpenFile { id, version, size, is_open, .. } = *file;
            let view = OpenView { file: id.ino, version, size };
            assert_eq!(table.snapshot(fh), is_open.then_some(view));
        }
    }
}
