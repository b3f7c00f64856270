//! Options of a cache.

use std::fmt;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::time::Duration;

use super::cache::Cache;
use super::clock::Clock;
use super::core::{Cause, Core, Listener, Weigher};
use super::error::CapacityError;
use super::expirable::Expiring;
use super::hasher::RandomState;
use super::policy::{Evicts, Lru, Policy};
use super::wheel::Wheel;

/// Options of a [`Cache`]: policy, hasher, weights, and whom to tell of what leaves.
///
/// ```
/// use graceful::lru::LruCache;
///
/// // At most 10 bytes of text.
/// let mut cache = LruCache::builder(10)
///     .weigher(|_key: &u32, text: &String| text.len())
///     .build();
/// cache.insert(1, "four".to_owned());
/// cache.insert(2, "seven!!".to_owned());
/// assert!(!cache.contains(&1) && cache.weight() == 7);
/// ```
#[must_use]
pub struct Builder<K, V, P = Lru, S = RandomState> {
    pub(crate) capacity: usize,
    pub(crate) policy: P,
    pub(crate) hasher: S,
    pub(crate) weigher: Option<Weigher<K, V>>,
    pub(crate) listener: Option<Listener<K, V>>,
    pub(crate) shards: Option<usize>,
}

impl<K, V> Builder<K, V> {
    /// Options of a [`LruCache`](super::LruCache), to begin with.
    pub fn new(capacity: usize) -> Self {
        Self::with_policy(capacity, Lru::default())
    }
}

impl<K, V, P> Builder<K, V, P> {
    pub(crate) fn with_policy(capacity: usize, policy: P) -> Self {
        Self {
            capacity,
            policy,
            hasher: RandomState::default(),
            weigher: None,
            listener: None,
            shards: None,
        }
    }
}

impl<K, V, P, S> Builder<K, V, P, S> {
    /// Another policy. Set it before [`Builder::on_evict`], which depends on it and which it takes back.
    pub fn policy<Q: Policy>(self, policy: Q) -> Builder<K, V, Q, S> {
        Builder {
            capacity: self.capacity,
            policy,
            hasher: self.hasher,
            weigher: self.weigher,
            listener: None,
            shards: self.shards,
        }
    }

    /// Another hasher than the default one, which is foldhash with a random seed.
    ///
    /// It should spread keys over all 64 bits: the index looks at the high half first.
    pub fn hasher<T: BuildHasher>(self, hasher: T) -> Builder<K, V, P, T> {
        Builder {
            capacity: self.capacity,
            policy: self.policy,
            hasher,
            weigher: self.weigher,
            listener: self.listener,
            shards: self.shards,
        }
    }

    /// Weighs entries, so that the capacity is a sum of weights, bytes for example, and not a number.
    ///
    /// An entry is weighed when it is written; what is changed through `get_mut` keeps its weight. One that
    /// is heavier than the capacity is not held. Count what the entry costs beside its data with
    /// [`Cache::ENTRY_BYTES`]. An entry may weigh nothing, and then takes no part of the capacity.
    pub fn weigher(mut self, weigher: impl Fn(&K, &V) -> usize + Send + Sync + 'static) -> Self {
        self.weigher = Some(Arc::new(weigher));
        self
    }

    /// Calls `listener` with each entry that leaves and is not returned, and why.
    ///
    /// It hears of entries that are evicted, removed, purged, expired, or rejected; not of the old value when
    /// one is written in place, nor of what [`Cache::pop`], [`Cache::push`] or an iterator hands out, nor of
    /// what goes with the cache itself. It runs when the cache is consistent, so it may panic.
    ///
    /// The key of a policy with ghosts is a clone.
    pub fn on_evict(mut self, listener: impl Fn(K, V, Cause) + Send + Sync + 'static) -> Self
    where
        P: Evicts<K>,
    {
        self.listener = Some(Listener { call: Arc::new(listener), clone_key: P::CLONE_KEY });
        self
    }
}

impl<K, V, P: Policy, S> Builder<K, V, Expiring<P>, S> {
    /// How long entries live unless they are written with a time of their own. Default: 0, which is for ever.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.policy = self.policy.ttl(ttl);
        self
    }

    /// Another clock than the system's monotonic one.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.policy = self.policy.clock(clock);
        self
    }
}

impl<K, V, P: Policy, S> Builder<K, V, P, S> {
    /// Makes the cache. With a capacity of 0 it holds nothing, or has no bound when entries expire.
    pub fn build(mut self) -> Cache<K, V, P, S> {
        let capacity = P::bound(self.capacity);
        self.policy.set_capacity(capacity);
        let mut core = Core::new(P::LISTS, capacity, self.hasher);
        core.weigher = self.weigher;
        core.listener = self.listener;
        if P::EXPIRES {
            core.wheel = Some(Box::new(Wheel::new()));
        }
        core.settle();
        Cache { core, policy: self.policy }
    }

    /// Makes the cache, unless it could hold nothing.
    ///
    /// # Errors
    ///
    /// When the capacity is 0 and no bound is not what that means.
    pub fn try_build(self) -> Result<Cache<K, V, P, S>, CapacityError> {
        if P::bound(self.capacity) == 0 {
            return Err(CapacityError::capacity());
        }
        Ok(self.build())
    }
}

impl<K, V, P: fmt::Debug, S> fmt::Debug for Builder<K, V, P, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("capacity", &self.capacity)
            .field("policy", &self.policy)
            .field("weigher", &self.weigher.is_some())
            .field("listener", &self.listener.is_some())
            .finish_non_exhaustive()
    }
}
