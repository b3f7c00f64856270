use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{frames::Frames, requests::Connection};
use crate::listener::Stream;

/// An answer of so many bytes is written in one piece.
const SHORT: usize = 1024;

/// A connection's transport below hyper: gives bytes back that were read before, and keeps hyper
/// from closing what we want to go on with.
#[derive(Debug)]
pub(crate) struct Io {
    stream: Stream,
    /// Read from the stream already; comes first.
    prefix: Bytes,
    ended: bool,
    keep_open: bool,
    /// Of HTTP/2.
    frames: Option<Box<Frames>>,
    owner: Owner,
}

/// Its drop is the end of the transport, also when an upgraded protocol owned it.
#[derive(Debug)]
struct Owner(Arc<Connection>);

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.closed();
    }
}

impl Io {
    fn new(stream: Stream, prefix: Bytes, connection: Arc<Connection>) -> Self {
        if !prefix.is_empty() {
            connection.has_read();
        }
        let (ended, keep_open, frames) = Default::default();
        Self { stream, prefix, ended, keep_open, frames, owner: Owner(connection) }
    }

    /// The transport of an HTTP/2 client, which begins with a preface of this length.
    pub(crate) fn http2(
        stream: Stream,
        prefix: Bytes,
        connection: Arc<Connection>,
        preface: usize,
    ) -> Self {
        let frames = Some(Box::new(Frames::after(preface)));
        Self { frames, ..Self::new(stream, prefix, connection) }
    }

    /// A transport on which a shutdown does nothing, unless the connection is upgraded.
    pub(crate) fn keeping_open(stream: Stream, prefix: Bytes, connection: Arc<Connection>) -> Self {
        Self { keep_open: true, ..Self::new(stream, prefix, connection) }
    }

    /// The stream, and the bytes that nobody has read yet.
    pub(crate) fn into_parts(self) -> (Stream, Bytes) {
        (self.stream, self.prefix)
    }

    /// Whether the peer has closed its side.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended
    }
}

impl AsyncRead for Io {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let Some(mut frames) = this.frames.take() else { return this.poll_bytes(cx, buf) };
        let polled = loop {
            let before = buf.filled().len();
            if this.prefix.is_empty()
                && let Some(held) = frames.due(cx)
            {
                this.prefix = held.into();
            }
            let polled = this.poll_bytes(cx, buf);
            let read = &mut buf.filled_mut()[before..];
            if read.is_empty() {
                break polled;
            }
            let left = frames.pass(read, this.owner.0.notice());
            buf.set_filled(before + left);
            // Without a byte it would be the end of the stream.
            if left > 0 {
                break polled;
            }
        };
        this.frames = Some(frames);
        polled
    }
}

impl Io {
    fn poll_bytes(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.prefix.has_remaining() {
            let length = self.prefix.len().min(buf.remaining());
            buf.put_slice(&self.prefix.split_to(length));
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        let result = std::task::ready!(Pin::new(&mut self.stream).poll_read(cx, buf));
        self.owner.0.has_read();
        self.ended |= result.is_err() || (buf.filled().len() == before && buf.remaining() > 0);
        Poll::Ready(result)
    }
}

impl AsyncWrite for Io {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    /// On HTTP/1 the shutdown is hyper's, which knows nothing of bytes that wait in the kernel;
    /// `connection.rs` closes it when that is right.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.keep_open && !self.owner.0.is_upgrading() {
            Pin::new(&mut self.stream).poll_flush(cx)
        } else {
            Pin::new(&mut self.stream).poll_shutdown(cx)
        }
    }

    /// A short answer comes in two pieces, head and body; for the kernel, one piece is cheaper by more than
    /// the copy costs.
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut whole = [0; SHORT];
        let mut length = 0;
        for buf in bufs {
            let Some(room) = whole.get_mut(length..length + buf.len()) else {
                return Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
            };
            room.copy_from_slice(buf);
            length += buf.len();
        }
        Pin::new(&mut self.stream).poll_write(cx, &whole[..length])
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
