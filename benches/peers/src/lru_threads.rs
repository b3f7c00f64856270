//! Operations per second of several threads on one cache.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::lru_work::{Keys, Numbers, Random, Zipf};

trait Shared: Sync {
    fn get(&self, key: u64) -> Option<u64>;
    fn insert(&self, key: u64, value: u64);
}

impl Shared for graceful::lru::sync::Cache<u64, u64> {
    fn get(&self, key: u64) -> Option<u64> {
        self.get(&key)
    }
    fn insert(&self, key: u64, value: u64) {
        self.insert(key, value);
    }
}

impl Shared for quick_cache::sync::Cache<u64, u64> {
    fn get(&self, key: u64) -> Option<u64> {
        self.get(&key)
    }
    fn insert(&self, key: u64, value: u64) {
        self.insert(key, value);
    }
}

impl Shared for moka::sync::Cache<u64, u64> {
    fn get(&self, key: u64) -> Option<u64> {
        self.get(&key)
    }
    fn insert(&self, key: u64, value: u64) {
        self.insert(key, value);
    }
}

impl Shared for std::sync::Mutex<lru::LruCache<u64, u64>> {
    fn get(&self, key: u64) -> Option<u64> {
        self.lock().unwrap().get(&key).copied()
    }
    fn insert(&self, key: u64, value: u64) {
        self.lock().unwrap().put(key, value);
    }
}

const WINDOW: Duration = Duration::from_millis(80);

fn pin(to: usize) {
    // SAFETY: a set of zeros is an empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: `set` is a set.
    unsafe { libc::CPU_SET(to, &mut set) };
    // SAFETY: as above; this thread is pinned, or nothing changes.
    unsafe { libc::sched_setaffinity(0, size_of_val(&set), &raw const set) };
}

/// Millions of operations per second of all threads.
fn window(cache: &dyn Shared, threads: usize, work: &[Numbers]) -> f64 {
    let (barrier, over) = (Barrier::new(threads + 1), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads)
            .map(|thread| {
                let (keys, barrier, over) = (&work[thread], &barrier, &over);
                scope.spawn(move || {
                    pin(thread);
                    barrier.wait();
                    let (mut done, mut at) = (0_u64, 0);
                    while !over.load(Relaxed) {
                        for _ in 0..256 {
                            let key = keys.own(at);
                            if cache.get(key).is_none() {
                                cache.insert(key, key);
                            }
                            at = if at + 1 == keys.len() { 0 } else { at + 1 };
                        }
                        done += 256;
                    }
                    done
                })
            })
            .collect();
        barrier.wait();
        let begin = Instant::now();
        std::thread::sleep(WINDOW);
        over.store(true, Relaxed);
        let done: u64 = running.into_iter().map(|thread| thread.join().unwrap()).sum();
        done as f64 / begin.elapsed().as_secs_f64() / 1e6
    })
}

fn median(mut of: Vec<f64>) -> f64 {
    of.sort_by(f64::total_cmp);
    of[of.len() / 2]
}

pub fn threads() {
    let most = std::thread::available_parallelism().map_or(2, usize::from);
    println!(
        "\nmillions of operations per second, 1 thread and {most} (ratio of graceful to it at {most})"
    );
    let names = ["graceful", "graceful exact", "quick_cache", "moka", "Mutex<lru>"];
    println!("{:>16} | {}", "", names.join(" | "));
    for (capacity, size) in [(1000, "1k"), (100_000, "100k")] {
        for (name, exponent) in
            [("zipf 0.99", Some(0.99)), ("90 % hits", Some(-1.0)), ("hits", None)]
        {
            let work: Vec<_> = (0..most as u64)
                .map(|thread| {
                    let mut random = Random(thread << 32);
                    let zipf = Zipf::new(10 * capacity, 0.99);
                    Numbers::from_ranks((0..400_000).map(|_| match exponent {
                        Some(exponent) if exponent > 0.0 => zipf.next(&mut random),
                        // One of ten is one that was never asked for.
                        Some(_) if random.below(10) == 0 => capacity + random.below(1 << 40),
                        _ => random.below(capacity * 8 / 10),
                    }))
                })
                .collect();
            let caches: [Box<dyn Shared>; 5] = [
                Box::new(graceful::lru::sync::Cache::new(capacity)),
                Box::new(graceful::lru::sync::Cache::exact(capacity)),
                Box::new(quick_cache::sync::Cache::new(capacity)),
                Box::new(moka::sync::Cache::new(capacity as u64)),
                Box::new(std::sync::Mutex::new(lru::LruCache::new(capacity.try_into().unwrap()))),
            ];
            let mut one = vec![Vec::new(); caches.len()];
            let mut all = vec![Vec::new(); caches.len()];
            for cache in &caches {
                window(cache.as_ref(), most, &work);
            }
            for _ in 0..7 {
                for (at, cache) in caches.iter().enumerate() {
                    one[at].push(window(cache.as_ref(), 1, &work));
                    all[at].push(window(cache.as_ref(), most, &work));
                }
            }
            let cells: Vec<_> = (0..caches.len())
                .map(|at| {
                    let ratio = median(all[0].iter().zip(&all[at]).map(|(a, b)| a / b).collect());
                    format!(
                        "{:.1} -> {:.1} ({ratio:.2})",
                        median(one[at].clone()),
                        median(all[at].clone())
                    )
                })
                .collect();
            println!("{:>16} | {}", format!("{size} {name}"), cells.join(" | "));
        }
    }
}
