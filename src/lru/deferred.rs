//! Touches that wait for their turn, so that hits need not have the cache to themselves.

use std::hash::{BuildHasher, Hash};
#[cfg(not(all(test, shuttle)))]
use std::sync::atomic::{AtomicBool, Ordering};

#[cfg(all(test, shuttle))]
use shuttle::sync::atomic::{AtomicBool, Ordering};

use super::cache::Cache;
use super::core::{Cause, Core, Sink};
use super::ordered::Ordered;
use super::policy::{Policy, Rules, forward, inner};
use super::raw::Id;

/// The most entries of a list that one write spares because they were asked for, so that no write takes long.
const CHANCES: usize = 16;

/// A policy whose touches may be put off: a hit only notes that the entry was asked for, and the entry is
/// touched when it is the next to leave, which it then does not.
///
/// To note needs no more than shared access, and once something is noted further hits write nothing at all:
/// what several threads ask for often stays near each of them.
#[derive(Debug)]
pub struct Deferred<P> {
    pub(crate) policy: P,
    is_on: bool,
    /// Of each entry: whether it was asked for since it was touched.
    asked: Vec<AtomicBool>,
}

/// What [`Cache::ask`] found.
pub(crate) enum Asked {
    Held(Id),
    /// To be taken out by whoever has the cache to itself.
    Expired,
}

impl<P: Policy> Deferred<P> {
    /// When it is not on, it is the policy itself.
    pub(crate) fn new(policy: P, is_on: bool) -> Self {
        Self { policy, is_on, asked: Vec::new() }
    }

    /// Touches what is the next to leave and was asked for.
    fn settle<K, V, S>(&mut self, core: &mut Core<K, V, S>) {
        if !self.is_on {
            return;
        }
        for list in self.policy.order().iter().copied() {
            if list == self.policy.touched() {
                // Where a touch leaves it on its list, a run of entries is touched as one.
                let mut next = core.store.oldest(list);
                let mut last = None;
                for _ in 0..CHANCES {
                    let Some(id) = next.filter(|id| self.was_asked_for(*id)) else { break };
                    last = Some(id);
                    next = core.store.newer(id);
                }
                if let Some(last) = last {
                    core.store.rotate(last, list);
                }
                continue;
            }
            for _ in 0..CHANCES {
                let next = core.store.oldest(list);
                let Some(id) = next.filter(|id| self.was_asked_for(*id)) else { break };
                self.policy.touch(core, id);
            }
        }
    }

    /// Whether the entry was asked for since this was asked.
    fn was_asked_for(&mut self, id: Id) -> bool {
        self.asked.get_mut(id.index()).is_some_and(|asked| std::mem::take(asked.get_mut()))
    }

    /// The entry is new: nobody asked for it yet, whoever had its place before.
    fn begin<K, V, S>(&mut self, core: &Core<K, V, S>, id: Id) {
        if !self.is_on {
            return;
        }
        if self.asked.len() != core.store.ids() {
            // It grew, and every entry has another id. Nothing had to leave yet, and what was asked for until
            // now counts no more than what comes.
            self.asked.clear();
            self.asked.resize_with(core.store.ids(), AtomicBool::default);
        }
        *self.asked[id.index()].get_mut() = false;
    }
}

impl<P: Clone> Clone for Deferred<P> {
    /// What was noted is not copied.
    fn clone(&self) -> Self {
        Self { policy: self.policy.clone(), is_on: self.is_on, asked: Vec::new() }
    }
}

impl<P: Policy> Policy for Deferred<P> {}
impl<P: Ordered> Ordered for Deferred<P> {}

impl<P: Policy> Rules for Deferred<P> {
    const LISTS: usize = P::LISTS;
    const EXPIRES: bool = P::EXPIRES;

    fn bound(capacity: usize) -> usize {
        P::bound(capacity)
    }

    forward!(inner: now deadline set_capacity order most touched touch trim_ghosts);

    fn make_room<K: Hash + Eq, V, S: BuildHasher>(
        &mut self,
        core: &mut Core<K, V, S>,
        weight: usize,
        revived: Option<Id>,
        cause: Cause,
        sink: &mut impl Sink<K, V>,
    ) {
        while !core.fits(weight) && core.len() > 0 {
            self.settle(core);
            // One entry at a time: the one after it may have been asked for, too.
            let one = core.capacity.saturating_sub(core.weight()).saturating_add(1);
            self.policy.make_room(core, one, revived, cause, sink);
        }
    }

    fn admit<K: Hash + Eq, V, S: BuildHasher, T: Sink<K, V>>(
        &mut self,
        core: &mut Core<K, V, S>,
        hash: u64,
        key: K,
        value: V,
        weight: usize,
        sink: &mut T,
    ) -> Id {
        if core.weigher.is_some() {
            self.make_room(core, weight, None, Cause::Capacity, sink);
        } else if !core.fits(weight) {
            self.settle(core);
        }
        let id = self.policy.admit(core, hash, key, value, weight, sink);
        self.begin(core, id);
        id
    }

    fn revive<K: Hash + Eq, V, S: BuildHasher>(
        &mut self,
        core: &mut Core<K, V, S>,
        ghost: Id,
        value: V,
        weight: usize,
        sink: &mut impl Sink<K, V>,
    ) {
        if !core.fits(weight) {
            self.settle(core);
        }
        self.policy.revive(core, ghost, value, weight, sink);
        self.begin(core, ghost);
    }
}

impl<K: Hash + Eq, V, P: Policy, S: BuildHasher> Cache<K, V, Deferred<P>, S> {
    /// The entry of a key, noted as asked for.
    #[inline]
    pub(crate) fn ask(&self, hash: u64, eq: impl FnMut(&K) -> bool) -> Option<Asked> {
        let id = self.core.store.find(hash, eq)?;
        if P::LISTS > 1 && self.core.is_ghost(id) {
            return None;
        }
        if P::EXPIRES && self.is_expired(id, self.policy.now()) {
            return Some(Asked::Expired);
        }
        if let Some(asked) = self.policy.asked.get(id.index())
            // A line that all only read is not carried from core to core.
            && !asked.load(Ordering::Relaxed)
        {
            // Relaxed: it is read by whoever has the cache to itself, and the lock orders that.
            asked.store(true, Ordering::Relaxed);
        }
        Some(Asked::Held(id))
    }
}

#[cfg(test)]
mod tests;
