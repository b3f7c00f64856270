//! The promise at full length, to be run by hand:
//!
//! ```sh
//! GRACEFUL_RELOADS=500 cargo test --release --all-features --test soak -- --ignored --nocapture every
//! GRACEFUL_RELOADS=500 cargo test --release --all-features --test soak -- --ignored --nocapture million
//! ```
//!
//! With `GRACEFUL_TRIAL=1` each new worker has the trial of two seconds that it has by default.
#![cfg(all(target_os = "linux", feature = "tls"))]

mod support;
#[path = "../examples/websocket.rs"]
#[expect(dead_code, reason = "it is a program of its own")]
mod websocket;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use graceful::tls::TlsConfig;
use nix::sys::signal::Signal;

use support::certificates::Certificate;
use support::load::{Kind, Load};
use support::server::{Server, Setup};

#[test]
#[ignore = "the server that the tests start"]
fn server() {
    let build = async || {
        let app = support::app::app(support::server::generation).merge(websocket::app());
        Ok::<_, std::io::Error>(app)
    };
    let server = support::server::options(graceful::serve_with(build));
    let path = |name| PathBuf::from(std::env::var_os(name).expect("set by the test"));
    let config = TlsConfig::from_pem_files(path("TEST_CERT"), path("TEST_KEY"));
    support::server::finish(server.bind_tls("127.0.0.1:0", config).run());
}

fn reloads() -> u64 {
    std::env::var("GRACEFUL_RELOADS").map_or(50, |count| count.parse().expect("a number"))
}

/// A server with a TCP and a TLS address, and the certificate of the latter.
async fn start() -> (Server, Certificate, tempfile::TempDir) {
    let directory = tempfile::tempdir().expect("a directory");
    let certificate = Certificate::new();
    let (cert, key) = certificate.write(directory.path());
    let setup = Setup::new().env("TEST_CERT", cert.display()).env("TEST_KEY", key.display());
    let setup = match std::env::var_os("GRACEFUL_TRIAL") {
        Some(_) => setup.default_trial(),
        None => setup,
    };
    (setup.start().await, certificate, directory)
}

async fn reload(server: &Server, load: &support::load::Running, generation: u64) {
    server.process.signal(Signal::SIGHUP);
    load.generation(generation).await;
    server.process.line(&format!("reloaded: {generation} ")).await;
    // The one before has handed over and left, or finishes what is slow.
    load.further(Kind::KeepAlive, 400).await;
}

#[tokio::test]
#[ignore = "takes minutes"]
async fn every_kind_of_client_through_every_reload() {
    let (server, certificate, _directory) = start().await;
    let tls = server.addresses[1].parse().expect("a TCP address");
    let load = Load::new(server.addr())
        .keep_alive(200, Duration::from_millis(20))
        .fresh(4)
        .slow(4)
        .streaming(4)
        .uploads(4)
        .h2(4)
        .websockets(4)
        .tls(4, tls, certificate.client(&["http/1.1"]))
        .start();
    for generation in 2..2 + reloads() {
        reload(&server, &load, generation).await;
    }
    let report = load.stop().await;
    println!("{report}");
    assert_eq!(report.lost(), 0, "{report}");
    // A WebSocket that is told to go before its message was read sends it again: no request is refused.
    for kind in Kind::ALL.into_iter().filter(|kind| *kind != Kind::WebSocket) {
        assert_eq!(report.of(kind).refused, 0, "{kind:?} {report}");
    }
    for kind in [Kind::KeepAlive, Kind::Slow, Kind::Stream, Kind::Upload] {
        assert_eq!(report.of(kind).reconnects, 0, "{kind:?} {report}");
    }
    assert_eq!(report.of(Kind::KeepAlive).connects, 200, "{report}");
    // The last old worker may still be on its way out; none is forgotten.
    server.one_worker().await;
}

#[tokio::test]
#[ignore = "takes minutes"]
async fn a_million_connections_are_handed_over() {
    const CLIENTS: usize = 2_000;
    let limit = nix::sys::resource::Resource::RLIMIT_NOFILE;
    let (soft, hard) = nix::sys::resource::getrlimit(limit).expect("a limit");
    nix::sys::resource::setrlimit(limit, soft.max(10_000), hard).expect("a higher limit");
    let (server, _certificate, _directory) = start().await;
    let since = Instant::now();
    let load = Load::new(server.addr()).keep_alive(CLIENTS, Duration::from_millis(200)).start();
    load.further(Kind::KeepAlive, CLIENTS as u64).await;
    for generation in 2..2 + reloads() {
        reload(&server, &load, generation).await;
        server.one_worker().await;
    }
    let report = load.stop().await;
    let moved = CLIENTS as u64 * reloads();
    println!("{report}\n{moved} hand-overs in {:.0?}", since.elapsed());
    assert_eq!(report.lost(), 0, "{report}");
    assert_eq!(report.of(Kind::KeepAlive).connects, CLIENTS as u64, "{report}");
}
