//! Mistakes that other caches make; each of these tests fails on them.

use axum::body::Body;
use bytes::Bytes;
use graceful::cache::CacheOutcome;
use http::{Method, Request};
use http_body_util::BodyExt;

use super::support::*;

#[tokio::test]
async fn queries_are_told_apart() {
    let app = App::new(layer(), |_, request| {
        answer(
            &[("cache-control", "public, max-age=60")],
            request.uri.query().unwrap_or("").to_owned(),
        )
    });
    assert_eq!(app.get("/x?a=1").await.text(), "a=1");
    assert_eq!(app.get("/x?a=2").await.text(), "a=2");
    assert_eq!(app.get("/x").await.text(), "");
    assert_eq!(app.get("/x?a=1").await.outcome, Some(CacheOutcome::Hit));
    assert_eq!(app.calls(), 3);
}

fn language(request: &http::request::Parts) -> String {
    request.headers["accept-language"].to_str().unwrap().to_owned()
}

#[tokio::test]
async fn variants_are_told_apart_whatever_states_their_lifetime() {
    let expires = date(3600);
    for freshness in [("expires", expires.as_str()), ("cache-control", "max-age=60")] {
        let freshness = (freshness.0.to_owned(), freshness.1.to_owned());
        let app = App::new(layer(), move |_, request| {
            let headers =
                [(freshness.0.as_str(), freshness.1.as_str()), ("vary", "Accept-Language")];
            answer(&headers, language(request))
        });
        for text in ["en", "de", "en", "de"] {
            let answer = app.get_with("/", &[("accept-language", text)]).await;
            assert_eq!(answer.text(), text);
        }
        assert_eq!(app.calls(), 2);
    }
}

#[tokio::test]
async fn a_part_is_not_taken_for_the_whole() {
    let app = App::new(layer(), |_, request| {
        if request.headers.contains_key("range") {
            let headers = [
                ("cache-control", "public, max-age=60"),
                ("content-range", "bytes 0-1/4"),
                ("etag", "\"a\""),
            ];
            return status(206, &headers, "01");
        }
        answer(&[("cache-control", "public, max-age=60"), ("etag", "\"a\"")], "0123")
    });
    assert_eq!(app.get_with("/", &[("range", "bytes=0-1")]).await.text(), "01");
    let whole = app.get("/").await;
    assert_eq!((whole.status.as_u16(), whole.text()), (200, "0123"));
}

#[tokio::test]
async fn answers_to_post_are_not_replayed() {
    let app = App::with_service(layer(), |_, request| async move {
        let body = request.into_body().collect().await.unwrap().to_bytes();
        Ok(answer(&[("cache-control", "max-age=60")], body))
    });
    for text in ["one", "two"] {
        let mut post = request(Method::POST, "/", &[]);
        *post.body_mut() = Body::from(text);
        assert_eq!(app.send(post).await.text(), text);
    }
    assert_eq!(app.get("/").await.text(), "", "nor for GET");
    assert_eq!(app.calls(), 3);
}

#[tokio::test]
async fn what_is_for_one_user_is_not_for_another() {
    let app = App::new(layer(), |_, request| {
        let user = request.headers["authorization"].to_str().unwrap().to_owned();
        answer(&[("cache-control", "max-age=60")], user)
    });
    for user in ["alice", "bob", "alice"] {
        assert_eq!(app.get_with("/", &[("authorization", user)]).await.text(), user);
    }
    assert_eq!(app.calls(), 3);
}

#[tokio::test]
async fn cookies_are_not_handed_to_the_next_client() {
    for control in ["max-age=60", "public, max-age=60"] {
        let app = App::new(layer(), move |number, _| {
            let cookie = format!("id={number}");
            answer(&[("cache-control", control), ("set-cookie", &cookie)], "")
        });
        assert_eq!(app.get("/").await.header("set-cookie"), Some("id=1"));
        assert_eq!(app.get("/").await.header("set-cookie"), Some("id=2"));
    }
}

#[tokio::test]
async fn no_store_is_not_stored() {
    for control in
        ["no-store", "No-Store, max-age=60", "Private, max-age=60", "max-age=60, PRIVATE"]
    {
        let app = App::new(layer(), move |number, _| {
            answer(&[("cache-control", control)], number.to_string())
        });
        assert_eq!(app.get("/").await.text(), "1");
        assert_eq!(app.get("/").await.text(), "2");
        assert_eq!(app.handle.len(), 0);
    }
}

#[cfg(feature = "serve")]
#[tokio::test]
async fn nested_routers_do_not_collide() {
    use axum::Router;
    use axum::routing::get as route;
    use graceful::cache::LruCacheLayer;
    use tower::ServiceExt;

    let layer = LruCacheLayer::new(1000);
    let nested = |text: &'static str| {
        Router::new()
            .route("/x", route(move || async move { ([("cache-control", "max-age=60")], text) }))
            .layer(layer.clone())
    };
    let app = Router::new().nest("/a", nested("A")).nest("/b", nested("B"));
    for (path, expected) in [("/a/x", "A"), ("/b/x", "B"), ("/a/x", "A"), ("/b/x", "B")] {
        let response = app.clone().oneshot(get(path, &[])).await.unwrap();
        assert_eq!(read(response).await.text(), expected);
    }
    assert_eq!(layer.handle().stats().hits, 2);
}

#[tokio::test]
async fn hosts_are_told_apart_and_two_are_none() {
    let app = App::new(layer(), |_, request| {
        let host = request.headers["host"].to_str().unwrap().to_owned();
        answer(&[("cache-control", "max-age=60")], host)
    });
    assert_eq!(app.get_with("/", &[("host", "a")]).await.text(), "a");
    assert_eq!(app.get_with("/", &[("host", "b")]).await.text(), "b");
    assert_eq!(app.get_with("/", &[("host", "A:80")]).await.text(), "a");
    let two = app.get_with("/", &[("host", "a"), ("host", "b")]).await;
    assert_eq!(two.outcome, Some(CacheOutcome::Bypass));
    // One resource must not be able to pose as another.
    let slash = app.get_with("/y", &[("host", "a/x")]).await;
    assert_eq!(slash.outcome, Some(CacheOutcome::Bypass));
}

#[tokio::test]
async fn the_first_event_of_a_stream_is_not_held_back() {
    for control in ["no-store", "no-cache", "max-age=60"] {
        let (send, receive) = tokio::sync::mpsc::channel::<Bytes>(1);
        let receive = std::sync::Mutex::new(Some(receive));
        let app = App::new(layer(), move |_, _| {
            let receive = receive.lock().unwrap().take().unwrap();
            let headers = [("content-type", "text/event-stream"), ("cache-control", control)];
            answer(&headers, Body::new(super::body::Channel::new(receive)))
        });
        let mut response = app.start(get("/", &[])).await;
        send.send(Bytes::from_static(b"data: 1\n\n")).await.unwrap();
        let first = response.body_mut().frame().await.unwrap().unwrap();
        assert_eq!(first.into_data().unwrap(), "data: 1\n\n", "{control}");
        drop(send);
        assert!(response.body_mut().frame().await.is_none());
    }
}

#[tokio::test]
async fn trailers_arrive_on_a_miss_and_on_a_hit() {
    let app = App::new(layer(), |_, _| {
        let mut trailers = http::HeaderMap::new();
        trailers.insert("checksum", "1".parse().unwrap());
        let body = http_body_util::Full::new(Bytes::from_static(b"x"))
            .with_trailers(async move { Some(Ok(trailers)) });
        answer(&[("cache-control", "max-age=60")], Body::new(body))
    });
    for outcome in [CacheOutcome::Miss, CacheOutcome::Hit] {
        let answer = app.get("/").await;
        assert_eq!(answer.outcome, Some(outcome));
        assert_eq!(answer.text(), "x");
        assert_eq!(answer.trailers.unwrap()["checksum"], "1");
    }
}

#[tokio::test(start_paused = true)]
async fn a_hit_has_an_age_and_the_date_of_its_making() {
    let app = App::new(layer(), |_, _| answer(&[("cache-control", "max-age=60")], ""));
    let first = app.get("/").await;
    assert_eq!(first.header("date"), Some(date(0).as_str()), "the handler sends none");
    advance(30).await;
    let second = app.get("/").await;
    assert_eq!(second.header("age"), Some("30"));
    assert_eq!(second.header("date"), Some(date(0).as_str()));
}

#[tokio::test]
async fn a_body_over_the_limit_reaches_the_client() {
    for declared in [true, false] {
        let app = App::new(layer().max_body_size(1000), move |_, _| {
            let body = if declared {
                Body::from(vec![7; 5000])
            } else {
                Body::new(super::body::Pieces::new(vec![Bytes::from(vec![7; 500]); 10]))
            };
            answer(&[("cache-control", "max-age=60")], body)
        });
        for number in 1..=2 {
            let answer = app.get("/").await;
            assert_eq!((answer.status.as_u16(), answer.body.len()), (200, 5000));
            assert_eq!(app.calls(), number);
        }
        assert_eq!(app.handle.len(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn max_age_has_its_value() {
    // A default lifetime must not take the place of what is stated, nor a stated one that of none.
    let app = App::new(layer(), |number, request| match request.uri.path() {
        "/stated" => answer(&[("cache-control", "max-age=5")], number.to_string()),
        _ => answer(&[], number.to_string()),
    });
    assert_eq!(app.get("/stated").await.text(), "1");
    advance(4).await;
    assert_eq!(app.get("/stated").await.text(), "1");
    advance(1).await;
    assert_eq!(app.get("/stated").await.text(), "2");
    assert_eq!(app.get("/unstated").await.text(), "3");
    assert_eq!(app.get("/unstated").await.text(), "4");
}

#[tokio::test(start_paused = true)]
async fn an_expired_response_is_not_fresh_again_when_its_refresh_is_given_up() {
    let app = App::with_service(layer(), |number, _| async move {
        if number == 2 {
            std::future::pending::<()>().await;
        }
        Ok(answer(&[("cache-control", "max-age=5")], number.to_string()))
    });
    assert_eq!(app.get("/").await.text(), "1");
    advance(6).await;
    // This client leaves while the handler works.
    let gone = app.start(get("/", &[]));
    assert!(tokio::time::timeout(std::time::Duration::from_secs(1), gone).await.is_err());
    // The fill is given up after a while, and the next one asks for itself.
    advance(120).await;
    assert_eq!(app.get("/").await.text(), "3");
}

#[tokio::test]
async fn the_handler_is_not_called_on_a_hit() {
    let app = App::new(layer(), |_, _| answer(&[("cache-control", "max-age=60")], "x"));
    app.get("/").await;
    for _ in 0..10 {
        assert_eq!(app.get("/").await.outcome, Some(CacheOutcome::Hit));
    }
    assert_eq!(app.calls(), 1);
}

#[tokio::test]
async fn extensions_of_the_response_are_for_one_client() {
    #[derive(Clone, Debug, PartialEq)]
    struct User(&'static str);
    let app = App::new(layer(), |_, _| {
        let mut response = answer(&[("cache-control", "max-age=60")], "x");
        response.extensions_mut().insert(User("alice"));
        response
    });
    let first = app.start(get("/", &[])).await;
    assert_eq!(first.extensions().get(), Some(&User("alice")));
    read(first).await;
    let second = app.start(get("/", &[])).await;
    assert_eq!(second.extensions().get::<CacheOutcome>(), Some(&CacheOutcome::Hit));
    assert_eq!(second.extensions().get::<User>(), None);
}

#[tokio::test]
async fn conditions_of_clients_are_answered_from_the_store() {
    let app = App::new(layer(), |_, _| {
        answer(&[("cache-control", "max-age=60"), ("etag", "\"a\"")], "x")
    });
    app.get("/").await;
    let answer = app.get_with("/", &[("if-none-match", "\"x\", W/\"a\"")]).await;
    assert_eq!((answer.status.as_u16(), answer.body.len()), (304, 0));
    assert_eq!(answer.header("etag"), Some("\"a\""));
    assert_eq!(app.calls(), 1);
}

#[tokio::test]
async fn head_is_answered_from_get_and_never_stored_as_get() {
    let app = App::new(layer(), |_, request| {
        let body = if request.method == Method::HEAD { "" } else { "hello" };
        answer(&[("cache-control", "max-age=60")], body)
    });
    let head = || request(Method::HEAD, "/", &[]);
    app.send(head()).await;
    assert_eq!(app.get("/").await.text(), "hello");
    let answer = app.send(head()).await;
    assert_eq!(answer.outcome, Some(CacheOutcome::Hit));
    assert_eq!((answer.text(), answer.header("content-length")), ("", Some("5")));
    assert_eq!(app.calls(), 2);
}

#[tokio::test]
async fn requests_with_a_body_and_upgrades_pass() {
    let app = App::new(layer(), |number, _| {
        answer(&[("cache-control", "max-age=60")], number.to_string())
    });
    let fat = || {
        let mut request = get("/", &[("content-length", "1")]);
        *request.body_mut() = Body::from("x");
        request
    };
    let others: Vec<fn() -> Request<Body>> = vec![
        || get("/", &[("connection", "Upgrade"), ("upgrade", "websocket")]),
        || get("/", &[("connection", "keep-alive, upgrade")]),
        || request(Method::OPTIONS, "/", &[]),
        || request(Method::CONNECT, "example.com:443", &[]),
        || get("/", &[("if-match", "\"a\"")]),
    ];
    assert_eq!(app.send(fat()).await.outcome, Some(CacheOutcome::Bypass));
    for other in others {
        assert_eq!(app.send(other()).await.outcome, Some(CacheOutcome::Bypass));
    }
    assert_eq!(app.get("/").await.text(), "7", "nothing of this was stored");
    assert_eq!(app.send(fat()).await.text(), "8", "nor is it answered from the store");
}

#[tokio::test]
async fn what_passes_is_untouched() {
    #[derive(Clone, Debug, PartialEq)]
    struct Mark(u8);
    let app = App::with_service(layer().rfc9111(), |_, request| async move {
        for name in ["range", "if-range", "if-none-match", "cache-control"] {
            assert!(request.headers().contains_key(name), "{name}");
        }
        assert_eq!(request.extensions().get(), Some(&Mark(7)));
        let body = request.into_body().collect().await.unwrap().to_bytes();
        Ok(answer(&[("cache-control", "max-age=60")], body))
    });
    let special: [(Method, &[(&str, &str)]); 4] = [
        (Method::GET, &[("upgrade", "websocket"), ("connection", "upgrade")]),
        (Method::GET, &[("if-match", "\"a\"")]),
        (Method::GET, &[("content-length", "4")]),
        (Method::POST, &[("content-length", "4")]),
    ];
    for (method, headers) in special {
        let mut headers = headers.to_vec();
        headers.extend([("range", "bytes=0-1"), ("if-range", "\"a\"")]);
        headers.extend([("if-none-match", "\"b\""), ("cache-control", "x")]);
        let mut request = request(method, "/", &headers);
        request.extensions_mut().insert(Mark(7));
        *request.body_mut() = Body::from("body");
        assert_eq!(app.send(request).await.text(), "body");
    }
    assert_eq!(app.calls(), 4);
}
