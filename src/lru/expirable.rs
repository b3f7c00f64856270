//! Entries that expire, under any policy.

use std::hash::{BuildHasher, Hash};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::cache::Cache;
use super::clock::{Clock, MonotonicClock, nanos};
use super::core::{Cause, Core, Sink};
use super::policy::{Evicts, Lru, Policy, Rules, forward, inner};
use super::raw::Id;
use super::wheel::NEVER;

/// A policy whose entries also expire.
///
/// An entry is gone once its time to live is over: no lookup and no iteration shows it. It leaves in
/// constant time and without a thread, when it is asked for, or when a later write comes by: each write
/// takes up to eight expired entries with it. [`Cache::evict_expired`] takes all of them at once. Until
/// then [`Cache::len`] counts them.
///
/// To write an entry renews its time, to read it does not. A time to live of 0 means that it never
/// expires, and a capacity of 0 that there is no bound.
///
/// Differences to golang-lru's expirable cache: there is no goroutine to close, so no leak and no tiny time
/// that panics; `contains` does not show what has expired; a write over an expired entry tells the listener
/// that it expired.
#[derive(Debug)]
pub struct Expiring<P = Lru> {
    policy: P,
    ttl: Duration,
    clock: Arc<dyn Clock>,
    /// The latest time that was seen, which the clock may have gone back from.
    seen: AtomicU64,
    paused: bool,
}

impl<P: Clone> Clone for Expiring<P> {
    fn clone(&self) -> Self {
        Self {
            policy: self.policy.clone(),
            ttl: self.ttl,
            clock: Arc::clone(&self.clock),
            seen: AtomicU64::new(self.seen.load(Ordering::Relaxed)),
            paused: self.paused,
        }
    }
}

impl<P: Policy> Expiring<P> {
    /// Entries expire after `ttl` unless they are written with a time of their own; 0 is never.
    pub fn new(policy: P, ttl: Duration) -> Self {
        Self {
            policy,
            ttl,
            clock: Arc::new(MonotonicClock::new()),
            seen: AtomicU64::new(0),
            paused: false,
        }
    }

    /// Another clock than the system's monotonic one.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    #[must_use]
    pub(crate) fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    fn time(&self) -> u64 {
        let now = nanos(self.clock.now());
        // Relaxed: shared readers may each see their own latest time; writers have the cache to themselves.
        self.seen.fetch_max(now, Ordering::Relaxed).max(now)
    }

    /// When an entry with this time to live expires.
    pub(crate) fn after(&self, ttl: Duration) -> u64 {
        if ttl.is_zero() { NEVER } else { self.time().saturating_add(nanos(ttl)) }
    }
}

impl<P: Policy + Default> Default for Expiring<P> {
    fn default() -> Self {
        Self::new(P::default(), Duration::ZERO)
    }
}

impl<P: Policy> Policy for Expiring<P> {}

impl<K, P: Evicts<K>> Evicts<K> for Expiring<P> {
    const CLONE_KEY: Option<fn(&K) -> K> = P::CLONE_KEY;
}

impl<P: Policy> Rules for Expiring<P> {
    const LISTS: usize = P::LISTS;
    const EXPIRES: bool = true;

    fn bound(capacity: usize) -> usize {
        if capacity == 0 { usize::MAX } else { P::bound(capacity) }
    }

    /// While expiry is paused it is always the beginning of time.
    fn now(&self) -> u64 {
        let now = self.time();
        if self.paused { 0 } else { now }
    }

    fn deadline(&self) -> u64 {
        self.after(self.ttl)
    }

    forward!(inner: set_capacity order most touched touch make_room admit revive trim_ghosts);
}

impl<K, V> Cache<K, V, Expiring<Lru>> {
    /// A cache of the least recently used entries that expire; `capacity` 0 is no bound, `ttl` 0 is never.
    ///
    /// ```
    /// use std::time::Duration;
    /// use graceful::lru::ExpirableCache;
    ///
    /// let mut cache = ExpirableCache::new(100, Duration::from_secs(60));
    /// cache.insert("short", 1);
    /// cache.insert_with_ttl("long", 2, Duration::from_secs(3600));
    /// assert_eq!(cache.get("short"), Some(&1));
    /// ```
    pub fn new(capacity: usize, ttl: Duration) -> Self {
        Self::builder(capacity).ttl(ttl).build()
    }
}

impl<K: Hash + Eq, V, P: Policy, S: BuildHasher> Cache<K, V, Expiring<P>, S> {
    /// The time to live of entries that are written without one of their own; 0 is never.
    pub fn ttl(&self) -> Duration {
        self.policy.ttl
    }

    /// As [`Cache::insert`], with a time to live for this entry; 0 is never.
    pub fn insert_with_ttl(&mut self, key: K, value: V, ttl: Duration) -> Option<V> {
        let hash = self.core.hasher.hash_one(&key);
        let deadline = self.policy.after(ttl);
        let mut sink = self.core.report();
        self.write(hash, key, value, deadline, &mut sink).1
    }

    /// Takes out every entry that expired more than a millisecond ago and says how many there were. The
    /// listener hears of each.
    pub fn evict_expired(&mut self) -> usize {
        let mut sink = self.core.report();
        self.sweep(usize::MAX, &mut sink);
        sink.evicted
    }

    /// Shows expired entries again and keeps them, until [`Cache::resume_expiry`].
    pub fn pause_expiry(&mut self) {
        self.policy.paused = true;
    }

    /// Hides expired entries again; they leave as they always do.
    pub fn resume_expiry(&mut self) {
        self.policy.paused = false;
    }
}
