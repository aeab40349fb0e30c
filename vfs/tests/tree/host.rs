//! A share in memory that answers calls as the real host would.

use std::collections::BTreeMap;

use vfs::{Answer, Attr, Call, DirEntry, Errno, FileId, FileKind, ROOT_INO, StatFs, Timestamp};

/// One file of the share.
#[derive(Clone, Debug)]
pub struct HostFile {
    pub attr: Attr,
    pub target: Vec<u8>,
    /// Name, inode number and cookie, in the directory's order.
    pub entries: Vec<(Vec<u8>, u64, u64)>,
}

#[derive(Debug)]
pub struct Host {
    pub files: BTreeMap<u64, HostFile>,
    next_ino: u64,
    next_cookie: u64,
    pub entries_per_page: usize,
}

pub const STATFS: StatFs = StatFs {
    blocks: 1000,
    blocks_free: 500,
    blocks_available: 400,
    files: 77,
    files_free: 33,
    block_size: 4096,
    name_bytes_max: 255,
    fragment_size: 4096,
};

impl Host {
    pub fn new() -> Self {
        let mut host = Self { files: BTreeMap::new(), next_ino: ROOT_INO, next_cookie: 1, entries_per_page: 3 };
        host.insert(FileKind::Directory);
        host
    }

    /// A file without a name.
    pub fn insert(&mut self, kind: FileKind) -> u64 {
        let ino = self.next_ino;
        self.next_ino += 1;
        let time = Timestamp { seconds: ino as i64, nanoseconds: 5 };
        let attr = Attr {
            id: FileId { ino, birth_ns: 1000 + ino },
            kind,
            mode: 0o644,
            nlink: 1,
            uid: 10,
            gid: 20,
            rdev: 0,
            size: 4096 * ino,
            blocks: 8 * ino,
            atime: time,
            mtime: time,
            ctime: time,
            version: 1,
        };
        self.files.insert(ino, HostFile { attr, target: b"far/away".to_vec(), entries: vec![] });
        ino
    }

    /// Gives a file a name, at the end of the directory, under a cookie without order.
    pub fn link(&mut self, parent: u64, name: &[u8], ino: u64) {
        self.unlink(parent, name);
        let cookie = (self.next_cookie.wrapping_mul(0x9e37_79b9_7f4a_7c15) & i64::MAX as u64).max(1);
        self.next_cookie += 1;
        self.file(parent).entries.push((name.to_vec(), ino, cookie));
    }

    pub fn create(&mut self, parent: u64, name: &[u8], kind: FileKind) -> u64 {
        let ino = self.insert(kind);
        self.link(parent, name, ino);
        ino
    }

    pub fn unlink(&mut self, parent: u64, name: &[u8]) -> Option<u64> {
        let entries = &mut self.file(parent).entries;
        let index = entries.iter().position(|(entry, ..)| entry == name)?;
        Some(entries.remove(index).1)
    }

    pub fn file(&mut self, ino: u64) -> &mut HostFile {
        self.files.get_mut(&ino).expect("the test names a file that exists")
    }

    pub fn attr(&self, ino: u64) -> Attr {
        self.files[&ino].attr
    }

    pub fn child(&self, parent: u64, name: &[u8]) -> Option<u64> {
        let entries = &self.files[&parent].entries;
        entries.iter().find(|(entry, ..)| entry == name).map(|&(_, ino, _)| ino)
    }

    pub fn resolve(&self, path: &[u8]) -> Result<&HostFile, Errno> {
        let mut ino = ROOT_INO;
        for name in path.split(|&byte| byte == b'/').filter(|name| !name.is_empty()) {
            ino = self.child(ino, name).ok_or(Errno::ENOENT)?;
        }
        Ok(&self.files[&ino])
    }

    /// What the host says; `None` to a close.
    pub fn answer(&self, call: &Call) -> Option<Result<Answer, Errno>> {
        Some(match call {
            Call::Attr { path } => self.resolve(path).map(|file| Answer::Attr(file.attr)),
            Call::Readlink { path } => self.resolve(path).map(|file| Answer::Link(file.target.clone())),
            Call::List { path, cursor } => self.resolve(path).map(|file| self.page(file, *cursor)),
            Call::Open { path, id, .. } => match self.resolve(path) {
                Ok(file) if file.attr.id == *id => Ok(Answer::Opened(file.attr)),
                Ok(_) => Err(Errno::ESTALE),
                Err(errno) => Err(errno),
            },
            Call::Close { .. } => return None,
            Call::Statfs => Ok(Answer::Statfs(STATFS)),
        })
    }

    fn page(&self, directory: &HostFile, cursor: u64) -> Answer {
        let after = directory.entries.iter().position(|&(.., cookie)| cookie == cursor);
        let start = if cursor == 0 { 0 } else { after.map_or(directory.entries.len(), |i| i + 1) };
        let rest = &directory.entries[start..];
        let shown = &rest[..rest.len().min(self.entries_per_page)];
        let entries = shown.iter().map(|(name, ino, cookie)| DirEntry {
            name: name.clone(),
            cookie: *cookie,
            attr: self.attr(*ino),
        });
        Answer::Page { entries: entries.collect(), end: shown.len() == rest.len() }
    }
}
