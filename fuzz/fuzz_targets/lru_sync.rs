//! The form for several threads, whose hits are only noted, on one thread and checked after each operation.
#![no_main]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use arbitrary::Arbitrary;
use graceful::lru::Builder;
use libfuzzer_sys::fuzz_target;

mod support;
use support::{Kind, Spread, Value, Written, check_all_dropped};

#[derive(Arbitrary, Debug)]
struct Input {
    kind: Kind,
    spread: Spread,
    capacity: u8,
    shards: u8,
    weighted: bool,
    steps: Vec<Step>,
}

#[derive(Arbitrary, Debug)]
enum Step {
    Insert(u8),
    Get(u8),
    Make(u8),
    Remove(u8),
    Pop(u8),
    Retain(u8),
    Resize(u8),
    Purge,
}

fuzz_target!(|input: Input| {
    let left = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&left);
    let builder = Builder::new(usize::from(input.capacity) % 64);
    let mut builder = builder.policy(input.kind.policy()).hasher(input.spread);
    if input.weighted {
        builder = builder.weigher(|_: &String, value: &Value| value.number() as usize % 6);
    }
    let cache = builder
        .on_evict(move |_, _, _| {
            counted.fetch_add(1, Relaxed);
        })
        .shards(usize::from(input.shards) % 5)
        .build_sync();
    let (mut written, mut came, mut returned) = (Written::default(), 0, 0);
    for (number, step) in input.steps.iter().enumerate() {
        let number = number as u32;
        match step {
            Step::Insert(key) => {
                let key = key.to_string();
                written.0.insert(key.clone(), number);
                came += 1;
                returned += usize::from(cache.insert(key, Value::new(number)).is_some());
            }
            Step::Get(key) => {
                let key = key.to_string();
                let shown = cache.get_with(&key, Value::number);
                written.check(&key, shown);
                assert_eq!(cache.contains(&key), shown.is_some());
            }
            Step::Make(key) => {
                let key = key.to_string();
                if !cache.contains(&key) {
                    written.0.insert(key.clone(), number);
                    came += 1;
                }
                let value = cache.get_or_insert_with(key.clone(), || Value::new(number));
                written.check(&key, Some(value.number()));
            }
            Step::Remove(key) => {
                let key = key.to_string();
                assert_eq!(cache.contains(&key), cache.remove(&key));
                written.0.remove(&key);
            }
            Step::Pop(key) => {
                let key = key.to_string();
                returned += usize::from(cache.pop(&key).is_some());
                written.0.remove(&key);
            }
            Step::Retain(part) => {
                cache.retain(|_, value| value.number() % 7 >= u32::from(*part) % 7);
            }
            Step::Resize(capacity) => drop(cache.resize(usize::from(*capacity) % 64)),
            Step::Purge => cache.purge(),
        }
        cache.validate();
        assert_eq!(cache.len() + returned + left.load(Relaxed), came, "each entry leaves once");
    }
    drop(cache);
    check_all_dropped();
});
