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
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::oneshot,
    time::{Instant, Sleep, sleep, timeout},
};
use tower_service::Service;

use super::{
    Accepted, Context, HandOver, Limits, Phase,
    handover::Gift,
    io::Io,
    limits::{HEADERS, PONG_TIMEOUT},
    requests::Connection,
    service::Counted,
    whole::Whole,
};
use crate::{
    BoxError,
    listener::{Peer, Stream},
    tls::Acceptor,
};

/// What an HTTP/2 client says first (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// How long a client may take to close its side after we have closed ours. Closing both at once
/// would reset the connection if it had sent more, and that can cost it the answer on its way.
const LINGER: Duration = Duration::from_secs(1);
/// Between the first and the last GOAWAY, at least. An idle connection delays the end by so much.
const NOTICE: Duration = Duration::from_millis(500);
/// hyper cannot do with less.
const MIN_BUFFER: usize = 8192;
/// Enough for most requests, so that hyper need not read again.
const FIRST_READ: usize = 4096;

/// Serves one connection to its end, or to its move to the next worker.
pub(super) async fn serve<S, B>(app: S, accepted: Accepted, context: Arc<Context>)
where
    S: Service<Request<Body>, Response = Response<B>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    B: http_body::Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    let Accepted { mut stream, peer, listener, mut bytes, begun, guard, seat, tls } = accepted;
    let waker = poll_fn(|cx| Poll::Ready(cx.waker().clone())).await;
    let connection = Connection::new(context, begun, guard, seat, waker);
    let mut watch = Watch::new(connection.clone());
    let mut protocol = begun.then_some(Protocol::Http1);
    if let Some(acceptor) = tls {
        // Boxed, as most connections are not TLS and would carry the room for it.
        match Box::pin(shake_hands(acceptor, stream, &mut watch)).await {
            Some((open, spoken)) => (stream, protocol) = (open, Some(spoken)),
            None => return,
        }
    }
    loop {
        let end = match protocol {
            None => match peek(stream, bytes, &mut watch).await {
                Ok((found, peeked, read)) => {
                    (protocol, stream, bytes) = (Some(found), peeked, read);
                    continue;
                }
                Err(end) => end,
            },
            Some(Protocol::Http2) => {
                let io = Io::http2(stream, bytes, connection.clone(), PREFACE.len());
                // Boxed, as most connections are not HTTP/2 and would carry the room for it.
                return Box::pin(http2(io, app, peer, watch)).await;
            }
            Some(Protocol::Http1) => {
                let io = Io::keeping_open(stream, bytes, connection.clone());
                let service = Counted::new(app.clone(), connection.clone(), peer);
                http1(io, service, &mut watch).await
            }
        };
        let wish;
        (stream, bytes, wish) = match end {
            End::Gone => return,
            End::Finished(stream) => return close(stream, &mut watch).await,
            End::Idle(stream, bytes, wish) => (stream, bytes, wish),
        };
        match wish {
            Wish::Cut => return,
            Wish::Close if bytes.is_empty() && !stream.has_input() => {
                return leave(stream, &mut watch).await;
            }
            // A request has come after all. In a drain its answer will say goodbye, however long
            // that takes.
            Wish::Close => watch.patient = connection.context().phase() != Phase::Serving,
            Wish::Refuse => return refuse(stream, &mut watch).await,
            Wish::Move => {
                let (answer, answered) = oneshot::channel();
                let begun = begun || connection.begun() > 0;
                let gift = Gift { stream, bytes, listener: listener.clone(), begun, answer };
                match give(gift, answered, &mut watch).await {
                    Some(back) => (stream, bytes) = back,
                    None => return,
                }
                connection.stay();
            }
        }
    }
}

/// Makes the handshake of TLS, in which the protocol is chosen. `None` when there will be no request.
#[cfg_attr(
    not(feature = "tls"),
    allow(unused_mut, unused_variables, reason = "there is no such acceptor")
)]
async fn shake_hands(
    acceptor: Acceptor,
    stream: Stream,
    watch: &mut Watch,
) -> Option<(Stream, Protocol)> {
    // Its keys are known to this process only.
    watch.connection.stay();
    let mut handshake = acceptor.start(stream);
    let shaking = poll_fn(|cx| match Pin::new(&mut handshake).poll(cx) {
        Poll::Ready(result) => Poll::Ready(Some(result)),
        // A client that has not said anything is idle; one that has is about to make a request.
        Poll::Pending => watch.poll(cx, || !handshake.has_begun()).map(|_| None),
    });
    let (stream, is_http2) = match timeout(acceptor.timeout(), shaking).await {
        Ok(Some(Ok(open))) => open,
        Ok(Some(Err(error))) => {
            tracing::debug!(%error, "the TLS handshake failed");
            return None;
        }
        Ok(None) => return None,
        Err(_) => {
            tracing::debug!("the TLS handshake took too long");
            return None;
        }
    };
    #[cfg(feature = "tls")]
    if let Stream::Tls(stream) = &stream {
        watch.connection.set_tls(stream.session());
    }
    Some((stream, if is_http2 { Protocol::Http2 } else { Protocol::Http1 }))
}

/// Gives a connection to the next worker. It comes back when that does not take it; `None` when it has
/// taken it, or nobody can tell.
async fn give(
    gift: Gift,
    answered: oneshot::Receiver<Option<(Stream, Bytes)>>,
    watch: &mut Watch,
) -> Option<(Stream, Bytes)> {
    if let Err(gift) = watch.connection.context().give(gift) {
        return Some((gift.stream, gift.bytes));
    }
    tokio::select! {
        answer = answered => answer.ok().flatten(),
        () = watch.cut() => None,
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    Http1,
    Http2,
}

/// How the serving of a connection ended.
enum End {
    /// Closed by the client, upgraded or cut: there is nothing left to do.
    Gone,
    /// All answers are sent; what is left is to close.
    Finished(Stream),
    /// Taken apart with nothing in flight. The bytes were read and belong to the next request.
    Idle(Stream, Bytes, Wish),
}

/// What the process wants of this connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wish {
    /// The next worker can have it.
    Move,
    /// It has had nothing in flight for long enough.
    Close,
    /// The head of its request has been on its way for too long.
    Refuse,
    /// The deadline has passed.
    Cut,
}

/// Follows the phase of the process for one connection.
struct Watch {
    connection: Arc<Connection>,
    grace: Option<(Duration, Pin<Box<Sleep>>)>,
    /// A request is on its way: wait for it until the deadline.
    patient: bool,
    /// While no drain has begun: when to look whether the client has kept us waiting for too long.
    look: Option<Pin<Box<Sleep>>>,
    /// The timer will wake this task.
    looks: bool,
    /// The next look is for the rest of a head.
    in_head: bool,
    /// Whether what was read in between requests is a part of the next one.
    has_heads: bool,
}

impl Watch {
    fn new(connection: Arc<Connection>) -> Self {
        Self {
            connection,
            grace: None,
            patient: false,
            look: None,
            looks: false,
            in_head: false,
            has_heads: true,
        }
    }

    /// Whether a client that owes a request has taken too long. The timer is set once for each time
    /// that it can run out, and not for each request; when it has, the times tell what to do.
    fn overdue(&mut self, cx: &mut TaskContext<'_>, idle: impl FnOnce() -> bool) -> Poll<Wish> {
        let Limits { header_timeout, keep_alive_timeout, .. } = self.connection.context().limits;
        let Some(soonest) = header_timeout.into_iter().chain(keep_alive_timeout).min() else {
            return Poll::Pending;
        };
        let now = Instant::now;
        let look = self.look.get_or_insert_with(|| Box::pin(sleep(soonest)));
        let part = self.has_heads && self.connection.has_part();
        if !part {
            self.in_head = false;
        } else if let (Some(timeout), false) = (header_timeout, self.in_head) {
            // A look that finds a request in flight comes to nothing, and is rare.
            self.in_head = true;
            self.looks = false;
            look.as_mut().reset(now() + timeout);
        }
        // Asked once to wake this task, it does: to poll it each time would cost more than to ask.
        if self.looks && !look.is_elapsed() {
            return Poll::Pending;
        }
        self.looks = look.as_mut().poll(cx).is_pending();
        if self.looks {
            return Poll::Pending;
        }
        if !idle() {
            self.in_head = false;
            look.as_mut().reset(now() + soonest);
        } else if self.in_head {
            return Poll::Ready(Wish::Refuse);
        } else {
            let (since, again) = self.connection.idle_since();
            let timeout = if again { keep_alive_timeout } else { header_timeout };
            match timeout.map(|timeout| Instant::from_std(since) + timeout) {
                Some(due) if due <= now() => {
                    // The next one is for a peer that does not react.
                    look.as_mut().reset(now() + LINGER);
                    return Poll::Ready(Wish::Close);
                }
                Some(due) => look.as_mut().reset(due),
                None => look.as_mut().reset(now() + soonest),
            }
        }
        // Polled again, so that it wakes this task.
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// To be polled right after the connection and in its task, when nothing moves between the two.
    fn poll(&mut self, cx: &mut TaskContext<'_>, idle: impl FnOnce() -> bool) -> Poll<Wish> {
        let (idle_grace, hand_over) = match self.connection.context().phase() {
            Phase::Serving => return self.overdue(cx, idle),
            Phase::Cut => return Poll::Ready(Wish::Cut),
            Phase::Draining { idle_grace, hand_over } => (idle_grace, hand_over),
        };
        if self.patient || !idle() {
            self.grace = None;
            return Poll::Pending;
        }
        match hand_over {
            HandOver::Now if self.connection.can_move() => return Poll::Ready(Wish::Move),
            HandOver::Soon if self.connection.can_move() => return Poll::Pending,
            _ => {}
        }
        let timer = match &mut self.grace {
            Some((grace, timer)) if *grace == idle_grace => timer,
            // A stop after a reload has less patience.
            grace => &mut grace.insert((idle_grace, Box::pin(sleep(idle_grace)))).1,
        };
        timer.as_mut().poll(cx).map(|()| Wish::Close)
    }

    async fn cut(&mut self) {
        poll_fn(|cx| self.poll(cx, || false)).await;
    }
}

/// Reads the first bytes, to tell HTTP/2 from HTTP/1.
async fn peek(
    stream: Stream,
    bytes: Bytes,
    watch: &mut Watch,
) -> Result<(Protocol, Stream, Bytes), End> {
    let mut bytes = BytesMut::from(bytes);
    loop {
        let length = bytes.len().min(PREFACE.len());
        if bytes[..length] != PREFACE[..length] {
            return Ok((Protocol::Http1, stream, bytes.freeze()));
        }
        if length == PREFACE.len() {
            return Ok((Protocol::Http2, stream, bytes.freeze()));
        }
        let readable = {
            let mut readable = pin!(stream.readable());
            poll_fn(|cx| match readable.as_mut().poll(cx) {
                Poll::Ready(result) => Poll::Ready(Ok(result)),
                Poll::Pending => watch.poll(cx, || true).map(Err),
            })
            .await
        };
        match readable {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Err(End::Gone),
            Err(wish) => return Err(End::Idle(stream, bytes.freeze(), wish)),
        }
        bytes.reserve(FIRST_READ);
        match stream.try_read(&mut bytes) {
            Ok(0) if bytes.is_empty() => return Err(End::Gone),
            // Not even a preface: HTTP/1 has an answer for that.
            Ok(0) => return Ok((Protocol::Http1, stream, bytes.freeze())),
            Ok(_) => watch.connection.has_read(),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => return Err(End::Gone),
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
    let mut builder = http1::Builder::new();
    let limits = connection.context().limits;
    if limits.max_headers != HEADERS {
        // Setting it costs an allocation for each request.
        builder.max_headers(limits.max_headers);
    }
    if let Some(size) = limits.max_header_size {
        builder.max_buf_size(size.max(MIN_BUFFER));
    }
    let mut http = builder.serve_connection(TokioIo::new(io), service).with_upgrades();
    let before = connection.begun();
    let mut closing = None;
    let wish = loop {
        let wish = poll_fn(|cx| {
            // hyper first: what it has just read is in flight when the watch looks.
            if Pin::new(&mut http).poll(cx).is_ready() {
                return Poll::Ready(None);
            }
            connection.poll_rest(cx);
            watch.poll(cx, || closing.is_none() && connection.is_idle()).map(Some)
        })
        .await;
        match wish {
            // Bytes that follow a half-read body or a goodbye are not a request, whatever they look
            // like: only what may go on is taken apart.
            None => break closing.filter(|_| connection.may_go_on()),
            Some(Wish::Cut) => return End::Gone,
            // hyper holds nothing but the bytes that it has read.
            Some(wish) if connection.begun() == before => break Some(wish),
            Some(wish) => {
                // It has to flush what it holds. Then it believes to close; `Io` knows better.
                Pin::new(&mut http).graceful_shutdown();
                // Whoever has not sent it by now is not waited for.
                connection.drop_rest();
                closing = Some(wish);
            }
        }
    };
    // Gone with the protocol that it was upgraded to.
    let Some(parts) = http.into_parts() else { return End::Gone };
    let io = parts.io.into_inner();
    let ended = io.has_ended();
    let (stream, rest) = io.into_parts();
    match wish {
        _ if ended => End::Gone,
        None => End::Finished(stream),
        Some(wish) => End::Idle(stream, concat(parts.read_buf, rest), wish),
    }
}

fn concat(first: Bytes, second: Bytes) -> Bytes {
    match (first.is_empty(), second.is_empty()) {
        (true, _) => second,
        (_, true) => first,
        _ => [first, second].concat().into(),
    }
}

/// Says that the request has taken too long (RFC 9110, section 15.5.9).
async fn refuse(mut stream: Stream, watch: &mut Watch) {
    const ANSWER: &[u8] =
        b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
    let answered = async { stream.write_all(ANSWER).await.is_ok() && stream.flush().await.is_ok() };
    if timeout(LINGER, answered).await.is_ok_and(|answered| answered) {
        close(stream, watch).await;
    }
}

/// Closes our side, and theirs when they have had the time to read what is on its way.
async fn close(stream: Stream, watch: &mut Watch) {
    tokio::select! {
        _ = timeout(LINGER, linger(stream)) => {}
        () = watch.cut() => {}
    }
}

/// The same for a connection that has had its answers: not waited for, so that no stop takes longer for it.
async fn leave(mut stream: Stream, watch: &mut Watch) {
    let shut = tokio::select! {
        shut = timeout(LINGER, stream.shutdown()) => shut.is_ok_and(|shut| shut.is_ok()),
        () = watch.cut() => false,
    };
    if shut {
        tokio::spawn(timeout(LINGER, ignore(stream)));
    }
}

async fn linger(mut stream: Stream) {
    if stream.shutdown().await.is_ok() {
        ignore(stream).await;
    }
}

/// Reads until the client has closed its side.
async fn ignore(mut stream: Stream) {
    let mut ignored = [0; 1024];
    while stream.read(&mut ignored).await.is_ok_and(|length| length > 0) {}
}

async fn http2<S, B>(mut io: Io, app: S, peer: Peer, mut watch: Watch)
where
    S: Service<Request<Body>, Response = Response<B>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    B: http_body::Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    let connection = watch.connection.clone();
    connection.stay();
    let service = Whole(Counted::new(app, connection.clone(), peer));
    let mut builder = http2::Builder::new(TokioExecutor::new());
    let limits = connection.context().limits;
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.max_streams)
        .keep_alive_interval(limits.ping_interval)
        .keep_alive_timeout(PONG_TIMEOUT);
    if let Some(size) = limits.max_header_size {
        builder.max_header_list_size(u32::try_from(size).unwrap_or(u32::MAX));
    }
    watch.has_heads = false;
    let mut going = false;
    let is_over = {
        let mut http = pin!(builder.serve_connection(TokioIo::new(&mut io), service));
        poll_fn(|cx| {
            loop {
                if http.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(false);
                }
                // A peer that never acknowledges would keep hyper waiting for ever.
                let wish = watch.poll(cx, || connection.is_idle());
                let phase = connection.context().phase();
                if going || (wish.is_pending() && phase == Phase::Serving) {
                    return wish.map(|_| true);
                }
                if let Poll::Ready(Wish::Cut) = wish {
                    return Poll::Ready(true);
                }
                // GOAWAY; streams that have begun go on. It must be polled again to be sent.
                going = true;
                connection.set_notice(match phase {
                    Phase::Draining { idle_grace, .. } => NOTICE.min(idle_grace),
                    Phase::Serving | Phase::Cut => NOTICE,
                });
                http.as_mut().graceful_shutdown();
            }
        })
        .await
    };
    // The client may still have answers to read, and says so while it does.
    if !is_over && !io.has_ended() {
        close(io.into_parts().0, &mut watch).await;
    }
}
