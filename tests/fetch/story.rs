//! Under load: version 1 moves to version 2, and version 3, which crashes, is taken back.

use std::fs;
use std::time::Duration;

use serde_json::json;

use crate::build::{self, Signer, build};
use crate::program::{Watching, http};
use crate::shelf::{Fault, Shelf};
use crate::support::load::Load;

#[tokio::test]
async fn a_crashing_version_is_taken_back_and_never_tried_again() {
    let (shelf, signer) = (Shelf::open().await, Signer::new());
    let [one, two] = ["1.0.0", "2.0.0"].map(|version| build(version, ""));
    let three = build("3.0.0", "die 200");
    let mut settings = http(&shelf.url("/app"), &signer);
    settings["interval"] = 50.into();
    shelf.publish("/app", &one, &signer);
    let bake = Duration::from_millis(800);
    let app = Watching::with(&one, settings.clone(), |setup, _| setup.bake(bake)).await;
    let load = Load::new(app.server.addr())
        .keep_alive(16, Duration::from_millis(10))
        .fresh(4)
        .slow(4)
        .streaming(2)
        .uploads(2)
        .h2(1)
        .start();
    load.generation(1).await;
    app.until("it has seen itself", |status| status["upgrade"]["counts"]["unchanged"] == 1).await;

    shelf.publish("/app", &two, &signer);
    load.generation(2).await;
    app.until("2 has proved itself", |status| status["upgrade"]["counts"]["upgraded"] == 1).await;
    app.serves("2.0.0").await;
    app.server.becomes(&app.path()).await;

    shelf.forget();
    let before = load.lap();
    assert_eq!(before.lost(), 0, "{before}");
    shelf.publish("/app", &three, &signer);
    load.generation(3).await;
    let status =
        app.until("3 has failed", |status| status["upgrade"]["counts"]["failed"] == 1).await;
    // What was inside the process that aborted goes with it, and nothing else: all of it at one moment.
    let crash = load.lap();
    for loss in crash.losses() {
        let is_its_own = loss.worker.is_none_or(|worker| worker.generation == 3);
        let apart = loss.at.abs_diff(crash.losses()[0].at);
        assert!(is_its_own && apart < Duration::from_millis(100), "{crash}");
    }
    let why = status["upgrade"]["last_failure"]["reason"].as_str().unwrap();
    assert!(why.contains("failed its trial: it was killed by SIGABRT"), "{why}");
    assert!(fs::read(app.path()).unwrap() == two, "the file is version 2 again");
    app.serves("2.0.0").await;
    assert_eq!(app.names(), ["app", "app.refused"]);
    let refused = fs::read_to_string(app.directory.path().join("app.refused")).unwrap();
    assert_eq!(refused.trim(), build::sha256(&three));

    // It is there still, and looked at again and again.
    let looks = status["upgrade"]["counts"]["unchanged"].as_u64().unwrap();
    app.until("further looks", |status| {
        status["upgrade"]["counts"]["unchanged"].as_u64() >= Some(looks + 3)
    })
    .await;
    let fetched = shelf.statuses("/app").iter().filter(|status| **status == 200).count();
    assert_eq!(fetched, 1, "it was fetched once");
    let status = app.status().await;
    assert_eq!(status["reloads"], json!({ "succeeded": 1, "failed": 1, "running": false }));

    // The master goes on as version 2, and finds the next one.
    let four = build("4.0.0", "");
    shelf.publish("/app", &four, &signer);
    load.generation(4).await;
    app.until("4 serves", |status| status["upgrade"]["counts"]["upgraded"] == 2).await;
    app.serves("4.0.0").await;
    let report = load.stop().await;
    assert_eq!(report.lost(), crash.lost(), "{report}");
    println!("{report}");
}

#[tokio::test]
async fn what_has_failed_is_known_after_a_restart_of_the_machine() {
    let (shelf, signer) = (Shelf::open().await, Signer::new());
    let three = build("3.0.0", "die 0");
    shelf.publish("/app", &three, &signer);
    let settings = http(&shelf.url("/app"), &signer);
    let bake = |setup: crate::support::server::Setup, _: &std::path::Path| {
        setup.bake(Duration::from_secs(2))
    };
    let app = Watching::with(&build("2.0.0", ""), settings.clone(), bake).await;
    assert!(app.failure().await.contains("failed its trial"));
    let Watching { server, directory, .. } = app;
    server.process.kill();
    let path = directory.path().join("app");
    let again = Watching::at(&path, directory, settings, bake).await;
    let why = again.failure().await;
    assert_eq!(why, format!("this binary has failed before: {}", build::sha256(&three)));
    again.serves("2.0.0").await;
    assert_eq!(again.status().await["reloads"]["failed"], 0, "it was not even tried");
}

#[tokio::test]
async fn installed_only_it_waits_for_a_reload() {
    let (shelf, signer, two) = (Shelf::open().await, Signer::new(), build("2.0.0", ""));
    shelf.publish("/app", &two, &signer);
    let mut settings = http(&shelf.url("/app"), &signer);
    settings["install_only"] = true.into();
    let app = Watching::start(&build("1.0.0", ""), settings).await;
    let (_, answer) = app.check().await;
    assert_eq!(
        answer,
        json!({ "outcome": "installed", "sha256": build::sha256(&two), "version": "2.0.0" })
    );
    app.serves("1.0.0").await;
    assert_eq!(app.check().await.1["outcome"], "unchanged");
    let (status, _) = app.ask("POST", "/reload?wait").await;
    assert_eq!(status, 200);
    app.serves("2.0.0").await;
}

#[tokio::test]
async fn who_has_gone_back_by_hand_is_not_pushed_forward_again() {
    let (shelf, signer, two) = (Shelf::open().await, Signer::new(), build("2.0.0", ""));
    shelf.publish("/app", &two, &signer);
    let settings = http(&shelf.url("/app"), &signer);
    let app = Watching::start(&build("1.0.0", ""), settings).await;
    assert_eq!(app.check().await.1["outcome"], "upgraded");
    assert_eq!(app.ask("POST", "/rollback?wait").await.0, 200);
    app.serves("1.0.0").await;
    // Even where the source does not remember what it has shown.
    shelf.put("/app", two);
    assert_eq!(app.check().await.1["outcome"], "unchanged");
    app.serves("1.0.0").await;
}

#[tokio::test]
async fn at_a_stop_what_has_not_proved_itself_is_taken_back() {
    use nix::sys::signal::Signal;
    let (shelf, signer, two) = (Shelf::open().await, Signer::new(), build("2.0.0", ""));
    let one = build("1.0.0", "");
    shelf.publish("/app", &two, &signer);
    let mut settings = http(&shelf.url("/app"), &signer);
    settings["interval"] = 50.into();
    let bake = Duration::from_secs(50);
    let app = Watching::with(&one, settings, |setup, _| setup.bake(bake)).await;
    app.server.generation(2).await;
    assert!(fs::read(app.path()).unwrap() == two, "on trial");
    app.server.process.signal(Signal::SIGTERM);
    assert!(app.server.process.exit(Duration::from_secs(30)).await.success());
    assert!(fs::read(app.path()).unwrap() == one, "taken back");
    assert_eq!(app.names(), ["app"], "and not blamed");
}

#[tokio::test]
async fn the_master_becomes_no_other_program_in_the_middle_of_it() {
    let (shelf, signer, two) = (Shelf::open().await, Signer::new(), build("2.0.0", ""));
    shelf.publish("/app", &build("3.0.0", ""), &signer);
    shelf.put_faulty("/app", build("3.0.0", ""), Fault::Stall(1000));
    let mut settings = http(&shelf.url("/app"), &signer);
    settings["time_limit"] = 3000.into();
    let app = Watching::start(&build("1.0.0", ""), settings).await;
    assert_eq!(app.ask("POST", "/upgrade").await.0, 202);
    app.until("it fetches", |status| status["upgrade"]["received"] == 1000).await;
    // Somebody deploys by hand meanwhile.
    build::put(&app.path(), &two);
    assert_eq!(app.ask("POST", "/reload?wait").await.0, 200);
    app.serves("2.0.0").await;
    app.server.becomes(&app.path()).await;
    // It has waited until the download was given up: that was noted, and nothing was left.
    let upgrade = &app.status().await["upgrade"];
    assert_eq!(upgrade["last_failure"]["reason"], "the download took longer than 3s");
    assert_eq!(app.names(), ["app"]);
}

#[tokio::test]
async fn a_server_that_is_killed_during_a_trial_comes_back_with_what_it_had() {
    let (shelf, signer, two) = (Shelf::open().await, Signer::new(), build("2.0.0", ""));
    let three = build("3.0.0", "");
    shelf.publish("/app", &three, &signer);
    let settings = http(&shelf.url("/app"), &signer);
    let bake = |setup: crate::support::server::Setup, _: &std::path::Path| {
        setup.bake(Duration::from_secs(50))
    };
    let app = Watching::with(&two, settings.clone(), bake).await;
    assert_eq!(app.ask("POST", "/upgrade").await.0, 202);
    app.server.generation(2).await;
    assert_eq!(app.names(), ["app", "app.previous", "app.trial"]);
    let Watching { server, directory, .. } = app;
    server.process.kill();
    let path = directory.path().join("app");
    assert!(fs::read(&path).unwrap() == three, "it had no time to put anything back");
    // The supervisor starts what is there: the new master lets the old binary serve.
    let again = Watching::at(&path, directory, settings, |setup, _| setup).await;
    assert_eq!(again.get("/version").await, "2.0.0");
    assert_eq!(again.names(), ["app"]);
    assert!(fs::read(again.path()).unwrap() == two);
    // It was not to blame for that, so it may try once more.
    assert_eq!(again.check().await.1["version"], "3.0.0");
    again.serves("3.0.0").await;
    assert_eq!(again.names(), ["app", "app.previous"]);
}
