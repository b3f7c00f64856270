//! One line makes a server that reloads without losing a request.
//!
//! `cargo run --release --example hello`, then follow what it prints. `SHUTDOWN_DELAY=5` accepts for so
//! many seconds after the stop signal, as behind a load balancer.

use std::time::Duration;

use axum::{Router, routing::get};
use graceful::GracefulLayer;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // What the master and its workers have to say: reloads, and why one has failed.
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let delay = std::env::var("SHUTDOWN_DELAY").unwrap_or_else(|_| "0".to_owned());
    let app =
        Router::new().route("/", get(|| async { "Hello, World!\n" })).layer(GracefulLayer::new());
    graceful::serve(app)
        .shutdown_delay(Duration::from_secs(delay.parse()?))
        .on_ready(|started| {
            let (pid, generation) = (started.pid, started.generation);
            for address in &started.addresses {
                println!("generation {generation} serves http://{address}/");
            }
            println!("reload it: kill -HUP {pid}    stop it: kill -TERM {pid} (or Ctrl-C)");
        })
        .await?;
    Ok(())
}
