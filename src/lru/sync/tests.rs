//! What holds whichever thread runs next; see `lock.rs`.

use std::hash::{BuildHasherDefault, DefaultHasher};
use std::sync::Arc;

use shuttle::sync::Mutex;
use shuttle::thread;

use super::*;
use crate::lru::{Adaptive, AnyPolicy, ManualClock};

/// The same in each run, so that a schedule can be replayed.
type Hasher = BuildHasherDefault<DefaultHasher>;
type Shared<P = Lru> = Cache<u32, u32, P, Hasher>;
type Log = Arc<Mutex<Vec<(u32, u32, Cause)>>>;

const SCHEDULES: usize = 3000;

fn builder<P: Policy>(capacity: usize, policy: P, shards: usize) -> Builder<u32, u32, P, Hasher> {
    Builder::new(capacity).policy(policy).hasher(Hasher::default()).shards(shards)
}

/// Runs it once per number, each in a thread of its own.
fn run<T: Send + Sync + 'static>(
    of: &Arc<T>,
    threads: u32,
    each: impl Fn(&T, u32) + Copy + Send + 'static,
) {
    let threads: Vec<_> = (0..threads)
        .map(|thread| {
            let of = Arc::clone(of);
            thread::spawn(move || each(&of, thread))
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().expect("a thread ends well"));
}

/// Of a key that one thread writes, everyone sees its values in the order in which they were written, and the
/// writer its last one, unless it was evicted.
fn values_are_seen_in_order<P: Policy + Send + Sync + 'static>(policy: P, shards: usize) {
    let cache: Arc<Shared<P>> = Arc::new(builder(3, policy, shards).build_sync());
    run(&cache, 3, |cache, thread| {
        let mut seen = [0; 3];
        for step in 1..4 {
            cache.insert(thread, step);
            for key in [thread, (thread + 1) % 3] {
                if let Some(value) = cache.get(&key) {
                    let seen = &mut seen[key as usize];
                    assert!(*seen <= value, "a value that was overwritten came back");
                    *seen = value;
                    assert!(key != thread || value == step, "a write was lost");
                }
            }
        }
        cache.insert(10 + thread, 0);
    });
    cache.validate();
}

#[test]
fn values_are_seen_in_order_of_an_exact_cache() {
    shuttle::check_random(|| values_are_seen_in_order(Lru::default(), 1), SCHEDULES);
}

#[test]
fn values_are_seen_in_order_of_two_shards() {
    shuttle::check_random(|| values_are_seen_in_order(Lru::default(), 2), SCHEDULES);
}

#[test]
fn values_are_seen_in_order_of_an_adaptive_cache() {
    let policy = || AnyPolicy::Adaptive(Adaptive::default());
    shuttle::check_random(move || values_are_seen_in_order(policy(), 2), SCHEDULES);
}

#[test]
fn each_entry_leaves_once() {
    let schedule = || {
        let log = Log::default();
        let copy = Arc::clone(&log);
        let builder = builder(2, Lru::default(), 2);
        let builder = builder.on_evict(move |key, value, cause| {
            copy.lock().unwrap().push((key, value, cause));
        });
        let both = Arc::new((builder.build_sync(), Mutex::new(Vec::new())));
        run(&both, 3, |(cache, returned), thread| {
            for step in 0..3 {
                let previous = cache.insert(step, 10 * thread + step);
                returned.lock().unwrap().extend(previous);
            }
            match thread {
                0 => drop(cache.remove(&1)),
                1 => returned.lock().unwrap().extend(cache.pop(&2)),
                _ => drop(cache.resize(1)),
            }
        });
        let (cache, returned) = &*both;
        cache.validate();
        let mut all = cache.values();
        all.extend(log.lock().unwrap().iter().map(|(_, value, _)| *value));
        all.extend(returned.lock().unwrap().iter());
        all.sort_unstable();
        assert_eq!(all, [0, 1, 2, 10, 11, 12, 20, 21, 22]);
    };
    shuttle::check_random(schedule, SCHEDULES);
}

#[test]
fn what_expired_is_told_once() {
    let schedule = || {
        let log = Log::default();
        let copy = Arc::clone(&log);
        let clock = Arc::new(ManualClock::new());
        let ttl = Duration::from_secs(1);
        let policy = Expiring::new(Lru::default(), ttl).clock(clock.clone());
        let builder = builder(8, policy, 2).on_evict(move |key, value, cause| {
            copy.lock().unwrap().push((key, value, cause));
        });
        let cache = Arc::new(builder.build_sync());
        cache.insert(1, 1);
        clock.advance(2 * ttl);
        run(&cache, 3, |cache, thread| {
            assert_eq!(cache.get(&1).filter(|value| *value == 1), None);
            if thread == 0 {
                cache.insert(1, 2);
            }
        });
        assert_eq!(cache.get(&1), Some(2));
        assert_eq!(*log.lock().unwrap(), [(1, 1, Cause::Expired)]);
        cache.validate();
    };
    shuttle::check_random(schedule, SCHEDULES);
}

#[test]
fn the_first_value_that_is_made_wins() {
    let schedule = || {
        let cache: Arc<Shared> = Arc::new(builder(8, Lru::default(), 2).build_sync());
        let both = Arc::new((cache, Mutex::new(Vec::new())));
        run(&both, 3, |(cache, made), thread| {
            let value = cache.get_or_insert_with(1, || thread);
            made.lock().unwrap().push(value);
        });
        let (cache, made) = &*both;
        let kept = cache.get(&1).expect("there is room for it");
        assert_eq!(*made.lock().unwrap(), [kept; 3]);
    };
    shuttle::check_random(schedule, SCHEDULES);
}

/// It would wait for itself if it ran under the lock.
#[test]
fn a_listener_may_use_the_cache() {
    let schedule = || {
        let slot: Arc<Mutex<Option<Arc<Shared>>>> = Arc::default();
        let copy = Arc::clone(&slot);
        let builder = builder(1, Lru::default(), 1).on_evict(move |key, _, _| {
            let cache = copy.lock().unwrap().clone();
            if let Some(cache) = cache {
                assert_eq!(cache.capacity(), 1);
                assert_eq!(cache.get(&key).filter(|value| *value != 0), None);
            }
        });
        let cache = Arc::new(builder.build_sync());
        *slot.lock().unwrap() = Some(Arc::clone(&cache));
        run(&cache, 2, |cache, thread| {
            for step in 0..3 {
                cache.insert(10 * thread + step, 0);
            }
        });
        *slot.lock().unwrap() = None;
        assert_eq!(cache.len(), 1);
        cache.validate();
    };
    shuttle::check_random(schedule, SCHEDULES);
}
