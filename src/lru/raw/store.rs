//! Entries in the slots of the index.

use std::fmt;
use std::marker::PhantomData;
use std::mem::{self, MaybeUninit};

use super::group::SLOTS;
use super::index::{GROUP_BYTES, Index, PER_FIVE_PAIRS};
use super::links::{Link, Links};
use super::{GHOSTS, Id, LISTS};

/// The most entries and ghosts: with vacant slots, their ids fit 32 bits.
const MOST: usize = 1 << 31;

/// What a slot has room for.
pub(super) struct Pair<K, V> {
    pub(super) key: MaybeUninit<K>,
    pub(super) value: MaybeUninit<V>,
}

/// Entries in the slots of an index, ordered by lists; each list ends in a sentinel, which has no slot.
pub(crate) struct Store<K, V> {
    pub(super) index: Index,
    pub(super) links: Links,
    pub(super) pairs: Box<[Pair<K, V>]>,
    /// Entries and ghosts.
    pub(super) held: usize,
    /// Entries and ghosts that the index is made for.
    pub(super) limit: usize,
    owns: PhantomData<(K, V)>,
}

impl<K, V> Store<K, V> {
    /// Bytes that an entry takes, its key and value and its share of vacant slots included.
    pub(crate) const ENTRY: usize =
        ((SLOTS * (size_of::<Pair<K, V>>() + size_of::<Link>()) + GROUP_BYTES) * 10)
            .div_ceil(PER_FIVE_PAIRS);

    pub(crate) fn new() -> Self {
        Self {
            index: Index::for_entries(0),
            links: Links::for_slots(0),
            pairs: Box::new([]),
            held: 0,
            limit: 0,
            owns: PhantomData,
        }
    }

    #[inline(always)]
    fn pair(&self, id: Id) -> &Pair<K, V> {
        let slot = slot(id);
        debug_assert!((slot as usize) < self.pairs.len());
        // SAFETY: an id that is handed out is that of a slot of the index, which has a pair for each.
        unsafe { self.pairs.get_unchecked(slot as usize) }
    }

    #[inline(always)]
    fn pair_at(&mut self, id: Id) -> &mut Pair<K, V> {
        let slot = slot(id);
        debug_assert!((slot as usize) < self.pairs.len());
        // SAFETY: as in `pair`.
        unsafe { self.pairs.get_unchecked_mut(slot as usize) }
    }

    #[inline(always)]
    fn is_held(&self, id: Id) -> bool {
        self.index.tag(slot(id)) != 0
    }

    #[inline(always)]
    pub(crate) fn key(&self, id: Id) -> &K {
        debug_assert!(self.is_held(id));
        // SAFETY: every slot that is filled holds a key; ids are given for those.
        unsafe { self.pair(id).key.assume_init_ref() }
    }

    /// The value of an entry that is on no ghost list.
    #[inline(always)]
    pub(crate) fn value(&self, id: Id) -> &V {
        debug_assert!(self.is_held(id));
        // SAFETY: an entry that is on no ghost list holds a value.
        unsafe { self.pair(id).value.assume_init_ref() }
    }

    /// The value of an entry that is on no ghost list.
    #[inline(always)]
    pub(crate) fn value_mut(&mut self, id: Id) -> &mut V {
        debug_assert!(self.is_held(id));
        // SAFETY: as in `value`.
        unsafe { self.pair_at(id).value.assume_init_mut() }
    }

    /// Both at once, where the value is to be changed.
    #[inline(always)]
    pub(crate) fn pair_mut(&mut self, id: Id) -> (&K, &mut V) {
        debug_assert!(self.is_held(id));
        let pair = self.pair_at(id);
        // SAFETY: as in `key`.
        let key = unsafe { pair.key.assume_init_ref() };
        // SAFETY: as in `value`.
        (key, unsafe { pair.value.assume_init_mut() })
    }

    #[inline(always)]
    pub(crate) fn find(&self, hash: u64, mut eq: impl FnMut(&K) -> bool) -> Option<Id> {
        self.index.find(hash, |slot| eq(self.key(id(slot)))).map(id)
    }

    /// Whether one more entry fits without growth.
    #[inline(always)]
    pub(crate) fn has_room(&self) -> bool {
        self.held < self.limit
    }

    /// How many entries and ghosts fit without growth.
    pub(crate) fn room(&self) -> usize {
        self.limit
    }

    /// What every [`Id::index`] is below, until it grows.
    pub(crate) fn ids(&self) -> usize {
        self.links.len()
    }

    /// What `ids` is once there is room for `entries`.
    pub(crate) fn ids_for(entries: usize) -> usize {
        assert!(entries <= MOST, "a cache holds at most 2 billion entries");
        Index::slots_for(entries) + LISTS
    }

    /// Makes room for `entries` entries and ghosts in all, which gives every one of them another id:
    /// `moved` is told the old one and the new one, from the oldest to the newest of each list. User code
    /// may panic in `hash`: then nothing changed.
    pub(crate) fn grow(
        &mut self,
        entries: usize,
        hash: impl Fn(&K) -> u64,
        mut moved: impl FnMut(Id, Id),
    ) {
        debug_assert!(entries > self.held);
        let mut index = Index::for_entries(entries);
        let mut links = Links::for_slots(index.slots());
        let mut pairs = Box::new_uninit_slice(index.slots());
        for list in 0..LISTS {
            let mut next = self.oldest(list);
            while let Some(from) = next {
                let to = id(index.insert(hash(self.key(from))));
                // SAFETY: a bitwise copy of what may be uninitialized. The old pairs are dropped without
                // their contents, and so are the new ones when `hash` panics.
                pairs[slot(to) as usize].write(unsafe { std::ptr::read(self.pair(from)) });
                links.link(to.0, list as u32);
                moved(from, to);
                next = self.newer(from);
            }
        }
        // SAFETY: a pair is made of what may be uninitialized.
        self.pairs = unsafe { pairs.assume_init() };
        self.index = index;
        self.links = links;
        self.limit = entries;
    }

    /// The caller has made room.
    #[inline(always)]
    fn put(&mut self, list: usize, hash: u64, key: K) -> Id {
        debug_assert!(self.held <= self.limit);
        let id = id(self.index.insert(hash));
        self.pair_at(id).key.write(key);
        self.links.link(id.0, list as u32);
        id
    }

    /// Adds an entry as the newest of a list. The caller has made room, and the key is not in the store.
    #[inline(always)]
    pub(crate) fn insert(&mut self, list: usize, hash: u64, key: K, value: V) -> Id {
        debug_assert!(list < GHOSTS);
        assert!(self.has_room());
        self.held += 1;
        let id = self.put(list, hash, key);
        self.pair_at(id).value.write(value);
        id
    }

    /// Adds a key without a value as the newest of a ghost list.
    pub(crate) fn insert_ghost(&mut self, list: usize, hash: u64, key: K) -> Id {
        debug_assert!(list >= GHOSTS);
        assert!(self.has_room());
        self.held += 1;
        self.put(list, hash, key)
    }

    /// Takes out an entry that is on no ghost list. `hash` is seldom asked; when it panics nothing changed.
    #[inline(always)]
    pub(crate) fn remove(&mut self, id: Id, hash: impl FnOnce(&K) -> u64) -> (K, V) {
        self.vacate(id, hash);
        self.release(id)
    }

    /// Takes out an entry of a ghost list.
    #[inline(always)]
    pub(crate) fn remove_ghost(&mut self, id: Id, hash: impl FnOnce(&K) -> u64) -> K {
        self.vacate(id, hash);
        self.release_ghost(id)
    }

    /// As `remove` and `insert`.
    #[inline(always)]
    pub(crate) fn replace(
        &mut self,
        old: Id,
        hash_old: impl FnOnce(&K) -> u64,
        list: usize,
        hash: u64,
        key: K,
        value: V,
    ) -> (Id, (K, V)) {
        self.vacate(old, hash_old);
        let old = self.take_pair(old);
        let id = self.put(list, hash, key);
        self.pair_at(id).value.write(value);
        (id, old)
    }

    /// As `remove_ghost` and `insert`.
    #[inline(always)]
    pub(crate) fn replace_ghost(
        &mut self,
        old: Id,
        hash_old: impl FnOnce(&K) -> u64,
        list: usize,
        hash: u64,
        key: K,
        value: V,
    ) -> (Id, K) {
        self.vacate(old, hash_old);
        let old = self.take_key(old);
        let id = self.put(list, hash, key);
        self.pair_at(id).value.write(value);
        (id, old)
    }

    #[inline(always)]
    fn vacate(&mut self, id: Id, hash: impl FnOnce(&K) -> u64) {
        if self.index.is_guest(slot(id)) {
            let hash = hash(self.key(id));
            self.index.remove_guest(slot(id), hash);
        } else {
            self.index.remove(slot(id));
        }
    }

    #[inline(always)]
    fn release(&mut self, id: Id) -> (K, V) {
        self.held -= 1;
        self.take_pair(id)
    }

    #[inline(always)]
    fn release_ghost(&mut self, id: Id) -> K {
        self.held -= 1;
        self.take_key(id)
    }

    /// Off its list, which is no ghost list; the caller sees to the index and the count.
    #[inline(always)]
    fn take_pair(&mut self, id: Id) -> (K, V) {
        let value = mem::replace(&mut self.pair_at(id).value, MaybeUninit::uninit());
        let key = self.take_key(id);
        // SAFETY: the entry was on no ghost list, so it held a value, which nobody reads again.
        (key, unsafe { value.assume_init() })
    }

    /// As `take_pair`, off a ghost list.
    #[inline(always)]
    fn take_key(&mut self, id: Id) -> K {
        self.links.unlink(id.0);
        let key = mem::replace(&mut self.pair_at(id).key, MaybeUninit::uninit());
        // SAFETY: the slot was filled, so it held a key, which nobody reads again.
        unsafe { key.assume_init() }
    }

    /// Takes the value out of an entry and keeps its key as the newest of a ghost list.
    #[inline(always)]
    pub(crate) fn make_ghost(&mut self, id: Id, list: usize) -> V {
        debug_assert!(self.is_held(id) && list >= GHOSTS);
        self.links.move_to_front(id.0, list as u32);
        let value = mem::replace(&mut self.pair_at(id).value, MaybeUninit::uninit());
        // SAFETY: the entry was on no ghost list until now, so it held a value.
        unsafe { value.assume_init() }
    }

    /// Gives a ghost a value and makes it the newest of a list.
    #[inline]
    pub(crate) fn revive(&mut self, id: Id, list: usize, value: V) {
        debug_assert!(self.is_held(id) && list < GHOSTS);
        self.links.move_to_front(id.0, list as u32);
        self.pair_at(id).value.write(value);
    }

    /// Makes it the newest of a list of the same kind (with values, or of ghosts).
    #[inline(always)]
    pub(crate) fn move_to_front(&mut self, id: Id, list: usize) {
        debug_assert!(self.is_held(id) && list < LISTS);
        self.links.move_to_front(id.0, list as u32);
    }

    /// Makes it the oldest of a list of the same kind.
    pub(crate) fn move_to_back(&mut self, id: Id, list: usize) {
        debug_assert!(self.is_held(id) && list < LISTS);
        self.links.unlink(id.0);
        self.links.link_back(id.0, list as u32);
    }

    /// Makes an entry and all that are older on its list the newest of it, in the same order.
    pub(crate) fn rotate(&mut self, id: Id, list: usize) {
        debug_assert!(self.is_held(id) && list < LISTS);
        self.links.rotate(id.0, list as u32);
    }

    #[inline(always)]
    pub(crate) fn newest(&self, list: usize) -> Option<Id> {
        debug_assert!(list < LISTS);
        self.links.newest(list)
    }

    #[inline(always)]
    pub(crate) fn oldest(&self, list: usize) -> Option<Id> {
        debug_assert!(list < LISTS);
        self.links.oldest(list)
    }

    #[inline(always)]
    pub(crate) fn newer(&self, id: Id) -> Option<Id> {
        debug_assert!(self.is_held(id));
        self.links.newer(id)
    }

    /// Brings what the eviction after that of this entry needs, which otherwise waits for one line after the
    /// other: the tag of the next entry, whose link came the last time, and the link of the one after it.
    #[inline(always)]
    pub(crate) fn prefetch_after(&self, id: Id) {
        if self.index.is_large() {
            let next = self.links.get(id.0).prev;
            prefetch(self.index.line_of(next.wrapping_sub(LISTS as u32)));
            prefetch(self.links.get(self.links.get(next).prev));
            if mem::needs_drop::<(K, V)>() {
                prefetch(self.pairs.as_ptr().wrapping_add(next as usize).wrapping_sub(LISTS));
            }
        }
    }

    /// Takes the oldest entry off a list without telling the index, on the way to an empty store or the end
    /// of this one.
    fn pop(&mut self, list: usize) -> Option<(K, Option<V>)> {
        let id = self.oldest(list)?;
        if list < GHOSTS {
            let (key, value) = self.release(id);
            Some((key, Some(value)))
        } else {
            Some((self.release_ghost(id), None))
        }
    }

    /// Empties the store, giving every entry and ghost key to `take`, the oldest of the first list first.
    ///
    /// When `take` panics the rest is dropped with `self`.
    pub(crate) fn drain(mut self, order: &[usize], mut take: impl FnMut(K, Option<V>)) -> Self {
        for list in order.iter().copied().chain(0..LISTS) {
            while let Some((key, value)) = self.pop(list) {
                take(key, value);
            }
        }
        self.index.clear();
        self
    }
}

#[inline(always)]
fn slot(id: Id) -> u32 {
    id.0 - LISTS as u32
}

#[inline(always)]
fn id(slot: u32) -> Id {
    Id(slot + LISTS as u32)
}

/// Of any address: what is not there is not brought.
#[inline(always)]
fn prefetch<T>(place: *const T) {
    #[cfg(all(target_arch = "x86_64", target_feature = "sse2", not(miri)))]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch reads nothing that the program can see.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(place.cast()) };
    }
    #[cfg(not(all(target_arch = "x86_64", target_feature = "sse2", not(miri))))]
    let _ = place;
}

impl<K, V> Drop for Store<K, V> {
    fn drop(&mut self) {
        /// Goes on where a panicking `Drop` of a key or value left off.
        struct Rest<'a, K, V>(&'a mut Store<K, V>);
        impl<K, V> Drop for Rest<'_, K, V> {
            fn drop(&mut self) {
                for list in 0..LISTS {
                    while self.0.pop(list).is_some() {}
                }
            }
        }
        if mem::needs_drop::<(K, V)>() {
            let rest = Rest(self);
            for list in 0..LISTS {
                while rest.0.pop(list).is_some() {}
            }
        }
    }
}

impl<K, V> fmt::Debug for Store<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store")
            .field("held", &self.held)
            .field("room", &self.limit)
            .finish_non_exhaustive()
    }
}
