//! What happens when stored responses get old.

use std::time::Duration;

use axum::body::Body;
use futures_util::future::join_all;
use graceful::cache::{CacheKey, CacheOutcome};
use http::StatusCode;

use super::support::*;

#[tokio::test(start_paused = true)]
async fn a_stale_response_is_validated_and_freshened() {
    let app = App::new(layer(), |number, request| {
        if number == 1 {
            assert!(!request.headers.contains_key("if-none-match"));
            let headers =
                [("cache-control", "max-age=10"), ("etag", "\"a\""), ("x-a", "1"), ("x-b", "1")];
            return answer(&headers, "hello");
        }
        assert_eq!(request.headers["if-none-match"], "\"a\"");
        status(304, &[("cache-control", "max-age=20"), ("etag", "\"a\""), ("x-b", "2")], "")
    });
    app.get("/").await;
    advance(10).await;
    let validated = app.get("/").await;
    assert_eq!((validated.status.as_u16(), validated.text()), (200, "hello"));
    assert_eq!(validated.outcome, Some(CacheOutcome::Validated));
    assert_eq!((validated.header("x-a"), validated.header("x-b")), (Some("1"), Some("2")));
    assert_eq!(validated.header("age"), Some("0"));
    advance(19).await;
    let hit = app.get("/").await;
    assert_eq!(hit.outcome, Some(CacheOutcome::Hit));
    assert_eq!((hit.header("x-b"), hit.header("age")), (Some("2"), Some("19")));
    assert_eq!(app.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn the_validators_are_those_of_the_store_and_the_answer_is_for_the_client() {
    let app = App::new(layer(), |number, request| {
        if number == 1 {
            return answer(&[("cache-control", "max-age=10"), ("etag", "\"a\"")], "hello");
        }
        assert_eq!(request.headers["if-none-match"], "\"a\"");
        status(304, &[], "")
    });
    app.get("/").await;
    advance(10).await;
    // The client has another one: it gets everything, though the handler said 304.
    let other = app.get_with("/", &[("if-none-match", "\"b\"")]).await;
    assert_eq!((other.status.as_u16(), other.text()), (200, "hello"));
    advance(10).await;
    let same = app.get_with("/", &[("if-none-match", "\"a\"")]).await;
    assert_eq!(same.status, 304);
}

#[tokio::test(start_paused = true)]
async fn an_entity_tag_made_here_is_for_clients_only() {
    let app = App::new(layer(), |number, request| {
        assert!(!request.headers.contains_key("if-none-match"));
        answer(&[("cache-control", "max-age=10")], format!("{}", number / 3))
    });
    assert_eq!(app.get("/").await.header("etag"), None, "it is known at the end of the body");
    let second = app.get("/").await;
    let tag = second.header("etag").unwrap().to_owned();
    assert_eq!(app.get_with("/", &[("if-none-match", &tag)]).await.status, 304);
    advance(10).await;
    // Stored anew with the same bytes: the same tag.
    app.get("/").await;
    assert_eq!(app.calls(), 2);
    assert_eq!(app.get_with("/", &[("if-none-match", &tag)]).await.status, 304);
    advance(10).await;
    app.get("/").await;
    let changed = app.get_with("/", &[("if-none-match", &tag)]).await;
    assert_eq!((changed.status.as_u16(), changed.text()), (200, "1"));
}

#[tokio::test(start_paused = true)]
async fn stale_while_revalidate_answers_at_once_and_refreshes_once() {
    let app = App::new(layer(), |number, _| {
        answer(&[("cache-control", "max-age=10, stale-while-revalidate=20")], number.to_string())
    });
    app.get("/").await;
    advance(15).await;
    let all = join_all((0..50).map(|_| app.get("/"))).await;
    for stale in &all {
        assert_eq!((stale.text(), stale.outcome), ("1", Some(CacheOutcome::Stale)));
        assert_eq!(stale.header("age"), Some("15"));
    }
    while app.handle.fills() > 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(app.calls(), 2);
    let fresh = app.get("/").await;
    assert_eq!((fresh.text(), fresh.outcome), ("2", Some(CacheOutcome::Hit)));
    // Past its window nobody gets it any more.
    advance(31).await;
    assert_eq!(app.get("/").await.text(), "3");
}

#[tokio::test(start_paused = true)]
async fn a_refresh_carries_the_request_that_caused_it() {
    let app = App::new(layer(), |number, request| {
        if number == 2 {
            assert_eq!(request.headers["x-any"], "2");
            assert_eq!(request.uri.path(), "/path");
        }
        answer(&[("cache-control", "max-age=1, stale-while-revalidate=20")], number.to_string())
    });
    app.get_with("/path", &[("x-any", "1")]).await;
    advance(5).await;
    app.get_with("/path", &[("x-any", "2")]).await;
    while app.calls() < 2 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_refresh_that_fails_is_not_tried_with_every_request() {
    let app = App::new(layer(), |number, _| match number {
        1 => answer(&[("cache-control", "max-age=1, stale-while-revalidate=600")], "1"),
        _ => status(500, &[], ""),
    });
    app.get("/").await;
    advance(5).await;
    for _ in 0..20 {
        assert_eq!(app.get("/").await.text(), "1");
        tokio::task::yield_now().await;
    }
    assert_eq!(app.calls(), 2);
    advance(2).await;
    app.get("/").await;
    while app.calls() < 3 {
        tokio::task::yield_now().await;
    }
}

/// Stale by five seconds, and then the handler fails.
async fn after_failure(control: &'static str, failure: u16, rfc9111: bool) -> StatusCode {
    let layer = if rfc9111 { layer().rfc9111() } else { layer() };
    let app = App::new(layer, move |number, _| match number {
        1 => answer(&[("cache-control", control), ("etag", "\"a\"")], "1"),
        _ => status(failure, &[], "failure"),
    });
    app.get("/").await;
    advance(15).await;
    app.get("/").await.status
}

#[tokio::test(start_paused = true)]
async fn stale_if_error_and_what_forbids_it() {
    // RFC 5861, section 4; RFC 9111, section 4.2.4.
    let table = [
        ("max-age=10, stale-if-error=60", 500, 200, 200),
        ("max-age=10, stale-if-error=60", 502, 200, 200),
        ("max-age=10, stale-if-error=60", 503, 200, 200),
        ("max-age=10, stale-if-error=60", 504, 200, 200),
        ("max-age=10, stale-if-error=60", 404, 404, 404),
        ("max-age=10, stale-if-error=60", 501, 501, 501),
        ("max-age=10, stale-if-error=4", 500, 500, 500),
        ("max-age=10, stale-if-error=60, must-revalidate", 500, 500, 500),
        ("max-age=10, stale-if-error=60, proxy-revalidate", 500, 500, 500),
        ("max-age=10, stale-if-error=60, no-cache", 500, 500, 500),
        ("s-maxage=10, stale-if-error=60", 500, 500, 500),
        ("max-age=10", 500, 500, 500),
        ("max-age=10", 503, 503, 503),
        // Nothing permits it, but the origin cannot be reached.
        ("max-age=10", 502, 502, 200),
        ("max-age=10", 504, 504, 200),
        ("max-age=10, must-revalidate", 502, 502, 502),
        ("max-age=10, no-cache", 502, 502, 502),
        ("s-maxage=10", 502, 502, 502),
    ];
    for (control, failure, explicit, rfc9111) in table {
        let name = format!("{control} and {failure}");
        assert_eq!(after_failure(control, failure, false).await, explicit, "{name}");
        assert_eq!(after_failure(control, failure, true).await, rfc9111, "{name}, RFC 9111");
    }
}

#[tokio::test(start_paused = true)]
async fn purged_softly_it_is_stale_but_there() {
    let app = App::new(layer(), |number, request| {
        if request.headers.contains_key("if-none-match") {
            return status(304, &[], "");
        }
        let control = if request.uri.path() == "/swr" {
            "max-age=60, stale-while-revalidate=60"
        } else {
            "max-age=60"
        };
        answer(
            &[("cache-control", control), ("etag", "\"a\""), ("cache-tag", "t")],
            number.to_string(),
        )
    });
    for path in ["/plain", "/swr"] {
        app.get(path).await;
        assert_eq!(app.get(path).await.outcome, Some(CacheOutcome::Hit));
    }
    assert!(app.handle.expire(&CacheKey::new("example.com", "/plain")));
    assert!(!app.handle.expire(&CacheKey::new("example.com", "/other")));
    assert_eq!(app.get("/plain").await.outcome, Some(CacheOutcome::Validated));
    assert_eq!(app.get("/plain").await.outcome, Some(CacheOutcome::Hit));
    assert_eq!(app.handle.expire_tag("t"), 2);
    assert_eq!(app.get("/swr").await.outcome, Some(CacheOutcome::Stale));
}

#[tokio::test]
async fn purged_softly_wherever_it_is_stored() {
    // Parts, and what answers other queries, too.
    let headers = [("cache-control", "max-age=60"), ("etag", "\"a\""), ("cache-tag", "t")];
    for by_tag in [false, true] {
        let parts = App::new(layer(), move |_, _| {
            let place = ("content-range", "bytes 0-1/4");
            status(206, &[headers[0], headers[1], headers[2], place], "01")
        });
        let queries = App::new(layer(), move |number, request| {
            if request.headers.contains_key("if-none-match") {
                return status(304, &[], "");
            }
            let search = ("no-vary-search", "params");
            answer(&[headers[0], headers[1], headers[2], search], number.to_string())
        });
        let range = [("range", "bytes=0-1")];
        parts.get_with("/", &range).await;
        assert_eq!(parts.get_with("/", &range).await.outcome, Some(CacheOutcome::Hit));
        queries.get("/?a").await;
        assert_eq!(queries.get("/?b").await.outcome, Some(CacheOutcome::Hit));
        if by_tag {
            assert_eq!((parts.handle.expire_tag("t"), queries.handle.expire_tag("t")), (1, 1));
        } else {
            assert!(parts.handle.expire(&CacheKey::new("example.com", "/")));
            assert!(queries.handle.expire(&CacheKey::new("example.com", "/?c")));
        }
        assert_eq!(parts.get_with("/", &range).await.outcome, Some(CacheOutcome::Miss), "{by_tag}");
        assert_eq!(queries.get("/?d").await.outcome, Some(CacheOutcome::Validated), "{by_tag}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_of_no_use_leaves() {
    let app = App::new(layer(), |_, request| match request.uri.path() {
        "/tagged" => answer(&[("cache-control", "max-age=10"), ("etag", "\"a\"")], "x"),
        _ => answer(&[("cache-control", "max-age=10")], "x"),
    });
    app.get("/tagged").await;
    app.get("/plain").await;
    assert_eq!(app.handle.len(), 2);
    advance(11).await;
    app.handle.evict_expired();
    assert_eq!(app.handle.len(), 1, "one can be validated");
    advance(601).await;
    app.handle.evict_expired();
    assert_eq!(app.handle.len(), 0);
    assert_eq!(app.handle.bytes(), 0);
    assert_eq!(app.handle.stats().expirations, 2);
}

/// 1,000 requests a second for 6 s, a lifetime of 1 s, a handler that takes 100 ms.
async fn load(control: &'static str) -> (usize, Vec<Duration>) {
    let app = App::with_service(layer(), move |number, _| async move {
        tokio::time::sleep(Duration::from_millis(100)).await;
        Ok(answer(&[("cache-control", control)], Body::from(number.to_string())))
    });
    let start = tokio::time::Instant::now();
    let all = (0..6000).map(|number| {
        let app = app.clone();
        tokio::spawn(async move {
            let due = Duration::from_millis(number);
            tokio::time::sleep_until(start + due).await;
            let asked = tokio::time::Instant::now();
            app.get("/").await;
            (due, asked.elapsed())
        })
    });
    let mut waited: Vec<Duration> = Vec::new();
    for one in join_all(all).await {
        let (due, took) = one.unwrap();
        if due >= Duration::from_secs(1) {
            waited.push(took);
        }
    }
    waited.sort();
    (app.calls(), waited)
}

#[tokio::test(start_paused = true)]
async fn expiry_under_load_makes_one_call_each_time() {
    let (calls, waited) = load("max-age=1").await;
    assert_eq!(calls, 6);
    assert!(*waited.last().unwrap() <= Duration::from_millis(101), "{:?}", waited.last());
}

#[tokio::test(start_paused = true)]
async fn expiry_under_load_with_stale_while_revalidate_lets_nobody_wait() {
    let (calls, waited) = load("max-age=1, stale-while-revalidate=10").await;
    assert_eq!(calls, 6);
    // Under paused time only a wait takes any: this is exact where a stop watch could only estimate.
    assert_eq!(*waited.last().unwrap(), Duration::ZERO);
}
