//! The body of an answer.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::vec;

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::BoxError;
use super::tape::TapeReader;

pin_project! {
    /// The body of a response that passed a [`LruCache`](super::LruCache): that of the inner service as it
    /// is, one from the store, or one that is being recorded while it is sent.
    ///
    /// Size hint, trailers and errors of an inner body are not changed.
    pub struct ResponseBody<B> {
        #[pin]
        kind: Kind<B>,
    }
}

pin_project! {
    #[project = KindProj]
    enum Kind<B> {
        Inner { #[pin] body: B },
        Stored { body: Bytes, trailers: Option<Box<HeaderMap>> },
        Multipart { chunks: vec::IntoIter<Bytes>, rest: u64 },
        Recorded { #[pin] reader: TapeReader, skip: u64, rest: Option<u64>, part: bool },
    }
}

/// A body that can be recorded.
pub(crate) trait Content:
    Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static
{
}

impl<B> Content for B where B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static {}

impl<B> ResponseBody<B> {
    pub(crate) fn inner(body: B) -> Self {
        Self { kind: Kind::Inner { body } }
    }

    pub(crate) fn empty() -> Self {
        Self::stored(Bytes::new(), None)
    }

    pub(crate) fn stored(body: Bytes, trailers: Option<Box<HeaderMap>>) -> Self {
        Self { kind: Kind::Stored { body, trailers } }
    }

    /// Nothing of the chunks may be empty; `rest` is the length of all.
    pub(crate) fn multipart(chunks: Vec<Bytes>, rest: u64) -> Self {
        Self { kind: Kind::Multipart { chunks: chunks.into_iter(), rest } }
    }

    /// `rest` is the length, where it is known.
    pub(crate) fn recorded(reader: TapeReader, rest: Option<u64>) -> Self {
        Self { kind: Kind::Recorded { reader, skip: 0, rest, part: false } }
    }

    /// Only `length` bytes from `skip` on.
    pub(crate) fn recorded_part(reader: TapeReader, skip: u64, length: u64) -> Self {
        Self { kind: Kind::Recorded { reader, skip, rest: Some(length), part: true } }
    }
}

impl<B> Body for ResponseBody<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.project().kind.project() {
            KindProj::Inner { body } => body.poll_frame(cx).map_err(Into::into),
            KindProj::Stored { body, trailers } => {
                if !body.is_empty() {
                    return Poll::Ready(Some(Ok(Frame::data(std::mem::take(body)))));
                }
                Poll::Ready(trailers.take().map(|trailers| Ok(Frame::trailers(*trailers))))
            }
            KindProj::Multipart { chunks, rest } => {
                let chunk = chunks.next();
                *rest -= chunk.as_ref().map_or(0, |chunk| chunk.len() as u64);
                Poll::Ready(chunk.map(|chunk| Ok(Frame::data(chunk))))
            }
            KindProj::Recorded { mut reader, skip, rest, part } => loop {
                if *part && *rest == Some(0) {
                    // What follows a part is of no use to this reader.
                    return Poll::Ready(None);
                }
                let Some(frame) = ready!(reader.as_mut().poll_frame(cx)?) else {
                    return Poll::Ready(None);
                };
                let mut data = match frame.into_data() {
                    Ok(data) => data,
                    Err(frame) => return Poll::Ready(Some(Ok(frame))),
                };
                let skipped = (*skip).min(data.len() as u64);
                *skip -= skipped;
                let mut data = data.split_off(skipped as usize);
                if let Some(rest) = rest {
                    if *part {
                        data.truncate(usize::try_from(*rest).unwrap_or(usize::MAX));
                    }
                    *rest = rest.saturating_sub(data.len() as u64);
                }
                if !data.is_empty() {
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Inner { body } => body.is_end_stream(),
            Kind::Stored { body, trailers } => body.is_empty() && trailers.is_none(),
            Kind::Multipart { rest, .. } => *rest == 0,
            Kind::Recorded { reader, rest, part, .. } => {
                (*part && *rest == Some(0)) || reader.is_end()
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Inner { body } => body.size_hint(),
            Kind::Stored { body, .. } => SizeHint::with_exact(body.len() as u64),
            Kind::Multipart { rest, .. } | Kind::Recorded { rest: Some(rest), .. } => {
                SizeHint::with_exact(*rest)
            }
            Kind::Recorded { rest: None, .. } => SizeHint::default(),
        }
    }
}

/// An empty body.
impl<B> Default for ResponseBody<B> {
    fn default() -> Self {
        Self::empty()
    }
}

impl<B> fmt::Debug for ResponseBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.kind {
            Kind::Inner { .. } => "inner",
            Kind::Stored { .. } => "stored",
            Kind::Multipart { .. } => "multipart",
            Kind::Recorded { .. } => "recorded",
        };
        f.debug_struct("ResponseBody").field("kind", &kind).finish_non_exhaustive()
    }
}
