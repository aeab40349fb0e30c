//! The inodes the kernel holds, and nothing more.
//!
//! An inode lives while the kernel counts references to it (`nlookup`) or a child of it lives,
//! which needs it for its path. So memory follows the kernel's caches, not the share's size.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::attr::{Attr, FileId, ROOT_INO};
use crate::errno::Errno;

/// Longest path the host can be asked for: four times `PATH_MAX`, as shares and the wire have it, since programs reach
/// deeper than one system call can name by `openat(2)`.
pub const PATH_BYTES_MAX: usize = 16 * 1024;
/// Longest target of a symlink: `PATH_MAX` less its final NUL (symlink(2)).
pub const LINK_BYTES_MAX: usize = 4095;
/// Longest name of an entry: `NAME_MAX` (limits.h), and what FUSE accepts.
pub const NAME_BYTES_MAX: usize = 255;

/// One file the kernel holds a reference to, or the ancestor of one.
#[derive(Debug)]
pub(crate) struct Inode {
    pub(crate) id: FileId,
    /// Where it was last seen; a file with several names keeps one of them.
    parent: u64,
    name: Box<[u8]>,
    /// The attributes the kernel was last told, or is about to hear it must ask for.
    pub(crate) seen: Seen,
    /// References the kernel counts; it gives them back by forget.
    nlookup: u64,
    /// Inodes whose `parent` this is.
    children: u64,
    /// Version the pages in the kernel's cache have, if they all have one that is known.
    pub(crate) cached_version: Option<u64>,
    /// Open handles of the file.
    pub(crate) handles: Vec<u64>,
    /// The listing that the kernel may have of a directory in its cache.
    pub(crate) kept_listing: Option<KeptListing>,
    /// Open handles of the directory.
    pub(crate) open_directories: u32,
    /// When the kernel is told to forget that listing, where a handle is open that could be rewound to it.
    pub(crate) expires_at: Option<Instant>,
}

/// A listing in the kernel's cache.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KeptListing {
    /// When the oldest of it came from the host, or was asked for.
    pub(crate) since: Instant,
    /// Whether it was told to its end.
    pub(crate) is_whole: bool,
}

/// Attributes, and how far they can be trusted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen {
    pub(crate) attr: Attr,
    /// When they came from the host; `None` if that is not known.
    pub(crate) at: Option<Instant>,
    /// False if size and version are newer than the rest, so that the rest must be asked for.
    pub(crate) is_whole: bool,
}

/// What the kernel is told about an entry.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    pub(crate) seen: Seen,
    /// Whether what the listing showed is the newest known, so that the name may be believed.
    pub(crate) is_current: bool,
}

/// All inodes by number.
#[derive(Debug)]
pub(crate) struct InodeTable {
    /// Numbers come from the host, so the hash is keyed; walked by `check_invariants` alone.
    inodes: HashMap<u64, Inode>,
}

impl InodeTable {
    /// The root is told by the kernel's mount itself: it is counted by nobody and never freed.
    pub(crate) fn new(root: Attr) -> Self {
        let root = Seen { attr: root, at: None, is_whole: false };
        let mut table = Self { inodes: HashMap::new() };
        table.inodes.insert(ROOT_INO, Inode::new(ROOT_INO, b"", root));
        table
    }

    pub(crate) fn get(&self, ino: u64) -> Result<&Inode, Errno> {
        self.inodes.get(&ino).ok_or(Errno::ESTALE)
    }

    pub(crate) fn get_mut(&mut self, ino: u64) -> Result<&mut Inode, Errno> {
        self.inodes.get_mut(&ino).ok_or(Errno::ESTALE)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Inode> {
        self.inodes.values()
    }

    pub(crate) fn len(&self) -> usize {
        self.inodes.len()
    }

    /// The number of the directory an inode was last seen in; the root's is its own.
    pub(crate) fn parent(&self, ino: u64) -> Result<u64, Errno> {
        self.get(ino).map(|inode| inode.parent)
    }

    /// The path of an inode, from the names it and its ancestors were last seen under.
    pub(crate) fn path(&self, ino: u64) -> Result<Vec<u8>, Errno> {
        self.path_with(ino, None)
    }

    /// The path of a name in a directory.
    pub(crate) fn path_of_child(&self, parent: u64, name: &[u8]) -> Result<Vec<u8>, Errno> {
        self.path_with(parent, Some(name))
    }

    fn path_with(&self, ino: u64, child: Option<&[u8]>) -> Result<Vec<u8>, Errno> {
        let mut names: Vec<&[u8]> = child.into_iter().collect();
        let mut bytes = child.map_or(0, <[u8]>::len);
        let mut inode = self.get(ino)?;
        while inode.id.ino != ROOT_INO {
            bytes += inode.name.len() + usize::from(!names.is_empty());
            if bytes > PATH_BYTES_MAX {
                return Err(Errno::ENAMETOOLONG);
            }
            names.push(&inode.name);
            inode = self.get(inode.parent)?;
        }
        if bytes > PATH_BYTES_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        names.reverse();
        Ok(names.join(&b'/'))
    }

    /// Decides what the kernel hears about an entry the host showed `seen_at`.
    ///
    /// A page of a listing may have waited while newer attributes came: the newer ones are told.
    ///
    /// # Errors
    /// - [`Errno::ESTALE`]: the directory is gone, or the entry would make it its own ancestor,
    ///   which happens when the host moves directories between two answers.
    /// - [`Errno::EIO`]: the entry claims the root's number, or 0.
    pub(crate) fn entry(&self, parent: u64, attr: &Attr, seen_at: Instant) -> Result<Entry, Errno> {
        if attr.id.ino == 0 || attr.id.ino == ROOT_INO {
            return Err(Errno::EIO);
        }
        self.get(parent)?;
        let seen = Seen { attr: *attr, at: Some(seen_at), is_whole: true };
        if let Some(known) = self.inodes.get(&attr.id.ino) {
            if seen.at < known.seen.at {
                return Ok(Entry { seen: known.seen, is_current: false });
            }
            if known.parent != parent && self.is_ancestor(attr.id.ino, parent) {
                return Err(Errno::ESTALE);
            }
        }
        Ok(Entry { seen, is_current: true })
    }

    /// Counts one reference to an entry that [`entry`](Self::entry) approved; returns its inode.
    ///
    /// What was seen last names the file, unless something newer is known of it.
    pub(crate) fn count_lookup(&mut self, parent: u64, name: &[u8], entry: &Entry) -> &mut Inode {
        let id = entry.seen.attr.id;
        match self.inodes.get_mut(&id.ino) {
            None => {
                self.inodes.insert(id.ino, Inode::new(parent, name, entry.seen));
                self.adopt(parent);
            }
            Some(inode) => {
                if inode.id != id {
                    // The number went to another file: nothing known of the old one holds.
                    inode.id = id;
                    inode.cached_version = None;
                    inode.kept_listing = None;
                    inode.handles.clear();
                }
                inode.seen = entry.seen;
                if entry.is_current && (inode.parent, &*inode.name) != (parent, name) {
                    let left = std::mem::replace(&mut inode.parent, parent);
                    inode.name = name.into();
                    self.adopt(parent);
                    self.abandon(left);
                }
            }
        }
        let inode = self.inodes.get_mut(&id.ino).expect("inserted or found above");
        inode.nlookup += 1;
        inode
    }

    /// Gives back references; frees the inode and those it alone kept alive.
    pub(crate) fn forget(&mut self, ino: u64, nlookup: u64) {
        if let Some(inode) = self.inodes.get_mut(&ino) {
            inode.nlookup = inode.nlookup.saturating_sub(nlookup);
            self.free_unless_held(ino);
        }
    }

    fn adopt(&mut self, parent: u64) {
        let parent = self.inodes.get_mut(&parent).expect("`entry` found the parent");
        parent.children += 1;
    }

    fn abandon(&mut self, parent: u64) {
        let inode = self.inodes.get_mut(&parent).expect("a child keeps its parent alive");
        inode.children -= 1;
        self.free_unless_held(parent);
    }

    fn free_unless_held(&mut self, mut ino: u64) {
        while let Some(inode) = self.inodes.get(&ino)
            && inode.nlookup == 0
            && inode.children == 0
            && ino != ROOT_INO
        {
            let parent = inode.parent;
            self.inodes.remove(&ino);
            let holder = self.inodes.get_mut(&parent).expect("a child keeps its parent alive");
            holder.children -= 1;
            ino = parent;
        }
    }

    /// Whether the way from `ino` up to the root passes `ancestor`, `ino` itself included.
    fn is_ancestor(&self, ancestor: u64, mut ino: u64) -> bool {
        while ino != ROOT_INO {
            if ino == ancestor {
                return true;
            }
            ino = self.inodes[&ino].parent;
        }
        false
    }

    pub(crate) fn check_invariants(&self) {
        let mut children: HashMap<u64, u64> = HashMap::new();
        for (&ino, inode) in &self.inodes {
            assert_eq!(ino, inode.id.ino);
            assert_eq!(ino, inode.seen.attr.id.ino);
            if ino == ROOT_INO {
                continue;
            }
            *children.entry(inode.parent).or_default() += 1;
            assert!(inode.nlookup > 0 || inode.children > 0, "{ino} is held by nobody");
            assert!(inode.name.len() <= NAME_BYTES_MAX && !inode.name.is_empty());
            let mut above = ino;
            for _ in 0..=self.inodes.len() {
                above = self.inodes[&above].parent;
            }
            assert_eq!(above, ROOT_INO, "{ino} does not lead to the root");
        }
        for (&ino, inode) in &self.inodes {
            assert_eq!(inode.children, children.remove(&ino).unwrap_or(0), "children of {ino}");
        }
        assert!(children.is_empty(), "parents that do not exist: {children:?}");
    }
}

impl Inode {
    fn new(parent: u64, name: &[u8], seen: Seen) -> Self {
        Self {
            id: seen.attr.id,
            parent,
            name: name.into(),
            seen,
            nlookup: 0,
            children: 0,
            cached_version: None,
            handles: Vec::new(),
            kept_listing: None,
            open_directories: 0,
            expires_at: None,
        }
    }
}

impl Seen {
    /// How long the attributes still hold, of `ttl` when they came.
    pub(crate) fn remaining(&self, now: Instant, ttl: Duration) -> Duration {
        match self.at {
            Some(at) if self.is_whole => remaining(at, now, ttl),
            _ => Duration::ZERO,
        }
    }
}

/// What is left at `now` of a time to live that began at `since`.
pub(crate) fn remaining(since: Instant, now: Instant, ttl: Duration) -> Duration {
    ttl.saturating_sub(now.saturating_duration_since(since))
}

/// Whether the kernel could have asked for this name, and a listing may show it.
pub(crate) fn is_valid_name(name: &[u8]) -> bool {
    (1..=NAME_BYTES_MAX).contains(&name.len())
        && name != b"."
        && name != b".."
        && !name.iter().any(|&byte| byte == b'/' || byte == 0)
}
