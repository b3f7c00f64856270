//! How a server ends: within its deadline, at once where nothing is in flight, and never before what is
//! in flight has ended. In a master with a worker, and in a single process.
#![cfg(all(unix, feature = "serve"))]

mod support;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tokio::net::TcpStream;

use support::http::{GET, answer, connect, expect_end, send};
use support::server::{Server, Setup};
#[cfg(target_os = "linux")]
use support::{process, procfs};

#[test]
#[ignore = "the server that the tests start"]
fn server() {
    support::server::serve();
}

const SLOW: &str = "GET /slow?ms=500 HTTP/1.1\r\nhost: x\r\n\r\n";
/// At most, of a race that either may win; one in six or so goes to the signal.
#[cfg(target_os = "linux")]
const ROUNDS: usize = 100;
const LONG: Duration = Duration::from_secs(10);

/// Both ways to run; the same rules hold for each.
fn setups() -> [Setup; 2] {
    [Setup::new(), Setup::new().single()]
}

async fn stopped(server: &Server, within: Duration) {
    let status = server.process.exit(within).await;
    assert!(status.success(), "{status}: {:?}", server.process.lines());
}

#[tokio::test]
async fn a_stop_is_immediate_when_no_connection_is_open() {
    for setup in setups() {
        let server = setup.start().await;
        let since = Instant::now();
        server.process.signal(Signal::SIGTERM);
        stopped(&server, LONG).await;
        assert!(since.elapsed() < Duration::from_secs(2), "{:?}", since.elapsed());
    }
}

#[tokio::test]
async fn an_idle_connection_is_answered_once_more_and_then_closed() {
    for setup in setups() {
        let server = setup.idle_grace(LONG).start().await;
        let mut stream = connect(server.addr()).await;
        send(&mut stream, GET).await;
        assert!(!answer(&mut stream).await.contains("connection: close"));
        let mut fresh = connect(server.addr()).await;
        // Answered by the same loop, so the fresh one is accepted by now.
        send(&mut stream, GET).await;
        answer(&mut stream).await;

        server.process.signal(Signal::SIGTERM);
        refused(server.addr()).await;
        for stream in [&mut stream, &mut fresh] {
            send(stream, GET).await;
            assert!(answer(stream).await.contains("connection: close"));
            expect_end(stream).await;
        }
        drop((stream, fresh));
        stopped(&server, LONG).await;
    }
}

/// Waits until the address refuses connections: the stop has begun.
async fn refused(addr: SocketAddr) {
    while TcpStream::connect(addr).await.is_ok() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn an_idle_connection_delays_a_stop_by_the_grace_at_most() {
    for setup in setups() {
        let grace = Duration::from_millis(400);
        let server = setup.idle_grace(grace).start().await;
        let mut idle = connect(server.addr()).await;
        send(&mut idle, GET).await;
        answer(&mut idle).await;
        let mut fresh = connect(server.addr()).await;
        let since = Instant::now();
        server.process.signal(Signal::SIGTERM);
        expect_end(&mut idle).await;
        expect_end(&mut fresh).await;
        let took = since.elapsed();
        // The clients have not closed their side, and need not.
        stopped(&server, LONG).await;
        assert!(took >= grace, "{took:?}");
        assert!(since.elapsed() < grace + Duration::from_millis(900), "{:?}", since.elapsed());
    }
}

#[tokio::test]
async fn what_is_in_flight_ends_and_the_status_is_0() {
    for setup in setups() {
        let server = setup.idle_grace(Duration::ZERO).start().await;
        let mut slow = connect(server.addr()).await;
        send(&mut slow, SLOW).await;
        let mut partial = connect(server.addr()).await;
        send(&mut partial, GET).await;
        answer(&mut partial).await;
        send(&mut partial, "GET / HT").await;
        let mut first = connect(server.addr()).await;
        send(&mut first, "GET / HTTP/1.1\r\nho").await;
        in_worker(&server, 1).await;

        server.process.signal(Signal::SIGTERM);
        refused(server.addr()).await;
        assert!(answer(&mut slow).await.contains("connection: close"));
        expect_end(&mut slow).await;
        send(&mut partial, "TP/1.1\r\nhost: x\r\n\r\n").await;
        send(&mut first, "st: x\r\n\r\n").await;
        for stream in [&mut partial, &mut first] {
            assert!(answer(stream).await.contains("connection: close"));
            expect_end(stream).await;
        }
        drop((slow, partial, first));
        stopped(&server, LONG).await;
    }
}

/// Waits until the server has read what the clients have sent: a request of our own is behind it.
async fn in_worker(server: &Server, rounds: usize) {
    for _ in 0..=rounds {
        let mut stream = connect(server.addr()).await;
        send(&mut stream, "GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
        answer(&mut stream).await;
        expect_end(&mut stream).await;
    }
}

#[tokio::test]
async fn connections_in_the_backlog_are_served() {
    for setup in setups() {
        let server = setup.idle_grace(LONG).start().await;
        let mut streams = Vec::new();
        for _ in 0..200 {
            streams.push(connect(server.addr()).await);
        }
        server.process.signal(Signal::SIGTERM);
        for stream in &mut streams {
            send(stream, GET).await;
        }
        for stream in &mut streams {
            assert!(answer(stream).await.starts_with("HTTP/1.1 200"));
        }
        drop(streams);
        stopped(&server, LONG).await;
    }
}

#[tokio::test]
async fn a_request_that_does_not_end_is_cut_at_the_deadline_and_named() {
    for setup in setups() {
        let deadline = Duration::from_millis(600);
        let server = setup.stop_timeout(deadline).start().await;
        let mut stuck = connect(server.addr()).await;
        send(&mut stuck, "GET /slow?ms=60000 HTTP/1.1\r\nhost: x\r\n\r\n").await;
        in_worker(&server, 1).await;
        let since = Instant::now();
        server.process.signal(Signal::SIGTERM);
        let status = server.process.exit(LONG).await;
        let took = since.elapsed();
        assert_eq!(status.code(), Some(1));
        assert!(took >= deadline && took < deadline + Duration::from_millis(300), "{took:?}");
        let line = server.process.line("cut 1 requests").await;
        assert!(line.contains("GET /slow (after "), "{line}");
    }
}

#[tokio::test]
async fn a_second_stop_ends_it_now() {
    for second in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGUSR2] {
        for setup in setups() {
            let server = setup.start().await;
            let mut stuck = connect(server.addr()).await;
            send(&mut stuck, "GET /slow?ms=60000 HTTP/1.1\r\nhost: x\r\n\r\n").await;
            in_worker(&server, 1).await;
            server.process.signal(Signal::SIGTERM);
            refused(server.addr()).await;
            let since = Instant::now();
            server.process.signal(second);
            let status = server.process.exit(LONG).await;
            assert_eq!(status.code(), Some(1));
            assert!(since.elapsed() < Duration::from_secs(2), "{:?}", since.elapsed());
        }
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_worker_that_has_lost_its_master_finishes_and_leaves() {
    let server = Setup::new().idle_grace(Duration::ZERO).start().await;
    let mut slow = connect(server.addr()).await;
    send(&mut slow, SLOW).await;
    in_worker(&server, 1).await;
    let worker = procfs::workers(server.process.pid())[0];
    server.process.signal(Signal::SIGKILL);
    assert!(answer(&mut slow).await.starts_with("HTTP/1.1 200"));
    expect_end(&mut slow).await;
    drop(slow);
    let since = Instant::now();
    while !server.process.tree().is_empty() {
        assert!(since.elapsed() < LONG, "worker {worker} stays");
        tokio::task::yield_now().await;
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_killed_worker_is_replaced_and_reaped() {
    let server = Setup::new().start().await;
    let worker = procfs::workers(server.process.pid())[0];
    process::signal(worker, Signal::SIGKILL);
    // Accepted by nobody for the moment, and refused by nobody either.
    let mut waiting = connect(server.addr()).await;
    send(&mut waiting, GET).await;
    assert!(answer(&mut waiting).await.starts_with("HTTP/1.1 200"));
    server.generation(2).await;
    assert_eq!(procfs::zombies(server.process.pid()), 0);
    drop(waiting);
    server.process.signal(Signal::SIGTERM);
    stopped(&server, LONG).await;
}

#[tokio::test]
async fn a_stop_around_the_first_connections_of_a_worker_loses_nothing() {
    let server = Setup::new().env("TEST_HOOK", 300).start().await;
    server.process.signal(Signal::SIGHUP);
    server.generation(2).await;
    let mut slow = Vec::new();
    for _ in 0..40 {
        // Taken by the one or the other.
        let mut stream = connect(server.addr()).await;
        send(&mut stream, SLOW).await;
        slow.push(stream);
    }
    in_worker(&server, 1).await;
    server.process.signal(Signal::SIGTERM);
    for stream in &mut slow {
        let answer = answer(stream).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    drop(slow);
    stopped(&server, LONG).await;
}

/// The master is stopped while the worker says that it is ready, and finds that and the signal at once
/// when it goes on: in some rounds it takes the signal first, for which the worker is still starting.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_stop_that_overtakes_the_news_of_a_ready_worker_loses_nothing() {
    for _ in 0..ROUNDS {
        let server = Setup::new().env("TEST_HOOK", 200).start().await;
        let master = server.process.pid();
        server.process.signal(Signal::SIGHUP);
        server.generation(2).await;
        process::signal(master, Signal::SIGSTOP);
        let mut stream = loop {
            let mut stream = connect(server.addr()).await;
            send(&mut stream, GET).await;
            if answer(&mut stream).await.contains("x-generation: 2") {
                break stream;
            }
        };
        send(&mut stream, SLOW).await;
        process::signal(master, Signal::SIGTERM);
        process::signal(master, Signal::SIGCONT);
        let answer = answer(&mut stream).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        drop(stream);
        stopped(&server, LONG).await;
        let lines = server.process.lines();
        if !lines.iter().any(|line| line.contains("reloaded: 2")) {
            return;
        }
    }
    panic!("the signal has overtaken in none of {ROUNDS} rounds");
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_stop_does_not_wait_for_a_worker_that_is_being_built() {
    for fault in ["hang", "block"] {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("fault");
        let server = Setup::new().env("TEST_FAULT", path.display()).start().await;
        std::fs::write(&path, fault).expect("write");
        server.process.signal(Signal::SIGHUP);
        let since = Instant::now();
        while procfs::workers(server.process.pid()).len() < 2 {
            assert!(since.elapsed() < LONG, "no worker is started");
            tokio::task::yield_now().await;
        }
        let since = Instant::now();
        server.process.signal(Signal::SIGTERM);
        stopped(&server, LONG).await;
        assert!(since.elapsed() < Duration::from_millis(1500), "{:?}", since.elapsed());
    }
}
