//! The slab.

use std::fmt;
use std::marker::PhantomData;
use std::mem::{self, MaybeUninit};

use super::chunk::Chunk;
use super::index::{Index, PER_CHUNK};
use super::{GHOSTS, Id, LISTS};

/// End of the free list, and the mark of a free node.
pub(super) const NONE: u32 = u32::MAX;
/// The highest number of nodes: their ids leave the highest bit of a slot free.
const MAX_NODES: usize = (1 << 31) - 8;

/// An entry, a ghost, a sentinel (the nodes `0..lists`) or a free node.
pub(super) struct Node<K, V> {
    /// Towards the newest; of a sentinel: the oldest.
    pub(super) prev: u32,
    /// Towards the oldest; of a sentinel: the newest. Of a free node: the next free one.
    pub(super) next: u32,
    pub(super) key: MaybeUninit<K>,
    pub(super) value: MaybeUninit<V>,
}

impl<K, V> Node<K, V> {
    fn new(prev: u32, next: u32) -> Self {
        Self { prev, next, key: MaybeUninit::uninit(), value: MaybeUninit::uninit() }
    }
}

/// The hashes of a key that leaves and of the one that takes its node.
pub(crate) struct Change {
    pub(crate) from: u64,
    pub(crate) to: u64,
}

/// Entries in a slab, found through the index and ordered by lists; every list ends in a sentinel.
pub(crate) struct Store<K, V> {
    pub(super) index: Index,
    pub(super) nodes: Vec<Node<K, V>>,
    pub(super) free: u32,
    pub(super) lists: u32,
    /// Nodes, sentinels among them, that the index is made for.
    pub(super) limit: usize,
    owns: PhantomData<(K, V)>,
}

impl<K, V> Store<K, V> {
    /// Bytes that an entry takes, its key and value included.
    pub(crate) const ENTRY: usize = size_of::<Node<K, V>>() + size_of::<Chunk>() / PER_CHUNK;

    pub(crate) fn new(lists: usize) -> Self {
        debug_assert!((1..=LISTS).contains(&lists));
        Self {
            index: Index::for_nodes(0),
            nodes: (0..lists as u32).map(|list| Node::new(list, list)).collect(),
            free: NONE,
            lists: lists as u32,
            limit: lists,
            owns: PhantomData,
        }
    }

    #[inline(always)]
    pub(super) fn node(&self, id: u32) -> &Node<K, V> {
        debug_assert!((id as usize) < self.nodes.len());
        // SAFETY: ids and links come from this store, whose nodes never become fewer (`drain` apart,
        // which leaves no id behind).
        unsafe { self.nodes.get_unchecked(id as usize) }
    }

    #[inline(always)]
    pub(super) fn node_mut(&mut self, id: u32) -> &mut Node<K, V> {
        debug_assert!((id as usize) < self.nodes.len());
        // SAFETY: as in `node`.
        unsafe { self.nodes.get_unchecked_mut(id as usize) }
    }

    pub(super) fn is_free(&self, id: u32) -> bool {
        self.node(id).prev == NONE
    }

    #[inline(always)]
    pub(crate) fn key(&self, id: Id) -> &K {
        debug_assert!(!self.is_free(id.0));
        // SAFETY: every node that is on a list and is no sentinel holds a key; ids are given for those.
        unsafe { self.node(id.0).key.assume_init_ref() }
    }

    /// The value of an entry that is on no ghost list.
    #[inline(always)]
    pub(crate) fn value(&self, id: Id) -> &V {
        debug_assert!(!self.is_free(id.0));
        // SAFETY: an entry that is on no ghost list holds a value.
        unsafe { self.node(id.0).value.assume_init_ref() }
    }

    /// The value of an entry that is on no ghost list.
    #[inline(always)]
    pub(crate) fn value_mut(&mut self, id: Id) -> &mut V {
        debug_assert!(!self.is_free(id.0));
        // SAFETY: as in `value`.
        unsafe { self.node_mut(id.0).value.assume_init_mut() }
    }

    /// Both at once, where the value is to be changed.
    #[inline(always)]
    pub(crate) fn pair_mut(&mut self, id: Id) -> (&K, &mut V) {
        debug_assert!(!self.is_free(id.0));
        let node = self.node_mut(id.0);
        // SAFETY: as in `key`.
        let key = unsafe { node.key.assume_init_ref() };
        // SAFETY: as in `value`.
        (key, unsafe { node.value.assume_init_mut() })
    }

    #[inline(always)]
    pub(crate) fn find(&self, hash: u64, mut eq: impl FnMut(&K) -> bool) -> Option<Id> {
        self.index.find(hash, |id| eq(self.key(Id(id)))).map(Id)
    }

    /// Whether one more entry fits without growth.
    #[inline(always)]
    pub(crate) fn has_room(&self) -> bool {
        self.free != NONE || self.nodes.len() < self.limit
    }

    /// How many entries and ghosts fit without growth.
    pub(crate) fn room(&self) -> usize {
        self.limit - self.lists as usize
    }

    /// Makes room for `entries` entries and ghosts in all. User code may panic in `hash`: then nothing changed.
    pub(crate) fn grow(&mut self, entries: usize, hash: impl Fn(&K) -> u64) {
        let limit = entries.saturating_add(self.lists as usize).min(MAX_NODES);
        assert!(limit > self.nodes.len(), "a cache holds at most 4 billion entries");
        self.nodes.reserve_exact(limit - self.nodes.len());
        let mut index = Index::for_nodes(limit);
        for list in 0..self.lists {
            let mut id = self.node(list).next;
            while id != list {
                index.insert(hash(self.key(Id(id))), id);
                id = self.node(id).next;
            }
        }
        self.index = index;
        self.limit = limit;
    }

    /// The caller has made room.
    #[inline]
    fn allot(&mut self, key: K) -> u32 {
        assert!(self.has_room());
        let id = if self.free == NONE {
            self.nodes.push(Node::new(NONE, NONE));
            (self.nodes.len() - 1) as u32
        } else {
            let id = self.free;
            self.free = self.node(id).next;
            id
        };
        self.node_mut(id).key.write(key);
        id
    }

    /// Adds an entry as the newest of a list. The caller has made room, and the key is not in the store.
    #[inline]
    pub(crate) fn insert(&mut self, list: usize, hash: u64, key: K, value: V) -> Id {
        debug_assert!(list < GHOSTS);
        let id = self.allot(key);
        self.node_mut(id).value.write(value);
        self.link(id, list as u32);
        self.index.insert(hash, id);
        Id(id)
    }

    /// Adds a key without a value as the newest of a ghost list.
    pub(crate) fn insert_ghost(&mut self, list: usize, hash: u64, key: K) -> Id {
        debug_assert!(list >= GHOSTS);
        let id = self.allot(key);
        self.link(id, list as u32);
        self.index.insert(hash, id);
        Id(id)
    }

    /// Puts another entry in the place of one that leaves, as the newest of a list.
    #[inline(always)]
    pub(crate) fn reuse(
        &mut self,
        id: Id,
        list: usize,
        hashes: Change,
        key: K,
        value: V,
    ) -> (K, V) {
        let value = mem::replace(&mut self.node_mut(id.0).value, MaybeUninit::new(value));
        let key = self.rename(id, list, hashes, key);
        // SAFETY: the caller gives an entry that is on no ghost list, so it held a value.
        (key, unsafe { value.assume_init() })
    }

    /// Puts an entry in the place of a ghost that is forgotten, as the newest of a list.
    #[inline(always)]
    pub(crate) fn reuse_ghost(
        &mut self,
        id: Id,
        list: usize,
        hashes: Change,
        key: K,
        value: V,
    ) -> K {
        self.node_mut(id.0).value.write(value);
        self.rename(id, list, hashes, key)
    }

    /// Gives a node another key and makes it the newest of a list.
    #[inline(always)]
    fn rename(&mut self, id: Id, list: usize, hashes: Change, key: K) -> K {
        debug_assert!(!self.is_free(id.0) && list < GHOSTS);
        self.index.remove(hashes.from, id.0);
        self.index.insert(hashes.to, id.0);
        self.move_to_front(id, list);
        let key = mem::replace(&mut self.node_mut(id.0).key, MaybeUninit::new(key));
        // SAFETY: the node was on a list, so it held a key, which was just replaced.
        unsafe { key.assume_init() }
    }

    /// Takes out an entry that is on no ghost list.
    #[inline]
    pub(crate) fn remove(&mut self, id: Id, hash: u64) -> (K, V) {
        self.index.remove(hash, id.0);
        self.release(id)
    }

    /// Takes out an entry of a ghost list.
    #[inline]
    pub(crate) fn remove_ghost(&mut self, id: Id, hash: u64) -> K {
        self.index.remove(hash, id.0);
        self.release_ghost(id)
    }

    fn release(&mut self, id: Id) -> (K, V) {
        debug_assert!(!self.is_free(id.0));
        let value = mem::replace(&mut self.node_mut(id.0).value, MaybeUninit::uninit());
        let key = self.release_ghost(id);
        // SAFETY: the entry was on no ghost list, so it held a value, which nobody reads again.
        (key, unsafe { value.assume_init() })
    }

    fn release_ghost(&mut self, id: Id) -> K {
        debug_assert!(!self.is_free(id.0));
        self.unlink(id.0);
        let free = self.free;
        self.free = id.0;
        let node = self.node_mut(id.0);
        node.prev = NONE;
        node.next = free;
        let key = mem::replace(&mut node.key, MaybeUninit::uninit());
        // SAFETY: the node was on a list, so it held a key, which nobody reads again.
        unsafe { key.assume_init() }
    }

    /// Takes the value out of an entry and keeps its key as the newest of a ghost list.
    #[inline]
    pub(crate) fn make_ghost(&mut self, id: Id, list: usize) -> V {
        debug_assert!(!self.is_free(id.0) && list >= GHOSTS);
        self.move_to_front(id, list);
        let value = mem::replace(&mut self.node_mut(id.0).value, MaybeUninit::uninit());
        // SAFETY: the entry was on no ghost list until now, so it held a value.
        unsafe { value.assume_init() }
    }

    /// Gives a ghost a value and makes it the newest of a list.
    #[inline]
    pub(crate) fn revive(&mut self, id: Id, list: usize, value: V) {
        debug_assert!(!self.is_free(id.0) && list < GHOSTS);
        self.move_to_front(id, list);
        self.node_mut(id.0).value.write(value);
    }

    /// Brings the line of the entry after this one from the oldest end, for whoever evicts next.
    #[inline(always)]
    pub(crate) fn prefetch_newer(&self, id: Id) {
        prefetch(self.node(self.node(id.0).prev));
    }

    /// Brings the index line of a hash.
    #[inline(always)]
    pub(crate) fn prefetch_hash(&self, hash: u64) {
        prefetch(self.index.chunk(self.index.home(hash)));
    }

    /// Whether the index is larger than what is always near the processor, some 64 KiB.
    #[inline(always)]
    pub(crate) fn is_large(&self) -> bool {
        self.index.chunks.len() > 1 << 10
    }

    /// Takes the oldest entry off a list without telling the index, on the way to [`Store::reset`] or the
    /// end of the store.
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
        for list in order.iter().copied().chain(0..self.lists as usize) {
            while let Some((key, value)) = self.pop(list) {
                take(key, value);
            }
        }
        self.index.clear();
        self.nodes.truncate(self.lists as usize);
        self.free = NONE;
        self
    }
}

#[inline(always)]
fn prefetch<T>(place: &T) {
    #[cfg(all(target_arch = "x86_64", target_feature = "sse2", not(miri)))]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch reads nothing that the program can see.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(place).cast()) };
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
                for list in 0..self.0.lists as usize {
                    while self.0.pop(list).is_some() {}
                }
            }
        }
        if mem::needs_drop::<(K, V)>() {
            let rest = Rest(self);
            for list in 0..rest.0.lists as usize {
                while rest.0.pop(list).is_some() {}
            }
        }
    }
}

impl<K, V> fmt::Debug for Store<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store")
            .field("nodes", &self.nodes.len())
            .field("chunks", &self.index.chunks.len())
            .finish_non_exhaustive()
    }
}
