//! The one place with `unsafe`: the index, the entries in its slots, and the links.
//!
//! An [`Id`] is made here and nowhere else, and only for a filled slot of the store that hands it out. A store
//! has a link and a pair for each slot of its index, and the three change together when it grows, which gives
//! every entry another id. What the callers owe is that they use an id with the store it came from, only while
//! its entry is held and only until the store grows (debug builds check the first two). Entries on a list below
//! [`GHOSTS`] hold a key and a value, those on a ghost list a key only, vacant slots nothing; the sentinels
//! have no slot.
//!
//! User code (`Hash`, `Eq`, `Drop`) never runs while a store is between two states: hashes come in as
//! arguments or are asked for before anything changes, what leaves is returned, and growth builds the new
//! tables before it swaps them in.
#![allow(unsafe_code)]

mod group;
mod index;
mod links;
mod store;
#[cfg(test)]
mod tests;
mod validate;
mod walk;

pub(crate) use self::store::Store;
pub(crate) use self::walk::{Walk, WalkMut};

/// The first ghost list; lists below it hold values.
pub(crate) const GHOSTS: usize = 2;
/// The most lists that a store can have.
pub(crate) const LISTS: usize = 4;

/// An entry or a ghost of one store, until it leaves or the store grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Id(u32);

impl Id {
    /// The place of its side data in arrays kept beside the store.
    #[inline]
    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }

    /// The entry that side data belong to, which is held: the wheel unlinks it when it leaves.
    #[inline]
    pub(crate) fn from_index(index: u32) -> Self {
        Self(index)
    }
}
