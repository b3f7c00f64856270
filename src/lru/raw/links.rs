//! The lists: links between nodes, which end in sentinels.

use super::Id;
use super::store::Store;

impl<K, V> Store<K, V> {
    #[inline(always)]
    pub(super) fn unlink(&mut self, id: u32) {
        let node = self.node(id);
        let (prev, next) = (node.prev, node.next);
        self.node_mut(prev).next = next;
        self.node_mut(next).prev = prev;
    }

    #[inline(always)]
    pub(super) fn link(&mut self, id: u32, list: u32) {
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
    pub(super) fn entry(&self, id: u32) -> Option<Id> {
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
}
