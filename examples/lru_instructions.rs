//! Does one operation of the LRU cache many times, for a tool that counts instructions.
//!
//! `lru_instructions hit 100000`, or `miss`, or `insert`.

use std::hint::black_box;

use graceful::lru::LruCache;

const CAPACITY: u64 = 1000;

fn main() {
    let mut parts = std::env::args().skip(1);
    let cell = parts.next().unwrap_or_default();
    let count: u64 = parts
        .next()
        .and_then(|count| count.parse().ok())
        .unwrap_or(100_000);
    let mut cache = LruCache::new(CAPACITY as usize);
    for key in 0..CAPACITY {
        cache.insert(key, key);
    }
    let mut sum = 0;
    for number in 0..count {
        let spread = number.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
        match cell.as_str() {
            "hit" => sum ^= cache.get(&(spread % CAPACITY)).copied().unwrap_or(1),
            "miss" => sum ^= cache.get(&(CAPACITY + spread)).copied().unwrap_or(1),
            _ => drop(black_box(cache.insert(CAPACITY + number, number))),
        }
    }
    black_box(sum);
}
