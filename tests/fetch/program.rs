//! The program under test, and how a test starts and asks it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::Router;
use axum::routing::{get, post};
use graceful::Handle;
use graceful::fetch::{File, GitHubRelease, Http, Release, Upgrade, from_fn};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::build;
use crate::support::process::Program;
use crate::support::server::{Server, Setup};
use crate::support::{app, server};

/// Runs the server that watches as `TEST_UPGRADE` says.
pub(crate) fn serve() {
    let (version, fault) = build::own();
    let upgrade = match std::env::var("TEST_UPGRADE") {
        Ok(settings) => upgrade(&serde_json::from_str(&settings).expect("JSON")),
        // The check run, which sees none of it.
        Err(_) => Upgrade::from(from_fn(async |_| Ok(None))).allow_unverified(),
    };
    let upgrade = match version.as_str() {
        "none" => upgrade.allow_downgrade(),
        // Without a word on it.
        "unknown" => upgrade,
        version => upgrade.version(version),
    };
    let is_checked = std::env::var_os("GRACEFUL_CHECK").is_some();
    if is_checked && fault == "endless" {
        std::thread::sleep(Duration::from_secs(1000));
    }
    if is_checked && fault == "talks" {
        loop {
            println!("{}", "x".repeat(1 << 16));
        }
    }
    let build = async move || {
        if fault.starts_with("needs ") && std::env::var_os(&fault[6..]).is_none() {
            return Err(std::io::Error::other(format!("{fault}, which is not there")));
        }
        if let Some(after) = fault.strip_prefix("die ").filter(|_| !is_checked) {
            let after = Duration::from_millis(after.parse().expect("milliseconds"));
            tokio::spawn(async move {
                while server::generation() == 0 {
                    tokio::task::yield_now().await;
                }
                tokio::time::sleep(after).await;
                std::process::abort();
            });
        }
        let routes: Router = app::routes().route("/version", get(async move || version)).route(
            "/check",
            post(async |handle: Handle| handle.check_for_upgrade().is_ok().to_string()),
        );
        Ok(app::with_headers(routes, server::generation))
    };
    server::finish(server::options(graceful::serve_with(build)).upgrade(upgrade).run());
}

fn upgrade(settings: &Value) -> Upgrade {
    let text = |name: &str| settings[name].as_str().map(str::to_owned);
    let millis = |name: &str| settings[name].as_u64().map(Duration::from_millis);
    let source = text("source").expect("a source");
    let mut upgrade = match source.split_once(' ').expect("a kind of source") {
        ("http", url) => {
            let http = Http::new(url).expect("a URL").header("x-token", "secret");
            let mut http = http.expect("a header");
            if let Some(path) = text("roots") {
                http = http.root_certificates(path).expect("certificates");
            }
            Upgrade::from(http)
        }
        ("github", url) => {
            let source = GitHubRelease::new("owner", "app").expect("a repository");
            let source = source.base_url(url).expect("a URL").token_env("TEST_TOKEN");
            Upgrade::from(source)
        }
        #[cfg(feature = "object-store")]
        ("store", url) => {
            let options: Vec<(String, String)> =
                serde_json::from_value(settings["options"].clone()).expect("pairs");
            let options = options.iter().map(|(key, value)| (key.as_str(), value.as_str()));
            Upgrade::from(graceful::fetch::ObjectStore::new(url, options).expect("a store"))
        }
        ("file", path) => Upgrade::from(File::new(path).settle(Duration::from_millis(50))),
        ("closure", path) => {
            let path = path.to_owned();
            Upgrade::from(from_fn(move |_| {
                let path = path.clone();
                assert!(Path::new(&path).exists(), "the fetcher has a bug");
                async move {
                    // A length in a file of its own, for one that lies.
                    let length = tokio::fs::read_to_string(format!("{path}.length")).await.ok();
                    let file = tokio::fs::File::open(&path).await?;
                    let release = Release::from_reader(file);
                    Ok(Some(release.length(length.and_then(|length| length.parse().ok()))))
                }
            }))
        }
        (kind, _) => panic!("there is no source {kind}"),
    };
    upgrade = upgrade.interval(millis("interval")).min_interval(Duration::from_millis(1));
    if let Some(key) = text("key") {
        upgrade = upgrade.minisign(key);
    }
    if let Some(digest) = text("sha256") {
        upgrade = upgrade.sha256(digest);
    }
    if settings["unverified"] == true {
        upgrade = upgrade.allow_unverified();
    }
    if settings["downgrade"] == true {
        upgrade = upgrade.allow_downgrade();
    }
    if settings["install_only"] == true {
        upgrade = upgrade.auto_reload(false);
    }
    if let Some(size) = settings["max_size"].as_u64() {
        upgrade = upgrade.max_size(size);
    }
    if let Some(limit) = millis("time_limit") {
        upgrade = upgrade.time_limit(limit);
    }
    if let Some(limit) = millis("check_limit") {
        upgrade = upgrade.check_limit(limit);
    }
    if let Some(directory) = text("versions") {
        upgrade = upgrade.versions(directory);
    }
    #[cfg(feature = "progress")]
    if settings["bar"] == true {
        upgrade = upgrade.progress_bar();
    }
    if let Some(name) = text("check_env") {
        upgrade = upgrade.check_env(name);
    }
    if let Some(limit) = millis("hook_limit") {
        upgrade = upgrade.hook_limit(limit);
    }
    if settings["hang"] == true {
        upgrade = upgrade.pre_upgrade(async |_| std::future::pending::<Result<(), String>>().await);
    }
    if let Some(path) = text("panic") {
        // As long as this file is there.
        upgrade = upgrade.pre_upgrade(move |_| {
            assert!(!Path::new(&path).exists(), "the hook has a bug");
            async { Ok::<_, String>(()) }
        });
    }
    if let Some(why) = text("refuse") {
        upgrade = upgrade.pre_upgrade(move |candidate| {
            assert!(candidate.path.exists() && candidate.sha256.len() == 64);
            let why = format!("{why} {}", candidate.version.unwrap_or_default());
            async move { Err::<(), _>(why) }
        });
    }
    upgrade
}

/// A server that watches for upgrades, with the directory that its program is in.
pub(crate) struct Watching {
    pub(crate) server: Server,
    pub(crate) directory: TempDir,
    admin: PathBuf,
    _sockets: TempDir,
}

impl Watching {
    /// Starts `content` with these settings.
    pub(crate) async fn start(content: &[u8], settings: Value) -> Self {
        Self::with(content, settings, |setup, _| setup).await
    }

    pub(crate) async fn with(
        content: &[u8],
        settings: Value,
        more: impl FnOnce(Setup, &Path) -> Setup,
    ) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("app");
        build::put(&path, content);
        Self::at(&path, directory, settings, more).await
    }

    /// Starts what is in the directory already.
    pub(crate) async fn at(
        program: &Path,
        directory: TempDir,
        settings: Value,
        more: impl FnOnce(Setup, &Path) -> Setup,
    ) -> Self {
        let sockets = tempfile::tempdir().expect("a directory");
        let admin = sockets.path().join("admin.sock");
        let setup = setup(program, settings).env("TEST_ADMIN", admin.display());
        let server = more(setup, directory.path()).start().await;
        Self { server, directory, admin, _sockets: sockets }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.directory.path().join("app")
    }

    /// Looks for an upgrade, and waits for the outcome.
    pub(crate) async fn check(&self) -> (u16, Value) {
        self.ask("POST", "/upgrade?wait").await
    }

    /// Why a look failed.
    pub(crate) async fn failure(&self) -> String {
        let (status, answer) = self.check().await;
        assert_eq!(status, 500, "{answer}");
        answer["error"].as_str().expect("a reason").to_owned()
    }

    pub(crate) async fn status(&self) -> Value {
        self.ask("GET", "/status").await.1
    }

    pub(crate) async fn ask(&self, method: &str, target: &str) -> (u16, Value) {
        let (status, body) = self.text(method, target).await;
        (status, serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {body}")))
    }

    pub(crate) async fn text(&self, method: &str, target: &str) -> (u16, String) {
        let mut stream = UnixStream::connect(&self.admin).await.expect("connect");
        let request = format!("{method} {target} HTTP/1.1\r\nhost: app\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("write");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("read");
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{answer:?}"));
        let status = head.split(' ').nth(1).expect("a status").parse().expect("a number");
        (status, body.to_owned())
    }

    /// Waits until the status is as wanted.
    pub(crate) async fn until(&self, what: &str, is_it: impl Fn(&Value) -> bool) -> Value {
        let waiting = async {
            loop {
                let status = self.status().await;
                if is_it(&status) {
                    return status;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let found = tokio::time::timeout(Duration::from_secs(60), waiting).await;
        match found {
            Ok(status) => status,
            Err(_) => panic!("{what}: {:#}", self.status().await),
        }
    }

    /// Waits until a worker of this version answers: the one before it may have accepted a connection
    /// in the very moment in which the reload succeeded.
    pub(crate) async fn serves(&self, version: &str) {
        let answered = async { while self.get("/version").await != version {} };
        let answered = tokio::time::timeout(Duration::from_secs(10), answered).await;
        answered.unwrap_or_else(|_| panic!("version {version} does not answer"));
    }

    pub(crate) async fn get(&self, path: &str) -> String {
        self.request("GET", path).await
    }

    pub(crate) async fn request(&self, method: &str, path: &str) -> String {
        let mut stream = crate::support::http::connect(self.server.addr()).await;
        let request = format!("{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n");
        crate::support::http::send(&mut stream, &request).await;
        let answer = crate::support::http::answer(&mut stream).await;
        answer.split_once("\r\n\r\n").expect("a body").1.to_owned()
    }

    /// The names of the files around the program.
    pub(crate) fn names(&self) -> Vec<String> {
        names(self.directory.path())
    }
}

pub(crate) fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).expect("a directory").flatten();
    let mut names: Vec<_> =
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

pub(crate) fn setup(program: &Path, settings: Value) -> Setup {
    let arguments = Program::server_args("server");
    let setup = Setup::from_program(Program::new(program).args(arguments));
    // Five of these without an answer and a worker is taken for hung, which it is not on a busy machine.
    setup.env("TEST_UPGRADE", settings).env("TEST_WATCH", 300)
}

/// Settings for a binary behind this URL that is signed.
pub(crate) fn http(url: &str, signer: &build::Signer) -> Value {
    json!({ "source": format!("http {url}"), "key": signer.public() })
}
