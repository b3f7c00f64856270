//! The place of one key, to look and write with one hash.

use std::fmt;
use std::hash::{BuildHasher, Hash};

use super::cache::{Cache, into_value};
use super::hasher::RandomState;
use super::policy::{Lru, Policy};
use super::raw::Id;

/// The place of a key in a [`Cache`], made by [`Cache::entry`].
///
/// ```
/// use graceful::lru::LruCache;
///
/// let mut words = LruCache::new(100);
/// for word in ["to", "be", "or", "not", "to", "be"] {
///     if let Some(count) = words.entry(word).or_insert(0) {
///         *count += 1;
///     }
/// }
/// assert_eq!(words.peek("be"), Some(&2));
/// ```
#[derive(Debug)]
pub enum Entry<'a, K, V, P = Lru, S = RandomState> {
    /// The key is there.
    Occupied(OccupiedEntry<'a, K, V, P, S>),
    /// The key is not there.
    Vacant(VacantEntry<'a, K, V, P, S>),
}

/// An entry that is there.
pub struct OccupiedEntry<'a, K, V, P = Lru, S = RandomState> {
    pub(crate) cache: &'a mut Cache<K, V, P, S>,
    pub(crate) id: Id,
    pub(crate) hash: u64,
}

/// A key that is not there.
pub struct VacantEntry<'a, K, V, P = Lru, S = RandomState> {
    pub(crate) cache: &'a mut Cache<K, V, P, S>,
    pub(crate) key: K,
    pub(crate) hash: u64,
}

impl<'a, K: Hash + Eq, V, P: Policy, S: BuildHasher> Entry<'a, K, V, P, S> {
    /// The key.
    pub fn key(&self) -> &K {
        match self {
            Self::Occupied(entry) => entry.key(),
            Self::Vacant(entry) => entry.key(),
        }
    }

    /// The value, or `value` when there was none; `None` when that cannot be held.
    pub fn or_insert(self, value: V) -> Option<&'a mut V> {
        self.or_insert_with(|| value)
    }

    /// The value, or the one that `make` returns when there was none; `None` when that cannot be held.
    pub fn or_insert_with(self, make: impl FnOnce() -> V) -> Option<&'a mut V> {
        match self {
            Self::Occupied(entry) => Some(entry.into_mut()),
            Self::Vacant(entry) => entry.insert(make()),
        }
    }

    /// Changes the value if there is one.
    #[must_use]
    pub fn and_modify(mut self, change: impl FnOnce(&mut V)) -> Self {
        if let Self::Occupied(entry) = &mut self {
            change(entry.get_mut());
        }
        self
    }
}

impl<'a, K: Hash + Eq, V, P: Policy, S: BuildHasher> OccupiedEntry<'a, K, V, P, S> {
    /// The key that is stored.
    pub fn key(&self) -> &K {
        self.cache.core.store.key(self.id)
    }

    /// The value.
    pub fn get(&self) -> &V {
        self.cache.core.store.value(self.id)
    }

    /// The value to change. Its weight stays what it was.
    pub fn get_mut(&mut self) -> &mut V {
        self.cache.core.store.value_mut(self.id)
    }

    /// The value to change, for as long as the cache is borrowed.
    pub fn into_mut(self) -> &'a mut V {
        self.cache.core.store.value_mut(self.id)
    }

    /// Removes the entry and returns its value; the listener does not hear of it.
    pub fn remove(self) -> V {
        into_value(self.remove_entry())
    }

    /// Removes and returns the entry; the listener does not hear of it.
    pub fn remove_entry(self) -> (K, V) {
        self.cache.core.take_hashed(self.id, self.hash)
    }
}

impl<'a, K: Hash + Eq, V, P: Policy, S: BuildHasher> VacantEntry<'a, K, V, P, S> {
    /// The key.
    pub fn key(&self) -> &K {
        &self.key
    }

    /// The key, back.
    pub fn into_key(self) -> K {
        self.key
    }

    /// Adds the entry. `None` when it cannot be held: it went to the listener.
    pub fn insert(self, value: V) -> Option<&'a mut V> {
        let mut sink = self.cache.core.report();
        let deadline = self.cache.policy.deadline();
        let (id, _) = self.cache.write(self.hash, self.key, value, deadline, &mut sink);
        id.map(|id| self.cache.core.store.value_mut(id))
    }
}

impl<K: fmt::Debug, V: fmt::Debug, P, S> fmt::Debug for OccupiedEntry<'_, K, V, P, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OccupiedEntry")
            .field("key", self.cache.core.store.key(self.id))
            .field("value", self.cache.core.store.value(self.id))
            .finish()
    }
}

impl<K: fmt::Debug, V, P, S> fmt::Debug for VacantEntry<'_, K, V, P, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("VacantEntry").field(&self.key).finish()
    }
}
