//! Nothing that is part of another request, or that follows a goodbye, becomes a request because the
//! server drains.
//!
//! Every case sends bytes that would be the request `GET /smuggled` if the server lost its place in the
//! stream; the application prints what it is asked for.
#![cfg(all(target_os = "linux", feature = "serve"))]

mod support;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use graceful::Handle;
use http_body_util::BodyExt;
use nix::sys::signal::Signal;

use support::raw::Raw;
use support::server::{Server, Setup};

#[test]
#[ignore = "the server that the tests start"]
fn server() {
    let build = async || Ok::<_, Infallible>(support::app::announced(routes()));
    support::server::finish(support::server::options(graceful::serve_with(build)).run());
}

/// What a handler does with the body, and when it answers.
fn routes() -> Router {
    Router::new()
        .route("/", get(async || "hello\n"))
        .route("/ignore", any(async || "ignored\n"))
        .route("/half", any(async |request| first_frame(request).await))
        .route("/all", any(async |request| all_frames(request).await))
        .route("/close", any(async || [("connection", "close")].into_response()))
        .route("/late", any(async |handle: Handle| handle.draining().await))
        .route("/late-half", any(late_half))
        .route("/late-all", any(late_all))
        .route("/late-close", any(late_close))
        .route("/late-broken", any(late_broken))
        .route("/background", any(background))
        .route("/upgrade", any(upgrade))
        .fallback(async || StatusCode::IM_A_TEAPOT)
}

async fn first_frame(request: Request) -> &'static str {
    let frame = request.into_body().frame().await;
    assert!(frame.is_some_and(|frame| frame.is_ok()), "every case sends some bytes");
    "half\n"
}

async fn all_frames(request: Request) -> StatusCode {
    match request.into_body().collect().await {
        Ok(_) => StatusCode::OK,
        Err(_) => StatusCode::BAD_REQUEST,
    }
}

async fn late_half(handle: Handle, request: Request) -> &'static str {
    let answer = first_frame(request).await;
    handle.draining().await;
    answer
}

async fn late_all(handle: Handle, request: Request) -> StatusCode {
    let status = all_frames(request).await;
    handle.draining().await;
    status
}

async fn late_close(handle: Handle) -> Response {
    handle.draining().await;
    [("connection", "close")].into_response()
}

/// Answers at once, goes on to read the body, and gives up when the process drains and more has come.
async fn background(handle: Handle, request: Request) -> &'static str {
    let mut body = request.into_body();
    assert!(body.frame().await.is_some(), "the case sends some bytes");
    tokio::spawn(async move {
        handle.draining().await;
        body.frame().await.is_some()
    });
    "early\n"
}

/// A response that ends before its announced end.
async fn late_broken(handle: Handle) -> Response {
    handle.draining().await;
    let mut response = Response::new(Body::new(Broken(false)));
    response.headers_mut().insert("content-length", 100.into());
    response
}

struct Broken(bool);

impl http_body::Body for Broken {
    type Data = bytes::Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<Self::Data>, Self::Error>>> {
        std::task::Poll::Ready(Some(match std::mem::replace(&mut self.0, true) {
            false => Ok(http_body::Frame::data("broken\n".into())),
            true => Err(std::io::Error::other("the rest is lost")),
        }))
    }
}

/// Another protocol, which ends when the process drains.
async fn upgrade(handle: Handle, mut request: Request) -> Response {
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let upgraded = upgrade.await;
        handle.draining().await;
        drop(upgraded);
    });
    let fields = [("connection", "upgrade"), ("upgrade", "raw")];
    (StatusCode::SWITCHING_PROTOCOLS, fields).into_response()
}

/// One connection: what is sent before the drain begins and after, and what may be answered.
struct Case {
    name: &'static str,
    before: String,
    /// How many answers come before the drain.
    early: usize,
    after: String,
    /// The statuses of all answers; each of these is right.
    right: Vec<Vec<u16>>,
}

fn case(name: &'static str, before: impl Into<String>) -> Case {
    Case { name, before: before.into(), early: 0, after: String::new(), right: Vec::new() }
}

impl Case {
    /// This many answers come before the drain.
    fn early(mut self, answers: usize) -> Self {
        self.early = answers;
        self
    }

    fn after(mut self, bytes: impl Into<String>) -> Self {
        self.after = bytes.into();
        self
    }

    fn answers(mut self, statuses: &[u16]) -> Self {
        self.right.push(statuses.to_vec());
        self
    }
}

const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nhost: x\r\n\r\n";
/// 64 bytes, so that it is at the start of whatever is left when a power of two was read.
const PADDED: &str = "GET /smuggled HTTP/1.1\r\nhost: x\r\npadding: xxxxxxxxxxxxxxxxxx\r\n\r\n";
/// More than is read at once.
const MANY: usize = 8192;
const GET: &str = "GET / HTTP/1.1\r\nhost: x\r\n\r\n";

fn post(path: &str, fields: &str, body: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nhost: x\r\n{fields}\r\n\r\n{body}")
}

fn cases() -> Vec<Case> {
    assert_eq!(PADDED.len(), 64);
    let whole = format!("content-length: {}", SMUGGLED.len());
    let tail = format!("content-length: {}", SMUGGLED.len() + 4);
    let chunked = "transfer-encoding: chunked";
    let chunk = format!("{:x}\r\n{SMUGGLED}\r\n", SMUGGLED.len());
    vec![
        // A next request that is one.
        case("idle, then a request", GET).early(1).after(GET).answers(&[200, 200]),
        case("a whole body, then a request", post("/all", &whole, SMUGGLED))
            .early(1)
            .after(GET)
            .answers(&[200, 200]),
        case("a pipelined request", format!("{}{GET}", post("/late-all", &whole, SMUGGLED)))
            .answers(&[200])
            .answers(&[200, 200]),
        // A body that the handler has not read, wherever it is.
        case("an unread body, sent", post("/ignore", &whole, SMUGGLED)).early(1).answers(&[200]),
        case("an unread body, sent after the answer", post("/ignore", &whole, ""))
            .early(1)
            .after(SMUGGLED)
            .answers(&[200]),
        case("an unread body, sent later, and a request", post("/ignore", &whole, ""))
            .early(1)
            .after(format!("{SMUGGLED}{GET}"))
            .answers(&[200])
            .answers(&[200, 200]),
        case("an unread body, sent, answered late", post("/late", &whole, SMUGGLED))
            .answers(&[200]),
        case("an unread body, not sent, answered late", post("/late", &whole, ""))
            .after(SMUGGLED)
            .answers(&[200]),
        case("half a body read", post("/half", &tail, "four"))
            .early(1)
            .after(SMUGGLED)
            .answers(&[200]),
        case("half a body read, answered late", post("/late-half", &tail, "four"))
            .after(SMUGGLED)
            .answers(&[200]),
        case("half a body read, all sent", post("/late-half", &tail, &format!("four{SMUGGLED}")))
            .answers(&[200]),
        case(
            "a GET with a body",
            GET.replace("/ ", "/late ").replace("host", &format!("{whole}\r\nhost")) + SMUGGLED,
        )
        .answers(&[200]),
        case("a body that is given up in the drain", {
            post("/background", &format!("content-length: {}", 4 + 64 * MANY), "four")
        })
        .early(1)
        .after(PADDED.repeat(MANY))
        .answers(&[200]),
        // The same in chunks.
        case("an unread chunk", post("/late", chunked, &chunk)).after("0\r\n\r\n").answers(&[200]),
        case("an unread chunk, sent later", post("/late", chunked, ""))
            .after(format!("{chunk}0\r\n\r\n"))
            .answers(&[200]),
        case(
            "half a chunk read",
            post("/half", chunked, &format!("{:x}\r\nfour", SMUGGLED.len() + 4)),
        )
        .early(1)
        .after(format!("{SMUGGLED}\r\n0\r\n\r\n"))
        .answers(&[200]),
        case("all chunks but the last", post("/late-half", chunked, "4\r\nfour\r\n"))
            .after(format!("{chunk}0\r\n\r\n"))
            .answers(&[200]),
        case("the last chunk without its end", post("/late-half", chunked, "4\r\nfour\r\n0\r\n"))
            .after(SMUGGLED)
            .answers(&[200]),
        case("a size of a chunk that is none", post("/late-half", chunked, "4\r\nfour\r\n"))
            .after(format!("x\r\n{SMUGGLED}"))
            .answers(&[200]),
        // After a goodbye.
        case("a request after Connection: close", {
            GET.replace("host", "connection: close\r\nhost") + SMUGGLED
        })
        .early(1)
        .answers(&[200]),
        case("a request after Connection: close, answered late", {
            GET.replace("/ ", "/late ").replace("host", "connection: Keep-Alive, Close\r\nhost")
                + SMUGGLED
        })
        .answers(&[200]),
        case("a request after the goodbye of the handler", {
            GET.replace("/ ", "/close ") + SMUGGLED
        })
        .early(1)
        .answers(&[200]),
        case("a request after the late goodbye of the handler", {
            GET.replace("/ ", "/late-close ") + SMUGGLED
        })
        .answers(&[200]),
        case("a request after HTTP/1.0", {
            GET.replace("HTTP/1.1", "HTTP/1.0").replace("/ ", "/late ") + SMUGGLED
        })
        .answers(&[200]),
        case("a request after a broken answer", GET.replace("/ ", "/late-broken ") + SMUGGLED)
            .after(SMUGGLED)
            .answers(&[200])
            .answers(&[]),
        case("bytes of another protocol", {
            let fields = "connection: upgrade\r\nupgrade: raw";
            format!("GET /upgrade HTTP/1.1\r\nhost: x\r\n{fields}\r\n\r\n{SMUGGLED}")
        })
        .early(1)
        .after(SMUGGLED)
        .answers(&[101]),
        // Two opinions on where the body ends (RFC 9112, section 6.3).
        case("a length and chunks", {
            post("/late-all", &format!("content-length: 5\r\n{chunked}"), "0\r\n\r\n") + SMUGGLED
        })
        .answers(&[200])
        .answers(&[400]),
        case("chunks and a length", {
            post("/late-all", &format!("{chunked}\r\n{whole}"), "0\r\n\r\n") + SMUGGLED
        })
        .answers(&[200])
        .answers(&[400]),
        case("two lengths", {
            post("/late-all", &format!("content-length: 0\r\n{whole}"), SMUGGLED)
        })
        .answers(&[400]),
        // An expectation that was not met (RFC 9110, section 10.1.1): the body may come or not.
        case("a body after a final answer", {
            post("/late", &format!("expect: 100-continue\r\n{whole}"), "")
        })
        .after(SMUGGLED)
        .answers(&[200]),
        case("a body after an early final answer", {
            post("/ignore", &format!("expect: 100-continue\r\n{whole}"), "")
        })
        .early(1)
        .after(SMUGGLED)
        .answers(&[200]),
        // Heads in two parts around the drain.
        case("a head that turns into a body", post("/ignore", &whole, "")[..30].to_owned())
            .after(post("/ignore", &whole, "")[30..].to_owned() + SMUGGLED)
            .answers(&[200]),
        case("a second head that says goodbye", format!("{GET}GET /clo"))
            .early(1)
            .after(format!("se HTTP/1.1\r\nhost: x\r\n\r\n{SMUGGLED}"))
            .answers(&[200, 200]),
    ]
}

/// Connects and sends the first part.
async fn begin(server: &Server, case: &Case) -> Raw {
    let mut raw = Raw::connect(server.addr()).await;
    raw.send(&case.before).await;
    let early = raw.statuses(case.early).await;
    assert_eq!(early.len(), case.early, "{}: {early:?}", case.name);
    raw
}

/// Holds until the drain has begun: its answer says so.
async fn sentinel(addr: SocketAddr) -> Raw {
    let mut raw = Raw::connect(addr).await;
    raw.send("GET /late HTTP/1.1\r\nhost: x\r\n\r\n").await;
    raw
}

/// `patient`: a connection may wait for its next request, so that each that is sent is answered.
async fn drain_with(server: &Server, signal: Signal, patient: bool) {
    let cases = cases();
    let mut held = Vec::new();
    for case in &cases {
        held.push(begin(server, case).await);
    }
    let mut sentinel = sentinel(server.addr()).await;
    let late = |case: &&Case| case.before.contains("/late") && !case.right.contains(&vec![400]);
    let late = cases.iter().filter(late).count();
    // Each of them is in its handler.
    for _ in 0..=late {
        server.process.line("/late").await;
    }
    server.process.signal(signal);
    assert_eq!(sentinel.statuses(1).await, [200]);
    for (case, raw) in cases.iter().zip(&mut held) {
        raw.send_if_open(&case.after).await;
    }
    let mut wrong = Vec::new();
    for (case, raw) in cases.iter().zip(&mut held) {
        // A client that closes its side has lost interest: only when the due answers have come.
        let due = match patient {
            true => case.right.iter().map(Vec::len).min().unwrap_or(0),
            false => usize::MAX,
        };
        raw.statuses(due).await;
        raw.finish().await;
        let statuses = raw.statuses(usize::MAX).await;
        let is_right = |right: &Vec<u16>| match patient {
            true => *right == statuses,
            false => right.starts_with(&statuses) && statuses.len() >= case.early,
        };
        if !case.right.iter().any(is_right) {
            wrong.push((case.name, statuses));
        }
    }
    assert_eq!(wrong, [], "{}", server.process.lines().join("\n"));
}

async fn nothing_was_smuggled(server: &Server) {
    let lines = server.process.lines();
    let begun = lines.iter().filter(|line| line.contains("begun ")).count();
    assert!(begun > cases().len() / 2, "the application says what it is asked for");
    assert!(!lines.iter().any(|line| line.contains("smuggled")), "{}", lines.join("\n"));
}

#[tokio::test]
async fn a_stop_makes_no_request_of_what_is_none() {
    for setup in [Setup::new(), Setup::new().single()] {
        let server = setup.idle_grace(Duration::from_millis(500)).start().await;
        drain_with(&server, Signal::SIGTERM, true).await;
        server.process.exit(Duration::from_secs(30)).await;
        nothing_was_smuggled(&server).await;
    }
}

/// Idle connections are taken apart at once, and what the kernel has for them is looked at.
#[tokio::test]
async fn a_stop_without_grace_makes_no_request_of_what_is_none() {
    for setup in [Setup::new(), Setup::new().single()] {
        let server = setup.idle_grace(Duration::ZERO).start().await;
        drain_with(&server, Signal::SIGTERM, false).await;
        server.process.exit(Duration::from_secs(30)).await;
        nothing_was_smuggled(&server).await;
    }
}

#[tokio::test]
async fn a_reload_makes_no_request_of_what_is_none() {
    let setup = Setup::new().idle_grace(Duration::from_millis(500));
    let server = setup.stop_timeout(Duration::from_secs(5)).start().await;
    drain_with(&server, Signal::SIGHUP, true).await;
    // What the new worker reads from now on was not theirs.
    let mut raw = Raw::connect(server.addr()).await;
    raw.send(GET).await;
    assert_eq!(raw.statuses(1).await, [200]);
    drop(raw);
    server.process.signal(Signal::SIGTERM);
    server.process.exit(Duration::from_secs(30)).await;
    nothing_was_smuggled(&server).await;
}
