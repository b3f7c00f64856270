use std::{fmt, sync::Arc, time::Duration};

use http::HeaderValue;
use tower_layer::Layer;

use super::{Drain, Graceful};

/// Tracks requests in flight, and refuses new ones while draining if told to.
///
/// Put it around a service to know when the service may end: [`drain`](Self::drain) gives the
/// [`Drain`] that counts its requests. It needs no server of ours; under `graceful::serve` it joins
/// the server's own count.
///
/// A request costs a few nanoseconds and no allocation. The connection of a WebSocket or another
/// upgrade outlives its request: a handler keeps it counted by holding a guard from the `Drain` that
/// the layer puts into the extensions of such a request. Under `graceful::serve` that happens by
/// itself.
///
/// # Example
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// use axum::{Router, routing::get};
/// use graceful::GracefulLayer;
///
/// let layer = GracefulLayer::new();
/// let drain = layer.drain();
/// let app: Router = Router::new().route("/", get(|| async { "hello" })).layer(layer);
/// # drop(app);
///
/// // When the server is told to stop:
/// drain.start();
/// drain.drained().await;
/// # }
/// ```
#[derive(Clone)]
#[must_use = "a layer does nothing until it is added to a service"]
pub struct GracefulLayer {
    pub(super) drain: Drain,
    pub(super) options: Arc<Options>,
}

/// What [`GracefulLayer::on_event`] reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum InFlightEvent {
    /// A request has begun.
    Started,
    /// A request and its response have ended, failed or were dropped.
    Finished,
    /// A request was answered with 503 because the service drains.
    Refused,
}

pub(super) type Hook = Arc<dyn Fn(InFlightEvent) + Send + Sync>;

#[derive(Clone, Default)]
pub(super) struct Options {
    /// The value of `Retry-After`; `None` refuses nothing.
    pub(super) refuse: Option<HeaderValue>,
    pub(super) exempt: Vec<Box<str>>,
    pub(super) hook: Option<Hook>,
}

impl GracefulLayer {
    /// Creates a layer with a [`Drain`] of its own that refuses nothing.
    pub fn new() -> Self {
        Self::with_drain(Drain::new())
    }

    /// Creates a layer that counts in the given `drain`.
    pub fn with_drain(drain: Drain) -> Self {
        Self { drain, options: Arc::default() }
    }

    /// The drain in which requests are counted when no server around counts them.
    pub fn drain(&self) -> Drain {
        self.drain.clone()
    }

    /// Refuses new requests while draining: `503 Service Unavailable` with `Connection: close` and
    /// `Retry-After` (RFC 9110, section 10.2.3), rounded up to whole seconds. Off by default.
    ///
    /// Under `graceful::serve` this concerns a stop only. During a reload nothing is refused, as the
    /// request would have been answered by the next worker.
    pub fn refuse(mut self, retry_after: Duration) -> Self {
        let seconds = retry_after.as_secs() + u64::from(retry_after.subsec_nanos() > 0);
        Arc::make_mut(&mut self.options).refuse = Some(HeaderValue::from(seconds));
        self
    }

    /// Never refuses requests for this path, such as a health check's. Compared exactly; may be
    /// called several times.
    pub fn exempt(mut self, path: impl Into<String>) -> Self {
        let path: String = path.into();
        Arc::make_mut(&mut self.options).exempt.push(path.into_boxed_str());
        self
    }

    /// Calls `hook` when a request starts, finishes or is refused, for metrics. It runs in the
    /// request's own task, so it should be quick.
    pub fn on_event(mut self, hook: impl Fn(InFlightEvent) + Send + Sync + 'static) -> Self {
        Arc::make_mut(&mut self.options).hook = Some(Arc::new(hook));
        self
    }
}

impl Default for GracefulLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> Layer<S> for GracefulLayer {
    type Service = Graceful<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Graceful { inner, drain: self.drain.clone(), options: self.options.clone() }
    }
}

impl fmt::Debug for GracefulLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GracefulLayer")
            .field("drain", &self.drain)
            .field("options", &self.options)
            .finish()
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("refuse", &self.refuse)
            .field("exempt", &self.exempt)
            .finish_non_exhaustive()
    }
}
