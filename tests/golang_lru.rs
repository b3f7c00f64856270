//! What golang-lru's own tests pin, written anew, one row per behaviour and named after its test.
//!
//! | golang-lru v2 | here |
//! | --- | --- |
//! | `simplelru.TestLRU`, `TestLRU` | [`lru_keeps_the_newest`] |
//! | `TestLRU_GetOldest_RemoveOldest` | [`oldest_is_removed_first`] |
//! | `TestLRU_Add`, `TestLRUAdd` | [`add_says_whether_it_evicted`] |
//! | `TestLRU_Contains`, `TestLRU_Peek`, `TestLRUContains`, `TestLRUPeek` | [`looking_is_no_use`] |
//! | `TestLRU_Resize`, `TestLRUResize` | [`resize_says_how_many_went`] |
//! | `TestCache_EvictionSameKey` (three subtests) | [`a_second_add_evicts_nothing`] |
//! | `TestLRUContainsOrAdd` | [`contains_or_add_does_not_touch`] |
//! | `TestLRUPeekOrAdd` | [`peek_or_add_does_not_touch`] |
//! | `Test2Q_RandomOps` | [`two_queue_stays_within_its_size`] |
//! | `Test2Q_Get_RecentToFrequent` | [`two_queue_get_promotes`] |
//! | `Test2Q_Add_RecentToFrequent` | [`two_queue_add_promotes`] |
//! | `Test2Q_Add_RecentEvict` | [`two_queue_ghost_becomes_frequent`] |
//! | `Test2Q_Resize` | [`two_queue_shrinks_in_proportion`] |
//! | `Test2Q`, `Test2Q_Contains`, `Test2Q_Peek` | [`two_queue_is_a_cache`] |
//! | `TestARC_RandomOps` | [`adaptive_stays_within_its_size`] |
//! | `TestARC_Get_RecentToFrequent` | [`adaptive_get_promotes`] |
//! | `TestARC_Add_RecentToFrequent` | [`adaptive_add_promotes`] |
//! | `TestARC_Adaptive` | [`adaptive_target_moves`] |
//! | `TestARC`, `TestARC_Contains`, `TestARC_Peek` | [`adaptive_is_a_cache`] |
//! | expirable `TestLRUInterface`, `TestLRUNoPurge` | [`expirable_without_times_is_lru`] |
//! | expirable `TestLRUEdgeCases` | [`nothing_as_a_value_is_a_hit`] |
//! | expirable `TestLRU_Values` | [`expirable_values_are_in_order`] |
//! | expirable `TestLRUWithPurge` | [`expirable_entries_leave_in_time`] |
//! | expirable `TestLRUWithPurgeEnforcedBySize` | [`expirable_keeps_to_its_size`] |
//! | expirable `TestLRUConcurrency` | [`threads_may_share_an_expirable_cache`] |
//! | expirable `TestLRUInvalidateAndEvict` | [`expirable_remove_tells_the_listener`] |
//! | expirable `TestLoadingExpired` | [`an_expired_entry_is_never_shown`] |
//! | expirable `TestLRURemoveOldest` | [`expirable_oldest`] |
//! | expirable `ExampleLRU` | [`expirable_example`] |
//! | expirable `TestCache_EvictionSameKey` | [`an_update_renews_the_time`] |
//! | expirable `TestCache_CloseGoRoutine`, `TestCache_RestartGoRoutine` | [`expiry_pauses_and_resumes`] |
//!
//! Differences, on purpose: [`deviations`] has a row for each. `golang_lru_replay.rs` has what golang-lru itself
//! answered to some thousand operations.
#![cfg(feature = "lru")]
#![allow(clippy::unwrap_used)]

use std::hash::Hash;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use graceful::lru::{
    AdaptiveCache, Builder, Cause, ExpirableCache, Expiring, Lru, LruCache, ManualClock, OrAdd,
    TwoQueue, TwoQueueCache, sync,
};

type Log<K, V> = Arc<Mutex<Vec<(K, V, Cause)>>>;

fn logged<K: Clone + Send + Sync + 'static, V: Send + Sync + 'static>(
    capacity: usize,
) -> (Builder<K, V>, Log<K, V>)
where
    Lru: graceful::lru::Evicts<K>,
{
    let log: Log<K, V> = Arc::default();
    let copy = Arc::clone(&log);
    let builder = Builder::new(capacity)
        .on_evict(move |key, value, cause| copy.lock().unwrap().push((key, value, cause)));
    (builder, log)
}

fn keys<P: graceful::lru::Policy>(cache: &graceful::lru::Cache<u32, u32, P>) -> Vec<u32> {
    cache.keys().copied().collect()
}

#[test]
fn lru_keeps_the_newest() {
    let (builder, log) = logged(128);
    let mut cache = builder.build();
    for i in 0..256 {
        cache.add(i, i);
    }
    assert_eq!((cache.len(), cache.capacity()), (128, 128));
    let evicted = log.lock().unwrap().clone();
    assert_eq!(evicted.len(), 128);
    assert!(evicted.iter().all(|(k, v, cause)| k == v && *cause == Cause::Capacity));
    for (at, key) in keys(&cache).into_iter().enumerate() {
        assert_eq!(key as usize, at + 128);
        assert_eq!(cache.get(&key), Some(&key));
    }
    assert!(cache.values().copied().eq(128..256));
    for i in 0..128 {
        assert_eq!(cache.get(&i), None);
    }
    for i in 128..192 {
        assert!(cache.remove(&i));
        assert!(!cache.remove(&i));
        assert_eq!(cache.get(&i), None);
    }
    assert_eq!(log.lock().unwrap().len(), 128 + 64, "a removal calls back");
    cache.get(&192);
    assert!(keys(&cache).into_iter().eq((193..256).chain([192])));
    cache.purge();
    assert_eq!(cache.len(), 0);
    assert_eq!(cache.get(&200), None);
    assert_eq!(log.lock().unwrap().len(), 256, "a purge calls back");
}

#[test]
fn oldest_is_removed_first() {
    let mut cache = LruCache::new(128);
    (0..256).for_each(|i| {
        cache.insert(i, i);
    });
    assert_eq!(cache.oldest(), Some((&128, &128)));
    assert_eq!(cache.pop_oldest(), Some((128, 128)));
    assert_eq!(cache.pop_oldest(), Some((129, 129)));
    assert!(cache.remove_oldest());
    assert_eq!(cache.oldest(), Some((&131, &131)));
    cache.purge();
    assert_eq!(cache.oldest(), None);
    assert_eq!(cache.pop_oldest(), None);
    assert!(!cache.remove_oldest());
}

#[test]
fn add_says_whether_it_evicted() {
    let (builder, log) = logged(1);
    let mut cache = builder.build();
    assert!(!cache.add(1, 1));
    assert_eq!(log.lock().unwrap().len(), 0);
    assert!(cache.add(2, 2));
    assert_eq!(*log.lock().unwrap(), [(1, 1, Cause::Capacity)]);
}

#[test]
fn looking_is_no_use() {
    for look in [
        |cache: &LruCache<u32, u32>| cache.contains(&1),
        |cache: &LruCache<u32, u32>| cache.peek(&1) == Some(&1),
    ] {
        let mut cache = LruCache::new(2);
        cache.insert(1, 1);
        cache.insert(2, 2);
        assert!(look(&cache));
        cache.insert(3, 3);
        assert!(!look(&cache));
    }
}

#[test]
fn resize_says_how_many_went() {
    let (builder, log) = logged(2);
    let mut cache = builder.build();
    cache.insert(1, 1);
    cache.insert(2, 2);
    assert_eq!(cache.resize(1), 1);
    assert_eq!(*log.lock().unwrap(), [(1, 1, Cause::Resized)]);
    cache.insert(3, 3);
    assert!(!cache.contains(&2));
    assert_eq!(cache.resize(2), 0);
    cache.insert(4, 4);
    assert!(cache.contains(&3) && cache.contains(&4));
}

#[test]
fn a_second_add_evicts_nothing() {
    type Add = fn(&mut LruCache<u32, u32>, u32) -> bool;
    let forms: [(Add, [u32; 2], u32); 3] = [
        (|cache, key| cache.add(key, key), [2, 1], 2),
        (|cache, key| cache.contains_or_add(key, key) == OrAdd::Added { evicted: true }, [1, 2], 1),
        (|cache, key| cache.peek_or_add(key, key) == OrAdd::Added { evicted: true }, [1, 2], 1),
    ];
    for (add, order, leaves) in forms {
        let (builder, log) = logged(2);
        let mut cache = builder.build();
        assert!(!add(&mut cache, 1) && !add(&mut cache, 2) && !add(&mut cache, 1));
        assert_eq!(keys(&cache), order);
        assert!(log.lock().unwrap().is_empty());
        assert!(add(&mut cache, 3));
        assert_eq!(*log.lock().unwrap(), [(leaves, leaves, Cause::Capacity)]);
        assert_eq!(keys(&cache), [if leaves == 1 { 2 } else { 1 }, 3]);
    }
}

#[test]
fn contains_or_add_does_not_touch() {
    let mut cache = LruCache::new(2);
    cache.insert(1, 1);
    cache.insert(2, 2);
    assert_eq!(cache.contains_or_add(1, 9), OrAdd::Present(()));
    assert_eq!(cache.peek(&1), Some(&1));
    cache.insert(3, 3);
    assert_eq!(cache.contains_or_add(1, 1), OrAdd::Added { evicted: true });
    assert!(cache.contains(&1));
}

#[test]
fn peek_or_add_does_not_touch() {
    let mut cache = LruCache::new(2);
    cache.insert(1, 1);
    cache.insert(2, 2);
    assert_eq!(cache.peek_or_add(1, 9), OrAdd::Present(&1));
    cache.insert(3, 3);
    assert_eq!(cache.peek_or_add(1, 1), OrAdd::Added { evicted: true });
    assert!(cache.contains(&1));
}

/// A third each of adds, gets and removes.
fn random_steps(mut step: impl FnMut(u32, u64)) {
    let mut state = 1_u64;
    for _ in 0..if cfg!(miri) { 500 } else { 200_000 } {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        step((state >> 40) as u32 % 512, (state >> 33) % 3);
    }
}

#[test]
fn two_queue_stays_within_its_size() {
    let mut cache = TwoQueueCache::new(128);
    random_steps(|key, what| {
        match what {
            0 => {
                cache.insert(key, key);
            }
            1 => assert!(cache.get(&key).is_none_or(|value| *value == key)),
            _ => {
                cache.remove(&key);
            }
        }
        let [recent, frequent, ghosts, _] = cache.list_lengths();
        assert!(recent + frequent <= 128 && ghosts <= 64);
    });
    cache.validate();
}

#[test]
fn two_queue_get_promotes() {
    let mut cache = TwoQueueCache::new(128);
    (0..128).for_each(|i| {
        cache.insert(i, i);
    });
    assert_eq!(cache.list_lengths(), [128, 0, 0, 0]);
    for _ in 0..2 {
        (0..128).for_each(|i| assert_eq!(cache.get(&i), Some(&i)));
        assert_eq!(cache.list_lengths(), [0, 128, 0, 0]);
    }
}

#[test]
fn two_queue_add_promotes() {
    let mut cache = TwoQueueCache::new(128);
    for lengths in [[1, 0, 0, 0], [0, 1, 0, 0], [0, 1, 0, 0]] {
        cache.insert(1, 1);
        assert_eq!(cache.list_lengths(), lengths);
    }
}

#[test]
fn two_queue_ghost_becomes_frequent() {
    let mut cache = TwoQueueCache::new(4);
    (1..=5).for_each(|i| {
        cache.insert(i, i);
    });
    assert_eq!(cache.list_lengths(), [4, 0, 1, 0]);
    cache.insert(1, 1);
    assert_eq!(cache.list_lengths(), [3, 1, 1, 0]);
    cache.insert(6, 6);
    assert_eq!(cache.list_lengths(), [3, 1, 2, 0]);
}

#[test]
fn two_queue_shrinks_in_proportion() {
    for (promoted, recent, frequent) in [(0, 50, 0), (50, 12, 38), (100, 0, 50)] {
        let mut cache = TwoQueueCache::new(100);
        (0..100).for_each(|i| {
            cache.insert(i, i);
        });
        (0..promoted).for_each(|i| {
            cache.get(&i);
        });
        assert_eq!(cache.resize(50), 50);
        assert_eq!(cache.list_lengths()[..2], [recent, frequent]);
        assert_eq!((cache.len(), cache.capacity()), (50, 50));
        cache.validate();
    }
}

/// golang-lru's plain test, which 2Q and ARC share.
macro_rules! is_a_cache {
    ($cache:ident) => {
        let mut cache = $cache::new(128);
        (0..256).for_each(|i| {
            cache.insert(i, i);
        });
        assert_eq!(cache.len(), 128);
        assert!(keys(&cache).into_iter().eq(128..256));
        (0..128).for_each(|i| assert_eq!(cache.get(&i), None));
        (128..192).for_each(|i| assert!(cache.remove(&i)));
        (128..192).for_each(|i| assert_eq!(cache.get(&i), None));
        cache.purge();
        assert_eq!((cache.len(), cache.get(&200)), (0, None));
        for look in [
            |cache: &$cache<u32, u32>| cache.contains(&1),
            |cache: &$cache<u32, u32>| cache.peek(&1) == Some(&1),
        ] {
            let mut cache = $cache::new(2);
            cache.insert(1, 1);
            cache.insert(2, 2);
            assert!(look(&cache));
            cache.insert(3, 3);
            assert!(!look(&cache));
        }
    };
}

#[test]
fn two_queue_is_a_cache() {
    is_a_cache!(TwoQueueCache);
}

#[test]
fn adaptive_is_a_cache() {
    is_a_cache!(AdaptiveCache);
}

#[test]
fn adaptive_stays_within_its_size() {
    let mut cache = AdaptiveCache::new(128);
    random_steps(|key, what| {
        match what {
            0 => {
                cache.insert(key, key);
            }
            1 => assert!(cache.get(&key).is_none_or(|value| *value == key)),
            _ => {
                cache.remove(&key);
            }
        }
        let [recent, frequent, of_recent, of_frequent] = cache.list_lengths();
        assert!(recent + frequent <= 128 && of_recent + of_frequent <= 128);
    });
    cache.validate();
}

#[test]
fn adaptive_get_promotes() {
    let mut cache = AdaptiveCache::new(128);
    (0..128).for_each(|i| {
        cache.insert(i, i);
    });
    assert_eq!(cache.list_lengths(), [128, 0, 0, 0]);
    for _ in 0..2 {
        (0..128).for_each(|i| assert_eq!(cache.get(&i), Some(&i)));
        assert_eq!(cache.list_lengths(), [0, 128, 0, 0]);
    }
}

#[test]
fn adaptive_add_promotes() {
    let mut cache = AdaptiveCache::new(128);
    for lengths in [[1, 0, 0, 0], [0, 1, 0, 0], [0, 1, 0, 0]] {
        cache.insert(1, 1);
        assert_eq!(cache.list_lengths(), lengths);
    }
}

#[test]
fn adaptive_target_moves() {
    let mut cache = AdaptiveCache::new(4);
    (0..4).for_each(|i| {
        cache.insert(i, i);
    });
    assert_eq!(cache.list_lengths(), [4, 0, 0, 0]);
    cache.get(&0);
    cache.get(&1);
    assert_eq!(cache.list_lengths(), [2, 2, 0, 0]);
    // (added, lengths of the lists, target)
    let steps = [
        (4, [2, 2, 1, 0], 0),
        (2, [1, 3, 1, 0], 1),
        (4, [0, 4, 1, 0], 1),
        (5, [1, 3, 1, 1], 1),
        (0, [0, 4, 2, 0], 0),
    ];
    for (key, lengths, target) in steps {
        cache.insert(key, key);
        assert_eq!(cache.list_lengths(), lengths, "after {key}");
        assert_eq!(cache.policy().target(), target, "after {key}");
        cache.validate();
    }
}

type Timed<K, V> = (ExpirableCache<K, V>, Arc<ManualClock>, Log<K, V>);

fn timed<K: Clone + Hash + Eq + Send + Sync + 'static, V: Send + Sync + 'static>(
    capacity: usize,
    millis: u64,
) -> Timed<K, V> {
    let log: Log<K, V> = Arc::default();
    let copy = Arc::clone(&log);
    let clock = Arc::new(ManualClock::new());
    let cache = ExpirableCache::builder(capacity)
        .ttl(Duration::from_millis(millis))
        .clock(clock.clone())
        .on_evict(move |key, value, cause| copy.lock().unwrap().push((key, value, cause)))
        .build();
    (cache, clock, log)
}

#[test]
fn expirable_without_times_is_lru() {
    let (mut cache, clock, _) = timed(0, 0);
    cache.insert("key1", "val1");
    clock.advance(Duration::from_secs(1 << 40));
    assert_eq!((cache.len(), cache.peek("key1"), cache.peek("key2")), (1, Some(&"val1"), None));
    assert!(cache.contains("key1") && !cache.contains("key2"));
    assert!(cache.keys().eq(&["key1"]));
    assert_eq!(cache.resize(0), 0, "no bound");
    assert_eq!(cache.resize(2), 0);
    cache.insert("key2", "val2");
    assert_eq!(cache.resize(1), 1);
    assert!(cache.keys().eq(&["key2"]));
}

#[test]
fn nothing_as_a_value_is_a_hit() {
    let (mut cache, _, _) = timed(2, 0);
    cache.insert("key1", None);
    assert_eq!(cache.get("key1"), Some(&None));
    assert_eq!(cache.insert("key1", Some("val1")), Some(None));
    assert_eq!(cache.get("key1"), Some(&Some("val1")));
    assert_eq!(cache.len(), 1);
}

#[test]
fn expirable_values_are_in_order() {
    let (mut cache, _, _) = timed(3, 1000);
    ["a", "b", "c"].into_iter().for_each(|key| {
        cache.insert(key, key);
    });
    assert!(cache.values().eq(&["a", "b", "c"]));
}

#[test]
fn expirable_entries_leave_in_time() {
    let (mut cache, clock, log) = timed(10, 150);
    cache.insert("key1", "val1");
    clock.advance(Duration::from_millis(100));
    assert_eq!((cache.len(), cache.get("key1")), (1, Some(&"val1")));
    clock.advance(Duration::from_millis(200));
    assert_eq!(cache.get("key1"), None);
    assert_eq!(*log.lock().unwrap(), [("key1", "val1", Cause::Expired)]);
    assert_eq!(cache.oldest(), None);
    cache.insert("key2", "val2");
    assert_eq!(cache.evict_expired(), 0, "it is fresh");
    assert_eq!(cache.oldest(), Some((&"key2", &"val2")));
    cache.purge();
    assert_eq!(log.lock().unwrap()[1..], [("key2", "val2", Cause::Purged)]);
}

#[test]
fn expirable_keeps_to_its_size() {
    let (mut cache, _, log) = timed(10, 3_600_000);
    for i in 0..100 {
        cache.insert(i, i);
        assert_eq!(cache.get(&i), Some(&i));
        assert!(cache.len() <= 10);
    }
    assert_eq!((cache.len(), log.lock().unwrap().len()), (10, 90));
}

#[test]
fn threads_may_share_an_expirable_cache() {
    let policy = Expiring::new(Lru::default(), Duration::ZERO);
    let cache = Builder::new(0).policy(policy).shards(4).build_sync();
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let cache = &cache;
            scope.spawn(move || {
                for i in 0..100 {
                    cache.insert(i, thread);
                    assert!(cache.get(&i).is_some());
                }
            });
        }
    });
    assert_eq!(cache.len(), 100);
    cache.validate();
}

#[test]
fn expirable_remove_tells_the_listener() {
    let (mut cache, _, log) = timed(0, 0);
    cache.insert("key1", "val1");
    cache.insert("key2", "val2");
    assert!(cache.remove("key1"));
    assert_eq!(*log.lock().unwrap(), [("key1", "val1", Cause::Removed)]);
    assert_eq!(cache.get("key1"), None);
    assert_eq!(cache.get("key2"), Some(&"val2"));
}

#[test]
fn an_expired_entry_is_never_shown() {
    let (mut cache, clock, _) = timed(0, 5);
    cache.insert("key1", "val1");
    for millis in 0..10 {
        let live = millis <= 5;
        assert_eq!(cache.get("key1").is_some(), live);
        assert_eq!((cache.contains("key1"), cache.keys().count() == 1), (live, live));
        clock.advance(Duration::from_millis(1));
    }
    assert_eq!(cache.len(), 0, "and it left");
}

#[test]
fn expirable_oldest() {
    let (mut cache, _, _) = timed(2, 0);
    assert_eq!((cache.pop_oldest(), cache.oldest()), (None, None));
    assert!(!cache.remove("key1"));
    cache.insert("key1", "val1");
    assert!(cache.keys().eq(&["key1"]));
    cache.insert("key2", "val2");
    assert!(cache.keys().eq(&["key1", "key2"]));
    assert_eq!(cache.pop_oldest(), Some(("key1", "val1")));
    assert!(cache.keys().eq(&["key2"]));
}

#[test]
fn expirable_example() {
    let (mut cache, clock, _) = timed(5, 10);
    cache.insert("key1", "val1");
    assert_eq!(cache.get("key1"), Some(&"val1"));
    clock.advance(Duration::from_millis(12));
    assert_eq!(cache.get("key1"), None);
    cache.insert("key2", "val2");
    assert_eq!(cache.len(), 1);
}

#[test]
fn an_update_renews_the_time() {
    let (mut cache, clock, log) = timed(2, 10);
    cache.insert(1, 1);
    clock.advance(Duration::from_millis(8));
    assert!(!cache.add(1, 2), "in place");
    cache.get(&1);
    clock.advance(Duration::from_millis(8));
    assert_eq!(cache.get(&1), Some(&2));
    clock.advance(Duration::from_millis(8));
    assert_eq!(cache.get(&1), None, "to read does not renew");
    assert_eq!(*log.lock().unwrap(), [(1, 2, Cause::Expired)]);
}

#[test]
fn expiry_pauses_and_resumes() {
    let (mut cache, clock, _) = timed(2, 10);
    cache.insert("key1", "val1");
    clock.advance(Duration::from_millis(20));
    cache.pause_expiry();
    assert_eq!(cache.get("key1"), Some(&"val1"));
    cache.resume_expiry();
    assert_eq!(cache.get("key1"), None);
}

#[test]
fn deviations() {
    // New2Q(1) fails there: its ghost list would have no room.
    let mut one = TwoQueueCache::new(1);
    (0..3).for_each(|i| {
        one.insert(i, i);
    });
    assert_eq!((one.len(), one.list_lengths()[2]), (1, 1));

    // A recent ratio of 1 lets the length pass the capacity there.
    let policy = TwoQueue::new(1.0, 0.5).unwrap();
    let mut cache = Builder::new(4).policy(policy).build();
    for i in [0, 1, 2, 3, 4, 0, 5, 1, 2, 0] {
        cache.insert(i, i);
        cache.validate();
        assert!(cache.len() <= 4);
    }

    // So does ARC when its target is the whole capacity.
    let mut cache = AdaptiveCache::new(3);
    for i in [0, 1, 2, 0, 3, 4, 5, 0, 1, 2, 3, 4, 5, 0, 1] {
        cache.insert(i, i);
        cache.validate();
        assert!(cache.len() <= 3);
    }

    // Sizes of 0 are errors where one asks, as are ratios outside 0 to 1; negative ones cannot be written.
    assert!(LruCache::<u32, u32>::try_new(0).unwrap_err().is_capacity());
    assert!(TwoQueueCache::<u32, u32>::try_new(0).is_err());
    assert!(AdaptiveCache::<u32, u32>::try_new(0).is_err());
    assert!(sync::Cache::<u32, u32>::try_new(0).is_err());
    for ratios in [(-0.1, 0.5), (1.1, 0.5), (0.5, -0.1), (0.5, 1.1), (f64::NAN, 0.5)] {
        assert!(!TwoQueue::new(ratios.0, ratios.1).unwrap_err().is_capacity());
    }

    // Resize(0) empties, and the pair that is added then leaves at once.
    let (builder, log) = logged(2);
    let mut cache = builder.build();
    cache.insert(1, 1);
    assert_eq!(cache.resize(0), 1);
    assert!(cache.add(2, 2));
    assert_eq!(log.lock().unwrap()[1], (2, 2, Cause::Rejected));

    // A time to live of a few nanoseconds panics there.
    let mut cache = ExpirableCache::new(2, Duration::from_nanos(1));
    cache.insert(1, 1);
    assert!(cache.len() <= 1);

    // Callbacks of the expirable cache run under its lock there, so that using it from one never returns.
    type Shared = Arc<sync::Cache<u32, u32>>;
    let slot: Arc<Mutex<Option<Shared>>> = Arc::default();
    let (inside, calls) = (Arc::clone(&slot), Arc::new(AtomicUsize::new(0)));
    let counted = Arc::clone(&calls);
    let cache = Builder::new(1)
        .on_evict(move |key: u32, value: u32, _| {
            counted.fetch_add(1, Ordering::Relaxed);
            let cache = inside.lock().unwrap().clone();
            if let Some(cache) = cache
                && key < 10
            {
                cache.insert(key + 10, value);
            }
        })
        .shards(1)
        .build_sync();
    let cache = Arc::new(cache);
    *slot.lock().unwrap() = Some(Arc::clone(&cache));
    cache.insert(1, 1);
    cache.insert(2, 2);
    assert_eq!((cache.peek(&12), calls.load(Ordering::Relaxed)), (Some(2), 3));
    slot.lock().unwrap().take();
}
