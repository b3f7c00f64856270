//! The handle, the hooks and the limits.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use graceful::cache::{CacheEvent, CacheKey, CacheOutcome, LruCacheLayer};
use graceful::lru::{Adaptive, AnyPolicy, Lru, TwoQueue};
use http::{Request, Response};

use super::support::*;

fn tagged() -> App {
    App::new(layer(), |number, request| {
        let tags = request.uri.query().unwrap_or("");
        answer(&[("cache-control", "max-age=60"), ("cache-tag", tags)], number.to_string())
    })
}

async fn hits(app: &App, path: &str) -> bool {
    app.get(path).await.outcome == Some(CacheOutcome::Hit)
}

#[tokio::test]
async fn tags_are_taken_out_and_purge() {
    let app = tagged();
    for path in ["/1?a,b", "/2?b", "/3?c"] {
        assert_eq!(app.get(path).await.header("cache-tag"), None);
        let hit = app.get(path).await;
        assert_eq!((hit.header("cache-tag"), hit.outcome), (None, Some(CacheOutcome::Hit)));
    }
    assert_eq!(app.handle.purge_tag("b"), 2);
    assert_eq!(app.handle.purge_tag("b"), 0);
    assert!(hits(&app, "/3?c").await);
    assert!(!hits(&app, "/1?a,b").await);
}

#[tokio::test]
async fn keys_prefixes_and_everything_are_purged() {
    let app = tagged();
    for path in ["/a/1", "/a/2", "/b/1"] {
        app.get(path).await;
    }
    assert!(app.handle.purge(&CacheKey::new("example.com", "/a/1")));
    assert!(!app.handle.purge(&CacheKey::new("example.com", "/a/1")));
    assert!(!hits(&app, "/a/1").await);
    assert_eq!(app.handle.purge_prefix("example.com", "/a/"), 2);
    assert!(hits(&app, "/b/1").await);
    app.handle.clear();
    assert_eq!((app.handle.len(), app.handle.bytes()), (0, 0));
    assert!(!hits(&app, "/b/1").await);
}

#[tokio::test]
async fn a_store_is_warmed_up() {
    let app = tagged();
    let asked = Request::get("/x").header("host", "example.com").body(()).unwrap();
    let response = |control| {
        let body = Bytes::from_static(b"warm");
        Response::builder().header("cache-control", control).body(body).unwrap()
    };
    assert!(!app.handle.insert(&asked, response("no-store")));
    assert!(app.handle.get(&asked).is_none());
    assert!(app.handle.insert(&asked, response("max-age=60")));
    assert_eq!(app.handle.get(&asked).unwrap().body(), "warm");
    assert_eq!(app.get("/x").await.text(), "warm");
    assert_eq!(app.calls(), 0);
}

#[tokio::test]
async fn events_tell_what_happens() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let layer = layer().on_event({
        let seen = seen.clone();
        move |event| {
            let text = match event {
                CacheEvent::Hit(key) => format!("hit {key}"),
                CacheEvent::Miss(key) => format!("miss {key}"),
                CacheEvent::Store(key, bytes) => {
                    assert!(bytes > 0);
                    format!("store {key}")
                }
                CacheEvent::Evict(key) => format!("evict {key}"),
                _ => "other".to_owned(),
            };
            seen.lock().unwrap().push(text);
        }
    });
    let app = App::new(layer, |_, _| answer(&[("cache-control", "max-age=60")], "x"));
    app.get("/").await;
    app.get("/").await;
    app.handle.purge(&CacheKey::new("example.com", "/"));
    let expected =
        ["miss example.com/", "store example.com/", "hit example.com/", "evict example.com/"];
    assert_eq!(*seen.lock().unwrap(), expected);
    let stats = app.handle.stats();
    assert_eq!((stats.hits, stats.misses, stats.stores), (1, 1, 1));
}

#[tokio::test]
async fn entries_and_bytes_are_bounded_under_every_policy() {
    let policies: [AnyPolicy; 3] =
        [Lru::default().into(), TwoQueue::default().into(), Adaptive::default().into()];
    for policy in policies {
        let small = App::new(layer().policy(policy.clone()), |_, _| {
            answer(&[("cache-control", "max-age=60")], "x")
        });
        for number in 0..3000 {
            small.get(&format!("/{number}")).await;
            assert!(small.handle.len() <= 1024, "{}", small.handle.len());
        }
        assert!(small.handle.len() > 500, "{}", small.handle.len());
        assert!(small.handle.stats().evictions > 1000);
        let limit = 1_000_000;
        let large = App::new(LruCacheLayer::new(1000).max_bytes(limit).policy(policy), |_, _| {
            answer(&[("cache-control", "max-age=60")], vec![1; 20_000])
        });
        for number in 0..200 {
            large.get(&format!("/{number}")).await;
            assert!(large.handle.bytes() <= limit, "{}", large.handle.bytes());
        }
        assert!(large.handle.bytes() > limit / 2, "{}", large.handle.bytes());
    }
}

#[tokio::test]
async fn the_one_not_asked_for_the_longest_leaves() {
    let app =
        App::new(LruCacheLayer::new(3), |_, _| answer(&[("cache-control", "max-age=60")], "x"));
    for path in ["/1", "/2", "/3", "/1", "/4"] {
        app.get(path).await;
    }
    assert!(hits(&app, "/1").await && hits(&app, "/3").await && hits(&app, "/4").await);
    assert!(!hits(&app, "/2").await);
}

#[tokio::test]
async fn clones_of_a_layer_share_their_store() {
    use tower::{Layer, Service, service_fn};
    let layer = LruCacheLayer::new(10);
    let make = |text: &'static str| {
        layer.clone().layer(service_fn(move |_: Request<axum::body::Body>| async move {
            Ok::<_, std::convert::Infallible>(answer(&[("cache-control", "max-age=60")], text))
        }))
    };
    let (mut one, mut two) = (make("one"), make("two"));
    let first = one.call(get("/", &[])).await.unwrap();
    read(first.map(axum::body::Body::new)).await;
    let second = two.call(get("/", &[])).await.unwrap();
    assert_eq!(read(second.map(axum::body::Body::new)).await.text(), "one");
}
