//! A reload closes no connection: plaintext HTTP/1 moves to the next worker, with what was read of it.
#![cfg(target_os = "linux")]

mod support;

use std::time::Duration;

use nix::sys::signal::Signal;
//use tokio::io::{AsyncReadExt, AsyncWriteExt};
//use tokio::net::TcpStream;

use support::load::{Kind, Load};
use support::server::{Server, Setup};

#[test]
#[ignore = "the server that the tests start"]
fn server() {
    support::server::serve();
}

async fn reload(server: &Server, generation: u64) {
    server.process.signal(Signal::SIGHUP);
    server.generation(generation).await;
}

fn reloads(default: u64) -> u64 {
    std::env::var("GRACEFUL_RELOADS").map_or(default, |count| count.parse().expect("a number"))
}

#[tokio::test]
async fn no_keep_alive_client_ever_connects_again() {
    let server = Setup::new().start().await;
    let load = Load::new(server.addr())
        .keep_alive(200, Duration::from_millis(20))
        .fresh(4)
        .slow(4)
        .streaming(4)
        .uploads(4)
        .h2(4)
        .start();
    for generation in 2..2 + reloads(50) {
        reload(&server, generation).await;
        load.generation(generation).await;
        load.further(Kind::KeepAlive, 400).await;
    }
    let report = load.stop().await;
    println!("{report}");
    assert_eq!(report.lost(), 0, "{report}");
    assert_eq!(report.of(Kind::KeepAlive).connects, 200, "{report}");
    for kind in [Kind::KeepAlive, Kind::Slow, Kind::Stream, Kind::Upload] {
        assert_eq!(report.of(kind).reconnects, 0, "{kind:?} {report}");
    }
}
