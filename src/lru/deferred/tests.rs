use proptest::prelude::*;

use super::*;
use crate::lru::{AnyPolicy, Builder, Expiring, Lru, ManualClock, TwoQueue};

type Deferring<P> = Cache<u8, u32, Deferred<P>>;

fn deferring<P: Policy>(capacity: usize, policy: P) -> Deferring<P> {
    Builder::new(capacity).policy(Deferred::new(policy, true)).build()
}

fn ask<P: Policy>(cache: &Deferring<P>, key: u8) -> Option<u32> {
    match cache.ask(cache.hasher().hash_one(key), |held| *held == key)? {
        Asked::Held(id) => Some(*cache.core.store.value(id)),
        Asked::Expired => None,
    }
}

fn keys<P: Policy>(cache: &Deferring<P>) -> Vec<u8> {
    cache.keys().copied().collect()
}

/// From the oldest to the newest: key, value, whether it was asked for.
#[derive(Default)]
struct Model(Vec<(u8, u32, bool)>);

impl Model {
    fn insert(&mut self, capacity: usize, key: u8, value: u32) {
        if let Some(at) = self.0.iter().position(|entry| entry.0 == key) {
            let entry = self.0.remove(at);
            self.0.push((key, value, entry.2));
            return;
        }
        if self.0.len() == capacity {
            for _ in 0..CHANCES {
                if !self.0[0].2 {
                    break;
                }
                let entry = self.0.remove(0);
                self.0.push((entry.0, entry.1, false));
            }
            self.0.remove(0);
        }
        self.0.push((key, value, false));
    }
}

fn cases() -> ProptestConfig {
    let cases = if cfg!(miri) { 2 } else { 64 };
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn a_second_chance_is_what_the_model_gives(
        capacity in 1_usize..40,
        steps in prop::collection::vec((0_u8..3, 0_u8..60), 0..400),
    ) {
        let mut cache = deferring(capacity, Lru::default());
        let mut model = Model::default();
        for (at, (what, key)) in steps.into_iter().enumerate() {
            let value = at as u32;
            match what {
                0 => {
                    let entry = model.0.iter_mut().find(|entry| entry.0 == key);
                    let expected = entry.map(|entry| {
                        entry.2 = true;
                        entry.1
                    });
                    prop_assert_eq!(ask(&cache, key), expected);
                }
                1 => {
                    cache.insert(key, value);
                    model.insert(capacity, key, value);
                }
                _ => {
                    let before = model.0.len();
                    model.0.retain(|entry| entry.0 != key);
                    prop_assert_eq!(cache.remove(&key), model.0.len() < before);
                }
            }
            cache.validate();
            let expected: Vec<u8> = model.0.iter().map(|entry| entry.0).collect();
            prop_assert_eq!(keys(&cache), expected);
        }
    }
}

#[test]
fn one_write_spares_a_limited_number() {
    let mut cache = deferring(100, Lru::default());
    for key in 0..100 {
        cache.insert(key, 0);
    }
    for key in 0..100 {
        assert!(ask(&cache, key).is_some());
    }
    cache.insert(200, 0);
    // The first ones are spared, and the next one goes though it was asked for.
    assert_eq!(keys(&cache)[..2], [CHANCES as u8 + 1, CHANCES as u8 + 2]);
    assert!(!cache.contains(&(CHANCES as u8)) && cache.contains(&0));
    cache.validate();
}

#[test]
fn what_two_queues_hold_becomes_frequent_when_its_turn_has_come() {
    for policy in [AnyPolicy::TwoQueue(TwoQueue::default()), AnyPolicy::Adaptive(<_>::default())] {
        let mut cache = deferring(4, policy);
        for key in 0..4 {
            cache.insert(key, 0);
        }
        assert_eq!(ask(&cache, 0), Some(0));
        assert_eq!(cache.list_lengths()[..2], [4, 0]);
        cache.insert(4, 0);
        assert_eq!(cache.list_lengths()[..2], [3, 1]);
        assert!(cache.contains(&0) && !cache.contains(&1));
        // A ghost is a miss.
        assert_eq!(ask(&cache, 1), None);
        cache.validate();
    }
}

#[test]
fn weights_spare_what_was_asked_for_at_each_eviction() {
    let policy = Deferred::new(Lru::default(), true);
    let mut cache =
        Builder::new(6).policy(policy).weigher(|_: &u8, weight: &u32| *weight as usize).build();
    for key in 0..6 {
        cache.insert(key, 1);
    }
    for key in [0, 2, 4] {
        assert_eq!(ask(&cache, key), Some(1));
    }
    cache.insert(9, 3);
    assert_eq!(keys(&cache), [0, 2, 4, 9]);
    assert_eq!(cache.resize(4), 2);
    assert_eq!(keys(&cache), [4, 9]);
    cache.validate();
}

#[test]
fn what_has_expired_is_not_held() {
    let clock = std::sync::Arc::new(ManualClock::new());
    let ttl = std::time::Duration::from_secs(1);
    let policy = Expiring::new(Lru::default(), ttl).clock(clock.clone());
    let mut cache = deferring(4, policy);
    cache.insert(1, 1);
    assert_eq!(ask(&cache, 1), Some(1));
    clock.advance(2 * ttl);
    assert_eq!(ask(&cache, 1), None);
    assert_eq!(ask(&cache, 2), None);
    cache.validate();
}

#[test]
fn a_copy_and_a_purged_cache_have_noted_nothing() {
    let mut cache = deferring(2, Lru::default());
    cache.insert(1, 1);
    cache.insert(2, 2);
    assert_eq!(ask(&cache, 1), Some(1));
    let mut copy = cache.clone();
    copy.insert(3, 3);
    assert_eq!(keys(&copy), [2, 3]);
    cache.purge();
    for key in 4..7 {
        cache.insert(key, 0);
    }
    assert_eq!(keys(&cache), [5, 6]);
    cache.validate();
}
