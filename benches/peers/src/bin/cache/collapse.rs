//! 300 clients at once, over sockets, with an origin that takes 200 ms: calls of the origin, and how long
//! the clients wait, beside the same burst without the layer.
//!
//! Server and clients have a runtime each, so that a client reads when its answer comes and not when the
//! server has nothing else to do. All connections are there and have had an answer before the burst begins;
//! then all clients are let go at once. A client's time begins when it sends.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::serve::ListenerExt;
use bytes::Bytes;
use graceful::cache::LruCacheLayer;
use http_body::Frame;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Barrier;
use tower::Layer;

const CLIENTS: usize = 300;
const ORIGIN: Duration = Duration::from_millis(200);

/// A second of ten pieces.
struct Slow(tokio::time::Interval, usize);

impl http_body::Body for Slow {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if self.1 == 0 {
            return std::task::Poll::Ready(None);
        }
        std::task::ready!(self.0.poll_tick(cx));
        self.1 -= 1;
        std::task::Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"piece")))))
    }
}

async fn origin(uri: Uri) -> Response {
    let kind = uri.path().split('/').nth(1).unwrap_or_default().to_owned();
    let stored = [("cache-control", "max-age=60")];
    if kind == "stream" {
        let ticks = tokio::time::interval(Duration::from_millis(100));
        return (stored, Body::new(Slow(ticks, 10))).into_response();
    }
    tokio::time::sleep(ORIGIN).await;
    match kind.as_str() {
        "cacheable" | "leaves" => (stored, "x").into_response(),
        "no-store" => ([("cache-control", "no-store")], "x").into_response(),
        _ => (StatusCode::INTERNAL_SERVER_ERROR, "x").into_response(),
    }
}

/// The app, with the layer or without.
async fn serve(calls: Arc<AtomicUsize>, layer: Option<LruCacheLayer>) -> SocketAddr {
    let app = Router::new().route("/ready", get(|| async { "x" })).fallback(move |uri: Uri| {
        calls.fetch_add(1, Ordering::Relaxed);
        origin(uri)
    });
    let app = match layer {
        Some(layer) => Router::new().fallback_service(layer.layer(app)),
        None => app,
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    // A stream in pieces would wait for the client's delayed acknowledgements otherwise.
    let listener = listener.tap_io(|stream| stream.set_nodelay(true).unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await });
    address
}

/// A connection that has had its first answer.
async fn connect(address: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET /ready HTTP/1.1\r\nhost: h\r\n\r\n").await.unwrap();
    let mut text = Vec::new();
    while !text.ends_with(b"\r\n\r\nx") {
        assert!(stream.read_buf(&mut text).await.unwrap() > 0, "the server closed");
    }
    stream
}

/// Milliseconds from the request to the first byte of the body, and to its end.
async fn ask(mut stream: TcpStream, path: &str) -> (f64, f64) {
    let request = format!("GET {path} HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n");
    let start = Instant::now();
    stream.write_all(request.as_bytes()).await.unwrap();
    let (mut text, mut first) = (Vec::new(), None);
    while stream.read_buf(&mut text).await.unwrap() > 0 {
        let head = text.windows(4).position(|four| four == b"\r\n\r\n");
        if first.is_none() && head.is_some_and(|head| text.len() > head + 4) {
            first = Some(start.elapsed());
        }
    }
    let millis = |time: Duration| time.as_secs_f64() * 1000.0;
    (millis(first.expect("an answer has a body")), millis(start.elapsed()))
}

async fn burst(address: SocketAddr, path: &'static str, clients: usize) -> Vec<(f64, f64)> {
    let all_there = Arc::new(Barrier::new(clients));
    let mut all = Vec::new();
    for _ in 0..clients {
        let (stream, all_there) = (connect(address).await, all_there.clone());
        all.push(tokio::spawn(async move {
            all_there.wait().await;
            ask(stream, path).await
        }));
    }
    let mut times = Vec::new();
    for one in all {
        times.push(one.await.unwrap());
    }
    times
}

pub(crate) fn run() {
    let server = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let server = server.unwrap();
    let clients = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let calls = Arc::new(AtomicUsize::new(0));
    let bare = server.block_on(serve(calls.clone(), None));
    let cached = server.block_on(serve(calls.clone(), Some(LruCacheLayer::new(10_000))));
    println!("300 clients, origin of 200 ms: calls | first byte p50, max | end p50, max (ms)");
    clients.block_on(async {
        for round in 1..=5 {
            println!("round {round}, then without the layer");
            // Each round has paths of its own: nothing of them is stored or remembered.
            let paths = PATHS.map(|path| &*format!("{path}/{round}").leak());
            for path in paths {
                print(path, &calls, burst(cached, path, CLIENTS).await);
                print("", &calls, burst(bare, path, CLIENTS).await);
            }
            // The leader's client goes away before the answer; twenty have come after it.
            let path = &*format!("/leaves/{round}").leak();
            let mut leader = connect(cached).await;
            let request = format!("GET {path} HTTP/1.1\r\nhost: h\r\n\r\n");
            leader.write_all(request.as_bytes()).await.unwrap();
            while calls.load(Ordering::Relaxed) == 0 {
                tokio::task::yield_now().await;
            }
            let followers = tokio::spawn(burst(cached, path, 20));
            tokio::time::sleep(ORIGIN / 4).await;
            drop(leader);
            print(path, &calls, followers.await.unwrap());
        }
    });
}

/// The second burst for what cannot be shared finds that remembered.
const PATHS: [&str; 6] =
    ["/cacheable", "/no-store", "/no-store", "/failing", "/failing", "/stream"];

fn print(path: &str, calls: &AtomicUsize, times: Vec<(f64, f64)>) {
    let calls = calls.swap(0, Ordering::Relaxed);
    let of = |times: Vec<f64>| {
        let most = times.iter().copied().fold(0.0, f64::max);
        (super::median(times), most)
    };
    let first = of(times.iter().map(|(first, _)| *first).collect());
    let end = of(times.iter().map(|(_, end)| *end).collect());
    println!("{path:14} {calls:4} | {:7.1} {:7.1} | {:7.1} {:7.1}", first.0, first.1, end.0, end.1);
}
