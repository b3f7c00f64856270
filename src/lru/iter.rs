//! Iterators, from the oldest entry to the newest and back.

use std::fmt;
use std::hash::{BuildHasher, Hash};
use std::iter::FusedIterator;

use super::cache::Cache;
use super::core::{Core, RECENT};
use super::hasher::RandomState;
use super::policy::{Lru, Policy};
use super::raw::{Id, Store, Walk, WalkMut};
use super::wheel::{Wheel, is_over};

/// What is left of the lists of a policy, which are walked one after the other.
#[derive(Clone)]
struct Chained<W> {
    first: W,
    second: Option<W>,
    left: usize,
}

impl<W: DoubleEndedIterator> Chained<W> {
    fn next(&mut self) -> Option<W::Item> {
        self.left = self.left.saturating_sub(1);
        self.first.next().or_else(|| self.second.as_mut().and_then(Iterator::next))
    }

    fn next_back(&mut self) -> Option<W::Item> {
        self.left = self.left.saturating_sub(1);
        self.second
            .as_mut()
            .and_then(DoubleEndedIterator::next_back)
            .or_else(|| self.first.next_back())
    }
}

/// Hides what has expired.
#[derive(Clone, Copy)]
struct Live<'a> {
    wheel: Option<&'a Wheel>,
    now: u64,
}

impl Live<'_> {
    fn shows(&self, id: Id) -> bool {
        !self.wheel.is_some_and(|wheel| is_over(wheel.deadline(id), self.now))
    }
}

/// The entries of a [`Cache`], from the oldest to the newest; made by [`Cache::iter`].
pub struct Iter<'a, K, V> {
    store: &'a Store<K, V>,
    walk: Chained<Walk<'a, K, V>>,
    live: Live<'a>,
}

/// The entries of a [`Cache`] with their values to change; made by [`Cache::iter_mut`].
pub struct IterMut<'a, K, V> {
    walk: Chained<WalkMut<'a, K, V>>,
    live: Live<'a>,
}

/// The keys of a [`Cache`], from the oldest to the newest; made by [`Cache::keys`].
pub struct Keys<'a, K, V> {
    iter: Iter<'a, K, V>,
}

/// The values of a [`Cache`], from the oldest to the newest; made by [`Cache::values`].
pub struct Values<'a, K, V> {
    iter: Iter<'a, K, V>,
}

/// Takes the entries out of a [`Cache`], from the oldest to the newest; made by [`Cache::drain`].
///
/// What it was not asked for leaves when it is dropped, and stays when it is leaked.
pub struct Drain<'a, K: Hash + Eq, V, P: Policy = Lru, S: BuildHasher = RandomState> {
    cache: &'a mut Cache<K, V, P, S>,
}

/// The entries of a [`Cache`] that was consumed, from the oldest to the newest.
pub struct IntoIter<K, V, P = Lru, S = RandomState> {
    cache: Cache<K, V, P, S>,
}

impl<K: Hash + Eq, V, P: Policy, S: BuildHasher> Cache<K, V, P, S> {
    /// The entries from the oldest to the newest, without a use; turn it round with `rev`.
    ///
    /// 2Q gives the frequent entries first and ARC the recent ones, each list from its oldest.
    pub fn iter(&self) -> Iter<'_, K, V> {
        let mut walks = self.policy.order().iter().map(|list| self.core.store.walk(*list));
        Iter {
            store: &self.core.store,
            walk: Chained {
                first: walks.next().unwrap_or_else(|| self.core.store.walk(RECENT)),
                second: walks.next(),
                left: self.core.len(),
            },
            live: Live { wheel: self.core.wheel.as_deref(), now: self.policy.now() },
        }
    }

    /// As [`Cache::iter`], with the values to change. Their weights stay what they were.
    pub fn iter_mut(&mut self) -> IterMut<'_, K, V> {
        let now = self.policy.now();
        let left = self.core.len();
        let order = self.policy.order();
        let Core { store, wheel, .. } = &mut self.core;
        let [first, second] = store.walks_mut(order);
        IterMut {
            walk: Chained { first, second: Some(second), left },
            live: Live { wheel: wheel.as_deref(), now },
        }
    }

    /// The keys from the oldest to the newest, without a use.
    pub fn keys(&self) -> Keys<'_, K, V> {
        Keys { iter: self.iter() }
    }

    /// The values from the oldest to the newest, without a use.
    pub fn values(&self) -> Values<'_, K, V> {
        Values { iter: self.iter() }
    }

    /// Takes everything out, from the oldest to the newest; the listener does not hear of it.
    pub fn drain(&mut self) -> Drain<'_, K, V, P, S> {
        Drain { cache: self }
    }

    /// Takes out the first entry in the order of iteration, or the last.
    fn pop_end(&mut self, newest: bool) -> Option<(K, V)> {
        loop {
            let order = self.policy.order().iter();
            let store = &self.core.store;
            let id = if newest {
                order.rev().find_map(|list| store.newest(*list))?
            } else {
                order.clone().find_map(|list| store.oldest(*list))?
            };
            let expired = self.is_expired(id, self.policy.now());
            let pair = self.core.take(id);
            if !expired {
                return Some(pair);
            }
        }
    }
}

impl<'a, K, V> Iterator for Iter<'a, K, V> {
    type Item = (&'a K, &'a V);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let id = self.walk.next()?;
            if self.live.shows(id) {
                return Some((self.store.key(id), self.store.value(id)));
            }
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let least = if self.live.wheel.is_some() { 0 } else { self.walk.left };
        (least, Some(self.walk.left))
    }
}

impl<K, V> DoubleEndedIterator for Iter<'_, K, V> {
    fn next_back(&mut self) -> Option<Self::Item> {
        loop {
            let id = self.walk.next_back()?;
            if self.live.shows(id) {
                return Some((self.store.key(id), self.store.value(id)));
            }
        }
    }
}

impl<K, V> FusedIterator for Iter<'_, K, V> {}

impl<K, V> Clone for Iter<'_, K, V> {
    fn clone(&self) -> Self {
        Self { store: self.store, walk: self.walk.clone(), live: self.live }
    }
}

impl<'a, K, V> Iterator for IterMut<'a, K, V> {
    type Item = (&'a K, &'a mut V);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let (id, key, value) = self.walk.next()?;
            if self.live.shows(id) {
                return Some((key, value));
            }
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let least = if self.live.wheel.is_some() { 0 } else { self.walk.left };
        (least, Some(self.walk.left))
    }
}

impl<K, V> DoubleEndedIterator for IterMut<'_, K, V> {
    fn next_back(&mut self) -> Option<Self::Item> {
        loop {
            let (id, key, value) = self.walk.next_back()?;
            if self.live.shows(id) {
                return Some((key, value));
            }
        }
    }
}

impl<K, V> FusedIterator for IterMut<'_, K, V> {}

macro_rules! half {
    ($name:ident, $of:ident, $part:tt) => {
        impl<'a, K, V> Iterator for $name<'a, K, V> {
            type Item = &'a $of;

            fn next(&mut self) -> Option<Self::Item> {
                self.iter.next().map(|pair| pair.$part)
            }

            fn size_hint(&self) -> (usize, Option<usize>) {
                self.iter.size_hint()
            }
        }

        impl<K, V> DoubleEndedIterator for $name<'_, K, V> {
            fn next_back(&mut self) -> Option<Self::Item> {
                self.iter.next_back().map(|pair| pair.$part)
            }
        }

        impl<K, V> FusedIterator for $name<'_, K, V> {}

        impl<K, V> Clone for $name<'_, K, V> {
            fn clone(&self) -> Self {
                Self { iter: self.iter.clone() }
            }
        }

        impl<K, V> fmt::Debug for $name<'_, K, V>
        where
            $of: fmt::Debug,
        {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_list().entries(self.clone()).finish()
            }
        }
    };
}

half!(Keys, K, 0);
half!(Values, V, 1);

impl<K: fmt::Debug, V: fmt::Debug> fmt::Debug for Iter<'_, K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.clone()).finish()
    }
}

impl<K, V> fmt::Debug for IterMut<'_, K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IterMut").field("left", &self.walk.left).finish()
    }
}

impl<K: Hash + Eq, V, P: Policy, S: BuildHasher> Iterator for Drain<'_, K, V, P, S> {
    type Item = (K, V);

    fn next(&mut self) -> Option<(K, V)> {
        self.cache.pop_end(false)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (if P::EXPIRES { 0 } else { self.cache.len() }, Some(self.cache.len()))
    }
}

impl<K: Hash + Eq, V, P: Policy, S: BuildHasher> DoubleEndedIterator for Drain<'_, K, V, P, S> {
    fn next_back(&mut self) -> Option<(K, V)> {
        self.cache.pop_end(true)
    }
}

impl<K: Hash + Eq, V, P: Policy, S: BuildHasher> FusedIterator for Drain<'_, K, V, P, S> {}

impl<K: Hash + Eq, V, P: Policy, S: BuildHasher> Drop for Drain<'_, K, V, P, S> {
    fn drop(&mut self) {
        self.cache.core.purge(self.cache.policy.order(), |_, _| {});
    }
}

impl<K: Hash + Eq, V, P: Policy, S: BuildHasher> fmt::Debug for Drain<'_, K, V, P, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Drain").field("left", &self.cache.len()).finish()
    }
}

impl<K: Hash + Eq, V, P: Policy, S: BuildHasher> Iterator for IntoIter<K, V, P, S> {
    type Item = (K, V);

    fn next(&mut self) -> Option<(K, V)> {
        self.cache.pop_end(false)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (if P::EXPIRES { 0 } else { self.cache.len() }, Some(self.cache.len()))
    }
}

impl<K: Hash + Eq, V, P: Policy, S: BuildHasher> DoubleEndedIterator for IntoIter<K, V, P, S> {
    fn next_back(&mut self) -> Option<(K, V)> {
        self.cache.pop_end(true)
    }
}

impl<K: Hash + Eq, V, P: Policy, S: BuildHasher> FusedIterator for IntoIter<K, V, P, S> {}

impl<K, V, P, S> fmt::Debug for IntoIter<K, V, P, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IntoIter").field("left", &self.cache.len()).finish()
    }
}

impl<K: Hash + Eq, V, P: Policy, S: BuildHasher> IntoIterator for Cache<K, V, P, S> {
    type Item = (K, V);
    type IntoIter = IntoIter<K, V, P, S>;

    fn into_iter(self) -> Self::IntoIter {
        IntoIter { cache: self }
    }
}

impl<'a, K: Hash + Eq, V, P: Policy, S: BuildHasher> IntoIterator for &'a Cache<K, V, P, S> {
    type Item = (&'a K, &'a V);
    type IntoIter = Iter<'a, K, V>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<'a, K: Hash + Eq, V, P: Policy, S: BuildHasher> IntoIterator for &'a mut Cache<K, V, P, S> {
    type Item = (&'a K, &'a mut V);
    type IntoIter = IterMut<'a, K, V>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter_mut()
    }
}

impl<K: Hash + Eq, V, P: Policy, S: BuildHasher> Extend<(K, V)> for Cache<K, V, P, S> {
    fn extend<I: IntoIterator<Item = (K, V)>>(&mut self, pairs: I) {
        for (key, value) in pairs {
            self.insert(key, value);
        }
    }
}

impl<K: Hash + Eq, V> FromIterator<(K, V)> for Cache<K, V> {
    /// A cache without a bound, as an iterator does not say where it ends; [`Cache::resize`] sets one.
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        let mut cache = Self::new(usize::MAX);
        cache.extend(pairs);
        cache
    }
}
