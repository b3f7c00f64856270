//! A cache line of the index.

/// Slots of a chunk.
pub(super) const SLOTS: usize = 15;
/// Set in the upper half of every slot that is filled, so that an empty one matches nothing.
pub(super) const FULL: u16 = 1 << 15;

/// A cache line of the index: fifteen slots, and how many entries passed by because it was full.
///
/// A slot is 32 bits: an id and, in the bits above it, as much of the hash as fits, so that nearly nothing
/// is found that is not the key. The upper halves of the slots lie together: a search looks at those only.
#[derive(Clone)]
#[repr(C, align(64))]
pub(super) struct Chunk {
    pub(super) upper: [u16; SLOTS],
    /// At `UNKNOWN` it no longer knows how many passed, and stays.
    pub(super) passed: u16,
    pub(super) lower: [u16; SLOTS],
    pub(super) unused: u16,
}

impl Chunk {
    pub(super) const EMPTY: Self =
        Self { upper: [0; SLOTS], passed: 0, lower: [0; SLOTS], unused: 0 };

    #[inline(always)]
    pub(super) fn slot(&self, at: u32) -> u32 {
        debug_assert!((at as usize) < SLOTS);
        // SAFETY: `at` is the position of a bit in a mask of SLOTS bits.
        let upper = unsafe { *self.upper.get_unchecked(at as usize) };
        // SAFETY: as above.
        let lower = unsafe { *self.lower.get_unchecked(at as usize) };
        u32::from(upper) << 16 | u32::from(lower)
    }

    #[inline(always)]
    pub(super) fn set(&mut self, at: u32, slot: u32) {
        debug_assert!((at as usize) < SLOTS);
        // SAFETY: `at` is the position of a bit in a mask of SLOTS bits.
        *unsafe { self.upper.get_unchecked_mut(at as usize) } = (slot >> 16) as u16;
        // SAFETY: as above.
        *unsafe { self.lower.get_unchecked_mut(at as usize) } = slot as u16;
    }

    #[inline(always)]
    pub(super) fn clear(&mut self, at: u32) {
        debug_assert!((at as usize) < SLOTS);
        // SAFETY: `at` is the position of a bit in a mask of SLOTS bits.
        *unsafe { self.upper.get_unchecked_mut(at as usize) } = 0;
    }
}

#[cfg(all(target_arch = "x86_64", target_feature = "sse2"))]
pub(super) mod vector {
    use super::{Chunk, SLOTS};
    use std::arch::x86_64::{
        __m128i, _mm_and_si128, _mm_cmpeq_epi16, _mm_load_si128, _mm_movemask_epi8,
        _mm_packs_epi16, _mm_set1_epi16,
    };

    /// The slots of a chunk, as bits.
    const ALL: u32 = (1 << SLOTS) - 1;

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
    pub(in crate::lru::raw) fn matches(chunk: &Chunk, mark: u16, bits: u16) -> u32 {
        // SAFETY: this module is there only in builds whose every processor has SSE2.
        unsafe { matches_sse2(chunk, mark, bits) }
    }

    /// Slots that hold exactly `slot`, which has `FULL` set.
    #[inline(always)]
    pub(in crate::lru::raw) fn holds(chunk: &Chunk, slot: u32) -> u32 {
        // SAFETY: as in `matches`.
        unsafe { holds_sse2(chunk, slot) }
    }

    /// Slots that hold nothing.
    #[inline(always)]
    pub(in crate::lru::raw) fn vacant(chunk: &Chunk) -> u32 {
        // SAFETY: as in `matches`.
        unsafe { vacant_sse2(chunk) }
    }
}

/// The same without vectors, for every other machine; tested against them.
#[cfg(any(test, not(all(target_arch = "x86_64", target_feature = "sse2"))))]
pub(super) mod portable {
    use super::{Chunk, FULL, SLOTS};

    #[inline]
    fn gather(is_in: impl Fn(usize) -> bool) -> u32 {
        (0..SLOTS).fold(0, |found, at| found | u32::from(is_in(at)) << at)
    }

    #[inline]
    pub(in crate::lru::raw) fn matches(chunk: &Chunk, mark: u16, bits: u16) -> u32 {
        gather(|at| chunk.upper[at] & bits == mark)
    }

    #[inline]
    pub(in crate::lru::raw) fn holds(chunk: &Chunk, slot: u32) -> u32 {
        gather(|at| chunk.upper[at] == (slot >> 16) as u16 && chunk.lower[at] == slot as u16)
    }

    #[inline]
    pub(in crate::lru::raw) fn vacant(chunk: &Chunk) -> u32 {
        gather(|at| chunk.upper[at] & FULL == 0)
    }
}

#[cfg(not(all(target_arch = "x86_64", target_feature = "sse2")))]
pub(super) use portable as vector;
