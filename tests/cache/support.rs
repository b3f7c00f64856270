//! A handler that says what it is told to, and counts.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::body::Body;
use bytes::Bytes;
use graceful::cache::{CacheHandle, CacheOutcome, LruCacheLayer};
use http::{HeaderMap, Method, Request, Response, StatusCode, request};
use http_body_util::BodyExt;
use tokio::time::Instant;
use tower::util::BoxCloneSyncService;
use tower::{Layer, Service, ServiceExt, service_fn};

/// 2026-01-01T00:00:00Z: the wall clock at the start of every test.
pub(crate) const START: u64 = 1_767_225_600;

/// A wall clock that goes with the (paused) clock of the runtime.
pub(crate) fn wall_clock() -> impl Fn() -> SystemTime + Send + Sync + 'static {
    let start = Instant::now();
    move || UNIX_EPOCH + Duration::from_secs(START) + start.elapsed()
}

/// `seconds` after the start of the test, as a header has it.
pub(crate) fn date(seconds: i64) -> String {
    let at = UNIX_EPOCH + Duration::from_secs(START.saturating_add_signed(seconds));
    // The epoch formatted by hand would test the crate with itself.
    httpdate(at)
}

fn httpdate(at: SystemTime) -> String {
    let seconds = at.duration_since(UNIX_EPOCH).unwrap().as_secs();
    let days = seconds / 86_400;
    let names = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    let months =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    let (mut year, mut rest) = (1970, days);
    while rest >= 365 + u64::from(leap(year)) {
        rest -= 365 + u64::from(leap(year));
        year += 1;
    }
    let lengths = [31, 28 + u64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 0;
    while rest >= lengths[month] {
        rest -= lengths[month];
        month += 1;
    }
    format!(
        "{}, {:02} {} {year} {:02}:{:02}:{:02} GMT",
        names[(days % 7) as usize],
        rest + 1,
        months[month],
        seconds / 3600 % 24,
        seconds / 60 % 60,
        seconds % 60
    )
}

/// A service behind the layer.
#[derive(Clone)]
pub(crate) struct App {
    service: BoxCloneSyncService<Request<Body>, Response<Body>, Infallible>,
    pub(crate) handle: CacheHandle,
    calls: Arc<AtomicUsize>,
}

/// What a client saw.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) trailers: Option<HeaderMap>,
    pub(crate) outcome: Option<CacheOutcome>,
}

impl Answer {
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

impl App {
    /// `answer` gets the number of the call, from 1, and the request.
    pub(crate) fn new(
        layer: LruCacheLayer,
        answer: impl Fn(usize, &request::Parts) -> Response<Body> + Send + Sync + 'static,
    ) -> Self {
        let answer = Arc::new(answer);
        Self::with_service(layer, move |number, request| {
            let answer = answer.clone();
            async move { Ok(answer(number, &request.into_parts().0)) }
        })
    }

    pub(crate) fn with_service<F>(
        layer: LruCacheLayer,
        answer: impl Fn(usize, Request<Body>) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Result<Response<Body>, Infallible>> + Send + 'static,
    {
        let calls = Arc::new(AtomicUsize::new(0));
        let answer = Arc::new(answer);
        let handle = layer.handle();
        let inner = {
            let calls = calls.clone();
            service_fn(move |request: Request<Body>| {
                let number = calls.fetch_add(1, Ordering::SeqCst) + 1;
                answer(number, request)
            })
        };
        let service = layer.layer(inner).map_response(|response| response.map(Body::new));
        Self { service: BoxCloneSyncService::new(service), handle, calls }
    }

    /// How often the handler was called.
    pub(crate) fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    pub(crate) async fn start(&self, request: Request<Body>) -> Response<Body> {
        let Ok(response) = self.service.clone().call(request).await;
        response
    }

    pub(crate) async fn send(&self, request: Request<Body>) -> Answer {
        read(self.start(request).await).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(get(path, &[])).await
    }

    pub(crate) async fn get_with(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        self.send(get(path, headers)).await
    }
}

pub(crate) async fn read(response: Response<Body>) -> Answer {
    let (parts, body) = response.into_parts();
    let collected = body.collect().await.unwrap();
    let trailers = collected.trailers().cloned();
    Answer {
        status: parts.status,
        headers: parts.headers,
        outcome: parts.extensions.get().copied(),
        trailers,
        body: collected.to_bytes(),
    }
}

pub(crate) fn request(method: Method, path: &str, headers: &[(&str, &str)]) -> Request<Body> {
    let mut request = Request::builder().method(method).uri(path);
    if !headers.iter().any(|(name, _)| *name == "host") {
        request = request.header("host", "example.com");
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Body::empty()).unwrap()
}

pub(crate) fn get(path: &str, headers: &[(&str, &str)]) -> Request<Body> {
    request(Method::GET, path, headers)
}

/// 200 with these headers.
pub(crate) fn answer(headers: &[(&str, &str)], body: impl Into<Body>) -> Response<Body> {
    status(200, headers, body)
}

pub(crate) fn status(
    status: u16,
    headers: &[(&str, &str)],
    body: impl Into<Body>,
) -> Response<Body> {
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(*name, *value);
    }
    response.body(body.into()).unwrap()
}

pub(crate) fn layer() -> LruCacheLayer {
    LruCacheLayer::new(1000).wall_clock(wall_clock())
}

pub(crate) async fn advance(seconds: u64) {
    tokio::time::advance(Duration::from_secs(seconds)).await;
}
