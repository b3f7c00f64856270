use super::chunk::{Chunk, FULL, SLOTS, portable, vector};
use super::index::{Index, UNKNOWN};
use super::{Change, Store};

/// Numbers that look random and are the same in each run.
fn numbers(mut state: u64) -> impl FnMut() -> u64 {
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    }
}

fn chunk(next: &mut impl FnMut() -> u64) -> Chunk {
    let spread = 1 + next() % 8;
    let mut chunk = Chunk::EMPTY;
    for at in 0..SLOTS {
        chunk.lower[at] = (next() % spread) as u16;
        if !next().is_multiple_of(3) {
            chunk.upper[at] = FULL | (next() % spread) as u16;
        }
    }
    chunk.passed = next() as u16 % 3 * (FULL - 1) / 2;
    chunk.unused = (next() as u16 % 3) | (next() as u16 & FULL);
    chunk
}

#[test]
fn vectors_and_words_say_the_same() {
    let mut next = numbers(7);
    for _ in 0..if cfg!(miri) { 200 } else { 20_000 } {
        let chunk = chunk(&mut next);
        let expected = |is_in: &dyn Fn(usize) -> bool| {
            (0..SLOTS).map(|at| u32::from(is_in(at)) << at).sum::<u32>()
        };
        let vacant = expected(&|at| chunk.upper[at] == 0);
        assert_eq!(vector::vacant(&chunk), vacant);
        assert_eq!(portable::vacant(&chunk), vacant);
        for bits in [u16::MAX, !1, !3, FULL] {
            let mark = (FULL | (next() as u16 % 8)) & bits;
            let equal = expected(&|at| chunk.upper[at] & bits == mark);
            assert_eq!(vector::matches(&chunk, mark, bits), equal);
            assert_eq!(portable::matches(&chunk, mark, bits), equal);
        }
        let slot = (u32::from(FULL | (next() as u16 % 4)) << 16) | (next() as u32 % 4);
        let held = expected(&|at| chunk.slot(at as u32) == slot);
        assert_eq!(vector::holds(&chunk, slot), held);
        assert_eq!(portable::holds(&chunk, slot), held);
    }
}

/// Inserts and removes under hashes that `hash` makes of keys, and compares with a plain list.
fn churn(capacity: usize, hash: impl Fn(u64) -> u64) {
    let mut next = numbers(capacity as u64 + 1);
    let mut store = Store::<u64, u64>::new(1);
    store.grow(capacity, |key| hash(*key));
    let mut model: Vec<u64> = Vec::new();
    for _ in 0..if cfg!(miri) { 100 } else { 3000 } {
        let key = next() % (capacity as u64 * 2);
        let found = store.find(hash(key), |held| *held == key);
        assert_eq!(found.is_some(), model.contains(&key));
        if let Some(id) = found {
            model.retain(|held| *held != key);
            assert_eq!(store.remove(id, hash(key)), (key, !key));
        } else if model.len() < capacity {
            model.push(key);
            store.insert(0, hash(key), key, !key);
        } else {
            let oldest = store.oldest(0).unwrap();
            let old = *store.key(oldest);
            model.retain(|held| *held != old);
            model.push(key);
            let left = store.reuse(oldest, 0, Change { from: hash(old), to: hash(key) }, key, !key);
            assert_eq!(left, (old, !old));
        }
        store.validate(Some(&|key| hash(*key)));
    }
}

#[test]
fn hostile_hashes_are_slow_and_never_wrong() {
    for capacity in [1, 2, 11, 12, 13, 40, 100, 300] {
        if cfg!(miri) && capacity > 40 {
            break;
        }
        churn(capacity, |_| 0);
        churn(capacity, |_| u64::MAX);
        churn(capacity, |key| key);
        churn(capacity, |key| key << 32);
        churn(capacity, |key| key << 61);
        // The last chunk is everyone's home, so that probes wrap around.
        churn(capacity, |key| key | !0 << 32);
        churn(capacity, |key| key.wrapping_mul(0x9E37_79B9_7F4A_7C15));
    }
}

#[test]
fn a_chunk_knows_how_many_passed() {
    let mut index = Index::for_nodes(400);
    for id in 1..=400 {
        index.insert(0, id);
    }
    assert_eq!(index.chunk(0).passed, 385);
    for id in 1..=400 {
        index.remove(0, id);
        assert!(index.find(0, |found| found == id).is_none());
    }
    assert!(index.chunks.iter().all(|chunk| chunk.passed == 0));
}

#[test]
fn a_chunk_that_too_many_passed_stays_marked() {
    let mut index = Index::for_nodes(400);
    for id in 1..=16 {
        index.insert(0, id);
    }
    // As if that many had passed.
    index.chunks[0].passed = UNKNOWN - 1;
    for id in 17..=400 {
        index.insert(0, id);
    }
    assert_eq!(index.chunk(0).passed, UNKNOWN);
    for id in 1..=400 {
        index.remove(0, id);
    }
    // It does not know that nobody is left, and nothing goes wrong for it.
    assert_eq!(index.chunk(0).passed, UNKNOWN);
    assert!(index.chunks[1..].iter().all(|chunk| chunk.passed == 0));
    assert_eq!(index.find(0, |_| true), None);
    index.insert(0, 7);
    assert_eq!(index.find(0, |_| true), Some(7));
}

/// Other keys may be missed after such a lie, but no id that has left may stay behind.
#[test]
fn a_key_whose_hash_changes_still_leaves() {
    let mut index = Index::for_nodes(100);
    for id in 1..=100 {
        index.insert(u64::from(id % 3) << 60 | u64::from(id % 5), id);
    }
    for id in 1..=100 {
        index.remove(u64::from(id) << 50, id);
        let held = index.chunks.iter().flat_map(|chunk| &chunk.upper);
        assert_eq!(held.filter(|upper| **upper != 0).count(), 100 - id as usize);
    }
}

#[test]
fn a_node_is_as_small_as_it_can_be() {
    assert_eq!(size_of::<super::store::Node<u64, u64>>(), 24);
    assert_eq!(size_of::<Chunk>(), 64);
    assert_eq!(Store::<u64, u64>::ENTRY, 32);
}
