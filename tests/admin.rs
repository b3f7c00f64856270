//! The control socket: what it shows, and that a deploy script can trust its answers.
#![cfg(all(target_os = "linux", feature = "admin"))]

mod support;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use support::load::Load;
use support::server::{Server, Setup, deploy};
use support::{app, process, procfs};

const LONG: Duration = Duration::from_secs(10);

/// Fails to build the app while the file `TEST_BREAK` is there, and waits while `TEST_HANG` is.
#[test]
#[ignore = "the server that the tests start"]
fn server() {
    let exists = |name| std::env::var_os(name).is_some_and(|path| Path::new(&path).exists());
    let build = async move || {
        if exists("TEST_BREAK") {
            return Err("the app cannot be built");
        }
        while exists("TEST_HANG") {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(app::app(support::server::generation))
    };
    let server = support::server::options(graceful::serve_with(build));
    support::server::finish(server.run());
}

/// A server with a control socket, and the files that break its next workers.
struct Controlled {
    server: Server,
    directory: TempDir,
}

impl Controlled {
    async fn start() -> Self {
        Self::with(|setup| setup).await
    }

    async fn with(more: impl FnOnce(Setup) -> Setup) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let path = |name| directory.path().join(name);
        let setup = Setup::new()
            .env("TEST_ADMIN", path("admin.sock").display())
            .env("TEST_BREAK", path("break").display())
            .env("TEST_HANG", path("hang").display())
            .env("TEST_WATCH", 20);
        let server = more(setup).start().await;
        Self { server, directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    async fn ask(&self, method: &str, target: &str) -> (u16, String) {
        ask(&self.path("admin.sock"), method, target).await
    }

    async fn json(&self, method: &str, target: &str) -> (u16, Value) {
        let (status, body) = self.ask(method, target).await;
        (status, serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {body}")))
    }

    /// Waits until the status is as wanted; the workers report it when they are asked.
    async fn status(&self, what: &str, is_it: impl Fn(&Value) -> bool) -> Value {
        let waiting = async {
            loop {
                let (_, status) = self.json("GET", "/status").await;
                if is_it(&status) {
                    return status;
                }
            }
        };
        tokio::time::timeout(LONG, waiting).await.unwrap_or_else(|_| panic!("{what}"))
    }
}

async fn ask(path: &Path, method: &str, target: &str) -> (u16, String) {
    let mut stream = UnixStream::connect(path).await.expect("connect");
    let request = format!("{method} {target} HTTP/1.1\r\nhost: app\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("write");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("read");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{answer:?}"));
    let status = head.split(' ').nth(1).expect("a status").parse().expect("a number");
    (status, body.to_owned())
}

#[tokio::test]
async fn only_the_user_can_open_it_and_it_goes_with_the_server() {
    // With a umask that forbids nothing.
    let server = Controlled::with(|setup| setup.under("sh", &["-c", "umask 0; exec \"$@\"", "sh"]));
    let server = server.await;
    let path = server.path("admin.sock");
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let (status, _) = server.json("POST", "/stop").await;
    assert_eq!(status, 202);
    assert!(server.server.process.exit(LONG).await.success());
    assert!(!path.exists());
}

#[tokio::test]
async fn a_killed_server_does_not_block_the_socket_of_the_next() {
    let server = Controlled::start().await;
    let path = server.path("admin.sock");
    server.server.process.kill();
    assert!(path.exists());
    let again = Setup::new().env("TEST_ADMIN", path.display()).start().await;
    assert_eq!(ask(&path, "GET", "/status").await.0, 200);
    drop(again);
}

#[tokio::test]
async fn the_status_names_workers_requests_and_deadlines() {
    let server = Controlled::start().await;
    let mut slow = TcpStream::connect(server.server.addr()).await.unwrap();
    slow.write_all(b"GET /slow?ms=60000 HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let _new = TcpStream::connect(server.server.addr()).await.unwrap();
    let status = server
        .status("both connections are seen", |status| {
            let connections = &status["workers"][0]["connections"];
            connections["active"] == 1 && connections["new"] == 1
        })
        .await;
    assert_eq!(status["state"], "serving");
    assert_eq!(status["pid"], server.server.process.pid());
    assert_eq!(status["generation"], 1);
    assert_eq!(status["in_flight"], 1);
    assert_eq!(status["restarts"], 0);
    assert_eq!(status["last_reload"], Value::Null);
    let program = std::env::current_exe().unwrap();
    assert_eq!(status["program"], program.to_str().unwrap());
    let worker = &status["workers"][0];
    let [pid] = procfs::workers(server.server.process.pid())[..] else { panic!("one worker") };
    assert_eq!((&worker["pid"], &worker["state"]), (&pid.into(), &"serving".into()));
    assert_eq!(worker["drain_deadline"], Value::Null);
    assert_eq!(worker["program"]["path"], program.to_str().unwrap());
    let digest = std::process::Command::new("sha256sum").arg(&program).output().unwrap();
    let digest = String::from_utf8(digest.stdout).unwrap();
    let digest = digest.split_whitespace().next().unwrap();
    assert_eq!(worker["program"]["sha256"], digest);
    let oldest = &worker["oldest_requests"][0];
    assert_eq!((&oldest["method"], &oldest["path"]), (&"GET".into(), &"/slow".into()));
    assert!(oldest["age"].as_f64().unwrap() < 10.0);

    let (code, answer) = server.json("POST", "/reload?wait").await;
    assert_eq!((code, &answer["generation"]), (200, &2.into()));
    let status = server
        .status("the old one drains", |status| {
            status["workers"][0]["state"] == "draining" && status["workers"][0]["in_flight"] == 1
        })
        .await;
    assert_eq!(status["workers"][0]["oldest_requests"][0]["path"], "/slow");
    let deadline = status["workers"][0]["drain_deadline"].as_f64().unwrap();
    assert!(deadline > 0.0 && deadline <= 20.0, "{deadline}");
    assert_eq!(status["workers"][1]["state"], "serving");
    assert_eq!(status["last_reload"]["succeeded"], true);
    assert_eq!(status["last_reload"]["generation"], 2);

    let (code, page) = server.ask("GET", "/").await;
    assert_eq!(code, 200);
    assert!(page.contains("GET /slow"), "{page}");
    process::signal(server.server.process.pid(), Signal::SIGUSR2);
    server.status("it is cut", |status| status["workers"].as_array().unwrap().len() == 1).await;
}

#[tokio::test]
async fn a_reload_that_is_waited_for_tells_its_outcome() {
    let server = Controlled::start().await;
    let load = Load::new(server.server.addr()).keep_alive(8, Duration::from_millis(5)).start();
    for good in [2, 4] {
        let (code, answer) = server.json("POST", "/reload?wait").await;
        assert_eq!((code, &answer["generation"]), (200, &good.into()));
        load.generation(good).await;
        std::fs::write(server.path("break"), "").unwrap();
        let (code, answer) = server.json("POST", "/reload?wait").await;
        assert_eq!(code, 500);
        let why = answer["error"].as_str().unwrap();
        assert!(why.contains("the reload failed"), "{why}");
        assert!(why.contains("the app cannot be built"), "{why}");
        let (_, status) = server.json("GET", "/status").await;
        assert_eq!((&status["state"], &status["generation"]), (&"serving".into(), &good.into()));
        assert_eq!(status["last_reload"]["succeeded"], false);
        std::fs::remove_file(server.path("break")).unwrap();
    }
    let (_, status) = server.json("GET", "/status").await;
    assert_eq!(status["reloads"]["succeeded"], 2);
    assert_eq!(status["reloads"]["failed"], 2);
    let report = load.stop().await;
    assert_eq!(report.lost(), 0, "{report}");
}

#[tokio::test]
async fn a_rollback_returns_to_the_binary_before_which_is_gone_by_then() {
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("app");
    deploy(&program);
    let server = Controlled::with(|setup| setup.program_at(&program)).await;
    let (code, answer) = server.json("POST", "/rollback?wait").await;
    assert_eq!(code, 500);
    assert!(answer["error"].as_str().unwrap().contains("no previous binary"), "{answer}");

    let digest = async || {
        let serves = |status: &Value| status["workers"].as_array().unwrap().len() == 1;
        let status = server.status("one serves", serves).await;
        status["workers"][0]["program"]["sha256"].as_str().unwrap().to_owned()
    };
    let first = digest().await;
    deploy(&program);
    assert_eq!(server.json("POST", "/reload?wait").await.0, 200);
    let second = digest().await;
    assert_ne!(first, second);
    assert_eq!(server.json("POST", "/rollback?wait").await.0, 200);
    assert_eq!(digest().await, first);
}

#[tokio::test]
async fn nothing_is_forgotten_when_the_master_becomes_another_program() {
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("app");
    deploy(&program);
    let server = Controlled::with(|setup| setup.program_at(&program)).await;
    let (_, before) = server.json("GET", "/status").await;
    deploy(&program);
    assert_eq!(server.json("POST", "/reload?wait").await.0, 200);
    // Each of these is answered, by the one or the other.
    let asking = async {
        loop {
            assert_eq!(server.ask("GET", "/metrics").await.0, 200);
        }
    };
    tokio::select! {
        () = asking => unreachable!(),
        () = server.server.becomes(&program) => {}
    }
    let (_, after) = server.json("GET", "/status").await;
    for name in ["pid", "program", "restarts"] {
        assert_eq!(after[name], before[name], "{name}");
    }
    assert!((after["started"].as_f64().unwrap() - before["started"].as_f64().unwrap()).abs() < 0.1);
    assert_eq!((&after["state"], &after["generation"]), (&"serving".into(), &2.into()));
    assert_eq!(after["reloads"]["succeeded"], 1);
    assert_eq!(after["last_reload"]["generation"], 2);
    assert_eq!(server.json("POST", "/reload?wait").await.0, 200);
    let path = server.path("admin.sock");
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(server.json("POST", "/stop").await.0, 202);
    assert!(server.server.process.exit(LONG).await.success());
    assert!(!path.exists());
}

#[tokio::test]
async fn who_asks_during_a_reload_hears_of_the_next_one() {
    let server = Controlled::start().await;
    std::fs::write(server.path("hang"), "").unwrap();
    let first = async {
        let (code, answer) = server.json("POST", "/reload?wait").await;
        assert_eq!((code, &answer["generation"]), (200, &2.into()));
    };
    let second = async {
        server.status("it runs", |status| status["reloads"]["running"] == true).await;
        let release = async {
            // Asked by now, or a moment later; then it is the next one all the same.
            server.ask("GET", "/status").await;
            std::fs::remove_file(server.path("hang")).unwrap();
        };
        let ((code, answer), ()) = tokio::join!(server.json("POST", "/reload?wait"), release);
        assert_eq!((code, &answer["generation"]), (200, &3.into()));
    };
    tokio::join!(first, second);
}

#[tokio::test]
async fn a_stop_answers_those_who_wait() {
    let server = Controlled::start().await;
    std::fs::write(server.path("hang"), "").unwrap();
    let waiting = async {
        let (code, answer) = server.json("POST", "/reload?wait").await;
        assert_eq!(code, 500);
        assert!(answer["error"].as_str().unwrap().contains("stopping"), "{answer}");
    };
    let stopping = async {
        server.status("it runs", |status| status["reloads"]["running"] == true).await;
        server.server.process.signal(Signal::SIGTERM);
    };
    tokio::join!(waiting, stopping);
    assert!(server.server.process.exit(LONG).await.success());
}

#[tokio::test]
async fn the_metrics_are_lines_that_prometheus_reads() {
    let server = Controlled::start().await;
    assert_eq!(server.json("POST", "/reload?wait").await.0, 200);
    let [worker] = {
        server
            .status("one is left", |status| status["workers"].as_array().unwrap().len() == 1)
            .await;
        procfs::workers(server.server.process.pid())[..].try_into().expect("one worker")
    };
    process::signal(worker, Signal::SIGKILL);
    server
        .status("it is replaced", |status| {
            status["restarts"] == 1
                && status["workers"][0]["connections"]["new"] == 0
                && status["workers"][0]["state"] == "serving"
        })
        .await;
    let (code, text) = server.ask("GET", "/metrics").await;
    assert_eq!(code, 200);
    let mut names = Vec::new();
    for line in text.lines() {
        if let Some(head) = line.strip_prefix("# TYPE ") {
            names.push(head.split(' ').next().unwrap());
        } else if !line.starts_with("# HELP ") {
            let (metric, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line}"));
            assert_eq!(metric.split('{').next(), names.last().copied(), "{line}");
            value.parse::<f64>().unwrap_or_else(|error| panic!("{line}: {error}"));
        }
    }
    for line in [
        "graceful_generation 3",
        "graceful_worker{generation=\"3\",state=\"serving\"} 1",
        "graceful_worker_in_flight{generation=\"3\"} 0",
        "graceful_worker_connections{generation=\"3\",state=\"idle\"} 0",
        "graceful_reloads_total{outcome=\"succeeded\"} 1",
        "graceful_reloads_total{outcome=\"failed\"} 0",
        "graceful_last_reload_succeeded 1",
        "graceful_restarts_total 1",
    ] {
        assert!(text.lines().any(|other| other == line), "{line} is not in\n{text}");
    }
}

#[tokio::test]
async fn a_socket_that_cannot_be_bound_is_an_error() {
    let server = Setup::new().env("TEST_ADMIN", "/no/such/directory/admin.sock").spawn();
    assert_eq!(server.exit(LONG).await.code(), Some(1));
    server.line("cannot bind /no/such/directory/admin.sock").await;
}

#[tokio::test]
async fn the_status_keeps_what_was_cut_when_its_worker_is_gone() {
    let server = Controlled::with(|setup| setup.stop_timeout(Duration::from_millis(100))).await;
    let mut slow = TcpStream::connect(server.server.addr()).await.unwrap();
    slow.write_all(b"GET /slow?ms=600000 HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    server.status("it is in flight", |status| status["in_flight"] == 1).await;
    let (status, _) = server.json("POST", "/reload?wait").await;
    assert_eq!(status, 200);
    server.server.one_worker().await;
    let status = server.status("it is cut", |status| status["cut"] == 1).await;
    let cut = &status["last_cuts"][0];
    assert_eq!((&cut["method"], &cut["path"]), (&"GET".into(), &"/slow".into()));
    assert_eq!((&cut["generation"], &cut["upgraded"]), (&1.into(), &false.into()));
    assert!(cut["age"].as_f64().unwrap() >= 0.1 && cut["at"].as_f64().unwrap() > 0.0, "{cut}");
    let (_, metrics) = server.ask("GET", "/metrics").await;
    assert!(metrics.contains("graceful_requests_cut_total 1\n"), "{metrics}");
}
