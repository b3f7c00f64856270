//! How a deploy goes: change the answer, build again, reload, and no client notices.
//!
//! ```sh
//! cargo run --release --example reload                        # in one terminal
//! ANSWER="the second answer" cargo build --release --example reload   # in another one
//! kill -HUP PID                                               # the PID that it has printed
//! ```
//!
//! The answer is part of the binary. A build that does not start, or dies on trial, is rolled back by
//! itself: `ANSWER=crash` makes one.

use axum::{Router, routing::get};
use graceful::{GracefulLayer, Handle};

/// Changes with each build.
const ANSWER: &str = match option_env!("ANSWER") {
    Some(answer) => answer,
    None => "the first answer",
};

fn main() -> Result<(), graceful::Error> {
    graceful::serve_with(build)
        .bind("127.0.0.1:3000")
        .health_check("/")
        .on_ready(|started| {
            let (generation, pid) = (started.generation, started.pid);
            println!("generation {generation} answers {ANSWER:?} on http://127.0.0.1:3000/");
            println!("deploy the next build with: kill -HUP {pid}");
        })
        .after_reload(|outcome| async move {
            match outcome {
                Ok(generation) => println!("reloaded: generation {generation} serves"),
                Err(why) => println!("the reload failed, the old generation goes on: {why}"),
            }
        })
        .run()
}

/// Runs in each worker, and never in the master.
async fn build() -> Result<Router, String> {
    if ANSWER == "crash" {
        return Err("this build is broken on purpose".to_owned());
    }
    Ok(Router::new().route("/", get(answer)).layer(GracefulLayer::new()))
}

async fn answer(handle: Handle) -> String {
    format!("{ANSWER} (generation {})\n", handle.generation())
}
