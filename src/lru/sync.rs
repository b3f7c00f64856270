//! The form for several threads.

use std::borrow::Borrow;
use std::fmt;
use std::hash::{BuildHasher, Hash};
use std::thread;
use std::time::Duration;

use super::builder::Builder;
use super::cache::{self, OrAdd, into_value};
use super::core::{Cause, Discard, Listener, Sink};
use super::deferred::{Asked, Deferred};
use super::error::CapacityError;
use super::expirable::Expiring;
use super::hasher::RandomState;
use super::lock::Lock;
use super::policy::{Lru, Policy, Rules};

/// The fewest entries of a shard when the number of shards is not set.
const LEAST: usize = 128;
/// The most shards.
const MOST_SHARDS: usize = 1 << 12;

/// A cache for several threads, over any policy.
///
/// It consists of shards, each a [`lru::Cache`](cache::Cache) under a lock of its own. A hit needs no more than
/// shared access to its shard, so that threads that only read do not wait for each other: it notes that the
/// entry was asked for, and the entry is moved when its turn to leave has come, which it then does not. What
/// leaves is thus an old entry of a shard that was not asked for lately, and not always the oldest of all
/// (a single write spares no more than sixteen). Where that matters, [`Cache::exact`] has one shard and the
/// exact order of the policy; so has every cache with one shard, which small ones have by default.
///
/// What leaves is dropped, and the listener runs, after the lock is released and on the thread that caused
/// it: a listener may use the cache. Do not use it from a weigher, from `Hash`, `Eq` or `Clone`, or from the
/// closures of [`Cache::get_with`] and [`Cache::retain`]: these run under the lock, and may wait for
/// themselves. A panic in any of them does no harm: locks are not poisoned.
///
/// ```
/// use graceful::lru::sync::Cache;
///
/// let cache = Cache::new(1000);
/// std::thread::scope(|scope| {
///     for thread in 0..2 {
///         let cache = &cache;
///         scope.spawn(move || cache.insert(thread, "value"));
///     }
/// });
/// assert_eq!(cache.get(&1), Some("value"));
/// assert_eq!(cache.len(), 2);
/// ```
pub struct Cache<K, V, P = Lru, S = RandomState> {
    shards: Box<[Shard<K, V, P, S>]>,
    hasher: S,
    listener: Option<Listener<K, V>>,
}

/// Alone on its cache lines (two, as processors fetch them in pairs).
#[repr(align(128))]
struct Shard<K, V, P, S> {
    cache: Lock<Part<K, V, P, S>>,
}

type Part<K, V, P, S> = cache::Cache<K, V, Deferred<P>, S>;

/// What left under a lock, to be told and dropped after it.
struct Gone<K, V> {
    first: Option<Departed<K, V>>,
    rest: Vec<Departed<K, V>>,
    /// How a listener gets the key of a ghost.
    clone_key: Option<fn(&K) -> K>,
    evicted: usize,
}

struct Departed<K, V> {
    key: Option<K>,
    value: V,
    cause: Cause,
}

impl<K, V> Gone<K, V> {
    #[inline]
    fn push(&mut self, key: Option<K>, value: V, cause: Cause) {
        self.evicted += 1;
        let departed = Departed { key, value, cause };
        if self.first.is_none() {
            self.first = Some(departed);
        } else {
            self.rest.push(departed);
        }
    }
}

impl<K, V> Sink<K, V> for Gone<K, V> {
    #[inline]
    fn entry(&mut self, key: K, value: V, cause: Cause) {
        self.push(Some(key), value, cause);
    }

    #[inline]
    fn ghost(&mut self, key: &K, value: V, cause: Cause) {
        let key = self.clone_key.map(|clone_key| clone_key(key));
        self.push(key, value, cause);
    }
}

impl<K: Hash + Eq, V> Cache<K, V> {
    /// A cache of the least recently used entries, with as many shards as suit the machine.
    pub fn new(capacity: usize) -> Self {
        cache::Cache::builder(capacity).build_sync()
    }

    /// A cache with one shard, which keeps the exact order of use.
    pub fn exact(capacity: usize) -> Self {
        cache::Cache::builder(capacity).shards(1).build_sync()
    }

    /// As [`Cache::new`], with an error for a capacity of 0.
    ///
    /// # Errors
    ///
    /// When the capacity is 0.
    pub fn try_new(capacity: usize) -> Result<Self, CapacityError> {
        if capacity == 0 {
            return Err(CapacityError::capacity());
        }
        Ok(Self::new(capacity))
    }
}

impl<K, V, P: Policy + Default> Cache<K, V, P> {
    /// Options; make the cache with [`Builder::build_sync`].
    pub fn builder(capacity: usize) -> Builder<K, V, P> {
        cache::Cache::builder(capacity)
    }
}

impl<K, V, P, S> Builder<K, V, P, S> {
    /// The number of shards of [`Builder::build_sync`], rounded up to a power of two; at most 4096.
    ///
    /// Default: four per processor, and fewer when a shard would have a capacity below 128. The capacity is
    /// shared out evenly, so with weights no entry may be heavier than its share. With one shard the order is
    /// exact.
    pub fn shards(mut self, shards: usize) -> Self {
        self.shards = Some(shards);
        self
    }
}

impl<K: Hash + Eq, V, P: Policy, S: BuildHasher + Clone> Builder<K, V, P, S> {
    /// Makes a cache for several threads.
    pub fn build_sync(self) -> Cache<K, V, P, S> {
        let capacity = P::bound(self.capacity);
        let wanted = self.shards.unwrap_or_else(|| {
            let processors = thread::available_parallelism().map_or(1, usize::from);
            (4 * processors).min(capacity / LEAST)
        });
        let count = wanted.clamp(1, MOST_SHARDS).next_power_of_two();
        let shards = (0..count).map(|shard| {
            let part = Builder {
                capacity: share(capacity, count, shard),
                policy: Deferred::new(self.policy.clone(), count > 1),
                hasher: self.hasher.clone(),
                weigher: self.weigher.clone(),
                listener: None,
                shards: None,
            };
            Shard { cache: Lock::new(part.build()) }
        });
        Cache { shards: shards.collect(), hasher: self.hasher, listener: self.listener }
    }
}

/// The capacity of one shard; the first ones have what is over.
fn share(capacity: usize, shards: usize, shard: usize) -> usize {
    capacity / shards + usize::from(shard < capacity % shards)
}

impl<K, V, P, S> Cache<K, V, P, S> {
    /// The shard of a hash, by bits that are in no tag and hardly move the homes of a key.
    #[inline]
    fn shard(&self, hash: u64) -> &Shard<K, V, P, S> {
        let at = (hash >> 14) as usize & (self.shards.len() - 1);
        &self.shards[at]
    }

    /// Tells what left. No lock is held.
    #[inline]
    fn tell(&self, gone: Gone<K, V>) -> usize {
        if let Some(listener) = &self.listener {
            for Departed { key, value, cause } in gone.first.into_iter().chain(gone.rest) {
                if let Some(key) = key {
                    (listener.call)(key, value, cause);
                }
            }
        }
        gone.evicted
    }

    #[inline]
    fn gone(&self) -> Gone<K, V> {
        Gone {
            first: None,
            rest: Vec::new(),
            clone_key: self.listener.as_ref().and_then(|listener| listener.clone_key),
            evicted: 0,
        }
    }

    /// Bytes that the cache takes per entry; see [`ENTRY_BYTES`](cache::Cache::ENTRY_BYTES). One is for what
    /// hits note.
    pub const ENTRY_BYTES: usize = cache::Cache::<K, V, P, S>::ENTRY_BYTES + 1;

    /// The number of shards.
    pub fn shards(&self) -> usize {
        self.shards.len()
    }

    /// The hasher, to compute hashes for [`Cache::get_by_hash`].
    pub fn hasher(&self) -> &S {
        &self.hasher
    }

    /// The number of entries, shard by shard, expired ones that have not left yet among them.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.cache.read().len()).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The sum of the shards' capacities.
    pub fn capacity(&self) -> usize {
        self.shards
            .iter()
            .fold(0, |sum: usize, shard| sum.saturating_add(shard.cache.read().capacity()))
    }

    /// The sum of the weights; without a weigher the number of entries.
    pub fn weight(&self) -> usize {
        self.shards
            .iter()
            .fold(0, |sum: usize, shard| sum.saturating_add(shard.cache.read().weight()))
    }
}

impl<K: Hash + Eq, V, P: Policy, S: BuildHasher> Cache<K, V, P, S> {
    /// A clone of the value of a key, which counts as a use.
    #[inline]
    pub fn get<Q>(&self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
        V: Clone,
    {
        self.get_with(key, V::clone)
    }

    /// What `read` makes of the value of a key, under the lock; a use.
    #[inline]
    pub fn get_with<Q, R>(&self, key: &Q, read: impl FnOnce(&V) -> R) -> Option<R>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let hash = self.hasher.hash_one(key);
        self.get_by_hash(hash, |held| held.borrow() == key, read)
    }

    /// As [`Cache::get_with`], for a key that is given as its hash and an equality.
    ///
    /// The hash is that of [`Cache::hasher`] over an owned key. So a lookup needs to build no key.
    #[inline]
    pub fn get_by_hash<R>(
        &self,
        hash: u64,
        mut eq: impl FnMut(&K) -> bool,
        read: impl FnOnce(&V) -> R,
    ) -> Option<R> {
        let shard = self.shard(hash);
        if self.shards.len() > 1 {
            let cache = shard.cache.read();
            match cache.ask(hash, &mut eq)? {
                Asked::Held(id) => return Some(read(cache.core.store.value(id))),
                Asked::Expired => {}
            }
        } else if !P::EXPIRES {
            // Nothing leaves at a lookup.
            let mut cache = shard.cache.write();
            let id = cache.use_entry_into(hash, eq, &mut Discard)?;
            return Some(read(cache.core.store.value(id)));
        }
        let mut gone = self.gone();
        let mut cache = shard.cache.write();
        let found =
            cache.use_entry_into(hash, eq, &mut gone).map(|id| read(cache.core.store.value(id)));
        drop(cache);
        self.tell(gone);
        found
    }

    /// A clone of the value of a key, without a use.
    pub fn peek<Q>(&self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
        V: Clone,
    {
        let hash = self.hasher.hash_one(key);
        let cache = self.shard(hash).cache.read();
        let id = cache.look_up(hash, |held| held.borrow() == key)?;
        Some(cache.core.store.value(id).clone())
    }

    /// Whether the key is there, without a use.
    pub fn contains<Q>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let hash = self.hasher.hash_one(key);
        let cache = self.shard(hash).cache.read();
        cache.look_up(hash, |held| held.borrow() == key).is_some()
    }

    /// Writes an entry and returns the previous value of its key.
    #[inline]
    pub fn insert(&self, key: K, value: V) -> Option<V> {
        let hash = self.hasher.hash_one(&key);
        self.write(hash, key, value, None).0
    }

    /// Writes an entry and says whether one had to go: false for an update in place.
    pub fn add(&self, key: K, value: V) -> bool {
        let hash = self.hasher.hash_one(&key);
        self.write(hash, key, value, None).1 > 0
    }

    #[inline]
    fn write(&self, hash: u64, key: K, value: V, deadline: Option<u64>) -> (Option<V>, usize) {
        let mut gone = self.gone();
        let mut cache = self.shard(hash).cache.write();
        let deadline = deadline.unwrap_or_else(|| cache.policy.deadline());
        let (_, previous) = cache.write(hash, key, value, deadline, &mut gone);
        drop(cache);
        (previous, self.tell(gone))
    }

    /// Adds a pair unless the key is there, which is no use of it.
    pub fn contains_or_add(&self, key: K, value: V) -> OrAdd<()> {
        self.look_or_add(key, value, |_| ())
    }

    /// Adds a pair unless the key is there, in which case a clone of its value is returned without a use.
    pub fn peek_or_add(&self, key: K, value: V) -> OrAdd<V>
    where
        V: Clone,
    {
        self.look_or_add(key, value, V::clone)
    }

    fn look_or_add<R>(&self, key: K, value: V, read: impl FnOnce(&V) -> R) -> OrAdd<R> {
        let hash = self.hasher.hash_one(&key);
        let mut gone = self.gone();
        let mut cache = self.shard(hash).cache.write();
        if let Some(id) = cache.look_up(hash, |held| *held == key) {
            return OrAdd::Present(read(cache.core.store.value(id)));
        }
        let deadline = cache.policy.deadline();
        let (_, previous) = cache.write(hash, key, value, deadline, &mut gone);
        drop(cache);
        drop(previous);
        OrAdd::Added { evicted: self.tell(gone) > 0 }
    }

    /// A clone of the value of a key, made and added when it is not there.
    ///
    /// `make` runs without a lock. When two threads make a value at once, the first one to be done wins, and
    /// both return that one.
    pub fn get_or_insert_with(&self, key: K, make: impl FnOnce() -> V) -> V
    where
        V: Clone,
    {
        let made: Result<V, std::convert::Infallible> =
            self.try_get_or_insert_with(key, || Ok(make()));
        match made {
            Ok(value) => value,
            Err(never) => match never {},
        }
    }

    /// As [`Cache::get_or_insert_with`], for a value that may fail to be made.
    ///
    /// # Errors
    ///
    /// When `make` fails; then nothing has changed.
    pub fn try_get_or_insert_with<E>(
        &self,
        key: K,
        make: impl FnOnce() -> Result<V, E>,
    ) -> Result<V, E>
    where
        V: Clone,
    {
        if let Some(value) = self.get(&key) {
            return Ok(value);
        }
        let value = make()?;
        Ok(match self.peek_or_add(key, value.clone()) {
            OrAdd::Present(first) => first,
            OrAdd::Added { .. } => value,
        })
    }

    /// Removes a key and says whether it was there; the listener gets the pair.
    pub fn remove<Q>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let mut gone = self.gone();
        match self.pop_entry(key) {
            Some((key, value)) => {
                gone.entry(key, value, Cause::Removed);
                self.tell(gone);
                true
            }
            None => false,
        }
    }

    /// Removes a key and returns its value; the listener does not hear of it.
    pub fn pop<Q>(&self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.pop_entry(key).map(into_value)
    }

    /// As [`Cache::pop`], with the key that was stored.
    pub fn pop_entry<Q>(&self, key: &Q) -> Option<(K, V)>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let hash = self.hasher.hash_one(key);
        let mut cache = self.shard(hash).cache.write();
        cache.remove_by_hash(hash, |held| held.borrow() == key)
    }

    /// Keeps the entries for which `keep` is true, one shard after the other, each under its lock.
    pub fn retain(&self, mut keep: impl FnMut(&K, &mut V) -> bool) {
        for shard in &self.shards {
            let mut gone = self.gone();
            shard.cache.write().retain_into(&mut keep, &mut gone);
            self.tell(gone);
        }
    }

    /// Calls `see` with every entry, one shard after the other, each under its lock and from its oldest entry.
    pub fn for_each(&self, mut see: impl FnMut(&K, &V)) {
        for shard in &self.shards {
            for (key, value) in &*shard.cache.read() {
                see(key, value);
            }
        }
    }

    /// Clones of the keys, shard by shard from the oldest to the newest.
    pub fn keys(&self) -> Vec<K>
    where
        K: Clone,
    {
        let mut keys = Vec::new();
        self.for_each(|key, _| keys.push(key.clone()));
        keys
    }

    /// Clones of the values, shard by shard from the oldest to the newest.
    pub fn values(&self) -> Vec<V>
    where
        V: Clone,
    {
        let mut values = Vec::new();
        self.for_each(|_, value| values.push(value.clone()));
        values
    }

    /// Changes the capacity, shared out evenly, and returns how many entries had to go.
    pub fn resize(&self, capacity: usize) -> usize {
        let capacity = P::bound(capacity);
        let mut evicted = 0;
        for (at, shard) in self.shards.iter().enumerate() {
            let mut gone = self.gone();
            let part = share(capacity, self.shards.len(), at);
            shard.cache.write().resize_into(part, &mut gone);
            evicted += self.tell(gone);
        }
        evicted
    }

    /// Removes everything, ghosts too; the listener gets the entries.
    #[doc(alias = "clear")]
    pub fn purge(&self) {
        for shard in &self.shards {
            let mut gone = self.gone();
            let mut cache = shard.cache.write();
            let order = cache.policy.order();
            cache.core.purge(order, |key, value| gone.entry(key, value, Cause::Purged));
            drop(cache);
            self.tell(gone);
        }
    }

    /// Checks every invariant of every shard, for tests.
    #[doc(hidden)]
    pub fn validate(&self) {
        for shard in &self.shards {
            shard.cache.read().validate();
        }
    }
}

impl<K: Hash + Eq, V, P: super::Ordered, S: BuildHasher> Cache<K, V, P, S> {
    /// Removes and returns the oldest pair of the first shard that has one, which is the oldest of all in
    /// an [exact](Cache::exact) cache; the listener does not hear of it.
    pub fn pop_oldest(&self) -> Option<(K, V)> {
        self.shards.iter().find_map(|shard| {
            let mut gone = self.gone();
            let popped = shard.cache.write().pop_into(|store| store.oldest(0), &mut gone);
            self.tell(gone);
            popped
        })
    }
}

impl<K: Hash + Eq, V, P: Policy, S: BuildHasher> Cache<K, V, Expiring<P>, S> {
    /// As [`Cache::insert`], with a time to live for this entry; 0 is never.
    pub fn insert_with_ttl(&self, key: K, value: V, ttl: Duration) -> Option<V> {
        let hash = self.hasher.hash_one(&key);
        let deadline = self.shard(hash).cache.read().policy.policy.after(ttl);
        self.write(hash, key, value, Some(deadline)).0
    }

    /// Takes out every entry that expired more than a millisecond ago and says how many there were. The
    /// listener hears of each.
    pub fn evict_expired(&self) -> usize {
        let mut evicted = 0;
        for shard in &self.shards {
            let mut gone = self.gone();
            shard.cache.write().sweep(usize::MAX, &mut gone);
            evicted += self.tell(gone);
        }
        evicted
    }
}

impl<K: Hash + Eq, V, P: Policy, S: BuildHasher> Extend<(K, V)> for Cache<K, V, P, S> {
    fn extend<I: IntoIterator<Item = (K, V)>>(&mut self, pairs: I) {
        for (key, value) in pairs {
            drop(self.insert(key, value));
        }
    }
}

impl<K, V, P: fmt::Debug, S> fmt::Debug for Cache<K, V, P, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache")
            .field("len", &self.len())
            .field("capacity", &self.capacity())
            .field("shards", &self.shards.len())
            .finish_non_exhaustive()
    }
}

#[cfg(all(test, shuttle))]
mod tests;
