//! Caches that know what to forget: LRU, 2Q, ARC, and entries that expire or have weights.
//!
//! | | what leaves a full cache | choose it when |
//! | --- | --- | --- |
//! | [`LruCache`] | what was not asked for the longest | use is plain; it is the fastest and smallest |
//! | [`TwoQueueCache`] | what was asked for only once | scans must not push out what is used often |
//! | [`AdaptiveCache`] | it learns which of the two is better | the load is mixed or unknown |
//! | [`ExpirableCache`] | the same as LRU, and what is too old | values go stale |
//!
//! All of them are one [`Cache`] with another [`Policy`]; [`AnyPolicy`] chooses at run time,
//! [`Expiring`] adds times to any policy, and a [weigher](Builder::weigher) makes any capacity one of bytes.
//! [`sync::Cache`] is the form for several threads. The semantics are those of golang-lru v2.
//!
//! ```
//! use graceful::lru::LruCache;
//!
//! let mut cache = LruCache::new(2);
//! cache.insert("apple", 3);
//! cache.insert("banana", 2);
//! assert_eq!(cache.get("apple"), Some(&3));
//!
//! // The banana was not asked for the longest.
//! assert_eq!(cache.push("pear", 5), Some(("banana", 2)));
//! ```

mod adaptive;
mod builder;
mod cache;
mod clock;
mod core;
mod deferred;
mod entry;
mod error;
mod expirable;
mod hasher;
mod iter;
mod lock;
mod ordered;
mod policy;
mod raw;
#[cfg(feature = "serde")]
mod serde;
pub mod sync;
mod two_queue;
mod wheel;

pub use self::adaptive::Adaptive;
pub use self::builder::Builder;
pub use self::cache::{Cache, OrAdd};
pub use self::clock::{Clock, ManualClock, MonotonicClock};
pub use self::core::Cause;
pub use self::entry::{Entry, OccupiedEntry, VacantEntry};
pub use self::error::CapacityError;
pub use self::expirable::Expiring;
pub use self::hasher::{DefaultHasher, RandomState};
pub use self::iter::{Drain, IntoIter, Iter, IterMut, Keys, Values};
pub use self::ordered::Ordered;
pub use self::policy::{AnyPolicy, Evicts, Lru, Policy};
pub use self::two_queue::TwoQueue;

/// A cache of the least recently used entries.
pub type LruCache<K, V, S = RandomState> = Cache<K, V, Lru, S>;

/// A cache that keeps what was asked for twice from what is asked for once.
#[doc(alias = "2q")]
pub type TwoQueueCache<K, V, S = RandomState> = Cache<K, V, TwoQueue, S>;

/// A cache that adapts its share of recent and of frequent entries to the load.
#[doc(alias = "arc")]
pub type AdaptiveCache<K, V, S = RandomState> = Cache<K, V, Adaptive, S>;

/// A cache of the least recently used entries that expire.
pub type ExpirableCache<K, V, S = RandomState> = Cache<K, V, Expiring<Lru>, S>;
