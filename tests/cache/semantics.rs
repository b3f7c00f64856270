//! Ranges, conditions, variants, parts, HEAD and what goes beyond the letter.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::body::Body;
use graceful::cache::{CacheOutcome, LruCacheLayer, SetCookie};
use http::{HeaderName, Method, Request, StatusCode};
use tokio::sync::Semaphore;

use super::support::*;

fn digits() -> App {
    App::new(layer(), |_, _| {
        answer(
            &[("cache-control", "max-age=60"), ("etag", "\"a\""), ("content-type", "text/plain")],
            "0123456789",
        )
    })
}

#[tokio::test]
async fn ranges_of_a_stored_response() {
    // RFC 9110, section 14.
    let app = digits();
    app.get("/").await;
    let table: &[(&[(&str, &str)], u16, &str, Option<&str>)] = &[
        (&[("range", "bytes=0-1")], 206, "01", Some("bytes 0-1/10")),
        (&[("range", "bytes=8-")], 206, "89", Some("bytes 8-9/10")),
        (&[("range", "bytes=-3")], 206, "789", Some("bytes 7-9/10")),
        (&[("range", "bytes=5-100")], 206, "56789", Some("bytes 5-9/10")),
        (&[("range", "bytes=2-3,0-1")], 206, "0123", Some("bytes 0-3/10")),
        // Less between them than another part would cost.
        (&[("range", "bytes=0-1,5-6")], 206, "0123456", Some("bytes 0-6/10")),
        (&[("range", "bytes=x")], 200, "0123456789", None),
        (&[("range", "bytes=10-")], 416, "", Some("bytes */10")),
        (&[("range", "bytes=0-1"), ("if-range", "\"a\"")], 206, "01", Some("bytes 0-1/10")),
        (&[("range", "bytes=0-1"), ("if-range", "\"b\"")], 200, "0123456789", None),
        (&[("range", "bytes=0-1"), ("if-range", "W/\"a\"")], 200, "0123456789", None),
        (&[("range", "bytes=0-1"), ("if-none-match", "\"a\"")], 304, "", None),
    ];
    for (headers, status, text, content_range) in table {
        let answer = app.get_with("/", headers).await;
        assert_eq!(answer.status, *status, "{headers:?}");
        assert_eq!(answer.text(), *text, "{headers:?}");
        assert_eq!(answer.header("content-range"), *content_range, "{headers:?}");
        if *status != 304 {
            let length = text.len().to_string();
            assert_eq!(answer.header("content-length"), Some(length.as_str()), "{headers:?}");
        }
    }
    assert_eq!(app.calls(), 1);
}

#[tokio::test]
async fn a_304_has_what_rfc_9110_says() {
    // Section 15.4.5.
    let expires = date(3600);
    let app = App::new(layer(), move |_, _| {
        answer(
            &[
                ("cache-control", "max-age=60"),
                ("content-location", "/x"),
                ("date", &date(0)),
                ("etag", "\"a\""),
                ("expires", &expires),
                ("vary", "x-any"),
                ("last-modified", &date(-100)),
                ("content-type", "text/plain"),
                ("content-language", "en"),
                ("content-encoding", "x"),
            ],
            "hello",
        )
    });
    app.get("/").await;
    let answer = app.get_with("/", &[("if-none-match", "W/\"a\"")]).await;
    assert_eq!((answer.status, answer.text()), (StatusCode::NOT_MODIFIED, ""));
    for name in ["age", "cache-control", "content-location", "date", "etag", "expires", "vary"] {
        assert!(answer.header(name).is_some(), "{name}");
    }
    for name in
        ["content-type", "content-length", "content-language", "content-encoding", "last-modified"]
    {
        assert_eq!(answer.header(name), None, "{name}");
    }
}

#[tokio::test]
async fn conditions_against_a_stored_response() {
    // RFC 9110, section 13.1.
    let (before, at, after) = (date(-200), date(-100), date(-50));
    let modified = at.clone();
    let app = App::new(layer(), move |_, request| {
        let mut headers =
            vec![("cache-control", "max-age=60"), ("last-modified", modified.as_str())];
        if request.uri.path() == "/tagged" {
            headers.push(("etag", "\"a\""));
        }
        answer(&headers, "x")
    });
    for path in ["/tagged", "/dated"] {
        app.get(path).await;
    }
    let table: &[(&str, &[(&str, &str)], u16)] = &[
        ("/tagged", &[("if-none-match", "\"a\"")], 304),
        ("/tagged", &[("if-none-match", "W/\"a\"")], 304),
        ("/tagged", &[("if-none-match", "\"x\", \"a\", \"y\"")], 304),
        ("/tagged", &[("if-none-match", "\"x\""), ("if-none-match", "\"a\"")], 304),
        ("/tagged", &[("if-none-match", "*")], 304),
        ("/tagged", &[("if-none-match", "\"x\"")], 200),
        ("/tagged", &[("if-none-match", "a")], 200),
        // If-None-Match wins over If-Modified-Since.
        ("/tagged", &[("if-none-match", "\"x\""), ("if-modified-since", &after)], 200),
        ("/tagged", &[("if-none-match", "\"a\""), ("if-modified-since", &before)], 304),
        ("/dated", &[("if-modified-since", &at)], 304),
        ("/dated", &[("if-modified-since", &after)], 304),
        ("/dated", &[("if-modified-since", &before)], 200),
        ("/dated", &[("if-modified-since", "yesterday")], 200),
    ];
    for (path, headers, status) in table {
        assert_eq!(app.get_with(path, headers).await.status, *status, "{path} {headers:?}");
    }
    assert_eq!(app.calls(), 2);
}

#[tokio::test]
async fn a_condition_on_a_miss_is_judged_on_the_answer() {
    let app = App::new(layer(), |_, request| {
        assert!(!request.headers.contains_key("if-none-match"), "the answer is for everyone");
        answer(&[("cache-control", "max-age=60"), ("etag", "\"a\"")], "hello")
    });
    assert_eq!(app.get_with("/", &[("if-none-match", "\"a\"")]).await.status, 304);
    let mut fills = 0;
    while app.handle.is_empty() {
        tokio::task::yield_now().await;
        fills += 1;
        assert!(fills < 1000);
    }
    assert_eq!(app.get("/").await.text(), "hello");
    assert_eq!(app.calls(), 1);
}

#[tokio::test]
async fn keys_known_not_to_be_cacheable_get_conditions_and_ranges_untouched() {
    let app = App::new(layer(), |number, request| {
        if number > 1 {
            assert_eq!(request.headers["if-none-match"], "\"a\"");
            assert_eq!(request.headers["range"], "bytes=0-1");
        }
        answer(&[("cache-control", "no-store")], "x")
    });
    app.get("/").await;
    app.get_with("/", &[("if-none-match", "\"a\""), ("range", "bytes=0-1")]).await;
    assert_eq!(app.calls(), 2);
}

#[tokio::test]
async fn parts_are_kept_and_make_a_whole() {
    // RFC 9111, sections 3.3 and 3.4.
    let part = |range: &str| -> (&'static str, &'static str) {
        match range {
            "bytes=0-3" => ("bytes 0-3/10", "0123"),
            "bytes=2-6" => ("bytes 2-6/10", "23456"),
            "bytes=7-" => ("bytes 7-9/10", "789"),
            _ => ("bytes 9-9/10", "9"),
        }
    };
    let app = App::new(layer(), move |_, request| {
        let range = request.headers["range"].to_str().unwrap();
        let (content_range, text) = part(range);
        let headers =
            [("cache-control", "max-age=60"), ("etag", "\"a\""), ("content-range", content_range)];
        status(206, &headers, text)
    });
    let ask = async |range: &str| app.get_with("/", &[("range", range)]).await;
    assert_eq!(ask("bytes=0-3").await.text(), "0123");
    // Inside of what is kept.
    let inside = ask("bytes=1-2").await;
    assert_eq!((inside.status.as_u16(), inside.text()), (206, "12"));
    assert_eq!(inside.header("content-range"), Some("bytes 1-2/10"));
    assert_eq!(app.calls(), 1);
    // Two parts that overlap are one.
    assert_eq!(ask("bytes=2-6").await.text(), "23456");
    assert_eq!(ask("bytes=0-6").await.text(), "0123456");
    assert_eq!(app.calls(), 2);
    // Nothing is missing any more.
    assert_eq!(ask("bytes=7-").await.text(), "789");
    let whole = app.get("/").await;
    assert_eq!((whole.status.as_u16(), whole.text()), (200, "0123456789"));
    assert_eq!(app.calls(), 3);
}

#[tokio::test]
async fn parts_without_a_strong_validator_or_with_a_false_place_are_not_kept() {
    for (tag, content_range) in [
        ("W/\"a\"", "bytes 0-1/10"),
        ("\"a\"", "bytes 0-2/10"),
        ("\"a\"", "bytes 5-9/10"),
        ("\"a\"", "bytes 0-1/*"),
        ("\"a\"", "0-1"),
    ] {
        let app = App::new(layer(), move |_, _| {
            let headers =
                [("cache-control", "max-age=60"), ("etag", tag), ("content-range", content_range)];
            status(206, &headers, "01")
        });
        for number in 1..=2 {
            assert_eq!(app.get_with("/", &[("range", "bytes=0-1")]).await.text(), "01");
            assert_eq!(app.calls(), number, "{tag} {content_range}");
        }
    }
}

#[tokio::test]
async fn parts_of_another_representation_start_anew() {
    let app = App::new(layer(), |number, _| {
        let headers = [
            ("cache-control", "max-age=60"),
            ("etag", if number == 1 { "\"a\"" } else { "\"b\"" }),
            ("content-range", if number == 1 { "bytes 0-1/4" } else { "bytes 2-3/4" }),
        ];
        status(206, &headers, if number == 1 { "01" } else { "cd" })
    });
    app.get_with("/", &[("range", "bytes=0-1")]).await;
    app.get_with("/", &[("range", "bytes=2-3")]).await;
    assert_eq!(app.get_with("/", &[("range", "bytes=2-3")]).await.text(), "cd");
    assert_eq!(app.calls(), 2);
    app.get_with("/", &[("range", "bytes=0-1")]).await;
    assert_eq!(app.calls(), 3, "those of the old one are gone");
}

#[tokio::test]
async fn languages_are_normalised_and_selected() {
    let app = App::new(layer(), |_, _| {
        let headers = [
            ("cache-control", "max-age=60"),
            ("vary", "accept-language"),
            ("content-language", "de"),
        ];
        answer(&headers, "")
    });
    app.get_with("/", &[("accept-language", "en, de")]).await;
    for line in ["de, EN", " en ,  de", "fr;q=0.5, de;q=1.0", "de"] {
        let answer = app.get_with("/", &[("accept-language", line)]).await;
        assert_eq!(answer.outcome, Some(CacheOutcome::Hit), "{line}");
    }
    app.get_with("/", &[("accept-language", "fr")]).await;
    assert_eq!(app.calls(), 2);
}

#[tokio::test]
async fn a_changed_vary_takes_the_place_of_none() {
    let app = App::new(layer(), |number, _| {
        let vary = if number == 1 { "" } else { "x-kind" };
        let control = if number == 1 { "max-age=0" } else { "max-age=60" };
        answer(&[("cache-control", control), ("vary", vary), ("etag", "\"a\"")], number.to_string())
    });
    app.get("/").await;
    assert_eq!(app.get_with("/", &[("x-kind", "a")]).await.text(), "2");
    assert_eq!(
        app.get_with("/", &[("x-kind", "b")]).await.text(),
        "3",
        "not the first, stale or not"
    );
    assert_eq!(app.get_with("/", &[("x-kind", "a")]).await.text(), "2");
}

#[tokio::test]
async fn an_answer_to_post_that_says_where_to_get_it() {
    // RFC 9110, section 9.3.3.
    let expires = date(3600);
    for (location, freshness, stored) in [
        ("/form", ("cache-control", "max-age=60"), true),
        ("", ("expires", expires.as_str()), true),
        ("http://example.com/form", ("cache-control", "max-age=60"), true),
        ("/other", ("cache-control", "max-age=60"), false),
        ("/form", ("cache-control", "no-cache"), false),
        ("/form", ("x-any", "1"), false),
    ] {
        let (location, freshness) =
            (location.to_owned(), (freshness.0.to_owned(), freshness.1.to_owned()));
        let name = format!("{location} {freshness:?}");
        let app = App::new(layer(), move |number, _| {
            let headers = [("content-location", location.as_str()), (&*freshness.0, &*freshness.1)];
            answer(&headers, number.to_string())
        });
        app.send(request(Method::POST, "/form", &[])).await;
        let second = app.get("/form").await;
        assert_eq!(second.text() == "1", stored, "{name}");
        assert_eq!(second.outcome == Some(CacheOutcome::Hit), stored, "{name}");
    }
}

#[tokio::test]
async fn no_vary_search_makes_queries_equal() {
    let app = App::new(layer(), |number, _| {
        let headers =
            [("cache-control", "max-age=60"), ("no-vary-search", "key-order, params=(\"utm\")")];
        answer(&headers, number.to_string())
    });
    assert_eq!(app.get("/x?a=1&b=2&utm=y").await.text(), "1");
    assert_eq!(app.get("/x?b=2&a=1").await.text(), "1");
    assert_eq!(app.get("/x?b=2&a=2").await.text(), "2");
    assert_eq!(app.get("/y?b=2&a=1").await.text(), "3", "of this path only");
    // Invalidated like any other.
    app.send(request(Method::POST, "/x?utm=z&a=1&b=2", &[])).await;
    assert_eq!(app.get("/x?a=1&b=2").await.text(), "5");
}

#[tokio::test(start_paused = true)]
async fn head_freshens_or_expires_the_stored_response() {
    // RFC 9111, section 4.3.5.
    for (path, hit) in [("/same", true), ("/tag", false), ("/length", false), ("/gone", false)] {
        let app = App::new(layer(), |_, request| {
            if request.method != Method::HEAD {
                return answer(
                    &[("cache-control", "max-age=10"), ("etag", "\"a\""), ("x-a", "1")],
                    "hello",
                );
            }
            match request.uri.path() {
                "/same" => {
                    answer(&[("cache-control", "max-age=20"), ("etag", "\"a\""), ("x-a", "2")], "")
                }
                "/tag" => answer(&[("cache-control", "max-age=20"), ("etag", "\"b\"")], ""),
                "/length" => {
                    answer(&[("cache-control", "max-age=20"), ("content-length", "6")], "")
                }
                _ => status(410, &[("cache-control", "max-age=20")], ""),
            }
        });
        app.get(path).await;
        advance(11).await;
        app.send(request(Method::HEAD, path, &[])).await;
        advance(1).await;
        let answer = app.get(path).await;
        assert_eq!(answer.outcome == Some(CacheOutcome::Hit), hit, "{path}");
        if hit {
            assert_eq!((answer.header("x-a"), answer.text()), (Some("2"), "hello"));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_write_meanwhile_counts_where_it_was_made() {
    // RFC 9111, sections 4.3.5 and 4.4: what a POST makes wrong is its target, and no other URI.
    for (target, hit) in [("/other", true), ("/a", false)] {
        let gate = Arc::new(Semaphore::new(0));
        let app = App::with_service(layer(), {
            let gate = gate.clone();
            move |_, request: Request<Body>| {
                let gate = gate.clone();
                async move {
                    if request.method() == Method::HEAD {
                        gate.acquire().await.unwrap().forget();
                    }
                    Ok(answer(&[("cache-control", "max-age=10"), ("etag", "\"a\"")], "hello"))
                }
            }
        });
        app.get("/a").await;
        advance(11).await;
        let head = tokio::spawn({
            let app = app.clone();
            async move { app.send(request(Method::HEAD, "/a", &[])).await }
        });
        while app.calls() < 2 {
            tokio::task::yield_now().await;
        }
        app.send(request(Method::POST, target, &[])).await;
        gate.add_permits(1);
        head.await.unwrap();
        let after = app.get("/a").await;
        assert_eq!(after.outcome == Some(CacheOutcome::Hit), hit, "{target}");
    }
}

#[tokio::test(start_paused = true)]
async fn cache_status_says_what_happened() {
    // RFC 9211.
    let app = App::new(layer().cache_status(Some("edge")).cache_status_key(true), |_, request| {
        if request.headers.contains_key("if-none-match") {
            return status(304, &[], "");
        }
        match request.uri.path() {
            "/no" => answer(&[("cache-control", "no-store"), ("cache-status", "other; hit")], ""),
            _ => answer(
                &[("cache-control", "max-age=60"), ("etag", "\"a\""), ("vary", "x-kind")],
                "",
            ),
        }
    });
    let status = async |path: &str, kind: &str| {
        let answer = app.get_with(path, &[("x-kind", kind)]).await;
        let lines: Vec<_> = answer
            .headers
            .get_all("cache-status")
            .iter()
            .map(|line| line.to_str().unwrap())
            .collect();
        lines.join(", ")
    };
    let key = "key=\"example.com/\"";
    assert_eq!(
        status("/", "a").await,
        format!("edge; fwd=uri-miss; fwd-status=200; stored; {key}")
    );
    assert_eq!(status("/", "a").await, format!("edge; hit; ttl=60; {key}"));
    assert_eq!(
        status("/", "b").await,
        format!("edge; fwd=vary-miss; fwd-status=200; stored; {key}")
    );
    advance(60).await;
    assert_eq!(status("/", "a").await, format!("edge; fwd=stale; fwd-status=304; ttl=60; {key}"));
    let refused = status("/no", "a").await;
    assert_eq!(
        refused,
        "other; hit, edge; fwd=uri-miss; fwd-status=200; key=\"example.com/no\"; detail=no-store"
    );
    let bypassed = app.send(request(Method::OPTIONS, "/", &[])).await;
    assert!(bypassed.header("cache-status").unwrap().starts_with("edge; fwd=method"));
    let off =
        App::new(layer().cache_status(None), |_, _| answer(&[("cache-control", "max-age=60")], ""));
    off.get("/").await;
    assert_eq!(off.get("/").await.header("cache-status"), None);
}

#[tokio::test]
async fn options_do_what_their_names_say() {
    // Each with a response that is stored only (or not) because of it.
    type Change = fn(LruCacheLayer) -> LruCacheLayer;
    let table: Vec<(&str, Change, u16, Vec<(&str, &str)>, bool)> = vec![
        (
            "default_ttl",
            |layer| layer.default_ttl(std::time::Duration::from_secs(60)),
            200,
            vec![],
            true,
        ),
        (
            "default_ttl",
            |layer| layer.default_ttl(std::time::Duration::from_secs(60)),
            500,
            vec![],
            false,
        ),
        (
            "default_ttl",
            |layer| layer.default_ttl(std::time::Duration::from_secs(60)),
            200,
            vec![("cache-control", "no-store")],
            false,
        ),
        (
            "status_ttl",
            |layer| layer.status_ttl(StatusCode::IM_A_TEAPOT, std::time::Duration::from_secs(60)),
            418,
            vec![],
            true,
        ),
        (
            "set_cookie",
            |layer| layer.set_cookie(SetCookie::Strip),
            200,
            vec![("cache-control", "max-age=60"), ("set-cookie", "a=b")],
            true,
        ),
        (
            "set_cookie",
            |layer| layer.set_cookie(SetCookie::Store),
            200,
            vec![("cache-control", "max-age=60"), ("set-cookie", "a=b")],
            true,
        ),
        (
            "targeted",
            |layer| layer.targeted([HeaderName::from_static("own-cache-control")]),
            200,
            vec![("own-cache-control", "max-age=60")],
            true,
        ),
        (
            "targeted",
            |layer| layer.targeted([]),
            200,
            vec![("cdn-cache-control", "max-age=60")],
            false,
        ),
        (
            "skip_response",
            |layer| layer.skip_response(|response| response.headers.contains_key("x-skip")),
            200,
            vec![("cache-control", "max-age=60"), ("x-skip", "1")],
            false,
        ),
        (
            "skip_request",
            |layer| layer.skip_request(|request| request.uri.path() == "/"),
            200,
            vec![("cache-control", "max-age=60")],
            false,
        ),
        (
            "max_body_size",
            |layer| layer.max_body_size(1),
            200,
            vec![("cache-control", "max-age=60")],
            false,
        ),
    ];
    for (name, change, code, headers, stored) in table {
        let response = headers.clone();
        let app = App::new(change(layer()), move |_, _| status(code, &response, "body"));
        app.get("/").await;
        let second = app.get("/").await;
        assert_eq!(second.outcome == Some(CacheOutcome::Hit), stored, "{name} {headers:?}");
    }
    let stripped = App::new(layer().set_cookie(SetCookie::Strip), |_, _| {
        answer(&[("cache-control", "max-age=60"), ("set-cookie", "a=b")], "")
    });
    assert_eq!(stripped.get("/").await.header("set-cookie"), Some("a=b"));
    assert_eq!(stripped.get("/").await.header("set-cookie"), None);
}

#[tokio::test]
async fn vary_by_selects_without_the_handler_saying_so() {
    let app =
        App::new(layer().vary_by(HeaderName::from_static("x-forwarded-host")), |_, request| {
            let host = request.headers["x-forwarded-host"].to_str().unwrap().to_owned();
            answer(&[("cache-control", "max-age=60")], host)
        });
    for host in ["a", "b", "a"] {
        assert_eq!(app.get_with("/", &[("x-forwarded-host", host)]).await.text(), host);
    }
    assert_eq!(app.calls(), 2);
}

#[tokio::test]
async fn the_original_uri_can_be_anywhere() {
    use tower::{Layer, Service, service_fn};
    #[derive(Clone)]
    struct Original(http::Uri);
    let layer = LruCacheLayer::new(10)
        .original_uri(|extensions| extensions.get::<Original>().map(|original| &original.0));
    let calls = Arc::new(AtomicUsize::new(0));
    let mut service = layer.layer(service_fn({
        let calls = calls.clone();
        move |_: http::Request<axum::body::Body>| {
            calls.fetch_add(1, Ordering::SeqCst);
            async {
                Ok::<_, std::convert::Infallible>(answer(&[("cache-control", "max-age=60")], ""))
            }
        }
    }));
    for path in ["/a/x", "/b/x"] {
        let mut request = get("/x", &[]);
        request.extensions_mut().insert(Original(path.parse().unwrap()));
        let response = service.call(request).await.unwrap();
        read(response.map(axum::body::Body::new)).await;
    }
    assert_eq!(calls.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_busy_handler_does_not_hold_up_hits() {
    use std::task::Poll;
    use tower::{Layer, Service};
    /// Never ready again once it was called.
    #[derive(Clone)]
    struct Once(Arc<AtomicUsize>);
    impl Service<http::Request<axum::body::Body>> for Once {
        type Response = http::Response<axum::body::Body>;
        type Error = std::convert::Infallible;
        type Future = std::future::Ready<Result<Self::Response, Self::Error>>;
        fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> Poll<Result<(), Self::Error>> {
            if self.0.load(Ordering::SeqCst) == 0 { Poll::Ready(Ok(())) } else { Poll::Pending }
        }
        fn call(&mut self, _: http::Request<axum::body::Body>) -> Self::Future {
            self.0.fetch_add(1, Ordering::SeqCst);
            std::future::ready(Ok(answer(&[("cache-control", "max-age=60")], "x")))
        }
    }
    let mut service = LruCacheLayer::new(10).layer(Once(Arc::default()));
    for outcome in [CacheOutcome::Miss, CacheOutcome::Hit] {
        std::future::poll_fn(|cx| service.poll_ready(cx)).await.unwrap();
        let response = service.call(get("/", &[])).await.unwrap();
        assert_eq!(response.extensions().get(), Some(&outcome));
        read(response.map(axum::body::Body::new)).await;
    }
}
