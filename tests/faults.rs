//! A bad binary cannot hurt: whatever the new program does wrong, the old one goes on, nothing is lost,
//! and the next good reload works.
#![cfg(all(target_os = "linux", feature = "serve"))]

mod support;

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use support::http::{GET, answer, connect, send};
use support::load::{Kind, Load};
use support::process;
use support::procfs;
use support::server::{Setup, deploy, hands_over, script};
use support::until;

#[test]
#[ignore = "the server that the tests start"]
fn server() {
    support::server::serve();
}

/// What is deployed, and what the master has to say about it.
struct Case {
    name: &'static str,
    break_it: fn(&Path),
    why: &'static str,
}

/// Deploys a good program that goes wrong as the server's `Fault` says.
fn fault(path: &Path, text: &str) {
    fs::write(path.with_extension("fault"), text).expect("write the fault");
    deploy(path);
}

/// The control descriptor is the first number in the variable; a frame is a length, a count and JSON.
const ON_THE_WIRE: &str = r#"#!/bin/bash
fd=${GRACEFUL_CONTROL%%:*}
frame() { printf "\\x00\\x00\\x00\\x$(printf %02x ${#1})\\x00\\x00\\x00\\x00%s" "$1" >&"$fd"; }
"#;

const CASES: &[Case] = &[
    Case { name: "missing", break_it: |path| drop(fs::remove_file(path)), why: "No such file" },
    Case {
        name: "not executable",
        break_it: |path| {
            deploy(path);
            fs::set_permissions(path, fs::Permissions::from_mode(0o644)).expect("chmod");
        },
        why: "Permission denied",
    },
    Case {
        name: "wrong format",
        break_it: |path| script(path, "\u{7f}ELF is not enough"),
        why: "not a program for this system",
    },
    Case {
        name: "text that a shell would execute",
        break_it: |path| script(path, "kill -9 $PPID\n"),
        why: "not a program for this system",
    },
    Case {
        name: "a program for another machine",
        break_it: |path| {
            let mut program = fs::read("/bin/true").expect("a program");
            // e_machine of ELF is SPARC V9.
            program[18..20].copy_from_slice(&[43, 0]);
            script(path, program);
        },
        why: "not a program for this system",
    },
    Case { name: "exits 0", break_it: |path| script(path, "#!/bin/sh\nexit 0\n"), why: "status 0" },
    Case { name: "exits 1", break_it: |path| script(path, "#!/bin/sh\nexit 1\n"), why: "status 1" },
    Case {
        name: "segfaults",
        break_it: |path| script(path, "#!/bin/sh\nkill -SEGV $$\n"),
        why: "killed by SIGSEGV",
    },
    Case {
        name: "hangs before ready",
        break_it: |path| fault(path, "hang"),
        why: "not ready within",
    },
    Case {
        name: "blocks its runtime",
        break_it: |path| fault(path, "block"),
        why: "not ready within",
    },
    Case {
        name: "panics while the app is built",
        break_it: |path| fault(path, "panic"),
        why: "the app panics while it is built",
    },
    Case {
        name: "dies 0.1 s after ready",
        break_it: |path| fault(path, "die 100"),
        why: "SIGABRT",
    },
    Case { name: "dies 1 s after ready", break_it: |path| fault(path, "die 1000"), why: "SIGABRT" },
    Case {
        name: "is stopped after ready",
        break_it: |path| fault(path, "freeze 300"),
        why: "not answer",
    },
    Case {
        name: "answers the health check with 500",
        break_it: |path| fault(path, "sick"),
        why: "with 500",
    },
    Case {
        name: "does not answer the health check",
        break_it: |path| fault(path, "mute"),
        why: "was not answered in time",
    },
    Case {
        name: "fails its own health check",
        break_it: |path| fault(path, "ill"),
        why: "the database is gone",
    },
    Case {
        name: "closes the wire",
        break_it: |path| script(path, format!("{ON_THE_WIRE}exec {{fd}}>&-\nexec sleep 1000\n")),
        why: "closed its wire",
    },
    Case {
        name: "writes garbage on the wire",
        break_it: |path| {
            script(path, format!("{ON_THE_WIRE}echo 'HTTP/1.1 200 OK' >&$fd\nexec sleep 1000\n"));
        },
        why: "garbage on the wire",
    },
    Case {
        name: "speaks an unknown version",
        break_it: |path| {
            let hello = r#"frame '{"type":"hello","version":99,"crate_version":"9"}'"#;
            script(path, format!("{ON_THE_WIRE}{hello}\nexec sleep 1000\n"));
        },
        why: "speaks version 99",
    },
    Case {
        name: "needs a port that is taken",
        break_it: |path| {
            let taken = fs::read_to_string(path.with_extension("other")).expect("an address");
            fs::write(path.with_extension("taken"), taken).expect("write the address");
            deploy(path);
        },
        why: "Address already in use",
    },
];

async fn survives(case: &Case, hand_over: bool) -> String {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("app");
    let other = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
    let taken = other.local_addr().expect("bound").to_string();
    fs::write(path.with_extension("other"), taken).expect("write the address");
    let setup = Setup::from_copy(&path).bake(Duration::from_millis(1500));
    let setup = if hand_over { setup } else { setup.env("TEST_STAY", 1) };
    let server = setup
        .env("TEST_FAULT", path.with_extension("fault").display())
        .env("TEST_TAKEN", path.with_extension("taken").display())
        // Short only where it is to run out.
        .env("TEST_READY", if case.why.starts_with("not ready") { 3_000 } else { 30_000 })
        .env("TEST_WATCH", 100)
        .env("TEST_HEALTH", 1)
        .start()
        .await;
    let master = server.process.pid();
    let before = procfs::descriptors(master);
    let load = Load::new(server.addr()).keep_alive(4, Duration::from_millis(10)).start();
    load.further(Kind::KeepAlive, 20).await;

    let mut reasons = Vec::new();
    for _ in 0..2 {
        (case.break_it)(&path);
        server.process.signal(Signal::SIGHUP);
        let line = server.process.line("reload failed: ").await;
        let (_, why) = line.split_once("reload failed: ").expect("waited for");
        reasons.push(why.to_owned());
        load.further(Kind::KeepAlive, 20).await;
    }
    // A good one, right after.
    let _ = fs::remove_file(path.with_extension("fault"));
    let _ = fs::remove_file(path.with_extension("taken"));
    deploy(&path);
    server.process.signal(Signal::SIGHUP);
    let line = server.process.line("reloaded: ").await;
    assert!(line.contains("reloaded: 4 "), "{}: {line}", case.name);
    load.generation(4).await;
    load.further(Kind::KeepAlive, 20).await;
    let report = load.stop().await;

    // The clients keep their connections, and those stay with the old worker until the trial is over: however the
    // new one ends, it has none of them.
    assert_eq!(report.lost(), 0, "{}: {report}", case.name);
    if hand_over {
        assert_eq!(report.of(Kind::KeepAlive).connects, 4, "{}: {report}", case.name);
    }
    for why in &reasons {
        assert!(why.contains(case.why), "{}: {why}", case.name);
    }
    server.one_worker().await;
    assert_eq!(procfs::zombies(master), 0, "{}", case.name);
    // Two binaries are pinned that were not, and a wire of its own for each; what the master opens to
    // become the new binary is closed again.
    until(case.name, || procfs::descriptors(master) <= before + 3).await;
    server.process.signal(Signal::SIGTERM);
    let status = server.process.exit(Duration::from_secs(30)).await;
    assert!(status.success(), "{}: {status}", case.name);
    format!(
        "{:<36} {:>6} requests, {} lost; {}",
        case.name,
        report.total().done,
        report.lost(),
        reasons[0]
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_bad_binary_hurts() {
    let mut table = String::new();
    // A few at a time: each has processes and clients of its own.
    for cases in CASES.chunks(6) {
        let running: Vec<_> =
            cases.iter().map(|case| tokio::spawn(survives(case, hands_over()))).collect();
        for case in running {
            let row =
                case.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
            writeln!(table, "{row}").expect("a string takes it");
        }
    }
    println!("what the new program did, and what came of it:\n{table}");
}

/// A few of them; the others with `TEST_STAY=1` for all tests.
#[tokio::test]
async fn no_bad_binary_hurts_without_the_hand_over() {
    for name in ["exits 1", "dies 0.1 s after ready"] {
        let case = CASES.iter().find(|case| case.name == name).expect("a case");
        println!("{}", survives(case, false).await);
    }
}

#[tokio::test]
async fn a_failed_trial_resumes_the_old_worker_within_50_ms() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("app");
    let server = Setup::from_copy(&path).bake(Duration::from_secs(60)).start().await;
    // Idle on the worker that will be parked, and it stays there.
    let mut parked = connect(server.addr()).await;
    send(&mut parked, GET).await;
    answer(&mut parked).await;
    let old = procfs::workers(server.process.pid());
    let mut took = Vec::new();
    for generation in 2..12 {
        server.process.signal(Signal::SIGHUP);
        server.generation(generation).await;
        let workers = procfs::workers(server.process.pid());
        let new = *workers.iter().find(|pid| !old.contains(pid)).expect("a new worker");
        let since = Instant::now();
        process::signal(new, Signal::SIGKILL);
        // Whoever connects now waits in the backlog until the old worker accepts again.
        let mut waiting = connect(server.addr()).await;
        send(&mut waiting, GET).await;
        assert!(answer(&mut waiting).await.contains("x-generation: 1"));
        took.push(since.elapsed());
        send(&mut parked, GET).await;
        assert!(answer(&mut parked).await.contains("x-generation: 1"));
        server.process.line("failed: it was killed by SIGKILL").await;
    }
    took.sort();
    println!("from the death of the new worker to an answer of the old one: {took:?}");
    assert!(took[took.len() / 2] < Duration::from_millis(50), "{took:?}");
}

#[tokio::test]
async fn the_master_becomes_the_new_binary_and_nobody_notices() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("app");
    let server = Setup::from_copy(&path).start().await;
    let master = server.process.pid();
    let exe = format!("/proc/{master}/exe");
    let load = Load::new(server.addr())
        .keep_alive(16, Duration::from_millis(10))
        .fresh(2)
        .slow(4)
        .uploads(2)
        .start();
    load.further(Kind::KeepAlive, 100).await;
    for generation in 2..8 {
        deploy(&path);
        server.process.signal(Signal::SIGHUP);
        load.generation(generation).await;
        let since = Instant::now();
        // The link says "(deleted)" while the master still runs the file that was replaced.
        while fs::read_link(&exe).ok().as_deref() != Some(&path) {
            assert!(
                !server.process.has_exited(),
                "the master has ended: {:?}",
                server.process.exit(Duration::ZERO).await
            );
            assert!(since.elapsed() < Duration::from_secs(30), "the master stays what it was");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        load.further(Kind::KeepAlive, 100).await;
    }
    // A worker that the program before has started is still attended: it is replaced when it dies.
    let report = load.stop().await;
    assert_eq!(report.lost(), 0, "{report}");
    if hands_over() {
        assert_eq!(report.of(Kind::KeepAlive).reconnects, 0, "{report}");
    }
    server.one_worker().await;
    let worker = procfs::workers(master)[0];
    process::signal(worker, Signal::SIGKILL);
    server.generation(8).await;
    assert_eq!(procfs::zombies(master), 0);
    server.process.signal(Signal::SIGTERM);
    let status = server.process.exit(Duration::from_secs(30)).await;
    assert!(status.success(), "{status}");
}

#[tokio::test]
async fn a_crashed_worker_runs_the_binary_that_was_good() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("app");
    let server = Setup::from_copy(&path).start().await;
    // Deployed, but nobody has asked for it yet; and it would not even start.
    script(&path, "#!/bin/sh\nexit 1\n");
    for generation in 2..4 {
        let worker = procfs::workers(server.process.pid())[0];
        process::signal(worker, Signal::SIGKILL);
        server.generation(generation).await;
    }
    fs::remove_file(&path).expect("remove");
    let worker = procfs::workers(server.process.pid())[0];
    process::signal(worker, Signal::SIGKILL);
    server.generation(4).await;
    let mut client = connect(server.addr()).await;
    send(&mut client, GET).await;
    assert!(answer(&mut client).await.contains("x-generation: 4"));
}

#[tokio::test]
async fn a_rollback_runs_the_binary_before() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("app");
    let server = Setup::from_copy(&path).start().await;
    let master = server.process.pid();
    let first = fs::metadata(format!("/proc/{}/exe", procfs::workers(master)[0])).expect("exe");
    deploy(&path);
    server.process.signal(Signal::SIGHUP);
    server.process.line("reloaded: 2").await;
    fs::remove_file(&path).expect("remove");
    let mut client = connect(server.addr()).await;
    send(&mut client, "POST /rollback HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n").await;
    assert!(answer(&mut client).await.ends_with("true"));
    server.process.line("reloaded: 3").await;
    server.one_worker().await;
    use std::os::unix::fs::MetadataExt;
    let now = fs::metadata(format!("/proc/{}/exe", procfs::workers(master)[0])).expect("exe");
    assert_eq!((now.dev(), now.ino()), (first.dev(), first.ino()), "the first binary again");
    if !hands_over() {
        client = connect(server.addr()).await;
    }
    send(&mut client, GET).await;
    assert!(answer(&mut client).await.contains("x-generation: 3"), "on the same connection");
}

#[tokio::test]
async fn what_has_failed_is_not_tried_again_by_itself() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("app");
    let fault_file = path.with_extension("fault");
    let server = Setup::from_copy(&path).env("TEST_FAULT", fault_file.display()).start().await;
    fault(&path, "panic");
    let untried = "POST /untried HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n";
    let mut client = connect(server.addr()).await;
    send(&mut client, untried).await;
    answer(&mut client).await;
    let line = server.process.line("failed: ").await;
    assert!(line.contains("the app panics"), "{line}");
    // The same file once more, then another one: only that is tried. It is generation 3.
    send(&mut client, untried).await;
    answer(&mut client).await;
    fs::remove_file(&fault_file).expect("mend it");
    deploy(&path);
    send(&mut client, untried).await;
    answer(&mut client).await;
    let line = server.process.line("reloaded: ").await;
    assert!(line.contains("reloaded: 3 "), "{line}");
}

#[tokio::test]
async fn the_check_runs_before_a_reload() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("app");
    let fault_file = path.with_extension("fault");
    let setup =
        Setup::from_copy(&path).env("TEST_FAULT", fault_file.display()).env("TEST_CHECK", 1);
    let server = setup.start().await;
    fault(&path, "panic");
    server.process.signal(Signal::SIGHUP);
    let line = server.process.line("failed: ").await;
    assert!(line.contains("its check failed: exit status: 101"), "{line}");
    script(&path, "#!/bin/sh\necho hello\n");
    server.process.signal(Signal::SIGHUP);
    let line = server.process.line("failed: ").await;
    assert!(line.contains("printed no answer"), "{line}");
    fs::remove_file(&fault_file).expect("mend it");
    deploy(&path);
    server.process.signal(Signal::SIGHUP);
    server.process.line("reloaded: ").await;
}

/// Good and bad builds in turn, each good one the program of the master too, under clients that keep their
/// connections. `GRACEFUL_RELOADS` says how many, 12 unless told.
#[tokio::test]
async fn no_deploy_closes_a_connection_good_or_bad() {
    let deploys =
        std::env::var("GRACEFUL_RELOADS").map_or(12, |count| count.parse().expect("a number"));
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("app");
    let server = Setup::from_copy(&path)
        .bake(Duration::from_millis(100))
        .env("TEST_FAULT", path.with_extension("fault").display())
        .env("TEST_HEALTH", 1)
        .start()
        .await;
    let load = Load::new(server.addr())
        .keep_alive(100, Duration::from_millis(20))
        .fresh(4)
        .slow(4)
        .streaming(4)
        .uploads(4)
        .start();
    for deploy_number in 0..deploys {
        load.further(Kind::KeepAlive, 200).await;
        let bad = deploy_number % 2 == 1;
        match (bad, deploy_number % 8) {
            (false, _) => deploy(&path),
            (true, 1) => fault(&path, "panic"),
            (true, 3) => fault(&path, "sick"),
            (true, 5) => fault(&path, "ill"),
            _ => script(&path, "#!/bin/sh\nexit 1\n"),
        }
        server.process.signal(Signal::SIGHUP);
        server.process.line(if bad { "failed: " } else { "reloaded: " }).await;
        if bad {
            let _ = fs::remove_file(path.with_extension("fault"));
        } else {
            server.becomes(&path).await;
        }
    }
    let report = load.stop().await;
    println!("{deploys} deploys, every other one bad\n{report}");
    assert_eq!(report.lost(), 0, "{report}");
    if hands_over() {
        assert_eq!(report.of(Kind::KeepAlive).connects, 100, "{report}");
        for kind in [Kind::KeepAlive, Kind::Slow, Kind::Stream, Kind::Upload] {
            assert_eq!(report.of(kind).reconnects, 0, "{kind:?} {report}");
        }
    }
    server.one_worker().await;
}

/// The master wakes up when both the check and the trial have run out: it is the check that counts.
#[tokio::test]
async fn a_busy_master_does_not_let_a_silent_worker_pass() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("app");
    let bake = Duration::from_millis(300);
    let server = Setup::from_copy(&path)
        .bake(bake)
        .env("TEST_FAULT", path.with_extension("fault").display())
        .env("TEST_HEALTH", 1)
        .start()
        .await;
    let master = server.process.pid();
    for generation in 2..8 {
        fault(&path, "mute");
        server.process.signal(Signal::SIGHUP);
        server.generation(generation).await;
        // The trial begins, and is not over.
        tokio::time::sleep(bake / 6).await;
        process::signal(master, Signal::SIGSTOP);
        tokio::time::sleep(bake).await;
        process::signal(master, Signal::SIGCONT);
        let line = server.process.line("failed: ").await;
        assert!(line.contains("was not answered in time"), "{line}");
    }
}
