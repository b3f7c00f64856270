//! What golang-lru answered to random operations, operation by operation; `benches/peers/golang_lru` recorded it.
// Under Miri the models are enough.
#![cfg(all(feature = "lru", not(miri)))]
#![allow(clippy::unwrap_used)]

use std::fmt::Display;
use std::sync::{Arc, Mutex};

use graceful::lru::{AdaptiveCache, Cache, Cause, LruCache, OrAdd, Policy, TwoQueueCache};

const TRACE: &str = include_str!("golang_lru.trace");

/// An answer as it is recorded: the values, or "-" for each that is not there.
fn found<T: Display>(answer: Option<T>) -> String {
    answer.map_or("-".to_owned(), |answer| answer.to_string())
}

/// What both kinds of caches answer.
fn shared<P: Policy>(cache: &mut Cache<u32, u32, P>, words: &[&str]) -> String {
    let key = || words[1].parse().unwrap();
    match words[0] {
        "get" => found(cache.get(&key())),
        "peek" => found(cache.peek(&key())),
        "contains" => cache.contains(&key()).to_string(),
        "keys" => cache.keys().map(u32::to_string).collect::<Vec<_>>().join(" "),
        "purge" => {
            cache.purge();
            cache.len().to_string()
        }
        // Those of golang-lru say nothing of an addition, and nothing of a removal.
        "put" => {
            cache.insert(key(), words[2].parse().unwrap());
            String::new()
        }
        "take" => cache.remove(&key()).to_string(),
        other => panic!("{other} is not known"),
    }
}

type Left = Arc<Mutex<Vec<(u32, u32, Cause)>>>;

/// What an LRU cache answers, followed by what it told its listener.
fn lru(cache: &mut LruCache<u32, u32>, left: &Left, words: &[&str]) -> String {
    let number = |at: usize| words[at].parse().unwrap();
    let mut answer = match words[0] {
        "add" => cache.add(number(1), number(2)).to_string(),
        "remove" => cache.remove(&number(1)).to_string(),
        "oldest" => {
            let (key, value) = cache.oldest().unzip();
            format!("{} {}", found(key), found(value))
        }
        "remove_oldest" => {
            let (key, value) = cache.oldest().unzip();
            let answer = format!("{} {}", found(key), found(value));
            assert_eq!(cache.remove_oldest(), answer != "- -");
            answer
        }
        "resize" => cache.resize(number(1) as usize).to_string(),
        "contains_or_add" => match cache.contains_or_add(number(1), number(2)) {
            OrAdd::Present(()) => "true false".to_owned(),
            OrAdd::Added { evicted } => format!("false {evicted}"),
        },
        "peek_or_add" => match cache.peek_or_add(number(1), number(2)) {
            OrAdd::Present(value) => format!("{value} false"),
            OrAdd::Added { evicted } => format!("- {evicted}"),
        },
        _ => shared(cache, words),
    };
    let left = std::mem::take(&mut *left.lock().unwrap());
    for (key, value, _) in left.iter().filter(|(_, _, cause)| *cause != Cause::Purged) {
        answer += &format!(" {key} {value}");
    }
    answer
}

/// How many words of an operation are its own; its answer follows.
fn asked(operation: &str) -> usize {
    match operation {
        "keys" | "purge" | "oldest" | "remove_oldest" => 1,
        "add" | "put" | "contains_or_add" | "peek_or_add" => 3,
        _ => 2,
    }
}

/// Runs the operations of every cache of this name that was recorded, and says how many.
fn replay<R: FnMut(&[&str]) -> String>(name: &str, make: impl Fn(usize) -> R) -> usize {
    let mut cache = None;
    let mut replayed = 0;
    for (number, line) in TRACE.lines().enumerate() {
        let words: Vec<_> = line.split_whitespace().collect();
        if words[0] == "cache" {
            cache = (words[1] == name).then(|| make(words[2].parse().unwrap()));
        } else if let Some(cache) = &mut cache {
            let (question, answer) = words.split_at(asked(words[0]));
            assert_eq!(cache(question), answer.join(" "), "line {}: {line}", number + 1);
            replayed += 1;
        }
    }
    replayed
}

#[test]
fn lru_answers_as_golang_lru() {
    let replayed = replay("lru", |size| {
        let left = Left::default();
        let copy = Arc::clone(&left);
        let listener = move |key, value, cause| copy.lock().unwrap().push((key, value, cause));
        let mut cache = LruCache::builder(size).on_evict(listener).build();
        move |words: &[&str]| {
            let answer = lru(&mut cache, &left, words);
            cache.validate();
            answer
        }
    });
    assert_eq!(replayed, 6 * 400);
}

#[test]
fn two_queue_answers_as_golang_lru() {
    let replayed = replay("2q", |size| {
        let mut cache = TwoQueueCache::new(size);
        move |words: &[&str]| shared(&mut cache, words)
    });
    assert_eq!(replayed, 5 * 400);
}

#[test]
fn adaptive_answers_as_golang_lru() {
    let replayed = replay("arc", |size| {
        let mut cache = AdaptiveCache::new(size);
        move |words: &[&str]| shared(&mut cache, words)
    });
    // Those that came to hold more than their size were recorded until then.
    assert!(replayed > 1000, "{replayed}");
}
