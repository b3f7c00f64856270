//! A new worker may listen elsewhere than the one before it. Nobody who connects during its trial loses by
//! that, and its health is asked where it listens.
#![cfg(all(target_os = "linux", feature = "serve"))]

mod support;

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal;

use support::http::{GET, answer, connect, expect_end, send};
use support::server::{Server, Setup};
use support::until;

#[test]
#[ignore = "the server that the tests start"]
fn server() {
    support::server::serve();
}

const LONG: Duration = Duration::from_secs(30);

/// The server binds what this file says, after what the set-up says.
fn setup(path: &Path, address: &str) -> Setup {
    fs::write(path, address).expect("write the address");
    Setup::new().bake(Duration::from_secs(2)).env("TEST_TAKEN", path.display())
}

async fn generation(addr: SocketAddr) -> u64 {
    let mut stream = connect(addr).await;
    send(&mut stream, GET).await;
    let text = answer(&mut stream).await;
    let line = text.lines().find_map(|line| line.strip_prefix("x-generation: "));
    line.expect("the header of the test app").parse().expect("a number")
}

fn second(server: &Server) -> SocketAddr {
    server.addresses[1].parse().expect("a TCP address")
}

#[tokio::test]
async fn clients_of_an_address_that_is_given_up_are_served_to_the_end() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("address");
    let server = setup(&path, "127.0.0.1:0").start().await;
    let (stays, goes) = (server.addr(), second(&server));
    let mut idle = connect(goes).await;
    send(&mut idle, GET).await;
    answer(&mut idle).await;

    fs::remove_file(&path).expect("remove");
    server.process.signal(Signal::SIGHUP);
    server.generation(2).await;
    // During the trial: nobody but the old worker listens there, and it goes on. On the other one it does not,
    // once it has heard of the trial.
    while generation(stays).await == 1 {}
    assert_eq!(generation(goes).await, 1);
    // After it, whoever has connected before is answered.
    let mut before = connect(goes).await;
    server.process.line("reloaded: 2 ").await;
    for stream in [&mut before, &mut idle] {
        send(stream, GET).await;
        let text = answer(stream).await;
        assert!(text.contains("x-generation: 1"), "{text}");
    }
    // It is closed by both.
    until("the address to be closed", || std::net::TcpStream::connect(goes).is_err()).await;
    drop((before, idle));
    assert_eq!(generation(stays).await, 2);
    // And comes back when it is asked for again.
    fs::write(&path, goes.to_string()).expect("write the address");
    server.process.signal(Signal::SIGHUP);
    server.process.line("reloaded: 3 ").await;
    assert_eq!(generation(goes).await, 3);
}

#[tokio::test]
async fn a_failed_trial_gives_the_address_back_to_the_old_worker() {
    let directory = tempfile::tempdir().expect("a directory");
    let (path, fault) = (directory.path().join("address"), directory.path().join("fault"));
    let server = setup(&path, "127.0.0.1:0").env("TEST_FAULT", fault.display()).start().await;
    let goes = second(&server);
    fs::remove_file(&path).expect("remove");
    fs::write(&fault, "die 300").expect("write the fault");
    server.process.signal(Signal::SIGHUP);
    server.process.line("reload failed: ").await;
    assert_eq!(generation(server.addr()).await, 1);
    assert_eq!(generation(goes).await, 1);
    server.process.signal(Signal::SIGTERM);
    assert!(server.process.exit(LONG).await.success());
}

/// The one that the old worker has bound first.
#[tokio::test]
async fn health_is_asked_where_the_new_worker_listens() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("address");
    let server = setup(&path, "127.0.0.1:0").bind("").env("TEST_HEALTH", 1).start().await;
    // It gets a socket of its own.
    fs::write(&path, "127.0.0.2:0").expect("write the address");
    server.process.signal(Signal::SIGHUP);
    let line = server.process.line("reload").await;
    assert!(line.contains("reloaded: 2 "), "{line}");
}

#[tokio::test]
async fn a_health_check_that_cannot_pass_is_an_error_at_once() {
    for (health, bake, why) in [
        ("/health z", 1000, "a path begins with a slash"),
        ("/healthz", 0, "cannot check health during a trial (bake_time) of 0"),
    ] {
        let bake = Duration::from_millis(bake);
        let process = Setup::new().bake(bake).env("TEST_HEALTH", health).spawn();
        let status = process.exit(LONG).await;
        assert_eq!(status.code(), Some(1));
        process.any_line(why).await;
    }
}

#[tokio::test]
async fn a_connection_in_flight_on_an_address_that_is_given_up_ends_with_a_goodbye() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("address");
    let server = setup(&path, "127.0.0.1:0").bake(Duration::ZERO).start().await;
    let mut slow = connect(second(&server)).await;
    send(&mut slow, "GET /slow?ms=300 HTTP/1.1\r\nhost: x\r\n\r\n").await;
    fs::remove_file(&path).expect("remove");
    server.process.signal(Signal::SIGHUP);
    server.generation(2).await;
    assert!(answer(&mut slow).await.starts_with("HTTP/1.1 200"));
    send(&mut slow, GET).await;
    let text = answer(&mut slow).await;
    assert!(text.contains("connection: close"), "{text}");
    expect_end(&mut slow).await;
}
