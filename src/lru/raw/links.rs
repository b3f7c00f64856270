//! The lists: links between ids, which end in sentinels.

use super::{Id, LISTS};

/// Those of an entry, a ghost, or a sentinel.
#[derive(Clone, Copy)]
pub(super) struct Link {
    /// Towards the newest; of a sentinel: the oldest.
    pub(super) prev: u32,
    /// Towards the oldest; of a sentinel: the newest.
    pub(super) next: u32,
}

/// Rings, each through its sentinel, the ids `0..LISTS`.
///
/// Apart from the entries: what a use moves is then a third as large, and more of it stays near.
pub(super) struct Links {
    links: Box<[Link]>,
}

impl Links {
    pub(super) fn for_slots(slots: usize) -> Self {
        let mut links = vec![Link { prev: 0, next: 0 }; slots + LISTS].into_boxed_slice();
        for list in 0..LISTS {
            links[list] = Link { prev: list as u32, next: list as u32 };
        }
        Self { links }
    }

    pub(super) fn len(&self) -> usize {
        self.links.len()
    }

    #[inline(always)]
    pub(super) fn get(&self, id: u32) -> &Link {
        debug_assert!((id as usize) < self.links.len());
        // SAFETY: ids and links come from this store, which has a link for each of them.
        unsafe { self.links.get_unchecked(id as usize) }
    }

    #[inline(always)]
    fn get_mut(&mut self, id: u32) -> &mut Link {
        at(&mut self.links, id)
    }

    #[inline(always)]
    pub(super) fn unlink(&mut self, id: u32) {
        let Link { prev, next } = *self.get(id);
        // The slice itself, so that it is not looked up again after every store.
        let links = &mut *self.links;
        at(links, prev).next = next;
        at(links, next).prev = prev;
    }

    /// Makes it the newest of a list.
    #[inline(always)]
    pub(super) fn link(&mut self, id: u32, list: u32) {
        let first = self.get(list).next;
        let links = &mut *self.links;
        *at(links, id) = Link { prev: list, next: first };
        at(links, first).prev = id;
        at(links, list).next = id;
    }

    /// Makes it the oldest of a list.
    pub(super) fn link_back(&mut self, id: u32, list: u32) {
        let last = self.get(list).prev;
        *self.get_mut(id) = Link { prev: last, next: list };
        self.get_mut(last).next = id;
        self.get_mut(list).prev = id;
    }

    #[inline(always)]
    pub(super) fn move_to_front(&mut self, id: u32, list: u32) {
        // Every load comes before the first store: a load behind a store whose address is not known yet
        // may have to wait for it.
        let first = self.get(list).next;
        let Link { prev, next } = *self.get(id);
        if prev == list {
            return;
        }
        let links = &mut *self.links;
        at(links, prev).next = next;
        at(links, next).prev = prev;
        *at(links, id) = Link { prev: list, next: first };
        at(links, first).prev = id;
        at(links, list).next = id;
    }

    /// Makes an entry and all that are older on its list the newest of it, in the same order: the ring stays as
    /// it is, and its sentinel takes another place.
    pub(super) fn rotate(&mut self, id: u32, list: u32) {
        let newer = self.get(id).prev;
        if newer == list {
            return;
        }
        self.unlink(list);
        *self.get_mut(list) = Link { prev: newer, next: id };
        self.get_mut(newer).next = list;
        self.get_mut(id).prev = list;
    }

    #[inline(always)]
    pub(super) fn newest(&self, list: usize) -> Option<Id> {
        entry(self.get(list as u32).next)
    }

    #[inline(always)]
    pub(super) fn oldest(&self, list: usize) -> Option<Id> {
        entry(self.get(list as u32).prev)
    }

    #[inline(always)]
    pub(super) fn newer(&self, id: Id) -> Option<Id> {
        entry(self.get(id.0).prev)
    }
}

#[inline(always)]
fn at(links: &mut [Link], id: u32) -> &mut Link {
    debug_assert!((id as usize) < links.len());
    // SAFETY: as in `Links::get`.
    unsafe { links.get_unchecked_mut(id as usize) }
}

/// Not a sentinel.
#[inline(always)]
fn entry(id: u32) -> Option<Id> {
    (id >= LISTS as u32).then_some(Id(id))
}
