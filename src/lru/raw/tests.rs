use super::Store;
use super::group::{FULL, Group, SLOTS, portable, vector};
use super::index::{Index, MANY};

/// Numbers that look random and are the same in each run.
fn numbers(mut state: u64) -> impl FnMut() -> u64 {
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    }
}

fn group(next: &mut impl FnMut() -> u64) -> Group {
    let (spread, vacant) = (1 + next() % 4, next() % 4);
    let mut group = Group::EMPTY;
    for tag in &mut group.tags {
        if next() % 4 >= vacant {
            *tag = FULL | (next() % spread) as u16 | (next() as u16 & 1 << 14);
        }
    }
    group
}

#[test]
fn vectors_and_words_say_the_same() {
    let mut next = numbers(7);
    for _ in 0..if cfg!(miri) { 200 } else { 20_000 } {
        let (a, b) = (group(&mut next), group(&mut next));
        let tags: Vec<u16> = a.tags.iter().chain(&b.tags).copied().collect();
        let expected = |is_in: &dyn Fn(u16) -> bool| -> u32 {
            tags.iter().enumerate().map(|(at, tag)| u32::from(is_in(*tag)) << at).sum()
        };
        let vacant = vector::vacant(&a, &b);
        assert_eq!(vacant, portable::vacant(&a, &b));
        assert_eq!(vacant.slots, expected(&|tag| tag == 0));
        let held = |group: &Group| group.tags.iter().filter(|tag| **tag != 0).count();
        assert_eq!(vacant.first_is_fuller, held(&a) > held(&b));
        for tag in [FULL, FULL | 1, FULL | 1 << 14, FULL | 1 << 14 | 3] {
            assert_eq!(vector::matches(&a, &b, tag), expected(&|held| held == tag));
            assert_eq!(portable::matches(&a, &b, tag), vector::matches(&a, &b, tag));
        }
    }
}

/// Inserts and removes under hashes that `hash` makes of keys, and compares with a plain list.
fn churn(capacity: usize, hash: impl Fn(u64) -> u64) {
    let mut next = numbers(capacity as u64 + 1);
    let mut store = Store::<u64, u64>::new();
    store.grow(capacity.div_ceil(3), |key| hash(*key), |_, _| {});
    let mut model: Vec<u64> = Vec::new();
    for _ in 0..if cfg!(miri) { 100 } else { 3000 } {
        let key = next() % (capacity as u64 * 2);
        let found = store.find(hash(key), |held| *held == key);
        assert_eq!(found.is_some(), model.contains(&key));
        if let Some(id) = found {
            model.retain(|held| *held != key);
            assert_eq!(store.remove(id, |key| hash(*key)), (key, !key));
        } else {
            if model.len() == capacity {
                let oldest = store.oldest(0).unwrap();
                let old = model.remove(0);
                assert_eq!(store.remove(oldest, |key| hash(*key)), (old, !old));
            } else if !store.has_room() {
                let mut moved = 0;
                store.grow(capacity, |key| hash(*key), |_, _| moved += 1);
                assert_eq!(moved, model.len());
            }
            model.push(key);
            store.insert(0, hash(key), key, !key);
        }
        let held: Vec<_> = store.walk(0).map(|id| *store.key(id)).collect();
        assert_eq!(held, model);
        store.validate(Some(&|key| hash(*key)));
    }
}

#[test]
fn hostile_hashes_are_slow_and_never_wrong() {
    for capacity in [1, 2, 11, 12, 13, 16, 17, 40, 100, 300] {
        if cfg!(miri) && capacity > 40 {
            break;
        }
        churn(capacity, |_| 0);
        churn(capacity, |_| u64::MAX);
        churn(capacity, |key| key);
        churn(capacity, |key| key << 32);
        churn(capacity, |key| key << 61);
        // One home for all, and one tag, so that guests go all the way round.
        churn(capacity, |key| key << 14 & 3 << 14);
        // The last group of a half is everyone's first home.
        churn(capacity, |key| key | !0 << 32);
        churn(capacity, |key| key.wrapping_mul(0x9E37_79B9_7F4A_7C15));
    }
}

#[test]
fn a_home_counts_its_guests() {
    let mut index = Index::for_entries(400);
    let mut slots: Vec<_> = (0..400).map(|_| index.insert(0)).collect();
    assert_eq!(index.reach, 400_usize.div_ceil(SLOTS) - 1);
    let mut seen = vec![false; index.slots()];
    for slot in &slots {
        assert!(!std::mem::replace(&mut seen[*slot as usize], true), "a slot was given twice");
        assert_eq!(index.find(0, |found| found == *slot), Some(*slot));
    }
    // More than can be counted: it does not know any more when nobody is left.
    assert_eq!(index.guests[0], MANY);
    while let Some(slot) = slots.pop() {
        if index.is_guest(slot) {
            index.remove_guest(slot, 0);
        } else {
            index.remove(slot);
        }
        assert_eq!(index.find(0, |found| found == slot), None);
    }
    assert_eq!(index.guests[0], MANY);
    assert_eq!(index.find(0, |_| true), None);
    let slot = index.insert(0);
    assert_eq!(index.find(0, |_| true), Some(slot));
    index.clear();
    assert_eq!((index.guests[0], index.reach, index.find(0, |_| true)), (0, 0, None));
}

#[test]
fn a_home_forgets_guests_that_left() {
    let mut index = Index::for_entries(400);
    let mut slots: Vec<_> = (0..2 * SLOTS + 40).map(|_| index.insert(0)).collect();
    for left in (0..40).rev() {
        assert_eq!(index.guests[0], left + 1);
        index.remove_guest(slots.pop().unwrap(), 0);
    }
    assert!(index.exact && index.guests.iter().all(|count| *count == 0));
}

/// Other keys may be missed after such a lie, but no slot that was left may stay filled.
#[test]
fn a_key_whose_hash_changes_still_leaves() {
    let mut index = Index::for_entries(100);
    // Two hashes have four homes, which are too few.
    let hash = |id: u64| id % 2;
    let slots: Vec<_> = (1..=100).map(|id| index.insert(hash(id))).collect();
    for (id, slot) in slots.into_iter().enumerate() {
        if index.is_guest(slot) {
            index.remove_guest(slot, (id as u64) << 50);
        } else {
            index.remove(slot);
        }
        let held = index.groups.iter().flat_map(|group| group.tags);
        assert_eq!(held.filter(|tag| *tag != 0).count(), 99 - id);
    }
    assert!(!index.exact);
}

#[test]
fn few_are_guests_in_a_full_index() {
    let entries = if cfg!(miri) { 500 } else { 50_000 };
    let mut next = numbers(3);
    let mut index = Index::for_entries(entries);
    let mut slots = std::collections::VecDeque::new();
    let mut guests = 0;
    for round in 0..8 * entries {
        if slots.len() == entries {
            let (slot, hash) = slots.pop_front().unwrap();
            if index.is_guest(slot) {
                index.remove_guest(slot, hash);
                guests -= 1;
            } else {
                index.remove(slot);
            }
        }
        let hash = next().wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ round as u64;
        let slot = index.insert(hash);
        guests += usize::from(index.is_guest(slot));
        slots.push_back((slot, hash));
    }
    assert!(guests * 1000 < entries, "{guests} of {entries} are guests");
    assert!(index.reach < 10, "one went {} groups far", index.reach);
}

#[test]
fn an_entry_is_as_small_as_it_can_be() {
    assert_eq!(size_of::<super::store::Pair<u64, u64>>(), 16);
    assert_eq!(size_of::<super::links::Link>(), 8);
    assert_eq!(Store::<u64, u64>::ENTRY, 32);
}
