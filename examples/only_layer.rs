//! `GracefulLayer` and `Drain` alone, under `axum::serve`: without a master, on any platform.
//!
//! `cargo run --release --example only_layer`, request `/slow`, and press Ctrl-C meanwhile.

use std::time::Duration;

use axum::{Router, routing::get};
use graceful::{Drain, GracefulLayer};
use tokio::{net::TcpListener, time::timeout};

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let layer = GracefulLayer::new().refuse(Duration::from_secs(5)).exempt("/healthz");
    let drain = layer.drain();
    let app = Router::new()
        .route("/slow", get(slow))
        .route("/healthz", get(|| async { "ok\n" }))
        .layer(layer);
    let listener = TcpListener::bind("127.0.0.1:3000").await?;
    println!("http://{}/slow takes five seconds", listener.local_addr()?);
    tokio::select! {
        // In this order: Ctrl-C is listened to before the first request can come.
        biased;
        () = stopped(drain) => Ok(()),
        result = async { axum::serve(listener, app).await } => result,
    }
}

async fn slow() -> &'static str {
    println!("a slow request has come in");
    tokio::time::sleep(Duration::from_secs(5)).await;
    "done\n"
}

/// Completes when everything in flight has ended, ten seconds after Ctrl-C at the latest.
async fn stopped(drain: Drain) {
    if let Err(error) = tokio::signal::ctrl_c().await {
        eprintln!("cannot listen to Ctrl-C: {error}");
        std::future::pending::<()>().await;
    }
    drain.start();
    println!("{} requests in flight; new ones are refused", drain.in_flight());
    if timeout(Duration::from_secs(10), drain.drained()).await.is_err() {
        println!("{} requests did not end in time", drain.in_flight());
    }
}
