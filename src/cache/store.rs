//! Where responses are kept: the crate's LRU core, in shards.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::clock::Moment;
use super::key::CacheKey;
use super::stored::Resource;
use crate::lru::{AnyPolicy, Builder, Cache, Cause, Clock, Expiring, ManualClock};

/// How much a store holds, and what leaves first when it is full.
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    pub(crate) entries: usize,
    pub(crate) bytes: usize,
    pub(crate) policy: AnyPolicy,
}

/// What to do with what is stored under a key.
pub(crate) enum Change {
    Keep,
    /// With the time after which it is of no use.
    Put(Resource, Duration),
    Remove,
}

/// What left the store, and why.
pub(crate) type Gone = (CacheKey, Resource, Cause);

type Shelf = Cache<CacheKey, Resource, Expiring<AnyPolicy>, RandomState>;

/// The only thing that the layer knows of where responses are.
///
/// Each operation locks one shard for a moment. What leaves is handed back and dropped by the caller, after
/// the lock is released.
#[derive(Debug)]
pub(crate) struct Store {
    shards: Box<[Shard]>,
    hasher: RandomState,
    clock: Arc<ManualClock>,
}

#[derive(Debug)]
struct Shard {
    shelf: Mutex<Shelf>,
    gone: Arc<Leaving>,
}

/// Entries on their way out, and what is left behind.
#[derive(Debug, Default)]
struct Leaving {
    entries: Mutex<Vec<Gone>>,
    bytes: AtomicUsize,
}

/// A shard below this many entries is not worth its inexact order.
const SHARD_ENTRIES: usize = 512;
const SHARDS: usize = 16;

impl Store {
    pub(crate) fn new(limits: &Limits) -> Self {
        let shards = (limits.entries / SHARD_ENTRIES).clamp(1, SHARDS).next_power_of_two();
        let hasher = RandomState::new();
        let clock = Arc::new(ManualClock::new());
        let shards: Vec<Shard> = (0..shards.min(SHARDS))
            .map(|_| {
                let gone = Arc::new(Leaving::default());
                let shelf = shelf(limits, 1, &hasher, &clock, &gone);
                Shard { shelf: Mutex::new(shelf), gone }
            })
            .collect();
        let store = Self { shards: shards.into(), hasher, clock };
        store.configure(limits);
        store
    }

    /// Begins anew, empty, with other limits.
    pub(crate) fn configure(&self, limits: &Limits) {
        for shard in &self.shards {
            let new = shelf(limits, self.shards.len(), &self.hasher, &self.clock, &shard.gone);
            let old = std::mem::replace(&mut *shard.lock(), new);
            shard.gone.bytes.store(0, Ordering::Relaxed);
            drop(old);
        }
    }

    /// Entries leave when their time is over.
    fn set_time(&self, now: &Moment) {
        let now = now.steady_millis();
        // Not written in vain: all threads read it.
        if Clock::now(&*self.clock) != now {
            self.clock.set(now);
        }
    }

    fn shard(&self, hash: u64) -> &Shard {
        // The high bits: the low ones choose the place inside the shard.
        &self.shards[(hash >> 48) as usize & (self.shards.len() - 1)]
    }

    /// What is stored under `key`, which counts as a use of it.
    pub(crate) fn get(&self, key: &str, now: &Moment) -> (Option<Resource>, Vec<Gone>) {
        self.set_time(now);
        // A key hashes as its text does.
        let hash = self.hasher.hash_one(key);
        let shard = self.shard(hash);
        // The whole key is compared: equal hashes are nothing that an attacker could not find.
        let found = shard.lock().get_by_hash(hash, |held| held.as_str() == key).cloned();
        // Only what is expired leaves by a look, and then nothing is found.
        let gone = if found.is_none() { shard.gone.take() } else { Vec::new() };
        (found, gone)
    }

    /// Changes what is stored under `key`, in one step. What is replaced is among what left.
    pub(crate) fn update(
        &self,
        key: &CacheKey,
        now: &Moment,
        change: impl FnOnce(Option<&Resource>) -> Change,
    ) -> Vec<Gone> {
        self.set_time(now);
        let shard = self.shard(self.hasher.hash_one(key));
        let mut shelf = shard.lock();
        let mut replaced = None;
        match change(shelf.peek(key)) {
            Change::Keep => return Vec::new(),
            Change::Put(resource, kept_for) => {
                shard.gone.bytes.fetch_add(weigh(key, &resource), Ordering::Relaxed);
                // Zero would mean for ever.
                let kept_for = kept_for.max(Duration::from_nanos(1));
                replaced = shelf.insert_with_ttl(key.clone(), resource, kept_for);
            }
            Change::Remove => {
                shelf.remove(key);
            }
        }
        drop(shelf);
        let mut gone = shard.gone.take();
        if let Some(old) = replaced {
            shard.gone.bytes.fetch_sub(weigh(key, &old), Ordering::Relaxed);
            gone.push((key.clone(), old, Cause::Removed));
        }
        gone
    }

    /// Keeps what `keep` says, shard by shard.
    pub(crate) fn retain(&self, mut keep: impl FnMut(&CacheKey, &Resource) -> bool) -> Vec<Gone> {
        let mut gone = Vec::new();
        for shard in &self.shards {
            shard.lock().retain(|key, resource| keep(key, resource));
            gone.append(&mut shard.gone.take());
        }
        gone
    }

    /// Takes out what is of no use any more.
    pub(crate) fn evict_expired(&self, now: &Moment) -> Vec<Gone> {
        self.set_time(now);
        let mut gone = Vec::new();
        for shard in &self.shards {
            shard.lock().evict_expired();
            gone.append(&mut shard.gone.take());
        }
        gone
    }

    pub(crate) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().len()).sum()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.shards.iter().map(|shard| shard.gone.bytes.load(Ordering::Relaxed)).sum()
    }
}

impl Shard {
    fn lock(&self) -> MutexGuard<'_, Shelf> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Leaving {
    fn take(&self) -> Vec<Gone> {
        std::mem::take(&mut *self.entries.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn shelf(
    limits: &Limits,
    shards: usize,
    hasher: &RandomState,
    clock: &Arc<ManualClock>,
    gone: &Arc<Leaving>,
) -> Shelf {
    // Both limits in one weight: no entry counts for less than its share of the bytes. A store of small
    // responses is full at its number of entries, one of large responses at its bytes.
    let bytes = (limits.bytes / shards).max(1);
    let entries = limits.entries.div_ceil(shards).max(1);
    let least = bytes / entries;
    let gone = gone.clone();
    Builder::new(bytes)
        .policy(Expiring::new(limits.policy.clone(), Duration::ZERO).clock(clock.clone()))
        .hasher(hasher.clone())
        .weigher(move |key, resource| weigh(key, resource).max(least).max(1))
        .on_evict(move |key, resource, cause| {
            gone.bytes.fetch_sub(weigh(&key, &resource), Ordering::Relaxed);
            let mut entries = gone.entries.lock().unwrap_or_else(PoisonError::into_inner);
            entries.push((key, resource, cause));
        })
        .build()
}

/// What an entry takes in memory: its place in the core, its key, head and body.
pub(crate) fn weigh(key: &CacheKey, resource: &Resource) -> usize {
    PLACE + key.as_str().len() + resource.weight()
}

/// The place of an entry in the core: in the lists and the index, with its weight and its time. All of these
/// are tables that grow by doubling, so there may be room for another one of each.
const PLACE: usize = 2 * (Shelf::ENTRY_BYTES + BESIDE + BESIDE / 4);
/// The weight and the time, which have places for the vacant slots, too.
const BESIDE: usize = size_of::<usize>() + 2 * size_of::<u64>();
