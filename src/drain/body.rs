use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::InFlight;

pin_project! {
    /// A response body that keeps its request in flight until it has ended, failed or was dropped.
    pub struct ResponseBody<B, G = InFlight> {
        // Nothing: the answer of a refusal.
        #[pin]
        inner: Option<B>,
        guard: G,
    }
}

impl<B, G> ResponseBody<B, G> {
    #[inline]
    pub(crate) fn new(inner: B, guard: G) -> Self {
        Self { inner: Some(inner), guard }
    }

    #[cfg(feature = "serve")]
    pub(crate) fn into_parts(self) -> (Option<B>, G) {
        (self.inner, self.guard)
    }
}

impl<B, G: Default> ResponseBody<B, G> {
    pub(crate) fn empty() -> Self {
        Self { inner: None, guard: G::default() }
    }
}

impl<B: Body, G: Default> Body for ResponseBody<B, G> {
    type Data = B::Data;
    type Error = B::Error;

    #[inline]
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
            *this.guard = G::default();
        }
        Poll::Ready(frame)
    }

    #[inline]
    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    #[inline]
    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

impl<B: Default, G: Default> Default for ResponseBody<B, G> {
    fn default() -> Self {
        Self::new(B::default(), G::default())
    }
}

impl<B, G> fmt::Debug for ResponseBody<B, G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseBody").finish_non_exhaustive()
    }
}
