//! From hashes to slots.

use super::group::{FULL, Group, SLOTS, vector};

/// In the tag of an entry that found no room in its homes.
const GUEST: u16 = 1 << 14;
/// A count of guests that stays.
pub(super) const MANY: u8 = u8::MAX;
/// Entries per five pairs of groups when the index is full: few enough that not one of a thousand is a guest.
pub(super) const PER_FIVE_PAIRS: usize = 132;

/// The bytes of the index for each of its groups.
pub(super) const GROUP_BYTES: usize = size_of::<Group>() + size_of::<u8>();

/// Tags in groups, in any number, without tombstones.
///
/// An entry has two homes, one in each half of the groups, and goes to the one that holds less: so hardly any
/// finds both full, although five of six slots are filled. One that does is a guest in the next group that
/// has room, and its first home counts it, so that a search there goes on. What is to be looked at for a key
/// that is not there is two lines, which do not wait for each other, in an array small enough to be near.
pub(super) struct Index {
    pub(super) groups: Box<[Group]>,
    /// For each group the guests that have it as first home.
    pub(super) guests: Box<[u8]>,
    half: usize,
    /// The furthest that a guest ever had to go.
    pub(super) reach: usize,
    /// False once a guest left whose hash was another one when it came: then counts may be too high.
    pub(super) exact: bool,
}

impl Index {
    pub(super) fn for_entries(entries: usize) -> Self {
        let half = Self::half_for(entries);
        Self {
            groups: vec![Group::EMPTY; 2 * half].into_boxed_slice(),
            guests: vec![0; 2 * half].into_boxed_slice(),
            half,
            reach: 0,
            exact: true,
        }
    }

    fn half_for(entries: usize) -> usize {
        (entries as u64 * 5).div_ceil(PER_FIVE_PAIRS as u64).max(1) as usize
    }

    pub(super) fn slots_for(entries: usize) -> usize {
        2 * Self::half_for(entries) * SLOTS
    }

    pub(super) fn slots(&self) -> usize {
        self.groups.len() * SLOTS
    }

    #[inline(always)]
    fn home_tag(hash: u64) -> u16 {
        hash as u16 & (GUEST - 1) | FULL
    }

    /// Both are made by a multiplication of their own: hashers leave structure in the upper bits of what they
    /// make of numbers in a row, and one home that few groups share would be as good as none.
    #[inline(always)]
    pub(super) fn homes(&self, hash: u64) -> (usize, usize) {
        let part = |hash: u64| ((u128::from(hash) * self.half as u128) >> 64) as usize;
        let first = part(hash.wrapping_mul(0xD134_2543_DE82_EF95));
        (first, self.half + part(hash.wrapping_mul(0x9E37_79B9_7F4A_7C15)))
    }

    #[inline(always)]
    fn group(&self, at: usize) -> &Group {
        debug_assert!(at < self.groups.len());
        // SAFETY: `at` comes from `homes` or the like; all of these stay below the number of groups.
        unsafe { self.groups.get_unchecked(at) }
    }

    #[inline(always)]
    pub(super) fn tag(&self, slot: u32) -> u16 {
        debug_assert!((slot as usize) < self.slots());
        // SAFETY: slots come from `insert`, which finds them in groups of this index; the tags of all groups
        // lie one after the other.
        let place = unsafe { self.groups.as_ptr().cast::<u16>().add(slot as usize) };
        // SAFETY: as above.
        unsafe { *place }
    }

    #[inline(always)]
    fn set(&mut self, slot: u32, tag: u16) {
        debug_assert!((slot as usize) < self.slots());
        // SAFETY: as in `tag`.
        let place = unsafe { self.groups.as_mut_ptr().cast::<u16>().add(slot as usize) };
        // SAFETY: as in `tag`, and the borrow of the index is mutable.
        unsafe { *place = tag };
    }

    #[inline(always)]
    fn guests_of(&self, home: usize) -> u8 {
        debug_assert!(home < self.guests.len());
        // SAFETY: there is one count for each group, and `home` is one.
        unsafe { *self.guests.get_unchecked(home) }
    }

    #[inline(always)]
    pub(super) fn find(&self, hash: u64, mut is_it: impl FnMut(u32) -> bool) -> Option<u32> {
        let (first, second) = self.homes(hash);
        let tag = Self::home_tag(hash);
        let mut found = vector::matches(self.group(first), self.group(second), tag);
        while found != 0 {
            let slot = slot_of(first, second, found.trailing_zeros());
            if is_it(slot) {
                return Some(slot);
            }
            found &= found - 1;
        }
        if self.guests_of(first) != 0 {
            let mut place = SLOTS;
            while let Some((slot, after)) = self.next_guest(hash, first, place) {
                if is_it(slot) {
                    return Some(slot);
                }
                place = after;
            }
        }
        None
    }

    /// A guest that may be it, `place` slots from the first one of its home or further, and the place after.
    #[cold]
    #[inline(never)]
    fn next_guest(&self, hash: u64, home: usize, mut place: usize) -> Option<(u32, usize)> {
        let tag = Self::home_tag(hash) | GUEST;
        while place / SLOTS <= self.reach {
            let mut at = home + place / SLOTS;
            if at >= self.groups.len() {
                at -= self.groups.len();
            }
            let group = self.group(at);
            let found = vector::matches(group, group, tag) as u16 >> (place % SLOTS);
            if found != 0 {
                place += found.trailing_zeros() as usize;
                return Some(((at * SLOTS + place % SLOTS) as u32, place + 1));
            }
            place = (place / SLOTS + 1) * SLOTS;
        }
        None
    }

    /// The caller has checked that there are fewer entries than the index was made for, hence a vacant slot.
    #[inline(always)]
    pub(super) fn insert(&mut self, hash: u64) -> u32 {
        let (first, second) = self.homes(hash);
        let vacant = vector::vacant(self.group(first), self.group(second));
        // Without a branch, which would be taken as often as not.
        let to_second = usize::from(vacant.first_is_fuller);
        let home = first ^ ((first ^ second) & 0_usize.wrapping_sub(to_second));
        let slots = vacant.slots >> (to_second * SLOTS) & ((1 << SLOTS) - 1);
        if slots == 0 {
            return self.insert_guest(hash, first);
        }
        let slot = (home * SLOTS) as u32 + slots.trailing_zeros();
        self.set(slot, Self::home_tag(hash));
        slot
    }

    #[cold]
    #[inline(never)]
    fn insert_guest(&mut self, hash: u64, home: usize) -> u32 {
        let (mut at, mut way) = (home, 0);
        let vacant = loop {
            at = if at + 1 == self.groups.len() { 0 } else { at + 1 };
            way += 1;
            let group = self.group(at);
            let vacant = vector::vacant(group, group).slots;
            if vacant != 0 {
                break vacant;
            }
        };
        self.reach = self.reach.max(way);
        self.guests[home] = self.guests[home].saturating_add(1);
        let slot = (at * SLOTS) as u32 + vacant.trailing_zeros();
        self.set(slot, Self::home_tag(hash) | GUEST);
        slot
    }

    /// Whether `remove` needs the hash.
    #[inline(always)]
    pub(super) fn is_guest(&self, slot: u32) -> bool {
        self.tag(slot) & GUEST != 0
    }

    /// Removes an entry that is no guest.
    #[inline(always)]
    pub(super) fn remove(&mut self, slot: u32) {
        debug_assert!(!self.is_guest(slot) && self.tag(slot) != 0);
        self.set(slot, 0);
    }

    #[cold]
    #[inline(never)]
    pub(super) fn remove_guest(&mut self, slot: u32, hash: u64) {
        debug_assert!(self.is_guest(slot));
        let (home, _) = self.homes(hash);
        let is_told = self.tag(slot) == Self::home_tag(hash) | GUEST;
        let count = &mut self.guests[home];
        if !is_told || *count == 0 {
            // Its hash has changed since it came: its key lies.
            self.exact = false;
        } else if *count != MANY {
            *count -= 1;
        }
        self.set(slot, 0);
    }

    pub(super) fn clear(&mut self) {
        self.groups.fill(Group::EMPTY);
        self.guests.fill(0);
        self.reach = 0;
        self.exact = true;
    }

    /// Whether the tags are more than what is always near the processor.
    #[inline(always)]
    pub(super) fn is_large(&self) -> bool {
        self.half > 1 << 8
    }

    /// Where a tag is, for a prefetch: perhaps nowhere, as a sentinel has no slot.
    #[inline(always)]
    pub(super) fn line_of(&self, slot: u32) -> *const u16 {
        self.groups.as_ptr().cast::<u16>().wrapping_add(slot as usize)
    }

    /// What `validate` checks of an entry: its tag, and how far from home it is.
    pub(super) fn is_right(&self, slot: u32, hash: u64) -> bool {
        let (first, second) = self.homes(hash);
        let at = slot as usize / SLOTS;
        let way = (at + self.groups.len() - first) % self.groups.len();
        let tag = self.tag(slot);
        tag == Self::home_tag(hash) && (at == first || at == second)
            || tag == Self::home_tag(hash) | GUEST && at != first && way <= self.reach
    }
}

/// The slot of a bit: the lower sixteen are those of the first group.
#[inline(always)]
fn slot_of(first: usize, second: usize, bit: u32) -> u32 {
    let group = if bit < SLOTS as u32 { first } else { second };
    (group * SLOTS) as u32 + bit % SLOTS as u32
}
