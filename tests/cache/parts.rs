//! Several parts in one answer, and what is missing of a response of which parts are stored.

use std::sync::{Arc, Mutex};

use axum::body::Body;
use bytes::Bytes;
use graceful::cache::{CacheOutcome, LruCacheLayer};
use http::{HeaderMap, Request, Response, request};
use tokio::sync::Semaphore;

use super::support::*;

/// A body of `length` in which every place can be told.
fn text(length: usize) -> String {
    (0..length.div_ceil(4)).map(|number| format!("{number:03} ")).collect::<String>()[..length]
        .into()
}

/// The parts of a `multipart/byteranges` body: their heads and contents.
fn parts(answer: &Answer) -> Vec<(String, String)> {
    let content_type = answer.header("content-type").unwrap();
    let boundary = content_type.strip_prefix("multipart/byteranges; boundary=").unwrap();
    let body = answer.text().strip_prefix(&format!("--{boundary}\r\n")).unwrap();
    let body = body.strip_suffix(&format!("\r\n--{boundary}--\r\n")).unwrap();
    body.split(&format!("\r\n--{boundary}\r\n"))
        .map(|part| part.split_once("\r\n\r\n").unwrap())
        .map(|(head, content)| (head.to_owned(), content.to_owned()))
        .collect()
}

#[tokio::test]
async fn several_ranges_are_parts_of_one_answer() {
    // RFC 9110, section 15.3.7.2.
    let body = text(1000);
    let sent = body.clone();
    let app = App::new(layer(), move |_, _| {
        let headers = [
            ("cache-control", "max-age=60"),
            ("etag", "\"a\""),
            ("content-type", "text/plain"),
            ("content-digest", "sha-256=:x:"),
        ];
        answer(&headers, sent.clone())
    });
    app.get("/").await;
    let asked = [("range", "bytes=500-509,0-3,-4"), ("if-range", "\"a\"")];
    let answer = app.get_with("/", &asked).await;
    assert_eq!((answer.status.as_u16(), answer.outcome), (206, Some(CacheOutcome::Hit)));
    assert_eq!(answer.header("content-range"), None, "each part has its own");
    assert_eq!(answer.header("content-digest"), None, "that was of everything");
    let length = answer.body.len().to_string();
    assert_eq!(answer.header("content-length"), Some(length.as_str()));
    let head = |place| format!("Content-Type: text/plain\r\nContent-Range: bytes {place}/1000");
    let expected = vec![
        (head("500-509"), body[500..510].to_owned()),
        (head("0-3"), body[..4].to_owned()),
        (head("996-999"), body[996..].to_owned()),
    ];
    assert_eq!(parts(&answer), expected);
    // Two answers do not have the same boundary.
    let another = app.get_with("/", &asked).await;
    assert_ne!(answer.header("content-type"), another.header("content-type"));
    assert_eq!(parts(&another), expected);
    for (range, if_range, status) in [
        // One range is never a multipart, whatever it was asked for with (section 15.3.7.2).
        ("bytes=0-3,2000-", "\"a\"", 206),
        ("bytes=0-3,10-20", "\"a\"", 206),
        // Everything: another representation, as much as everything, more than a client may ask for.
        ("bytes=500-509,0-3", "\"b\"", 200),
        ("bytes=0-450,540-999", "\"a\"", 200),
        (&format!("bytes={}", vec!["0-0"; 17].join(",")), "\"a\"", 200),
        ("bytes=1000-,2000-", "\"a\"", 416),
    ] {
        let answer = app.get_with("/", &[("range", range), ("if-range", if_range)]).await;
        assert_eq!(answer.status, status, "{range}");
        assert_eq!(answer.header("content-range").is_some(), status != 200, "{range}");
    }
    assert_eq!(app.calls(), 1);
}

#[tokio::test]
async fn what_is_encoded_is_not_cut_into_a_multipart() {
    let app = App::new(layer(), |_, _| {
        answer(&[("cache-control", "max-age=60"), ("content-encoding", "x")], text(1000))
    });
    app.get("/").await;
    assert_eq!(app.get_with("/", &[("range", "bytes=0-9,500-509")]).await.status, 200);
    assert_eq!(app.get_with("/", &[("range", "bytes=500-509")]).await.status, 206);
}

/// What an origin was asked: the range, and on which condition.
type Asked = Arc<Mutex<Vec<(Option<String>, Option<String>)>>>;

fn header(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name).map(|value| value.to_str().unwrap().to_owned())
}

/// Answers ranges of `0123456789` as RFC 9110, sections 13.1.5 and 14.2 have it. With `If-Range` a 206 has
/// no fields of the representation (section 15.3.7).
fn origin(request: &request::Parts, tag: &str, content: &'static str) -> Response<Body> {
    let range = header(&request.headers, "range");
    let condition = header(&request.headers, "if-range");
    let common = [("cache-control", "max-age=60"), ("etag", tag)];
    let whole = [common[0], common[1], ("content-type", "text/plain"), ("x-whole", "1")];
    let Some(range) = range.filter(|_| condition.as_deref().is_none_or(|known| known == tag))
    else {
        return answer(&whole, content);
    };
    let (first, last) = range.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
    let first: usize = first.parse().unwrap();
    let last = last.parse().unwrap_or(content.len() - 1);
    let place = format!("bytes {first}-{last}/{}", content.len());
    let mut headers = if condition.is_some() { common.to_vec() } else { whole.to_vec() };
    headers.push(("content-range", &place));
    status(206, &headers, &content[first..=last])
}

/// An origin of ten digits, and what it was asked.
fn digits(layer: LruCacheLayer) -> (App, Asked) {
    let asked = Asked::default();
    let seen = asked.clone();
    let app = App::new(layer, move |_, request| {
        let headers = &request.headers;
        seen.lock().unwrap().push((header(headers, "range"), header(headers, "if-range")));
        origin(request, "\"a\"", "0123456789")
    });
    (app, asked)
}

async fn ranged(app: &App, range: &str) -> Answer {
    app.get_with("/", &[("range", range)]).await
}

#[tokio::test]
async fn only_the_rest_is_asked_for() {
    // RFC 9111, section 3.4: what is stored, what is asked, the rest that the origin sees, the answer.
    let table: &[(&[&str], Option<&str>, Option<&str>, u16, &str)] = &[
        (&["bytes=0-3"], None, Some("bytes=4-9"), 200, "0123456789"),
        (&["bytes=7-9"], None, Some("bytes=0-6"), 200, "0123456789"),
        (&["bytes=0-3", "bytes=8-9"], None, Some("bytes=4-7"), 200, "0123456789"),
        (&["bytes=0-3"], Some("bytes=2-6"), Some("bytes=4-6"), 206, "23456"),
        (&["bytes=5-9"], Some("bytes=2-6"), Some("bytes=2-4"), 206, "23456"),
        (&["bytes=0-3", "bytes=6-9"], Some("bytes=2-7"), Some("bytes=4-5"), 206, "234567"),
        (&["bytes=0-3"], Some("bytes=-8"), Some("bytes=4-9"), 206, "23456789"),
        // Nothing of it is stored, or it lies in the middle: as it came.
        (&["bytes=0-3"], Some("bytes=6-7"), Some("bytes=6-7"), 206, "67"),
        (&["bytes=4-5"], None, None, 200, "0123456789"),
    ];
    for (stored, range, rest, code, text) in table {
        let (app, asked) = digits(layer().rfc9111());
        for range in *stored {
            ranged(&app, range).await;
        }
        let headers: Vec<_> = range.iter().map(|range| ("range", *range)).collect();
        let answer = app.get_with("/", &headers).await;
        let name = format!("{stored:?} {range:?}");
        assert_eq!((answer.status.as_u16(), answer.text()), (*code, *text), "{name}");
        // The fields that the rest had not are those of what was stored (section 3.2).
        assert_eq!(answer.header("x-whole"), Some("1"), "{name}");
        assert_eq!(answer.header("content-type"), Some("text/plain"), "{name}");
        let (seen, condition) = asked.lock().unwrap().last().unwrap().clone();
        assert_eq!(seen.as_deref(), *rest, "{name}");
        let is_rest = rest.is_some() && rest != range;
        if is_rest {
            let length = text.len().to_string();
            assert_eq!(answer.header("content-length"), Some(length.as_str()), "{name}");
        }
        assert_eq!(condition.as_deref(), is_rest.then_some("\"a\""), "{name}");
        let calls = app.calls();
        assert_eq!(calls, stored.len() + 1, "{name}");
        // Both are stored as one by now.
        let again = app.get_with("/", &headers).await;
        assert_eq!((again.status.as_u16(), again.text()), (*code, *text), "{name}");
        assert_eq!((again.outcome, app.calls()), (Some(CacheOutcome::Hit), calls), "{name}");
        assert_eq!(again.header("x-whole"), Some("1"), "{name}");
    }
}

#[tokio::test]
async fn the_rest_is_said_to_be_partial_and_stored() {
    // RFC 9211, section 2.2: what was forwarded is a part of what was asked.
    let (app, _) = digits(layer().rfc9111());
    ranged(&app, "bytes=0-3").await;
    let rest = ranged(&app, "bytes=0-6").await;
    let said = rest.header("cache-status").unwrap();
    assert_eq!(said, "graceful; fwd=partial; fwd-status=206; stored");
    assert_eq!(rest.header("content-range"), Some("bytes 0-6/10"));
    let whole = app.get("/").await;
    assert_eq!(whole.header("cache-status"), Some(said));
}

#[tokio::test]
async fn by_default_everything_is_asked_for() {
    let (app, asked) = digits(layer());
    ranged(&app, "bytes=0-3").await;
    assert_eq!(ranged(&app, "bytes=0-6").await.text(), "0123456");
    assert_eq!(app.get("/").await.text(), "0123456789");
    let asked = asked.lock().unwrap();
    assert_eq!(asked[1], (Some("bytes=0-6".to_owned()), None));
    assert_eq!(asked[2], (None, None));
}

#[tokio::test]
async fn a_part_that_a_client_completes_leaves_the_fields_of_the_first() {
    // RFC 9111, section 3.2: the second 206 has not all of them, because of If-Range.
    let (app, asked) = digits(layer());
    ranged(&app, "bytes=0-3").await;
    app.get_with("/", &[("range", "bytes=4-9"), ("if-range", "\"a\"")]).await;
    assert_eq!(asked.lock().unwrap()[1], (Some("bytes=4-9".to_owned()), Some("\"a\"".to_owned())));
    let whole = app.get("/").await;
    assert_eq!((whole.text(), whole.outcome), ("0123456789", Some(CacheOutcome::Hit)));
    assert_eq!(
        (whole.header("content-type"), whole.header("x-whole")),
        (Some("text/plain"), Some("1"))
    );
    assert_eq!(app.calls(), 2);
}

#[tokio::test]
async fn a_changed_representation_comes_whole() {
    // RFC 9110, section 13.1.5: If-Range is false, so Range is ignored.
    for range in [None, Some("bytes=0-6")] {
        let app = App::new(layer().rfc9111(), |number, request| match number {
            1 => origin(request, "\"a\"", "0123456789"),
            _ => origin(request, "\"b\"", "abcdefghij"),
        });
        ranged(&app, "bytes=0-3").await;
        let headers: Vec<_> = range.iter().map(|range| ("range", *range)).collect();
        let answer = app.get_with("/", &headers).await;
        assert_eq!((answer.status.as_u16(), answer.text()), (200, "abcdefghij"), "{range:?}");
        assert_eq!(app.get("/").await.text(), "abcdefghij");
        assert_eq!(app.calls(), 2, "{range:?}");
    }
}

#[tokio::test]
async fn parts_that_do_not_belong_together_are_not_joined() {
    // An origin that ignores If-Range, or answers with other bytes than were asked for.
    let false_rest: &[(&str, &str)] = &[
        ("\"b\"", "bytes 4-9/10"),
        ("W/\"a\"", "bytes 4-9/10"),
        ("\"a\"", "bytes 3-8/10"),
        ("\"a\"", "bytes 4-9/11"),
        ("\"a\"", "bytes 4-9/*"),
    ];
    for (tag, place) in false_rest {
        let make = || {
            App::new(layer().rfc9111(), move |number, request| match number {
                2 => {
                    let headers = [
                        ("cache-control", "max-age=60"),
                        ("etag", *tag),
                        ("content-range", *place),
                    ];
                    status(206, &headers, "efghij")
                }
                _ => origin(request, "\"a\"", "0123456789"),
            })
        };
        let app = make();
        ranged(&app, "bytes=0-3").await;
        // Who asked for a range sees which one came.
        let part = ranged(&app, "bytes=0-9").await;
        assert_eq!((part.status.as_u16(), part.text()), (206, "efghij"), "{tag} {place}");
        assert_eq!(part.header("content-range"), Some(*place));
        let app = make();
        ranged(&app, "bytes=0-3").await;
        // Who asked for everything cannot have it, once.
        let whole = app.get("/").await;
        assert_eq!((whole.status.as_u16(), whole.text()), (502, ""), "{tag} {place}");
        assert_eq!(app.get("/").await.text(), "0123456789", "{tag} {place}");
        assert_eq!(app.calls(), 3);
    }
}

#[tokio::test]
async fn a_rest_of_another_length_is_not_joined() {
    for range in [None, Some("bytes=0-9")] {
        for rest in ["45678", "456789+"] {
            let app = App::new(layer().rfc9111(), move |number, request| {
                let mut response = origin(request, "\"a\"", "0123456789");
                if number == 2 {
                    let pieces = vec![Bytes::from_static(rest.as_bytes())];
                    *response.body_mut() = Body::new(super::body::Pieces::new(pieces));
                }
                response
            });
            ranged(&app, "bytes=0-3").await;
            let headers: Vec<_> = range.iter().map(|range| ("range", *range)).collect();
            let response = app.start(get("/", &headers)).await;
            let failed = http_body_util::BodyExt::collect(response.into_body()).await;
            assert!(failed.is_err(), "{range:?} {rest}");
            assert_eq!(app.get("/").await.text(), "0123456789", "{range:?} {rest}");
            assert_eq!(app.calls(), 3);
        }
    }
}

#[tokio::test]
async fn a_rest_that_may_not_be_stored_is_for_one_client() {
    for range in [None, Some("bytes=0-9")] {
        let app = App::new(layer().rfc9111(), |number, request| {
            let mut response = origin(request, "\"a\"", "0123456789");
            if number > 1 {
                let control = "private, max-age=60".parse().unwrap();
                response.headers_mut().insert("cache-control", control);
                response.headers_mut().insert("set-cookie", "a=b".parse().unwrap());
            }
            response
        });
        ranged(&app, "bytes=0-3").await;
        let headers: Vec<_> = range.iter().map(|range| ("range", *range)).collect();
        for calls in 2..4 {
            let answer = app.get_with("/", &headers).await;
            assert_eq!(answer.text(), "0123456789", "{range:?}");
            assert_eq!(answer.header("set-cookie"), Some("a=b"), "{range:?}");
            assert_eq!(app.calls(), calls, "{range:?}");
        }
    }
}

#[tokio::test]
async fn conditions_come_before_ranges_of_what_is_stored_in_part() {
    // RFC 9110, section 13.2.2.
    let app = App::new(layer().rfc9111(), |_, request| {
        match header(&request.headers, "if-none-match").as_deref() {
            Some("\"a\"") => status(304, &[("etag", "\"a\"")], ""),
            _ => origin(request, "\"a\"", "0123456789"),
        }
    });
    ranged(&app, "bytes=0-3").await;
    for range in ["bytes=0-1", "bytes=0-6"] {
        let answer = app.get_with("/", &[("range", range), ("if-none-match", "\"a\"")]).await;
        assert_eq!(answer.status, 304, "{range}");
    }
    // Of everything, a condition is judged on what both make.
    let whole = app.get_with("/", &[("if-none-match", "\"a\"")]).await;
    assert_eq!((whole.status.as_u16(), whole.text()), (304, ""));
    assert_eq!(app.get("/").await.text(), "0123456789");
}

/// An origin that answers once, and from then on as often as its gate is opened.
fn gated() -> (App, Arc<Semaphore>) {
    let gate = Arc::new(Semaphore::new(1));
    let app = App::with_service(layer().rfc9111(), {
        let gate = gate.clone();
        move |_, request: Request<Body>| {
            let gate = gate.clone();
            async move {
                gate.acquire().await.unwrap().forget();
                Ok(origin(&request.into_parts().0, "\"a\"", "0123456789"))
            }
        }
    });
    (app, gate)
}

#[tokio::test]
async fn a_hundred_requests_ask_for_the_rest_once() {
    let (app, gate) = gated();
    ranged(&app, "bytes=0-3").await;
    let clients: Vec<_> = (0..100)
        .map(|_| {
            let app = app.clone();
            tokio::spawn(async move { app.get("/").await })
        })
        .collect();
    while app.handle.stats().misses < 101 {
        tokio::task::yield_now().await;
    }
    gate.add_permits(100);
    for client in clients {
        assert_eq!(client.await.unwrap().text(), "0123456789");
    }
    assert_eq!(app.calls(), 2);
}

#[tokio::test]
async fn the_stored_beginning_does_not_wait_for_the_rest() {
    let (send, receive) = tokio::sync::mpsc::channel::<Bytes>(1);
    let receive = Mutex::new(Some(receive));
    let app = App::new(layer().rfc9111(), move |number, request| {
        let mut response = origin(request, "\"a\"", "0123456789");
        if number == 2 {
            let receive = receive.lock().unwrap().take().unwrap();
            *response.body_mut() = Body::new(super::body::Channel::new(receive));
        }
        response
    });
    ranged(&app, "bytes=0-3").await;
    let mut response = app.start(get("/", &[])).await;
    let mut frame = async || {
        let frame = http_body_util::BodyExt::frame(response.body_mut()).await;
        frame.map(|frame| frame.unwrap().into_data().unwrap())
    };
    assert_eq!(frame().await.unwrap(), "0123");
    send.send(Bytes::from_static(b"456")).await.unwrap();
    assert_eq!(frame().await.unwrap(), "456");
    send.send(Bytes::from_static(b"789")).await.unwrap();
    drop(send);
    assert_eq!(frame().await.unwrap(), "789");
    assert_eq!(frame().await, None);
}

#[tokio::test]
async fn what_is_skipped_is_not_stored_with_what_was() {
    for range in [None, Some("bytes=0-6")] {
        let skip = |parts: &http::response::Parts| parts.headers.contains_key("x-skip");
        let app = App::new(layer().rfc9111().skip_response(skip), |number, request| {
            let mut response = origin(request, "\"a\"", "0123456789");
            if number > 1 {
                response.headers_mut().insert("x-skip", "1".parse().unwrap());
            }
            response
        });
        ranged(&app, "bytes=0-3").await;
        let headers: Vec<_> = range.iter().map(|range| ("range", *range)).collect();
        for calls in 2..4 {
            assert_eq!(app.get_with("/", &headers).await.header("x-skip"), Some("1"));
            assert_eq!(app.calls(), calls, "{range:?}");
        }
    }
}

#[tokio::test]
async fn a_purge_while_the_rest_comes_keeps_all_of_it_out() {
    for range in [None, Some("bytes=0-6")] {
        let (app, gate) = gated();
        ranged(&app, "bytes=0-3").await;
        let headers: Vec<_> = range.iter().map(|range| ("range", *range)).collect();
        let rest = tokio::spawn({
            let (app, request) = (app.clone(), get("/", &headers));
            async move { app.send(request).await }
        });
        while app.calls() < 2 {
            tokio::task::yield_now().await;
        }
        app.handle.clear();
        gate.add_permits(2);
        assert!(rest.await.unwrap().text().starts_with("0123456"));
        assert_eq!(app.handle.len(), 0, "{range:?}");
        assert_eq!(
            app.get_with("/", &headers).await.outcome,
            Some(CacheOutcome::Miss),
            "{range:?}"
        );
    }
}

#[tokio::test]
async fn trailers_of_the_rest_are_not_those_of_the_whole() {
    for range in [None, Some("bytes=0-9")] {
        let app = App::new(layer().rfc9111(), |number, request| {
            let response = origin(request, "\"a\"", "0123456789");
            if number == 1 {
                return response;
            }
            let (parts, body) = response.into_parts();
            let mut trailers = HeaderMap::new();
            trailers.insert("checksum", "1".parse().unwrap());
            let body = http_body_util::BodyExt::with_trailers(body, async { Some(Ok(trailers)) });
            Response::from_parts(parts, Body::new(body))
        });
        ranged(&app, "bytes=0-3").await;
        let headers: Vec<_> = range.iter().map(|range| ("range", *range)).collect();
        for _ in 0..2 {
            let answer = app.get_with("/", &headers).await;
            assert_eq!(answer.text(), "0123456789", "{range:?}");
            assert_eq!(answer.trailers, None, "{range:?}");
        }
        assert_eq!(app.calls(), 2, "{range:?}");
    }
}
