use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context as TaskContext, Poll, ready},
};

use axum::{
    body::{Body, Bytes},
    extract::ConnectInfo,
};
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version, header::CONNECTION,
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
{
    type Response = Response<ResponseBody<B, RequestGuard>>;
    type Error = Infallible;
    type Future = ResponseFuture<S>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let (mut head, body) = request.into_parts();
        let has_body = !body.is_end_stream();
        let guard = self.connection.begin(&head.method, &head.uri, has_body);
        let http1 = head.version <= Version::HTTP_11;
        if http1 && !keeps_alive(head.version, &head.headers) {
            self.connection.set_last();
        }
        let body = match has_body {
            true => Body::new(RequestBody { inner: body, connection: self.connection.clone() }),
            false => Body::empty(),
        };
        match self.peer {
            Peer::Tcp(address) => head.extensions.insert(ConnectInfo(address)).is_some(),
            Peer::Unix(peer) => head.extensions.insert(ConnectInfo(peer)).is_some(),
        };
        let context = self.connection.context();
        head.extensions.insert(context.requests.clone());
        head.extensions.insert(context.handle.clone());
        #[cfg(feature = "tls")]
        if let Some(session) = self.connection.tls() {
            head.extensions.insert(session.clone());
        }
        let connect = head.method == Method::CONNECT;
        let request = Some(Request::from_parts(head, body));
        ResponseFuture {
            state: State::Waiting { app: self.app.clone(), request },
            guard: Some(guard),
            http1,
            connect,
        }
    }
}

pin_project! {
    pub(super) struct ResponseFuture<S: Service<Request<Body>>> {
        #[pin]
        state: State<S, S::Future>,
        guard: Option<RequestGuard>,
        http1: bool,
        connect: bool,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<S, F> {
        Waiting { app: S, request: Option<Request<Body>> },
        Called { #[pin] future: F },
    }
}

impl<S, B> Future for ResponseFuture<S>
where
    S: Service<Request<Body>, Response = Response<B>>,
    S::Error: Into<BoxError>,
{
    type Output = Result<Response<ResponseBody<B, RequestGuard>>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let result = loop {
            match this.state.as_mut().project() {
                StateProj::Waiting { app, request } => {
                    if let Err(error) = ready!(app.poll_ready(cx)) {
                        break Err(error);
                    }
                    let request = request.take().expect("it is taken once, with the state");
                    let future = app.call(request);
                    this.state.set(State::Called { future });
                }
                StateProj::Called { future } => break ready!(future.poll(cx)),
            }
        };
        let guard = this.guard.take();
        let mut response = match result {
            Ok(response) => response.map(|body| ResponseBody::new(body, guard)),
            Err(error) => {
                let error: BoxError = error.into();
                tracing::error!(%error, "the application failed to answer");
                let mut response = Response::new(ResponseBody::empty());
                *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
                response
            }
        };
        if *this.http1 {
            part(&mut response, *this.connect);
        }
        Poll::Ready(Ok(response))
    }
}

/// Says goodbye when the process drains; hands the request to its connection when that is upgraded.
fn part<B>(response: &mut Response<ResponseBody<B, RequestGuard>>, connect: bool) {
    let Some(guard) = response.body().guard() else { return };
    let connection = guard.connection().clone();
    let switching = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    if switching || (connect && response.status().is_success()) {
        connection.upgrade(response.body_mut().take_guard());
        return;
    }
    if connection.says_goodbye() {
        // hyper sees it and closes after this answer.
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    if has_token(response.headers(), "close") {
        connection.set_last();
    }
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
    // Most requests have no such field, or exactly the token.
    headers.get_all(CONNECTION).iter().any(|value| {
        let parts = value.as_bytes().split(|byte| *byte == b',');
        parts.map(<[u8]>::trim_ascii).any(|part| part.eq_ignore_ascii_case(token.as_bytes()))
    })
}

/// A request body that tells its connection when it was read to its end.
#[derive(Debug)]
struct RequestBody {
    inner: Incoming,
    connection: Arc<Connection>,
}

impl http_body::Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = self.get_mut();
        let frame = ready!(Pin::new(&mut this.inner).poll_frame(cx));
        if frame.is_none() || this.inner.is_end_stream() {
            this.connection.body_ended();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
