//! Iteration over a list.

use std::marker::PhantomData;

use super::links::Links;
use super::store::{Pair, Store};
use super::{GHOSTS, Id, LISTS};

impl<K, V> Store<K, V> {
    /// The entries of a list, from the oldest to the newest.
    pub(crate) fn walk(&self, list: usize) -> Walk<'_, K, V> {
        debug_assert!(list < LISTS);
        Walk { store: self, ends: self.ends(list) }
    }

    /// The entries of one or two lists that are no ghost lists, from the oldest to the newest of each.
    pub(crate) fn walks_mut(&mut self, lists: &[usize]) -> [WalkMut<'_, K, V>; 2] {
        debug_assert!(lists.len() == 1 || lists.len() == 2 && lists[0] != lists[1]);
        let mut ends = [None; 2];
        for (ends, list) in ends.iter_mut().zip(lists) {
            debug_assert!(*list < GHOSTS);
            *ends = self.ends(*list);
        }
        let (links, pairs) = (&self.links, self.pairs.as_mut_ptr());
        ends.map(|ends| WalkMut { links, pairs, ends, borrows: PhantomData })
    }

    fn ends(&self, list: usize) -> Option<(u32, u32)> {
        Some((self.oldest(list)?.0, self.newest(list)?.0))
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
        self.ends = (oldest != newest).then(|| (self.store.links.get(oldest).prev, newest));
        Some(Id(oldest))
    }
}

impl<K, V> DoubleEndedIterator for Walk<'_, K, V> {
    fn next_back(&mut self) -> Option<Id> {
        let (oldest, newest) = self.ends?;
        self.ends = (oldest != newest).then(|| (oldest, self.store.links.get(newest).next));
        Some(Id(newest))
    }
}

/// The entries of a list with their values to change, from the oldest to the newest.
pub(crate) struct WalkMut<'a, K, V> {
    links: &'a Links,
    pairs: *mut Pair<K, V>,
    /// The oldest and the newest that are still to come.
    ends: Option<(u32, u32)>,
    borrows: PhantomData<&'a mut Pair<K, V>>,
}

// SAFETY: it is a mutable borrow of the store, which is `Send` when its keys and values are.
unsafe impl<K: Send, V: Send> Send for WalkMut<'_, K, V> {}
// SAFETY: a shared reference to it gives access to nothing.
unsafe impl<K: Sync, V: Sync> Sync for WalkMut<'_, K, V> {}

impl<'a, K, V> WalkMut<'a, K, V> {
    /// Called once per entry, as the two ends of a walk never cross.
    fn pair(&mut self, id: u32) -> (Id, &'a K, &'a mut V) {
        // SAFETY: `id` is a link of the borrowed store and no sentinel, so it has a pair.
        let pair = unsafe { self.pairs.add(id as usize - LISTS) };
        // SAFETY: valid as above; the key is only ever borrowed shared during the walk.
        let key = unsafe { &(*pair).key };
        // SAFETY: valid as above; an entry is given once, so this borrow of its value is the only one.
        let value = unsafe { &mut (*pair).value };
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
        self.ends = (oldest != newest).then(|| (self.links.get(oldest).prev, newest));
        Some(self.pair(oldest))
    }
}

impl<K, V> DoubleEndedIterator for WalkMut<'_, K, V> {
    fn next_back(&mut self) -> Option<Self::Item> {
        let (oldest, newest) = self.ends?;
        self.ends = (oldest != newest).then(|| (oldest, self.links.get(newest).next));
        Some(self.pair(newest))
    }
}
