//! Every operation of every policy against a model that is too simple to be wrong.
#![cfg(feature = "lru")]
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use graceful::lru::{
    Adaptive, AnyPolicy, Builder, Cache, Cause, Entry, Evicts, ExpirableCache, Expiring, Lru,
    LruCache, ManualClock, OrAdd, Policy, TwoQueue,
};
use proptest::prelude::*;

type Left = Vec<(u8, u32, Cause)>;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Lru,
    TwoQueue,
    Adaptive,
}

#[derive(Clone, Debug, PartialEq)]
struct Item {
    key: u8,
    value: u32,
    weight: usize,
}

const RECENT: usize = 0;
const FREQUENT: usize = 1;

/// Vectors from the oldest to the newest, and the rules as golang-lru writes them down.
#[derive(Clone, Debug)]
struct Model {
    kind: Kind,
    weighted: bool,
    capacity: usize,
    lists: [Vec<Item>; 2],
    ghosts: [Vec<(u8, usize)>; 2],
    target: usize,
    left: Left,
}

fn weigh(value: u32) -> usize {
    if value.is_multiple_of(41) { 1000 } else { value as usize % 5 }
}

impl Model {
    fn new(kind: Kind, weighted: bool, capacity: usize) -> Self {
        Self {
            kind,
            weighted,
            capacity,
            lists: Default::default(),
            ghosts: Default::default(),
            target: 0,
            left: Vec::new(),
        }
    }

    fn weight(&self, value: u32) -> usize {
        if self.weighted { weigh(value) } else { 1 }
    }

    fn size(&self, list: usize) -> usize {
        self.lists[list].iter().map(|item| item.weight).sum()
    }

    fn total(&self) -> usize {
        self.size(RECENT) + self.size(FREQUENT)
    }

    fn ghost_size(&self, list: usize) -> usize {
        self.ghosts[list].iter().map(|ghost| ghost.1).sum()
    }

    fn order(&self) -> [usize; 2] {
        match self.kind {
            Kind::TwoQueue => [FREQUENT, RECENT],
            _ => [RECENT, FREQUENT],
        }
    }

    fn items(&self) -> Vec<(u8, u32)> {
        let lists = self.order().map(|list| &self.lists[list]);
        let items = lists.iter().flat_map(|list| list.iter());
        items.map(|item| (item.key, item.value)).collect()
    }

    fn peek(&self, key: u8) -> Option<u32> {
        let mut items = self.lists.iter().flatten();
        items.find(|item| item.key == key).map(|item| item.value)
    }

    fn take(&mut self, key: u8) -> Option<Item> {
        for list in &mut self.lists {
            if let Some(at) = list.iter().position(|item| item.key == key) {
                return Some(list.remove(at));
            }
        }
        None
    }

    /// As `take`, for whoever wants no trace of the key.
    fn remove(&mut self, key: u8) -> Option<Item> {
        let item = self.take(key);
        if item.is_none() {
            self.ghosts.iter_mut().for_each(|ghosts| ghosts.retain(|ghost| ghost.0 != key));
        }
        item
    }

    fn touch(&mut self, key: u8) -> Option<u32> {
        let item = self.take(key)?;
        let value = item.value;
        let to = if self.kind == Kind::Lru { RECENT } else { FREQUENT };
        self.lists[to].push(item);
        Some(value)
    }

    fn evict(&mut self, list: usize, ghosts: Option<(usize, usize)>, cause: Cause) {
        let item = self.lists[list].remove(0);
        self.left.push((item.key, item.value, cause));
        if let Some((to, limit)) = ghosts {
            self.ghosts[to].push((item.key, item.weight.max(1)));
            self.trim(to, limit);
        }
    }

    fn trim(&mut self, list: usize, limit: usize) {
        while self.ghost_size(list) > limit {
            self.ghosts[list].remove(0);
        }
    }

    fn shares(&self) -> (usize, usize) {
        (self.capacity / 4, (self.capacity / 2).max(1))
    }

    /// `spare`: a ghost comes back (2Q: of the recent list; ARC: of the frequent one), or a resize.
    fn make_room(&mut self, weight: usize, spare: bool, cause: Cause) {
        while self.total() + weight > self.capacity {
            let (recent, frequent) = (&self.lists[RECENT], &self.lists[FREQUENT]);
            if recent.is_empty() && frequent.is_empty() {
                break;
            }
            let size = self.size(RECENT);
            match self.kind {
                Kind::Lru => self.evict(RECENT, None, cause),
                Kind::TwoQueue => {
                    let (share, ghosts) = self.shares();
                    let over = size > share || size == share && !spare;
                    if !recent.is_empty() && over || frequent.is_empty() {
                        self.evict(RECENT, Some((0, ghosts)), cause);
                    } else {
                        self.evict(FREQUENT, None, cause);
                    }
                }
                Kind::Adaptive => {
                    let over = size > self.target || size == self.target && spare;
                    if !recent.is_empty() && over || frequent.is_empty() {
                        self.evict(RECENT, Some((0, self.capacity)), cause);
                    } else {
                        self.evict(FREQUENT, Some((1, self.capacity)), cause);
                    }
                }
            }
        }
    }

    fn insert(&mut self, key: u8, value: u32) -> Option<u32> {
        let weight = self.weight(value);
        let item = Item { key, value, weight };
        if weight > self.capacity {
            self.left.push((key, value, Cause::Rejected));
            return self.take(key).map(|item| item.value);
        }
        if let Some(old) = self.take(key) {
            self.make_room(weight, false, Cause::Capacity);
            let to = if self.kind == Kind::Lru { RECENT } else { FREQUENT };
            self.lists[to].push(item);
            return Some(old.value);
        }
        let ghost = (0..2).find(|list| self.ghosts[*list].iter().any(|ghost| ghost.0 == key));
        match ghost {
            Some(ghost) => {
                let sizes = [self.ghost_size(0), self.ghost_size(1)];
                let step = (sizes[1 - ghost] / sizes[ghost]).max(1) * weight;
                if ghost == 0 {
                    self.target = (self.target + step).min(self.capacity);
                } else {
                    self.target = self.target.saturating_sub(step);
                }
                let spare = self.kind == Kind::TwoQueue || ghost == 1;
                self.make_room(weight, spare, Cause::Capacity);
                self.ghosts[ghost].retain(|ghost| ghost.0 != key);
                self.lists[FREQUENT].push(item);
            }
            None => {
                self.make_room(weight, false, Cause::Capacity);
                if self.kind == Kind::Adaptive {
                    for (list, limit) in [(0, self.capacity - self.target), (1, self.target)] {
                        if self.weighted {
                            self.trim(list, limit);
                        } else if self.ghosts[list].len() > limit {
                            self.ghosts[list].remove(0);
                        }
                    }
                }
                self.lists[RECENT].push(item);
            }
        }
        None
    }

    fn resize(&mut self, capacity: usize) -> usize {
        let before = self.left.len();
        self.capacity = capacity;
        self.target = self.target.min(capacity);
        let spare = self.kind == Kind::TwoQueue;
        self.make_room(0, spare, Cause::Resized);
        match self.kind {
            Kind::Lru => {}
            Kind::TwoQueue => self.trim(0, self.shares().1),
            Kind::Adaptive => (0..2).for_each(|list| self.trim(list, capacity)),
        }
        self.left.len() - before
    }
}

#[derive(Clone, Debug)]
enum Op {
    Insert(u8),
    Add(u8),
    Push(u8),
    Get(u8),
    GetMut(u8),
    GetByHash(u8),
    Peek(u8),
    PeekMut(u8),
    Remove(u8),
    Pop(u8),
    ContainsOrAdd(u8),
    PeekOrAdd(u8),
    GetOrInsert(u8),
    GetOrInsertRef(u8),
    TryGetOrInsert(u8, bool),
    EntryInsert(u8),
    EntryRemove(u8),
    Retain(u8),
    Resize(usize),
    Purge,
    Drain(u8),
    IterMut,
    Clone,
    Reserve(usize),
    Oldest,
    Newest,
    RemoveOldest,
    PopOldest,
    PopNewest,
    Promote(u8),
    Demote(u8),
}

fn op() -> impl Strategy<Value = Op> {
    let key = || 0..60_u8;
    prop_oneof![
        12 => key().prop_map(Op::Insert),
        2 => key().prop_map(Op::Add),
        2 => key().prop_map(Op::Push),
        8 => key().prop_map(Op::Get),
        1 => key().prop_map(Op::GetMut),
        1 => key().prop_map(Op::GetByHash),
        1 => key().prop_map(Op::Peek),
        1 => key().prop_map(Op::PeekMut),
        2 => key().prop_map(Op::Remove),
        1 => key().prop_map(Op::Pop),
        1 => key().prop_map(Op::ContainsOrAdd),
        1 => key().prop_map(Op::PeekOrAdd),
        1 => key().prop_map(Op::GetOrInsert),
        1 => key().prop_map(Op::GetOrInsertRef),
        1 => (key(), any::<bool>()).prop_map(|(key, fails)| Op::TryGetOrInsert(key, fails)),
        1 => key().prop_map(Op::EntryInsert),
        1 => key().prop_map(Op::EntryRemove),
        1 => (2..6_u8).prop_map(Op::Retain),
        1 => (0..40_usize).prop_map(Op::Resize),
        1 => Just(Op::Purge),
        1 => (0..9_u8).prop_map(Op::Drain),
        1 => Just(Op::IterMut),
        1 => Just(Op::Clone),
        1 => (0..100_usize).prop_map(Op::Reserve),
        1 => Just(Op::Oldest),
        1 => Just(Op::Newest),
        1 => Just(Op::RemoveOldest),
        1 => Just(Op::PopOldest),
        1 => Just(Op::PopNewest),
        1 => key().prop_map(Op::Promote),
        1 => key().prop_map(Op::Demote),
    ]
}

/// The operations that need one order of use.
trait Ends: Policy + Sized {
    fn at_ends(_: &mut Cache<u8, u32, Self>, _: &mut Model, _: &Op) {}
}

impl Ends for TwoQueue {}
impl Ends for Adaptive {}
impl Ends for AnyPolicy {}
impl Ends for Lru {
    fn at_ends(cache: &mut Cache<u8, u32, Self>, model: &mut Model, op: &Op) {
        let list = &mut model.lists[RECENT];
        let pair = |item: &Item| (item.key, item.value);
        match op {
            Op::Oldest => assert_eq!(cache.oldest().map(|(k, v)| (*k, *v)), list.first().map(pair)),
            Op::Newest => assert_eq!(cache.newest().map(|(k, v)| (*k, *v)), list.last().map(pair)),
            Op::RemoveOldest => {
                assert_eq!(cache.remove_oldest(), !list.is_empty());
                if !list.is_empty() {
                    let (key, value) = pair(&list.remove(0));
                    model.left.push((key, value, Cause::Removed));
                }
            }
            Op::PopOldest => {
                let expected = list.first().map(pair);
                assert_eq!(cache.pop_oldest(), expected);
                list.drain(..usize::from(expected.is_some()));
            }
            Op::PopNewest => assert_eq!(cache.pop_newest(), list.pop().as_ref().map(pair)),
            Op::Promote(key) => assert_eq!(cache.promote(key), model.touch(*key).is_some()),
            Op::Demote(key) => {
                let item = model.take(*key);
                assert_eq!(cache.demote(key), item.is_some());
                item.into_iter().for_each(|item| model.lists[RECENT].insert(0, item));
            }
            _ => {}
        }
    }
}

fn apply<P: Ends + Evicts<u8>>(
    cache: &mut Cache<u8, u32, P>,
    model: &mut Model,
    op: &Op,
    value: u32,
) {
    match *op {
        Op::Insert(key) => assert_eq!(cache.insert(key, value), model.insert(key, value)),
        Op::Add(key) => {
            let before = model.left.len();
            model.insert(key, value);
            assert_eq!(cache.add(key, value), model.left.len() > before);
        }
        Op::Push(key) => {
            let before = model.left.len();
            let expected = match model.insert(key, value) {
                Some(previous) => {
                    // The first to leave for it is kept back until it is known what is returned.
                    if model.left.len() > before {
                        model.left[before..].rotate_left(1);
                    }
                    Some((key, previous))
                }
                None if model.left.len() > before => {
                    let (key, value, _) = model.left.remove(before);
                    Some((key, value))
                }
                None => None,
            };
            assert_eq!(cache.push(key, value), expected);
        }
        Op::Get(key) => assert_eq!(cache.get(&key).copied(), model.touch(key)),
        Op::GetMut(key) => {
            assert_eq!(cache.get_mut(&key).map(|v| *v), model.touch(key));
            assert_eq!(cache.get_key_value(&key).map(|(_, v)| *v), model.touch(key));
        }
        Op::GetByHash(key) => {
            let hash = std::hash::BuildHasher::hash_one(cache.hasher(), key);
            assert_eq!(cache.get_by_hash(hash, |k| *k == key).copied(), model.touch(key));
        }
        Op::Peek(key) => {
            assert_eq!(cache.peek(&key).copied(), model.peek(key));
            assert_eq!(cache.contains(&key), model.peek(key).is_some());
        }
        Op::PeekMut(key) => assert_eq!(cache.peek_mut(&key).map(|v| *v), model.peek(key)),
        Op::Remove(key) => {
            let item = model.remove(key);
            assert_eq!(cache.remove(&key), item.is_some());
            let left = item.map(|item| (item.key, item.value, Cause::Removed));
            model.left.extend(left);
        }
        Op::Pop(key) => assert_eq!(cache.pop(&key), model.remove(key).map(|item| item.value)),
        Op::ContainsOrAdd(key) => {
            let before = model.left.len();
            let expected = match model.peek(key) {
                Some(_) => OrAdd::Present(()),
                None => {
                    model.insert(key, value);
                    OrAdd::Added { evicted: model.left.len() > before }
                }
            };
            assert_eq!(cache.contains_or_add(key, value), expected);
        }
        Op::PeekOrAdd(key) => {
            let before = model.left.len();
            let present = model.peek(key);
            let expected = match &present {
                Some(value) => OrAdd::Present(value),
                None => {
                    model.insert(key, value);
                    OrAdd::Added { evicted: model.left.len() > before }
                }
            };
            assert_eq!(cache.peek_or_add(key, value), expected);
        }
        Op::GetOrInsert(key) => {
            let expected = get_or_insert(model, key, value);
            assert_eq!(cache.get_or_insert_with(key, || value).map(|v| *v), expected);
        }
        Op::GetOrInsertRef(key) => {
            let expected = get_or_insert(model, key, value);
            assert_eq!(cache.get_or_insert_ref(&key, || value).map(|v| *v), expected);
        }
        Op::TryGetOrInsert(key, fails) => {
            let expected = match model.touch(key) {
                Some(value) => Ok(Some(value)),
                None if fails => Err(()),
                None => Ok(get_or_insert(model, key, value)),
            };
            let make = || if fails { Err(()) } else { Ok(value) };
            let got = cache.try_get_or_insert_with(key, make).map(|v| v.map(|v| *v));
            assert_eq!(got, expected);
        }
        Op::EntryInsert(key) => {
            let expected = match model.touch(key) {
                Some(value) => Some(value),
                None => get_or_insert(model, key, value),
            };
            let entry = cache.entry(key);
            assert_eq!(*entry.key(), key);
            assert_eq!(entry.and_modify(|_| ()).or_insert(value).map(|v| *v), expected);
        }
        Op::EntryRemove(key) => {
            let expected = model.take(key).map(|item| item.value);
            let got = match cache.entry(key) {
                Entry::Occupied(mut entry) => {
                    let held = *entry.get();
                    assert_eq!(*entry.get_mut(), held);
                    Some(entry.remove())
                }
                Entry::Vacant(entry) => {
                    assert_eq!(entry.into_key(), key);
                    None
                }
            };
            assert_eq!(got, expected);
        }
        Op::Retain(divisor) => {
            cache.retain(|key, _| !key.is_multiple_of(divisor));
            for list in model.order() {
                let gone =
                    model.lists[list].extract_if(.., |item| item.key.is_multiple_of(divisor));
                model.left.extend(gone.map(|item| (item.key, item.value, Cause::Removed)));
            }
        }
        Op::Resize(capacity) => assert_eq!(cache.resize(capacity), model.resize(capacity)),
        Op::Purge => {
            cache.purge();
            let purged = model.items().into_iter().map(|(key, value)| (key, value, Cause::Purged));
            model.left.extend(purged);
            model.lists = Default::default();
            model.ghosts = Default::default();
        }
        Op::Drain(count) => {
            let mut drain = cache.drain();
            let mut expected = model.items().into_iter();
            for step in 0..count {
                if step % 3 == 2 {
                    assert_eq!(drain.next_back(), expected.next_back());
                } else {
                    assert_eq!(drain.next(), expected.next());
                }
                assert_eq!(drain.size_hint(), (expected.len(), Some(expected.len())));
            }
            drop(drain);
            model.lists = Default::default();
            model.ghosts = Default::default();
        }
        Op::IterMut => {
            for (at, (_, held)) in cache.iter_mut().enumerate() {
                *held += 5 * at as u32;
            }
            let mut at = 0;
            for list in model.order() {
                for item in &mut model.lists[list] {
                    item.value += 5 * at;
                    at += 1;
                }
            }
            let back: Vec<_> = cache.iter_mut().rev().map(|(k, v)| (*k, *v)).collect();
            assert!(back.into_iter().rev().eq(model.items()));
        }
        Op::Clone => {
            let copy = cache.clone();
            copy.validate();
            assert_eq!(copy.list_lengths(), cache.list_lengths());
            assert!(copy.into_iter().eq(model.items()));
        }
        Op::Reserve(entries) => cache.reserve(entries),
        Op::Oldest
        | Op::Newest
        | Op::RemoveOldest
        | Op::PopOldest
        | Op::PopNewest
        | Op::Promote(_)
        | Op::Demote(_) => P::at_ends(cache, model, op),
    }
}

fn get_or_insert(model: &mut Model, key: u8, value: u32) -> Option<u32> {
    if let Some(value) = model.touch(key) {
        return Some(value);
    }
    model.insert(key, value);
    model.peek(key)
}

fn run<P: Ends + Evicts<u8>>(policy: P, kind: Kind, weighted: bool, capacity: usize, ops: &[Op]) {
    let log = Arc::new(Mutex::new(Left::new()));
    let copy = Arc::clone(&log);
    let mut builder = Builder::new(capacity)
        .policy(policy)
        .on_evict(move |key, value, cause| copy.lock().unwrap().push((key, value, cause)));
    if weighted {
        builder = builder.weigher(|_, value| weigh(*value));
    }
    let mut cache = builder.build();
    let mut model = Model::new(kind, weighted, capacity);
    for (at, op) in ops.iter().enumerate() {
        apply(&mut cache, &mut model, op, at as u32 + 1);
        cache.validate();
        assert_eq!(*log.lock().unwrap(), model.left, "after {op:?}");
        let items: Vec<_> = cache.iter().map(|(key, value)| (*key, *value)).collect();
        assert_eq!(items, model.items(), "after {op:?}");
        assert!(cache.iter().rev().map(|(k, v)| (*k, *v)).eq(items.iter().rev().copied()));
        assert!(cache.keys().copied().eq(items.iter().map(|pair| pair.0)));
        assert!(cache.values().copied().eq(items.iter().map(|pair| pair.1)));
        assert_eq!(cache.len(), items.len());
        assert_eq!(cache.weight(), model.total());
        assert_eq!(cache.capacity(), model.capacity);
        let lengths = [
            model.lists[RECENT].len(),
            model.lists[FREQUENT].len(),
            model.ghosts[0].len(),
            model.ghosts[1].len(),
        ];
        assert_eq!(cache.list_lengths(), lengths, "after {op:?}");
    }
}

fn cases() -> ProptestConfig {
    let wanted = std::env::var("PROPTEST_CASES").map_or(96, |cases| cases.parse().unwrap());
    ProptestConfig {
        cases: if cfg!(miri) { 6 } else { wanted },
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    prop::collection::vec(op(), 1..if cfg!(miri) { 60 } else { 300 })
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn lru_is_its_model(capacity in 0..24_usize, weighted: bool, ops in ops()) {
        run(Lru::default(), Kind::Lru, weighted, capacity, &ops);
    }

    #[test]
    fn two_queue_is_its_model(capacity in 0..24_usize, weighted: bool, ops in ops()) {
        run(TwoQueue::default(), Kind::TwoQueue, weighted, capacity, &ops);
    }

    #[test]
    fn adaptive_is_its_model(capacity in 0..24_usize, weighted: bool, ops in ops()) {
        run(Adaptive::default(), Kind::Adaptive, weighted, capacity, &ops);
    }

    #[test]
    fn a_policy_chosen_at_run_time_is_the_same(capacity in 0..24_usize, ops in ops()) {
        run(AnyPolicy::from(Lru::default()), Kind::Lru, false, capacity, &ops);
        run(AnyPolicy::from(TwoQueue::default()), Kind::TwoQueue, true, capacity, &ops);
        run(AnyPolicy::from(Adaptive::default()), Kind::Adaptive, false, capacity, &ops);
    }
}

#[derive(Clone, Debug)]
enum Timed {
    Insert(u8),
    InsertFor(u8, u64),
    Get(u8),
    Peek(u8),
    Remove(u8),
    Advance(u64),
    Back(u64),
    Sweep,
    Pause(bool),
    Purge,
}

fn timed() -> impl Strategy<Value = Vec<Timed>> {
    let key = || 0..30_u8;
    // From nanoseconds to years, so that every level of the wheel takes part.
    let time = || (0..58_u32, 1..64_u64).prop_map(|(shift, by)| by << shift);
    let one = prop_oneof![
        6 => key().prop_map(Timed::Insert),
        6 => (key(), time()).prop_map(|(key, time)| Timed::InsertFor(key, time)),
        1 => key().prop_map(|key| Timed::InsertFor(key, 0)),
        4 => key().prop_map(Timed::Get),
        2 => key().prop_map(Timed::Peek),
        2 => key().prop_map(Timed::Remove),
        5 => time().prop_map(Timed::Advance),
        1 => time().prop_map(Timed::Back),
        2 => Just(Timed::Sweep),
        1 => any::<bool>().prop_map(Timed::Pause),
        1 => Just(Timed::Purge),
    ];
    prop::collection::vec(one, 1..if cfg!(miri) { 50 } else { 250 })
}

/// Without a bound every entry is there until its time is over, however lazily it leaves.
fn run_timed(ttl: u64, ops: &[Timed]) {
    let log = Arc::new(Mutex::new(Left::new()));
    let copy = Arc::clone(&log);
    let clock = Arc::new(ManualClock::new());
    let mut cache: ExpirableCache<u8, u32> = ExpirableCache::builder(0)
        .ttl(Duration::from_nanos(ttl))
        .clock(clock.clone())
        .on_evict(move |key, value, cause| copy.lock().unwrap().push((key, value, cause)))
        .build();
    let mut model: BTreeMap<u8, (u32, u64)> = BTreeMap::new();
    let (mut now, mut seen, mut paused) = (0_u64, 0_u64, false);
    let mut due = 0;
    for (at, op) in ops.iter().enumerate() {
        let value = at as u32;
        let is_over = |deadline: u64, seen: u64| !paused && seen > deadline;
        let until = |ttl: u64| {
            if ttl == 0 { u64::MAX } else { seen.saturating_add(ttl) }
        };
        match *op {
            Timed::Insert(key) => {
                cache.insert(key, value);
                model.insert(key, (value, until(ttl)));
            }
            Timed::InsertFor(key, ttl) => {
                cache.insert_with_ttl(key, value, Duration::from_nanos(ttl));
                model.insert(key, (value, until(ttl)));
            }
            Timed::Get(key) | Timed::Peek(key) => {
                let live = model.get(&key).filter(|(_, deadline)| !is_over(*deadline, seen));
                let got = match op {
                    Timed::Get(_) => cache.get(&key),
                    _ => cache.peek(&key),
                };
                assert_eq!(got, live.map(|(value, _)| value));
                assert_eq!(cache.contains(&key), live.is_some());
            }
            Timed::Remove(key) => {
                let live = model.get(&key).is_some_and(|(_, deadline)| !is_over(*deadline, seen));
                assert_eq!(cache.remove(&key), live);
                if live {
                    model.remove(&key);
                }
            }
            Timed::Advance(by) => {
                now = now.saturating_add(by);
                clock.set(Duration::from_nanos(now));
            }
            Timed::Back(by) => {
                now = now.saturating_sub(by);
                clock.set(Duration::from_nanos(now));
            }
            Timed::Sweep => {
                cache.evict_expired();
                let live = model.values().filter(|entry| !is_over(entry.1, seen));
                // The wheel turns once in 2^20 ns: what expired since may still be there.
                let recent = model.values().filter(|entry| seen >> 20 <= entry.1 >> 20);
                assert!(cache.len() >= live.count(), "an entry is lost");
                assert!(paused || cache.len() <= recent.count(), "an expired entry stays");
            }
            Timed::Pause(pause) => {
                // What has left while expiry ran does not come back.
                if !paused {
                    for key in 0..30 {
                        cache.get(&key);
                    }
                    model.retain(|_, (_, deadline)| seen <= *deadline);
                }
                paused = pause;
                if pause {
                    cache.pause_expiry();
                } else {
                    cache.resume_expiry();
                }
            }
            Timed::Purge => {
                cache.purge();
                model.clear();
            }
        }
        // Looked at once per step, so that the cache has seen every time that the model has.
        let shown: BTreeMap<u8, u32> = cache.iter().map(|(key, value)| (*key, *value)).collect();
        seen = seen.max(now);
        let is_over = |deadline: u64| !paused && seen > deadline;
        let shown = if paused { shown } else { cache.iter().map(|(k, v)| (*k, *v)).collect() };
        let live = model.iter().filter(|(_, (_, deadline))| !is_over(*deadline));
        assert_eq!(shown, live.map(|(key, (value, _))| (*key, *value)).collect(), "after {op:?}");
        cache.validate();
        for (_, _, cause) in log.lock().unwrap().drain(..) {
            due += usize::from(cause == Cause::Expired);
            assert!(matches!(cause, Cause::Expired | Cause::Removed | Cause::Purged));
        }
    }
    assert!(due <= ops.len());
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn expirable_is_its_model(shift in 0..40_u32, ops in timed()) {
        run_timed(1 << shift, &ops);
    }

    /// Times that are never over change nothing.
    #[test]
    fn expirable_without_end_is_lru(capacity in 1..24_usize, keys in prop::collection::vec(0..60_u8, 1..200)) {
        let policy = Expiring::new(Lru::default(), Duration::ZERO);
        let mut timed = Builder::new(capacity).policy(policy).build();
        let mut plain = Builder::new(capacity).build();
        for key in keys {
            if plain.get(&key).is_some() {
                assert!(timed.get(&key).is_some());
            } else {
                assert_eq!(timed.push(key, key), plain.push(key, key));
            }
            timed.validate();
            assert!(timed.iter().eq(plain.iter()));
        }
    }
}

/// However keys hash, and whatever their type is, it is the same cache.
#[test]
fn strings_by_borrowed_keys_are_the_same() {
    fn churn<K: Hash + Eq + Clone>(key: impl Fn(u32) -> K) -> Vec<u32> {
        let mut cache = Cache::<K, u32>::new(16);
        for step in 0..2000_u32 {
            let number = step.wrapping_mul(2_654_435_761) % 50;
            if cache.get(&key(number)).is_none() {
                cache.insert(key(number), number);
            }
        }
        cache.validate();
        cache.values().copied().collect()
    }
    assert_eq!(churn(|number| number), churn(|number| format!("key {number}")));
    let mut cache: LruCache<String, u32> = LruCache::new(2);
    assert_eq!(cache.get_or_insert_ref("one", || 1), Some(&mut 1));
    assert_eq!(cache.get("one"), Some(&1));
    assert!(cache.contains("one") && cache.remove("one"));
}
