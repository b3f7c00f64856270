//! One line makes a server that reloads without losing a request.
//!
//! `cargo run --release --example hello`, then follow what it prints.

use axum::{Router, routing::get};
use graceful::GracefulLayer;

#[tokio::main]
async fn main() -> Result<(), graceful::Error> {
    let app =
        Router::new().route("/", get(|| async { "Hello, World!\n" })).layer(GracefulLayer::new());
    graceful::serve(app)
        .on_ready(|started| {
            let (pid, generation) = (started.pid, started.generation);
            for address in &started.addresses {
                println!("generation {generation} serves http://{address}/");
            }
            println!("reload it: kill -HUP {pid}    stop it: kill -TERM {pid} (or Ctrl-C)");
        })
        .await
}
