use std::{
    fmt,
    future::{Future, IntoFuture},
    path::PathBuf,
    pin::Pin,
    time::Duration,
};

use axum::body::Body;
use http::{Request, Response};
use tokio::sync::mpsc;
use tower_service::Service;

use crate::{
    BoxError, Error,
    error::Kind,
    handle::{Command, Handle},
    listener::Address,
    orchestrator::{self, Binding, Options, Place, Signal, Started, master, single, worker},
    process::exec::{self, Parent},
    server::{App, HttpApp},
    tls::TlsConfig,
};

#[cfg(feature = "fetch")]
use crate::fetch::Upgrade;

use self::sealed::Named;

/// Serves an application until the process is told to stop; reloads it without losing a request.
///
/// Takes an axum `Router` or any other tower service that answers HTTP requests. The builder that it
/// returns is awaited, or run from a plain `fn main()` with [`run`](Serve::run).
///
/// The process that calls it first becomes the master. It binds the sockets and starts this program
/// again as a worker, in which the same call serves. `SIGHUP` starts the next worker, from the binary
/// that is in place by then; `SIGTERM` and `SIGINT` end all when the requests in flight have ended.
/// So whatever stands before the call runs in the master and in each worker; use [`serve_with`] to
/// build the application in the workers only.
///
/// # Example
///
/// ```no_run
/// use axum::{Router, routing::get};
///
/// #[tokio::main]
/// async fn main() -> Result<(), graceful::Error> {
///     let app = Router::new().route("/", get(|| async { "hello" }));
///     graceful::serve(app).bind("127.0.0.1:8080").await
/// }
/// ```
pub fn serve<S>(app: S) -> Serve<One<S>> {
    Serve::with(One(app))
}

/// Serves the application that a closure builds; it is called in each worker and never in the master.
///
/// # Example
///
/// ```no_run
/// use axum::{Router, routing::get};
///
/// async fn build() -> Result<Router, std::io::Error> {
///     let greeting = tokio::fs::read_to_string("greeting.txt").await?;
///     Ok(Router::new().route("/", get(|| async { greeting })))
/// }
///
/// fn main() -> Result<(), graceful::Error> {
///     graceful::serve_with(build).bind("127.0.0.1:8080").run()
/// }
/// ```
pub fn serve_with<F, Fut, S, E>(build: F) -> Serve<Built<F>>
where
    F: FnOnce() -> Fut + Send + 'static,
    Fut: Future<Output = Result<S, E>> + Send,
    E: Into<BoxError>,
{
    Serve::with(Built(build))
}

/// A server that is about to run: options, then `.await` or [`run`](Self::run).
///
/// Made by [`serve`], [`serve_with`] and [`Server::new`].
#[must_use = "a server does nothing until it is awaited or run"]
pub struct Serve<A> {
    apps: A,
    addresses: Vec<Named>,
    /// For every address without a configuration of its own.
    tls: Option<TlsConfig>,
    options: Options,
    handle: Handle,
    commands: mpsc::UnboundedReceiver<Command>,
}

/// A server of several applications, each on an address of its own.
///
/// # Example
///
/// ```no_run
/// use axum::{Router, routing::get};
///
/// fn main() -> Result<(), graceful::Error> {
///     graceful::Server::new()
///         .register("0.0.0.0:8080", Router::new().route("/", get(|| async { "public" })))
///         .register("unix:/run/admin.sock", Router::new().route("/", get(|| async { "private" })))
///         .run()
/// }
/// ```
pub type Server = Serve<Several>;

impl Serve<Several> {
    /// Creates a server without any application.
    pub fn new() -> Self {
        Self::with(Several(Vec::new()))
    }

    /// Serves `app` on `address` as well.
    pub fn register<S, B>(mut self, address: impl Into<String>, app: S) -> Self
    where
        S: Service<Request<Body>, Response = Response<B>> + Clone + Send + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send,
        B: http_body::Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<BoxError>,
    {
        let named = Named { address: address.into(), tls: None };
        self.apps.0.push((named, Box::new(HttpApp(app))));
        self
    }

    /// Serves `app` on `address` as well, over TLS.
    #[cfg(feature = "tls")]
    pub fn register_tls<S, B>(
        mut self,
        address: impl Into<String>,
        config: TlsConfig,
        app: S,
    ) -> Self
    where
        S: Service<Request<Body>, Response = Response<B>> + Clone + Send + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send,
        B: http_body::Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<BoxError>,
    {
        let named = Named { address: address.into(), tls: Some(config) };
        self.apps.0.push((named, Box::new(HttpApp(app))));
        self
    }
}

impl Default for Serve<Several> {
    fn default() -> Self {
        Self::new()
    }
}

impl<A> Serve<A> {
    fn with(apps: A) -> Self {
        let (handle, commands) = Handle::new();
        let options = Options::default();
        Self { apps, addresses: Vec::new(), tls: None, options, handle, commands }
    }

    /// Listens on this address; may be called several times. See [`Address`] for what can be written.
    ///
    /// Without any: on the sockets inherited through `LISTEN_FDS`, else on the comma-separated
    /// addresses in `GRACEFUL_LISTEN`, else on `PORT` of every IPv4 address, else on 127.0.0.1:3000.
    /// With any, an inherited socket that none of them names stays open and is served by nobody.
    pub fn bind(mut self, address: impl Into<String>) -> Self {
        self.addresses.push(Named { address: address.into(), tls: None });
        self
    }

    /// Listens on this address and speaks TLS there; may be called several times.
    #[cfg(feature = "tls")]
    pub fn bind_tls(mut self, address: impl Into<String>, config: TlsConfig) -> Self {
        self.addresses.push(Named { address: address.into(), tls: Some(config) });
        self
    }

    /// Speaks TLS wherever it listens: on the addresses of [`bind`](Self::bind), whether they are
    /// named before or after this, and on the default ones. The certificate chain and the key are PEM
    /// files, read anew by each worker, so that a reload renews them.
    ///
    /// For TLS on some addresses only, use [`bind_tls`](Self::bind_tls) instead.
    ///
    /// # Example
    ///
    /// ```no_run
    /// use axum::{Router, routing::get};
    ///
    /// fn main() -> Result<(), graceful::Error> {
    ///     let app = Router::new().route("/", get(|| async { "hello" }));
    ///     graceful::serve(app).tls("tls/cert.pem", "tls/key.pem").bind("0.0.0.0:443").run()
    /// }
    /// ```
    #[cfg(feature = "tls")]
    pub fn tls(
        mut self,
        cert: impl AsRef<std::path::Path>,
        key: impl AsRef<std::path::Path>,
    ) -> Self {
        self.tls = Some(TlsConfig::from_pem_files(cert, key));
        self
    }

    /// A way to talk to the server while it runs.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// The signals that start a new generation. Default: [`Signal::HUP`] and [`Signal::USR1`].
    pub fn reload_signals(mut self, signals: impl IntoIterator<Item = Signal>) -> Self {
        self.options.reload_signals = signals.into_iter().collect();
        self
    }

    /// The signals that drain and leave; a second one ends the drain at once. Default:
    /// [`Signal::TERM`] and [`Signal::INT`].
    pub fn stop_signals(mut self, signals: impl IntoIterator<Item = Signal>) -> Self {
        self.options.stop_signals = signals.into_iter().collect();
        self
    }

    /// The signal that cuts, at once, what is still draining. Default: [`Signal::USR2`].
    pub fn hammer_signal(mut self, signal: impl Into<Option<Signal>>) -> Self {
        self.options.hammer_signal = signal.into();
        self
    }

    /// How long a drain may take; what is in flight then is cut, and named in the log. Default: 20 s.
    pub fn stop_timeout(mut self, timeout: Duration) -> Self {
        self.options.stop_timeout = timeout;
        self
    }

    /// How long, at a stop, an idle keep-alive connection may wait for its last request, which is
    /// answered with `Connection: close`. Default: 2 s.
    pub fn idle_grace(mut self, grace: Duration) -> Self {
        self.options.idle_grace = grace;
        self
    }

    /// How long, at a stop, new connections are still accepted while [`Handle::is_draining`] tells
    /// probes already that this server leaves. For load balancers that need time to notice. Default: 0.
    pub fn shutdown_delay(mut self, delay: Duration) -> Self {
        self.options.shutdown_delay = delay;
        self
    }

    /// How long a new worker may take until it accepts connections; then it is killed and the reload
    /// has failed. Default: 60 s.
    pub fn ready_timeout(mut self, timeout: Duration) -> Self {
        self.options.ready_timeout = timeout;
        self
    }

    /// How long a new worker is on trial. If it dies or hangs in that time, the old one, which still
    /// has everything but does not accept, goes on as if nothing had happened. Default: 2 s.
    pub fn bake_time(mut self, time: Duration) -> Self {
        self.options.bake_time = time;
        self
    }

    /// How long a client may take for the head of a request, which is answered with 408 then, and to begin its
    /// first one after it has connected, when it is closed without a word. `None` is for ever, zero an error.
    /// Default: 30 s.
    ///
    /// It does not limit how long the body takes, nor the handler; and on HTTP/2 no head that has begun.
    pub fn header_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.options.client_limits.header_timeout = timeout.into();
        self
    }

    /// How long a connection may be idle between two requests; then it is closed, unless the next one
    /// has just come. `None` is for ever, zero an error. Default: 75 s.
    ///
    /// Behind a proxy that keeps connections, longer than the proxy keeps them.
    pub fn keep_alive_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.options.client_limits.keep_alive_timeout = timeout.into();
        self
    }

    /// How many connections this process serves at once; further ones wait, in the order in which they
    /// came, until one is closed. Default: as many as there are descriptors.
    ///
    /// # Panics
    ///
    /// At 0.
    pub fn max_connections(mut self, connections: usize) -> Self {
        assert!(connections > 0, "a server without connections serves nobody");
        self.options.client_limits.max_connections = Some(connections);
        self
    }

    /// How many header fields an HTTP/1 request may have; with more it is answered with 431. Another
    /// number than the default costs an allocation for each request. Default: 100.
    pub fn max_headers(mut self, headers: usize) -> Self {
        self.options.client_limits.max_headers = headers;
        self
    }

    /// How many bytes the head of a request may have, at least 8 KiB in HTTP/1; with more it is
    /// answered with 431. Default: about 400 KiB in HTTP/1 and 16 KiB in HTTP/2.
    pub fn max_header_size(mut self, bytes: usize) -> Self {
        self.options.client_limits.max_header_size = Some(bytes);
        self
    }

    /// How many requests an HTTP/2 client may have in flight on one connection. Default: 200.
    pub fn max_streams(mut self, streams: u32) -> Self {
        self.options.client_limits.max_streams = streams;
        self
    }

    /// How often an HTTP/2 client is asked for a sign of life; one that does not answer within 20 s is
    /// gone. `None` is never, zero an error. Default: 30 s.
    pub fn ping_interval(mut self, interval: impl Into<Option<Duration>>) -> Self {
        self.options.client_limits.ping_interval = interval.into();
        self
    }

    /// How often the master asks each worker for a sign of life; five missed ones and it is replaced.
    /// Default: 1 s.
    pub fn watch_interval(mut self, interval: Duration) -> Self {
        self.options.watch_interval = interval;
        self
    }

    /// How long to wait before a crashed worker is replaced: `first`, doubled with each further crash
    /// up to `most`, the second half of it random. Default: 100 ms to 30 s.
    pub fn backoff(mut self, first: Duration, most: Duration) -> Self {
        self.options.backoff = (first, most);
        self
    }

    /// How many crashes of workers within `window` of service are survived; one more ends the server with
    /// an error. The time in which no worker serves, because the next one waits or starts, does not count.
    /// Default: 10 in 60 s.
    pub fn max_restarts(mut self, restarts: usize, window: Duration) -> Self {
        self.options.max_restarts = restarts;
        self.options.restart_window = window;
        self
    }

    /// How many old generations may drain at once; a further reload waits until the oldest has left,
    /// which it does within [`stop_timeout`](Self::stop_timeout), or at once at the
    /// [`hammer_signal`](Self::hammer_signal). At least 1. Default: 4.
    pub fn max_draining(mut self, generations: usize) -> Self {
        self.options.max_draining = generations;
        self
    }

    /// Whether a reload hands idle keep-alive connections to the new worker, so that no client has to
    /// connect again. Concerns HTTP/1 without TLS; off, their next answer closes them. Default: on.
    pub fn hand_over(mut self, on: bool) -> Self {
        self.options.hand_over = on;
        self
    }

    /// A path that the master asks the new worker for, over its own listener, during the trial of
    /// [`bake_time`](Self::bake_time): an answer other than 2xx, or none, and the old worker goes on. Asked
    /// without TLS where the worker has such a listener; else with TLS, whatever the certificate is, but without
    /// one of its own: where every listener demands that, use [`health_check_with`](Self::health_check_with).
    /// Default: off.
    pub fn health_check(mut self, path: impl Into<String>) -> Self {
        self.options.health_check = Some(path.into());
        self
    }

    /// Runs `check` in a new worker, again and again during the trial of [`bake_time`](Self::bake_time):
    /// an error, or no answer before its end, and the old worker goes on. For what no request shows, such
    /// as a connection to a database. May be called several times. Default: none.
    pub fn health_check_with<F, Fut, E>(mut self, check: F) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<BoxError>,
    {
        self.options.own_checks.push(orchestrator::health_check(check));
        self
    }

    /// Runs `hook` in the master before a signal is obeyed.
    pub fn before_signal<F, Fut>(mut self, hook: F) -> Self
    where
        F: Fn(Signal) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        self.options.hooks.before_signal.push(hook);
        self
    }

    /// Runs `hook` in the master after a signal was obeyed; what it has started may still be under way.
    pub fn after_signal<F, Fut>(mut self, hook: F) -> Self
    where
        F: Fn(Signal) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        self.options.hooks.after_signal.push(hook);
        self
    }

    /// Runs `hook` in the master before a new generation is started by a reload or a rollback.
    pub fn before_reload<F, Fut>(mut self, hook: F) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        self.options.hooks.before_reload.push(move |()| hook());
        self
    }

    /// Runs `hook` in the master with the outcome of each reload: the generation that serves now, or
    /// the reason for which the old one goes on.
    pub fn after_reload<F, Fut>(mut self, hook: F) -> Self
    where
        F: Fn(Result<u64, String>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        self.options.hooks.after_reload.push(hook);
        self
    }

    /// Runs `hook` in the master, with the reason, when a new worker has failed its trial and the old
    /// one goes on.
    pub fn on_rollback<F, Fut>(mut self, hook: F) -> Self
    where
        F: Fn(String) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        self.options.hooks.on_rollback.push(hook);
        self
    }

    /// Runs `hook` in a worker that is about to leave. [`Handle::active`] completes in its successor
    /// when that is done: so a background job stops here before it starts there.
    pub fn on_retire<F, Fut>(mut self, hook: F) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        self.options.hooks.on_retire.push(move |()| hook());
        self
    }

    /// How long a hook may take; then it is dropped, as is one that panics, and what it stood before goes
    /// on. Default: 5 s.
    pub fn hook_timeout(mut self, limit: Duration) -> Self {
        self.options.hooks.limit = limit;
        self
    }

    /// Whether a reload first runs the new program with `GRACEFUL_CHECK=1`, and fails if that fails.
    /// Such a run builds the application, looks whether its certificates, its PID file and its admin
    /// socket can be used, binds nothing, prints one line of JSON and ends. Default: off.
    pub fn check_before_reload(mut self, on: bool) -> Self {
        self.options.check_before_reload = on;
        self
    }

    /// Whether the master, after a reload that succeeded, becomes the new program as well, in place
    /// and with the same PID. Linux only. Default: on.
    pub fn upgrade_master(mut self, on: bool) -> Self {
        self.options.upgrade_master = on;
        self
    }

    /// Serves in this process, without a master and without reloads: for tests, debuggers, and
    /// platforms that replace whole containers. Signals drain and stop as ever.
    pub fn single_process(mut self) -> Self {
        self.options.single_process = true;
        self
    }

    /// Writes the PID of the master into this file, and removes it at the end if it is still ours.
    /// Written by renaming, so that a reader finds a whole one. Default: none.
    pub fn pid_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.options.pid_file = Some(path.into());
        self
    }

    /// Answers questions about the server, and takes orders, over HTTP on a Unix socket at this path.
    /// Only the user of this process can connect to it. Without a master there is none. Default: none.
    ///
    /// | request | answer |
    /// | --- | --- |
    /// | `GET /` | the status as a page |
    /// | `GET /status` | JSON: workers, their requests in flight, the oldest of these, the last reload |
    /// | `GET /metrics` | the same numbers in Prometheus' text format |
    /// | `POST /reload` | 202: a new worker is on its way |
    /// | `POST /reload?wait` | 200 when it serves; 500, with the reason, when the old one goes on |
    /// | `POST /rollback`, `/rollback?wait` | the same for the binary that ran before |
    /// | `POST /upgrade` | 202: the next version is looked for, with feature `fetch` |
    /// | `POST /upgrade?wait` | 200 with what has become of it; 500 with the reason |
    /// | `POST /stop` | 202: what is in flight ends, then all |
    ///
    /// ```text
    /// curl --fail-with-body --unix-socket /run/app-admin.sock -X POST 'http://app/reload?wait'
    /// ```
    #[cfg(feature = "admin")]
    #[cfg_attr(docsrs, doc(cfg(feature = "admin")))]
    pub fn admin(mut self, path: impl Into<PathBuf>) -> Self {
        self.options.admin = Some(path.into());
        self
    }

    /// Watches for the next version of this program and moves to it; see [`fetch`](crate::fetch). It is
    /// the master that watches; without a master nobody does. Default: off.
    ///
    /// # Example
    ///
    /// ```no_run
    /// use axum::{Router, routing::get};
    /// use graceful::fetch::{Http, Upgrade};
    ///
    /// fn main() -> Result<(), graceful::Error> {
    ///     let app = Router::new().route("/", get(|| async { "hello" }));
    ///     let upgrade = Upgrade::from(Http::new("https://releases.example.com/app")?)
    ///         .minisign("RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3")
    ///         .version(env!("CARGO_PKG_VERSION"));
    ///     graceful::serve(app).bind("127.0.0.1:8080").upgrade(upgrade).run()
    /// }
    /// ```
    #[cfg(feature = "fetch")]
    #[cfg_attr(docsrs, doc(cfg(feature = "fetch")))]
    pub fn upgrade(mut self, upgrade: impl Into<Upgrade>) -> Self {
        self.options.upgrade = Some(std::sync::Arc::new(upgrade.into()));
        self
    }

    /// Calls `hook` in each worker when its sockets are open, right before it accepts the first
    /// connection. May be called several times.
    pub fn on_ready(mut self, hook: impl Fn(&Started) + Send + Sync + 'static) -> Self {
        self.options.on_ready.push(std::sync::Arc::new(hook));
        self
    }
}

impl<A: Apps> Serve<A> {
    /// Runs the server from a plain `fn main()`, on a runtime of its own: one thread in the master,
    /// one per core in a worker.
    ///
    /// Must not be called inside a runtime.
    ///
    /// # Errors
    ///
    /// As awaiting it.
    pub fn run(mut self) -> Result<(), Error> {
        let role = self.role()?;
        let mut builder = match role {
            Role::Master => tokio::runtime::Builder::new_current_thread(),
            Role::Worker(_) | Role::Single | Role::Check => {
                tokio::runtime::Builder::new_multi_thread()
            }
        };
        let runtime = builder
            .enable_all()
            .build()
            .map_err(|error| Error::io("cannot start the runtime", error))?;
        let result = runtime.block_on(self.act(role));
        // A blocking task that never ends must not keep the process: its deadline has passed.
        runtime.shutdown_background();
        result
    }

    /// Finds out what this process is.
    fn role(&mut self) -> Result<Role, Error> {
        self.options.check()?;
        #[cfg(feature = "fetch")]
        self.options.upgrade.as_ref().map_or(Ok(()), |upgrade| upgrade.check())?;
        self.apps.check(&self.addresses)?;
        match exec::parent() {
            _ if orchestrator::is_asked() => Ok(Role::Check),
            _ if self.options.single_process => Ok(Role::Single),
            Parent::Master(control) => Ok(Role::Worker(control)),
            Parent::Other => Ok(Role::Master),
            Parent::Garbled(value) => {
                tracing::warn!(?value, "ignored GRACEFUL_CONTROL: no master has written it");
                Ok(Role::Master)
            }
        }
    }

    async fn act(self, role: Role) -> Result<(), Error> {
        let Self { apps, addresses, tls, options, handle, commands } = self;
        let build = async {
            let mut bindings = apps.bindings(addresses).await?.0;
            bindings.iter_mut().for_each(|binding| {
                if binding.tls.is_none() {
                    binding.tls.clone_from(&tls);
                }
            });
            Ok(bindings)
        };
        match role {
            Role::Master => {
                drop(build);
                master::run(options, handle, commands).await
            }
            Role::Worker(control) => worker::run(control, build, options, handle, commands).await,
            Role::Check => {
                let bindings = build.await?;
                // So that a certificate that cannot be used is found before anything is started.
                for tls in bindings.iter().filter_map(|binding| binding.tls.as_ref()) {
                    tls.load()?;
                }
                options.check_places()?;
                let places: Vec<_> = bindings.into_iter().map(|binding| binding.place).collect();
                #[cfg(feature = "fetch")]
                let version = options.upgrade.as_ref().and_then(|upgrade| upgrade.own_version());
                #[cfg(not(feature = "fetch"))]
                let version = None;
                orchestrator::Answer::new(&places, version)?.print();
                Ok(())
            }
            Role::Single => single::run(build, options, handle, commands).await,
        }
    }
}

/// Serves; completes when the server has ended.
///
/// # Errors
///
/// When an address does not parse or cannot be bound, a signal cannot be handled, an inherited socket
/// is none, or the first worker does not become ready; and, at the end, when requests had to be cut
/// ([`Error::is_cut`]).
impl<A: Apps> IntoFuture for Serve<A> {
    type Output = Result<(), Error>;
    type IntoFuture = Pin<Box<dyn Future<Output = Result<(), Error>> + Send>>;

    fn into_future(mut self) -> Self::IntoFuture {
        Box::pin(async move {
            let role = self.role()?;
            self.act(role).await
        })
    }
}

impl<A> fmt::Debug for Serve<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Serve")
            .field("addresses", &self.addresses)
            .field("tls", &self.tls)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

#[derive(Debug)]
enum Role {
    Master,
    Worker(std::os::fd::OwnedFd),
    Single,
    /// Asked by `GRACEFUL_CHECK` what it is.
    Check,
}

/// What a [`Serve`] serves. Implemented here only.
pub trait Apps: sealed::Apps {}

impl<A: sealed::Apps> Apps for A {}

/// One application on every address.
#[derive(Debug)]
pub struct One<S>(S);

/// An application that is built in the worker.
#[derive(Debug)]
pub struct Built<F>(F);

/// Applications with an address each.
pub struct Several(Vec<(Named, Box<dyn App>)>);

impl fmt::Debug for Several {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(named, _)| named)).finish()
    }
}

mod sealed {
    use super::*;

    /// Keeps what a binding is to this crate.
    #[derive(Debug)]
    pub struct Bindings(pub(super) Vec<Binding>);

    /// An address to bind, as it was written.
    #[derive(Clone, Debug)]
    pub struct Named {
        pub(super) address: String,
        pub(super) tls: Option<TlsConfig>,
    }

    pub trait Apps: Send + 'static {
        /// Makes sure that every address parses, before anything is started.
        fn check(&self, addresses: &[Named]) -> Result<(), Error> {
            places(addresses).map(drop)
        }

        fn bindings(
            self,
            addresses: Vec<Named>,
        ) -> impl Future<Output = Result<Bindings, Error>> + Send;
    }

    impl<S, B> Apps for One<S>
    where
        S: Service<Request<Body>, Response = Response<B>> + Clone + Send + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send,
        B: http_body::Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<BoxError>,
    {
        async fn bindings(self, addresses: Vec<Named>) -> Result<Bindings, Error> {
            let app = HttpApp(self.0);
            let binding = |(place, tls)| Binding { place, app: app.another(), tls };
            Ok(Bindings(places(&addresses)?.into_iter().map(binding).collect()))
        }
    }

    impl<F, Fut, S, E, B> Apps for Built<F>
    where
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = Result<S, E>> + Send,
        E: Into<BoxError>,
        S: Service<Request<Body>, Response = Response<B>> + Clone + Send + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send,
        B: http_body::Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<BoxError>,
    {
        async fn bindings(self, addresses: Vec<Named>) -> Result<Bindings, Error> {
            let app = (self.0)().await.map_err(|error| {
                Error::new(Kind::App, "cannot build the application").because(error)
            })?;
            One(app).bindings(addresses).await
        }
    }

    impl Apps for Several {
        fn check(&self, addresses: &[Named]) -> Result<(), Error> {
            if !addresses.is_empty() {
                return Err(Error::config("cannot bind an address without an app: use register"));
            }
            if self.0.is_empty() {
                return Err(Error::config("cannot serve: no app is registered"));
            }
            self.0.iter().try_for_each(|(named, _)| named.address.parse::<Address>().map(drop))
        }

        async fn bindings(self, _: Vec<Named>) -> Result<Bindings, Error> {
            let binding = |(named, app): (Named, _)| {
                Ok(Binding { place: Place::At(named.address.parse()?), app, tls: named.tls })
            };
            Ok(Bindings(self.0.into_iter().map(binding).collect::<Result<_, Error>>()?))
        }
    }
}

fn places(addresses: &[Named]) -> Result<Vec<(Place, Option<TlsConfig>)>, Error> {
    if addresses.is_empty() {
        orchestrator::default_addresses()?;
        return Ok(vec![(Place::Default, None)]);
    }
    let place = |named: &Named| Ok((Place::At(named.address.parse()?), named.tls.clone()));
    addresses.iter().map(place).collect()
}
