//! What cannot be is refused with a clear error and status 1, or ignored where another program said it;
//! never a panic, and never at the cost of a server that runs.
#![cfg(all(unix, feature = "serve"))]

mod support;

use std::time::Duration;

use nix::sys::signal::Signal;

use support::http::{GET, answer, connect, send};
use support::process::Program;
use support::server::Setup;

#[test]
#[ignore = "the server that the tests start"]
fn server() {
    support::server::serve();
}

#[test]
#[ignore = "a server with a signal that nobody can handle"]
fn unstoppable() {
    let server = graceful::serve(support::app::routes()).bind("127.0.0.1:0");
    support::server::finish(server.stop_signals([graceful::Signal::KILL]).run());
}

#[test]
#[ignore = "a server of nothing"]
fn nothing() {
    support::server::finish(graceful::Server::new().run());
}

#[test]
#[ignore = "a server that could never reload"]
fn crowded() {
    let server = graceful::serve(support::app::routes()).bind("127.0.0.1:0");
    support::server::finish(server.max_draining(0).run());
}

#[test]
#[ignore = "a server that gives clients no time"]
fn hasty() {
    let server = graceful::serve(support::app::routes()).bind("127.0.0.1:0");
    support::server::finish(server.keep_alive_timeout(Duration::ZERO).run());
}

#[test]
#[ignore = "a server whose limits are none"]
fn unlimited() {
    let never = Duration::MAX;
    let server = graceful::serve(support::app::app(support::server::generation))
        .stop_timeout(never)
        .idle_grace(Duration::ZERO)
        .ready_timeout(never)
        .watch_interval(never)
        .backoff(never, never)
        .max_restarts(usize::MAX, never)
        .max_draining(usize::MAX)
        .max_connections(usize::MAX)
        .hook_timeout(never)
        .header_timeout(never)
        .keep_alive_timeout(never)
        .ping_interval(never)
        .before_signal(async |_| {});
    // After those of the test, which sets some of them: a trial that never ends, and one that is none.
    let server = support::server::options(server).stop_timeout(never);
    let endless = std::env::var_os("TEST_ENDLESS").is_some();
    support::server::finish(server.bake_time(if endless { never } else { Duration::ZERO }).run());
}

const LONG: Duration = Duration::from_secs(30);

/// The program ends with status 1 and says why, in one line that begins with `Error: `.
async fn refuses(program: Program, why: &[&str]) {
    let process = program.start();
    let status = process.exit(LONG).await;
    assert_eq!(status.code(), Some(1), "{:?}", process.lines());
    let line = process.line("Error: ").await;
    for why in why {
        assert!(line.contains(why), "{line:?} does not say {why:?}");
    }
    let lines = process.lines();
    assert!(!lines.iter().any(|line| line.contains("panicked")), "{lines:?}");
}

#[tokio::test]
async fn addresses_that_cannot_be() {
    let held = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
    let taken = held.local_addr().expect("bound").to_string();
    for (variable, value, why) in [
        ("TEST_BIND", "nonsense", "cannot listen on \"nonsense\": a port is missing"),
        ("TEST_BIND", "127.0.0.1:99999", "the port is not a number"),
        ("TEST_BIND", "192.0.2.1:80", "cannot bind 192.0.2.1:80"),
        (
            "TEST_BIND",
            "unix:/no/such/directory/a.sock",
            "cannot bind unix:/no/such/directory/a.sock",
        ),
        ("TEST_BIND", taken.as_str(), "Address already in use"),
        ("GRACEFUL_LISTEN", "127.0.0.1:0,:80", "cannot use GRACEFUL_LISTEN"),
        ("PORT", "http", "cannot use PORT=\"http\""),
        ("PORT", "70000", "cannot use PORT=\"70000\""),
    ] {
        let program = Program::this_test("server").env(variable, value);
        refuses(program, &[why]).await;
    }
    drop(held);
}

#[tokio::test]
async fn signals_and_servers_that_cannot_be() {
    refuses(Program::this_test("unstoppable"), &["cannot handle SIGKILL", "to no program"]).await;
    refuses(Program::this_test("nothing"), &["no app is registered"]).await;
    refuses(Program::this_test("crowded"), &["max_draining 0"]).await;
    refuses(Program::this_test("hasty"), &["a keep_alive_timeout of 0"]).await;
}

#[tokio::test]
async fn limits_that_are_none_end_no_server() {
    for kind in ["", "TEST_ENDLESS", "TEST_SINGLE"] {
        let setup = Setup::from_program(Program::this_test("unlimited"));
        let setup = if kind.is_empty() { setup } else { setup.env(kind, 1) };
        let server = setup.start().await;
        let mut client = connect(server.addr()).await;
        send(&mut client, GET).await;
        assert!(answer(&mut client).await.starts_with("HTTP/1.1 200"), "{kind}");
        if kind != "TEST_SINGLE" {
            server.process.signal(Signal::SIGHUP);
            server.generation(2).await;
        }
        if kind.is_empty() {
            server.process.line("reloaded: 2 ").await;
        }
        send(&mut client, GET).await;
        assert!(answer(&mut client).await.starts_with("HTTP/1.1 200"), "{kind}");
        drop(client);
        server.process.signal(Signal::SIGTERM);
        assert!(server.process.exit(LONG).await.success(), "{kind}");
        let lines = server.process.lines();
        assert!(!lines.iter().any(|line| line.contains("panicked")), "{lines:?}");
    }
}

/// Runs the server by a shell that prepares the descriptor 3, as a supervisor would.
fn with_descriptor(redirect: &str, count: &str) -> Program {
    let own = std::env::current_exe().expect("the path of this test program");
    let script = format!("export LISTEN_PID=$$ LISTEN_FDS={count}; exec \"$0\" \"$@\" {redirect}");
    Program::new("/bin/sh")
        .args(["-c", &script])
        .args([own])
        .args(Program::server_args("server"))
        .env("TEST_BIND", "127.0.0.1:0")
}

#[tokio::test]
async fn promises_of_a_supervisor_that_do_not_hold() {
    for (redirect, count, why) in [
        (
            "3</dev/null",
            "1",
            "cannot listen on descriptor 3 (unknown) of LISTEN_FDS: it is not a socket",
        ),
        ("3>&-", "1", "cannot listen on descriptor 3 (unknown) of LISTEN_FDS"),
        ("3>&-", "many", "LISTEN_FDS is \"many\", which is not a number of sockets"),
        ("3>&-", "-1", "LISTEN_FDS is \"-1\""),
        ("3>&-", "99999999", "LISTEN_FDS is \"99999999\""),
    ] {
        refuses(with_descriptor(redirect, count), &[why]).await;
    }
}

#[tokio::test]
async fn what_was_meant_for_another_process_is_ignored() {
    for (variable, value) in [
        ("LISTEN_FDS", "3"),
        ("GRACEFUL_CONTROL", "nonsense"),
        ("GRACEFUL_CONTROL", "999:1"),
        ("GRACEFUL_CONTROL", "-5:-5"),
        ("GRACEFUL_TAKEOVER", "7:1"),
        ("GRACEFUL_TAKEOVER", ""),
        ("NOTIFY_SOCKET", "/no/such/socket"),
        ("WATCHDOG_USEC", "soon"),
    ] {
        let server = Setup::new().env(variable, value).start().await;
        let mut client = connect(server.addr()).await;
        send(&mut client, GET).await;
        assert!(answer(&mut client).await.contains("x-generation: 1"), "{variable}={value}");
        drop(client);
        server.process.signal(Signal::SIGTERM);
        assert!(server.process.exit(LONG).await.success(), "{variable}={value}");
    }
}
