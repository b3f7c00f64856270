//! Iteration over a list.

use std::marker::PhantomData;

use super::store::{Node, Store};
use super::{GHOSTS, Id};

impl<K, V> Store<K, V> {
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
