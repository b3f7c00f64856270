//! Responses without an end: WebSockets and server-sent events are told that the process ends, are never
//! cut inside a message, and are waited for.
#![cfg(all(target_os = "linux", feature = "serve"))]

#[path = "../examples/sse.rs"]
#[expect(dead_code, reason = "it is a program of its own")]
mod sse;
mod support;
#[path = "../examples/websocket.rs"]
#[expect(dead_code, reason = "it is a program of its own")]
mod websocket;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use axum::routing::get;
use futures_util::{SinkExt, StreamExt};
use graceful::Handle;
use nix::sys::signal::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use support::load::{Kind, Load};
use support::procfs;
use support::raw::Raw;
use support::server::{Server, Setup};

#[test]
#[ignore = "the server that the tests start"]
fn server() {
    let build = async || {
        let in_flight = async |handle: Handle| handle.in_flight().to_string();
        let app = support::app::app(support::server::generation);
        let app = app.merge(websocket::app()).merge(sse::app());
        Ok::<_, std::io::Error>(app.route("/in_flight", get(in_flight)))
    };
    support::server::finish(support::server::options(graceful::serve_with(build)).run());
}

const LONG: Duration = Duration::from_secs(20);

/// Both ways to run, and each signal that ends a process or a generation.
async fn servers() -> Vec<(Server, Signal)> {
    let setup = || Setup::new().stop_timeout(LONG).idle_grace(Duration::ZERO);
    vec![
        (setup().single().start().await, Signal::SIGTERM),
        (setup().start().await, Signal::SIGTERM),
        (setup().start().await, Signal::SIGHUP),
    ]
}

async fn open(addr: SocketAddr) -> WebSocketStream<TcpStream> {
    let stream = TcpStream::connect(addr).await.expect("connect");
    let opened = tokio_tungstenite::client_async("ws://x/websocket", stream).await;
    opened.expect("a WebSocket").0
}

async fn in_flight(server: &Server) -> usize {
    let mut raw = Raw::connect(server.addr()).await;
    raw.send("GET /in_flight HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    let body = raw.answer().await.expect("an answer").body;
    // But for this one.
    String::from_utf8(body).expect("a number").parse::<usize>().expect("a number") - 1
}

/// The process that the signal was meant for has ended.
async fn over(server: &Server, signal: Signal, old: &[u32]) {
    if signal == Signal::SIGTERM {
        let status = server.process.exit(LONG).await;
        assert!(status.success(), "{status}: {:?}", server.process.lines());
        return;
    }
    let since = Instant::now();
    while old.iter().any(|pid| procfs::is_running(*pid)) {
        assert!(since.elapsed() < LONG, "the old worker stays");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn a_websocket_is_told_and_waited_for() {
    for (server, signal) in servers().await {
        let old = procfs::workers(server.process.pid());
        let mut socket = open(server.addr()).await;
        socket.send(Message::text("hello")).await.expect("sent");
        assert_eq!(socket.next().await.expect("an echo").expect("whole"), Message::text("hello"));
        assert_eq!(in_flight(&server).await, 1, "an upgraded connection counts as one request");

        server.process.signal(signal);
        let Some(Ok(Message::Close(Some(frame)))) = socket.next().await else {
            panic!("no goodbye");
        };
        assert_eq!(frame.code, CloseCode::Restart);
        // The server waits for our goodbye: it has not gone.
        if signal == Signal::SIGTERM {
            assert!(!server.process.has_exited());
        }
        while let Some(Ok(_)) = socket.next().await {}
        drop(socket);
        over(&server, signal, &old).await;
    }
}

#[tokio::test]
async fn a_websocket_is_not_cut_inside_a_message() {
    const BYTES: usize = 12 << 20;
    for (server, signal) in servers().await {
        let mut socket = open(server.addr()).await;
        let (bytes, text) = (vec![7; BYTES], Message::text("second"));
        let (mut sender, mut receiver) = socket.split();
        let sending = async {
            sender.send(Message::binary(bytes.clone())).await.expect("sent");
            // Nobody reads the echo yet, so it is under way now, or about to be.
            server.process.signal(signal);
            let wait = async { while TcpStream::connect(server.addr()).await.is_ok() {} };
            match signal {
                Signal::SIGTERM => wait.await,
                _ => server.generation(2).await,
            }
            sender.send(text).await.expect("sent");
        };
        sending.await;
        let echo = receiver.next().await.expect("an echo").expect("whole");
        assert_eq!(echo.len(), BYTES);
        // The second one has come before or after the goodbye.
        let next = loop {
            match receiver.next().await.expect("a goodbye").expect("whole") {
                Message::Text(text) => assert_eq!(text.as_str(), "second"),
                other => break other,
            }
        };
        assert!(matches!(next, Message::Close(Some(frame)) if frame.code == CloseCode::Restart));
        socket = sender.reunite(receiver).expect("its two halves");
        while let Some(Ok(_)) = socket.next().await {}
    }
}

#[tokio::test]
async fn events_end_with_a_goodbye() {
    for (server, signal) in servers().await {
        let old = procfs::workers(server.process.pid());
        let mut stream = TcpStream::connect(server.addr()).await.expect("connect");
        let request = "GET /ticks HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).await.expect("written");
        let mut bytes = Vec::new();
        while !String::from_utf8_lossy(&bytes).contains("data: 0\n\n") {
            bytes.push(stream.read_u8().await.expect("an event"));
        }
        assert_eq!(in_flight(&server).await, 1);
        server.process.signal(signal);
        stream.read_to_end(&mut bytes).await.expect("a clean end");
        let text = String::from_utf8(bytes).expect("text");
        assert!(text.ends_with("\r\n0\r\n\r\n"), "the body has its end: {text}");
        assert!(text.contains("event: goodbye\nretry: 100\n"), "{text}");
        drop(stream);
        over(&server, signal, &old).await;
    }
}

#[tokio::test]
async fn websockets_under_load_are_told_at_each_reload() {
    const CLIENTS: usize = 16;
    const RELOADS: u64 = 20;
    let server = Setup::new().stop_timeout(LONG).start().await;
    let load = Load::new(server.addr())
        .websockets(CLIENTS)
        .keep_alive(8, Duration::from_millis(5))
        .h2(2)
        .streaming(2)
        .start();
    load.generation(1).await;
    load.further(Kind::WebSocket, 2 * CLIENTS as u64).await;
    for generation in 2..2 + RELOADS {
        server.process.signal(Signal::SIGHUP);
        load.generation(generation).await;
        load.further(Kind::WebSocket, 4 * CLIENTS as u64).await;
    }
    let report = load.stop().await;
    eprintln!("{report}");
    assert_eq!(report.lost(), 0, "{report}");
    let account = report.of(Kind::WebSocket);
    // Each is told once for each reload; the last of them may not have noticed yet.
    assert_eq!(account.connects, account.announced + CLIENTS as u64, "{report}");
    assert!(account.announced >= RELOADS * CLIENTS as u64 / 2, "{report}");
}
