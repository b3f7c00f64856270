//! One call of the handler for all who ask at the same time, and what else can happen.
//!
//! The orders that matter, each of them forced below: a follower comes before the head, between head and
//! end, after the end; the leader leaves before the head, after it; the head says yes, no, or that it is
//! another variant; the handler fails, panics, hangs; a purge comes before the head, between head and end.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::join_all;
use graceful::cache::{CacheKey, CacheOutcome, LruCacheLayer};
use http::Response;
use http_body_util::BodyExt;
use tokio::sync::{Semaphore, mpsc};

use super::body::{Channel, Pieces};
use super::support::*;

/// A handler that waits for permits and then answers; tells when it was called.
fn gated(
    layer: LruCacheLayer,
    answer: impl Fn(usize, &http::request::Parts) -> Response<Body> + Send + Sync + 'static,
) -> (App, Arc<Semaphore>) {
    let gate = Arc::new(Semaphore::new(0));
    let answer = Arc::new(answer);
    let app = App::with_service(layer, {
        let gate = gate.clone();
        move |number, request| {
            let gate = gate.clone();
            let answer = answer.clone();
            async move {
                gate.acquire().await.unwrap().forget();
                Ok(answer(number, &request.into_parts().0))
            }
        }
    });
    (app, gate)
}

/// Runs every task that can run.
async fn settle() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_thousand_requests_make_one_call() {
    for streamed in [false, true] {
        let (app, gate) = gated(layer(), move |_, _| {
            let body = if streamed {
                Body::new(Pieces::new(vec![Bytes::from_static(b"abc"); 3]))
            } else {
                Body::from("abcabcabc")
            };
            answer(&[("cache-control", "max-age=60")], body)
        });
        let all = tokio::spawn({
            let app = app.clone();
            async move { join_all((0..1000).map(|_| app.get("/"))).await }
        });
        settle().await;
        assert_eq!(app.calls(), 1);
        gate.add_permits(1);
        let answers = all.await.unwrap();
        assert!(answers.iter().all(|answer| answer.text() == "abcabcabc"));
        let collapsed =
            answers.iter().filter(|answer| answer.outcome == Some(CacheOutcome::Collapsed)).count();
        assert_eq!((collapsed, app.calls()), (999, 1));
        assert_eq!(app.handle.stats().collapsed, 999);
        assert_eq!(app.handle.fills(), 0);
    }
}

#[tokio::test]
async fn followers_stream_along_wherever_they_join() {
    let (send, receive) = mpsc::channel(1);
    let receive = std::sync::Mutex::new(Some(receive));
    let app = App::new(layer(), move |_, _| {
        let body = Channel::with_length(receive.lock().unwrap().take().unwrap(), 6);
        answer(&[("cache-control", "max-age=60")], Body::new(body))
    });
    let mut leader = app.start(get("/", &[])).await;
    send.send(Bytes::from_static(b"abc")).await.unwrap();
    let next = async |response: &mut Response<Body>| {
        response.body_mut().frame().await.unwrap().unwrap().into_data().unwrap()
    };
    assert_eq!(next(&mut leader).await, "abc");
    // Between head and end.
    let mut follower = app.start(get("/", &[])).await;
    assert_eq!(follower.headers()["content-length"], "6");
    assert_eq!(next(&mut follower).await, "abc", "from the beginning, before the end is there");
    assert!(next(&mut follower).now_or_never().is_none());
    // A part of what is on its way.
    let part = app.start(get("/", &[("range", "bytes=2-4")])).await;
    let head = app.start(get("/", &[("if-none-match", "\"x\"")])).await;
    assert_eq!(head.status(), 200);
    send.send(Bytes::from_static(b"def")).await.unwrap();
    assert_eq!(next(&mut leader).await, "def");
    assert_eq!(next(&mut follower).await, "def");
    drop(send);
    assert!(leader.body_mut().frame().await.is_none());
    assert!(follower.body_mut().frame().await.is_none());
    // After the end.
    assert_eq!(app.get("/").await.outcome, Some(CacheOutcome::Hit));
    assert_eq!(part.status(), 206);
    assert_eq!(part.headers()["content-range"], "bytes 2-4/6");
    assert_eq!(read(part).await.text(), "cde");
    assert_eq!(app.calls(), 1);
}

#[tokio::test]
async fn a_leader_that_leaves_before_the_head_takes_nobody_with_it() {
    let (app, gate) = gated(layer(), |_, _| answer(&[("cache-control", "max-age=60")], "hello"));
    let mut leader = Box::pin(app.start(get("/", &[])));
    assert!(leader.as_mut().now_or_never().is_none());
    let followers = tokio::spawn({
        let app = app.clone();
        async move { join_all((0..20).map(|_| app.get("/"))).await }
    });
    settle().await;
    drop(leader);
    settle().await;
    gate.add_permits(1);
    let answers = followers.await.unwrap();
    assert!(answers.iter().all(|answer| answer.text() == "hello"));
    assert_eq!(app.calls(), 1);
}

#[tokio::test]
async fn a_leader_that_leaves_alone_still_fills_the_store() {
    let (app, gate) = gated(layer(), |_, _| answer(&[("cache-control", "max-age=60")], "hello"));
    let mut leader = Box::pin(app.start(get("/", &[])));
    assert!(leader.as_mut().now_or_never().is_none());
    settle().await;
    drop(leader);
    gate.add_permits(1);
    while app.handle.fills() > 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(app.get("/").await.outcome, Some(CacheOutcome::Hit));
    assert_eq!(app.calls(), 1);
}

#[tokio::test]
async fn a_thousand_followers_of_a_leader_that_left_after_the_head() {
    let (send, receive) = mpsc::channel(1);
    let receive = std::sync::Mutex::new(Some(receive));
    let app = App::new(layer(), move |_, _| {
        let body = Channel::new(receive.lock().unwrap().take().unwrap());
        answer(&[("cache-control", "max-age=60")], Body::new(body))
    });
    let leader = app.start(get("/", &[])).await;
    let followers = join_all((0..1000).map(|_| app.start(get("/", &[])))).await;
    drop(leader);
    send.send(Bytes::from_static(b"whole")).await.unwrap();
    drop(send);
    let answers = join_all(followers.into_iter().map(read)).await;
    assert!(answers.iter().all(|answer| answer.text() == "whole"));
    assert_eq!(app.calls(), 1);
}

#[tokio::test]
async fn what_cannot_be_shared_releases_all_at_once_and_nobody_queues_afterwards() {
    type Make = fn(usize) -> Response<Body>;
    let refused: Vec<(&str, Make)> = vec![
        ("no-store", |number| answer(&[("cache-control", "no-store")], number.to_string())),
        ("nothing", |number| answer(&[], number.to_string())),
        ("private", |number| {
            answer(&[("cache-control", "private, max-age=9")], number.to_string())
        }),
        ("cookie", |number| {
            let headers = [("cache-control", "max-age=9"), ("set-cookie", "a=b")];
            answer(&headers, number.to_string())
        }),
        ("no-cache", |number| {
            answer(&[("cache-control", "no-cache"), ("etag", "\"a\"")], number.to_string())
        }),
        ("vary", |number| {
            answer(&[("cache-control", "max-age=9"), ("vary", "*")], number.to_string())
        }),
        ("error", |number| status(500, &[], number.to_string())),
        ("large", |number| {
            let headers = [("cache-control", "max-age=9"), ("content-length", "3000000")];
            let mut response = answer(&headers, number.to_string());
            if number > 0 {
                response.headers_mut().remove("x");
            }
            response
        }),
    ];
    for (name, make) in refused {
        let (app, gate) = gated(layer(), move |number, _| make(number));
        let all = tokio::spawn({
            let app = app.clone();
            async move { join_all((0..50).map(|_| app.start(get("/", &[])))).await }
        });
        settle().await;
        assert_eq!(app.calls(), 1, "{name}");
        gate.add_permits(1);
        settle().await;
        // The head of the first said no: all others are with the handler at the same time.
        assert_eq!(app.calls(), 50, "{name}");
        gate.add_permits(49);
        let answers = all.await.unwrap();
        let mut bodies = Vec::new();
        for answer in answers {
            assert_ne!(answer.extensions().get(), Some(&CacheOutcome::Collapsed), "{name}");
            if let Ok(body) = answer.into_body().collect().await {
                bodies.push(body.to_bytes());
            }
        }
        let total = bodies.len();
        bodies.sort();
        bodies.dedup();
        assert_eq!(bodies.len(), total, "{name}: each has an answer of its own");
        // Remembered: the next burst does not wait for a leader at all.
        let again = tokio::spawn({
            let app = app.clone();
            async move { join_all((0..50).map(|_| app.start(get("/", &[])))).await }
        });
        settle().await;
        assert_eq!(app.calls(), 100, "{name}");
        gate.add_permits(50);
        again.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn the_memory_of_what_cannot_be_shared_ends() {
    let (app, gate) = gated(layer().pass_for(Duration::from_secs(2)), |number, _| {
        let control = if number == 1 { "no-store" } else { "max-age=60" };
        answer(&[("cache-control", control)], number.to_string())
    });
    gate.add_permits(1);
    app.get("/").await;
    advance(2).await;
    let all = tokio::spawn({
        let app = app.clone();
        async move { join_all((0..10).map(|_| app.get("/"))).await }
    });
    settle().await;
    assert_eq!(app.calls(), 2);
    gate.add_permits(1);
    all.await.unwrap();
    assert_eq!(app.calls(), 2);
}

#[tokio::test]
async fn a_pass_ends_when_an_answer_can_be_shared_after_all() {
    let app = App::new(layer(), |number, _| {
        let control = if number == 1 { "no-store" } else { "max-age=60" };
        answer(&[("cache-control", control)], number.to_string())
    });
    assert_eq!(app.get("/").await.text(), "1");
    assert_eq!(app.get("/").await.text(), "2");
    assert_eq!(app.get("/").await.outcome, Some(CacheOutcome::Hit));
}

#[tokio::test]
async fn a_panic_reaches_the_leader_and_releases_the_others() {
    let gate = Arc::new(Semaphore::new(0));
    let app = App::with_service(layer(), {
        let gate = gate.clone();
        move |number, _| {
            let gate = gate.clone();
            async move {
                gate.acquire().await.unwrap().forget();
                assert!(number > 1, "the first call panics");
                Ok(answer(&[("cache-control", "max-age=60")], number.to_string()))
            }
        }
    });
    let leader = tokio::spawn({
        let app = app.clone();
        async move { app.get("/").await }
    });
    settle().await;
    let followers = tokio::spawn({
        let app = app.clone();
        async move { join_all((0..5).map(|_| app.get("/"))).await }
    });
    settle().await;
    assert_eq!(app.calls(), 1);
    gate.add_permits(6);
    let panic = leader.await.unwrap_err().into_panic();
    assert!(panic.downcast_ref::<&str>().unwrap().contains("the first call panics"));
    for answer in followers.await.unwrap() {
        assert_eq!(answer.status, 200);
    }
    assert_eq!(app.handle.fills(), 0);
}

#[tokio::test]
async fn an_error_of_the_service_reaches_the_leader_alone() {
    use tower::{Layer, Service, service_fn};
    let calls = Arc::new(AtomicUsize::new(0));
    let gate = Arc::new(Semaphore::new(0));
    let inner = {
        let (calls, gate) = (calls.clone(), gate.clone());
        service_fn(move |_: http::Request<Body>| {
            let (calls, gate) = (calls.clone(), gate.clone());
            async move {
                let number = calls.fetch_add(1, Ordering::SeqCst) + 1;
                gate.acquire().await.unwrap().forget();
                if number == 1 { Err("no") } else { Ok(answer(&[], number.to_string())) }
            }
        })
    };
    let service = LruCacheLayer::new(10).layer(inner);
    let call = || {
        let mut service = service.clone();
        async move { service.call(get("/", &[])).await }
    };
    let leader = tokio::spawn(call());
    settle().await;
    let follower = tokio::spawn(call());
    settle().await;
    assert_eq!(calls.load(Ordering::SeqCst), 1);
    gate.add_permits(2);
    assert_eq!(leader.await.unwrap().unwrap_err(), "no");
    assert_eq!(follower.await.unwrap().unwrap().status(), 200);
}

#[tokio::test]
async fn variants_make_one_call_each() {
    let (app, gate) = gated(layer(), |_, request| {
        let language = request.headers["x-kind"].to_str().unwrap().to_owned();
        answer(&[("cache-control", "max-age=60"), ("vary", "x-kind")], language)
    });
    let all = tokio::spawn({
        let app = app.clone();
        async move {
            join_all((0..300).map(|number| {
                let app = app.clone();
                async move {
                    let kind = ["a", "b", "c"][number % 3];
                    let answer = app.get_with("/", &[("x-kind", kind)]).await;
                    assert_eq!(answer.text(), kind);
                }
            }))
            .await
        }
    });
    settle().await;
    assert_eq!(app.calls(), 1, "nothing says yet that there are variants");
    gate.add_permits(1);
    settle().await;
    assert_eq!(app.calls(), 3, "the others, once each");
    gate.add_permits(2);
    all.await.unwrap();
    assert_eq!(app.calls(), 3);
}

#[tokio::test]
async fn credentials_do_not_share_with_those_without() {
    let (app, gate) = gated(layer(), |_, request| {
        let user = request.headers.get("authorization").map_or("nobody", |_| "somebody");
        answer(&[("cache-control", "max-age=60")], user)
    });
    let one = tokio::spawn({
        let app = app.clone();
        async move { app.get_with("/", &[("authorization", "x")]).await }
    });
    settle().await;
    let other = tokio::spawn({
        let app = app.clone();
        async move { app.get("/").await }
    });
    settle().await;
    assert_eq!(app.calls(), 2);
    gate.add_permits(2);
    assert_eq!(one.await.unwrap().text(), "somebody");
    assert_eq!(other.await.unwrap().text(), "nobody");
}

#[tokio::test(start_paused = true)]
async fn a_follower_waits_no_longer_than_its_timeout() {
    let (app, gate) = gated(layer().collapse_timeout(Duration::from_secs(3)), |number, _| {
        answer(&[("cache-control", "max-age=60")], number.to_string())
    });
    let leader = tokio::spawn({
        let app = app.clone();
        async move { app.get("/").await }
    });
    settle().await;
    let follower = tokio::spawn({
        let app = app.clone();
        async move { app.get("/").await }
    });
    settle().await;
    assert_eq!(app.calls(), 1);
    advance(2).await;
    settle().await;
    assert_eq!(app.calls(), 1);
    advance(1).await;
    settle().await;
    assert_eq!(app.calls(), 2);
    gate.add_permits(2);
    leader.await.unwrap();
    follower.await.unwrap();
}

#[tokio::test]
async fn a_purge_during_a_fill_keeps_its_result_out_of_the_store() {
    for after_head in [false, true] {
        for (name, purge) in purges() {
            let (send, receive) = mpsc::channel::<Bytes>(1);
            let receive = std::sync::Mutex::new(Some(receive));
            let (app, gate) = gated(layer(), move |number, _| {
                let body = match receive.lock().unwrap().take() {
                    Some(receive) => Body::new(Channel::new(receive)),
                    None => Body::from(number.to_string()),
                };
                answer(&[("cache-control", "max-age=60"), ("cache-tag", "t")], body)
            });
            let first = tokio::spawn({
                let app = app.clone();
                async move { app.get("/a").await }
            });
            settle().await;
            if after_head {
                gate.add_permits(1);
                settle().await;
            }
            purge(&app);
            if !after_head {
                gate.add_permits(1);
                settle().await;
            }
            send.send(Bytes::from_static(b"old")).await.unwrap();
            drop(send);
            assert_eq!(first.await.unwrap().text(), "old");
            gate.add_permits(1);
            assert_eq!(app.get("/a").await.text(), "2", "{name} after the head: {after_head}");
        }
    }
}

type Purge = fn(&App);

fn purges() -> Vec<(&'static str, Purge)> {
    vec![
        ("purge", |app| {
            app.handle.purge(&CacheKey::new("example.com", "/a"));
        }),
        ("prefix", |app| {
            app.handle.purge_prefix("example.com", "/");
        }),
        ("tag", |app| {
            app.handle.purge_tag("t");
        }),
        ("clear", |app| app.handle.clear()),
        ("expire", |app| {
            app.handle.expire(&CacheKey::new("example.com", "/a"));
        }),
    ]
}

#[tokio::test]
async fn nobody_joins_a_fill_from_before_a_purge() {
    let (app, gate) =
        gated(layer(), |number, _| answer(&[("cache-control", "max-age=60")], number.to_string()));
    let before = tokio::spawn({
        let app = app.clone();
        async move { app.get("/").await }
    });
    settle().await;
    app.handle.purge(&CacheKey::new("example.com", "/"));
    let after = tokio::spawn({
        let app = app.clone();
        async move { app.get("/").await }
    });
    settle().await;
    assert_eq!(app.calls(), 2);
    gate.add_permits(2);
    assert_eq!(before.await.unwrap().text(), "1");
    assert_eq!(after.await.unwrap().text(), "2");
    assert_eq!(app.get("/").await.text(), "2");
}

#[tokio::test]
async fn without_collapsing_each_request_is_a_call() {
    let (app, gate) = gated(layer().collapse(false), |number, _| {
        answer(&[("cache-control", "max-age=60")], number.to_string())
    });
    let all = tokio::spawn({
        let app = app.clone();
        async move { join_all((0..10).map(|_| app.get("/"))).await }
    });
    settle().await;
    assert_eq!(app.calls(), 10);
    gate.add_permits(10);
    all.await.unwrap();
}

#[cfg(feature = "layer")]
#[tokio::test]
async fn a_drain_waits_for_fills_that_nobody_waits_for() {
    let drain = graceful::Drain::new();
    let (app, gate) = gated(layer(), |_, _| answer(&[("cache-control", "max-age=60")], "hello"));
    let mut request = get("/", &[]);
    request.extensions_mut().insert(drain.clone());
    let mut leader = Box::pin(app.start(request));
    assert!(leader.as_mut().now_or_never().is_none());
    settle().await;
    drop(leader);
    drain.start();
    let mut drained = Box::pin(drain.drained());
    settle().await;
    assert_eq!(drain.in_flight(), 1);
    assert!(drained.as_mut().now_or_never().is_none());
    gate.add_permits(1);
    drained.await;
    assert_eq!(app.handle.len(), 1);
}

/// 300 clients, and a handler that takes 200 ms: the times of all until their first byte and until their end.
///
/// Time is paused, so these are exact: only a wait takes any.
async fn burst(app: &App) -> (Vec<Duration>, Vec<Duration>) {
    let start = tokio::time::Instant::now();
    let all = join_all((0..300).map(|_| {
        let app = app.clone();
        tokio::spawn(async move {
            let mut response = app.start(get("/", &[])).await;
            let _ = response.body_mut().frame().await;
            let first = start.elapsed();
            while response.body_mut().frame().await.is_some() {}
            (first, start.elapsed())
        })
    }))
    .await;
    let (mut first, mut end): (Vec<_>, Vec<_>) = all.into_iter().map(|one| one.unwrap()).unzip();
    first.sort();
    end.sort();
    (first, end)
}

const ORIGIN: Duration = Duration::from_millis(200);

fn slow(make: fn(usize) -> Response<Body>) -> App {
    App::with_service(layer(), move |number, _| async move {
        tokio::time::sleep(ORIGIN).await;
        Ok(make(number))
    })
}

#[tokio::test(start_paused = true)]
async fn a_burst_waits_for_one_call() {
    let app = slow(|_| answer(&[("cache-control", "max-age=60")], "x"));
    let (first, end) = burst(&app).await;
    assert_eq!(app.calls(), 1);
    assert!(first[150] <= ORIGIN + Duration::from_millis(10), "{:?}", first[150]);
    assert!(end[299] <= ORIGIN + Duration::from_millis(10), "{:?}", end[299]);
}

#[tokio::test(start_paused = true)]
async fn a_burst_of_what_cannot_be_shared_waits_twice_and_then_once() {
    let refused: [fn(usize) -> Response<Body>; 2] =
        [|_| answer(&[("cache-control", "no-store")], "x"), |_| status(500, &[], "x")];
    for make in refused {
        let app = slow(make);
        let (_, end) = burst(&app).await;
        assert!(end[299] <= ORIGIN * 2, "{:?}", end[299]);
        let (_, end) = burst(&app).await;
        assert!(end[299] <= ORIGIN, "{:?}", end[299]);
        assert_eq!(app.calls(), 600);
    }
}

#[tokio::test(start_paused = true)]
async fn a_burst_of_a_stream_gets_its_first_byte_with_the_leader() {
    let app = App::with_service(layer(), |_, _| async {
        let (send, receive) = mpsc::channel(1);
        tokio::spawn(async move {
            for _ in 0..10 {
                let _ = send.send(Bytes::from_static(b"piece")).await;
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
        Ok(answer(&[("cache-control", "max-age=60")], Body::new(Channel::new(receive))))
    });
    let (first, end) = burst(&app).await;
    assert_eq!(app.calls(), 1);
    assert!(first[299] - first[0] <= Duration::from_millis(10), "{:?}", first[299]);
    assert!(end[0] >= Duration::from_secs(1), "{:?}", end[0]);
    assert!(end[299] - end[0] <= Duration::from_millis(10));
}

#[tokio::test(start_paused = true)]
async fn a_burst_whose_leader_leaves_is_not_slower() {
    let app = slow(|_| answer(&[("cache-control", "max-age=60")], "x"));
    let mut leader = Box::pin(app.start(get("/", &[])));
    assert!(leader.as_mut().now_or_never().is_none());
    settle().await;
    let followers = burst(&app);
    let leaves = async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        drop(leader);
    };
    let ((first, _), ()) = futures_util::future::join(followers, leaves).await;
    assert_eq!(app.calls(), 1);
    assert!(first[299] <= ORIGIN + Duration::from_millis(10), "{:?}", first[299]);
}

#[cfg(feature = "serve")]
#[tokio::test]
async fn a_fill_is_in_the_span_of_its_request() {
    use tracing::Instrument;
    let _subscriber = tracing::subscriber::set_default(tracing_subscriber::fmt().finish());
    let seen = Arc::new(std::sync::Mutex::new(None));
    let app = {
        let seen = seen.clone();
        App::new(layer(), move |_, _| {
            *seen.lock().unwrap() = tracing::Span::current().id();
            answer(&[("cache-control", "max-age=60")], "x")
        })
    };
    let span = tracing::info_span!("request");
    app.get("/").instrument(span.clone()).await;
    assert!(span.id().is_some());
    assert_eq!(*seen.lock().unwrap(), span.id());
}

#[tokio::test(start_paused = true)]
async fn a_validated_response_that_may_not_be_kept_is_for_the_leader_alone() {
    // RFC 9111, section 3: what becomes private with a 304 is not for those who waited for it.
    let gate = Arc::new(Semaphore::new(1));
    let app = App::with_service(layer(), {
        let gate = gate.clone();
        move |number, _| {
            let gate = gate.clone();
            async move {
                gate.acquire().await.unwrap().forget();
                Ok(match number {
                    1 => answer(&[("cache-control", "max-age=10"), ("etag", "\"a\"")], "1"),
                    2 => status(304, &[("cache-control", "private, max-age=10")], ""),
                    _ => answer(&[("cache-control", "private")], number.to_string()),
                })
            }
        }
    });
    app.get("/").await;
    advance(11).await;
    let clients: Vec<_> = (0..3)
        .map(|_| {
            let app = app.clone();
            tokio::spawn(async move { app.get("/").await })
        })
        .collect();
    while app.handle.stats().misses < 4 {
        tokio::task::yield_now().await;
    }
    gate.add_permits(10);
    let mut texts = Vec::new();
    for client in clients {
        texts.push(client.await.unwrap().text().to_owned());
    }
    texts.sort_unstable();
    assert_eq!(texts, ["1", "3", "4"]);
}

/// An app whose first body is fed by the test, and the others are their numbers.
fn fed(control: &'static str) -> (App, mpsc::Sender<Bytes>) {
    let (send, receive) = mpsc::channel(1);
    let receive = std::sync::Mutex::new(Some(receive));
    let app = App::new(layer(), move |number, _| {
        let body = match receive.lock().unwrap().take() {
            Some(receive) => Body::new(Channel::new(receive)),
            None => Body::from(number.to_string()),
        };
        answer(&[("cache-control", control)], body)
    });
    (app, send)
}

#[tokio::test(start_paused = true)]
async fn a_response_that_became_stale_on_its_way_is_not_joined() {
    let (app, send) = fed("max-age=5, must-revalidate");
    let first = app.start(get("/", &[])).await;
    advance(4).await;
    let second = app.start(get("/", &[])).await;
    assert_eq!((second.headers()["age"].to_str().unwrap(), app.calls()), ("4", 1));
    advance(2).await;
    // RFC 9111, section 4.2.4. The new one is joined and stored in its turn.
    assert_eq!(app.get("/").await.text(), "2");
    assert_eq!(app.get("/").await.outcome, Some(CacheOutcome::Hit));
    send.send(Bytes::from_static(b"old")).await.unwrap();
    drop(send);
    assert_eq!(read(first).await.text(), "old");
    assert_eq!(read(second).await.text(), "old");
    let newest = app.get("/").await;
    assert_eq!(newest.text(), "2", "what is older does not take the place of what is newer");
    assert_eq!((app.calls(), app.handle.fills()), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn a_body_that_stands_still_is_not_joined() {
    let (app, send) = fed("max-age=600");
    let first = app.start(get("/", &[])).await;
    advance(9).await;
    send.send(Bytes::from_static(b"a")).await.unwrap();
    settle().await;
    advance(9).await;
    let second = app.start(get("/", &[])).await;
    assert_eq!(app.calls(), 1, "it moved lately");
    advance(2).await;
    assert_eq!(app.get("/").await.text(), "2");
    drop(send);
    assert_eq!(read(first).await.text(), "a");
    assert_eq!(read(second).await.text(), "a");
}

#[tokio::test]
async fn a_purge_during_a_fill_that_nobody_can_join_keeps_its_result_out_of_the_store() {
    let others: Vec<(&str, Purge)> = vec![("post", |_| {})];
    for (name, purge) in purges().into_iter().chain(others) {
        // Stale on arrival, so for one client only; but it may be stored.
        let (app, send) = fed("max-age=0, stale-while-revalidate=60");
        let first = app.start(get("/a", &[])).await;
        assert_eq!(app.handle.fills(), 0);
        if name == "post" {
            app.send(super::support::request(http::Method::POST, "/a", &[])).await;
        }
        purge(&app);
        send.send(Bytes::from_static(b"old")).await.unwrap();
        drop(send);
        assert_eq!(read(first).await.text(), "old");
        settle().await;
        assert_ne!(app.get("/a").await.text(), "old", "{name}");
    }
}
