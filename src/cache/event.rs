//! What happens in a cache, for hooks and counters.

use std::sync::atomic::{AtomicU64, Ordering};

use super::key::CacheKey;

/// Something that happened in a cache; see [`LruCacheLayer::on_event`](super::LruCacheLayer::on_event).
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum CacheEvent<'a> {
    /// A request was answered from the store.
    Hit(&'a CacheKey),
    /// A request had to be forwarded to the handler, or waited for one that was.
    Miss(&'a CacheKey),
    /// A response was stored; with what it weighs, in bytes.
    Store(&'a CacheKey, usize),
    /// What was stored under this key left the store: evicted, expired, replaced, invalidated or purged.
    Evict(&'a CacheKey),
}

/// Counters of a cache since it was created.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CacheStats {
    /// Requests answered with a fresh stored response.
    pub hits: u64,
    /// Requests answered with a stale one.
    pub stale: u64,
    /// Requests for which nothing usable was stored.
    pub misses: u64,
    /// Requests that got the answer to another one that was under way.
    pub collapsed: u64,
    /// Requests in which the cache had no part.
    pub bypassed: u64,
    /// Requests that asked for themselves because their key was not shareable lately.
    pub passed: u64,
    /// Stored responses that the handler said are still good.
    pub validated: u64,
    /// Refreshes in the background.
    pub refreshes: u64,
    /// Responses stored.
    pub stores: u64,
    /// Keys that left the store to make room.
    pub evictions: u64,
    /// Keys that left the store because they were of no use any more.
    pub expirations: u64,
    /// Recordings that ended in an error, early, or larger than allowed.
    pub failed_fills: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) hits: AtomicU64,
    pub(crate) stale: AtomicU64,
    pub(crate) misses: AtomicU64,
    pub(crate) collapsed: AtomicU64,
    pub(crate) bypassed: AtomicU64,
    pub(crate) passed: AtomicU64,
    pub(crate) validated: AtomicU64,
    pub(crate) refreshes: AtomicU64,
    pub(crate) stores: AtomicU64,
    pub(crate) evictions: AtomicU64,
    pub(crate) expirations: AtomicU64,
    pub(crate) failed_fills: AtomicU64,
}

/// Relaxed everywhere: each counter stands alone, and no memory is published through it.
pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Counters {
    pub(crate) fn snapshot(&self) -> CacheStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        CacheStats {
            hits: read(&self.hits),
            stale: read(&self.stale),
            misses: read(&self.misses),
            collapsed: read(&self.collapsed),
            bypassed: read(&self.bypassed),
            passed: read(&self.passed),
            validated: read(&self.validated),
            refreshes: read(&self.refreshes),
            stores: read(&self.stores),
            evictions: read(&self.evictions),
            expirations: read(&self.expirations),
            failed_fills: read(&self.failed_fills),
        }
    }
}
