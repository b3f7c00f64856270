use std::{
    convert::Infallible,
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::{Body, Frame};
use tower_layer::Layer;
use tower_service::Service;

use super::*;

/// A body of frames given one by one; `Err` fails it.
#[derive(Default)]
struct Frames(Vec<Result<&'static str, &'static str>>);

impl Body for Frames {
    type Data = Bytes;
    type Error = &'static str;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, &'static str>>> {
        if self.0.is_empty() {
            return Poll::Ready(None);
        }
        Poll::Ready(Some(
            self.0.remove(0).map(|data| Frame::data(Bytes::from_static(data.as_bytes()))),
        ))
    }
}

#[derive(Clone)]
struct Answer(Vec<Result<&'static str, &'static str>>);

impl Service<Request<()>> for Answer {
    type Response = Response<Frames>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Response<Frames>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<()>) -> Self::Future {
        std::future::ready(Ok(Response::new(Frames(self.0.clone()))))
    }
}

fn request(path: &str) -> Request<()> {
    Request::builder().uri(path).body(()).unwrap()
}

async fn next<B: Body + Unpin>(body: &mut B) -> Option<Result<Frame<B::Data>, B::Error>> {
    poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await
}

fn is_pending(future: Pin<&mut impl Future>) -> bool {
    future.poll(&mut Context::from_waker(Waker::noop())).is_pending()
}

#[tokio::test]
async fn a_request_is_in_flight_until_its_body_ends() {
    let layer = GracefulLayer::new();
    let drain = layer.drain();
    let mut service = layer.layer(Answer(vec![Ok("a"), Ok("b")]));

    assert_eq!(drain.in_flight(), 0);
    let future = service.call(request("/"));
    assert_eq!(drain.in_flight(), 1);
    let mut body = future.await.unwrap().into_body();
    assert_eq!(drain.in_flight(), 1);
    assert!(next(&mut body).await.unwrap().is_ok());
    assert!(next(&mut body).await.unwrap().is_ok());
    assert_eq!(drain.in_flight(), 1);
    assert!(next(&mut body).await.is_none());
    assert_eq!(drain.in_flight(), 0, "ended, though the body still lives");
}

#[tokio::test]
async fn a_failed_or_dropped_body_ends_the_request() {
    let layer = GracefulLayer::new();
    let drain = layer.drain();
    let mut service = layer.layer(Answer(vec![Ok("a"), Err("cut")]));

    let mut failed = service.call(request("/")).await.unwrap().into_body();
    let dropped = service.call(request("/")).await.unwrap();
    assert_eq!(drain.in_flight(), 2);
    assert!(next(&mut failed).await.unwrap().is_ok());
    assert!(next(&mut failed).await.unwrap().is_err());
    assert_eq!(drain.in_flight(), 1);
    drop(dropped);
    assert_eq!(drain.in_flight(), 0);
}

#[tokio::test]
async fn a_dropped_future_ends_the_request() {
    let layer = GracefulLayer::new();
    let drain = layer.drain();
    let future = layer.layer(Answer(vec![])).call(request("/"));
    assert_eq!(drain.in_flight(), 1);
    drop(future);
    assert_eq!(drain.in_flight(), 0);
}

#[tokio::test]
async fn a_request_that_a_server_counts_is_not_counted_again() {
    let server = Drain::new();
    let layer = GracefulLayer::new();
    let mut service = layer.layer(Answer(vec![]));
    let mut counted = request("/");
    counted.extensions_mut().insert(server.clone());
    let guard = server.guard();

    let future = service.call(counted);
    assert_eq!((server.in_flight(), layer.drain().in_flight()), (1, 0));
    drop((future, guard));
}

#[tokio::test]
async fn new_requests_are_refused_while_stopping_but_for_exempt_paths() {
    let layer = GracefulLayer::new().refuse(Duration::from_millis(1500)).exempt("/healthz");
    let drain = layer.drain();
    let mut service = layer.layer(Answer(vec![Ok("a")]));
    let before = service.call(request("/")).await.unwrap();
    assert_eq!(before.status(), StatusCode::OK);

    drain.start();
    let refused = service.call(request("/")).await.unwrap();
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(refused.headers()["connection"], "close");
    assert_eq!(refused.headers()["retry-after"], "2");
    assert!(refused.body().is_end_stream());
    assert_eq!(refused.body().size_hint().exact(), Some(0));
    assert_eq!(service.call(request("/healthz")).await.unwrap().status(), StatusCode::OK);
    assert_eq!(drain.in_flight(), 1, "only the one from before");
}

#[tokio::test]
async fn nothing_is_refused_when_a_successor_takes_over() {
    let server = Drain::new();
    let layer = GracefulLayer::with_drain(server.clone()).refuse(Duration::from_secs(1));
    let mut service = layer.layer(Answer(vec![]));
    #[cfg(feature = "serve")]
    {
        server.start_handing_over();
        assert_eq!(service.call(request("/")).await.unwrap().status(), StatusCode::OK);
    }
    server.start();
    assert_eq!(service.call(request("/")).await.unwrap().status(), StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn an_upgrade_finds_the_drain_in_its_extensions() {
    #[derive(Clone)]
    struct Upgraded;
    impl Service<Request<()>> for Upgraded {
        type Response = Response<Frames>;
        type Error = Infallible;
        type Future = std::future::Ready<Result<Response<Frames>, Infallible>>;
        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }
        fn call(&mut self, request: Request<()>) -> Self::Future {
            let mut response = Response::new(Frames::default());
            if let Some(drain) = request.extensions().get::<Drain>() {
                response.extensions_mut().insert(Arc::new(drain.guard()));
            }
            std::future::ready(Ok(response))
        }
    }
    let layer = GracefulLayer::new();
    let drain = layer.drain();
    let mut service = layer.layer(Upgraded);
    let mut upgrade = request("/");
    upgrade.headers_mut().insert("upgrade", "websocket".parse().unwrap());
    let mut response = service.call(upgrade).await.unwrap();
    let guard = response.extensions_mut().remove::<Arc<DrainGuard>>().unwrap();
    drop(response);
    assert_eq!(drain.in_flight(), 1);
    drop(guard);
    assert_eq!(drain.in_flight(), 0);
}

#[tokio::test]
async fn the_hook_sees_each_start_and_each_end() {
    let events = Arc::new(Mutex::new(Vec::new()));
    let seen = events.clone();
    let layer = GracefulLayer::new()
        .refuse(Duration::ZERO)
        .on_event(move |event| seen.lock().unwrap().push(event));
    let mut service = layer.layer(Answer(vec![]));
    let mut body = service.call(request("/")).await.unwrap().into_body();
    assert!(next(&mut body).await.is_none());
    drop(body);
    layer.drain().start();
    drop(service.call(request("/")).await.unwrap());
    use InFlightEvent::{Finished, Refused, Started};
    assert_eq!(*events.lock().unwrap(), [Started, Finished, Refused]);
}

#[tokio::test]
async fn drained_waits_for_the_start_and_for_the_last_guard() {
    let drain = Drain::new();
    let (first, second) = (drain.guard(), drain.guard());
    let mut drained = pin!(drain.drained());
    let mut draining = pin!(drain.draining());
    assert!(is_pending(drained.as_mut()));
    assert!(is_pending(draining.as_mut()));
    drop(first);
    assert!(is_pending(drained.as_mut()));
    drain.start();
    draining.await;
    assert!(is_pending(drained.as_mut()));
    drop(second);
    drained.await;
}

#[tokio::test]
async fn drained_is_immediate_when_nothing_is_in_flight() {
    let drain = Drain::new();
    assert!(is_pending(pin!(drain.drained())));
    drain.start();
    drain.start();
    drain.drained().await;
    drain.draining().await;
}

#[tokio::test]
async fn work_that_begins_after_the_drain_ended_is_waited_for_too() {
    let drain = Drain::new();
    let clone = drain.clone();
    drain.start();
    drain.drained().await;
    let (late, later) = (clone.guard(), drain.guard());
    assert_eq!(drain.in_flight(), 2);
    let mut drained = pin!(drain.drained());
    assert!(is_pending(drained.as_mut()));
    drop(late);
    assert!(is_pending(drained.as_mut()));
    drop(later);
    drained.await;
}

/// A guard that goes while `drained` looks at the count must still wake it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_guard_always_wakes_the_waiter() {
    for _ in 0..2_000 {
        let drain = Drain::new();
        let guards: Vec<_> = (0..3).map(|_| drain.guard()).collect();
        let start = drain.clone();
        for guard in guards {
            tokio::spawn(async move { drop(guard) });
        }
        tokio::spawn(async move { start.start() });
        tokio::time::timeout(Duration::from_secs(10), drain.drained())
            .await
            .expect("drained must complete");
        assert_eq!(drain.in_flight(), 0);
    }
}
