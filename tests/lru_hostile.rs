//! Keys, values and callbacks that panic, lie, or come back in; bad sizes; threads.
#![cfg(feature = "lru")]
#![allow(clippy::unwrap_used)]

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::hash::{BuildHasher, Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::time::Duration;

use graceful::lru::{
    Adaptive, AdaptiveCache, AnyPolicy, Builder, Cache, Cause, ExpirableCache, Expiring, Lru,
    LruCache, Policy, TwoQueue, TwoQueueCache, sync,
};

thread_local! {
    /// Calls of user code until one panics; 0 for never.
    static FUSE: Cell<usize> = const { Cell::new(0) };
    static NEXT: Cell<usize> = const { Cell::new(0) };
    /// What was made and not dropped.
    static ALIVE: RefCell<BTreeSet<usize>> = const { RefCell::new(BTreeSet::new()) };
}

fn burn() {
    let left = FUSE.get();
    if left > 0 && !std::thread::panicking() {
        FUSE.set(left - 1);
        assert_ne!(left, 1, "the fuse has burnt");
    }
}

/// Written down when it is made and when it is dropped, and panics when the fuse has burnt.
#[derive(Debug)]
struct Bomb {
    number: u32,
    serial: usize,
}

impl Bomb {
    fn new(number: u32) -> Self {
        let serial = NEXT.replace(NEXT.get() + 1);
        ALIVE.with_borrow_mut(|alive| assert!(alive.insert(serial)));
        Self { number, serial }
    }
}

impl Drop for Bomb {
    fn drop(&mut self) {
        let was = ALIVE.with_borrow_mut(|alive| alive.remove(&self.serial));
        assert!(was || std::thread::panicking(), "dropped twice");
        burn();
    }
}

impl Clone for Bomb {
    fn clone(&self) -> Self {
        burn();
        Self::new(self.number)
    }
}

impl PartialEq for Bomb {
    fn eq(&self, other: &Self) -> bool {
        burn();
        self.number == other.number
    }
}

impl Eq for Bomb {}

impl Hash for Bomb {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        burn();
        self.number.hash(hasher);
    }
}

/// Runs a script with the fuse at each length, until it is longer than the script.
fn at_each_call<P: Policy + graceful::lru::Evicts<Bomb>>(policy: impl Fn() -> P) {
    let mut burnt = 0;
    for length in (1..).step_by(if cfg!(miri) { 37 } else { 1 }) {
        FUSE.set(length);
        let builder = Builder::new(5)
            .policy(policy())
            .on_evict(|_: Bomb, _: Bomb, _| burn())
            .weigher(|_, value: &Bomb| {
                burn();
                value.number as usize % 3
            });
        let mut cache = builder.build();
        let mut attempt = |step: &mut dyn FnMut(&mut Cache<Bomb, Bomb, P>)| {
            if catch_unwind(AssertUnwindSafe(|| step(&mut cache))).is_err() {
                burnt += 1;
            }
            let left = FUSE.replace(0);
            cache.validate();
            FUSE.set(left);
        };
        for number in 0..24 {
            let key = number * 7 % 11;
            attempt(&mut |cache| {
                cache.insert(Bomb::new(key), Bomb::new(number));
            });
            attempt(&mut |cache| {
                cache.get(&Bomb::new(key / 2));
            });
            if number % 6 == 5 {
                attempt(&mut |cache| {
                    cache.push(Bomb::new(key + 1), Bomb::new(number));
                });
                attempt(&mut |cache| {
                    cache.remove(&Bomb::new(key));
                });
                attempt(&mut |cache| {
                    cache.entry(Bomb::new(key)).or_insert_with(|| {
                        burn();
                        Bomb::new(1)
                    });
                });
                attempt(&mut |cache| drop(cache.clone()));
                attempt(&mut |cache| {
                    cache.retain(|key, _| {
                        burn();
                        !key.number.is_multiple_of(4)
                    });
                });
                attempt(&mut |cache| {
                    cache.resize(3 + number as usize % 4);
                });
            }
            if number == 11 {
                attempt(&mut |cache| cache.purge());
            }
            if number == 17 {
                attempt(&mut |cache| cache.drain().take(2).for_each(drop));
                attempt(&mut |cache| cache.reserve(40));
            }
        }
        let over = catch_unwind(AssertUnwindSafe(|| drop(cache))).is_ok() && FUSE.get() > 0;
        FUSE.set(0);
        let alive = ALIVE.with_borrow(BTreeSet::len);
        assert_eq!(alive, 0, "something was not dropped, with a fuse of {length}");
        if over {
            assert!(burnt > if cfg!(miri) { 3 } else { 200 });
            return;
        }
    }
}

fn quietly(run: impl FnOnce()) {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let result = catch_unwind(AssertUnwindSafe(run));
    std::panic::set_hook(hook);
    if let Err(panic) = result {
        std::panic::resume_unwind(panic);
    }
}

/// One test, as the panic hook is that of the whole process.
#[test]
fn a_panic_anywhere_leaves_a_whole_cache_and_drops_all_once() {
    quietly(|| {
        at_each_call(Lru::default);
        at_each_call(TwoQueue::default);
        at_each_call(Adaptive::default);
        at_each_call(|| Expiring::new(AnyPolicy::default(), Duration::from_secs(3600)));
        locks_are_not_poisoned();
    });
}

fn locks_are_not_poisoned() {
    let cache = sync::Cache::exact(2);
    cache.insert(1, 1);
    let panicked =
        catch_unwind(AssertUnwindSafe(|| cache.get_with(&1, |_| panic!("in the closure"))));
    assert!(panicked.is_err());
    assert_eq!(cache.get(&1), Some(1));
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        cache.retain(|_, _| panic!("in the closure"));
    }));
    assert!(panicked.is_err());
    assert_eq!(cache.len(), 1);
    cache.validate();
}

#[test]
fn leaked_iterators_lose_nothing() {
    let mut cache = LruCache::new(4);
    (0..4).for_each(|number| {
        cache.insert(Bomb::new(number), Bomb::new(number));
    });
    let mut drain = cache.drain();
    drop(drain.next());
    std::mem::forget(drain);
    cache.validate();
    assert_eq!(cache.len(), 3);
    let mut rest = cache.into_iter();
    assert_eq!(rest.next_back().map(|pair| pair.0.number), Some(3));
    drop(rest);
    assert_eq!(ALIVE.with_borrow(BTreeSet::len), 0);
}

/// Equal to nothing or to everything, with hashes that change.
#[derive(Clone, Debug)]
struct Liar(Arc<AtomicUsize>);

impl PartialEq for Liar {
    fn eq(&self, _: &Self) -> bool {
        self.0.fetch_add(1, Ordering::Relaxed).is_multiple_of(3)
    }
}

impl Eq for Liar {}

impl Hash for Liar {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        (self.0.fetch_add(1, Ordering::Relaxed) % 5).hash(hasher);
    }
}

#[test]
fn keys_that_lie_corrupt_nothing() {
    fn lie<P: Policy + Default>() {
        let state = Arc::new(AtomicUsize::new(0));
        let mut cache = Cache::<Liar, String, P>::builder(20).build();
        for number in 0..if cfg!(miri) { 100 } else { 2000 } {
            cache.insert(Liar(Arc::clone(&state)), number.to_string());
            cache.get(&Liar(Arc::clone(&state)));
            if number % 7 == 0 {
                cache.remove(&Liar(Arc::clone(&state)));
            }
            if number % 100 == 50 {
                cache.resize(10 + number % 21);
            }
            cache.validate_links();
        }
        drop(cache.clone());
        assert!(cache.values().all(|value| !value.is_empty()));
        cache.drain().for_each(drop);
        cache.validate_links();
        drop(cache);
        assert_eq!(Arc::strong_count(&state), 1);
    }
    lie::<Lru>();
    lie::<TwoQueue>();
    lie::<Adaptive>();
}

#[derive(Clone, Default)]
struct Same;

impl Hasher for Same {
    fn finish(&self) -> u64 {
        42
    }
    fn write(&mut self, _: &[u8]) {}
}

impl BuildHasher for Same {
    type Hasher = Self;
    fn build_hasher(&self) -> Self {
        Self
    }
}

#[test]
fn one_hash_for_all_keys_is_slow_and_right() {
    let mut cache = LruCache::<u32, u32>::builder(100).hasher(Same).build();
    for number in 0..if cfg!(miri) { 150 } else { 1000 } {
        cache.insert(number, number);
        cache.validate();
        assert_eq!(cache.get(&number), Some(&number));
        assert!(!cache.contains(&number.wrapping_sub(100)));
    }
    assert_eq!(cache.len(), 100);
}

#[test]
fn capacities_of_nothing_and_of_everything() {
    let mut none = LruCache::new(0);
    assert_eq!((none.insert(1, 1), none.add(1, 1), none.push(1, 1)), (None, true, Some((1, 1))));
    assert_eq!(none.get_or_insert_with(1, || 1), None);
    assert_eq!(none.len(), 0);
    none.validate();

    fn unbounded<P: Policy + Default>() {
        let mut all = Cache::<u32, u32, P>::builder(usize::MAX).build();
        (0..1000).for_each(|number| {
            all.insert(number, number);
        });
        assert_eq!((all.len(), all.capacity()), (1000, usize::MAX));
        all.validate();
        assert_eq!(all.resize(10), 990);
        all.validate();
        assert_eq!(all.resize(usize::MAX), 0);
        all.insert(5000, 5000);
        assert_eq!(all.len(), 11);
        all.validate();
    }
    unbounded::<Lru>();
    unbounded::<TwoQueue>();
    unbounded::<Adaptive>();
    unbounded::<Expiring<Lru>>();
}

#[test]
fn weights_of_nothing_and_of_too_much() {
    let log = Arc::new(Mutex::new(Vec::new()));
    let copy = Arc::clone(&log);
    let mut cache = LruCache::builder(10)
        .weigher(|_: &u32, weight: &usize| *weight)
        .on_evict(move |key, _, cause| copy.lock().unwrap().push((key, cause)))
        .build();
    (0..5).for_each(|key| {
        cache.insert(key, 0);
    });
    assert_eq!((cache.len(), cache.weight()), (5, 0));
    cache.insert(9, 10);
    assert_eq!((cache.len(), cache.weight()), (6, 10));
    // Too heavy: neither it nor what it was to replace stays.
    assert_eq!(cache.insert(9, 11), Some(10));
    assert_eq!(cache.insert(8, usize::MAX), None);
    assert_eq!(*log.lock().unwrap(), [(9, Cause::Rejected), (8, Cause::Rejected)]);
    // To grow in place makes others go, and never itself.
    cache.purge();
    log.lock().unwrap().clear();
    cache.insert(1, 4);
    cache.insert(2, 4);
    assert_eq!(cache.insert(1, 9), Some(4));
    assert_eq!(*log.lock().unwrap(), [(2, Cause::Capacity)]);
    assert_eq!((cache.peek(&1), cache.weight()), (Some(&9), 9));
    cache.validate();

    // Sums beyond what a number can hold.
    let mut huge =
        LruCache::builder(usize::MAX).weigher(|_: &u32, _: &u32| usize::MAX / 2 + 1).build();
    (0..3).for_each(|key| {
        huge.insert(key, key);
        huge.validate();
    });
    assert_eq!(huge.len(), 1);

    // Ghosts of entries that weigh nothing come to an end.
    let mut ghosts =
        AdaptiveCache::builder(10).weigher(|key: &u32, _: &u32| (*key % 2) as usize * 10).build();
    (0..1000).for_each(|key| {
        ghosts.insert(key, key);
    });
    ghosts.purge();
    for key in 0..1000 {
        ghosts.insert(2 * key, 0);
        ghosts.insert(2 * key + 1, 0);
        assert!(ghosts.list_lengths()[2] <= 20);
    }
    ghosts.validate();
}

#[test]
fn expired_entries_leave_with_the_writes() {
    let clock = Arc::new(graceful::lru::ManualClock::new());
    let mut cache =
        ExpirableCache::builder(0).ttl(Duration::from_secs(1)).clock(clock.clone()).build();
    (0..1000).for_each(|key| {
        cache.insert(key, key);
    });
    assert_eq!(cache.len(), 1000);
    clock.advance(Duration::from_secs(3));
    assert_eq!(cache.iter().count(), 0);
    for step in 1..=100 {
        cache.insert(1_000_000 + step, 0);
        assert!(cache.len() <= 1000 + step - 8 * step.min(125), "eight for each write");
    }
    cache.evict_expired();
    assert_eq!(cache.len(), 100);
}

/// A get moves at most one thing, so what a thread reads was written for that key.
#[test]
fn threads_see_what_was_written() {
    let listened = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&listened);
    let cache = Builder::new(64)
        .policy(AnyPolicy::from(Adaptive::default()))
        .on_evict(move |key: u64, value: Arc<u64>, _| {
            assert_eq!(key, *value % 1000);
            counted.fetch_add(1, Ordering::Relaxed);
        })
        .shards(4)
        .build_sync();
    let steps = if cfg!(miri) { 60 } else { 20_000 };
    let (written, returned) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let barrier = Barrier::new(4);
    std::thread::scope(|scope| {
        for thread in 0..4_u64 {
            let (cache, barrier, written, returned) = (&cache, &barrier, &written, &returned);
            scope.spawn(move || {
                barrier.wait();
                for step in 0..steps {
                    let number = thread.wrapping_add(step).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 7;
                    let key = number % 200;
                    if let Some(value) = cache.get(&key) {
                        assert_eq!(*value % 1000, key);
                    } else {
                        let previous = cache.insert(key, Arc::new(key + 1000 * step));
                        written.fetch_add(1, Ordering::Relaxed);
                        returned.fetch_add(usize::from(previous.is_some()), Ordering::Relaxed);
                    }
                    if step % 500 == 499 {
                        cache.remove(&key);
                        cache.resize(40 + step as usize % 50);
                        cache.retain(|key, _| key % 3 != 0);
                    }
                }
            });
        }
    });
    cache.validate();
    let held = cache.len();
    let accounted = held + returned.load(Ordering::Relaxed) + listened.load(Ordering::Relaxed);
    assert_eq!(accounted, written.load(Ordering::Relaxed), "each left once");
}

#[test]
fn an_exact_cache_keeps_the_exact_order() {
    let shared = sync::Cache::exact(8);
    let mut single = LruCache::new(8);
    for step in 0..1000_u32 {
        let key = step.wrapping_mul(2_654_435_761) >> 28;
        assert_eq!(shared.get(&key), single.get(&key).copied());
        assert_eq!(shared.insert(key, step), single.insert(key, step));
        assert_eq!(shared.keys(), single.keys().copied().collect::<Vec<_>>());
    }
    assert_eq!(shared.pop_oldest(), single.pop_oldest());
}

/// Each of two readers waits for the other one while it reads, which only shared access allows.
#[test]
fn hits_do_not_wait_for_each_other() {
    let cache = Builder::new(8).shards(2).build_sync();
    cache.insert(1, 10);
    let both = Barrier::new(2);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let read = cache.get_with(&1, |value| {
                    both.wait();
                    *value
                });
                assert_eq!(read, Some(10));
            });
        }
    });
}

#[test]
fn what_was_asked_for_outlives_a_scan_of_its_shard() {
    let cache = Builder::new(64).shards(2).build_sync();
    cache.insert(0, "asked for");
    for key in 1..if cfg!(miri) { 200 } else { 10_000 } {
        assert_eq!(cache.get(&0), Some("asked for"));
        cache.insert(key, "scanned");
    }
    assert_eq!(cache.len(), 64);
    cache.validate();
}

#[test]
fn a_value_is_made_without_a_lock_and_the_first_wins() {
    let cache = sync::Cache::exact(4);
    let value = cache.get_or_insert_with(1, || {
        cache.insert(1, "first");
        "second"
    });
    assert_eq!(value, "first");
    assert_eq!(cache.try_get_or_insert_with(2, || Err(())), Err(()));
    assert_eq!(cache.try_get_or_insert_with(2, || Ok::<_, ()>("made")), Ok("made"));
    assert_eq!(cache.len(), 2);
}

/// Dropping a value that uses the cache is what a deadlock would need.
#[test]
fn values_are_dropped_after_the_lock() {
    struct Reenter(Arc<sync::Cache<u32, Option<Reenter>>>);
    impl Drop for Reenter {
        fn drop(&mut self) {
            assert!(self.0.len() <= 1);
        }
    }
    let cache = Arc::new(sync::Cache::exact(1));
    for key in 0..4 {
        cache.insert(key, Some(Reenter(Arc::clone(&cache))));
        cache.insert(key, Some(Reenter(Arc::clone(&cache))));
    }
    cache.remove(&3);
    cache.insert(5, Some(Reenter(Arc::clone(&cache))));
    cache.retain(|_, _| false);
    cache.insert(6, Some(Reenter(Arc::clone(&cache))));
    cache.resize(0);
    cache.resize(1);
    cache.insert(7, Some(Reenter(Arc::clone(&cache))));
    cache.purge();
    assert_eq!(Arc::strong_count(&cache), 1);
}

#[test]
fn types_are_send_and_sync_as_their_contents_are() {
    fn both<T: Send + Sync>() {}
    fn send<T: Send>() {}
    both::<LruCache<String, String>>();
    both::<TwoQueueCache<String, String>>();
    both::<AdaptiveCache<String, String>>();
    both::<ExpirableCache<String, String>>();
    both::<sync::Cache<String, String, Expiring<AnyPolicy>>>();
    send::<LruCache<Cell<u32>, Cell<u32>>>();
    send::<sync::Cache<u32, Cell<u32>>>();
    fn shared<T: Sync>() {}
    shared::<sync::Cache<u32, u32>>();
    both::<graceful::lru::Iter<'_, u32, u32>>();
    both::<graceful::lru::IterMut<'_, u32, u32>>();
    // Shared iterators live as short as one wants.
    fn shorter<'a>(
        iter: graceful::lru::Iter<'static, u32, &'static str>,
        _: &'a str,
    ) -> graceful::lru::Iter<'a, u32, &'a str> {
        iter
    }
    let _ = shorter;
}
