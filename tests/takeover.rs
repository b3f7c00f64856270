//! The next build of a program wants other places than the one before, or some that cannot be opened; and
//! the master becomes that build, whatever is under way at that moment.
#![cfg(all(target_os = "linux", feature = "admin"))]

mod support;

use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use support::http::{GET, answer, connect, send};
use support::server::{Server, Setup, deploy_with};
use support::until;

const LONG: Duration = Duration::from_secs(30);

#[test]
#[ignore = "the server that the tests start"]
fn server() {
    support::server::serve();
}

/// A server whose program is deployed in a directory.
struct Deployed {
    server: Server,
    directory: TempDir,
}

impl Deployed {
    /// With these places to open.
    async fn start(places: &str) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let places = places.replace("HERE", &directory.path().display().to_string());
        let setup = Setup::from_copy_with(&directory.path().join("app"), &places)
            .env("TEST_PLACES", 1)
            .env("TEST_GATES", directory.path().display())
            .env("TEST_LIMIT", LONG.as_millis())
            .env("TEST_LOG", 1);
        Self { server: setup.start().await, directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Puts another build in place, with other places to open.
    fn deploy(&self, places: &str) {
        let places = places.replace("HERE", &self.directory.path().display().to_string());
        deploy_with(&self.path("app"), &places);
    }

    async fn reload(&self, generation: u64) {
        self.server.process.signal(Signal::SIGHUP);
        self.server.process.line(&format!("reloaded: {generation} ")).await;
    }

    /// The hook of this moment waits until the gate is opened.
    fn close(&self, moment: &str) {
        std::fs::write(self.path(moment), "").expect("write");
    }

    fn open(&self, moment: &str) {
        std::fs::remove_file(self.path(moment)).expect("it is closed");
    }

    async fn says(&self, what: &str) {
        self.server.process.any_line(what).await;
    }

    /// Reloads to another build, and waits until the master would become it, if nothing else ran.
    async fn upgrade(&self) {
        self.deploy("");
        self.server.process.signal(Signal::SIGHUP);
        self.server.process.line("active: 2").await;
        until("the build is asked", || self.path("asked").exists()).await;
        // The more time, the surer would a master that does not wait be found out.
        tokio::time::sleep(Duration::from_millis(500)).await;
    }

    async fn is_answered(&self) {
        let mut client = connect(self.server.addr()).await;
        send(&mut client, GET).await;
        assert!(answer(&mut client).await.starts_with("HTTP/1.1 200"));
    }

    async fn stop(&self) {
        self.server.process.signal(Signal::SIGTERM);
        let status = self.server.process.exit(LONG).await;
        assert!(status.success(), "{status}: {:?}", self.server.process.lines());
        until("nothing is left", || self.server.process.tree().is_empty()).await;
    }
}

async fn status(socket: &Path) -> String {
    let mut stream = UnixStream::connect(socket).await.expect("connect");
    stream.write_all(b"GET /status HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("write");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("read");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    answer
}

#[tokio::test]
async fn what_the_next_program_cannot_open_does_not_end_the_server() {
    let deployed = Deployed::start("admin HERE/admin.sock\npid HERE/app.pid\n").await;
    let bad = "blind\nadmin HERE/no/such.sock\npid HERE/no/such.pid\n";
    for (generation, places) in [(2, bad), (3, "admin HERE/other.sock\n")] {
        deployed.deploy(places);
        deployed.reload(generation).await;
        deployed.server.becomes(&deployed.path("app")).await;
        deployed.is_answered().await;
        if generation == 2 {
            // Where it was before.
            status(&deployed.path("admin.sock")).await;
            let lines = &deployed.server.process;
            lines.any_line("the admin socket stays where it was").await;
            lines.any_line("cannot write the PID file").await;
        }
    }
    until("the other socket", || deployed.path("other.sock").exists()).await;
    let status = status(&deployed.path("other.sock")).await.replace(' ', "");
    assert!(status.contains("\"generation\":3"), "{status}");
    assert!(!deployed.path("admin.sock").exists(), "it has moved");
    deployed.stop().await;
    assert!(!deployed.path("other.sock").exists());
}

#[tokio::test]
async fn a_program_that_could_not_open_its_places_says_so_when_it_is_asked() {
    let deployed = Deployed::start("").await;
    let before = deployed.path("before");
    std::fs::hard_link(deployed.path("app"), &before).expect("link");
    for (generation, places) in
        [(2, "admin HERE/no/such.sock\n"), (3, "pid HERE/no/such.pid\n"), (4, "admin HERE\n")]
    {
        deployed.deploy(places);
        deployed.reload(generation).await;
        let asked = || {
            let lines = deployed.server.process.lines();
            lines.iter().filter(|line| line.contains("cannot be the master")).count() as u64
        };
        until("the master hears why", || asked() == generation - 1).await;
        deployed.server.becomes(&before).await;
        deployed.is_answered().await;
    }
    deployed.deploy("admin HERE/admin.sock\n");
    deployed.reload(5).await;
    deployed.server.becomes(&deployed.path("app")).await;
    deployed.stop().await;
}

#[tokio::test]
async fn a_stop_whose_hook_runs_when_the_master_could_become_another_program_is_obeyed() {
    let deployed = Deployed::start("").await;
    deployed.close("before-SIGINT");
    deployed.server.process.signal(Signal::SIGINT);
    deployed.says("before-SIGINT begins").await;
    deployed.upgrade().await;
    deployed.open("before-SIGINT");
    let status = deployed.server.process.exit(LONG).await;
    assert!(status.success(), "{status}: {:?}", deployed.server.process.lines());
    // Hooks after the fact come to their end, too.
    deployed.says("after-SIGINT ends").await;
}

#[tokio::test]
async fn a_reload_whose_hook_runs_when_the_master_could_become_another_program_is_done() {
    for moment in ["before-SIGUSR1", "before-reload"] {
        let deployed = Deployed::start("").await;
        if moment == "before-reload" {
            // The second one waits, and the first one does not.
            deployed.deploy("");
            deployed.close("after-SIGHUP");
            deployed.reload(2).await;
            deployed.close(moment);
            deployed.server.process.signal(Signal::SIGUSR1);
            deployed.says("before-SIGUSR1 ends").await;
            deployed.open("after-SIGHUP");
            until("the build is asked", || deployed.path("asked").exists()).await;
            tokio::time::sleep(Duration::from_millis(500)).await;
        } else {
            deployed.close(moment);
            deployed.server.process.signal(Signal::SIGUSR1);
            deployed.says("before-SIGUSR1 begins").await;
            deployed.upgrade().await;
        }
        deployed.open(moment);
        deployed.server.process.line("reloaded: 3 ").await;
        deployed.server.becomes(&deployed.path("app")).await;
        deployed.is_answered().await;
        deployed.stop().await;
    }
}

#[tokio::test]
async fn hooks_after_the_fact_are_not_cut_when_the_master_becomes_another_program() {
    for moment in ["after-reload", "after-SIGHUP"] {
        let deployed = Deployed::start("").await;
        deployed.close(moment);
        deployed.upgrade().await;
        deployed.open(moment);
        deployed.says(&format!("{moment} ends")).await;
        deployed.server.becomes(&deployed.path("app")).await;
        deployed.stop().await;
    }
}

/// Which of these sockets accept.
fn accepting<'a>(deployed: &Deployed, names: &[&'a str]) -> Vec<&'a str> {
    let accepts = |name: &&&str| {
        let path = deployed.path(name);
        std::os::unix::net::UnixStream::connect(path).is_ok()
    };
    names.iter().filter(accepts).copied().collect()
}

#[tokio::test]
async fn a_build_gets_the_addresses_that_it_wants_and_a_rollback_those_before() {
    let all = ["a", "b", "c"];
    let deployed = Deployed::start("bind unix:HERE/a\n").await;
    assert_eq!(accepting(&deployed, &all), ["a"]);
    for (generation, places, expected) in [
        (2, "bind unix:HERE/a\nbind unix:HERE/b\n", ["a", "b"].as_slice()),
        (3, "bind unix:HERE/c\n", &["c"]),
    ] {
        deployed.deploy(places);
        deployed.reload(generation).await;
        deployed.server.becomes(&deployed.path("app")).await;
        assert_eq!(accepting(&deployed, &all), expected);
        deployed.is_answered().await;
    }
    assert!(!deployed.path("a").exists() && !deployed.path("b").exists(), "their files go, too");
    for (generation, expected) in [(4, ["a", "b"].as_slice()), (5, &["c"])] {
        let mut client = connect(deployed.server.addr()).await;
        send(&mut client, "POST /rollback HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n").await;
        assert!(answer(&mut client).await.ends_with("true"));
        deployed.server.process.line(&format!("reloaded: {generation} ")).await;
        assert_eq!(accepting(&deployed, &all), expected);
    }
    deployed.stop().await;
    assert_eq!(accepting(&deployed, &all), [""; 0]);
    assert!(all.iter().all(|name| !deployed.path(name).exists()));
}

#[tokio::test]
async fn what_only_a_failed_build_has_asked_for_is_closed_again() {
    let deployed = Deployed::start("bind unix:HERE/a\n").await;
    // Also when another program has become the master since.
    for round in 0..2 {
        deployed.deploy("bind unix:HERE/a\nbind unix:HERE/b\nbind unix:HERE/no/such\n");
        deployed.server.process.signal(Signal::SIGHUP);
        deployed.server.process.line("reload failed: ").await;
        until("its socket is closed", || !deployed.path("b").exists()).await;
        assert_eq!(accepting(&deployed, &["a", "b"]), ["a"], "round {round}");
        deployed.deploy("bind unix:HERE/a\n");
        deployed.server.process.signal(Signal::SIGHUP);
        deployed.server.process.line("reloaded: ").await;
        deployed.server.becomes(&deployed.path("app")).await;
        // What a worker that had served has asked for waits for the next one.
        let worker = deployed.server.one_worker().await;
        support::process::signal(worker, Signal::SIGKILL);
        deployed.server.process.line("ready: ").await;
        assert_eq!(accepting(&deployed, &["a"]), ["a"]);
    }
    deployed.stop().await;
}
