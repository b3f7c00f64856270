//! A body while it is being recorded: one writer, any number of readers.

use std::collections::VecDeque;
use std::error::Error;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body::Frame;
use tokio::time::Instant;

use super::BoxError;

/// How far a reader may lag behind once the tape is no longer kept from its beginning.
const WINDOW: usize = 256 * 1024;

/// Segments of a body, appended as they come.
///
/// As long as it is kept, a reader that joins late reads from the beginning. When the body turns out too
/// large to be stored, the tape becomes a window: no reader joins any more, what all have read is dropped,
/// and the slowest holds the writer back.
#[derive(Debug)]
pub(crate) struct Tape {
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    segments: VecDeque<Bytes>,
    /// How many segments were dropped from the front.
    dropped: usize,
    /// Bytes in `segments`.
    held: usize,
    windowed: bool,
    end: Option<End>,
    readers: Vec<Option<Place>>,
    alive: usize,
    writer: Option<Waker>,
    /// When the last segment came.
    grown: Instant,
}

#[derive(Debug)]
struct Place {
    segment: usize,
    waker: Option<Waker>,
}

#[derive(Clone, Debug)]
enum End {
    Clean(Option<Arc<HeaderMap>>),
    Failed(BodyError),
}

/// The body of the one response that several clients were reading failed.
#[derive(Clone, Debug)]
pub(crate) struct BodyError(Arc<dyn Error + Send + Sync>);

impl fmt::Display for BodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the response body ended early")
    }
}

impl Error for BodyError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&*self.0)
    }
}

impl Tape {
    pub(crate) fn new() -> Self {
        let inner = Inner {
            segments: VecDeque::new(),
            dropped: 0,
            held: 0,
            windowed: false,
            end: None,
            readers: Vec::new(),
            alive: 0,
            writer: None,
            grown: Instant::now(),
        };
        Self { inner: Mutex::new(inner) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends a segment.
    pub(crate) fn push(&self, segment: Bytes) {
        if segment.is_empty() {
            return;
        }
        let mut inner = self.lock();
        inner.grown = Instant::now();
        inner.held += segment.len();
        inner.segments.push_back(segment);
        inner.trim();
        let wakers = inner.take_wakers();
        drop(inner);
        wakers.into_iter().for_each(Waker::wake);
    }

    pub(crate) fn finish(&self, trailers: Option<HeaderMap>) {
        self.end(End::Clean(trailers.map(Arc::new)));
    }

    pub(crate) fn fail(&self, error: BoxError) {
        self.end(End::Failed(BodyError(error.into())));
    }

    fn end(&self, end: End) {
        let mut inner = self.lock();
        if inner.end.is_none() {
            inner.end = Some(end);
        }
        let wakers = inner.take_wakers();
        drop(inner);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Makes it a window: nobody joins any more.
    pub(crate) fn stop_keeping(&self) {
        let mut inner = self.lock();
        inner.windowed = true;
        inner.trim();
    }

    /// Ready when the slowest reader is near enough for more to be appended.
    pub(crate) fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut inner = self.lock();
        if !inner.windowed || inner.held < WINDOW || inner.alive == 0 {
            return Poll::Ready(());
        }
        inner.writer = Some(cx.waker().clone());
        Poll::Pending
    }

    /// For how long nothing has come.
    pub(crate) fn stands_still_for(&self) -> Duration {
        self.lock().grown.elapsed()
    }

    /// How many are reading.
    pub(crate) fn readers(&self) -> usize {
        self.lock().alive
    }

    /// A reader from the beginning, unless that is gone.
    pub(crate) fn read(self: &Arc<Self>) -> Option<TapeReader> {
        let mut inner = self.lock();
        if inner.windowed {
            return None;
        }
        inner.alive += 1;
        let place = Some(Place { segment: 0, waker: None });
        let vacant = inner.readers.iter().position(Option::is_none);
        let id = match vacant {
            Some(id) => {
                inner.readers[id] = place;
                id
            }
            None => {
                inner.readers.push(place);
                inner.readers.len() - 1
            }
        };
        drop(inner);
        Some(TapeReader { tape: self.clone(), id, done: false })
    }

    /// Everything in one allocation of exactly its length; only for what was kept from the beginning.
    pub(crate) fn copy(&self) -> Bytes {
        let inner = self.lock();
        let mut body = Vec::with_capacity(inner.held);
        for segment in &inner.segments {
            body.extend_from_slice(segment);
        }
        Bytes::from(body)
    }
}

impl Inner {
    fn take_wakers(&mut self) -> Vec<Waker> {
        self.readers.iter_mut().flatten().filter_map(|place| place.waker.take()).collect()
    }

    /// Drops what all readers have read.
    fn trim(&mut self) {
        if !self.windowed {
            return;
        }
        let end = self.dropped + self.segments.len();
        let slowest = self.readers.iter().flatten().map(|place| place.segment).min().unwrap_or(end);
        while self.dropped < slowest {
            let Some(segment) = self.segments.pop_front() else {
                break;
            };
            self.held -= segment.len();
            self.dropped += 1;
        }
    }

    fn take_writer(&mut self) -> Option<Waker> {
        if self.windowed && (self.held < WINDOW || self.alive == 0) {
            self.writer.take()
        } else {
            None
        }
    }
}

/// One reader of a [`Tape`].
#[derive(Debug)]
pub(crate) struct TapeReader {
    tape: Arc<Tape>,
    id: usize,
    done: bool,
}

impl TapeReader {
    pub(crate) fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        if this.done {
            return Poll::Ready(None);
        }
        let mut inner = this.tape.lock();
        let dropped = inner.dropped;
        let Some(place) = inner.readers[this.id].as_mut() else {
            return Poll::Ready(None);
        };
        let at = place.segment - dropped;
        if at < inner.segments.len() {
            let segment = inner.segments[at].clone();
            if let Some(place) = inner.readers[this.id].as_mut() {
                place.segment += 1;
            }
            inner.trim();
            let writer = inner.take_writer();
            drop(inner);
            if let Some(writer) = writer {
                writer.wake();
            }
            return Poll::Ready(Some(Ok(Frame::data(segment))));
        }
        match inner.end.clone() {
            Some(end) => {
                drop(inner);
                this.done = true;
                match end {
                    End::Clean(None) => Poll::Ready(None),
                    End::Clean(Some(trailers)) => {
                        Poll::Ready(Some(Ok(Frame::trailers((*trailers).clone()))))
                    }
                    End::Failed(error) => Poll::Ready(Some(Err(error.into()))),
                }
            }
            None => {
                if let Some(place) = inner.readers[this.id].as_mut() {
                    place.waker = Some(cx.waker().clone());
                }
                Poll::Pending
            }
        }
    }

    /// Whether nothing more will come.
    pub(crate) fn is_end(&self) -> bool {
        if self.done {
            return true;
        }
        let inner = self.tape.lock();
        let read = inner.readers[self.id].as_ref().map_or(0, |place| place.segment);
        let all = read >= inner.dropped + inner.segments.len();
        all && matches!(inner.end, Some(End::Clean(None)))
    }
}

impl Drop for TapeReader {
    fn drop(&mut self) {
        let mut inner = self.tape.lock();
        inner.readers[self.id] = None;
        inner.alive -= 1;
        inner.trim();
        let writer = inner.take_writer();
        drop(inner);
        if let Some(writer) = writer {
            writer.wake();
        }
    }
}
