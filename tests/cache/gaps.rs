//! Rules that the public suite leaves out (its issues 178 to 194 name them), each with its section of an RFC.

use graceful::cache::CacheOutcome;
use http::Method;

use super::support::*;

/// Two bodies, one after the other, that live for ten seconds.
fn changing(headers: &'static [(&'static str, &'static str)]) -> App {
    App::new(layer().rfc9111(), move |number, _| answer(headers, format!("{number}")))
}

#[tokio::test]
async fn safe_methods_invalidate_nothing() {
    // RFC 9111, section 4.4.
    let app = changing(&[("cache-control", "max-age=60")]);
    app.get("/").await;
    for method in [Method::GET, Method::HEAD, Method::OPTIONS, Method::TRACE] {
        app.send(request(method, "/", &[])).await;
        assert_eq!(app.get("/").await.outcome, Some(CacheOutcome::Hit));
    }
}

#[tokio::test(start_paused = true)]
async fn only_if_cached_gets_what_is_stored() {
    // RFC 9111, section 5.2.1.7.
    let only = [("cache-control", "only-if-cached")];
    let app = changing(&[("cache-control", "max-age=10"), ("etag", "\"a\"")]);
    assert_eq!(app.get_with("/", &only).await.status, 504);
    app.get("/").await;
    assert_eq!(app.get_with("/", &only).await.text(), "1");
    advance(10).await;
    // It may not be used stale, and nobody may be asked.
    assert_eq!(app.get_with("/", &only).await.status, 504);
    let stale = [("cache-control", "only-if-cached, max-stale")];
    assert_eq!(app.get_with("/", &stale).await.text(), "1");
    assert_eq!(app.calls(), 1);
}

#[tokio::test]
async fn conditions_that_only_the_origin_can_judge_are_forwarded() {
    // RFC 9110, sections 13.1.1 and 13.1.4.
    let app = App::new(layer(), |_, request| match request.headers.contains_key("if-match") {
        true => status(412, &[], ""),
        false => answer(&[("cache-control", "max-age=60"), ("etag", "\"a\"")], "x"),
    });
    app.get("/").await;
    assert_eq!(app.get_with("/", &[("if-match", "\"b\"")]).await.status, 412);
    assert_eq!(app.get_with("/", &[("if-unmodified-since", &date(0))]).await.status, 200);
    assert_eq!(app.calls(), 3);
    // What is stored is still good, and an asterisk names it (section 13.1.2).
    assert_eq!(app.get_with("/", &[("if-none-match", "*")]).await.status, 304);
    assert_eq!(app.calls(), 3);
}

#[tokio::test]
async fn if_range_with_a_date() {
    // RFC 9110, section 13.1.5: the date has to be the very one, and old enough to be strong.
    let modified = date(-1000);
    let same = modified.clone();
    let app = App::new(layer(), move |_, _| {
        let headers = [("cache-control", "max-age=60"), ("last-modified", &same)];
        answer(&headers, "0123456789")
    });
    app.get("/").await;
    for (since, status) in [(modified, 206), (date(-999), 200), (date(-1001), 200)] {
        let asked = [("range", "bytes=0-1"), ("if-range", since.as_str())];
        assert_eq!(app.get_with("/", &asked).await.status, status, "{since}");
    }
    assert_eq!(app.calls(), 1);
}

#[tokio::test]
async fn private_fields_are_not_stored() {
    // RFC 9111, section 5.2.2.7.
    let app = changing(&[
        ("cache-control", "max-age=60, private=\"X-Mine\""),
        ("x-mine", "1"),
        ("x-ours", "1"),
    ]);
    assert_eq!(app.get("/").await.header("x-mine"), Some("1"));
    let hit = app.get("/").await;
    assert_eq!((hit.header("x-mine"), hit.header("x-ours")), (None, Some("1")));
}

#[tokio::test(start_paused = true)]
async fn max_stale_with_and_without_a_limit() {
    // RFC 9111, section 5.2.1.2.
    let app = changing(&[("cache-control", "max-age=10"), ("etag", "\"a\"")]);
    app.get("/").await;
    advance(110).await;
    assert_eq!(app.get_with("/", &[("cache-control", "max-stale")]).await.text(), "1");
    assert_eq!(app.get_with("/", &[("cache-control", "max-stale=100")]).await.text(), "1");
    assert_eq!(app.get_with("/", &[("cache-control", "max-stale=99")]).await.text(), "2");
}

#[tokio::test(start_paused = true)]
async fn a_full_answer_to_a_validation_replaces_what_is_stored() {
    // RFC 9111, section 4.3.3.
    let app = changing(&[("cache-control", "max-age=10"), ("etag", "\"a\"")]);
    app.get("/").await;
    advance(10).await;
    assert_eq!(app.get("/").await.text(), "2");
    let hit = app.get("/").await;
    assert_eq!((hit.text(), hit.outcome), ("2", Some(CacheOutcome::Hit)));
}

#[tokio::test(start_paused = true)]
async fn a_304_that_names_another_entity_tag_updates_nothing() {
    // RFC 9111, section 4.3.4.
    let app = App::new(layer(), |number, _| match number {
        1 => answer(&[("cache-control", "max-age=10"), ("etag", "\"a\""), ("x-any", "1")], "1"),
        2 => status(304, &[("cache-control", "max-age=10"), ("etag", "\"b\""), ("x-any", "2")], ""),
        _ => answer(&[("cache-control", "max-age=10"), ("etag", "\"b\"")], "3"),
    });
    app.get("/").await;
    advance(10).await;
    let validated = app.get("/").await;
    assert_eq!((validated.text(), validated.header("x-any")), ("1", Some("1")));
    assert_eq!(validated.header("etag"), Some("\"a\""));
    assert_eq!(app.get("/").await.text(), "3");
}

#[tokio::test(start_paused = true)]
async fn head_that_shows_a_change_makes_what_is_stored_stale() {
    // RFC 9111, section 4.3.5.
    let app = App::new(layer(), |number, _| {
        let tag = format!("\"{number}\"");
        answer(&[("cache-control", "max-age=10"), ("etag", &tag)], format!("{number}"))
    });
    app.get("/").await;
    advance(10).await;
    app.send(request(Method::HEAD, "/", &[])).await;
    assert_eq!(app.get("/").await.text(), "3");
}

#[tokio::test]
async fn statuses_that_may_be_stored() {
    // RFC 9111, sections 3 and 4.2.2; RFC 9110, section 15.1.
    for (code, heuristic) in [
        (300, true),
        (301, true),
        (308, true),
        (405, true),
        (414, true),
        (451, false),
        (501, true),
        (206, false),
    ] {
        for explicit in [true, false] {
            let app = App::new(layer().rfc9111(), move |number, _| {
                let modified = date(-100_000);
                let control = ("cache-control", "max-age=60");
                let dated = ("last-modified", modified.as_str());
                let headers = if explicit { [control] } else { [dated] };
                status(code, &headers, format!("{number}"))
            });
            app.get("/").await;
            let stored = app.get("/").await.text() == "1";
            assert_eq!(stored, code != 206 && (explicit || heuristic), "{code} {explicit}");
        }
    }
}

#[tokio::test]
async fn a_range_outside_of_the_stored_parts_is_forwarded() {
    // RFC 9111, section 3.4; RFC 9110, section 15.5.17.
    let app = App::new(layer(), |_, request| {
        let head = [("cache-control", "max-age=60"), ("etag", "\"a\"")];
        let part = |range, text: &'static str| {
            status(206, &[head[0], head[1], ("content-range", range)], text)
        };
        match request.headers["range"].to_str().unwrap() {
            "bytes=0-4" => part("bytes 0-4/10", "01234"),
            "bytes=4-6" => part("bytes 4-6/10", "456"),
            _ => status(416, &[("content-range", "bytes */10")], ""),
        }
    });
    app.get_with("/", &[("range", "bytes=0-4")]).await;
    for (range, text, calls) in
        [("bytes=1-2", "12", 1), ("bytes=4-6", "456", 2), ("bytes=3-5", "345", 2)]
    {
        assert_eq!(app.get_with("/", &[("range", range)]).await.text(), text, "{range}");
        assert_eq!(app.calls(), calls, "{range}");
    }
    assert_eq!(app.get_with("/", &[("range", "bytes=10-")]).await.status, 416);
}

#[tokio::test]
async fn a_cache_that_a_targeted_field_does_not_name_ignores_it() {
    // RFC 9213, section 2.
    let headers = [("cache-control", "max-age=60"), ("cdn-cache-control", "no-store")];
    for (named, calls) in [(true, 2), (false, 1)] {
        let layer = if named { layer() } else { layer().targeted([]) };
        let app = App::new(layer, move |_, _| answer(&headers, "x"));
        app.get("/").await;
        app.get("/").await;
        assert_eq!(app.calls(), calls);
    }
}

#[tokio::test]
async fn if_modified_since_against_a_stored_date() {
    // RFC 9111, section 4.3.2.
    let now = date(0);
    let app = App::new(layer().make_etag(false), move |_, _| {
        answer(&[("cache-control", "max-age=60"), ("date", &now)], "x")
    });
    app.get("/").await;
    for (since, status) in [(date(-1), 200), (date(0), 304)] {
        let answer = app.get_with("/", &[("if-modified-since", &since)]).await;
        assert_eq!(answer.status, status, "{since}");
    }
    assert_eq!(app.calls(), 1);
}

#[tokio::test]
async fn ranges_and_conditions_are_for_successful_get() {
    // RFC 9110, sections 13.2.1 and 14.2.
    let app = App::new(layer(), |_, request| {
        let code = request.uri.path().trim_start_matches('/').parse().unwrap();
        status(code, &[("cache-control", "max-age=60"), ("etag", "\"a\"")], "0123456789")
    });
    let range = ("range", "bytes=0-1");
    let known = ("if-none-match", "\"a\"");
    for (method, path, headers, code, length) in [
        (Method::GET, "/200", [range].as_slice(), 206, "2"),
        (Method::HEAD, "/200", &[range], 200, "10"),
        (Method::GET, "/404", &[range], 404, "10"),
        (Method::GET, "/203", &[range], 203, "10"),
        (Method::HEAD, "/200", &[known], 304, ""),
        (Method::GET, "/203", &[known], 304, ""),
        (Method::GET, "/404", &[known], 404, "10"),
        (Method::GET, "/301", &[known], 301, "10"),
    ] {
        app.get(path).await;
        let answer = app.send(request(method.clone(), path, headers)).await;
        let name = format!("{method} {path} {headers:?}");
        assert_eq!(answer.outcome, Some(CacheOutcome::Hit), "{name}");
        assert_eq!(answer.status, code, "{name}");
        assert_eq!(answer.header("content-length").unwrap_or(""), length, "{name}");
    }
}
