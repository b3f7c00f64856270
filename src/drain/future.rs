use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::{
    HeaderValue, Response, StatusCode, Version,
    header::{CONNECTION, RETRY_AFTER},
};
use http_body::Body;
use pin_project_lite::pin_project;

use super::{InFlight, ResponseBody, layer::Options};

pin_project! {
    /// The response future of [`Graceful`](super::Graceful).
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<F> {
        #[pin]
        state: State<F>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<F> {
        Called { #[pin] future: F, guard: InFlight },
        Refused { options: Arc<Options>, version: Version },
    }
}

impl<F> ResponseFuture<F> {
    #[inline]
    pub(super) fn new(future: F, guard: InFlight) -> Self {
        Self { state: State::Called { future, guard } }
    }

    pub(super) fn refused(options: Arc<Options>, version: Version) -> Self {
        Self { state: State::Refused { options, version } }
    }
}

impl<F, B, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Body,
{
    type Output = Result<Response<ResponseBody<B>>, E>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            StateProj::Called { future, guard } => {
                let response = ready!(future.poll(cx))?;
                let guard = std::mem::take(guard);
                Poll::Ready(Ok(response.map(|body| ResponseBody::new(body, guard))))
            }
            StateProj::Refused { options, version } => {
                let mut response = Response::new(ResponseBody::empty());
                *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
                let headers = response.headers_mut();
                if let Some(retry_after) = &options.refuse {
                    headers.insert(RETRY_AFTER, retry_after.clone());
                }
                // HTTP/2 has no such field (RFC 9113, section 8.2.2); it ends by GOAWAY.
                if *version <= Version::HTTP_11 {
                    headers.insert(CONNECTION, HeaderValue::from_static("close"));
                }
                Poll::Ready(Ok(response))
            }
        }
    }
}

impl<F> fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
