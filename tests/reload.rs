//! Reloads under load: a client that never retries sees nothing of them, and nothing of them stays.
#![cfg(all(unix, feature = "serve"))]

mod support;

use std::time::Duration;

use nix::sys::signal::Signal;

use support::load::{Kind, Load};
use support::server::Setup;
#[cfg(target_os = "linux")]
use support::{
    load::{Report, Running},
    procfs,
    server::Server,
    until,
};

#[test]
#[ignore = "the server that the tests start"]
fn server() {
    support::server::serve();
}

/// What every Unix can do.
#[tokio::test]
async fn reloads_lose_nothing_and_a_failed_one_changes_nothing() {
    let directory = tempfile::tempdir().expect("a directory");
    let fault = directory.path().join("fault");
    let server = Setup::new()
        .bake(Duration::from_millis(300))
        .env("TEST_FAULT", fault.display())
        .start()
        .await;
    let load = Load::new(server.addr())
        .keep_alive(16, Duration::from_millis(10))
        .fresh(2)
        .slow(2)
        .streaming(2)
        .uploads(2)
        .start();
    load.generation(1).await;
    for generation in 2..=6 {
        assert!(server.process.signal(Signal::SIGHUP));
        server.process.line(&format!("reloaded: {generation} ")).await;
        load.generation(generation).await;
    }
    std::fs::write(&fault, "panic").expect("write the fault");
    assert!(server.process.signal(Signal::SIGHUP));
    server.process.line("reload failed: it exited with status 101").await;
    load.further(Kind::KeepAlive, 20).await;
    std::fs::remove_file(&fault).expect("remove the fault");
    assert!(server.process.signal(Signal::SIGHUP));
    load.generation(8).await;
    server.process.line("reloaded: 8 ").await;
    let report = load.stop().await;
    assert_eq!(report.lost(), 0, "{report}");
    assert!(server.process.signal(Signal::SIGTERM));
    assert!(server.process.exit(Duration::from_secs(60)).await.success());
}

/// Every kind of client at once, a hundred and more of them.
#[cfg(target_os = "linux")]
fn load(server: &Server) -> Running {
    Load::new(server.addr())
        .keep_alive(64, Duration::from_millis(10))
        .fresh(8)
        .slow(8)
        .streaming(8)
        .uploads(8)
        .h2(8)
        .start()
}

/// Waits until no old worker is left, and each kind of client has been answered since.
#[cfg(target_os = "linux")]
async fn settled(server: &Server, load: &Running) -> u32 {
    let master = server.process.pid();
    loop {
        until("one worker", || procfs::children(master).len() == 1).await;
        let before = procfs::workers(master);
        // Of the kinds that these tests use.
        for kind in
            Kind::ALL.into_iter().filter(|kind| !matches!(kind, Kind::Tls | Kind::WebSocket))
        {
            load.further(kind, 3).await;
        }
        // Nothing that was still to come has begun meanwhile.
        if let ([worker], true) = (before.as_slice(), before == procfs::workers(master)) {
            return *worker;
        }
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_hundred_reloads_lose_nothing() {
    let server = Setup::new().start().await;
    let master = server.process.pid();
    let load = load(&server);
    load.generation(1).await;
    for generation in 2..=101 {
        // Never more than four old workers: the next reload would wait for one of them to leave.
        until("an old worker to leave", || procfs::children(master).len() <= 4).await;
        assert!(server.process.signal(Signal::SIGHUP));
        load.generation(generation).await;
    }
    let worker = settled(&server, &load).await;
    assert_eq!(load.generation(101).await.worker.pid, worker);
    nothing_is_lost(&load.stop().await);
}

#[cfg(target_os = "linux")]
fn nothing_is_lost(report: &Report) {
    println!("{report}");
    assert_eq!(report.lost(), 0, "{report}");
    assert_eq!(report.total().unavailable, 0, "{report}");
    assert_eq!(report.total().refused, 0, "{report}");
    assert_eq!(report.total().idle_closed, 0, "each close was announced\n{report}");
    if support::server::hands_over() {
        for kind in [Kind::KeepAlive, Kind::Slow, Kind::Stream, Kind::Upload] {
            assert_eq!(report.of(kind).reconnects, 0, "{kind:?}\n{report}");
        }
    }
}

/// As users have it: with a trial of two seconds.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn reloads_with_a_trial_lose_nothing() {
    let server = Setup::new().default_trial().start().await;
    let load = load(&server);
    load.generation(1).await;
    for generation in 2..=6 {
        assert!(server.process.signal(Signal::SIGHUP));
        load.generation(generation).await;
        server.process.line(&format!("reloaded: {generation} ")).await;
    }
    settled(&server, &load).await;
    nothing_is_lost(&load.stop().await);
}

/// Then each connection ends with an announced close.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn reloads_without_the_hand_over_lose_nothing() {
    let server = Setup::new().env("TEST_STAY", 1).start().await;
    let load = load(&server);
    load.generation(1).await;
    for generation in 2..=11 {
        assert!(server.process.signal(Signal::SIGHUP));
        load.generation(generation).await;
        server.one_worker().await;
    }
    settled(&server, &load).await;
    let report = load.stop().await;
    println!("{report}");
    assert_eq!(report.lost(), 0, "{report}");
    let total = report.total();
    assert_eq!((total.unavailable, total.refused, total.idle_closed), (0, 0, 0), "{report}");
    assert!(report.of(Kind::KeepAlive).reconnects >= 64, "{report}");
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn nothing_is_left_of_a_storm_of_signals() {
    storm(Setup::new()).await;
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn nothing_is_left_of_a_storm_during_trials() {
    storm(Setup::new().bake(Duration::from_secs(1))).await;
}

#[cfg(target_os = "linux")]
async fn storm(setup: Setup) {
    let server = setup.start().await;
    let master = server.process.pid();
    let load = load(&server);
    // What the first reload needs once and for all does not count.
    assert!(server.process.signal(Signal::SIGHUP));
    load.generation(2).await;
    settled(&server, &load).await;
    let descriptors = procfs::descriptors(master);
    let memory = procfs::resident_kib(master);

    // A thousand in a second.
    let mut pace = tokio::time::interval(Duration::from_millis(1));
    for _ in 0..1000 {
        pace.tick().await;
        assert!(server.process.signal(Signal::SIGHUP));
    }
    let worker = settled(&server, &load).await;

    let last = *load.first_answers().last().expect("it was answered");
    assert_eq!(last.worker.pid, worker);
    assert!(last.worker.generation > 3, "the signals are followed by reloads");
    let report = load.stop().await;
    assert_eq!(report.lost(), 0, "{report}");
    assert_eq!(report.total().refused, 0, "{report}");
    assert_eq!(procfs::children(master).len(), 1, "one live generation, no zombie");
    // The master lets go of what belonged to a worker once it has heard of its end.
    until("descriptors of the master", || procfs::descriptors(master) <= descriptors).await;
    let grown = procfs::resident_kib(master).saturating_sub(memory);
    assert!(grown < 1024, "memory of the master: {grown} KiB more");
    println!("{} generations\n{report}", last.worker.generation);
}
