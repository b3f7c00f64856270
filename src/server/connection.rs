use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context as TaskContext, Poll},
    time::Duration,
};

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http::{Request, Response};
use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{Sleep, sleep, timeout},
};
use tower_service::Service;

use super::{Context, Phase, io::Io, requests::Connection, service::Counted};
use crate::{
    BoxError,
    drain::DrainGuard,
    listener::{Peer, Stream},
};

/// What an HTTP/2 client says first (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// How long a client may take to close its side after we have closed ours. Closing both at once
/// would reset the connection if it had sent more, and that can cost it the answer on its way.
const LINGER: Duration = Duration::from_secs(1);
/// Enough for most requests, so that hyper need not read again.
const FIRST_READ: usize = 4096;

/// Serves one connection to its end.
pub(super) async fn serve<S, B>(
    app: S,
    mut stream: Stream,
    peer: Peer,
    context: Arc<Context>,
    guard: DrainGuard,
) where
    S: Service<Request<Body>, Response = Response<B>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    B: http_body::Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    let waker = poll_fn(|cx| Poll::Ready(cx.waker().clone())).await;
    let connection = Connection::new(context, guard, waker);
    let mut watch = Watch::new(connection.clone());
    let Some((protocol, mut bytes)) = peek(&stream, &mut watch).await else {
        return;
    };
    if protocol == Protocol::Http2 {
        let io = Io::new(stream, bytes, connection.clone());
        // Boxed, as most connections are not HTTP/2 and would carry the room for it.
        return Box::pin(http2(io, app, peer, watch)).await;
    }
    loop {
        let io = Io::keeping_open(stream, bytes, connection.clone());
        let service = Counted::new(app.clone(), connection.clone(), peer);
        match http1(io, service, &mut watch).await {
            End::Gone => return,
            End::Finished(stream) => return close(stream, &mut watch).await,
            End::Idle(idle, read) => (stream, bytes) = (idle, read),
        }
        if bytes.is_empty() && !stream.has_input() {
            return;
        }
        // A request has come after all. Its answer will say goodbye, however long it takes to come.
        watch.patient = true;
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    Http1,
    Http2,
}

/// How hyper's part of an HTTP/1 connection ended.
enum End {
    /// Closed by the client, upgraded or cut: there is nothing left to do.
    Gone,
    /// All answers are sent; what is left is to close.
    Finished(Stream),
    /// Taken apart with nothing in flight. The bytes were read and belong to the next request.
    Idle(Stream, Bytes),
}

/// What the process wants of this connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wish {
    /// It has had nothing in flight for long enough.
    Close,
    /// The deadline has passed.
    Cut,
}

/// Follows the phase of the process for one connection.
struct Watch {
    connection: Arc<Connection>,
    grace: Option<(Duration, Pin<Box<Sleep>>)>,
    /// A request is on its way: wait for it until the deadline.
    patient: bool,
}

impl Watch {
    fn new(connection: Arc<Connection>) -> Self {
        Self { connection, grace: None, patient: false }
    }

    /// To be polled right after the connection and in its task, when nothing moves between the two.
    fn poll(&mut self, cx: &mut TaskContext<'_>, idle: impl FnOnce() -> bool) -> Poll<Wish> {
        match self.connection.context().phase() {
            Phase::Serving => Poll::Pending,
            Phase::Cut => Poll::Ready(Wish::Cut),
            Phase::Draining { .. } if self.patient || !idle() => {
                self.grace = None;
                Poll::Pending
            }
            Phase::Draining { idle_grace } => {
                let timer = match &mut self.grace {
                    Some((grace, timer)) if *grace == idle_grace => timer,
                    // A stop after a reload has less patience.
                    grace => &mut grace.insert((idle_grace, Box::pin(sleep(idle_grace)))).1,
                };
                timer.as_mut().poll(cx).map(|()| Wish::Close)
            }
        }
    }

    async fn cut(&mut self) {
        poll_fn(|cx| self.poll(cx, || false)).await;
    }
}

/// Reads the first bytes, to tell HTTP/2 from HTTP/1. `None` when there will be no request.
async fn peek(stream: &Stream, watch: &mut Watch) -> Option<(Protocol, Bytes)> {
    let mut bytes = BytesMut::new();
    loop {
        {
            let mut readable = pin!(stream.readable());
            let idle = bytes.is_empty();
            poll_fn(|cx| match readable.as_mut().poll(cx) {
                Poll::Ready(result) => Poll::Ready(result.ok()),
                Poll::Pending => watch.poll(cx, || idle).map(|_| None),
            })
            .await?;
        }
        bytes.reserve(FIRST_READ);
        match stream.try_read(&mut bytes) {
            Ok(0) if bytes.is_empty() => return None,
            // Not even a preface: HTTP/1 has an answer for that.
            Ok(0) => return Some((Protocol::Http1, bytes.freeze())),
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
            Err(_) => return None,
        }
        let length = bytes.len().min(PREFACE.len());
        if bytes[..length] != PREFACE[..length] {
            return Some((Protocol::Http1, bytes.freeze()));
        }
        if length == PREFACE.len() {
            return Some((Protocol::Http2, bytes.freeze()));
        }
    }
}

async fn http1<S, B>(io: Io, service: Counted<S>, watch: &mut Watch) -> End
where
    S: Service<Request<Body>, Response = Response<B>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    B: http_body::Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    let connection = watch.connection.clone();
    let builder = http1::Builder::new();
    let mut http = builder.serve_connection(TokioIo::new(io), service).with_upgrades();
    let mut closing = false;
    let finished = loop {
        let wish = poll_fn(|cx| {
            // hyper first: what it has just read is in flight when the watch looks.
            if Pin::new(&mut http).poll(cx).is_ready() {
                return Poll::Ready(None);
            }
            watch.poll(cx, || !closing && connection.is_idle()).map(Some)
        })
        .await;
        match wish {
            None => break true,
            Some(Wish::Cut) => return End::Gone,
            // hyper holds nothing but the bytes that it has read.
            Some(Wish::Close) if !connection.has_begun() => break false,
            Some(Wish::Close) => {
                // It has to flush what it holds. Then it believes to close; `Io` knows better.
                Pin::new(&mut http).graceful_shutdown();
                closing = true;
            }
        }
    };
    // Gone with the protocol that it was upgraded to.
    let Some(parts) = http.into_parts() else { return End::Gone };
    let io = parts.io.into_inner();
    let ended = io.has_ended();
    let (stream, rest) = io.into_parts();
    match finished {
        _ if ended => End::Gone,
        // Bytes that follow a half-read body or a goodbye are not a request, whatever they look like.
        true if !closing || !connection.may_go_on() => End::Finished(stream),
        _ => End::Idle(stream, concat(parts.read_buf, rest)),
    }
}

fn concat(first: Bytes, second: Bytes) -> Bytes {
    match (first.is_empty(), second.is_empty()) {
        (true, _) => second,
        (_, true) => first,
        _ => [first, second].concat().into(),
    }
}

/// Closes our side, and theirs when they have had the time to read what is on its way.
async fn close(mut stream: Stream, watch: &mut Watch) {
    let lingering = async {
        if stream.shutdown().await.is_err() {
            return;
        }
        let mut ignored = [0; 1024];
        while stream.read(&mut ignored).await.is_ok_and(|length| length > 0) {}
    };
    tokio::select! {
        _ = timeout(LINGER, lingering) => {}
        () = watch.cut() => {}
    }
}

async fn http2<S, B>(io: Io, app: S, peer: Peer, mut watch: Watch)
where
    S: Service<Request<Body>, Response = Response<B>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    B: http_body::Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    let connection = watch.connection.clone();
    let service = Counted::new(app, connection.clone(), peer);
    let builder = http2::Builder::new(TokioExecutor::new());
    let mut http = pin!(builder.serve_connection(TokioIo::new(io), service));
    let mut going = false;
    poll_fn(|cx| {
        loop {
            if http.as_mut().poll(cx).is_ready() {
                return Poll::Ready(());
            }
            if going || connection.context().phase() == Phase::Serving {
                break;
            }
            // GOAWAY; streams that have begun go on. It must be polled again to be sent.
            going = true;
            http.as_mut().graceful_shutdown();
        }
        // A peer that never acknowledges would keep hyper waiting for ever.
        watch.poll(cx, || connection.is_idle()).map(drop)
    })
    .await;
}
