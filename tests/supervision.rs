//! Under each supervisor: systemd's notifications, watchdog, socket activation and descriptor store, a
//! PID file, and PID 1 of a container.
#![cfg(all(target_os = "linux", feature = "serve"))]

mod support;

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use axum::routing::get;
use nix::sys::signal::Signal;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use support::notify::{Message, Notify};
use support::process::{self, Process, Program};
use support::server::{Server, Setup, deploy};
use support::until;
use support::{app, procfs, skip};

const LONG: Duration = Duration::from_secs(10);

/// Fails to build the app while the file `TEST_BREAK` is there, and hangs while `TEST_HANG` is.
#[test]
#[ignore = "the server that the tests start"]
fn server() {
    if std::process::id() == 1 {
        std::thread::spawn(wait_for_children);
    }
    let exists = |name| std::env::var_os(name).is_some_and(|path| Path::new(&path).exists());
    let build = async move || {
        if exists("TEST_BREAK") {
            return Err("the app cannot be built");
        }
        if exists("TEST_HANG") {
            std::future::pending::<()>().await;
        }
        Ok(app::app(support::server::generation).route("/orphan", get(orphan)))
    };
    let server = support::server::options(graceful::serve_with(build));
    support::server::finish(server.run());
}

/// What user code in the master may do: their status must not be taken by anybody else.
fn wait_for_children() {
    for _ in 0..50 {
        let status = Command::new("sh").args(["-c", "exit 7"]).status().expect("sh runs");
        assert_eq!(status.code(), Some(7));
    }
    println!("waited for all children");
}

/// Starts a process that outlives its parent.
async fn orphan() -> &'static str {
    let mut shell = tokio::process::Command::new("sh");
    shell.args(["-c", "sleep 600 & exit"]).stdout(std::process::Stdio::null());
    let status = shell.stderr(std::process::Stdio::null()).status().await;
    assert!(status.expect("sh runs").success());
    "left alone\n"
}

async fn ask(mut stream: impl AsyncRead + AsyncWrite + Unpin, path: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("write");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("read");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer:?}");
    answer
}

async fn stopped(process: &Process) {
    let status = process.exit(LONG).await;
    assert!(status.success(), "{status}: {:?}", process.lines());
}

fn expect_extension(message: &Message, seconds: u64) {
    let limit: u64 = message.value("EXTEND_TIMEOUT_USEC").expect("it").parse().expect("a number");
    assert_eq!(limit, seconds * 1_000_000, "{message:?}");
}

#[tokio::test]
async fn systemd_hears_of_start_reload_failed_reload_and_stop() {
    let notify = Notify::at_path();
    let directory = tempfile::tempdir().unwrap();
    let broken = directory.path().join("broken");
    let server = Setup::new()
        .env("NOTIFY_SOCKET", notify.address())
        .env("TEST_BREAK", broken.display())
        .env("TEST_READY", 30_000)
        .env("TEST_STOP", 20_000)
        .start()
        .await;

    let message = notify.next().await;
    assert_eq!(message.lines.len(), 1, "{message:?}");
    expect_extension(&message, 30 + 5);
    let message = notify.next().await;
    assert_eq!(message.lines, ["FDSTORE=1", "FDNAME=graceful.0..127.0.0.1%3A0"]);
    let [stored] = &message.fds[..] else { panic!("{message:?}") };
    let address = SockRef::from(stored).local_addr().unwrap().as_socket().unwrap();
    assert_eq!(address, server.addr());
    assert!(SockRef::from(stored).is_listener().unwrap());
    let message = notify.next().await;
    assert_eq!(message.lines, ["READY=1"]);
    notify.status("serving, generation 1").await;

    let mut before = 0;
    for fails in [false, true, false] {
        if fails {
            std::fs::write(&broken, "").unwrap();
        }
        server.process.signal(Signal::SIGHUP);
        let message = notify.next().await;
        assert_eq!(message.lines.len(), 3, "{message:?}");
        assert_eq!(message.lines[0], "RELOADING=1");
        let at: u64 = message.value("MONOTONIC_USEC").unwrap().parse().unwrap();
        assert!(at > before, "{at} {before}");
        before = at;
        expect_extension(&message, 30 + 20 + 5);
        let message = notify.next().await;
        assert_eq!(message.lines, ["READY=1"]);
        if fails {
            let status = notify.status("the last reload failed").await;
            assert!(status.starts_with("serving, generation 2"), "{status}");
            assert!(status.contains("the app cannot be built"), "{status}");
            std::fs::remove_file(&broken).unwrap();
        }
    }
    // The failed one was the third.
    notify.status("serving, generation 4").await;

    server.process.signal(Signal::SIGTERM);
    let message = notify.next().await;
    assert_eq!(message.lines.len(), 2, "{message:?}");
    assert_eq!(message.lines[0], "STOPPING=1");
    expect_extension(&message, 20 + 5);
    let message = notify.next().await;
    assert_eq!(message.lines, ["FDSTOREREMOVE=1", "FDNAME=graceful.0..127.0.0.1%3A0"]);
    stopped(&server.process).await;
    assert!(notify.rest().is_empty());
}

#[tokio::test]
async fn a_first_worker_that_fails_is_never_ready() {
    let notify = Notify::at_abstract_name();
    let directory = tempfile::tempdir().unwrap();
    let server = Setup::new()
        .env("NOTIFY_SOCKET", notify.address())
        .env("TEST_BREAK", directory.path().display())
        .spawn();
    assert_eq!(server.exit(LONG).await.code(), Some(1));
    let rest: Vec<_> = notify.rest().into_iter().map(|message| message.lines[0].clone()).collect();
    assert_eq!(rest.len(), 2, "{rest:?}");
    assert!(rest[0].starts_with("EXTEND_TIMEOUT_USEC="), "{rest:?}");
    assert_eq!(rest[1], "STOPPING=1");
}

#[tokio::test]
async fn a_single_process_tells_systemd_as_well() {
    let notify = Notify::at_path();
    let server = Setup::new()
        .env("NOTIFY_SOCKET", notify.address())
        .env("WATCHDOG_USEC", 100_000)
        .single()
        .start()
        .await;
    expect_extension(&notify.next().await, 60 + 5);
    assert_eq!(notify.next().await.lines, ["READY=1"]);
    for _ in 0..3 {
        assert_eq!(notify.next().await.lines, ["WATCHDOG=1"]);
    }
    server.process.signal(Signal::SIGTERM);
    loop {
        let message = notify.next().await;
        if message.lines[0] != "WATCHDOG=1" {
            break assert_eq!(message.lines[0], "STOPPING=1");
        }
    }
    stopped(&server.process).await;
}

#[tokio::test]
async fn nobody_but_the_master_speaks_to_systemd() {
    let notify = Notify::at_abstract_name();
    let server = Setup::new()
        .env("NOTIFY_SOCKET", notify.address())
        .env("WATCHDOG_USEC", 3_000_000)
        .start()
        .await;
    let [worker] = procfs::workers(server.process.pid())[..] else { panic!("one worker") };
    let environment = std::fs::read(format!("/proc/{worker}/environ")).unwrap();
    let environment = String::from_utf8_lossy(&environment);
    assert!(environment.contains("GRACEFUL_TEST_TREE="), "{environment}");
    for name in ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS"] {
        assert!(!environment.contains(name), "{environment}");
    }
}

#[tokio::test]
async fn the_watchdog_hears_nothing_while_no_worker_answers() {
    let notify = Notify::at_path();
    let directory = tempfile::tempdir().unwrap();
    let hang = directory.path().join("hang");
    let server = Setup::new()
        .env("NOTIFY_SOCKET", notify.address())
        .env("WATCHDOG_USEC", 100_000)
        .env("TEST_WATCH", 20)
        .env("TEST_HANG", hang.display())
        .start()
        .await;
    let master = server.process.pid();
    for _ in 0..5 {
        while notify.next().await.lines != ["WATCHDOG=1"] {}
    }
    std::fs::write(&hang, "").unwrap();
    let [first] = procfs::workers(master)[..] else { panic!("one worker") };
    process::signal(first, Signal::SIGSTOP);
    // Killed for its silence, and its successor has none to break.
    until("the hung worker is replaced", || {
        procfs::workers(master).iter().any(|worker| *worker != first)
    })
    .await;
    // What was sent before; an answer is good for one interval of the watchdog.
    tokio::time::sleep(Duration::from_millis(150)).await;
    notify.rest();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let rest = notify.rest();
    assert!(rest.is_empty(), "{rest:?}");

    std::fs::remove_file(&hang).unwrap();
    for worker in procfs::workers(master) {
        process::signal(worker, Signal::SIGKILL);
    }
    while notify.next().await.lines != ["WATCHDOG=1"] {}
}

#[tokio::test]
async fn systemd_does_not_notice_that_the_master_becomes_another_program() {
    let notify = Notify::at_path();
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("app");
    deploy(&program);
    let setup = Setup::new().env("NOTIFY_SOCKET", notify.address()).program_at(&program);
    let server = setup.start().await;
    while notify.next().await.lines != ["READY=1"] {}
    for _ in 0..2 {
        deploy(&program);
        server.process.signal(Signal::SIGHUP);
        assert_eq!(notify.next().await.lines[0], "RELOADING=1");
        assert_eq!(notify.next().await.lines, ["READY=1"]);
        server.becomes(&program).await;
    }
    let [worker] = procfs::workers(server.process.pid())[..] else { panic!("one worker") };
    let environment = std::fs::read(format!("/proc/{worker}/environ")).unwrap();
    assert!(!String::from_utf8_lossy(&environment).contains("NOTIFY_SOCKET"));
    server.process.signal(Signal::SIGTERM);
    assert_eq!(notify.next().await.lines[0], "STOPPING=1");
    assert_eq!(notify.next().await.lines[0], "FDSTOREREMOVE=1");
    stopped(&server.process).await;
    assert!(notify.rest().is_empty());
}

/// Starts the server with a listening socket as systemd does.
fn with_socket(setup: Setup, socket: OwnedFd, name: &str) -> Setup {
    // The PID is known only in the process itself.
    let script = "exec 3<&0 </dev/null; export LISTEN_PID=$$; exec \"$@\"";
    setup
        .under("sh", &["-c", script, "sh"])
        .stdin(socket)
        .env("LISTEN_FDS", 1)
        .env("LISTEN_FDNAMES", name)
}

#[tokio::test]
async fn a_killed_master_comes_back_without_a_refused_connection() {
    let notify = Notify::at_abstract_name();
    let setup = || Setup::new().env("NOTIFY_SOCKET", notify.address());
    let server = setup().start().await;
    let address = server.addr();
    let stored = loop {
        let mut message = notify.next().await;
        if let Some(name) = message.value("FDNAME") {
            break (name.to_owned(), message.fds.remove(0));
        }
    };
    assert_eq!(notify.next().await.lines, ["READY=1"]);
    server.process.kill();
    server.process.exit(LONG).await;

    // Nobody serves, and nobody is refused.
    let waiting = TcpStream::connect(address).await.unwrap();
    let (name, socket) = stored;
    let again = with_socket(setup(), socket.try_clone().unwrap(), &name).start().await;
    assert_eq!(again.addr(), address, "the port that the first one was given");
    ask(waiting, "/").await;
    again.process.signal(Signal::SIGHUP);
    // Both accept for a moment.
    while !ask(TcpStream::connect(address).await.unwrap(), "/").await.contains("x-generation: 2") {}

    again.process.signal(Signal::SIGTERM);
    let messages = async {
        loop {
            let message = notify.next().await;
            assert_eq!(message.value("FDSTORE"), None, "it is there already");
            if message.value("FDSTOREREMOVE").is_some() {
                return message;
            }
        }
    };
    assert_eq!(messages.await.value("FDNAME"), Some(&*name));
    stopped(&again.process).await;
    drop(socket);
    refused(address).await;
}

/// Waits until an address refuses connections. A child that another test is about to start may have a
/// copy of our copy for a moment.
async fn refused(address: SocketAddr) {
    let since = Instant::now();
    while TcpStream::connect(address).await.is_ok() {
        assert!(since.elapsed() < LONG, "{address} accepts");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_stored_unix_socket_keeps_its_file_until_the_stop() {
    let notify = Notify::at_path();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("app.sock");
    let bind = format!("unix:{}", path.display());
    let setup = || Setup::new().env("NOTIFY_SOCKET", notify.address()).bind(&bind);
    for replaced in [false, true] {
        let server = setup().start().await;
        let (name, socket) = loop {
            let mut message = notify.next().await;
            if message.value("FDSTORE").is_some() {
                let name = message.value("FDNAME").unwrap().to_owned();
                break (name, message.fds.remove(0));
            }
        };
        server.process.kill();
        server.process.exit(LONG).await;
        assert!(path.exists());
        if replaced {
            // By that of a socket on which nobody listens any more.
            std::fs::remove_file(&path).unwrap();
            drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        } else {
            UnixStream::connect(&path).await.unwrap();
        }
        notify.rest();
        let again = with_socket(setup(), socket, &name).start().await;
        ask(UnixStream::connect(&path).await.unwrap(), "/").await;
        again.process.signal(Signal::SIGTERM);
        stopped(&again.process).await;
        assert!(!path.exists());
        let of = |message: &Message, what| {
            message.value(what).and(message.value("FDNAME")).map(str::to_owned)
        };
        let rest = notify.rest();
        let stored: Vec<_> = rest.iter().filter_map(|message| of(message, "FDSTORE")).collect();
        let removed: Vec<_> =
            rest.iter().filter_map(|message| of(message, "FDSTOREREMOVE")).collect();
        match replaced {
            false => assert_eq!((stored, removed), (vec![], vec![name])),
            true => assert_eq!((vec![name, stored[0].clone()], 1), (removed, stored.len())),
        }
    }
}

#[tokio::test]
async fn an_inherited_socket_is_found_by_a_name_that_is_looked_up() {
    for single in [false, true] {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let setup = Setup::new().bind(&format!("localhost:{}", address.port())).env("TEST_LOG", 1);
        let setup = if single { setup.single() } else { setup };
        let server = with_socket(setup, socket.into(), "http").start().await;
        assert_eq!(server.addr(), address);
        ask(TcpStream::connect(address).await.unwrap(), "/").await;
        if !single {
            server.process.signal(Signal::SIGHUP);
            server.process.line("reloaded: 2 ").await;
            ask(TcpStream::connect(address).await.unwrap(), "/").await;
        }
        server.process.signal(Signal::SIGTERM);
        stopped(&server.process).await;
        let lines = server.process.lines();
        assert!(!lines.iter().any(|line| line.contains("clients of")), "{lines:?}");
    }
}

#[tokio::test]
async fn an_inherited_socket_that_no_address_names_is_warned_of() {
    for single in [false, true] {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let setup = Setup::new().env("TEST_LOG", 1);
        let setup = if single { setup.single() } else { setup };
        let server = with_socket(setup, socket.into(), "http").start().await;
        let line = server.process.any_line("clients of an inherited socket wait").await;
        assert!(line.contains("name=\"http\"") && line.contains(&address.to_string()), "{line}");
        assert_ne!(server.addr(), address);
    }
}

#[tokio::test]
async fn a_stored_listener_that_nobody_asks_for_is_closed() {
    let notify = Notify::at_path();
    let forgotten = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = forgotten.local_addr().unwrap();
    let name = "graceful.0..127.0.0.1%3A1";
    let setup = Setup::new().env("NOTIFY_SOCKET", notify.address());
    let server = with_socket(setup, forgotten.into(), name).start().await;
    assert_ne!(server.addr(), address);
    let removed = loop {
        let message = notify.next().await;
        if message.value("FDSTOREREMOVE").is_some() {
            break message;
        }
    };
    assert_eq!(removed.value("FDNAME"), Some(name));
    refused(address).await;
}

/// The example, if it was built, as `cargo test` does.
fn hello() -> Option<Program> {
    let this = std::env::current_exe().ok()?;
    let hello = this.parent()?.parent()?.join("examples/hello");
    hello.exists().then(|| Program::new(hello))
}

#[tokio::test]
async fn socket_activation_starts_the_server_and_a_reload_works() {
    let activate = "systemd-socket-activate";
    if Command::new(activate).arg("--version").output().is_err() {
        return skip("there is no systemd-socket-activate");
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("app.sock");
    let listen = path.to_str().unwrap();
    let pass = ["-E", "GRACEFUL_TEST_TREE", "-E", "TEST_BAKE", "--fdname", "http", "-l", listen];
    let test = Program::this_test("server").env("TEST_BAKE", "0");
    let programs = [(Some(test), "ready: "), (hello(), "generation ")];
    for (program, ready) in programs {
        let Some(program) = program else {
            skip("the example hello is not built: run all tests");
            continue;
        };
        let server = program.under(activate, pass).start();
        // It starts the server at the first connection.
        until("it listens", || path.exists()).await;
        let first = loop {
            match UnixStream::connect(&path).await {
                Ok(stream) => break stream,
                Err(_) => tokio::task::yield_now().await,
            }
        };
        ask(first, "/").await;
        server.line(&format!("{ready}1")).await;
        server.signal(Signal::SIGHUP);
        server.line(&format!("{ready}2")).await;
        ask(UnixStream::connect(&path).await.unwrap(), "/").await;
        server.signal(Signal::SIGTERM);
        stopped(&server).await;
        assert!(path.exists(), "the file is the supervisor's");
        std::fs::remove_file(&path).unwrap();
    }
}

#[tokio::test]
async fn the_pid_file_names_the_master_and_goes_with_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("app.pid");
    for single in [false, true] {
        std::fs::write(&path, "1\n").unwrap();
        let setup = Setup::new().env("TEST_PID_FILE", path.display());
        let server = if single { setup.single() } else { setup }.start().await;
        let pid = || std::fs::read_to_string(&path).unwrap();
        assert_eq!(pid(), format!("{}\n", server.process.pid()));
        if !single {
            server.process.signal(Signal::SIGHUP);
            server.generation(2).await;
            assert_eq!(pid(), format!("{}\n", server.process.pid()));
        }
        server.process.signal(Signal::SIGTERM);
        stopped(&server.process).await;
        assert!(!path.exists());
    }
}

#[tokio::test]
async fn a_pid_file_that_cannot_be_written_is_an_error() {
    let server = Setup::new().env("TEST_PID_FILE", "/no/such/directory/app.pid").spawn();
    assert_eq!(server.exit(LONG).await.code(), Some(1));
    server.line("cannot write the PID file /no/such/directory/app.pid: No such file").await;
}

/// Runs its arguments as PID 1 of a namespace, on a root file system that nobody can write to.
const CONTAINER: &[&str] = &[
    "--pid",
    "--fork",
    "--mount",
    "--mount-proc",
    "sh",
    "-c",
    "mount -o remount,bind,ro / && ! touch /graceful-test 2>/dev/null && exec \"$@\"",
    "sh",
];

#[tokio::test]
async fn pid_1_reaps_what_it_adopts_and_stops() {
    let probe = Command::new("unshare").args(CONTAINER).arg("true").output();
    if !probe.is_ok_and(|probe| probe.status.success()) {
        return skip("unshare does not work here: it takes root");
    }
    for stop in [Signal::SIGTERM, Signal::SIGQUIT] {
        let server = Setup::new().under("unshare", CONTAINER).start().await;
        server.process.line("waited for all children").await;
        let [master] = procfs::workers(server.process.pid())[..] else { panic!("one PID 1") };
        let [worker] = procfs::workers(master)[..] else { panic!("one worker") };
        reaps(&server, master, worker).await;
        process::signal(master, Signal::SIGHUP);
        server.generation(2).await;
        until("the old worker leaves", || !procfs::workers(master).contains(&worker)).await;
        let [worker] = procfs::workers(master)[..] else { panic!("one worker") };
        reaps(&server, master, worker).await;
        process::signal(master, stop);
        stopped(&server.process).await;
    }
}

async fn reaps(server: &Server, master: u32, worker: u32) {
    ask(TcpStream::connect(server.addr()).await.expect("connect"), "/orphan").await;
    until("the orphan is adopted", || procfs::workers(master).len() == 2).await;
    let orphan = procfs::workers(master).into_iter().find(|child| *child != worker);
    process::signal(orphan.expect("one of two"), Signal::SIGKILL);
    until("it is reaped", || procfs::children(master).len() == 1).await;
}

#[test]
fn the_unit_files_are_what_systemd_expects() {
    let Ok(version) = Command::new("systemd-analyze").arg("--version").output() else {
        return skip("there is no systemd-analyze");
    };
    // "systemd 252 (252.38-1~deb12u1)"
    let version = String::from_utf8_lossy(&version.stdout).into_owned();
    let version: u32 = version.split_whitespace().nth(1).unwrap().parse().unwrap();
    // It wants the program that a unit starts to be there.
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("hello");
    std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let mut units = Vec::new();
    for name in ["hello.service", "hello.socket"] {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/deploy").join(name);
        let unit = std::fs::read_to_string(source).unwrap();
        let mut unit = unit.replace("/usr/local/bin/hello", program.to_str().unwrap());
        if version < 253 {
            // As the comment in the unit says.
            let older = "Type=notify\nExecReload=kill -HUP $MAINPID\n";
            unit = unit.replace("Type=notify-reload\n", older);
        }
        let path = directory.path().join(name);
        std::fs::write(&path, unit).unwrap();
        units.push(path);
    }
    let output = Command::new("systemd-analyze").arg("verify").args(&units).output().unwrap();
    let complaints = String::from_utf8_lossy(&output.stderr);
    // Other units of this machine are not ours to judge.
    let ours: Vec<_> = complaints.lines().filter(|line| line.contains("hello.")).collect();
    assert!(ours.is_empty(), "{ours:#?}");
    assert!(output.status.success(), "{complaints}");
}
