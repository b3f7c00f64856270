//! Bodies on their way through, and bodies that tests make.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use axum::body::Body;
use bytes::Bytes;
use graceful::cache::CacheOutcome;
use http::Request;
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt;
use tokio::sync::mpsc;
use tower::{Layer, Service, service_fn};

use super::support::*;

/// A body without a declared length.
pub(crate) struct Pieces {
    pieces: VecDeque<Bytes>,
}

impl Pieces {
    pub(crate) fn new(pieces: Vec<Bytes>) -> Self {
        Self { pieces: pieces.into() }
    }
}

impl http_body::Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.pieces.pop_front().map(|piece| Ok(Frame::data(piece))))
    }
}

/// A body that a test feeds; it ends when the sender is dropped.
pub(crate) struct Channel {
    receive: mpsc::Receiver<Bytes>,
    length: Option<u64>,
}

impl Channel {
    pub(crate) fn new(receive: mpsc::Receiver<Bytes>) -> Self {
        Self { receive, length: None }
    }

    pub(crate) fn with_length(receive: mpsc::Receiver<Bytes>, length: u64) -> Self {
        Self { receive, length: Some(length) }
    }
}

impl http_body::Body for Channel {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.receive.poll_recv(cx).map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
    }

    fn size_hint(&self) -> SizeHint {
        self.length.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

/// One piece, and then an error.
struct Broken {
    pieces: u32,
}

impl http_body::Body for Broken {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        self.pieces += 1;
        Poll::Ready(match self.pieces {
            1 => Some(Ok(Frame::data(Bytes::from_static(b"x")))),
            2 => Some(Err(std::io::Error::other("torn"))),
            _ => None,
        })
    }
}

#[tokio::test]
async fn what_is_not_stored_keeps_its_length_and_its_lack_of_one() {
    for control in ["no-store", "max-age=60"] {
        let app = App::new(layer(), move |_, request| {
            let body = match request.uri.path() {
                "/declared" => Body::from("hello"),
                _ => Body::new(Pieces::new(vec![Bytes::from_static(b"hello")])),
            };
            answer(&[("cache-control", control)], body)
        });
        let hint = async |path| {
            let response = app.start(get(path, &[])).await;
            http_body::Body::size_hint(response.body()).exact()
        };
        assert_eq!(hint("/declared").await, Some(5), "{control}");
        assert_eq!(hint("/undeclared").await, None, "{control}");
    }
}

#[tokio::test]
async fn an_error_reaches_the_client_and_nothing_is_stored() {
    let app = App::new(layer(), |_, _| {
        answer(&[("cache-control", "max-age=60")], Body::new(Broken { pieces: 0 }))
    });
    for number in 1..=2 {
        let mut response = app.start(get("/", &[])).await;
        let first = response.body_mut().frame().await.unwrap().unwrap();
        assert_eq!(first.into_data().unwrap(), "x");
        let error = response.body_mut().frame().await.unwrap().unwrap_err();
        let text =
            std::iter::successors(Some(&error as &dyn std::error::Error), |error| error.source())
                .map(ToString::to_string)
                .collect::<Vec<_>>();
        assert!(text.iter().any(|text| text == "torn"), "{text:?}");
        assert_eq!(app.calls(), number);
        assert_eq!(app.handle.len(), 0);
    }
    assert_eq!(app.handle.stats().failed_fills, 2);
}

#[tokio::test]
async fn a_length_that_lies_is_not_stored() {
    for pieces in [1, 3] {
        let app = App::new(layer(), move |_, _| {
            let body = Body::new(Pieces::new(vec![Bytes::from_static(b"12345"); pieces]));
            answer(&[("cache-control", "max-age=60"), ("content-length", "10")], body)
        });
        let response = app.start(get("/", &[])).await;
        assert!(response.into_body().collect().await.is_err());
        assert_eq!(app.handle.len(), 0);
    }
}

#[tokio::test]
async fn a_client_that_leaves_does_not_stop_the_recording() {
    let (send, receive) = mpsc::channel(1);
    let receive = std::sync::Mutex::new(Some(receive));
    let app = App::new(layer(), move |_, _| {
        let body = Channel::new(receive.lock().unwrap().take().unwrap());
        answer(&[("cache-control", "max-age=60")], Body::new(body))
    });
    let response = app.start(get("/", &[])).await;
    drop(response);
    send.send(Bytes::from_static(b"whole")).await.unwrap();
    drop(send);
    // The next client either joins the recording or finds it stored; the handler is not asked again.
    assert_eq!(app.get("/").await.text(), "whole");
    assert_eq!(app.calls(), 1);
}

#[tokio::test]
async fn a_body_that_outgrows_the_limit_goes_on_to_those_who_read_it() {
    let (send, receive) = mpsc::channel(1);
    let receive = std::sync::Mutex::new(Some(receive));
    let app = App::new(layer().max_body_size(10), move |number, _| {
        let body = match receive.lock().unwrap().take() {
            Some(receive) => Body::new(Channel::new(receive)),
            None => Body::from(format!("call {number}")),
        };
        answer(&[("cache-control", "max-age=60")], body)
    });
    let mut first = app.start(get("/", &[])).await;
    let mut second = app.start(get("/", &[])).await;
    assert_eq!(second.extensions().get(), Some(&CacheOutcome::Collapsed));
    // Both have read the beginning, so it is not needed any more.
    for _ in 0..3 {
        send.send(Bytes::from_static(b"1234567")).await.unwrap();
        for response in [&mut first, &mut second] {
            let data = response.body_mut().frame().await.unwrap().unwrap().into_data().unwrap();
            assert_eq!(data, "1234567");
        }
    }
    // Too late to join.
    let third = app.get("/").await;
    assert_eq!(third.text(), "call 2");
    drop(send);
    assert!(first.body_mut().frame().await.is_none());
    assert!(second.body_mut().frame().await.is_none());
}

#[tokio::test]
async fn a_slow_reader_of_what_is_not_kept_holds_the_handler_back() {
    let (send, receive) = mpsc::channel(1);
    let receive = std::sync::Mutex::new(Some(receive));
    let app = App::new(layer().max_body_size(10), move |_, _| {
        let body = Channel::new(receive.lock().unwrap().take().unwrap());
        answer(&[("cache-control", "max-age=60")], Body::new(body))
    });
    let mut response = app.start(get("/", &[])).await;
    let piece = Bytes::from(vec![1; 64 * 1024]);
    let mut sent = 0;
    // Nobody reads: the handler can send a window and no more.
    while tokio::time::timeout(std::time::Duration::from_millis(200), send.reserve()).await.is_ok()
    {
        send.try_send(piece.clone()).unwrap();
        sent += 1;
        assert!(sent < 20, "nothing holds it back");
    }
    let mut received = 0;
    while received < sent {
        response.body_mut().frame().await.unwrap().unwrap();
        received += 1;
    }
    send.send(piece).await.unwrap();
    assert!(response.body_mut().frame().await.unwrap().is_ok());
}

#[tokio::test]
async fn a_panic_in_a_body_ends_it_for_everyone() {
    struct Panics;
    impl http_body::Body for Panics {
        type Data = Bytes;
        type Error = Infallible;
        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            panic!("a body that panics");
        }
    }
    let app =
        App::new(layer(), |_, _| answer(&[("cache-control", "max-age=60")], Body::new(Panics)));
    let response = app.start(get("/", &[])).await;
    assert!(response.into_body().collect().await.is_err());
    assert_eq!(app.handle.fills(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_never_ends_is_given_up_when_nobody_reads_it() {
    let (send, receive) = mpsc::channel::<Bytes>(1);
    let receive = std::sync::Mutex::new(Some(receive));
    let app = App::new(layer(), move |_, _| {
        let body = Channel::new(receive.lock().unwrap().take().unwrap());
        answer(&[("cache-control", "max-age=60")], Body::new(body))
    });
    let response = app.start(get("/", &[])).await;
    drop(response);
    // The recording drops the handler's body after its allowance.
    send.closed().await;
    assert_eq!(app.handle.fills(), 0);
    assert_eq!(app.handle.len(), 0);
}

#[tokio::test]
async fn a_stored_body_is_not_copied_for_a_hit() {
    let app = App::new(layer(), |_, _| {
        answer(&[("cache-control", "max-age=60")], Body::from(vec![1; 100_000]))
    });
    app.get("/").await;
    let mut addresses = Vec::new();
    for _ in 0..2 {
        let mut response = app.start(get("/", &[])).await;
        let data = response.body_mut().frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(data.len(), 100_000);
        addresses.push((data.as_ptr(), data));
    }
    assert_eq!(addresses[0].0, addresses[1].0);
}

/// Counts its clones.
struct Counted(Arc<AtomicUsize>);

impl Clone for Counted {
    fn clone(&self) -> Self {
        self.0.fetch_add(1, Ordering::SeqCst);
        Self(self.0.clone())
    }
}

#[tokio::test]
async fn a_hit_does_not_clone_the_service_inside() {
    let clones = Arc::new(AtomicUsize::new(0));
    let counted = Counted(clones.clone());
    let layer = layer();
    let handle = layer.handle();
    let service = layer.layer(service_fn(move |_: Request<Body>| {
        let _ = &counted;
        async { Ok::<_, Infallible>(answer(&[("cache-control", "max-age=60")], "a")) }
    }));
    let mut outcomes = Vec::new();
    for expected in [1, 1, 1] {
        let response = service.clone().call(get("/", &[])).await.unwrap();
        outcomes.push(*response.extensions().get::<CacheOutcome>().unwrap());
        response.into_body().collect().await.unwrap();
        while handle.is_empty() {
            tokio::task::yield_now().await;
        }
        assert_eq!(clones.load(Ordering::SeqCst), expected);
    }
    assert_eq!(outcomes, [CacheOutcome::Miss, CacheOutcome::Hit, CacheOutcome::Hit]);
}

/// A buffer that tells when nobody holds any of it.
struct Buffer(Vec<u8>, Arc<AtomicUsize>);

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.1.fetch_add(1, Ordering::SeqCst);
    }
}

#[tokio::test]
async fn what_is_stored_does_not_hold_the_buffer_that_it_was_read_into() {
    let dropped = Arc::new(AtomicUsize::new(0));
    let app = App::new(layer(), {
        let dropped = dropped.clone();
        move |_, _| {
            // As a client does: head and body are slices of what it has read.
            let read = Bytes::from_owner(Buffer(vec![b'x'; 64 * 1024], dropped.clone()));
            let mut response = answer(&[("cache-control", "max-age=60")], read.slice(100..140));
            let value = http::HeaderValue::from_maybe_shared(read.slice(..10)).unwrap();
            response.headers_mut().insert("x-any", value);
            response
        }
    });
    app.get("/").await;
    let hit = app.get("/").await;
    assert_eq!((hit.outcome, hit.body.len()), (Some(CacheOutcome::Hit), 40));
    assert_eq!(hit.header("x-any"), Some("xxxxxxxxxx"));
    assert_eq!(dropped.load(Ordering::SeqCst), 1);
}
