use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll},
};

use http::{Method, Request, Response, header::UPGRADE};
use http_body::Body;
use tower_service::Service;

use super::{
    Drain, DrainGuard, InFlightEvent, ResponseBody, ResponseFuture,
    layer::{Hook, Options},
};

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
    fn call(&mut self, mut request: Request<ReqBody>) -> Self::Future {
        // A server that counts this request has left its own drain here.
        let counted = request.extensions().get::<Drain>();
        let stopping = counted.unwrap_or(&self.drain).is_stopping();
        if stopping && let Some(retry_after) = self.refusal(&request) {
            if let Some(hook) = &self.options.hook {
                hook(InFlightEvent::Refused);
            }
            return ResponseFuture::refused(retry_after, request.version());
        }
        let guard = counted.is_none().then(|| self.drain.guard());
        // Such a connection outlives its request; its handler needs the drain to keep it counted.
        if guard.is_some() && may_upgrade(&request) {
            request.extensions_mut().insert(self.drain.clone());
        }
        let guard = InFlight::start(guard, self.options.hook.as_ref());
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
    #[cold]
    fn refusal<B>(&self, request: &Request<B>) -> Option<http::HeaderValue> {
        let retry_after = self.options.refuse.as_ref()?;
        let path = request.uri().path();
        let exempt = self.options.exempt.iter().any(|exempt| **exempt == *path);
        (!exempt).then(|| retry_after.clone())
    }
}

/// One request in flight, from the call to the end of its response body.
#[must_use = "dropping it says that the request has ended"]
pub struct InFlight {
    guard: Option<DrainGuard>,
    hook: Option<Hook>,
}

impl InFlight {
    /// `None` where nobody counts and nobody listens.
    #[inline]
    fn start(guard: Option<DrainGuard>, hook: Option<&Hook>) -> Option<Self> {
        if let Some(hook) = hook {
            hook(InFlightEvent::Started);
        }
        (guard.is_some() || hook.is_some()).then(|| Self { guard, hook: hook.cloned() })
    }
}

impl Drop for InFlight {
    #[inline]
    fn drop(&mut self) {
        self.guard = None;
        if let Some(hook) = &self.hook {
            hook(InFlightEvent::Finished);
        }
    }
}

impl fmt::Debug for InFlight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("InFlight")
    }
}
