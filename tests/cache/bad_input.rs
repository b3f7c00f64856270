//! What nobody should send, and what happens then: nothing wrong is served, nothing hangs, nothing leaks.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use graceful::cache::{CacheOutcome, LruCacheLayer};
use http::{HeaderName, HeaderValue};
use proptest::prelude::*;

use super::support::*;

#[tokio::test]
async fn thousands_of_variants_are_bounded_and_the_oldest_leaves() {
    let app = App::new(layer().max_variants(8), |_, request| {
        let kind = request.headers["x-kind"].to_str().unwrap().to_owned();
        answer(&[("cache-control", "max-age=60"), ("vary", "x-kind")], kind)
    });
    for number in 0..5000 {
        let kind = number.to_string();
        assert_eq!(app.get_with("/", &[("x-kind", &kind)]).await.text(), kind);
    }
    assert_eq!(app.handle.len(), 1);
    assert!(app.handle.bytes() < 8 * 2000, "{}", app.handle.bytes());
    for number in 4992..5000 {
        let kind = number.to_string();
        let answer = app.get_with("/", &[("x-kind", &kind)]).await;
        assert_eq!(answer.outcome, Some(CacheOutcome::Hit), "{kind}");
    }
    let oldest = app.get_with("/", &[("x-kind", "4991")]).await;
    assert_eq!(oldest.outcome, Some(CacheOutcome::Miss));
}

#[tokio::test]
async fn thousands_of_parts_are_bounded_and_the_longest_stay() {
    let app = App::new(layer(), |_, request| {
        let range = request.headers["range"].to_str().unwrap();
        let (first, last) = range.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
        let (first, last): (usize, usize) = (first.parse().unwrap(), last.parse().unwrap());
        let place = format!("bytes {first}-{last}/100000");
        let fields =
            [("cache-control", "max-age=60"), ("etag", "\"a\""), ("content-range", &place)];
        status(206, &fields, vec![(first % 251) as u8; last - first + 1])
    });
    let ask = async |first: usize, last: usize| {
        let range = format!("bytes={first}-{last}");
        let answer = app.get_with("/", &[("range", &range)]).await;
        assert_eq!(answer.body[..], vec![(first % 251) as u8; last - first + 1], "{range}");
        answer.outcome.unwrap()
    };
    ask(50_001, 50_100).await;
    for number in 0..3000 {
        ask(2 * number, 2 * number).await;
    }
    assert_eq!(app.handle.len(), 1);
    assert!(app.handle.bytes() < 8000, "{}", app.handle.bytes());
    assert_eq!(ask(50_001, 50_100).await, CacheOutcome::Hit);
}

#[tokio::test]
async fn a_clock_set_back_and_forth() {
    let offset = Arc::new(AtomicI64::new(0));
    let clock = {
        let offset = offset.clone();
        move || -> SystemTime {
            let seconds = START.saturating_add_signed(offset.load(Ordering::SeqCst));
            UNIX_EPOCH + Duration::from_secs(seconds)
        }
    };
    let app = App::new(LruCacheLayer::new(10).wall_clock(clock), |number, _| {
        answer(&[("cache-control", "max-age=60")], number.to_string())
    });
    app.get("/").await;
    for (seconds, age) in [(-1_000_000, "0"), (30, "30"), (-50, "0"), (59, "59")] {
        offset.store(seconds, Ordering::SeqCst);
        let answer = app.get("/").await;
        assert_eq!((answer.text(), answer.header("age")), ("1", Some(age)), "{seconds}");
    }
    offset.store(61, Ordering::SeqCst);
    assert_eq!(app.get("/").await.text(), "2", "in doubt it is stale");
    // Before 1970 there are no dates; nothing panics.
    offset.store(-(START as i64), Ordering::SeqCst);
    assert_eq!(app.get("/").await.status, 200);
}

#[tokio::test]
async fn absurd_sizes_pass() {
    let long = "x".repeat(60_000);
    let app = App::new(layer(), {
        let long = long.clone();
        move |_, _| {
            let control = format!("max-age=60, {long}=\"{long}\"");
            answer(&[("cache-control", control.as_str()), ("x-long", &long)], "0123")
        }
    });
    let path = format!("/{long}");
    assert_eq!(app.get(&path).await.status, 200);
    assert_eq!(app.get(&path).await.outcome, Some(CacheOutcome::Hit));
    let ranges = format!("bytes={}", vec!["0-0"; 10_000].join(","));
    assert_eq!(app.get_with(&path, &[("range", &ranges)]).await.status, 200);
    let tags = vec!["\"x\""; 10_000].join(", ");
    assert_eq!(app.get_with(&path, &[("if-none-match", &tags)]).await.status, 200);
}

#[tokio::test]
async fn fields_with_thousands_of_members() {
    for (name, value) in [
        ("vary", (0..5000).map(|number| format!("x-{number}")).collect::<Vec<_>>().join(", ")),
        ("connection", vec!["x-a"; 5000].join(", ")),
        ("cache-tag", vec!["a"; 5000].join(" ")),
        ("no-vary-search", format!("params=({})", "\"a\" ".repeat(5000).trim())),
    ] {
        let app = App::new(layer().rfc9111(), move |number, _| {
            answer(&[("cache-control", "max-age=60"), (name, &value)], number.to_string())
        });
        app.get("/").await;
        let second = app.get("/").await;
        assert_eq!((second.text(), second.outcome), ("1", Some(CacheOutcome::Hit)), "{name}");
        let third = app.get_with("/", &[("x-7", "1")]).await;
        assert_eq!(third.text(), if name == "vary" { "2" } else { "1" }, "{name}");
    }
}

fn fields() -> impl Strategy<Value = Vec<(HeaderName, HeaderValue)>> {
    let names = [
        "cache-control",
        "cdn-cache-control",
        "expires",
        "date",
        "age",
        "vary",
        "etag",
        "last-modified",
        "set-cookie",
        "content-length",
        "content-range",
        "connection",
        "pragma",
        "no-vary-search",
        "cache-tag",
        "range",
        "if-range",
        "if-none-match",
        "if-modified-since",
        "accept-language",
        "accept-encoding",
        "authorization",
        "host",
        "content-location",
        "location",
        "transfer-encoding",
        "upgrade",
    ];
    let name = proptest::sample::select(names.to_vec());
    let pieces = proptest::sample::select(vec![
        "max-age",
        "=",
        "60",
        ",",
        " ",
        "\"",
        "\\",
        "*",
        "bytes",
        "-",
        "0",
        "9",
        "/",
        "10",
        ";",
        "W/",
        "\"a\"",
        "no-cache",
        "private",
        "s-maxage",
        "stale-while-revalidate",
        "GMT",
        "Thu",
        "01",
        "Jan",
        "2026",
        ":",
        "00",
        "x",
        "(",
        ")",
        "?",
        "key-order",
        "params",
        "\u{fc}",
        "99999999999999999999",
        "q",
        "0.5",
        "en",
        "http",
        "h",
        "identity",
    ]);
    let value = proptest::collection::vec(pieces, 0..8).prop_map(|pieces| pieces.concat());
    let field = (name, value).prop_map(|(name, value)| {
        (HeaderName::from_static(name), HeaderValue::from_bytes(value.as_bytes()).unwrap())
    });
    proptest::collection::vec(field, 0..8)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever the fields are: each request has an answer, made for its own resource, and never one that
    /// was refused to be stored.
    #[test]
    fn fields_of_every_kind(
        first in fields(),
        second in fields(),
        response in fields(),
        rfc9111 in any::<bool>(),
        codes in proptest::collection::vec(
            proptest::sample::select(vec![200, 200, 200, 204, 206, 206, 301, 304, 404, 416, 500, 503]),
            4,
        ),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let layer = if rfc9111 { layer().rfc9111() } else { layer() };
            let forbidden = response.iter().any(|(name, value)| {
                name == "cache-control" && value.as_bytes().windows(7).any(|word| word == b"private")
                    && value == "private"
            });
            let targeted = response.iter().any(|(name, _)| name == "cdn-cache-control");
            let app = App::new(layer, move |number, request| {
                let text = format!("{} {number}", request.uri.path());
                let mut answer = status(codes[(number - 1) % codes.len()], &[], text);
                for (name, value) in &response {
                    // A length that lies is the handler's error, and has a test of its own.
                    if name != "content-length" {
                        answer.headers_mut().append(name, value.clone());
                    }
                }
                answer
            });
            for (path, fields) in [("/a", &first), ("/b", &first), ("/a", &second), ("/a", &first)] {
                let mut request = get(path, &[]);
                for (name, value) in fields {
                    request.headers_mut().append(name, value.clone());
                }
                let answer = tokio::time::timeout(Duration::from_secs(5), app.send(request)).await;
                let answer = answer.expect("no request hangs");
                if answer.status == 200 {
                    assert!(answer.text().starts_with(path), "{}", answer.text());
                }
                if forbidden && !targeted {
                    assert!(!answer.outcome.unwrap().is_from_store());
                }
            }
            assert_eq!(app.handle.fills(), 0);
        });
    }
}
