//! The invariants, for tests.

use std::mem;

use super::Id;
use super::chunk::SLOTS;
use super::index::UNKNOWN;
use super::store::{NONE, Store};

impl<K, V> Store<K, V> {
    /// Checks every invariant; the cost is that of a full walk.
    ///
    /// # Panics
    ///
    /// When one does not hold.
    pub(crate) fn validate(&self, hash: Option<&dyn Fn(&K) -> u64>) {
        let mut held = vec![false; self.nodes.len()];
        let mut count = 0;
        for list in 0..self.lists {
            let (mut before, mut id) = (list, self.node(list).next);
            while id != list {
                assert!(id >= self.lists, "a list runs into another one");
                assert!(!mem::replace(&mut held[id as usize], true), "a node is held twice");
                assert_eq!(self.node(id).prev, before, "links disagree");
                count += 1;
                (before, id) = (id, self.node(id).next);
            }
            assert_eq!(self.node(list).prev, before, "the last link disagrees");
        }
        let mut free = self.free;
        while free != NONE {
            assert!(!mem::replace(&mut held[free as usize], true), "a free node is held");
            assert!(self.is_free(free), "a free node has no mark");
            free = self.node(free).next;
        }
        let lost = held.iter().skip(self.lists as usize).filter(|held| !**held).count();
        assert_eq!(lost, 0, "nodes are neither free nor held");
        assert!(self.nodes.len() <= self.limit, "more nodes than the index is made for");
        self.validate_index(count, hash);
    }

    fn validate_index(&self, count: usize, hash: Option<&dyn Fn(&K) -> u64>) {
        let index = &self.index;
        let mut passed = vec![0_usize; index.chunks.len()];
        let mut seen = vec![false; self.nodes.len()];
        let mut filled = 0;
        for (at, chunk) in index.chunks.iter().enumerate() {
            for slot in (0..SLOTS as u32).map(|at| chunk.slot(at)) {
                if slot >> 31 == 0 {
                    continue;
                }
                filled += 1;
                let id = slot & index.id_bits;
                assert!(id >= self.lists && !self.is_free(id), "the index names a free node");
                assert!(!mem::replace(&mut seen[id as usize], true), "a node is indexed twice");
                let Some(hash) = hash else { continue };
                let hash = hash(self.key(Id(id)));
                assert_eq!(slot, index.slot(hash, id), "a slot disagrees");
                let mut from = index.home(hash);
                while from != at {
                    passed[from] += 1;
                    from = index.after(from);
                }
            }
        }
        assert_eq!(filled, count, "index and lists disagree");
        if hash.is_some() && index.exact {
            for (chunk, passed) in index.chunks.iter().zip(passed) {
                let right = chunk.passed == UNKNOWN || usize::from(chunk.passed) == passed;
                assert!(right, "a chunk counts others than those who passed it");
            }
        }
    }
}
