//! What the cache costs in memory: the store as a whole, one entry, and one hit.
//!
//! One test function: the allocator counts for the whole process.
#![allow(unsafe_code, clippy::unwrap_used, clippy::print_stdout)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use graceful::cache::{CacheOutcome, LruCacheLayer};
use http::{Request, Response};
use http_body_util::{BodyExt, Empty, Full};
use tower::{Layer, Service};

struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);
static CALLS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: hands everything on to the system's allocator and only counts.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        HELD.fetch_add(layout.size(), Ordering::Relaxed);
        CALLS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise is handed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise is handed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Answers with three headers and as many bytes as the path says.
#[derive(Clone)]
struct Handler;

impl Service<Request<Empty<Bytes>>> for Handler {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Empty<Bytes>>) -> Self::Future {
        let size = request.uri().query().unwrap().parse().unwrap();
        let response = Response::builder()
            .header("cache-control", "max-age=3600")
            .header("content-type", "text/plain")
            .header("x-any", request.uri().path());
        ready(Ok(response.body(Full::new(Bytes::from(vec![7; size]))).unwrap()))
    }
}

fn request(number: usize, size: usize) -> Request<Empty<Bytes>> {
    let uri = format!("http://example.com/resource/{number:08}?{size}");
    Request::get(uri).body(Empty::new()).unwrap()
}

#[tokio::test(flavor = "current_thread")]
async fn memory() {
    a_full_store().await;
    an_entry().await;
    a_hit().await;
}

/// 256 MiB of bodies of 1 KiB: the memory that is really held overshoots by no more than 2 %.
async fn a_full_store() {
    // Without optimizations a tenth of it has to do.
    let limit = if cfg!(debug_assertions) { 24 } else { 256 } * 1024 * 1024;
    let layer = LruCacheLayer::new(10_000_000).max_bytes(limit);
    let handle = layer.handle();
    let mut service = layer.layer(Handler);
    let before = HELD.load(Ordering::Relaxed);
    let mut most = 0;
    let entries = 2 * limit / 1024;
    for number in 0..entries {
        let response = service.call(request(number, 1024)).await.unwrap();
        response.into_body().collect().await.unwrap();
        if number % 100 == 0 {
            most = most.max(HELD.load(Ordering::Relaxed).saturating_sub(before));
        }
    }
    assert!(handle.stats().evictions > 1000);
    let overshoot = most as f64 / limit as f64 - 1.0;
    println!("full store: {} entries, {:+.2} % of the limit", handle.len(), overshoot * 100.0);
    assert!(overshoot <= 0.02, "{overshoot}");
    assert!(overshoot >= -0.10, "much of what is allowed is not used: {overshoot}");
    drop((service, layer, handle));
    let left = HELD.load(Ordering::Relaxed).saturating_sub(before);
    assert!(left < 1024 * 1024, "{left} bytes leak");
}

/// What one entry takes beside its body and its header values.
async fn an_entry() {
    let layer = LruCacheLayer::new(1_000_000).make_etag(false);
    let mut service = layer.layer(Handler);
    let fill = async |service: &mut graceful::cache::LruCache<Handler>, from: usize, to: usize| {
        for number in from..to {
            let response = service.call(request(number, 1024)).await.unwrap();
            response.into_body().collect().await.unwrap();
        }
    };
    fill(&mut service, 0, 2000).await;
    // From just behind one growth of the tables to just behind a later one, so that room kept for more is
    // in the count as on average.
    let before = HELD.load(Ordering::Relaxed);
    fill(&mut service, 2000, 66_000).await;
    let each = (HELD.load(Ordering::Relaxed) - before) / 64_000;
    // Names and values of the four headers that are stored, among them `Date`.
    let headers = "cache-controlmax-age=3600content-typetext/plainx-any/resource/00000000\
                   dateSun, 06 Nov 1994 08:49:37 GMT"
        .len();
    // A header is a name and a value, and what the `http` crate needs for each of the two.
    let headers = headers + 4 * size_of::<(http::HeaderName, http::HeaderValue)>();
    let overhead = each - 1024 - headers;
    println!("entry: {each} bytes, {overhead} beside body and headers ({headers})");
    assert!(overhead <= 400, "{overhead}");
}

/// Allocations of a hit, whatever the size of the body: of one in the same second as the last, and of the
/// first in another second, which has another age.
async fn a_hit() {
    tokio::time::pause();
    for size in [100, 10 * 1024, 1024 * 1024] {
        let layer = LruCacheLayer::new(1000);
        let mut service = layer.layer(Handler);
        let response = service.call(request(1, size)).await.unwrap();
        response.into_body().collect().await.unwrap();
        // The first hit makes the body and the head shared, once for all.
        service.call(request(1, size)).await.unwrap().into_body().collect().await.unwrap();
        for later in [0, 1] {
            tokio::time::advance(Duration::from_secs(later)).await;
            let asked = request(1, size);
            let (calls, held) = (CALLS.load(Ordering::Relaxed), HELD.load(Ordering::Relaxed));
            let mut response = service.call(asked).await.unwrap();
            let frame = response.body_mut().frame().await.unwrap().unwrap();
            let (calls, bytes) =
                (CALLS.load(Ordering::Relaxed) - calls, HELD.load(Ordering::Relaxed) - held);
            assert_eq!(response.extensions().get(), Some(&CacheOutcome::Hit));
            assert_eq!(response.headers()["age"], later.to_string());
            assert_eq!(frame.into_data().unwrap().len(), size);
            println!("hit of {size} bytes, {later} s old: {calls} allocations, {bytes} bytes");
            assert!(calls <= 8, "{calls} allocations");
            assert!(bytes < 4096, "{bytes} bytes");
        }
    }
}
