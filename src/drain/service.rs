use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll},
};

use http::{Method, Request, Response, header::UPGRADE};
use http_body::Body;
use tower_service::Service;

use super::{Drain, DrainGuard, InFlightEvent, ResponseBody, ResponseFuture, layer::Options};

/// The service that [`GracefulLayer`](super::GracefulLayer) makes.
#[derive(Clone, Debug)]
pub struct Graceful<S> {
    pub(super) inner: S,
    pub(super) drain: Drain,
    pub(super) options: Arc<Options>,
}

impl<S, ReqBody, ResBody> Service<Request<ReqBody>> for Graceful<S>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>>,
    ResBody: Body,
{
    type Response = Response<ResponseBody<ResBody>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    #[inline]
    fn call(&mut self, request: Request<ReqBody>) -> Self::Future {
        // A server that counts this request has left its own drain here.
        let counted = request.extensions().get::<Drain>();
        let stopping = counted.unwrap_or(&self.drain).is_stopping();
        if stopping && self.refuses(&request) {
            return ResponseFuture::refused(self.options.clone(), request.version());
        }
        let guard = counted.is_none().then(|| self.drain.guard());
        let is_counted_here = guard.is_some();
        let guard = InFlight::start(guard, &self.options);
        if is_counted_here && may_upgrade(&request) {
            let request = self.with_drain(request);
            return ResponseFuture::new(self.inner.call(request), guard);
        }
        ResponseFuture::new(self.inner.call(request), guard)
    }
}

/// Whether its connection may become another protocol's.
#[inline]
fn may_upgrade<B>(request: &Request<B>) -> bool {
    // A look at each name is cheaper than the hash of one.
    *request.method() == Method::CONNECT || request.headers().keys().any(|name| *name == UPGRADE)
}

impl<S> Graceful<S> {
    /// Such a connection outlives its request; its handler needs the drain to keep it counted.
    #[cold]
    fn with_drain<B>(&self, mut request: Request<B>) -> Request<B> {
        request.extensions_mut().insert(self.drain.clone());
        request
    }

    #[cold]
    fn refuses<B>(&self, request: &Request<B>) -> bool {
        let path = request.uri().path();
        let exempt = self.options.exempt.iter().any(|exempt| **exempt == *path);
        let refuses = self.options.refuse.is_some() && !exempt;
        if refuses && let Some(hook) = &self.options.hook {
            hook(InFlightEvent::Refused);
        }
        refuses
    }
}

/// One request in flight, from the call to the end of its response body.
/// The default is none.
#[derive(Default)]
#[must_use = "dropping it says that the request has ended"]
pub struct InFlight {
    guard: Option<DrainGuard>,
    /// Where it has a hook: thinner than that, as it moves along with each response.
    options: Option<Arc<Options>>,
}

impl InFlight {
    #[inline]
    fn start(guard: Option<DrainGuard>, options: &Arc<Options>) -> Self {
        let options = options.hook.as_ref().map(|hook| {
            hook(InFlightEvent::Started);
            options.clone()
        });
        Self { guard, options }
    }
}

impl Drop for InFlight {
    #[inline]
    fn drop(&mut self) {
        self.guard = None;
        if let Some(hook) = self.options.as_ref().and_then(|options| options.hook.as_ref()) {
            hook(InFlightEvent::Finished);
        }
    }
}

impl fmt::Debug for InFlight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("InFlight")
    }
}
