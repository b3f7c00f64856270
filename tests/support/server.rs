//! `graceful::serve` as a server under test: one `#[test] #[ignore]` function per test program calls
//! [`serve`], and the tests start it with the options in its environment.

use std::net::SocketAddr;
use std::time::Duration;

use axum::extract::ConnectInfo;
use graceful::Serve;
use graceful::listener::UnixPeer;

use super::app;
use super::process::{Process, Program};

/// Runs the server with the options that [`Setup`] has put into the environment.
pub(crate) fn serve() {
    let build = async || {
        if let Ok(what) = std::env::var("TEST_BUILD") {
            break_down(&what).await;
        }
        let app = app::routes().route("/peer", axum::routing::get(peer));
        Ok::<_, std::io::Error>(app::with_headers(app, generation))
    };
    if let Ok(limit) = std::env::var("TEST_NOFILE") {
        let limit = limit.parse().expect("a number");
        nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE, limit, limit)
            .expect("a lower limit");
    }
    let server = graceful::serve_with(build);
    finish(options(server).run());
}

/// Who the server believes to talk to.
async fn peer(request: axum::extract::Request) -> String {
    let extensions = request.extensions();
    if let Some(ConnectInfo(address)) = extensions.get::<ConnectInfo<SocketAddr>>() {
        return format!("tcp {address}");
    }
    match extensions.get::<ConnectInfo<UnixPeer>>() {
        Some(ConnectInfo(peer)) => format!("unix {}", peer.pid.unwrap_or_default()),
        None => "nobody".to_owned(),
    }
}

/// Ends the test program as a `main` that returns the result would: the harness around this function
/// would add words of its own and another status.
#[allow(
    clippy::exit,
    reason = "the harness around this function would add words and another status"
)]
pub(crate) fn finish(result: Result<(), graceful::Error>) {
    if let Err(error) = &result {
        eprintln!("Error: {error:?}");
    }
    std::process::exit(i32::from(result.is_err()));
}

/// The generation as the workers' `on_ready` hook has learnt it.
static GENERATION: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);

pub(crate) fn generation() -> u64 {
    GENERATION.load(std::sync::atomic::Ordering::Relaxed)
}

/// What a worker that does not come up does instead, as told by `TEST_BUILD`.
async fn break_down(what: &str) {
    match what {
        "" => {}
        "hang" => std::future::pending().await,
        "panic" => panic!("the app panics while it is built"),
        other => panic!("unknown way to break down: {other}"),
    }
}

pub(crate) fn options<A>(mut server: Serve<A>) -> Serve<A> {
    let millis = |name: &str| {
        let value = std::env::var(name).ok()?;
        Some(Duration::from_millis(value.parse().expect("milliseconds")))
    };
    for address in std::env::var("TEST_BIND").unwrap_or_default().split_whitespace() {
        server = server.bind(address);
    }
    if let Some(time) = millis("TEST_BAKE") {
        server = server.bake_time(time);
    }
    if let Some(time) = millis("TEST_STOP") {
        server = server.stop_timeout(time);
    }
    if let Some(time) = millis("TEST_GRACE") {
        server = server.idle_grace(time);
    }
    if let Some(time) = millis("TEST_DELAY") {
        server = server.shutdown_delay(time);
    }
    if let Some(time) = millis("TEST_READY") {
        server = server.ready_timeout(time);
    }
    if let Some(time) = millis("TEST_WATCH") {
        server = server.watch_interval(time);
    }
    if std::env::var_os("TEST_STAY").is_some() {
        server = server.hand_over(false);
    }
    if std::env::var_os("TEST_SINGLE").is_some() {
        server = server.single_process();
    }
    server.on_ready(|started| {
        GENERATION.store(started.generation, std::sync::atomic::Ordering::Relaxed);
        println!("ready: {} {}", started.generation, started.addresses.join(" "));
    })
}

/// A server to start, on a free port unless told otherwise.
#[derive(Debug)]
#[must_use]
pub(crate) struct Setup(Program);

impl Setup {
    /// The server is the ignored test function `server` of this test program. No trial, so that a
    /// reload is over when the new worker is ready.
    pub(crate) fn new() -> Self {
        let program = Program::this_test("server");
        Self(program.env("TEST_BIND", "127.0.0.1:0").env("TEST_BAKE", "0"))
    }

    pub(crate) fn env(self, name: &str, value: impl ToString) -> Self {
        Self(self.0.env(name, value.to_string()))
    }

    pub(crate) fn bind(self, addresses: &str) -> Self {
        self.env("TEST_BIND", addresses)
    }

    pub(crate) fn bake(self, time: Duration) -> Self {
        self.env("TEST_BAKE", time.as_millis())
    }

    pub(crate) fn stop_timeout(self, time: Duration) -> Self {
        self.env("TEST_STOP", time.as_millis())
    }

    pub(crate) fn idle_grace(self, time: Duration) -> Self {
        self.env("TEST_GRACE", time.as_millis())
    }

    pub(crate) fn program(&mut self) -> &mut Program {
        &mut self.0
    }

    pub(crate) fn single(self) -> Self {
        self.env("TEST_SINGLE", 1)
    }

    /// Starts it and waits until its first worker is ready.
    pub(crate) async fn start(self) -> Server {
        let process = self.spawn();
        let ready = process.line("ready: ").await;
        // The harness of the test program may have begun the line.
        let (_, words) = ready.split_once("ready: ").expect("waited for");
        let addresses = words.split_whitespace().skip(1).map(str::to_owned).collect();
        Server { process, addresses }
    }

    /// Starts it and waits for nothing.
    pub(crate) fn spawn(self) -> Process {
        self.0.start()
    }
}

/// A server that is ready.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) process: Process,
    pub(crate) addresses: Vec<String>,
}

impl Server {
    pub(crate) fn addr(&self) -> SocketAddr {
        self.addresses[0].parse().expect("a TCP address")
    }

    /// Waits until a worker of this generation is ready.
    pub(crate) async fn generation(&self, generation: u64) {
        self.process.line(&format!("ready: {generation} ")).await;
    }
}
