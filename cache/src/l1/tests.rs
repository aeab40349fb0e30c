//! The cache whole, through its public face: contents, bounds, held frames, back-pressure, threads.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};

use proptest::prelude::*;

use super::key::{SLAB_BYTES, UNIT_BYTES};
use super::*;

fn cache_of(slabs: u64) -> (L1Reader, L1Writer) {
    l1(L1Config { bytes_max: slabs << 20, seed: 0x5eed }).unwrap()
}

fn small(file: u64, index: u32) -> ChunkKey {
    ChunkKey { file, version: 1, index, class: FrameClass::Small }
}

fn large(file: u64, index: u32) -> ChunkKey {
    ChunkKey { class: FrameClass::Large, ..small(file, index) }
}

/// The word that stands everywhere in the chunk `key` of the given round.
fn word(key: &ChunkKey, round: u64) -> u64 {
    key.hash(round)
}

fn fill(bytes: &mut [u8], word: u64) {
    for piece in bytes.chunks_mut(8) {
        piece.copy_from_slice(&word.to_le_bytes()[..piece.len()]);
    }
}

#[track_caller]
fn check(bytes: &[u8], word: u64) {
    assert!(bytes.chunks(8).all(|piece| piece == &word.to_le_bytes()[..piece.len()]), "foreign bytes");
}

/// Inserts a chunk of `len` bytes if a frame can be had.
fn put(writer: &mut L1Writer, key: ChunkKey, round: u64, len: usize) -> Option<Frame> {
    let mut filled = writer.allocate(key.class)?;
    assert_eq!(filled.len(), key.class.bytes());
    fill(&mut filled[..len], word(&key, round));
    Some(writer.insert(key, filled, len as u32))
}

/// As [`put`], as part of a pass; each second chunk was waited for.
fn put_scan(writer: &mut L1Writer, key: ChunkKey, round: u64, len: usize) -> Option<Frame> {
    let mut filled = writer.allocate_for_scan(key.class)?;
    fill(&mut filled[..len], word(&key, round));
    let frame = writer.insert_for_scan(key, filled, len as u32);
    if round.is_multiple_of(2) {
        frame.count_use();
    }
    Some(frame)
}

#[test]
fn a_chunk_is_found_under_its_exact_key_only() {
    let (reader, mut writer) = cache_of(2);
    let key = small(3, 4);
    assert!(reader.lookup(&key).is_none());
    let inserted = put(&mut writer, key, 0, 1000).unwrap();
    let found = reader.lookup(&key).unwrap();
    check(&found, word(&key, 0));
    assert_eq!((found.len(), found.as_ptr()), (1000, inserted.as_ptr()), "the frame itself, not a copy");
    let others =
        [small(4, 4), small(3, 5), large(3, 4), ChunkKey { version: 2, ..key }, ChunkKey { version: 0, ..key }];
    assert!(others.iter().all(|other| reader.lookup(other).is_none()));
    let stats = reader.stats();
    assert_eq!((stats.hits, stats.misses, stats.insertions, stats.frames_resident), (1, 6, 1, 1));
    assert_eq!(stats.bytes_resident, UNIT_BYTES as u64);
}

#[test]
fn an_empty_chunk_and_a_full_one_are_chunks() {
    let (reader, mut writer) = cache_of(2);
    put(&mut writer, small(1, 0), 0, 0).unwrap();
    put(&mut writer, large(1, 0), 0, SLAB_BYTES).unwrap();
    assert!(reader.lookup(&small(1, 0)).unwrap().is_empty());
    check(&reader.lookup(&large(1, 0)).unwrap(), word(&large(1, 0), 0));
}

#[test]
fn a_newer_value_replaces_the_older_and_holders_keep_theirs() {
    let (reader, mut writer) = cache_of(1);
    let key = small(1, 1);
    let older = put(&mut writer, key, 1, UNIT_BYTES).unwrap();
    put(&mut writer, key, 2, 100).unwrap();
    check(&older, word(&key, 1));
    let newer = reader.lookup(&key).unwrap();
    check(&newer, word(&key, 2));
    assert_eq!((newer.len(), reader.stats().replacements, reader.stats().frames_resident), (100, 1, 1));
}

#[test]
fn held_frames_survive_everything_that_can_happen_to_their_chunk() {
    let (reader, mut writer) = cache_of(4);
    let passed_over = put(&mut writer, small(1, 0), 7, UNIT_BYTES).unwrap();
    let replaced = put(&mut writer, large(2, 0), 7, SLAB_BYTES).unwrap();
    let twin = passed_over.clone();
    drop(put(&mut writer, large(2, 0), 8, SLAB_BYTES));
    for round in 0..200 {
        let key = if round % 3 == 0 { large(9, round) } else { small(9, round) };
        put(&mut writer, key, u64::from(round), 512).unwrap();
    }
    assert!(reader.stats().evictions > 100);
    drop(passed_over);
    check(&twin, word(&small(1, 0), 7));
    check(&replaced, word(&large(2, 0), 7));
    drop((reader, writer));
    check(&twin, word(&small(1, 0), 7));
    check(&replaced, word(&large(2, 0), 7));
}

#[test]
fn allocation_fails_while_all_is_held_and_recovers() {
    let (reader, mut writer) = cache_of(2);
    let held: Vec<_> = (0..2).map(|index| put(&mut writer, large(1, index), 0, 1).unwrap()).collect();
    assert!(writer.allocate(FrameClass::Large).is_none());
    assert!(writer.allocate(FrameClass::Small).is_none());
    assert_eq!(reader.stats().frames_resident, 2, "nothing is evicted in vain");
    drop(held);
    let filling: Vec<_> = std::iter::from_fn(|| writer.allocate(FrameClass::Small)).collect();
    assert_eq!(filling.len(), 32);
    assert_eq!(reader.stats().bytes_resident, 2 << 20);
    drop(filling);
    assert!(writer.allocate(FrameClass::Large).is_some(), "small frames given up become a large one");
}

#[test]
fn one_held_small_frame_blocks_its_own_slab_only() {
    let (reader, mut writer) = cache_of(3);
    let held: Vec<_> = (0..48).map(|index| put(&mut writer, small(1, index), 0, 8).unwrap()).collect();
    let kept = [held[0].clone(), held[47].clone()];
    drop(held);
    assert!(writer.allocate(FrameClass::Large).is_some(), "the middle slab can be had");
    let stats = reader.stats();
    assert_eq!((stats.evictions, stats.frames_resident), (16, 32), "and nothing else went for it");
    drop(kept);
}

#[test]
fn a_peek_is_not_a_use() {
    let (reader, mut writer) = cache_of(1);
    put(&mut writer, small(1, 0), 0, 8).unwrap();
    assert!(reader.peek(&small(1, 0)).is_some());
    assert!(reader.peek(&small(1, 1)).is_none());
    assert_eq!((reader.stats().hits, reader.stats().misses), (0, 0));
}

#[test]
fn chunks_in_use_outlive_a_stream_many_times_the_budget() {
    let (reader, mut writer) = cache_of(8);
    for index in 0..40 {
        put(&mut writer, small(1, index), 0, 8).unwrap();
    }
    for index in 0..400 {
        if index % 10 == 0 {
            for hot in 0..40 {
                let _ = reader.lookup(&small(1, hot));
            }
        }
        put(&mut writer, small(2, index), 0, 8).unwrap();
    }
    assert!((0..40).all(|hot| reader.lookup(&small(1, hot)).is_some()));
}

#[test]
fn budgets_out_of_range_are_refused() {
    let build = |bytes_max| l1(L1Config { bytes_max, seed: 0 });
    assert!(matches!(build(BYTES_MIN - 1), Err(L1Error::BudgetOutOfRange { .. })));
    assert!(matches!(build(BYTES_MAX + 1), Err(L1Error::BudgetOutOfRange { .. })));
    let (_, mut writer) = build(BYTES_MIN + 5).unwrap();
    let only = writer.allocate(FrameClass::Large);
    assert!(only.is_some() && writer.allocate(FrameClass::Small).is_none(), "rounded down to one slab");
}

#[test]
#[should_panic(expected = "of the key's class")]
fn a_frame_of_the_wrong_class_is_refused() {
    let (_, mut writer) = cache_of(1);
    let filled = writer.allocate(FrameClass::Small).unwrap();
    let _ = writer.insert(large(1, 0), filled, 1);
}

#[test]
#[should_panic(expected = "bytes in a frame of")]
fn a_length_beyond_the_frame_is_refused() {
    let (_, mut writer) = cache_of(1);
    let filled = writer.allocate(FrameClass::Small).unwrap();
    let _ = writer.insert(small(1, 0), filled, UNIT_BYTES as u32 + 1);
}

#[test]
#[should_panic(expected = "lent by this cache")]
fn a_frame_of_another_cache_is_refused() {
    let ((_, mut one), (_, mut other)) = (cache_of(1), cache_of(1));
    let filled = one.allocate(FrameClass::Small).unwrap();
    let _ = other.insert(small(1, 0), filled, 1);
}

#[test]
fn ends_and_frames_go_where_they_must() {
    fn shared<T: Clone + Send + Sync + AsRef<[u8]> + 'static>() {}
    fn read_anywhere<T: Clone + Send + Sync + 'static>() {}
    fn moved<T: Send + 'static>() {}
    shared::<Frame>();
    read_anywhere::<L1Reader>();
    moved::<FrameMut>();
    moved::<L1Writer>();
}

#[derive(Clone, Debug)]
enum Op {
    Insert { key: ChunkKey, len: u16, hold: bool, is_scan: bool },
    Abandon(FrameClass),
    Lookup(ChunkKey),
    Hold(ChunkKey),
    Release(prop::sample::Index),
}

fn class() -> impl Strategy<Value = FrameClass> {
    prop_oneof![4 => Just(FrameClass::Small), 1 => Just(FrameClass::Large)]
}

fn key() -> impl Strategy<Value = ChunkKey> {
    (0..4_u64, 0..2_u64, 0..12_u32, class()).prop_map(|(file, version, index, class)| ChunkKey {
        file,
        version,
        index,
        class,
    })
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => (key(), 0..600_u16, prop::bool::weighted(0.2), any::<bool>())
            .prop_map(|(key, len, hold, is_scan)| Op::Insert { key, len, hold, is_scan }),
        1 => class().prop_map(Op::Abandon),
        8 => key().prop_map(Op::Lookup),
        2 => key().prop_map(Op::Hold),
        3 => any::<prop::sample::Index>().prop_map(Op::Release),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Against a map that never forgets: what is found is what was last put there, held frames do not change,
    /// the budget holds and the counters add up after every step.
    #[test]
    fn answers_like_a_map_that_may_forget(slabs in 1..4_u64, ops in prop::collection::vec(op(), 1..250)) {
        let (reader, mut writer) = cache_of(slabs);
        let mut model: HashMap<ChunkKey, (u64, usize)> = HashMap::new();
        let mut held: Vec<(Frame, u64, usize)> = Vec::new();
        let (mut lookups, mut insertions) = (0, 0);
        for (round, op) in ops.into_iter().enumerate() {
            let round = round as u64;
            match op {
                Op::Insert { key, len, hold, is_scan } => match if is_scan { put_scan } else { put }(&mut writer, key, round, len.into()) {
                    Some(frame) => {
                        insertions += 1;
                        model.insert(key, (round, len.into()));
                        if hold {
                            held.push((frame, word(&key, round), len.into()));
                        }
                    }
                    None => prop_assert!(!held.is_empty(), "refused although nobody holds anything"),
                },
                Op::Abandon(class) => drop(writer.allocate(class)),
                Op::Lookup(key) => {
                    lookups += 1;
                    if let Some(frame) = reader.lookup(&key) {
                        let (round, len) = model.get(&key).copied().expect("found what was never put");
                        check(&frame, word(&key, round));
                        prop_assert_eq!(frame.len(), len);
                    }
                }
                Op::Hold(key) => {
                    if let Some(frame) = reader.peek(&key) {
                        let (round, len) = model[&key];
                        held.push((frame, word(&key, round), len));
                    }
                }
                Op::Release(pick) if !held.is_empty() => drop(held.swap_remove(pick.index(held.len()))),
                Op::Release(_) => {}
            }
            for (frame, word, len) in &held {
                check(frame, *word);
                prop_assert_eq!(frame.len(), *len);
            }
            let stats = reader.stats();
            prop_assert!(stats.bytes_resident <= slabs << 20);
            prop_assert_eq!(stats.hits + stats.misses, lookups);
            prop_assert_eq!(stats.insertions, insertions);
            prop_assert_eq!(stats.insertions, stats.evictions + stats.replacements + stats.frames_resident);
            let found = model.keys().filter(|key| reader.peek(key).is_some()).count() as u64;
            prop_assert_eq!(found, stats.frames_resident, "as many are found as are said to be there");
        }
        // Once all is let go, every byte of the budget can be had again.
        held.clear();
        let all: Vec<_> = std::iter::from_fn(|| writer.allocate(FrameClass::Large)).collect();
        prop_assert_eq!(all.len() as u64, slabs);
    }
}

/// Real threads, a cache far too small for the keys: each reader checks every byte of what it finds, and again after
/// holding it while the writer turns the cache over.
#[test]
fn readers_never_see_foreign_bytes() {
    const KEYS: u32 = 96;
    const ROUNDS: u64 = 6000;
    let (reader, mut writer) = cache_of(3);
    let key = |number: u32| {
        if number.is_multiple_of(8) { large(5, number) } else { small(u64::from(number % 7), number) }
    };
    let len = |key: &ChunkKey| {
        if key.class == FrameClass::Large { 4096 } else { 1024 + key.index as usize }
    };
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let read = |first: u32| {
            let (reader, done) = (reader.clone(), &done);
            move || {
                let mut held: Option<(Frame, u64)> = None;
                let (mut number, mut hits) = (first, 0_u64);
                while !done.load(Ordering::Relaxed) || hits == 0 {
                    number = (number.wrapping_mul(5) + 17) % KEYS;
                    let key = key(number);
                    if let Some(frame) = reader.lookup(&key) {
                        hits += 1;
                        assert_eq!(frame.len(), len(&key));
                        // The round is in the first word's place of a fixed set: the word names key and round.
                        let stored = u64::from_le_bytes(frame[..8].try_into().unwrap());
                        assert!((0..4).any(|round| word(&key, round) == stored), "another chunk's bytes");
                        check(&frame, stored);
                        if let Some((held, stored)) = held.replace((frame, stored)) {
                            check(&held, stored);
                        }
                    }
                }
                hits
            }
        };
        let readers = [scope.spawn(read(1)), scope.spawn(read(2))];
        for round in 0..ROUNDS {
            let number = (round.wrapping_mul(0x9e37_79b9) >> 7) as u32 % KEYS;
            let key = key(number);
            drop(put(&mut writer, key, round % 4, len(&key)));
        }
        // A chunk to find, should the scheduler have kept a reader from finding any so far.
        for number in 0..KEYS {
            drop(put(&mut writer, key(number), 0, len(&key(number))));
        }
        done.store(true, Ordering::Relaxed);
        for reader in readers {
            assert!(reader.join().unwrap() > 0);
        }
    });
    let stats = reader.stats();
    assert!(stats.evictions > 1000, "{stats:?}");
    assert_eq!(stats.insertions, stats.evictions + stats.replacements + stats.frames_resident);
    let all: Vec<_> = std::iter::from_fn(|| writer.allocate(FrameClass::Large)).collect();
    assert_eq!(all.len(), 3, "every frame came home");
}
