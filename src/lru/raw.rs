//! The one place with `unsafe`: the index, the slab and the links.
//!
//! An [`Id`] is made here and nowhere else, and only for a node of the store that hands it out; the store
//! never gives nodes back to the allocator while it lives, so an id stays in bounds. What the callers owe
//! is that they use an id with the store it came from and only while its entry is held (debug builds
//! check both). Nodes on a list below [`GHOSTS`] hold a key and a value, those on a ghost list a key only,
//! free ones and the sentinels nothing.
//!
//! User code (`Hash`, `Eq`, `Drop`) never runs while a store is between two states: hashes come in as
//! arguments, what leaves is returned, and growth builds the new index before it swaps it in.
#![allow(unsafe_code)]

use std::fmt;
use std::marker::PhantomData;
use std::mem::{self, MaybeUninit};

/// Slots of a chunk.
const SLOTS: usize = 15;
/// The slots of a chunk, as bits.
const ALL: u32 = (1 << SLOTS) - 1;
/// Set in the upper half of every slot that is filled, so that an empty one matches nothing.
const FULL: u16 = 1 << 15;
/// A count that stays: without the bit of `FULL`, so that it matches nothing.
const UNKNOWN: u16 = FULL - 1;
/// Entries per chunk when the index is full: few enough that hardly any finds its chunk full.
const PER_CHUNK: usize = 8;
/// End of the free list, and the mark of a free node.
const NONE: u32 = u32::MAX;
/// The highest number of nodes: their ids leave the highest bit of a slot free.
const MAX_NODES: usize = (1 << 31) - 8;

/// The first ghost list; lists below it hold values.
pub(crate) const GHOSTS: usize = 2;
/// The most lists that a store can have.
pub(crate) const LISTS: usize = 4;

/// A node of one store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Id(u32);

impl Id {
    /// The place of its side data in arrays kept beside the store.
    #[inline]
    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }

    /// The node that side data belong to, which is held: the wheel unlinks it when it leaves.
    #[inline]
    pub(crate) fn from_index(index: u32) -> Self {
        Self(index)
    }
}

/// A cache line of the index: fifteen slots, and how many entries passed by because it was full.
///
/// A slot is 32 bits: an id and, in the bits above it, as much of the hash as fits, so that nearly nothing
/// is found that is not the key. The upper halves of the slots lie together: a search looks at those only.
#[derive(Clone)]
#[repr(C, align(64))]
struct Chunk {
    upper: [u16; SLOTS],
    /// At `UNKNOWN` it no longer knows how many passed, and stays.
    passed: u16,
    lower: [u16; SLOTS],
    unused: u16,
}

impl Chunk {
    const EMPTY: Self = Self { upper: [0; SLOTS], passed: 0, lower: [0; SLOTS], unused: 0 };

    #[inline(always)]
    fn slot(&self, at: u32) -> u32 {
        debug_assert!((at as usize) < SLOTS);
        // SAFETY: `at` is the position of a bit in a mask of SLOTS bits.
        let upper = unsafe { *self.upper.get_unchecked(at as usize) };
        // SAFETY: as above.
        let lower = unsafe { *self.lower.get_unchecked(at as usize) };
        u32::from(upper) << 16 | u32::from(lower)
    }

    #[inline(always)]
    fn set(&mut self, at: u32, slot: u32) {
        debug_assert!((at as usize) < SLOTS);
        // SAFETY: `at` is the position of a bit in a mask of SLOTS bits.
        *unsafe { self.upper.get_unchecked_mut(at as usize) } = (slot >> 16) as u16;
        // SAFETY: as above.
        *unsafe { self.lower.get_unchecked_mut(at as usize) } = slot as u16;
    }

    #[inline(always)]
    fn clear(&mut self, at: u32) {
        debug_assert!((at as usize) < SLOTS);
        // SAFETY: `at` is the position of a bit in a mask of SLOTS bits.
        *unsafe { self.upper.get_unchecked_mut(at as usize) } = 0;
    }
}

#[cfg(all(target_arch = "x86_64", target_feature = "sse2"))]
mod vector {
    use super::{ALL, Chunk};
    use std::arch::x86_64::{
        __m128i, _mm_and_si128, _mm_cmpeq_epi16, _mm_load_si128, _mm_movemask_epi8,
        _mm_packs_epi16, _mm_set1_epi16,
    };

    /// Upper halves in the parts 0 and 1, lower ones in 2 and 3.
    #[inline]
    #[target_feature(enable = "sse2")]
    fn part(chunk: &Chunk, part: usize) -> __m128i {
        debug_assert!(part < 4);
        let start = std::ptr::from_ref(chunk).cast::<__m128i>();
        // SAFETY: a chunk is four vectors long, and `part` is one of them.
        let from = unsafe { start.add(part) };
        // SAFETY: readable as above, and aligned, as a chunk is aligned to 64.
        unsafe { _mm_load_si128(from) }
    }

    /// The signs of sixteen numbers as bits.
    #[inline]
    #[target_feature(enable = "sse2")]
    fn signs(a: __m128i, b: __m128i) -> u32 {
        _mm_movemask_epi8(_mm_packs_epi16(a, b)).cast_unsigned()
    }

    #[inline]
    #[target_feature(enable = "sse2")]
    fn matches_sse2(chunk: &Chunk, mark: u16, bits: u16) -> u32 {
        let mark = _mm_set1_epi16(mark.cast_signed());
        let bits = _mm_set1_epi16(bits.cast_signed());
        let a = _mm_cmpeq_epi16(_mm_and_si128(part(chunk, 0), bits), mark);
        let b = _mm_cmpeq_epi16(_mm_and_si128(part(chunk, 1), bits), mark);
        signs(a, b)
    }

    #[inline]
    #[target_feature(enable = "sse2")]
    fn holds_sse2(chunk: &Chunk, slot: u32) -> u32 {
        let upper = _mm_set1_epi16(((slot >> 16) as u16).cast_signed());
        let lower = _mm_set1_epi16((slot as u16).cast_signed());
        let a = _mm_cmpeq_epi16(part(chunk, 0), upper);
        let b = _mm_cmpeq_epi16(part(chunk, 1), upper);
        let c = _mm_cmpeq_epi16(part(chunk, 2), lower);
        let d = _mm_cmpeq_epi16(part(chunk, 3), lower);
        signs(_mm_and_si128(a, c), _mm_and_si128(b, d))
    }

    #[inline]
    #[target_feature(enable = "sse2")]
    fn vacant_sse2(chunk: &Chunk) -> u32 {
        !signs(part(chunk, 0), part(chunk, 1)) & ALL
    }

    /// Slots whose upper half equals `mark` in these bits.
    #[inline(always)]
    pub(super) fn matches(chunk: &Chunk, mark: u16, bits: u16) -> u32 {
        // SAFETY: this module is there only in builds whose every processor has SSE2.
        unsafe { matches_sse2(chunk, mark, bits) }
    }

    /// Slots that hold exactly `slot`, which has `FULL` set.
    #[inline(always)]
    pub(super) fn holds(chunk: &Chunk, slot: u32) -> u32 {
        // SAFETY: as in `matches`.
        unsafe { holds_sse2(chunk, slot) }
    }

    /// Slots that hold nothing.
    #[inline(always)]
    pub(super) fn vacant(chunk: &Chunk) -> u32 {
        // SAFETY: as in `matches`.
        unsafe { vacant_sse2(chunk) }
    }
}

/// The same without vectors, for every other machine; tested against them.
#[cfg(any(test, not(all(target_arch = "x86_64", target_feature = "sse2"))))]
mod portable {
    use super::{Chunk, FULL, SLOTS};

    #[inline]
    fn gather(is_in: impl Fn(usize) -> bool) -> u32 {
        (0..SLOTS).fold(0, |found, at| found | u32::from(is_in(at)) << at)
    }

    #[inline]
    pub(super) fn matches(chunk: &Chunk, mark: u16, bits: u16) -> u32 {
        gather(|at| chunk.upper[at] & bits == mark)
    }

    #[inline]
    pub(super) fn holds(chunk: &Chunk, slot: u32) -> u32 {
        gather(|at| chunk.upper[at] == (slot >> 16) as u16 && chunk.lower[at] == slot as u16)
    }

    #[inline]
    pub(super) fn vacant(chunk: &Chunk) -> u32 {
        gather(|at| chunk.upper[at] & FULL == 0)
    }
}

#[cfg(not(all(target_arch = "x86_64", target_feature = "sse2")))]
use portable as vector;

/// From hashes to ids: chunks probed in turn from a home chunk, in any number, without tombstones.
///
/// An entry that finds its home full raises the count of each chunk that it passes and lowers it again when
/// it leaves, so that a search ends at the first chunk that nobody passed.
struct Index {
    chunks: Box<[Chunk]>,
    /// The bits of a slot that belong to the id.
    id_bits: u32,
    /// The bits of its upper half that belong to the hash.
    mark_bits: u16,
    /// False once an entry left whose hash was another one when it came: then counts may be too high.
    exact: bool,
}

impl Index {
    fn for_nodes(nodes: usize) -> Self {
        let id_bits = usize::BITS - (nodes + LISTS).leading_zeros();
        Self {
            chunks: vec![Chunk::EMPTY; nodes.div_ceil(PER_CHUNK).max(1)].into_boxed_slice(),
            id_bits: !(u32::MAX << id_bits),
            mark_bits: (u32::MAX << id_bits >> 16) as u16,
            exact: true,
        }
    }

    /// What the upper half of a slot has of this hash.
    #[inline(always)]
    fn mark(&self, hash: u64) -> u16 {
        (hash as u16 | FULL) & self.mark_bits
    }

    #[inline(always)]
    fn slot(&self, hash: u64, id: u32) -> u32 {
        u32::from(self.mark(hash)) << 16 | id
    }

    #[inline(always)]
    fn home(&self, hash: u64) -> usize {
        ((u128::from(hash) * self.chunks.len() as u128) >> 64) as usize
    }

    #[inline(always)]
    fn after(&self, at: usize) -> usize {
        if at + 1 == self.chunks.len() { 0 } else { at + 1 }
    }

    #[inline(always)]
    fn chunk(&self, at: usize) -> &Chunk {
        debug_assert!(at < self.chunks.len());
        // SAFETY: `at` comes from `home` or `after`; both stay below the number of chunks.
        unsafe { self.chunks.get_unchecked(at) }
    }

    #[inline(always)]
    fn chunk_mut(&mut self, at: usize) -> &mut Chunk {
        debug_assert!(at < self.chunks.len());
        // SAFETY: as in `chunk`.
        unsafe { self.chunks.get_unchecked_mut(at) }
    }

    #[inline(always)]
    fn find(&self, hash: u64, mut is_it: impl FnMut(u32) -> bool) -> Option<u32> {
        let mark = self.mark(hash);
        let home = self.home(hash);
        let mut at = home;
        loop {
            let chunk = self.chunk(at);
            let mut candidates = vector::matches(chunk, mark, self.mark_bits);
            while candidates != 0 {
                let id = chunk.slot(candidates.trailing_zeros()) & self.id_bits;
                if is_it(id) {
                    return Some(id);
                }
                candidates &= candidates - 1;
            }
            if chunk.passed == 0 {
                return None;
            }
            // In a small index every chunk may have been passed by: one round is enough.
            at = self.after(at);
            if at == home {
                return None;
            }
        }
    }

    /// The caller has checked that there are fewer entries than the index was made for, hence a vacant slot.
    #[inline(always)]
    fn insert(&mut self, hash: u64, id: u32) {
        let slot = self.slot(hash, id);
        let mut at = self.home(hash);
        loop {
            let chunk = self.chunk_mut(at);
            let vacant = vector::vacant(chunk);
            if vacant != 0 {
                chunk.set(vacant.trailing_zeros(), slot);
                return;
            }
            chunk.passed = UNKNOWN.min(chunk.passed + 1);
            at = self.after(at);
        }
    }

    #[inline(always)]
    fn remove(&mut self, hash: u64, id: u32) {
        let slot = self.slot(hash, id);
        let home = self.home(hash);
        let chunk = self.chunk_mut(home);
        let found = vector::holds(chunk, slot);
        if found != 0 {
            chunk.clear(found.trailing_zeros());
        } else {
            self.remove_passed(home, slot, id);
        }
    }

    /// Removes an entry that is not in its home chunk.
    #[cold]
    #[inline(never)]
    fn remove_passed(&mut self, home: usize, slot: u32, id: u32) {
        let mut at = home;
        loop {
            let passed = self.chunk(at).passed;
            at = self.after(at);
            if passed == 0 || at == home {
                return self.remove_lost(id);
            }
            let chunk = self.chunk_mut(at);
            let found = vector::holds(chunk, slot);
            if found != 0 {
                chunk.clear(found.trailing_zeros());
                break;
            }
        }
        let mut passed = home;
        while passed != at {
            let count = &mut self.chunk_mut(passed).passed;
            if *count != UNKNOWN {
                *count -= 1;
            }
            passed = self.after(passed);
        }
    }

    /// Removes an entry whose hash has changed since it came: its key lies.
    #[cold]
    fn remove_lost(&mut self, id: u32) {
        for chunk in &mut self.chunks {
            for at in 0..SLOTS as u32 {
                let slot = chunk.slot(at);
                if slot >> 31 == 1 && slot & self.id_bits == id {
                    chunk.clear(at);
                    self.exact = false;
                    return;
                }
            }
        }
        debug_assert!(false, "a node that is held is in the index");
    }

    fn clear(&mut self) {
        self.chunks.fill(Chunk::EMPTY);
        self.exact = true;
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

/// An entry, a ghost, a sentinel (the nodes `0..lists`) or a free node.
struct Node<K, V> {
    /// Towards the newest; of a sentinel: the oldest.
    prev: u32,
    /// Towards the oldest; of a sentinel: the newest. Of a free node: the next free one.
    next: u32,
    key: MaybeUninit<K>,
    value: MaybeUninit<V>,
}

impl<K, V> Node<K, V> {
    fn new(prev: u32, next: u32) -> Self {
        Self { prev, next, key: MaybeUninit::uninit(), value: MaybeUninit::uninit() }
    }
}

/// Entries in a slab, found through the index and ordered by lists; every list ends in a sentinel.
pub(crate) struct Store<K, V> {
    index: Index,
    nodes: Vec<Node<K, V>>,
    free: u32,
    lists: u32,
    /// Nodes, sentinels among them, that the index is made for.
    limit: usize,
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
    fn node(&self, id: u32) -> &Node<K, V> {
        debug_assert!((id as usize) < self.nodes.len());
        // SAFETY: ids and links come from this store, whose nodes never become fewer (`drain` apart,
        // which leaves no id behind).
        unsafe { self.nodes.get_unchecked(id as usize) }
    }

    #[inline(always)]
    fn node_mut(&mut self, id: u32) -> &mut Node<K, V> {
        debug_assert!((id as usize) < self.nodes.len());
        // SAFETY: as in `node`.
        unsafe { self.nodes.get_unchecked_mut(id as usize) }
    }

    fn is_free(&self, id: u32) -> bool {
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

    /// Puts another entry in the place of one that leaves, as the newest of its list.
    #[inline(always)]
    pub(crate) fn reuse(
        &mut self,
        id: Id,
        list: usize,
        old_hash: u64,
        hash: u64,
        key: K,
        value: V,
    ) -> (K, V) {
        debug_assert!(!self.is_free(id.0) && list < GHOSTS);
        self.index.remove(old_hash, id.0);
        self.index.insert(hash, id.0);
        self.move_to_front(id, list);
        let node = self.node_mut(id.0);
        let key = mem::replace(&mut node.key, MaybeUninit::new(key));
        let value = mem::replace(&mut node.value, MaybeUninit::new(value));
        // SAFETY: the node held an entry, which was just replaced as a whole.
        let key = unsafe { key.assume_init() };
        // SAFETY: as above.
        (key, unsafe { value.assume_init() })
    }

    /// Puts an entry in the place of a ghost that is forgotten, as the newest of a list.
    #[inline(always)]
    pub(crate) fn reuse_ghost(
        &mut self,
        id: Id,
        list: usize,
        old_hash: u64,
        hash: u64,
        key: K,
        value: V,
    ) -> K {
        debug_assert!(!self.is_free(id.0) && list < GHOSTS);
        self.index.remove(old_hash, id.0);
        self.index.insert(hash, id.0);
        self.move_to_front(id, list);
        let node = self.node_mut(id.0);
        node.value.write(value);
        let key = mem::replace(&mut node.key, MaybeUninit::new(key));
        // SAFETY: a ghost holds a key, which was just replaced.
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

    #[inline(always)]
    fn unlink(&mut self, id: u32) {
        let node = self.node(id);
        let (prev, next) = (node.prev, node.next);
        self.node_mut(prev).next = next;
        self.node_mut(next).prev = prev;
    }

    #[inline(always)]
    fn link(&mut self, id: u32, list: u32) {
        let first = self.node(list).next;
        let node = self.node_mut(id);
        node.prev = list;
        node.next = first;
        self.node_mut(first).prev = id;
        self.node_mut(list).next = id;
    }

    /// Makes it the newest of a list of the same kind (with values, or of ghosts).
    #[inline(always)]
    pub(crate) fn move_to_front(&mut self, id: Id, list: usize) {
        debug_assert!(!self.is_free(id.0) && list < self.lists as usize);
        let (id, list) = (id.0, list as u32);
        // Every load comes before the first store: a load behind a store whose address is not known yet
        // may have to wait for it.
        let first = self.node(list).next;
        let node = self.node(id);
        let (prev, next) = (node.prev, node.next);
        if prev == list {
            return;
        }
        self.node_mut(prev).next = next;
        self.node_mut(next).prev = prev;
        let node = self.node_mut(id);
        node.prev = list;
        node.next = first;
        self.node_mut(first).prev = id;
        self.node_mut(list).next = id;
    }

    /// Makes it the oldest of a list of the same kind.
    pub(crate) fn move_to_back(&mut self, id: Id, list: usize) {
        debug_assert!(!self.is_free(id.0) && list < self.lists as usize);
        self.unlink(id.0);
        let list = list as u32;
        let last = self.node(list).prev;
        let node = self.node_mut(id.0);
        node.prev = last;
        node.next = list;
        self.node_mut(last).next = id.0;
        self.node_mut(list).prev = id.0;
    }

    /// Makes an entry and all that are older on its list the newest of it, in the same order: the ring stays as
    /// it is, and its sentinel takes another place.
    pub(crate) fn rotate(&mut self, id: Id, list: usize) {
        debug_assert!(!self.is_free(id.0) && list < self.lists as usize);
        let (id, list) = (id.0, list as u32);
        let newer = self.node(id).prev;
        if newer == list {
            return;
        }
        self.unlink(list);
        let sentinel = self.node_mut(list);
        sentinel.prev = newer;
        sentinel.next = id;
        self.node_mut(newer).next = list;
        self.node_mut(id).prev = list;
    }

    #[inline(always)]
    fn entry(&self, id: u32) -> Option<Id> {
        (id >= self.lists).then_some(Id(id))
    }

    #[inline(always)]
    pub(crate) fn newest(&self, list: usize) -> Option<Id> {
        debug_assert!(list < self.lists as usize);
        self.entry(self.node(list as u32).next)
    }

    #[inline(always)]
    pub(crate) fn oldest(&self, list: usize) -> Option<Id> {
        debug_assert!(list < self.lists as usize);
        self.entry(self.node(list as u32).prev)
    }

    #[inline(always)]
    pub(crate) fn newer(&self, id: Id) -> Option<Id> {
        debug_assert!(!self.is_free(id.0));
        self.entry(self.node(id.0).prev)
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

    /// Whether the index is larger than what is always near the processor.
    #[inline(always)]
    pub(crate) fn is_large(&self) -> bool {
        self.index.chunks.len() > 1 << 14
    }

    /// The entries of a list, from the oldest to the newest.
    pub(crate) fn walk(&self, list: usize) -> Walk<'_, K, V> {
        debug_assert!(list < self.lists as usize);
        let sentinel = self.node(list as u32);
        let ends = (sentinel.prev >= self.lists).then_some((sentinel.prev, sentinel.next));
        Walk { store: self, ends }
    }

    /// The entries of one or two lists that are no ghost lists, from the oldest to the newest of each.
    pub(crate) fn walks_mut(&mut self, lists: &[usize]) -> [WalkMut<'_, K, V>; 2] {
        let mut ends = [None; 2];
        for (ends, list) in ends.iter_mut().zip(lists) {
            debug_assert!(*list < GHOSTS && *list < self.lists as usize);
            let sentinel = self.node(*list as u32);
            *ends = (sentinel.prev >= self.lists).then_some((sentinel.prev, sentinel.next));
        }
        debug_assert!(lists.len() == 1 || lists.len() == 2 && lists[0] != lists[1]);
        let nodes = self.nodes.as_mut_ptr();
        ends.map(|ends| WalkMut { nodes, ends, borrows: PhantomData })
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

    /// Checks every invariant; the cost is that of a full walk.
    ///
    /// # Panics
    ///
    /// When one does not hold.
    pub(crate) fn validate(&self, hash: Option<&dyn Fn(&K) -> u64>) {
        let mut held = vec![false; self.nodes.len()];
        let mut count = 0;
        for list in 0..self.lists {
            let (mut before, mut id) = (list, self.node(list).next);
            while id != list {
                assert!(id >= self.lists, "a list runs into another one");
                assert!(!mem::replace(&mut held[id as usize], true), "a node is held twice");
                assert_eq!(self.node(id).prev, before, "links disagree");
                count += 1;
                (before, id) = (id, self.node(id).next);
            }
            assert_eq!(self.node(list).prev, before, "the last link disagrees");
        }
        let mut free = self.free;
        while free != NONE {
            assert!(!mem::replace(&mut held[free as usize], true), "a free node is held");
            assert!(self.is_free(free), "a free node has no mark");
            free = self.node(free).next;
        }
        let lost = held.iter().skip(self.lists as usize).filter(|held| !**held).count();
        assert_eq!(lost, 0, "nodes are neither free nor held");
        assert!(self.nodes.len() <= self.limit, "more nodes than the index is made for");
        self.validate_index(count, hash);
    }

    fn validate_index(&self, count: usize, hash: Option<&dyn Fn(&K) -> u64>) {
        let index = &self.index;
        let mut passed = vec![0; index.chunks.len()];
        let mut seen = vec![false; self.nodes.len()];
        let mut filled = 0;
        for (at, chunk) in index.chunks.iter().enumerate() {
            for slot in (0..SLOTS as u32).map(|at| chunk.slot(at)) {
                if slot >> 31 == 0 {
                    continue;
                }
                filled += 1;
                let id = slot & index.id_bits;
                assert!(id >= self.lists && !self.is_free(id), "the index names a free node");
                assert!(!mem::replace(&mut seen[id as usize], true), "a node is indexed twice");
                let Some(hash) = hash else { continue };
                let hash = hash(self.key(Id(id)));
                assert_eq!(slot, index.slot(hash, id), "a slot disagrees");
                let mut from = index.home(hash);
                while from != at {
                    passed[from] += 1;
                    from = index.after(from);
                }
            }
        }
        assert_eq!(filled, count, "index and lists disagree");
        if hash.is_some() && index.exact {
            let counts = index.chunks.iter().map(|chunk| chunk.passed);
            assert!(counts.eq(passed), "a chunk counts others than those who passed it");
        }
    }
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

/// The ids of a list, from the oldest to the newest.
pub(crate) struct Walk<'a, K, V> {
    store: &'a Store<K, V>,
    /// The oldest and the newest that are still to come.
    ends: Option<(u32, u32)>,
}

impl<K, V> Clone for Walk<'_, K, V> {
    fn clone(&self) -> Self {
        Self { ..*self }
    }
}

impl<K, V> Iterator for Walk<'_, K, V> {
    type Item = Id;

    fn next(&mut self) -> Option<Id> {
        let (oldest, newest) = self.ends?;
        self.ends = (oldest != newest).then(|| (self.store.node(oldest).prev, newest));
        Some(Id(oldest))
    }
}

impl<K, V> DoubleEndedIterator for Walk<'_, K, V> {
    fn next_back(&mut self) -> Option<Id> {
        let (oldest, newest) = self.ends?;
        self.ends = (oldest != newest).then(|| (oldest, self.store.node(newest).next));
        Some(Id(newest))
    }
}

/// The entries of a list with their values to change, from the oldest to the newest.
pub(crate) struct WalkMut<'a, K, V> {
    nodes: *mut Node<K, V>,
    /// The oldest and the newest that are still to come.
    ends: Option<(u32, u32)>,
    borrows: PhantomData<&'a mut Node<K, V>>,
}

// SAFETY: it is a mutable borrow of the store, which is `Send` when its keys and values are.
unsafe impl<K: Send, V: Send> Send for WalkMut<'_, K, V> {}
// SAFETY: a shared reference to it gives access to nothing.
unsafe impl<K: Sync, V: Sync> Sync for WalkMut<'_, K, V> {}

impl<'a, K, V> WalkMut<'a, K, V> {
    fn links(&self, id: u32) -> (u32, u32) {
        // SAFETY: `id` is a link of the borrowed store, hence in bounds.
        let node = unsafe { self.nodes.add(id as usize) };
        // SAFETY: valid as above; nobody borrows the links while this walk borrows the store.
        let prev = unsafe { (*node).prev };
        // SAFETY: as above.
        (prev, unsafe { (*node).next })
    }

    /// Called once per entry, as the two ends of a walk never cross.
    fn pair(&mut self, id: u32) -> (Id, &'a K, &'a mut V) {
        // SAFETY: `id` is a link of the borrowed store, hence in bounds.
        let node = unsafe { self.nodes.add(id as usize) };
        // SAFETY: valid as above; the key is only ever borrowed shared during the walk.
        let key = unsafe { &(*node).key };
        // SAFETY: valid as above; an entry is given once, so this borrow of its value is the only one.
        let value = unsafe { &mut (*node).value };
        // SAFETY: the list is no ghost list, so its entries hold keys and values.
        let key = unsafe { key.assume_init_ref() };
        // SAFETY: as above.
        (Id(id), key, unsafe { value.assume_init_mut() })
    }
}

impl<'a, K, V> Iterator for WalkMut<'a, K, V> {
    type Item = (Id, &'a K, &'a mut V);

    fn next(&mut self) -> Option<Self::Item> {
        let (oldest, newest) = self.ends?;
        self.ends = (oldest != newest).then(|| (self.links(oldest).0, newest));
        Some(self.pair(oldest))
    }
}

impl<K, V> DoubleEndedIterator for WalkMut<'_, K, V> {
    fn next_back(&mut self) -> Option<Self::Item> {
        let (oldest, newest) = self.ends?;
        self.ends = (oldest != newest).then(|| (oldest, self.links(newest).1));
        Some(self.pair(newest))
    }
}

#[cfg(test)]
mod tests;
