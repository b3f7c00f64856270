//! ARC: the share of the recent entries follows what the ghosts tell.

use std::hash::{BuildHasher, Hash};

use super::cache::Cache;
use super::core::{Cause, Core, FREQUENT, GHOST_FREQUENT, GHOST_RECENT, RECENT, Sink};
use super::error::CapacityError;
use super::policy::{Evicts, Policy, Rules};
use super::raw::{Id, LISTS};

/// The ARC policy: a *recent* and a *frequent* list with a ghost list each, and a target for the recent one.
///
/// A key that comes back while it is a ghost of the recent list says that this list is too short, so its
/// target grows; a ghost of the frequent list makes it smaller. The step is the ratio of the ghost lists.
/// It needs no tuning and does well on nearly every kind of load.
///
/// The source is golang-lru's variant of the paper (Megiddo and Modha, FAST 2003). One thing differs: the
/// length never passes the capacity (there it can, when the target is the whole capacity). With weights the
/// target moves by the ratio times the weight of the entry that came back.
#[derive(Clone, Debug, Default)]
#[doc(alias = "arc")]
pub struct Adaptive {
    target: usize,
    capacity: usize,
}

impl Adaptive {
    /// The weight that the recent list should have at present.
    pub fn target(&self) -> usize {
        self.target
    }

    /// Evicts one entry, into the ghosts of its list.
    fn evict<K: Hash + Eq, V, S: BuildHasher>(
        &self,
        core: &mut Core<K, V, S>,
        of_frequent: bool,
        revived: Option<Id>,
        cause: Cause,
        sink: &mut impl Sink<K, V>,
    ) {
        let recent = core.size(RECENT);
        let over = recent > self.target || recent == self.target && of_frequent;
        if core.count(RECENT) > 0 && (over || core.count(FREQUENT) == 0) {
            core.evict_to_ghost(RECENT, GHOST_RECENT, cause, sink);
            core.trim(GHOST_RECENT, self.capacity, revived);
        } else {
            core.evict_to_ghost(FREQUENT, GHOST_FREQUENT, cause, sink);
            core.trim(GHOST_FREQUENT, self.capacity, revived);
        }
    }

    /// As `admit`, where all weigh 1: the new entry comes in the place of a ghost that is forgotten.
    #[inline]
    fn admit_to_full<K: Hash + Eq, V, S: BuildHasher>(
        &self,
        core: &mut Core<K, V, S>,
        hash: u64,
        key: K,
        value: V,
        sink: &mut impl Sink<K, V>,
    ) -> Id {
        let recent = core.count(RECENT);
        if recent > 0 && (recent > self.target || core.count(FREQUENT) == 0) {
            core.evict_to_ghost(RECENT, GHOST_RECENT, Cause::Capacity, sink);
        } else {
            core.evict_to_ghost(FREQUENT, GHOST_FREQUENT, Cause::Capacity, sink);
        }
        let limits = [(GHOST_RECENT, self.capacity - self.target), (GHOST_FREQUENT, self.target)];
        let mut replaced = None;
        for (list, limit) in limits {
            // One goes above the capacity, and one above the limit of the list.
            let size = core.count(list);
            let above = usize::from(size > self.capacity);
            let mut over = above + usize::from(size - above > limit);
            if over > 0 && replaced.is_none() {
                replaced = Some(list);
                over -= 1;
            }
            if over > 0 {
                core.trim(list, size - over, None);
            }
        }
        let most = self.most(core.capacity);
        match replaced {
            Some(ghosts) => core.replace_ghost(ghosts, RECENT, hash, key, value, most),
            None => core.push(RECENT, hash, key, value, 1, most),
        }
    }
}

impl Policy for Adaptive {}

impl<K: Clone> Evicts<K> for Adaptive {
    const CLONE_KEY: Option<fn(&K) -> K> = Some(K::clone);
}

impl Rules for Adaptive {
    const LISTS: usize = LISTS;

    fn set_capacity(&mut self, capacity: usize) {
        self.capacity = capacity;
        self.target = self.target.min(capacity);
    }

    fn order(&self) -> &'static [usize] {
        &[RECENT, FREQUENT]
    }

    /// As many ghosts as entries, and one, as the new ghost comes before the oldest is forgotten.
    fn most(&self, capacity: usize) -> usize {
        capacity.saturating_mul(2).saturating_add(1)
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
        let of_frequent = revived.is_some_and(|id| core.list_of(id) == GHOST_FREQUENT);
        while !core.fits(weight) && core.len() > 0 {
            self.evict(core, of_frequent, revived, cause, sink);
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
        if T::PLAIN && core.len() == core.capacity {
            return self.admit_to_full(core, hash, key, value, sink);
        }
        self.make_room(core, weight, None, Cause::Capacity, sink);
        // One ghost of each list at most, as golang-lru does: a list that is too long shortens slowly.
        // With weights one new entry may have brought several ghosts, so there it is all of them.
        let limits = [(GHOST_RECENT, self.capacity - self.target), (GHOST_FREQUENT, self.target)];
        for (list, limit) in limits {
            let most = core.size(list).saturating_sub(1);
            let limit = if core.weigher.is_none() { limit.max(most) } else { limit };
            core.trim(list, limit, None);
        }
        core.push(RECENT, hash, key, value, weight, self.most(core.capacity))
    }

    fn revive<K: Hash + Eq, V, S: BuildHasher>(
        &mut self,
        core: &mut Core<K, V, S>,
        ghost: Id,
        value: V,
        weight: usize,
        sink: &mut impl Sink<K, V>,
    ) {
        let (recent, frequent) = (core.size(GHOST_RECENT), core.size(GHOST_FREQUENT));
        let step = |other: usize, own: usize| (other / own.max(1)).max(1).saturating_mul(weight);
        if core.list_of(ghost) == GHOST_RECENT {
            let target = self.target.saturating_add(step(frequent, recent));
            self.target = target.min(self.capacity);
        } else {
            self.target = self.target.saturating_sub(step(recent, frequent));
        }
        self.make_room(core, weight, Some(ghost), Cause::Capacity, sink);
        core.revive(ghost, FREQUENT, value, weight);
        self.trim_ghosts(core);
    }

    fn trim_ghosts<K: Hash + Eq, V, S: BuildHasher>(&mut self, core: &mut Core<K, V, S>) {
        core.trim(GHOST_RECENT, self.capacity, None);
        core.trim(GHOST_FREQUENT, self.capacity, None);
    }
}

impl<K, V> Cache<K, V, Adaptive> {
    /// A cache that adapts itself; one with a capacity of 0 holds nothing.
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
