//! What both targets need.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hasher};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use arbitrary::Arbitrary;
use graceful::lru::{Adaptive, AnyPolicy, Lru, TwoQueue};

#[derive(Arbitrary, Clone, Copy, Debug)]
pub enum Kind {
    Lru,
    TwoQueue,
    Adaptive,
}

impl Kind {
    pub fn policy(self) -> AnyPolicy {
        match self {
            Self::Lru => Lru::default().into(),
            Self::TwoQueue => TwoQueue::default().into(),
            Self::Adaptive => Adaptive::default().into(),
        }
    }
}

/// From the system's own to those that fill one chunk, or make every slot alike.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub enum Spread {
    Good,
    Constant,
    Low,
    High,
    Plain,
}

impl BuildHasher for Spread {
    type Hasher = Spreading;

    fn build_hasher(&self) -> Spreading {
        Spreading { spread: *self, number: 0 }
    }
}

pub struct Spreading {
    spread: Spread,
    number: u64,
}

impl Hasher for Spreading {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.number = self.number << 8 | u64::from(*byte);
        }
    }

    fn finish(&self) -> u64 {
        match self.spread {
            Spread::Good => self.number.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15),
            Spread::Constant => 7,
            Spread::Low => self.number & 3,
            Spread::High => self.number << 62,
            Spread::Plain => self.number,
        }
    }
}

static LIVING: AtomicUsize = AtomicUsize::new(0);

/// A value on the heap, so that a sanitizer sees one that is used or dropped once too often.
#[derive(Debug)]
pub struct Value(Box<u32>);

impl Value {
    pub fn new(number: u32) -> Self {
        LIVING.fetch_add(1, Relaxed);
        Self(Box::new(number))
    }

    pub fn number(&self) -> u32 {
        *self.0
    }
}

impl Clone for Value {
    fn clone(&self) -> Self {
        Self::new(*self.0)
    }
}

impl Drop for Value {
    fn drop(&mut self) {
        LIVING.fetch_sub(1, Relaxed);
    }
}

/// Every value that was made is gone.
pub fn check_all_dropped() {
    assert_eq!(LIVING.load(Relaxed), 0, "values outlive their cache");
}

/// The last value written of each key that was not taken out: what a cache may show, if it shows anything.
#[derive(Default)]
pub struct Written(pub BTreeMap<String, u32>);

impl Written {
    pub fn check(&self, key: &str, shown: Option<u32>) {
        if let Some(shown) = shown {
            assert_eq!(self.0.get(key), Some(&shown), "{key} has a value that it should not have");
        }
    }
}
