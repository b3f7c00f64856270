//! The handlers of every server under test, and the headers that tell who answered.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Query, Request};
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::{map_request, map_response};
use axum::response::Response;
use axum::routing::{get, post};
use axum::{BoxError, Router};
use http_body::Frame;
use http_body_util::BodyExt;
use tokio::time::Sleep;

use super::pattern;

/// The body of `/`.
pub(crate) const PAGE: &str = "hello, world\n";
/// The body of `/slow`.
pub(crate) const SLOW: &str = "slow\n";

/// The handlers of [`routes`]; every response says in `x-worker` and `x-generation` which process and
/// which generation answered.
///
/// The generation is asked for at each response, so that it may become known after the app is built.
pub(crate) fn app<G>(generation: G) -> Router
where
    G: Fn() -> u64 + Clone + Send + Sync + 'static,
{
    with_headers(routes(), generation)
}

/// These routes, and the headers of [`app`] on each of their responses.
pub(crate) fn with_headers<G>(routes: Router, generation: G) -> Router
where
    G: Fn() -> u64 + Clone + Send + Sync + 'static,
{
    let pid = HeaderValue::from(std::process::id());
    routes.layer(map_response(move |mut response: Response| {
        let headers = response.headers_mut();
        headers.insert("x-worker", pid.clone());
        headers.insert("x-generation", HeaderValue::from(generation()));
        std::future::ready(response)
    }))
}

/// The same with a line of output, `begun GET /path`, at the start of each request.
pub(crate) fn announced(routes: Router) -> Router {
    routes.layer(map_request(async |request: Request| {
        println!("begun {} {}", request.method(), request.uri().path());
        request
    }))
}

/// `/`, `/slow?ms=300`, `/stream?chunks=8&bytes=4096&ms=40`, `/whole?bytes=4096`, `/upload` and `/pid`, and nothing around
/// them.
pub(crate) fn routes() -> Router {
    Router::new()
        .route("/", get(async || PAGE))
        .route("/slow", get(slow))
        .route("/stream", get(stream))
        .route("/whole", get(whole))
        .route("/upload", post(upload))
        .route("/pid", get(async || format!("{}\n", std::process::id())))
}

/// Numbers by name, as `?ms=300`.
type Numbers = Query<HashMap<String, u32>>;

fn number(numbers: &Numbers, name: &str) -> Result<u32, (StatusCode, String)> {
    let missing = || (StatusCode::BAD_REQUEST, format!("{name} is missing\n"));
    numbers.get(name).copied().ok_or_else(missing)
}

async fn slow(query: Numbers) -> Result<&'static str, (StatusCode, String)> {
    let pause = Duration::from_millis(number(&query, "ms")?.into());
    tokio::time::sleep(pause).await;
    Ok(SLOW)
}

async fn stream(query: Numbers) -> Result<Body, (StatusCode, String)> {
    Ok(Body::new(Chunks {
        left: number(&query, "chunks")?,
        bytes: number(&query, "bytes")? as usize,
        place: 0,
        pause: Duration::from_millis(number(&query, "ms")?.into()),
        sleep: None,
    }))
}

/// A body of one chunk.
async fn whole(query: Numbers) -> Result<Bytes, (StatusCode, String)> {
    Ok(pattern::bytes(0, number(&query, "bytes")? as usize).into())
}

/// A body of several chunks with a pause before each but the first. Its length is not announced.
struct Chunks {
    left: u32,
    bytes: usize,
    place: usize,
    pause: Duration,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl http_body::Body for Chunks {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if let Some(sleep) = &mut self.sleep {
            std::task::ready!(sleep.as_mut().poll(cx));
            self.sleep = None;
        }
        if self.left == 0 {
            return Poll::Ready(None);
        }
        self.left -= 1;
        let chunk = pattern::bytes(self.place, self.bytes);
        self.place += self.bytes;
        self.sleep = Some(Box::pin(tokio::time::sleep(self.pause)));
        Poll::Ready(Some(Ok(Frame::data(chunk.into()))))
    }
}

/// Counts what arrives as it arrives; see [`pattern::Tally::answer`].
async fn upload(mut body: Body) -> Result<String, (StatusCode, String)> {
    let mut tally = pattern::Tally::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            let error: BoxError = error.into();
            (StatusCode::BAD_REQUEST, format!("cannot read the body: {error}\n"))
        })?;
        if let Some(data) = frame.data_ref() {
            tally.add(data);
        }
    }
    Ok(tally.answer())
}
