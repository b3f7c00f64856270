//! A cache that is written and read is the same cache.
#![cfg(all(feature = "lru", feature = "serde"))]
#![allow(clippy::unwrap_used)]

use graceful::lru::{AdaptiveCache, LruCache, TwoQueueCache};

#[test]
fn a_cache_comes_back_in_its_order() {
    let mut cache = LruCache::new(3);
    for key in ["a", "b", "c", "d"] {
        cache.insert(key.to_owned(), key.len());
    }
    cache.get("b");
    let text = serde_json::to_string(&cache).unwrap();
    assert_eq!(
        text,
        r#"{"capacity":3,"entries":[["c",1],["d",1],["b",1]]}"#
    );
    let mut back: LruCache<String, usize> = serde_json::from_str(&text).unwrap();
    back.validate();
    assert!(back.iter().eq(cache.iter()));
    assert_eq!(back.push("e".to_owned(), 1), Some(("c".to_owned(), 1)));
}

#[test]
fn every_policy_without_a_clock_has_this_form() {
    let text = r#"{"entries":[[1,2],[3,4],[5,6]],"capacity":2}"#;
    let two: TwoQueueCache<u32, u32> = serde_json::from_str(text).unwrap();
    let adaptive: AdaptiveCache<u32, u32> = serde_json::from_str(text).unwrap();
    assert!(two.keys().eq(&[3, 5]) && adaptive.keys().eq(&[3, 5]));
    assert_eq!(
        serde_json::to_string(&two).unwrap(),
        serde_json::to_string(&adaptive).unwrap()
    );
}

#[test]
fn bad_data_is_an_error_and_a_wild_capacity_is_none() {
    for text in [
        "{}",
        r#"{"capacity":1}"#,
        r#"{"capacity":1,"entries":[],"more":1}"#,
        "[1]",
        "7",
    ] {
        assert!(
            serde_json::from_str::<LruCache<u32, u32>>(text).is_err(),
            "{text}"
        );
    }
    let text = format!(r#"{{"capacity":{},"entries":[[1,2]]}}"#, usize::MAX);
    let cache: LruCache<u32, u32> = serde_json::from_str(&text).unwrap();
    assert_eq!((cache.len(), cache.capacity()), (1, usize::MAX));
}
