//! An axum app with a slow handler behind a response cache, and how to see the hits.
//!
//! ```text
//! cargo run --example cache --features cache
//! curl -i http://127.0.0.1:3000/slow     # a second
//! curl -i http://127.0.0.1:3000/slow     # at once; see `age` and `cache-status`
//! curl -i http://127.0.0.1:3000/stats
//! curl -i -X POST http://127.0.0.1:3000/purge
//! ```
#![allow(clippy::print_stdout)]

use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, VARY};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use graceful::cache::{CacheHandle, LruCacheLayer};
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let cache = LruCacheLayer::new(10_000).cache_status(Some("example"));
    let app = Router::new()
        .route("/slow", get(slow))
        .route("/greeting", get(greeting))
        // Only the routes above the layer are cached.
        .layer(cache.clone())
        .route("/stats", get(stats))
        .route("/purge", post(purge))
        .with_state(cache.handle());
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:3000".to_owned());
    let listener = TcpListener::bind(address).await?;
    println!("listening on {}", listener.local_addr()?);
    axum::serve(listener, app).await
}

/// Fresh for ten seconds; for another minute the old answer serves while a new one is made.
async fn slow() -> impl IntoResponse {
    tokio::time::sleep(Duration::from_secs(1)).await;
    ([(CACHE_CONTROL, "max-age=10, stale-while-revalidate=60")], "made with care\n")
}

/// Each language is stored on its own.
async fn greeting(headers: axum::http::HeaderMap) -> impl IntoResponse {
    let german = headers
        .get("accept-language")
        .is_some_and(|languages| languages.as_bytes().starts_with(b"de"));
    let text = if german { "Guten Tag\n" } else { "Good day\n" };
    ([(CACHE_CONTROL, "max-age=60"), (VARY, "accept-language")], text)
}

async fn stats(State(cache): State<CacheHandle>) -> String {
    format!("{} keys, {} bytes\n{:#?}\n", cache.len(), cache.bytes(), cache.stats())
}

async fn purge(State(cache): State<CacheHandle>) -> StatusCode {
    cache.clear();
    StatusCode::NO_CONTENT
}
