//! Which entry leaves: the trait that the policies share, plain LRU, and a choice at run time.

use std::fmt;
use std::hash::{BuildHasher, Hash};

use super::adaptive::Adaptive;
use super::core::{Cause, Core, FREQUENT, RECENT, Sink};
use super::raw::{Id, LISTS};
use super::two_queue::TwoQueue;
use super::wheel::NEVER;

/// Decides which entry leaves a full [`Cache`](super::Cache).
///
/// The trait is sealed: the policies are [`Lru`], [`TwoQueue`], [`Adaptive`], [`AnyPolicy`], which chooses
/// one of them at run time, and [`Expiring`](super::Expiring) around any of these.
pub trait Policy: Rules + fmt::Debug + Clone {}

/// A policy that can hand out the key of an entry which it evicts.
///
/// [`Lru`] does so for every key. The policies with ghost lists keep the key of an evicted entry, so they
/// need a clone of it.
pub trait Evicts<K>: Policy {
    /// How a key that stays behind as a ghost is copied.
    #[doc(hidden)]
    const CLONE_KEY: Option<fn(&K) -> K>;
}

/// What the cache asks of a policy. All of it runs with at most one hash per entry that moves in the index.
#[doc(hidden)]
pub trait Rules: Sized {
    /// Lists, ghost lists among them.
    const LISTS: usize;
    /// Whether entries have a time.
    const EXPIRES: bool = false;

    /// What a capacity that the user gave stands for.
    fn bound(capacity: usize) -> usize {
        capacity
    }

    /// The time, where entries have one.
    #[inline(always)]
    fn now(&self) -> u64 {
        0
    }

    /// When an entry expires that is written now.
    #[inline(always)]
    fn deadline(&self) -> u64 {
        NEVER
    }

    /// The capacity is set, at first or anew; the caller shrinks the cache to it afterwards.
    fn set_capacity(&mut self, capacity: usize);

    /// Lists that hold values, in the order of iteration.
    fn order(&self) -> &'static [usize] {
        &[RECENT]
    }

    /// Entries and ghosts that a capacity may need.
    fn most(&self, capacity: usize) -> usize {
        capacity
    }

    /// The list that an entry is on once it was touched.
    fn touched(&self) -> usize {
        FREQUENT
    }

    /// An entry was asked for.
    fn touch<K, V, S>(&mut self, core: &mut Core<K, V, S>, id: Id);

    /// Evicts until `weight` more fits. `revived` is a ghost that is about to be given a value.
    fn make_room<K: Hash + Eq, V, S: BuildHasher>(
        &mut self,
        core: &mut Core<K, V, S>,
        weight: usize,
        revived: Option<Id>,
        cause: Cause,
        sink: &mut impl Sink<K, V>,
    );

    /// A key that the store does not hold comes in; it is no heavier than the capacity.
    fn admit<K: Hash + Eq, V, S: BuildHasher, T: Sink<K, V>>(
        &mut self,
        core: &mut Core<K, V, S>,
        hash: u64,
        key: K,
        value: V,
        weight: usize,
        sink: &mut T,
    ) -> Id {
        self.make_room(core, weight, None, Cause::Capacity, sink);
        core.push(RECENT, hash, key, value, weight, self.most(core.capacity))
    }

    /// A ghost is given a value.
    fn revive<K: Hash + Eq, V, S: BuildHasher>(
        &mut self,
        core: &mut Core<K, V, S>,
        ghost: Id,
        value: V,
        weight: usize,
        sink: &mut impl Sink<K, V>,
    );

    /// Ghosts are forgotten until they fit a smaller capacity.
    fn trim_ghosts<K: Hash + Eq, V, S: BuildHasher>(&mut self, core: &mut Core<K, V, S>);
}

/// Rules that hand on to another policy, which `$with` finds.
macro_rules! forward {
    ($with:ident: $($rule:ident)*) => { $(forward!(@ $with $rule);)* };
    (@ $with:ident now) => {
        #[inline(always)]
        fn now(&self) -> u64 {
            $with!(self, policy => policy.now())
        }
    };
    (@ $with:ident deadline) => {
        #[inline(always)]
        fn deadline(&self) -> u64 {
            $with!(self, policy => policy.deadline())
        }
    };
    (@ $with:ident set_capacity) => {
        fn set_capacity(&mut self, capacity: usize) {
            $with!(self, policy => policy.set_capacity(capacity));
        }
    };
    (@ $with:ident order) => {
        fn order(&self) -> &'static [usize] {
            $with!(self, policy => policy.order())
        }
    };
    (@ $with:ident most) => {
        fn most(&self, capacity: usize) -> usize {
            $with!(self, policy => policy.most(capacity))
        }
    };
    (@ $with:ident touched) => {
        fn touched(&self) -> usize {
            $with!(self, policy => policy.touched())
        }
    };
    (@ $with:ident touch) => {
        #[inline]
        fn touch<K, V, S>(&mut self, core: &mut Core<K, V, S>, id: Id) {
            $with!(self, policy => policy.touch(core, id));
        }
    };
    (@ $with:ident make_room) => {
        fn make_room<K: Hash + Eq, V, S: BuildHasher>(
            &mut self,
            core: &mut Core<K, V, S>,
            weight: usize,
            revived: Option<Id>,
            cause: Cause,
            sink: &mut impl Sink<K, V>,
        ) {
            $with!(self, policy => policy.make_room(core, weight, revived, cause, sink));
        }
    };
    (@ $with:ident admit) => {
        fn admit<K: Hash + Eq, V, S: BuildHasher, T: Sink<K, V>>(
            &mut self,
            core: &mut Core<K, V, S>,
            hash: u64,
            key: K,
            value: V,
            weight: usize,
            sink: &mut T,
        ) -> Id {
            $with!(self, policy => policy.admit(core, hash, key, value, weight, sink))
        }
    };
    (@ $with:ident revive) => {
        fn revive<K: Hash + Eq, V, S: BuildHasher>(
            &mut self,
            core: &mut Core<K, V, S>,
            ghost: Id,
            value: V,
            weight: usize,
            sink: &mut impl Sink<K, V>,
        ) {
            $with!(self, policy => policy.revive(core, ghost, value, weight, sink));
        }
    };
    (@ $with:ident trim_ghosts) => {
        fn trim_ghosts<K: Hash + Eq, V, S: BuildHasher>(&mut self, core: &mut Core<K, V, S>) {
            $with!(self, policy => policy.trim_ghosts(core));
        }
    };
}
pub(super) use forward;

/// The policy that another one is around.
macro_rules! inner {
    ($around:expr, $policy:ident => $call:expr) => {
        match $around {
            Self { policy: $policy, .. } => $call,
        }
    };
}
pub(super) use inner;

/// The entry that was not asked for the longest leaves first.
///
/// ```
/// use graceful::lru::LruCache;
///
/// let mut cache = LruCache::new(2);
/// cache.insert("a", 1);
/// cache.insert("b", 2);
/// cache.get("a");
/// cache.insert("c", 3);
/// assert!(cache.contains("a") && !cache.contains("b"));
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Lru {
    _private: (),
}

impl Policy for Lru {}

impl<K> Evicts<K> for Lru {
    const CLONE_KEY: Option<fn(&K) -> K> = None;
}

impl Rules for Lru {
    const LISTS: usize = 1;

    fn set_capacity(&mut self, _: usize) {}

    fn touched(&self) -> usize {
        RECENT
    }

    #[inline(always)]
    fn touch<K, V, S>(&mut self, core: &mut Core<K, V, S>, id: Id) {
        core.store.move_to_front(id, RECENT);
    }

    fn make_room<K: Hash + Eq, V, S: BuildHasher>(
        &mut self,
        core: &mut Core<K, V, S>,
        weight: usize,
        _: Option<Id>,
        cause: Cause,
        sink: &mut impl Sink<K, V>,
    ) {
        while !core.fits(weight) && core.len() > 0 {
            core.evict(RECENT, cause, sink);
        }
    }

    #[inline(always)]
    fn admit<K: Hash + Eq, V, S: BuildHasher, T: Sink<K, V>>(
        &mut self,
        core: &mut Core<K, V, S>,
        hash: u64,
        key: K,
        value: V,
        weight: usize,
        sink: &mut T,
    ) -> Id {
        // Full of entries that weigh 1: the oldest leaves, and is told of once the new one is there.
        if (T::PLAIN || core.weigher.is_none())
            && core.count(RECENT) == core.capacity
            && let Some(oldest) = core.store.oldest(RECENT)
        {
            let (id, (old_key, old_value)) = core.replace_oldest(oldest, hash, key, value);
            if !T::PLAIN {
                core.change_deadline(oldest, id);
            }
            sink.entry(old_key, old_value, Cause::Capacity);
            return id;
        }
        self.make_room(core, weight, None, Cause::Capacity, sink);
        core.push(RECENT, hash, key, value, weight, core.capacity)
    }

    fn revive<K: Hash + Eq, V, S: BuildHasher>(
        &mut self,
        _: &mut Core<K, V, S>,
        _: Id,
        _: V,
        _: usize,
        _: &mut impl Sink<K, V>,
    ) {
        unreachable!("there are no ghosts");
    }

    fn trim_ghosts<K: Hash + Eq, V, S: BuildHasher>(&mut self, _: &mut Core<K, V, S>) {}
}

/// A policy that is chosen at run time.
///
/// ```
/// use graceful::lru::{Adaptive, AnyPolicy, Builder};
///
/// let chosen = AnyPolicy::Adaptive(Adaptive::default());
/// let mut cache = Builder::new(100).policy(chosen).build();
/// cache.insert("key", 1);
/// assert_eq!(cache.get("key"), Some(&1));
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum AnyPolicy {
    /// [`Lru`].
    Lru(Lru),
    /// [`TwoQueue`].
    TwoQueue(TwoQueue),
    /// [`Adaptive`].
    Adaptive(Adaptive),
}

impl Default for AnyPolicy {
    fn default() -> Self {
        Self::Lru(Lru::default())
    }
}

impl From<Lru> for AnyPolicy {
    fn from(policy: Lru) -> Self {
        Self::Lru(policy)
    }
}

impl From<TwoQueue> for AnyPolicy {
    fn from(policy: TwoQueue) -> Self {
        Self::TwoQueue(policy)
    }
}

impl From<Adaptive> for AnyPolicy {
    fn from(policy: Adaptive) -> Self {
        Self::Adaptive(policy)
    }
}

impl Policy for AnyPolicy {}

impl<K: Clone> Evicts<K> for AnyPolicy {
    const CLONE_KEY: Option<fn(&K) -> K> = Some(K::clone);
}

macro_rules! each {
    ($any:expr, $policy:ident => $call:expr) => {
        match $any {
            AnyPolicy::Lru($policy) => $call,
            AnyPolicy::TwoQueue($policy) => $call,
            AnyPolicy::Adaptive($policy) => $call,
        }
    };
}

impl Rules for AnyPolicy {
    const LISTS: usize = LISTS;

    forward!(each: set_capacity order most touched touch make_room admit revive trim_ghosts);
}
