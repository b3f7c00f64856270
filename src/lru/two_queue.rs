//! 2Q: what was asked for twice is safe from what is asked for once.

use std::hash::{BuildHasher, Hash};

use super::cache::Cache;
use super::core::{Cause, Core, FREQUENT, GHOST_RECENT, RECENT, Sink};
use super::error::CapacityError;
use super::policy::{Evicts, Policy, Rules};
use super::raw::{GHOSTS, Id, LISTS};

/// The 2Q policy: a *recent* and a *frequent* list, and *ghosts*, the keys that left the recent one.
///
/// A new entry is recent. When it is asked for, or written again, it becomes frequent; so does a key that
/// comes back while it is a ghost. A scan over many keys thus pushes out other recent entries and leaves
/// the frequent ones alone. Recent entries may fill the whole cache; above their share they are the first
/// to go.
///
/// The source is golang-lru's variant of the paper (Johnson and Shasha, 1994). Two things differ: the
/// length never passes the capacity (there it can, with a recent ratio of 1), and a capacity of 1 works,
/// as at least one ghost is kept unless their ratio is 0.
#[derive(Clone, Debug)]
pub struct TwoQueue {
    recent_ratio: f64,
    ghost_ratio: f64,
    recent_limit: usize,
    ghost_limit: usize,
}

impl TwoQueue {
    /// The share of the capacity for recent entries when there are frequent ones too.
    pub const RECENT_RATIO: f64 = 0.25;
    /// The number of ghosts as a share of the capacity.
    pub const GHOST_RATIO: f64 = 0.5;

    /// A policy with other ratios than 0.25 and 0.5.
    ///
    /// # Errors
    ///
    /// When a ratio is not within 0 to 1.
    pub fn new(recent_ratio: f64, ghost_ratio: f64) -> Result<Self, CapacityError> {
        if !(0.0..=1.0).contains(&recent_ratio) {
            return Err(CapacityError::recent_ratio());
        }
        if !(0.0..=1.0).contains(&ghost_ratio) {
            return Err(CapacityError::ghost_ratio());
        }
        Ok(Self { recent_ratio, ghost_ratio, recent_limit: 0, ghost_limit: 0 })
    }
}

impl Default for TwoQueue {
    fn default() -> Self {
        Self {
            recent_ratio: Self::RECENT_RATIO,
            ghost_ratio: Self::GHOST_RATIO,
            recent_limit: 0,
            ghost_limit: 0,
        }
    }
}

impl Policy for TwoQueue {}

impl<K: Clone> Evicts<K> for TwoQueue {
    const CLONE_KEY: Option<fn(&K) -> K> = Some(K::clone);
}

impl Rules for TwoQueue {
    const LISTS: usize = LISTS;

    fn set_capacity(&mut self, capacity: usize) {
        self.recent_limit = (capacity as f64 * self.recent_ratio) as usize;
        self.ghost_limit = (capacity as f64 * self.ghost_ratio) as usize;
        if self.ghost_ratio > 0.0 {
            self.ghost_limit = self.ghost_limit.max(1);
        }
    }

    fn order(&self) -> &'static [usize] {
        &[FREQUENT, RECENT]
    }

    /// One more than can be held: the new ghost comes before the oldest is forgotten.
    fn most(&self, capacity: usize) -> usize {
        capacity.saturating_add(self.ghost_limit).saturating_add(1)
    }

    #[inline(always)]
    fn touch<K, V, S>(&mut self, core: &mut Core<K, V, S>, id: Id) {
        core.move_to(id, FREQUENT);
    }

    fn make_room<K: Hash + Eq, V, S: BuildHasher>(
        &mut self,
        core: &mut Core<K, V, S>,
        weight: usize,
        revived: Option<Id>,
        cause: Cause,
        sink: &mut impl Sink<K, V>,
    ) {
        while !core.fits(weight) && core.len() > 0 {
            let recent = core.size(RECENT);
            // A ghost that comes back, and a smaller capacity, spare recent entries at their share.
            let spare = revived.is_some() || cause == Cause::Resized;
            let over = recent > self.recent_limit || recent == self.recent_limit && !spare;
            if core.count(RECENT) > 0 && (over || core.count(FREQUENT) == 0) {
                core.evict_to_ghost(RECENT, GHOST_RECENT, cause, sink);
                core.trim(GHOST_RECENT, self.ghost_limit, revived);
            } else {
                core.evict(FREQUENT, cause, sink);
            }
        }
    }

    #[inline]
    fn admit<K: Hash + Eq, V, S: BuildHasher, T: Sink<K, V>>(
        &mut self,
        core: &mut Core<K, V, S>,
        hash: u64,
        key: K,
        value: V,
        weight: usize,
        sink: &mut T,
    ) -> Id {
        let most = self.most(core.capacity);
        // As below, where all weigh 1 and there are as many ghosts as may be: the new entry comes in the place
        // of the ghost that goes for the next one.
        let recent = core.count(RECENT);
        if T::PLAIN
            && core.len() == core.capacity
            && recent > 0
            && (recent >= self.recent_limit || core.count(FREQUENT) == 0)
            && self.ghost_limit > 0
            && core.count(GHOST_RECENT) == self.ghost_limit
        {
            core.evict_to_ghost(RECENT, GHOST_RECENT, Cause::Capacity, sink);
            return core.replace_ghost(GHOST_RECENT, RECENT, hash, key, value, most);
        }
        self.make_room(core, weight, None, Cause::Capacity, sink);
        core.push(RECENT, hash, key, value, weight, most)
    }

    fn revive<K: Hash + Eq, V, S: BuildHasher>(
        &mut self,
        core: &mut Core<K, V, S>,
        ghost: Id,
        value: V,
        weight: usize,
        sink: &mut impl Sink<K, V>,
    ) {
        self.make_room(core, weight, Some(ghost), Cause::Capacity, sink);
        core.revive(ghost, FREQUENT, value, weight);
        core.trim(GHOST_RECENT, self.ghost_limit, None);
    }

    fn trim_ghosts<K: Hash + Eq, V, S: BuildHasher>(&mut self, core: &mut Core<K, V, S>) {
        for list in GHOSTS..LISTS {
            core.trim(list, self.ghost_limit, None);
        }
    }
}

impl<K, V> Cache<K, V, TwoQueue> {
    /// A cache with ratios of 0.25 recent entries and 0.5 ghosts; one with a capacity of 0 holds nothing.
    pub fn new(capacity: usize) -> Self {
        Self::builder(capacity).build()
    }

    /// As `new`, with an error for a capacity of 0.
    ///
    /// # Errors
    ///
    /// When the capacity is 0.
    pub fn try_new(capacity: usize) -> Result<Self, CapacityError> {
        Self::builder(capacity).try_build()
    }
}
