//! The future of a [`LruCache`](super::LruCache).

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::Response;

use super::body::ResponseBody;

type Answer<B, E> = Result<Response<ResponseBody<B>>, E>;

/// The answer of a [`LruCache`](super::LruCache): ready at once for a hit, which allocates no future.
#[must_use = "futures do nothing unless polled"]
pub struct ResponseFuture<B, E> {
    kind: Kind<B, E>,
}

enum Kind<B, E> {
    Ready(Option<Response<ResponseBody<B>>>),
    Boxed(Pin<Box<dyn Future<Output = Answer<B, E>> + Send>>),
}

impl<B, E> ResponseFuture<B, E> {
    #[inline]
    pub(crate) fn ready(response: Response<ResponseBody<B>>) -> Self {
        Self { kind: Kind::Ready(Some(response)) }
    }

    pub(crate) fn boxed(future: impl Future<Output = Answer<B, E>> + Send + 'static) -> Self {
        Self { kind: Kind::Boxed(Box::pin(future)) }
    }
}

// Nothing in it is pinned in place.
impl<B, E> Unpin for ResponseFuture<B, E> {}

impl<B, E> Future for ResponseFuture<B, E> {
    type Output = Answer<B, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.get_mut().kind {
            Kind::Ready(response) => {
                Poll::Ready(Ok(response.take().expect("polled after it was ready")))
            }
            Kind::Boxed(future) => future.as_mut().poll(cx),
        }
    }
}

impl<B, E> fmt::Debug for ResponseFuture<B, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ResponseFuture")
    }
}
