//! Sixteen tags of the index, and how two groups are looked at together.

/// Slots of a group.
pub(super) const SLOTS: usize = 16;
/// Set in the tag of every slot that is filled; an empty slot's tag is 0.
pub(super) const FULL: u16 = 1 << 15;

/// What is kept of the hashes of sixteen entries: half a cache line.
#[derive(Clone)]
#[repr(C, align(32))]
pub(super) struct Group {
    pub(super) tags: [u16; SLOTS],
}

impl Group {
    pub(super) const EMPTY: Self = Self { tags: [0; SLOTS] };
}

/// The vacant slots of two groups, sixteen bits each.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Vacant {
    pub(super) slots: u32,
    /// Whether the first group holds more than the second.
    pub(super) first_is_fuller: bool,
}

#[cfg(all(target_arch = "x86_64", target_feature = "sse2"))]
pub(super) mod vector {
    use super::{Group, SLOTS, Vacant};
    use std::arch::x86_64::{
        __m128i, _mm_add_epi64, _mm_cmpeq_epi16, _mm_cvtsi128_si32, _mm_load_si128,
        _mm_movemask_epi8, _mm_packs_epi16, _mm_sad_epu8, _mm_set1_epi16, _mm_setzero_si128,
        _mm_sub_epi64, _mm_unpackhi_epi64,
    };

    #[inline]
    #[target_feature(enable = "sse2")]
    fn load(group: &Group) -> (__m128i, __m128i) {
        let start = std::ptr::from_ref(group).cast::<__m128i>();
        // SAFETY: a group is two vectors long, and aligned as they are.
        let first = unsafe { _mm_load_si128(start) };
        // SAFETY: as above, within the group.
        let second = unsafe { start.add(1) };
        // SAFETY: as above.
        (first, unsafe { _mm_load_si128(second) })
    }

    /// A byte for each slot: 0x80, the least there is, where it is filled, and 0 where not.
    #[inline]
    #[target_feature(enable = "sse2")]
    fn filled(group: &Group) -> __m128i {
        let (low, high) = load(group);
        _mm_packs_epi16(low, high)
    }

    #[inline]
    #[target_feature(enable = "sse2")]
    fn equal(group: &Group, tag: __m128i) -> u32 {
        let (low, high) = load(group);
        let (low, high) = (_mm_cmpeq_epi16(low, tag), _mm_cmpeq_epi16(high, tag));
        _mm_movemask_epi8(_mm_packs_epi16(low, high)).cast_unsigned()
    }

    #[inline]
    #[target_feature(enable = "sse2")]
    fn matches_sse2(first: &Group, second: &Group, tag: u16) -> u32 {
        let tag = _mm_set1_epi16(tag.cast_signed());
        equal(first, tag) | equal(second, tag) << SLOTS
    }

    #[inline]
    #[target_feature(enable = "sse2")]
    fn vacant_sse2(first: &Group, second: &Group) -> Vacant {
        let (first, second) = (filled(first), filled(second));
        let slots = |filled| _mm_movemask_epi8(filled).cast_unsigned();
        let sums = |filled| _mm_sad_epu8(filled, _mm_setzero_si128());
        // Of both halves of a vector at once.
        let more = _mm_sub_epi64(sums(first), sums(second));
        let more = _mm_add_epi64(more, _mm_unpackhi_epi64(more, more));
        Vacant {
            slots: !(slots(first) | slots(second) << SLOTS),
            first_is_fuller: _mm_cvtsi128_si32(more) > 0,
        }
    }

    /// Slots of two groups, as bits, that hold this tag.
    #[inline(always)]
    pub(in crate::lru::raw) fn matches(first: &Group, second: &Group, tag: u16) -> u32 {
        // SAFETY: this module is there only in builds whose every processor has SSE2.
        unsafe { matches_sse2(first, second, tag) }
    }

    #[inline(always)]
    pub(in crate::lru::raw) fn vacant(first: &Group, second: &Group) -> Vacant {
        // SAFETY: as in `matches`.
        unsafe { vacant_sse2(first, second) }
    }
}

/// The same without vectors, for every other machine; tested against them.
#[cfg(any(test, not(all(target_arch = "x86_64", target_feature = "sse2"))))]
pub(super) mod portable {
    use super::{Group, SLOTS, Vacant};

    #[inline]
    fn gather(first: &Group, second: &Group, is_in: impl Fn(u16) -> bool) -> u32 {
        let of = |group: &Group| {
            (0..SLOTS).fold(0, |found, at| found | u32::from(is_in(group.tags[at])) << at)
        };
        of(first) | of(second) << SLOTS
    }

    #[inline]
    pub(in crate::lru::raw) fn matches(first: &Group, second: &Group, tag: u16) -> u32 {
        gather(first, second, |held| held == tag)
    }

    #[inline]
    pub(in crate::lru::raw) fn vacant(first: &Group, second: &Group) -> Vacant {
        let slots = gather(first, second, |held| held == 0);
        let first_is_fuller = (slots as u16).count_ones() < (slots >> SLOTS).count_ones();
        Vacant { slots, first_is_fuller }
    }
}

#[cfg(not(all(target_arch = "x86_64", target_feature = "sse2")))]
pub(super) use portable as vector;
