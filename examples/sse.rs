//! Server-sent events without an end. At a reload or a stop the last event says so and the response
//! ends; the browser's `EventSource` connects again by itself: to the new worker.
//!
//! ```text
//! cargo run --example sse
//! curl -N localhost:3000/ticks
//! ```

use std::{convert::Infallible, time::Duration};

use axum::{
    Router,
    response::sse::{Event, Sse},
    routing::get,
};
use futures_util::stream::{self, Stream};
use graceful::Handle;
use tokio::time::sleep;

/// How long the browser waits before it connects again.
const RETRY: Duration = Duration::from_millis(100);

pub fn app() -> Router {
    Router::new().route("/ticks", get(async |handle: Handle| Sse::new(ticks(handle))))
}

/// A number every 100 ms, until the process drains.
fn ticks(handle: Handle) -> impl Stream<Item = Result<Event, Infallible>> {
    stream::unfold(Some((handle, 0)), async |state| {
        let (handle, number) = state?;
        tokio::select! {
            () = sleep(Duration::from_millis(100)) => {
                let event = Event::default().data(format!("{number}"));
                Some((Ok(event), Some((handle, number + 1))))
            }
            () = handle.draining() => {
                Some((Ok(Event::default().event("goodbye").retry(RETRY).data("")), None))
            }
        }
    })
}

#[tokio::main]
async fn main() -> Result<(), graceful::Error> {
    graceful::serve(app()).await
}
