//! Each source, from one end to the other: version 1 becomes version 2, and then there is nothing new.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use axum::body::Bytes;
use serde_json::{Value, json};

use crate::build::{self, Signer, build};
use crate::program::{Watching, http};
use crate::shelf::{Fault, Shelf};
use crate::support::{process::Program, skip};

/// Version 1 finds version 2, moves to it, and finds nothing more.
async fn upgrades(settings: Value, two: &Bytes) -> Watching {
    upgrades_with(settings, two, &[]).await
}

async fn upgrades_with(settings: Value, two: &Bytes, environment: &[(&str, &str)]) -> Watching {
    let more = |setup: crate::support::server::Setup, _: &std::path::Path| {
        environment.iter().fold(setup, |setup, (name, value)| setup.env(name, value))
    };
    let app = Watching::with(&build("1.0.0", ""), settings, more).await;
    app.serves("1.0.0").await;
    let (status, answer) = app.check().await;
    assert_eq!(status, 200, "{answer}");
    let digest = build::sha256(two);
    let expected = json!({
        "outcome": "upgraded", "generation": 2, "sha256": digest, "version": "2.0.0",
    });
    assert_eq!(answer, expected);
    app.serves("2.0.0").await;
    let file = fs::read(app.path()).expect("the program");
    assert!(file == *two, "the file is the new binary");
    assert_eq!(app.names(), ["app", "app.previous"]);
    // What was known outlives the program of the master.
    app.server.becomes(&app.path()).await;
    let (status, answer) = app.check().await;
    assert_eq!((status, answer), (200, json!({ "outcome": "unchanged" })));
    let status = app.status().await;
    assert_eq!(status["generation"], 2);
    assert_eq!(status["upgrade"]["counts"]["upgraded"], 1);
    assert_eq!(status["upgrade"]["counts"]["unchanged"], 1);
    assert_eq!(status["upgrade"]["step"], "idle");
    app
}

#[tokio::test]
async fn over_http_under_a_condition() {
    let (shelf, signer, two) = (Shelf::open().await, Signer::new(), build("2.0.0", ""));
    shelf.publish("/app", &two, &signer);
    let app = upgrades(http(&shelf.url("/app"), &signer), &two).await;
    assert_eq!(shelf.statuses("/app"), [200, 304], "the second look has an ETag");
    assert_eq!(shelf.statuses("/app.minisig"), [200]);
    assert_eq!(shelf.asked("/app")[0].header("x-token"), Some("secret"));
    let (_, metrics) = app.text("GET", "/metrics").await;
    for line in [
        "graceful_upgrade_checks_total{outcome=\"upgraded\"} 1",
        "graceful_upgrade_checks_total{outcome=\"unchanged\"} 1",
        "graceful_upgrade_last_check_succeeded 1",
        "graceful_upgrade_running 0",
        &format!("graceful_upgrade_received_bytes {}", two.len()),
    ] {
        assert!(metrics.lines().any(|other| other == line), "{line}\n{metrics}");
    }
    assert!(app.text("GET", "/").await.1.contains("1 upgrades, 0 failed"));
    // A server that is started with it finds that out without a download.
    let again = Watching::start(&two, http(&shelf.url("/app"), &signer)).await;
    assert_eq!(again.check().await.1["outcome"], "unchanged");
    assert_eq!(again.status().await["upgrade"]["received"], 0);
    drop(again);
    // A worker can ask for a look, too.
    assert_eq!(app.request("POST", "/check").await, "true");
    app.until("a look that a worker asked for", |status| {
        status["upgrade"]["counts"]["unchanged"] == 2
    })
    .await;
}

#[tokio::test]
async fn a_date_will_do_where_there_is_no_tag() {
    let (shelf, signer, two) = (Shelf::open().await, Signer::new(), build("2.0.0", ""));
    shelf.publish("/app", &two, &signer);
    shelf.put_faulty("/app", two.clone(), Fault::Dated);
    upgrades(http(&shelf.url("/app"), &signer), &two).await;
    assert_eq!(shelf.statuses("/app"), [200, 304]);
}

#[tokio::test]
async fn a_download_goes_on_where_it_was_cut() {
    let (signer, two) = (Signer::new(), build("2.0.0", ""));
    let shelf = Shelf::open().await;
    shelf.publish("/app", &two, &signer);
    shelf.put_faulty("/app", two.clone(), Fault::Cut(two.len() / 3 + 1));
    upgrades(http(&shelf.url("/app"), &signer), &two).await;
    assert_eq!(shelf.statuses("/app"), [200, 206, 206, 304]);
    // Where ranges are not known, what came already is passed over.
    let shelf = Shelf::open().await;
    shelf.publish("/app", &two, &signer);
    shelf.put_faulty("/app", two.clone(), Fault::CutWhole(two.len() / 2));
    upgrades(http(&shelf.url("/app"), &signer), &two).await;
    assert_eq!(shelf.statuses("/app"), [200, 200, 304]);
}

#[tokio::test]
async fn redirects_are_followed_and_secrets_stay_behind() {
    let (shelf, store) = (Shelf::open().await, Shelf::open().await);
    let (signer, two) = (Signer::new(), build("2.0.0", ""));
    store.publish("/two", &two, &signer);
    shelf.redirect("/app", "/latest");
    shelf.redirect("/latest", store.url("/two"));
    shelf.redirect("/app.minisig", store.url("/two.minisig"));
    upgrades(http(&shelf.url("/app"), &signer), &two).await;
    assert_eq!(shelf.asked("/latest")[0].header("x-token"), Some("secret"));
    assert_eq!(store.asked("/two")[0].header("x-token"), None);
    assert_eq!(store.statuses("/two"), [200, 304]);
}

#[cfg(feature = "tls")]
#[tokio::test]
async fn over_https_from_an_authority_of_its_own() {
    use crate::support::certificates::Certificate;
    let (shelf, signer, two) = (Shelf::open().await, Signer::new(), build("2.0.0", ""));
    shelf.publish("/app", &two, &signer);
    let directory = tempfile::tempdir().unwrap();
    let (certificate, key) = Certificate::new().write(directory.path());
    let (ready, address) = tokio::sync::watch::channel(None);
    let server = graceful::serve(shelf.router())
        .tls(&certificate, &key)
        .bind("127.0.0.1:0")
        .single_process()
        .on_ready(move |started| drop(ready.send_replace(Some(started.addresses[0].clone()))));
    tokio::spawn(server.into_future());
    let mut address = address;
    let address = address.wait_for(Option::is_some).await.unwrap().clone().unwrap();
    let port = address.rsplit(':').next().unwrap().to_owned();
    let url = format!("https://localhost:{port}/app");
    // Nobody has told it to trust this server.
    let stranger = Watching::start(&build("1.0.0", ""), http(&url, &signer)).await;
    let why = stranger.failure().await;
    assert!(why.contains("the source cannot be asked: invalid peer certificate"), "{why}");
    drop(stranger);
    let mut settings = http(&url, &signer);
    settings["roots"] = certificate.to_str().unwrap().into();
    // What is asked for in private is not taken from where everybody can alter it.
    let mut lured = settings.clone();
    lured["source"] = format!("http https://localhost:{port}/lured").into();
    shelf.redirect("/lured", shelf.url("/app"));
    let lured = Watching::start(&build("1.0.0", ""), lured).await;
    let why = lured.failure().await;
    assert!(why.contains("redirected from https to http://127.0.0.1:"), "{why}");
    drop(lured);
    upgrades(settings, &two).await;
    assert_eq!(shelf.statuses("/app"), [200, 304]);
}

#[tokio::test]
async fn from_a_release_on_github() {
    let (api, storage) = (Shelf::open().await, Shelf::open().await);
    let (signer, two) = (Signer::new(), build("2.0.0", ""));
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let asset = |id: u64, name: &str, content: &[u8]| {
        json!({
            "id": id, "name": name, "url": api.url(&format!("/repos/owner/app/releases/assets/{id}")),
            "updated_at": "2026-01-02T03:04:05Z", "size": content.len(),
            "digest": format!("sha256:{}", build::sha256(content)),
        })
    };
    let signature = signer.sign(&two);
    let latest = json!({
        "tag_name": "v2.0.0", "draft": false, "prerelease": false,
        "assets": [
            asset(1, "app-x86_64-pc-windows-msvc.exe", b""),
            asset(2, &format!("app-{target}"), &two),
            asset(3, &format!("app-{target}.minisig"), &signature),
            asset(4, &format!("app-{target}.tar.gz"), b""),
        ],
    });
    api.put("/repos/owner/app/releases/latest", latest.to_string());
    storage.put("/signed/app", two.clone());
    storage.put("/signed/app.minisig", signature);
    api.redirect("/repos/owner/app/releases/assets/2", storage.url("/signed/app"));
    api.redirect("/repos/owner/app/releases/assets/3", storage.url("/signed/app.minisig"));
    let settings = json!({ "source": format!("github {}", api.url("")), "key": signer.public() });
    upgrades_with(settings, &two, &[("TEST_TOKEN", "ghp_1")]).await;
    let asked = api.asked("/repos/owner/app/releases/latest");
    assert_eq!(asked.len(), 2);
    assert_eq!(asked[0].header("accept"), Some("application/vnd.github+json"));
    assert_eq!(asked[0].header("authorization"), Some("Bearer ghp_1"));
    assert!(asked[0].header("user-agent").is_some_and(|agent| agent.starts_with("graceful/")));
    let download = &api.asked("/repos/owner/app/releases/assets/2");
    assert_eq!(download.len(), 1, "the release was known the second time");
    assert_eq!(download[0].header("accept"), Some("application/octet-stream"));
    let stored = storage.asked("/signed/app");
    assert_eq!((stored.len(), stored[0].header("authorization")), (1, None));
}

#[tokio::test]
async fn from_a_file() {
    let (signer, two) = (Signer::new(), build("2.0.0", ""));
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("next");
    fs::write(&path, &two).unwrap();
    fs::write(directory.path().join("next.minisig"), signer.sign(&two)).unwrap();
    let source = format!("file {}", path.display());
    upgrades(json!({ "source": source, "key": signer.public() }), &two).await;
}

#[tokio::test]
async fn the_file_of_the_program_itself_may_be_watched() {
    let (one, two) = (build("1.0.0", ""), build("2.0.0", ""));
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("app");
    build::put(&path, &one);
    let settings = json!({ "source": format!("file {}", path.display()), "unverified": true });
    let app = Watching::at(&path.clone(), directory, settings, |setup, _| setup).await;
    assert_eq!(app.check().await, (200, json!({ "outcome": "unchanged" })));
    build::put(&path, &two);
    let (status, answer) = app.check().await;
    assert_eq!((status, &answer["generation"]), (200, &json!(2)), "{answer}");
    app.serves("2.0.0").await;
    assert_eq!(app.names(), ["app"], "it was there already");
}

#[tokio::test]
async fn from_a_closure_with_a_pinned_digest() {
    let two = build("2.0.0", "");
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("next");
    fs::write(&path, &two).unwrap();
    let source = format!("closure {}", path.display());
    upgrades(json!({ "source": source, "sha256": build::sha256(&two) }), &two).await;
}

/// What `.ci/run` installs, beside the directory of this test program.
#[cfg(feature = "object-store")]
fn moto() -> Option<PathBuf> {
    let own = std::env::current_exe().expect("the path of this test program");
    let mut targets = own.ancestors().map(|directory| directory.join("venv/bin/moto_server"));
    targets.find(|path| path.exists())
}

#[cfg(feature = "object-store")]
#[tokio::test]
async fn from_s3() {
    use crate::support::http::{connect, send};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let Some(moto) = moto() else {
        return skip("there is no moto: pip install 'moto[server]' into target/venv");
    };
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let server = Program::new(moto).args(["-H", "127.0.0.1", "-p", &port.to_string()]).start();
    server.line("Running on").await;
    let endpoint = format!("http://127.0.0.1:{port}");
    let (signer, two) = (Signer::new(), build("2.0.0", ""));
    let put = async |path: &str, content: &[u8]| {
        let mut stream = connect(([127, 0, 0, 1], port).into()).await;
        let length = content.len();
        let head = format!(
            "PUT {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n"
        );
        send(&mut stream, &head).await;
        stream.write_all(content).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    };
    // moto checks no signature of who puts something there.
    put("/releases", b"").await;
    put("/releases/app", &two).await;
    put("/releases/app.minisig", &signer.sign(&two)).await;
    let settings = json!({
        "source": "store s3://releases/app", "key": signer.public(),
        "options": [
            ["aws_endpoint", endpoint], ["aws_allow_http", "true"], ["aws_region", "us-east-1"],
        ],
    });
    let environment = [("AWS_ACCESS_KEY_ID", "test"), ("AWS_SECRET_ACCESS_KEY", "test")];
    let app = upgrades_with(settings, &two, &environment).await;
    // The second look had an ETag.
    let lines = server.lines();
    let statuses: Vec<_> =
        lines.iter().filter(|line| line.contains("GET /releases/app HTTP")).collect();
    assert_eq!(statuses.len(), 2, "{lines:#?}");
    assert!(statuses[1].contains(" 304 "), "{statuses:?}");
    drop(app);
}

/// A shelf that answers as these stores do, and only to who has this authorization.
#[cfg(feature = "object-store")]
async fn cloud(authorization: &'static str) -> (Shelf, String) {
    use axum::extract::Request;
    use axum::http::{HeaderValue, StatusCode};
    use axum::middleware::{Next, from_fn};
    use axum::response::IntoResponse;
    let shelf = Shelf::open().await;
    let guard = move |mut request: Request, next: Next| async move {
        let shown = request.headers().get("authorization").and_then(|shown| shown.to_str().ok());
        if !shown.is_some_and(|shown| shown.starts_with(authorization)) {
            return StatusCode::FORBIDDEN.into_response();
        }
        // One of them escapes all but letters and digits.
        let path = request.uri().path().replace("%2E", ".").replace("%2F", "/");
        *request.uri_mut() = path.parse().expect("a path");
        let mut response = next.run(request).await;
        let date = HeaderValue::from_static("Sun, 06 Nov 1994 08:49:37 GMT");
        response.headers_mut().insert("last-modified", date);
        response
    };
    let router = shelf.router().layer(from_fn(guard));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let endpoint = format!("http://{}", listener.local_addr().expect("bound"));
    tokio::spawn(async move { axum::serve(listener, router).await });
    (shelf, endpoint)
}

#[cfg(feature = "object-store")]
#[tokio::test]
async fn from_google_cloud_storage() {
    let (shelf, endpoint) = cloud("Bearer ya29.test").await;
    let (signer, two) = (Signer::new(), build("2.0.0", ""));
    shelf.publish("/releases/app", &two, &signer);
    let settings = json!({
        "source": "store gs://releases/app", "key": signer.public(),
        "options": [["google_base_url", endpoint], ["google_allow_http", "true"]],
    });
    upgrades_with(settings, &two, &[("GOOGLE_BEARER_TOKEN", "ya29.test")]).await;
    assert_eq!(shelf.statuses("/releases/app"), [200, 304], "the second look has an ETag");
    assert_eq!(shelf.statuses("/releases/app.minisig"), [200]);
}

#[cfg(feature = "object-store")]
#[tokio::test]
async fn from_azure() {
    let (shelf, endpoint) = cloud("SharedKey account:").await;
    let (signer, two) = (Signer::new(), build("2.0.0", ""));
    shelf.publish("/releases/app", &two, &signer);
    let settings = json!({
        "source": "store az://releases/app", "key": signer.public(),
        "options": [["azure_storage_endpoint", endpoint], ["azure_allow_http", "true"]],
    });
    let environment =
        [("AZURE_STORAGE_ACCOUNT_NAME", "account"), ("AZURE_STORAGE_ACCOUNT_KEY", "c2VjcmV0")];
    upgrades_with(settings, &two, &environment).await;
    assert_eq!(shelf.statuses("/releases/app"), [200, 304], "the second look has an ETag");
    assert!(shelf.asked("/releases/app")[0].header("x-ms-version").is_some());
}

#[tokio::test]
async fn it_looks_by_itself_again_and_again() {
    let (shelf, signer, two) = (Shelf::open().await, Signer::new(), build("2.0.0", ""));
    let mut settings = http(&shelf.url("/app"), &signer);
    settings["interval"] = 50.into();
    let app = Watching::start(&build("1.0.0", ""), settings).await;
    // Nothing is there: it waits longer from time to time, and goes on.
    app.until("two failures", |status| status["upgrade"]["failures"] == 2).await;
    shelf.publish("/app", &two, &signer);
    app.until("an upgrade", |status| status["upgrade"]["counts"]["upgraded"] == 1).await;
    app.serves("2.0.0").await;
    app.until("further looks", |status| {
        status["upgrade"]["counts"]["unchanged"].as_u64() > Some(3)
    })
    .await;
    assert_eq!(shelf.statuses("/app").iter().filter(|status| **status == 200).count(), 1);
    tokio::time::timeout(Duration::from_secs(10), async {
        app.server.process.signal(nix::sys::signal::Signal::SIGTERM);
        assert!(app.server.process.exit(Duration::from_secs(10)).await.success());
    })
    .await
    .unwrap();
}

#[cfg(feature = "progress")]
#[tokio::test]
async fn on_a_terminal_one_can_see_how_it_goes() {
    if !std::path::Path::new("/usr/bin/script").exists() {
        return skip("there is no script(1) to give it a terminal");
    }
    let (shelf, signer, two) = (Shelf::open().await, Signer::new(), build("2.0.0", ""));
    shelf.publish("/app", &two, &signer);
    let mut settings = http(&shelf.url("/app"), &signer);
    settings["bar"] = true.into();
    let one = build("1.0.0", "");
    let terminal = ["-c", "exec script -qec \"$*\" /dev/null", "sh"];
    let on_a_terminal =
        |setup: crate::support::server::Setup, _: &std::path::Path| setup.under("sh", &terminal);
    let app = Watching::with(&one, settings.clone(), on_a_terminal).await;
    assert_eq!(app.check().await.1["outcome"], "upgraded");
    app.server.process.any_line("MiB/").await;
    // And nowhere else.
    let app = Watching::start(&one, settings).await;
    assert_eq!(app.check().await.1["outcome"], "upgraded");
    app.server.generation(2).await;
    assert!(!app.server.process.lines().iter().any(|line| line.contains("MiB/")));
}
