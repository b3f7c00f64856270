//! What a cache can do whose entries are in one order of use.

use std::borrow::Borrow;
use std::hash::{BuildHasher, Hash};

use super::cache::Cache;
use super::core::{Cause, Sink};
use super::expirable::Expiring;
use super::policy::{Lru, Policy};
use super::raw::{Id, Store};

/// A policy that keeps all entries in one order of use.
pub trait Ordered: Policy {}
impl Ordered for Lru {}
impl Ordered for Expiring<Lru> {}

impl<K: Hash + Eq, V, P: Ordered, S: BuildHasher> Cache<K, V, P, S> {
    /// The pair that is the next to go, without a use.
    #[doc(alias = "get_oldest")]
    pub fn oldest(&self) -> Option<(&K, &V)> {
        self.iter().next()
    }

    /// The pair that was used last, without a use.
    pub fn newest(&self) -> Option<(&K, &V)> {
        self.iter().next_back()
    }

    /// Removes the oldest pair and says whether there was one; the listener gets it.
    pub fn remove_oldest(&mut self) -> bool {
        let mut sink = self.core.report();
        match self.pop_oldest() {
            Some((key, value)) => {
                sink.entry(key, value, Cause::Removed);
                true
            }
            None => false,
        }
    }

    /// Removes and returns the oldest pair; the listener does not hear of it.
    pub fn pop_oldest(&mut self) -> Option<(K, V)> {
        let mut sink = self.core.report();
        self.pop_into(|store| store.oldest(0), &mut sink)
    }

    /// Removes and returns the newest pair; the listener does not hear of it.
    pub fn pop_newest(&mut self) -> Option<(K, V)> {
        let mut sink = self.core.report();
        self.pop_into(|store| store.newest(0), &mut sink)
    }

    /// Takes out the entry that `next` names, and what has expired before it.
    pub(crate) fn pop_into(
        &mut self,
        next: impl Fn(&Store<K, V>) -> Option<Id>,
        sink: &mut impl Sink<K, V>,
    ) -> Option<(K, V)> {
        let now = self.policy.now();
        while let Some(id) = next(&self.core.store) {
            let expired = self.is_expired(id, now);
            let (key, value) = self.core.take(id);
            if !expired {
                return Some((key, value));
            }
            sink.entry(key, value, Cause::Expired);
        }
        None
    }

    /// Makes an entry the newest, and says whether it is there.
    pub fn promote<Q>(&mut self, key: &Q) -> bool
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.get(key).is_some()
    }

    /// Makes an entry the oldest, the next to go, and says whether it is there.
    pub fn demote<Q>(&mut self, key: &Q) -> bool
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let hash = self.core.hasher.hash_one(key);
        let found = self.look_up(hash, |held| held.borrow() == key);
        if let Some(id) = found {
            self.core.store.move_to_back(id, 0);
        }
        found.is_some()
    }
}
