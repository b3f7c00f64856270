//! From hashes to ids.

use super::LISTS;
use super::chunk::{Chunk, FULL, SLOTS, vector};

/// A count that stays: without the bit of `FULL`, so that it matches nothing.
pub(super) const UNKNOWN: u16 = FULL - 1;
/// Entries per chunk when the index is full: few enough that hardly any finds its chunk full.
pub(super) const PER_CHUNK: usize = 8;

/// Chunks, probed in turn from a home chunk, in any number, without tombstones.
///
/// An entry that finds its home full raises the count of each chunk that it passes and lowers it again when
/// it leaves, so that a search ends at the first chunk that nobody passed.
pub(super) struct Index {
    pub(super) chunks: Box<[Chunk]>,
    /// The bits of a slot that belong to the id.
    pub(super) id_bits: u32,
    /// The bits of its upper half that belong to the hash.
    mark_bits: u16,
    /// False once an entry left whose hash was another one when it came: then counts may be too high.
    pub(super) exact: bool,
}

impl Index {
    pub(super) fn for_nodes(nodes: usize) -> Self {
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
    pub(super) fn slot(&self, hash: u64, id: u32) -> u32 {
        u32::from(self.mark(hash)) << 16 | id
    }

    #[inline(always)]
    pub(super) fn home(&self, hash: u64) -> usize {
        ((u128::from(hash) * self.chunks.len() as u128) >> 64) as usize
    }

    #[inline(always)]
    pub(super) fn after(&self, at: usize) -> usize {
        if at + 1 == self.chunks.len() { 0 } else { at + 1 }
    }

    #[inline(always)]
    pub(super) fn chunk(&self, at: usize) -> &Chunk {
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
    pub(super) fn find(&self, hash: u64, mut is_it: impl FnMut(u32) -> bool) -> Option<u32> {
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
    pub(super) fn insert(&mut self, hash: u64, id: u32) {
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
    pub(super) fn remove(&mut self, hash: u64, id: u32) {
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

    pub(super) fn clear(&mut self) {
        self.chunks.fill(Chunk::EMPTY);
        self.exact = true;
    }
}
