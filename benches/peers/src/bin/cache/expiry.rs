//! What expires while it is asked for 1,000 times a second, for 6 s: a lifetime of 1 s, and a handler that
//! takes 100 ms. Each request begins when it is due, whether those before it have an answer or not.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::routing::get;
use graceful::cache::LruCacheLayer;
use tower::{Layer, ServiceExt};

const REQUESTS: usize = 6000;

/// Calls of the handler, and how long each request took, in milliseconds.
async fn load(control: &'static str) -> (usize, Vec<f64>) {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    let handler = get(move || {
        counted.fetch_add(1, Ordering::Relaxed);
        async move {
            tokio::time::sleep(Duration::from_millis(100)).await;
            ([("cache-control", control)], "x")
        }
    });
    let app =
        LruCacheLayer::new(1000).layer(super::served(Router::<()>::new().route("/", handler)));
    let mut due = tokio::time::interval(Duration::from_millis(1));
    let mut all = Vec::new();
    for _ in 0..REQUESTS {
        due.tick().await;
        let app = app.clone();
        all.push(tokio::spawn(async move {
            let start = Instant::now();
            let response = app.oneshot(super::request("/")).await.unwrap();
            http_body_util::BodyExt::collect(response.into_body()).await.unwrap();
            start.elapsed().as_secs_f64() * 1000.0
        }));
    }
    let mut times = Vec::new();
    for one in all {
        times.push(one.await.unwrap());
    }
    (calls.load(Ordering::Relaxed), times)
}

pub(crate) fn run() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.unwrap().block_on(async {
        println!("1,000 requests a second for 6 s: calls | after the first second p50, p99, p99.9, max (ms)");
        for control in ["max-age=1", "max-age=1, stale-while-revalidate=10"] {
            let (calls, times) = load(control).await;
            let later = &times[1000..];
            let at = |share| super::quantile(later.to_vec(), share);
            println!(
                "{control:36} {calls:4} | {:8.3} {:8.3} {:8.3} {:8.3}",
                at(0.5),
                at(0.99),
                at(0.999),
                later.iter().copied().fold(0.0, f64::max),
            );
        }
    });
}
