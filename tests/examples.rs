//! Each example runs, answers, reloads where it can, and stops.
#![cfg(all(target_os = "linux", feature = "serve"))]

mod support;

use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::net::UnixStream;

use support::http::{answer, connect, send};
use support::process::{Process, Program};

/// The example that `cargo test` has built beside this test.
fn example(name: &str) -> Program {
    let own = std::env::current_exe().expect("the path of this test program");
    let path: PathBuf =
        own.parent().and_then(|deps| deps.parent()).expect("target/…").join("examples");
    let path = path.join(name);
    assert!(path.exists(), "{} is not built: run `cargo build --examples`", path.display());
    Program::new(path)
}

/// A port that was free a moment ago.
fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
    listener.local_addr().expect("bound").port()
}

async fn get(port: u16, path: &str) -> String {
    let mut stream = connect(([127, 0, 0, 1], port).into()).await;
    send(&mut stream, &format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n")).await;
    answer(&mut stream).await
}

async fn stop(process: &Process) {
    process.signal(Signal::SIGTERM);
    let status = process.exit(Duration::from_secs(30)).await;
    assert!(status.success(), "{status}: {:?}", process.lines());
}

#[tokio::test]
async fn hello_tells_how_to_reload_it() {
    let port = free_port();
    let hello = example("hello").env("GRACEFUL_LISTEN", format!("127.0.0.1:{port}")).start();
    hello.line(&format!("generation 1 serves http://127.0.0.1:{port}/")).await;
    hello.line(&format!("kill -HUP {}", hello.pid())).await;
    assert!(get(port, "/").await.ends_with("Hello, World!\n"));
    hello.signal(Signal::SIGHUP);
    hello.line("generation 2 serves").await;
    assert!(get(port, "/").await.ends_with("Hello, World!\n"));
    stop(&hello).await;
}

#[tokio::test]
async fn multi_serves_each_address_its_own_app() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut program = example("multi");
    program.command().current_dir(directory.path());
    let multi = program.start();
    multi.line("serves 127.0.0.1:3001, unix:multi.sock").await;
    assert!(get(3001, "/").await.ends_with("the public application\n"));
    let path = directory.path().join("multi.sock");
    let mut unix = UnixStream::connect(&path).await.expect("connect");
    send(&mut unix, "GET / HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    assert!(answer(&mut unix).await.ends_with("generation 1, 1 in flight\n"));
    drop(unix);
    stop(&multi).await;
    assert!(!path.exists(), "the file of the socket is removed");
}

/// Both take port 3000, as their first lines say.
#[tokio::test]
async fn reload_and_only_layer_do_what_they_print() {
    let reload = example("reload").start();
    reload.line("generation 1 answers \"the first answer\"").await;
    assert!(get(3000, "/").await.ends_with("the first answer (generation 1)\n"));
    reload.signal(Signal::SIGHUP);
    reload.line("reloaded: generation 2 serves").await;
    assert!(get(3000, "/").await.ends_with("the first answer (generation 2)\n"));
    stop(&reload).await;

    let only_layer = example("only_layer").start();
    only_layer.line("http://127.0.0.1:3000/slow").await;
    let slow = tokio::spawn(get(3000, "/slow"));
    only_layer.line("a slow request").await;
    only_layer.signal(Signal::SIGINT);
    only_layer.line("1 requests in flight").await;
    assert!(get(3000, "/slow").await.starts_with("HTTP/1.1 503"));
    assert!(get(3000, "/healthz").await.starts_with("HTTP/1.1 200"));
    assert!(slow.await.expect("answered").ends_with("done\n"));
    assert!(only_layer.exit(Duration::from_secs(30)).await.success());
}

#[cfg(feature = "fetch")]
#[tokio::test]
async fn self_upgrade_moves_to_its_next_version() {
    let missing = |name: &&&str| {
        let path = std::env::var_os("PATH").unwrap_or_default();
        !std::env::split_paths(&path).any(|directory| directory.join(name).is_file())
    };
    if let Some(name) = ["curl", "minisign", "python3"].iter().find(missing) {
        return support::skip(&format!("there is no {name}"));
    }
    let script = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/self_upgrade.sh");
    // As this test was built, so that little has to be built anew.
    let mut features = vec!["fetch"];
    features.extend(cfg!(feature = "admin").then_some("admin"));
    let shown = match cfg!(all(feature = "object-store", feature = "progress", feature = "tls")) {
        true => Program::new(script).args(["--all-features"]),
        false => Program::new(script).args(["--features", &features.join(",")]),
    };
    // What cargo tells a test would make it build what depends on that anew, `ring` for one.
    let is_cargos = |name: &std::ffi::OsString| {
        name.to_str().is_some_and(|name| {
            name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")
        })
    };
    let told = std::env::vars_os().map(|(name, _)| name).filter(is_cargos);
    let shown = told.fold(shown, Program::env_remove);
    let shown = shown.env("PORT", free_port().to_string()).start();
    let status = shown.exit(Duration::from_secs(900)).await;
    assert!(status.success(), "{status}");
    shown.line("version 1.0.0, generation 1").await;
    shown.line("about to install version 2.0.0").await;
    shown.line("version 2.0.0, generation 2").await;
    shown.line(" requests, 0 lost").await;
}
