//! 300 clients at once, over sockets, with an origin that takes 200 ms: calls of the origin, and how long
//! the clients wait.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use graceful::cache::LruCacheLayer;
use http_body::Frame;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
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

async fn serve(calls: Arc<AtomicUsize>) -> SocketAddr {
    let app = Router::new().fallback(move |uri: Uri| {
        calls.fetch_add(1, Ordering::Relaxed);
        origin(uri)
    });
    let app = Router::new().fallback_service(LruCacheLayer::new(10_000).layer(app));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await });
    address
}

/// Milliseconds from the request to the first byte of the body, and to its end.
async fn ask(stream: &mut TcpStream, path: &str) -> (f64, f64) {
    let start = Instant::now();
    let request = format!("GET {path} HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n");
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

async fn burst(address: SocketAddr, path: &str, clients: usize) -> Vec<(f64, f64)> {
    let mut streams = Vec::new();
    for _ in 0..clients {
        streams.push(TcpStream::connect(address).await.unwrap());
    }
    let all: Vec<_> = streams
        .into_iter()
        .map(|mut stream| {
            let path = path.to_owned();
            tokio::spawn(async move { ask(&mut stream, &path).await })
        })
        .collect();
    let mut times = Vec::new();
    for one in all {
        times.push(one.await.unwrap());
    }
    times
}

pub(crate) fn run() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.unwrap().block_on(async {
        let calls = Arc::new(AtomicUsize::new(0));
        let address = serve(calls.clone()).await;
        println!("300 clients, origin of 200 ms: calls | first byte p50, max | end p50, max (ms)");
        for path in ["/cacheable", "/no-store", "/no-store", "/failing", "/failing", "/stream"] {
            print(path, &calls, burst(address, path, CLIENTS).await);
        }
        // The leader's client goes away before the answer; twenty have come after it.
        let mut leader = TcpStream::connect(address).await.unwrap();
        leader.write_all(b"GET /leaves HTTP/1.1\r\nhost: h\r\n\r\n").await.unwrap();
        while calls.load(Ordering::Relaxed) == 0 {
            tokio::task::yield_now().await;
        }
        let followers = tokio::spawn(burst(address, "/leaves", 20));
        tokio::time::sleep(ORIGIN / 4).await;
        drop(leader);
        print("/leaves", &calls, followers.await.unwrap());
    });
}

fn print(path: &str, calls: &AtomicUsize, times: Vec<(f64, f64)>) {
    let calls = calls.swap(0, Ordering::Relaxed);
    let of = |times: Vec<f64>| {
        let most = times.iter().copied().fold(0.0, f64::max);
        (super::median(times), most)
    };
    let first = of(times.iter().map(|(first, _)| *first).collect());
    let end = of(times.iter().map(|(_, end)| *end).collect());
    println!("{path:12} {calls:4} | {:7.1} {:7.1} | {:7.1} {:7.1}", first.0, first.1, end.0, end.1);
}
