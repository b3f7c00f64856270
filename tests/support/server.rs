//! `graceful::serve` as a server under test: one `#[test] #[ignore]` function per test program calls
//! [`serve`], and the tests start it with the options in its environment.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::extract::ConnectInfo;
use graceful::listener::UnixPeer;
use graceful::{Handle, Serve};

use super::app;
use super::process::{Process, Program};

/// Runs the server with the options that [`Setup`] has put into the environment.
pub(crate) fn serve() {
    let build = async || {
        let fault = Fault::read();
        fault.before_ready().await;
        let app = app::routes()
            .route("/peer", axum::routing::get(peer))
            .route("/healthz", axum::routing::get(async move || fault.health().await))
            .route(
                "/rollback",
                axum::routing::post(async |handle: Handle| handle.rollback().is_ok().to_string()),
            )
            .route(
                "/reload",
                axum::routing::post(async |handle: Handle| handle.reload().is_ok().to_string()),
            )
            .route("/stop", axum::routing::post(async |handle: Handle| handle.stop()))
            .route(
                "/untried",
                axum::routing::post(async |handle: Handle| {
                    handle.reload_untried().is_ok().to_string()
                }),
            );
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
static GENERATION: AtomicU64 = AtomicU64::new(0);

pub(crate) fn generation() -> u64 {
    GENERATION.load(Ordering::Relaxed)
}

/// What is wrong with the program: the content of the file that `TEST_FAULT` names, read by each worker
/// when it starts. An empty or missing file is a good program.
#[derive(Clone, Debug)]
struct Fault(String);

impl Fault {
    fn read() -> Self {
        let path = std::env::var_os("TEST_FAULT");
        Self(path.and_then(|path| std::fs::read_to_string(path).ok()).unwrap_or_default())
    }

    async fn before_ready(&self) {
        match self.0.split_once(' ').unwrap_or((&self.0, "")) {
            ("hang", _) => std::future::pending().await,
            ("panic", _) => panic!("the app panics while it is built"),
            ("block", _) => std::thread::sleep(Duration::from_secs(1000)),
            ("die", after) => {
                let after = Duration::from_millis(after.parse().expect("milliseconds"));
                tokio::spawn(async move {
                    while generation() == 0 {
                        tokio::task::yield_now().await;
                    }
                    tokio::time::sleep(after).await;
                    std::process::abort();
                });
            }
            ("freeze", after) => {
                let after = Duration::from_millis(after.parse().expect("milliseconds"));
                std::thread::spawn(move || {
                    std::thread::sleep(after);
                    let own = nix::unistd::Pid::this();
                    nix::sys::signal::kill(own, nix::sys::signal::Signal::SIGSTOP)
                });
            }
            _ => {}
        }
    }

    async fn health(&self) -> axum::http::StatusCode {
        match self.0.as_str() {
            "mute" => std::future::pending().await,
            "sick" => axum::http::StatusCode::INTERNAL_SERVER_ERROR,
            _ => axum::http::StatusCode::OK,
        }
    }
}

pub(crate) fn options<A>(mut server: Serve<A>) -> Serve<A> {
    if std::env::var_os("TEST_LOG").is_some() {
        tracing_subscriber::fmt().with_ansi(false).init();
    }
    if std::env::var_os("GRACEFUL_CHECK").is_some() {
        // The harness has begun the line on which the answer would stand.
        println!();
    }
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
    if let Ok(generations) = std::env::var("TEST_DRAINING") {
        server = server.max_draining(generations.parse().expect("a number"));
    }
    if std::env::var_os("TEST_SIGNALS").is_some() {
        server = server
            .reload_signals([graceful::Signal::WINCH])
            .stop_signals([graceful::Signal::QUIT])
            .hammer_signal(None);
    }
    if let Some(time) = millis("TEST_LIMIT") {
        server = server.hook_timeout(time);
    }
    if let Some(time) = millis("TEST_WATCH") {
        server = server.watch_interval(time);
    }
    if let Ok(restarts) = std::env::var("TEST_RESTARTS") {
        let restarts = restarts.parse().expect("a number");
        let first = Duration::from_millis(10);
        server = server.max_restarts(restarts, Duration::from_secs(60)).backoff(first, first);
    }
    if let Some(time) = millis("TEST_BACKOFF") {
        server = server.backoff(time, time);
    }
    if std::env::var_os("TEST_CHECK").is_some() {
        server = server.check_before_reload(true);
    }
    if let Ok(path) = std::env::var("TEST_HEALTH") {
        let own = || async {
            match Fault::read().0.as_str() {
                "ill" => Err("the database is gone"),
                _ => Ok(()),
            }
        };
        let path = if path.starts_with('/') { path } else { "/healthz".to_owned() };
        server = server.health_check(path).health_check_with(own);
    }
    if let Some(path) = std::env::var_os("TEST_TAKEN") {
        // A program that wants one more address.
        if let Ok(address) = std::fs::read_to_string(path) {
            server = server.bind(address);
        }
    }
    if std::env::var_os("TEST_STAY").is_some() {
        server = server.hand_over(false);
    }
    if let Some(path) = std::env::var_os("TEST_PID_FILE") {
        server = server.pid_file(path);
    }
    #[cfg(feature = "admin")]
    if let Some(path) = std::env::var_os("TEST_ADMIN") {
        server = server.admin(path);
    }
    if std::env::var_os("TEST_PLACES").is_some() {
        server = places(server, &own_text());
    }
    if let Some(directory) = std::env::var_os("TEST_GATES") {
        server = gates(server, directory.into());
    }
    if std::env::var_os("TEST_SINGLE").is_some() {
        server = server.single_process();
    }
    server = server
        .after_reload(async |outcome| match outcome {
            Ok(generation) => println!("reloaded: {generation} by {}", std::process::id()),
            Err(why) => println!("reload failed: {why}"),
        })
        .on_rollback(async |why| println!("rolled back: {why}"));
    let pause = millis("TEST_HOOK").unwrap_or_default();
    let handle = server.handle();
    server.on_ready(move |started| {
        GENERATION.store(started.generation, Ordering::Relaxed);
        println!("ready: {} {}", started.generation, started.addresses.join(" "));
        let (handle, generation) = (handle.clone(), started.generation);
        tokio::spawn(async move {
            handle.active().await;
            println!("active: {generation}");
        });
        // Its sockets are open by now, and the master has not heard of it yet.
        std::thread::sleep(pause);
    })
}

/// Whether a server hands its connections over unless told otherwise: `TEST_STAY` may be set for all tests.
pub(crate) fn hands_over() -> bool {
    std::env::var_os("TEST_STAY").is_none()
}

/// What [`deploy_with`] has written at the end of this program.
fn own_text() -> String {
    use std::io::{Read, Seek, SeekFrom};
    let mut program = std::fs::File::open("/proc/self/exe").expect("this program");
    program.seek(SeekFrom::End(-4096)).expect("it is longer");
    let mut end = Vec::new();
    program.read_to_end(&mut end).expect("read");
    let end = String::from_utf8_lossy(&end);
    end.rsplit_once(TEXT).map_or_else(String::new, |(_, text)| text.to_owned())
}

/// What a build of the program wants to open beside its listeners, line by line. A `blind` one says nothing
/// of that when it is asked.
fn places<A>(mut server: Serve<A>, text: &str) -> Serve<A> {
    if text.contains("blind") && std::env::var_os("GRACEFUL_CHECK").is_some() {
        return server;
    }
    for (what, path) in text.lines().filter_map(|line| line.split_once(' ')) {
        server = match what {
            #[cfg(feature = "admin")]
            "admin" => server.admin(path),
            "pid" => server.pid_file(path),
            "bind" => server.bind(path),
            other => panic!("{other}"),
        };
    }
    server
}

/// Hooks for each moment, which say when they begin and end. Where a file of the moment's name is in the
/// directory, they wait until it is gone, or panic if that is what it says.
fn gates<A>(server: Serve<A>, directory: std::path::PathBuf) -> Serve<A> {
    if std::env::var_os("GRACEFUL_CHECK").is_some() {
        std::fs::write(directory.join("asked"), "").expect("write");
    }
    let gate = move |moment: String| {
        let file = directory.join(&moment);
        async move {
            println!("{moment} begins");
            while let Ok(text) = std::fs::read_to_string(&file) {
                assert_ne!(text, "panic", "as the test wants it");
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            println!("{moment} ends");
        }
    };
    let [before, after, reload, reloaded, retire] = std::array::from_fn(|_| gate.clone());
    server
        .before_signal(move |signal| before(format!("before-{signal}")))
        .after_signal(move |signal| after(format!("after-{signal}")))
        .before_reload(move || reload("before-reload".to_owned()))
        .after_reload(move |_| reloaded("after-reload".to_owned()))
        .on_retire(move || retire("retire".to_owned()))
}

/// A server to start, on a free port unless told otherwise.
#[derive(Debug)]
#[must_use]
pub(crate) struct Setup(Program);

impl Setup {
    /// The server is the ignored test function `server` of this test program. No trial, so that a
    /// reload is over when the new worker is ready.
    pub(crate) fn new() -> Self {
        Self::of(Program::this_test("server"))
    }

    fn of(program: Program) -> Self {
        // The text of a backtrace takes a debug build seconds, and so does the death by panic then.
        let program = program.env("RUST_BACKTRACE", "0");
        Self(program.env("TEST_BIND", "127.0.0.1:0").env("TEST_BAKE", "0"))
    }

    /// Any program that is such a server.
    pub(crate) fn from_program(program: Program) -> Self {
        Self(program.env("TEST_BIND", "127.0.0.1:0").env("TEST_BAKE", "0"))
    }

    pub(crate) fn env(self, name: &str, value: impl ToString) -> Self {
        Self(self.0.env(name, value.to_string()))
    }

    pub(crate) fn bind(self, addresses: &str) -> Self {
        self.env("TEST_BIND", addresses)
    }

    /// The trial that a server has unless told otherwise.
    pub(crate) fn default_trial(self) -> Self {
        Self(self.0.env_remove("TEST_BAKE"))
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

    /// The same server from another file, a copy of this program.
    pub(crate) fn program_at(self, path: &std::path::Path) -> Self {
        Self(self.0.at(path))
    }

    /// The same server, but started by another program.
    pub(crate) fn under(self, program: &str, args: &[&str]) -> Self {
        Self(self.0.under(program, args))
    }

    pub(crate) fn stdin(self, stdin: impl Into<std::process::Stdio>) -> Self {
        Self(self.0.stdin(stdin))
    }

    /// The same, from a copy of the test program, which a deploy may replace.
    pub(crate) fn from_copy(path: &Path) -> Self {
        Self::from_copy_with(path, "")
    }

    /// The same from a build that wants to open these places.
    pub(crate) fn from_copy_with(path: &Path, places: &str) -> Self {
        deploy_with(path, places);
        Self::of(Program::new(path).args(Program::server_args("server")))
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
        // From here on the master survives the death of this worker: it has heard that it came up.
        process.line("active: ").await;
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

/// Stands before what a build says of itself.
const TEXT: &str = "@@ this build wants\n";

/// Replaces the program by a script, or by what is none.
pub(crate) fn script(path: &Path, content: impl AsRef<[u8]>) {
    let new = path.with_extension("new");
    std::fs::write(&new, content).expect("write a script");
    std::fs::set_permissions(&new, PermissionsExt::from_mode(0o755)).expect("make it executable");
    std::fs::rename(new, path).expect("put it in place");
}

/// Puts a new build in place: another file with another content, moved there in one step.
pub(crate) fn deploy(path: &Path) {
    deploy_with(path, "");
}

/// The same for a build that wants to open these places, where `TEST_PLACES` is set.
pub(crate) fn deploy_with(path: &Path, places: &str) {
    static BUILD: AtomicU64 = AtomicU64::new(0);
    let build = BUILD.fetch_add(1, Ordering::Relaxed);
    let own = std::env::current_exe().expect("the path of this test program");
    let new = path.with_extension("new");
    // By another process: what this one writes to while another of its threads starts a program is
    // open in that program, too, for a moment, and cannot be executed (ETXTBSY).
    // What follows the sections of an ELF file is nobody's business.
    let copy = "cp \"$1\" \"$2\" && printf 'build %s %s' \"$3\" \"$4\" >> \"$2\"";
    let text = format!("{TEXT}{places}");
    let status = std::process::Command::new("sh")
        .args(["-c", copy, "sh"])
        .args([own.as_os_str(), new.as_os_str(), build.to_string().as_ref(), text.as_ref()])
        .status()
        .expect("run a shell");
    assert!(status.success(), "cannot copy the program: {status}");
    std::fs::rename(new, path).expect("put it in place");
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

    /// Waits until each old worker has left and was waited for; gives the PID of the one that is there.
    #[cfg(target_os = "linux")]
    pub(crate) async fn one_worker(&self) -> u32 {
        let master = self.process.pid();
        super::until("one worker", || super::procfs::children(master).len() == 1).await;
        super::procfs::children(master)[0].pid
    }

    /// Waits until the master runs the program that is at this path now.
    pub(crate) async fn becomes(&self, path: &std::path::Path) {
        use std::os::unix::fs::MetadataExt;
        let id = |path: &std::path::Path| path.metadata().ok().map(|file| (file.dev(), file.ino()));
        let running = format!("/proc/{}/exe", self.process.pid());
        super::until("the master to become another program", || id(running.as_ref()) == id(path))
            .await;
    }

    /// Waits until a worker of this generation is ready.
    pub(crate) async fn generation(&self, generation: u64) {
        self.process.line(&format!("ready: {generation} ")).await;
    }
}
