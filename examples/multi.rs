//! Several addresses, TCP and Unix, each with its own application.
//!
//! `cargo run --release --example multi`, then
//! `curl http://127.0.0.1:3001/` and `curl --unix-socket multi.sock http://localhost/`.

use axum::{Router, routing::get};
use graceful::Handle;

fn main() -> Result<(), graceful::Error> {
    let public = Router::new().route("/", get(|| async { "the public application\n" }));
    let private = Router::new().route("/", get(status));
    graceful::Server::new()
        .register("127.0.0.1:3001", public)
        .register("unix:multi.sock", private)
        .on_ready(|started| println!("PID {} serves {}", started.pid, started.addresses.join(", ")))
        .run()
}

async fn status(handle: Handle) -> String {
    format!("generation {}, {} in flight\n", handle.generation(), handle.in_flight())
}
