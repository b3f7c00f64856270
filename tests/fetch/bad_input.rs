//! Whatever the source yields: a clear error, nothing left behind, and the server goes on.

use std::fs;
use std::path::Path;
use std::time::Duration;

use axum::body::Bytes;
use serde_json::json;

use crate::build::{self, Signer, build};
use crate::program::{Watching, http};
use crate::shelf::{Fault, Shelf};
use crate::support::load::Load;
use crate::support::procfs;
use crate::support::server::Setup;

/// A server of version 2, whose master and worker must not change.
struct Untouched {
    app: Watching,
    shelf: Shelf,
    signer: Signer,
    before: Bytes,
    names: Vec<String>,
    worker: String,
}

impl Untouched {
    async fn start(more: serde_json::Value) -> Self {
        let (shelf, signer) = (Shelf::open().await, Signer::new());
        let mut settings = http(&shelf.url("/app"), &signer);
        for (name, value) in more.as_object().expect("settings") {
            settings[name] = value.clone();
        }
        let before = build("2.0.0", "");
        let secret = |setup: Setup, _: &Path| setup.env("TEST_SECRET", "not for a check run");
        let app = Watching::with(&before, settings, secret).await;
        let (names, worker) = (app.names(), app.get("/pid").await);
        Self { app, shelf, signer, before, names, worker }
    }

    /// Signed as it should be.
    fn publish(&self, content: impl Into<Bytes>) {
        self.shelf.publish("/app", &content.into(), &self.signer);
    }

    async fn fails(&self, case: &str, expected: &str) {
        let why = self.app.failure().await;
        assert!(why.contains(expected), "{case}: {why:?} does not say {expected:?}");
        assert_eq!(self.app.names(), self.names, "{case}: files stay behind");
        let program = fs::read(self.app.path()).expect("the program");
        assert!(program == self.before, "{case}: another program");
        assert_eq!(self.app.get("/pid").await, self.worker, "{case}: another worker");
        let status = self.app.status().await;
        assert_eq!(status["generation"], 1, "{case}");
        assert_eq!(status["reloads"]["failed"], 0, "{case}");
        assert_eq!(status["upgrade"]["last_failure"]["reason"], why, "{case}");
        assert_eq!(status["upgrade"]["step"], "idle", "{case}");
    }
}

#[tokio::test]
async fn a_bad_binary_is_refused_and_the_server_is_not_touched() {
    let server =
        Untouched::start(json!({ "max_size": 64 << 20, "time_limit": 5000, "check_limit": 1000 }))
            .await;
    let load = Load::new(server.app.server.addr())
        .keep_alive(4, Duration::from_millis(10))
        .fresh(1)
        .start();
    let master = server.app.server.process.pid();
    let descriptors = procfs::descriptors(master);
    let shelf = &server.shelf;
    let three = build("3.0.0", "");
    let half = three.slice(..three.len() / 2);

    server.fails("nothing there", "answers with 404 Not Found").await;

    server.publish(half.clone());
    shelf.put("/app.minisig", server.signer.sign(&three));
    server.fails("truncated at the source", "the signature is not that of the download").await;

    server.publish(three.clone());
    shelf.put_faulty("/app", three.clone(), Fault::CutForgotten(three.len() / 2));
    server.fails("connection cut", "the download broke off after").await;

    server.publish(three.clone());
    shelf.put_faulty("/app", three.clone(), Fault::Cut(0));
    server.fails("connection cut again and again", "the download broke off after 0 bytes").await;
    assert_eq!(shelf.statuses("/app").iter().filter(|status| **status == 206).count(), 4);

    server.publish(three.clone());
    shelf.put("/app.minisig", server.signer.sign(b"something else"));
    server.fails("wrong signature", "the signature is not that of the download").await;

    server.publish(three.clone());
    shelf.put("/app.minisig", Signer::new().sign(&three));
    server.fails("wrong key", "signed with a key that is not trusted").await;

    server.publish(three.clone());
    shelf.put("/app.minisig", "<html>404</html>");
    server.fails("a page for a signature", "the signature cannot be used").await;

    shelf.remove("/app.minisig");
    server.fails("no signature", "comes without a signature").await;

    shelf.redirect("/app", "/app");
    server.fails("a redirect in a circle", "more than 5 redirects").await;
    shelf.redirect("/app", "ftp://localhost/app");
    server.fails("a redirect elsewhere", "is no http or https URL").await;
    shelf.stay("/app");

    server.publish(vec![b'x'; (64 << 20) + 1]);
    server.fails("too large", "larger than 67108864 bytes").await;

    server.publish(three.clone());
    shelf.put_faulty("/app", three.clone(), Fault::Stall(1000));
    server.fails("too slow", "the download took longer than 5s").await;

    server.publish("<!DOCTYPE html><title>log in</title>");
    server.fails("HTML", "no program: it is an HTML page").await;

    server.publish("");
    server.fails("empty", "no program: it is empty").await;

    let mut other = three.to_vec();
    // Of no machine that these tests run on: e_machine of ELF is SPARC V9.
    other[18..20].copy_from_slice(&[43, 0]);
    server.publish(other);
    server.fails("other architecture", "for another machine: machine (43, 64 bits)").await;

    server.publish(fs::read("/bin/true").unwrap());
    server.fails("not built on the crate", "is it built on this crate?").await;

    server.publish(build("3.0.0", "talks"));
    server.fails("prints for ever", "printed more than").await;

    server.publish(build("3.0.0", "endless"));
    server.fails("hangs in its check", "did not end within 1s").await;

    server.publish(build("3.0.0", "needs TEST_SECRET"));
    server.fails("fails in its check", "its check failed: exit status: 1").await;

    server.publish(build("1.9.9", ""));
    server.fails("a downgrade", "version 1.9.9 is older than 2.0.0").await;

    server.publish(build("none", ""));
    server.fails("no version", "does not say its version").await;

    server.publish(build("newest", ""));
    server.fails("no such version", "its check failed").await;

    // What can only fail again is not fetched again.
    server.publish(build("1.0.0", ""));
    server.fails("an old release", "version 1.0.0 is older").await;
    shelf.forget();
    assert_eq!(server.app.check().await, (200, json!({ "outcome": "unchanged" })));
    assert_eq!(shelf.statuses("/app"), [304]);

    // Nothing is left of all that in the master either.
    let left = async {
        while procfs::descriptors(master) > descriptors || procfs::children(master).len() > 1 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), left).await.expect("descriptors or children");

    // And after all that it is ready for a good one.
    server.publish(three);
    let (status, answer) = server.app.check().await;
    assert_eq!((status, &answer["version"]), (200, &json!("3.0.0")), "{answer}");
    load.generation(2).await;
    let report = load.stop().await;
    assert_eq!(report.lost(), 0, "{report}");
    assert!(report.done() > 0);
}

#[tokio::test]
async fn only_the_pinned_digest_will_do() {
    let three = build("3.0.0", "");
    let server = Untouched::start(json!({ "sha256": build::sha256(&three) })).await;
    let other = build("3.0.1", "");
    server.publish(other.clone());
    let digest = build::sha256(&other);
    server.fails("wrong digest", &format!("has the SHA-256 {digest} and not")).await;
    server.publish(three);
    assert_eq!(server.app.check().await.1["version"], "3.0.0");
    // There is nothing else that could be wanted.
    server.shelf.forget();
    assert_eq!(server.app.check().await.1["outcome"], "unchanged");
    assert!(server.shelf.statuses("/app").is_empty(), "nobody was asked");
}

#[tokio::test]
async fn a_source_that_lies_about_the_length_is_found_out() {
    let directory = tempfile::tempdir().unwrap();
    let (path, two) = (directory.path().join("next"), build("2.0.0", ""));
    fs::write(&path, &two).unwrap();
    fs::write(path.with_extension("length"), (two.len() + 1).to_string()).unwrap();
    let settings = json!({ "source": format!("closure {}", path.display()), "unverified": true });
    let app = Watching::start(&build("1.0.0", ""), settings).await;
    let expected = format!("the download has {} bytes and not {}", two.len(), two.len() + 1);
    assert_eq!(app.failure().await, expected);
    assert_eq!(app.names(), ["app"]);
}

#[tokio::test]
async fn the_user_may_refuse() {
    let server = Untouched::start(json!({ "refuse": "not on a Friday:" })).await;
    server.publish(build("3.0.0", ""));
    server.fails("refused", "refused before the upgrade: not on a Friday: 3.0.0").await;
}

#[tokio::test]
async fn what_was_refused_is_not_looked_at_again_by_itself() {
    let (shelf, signer) = (Shelf::open().await, Signer::new());
    let mut settings = http(&shelf.url("/app"), &signer);
    settings["interval"] = 10.into();
    let log = |setup: Setup, _: &Path| setup.env("TEST_LOG", 1);
    let sick = build("3.0.0", "needs TEST_SECRET");
    shelf.put("/app.minisig", signer.sign(b"something else"));
    shelf.put("/app", sick.clone());
    let app = Watching::with(&build("2.0.0", ""), settings, log).await;
    let count =
        |text: &str| app.server.process.lines().iter().filter(|line| line.contains(text)).count();
    // The first look fails for a reason of its own, the further ones know of it.
    let refused = async |why: &str| {
        let again = format!("refused before, and tried again only when asked to: {why}");
        for _ in 0..2 {
            let since = app.status().await["upgrade"]["counts"]["failed"].as_u64();
            app.until(&again, |status| {
                let upgrade = &status["upgrade"];
                let reason = upgrade["last_failure"]["reason"].as_str().unwrap_or_default();
                reason.starts_with(&again) && upgrade["counts"]["failed"].as_u64() > since
            })
            .await;
        }
    };
    refused("the signature is not that of the download").await;
    assert_eq!(count("fetching a new binary"), 1);
    // With another signature it is another release. It is asked what it is, once.
    shelf.put("/app.minisig", signer.sign(&sick));
    refused("the new binary cannot be used: its check failed").await;
    assert_eq!(count("fetching a new binary"), 2);
    app.server.process.any_line("needs TEST_SECRET, which is not there").await;
    assert_eq!(count("needs TEST_SECRET, which is not there"), 1, "it was run once");
    // Who asks for it gets another try.
    assert!(app.failure().await.starts_with("the new binary cannot be used: its check failed"));
    assert_eq!(count("fetching a new binary"), 3);
    // And the next one is looked at by itself.
    shelf.publish("/app", &build("4.0.0", ""), &signer);
    app.until("an upgrade", |status| status["upgrade"]["counts"]["upgraded"] == 1).await;
    app.serves("4.0.0").await;
}

#[tokio::test]
async fn a_panic_in_the_code_of_the_user_is_not_the_end_of_upgrades() {
    let directory = tempfile::tempdir().unwrap();
    let (path, bug) = (directory.path().join("next"), directory.path().join("bug"));
    fs::write(&bug, "").unwrap();
    let settings = json!({
        "source": format!("closure {}", path.display()), "unverified": true,
        "panic": bug.to_str().unwrap(),
    });
    let app = Watching::start(&build("1.0.0", ""), settings).await;
    assert_eq!(app.failure().await, "the look for an upgrade has panicked: the fetcher has a bug");
    fs::write(&path, build("2.0.0", "")).unwrap();
    assert_eq!(app.failure().await, "the look for an upgrade has panicked: the hook has a bug");
    assert_eq!(app.names(), ["app"]);
    // The master may still become another program, which it does not while it looks.
    build::put(&app.path(), &build("1.5.0", ""));
    assert_eq!(app.ask("POST", "/reload?wait").await.0, 200);
    app.server.becomes(&app.path()).await;
    fs::remove_file(&bug).unwrap();
    assert_eq!(app.check().await.1["version"], "2.0.0");
    app.serves("2.0.0").await;
}

#[tokio::test]
async fn a_hook_that_does_not_end_is_given_up() {
    let server = Untouched::start(json!({ "hang": true, "hook_limit": 100 })).await;
    server.publish(build("3.0.0", ""));
    server.fails("a hook hangs", "the hook before the upgrade took longer than 100ms").await;
}

#[tokio::test]
async fn a_server_that_cannot_tell_a_downgrade_does_not_start() {
    let settings = json!({ "source": "file /no/such/file", "unverified": true });
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("app");
    build::put(&path, &build("unknown", ""));
    let process = crate::program::setup(&path, settings.clone()).spawn();
    let status = process.exit(Duration::from_secs(30)).await;
    assert_eq!(status.code(), Some(1), "{:?}", process.lines());
    process.any_line("cannot tell an upgrade from a downgrade").await;
    // With a digest there is nothing else that could be taken.
    let mut pinned = settings;
    pinned["sha256"] = "0".repeat(64).into();
    drop(Watching::start(&build("unknown", ""), pinned).await);
}

#[tokio::test]
async fn a_downgrade_may_be_allowed() {
    let server = Untouched::start(json!({ "downgrade": true })).await;
    server.publish(build("1.0.0", ""));
    assert_eq!(server.app.check().await.1["version"], "1.0.0");
}

#[tokio::test]
async fn a_check_run_sees_only_what_it_is_let_see() {
    let (shelf, signer) = (Shelf::open().await, Signer::new());
    shelf.publish("/app", &build("2.0.0", "needs TEST_SECRET"), &signer);
    let mut settings = http(&shelf.url("/app"), &signer);
    settings["check_env"] = "TEST_SECRET".into();
    let start = |setup: Setup, _: &Path| setup.env("TEST_SECRET", "1");
    let app = Watching::with(&build("1.0.0", ""), settings, start).await;
    assert_eq!(app.check().await.1["version"], "2.0.0");
}
