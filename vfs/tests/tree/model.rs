//! Random shares and random requests, against what a kernel would count and a host would say.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use proptest::sample::Index;
use vfs::{EntryReply, FileKind, Op, ROOT_INO};

use super::host::Host;
use super::rig::Rig;

/// Longer than any time to live.
const SETTLED: Duration = Duration::from_secs(2);

#[derive(Clone, Debug)]
enum Step {
    Lookup {
        parent: Index,
        name: u8,
    },
    /// Lookups under way at one time, answered in another order.
    Storm {
        lookups: Vec<(Index, u8)>,
        order: Vec<Index>,
    },
    Forget {
        held: Index,
        nlookup: u64,
    },
    Getattr {
        held: Index,
    },
    Readdir {
        parent: Index,
        offset: Index,
        bytes_max: usize,
    },
    ReaddirPlus {
        parent: Index,
        offset: Index,
        bytes_max: usize,
    },
    Open {
        held: Index,
    },
    Release {
        open: Index,
    },
    Pass {
        ms: u64,
    },
    HostCreate {
        parent: Index,
        name: u8,
        is_directory: bool,
    },
    HostUnlink {
        parent: Index,
        name: u8,
    },
    HostMove {
        parent: Index,
        name: u8,
        target: Index,
        new_name: u8,
    },
    HostWrite {
        file: Index,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let index = any::<Index>;
    let name = || 0u8..6;
    prop_oneof![
        6 => (index(), name()).prop_map(|(parent, name)| Step::Lookup { parent, name }),
        2 => (
            prop::collection::vec((index(), name()), 1..6),
            prop::collection::vec(index(), 6),
        ).prop_map(|(lookups, order)| Step::Storm { lookups, order }),
        4 => (index(), 1u64..4).prop_map(|(held, nlookup)| Step::Forget { held, nlookup }),
        2 => index().prop_map(|held| Step::Getattr { held }),
        3 => (index(), index(), 40usize..400).prop_map(|(parent, offset, bytes_max)| {
            Step::Readdir { parent, offset, bytes_max }
        }),
        4 => (index(), index(), 160usize..1200).prop_map(|(parent, offset, bytes_max)| {
            Step::ReaddirPlus { parent, offset, bytes_max }
        }),
        2 => index().prop_map(|held| Step::Open { held }),
        1 => index().prop_map(|open| Step::Release { open }),
        3 => (0u64..3000).prop_map(|ms| Step::Pass { ms }),
        3 => (index(), name(), any::<bool>()).prop_map(|(parent, name, is_directory)| {
            Step::HostCreate { parent, name, is_directory }
        }),
        1 => (index(), name()).prop_map(|(parent, name)| Step::HostUnlink { parent, name }),
        1 => (index(), name(), index(), name()).prop_map(|(parent, name, target, new_name)| {
            Step::HostMove { parent, name, target, new_name }
        }),
        1 => index().prop_map(|file| Step::HostWrite { file }),
    ]
}

fn name(name: u8) -> Vec<u8> {
    vec![b'a' + name]
}

/// The kernel's side of the books.
struct Model {
    rig: Rig,
    /// References counted, by inode number.
    held: BTreeMap<u64, u64>,
    open: Vec<u64>,
    changed_at: Instant,
}

impl Model {
    fn new(shape: &[(Index, u8, bool)]) -> Self {
        let mut host = Host::new();
        let mut directories = vec![ROOT_INO];
        for (parent, entry, is_directory) in shape {
            let parent = *parent.get(&directories);
            if host.child(parent, &name(*entry)).is_none() {
                let kind = kind(*is_directory);
                let ino = host.create(parent, &name(*entry), kind);
                if *is_directory {
                    directories.push(ino);
                }
            }
        }
        let mut rig = Rig::new(host);
        let changed_at = rig.now;
        rig.pass(SETTLED);
        Self { rig, held: BTreeMap::new(), open: vec![], changed_at }
    }

    /// Inodes the kernel may name, the root included.
    fn known(&self) -> Vec<u64> {
        [ROOT_INO].into_iter().chain(self.held.keys().copied()).collect()
    }

    fn known_directories(&self) -> Vec<u64> {
        let is_directory = |ino: &u64| self.rig.host.attr(*ino).kind == FileKind::Directory;
        self.known().into_iter().filter(is_directory).collect()
    }

    fn count(&mut self, ino: u64) {
        *self.held.entry(ino).or_default() += 1;
    }

    /// Whether nothing changed for so long that every answer must be exact.
    fn is_settled(&self) -> bool {
        self.rig.now >= self.changed_at + SETTLED
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Lookup { parent, name: entry } => {
                let parent = *parent.get(&self.known_directories());
                let found = self.rig.lookup(parent, &name(entry));
                let ino = found.ok().and_then(|entry| entry.attr).map(|attr| attr.id.ino);
                if let Some(ino) = ino {
                    self.count(ino);
                }
                if self.is_settled() && self.is_where_it_was(parent) {
                    assert_eq!(ino, self.rig.host.child(parent, &name(entry)));
                }
            }
            Step::Storm { lookups, order } => self.storm(lookups, &order),
            Step::Forget { held, nlookup } => {
                let inos: Vec<u64> = self.held.keys().copied().collect();
                if !inos.is_empty() {
                    self.forget(*held.get(&inos), nlookup);
                }
            }
            Step::Getattr { held } => {
                let ino = *held.get(&self.known());
                let found = self.rig.getattr(ino);
                if let Ok(out) = found
                    && self.is_settled()
                    && self.is_where_it_was(ino)
                {
                    assert_eq!(out.attr, self.rig.host.attr(ino));
                }
            }
            Step::Readdir { parent, offset, bytes_max } => {
                self.list(&parent, &offset, |rig, ino, dh, offset| {
                    let entries = rig.readdir(ino, dh, offset, bytes_max).ok()?;
                    Some(entries.into_iter().map(|entry| (entry.name, entry.ino)).collect())
                });
            }
            Step::ReaddirPlus { parent, offset, bytes_max } => {
                let listed = self.list(&parent, &offset, |rig, ino, dh, offset| {
                    let entries = rig.readdirplus(ino, dh, offset, bytes_max).ok()?;
                    let listed = entries.into_iter().map(|entry| (entry.name, entry.attr.id.ino));
                    Some(listed.collect())
                });
                for (name, ino) in listed {
                    if name != b"." && name != b".." {
                        self.count(ino);
                    }
                }
            }
            Step::Open { held } => {
                let ino = *held.get(&self.known());
                if let Ok(out) = self.rig.open(ino) {
                    let view = self.rig.tree.handle_table().snapshot(out.fh).unwrap();
                    let attr = self.rig.host.attr(ino);
                    assert_eq!((view.file, view.version, view.size), (ino, attr.version, attr.size));
                    self.open.push(out.fh);
                }
            }
            Step::Release { open } => {
                if !self.open.is_empty() {
                    let fh = self.open.swap_remove(open.index(self.open.len()));
                    self.rig.release(fh).unwrap();
                }
            }
            Step::Pass { ms } => self.rig.pass(Duration::from_millis(ms)),
            change => self.change(change),
        }
    }

    fn change(&mut self, step: Step) {
        self.changed_at = self.rig.now;
        let host = &mut self.rig.host;
        let directories: Vec<u64> =
            host.files.iter().filter(|(_, file)| file.attr.kind == FileKind::Directory).map(|(&ino, _)| ino).collect();
        match step {
            Step::HostCreate { parent, name: entry, is_directory } => {
                host.create(*parent.get(&directories), &name(entry), kind(is_directory));
            }
            Step::HostUnlink { parent, name: entry } => {
                host.unlink(*parent.get(&directories), &name(entry));
            }
            Step::HostMove { parent, name: entry, target, new_name } => {
                let (parent, target) = (*parent.get(&directories), *target.get(&directories));
                // No directory may come to lie below itself.
                if let Some(ino) = host.child(parent, &name(entry))
                    && !reaches(host, ino, target)
                {
                    host.unlink(parent, &name(entry));
                    host.link(target, &name(new_name), ino);
                }
            }
            Step::HostWrite { file } => {
                let inos: Vec<u64> = host.files.keys().copied().collect();
                let attr = &mut host.file(*file.get(&inos)).attr;
                attr.version += 1;
                attr.size += 1;
            }
            step => unreachable!("{step:?} changes nothing on the host"),
        }
    }

    fn storm(&mut self, lookups: Vec<(Index, u8)>, order: &[Index]) {
        let directories = self.known_directories();
        let mut receivers = vec![];
        for (parent, entry) in lookups {
            let (reply, receiver) = EntryReply::channel();
            let parent = *parent.get(&directories);
            self.rig.feed(Op::Lookup { parent, name: name(entry), reply });
            receivers.push(receiver);
        }
        let mut calls: Vec<_> = std::iter::from_fn(|| self.rig.next_call()).collect();
        for index in order {
            if !calls.is_empty() {
                let (id, call) = calls.swap_remove(index.index(calls.len()));
                self.rig.answer(id, &call);
            }
        }
        self.rig.settle();
        for receiver in receivers {
            let found = receiver.try_recv().unwrap();
            if let Some(attr) = found.ok().and_then(|entry| entry.attr) {
                self.count(attr.id.ino);
            }
        }
    }

    /// Lists from any offset of a directory, and compares with what follows there on the host.
    fn list(
        &mut self,
        parent: &Index,
        offset: &Index,
        read: impl Fn(&mut Rig, u64, u64, u64) -> Option<Vec<(Vec<u8>, u64)>>,
    ) -> Vec<(Vec<u8>, u64)> {
        let ino = *parent.get(&self.known_directories());
        let dh = self.rig.opendir(ino).unwrap();
        let entries = self.rig.host.files[&ino].entries.clone();
        let mut expected: Vec<(Vec<u8>, u64)> = vec![(b".".to_vec(), ino)];
        expected.push((b"..".to_vec(), 0));
        expected.extend(entries.iter().map(|(name, ino, _)| (name.clone(), *ino)));
        let index = offset.index(expected.len() + 1);
        let offset = match index {
            0..=2 => index as u64,
            _ => entries[index - 3].2 + 2,
        };
        let listed = read(&mut self.rig, ino, dh, offset);
        self.rig.releasedir(dh).unwrap();
        let listed = listed.unwrap_or_default();
        if self.is_settled() && self.is_where_it_was(ino) {
            let rest = &expected[index..];
            assert!(!listed.is_empty() || rest.is_empty());
            for ((name, ino), (expected_name, expected_ino)) in listed.iter().zip(rest) {
                assert_eq!(name, expected_name);
                assert!(*expected_ino == *ino || name == b"..");
            }
            assert!(listed.len() <= rest.len());
        }
        listed
    }

    /// Whether the path the tree would ask with still leads to this very file.
    fn is_where_it_was(&mut self, ino: u64) -> bool {
        self.rig.pass(SETTLED);
        let found = self.rig.getattr(ino);
        found.is_ok_and(|out| out.attr_ttl > Duration::ZERO)
    }

    fn forget(&mut self, ino: u64, nlookup: u64) {
        let held = self.held.get_mut(&ino).unwrap();
        let given = nlookup.min(*held);
        *held -= given;
        if *held == 0 {
            self.held.remove(&ino);
        }
        self.rig.forget(ino, given);
    }
}

fn kind(is_directory: bool) -> FileKind {
    if is_directory { FileKind::Directory } else { FileKind::Regular }
}

fn reaches(host: &Host, from: u64, target: u64) -> bool {
    from == target || host.files[&from].entries.iter().any(|&(_, ino, _)| reaches(host, ino, target))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn counts_are_exact_and_answers_true(
        shape in prop::collection::vec((any::<Index>(), 0u8..6, any::<bool>()), 0..20),
        steps in prop::collection::vec(step(), 1..80),
        last in any::<u64>(),
    ) {
        let mut model = Model::new(&shape);
        for step in steps {
            model.step(step);
        }
        // All that is held can still be named; then it is forgotten in any order, to the last.
        while !model.held.is_empty() {
            let inos: Vec<u64> = model.held.keys().copied().collect();
            for &ino in &inos {
                let known = model.rig.getattr(ino);
                prop_assert!(known.is_ok() || known.err() == Some(vfs::Errno::ESTALE));
            }
            let ino = inos[(last % inos.len() as u64) as usize];
            let nlookup = model.held[&ino];
            model.forget(ino, nlookup);
        }
        prop_assert_eq!(model.rig.tree.inode_count(), 1);
        for fh in std::mem::take(&mut model.open) {
            model.rig.release(fh).unwrap();
        }
        prop_assert_eq!(model.rig.tree.handle_count(), 0);
    }
}
