use std::{
    convert::Infallible,
    future::Future,
    io::IoSlice,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use axum::body::Body;
use bytes::{Buf, Bytes};
use http::{Request, Response};
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use pin_project_lite::pin_project;
use tower_service::Service;

use super::{
    requests::RequestGuard,
    service::{Counted, ResponseFuture},
};
use crate::BoxError;

/// The application on an HTTP/2 connection: a request is in flight until the last byte of its answer is
/// written. hyper lets go of a body when it has passed on its last chunk, and that may wait for as long as
/// the client likes, until there is room in its window.
#[derive(Debug)]
pub(super) struct Whole<S>(pub(super) Counted<S>);

impl<S, B> hyper::service::Service<Request<Incoming>> for Whole<S>
where
    S: Service<Request<Body>, Response = Response<B>> + Clone,
    S::Error: Into<BoxError>,
    B: http_body::Body,
{
    type Response = Response<WholeBody<B>>;
    type Error = Infallible;
    type Future = WholeFuture<S>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        WholeFuture { inner: self.0.call(request) }
    }
}

pin_project! {
    pub(super) struct WholeFuture<S: Service<Request<Body>>> {
        #[pin]
        inner: ResponseFuture<S>,
    }
}

impl<S, B> Future for WholeFuture<S>
where
    S: Service<Request<Body>, Response = Response<B>>,
    S::Error: Into<BoxError>,
    B: http_body::Body,
{
    type Output = Result<Response<WholeBody<B>>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let response = ready!(self.project().inner.poll(cx))?;
        Poll::Ready(Ok(response.map(|body| {
            let (inner, guard) = body.into_parts();
            WholeBody { inner, guard: guard.map(Arc::new) }
        })))
    }
}

pin_project! {
    /// A response body whose chunks keep its request in flight, each until it is written.
    pub(super) struct WholeBody<B> {
        #[pin]
        inner: Option<B>,
        guard: Option<Arc<RequestGuard>>,
    }
}

impl<B: http_body::Body> http_body::Body for WholeBody<B> {
    type Data = Chunk<B::Data>;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let this = self.project();
        let Some(inner) = this.inner.as_pin_mut() else {
            return Poll::Ready(None);
        };
        let frame = ready!(inner.poll_frame(cx));
        if !matches!(frame, Some(Ok(_))) {
            *this.guard = None;
        }
        Poll::Ready(frame.map(|frame| {
            frame.map(|frame| frame.map_data(|data| Chunk { data, _guard: this.guard.clone() }))
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(http_body::Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or_else(|| SizeHint::with_exact(0), http_body::Body::size_hint)
    }
}

/// Dropped when it is written, or when its stream is reset.
#[derive(Debug)]
pub(super) struct Chunk<D> {
    data: D,
    _guard: Option<Arc<RequestGuard>>,
}

impl<D: Buf> Buf for Chunk<D> {
    fn remaining(&self) -> usize {
        self.data.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.data.chunk()
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        self.data.chunks_vectored(slices)
    }

    fn advance(&mut self, count: usize) {
        self.data.advance(count);
    }

    fn copy_to_bytes(&mut self, length: usize) -> Bytes {
        self.data.copy_to_bytes(length)
    }
}
