//! Hooks, signals and handles: what a user may hang onto the master, in which order it comes, and that it
//! keeps nothing from happening.
#![cfg(all(target_os = "linux", feature = "serve"))]

mod support;

use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::Signal;
use tempfile::TempDir;

use support::http::{GET, answer, connect, send};
use support::server::{Server, Setup};
use support::until;
use support::{process, procfs};

const LONG: Duration = Duration::from_secs(30);

#[test]
#[ignore = "the server that the tests start"]
fn server() {
    support::server::serve();
}

/// A server with a hook for each moment, and the files that say what these do.
struct Hooked {
    server: Server,
    directory: TempDir,
}

impl Hooked {
    /// Hooks may take so long.
    async fn start(limit: Duration) -> Self {
        Self::with(limit, |setup| setup).await
    }

    async fn with(limit: Duration, more: impl FnOnce(Setup) -> Setup) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let setup = Setup::new()
            .env("TEST_GATES", directory.path().display())
            .env("TEST_LIMIT", limit.as_millis());
        Self { server: more(setup).start().await, directory }
    }

    fn path(&self, moment: &str) -> PathBuf {
        self.directory.path().join(moment)
    }

    fn signal(&self, signal: Signal) {
        assert!(self.server.process.signal(signal));
    }

    async fn says(&self, what: &str) {
        self.server.process.any_line(what).await;
    }

    /// That the lines with these words come in this order.
    fn said(&self, words: &[&str]) {
        let lines = self.server.process.lines();
        let mut rest = lines.iter();
        for word in words {
            assert!(
                rest.any(|line| line.contains(word)),
                "{word} after the ones before in {lines:#?}"
            );
        }
    }
}

async fn answered(server: &Server, request: &str) -> String {
    let mut client = connect(server.addr()).await;
    send(&mut client, request).await;
    let answer = answer(&mut client).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    answer
}

/// The generation before may accept for a moment longer.
async fn answered_by(server: &Server, generation: u64) {
    let header = format!("x-generation: {generation}");
    let asking = async { while !answered(server, GET).await.contains(&header) {} };
    tokio::time::timeout(LONG, asking).await.expect("it answers");
}

async fn left(server: &Server) {
    let status = server.process.exit(LONG).await;
    assert!(status.success(), "{status}: {:?}", server.process.lines());
    until("nothing is left", || server.process.tree().is_empty()).await;
}

fn post(path: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n")
}

#[tokio::test]
async fn hooks_run_one_after_the_other_around_what_they_are_for() {
    let hooked = Hooked::start(LONG).await;
    hooked.signal(Signal::SIGUSR1);
    hooked.says("active: 2").await;
    hooked.says("after-reload ends").await;
    hooked.says("after-SIGUSR1 ends").await;
    let before = ["before-SIGUSR1 begins", "before-SIGUSR1 ends"];
    let reload = ["before-reload begins", "before-reload ends", "ready: 2 "];
    hooked.said(&[before.as_slice(), &reload, &["after-reload begins"]].concat());
    hooked.said(&[before.as_slice(), &["after-SIGUSR1 begins"]].concat());
    hooked.said(&["ready: 2 ", "retire begins", "retire ends", "active: 2"]);

    hooked.signal(Signal::SIGTERM);
    left(&hooked.server).await;
    hooked.said(&["before-SIGTERM begins", "before-SIGTERM ends", "after-SIGTERM ends"]);
    hooked.said(&["before-SIGTERM ends", "retire begins", "retire ends"]);
}

#[tokio::test]
async fn a_successor_is_active_only_when_the_one_before_has_retired() {
    let hooked = Hooked::start(LONG).await;
    std::fs::write(hooked.path("retire"), "").expect("write");
    hooked.signal(Signal::SIGHUP);
    hooked.says("reloaded: 2 ").await;
    hooked.says("retire begins").await;
    // The new one serves meanwhile, and the old one is still there.
    answered_by(&hooked.server, 2).await;
    assert_eq!(procfs::workers(hooked.server.process.pid()).len(), 2);
    assert!(!hooked.server.process.lines().iter().any(|line| line.contains("active: 2")));
    std::fs::remove_file(hooked.path("retire")).expect("open");
    hooked.says("active: 2").await;
    hooked.said(&["retire begins", "retire ends", "active: 2"]);
    hooked.signal(Signal::SIGTERM);
    left(&hooked.server).await;
}

#[tokio::test]
async fn who_goes_on_after_a_failed_trial_is_active_when_the_one_before_has_retired_meanwhile() {
    let bake = Duration::from_secs(3);
    let hooked = Hooked::with(LONG, |setup| setup.bake(bake).env("TEST_LOG", 1)).await;
    let master = hooked.server.process.pid();
    std::fs::write(hooked.path("retire"), "").expect("write");
    hooked.signal(Signal::SIGHUP);
    hooked.says("reloaded: 2 ").await;
    hooked.says("retire begins").await;
    let before = procfs::workers(master);
    hooked.signal(Signal::SIGHUP);
    hooked.says("ready: 3 ").await;
    // Nobody serves: 2 is parked and 3 is on trial.
    std::fs::remove_file(hooked.path("retire")).expect("open");
    hooked.says("retire ends").await;
    hooked.says("a worker has ended").await;
    let third = procfs::workers(master).into_iter().find(|worker| !before.contains(worker));
    process::signal(third.expect("it is on trial"), Signal::SIGKILL);
    hooked.says("reload failed: it was killed by SIGKILL").await;
    hooked.says("active: 2").await;
    hooked.signal(Signal::SIGTERM);
    left(&hooked.server).await;
}

#[tokio::test]
async fn a_hook_that_panics_or_hangs_keeps_nothing_from_happening() {
    for what in ["panic", "hang"] {
        let hooked = Hooked::start(Duration::from_millis(50)).await;
        let around = ["before-SIGUSR1", "before-reload", "after-SIGUSR1", "after-reload", "retire"];
        for moment in around.into_iter().chain(["before-SIGTERM", "after-SIGTERM"]) {
            std::fs::write(hooked.path(moment), what).expect("write");
        }
        let mut slow = connect(hooked.server.addr()).await;
        send(&mut slow, "GET /slow?ms=1000 HTTP/1.1\r\nhost: x\r\n\r\n").await;
        answered(&hooked.server, GET).await;
        hooked.signal(Signal::SIGUSR1);
        for moment in around {
            hooked.says(&format!("{moment} begins")).await;
        }
        hooked.says("active: 2").await;
        // A worker whose hook fails finishes what it has begun.
        assert!(answer(&mut slow).await.starts_with("HTTP/1.1 200"), "{what}");
        drop(slow);
        answered_by(&hooked.server, 2).await;
        hooked.signal(Signal::SIGTERM);
        left(&hooked.server).await;
        let lines = hooked.server.process.lines();
        assert!(!lines.iter().any(|line| line.contains(" ends")), "{what}: {lines:?}");
    }
}

#[tokio::test]
async fn signals_mean_what_the_user_says() {
    let server = Setup::new().env("TEST_SIGNALS", 1).start().await;
    server.process.signal(Signal::SIGWINCH);
    server.process.line("reloaded: 2 ").await;
    server.process.signal(Signal::SIGQUIT);
    left(&server).await;
}

#[tokio::test]
async fn a_handler_can_reload_and_stop_the_server() {
    let server = Setup::new().start().await;
    assert!(answered(&server, &post("/reload")).await.ends_with("true"));
    server.process.line("reloaded: 2 ").await;
    server.process.line("active: 2").await;
    server.one_worker().await;
    // Of the new generation, too.
    assert!(answered(&server, &post("/reload")).await.contains("x-generation: 2"));
    server.process.line("reloaded: 3 ").await;
    answered(&server, &post("/stop")).await;
    left(&server).await;
}

#[tokio::test]
async fn a_reload_waits_until_one_of_too_many_old_generations_has_left() {
    let server = Setup::new().env("TEST_DRAINING", 1).env("TEST_LOG", 1).start().await;
    let master = server.process.pid();
    let mut slow = connect(server.addr()).await;
    send(&mut slow, "GET /slow?ms=600000 HTTP/1.1\r\nhost: x\r\n\r\n").await;
    answered(&server, GET).await;
    server.process.signal(Signal::SIGHUP);
    server.process.line("reloaded: 2 ").await;
    server.process.signal(Signal::SIGHUP);
    server.process.any_line("the reload waits").await;
    answered_by(&server, 2).await;
    assert_eq!(procfs::workers(master).len(), 2, "the old one and the one that serves");
    server.process.signal(Signal::SIGUSR2);
    server.process.line("reloaded: 3 ").await;
    answered_by(&server, 3).await;
    server.process.signal(Signal::SIGTERM);
    left(&server).await;
}
