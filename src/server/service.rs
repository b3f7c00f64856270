use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context as TaskContext, Poll, Waker, ready},
};

use axum::{
    body::{Body, Bytes},
    extract::ConnectInfo,
};
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version,
    header::{CONNECTION, CONTENT_LENGTH, EXPECT},
};
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;
use pin_project_lite::pin_project;
use tower_service::Service;

use super::requests::{Connection, RequestGuard};
use crate::{BoxError, drain::ResponseBody, listener::Peer};

/// The application on one connection: each request is counted, knows where it came from, and is
/// answered with a goodbye when the process drains.
#[derive(Debug)]
pub(super) struct Counted<S> {
    app: S,
    connection: Arc<Connection>,
    peer: Peer,
}

impl<S> Counted<S> {
    pub(super) fn new(app: S, connection: Arc<Connection>, peer: Peer) -> Self {
        Self { app, connection, peer }
    }
}

impl<S, B> hyper::service::Service<Request<Incoming>> for Counted<S>
where
    S: Service<Request<Body>, Response = Response<B>> + Clone,
    S::Error: Into<BoxError>,
    B: http_body::Body,
{
    type Response = Response<ResponseBody<B, Option<RequestGuard>>>;
    type Error = Infallible;
    type Future = ResponseFuture<S>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let has_body = !request.body().is_end_stream();
        let guard = self.connection.begin(request.method(), request.uri(), has_body);
        let http1 = request.version() <= Version::HTTP_11;
        if http1 && !keeps_alive(request.version(), request.headers()) {
            self.connection.set_last();
        }
        let old = request.version() < Version::HTTP_11;
        let connect = *request.method() == Method::CONNECT;
        let expects = has_body && request.headers().contains_key(EXPECT);
        let mut request = request.map(|body| match has_body {
            true => Body::new(RequestBody::new(body, &guard, http1, expects)),
            false => Body::empty(),
        });
        // Room is made for three, and axum adds one: a third of ours would move them all.
        let extensions = request.extensions_mut();
        match self.peer {
            Peer::Tcp(address) => extensions.insert(ConnectInfo(address)).is_some(),
            Peer::Unix(peer) => extensions.insert(ConnectInfo(peer)).is_some(),
        };
        extensions.insert(self.connection.context().requests.clone());
        #[cfg(feature = "tls")]
        if let Some(session) = self.connection.tls() {
            extensions.insert(session.clone());
        }
        let mut app = self.app.clone();
        // Most applications are always ready, and need not keep their request until the first poll.
        // Those that are not are asked again there, by a task that they can wake. HTTP/2 polls each
        // answer in a task of its own: there the call belongs, whatever it does.
        let ready = match http1 {
            true => app.poll_ready(&mut TaskContext::from_waker(Waker::noop())),
            false => Poll::Pending,
        };
        let state = match ready {
            Poll::Ready(Ok(())) => State::Called { future: app.call(request) },
            Poll::Ready(Err(error)) => State::Failed { error: Some(error.into()) },
            Poll::Pending => State::Waiting { waiting: Some(Box::new((app, request))) },
        };
        ResponseFuture { state, guard: Some(guard), http1, old, connect }
    }
}

pin_project! {
    pub(super) struct ResponseFuture<S: Service<Request<Body>>> {
        #[pin]
        state: State<S, S::Future>,
        guard: Option<RequestGuard>,
        http1: bool,
        // The client speaks HTTP/1.0.
        old: bool,
        connect: bool,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<S, F> {
        Waiting { waiting: Option<Box<(S, Request<Body>)>> },
        Called { #[pin] future: F },
        Failed { error: Option<BoxError> },
    }
}

impl<S, B> Future for ResponseFuture<S>
where
    S: Service<Request<Body>, Response = Response<B>>,
    S::Error: Into<BoxError>,
    B: http_body::Body,
{
    type Output = Result<Response<ResponseBody<B, Option<RequestGuard>>>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Self::Output> {
        const ONCE: &str = "it is taken once, with the state";
        let mut this = self.project();
        let result = loop {
            match this.state.as_mut().project() {
                StateProj::Called { future } => break ready!(future.poll(cx)).map_err(Into::into),
                StateProj::Waiting { waiting } => {
                    let (app, _) = &mut **waiting.as_mut().expect(ONCE);
                    if let Err(error) = ready!(app.poll_ready(cx)) {
                        break Err(error.into());
                    }
                    let (mut app, request) = *waiting.take().expect(ONCE);
                    let future = app.call(request);
                    this.state.set(State::Called { future });
                }
                StateProj::Failed { error } => break Err(error.take().expect(ONCE)),
            }
        };
        let mut guard = this.guard.take();
        Poll::Ready(Ok(match result {
            Ok(mut response) => {
                if *this.http1 {
                    if (*this.old || response.version() < Version::HTTP_11)
                        && !has_length(&response)
                        && let Some(guard) = &guard
                    {
                        // Its end is that of the connection (RFC 9112, section 6.3).
                        guard.connection().set_last();
                    }
                    part(&mut response, &mut guard, *this.connect);
                }
                response.map(|body| ResponseBody::new(body, guard))
            }
            Err(error) => failure(&error),
        }))
    }
}

#[cold]
fn failure<B>(error: &BoxError) -> Response<ResponseBody<B, Option<RequestGuard>>> {
    tracing::error!(%error, "the application failed to answer");
    let mut response = Response::new(ResponseBody::empty());
    *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
    response
}

/// Says goodbye when the process drains; hands the request to its connection when that is upgraded.
fn part<B>(response: &mut Response<B>, request: &mut Option<RequestGuard>, connect: bool) {
    let switching = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    if (switching || (connect && response.status().is_success()))
        && let Some(request) = request.take()
    {
        return request.upgrade();
    }
    let Some(connection) = request.as_ref().map(RequestGuard::connection) else { return };
    if connection.says_goodbye() {
        // hyper sees it and closes after this answer.
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    if has_token(response.headers(), "close") {
        connection.set_last();
    }
}

/// Whether it is known how long the body will be.
fn has_length<B: http_body::Body>(response: &Response<B>) -> bool {
    response.headers().contains_key(CONTENT_LENGTH) || response.body().size_hint().exact().is_some()
}

/// Whether the client expects the connection to persist (RFC 9112, section 9.3).
fn keeps_alive(version: Version, headers: &HeaderMap) -> bool {
    match version {
        _ if has_token(headers, "close") => false,
        Version::HTTP_11 => true,
        _ => has_token(headers, "keep-alive"),
    }
}

fn has_token(headers: &HeaderMap, token: &str) -> bool {
    // A look at each name is cheaper than the hash of one: there are few.
    headers.iter().filter(|(name, _)| **name == CONNECTION).any(|(_, value)| {
        let parts = value.as_bytes().split(|byte| *byte == b',');
        parts.map(<[u8]>::trim_ascii).any(|part| part.eq_ignore_ascii_case(token.as_bytes()))
    })
}

/// A request body that tells its connection when it was read to its end, and leaves to it what was not.
#[derive(Debug)]
struct RequestBody {
    /// `None` at its end.
    inner: Option<Incoming>,
    connection: Arc<Connection>,
    request: u64,
    /// On HTTP/2 a stream ends alone.
    http1: bool,
    /// The client waits for `100 Continue`, which hyper sends when it is first asked for the body.
    expects: bool,
}

impl RequestBody {
    fn new(inner: Incoming, guard: &RequestGuard, http1: bool, expects: bool) -> Self {
        let (connection, request) = (guard.connection().clone(), guard.id());
        Self { inner: Some(inner), connection, request, http1, expects }
    }
}

impl http_body::Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = self.get_mut();
        let Some(inner) = &mut this.inner else { return Poll::Ready(None) };
        this.expects = false;
        let frame = ready!(Pin::new(&mut *inner).poll_frame(cx));
        if frame.is_none() || inner.is_end_stream() {
            this.inner = None;
            this.connection.body_ended(this.request);
        } else if matches!(frame, Some(Err(_))) {
            this.inner = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Incoming::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or_else(|| SizeHint::with_exact(0), Incoming::size_hint)
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        match self.inner.take().filter(|_| self.http1) {
            // It may now send the body or not (RFC 9110, section 10.1.1).
            Some(_) if self.expects => self.connection.give_up(),
            Some(rest) => self.connection.leave(self.request, rest),
            None => {}
        }
    }
}
