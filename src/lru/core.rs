//! What every policy stands on: the store, and what is known about each entry beside it.

use std::fmt;
use std::hash::{BuildHasher, Hash};
use std::sync::Arc;

use super::raw::{GHOSTS, Id, LISTS, Store};
use super::wheel::{NEVER, Wheel};

/// Entries that were asked for once, or all of them where a policy has one list.
pub(crate) const RECENT: usize = 0;
/// Entries that were asked for again.
pub(crate) const FREQUENT: usize = 1;
/// Keys that left `RECENT`.
pub(crate) const GHOST_RECENT: usize = GHOSTS;
/// Keys that left `FREQUENT`.
pub(crate) const GHOST_FREQUENT: usize = GHOSTS + 1;

/// The most that is allocated at once for a capacity that is not yet used.
const AHEAD: usize = 64 << 20;

/// Why an entry left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Cause {
    /// The cache was full and the policy chose it to make room.
    Capacity,
    /// Its time to live was over.
    Expired,
    /// It was removed by key, by [`retain`](super::Cache::retain) or as the oldest.
    Removed,
    /// The whole cache was purged.
    Purged,
    /// The capacity was made smaller.
    Resized,
    /// It could not be held at all: it is heavier than the capacity, or the capacity is 0.
    Rejected,
}

/// Takes what leaves the cache. The structure is consistent whenever it is called, so it may run user code.
pub trait Sink<K, V> {
    /// There is no listener, no weigher and no time: nothing beside the store needs a look.
    const PLAIN: bool = false;

    fn entry(&mut self, key: K, value: V, cause: Cause);

    /// The value left, and the key stays behind as a ghost.
    fn ghost(&mut self, key: &K, value: V, cause: Cause);
}

/// Called with what leaves.
pub(crate) struct Listener<K, V> {
    pub(crate) call: Arc<dyn Fn(K, V, Cause) + Send + Sync>,
    /// Only where a ghost keeps the key.
    pub(crate) clone_key: Option<fn(&K) -> K>,
}

impl<K, V> Clone for Listener<K, V> {
    fn clone(&self) -> Self {
        Self { call: Arc::clone(&self.call), clone_key: self.clone_key }
    }
}

/// Drops what leaves, in a cache that is plain.
pub(crate) struct Discard;

impl<K, V> Sink<K, V> for Discard {
    const PLAIN: bool = true;

    #[inline(always)]
    fn entry(&mut self, _: K, _: V, _: Cause) {}

    #[inline(always)]
    fn ghost(&mut self, _: &K, _: V, _: Cause) {}
}

/// Tells the listener at once, if there is one, and drops otherwise.
pub(crate) struct Report<K, V> {
    pub(crate) listener: Option<Listener<K, V>>,
    pub(crate) evicted: usize,
}

impl<K, V> Sink<K, V> for Report<K, V> {
    #[inline]
    fn entry(&mut self, key: K, value: V, cause: Cause) {
        self.evicted += 1;
        if let Some(listener) = &self.listener {
            (listener.call)(key, value, cause);
        }
    }

    #[inline]
    fn ghost(&mut self, key: &K, value: V, cause: Cause) {
        self.evicted += 1;
        if let Some(listener) = &self.listener
            && let Some(clone_key) = listener.clone_key
        {
            (listener.call)(clone_key(key), value, cause);
        }
    }
}

pub(crate) type Weigher<K, V> = Arc<dyn Fn(&K, &V) -> usize + Send + Sync>;

/// The store with the sizes of its lists, weights, times and whom to tell.
pub struct Core<K, V, S> {
    pub(crate) store: Store<K, V>,
    pub(crate) hasher: S,
    pub(crate) capacity: usize,
    /// The list of each entry, where there are several.
    tags: Vec<u8>,
    many: bool,
    plain: bool,
    counts: [usize; LISTS],
    sizes: [usize; LISTS],
    pub(crate) weigher: Option<Weigher<K, V>>,
    /// The weight of each entry, where there is a weigher.
    weights: Vec<usize>,
    pub(crate) wheel: Option<Box<Wheel>>,
    /// When the entry that is being written expires.
    pub(crate) deadline: u64,
    pub(crate) listener: Option<Listener<K, V>>,
}

impl<K, V, S> Core<K, V, S> {
    pub(crate) fn new(lists: usize, capacity: usize, hasher: S) -> Self {
        Self {
            store: Store::new(),
            hasher,
            capacity,
            tags: Vec::new(),
            many: lists > 1,
            plain: true,
            counts: [0; LISTS],
            sizes: [0; LISTS],
            weigher: None,
            weights: Vec::new(),
            wheel: None,
            deadline: NEVER,
            listener: None,
        }
    }

    /// Entries of a list.
    #[inline(always)]
    pub(crate) fn count(&self, list: usize) -> usize {
        self.counts[list]
    }

    /// The weight of a list; without a weigher every entry weighs 1.
    #[inline(always)]
    pub(crate) fn size(&self, list: usize) -> usize {
        self.sizes[list]
    }

    #[inline(always)]
    pub(crate) fn len(&self) -> usize {
        self.counts[RECENT] + self.counts[FREQUENT]
    }

    #[inline(always)]
    pub(crate) fn weight(&self) -> usize {
        self.sizes[RECENT] + self.sizes[FREQUENT]
    }

    /// Whether an entry of this weight fits beside the others.
    #[inline(always)]
    pub(crate) fn fits(&self, weight: usize) -> bool {
        self.weight().checked_add(weight).is_some_and(|sum| sum <= self.capacity)
    }

    #[inline(always)]
    pub(crate) fn list_of(&self, id: Id) -> usize {
        self.tags.get(id.index()).map_or(RECENT, |tag| usize::from(*tag))
    }

    #[inline(always)]
    pub(crate) fn is_ghost(&self, id: Id) -> bool {
        self.list_of(id) >= GHOSTS
    }

    #[inline(always)]
    pub(crate) fn weight_of(&self, id: Id) -> usize {
        self.weights.get(id.index()).copied().unwrap_or(1)
    }

    #[inline(always)]
    pub(crate) fn weigh(&self, key: &K, value: &V) -> usize {
        self.weigher.as_ref().map_or(1, |weigher| weigher(key, value))
    }

    /// Whether [`Discard`] will do.
    #[inline(always)]
    pub(crate) fn is_plain(&self) -> bool {
        self.plain
    }

    /// To be called when a weigher, a listener or a wheel was set.
    pub(crate) fn settle(&mut self) {
        self.plain = self.weigher.is_none() && self.listener.is_none() && self.wheel.is_none();
    }

    #[inline(always)]
    pub(crate) fn report(&self) -> Report<K, V> {
        self.report_if(true)
    }

    #[inline(always)]
    pub(crate) fn report_if(&self, anything: bool) -> Report<K, V> {
        let listener = if anything { self.listener.clone() } else { None };
        Report { listener, evicted: 0 }
    }

    #[inline(always)]
    fn enter(&mut self, id: Id, list: usize, weight: usize) {
        if let Some(tag) = self.tags.get_mut(id.index()) {
            *tag = list as u8;
        }
        if let Some(place) = self.weights.get_mut(id.index()) {
            *place = weight;
        }
        self.counts[list] += 1;
        self.sizes[list] += weight;
    }

    #[inline(always)]
    fn leave(&mut self, id: Id) {
        self.leave_list(id, self.list_of(id));
    }

    /// As `leave`, where the list is known: to look it up may be to wait for it.
    #[inline(always)]
    fn leave_list(&mut self, id: Id, list: usize) {
        debug_assert_eq!(self.list_of(id), list);
        self.counts[list] -= 1;
        self.sizes[list] -= self.weight_of(id);
    }

    /// An entry that weighs 1 is on a list, and one less is on another.
    #[inline(always)]
    fn exchange(&mut self, from: usize, id: Id, to: usize) {
        self.counts[from] -= 1;
        self.sizes[from] -= 1;
        self.counts[to] += 1;
        self.sizes[to] += 1;
        if let Some(tag) = self.tags.get_mut(id.index()) {
            *tag = to as u8;
        }
    }

    /// Makes an entry the newest of a list with values, the one that it is on or another.
    #[inline(always)]
    pub(crate) fn move_to(&mut self, id: Id, list: usize) {
        if self.many && self.list_of(id) != list {
            let weight = self.weight_of(id);
            self.leave(id);
            self.enter(id, list, weight);
        }
        self.store.move_to_front(id, list);
    }

    /// Keeps the key of an entry as a ghost.
    #[inline(always)]
    fn make_ghost(&mut self, id: Id, from: usize, to: usize, plain: bool) -> V {
        if plain {
            self.exchange(from, id, to);
            return self.store.make_ghost(id, to);
        }
        // At least 1, or the ghosts of entries that weigh nothing would never end.
        let weight = self.weight_of(id).max(1);
        self.leave_list(id, from);
        self.enter(id, to, weight);
        if let Some(wheel) = &mut self.wheel {
            wheel.cancel(id);
        }
        self.store.make_ghost(id, to)
    }

    /// Gives a ghost a value. It keeps its key.
    pub(crate) fn revive(&mut self, id: Id, list: usize, value: V, weight: usize) {
        self.leave(id);
        self.enter(id, list, weight);
        self.set_deadline(id);
        self.store.revive(id, list, value);
    }

    /// The entry was written anew.
    #[inline(always)]
    pub(crate) fn set_deadline(&mut self, id: Id) {
        if let Some(wheel) = &mut self.wheel {
            wheel.set(id, self.deadline);
        }
    }

    /// One entry came in the place of another.
    #[inline(always)]
    pub(crate) fn change_deadline(&mut self, from: Id, to: Id) {
        if let Some(wheel) = &mut self.wheel {
            wheel.cancel(from);
            wheel.set(to, self.deadline);
        }
    }

    /// Writes another value in place.
    #[inline]
    pub(crate) fn replace(&mut self, id: Id, value: V, weight: usize) -> V {
        let old = self.weight_of(id);
        if old != weight {
            let list = self.list_of(id);
            self.sizes[list] = self.sizes[list] - old + weight;
            self.weights[id.index()] = weight;
        }
        self.set_deadline(id);
        std::mem::replace(self.store.value_mut(id), value)
    }

    /// Moves the oldest entry of a list to a ghost list.
    #[inline]
    pub(crate) fn evict_to_ghost<T: Sink<K, V>>(
        &mut self,
        from: usize,
        to: usize,
        cause: Cause,
        sink: &mut T,
    ) {
        if let Some(id) = self.store.oldest(from) {
            self.store.prefetch_after(id);
            let value = self.make_ghost(id, from, to, T::PLAIN);
            sink.ghost(self.store.key(id), value, cause);
        }
    }

    /// Empties everything, the oldest first, in the order of these lists, then the ghosts.
    pub(crate) fn purge(&mut self, order: &[usize], mut take: impl FnMut(K, V)) {
        // Taken out first: when `take` panics, the rest goes with it and the cache is empty and whole.
        let store = std::mem::replace(&mut self.store, Store::new());
        self.counts = [0; LISTS];
        self.sizes = [0; LISTS];
        let side = (std::mem::take(&mut self.tags), std::mem::take(&mut self.weights));
        if let Some(wheel) = &mut self.wheel {
            wheel.clear();
        }
        self.store = store.drain(order, |key, value| {
            if let Some(value) = value {
                take(key, value);
            }
        });
        (self.tags, self.weights) = side;
    }
}

impl<K: Hash + Eq, V, S: BuildHasher> Core<K, V, S> {
    /// Room for one more. Runs the keys' `Hash` when the store grows.
    #[inline(always)]
    fn make_room(&mut self, most: usize) {
        if !self.store.has_room() {
            self.grow(most);
        }
    }

    /// Allocates all that the capacity can need, unless that is much; then twice what there is.
    #[cold]
    #[inline(never)]
    fn grow(&mut self, most: usize) {
        let held = self.store.room();
        let counted = self.weigher.is_none() && most > held;
        let most = if counted { most } else { usize::MAX };
        let entries = if most.saturating_mul(Store::<K, V>::ENTRY) <= AHEAD {
            most
        } else {
            held.saturating_mul(2).clamp(16, most)
        };
        self.reserve(entries);
    }

    /// Room for this many entries and ghosts in all.
    pub(crate) fn reserve(&mut self, entries: usize) {
        if entries <= self.store.room() {
            return;
        }
        let ids = Store::<K, V>::ids_for(entries);
        // What is known about each entry moves with it, to where it is found by its new id.
        let mut tags = vec![0; if self.many { ids } else { 0 }];
        let mut weights = vec![0; if self.weigher.is_some() { ids } else { 0 }];
        let mut wheel = self.wheel.as_ref().map(|wheel| wheel.emptied(ids));
        let (hasher, old) = (&self.hasher, (&self.tags, &self.weights, &self.wheel));
        self.store.grow(
            entries,
            |key| hasher.hash_one(key),
            |from, to| {
                if let Some(tag) = tags.get_mut(to.index()) {
                    *tag = old.0[from.index()];
                }
                if let Some(weight) = weights.get_mut(to.index()) {
                    *weight = old.1[from.index()];
                }
                if let (Some(wheel), Some(old)) = (&mut wheel, old.2) {
                    wheel.set(to, old.deadline(from));
                }
            },
        );
        debug_assert_eq!(self.store.ids(), ids);
        self.tags = tags;
        self.weights = weights;
        self.wheel = wheel.map(Box::new);
    }

    /// Adds a new entry; the key is not in the store. `most` is how many entries and ghosts the policy can ever need.
    #[inline]
    pub(crate) fn push(
        &mut self,
        list: usize,
        hash: u64,
        key: K,
        value: V,
        weight: usize,
        most: usize,
    ) -> Id {
        self.make_room(most);
        let id = self.store.insert(list, hash, key, value);
        self.enter(id, list, weight);
        self.set_deadline(id);
        id
    }

    /// As [`Core::push`], for a ghost.
    pub(crate) fn push_ghost(&mut self, list: usize, key: K, weight: usize, most: usize) {
        let hash = self.hasher.hash_one(&key);
        self.make_room(most);
        let id = self.store.insert_ghost(list, hash, key);
        self.enter(id, list, weight);
    }

    /// Copies every entry and ghost, in order.
    pub(crate) fn copy_entries(&mut self, from: &Self, lists: usize, most: usize)
    where
        K: Clone,
        V: Clone,
    {
        for list in 0..lists {
            for id in from.store.walk(list) {
                let (key, weight) = (from.store.key(id).clone(), from.weight_of(id));
                if list >= GHOSTS {
                    self.push_ghost(list, key, weight, most);
                    continue;
                }
                self.deadline = from.wheel.as_ref().map_or(NEVER, |wheel| wheel.deadline(id));
                let hash = self.hasher.hash_one(&key);
                let value = from.store.value(id).clone();
                self.push(list, hash, key, value, weight, most);
            }
        }
    }

    /// Puts a new entry in the place of the oldest one of the only list, where every entry weighs 1.
    #[inline(always)]
    pub(crate) fn replace_oldest(
        &mut self,
        oldest: Id,
        hash: u64,
        key: K,
        value: V,
    ) -> (Id, (K, V)) {
        self.store.prefetch_after(oldest);
        let hash_old = |key: &K| self.hasher.hash_one(key);
        self.store.replace(oldest, hash_old, RECENT, hash, key, value)
    }

    /// Puts a new entry in the place of the oldest ghost of a list, where every entry weighs 1 and none has
    /// a time.
    #[inline(always)]
    pub(crate) fn replace_ghost(
        &mut self,
        ghosts: usize,
        list: usize,
        hash: u64,
        key: K,
        value: V,
        most: usize,
    ) -> Id {
        let Some(oldest) = self.store.oldest(ghosts) else {
            return self.push(list, hash, key, value, 1, most);
        };
        self.store.prefetch_after(oldest);
        let hash_old = |key: &K| self.hasher.hash_one(key);
        let (id, key) = self.store.replace_ghost(oldest, hash_old, list, hash, key, value);
        self.exchange(ghosts, id, list);
        drop(key);
        id
    }

    /// Takes out an entry that is no ghost.
    #[inline(always)]
    pub(crate) fn take(&mut self, id: Id) -> (K, V) {
        let list = self.list_of(id);
        self.take_from(id, list)
    }

    /// As `take`, where the list is known.
    #[inline(always)]
    pub(crate) fn take_from(&mut self, id: Id, list: usize) -> (K, V) {
        let pair = self.store.remove(id, |key| self.hasher.hash_one(key));
        self.leave_list(id, list);
        if let Some(wheel) = &mut self.wheel {
            wheel.cancel(id);
        }
        pair
    }

    /// As `take`, where the hash is known.
    pub(crate) fn take_hashed(&mut self, id: Id, hash: u64) -> (K, V) {
        self.leave(id);
        if let Some(wheel) = &mut self.wheel {
            wheel.cancel(id);
        }
        self.store.remove(id, |_| hash)
    }

    /// Forgets a ghost.
    #[inline(always)]
    fn forget_from(&mut self, id: Id, list: usize) -> K {
        let key = self.store.remove_ghost(id, |key| self.hasher.hash_one(key));
        self.leave_list(id, list);
        key
    }

    /// As `forget_from`, where the hash is known.
    pub(crate) fn forget_hashed(&mut self, id: Id, hash: u64) -> K {
        self.leave(id);
        self.store.remove_ghost(id, |_| hash)
    }

    /// Evicts the oldest entry of a list for good.
    pub(crate) fn evict(&mut self, list: usize, cause: Cause, sink: &mut impl Sink<K, V>) {
        if let Some(id) = self.store.oldest(list) {
            self.store.prefetch_after(id);
            let (key, value) = self.take_from(id, list);
            sink.entry(key, value, cause);
        }
    }

    /// Forgets the oldest ghosts until the list is no heavier than `limit`, or `hold` is the oldest.
    pub(crate) fn trim(&mut self, list: usize, limit: usize, hold: Option<Id>) {
        while self.size(list) > limit {
            match self.store.oldest(list) {
                Some(id) if Some(id) != hold => {
                    self.store.prefetch_after(id);
                    drop(self.forget_from(id, list));
                }
                _ => break,
            }
        }
    }

    /// Checks every invariant.
    pub(crate) fn validate(&self, hashes: bool) {
        let hash = |key: &K| self.hasher.hash_one(key);
        self.store.validate(hashes.then_some(&hash as &dyn Fn(&K) -> u64));
        let lists = if self.many { LISTS } else { 1 };
        let mut timed = 0;
        for list in 0..lists {
            let (mut count, mut size) = (0, 0);
            for id in self.store.walk(list) {
                assert_eq!(self.list_of(id), list, "an entry is on another list");
                count += 1;
                size += self.weight_of(id);
                timed += usize::from(self.wheel.as_ref().is_some_and(|wheel| wheel.is_set(id)));
            }
            assert_eq!(self.counts[list], count, "a list has another length");
            assert_eq!(self.sizes[list], size, "a list has another weight");
        }
        for list in lists..LISTS {
            assert_eq!((self.counts[list], self.sizes[list]), (0, 0));
        }
        assert!(self.weight() <= self.capacity, "the cache is over its capacity");
        if let Some(wheel) = &self.wheel {
            wheel.validate(timed);
        }
    }
}

impl<K, V, S: fmt::Debug> fmt::Debug for Core<K, V, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Core")
            .field("len", &self.len())
            .field("capacity", &self.capacity)
            .field("store", &self.store)
            .field("hasher", &self.hasher)
            .finish_non_exhaustive()
    }
}
