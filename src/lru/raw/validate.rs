//! The invariants, for tests.

use std::mem;

use super::index::MANY;
use super::store::Store;
use super::{Id, LISTS};

impl<K, V> Store<K, V> {
    /// Checks every invariant; the cost is that of a full walk.
    ///
    /// # Panics
    ///
    /// When one does not hold.
    pub(crate) fn validate(&self, hash: Option<&dyn Fn(&K) -> u64>) {
        let mut held = vec![false; self.ids()];
        let mut count = 0;
        for list in 0..LISTS as u32 {
            let (mut before, mut id) = (list, self.links.get(list).next);
            while id != list {
                assert!(id >= LISTS as u32, "a list runs into another one");
                assert!(!mem::replace(&mut held[id as usize], true), "an entry is held twice");
                assert_eq!(self.links.get(id).prev, before, "links disagree");
                count += 1;
                (before, id) = (id, self.links.get(id).next);
            }
            assert_eq!(self.links.get(list).prev, before, "the last link disagrees");
        }
        assert_eq!(self.held, count, "another number of entries is held");
        assert!(self.held <= self.limit, "more entries than the index is made for");
        if self.limit > 0 {
            assert_eq!(self.ids(), Self::ids_for(self.limit));
            assert_eq!(self.pairs.len(), self.index.slots());
        }
        self.validate_index(&held, hash);
    }

    fn validate_index(&self, held: &[bool], hash: Option<&dyn Fn(&K) -> u64>) {
        let index = &self.index;
        let mut guests = vec![0; index.groups.len()];
        for slot in 0..index.slots() as u32 {
            let id = Id(slot + LISTS as u32);
            let is_held = held.get(id.index()).is_some_and(|held| *held);
            assert_eq!(index.tag(slot) != 0, is_held, "index and lists disagree");
            if let (true, Some(hash)) = (is_held, hash) {
                let hash = hash(self.key(id));
                assert!(index.is_right(slot, hash), "an entry is where it is not looked for");
                if index.is_guest(slot) {
                    guests[index.homes(hash).0] += 1;
                }
            }
        }
        if hash.is_some() && index.exact {
            for (count, guests) in index.guests.iter().zip(guests) {
                let right = *count == MANY || usize::from(*count) == guests;
                assert!(right, "a home counts others than its guests");
            }
        }
    }
}
