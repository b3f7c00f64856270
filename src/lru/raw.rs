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
