//! Each rule is an option of its own: what it changes, and what it does not.

use std::time::Duration;

use graceful::cache::{CacheOutcome, LruCacheLayer};
use http::{Method, Response, request};

use super::support::*;

type Headers = &'static [(&'static str, &'static str)];
type Change = fn(LruCacheLayer) -> LruCacheLayer;

const MINUTE: Duration = Duration::from_secs(60);

/// A response, some seconds, then a request to a handler that answers with `second`.
struct Case {
    name: &'static str,
    change: Change,
    first: Headers,
    wait: u64,
    request: Headers,
    second: (u16, Headers),
    /// What becomes of the second request without the option, and with it.
    outcomes: (CacheOutcome, CacheOutcome),
}

#[tokio::test(start_paused = true)]
async fn rules_about_time_and_requests() {
    use CacheOutcome::{Hit, Miss, Stale, Validated};
    let ok: (u16, Headers) = (200, &[]);
    let case = |name, change, first, wait, request, second, outcomes| Case {
        name,
        change,
        first,
        wait,
        request,
        second,
        outcomes,
    };
    let cases = [
        case(
            "request_directives",
            |layer| layer.request_directives(true),
            &[("cache-control", "max-age=60")],
            1,
            &[("cache-control", "no-cache")],
            ok,
            (Hit, Miss),
        ),
        case(
            "heuristic_percent",
            |layer| layer.heuristic_percent(10),
            &[("last-modified", "Thu, 01 Jan 1970 00:00:01 GMT")],
            1,
            &[],
            ok,
            (Miss, Hit),
        ),
        case(
            "store_by_validator",
            |layer| layer.store_by_validator(true),
            &[("etag", "\"a\"")],
            1,
            &[],
            (304, &[]),
            (Miss, Validated),
        ),
        case(
            "stale_while_revalidate",
            |layer| layer.stale_while_revalidate(MINUTE),
            &[("cache-control", "max-age=5")],
            10,
            &[],
            ok,
            (Miss, Stale),
        ),
        case(
            "stale_while_revalidate where the response states its own",
            |layer| layer.stale_while_revalidate(MINUTE),
            &[("cache-control", "max-age=5, stale-while-revalidate=1")],
            10,
            &[],
            ok,
            (Miss, Miss),
        ),
        case(
            "stale_if_error",
            |layer| layer.stale_if_error(MINUTE),
            &[("cache-control", "max-age=5")],
            10,
            &[],
            (500, &[]),
            (Miss, Stale),
        ),
        case(
            "stale_on_failure",
            |layer| layer.stale_on_failure(MINUTE),
            &[("cache-control", "max-age=5")],
            10,
            &[],
            (502, &[]),
            (Miss, Stale),
        ),
        case(
            "stale_on_failure is for what cannot be reached",
            |layer| layer.stale_on_failure(MINUTE),
            &[("cache-control", "max-age=5")],
            10,
            &[],
            (500, &[]),
            (Miss, Miss),
        ),
        case(
            "s_maxage_forbids_stale",
            |layer| layer.s_maxage_forbids_stale(false),
            &[("cache-control", "s-maxage=5, stale-while-revalidate=60")],
            10,
            &[],
            ok,
            (Miss, Stale),
        ),
        case(
            "stale-if-error of a request",
            |layer| layer.request_directives(true),
            &[("cache-control", "max-age=5"), ("etag", "\"a\"")],
            10,
            &[("cache-control", "stale-if-error=60")],
            (500, &[]),
            (Miss, Stale),
        ),
    ];
    for Case { name, change, first, wait, request, second, outcomes } in cases {
        for (layer, expected) in [(layer(), outcomes.0), (change(layer()), outcomes.1)] {
            let app = App::new(layer, move |number, _| match number {
                1 => answer(first, "1"),
                _ => status(second.0, second.1, "2"),
            });
            app.get("/").await;
            advance(wait).await;
            let answer = app.get_with("/", request).await;
            assert_eq!(answer.outcome, Some(expected), "{name}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_must_be_validated_is_never_used_stale() {
    // RFC 9111, sections 5.2.2.2, 5.2.2.4, 5.2.2.8 and 5.2.2.10; RFC 5861, section 3.
    let swr = "stale-while-revalidate=60";
    for (control, outcome) in [
        (format!("max-age=5, {swr}"), CacheOutcome::Stale),
        (format!("max-age=5, {swr}, must-revalidate"), CacheOutcome::Validated),
        (format!("max-age=5, {swr}, proxy-revalidate"), CacheOutcome::Validated),
        (format!("max-age=5, {swr}, no-cache"), CacheOutcome::Validated),
        (format!("s-maxage=5, {swr}"), CacheOutcome::Validated),
    ] {
        for layer in [layer(), layer().rfc9111()] {
            let control = control.clone();
            let app = App::new(layer, move |_, request| {
                match request.headers.contains_key("if-none-match") {
                    true => status(304, &[("cache-control", &control)], ""),
                    false => answer(&[("cache-control", &control), ("etag", "\"a\"")], "1"),
                }
            });
            app.get("/").await;
            advance(10).await;
            assert_eq!(app.get("/").await.outcome, Some(outcome));
        }
    }
}

#[tokio::test]
async fn no_cache_is_stored_and_validated_each_time() {
    // RFC 9111, section 5.2.2.4.
    for control in ["no-cache", "No-Cache, max-age=60", "public, no-cache=\"\""] {
        for layer in [layer(), layer().rfc9111()] {
            let app = App::new(layer, move |number, request| {
                assert_eq!(request.headers.contains_key("if-none-match"), number > 1);
                match number {
                    1 => answer(&[("cache-control", control), ("etag", "\"a\"")], "1"),
                    _ => status(304, &[("cache-control", control), ("etag", "\"a\"")], ""),
                }
            });
            assert_eq!(app.get("/").await.text(), "1");
            for calls in 2..5 {
                let validated = app.get("/").await;
                assert_eq!(validated.outcome, Some(CacheOutcome::Validated), "{control}");
                assert_eq!((validated.text(), app.calls()), ("1", calls), "{control}");
            }
        }
    }
}

/// The outcome of the last of `requests`.
async fn last(
    layer: LruCacheLayer,
    respond: fn(usize, &request::Parts) -> Response<axum::body::Body>,
    requests: &[(Method, &str, Headers)],
) -> Option<CacheOutcome> {
    let app = App::new(layer, respond);
    let mut outcome = None;
    for (method, path, headers) in requests {
        outcome = app.send(request(method.clone(), path, headers)).await.outcome;
    }
    outcome
}

#[tokio::test]
async fn rules_that_can_be_turned_off() {
    use Method as M;
    type Respond = fn(usize, &request::Parts) -> Response<axum::body::Body>;
    let cases: [(&str, Change, Respond, Vec<(Method, &str, Headers)>); 5] = [
        (
            "store_post",
            |layer| layer.store_post(false),
            |_, _| answer(&[("cache-control", "max-age=60"), ("content-location", "/")], "1"),
            vec![(M::POST, "/", &[]), (M::GET, "/", &[])],
        ),
        (
            "store_parts",
            |layer| layer.store_parts(false),
            |_, _| {
                let place = ("content-range", "bytes 0-0/9");
                status(206, &[("cache-control", "max-age=60"), ("etag", "\"a\""), place], "1")
            },
            vec![(M::GET, "/", &[("range", "bytes=0-0")]); 2],
        ),
        (
            "select_language",
            |layer| layer.select_language(false),
            |_, _| {
                let language = [("vary", "accept-language"), ("content-language", "de")];
                answer(&[("cache-control", "max-age=60"), language[0], language[1]], "1")
            },
            vec![
                (M::GET, "/", &[("accept-language", "en, de")]),
                (M::GET, "/", &[("accept-language", "de")]),
            ],
        ),
        (
            "no_vary_search",
            |layer| layer.no_vary_search(false),
            |_, _| answer(&[("cache-control", "max-age=60"), ("no-vary-search", "params")], "1"),
            vec![(M::GET, "/?a", &[]), (M::GET, "/?b", &[])],
        ),
        (
            "ignore_host",
            |layer| layer.ignore_host(false),
            |_, _| answer(&[("cache-control", "max-age=60")], "1"),
            vec![(M::GET, "/", &[("host", "a")]), (M::GET, "/", &[("host", "b")])],
        ),
    ];
    for (name, off, respond, requests) in cases {
        let on = if name == "ignore_host" { layer().ignore_host(true) } else { layer() };
        assert_eq!(last(on, respond, &requests).await, Some(CacheOutcome::Hit), "{name}");
        assert_eq!(
            last(off(layer()), respond, &requests).await,
            Some(CacheOutcome::Miss),
            "{name}"
        );
    }
}

#[tokio::test]
async fn fields_that_are_made_or_removed() {
    let second = async |layer: LruCacheLayer, headers: Headers| {
        let app = App::new(layer, move |_, _| answer(headers, "1"));
        let first = app.get("/").await;
        (first, app.get("/").await)
    };
    let max_age: Headers = &[("cache-control", "max-age=60")];
    assert!(second(layer(), max_age).await.1.header("etag").is_some());
    assert_eq!(second(layer().make_etag(false), max_age).await.1.header("etag"), None);
    let targeted: Headers = &[("cdn-cache-control", "max-age=60")];
    for (remove, expected) in [(false, Some("max-age=60")), (true, None)] {
        let (first, hit) = second(layer().remove_targeted(remove), targeted).await;
        assert_eq!(first.header("cdn-cache-control"), expected);
        assert_eq!(hit.header("cdn-cache-control"), expected);
        assert_eq!(hit.outcome, Some(CacheOutcome::Hit));
    }
    let tagged: Headers = &[("cache-control", "max-age=60"), ("cache-tag", "a")];
    assert_eq!(second(layer(), tagged).await.1.header("cache-tag"), None);
    assert_eq!(second(layer().tag_header(None), tagged).await.1.header("cache-tag"), Some("a"));
}

#[cfg(feature = "serve")]
#[tokio::test]
async fn in_a_router_per_route_and_around_it() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use axum::Router;
    use axum::middleware::{Next, from_fn};
    use axum::routing::get as route;
    use tower::{Layer, Service};

    let (calls, routed) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let handler = {
        let calls = calls.clone();
        move || async move {
            calls.fetch_add(1, Ordering::SeqCst);
            ([("cache-control", "max-age=60")], "x")
        }
    };
    let count = |routed: Arc<AtomicUsize>| {
        from_fn(move |request, next: Next| {
            routed.fetch_add(1, Ordering::SeqCst);
            next.run(request)
        })
    };
    // One route has a cache of its own, another has none.
    let mut some = Router::new()
        .route("/cached", route(handler.clone()).layer(LruCacheLayer::new(10)))
        .route("/plain", route(handler.clone()));
    for (path, expected) in [("/cached", 1), ("/plain", 2)] {
        calls.store(0, Ordering::SeqCst);
        for _ in 0..2 {
            let response = some.call(get(path, &[])).await.unwrap();
            assert_eq!(read(response).await.text(), "x");
        }
        assert_eq!(calls.load(Ordering::SeqCst), expected, "{path}");
    }
    // Around everything, a hit does not even come to the routes.
    calls.store(0, Ordering::SeqCst);
    let router = Router::new().route("/", route(handler)).layer(count(routed.clone()));
    let mut around = LruCacheLayer::new(10).layer(router);
    for _ in 0..3 {
        let response = around.call(get("/", &[])).await.unwrap();
        assert_eq!(read(response.map(axum::body::Body::new)).await.text(), "x");
    }
    assert_eq!((calls.load(Ordering::SeqCst), routed.load(Ordering::SeqCst)), (1, 1));
}
