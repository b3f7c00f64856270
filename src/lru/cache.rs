//! The cache: every operation, over any policy.

use std::borrow::Borrow;
use std::fmt;
use std::hash::{BuildHasher, Hash};
use std::mem;

use super::builder::Builder;
use super::core::{Cause, Core, Discard, Sink};
use super::entry::{Entry, OccupiedEntry, VacantEntry};
use super::error::CapacityError;
use super::hasher::RandomState;
use super::policy::{Evicts, Lru, Policy};
use super::raw::{Id, Store};
use super::wheel::{Wheel, is_over};

/// Expired entries that a write looks at: more than it can bring, so that they do not pile up.
const SWEEP: usize = 8;

/// A map of limited size that decides by its policy what to forget.
///
/// Use it by the names of its policies: [`LruCache`](super::LruCache),
/// [`TwoQueueCache`](super::TwoQueueCache), [`AdaptiveCache`](super::AdaptiveCache) and
/// [`ExpirableCache`](super::ExpirableCache). For several threads there is [`sync::Cache`](super::sync::Cache).
///
/// Every operation takes constant time and hashes the key once. Memory is allocated at the first write, for
/// the whole capacity at once up to 64 MiB and in doubling steps beyond, and never after the cache is full.
/// Keys and values may panic in `Hash`, `Eq`, `Clone` and `Drop`, and weighers and listeners may panic too:
/// the cache stays consistent.
///
/// ```
/// use graceful::lru::LruCache;
///
/// let mut cache = LruCache::new(2);
/// cache.insert("a", 1);
/// cache.insert("b", 2);
/// assert_eq!(cache.get("a"), Some(&1));
/// cache.insert("c", 3);
/// assert_eq!(cache.get("b"), None);
/// assert_eq!(cache.keys().copied().collect::<Vec<_>>(), ["a", "c"]);
/// ```
pub struct Cache<K, V, P = Lru, S = RandomState> {
    pub(crate) core: Core<K, V, S>,
    pub(crate) policy: P,
}

/// What [`Cache::contains_or_add`] and [`Cache::peek_or_add`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OrAdd<T> {
    /// The key was there and was left alone.
    Present(T),
    /// The pair was added.
    Added {
        /// Whether another one had to go for it, or itself at a capacity of 0.
        evicted: bool,
    },
}

impl<K, V> Cache<K, V> {
    /// A cache of the least recently used entries; one with a capacity of 0 holds nothing.
    pub fn new(capacity: usize) -> Self {
        Self::builder(capacity).build()
    }

    /// As [`Cache::new`], with an error for a capacity of 0.
    ///
    /// # Errors
    ///
    /// When the capacity is 0.
    pub fn try_new(capacity: usize) -> Result<Self, CapacityError> {
        Self::builder(capacity).try_build()
    }
}

impl<K, V, P: Policy + Default> Cache<K, V, P> {
    /// Options: hasher, weights, a listener.
    pub fn builder(capacity: usize) -> Builder<K, V, P> {
        Builder::with_policy(capacity, P::default())
    }
}

impl<K, V, P, S> Cache<K, V, P, S> {
    /// Bytes that the cache takes per entry, key and value included; without what these own elsewhere.
    ///
    /// One of six slots is vacant, and its share is included. Several lists add 1.2 bytes, weights 10 and times
    /// 20.
    pub const ENTRY_BYTES: usize = Store::<K, V>::ENTRY;

    /// The number of entries, expired ones that have not left yet among them.
    pub fn len(&self) -> usize {
        self.core.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The most entries that it holds, or the greatest sum of weights.
    pub fn capacity(&self) -> usize {
        self.core.capacity
    }

    /// The sum of the weights; without a weigher the number of entries.
    pub fn weight(&self) -> usize {
        self.core.weight()
    }

    /// The hasher, to compute hashes for [`Cache::get_by_hash`].
    pub fn hasher(&self) -> &S {
        &self.core.hasher
    }

    /// The policy, as it stands.
    pub fn policy(&self) -> &P {
        &self.policy
    }
}

impl<K: Hash + Eq, V, P: Policy, S: BuildHasher> Cache<K, V, P, S> {
    /// The value of a key, which counts as a use.
    #[inline(always)]
    pub fn get<Q>(&mut self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let hash = self.core.hasher.hash_one(key);
        self.get_by_hash(hash, |held| held.borrow() == key)
    }

    /// As [`Cache::get`], for a key that is given as its hash and an equality.
    ///
    /// The hash is that of [`Cache::hasher`] over an owned key. So a lookup needs to build no key, even where
    /// no borrowed form of it exists.
    #[inline(always)]
    pub fn get_by_hash(&mut self, hash: u64, eq: impl FnMut(&K) -> bool) -> Option<&V> {
        let id = self.use_entry(hash, eq)?;
        Some(self.core.store.value(id))
    }

    /// The value of a key to change it, which counts as a use. Its weight stays what it was.
    #[inline]
    pub fn get_mut<Q>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let hash = self.core.hasher.hash_one(key);
        let id = self.use_entry(hash, |held| held.borrow() == key)?;
        Some(self.core.store.value_mut(id))
    }

    /// The pair of a key, which counts as a use.
    pub fn get_key_value<Q>(&mut self, key: &Q) -> Option<(&K, &V)>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let hash = self.core.hasher.hash_one(key);
        let id = self.use_entry(hash, |held| held.borrow() == key)?;
        Some((self.core.store.key(id), self.core.store.value(id)))
    }

    /// The value of a key, without a use.
    #[inline]
    pub fn peek<Q>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let hash = self.core.hasher.hash_one(key);
        let id = self.look_up(hash, |held| held.borrow() == key)?;
        Some(self.core.store.value(id))
    }

    /// The value of a key to change it, without a use.
    pub fn peek_mut<Q>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let hash = self.core.hasher.hash_one(key);
        let id = self.look_up(hash, |held| held.borrow() == key)?;
        Some(self.core.store.value_mut(id))
    }

    /// Whether the key is there, without a use.
    #[inline]
    pub fn contains<Q>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let hash = self.core.hasher.hash_one(key);
        self.look_up(hash, |held| held.borrow() == key).is_some()
    }

    /// Writes an entry and returns the previous value of its key.
    ///
    /// What has to go for it, or the entry itself when it cannot be held, goes to the listener.
    #[inline]
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        if self.core.is_plain() {
            return self.write_now(key, value, &mut Discard).1;
        }
        self.insert_and_report(key, value)
    }

    #[inline(never)]
    fn insert_and_report(&mut self, key: K, value: V) -> Option<V> {
        let mut sink = self.core.report();
        self.write_now(key, value, &mut sink).1
    }

    /// Writes an entry and says whether one had to go: false for an update in place, as in golang-lru.
    pub fn add(&mut self, key: K, value: V) -> bool {
        let mut sink = self.core.report();
        drop(self.write_now(key, value, &mut sink));
        sink.evicted > 0
    }

    /// Writes an entry and returns a pair that left for it: the evicted one, the key with its previous value,
    /// or the pair itself when it cannot be held.
    ///
    /// With weights, or times to live, several may leave; the others go to the listener.
    pub fn push(&mut self, key: K, value: V) -> Option<(K, V)>
    where
        P: Evicts<K>,
        K: Clone,
    {
        let mut sink = Keep { kept: None, clone_key: P::CLONE_KEY, rest: self.core.report() };
        let copy = key.clone();
        let (_, previous) = self.write_now(key, value, &mut sink);
        let Keep { kept, mut rest, .. } = sink;
        match (previous, kept) {
            (Some(previous), kept) => {
                if let Some((key, value, cause)) = kept {
                    rest.entry(key, value, cause);
                }
                Some((copy, previous))
            }
            (None, kept) => {
                drop(copy);
                kept.map(|(key, value, _)| (key, value))
            }
        }
    }

    /// Adds a pair unless the key is there, which is no use of it.
    pub fn contains_or_add(&mut self, key: K, value: V) -> OrAdd<()> {
        match self.peek_or_add(key, value) {
            OrAdd::Present(_) => OrAdd::Present(()),
            OrAdd::Added { evicted } => OrAdd::Added { evicted },
        }
    }

    /// Adds a pair unless the key is there, in which case its value is returned without a use.
    pub fn peek_or_add(&mut self, key: K, value: V) -> OrAdd<&V> {
        let hash = self.core.hasher.hash_one(&key);
        if let Some(id) = self.look_up(hash, |held| *held == key) {
            return OrAdd::Present(self.core.store.value(id));
        }
        let mut sink = self.core.report();
        let deadline = self.policy.deadline();
        drop(self.write(hash, key, value, deadline, &mut sink));
        OrAdd::Added { evicted: sink.evicted > 0 }
    }

    /// The value of a key, made and added when it is not there; a use either way.
    ///
    /// `None` only when the new entry cannot be held, because it is heavier than the capacity or that is 0;
    /// the listener has it then.
    pub fn get_or_insert_with(&mut self, key: K, make: impl FnOnce() -> V) -> Option<&mut V> {
        self.entry(key).or_insert_with(make)
    }

    /// As [`Cache::get_or_insert_with`], for a value that may fail to be made.
    ///
    /// # Errors
    ///
    /// When `make` fails; then nothing has changed.
    pub fn try_get_or_insert_with<E>(
        &mut self,
        key: K,
        make: impl FnOnce() -> Result<V, E>,
    ) -> Result<Option<&mut V>, E> {
        match self.entry(key) {
            Entry::Occupied(entry) => Ok(Some(entry.into_mut())),
            Entry::Vacant(entry) => Ok(entry.insert(make()?)),
        }
    }

    /// As [`Cache::get_or_insert_with`], by a borrowed key: an owned one is made only when it is needed.
    pub fn get_or_insert_ref<Q>(&mut self, key: &Q, make: impl FnOnce() -> V) -> Option<&mut V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        let hash = self.core.hasher.hash_one(key);
        match self.use_entry(hash, |held| held.borrow() == key) {
            Some(id) => Some(self.core.store.value_mut(id)),
            None => {
                let value = make();
                let mut sink = self.core.report();
                let deadline = self.policy.deadline();
                let (id, _) = self.write(hash, key.to_owned(), value, deadline, &mut sink);
                id.map(|id| self.core.store.value_mut(id))
            }
        }
    }

    /// The place of a key, to look and write with one hash. An entry that is there counts as used.
    pub fn entry(&mut self, key: K) -> Entry<'_, K, V, P, S> {
        let hash = self.core.hasher.hash_one(&key);
        match self.use_entry(hash, |held| *held == key) {
            Some(id) => Entry::Occupied(OccupiedEntry { cache: self, id, hash }),
            None => Entry::Vacant(VacantEntry { cache: self, key, hash }),
        }
    }

    /// Removes a key and says whether it was there; the listener gets the pair. A ghost of it is forgotten.
    pub fn remove<Q>(&mut self, key: &Q) -> bool
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let mut sink = self.core.report();
        let hash = self.core.hasher.hash_one(key);
        match self.remove_by_hash(hash, |held| held.borrow() == key) {
            Some((key, value)) => {
                sink.entry(key, value, Cause::Removed);
                true
            }
            None => false,
        }
    }

    /// Removes a key and returns its value; the listener does not hear of it.
    pub fn pop<Q>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.pop_entry(key).map(into_value)
    }

    /// As [`Cache::pop`], with the key that was stored.
    pub fn pop_entry<Q>(&mut self, key: &Q) -> Option<(K, V)>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let hash = self.core.hasher.hash_one(key);
        self.remove_by_hash(hash, |held| held.borrow() == key)
    }

    /// Keeps the entries for which `keep` is true, from the oldest to the newest; the listener gets the others.
    pub fn retain(&mut self, keep: impl FnMut(&K, &mut V) -> bool) {
        let mut sink = self.core.report();
        self.retain_into(keep, &mut sink);
    }

    pub(crate) fn retain_into(
        &mut self,
        mut keep: impl FnMut(&K, &mut V) -> bool,
        sink: &mut impl Sink<K, V>,
    ) {
        let now = self.policy.now();
        for list in self.policy.order() {
            let mut next = self.core.store.oldest(*list);
            while let Some(id) = next {
                next = self.core.store.newer(id);
                let cause = if self.is_expired(id, now) {
                    Cause::Expired
                } else {
                    let (key, value) = self.core.store.pair_mut(id);
                    if keep(key, value) {
                        continue;
                    }
                    Cause::Removed
                };
                let (key, value) = self.core.take(id);
                sink.entry(key, value, cause);
            }
        }
    }

    /// Changes the capacity and returns how many entries had to go.
    ///
    /// The parts of the policy change in proportion. With a capacity of 0 nothing is held; a cache whose
    /// entries expire has no bound then.
    pub fn resize(&mut self, capacity: usize) -> usize {
        let mut sink = self.core.report();
        self.resize_into(capacity, &mut sink);
        sink.evicted
    }

    pub(crate) fn resize_into(&mut self, capacity: usize, sink: &mut impl Sink<K, V>) {
        let before = self.core.len();
        // Entries leave while the old capacity still holds, so that a panicking listener finds and leaves
        // a cache that is within its capacity.
        let capacity = P::bound(capacity);
        self.policy.set_capacity(capacity);
        let spare = self.core.capacity.saturating_sub(capacity);
        self.policy.make_room(&mut self.core, spare, None, Cause::Resized, sink);
        debug_assert!(self.core.len() <= before);
        self.core.capacity = capacity;
        self.policy.trim_ghosts(&mut self.core);
    }

    /// Removes everything, ghosts too. The listener gets the entries, from the oldest to the newest.
    #[doc(alias = "clear")]
    pub fn purge(&mut self) {
        let mut sink = self.core.report();
        let order = self.policy.order();
        self.core.purge(order, |key, value| sink.entry(key, value, Cause::Purged));
    }

    /// Allocates for `entries` entries in all now and not at the first writes.
    pub fn reserve(&mut self, entries: usize) {
        let entries = entries.min(self.policy.most(self.core.capacity));
        self.core.reserve(entries);
    }

    /// Checks every invariant, for tests and fuzzers; it walks over everything.
    ///
    /// # Panics
    ///
    /// When one does not hold, or a key's hash is not what it was.
    #[doc(hidden)]
    pub fn validate(&self) {
        self.core.validate(true);
    }

    /// As [`Cache::validate`], for keys whose hashes lie.
    #[doc(hidden)]
    pub fn validate_links(&self) {
        self.core.validate(false);
    }

    /// The number of entries and ghosts on each list: recent, frequent, ghosts of either.
    #[doc(hidden)]
    pub fn list_lengths(&self) -> [usize; 4] {
        [0, 1, 2, 3].map(|list| self.core.count(list))
    }

    #[inline(always)]
    pub(crate) fn is_expired(&self, id: Id, now: u64) -> bool {
        P::EXPIRES
            && self
                .core
                .wheel
                .as_deref()
                .is_some_and(|wheel: &Wheel| is_over(wheel.deadline(id), now))
    }

    /// The entry of a key, if it is neither a ghost nor expired.
    #[inline(always)]
    pub(crate) fn look_up(&self, hash: u64, eq: impl FnMut(&K) -> bool) -> Option<Id> {
        let id = self.core.store.find(hash, eq)?;
        if P::LISTS > 1 && self.core.is_ghost(id)
            || P::EXPIRES && self.is_expired(id, self.policy.now())
        {
            return None;
        }
        Some(id)
    }

    /// As `look_up`, as a use. An expired entry leaves.
    #[inline(always)]
    fn use_entry(&mut self, hash: u64, eq: impl FnMut(&K) -> bool) -> Option<Id> {
        if P::EXPIRES {
            let mut sink = self.core.report();
            return self.use_entry_into(hash, eq, &mut sink);
        }
        self.use_entry_into(hash, eq, &mut Discard)
    }

    #[inline(always)]
    pub(crate) fn use_entry_into(
        &mut self,
        hash: u64,
        eq: impl FnMut(&K) -> bool,
        sink: &mut impl Sink<K, V>,
    ) -> Option<Id> {
        let id = self.core.store.find(hash, eq)?;
        if P::LISTS > 1 && self.core.is_ghost(id) {
            return None;
        }
        if P::EXPIRES && self.is_expired(id, self.policy.now()) {
            let (key, value) = self.core.take_hashed(id, hash);
            sink.entry(key, value, Cause::Expired);
            return None;
        }
        self.policy.touch(&mut self.core, id);
        Some(id)
    }

    /// Takes out the entry of a key. If that is a ghost it is forgotten, as in golang-lru: the key is then new
    /// when it comes back.
    pub(crate) fn remove_by_hash(
        &mut self,
        hash: u64,
        mut eq: impl FnMut(&K) -> bool,
    ) -> Option<(K, V)> {
        if P::LISTS > 1
            && let Some(id) = self.core.store.find(hash, &mut eq)
            && self.core.is_ghost(id)
        {
            drop(self.core.forget_hashed(id, hash));
            return None;
        }
        self.take_by_hash(hash, eq)
    }

    pub(crate) fn take_by_hash(&mut self, hash: u64, eq: impl FnMut(&K) -> bool) -> Option<(K, V)> {
        let id = self.look_up(hash, eq)?;
        Some(self.core.take_hashed(id, hash))
    }

    /// Takes out expired entries, looking at no more than `look` that are due.
    pub(crate) fn sweep(&mut self, mut look: usize, sink: &mut impl Sink<K, V>) {
        let now = self.policy.now();
        if let Some(wheel) = &mut self.core.wheel {
            wheel.advance(now);
        }
        while let Some(wheel) = &mut self.core.wheel
            && let Some(id) = wheel.expired(now, &mut look)
        {
            let (key, value) = self.core.take(id);
            sink.entry(key, value, Cause::Expired);
        }
    }

    #[inline(always)]
    fn write_now(
        &mut self,
        key: K,
        value: V,
        sink: &mut impl Sink<K, V>,
    ) -> (Option<Id>, Option<V>) {
        let hash = self.core.hasher.hash_one(&key);
        let deadline = self.policy.deadline();
        self.write(hash, key, value, deadline, sink)
    }

    /// Writes an entry: where it is now, unless it cannot be held, and the previous value.
    #[inline(always)]
    pub(crate) fn write<T: Sink<K, V>>(
        &mut self,
        hash: u64,
        key: K,
        value: V,
        deadline: u64,
        sink: &mut T,
    ) -> (Option<Id>, Option<V>) {
        let weight = if T::PLAIN { 1 } else { self.core.weigh(&key, &value) };
        if P::EXPIRES {
            self.sweep(SWEEP, sink);
            self.core.deadline = deadline;
        }
        if weight > self.core.capacity {
            // The old value must not outlive the one that was to take its place.
            let previous = self.take_by_hash(hash, |held| *held == key);
            sink.entry(key, value, Cause::Rejected);
            return (None, previous.map(into_value));
        }
        let Some(id) = self.core.store.find(hash, |held| *held == key) else {
            let id = self.policy.admit(&mut self.core, hash, key, value, weight, sink);
            return (Some(id), None);
        };
        if P::LISTS > 1 && self.core.is_ghost(id) {
            self.policy.revive(&mut self.core, id, value, weight, sink);
            return (Some(id), None);
        }
        if P::EXPIRES && self.is_expired(id, self.policy.now()) {
            let (old_key, old_value) = self.core.take_hashed(id, hash);
            sink.entry(old_key, old_value, Cause::Expired);
            let id = self.policy.admit(&mut self.core, hash, key, value, weight, sink);
            return (Some(id), None);
        }
        self.policy.touch(&mut self.core, id);
        if T::PLAIN {
            // Before the previous value is on its way out, which would leak if the key panicked.
            drop(key);
            let previous = mem::replace(self.core.store.value_mut(id), value);
            return (Some(id), Some(previous));
        }
        self.rewrite(id, hash, key, value, weight, sink)
    }

    /// Writes another value, perhaps of another weight, to an entry that was just touched.
    fn rewrite(
        &mut self,
        id: Id,
        hash: u64,
        key: K,
        value: V,
        weight: usize,
        sink: &mut impl Sink<K, V>,
    ) -> (Option<Id>, Option<V>) {
        if self.core.fits(weight.saturating_sub(self.core.weight_of(id))) {
            drop(key);
            let previous = self.core.replace(id, value, weight);
            return (Some(id), Some(previous));
        }
        // It grew: taken out while others go, so that it is none of them.
        let list = self.core.list_of(id);
        let (_, previous) = self.core.take_hashed(id, hash);
        self.policy.make_room(&mut self.core, weight, None, Cause::Capacity, sink);
        let most = self.policy.most(self.core.capacity);
        let id = self.core.push(list, hash, key, value, weight, most);
        (Some(id), Some(previous))
    }
}

/// The key goes first: a return value would leak if the key panicked after it was written.
pub(crate) fn into_value<K, V>((key, value): (K, V)) -> V {
    drop(key);
    value
}

/// Keeps the first that leaves, for whoever pushed.
struct Keep<K, V, R> {
    kept: Option<(K, V, Cause)>,
    clone_key: Option<fn(&K) -> K>,
    rest: R,
}

impl<K, V, R: Sink<K, V>> Sink<K, V> for Keep<K, V, R> {
    fn entry(&mut self, key: K, value: V, cause: Cause) {
        if self.kept.is_none() && cause != Cause::Expired {
            self.kept = Some((key, value, cause));
        } else {
            self.rest.entry(key, value, cause);
        }
    }

    fn ghost(&mut self, key: &K, value: V, cause: Cause) {
        match self.clone_key {
            Some(clone_key) if self.kept.is_none() => {
                self.kept = Some((clone_key(key), value, cause));
            }
            _ => self.rest.ghost(key, value, cause),
        }
    }
}

impl<K: Hash + Eq + Clone, V: Clone, P: Policy, S: BuildHasher + Clone> Clone
    for Cache<K, V, P, S>
{
    /// The same entries in the same order, with the same policy, weigher and listener.
    fn clone(&self) -> Self {
        let mut core = Core::new(P::LISTS, self.core.capacity, self.core.hasher.clone());
        core.weigher = self.core.weigher.clone();
        core.listener = self.core.listener.clone();
        core.wheel = P::EXPIRES.then(|| Box::new(Wheel::new()));
        core.settle();
        core.copy_entries(&self.core, P::LISTS, self.policy.most(self.core.capacity));
        Self { core, policy: self.policy.clone() }
    }
}

impl<K, V, P: fmt::Debug, S> fmt::Debug for Cache<K, V, P, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache")
            .field("len", &self.len())
            .field("capacity", &self.capacity())
            .field("weight", &self.weight())
            .field("policy", &self.policy)
            .finish_non_exhaustive()
    }
}
