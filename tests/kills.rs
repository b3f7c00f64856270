//! What a server survives: its processes killed, stopped or starved at any moment, and hundreds of
//! reloads.
#![cfg(all(target_os = "linux", feature = "serve"))]

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use support::http::{GET, answer, connect, expect_end, send};
use support::load::{Kind, Load};
use support::process;
use support::procfs;
use support::server::{Server, Setup, deploy, script};
use support::until;

#[test]
#[ignore = "the server that the tests start"]
fn server() {
    support::server::serve();
}

const LONG: Duration = Duration::from_secs(30);

async fn stop(server: &Server) {
    server.process.signal(Signal::SIGTERM);
    let status = server.process.exit(LONG).await;
    assert!(status.success(), "{status}: {:?}", server.process.lines());
    until("nothing is left", || server.process.tree().is_empty()).await;
}

/// Waits in the backlog as long as it takes; refused by nobody.
async fn answered(server: &Server) -> String {
    let mut client = connect(server.addr()).await;
    send(&mut client, GET).await;
    answer(&mut client).await
}

#[tokio::test]
async fn a_worker_that_is_stopped_is_replaced() {
    let server = Setup::new().env("TEST_WATCH", 200).env("TEST_LOG", 1).start().await;
    let old = server.one_worker().await;
    process::signal(old, Signal::SIGSTOP);
    // A thread of it may run on for a moment.
    let stat = || fs::read_to_string(format!("/proc/{old}/stat")).unwrap_or_default();
    until("it is stopped", || stat().rsplit(')').next().is_some_and(|rest| rest.starts_with(" T")))
        .await;
    assert!(!answered(&server).await.contains("x-generation: 1"));
    let evidence = server.process.any_line("a worker hangs").await;
    for part in
        ["generation=1", "not answered for 1s", &format!("\"pid\":{old}"), "\"idle\":", "\"age\":"]
    {
        assert!(evidence.contains(part), "{part} is not in {evidence}");
    }
    assert_ne!(server.one_worker().await, old);
    assert_eq!(procfs::zombies(server.process.pid()), 0);
    stop(&server).await;
}

#[tokio::test]
async fn a_worker_out_of_descriptors_waits_for_some() {
    let server = Setup::new().env("TEST_NOFILE", 60).start().await;
    let mut clients = Vec::new();
    // More than it can accept: the rest waits in the backlog.
    for _ in 0..100 {
        clients.push(connect(server.addr()).await);
    }
    send(&mut clients[0], GET).await;
    answer(&mut clients[0]).await;
    let mut last = clients.pop().expect("a hundred");
    send(&mut last, GET).await;
    drop(clients);
    assert!(answer(&mut last).await.starts_with("HTTP/1.1 200"));
    stop(&server).await;
}

/// The kernel resets whoever waits when the last listener is closed.
#[tokio::test]
async fn a_stop_of_a_worker_out_of_descriptors_resets_nobody() {
    let server = Setup::new().env("TEST_NOFILE", 60).stop_timeout(LONG).start().await;
    let mut clients = Vec::new();
    for _ in 0..100 {
        clients.push(connect(server.addr()).await);
    }
    send(&mut clients[0], GET).await;
    answer(&mut clients[0]).await;
    let mut late = clients.split_off(70);
    server.process.signal(Signal::SIGTERM);
    // It has heard of the stop: this one is answered for the last time.
    while !answered_with_goodbye(&mut clients[1]).await {}
    drop(clients);
    for client in &mut late {
        send(client, GET).await;
        assert!(answer(client).await.starts_with("HTTP/1.1 200"));
    }
    drop(late);
    assert!(server.process.exit(LONG).await.success());
}

async fn answered_with_goodbye(client: &mut tokio::net::TcpStream) -> bool {
    send(client, GET).await;
    answer(client).await.contains("connection: close")
}

#[tokio::test]
async fn workers_killed_at_any_moment_of_a_reload_are_replaced() {
    let server = Setup::new().bake(Duration::from_millis(200)).start().await;
    let master = server.process.pid();
    let mut victims = 0;
    for delay in [0, 2, 5, 10, 20, 50, 100, 150, 200, 250, 300] {
        server.one_worker().await;
        let before: BTreeSet<_> = procfs::workers(master).into_iter().collect();
        server.process.signal(Signal::SIGHUP);
        until("a second worker", || procfs::workers(master).len() > 1).await;
        // The state in which it is hit is a matter of time here, and of nothing else.
        tokio::time::sleep(Duration::from_millis(delay)).await;
        let workers = procfs::workers(master);
        for worker in workers.iter().filter(|worker| before.contains(worker) == (delay % 4 == 0)) {
            victims += u32::from(process::signal_if_there(*worker, Signal::SIGKILL));
        }
        assert!(answered(&server).await.starts_with("HTTP/1.1 200"));
    }
    assert!(victims >= 8, "{victims} victims");
    server.one_worker().await;
    assert_eq!(procfs::zombies(master), 0);
    stop(&server).await;
}

#[tokio::test]
async fn a_master_killed_at_any_moment_leaves_nothing_behind() {
    for delay in [0, 5, 20, 60, 120, 250] {
        let server =
            Setup::new().bake(Duration::from_millis(100)).idle_grace(Duration::ZERO).start().await;
        let mut slow = connect(server.addr()).await;
        send(&mut slow, "GET /slow?ms=400 HTTP/1.1\r\nhost: x\r\n\r\n").await;
        let _ = answered(&server).await;
        server.process.signal(Signal::SIGHUP);
        tokio::time::sleep(Duration::from_millis(delay)).await;
        server.process.signal(Signal::SIGKILL);
        server.process.exit(LONG).await;
        assert!(answer(&mut slow).await.starts_with("HTTP/1.1 200"), "after {delay} ms");
        drop(slow);
        until("all workers have left", || server.process.tree().is_empty()).await;
        // Nobody holds the address, nor a file, nor anything else: the next start is a fresh one.
        drop(Setup::new().bind(&server.addr().to_string()).start().await);
    }
}

#[tokio::test]
async fn a_worker_whose_master_nobody_has_waited_for_is_no_master() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("app");
    let unreaped = ["-c", "\"$@\" & exec sleep 1000", "sh"];
    let server = Setup::from_copy(&path).under("/bin/sh", &unreaped).start().await;
    let master = procfs::children(server.process.pid())[0].pid;
    fs::rename(&path, path.with_extension("good")).expect("set the program aside");
    let late = r#"#!/bin/bash
echo "waiting"
until grep -q "^State:.Z" "/proc/$PPID/status"; do sleep 0.01; done
exec "$0.good" "$@"
"#;
    script(&path, late);
    process::signal(master, Signal::SIGHUP);
    server.process.line("waiting").await;
    process::signal(master, Signal::SIGKILL);
    let parent = server.process.pid();
    until("all workers have left", || server.process.tree() == [parent]).await;
    let starts = server.process.lines().iter().filter(|line| line.contains("ready: ")).count();
    assert_eq!(starts, 1, "a worker has become a master");
}

/// As a deploy does that removes the release before the last one.
#[tokio::test]
async fn the_directory_that_it_was_started_in_may_go() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("app");
    let start = directory.path().join("releases");
    fs::create_dir(&start).expect("a directory");
    let mut setup = Setup::from_copy(&path).env("TEST_LOG", 1);
    setup.program().command().current_dir(&start);
    let server = setup.start().await;
    fs::remove_dir(&start).expect("it is empty");
    deploy(&path);
    server.process.signal(Signal::SIGHUP);
    server.process.any_line("this program has taken over as the master").await;
    assert!(answered(&server).await.contains("x-generation: 2"));
    stop(&server).await;
}

/// The name that a process is given is not always one that a shell would find it by.
#[tokio::test]
async fn another_program_of_the_same_name_is_not_started() {
    use std::os::unix::process::CommandExt;
    let directory = tempfile::tempdir().expect("a directory");
    script(&directory.path().join("server"), "#!/bin/sh\necho the wrong program\n");
    let mut setup = Setup::new();
    let found = std::env::var("PATH").unwrap_or_default();
    setup
        .program()
        .command()
        .arg0("server")
        .env("PATH", format!("{}:{found}", directory.path().display()));
    let server = setup.start().await;
    server.process.signal(Signal::SIGHUP);
    server.process.line("ready: 2 ").await;
    stop(&server).await;
    assert!(!server.process.lines().iter().any(|line| line.contains("the wrong program")));
}

#[tokio::test]
async fn a_stop_during_a_reload_ends_both() {
    for delay in [0, 5, 20, 60, 120, 250] {
        let server = Setup::new().bake(Duration::from_millis(100)).start().await;
        let load = Load::new(server.addr()).slow(4).keep_alive(4, Duration::from_millis(5)).start();
        load.further(Kind::KeepAlive, 20).await;
        server.process.signal(Signal::SIGHUP);
        tokio::time::sleep(Duration::from_millis(delay)).await;
        let stopping = load.stop();
        server.process.signal(Signal::SIGTERM);
        let report = stopping.await;
        assert_eq!(report.lost(), 0, "after {delay} ms: {report}");
        let status = server.process.exit(LONG).await;
        assert!(status.success(), "after {delay} ms: {status}");
        until("nothing is left", || server.process.tree().is_empty()).await;
    }
}

#[tokio::test]
async fn a_reload_during_the_start_is_remembered() {
    let process = Setup::new().spawn();
    let master = process.pid();
    // The master listens to signals before it starts a worker.
    until("a worker is starting", || !procfs::children(master).is_empty()).await;
    for _ in 0..3 {
        process.signal(Signal::SIGHUP);
    }
    process.line("ready: 1 ").await;
    process.line("reloaded: 2").await;
    process.signal(Signal::SIGTERM);
    assert!(process.exit(LONG).await.success());
}

#[tokio::test]
async fn a_reload_during_a_stop_changes_nothing() {
    let server = Setup::new().start().await;
    let mut slow = connect(server.addr()).await;
    send(&mut slow, "GET /slow?ms=300 HTTP/1.1\r\nhost: x\r\n\r\n").await;
    let _ = answered(&server).await;
    server.process.signal(Signal::SIGTERM);
    server.process.signal(Signal::SIGHUP);
    assert!(answer(&mut slow).await.contains("connection: close"));
    expect_end(&mut slow).await;
    drop(slow);
    assert!(server.process.exit(LONG).await.success());
    assert!(!server.process.lines().iter().any(|line| line.contains("ready: 2")));
}

#[tokio::test]
async fn a_sick_program_that_is_reloaded_while_nobody_serves_gives_way_to_the_good_one() {
    let directory = tempfile::tempdir().expect("a directory");
    let fault = directory.path().join("fault");
    let setup = Setup::new().bake(Duration::from_millis(500)).env("TEST_BACKOFF", 2000);
    let setup = setup.env("TEST_FAULT", fault.display()).env("TEST_HEALTH", 1);
    let server = setup.start().await;
    fs::write(&fault, "sick").expect("write the fault");
    process::signal(server.one_worker().await, Signal::SIGKILL);
    until("nobody serves", || procfs::children(server.process.pid()).is_empty()).await;
    server.process.signal(Signal::SIGHUP);
    let line = server.process.line("reload").await;
    assert!(line.contains("reload failed: its health check /healthz"), "{line}");
    server.generation(3).await;
    assert!(answered(&server).await.contains("x-generation: 3"));
    stop(&server).await;
}

#[tokio::test]
async fn a_crash_loop_ends_the_master_and_says_why() {
    let directory = tempfile::tempdir().expect("a directory");
    let fault = directory.path().join("fault");
    let server =
        Setup::new().env("TEST_FAULT", fault.display()).env("TEST_RESTARTS", 3).start().await;
    fs::write(&fault, "die 0").expect("write the fault");
    process::signal(server.one_worker().await, Signal::SIGKILL);
    let status = server.process.exit(LONG).await;
    assert_eq!(status.code(), Some(1));
    let line = server.process.line("Error: the worker failed: ").await;
    assert!(line.contains("workers died 4 times within"), "{line}");
    until("nothing is left", || server.process.tree().is_empty()).await;
}

/// The environment of a process but for the variable that names its wire.
fn environment(pid: u32) -> BTreeSet<String> {
    let bytes = fs::read(format!("/proc/{pid}/environ")).expect("its environment");
    let variables =
        bytes.split(|byte| *byte == 0).map(|text| String::from_utf8_lossy(text).into_owned());
    variables.filter(|text| !text.starts_with("GRACEFUL_CONTROL=") && !text.is_empty()).collect()
}

fn threads(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/task")).expect("its threads").count()
}

#[tokio::test]
async fn two_hundred_reloads_leave_the_master_as_it_was() {
    let server = Setup::new().start().await;
    let master = server.process.pid();
    let first = environment(server.one_worker().await);
    let mut next = 2;
    let mut reload = async |server: &Server| {
        server.process.signal(Signal::SIGHUP);
        server.process.line(&format!("reloaded: {next} ")).await;
        next += 1;
        server.one_worker().await
    };
    // The first ones fill what is filled once, such as the allocator's pools.
    for _ in 0..10 {
        reload(&server).await;
    }
    let before = (procfs::descriptors(master), procfs::children(master).len());
    let threads_before = threads(master);
    let memory = procfs::resident_kib(master);
    let mut last = 0;
    for _ in 0..200 {
        last = reload(&server).await;
    }
    let after = (procfs::descriptors(master), procfs::children(master).len());
    assert_eq!(before, after, "descriptors and children");
    // The runtime lets one of its own go that has had nothing to do for a while.
    assert!(threads(master) <= threads_before);
    let grown = procfs::resident_kib(master).saturating_sub(memory);
    println!("after 200 reloads: {after:?}, {grown} KiB more memory");
    assert!(grown < 1024, "{grown} KiB more memory");
    assert_eq!(environment(last), first);
    stop(&server).await;
}

/// The signal arrives right before, while or right after the program of the master is replaced.
#[tokio::test]
async fn a_stop_while_the_master_becomes_another_program_is_not_lost() {
    for round in 0..40 {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("app");
        let server = Setup::from_copy(&path).env("TEST_LOG", 1).start().await;
        deploy(&path);
        server.process.signal(Signal::SIGHUP);
        server.process.any_line("the master becomes the new binary").await;
        // A few dozen microseconds more each time.
        let since = Instant::now();
        while since.elapsed() < Duration::from_micros(30 * round) {
            std::hint::spin_loop();
        }
        stop(&server).await;
    }
}
