//! HTTP/2 says goodbye in two steps (RFC 9113, section 6.8), and every stream that has begun is finished.
#![cfg(all(target_os = "linux", feature = "serve"))]

mod support;

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use support::load::{Kind, Load};
use support::raw::{self, Frame, Raw};
use support::server::{Server, Setup};

#[test]
#[ignore = "the server that the tests start"]
fn server() {
    let build = async || {
        let app = support::app::app(support::server::generation);
        Ok::<_, std::io::Error>(support::app::announced(app))
    };
    support::server::finish(support::server::options(graceful::serve_with(build)).run());
}

const LONG: Duration = Duration::from_secs(20);
const END_STREAM: u8 = 1;
const DATA: u8 = 0;
const WINDOW_UPDATE: u8 = 8;

/// Both ways to run, and each signal that ends a process or a generation.
async fn servers() -> Vec<(Server, Signal)> {
    let setup = || Setup::new().stop_timeout(LONG).idle_grace(LONG);
    vec![
        (setup().single().start().await, Signal::SIGTERM),
        (setup().start().await, Signal::SIGTERM),
        (setup().start().await, Signal::SIGHUP),
    ]
}

async fn open(server: &Server) -> Raw {
    let mut raw = Raw::connect(server.addr()).await;
    raw.start_h2().await;
    raw.acknowledge_settings().await;
    raw
}

/// The last stream that the server promises to serve.
fn last_stream(goaway: &Frame) -> u32 {
    let (id, rest) = goaway.payload.split_first_chunk::<4>().expect("a stream");
    assert_eq!(rest[..4], [0; 4], "no error");
    u32::from_be_bytes(*id)
}

/// Reads to the end; answers which streams ended, and the last promise.
async fn rest(raw: &mut Raw) -> (Vec<u32>, Option<u32>) {
    let (mut ended, mut promise) = (Vec::new(), None);
    while let Some(frame) = raw.frame().await {
        match frame.kind {
            raw::HEADERS | DATA if frame.flags & END_STREAM != 0 => ended.push(frame.stream),
            raw::GOAWAY => promise = Some(last_stream(&frame)),
            3 => panic!("a stream was reset: {frame:?}"),
            _ => {}
        }
    }
    (ended, promise)
}

#[tokio::test]
async fn a_goodbye_comes_in_two_steps_and_streams_finish() {
    for (server, signal) in servers().await {
        let mut raw = open(&server).await;
        raw.send(raw::get(1, "/slow?ms=500")).await;
        server.process.line("begun GET /slow").await;
        server.process.signal(signal);
        let goaway = raw.frame_of(raw::GOAWAY).await;
        assert_eq!(last_stream(&goaway), (1 << 31) - 1, "nothing is refused yet");
        let ping = loop {
            let ping = raw.frame_of(raw::PING).await;
            if ping.flags & raw::ACK == 0 {
                break ping;
            }
        };
        // Sent before the goodbye has arrived, as far as the server can know.
        raw.send(raw::get(3, "/")).await;
        // The h2 crate, and so most clients in Rust, answers the ping before it writes what is in its queue.
        let pong = raw::frame(raw::PING, raw::ACK, 0, &ping.payload);
        raw.send([pong, raw::get(5, "/")].concat()).await;
        raw.send(raw::get(7, "/")).await;
        let (mut ended, promise) = rest(&mut raw).await;
        ended.sort_unstable();
        assert_eq!(ended, [1, 3, 5, 7], "{signal}");
        assert_eq!(promise, Some(7), "{signal}");
        drop(raw);
        if signal == Signal::SIGTERM {
            assert!(server.process.exit(LONG).await.success());
        }
    }
}

#[tokio::test]
async fn an_idle_connection_does_not_delay_the_end() {
    for (server, signal) in servers().await {
        let mut raw = open(&server).await;
        raw.send(raw::get(1, "/")).await;
        raw.frame_of(raw::HEADERS).await;
        let since = Instant::now();
        server.process.signal(signal);
        raw.frame_of(raw::GOAWAY).await;
        let ping = raw.frame_of(raw::PING).await;
        raw.send(raw::frame(raw::PING, raw::ACK, 0, &ping.payload)).await;
        assert_eq!(rest(&mut raw).await.1, Some(1));
        drop(raw);
        if signal == Signal::SIGTERM {
            assert!(server.process.exit(LONG).await.success());
        }
        assert!(since.elapsed() < LONG / 4, "{:?}", since.elapsed());
    }
}

/// Without any patience for the idle; and a client that still has something to say when all is said is not
/// reset, which could cost it the end of its answer.
#[tokio::test]
async fn an_answer_that_waits_for_its_client_is_in_flight() {
    const LENGTH: usize = 500_000;
    const WINDOW: usize = 65_535;
    let setup = || Setup::new().stop_timeout(LONG).idle_grace(Duration::ZERO);
    for (server, signal) in [
        (setup().single().start().await, Signal::SIGTERM),
        (setup().start().await, Signal::SIGTERM),
        (setup().start().await, Signal::SIGHUP),
    ] {
        let mut raw = open(&server).await;
        raw.send(raw::get(1, &format!("/whole?bytes={LENGTH}"))).await;
        let mut received = 0;
        while received < WINDOW {
            received += raw.frame_of(DATA).await.payload.len();
        }
        server.process.signal(signal);
        raw.frame_of(raw::GOAWAY).await;
        let ping = raw.frame_of(raw::PING).await;
        raw.send(raw::frame(raw::PING, raw::ACK, 0, &ping.payload)).await;
        let room = (1_u32 << 24).to_be_bytes();
        raw.send([0, 1].map(|of| raw::frame(WINDOW_UPDATE, 0, of, &room)).concat()).await;
        loop {
            let frame = raw.frame_of(DATA).await;
            received += frame.payload.len();
            if frame.flags & END_STREAM != 0 {
                break;
            }
        }
        assert_eq!(received, LENGTH, "{signal}");
        rest(&mut raw).await;
        // A reset would have come back by the time that the first is written, and the second would fail.
        raw.send(raw::frame(raw::PING, 0, 0, &[0; 8])).await;
        raw.send(raw::frame(raw::PING, 0, 0, &[0; 8])).await;
        drop(raw);
        if signal == Signal::SIGTERM {
            assert!(server.process.exit(LONG).await.success());
        }
    }
}

#[tokio::test]
async fn reloads_lose_no_stream_under_load() {
    let server = Setup::new().stop_timeout(LONG).start().await;
    let load = Load::new(server.addr()).h2(8).start();
    load.generation(1).await;
    for generation in 2..=21 {
        server.process.signal(Signal::SIGHUP);
        load.generation(generation).await;
        load.further(Kind::H2, 100).await;
    }
    let report = load.stop().await;
    eprintln!("{report}");
    assert_eq!(report.lost(), 0, "{report}");
    assert_eq!(report.total().refused, 0, "{report}");
}
