//! Every operation of the lists, with any hasher, checked after each.
#![no_main]

use std::time::Duration;

use arbitrary::Arbitrary;
use graceful::lru::{Builder, Cache, Entry, Expiring, ManualClock, Policy};
use libfuzzer_sys::fuzz_target;

mod support;
use support::{Kind, Spread, Value, Written, check_all_dropped};

#[derive(Arbitrary, Debug)]
struct Input {
    kind: Kind,
    spread: Spread,
    capacity: u8,
    weighted: bool,
    expires: bool,
    steps: Vec<Step>,
}

#[derive(Arbitrary, Debug)]
enum Step {
    Insert(u8),
    Push(u8),
    Add(u8),
    Get(u8),
    Peek(u8),
    Entry(u8),
    OrAdd(u8),
    Remove(u8),
    Pop(u8),
    Retain(u8),
    Resize(u8),
    Reserve(u8),
    Purge,
    Drain(u8),
    Iterate,
    Copy,
    Wait(u16),
}

fn run<P: Policy>(mut cache: Cache<String, Value, P, Spread>, steps: &[Step], clock: &ManualClock)
where
    P: graceful::lru::Evicts<String>,
{
    let mut written = Written::default();
    for (number, step) in steps.iter().enumerate() {
        let number = number as u32;
        let write = |written: &mut Written, key: &String| {
            written.0.insert(key.clone(), number);
            Value::new(number)
        };
        match step {
            Step::Insert(key) => {
                let key = key.to_string();
                let shown = cache.peek(&key).map(Value::number);
                written.check(&key, shown);
                let value = write(&mut written, &key);
                assert_eq!(cache.insert(key, value).map(|old| old.number()), shown);
            }
            Step::Push(key) => {
                let key = key.to_string();
                let value = write(&mut written, &key);
                drop(cache.push(key, value));
            }
            Step::Add(key) => {
                let key = key.to_string();
                let value = write(&mut written, &key);
                cache.add(key, value);
            }
            Step::Get(key) => {
                let key = key.to_string();
                written.check(&key, cache.get(&key).map(Value::number));
            }
            Step::Peek(key) => {
                let key = key.to_string();
                let shown = cache.peek(&key).map(Value::number);
                written.check(&key, shown);
                assert_eq!(cache.contains(&key), shown.is_some());
            }
            Step::Entry(key) => {
                let key = key.to_string();
                match cache.entry(key.clone()) {
                    Entry::Occupied(entry) => written.check(&key, Some(entry.get().number())),
                    Entry::Vacant(entry) => {
                        let value = write(&mut written, &key);
                        if let Some(value) = entry.insert(value) {
                            assert_eq!(value.number(), number);
                        }
                    }
                }
            }
            Step::OrAdd(key) => {
                let key = key.to_string();
                if cache.contains(&key) {
                    cache.contains_or_add(key, Value::new(number));
                } else {
                    let value = write(&mut written, &key);
                    cache.contains_or_add(key, value);
                }
            }
            Step::Remove(key) => {
                let key = key.to_string();
                assert_eq!(cache.contains(&key), cache.remove(&key));
                written.0.remove(&key);
            }
            Step::Pop(key) => {
                let key = key.to_string();
                written.check(&key, cache.pop(&key).map(|value| value.number()));
                written.0.remove(&key);
            }
            Step::Retain(part) => {
                cache.retain(|_, value| value.number() % 7 >= u32::from(*part) % 7);
            }
            Step::Resize(capacity) => drop(cache.resize(usize::from(*capacity) % 40)),
            Step::Reserve(entries) => cache.reserve(usize::from(*entries)),
            Step::Purge => cache.purge(),
            Step::Drain(most) => cache.drain().take(usize::from(*most)).for_each(drop),
            Step::Iterate => {
                let mut forth: Vec<_> =
                    cache.iter().map(|(key, value)| (key, value.number())).collect();
                let back: Vec<_> =
                    cache.iter().rev().map(|(key, value)| (key, value.number())).collect();
                for (key, value) in &forth {
                    written.check(key, Some(*value));
                }
                forth.reverse();
                assert_eq!(forth, back);
            }
            Step::Copy => cache = cache.clone(),
            Step::Wait(time) => clock.advance(Duration::from_millis(u64::from(*time))),
        }
        cache.validate();
    }
}

fuzz_target!(|input: Input| {
    let clock = std::sync::Arc::new(ManualClock::new());
    let builder = Builder::new(usize::from(input.capacity) % 40);
    let mut builder = builder.policy(input.kind.policy()).hasher(input.spread);
    if input.weighted {
        builder = builder.weigher(|_, value: &Value| value.number() as usize % 6);
    }
    if input.expires {
        let policy = Expiring::new(input.kind.policy(), Duration::from_millis(300));
        let policy = policy.clock(clock.clone());
        run(builder.policy(policy).build(), &input.steps, &clock);
    } else {
        run(builder.build(), &input.steps, &clock);
    }
    check_all_dropped();
});
