//! A miss of one variant: the origin is told of the others, and may name one of them.

use std::sync::{Arc, Mutex};

use axum::body::Body;
use graceful::cache::{CacheOutcome, LruCacheLayer};
use http::{Response, request};

use super::support::*;

fn asked(request: &request::Parts, name: &str) -> Option<String> {
    request.headers.get(name).map(|value| value.to_str().unwrap().to_owned())
}

/// Two representations for any number of kinds: `big...` and `small...`, with their tags.
fn origin(request: &request::Parts) -> Response<Body> {
    let kind = asked(request, "x-kind").unwrap();
    let text = if kind.starts_with("big") { "big" } else { "small" };
    let tag = format!("\"{text}\"");
    let headers = [("cache-control", "max-age=10"), ("etag", &tag), ("vary", "x-kind")];
    let known = asked(request, "if-none-match").unwrap_or_default();
    if known.split(", ").any(|known| known == tag) {
        return status(304, &headers, "");
    }
    answer(&headers, text)
}

/// The app, and the `If-None-Match` of each call.
fn app(layer: LruCacheLayer) -> (App, Arc<Mutex<Vec<Option<String>>>>) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let app = App::new(layer, {
        let seen = seen.clone();
        move |_, request| {
            seen.lock().unwrap().push(asked(request, "if-none-match"));
            origin(request)
        }
    });
    (app, seen)
}

async fn of_kind(app: &App, kind: &str) -> Answer {
    app.get_with("/", &[("x-kind", kind)]).await
}

#[tokio::test]
async fn a_304_names_the_stored_variant_that_answers() {
    // RFC 9111, sections 4.1, 4.3.1 and 4.3.4; RFC 9110, section 13.1.2.
    let (app, seen) = app(layer().rfc9111());
    let table = [
        ("big", "big", None, CacheOutcome::Miss),
        ("small", "small", Some("\"big\""), CacheOutcome::Miss),
        ("big 2", "big", Some("\"small\", \"big\""), CacheOutcome::Validated),
        ("small 2", "small", Some("\"big\", \"small\""), CacheOutcome::Validated),
    ];
    for (number, (kind, text, tags, outcome)) in table.into_iter().enumerate() {
        let answer = of_kind(&app, kind).await;
        assert_eq!((answer.status.as_u16(), answer.text()), (200, text), "{kind}");
        assert_eq!(answer.outcome, Some(outcome), "{kind}");
        assert_eq!(seen.lock().unwrap()[number].as_deref(), tags, "{kind}");
        if outcome == CacheOutcome::Validated {
            let said = answer.header("cache-status").unwrap();
            assert_eq!(said, "graceful; fwd=vary-miss; fwd-status=304; ttl=10");
        }
    }
    // From now on it answers those who ask like this, and the one before still has its own.
    for (kind, text, ..) in table {
        let hit = of_kind(&app, kind).await;
        assert_eq!((hit.text(), hit.outcome), (text, Some(CacheOutcome::Hit)), "{kind}");
    }
    assert_eq!(app.calls(), 4);
    assert_eq!(app.handle.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_variant_that_a_304_names_is_fresh_again() {
    // RFC 9111, section 4.3.4: what has the same strong tag is updated.
    let (app, _) = app(layer().rfc9111());
    of_kind(&app, "big").await;
    advance(11).await;
    of_kind(&app, "big 2").await;
    assert_eq!(of_kind(&app, "big").await.outcome, Some(CacheOutcome::Hit));
    assert_eq!(app.calls(), 2);
}

#[tokio::test]
async fn conditions_of_the_client_are_judged_on_the_variant() {
    let (app, seen) = app(layer().rfc9111());
    of_kind(&app, "big").await;
    for (number, (tag, status)) in [("\"big\"", 304), ("\"other\"", 200)].into_iter().enumerate() {
        let kind = format!("big {number}");
        let answer = app.get_with("/", &[("x-kind", &kind), ("if-none-match", tag)]).await;
        assert_eq!(answer.status, status, "{tag}");
        assert_eq!(seen.lock().unwrap()[number + 1].as_deref(), Some("\"big\""), "the store's");
    }
}

#[tokio::test]
async fn by_default_nothing_is_said_of_other_variants() {
    let (app, seen) = app(layer());
    for kind in ["big", "small", "big 2"] {
        of_kind(&app, kind).await;
    }
    assert_eq!(*seen.lock().unwrap(), [None, None, None]);
}

#[tokio::test]
async fn what_may_be_that_of_all_variants_is_not_sent() {
    // A weak tag; one that was made here; the bytes in a coding that the client does not accept.
    let table: &[(&[(&str, &str)], Option<&str>)] = &[
        (&[("etag", "\"a\"")], Some("\"a\"")),
        (&[("etag", "W/\"a\"")], None),
        (&[], None),
        (&[("etag", "\"a\""), ("content-encoding", "gzip")], None),
        (&[("etag", "\"a\""), ("content-encoding", "br")], Some("\"a\"")),
    ];
    for (fields, expected) in table {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let app = App::new(layer().rfc9111(), {
            let seen = seen.clone();
            move |_, request| {
                seen.lock().unwrap().push(asked(request, "if-none-match"));
                let mut headers = vec![("cache-control", "max-age=60"), ("vary", "x-kind")];
                headers.extend(*fields);
                answer(&headers, "x")
            }
        });
        for kind in ["1", "2"] {
            app.get_with("/", &[("x-kind", kind), ("accept-encoding", "br")]).await;
        }
        assert_eq!(seen.lock().unwrap()[1].as_deref(), *expected, "{fields:?}");
    }
}

#[tokio::test]
async fn a_304_that_names_none_of_several_answers_nothing() {
    // RFC 9111, section 4.3.4: it cannot be known which one is meant. The next one is asked for plainly.
    for (stored, tag, code) in
        [(1, None, 200), (2, None, 502), (1, Some("\"other\""), 502), (2, Some("\"2\""), 200)]
    {
        let app = App::new(layer().rfc9111(), move |number, request| {
            if asked(request, "x-kind").as_deref() == Some("last")
                && request.headers.contains_key("if-none-match")
            {
                let headers: Vec<_> = tag.iter().map(|tag| ("etag", *tag)).collect();
                return status(304, &headers, "");
            }
            let tag = format!("\"{number}\"");
            let headers = [("cache-control", "max-age=60"), ("etag", &tag), ("vary", "x-kind")];
            answer(&headers, number.to_string())
        });
        for kind in 0..stored {
            of_kind(&app, &kind.to_string()).await;
        }
        let answer = of_kind(&app, "last").await;
        assert_eq!(answer.status, code, "{stored} {tag:?}");
        if code == 200 {
            assert_eq!(answer.text(), stored.to_string());
        } else {
            assert_eq!(of_kind(&app, "last").await.text(), (stored + 2).to_string());
        }
    }
}

#[tokio::test]
async fn a_variant_that_a_304_forbids_to_keep_is_for_one_client() {
    for control in ["private", "no-store"] {
        let app = App::new(layer().rfc9111(), move |_, request| {
            let mut response = origin(request);
            if response.status() == 304 {
                response.headers_mut().insert("cache-control", control.parse().unwrap());
            }
            response
        });
        of_kind(&app, "big").await;
        assert_eq!(of_kind(&app, "big 2").await.text(), "big");
        // What it forbids is true of what was stored, too.
        assert_eq!(app.handle.len(), 0, "{control}");
        assert_eq!(of_kind(&app, "big 2").await.outcome, Some(CacheOutcome::Miss), "{control}");
        assert_eq!(app.calls(), 3);
    }
}
