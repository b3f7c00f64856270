//! Names and words from outside may be of any length; what the master and its workers say to each other may not.
#![cfg(all(target_os = "linux", feature = "serve"))]

mod support;

use std::time::Duration;

use axum::extract::Request;
use axum::routing::get;
use nix::sys::signal::Signal;
use tokio::net::TcpStream;

use support::http::{GET, answer, connect, send};
use support::procfs;
use support::server::{Server, Setup};

#[test]
#[ignore = "the server that the tests start"]
fn server() {
    let build = async || {
        let routes = support::app::routes()
            .route("/stuck/{*rest}", get(async || std::future::pending::<()>().await))
            .route("/panic", get(panics));
        Ok::<_, std::io::Error>(support::app::with_headers(routes, support::server::generation))
    };
    support::server::finish(support::server::options(graceful::serve_with(build)).run());
}

/// In a language with longer characters, so that the text cannot be cut anywhere.
async fn panics(_: Request) {
    panic!("{}", "ä".repeat(200 * 1024));
}

const LONG: Duration = Duration::from_secs(30);

/// A request that does not end, with a path of so many characters, each of which is two on the wire.
async fn stuck(server: &Server, length: usize) -> TcpStream {
    let mut stream = connect(server.addr()).await;
    let path = "\"".repeat(length);
    send(&mut stream, &format!("GET /stuck/{path} HTTP/1.1\r\nhost: x\r\n\r\n")).await;
    stream
}

/// The generation that answers.
async fn ask(server: &Server) -> String {
    let mut stream = connect(server.addr()).await;
    send(&mut stream, GET).await;
    let text = answer(&mut stream).await;
    let line = text.lines().find_map(|line| line.strip_prefix("x-generation: "));
    line.expect("the header of the test app").to_owned()
}

#[tokio::test]
async fn long_paths_do_not_silence_a_worker() {
    let watch = Duration::from_millis(200);
    let server = Setup::new().env("TEST_WATCH", watch.as_millis()).start().await;
    let mut held = Vec::new();
    for _ in 0..12 {
        held.push(stuck(&server, 65_000).await);
    }
    assert_eq!(ask(&server).await, "1");
    // Five pings without an answer would have been its end. A reload shows that the wire works.
    let mut pings = tokio::time::interval(watch);
    for _ in 0..10 {
        pings.tick().await;
    }
    let worker = procfs::workers(server.process.pid());
    assert_eq!(ask(&server).await, "1");
    assert_eq!(procfs::workers(server.process.pid()), worker);
    server.process.signal(Signal::SIGHUP);
    server.process.line("reloaded: 2 ").await;
    // The old one may accept for a moment longer.
    let asking = async { while ask(&server).await != "2" {} };
    tokio::time::timeout(LONG, asking).await.expect("the new one answers");
}

#[tokio::test]
async fn the_words_of_a_panic_do_not_garble_the_wire() {
    let server = Setup::new().start().await;
    let worker = procfs::workers(server.process.pid());
    for _ in 0..3 {
        let mut stream = connect(server.addr()).await;
        send(&mut stream, "GET /panic HTTP/1.1\r\nhost: x\r\n\r\n").await;
        let mut nothing = Vec::new();
        // The connection of a handler that panics is cut.
        let _ = tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut nothing).await;
    }
    assert_eq!(ask(&server).await, "1");
    server.process.signal(Signal::SIGHUP);
    server.generation(2).await;
    let lines = server.process.lines().join("\n");
    assert!(!lines.contains("garbage"), "{lines}");
    assert!(!procfs::workers(server.process.pid()).is_empty(), "{worker:?}");
}

#[tokio::test]
async fn every_request_that_is_cut_is_counted_however_long_its_path() {
    const CUT: usize = 50;
    let server = Setup::new().stop_timeout(Duration::from_millis(500)).start().await;
    let mut held = Vec::new();
    for _ in 0..CUT {
        held.push(stuck(&server, 60_000).await);
    }
    assert_eq!(ask(&server).await, "1");
    server.process.signal(Signal::SIGTERM);
    let status = server.process.exit(LONG).await;
    assert_eq!(status.code(), Some(1));
    server.process.any_line(&format!("stopped, but cut {CUT} requests")).await;
}

/// By a shell that passes one socket again and again.
#[tokio::test]
async fn more_inherited_sockets_than_fit_into_a_message_are_all_served() {
    const SOCKETS: usize = 100;
    let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
    let addr = socket.local_addr().expect("bound");
    let script = "for ((i = 3; i < LISTEN_FDS + 3; i++)); do eval \"exec $i<&0\"; done
        exec </dev/null; export LISTEN_PID=$$; exec \"$@\"";
    let server = Setup::new()
        .bind("")
        .under("bash", &["-c", script, "bash"])
        .stdin(std::os::fd::OwnedFd::from(socket))
        .env("LISTEN_FDS", SOCKETS)
        .start()
        .await;
    assert_eq!(server.addresses, vec![addr.to_string(); SOCKETS]);
    assert_eq!(ask(&server).await, "1");
}
