//! Every policy under random use.
#![cfg(feature = "lru")]

use graceful::lru::{AdaptiveCache, ExpirableCache, LruCache, TwoQueueCache, sync};
use std::time::Duration;
#[test]
fn smoke() {
    let mut seed = 12345u64;
    let mut next = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    for cap in [0usize, 1, 2, 3, 7, 12, 13, 64, 200] {
        let mut l = LruCache::new(cap);
        let mut t = TwoQueueCache::new(cap);
        let mut a = AdaptiveCache::new(cap);
        let mut e = ExpirableCache::new(cap, Duration::from_nanos(50_000));
        for _ in 0..5000 {
            let k = next() % (cap as u64 * 3 + 2);
            match next() % 8 {
                0 => {
                    l.remove(&k);
                    t.remove(&k);
                    a.remove(&k);
                    e.remove(&k);
                }
                1..=3 => {
                    l.get(&k);
                    t.get(&k);
                    a.get(&k);
                    e.get(&k);
                }
                _ => {
                    l.insert(k, k.to_string());
                    t.insert(k, k.to_string());
                    a.insert(k, k.to_string());
                    e.insert(k, k.to_string());
                }
            }
            l.validate();
            t.validate();
            a.validate();
            e.validate();
            assert!(l.len() <= cap && t.len() <= cap && a.len() <= cap);
        }
        let c = a.clone();
        c.validate();
        assert_eq!(c.iter().collect::<Vec<_>>(), a.iter().collect::<Vec<_>>());
        t.iter_mut().for_each(|(_, v)| v.push('x'));
        assert!(t.values().all(|v| v.ends_with('x')));
        assert_eq!(l.iter().rev().count(), l.len());
        t.resize(cap / 2);
        t.validate();
        a.resize(cap / 2);
        a.validate();
        l.resize(cap / 2);
        l.validate();
        a.purge();
        a.validate();
        l.drain().for_each(drop);
        l.validate();
    }
    let s = sync::Cache::new(1000);
    for i in 0..5000u64 {
        s.insert(i, i);
    }
    s.validate();
    assert!(s.len() <= 1000);
}
