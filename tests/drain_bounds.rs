//! A drain ends at its deadline whatever state its connections are in, and names what it cut.
#![cfg(all(target_os = "linux", feature = "serve"))]

mod support;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use axum::extract::ws::WebSocketUpgrade;
use axum::response::Response;
use axum::routing::get;
use nix::sys::signal::Signal;

use support::procfs;
use support::raw::{self, Raw};
use support::server::{Server, Setup};

#[test]
#[ignore = "the server that the tests start"]
fn server() {
    tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::DEBUG)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
    let build = async || {
        let routes = support::app::routes().route("/websocket", get(websocket));
        Ok::<_, std::io::Error>(support::app::announced(routes))
    };
    support::server::finish(support::server::options(graceful::serve_with(build)).run());
}

/// Never says goodbye.
async fn websocket(upgrade: WebSocketUpgrade) -> Response {
    upgrade.on_upgrade(async |mut socket| while socket.recv().await.is_some() {})
}

const DEADLINE: Duration = Duration::from_millis(700);
/// How late a busy machine may be.
const TOLERANCE: Duration = Duration::from_millis(500);
const LONG: Duration = Duration::from_secs(20);

/// A connection that does not come to its end by itself.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Stuck {
    Idle,
    Fresh,
    PartialHead,
    PartialSecondHead,
    StalledUpload,
    UnreadUpload,
    EndlessResponse,
    UnreadResponse,
    WebSocket,
    H2Preface,
    H2PartOfThePreface,
    H2WithoutSettings,
    H2WithoutAcknowledgement,
    H2WithoutPong,
    H2IdleWithoutPong,
    H2EndlessResponse,
}

impl Stuck {
    const ALL: [Self; 16] = [
        Self::Idle,
        Self::Fresh,
        Self::PartialHead,
        Self::PartialSecondHead,
        Self::StalledUpload,
        Self::UnreadUpload,
        Self::EndlessResponse,
        Self::UnreadResponse,
        Self::WebSocket,
        Self::H2Preface,
        Self::H2PartOfThePreface,
        Self::H2WithoutSettings,
        Self::H2WithoutAcknowledgement,
        Self::H2WithoutPong,
        Self::H2IdleWithoutPong,
        Self::H2EndlessResponse,
    ];

    /// The request that is cut, if one has begun.
    fn cut(self) -> Option<&'static str> {
        match self {
            Self::StalledUpload | Self::UnreadUpload => Some("POST /upload"),
            Self::EndlessResponse | Self::UnreadResponse | Self::H2EndlessResponse => {
                Some("GET /stream")
            }
            Self::WebSocket => Some("GET /websocket"),
            Self::H2WithoutAcknowledgement | Self::H2WithoutPong => Some("GET /slow"),
            Self::Idle
            | Self::Fresh
            | Self::PartialHead
            | Self::PartialSecondHead
            | Self::H2Preface
            | Self::H2PartOfThePreface
            | Self::H2WithoutSettings
            | Self::H2IdleWithoutPong => None,
        }
    }

    /// Brings a connection into this state; returns when the server has it in that state, as far as
    /// that can be seen from outside.
    async fn connect(self, addr: SocketAddr) -> Raw {
        let mut raw = Raw::connect(addr).await;
        match self {
            Self::Fresh => {}
            Self::Idle => served(&mut raw).await,
            Self::PartialHead => raw.send("GET / HTTP/1.1\r\nho").await,
            Self::PartialSecondHead => {
                served(&mut raw).await;
                raw.send("GET / HTTP/1.1\r\nho").await;
            }
            Self::StalledUpload => {
                let head = "POST /upload HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n";
                raw.send(format!("{head}some bytes")).await;
            }
            Self::UnreadUpload => {
                let head = "POST /upload HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\n";
                raw.send(format!("{head}content-length: 100\r\n\r\n")).await;
                assert_eq!(raw.answer().await.expect("an interim answer").status, 100);
            }
            Self::EndlessResponse => {
                let path = "/stream?chunks=4000000000&bytes=10&ms=10";
                raw.send(format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n")).await;
                assert_eq!(raw.answer().await.expect("a head").status, 200);
            }
            Self::UnreadResponse => {
                let path = "/stream?chunks=16&bytes=1048576&ms=0";
                raw.send(format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n")).await;
                assert_eq!(raw.answer().await.expect("a head").status, 200);
            }
            Self::WebSocket => {
                let fields = "connection: upgrade\r\nupgrade: websocket\r\n\
                              sec-websocket-version: 13\r\n\
                              sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
                let head = format!("GET /websocket HTTP/1.1\r\nhost: x\r\n{fields}\r\n");
                raw.send(head).await;
                assert_eq!(raw.answer().await.expect("an answer").status, 101);
            }
            Self::H2PartOfThePreface => raw.send(&raw::PREFACE[..10]).await,
            Self::H2Preface => raw.send(raw::PREFACE).await,
            Self::H2WithoutSettings => {
                raw.send(raw::PREFACE).await;
                raw.frame_of(raw::SETTINGS).await;
            }
            Self::H2WithoutAcknowledgement => {
                raw.start_h2().await;
                raw.send(raw::get(1, "/slow?ms=60000")).await;
            }
            Self::H2WithoutPong => {
                raw.start_h2().await;
                raw.acknowledge_settings().await;
                raw.send(raw::get(1, "/slow?ms=60000")).await;
            }
            Self::H2IdleWithoutPong => {
                raw.start_h2().await;
                raw.acknowledge_settings().await;
                raw.send(raw::get(1, "/")).await;
                raw.frame_of(raw::HEADERS).await;
            }
            Self::H2EndlessResponse => {
                raw.start_h2().await;
                raw.acknowledge_settings().await;
                raw.send(raw::get(1, "/stream?chunks=4000000000&bytes=10&ms=10")).await;
                raw.frame_of(raw::HEADERS).await;
            }
        }
        raw
    }
}

async fn served(raw: &mut Raw) {
    raw.send("GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert_eq!(raw.answer().await.expect("an answer").status, 200);
}

/// A server whose drain ends at its deadline and not before: idle connections have more grace.
fn setup() -> Setup {
    Setup::new().stop_timeout(DEADLINE).idle_grace(LONG)
}

/// A connection in this state, on a server that has begun its request.
async fn stuck(server: &Server, state: Stuck) -> Raw {
    let raw = state.connect(server.addr()).await;
    if let Some(cut) = state.cut() {
        server.process.line(&format!("begun {cut}")).await;
    }
    // Accepted one after the other, so the first one is accepted by now.
    served(&mut Raw::connect(server.addr()).await).await;
    raw
}

fn at_its_deadline(state: Stuck, how: &str, took: Duration) {
    eprintln!("{how}: {state:?} ended after {took:?}");
    assert!(
        took >= DEADLINE && took < DEADLINE + TOLERANCE,
        "{how}: {state:?} ended after {took:?}, not at {DEADLINE:?}"
    );
}

#[tokio::test]
async fn a_stop_ends_at_its_deadline() {
    for (how, setup) in [("single process", setup as fn() -> Setup), ("master", setup)] {
        for state in Stuck::ALL {
            let setup = if how == "master" { setup() } else { setup().single() };
            let server = setup.start().await;
            if how == "master" {
                // A worker that the master does not know to be ready is killed, not drained.
                server.process.any_line("event=Ready(1)").await;
            }
            let held = stuck(&server, state).await;
            let since = Instant::now();
            server.process.signal(Signal::SIGTERM);
            let status = server.process.exit(LONG).await;
            at_its_deadline(state, how, since.elapsed());
            match state.cut() {
                Some(cut) => {
                    assert_eq!(status.code(), Some(1), "{how}: {state:?}");
                    server.process.any_line(&format!("cut at the deadline request={cut} (")).await;
                    let line = server.process.any_line("stopped, but cut 1 requests").await;
                    assert!(line.contains(&format!("{cut} (after ")), "{line}");
                }
                None => {
                    assert_eq!(status.code(), Some(0), "{how}: {state:?}");
                    let lines = server.process.lines().join("\n");
                    assert!(!lines.contains("cut"), "{how}: {state:?}: {lines}");
                }
            }
            drop(held);
        }
    }
}

#[tokio::test]
async fn an_old_worker_ends_at_its_deadline() {
    for state in Stuck::ALL {
        let server = setup().start().await;
        let old = procfs::workers(server.process.pid())[0];
        let held = stuck(&server, state).await;
        server.process.signal(Signal::SIGHUP);
        server.generation(2).await;
        let since = Instant::now();
        while procfs::is_running(old) {
            tokio::time::sleep(Duration::from_millis(2)).await;
            assert!(since.elapsed() < LONG, "{state:?}: worker {old} stays");
        }
        let took = since.elapsed();
        match state.cut() {
            Some(cut) => {
                at_its_deadline(state, "reload", took);
                // The worker says so, and the master that has heard it from the worker.
                for _ in 0..2 {
                    server.process.line(&format!("request={cut} (")).await;
                }
            }
            // What it can hand over need not wait for the deadline.
            None => assert!(took < DEADLINE + TOLERANCE, "{state:?} ended after {took:?}"),
        }
        served(&mut Raw::connect(server.addr()).await).await;
        drop(held);
    }
}
