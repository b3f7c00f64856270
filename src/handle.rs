use std::{
    fmt, io,
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, OnceLock},
};

use axum::extract::FromRequestParts;
use http::{StatusCode, request::Parts};
use tokio::sync::{mpsc, oneshot, watch};

#[cfg(feature = "fetch")]
use crate::orchestrator::{Checked, Known, Outcome, STOPPING};
use crate::{Error, drain::Drain, error::Kind};

/// A way to talk to the running server, from inside a handler or from beside it.
///
/// `serve(..).handle()` gives one before the server runs; a handler takes it as an argument. In a
/// worker, [`reload`](Self::reload) and [`stop`](Self::stop) reach the master.
///
/// # Example
///
/// ```
/// use axum::{Router, routing::post};
/// use graceful::Handle;
///
/// async fn deploy(handle: Handle) -> Result<&'static str, String> {
///     handle.reload().map_err(|error| error.to_string())?;
///     Ok("a new worker is on its way\n")
/// }
///
/// let app: Router = Router::new().route("/deploy", post(deploy));
/// # drop(app);
/// ```
#[derive(Clone)]
pub struct Handle {
    shared: Arc<Shared>,
}

struct Shared {
    commands: mpsc::UnboundedSender<Command>,
    drain: Drain,
    active: watch::Sender<bool>,
    /// Known once the server runs: the generation, or `None` in a single process.
    generation: OnceLock<Option<u64>>,
    /// Held from the question for a kept descriptor until it is known: two at once would both bind.
    keeping: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
pub(crate) enum Command {
    Reload,
    /// Unless the binary has failed before.
    ReloadUntried,
    /// And say how it went.
    #[cfg_attr(
        not(any(feature = "admin", feature = "fetch")),
        expect(dead_code, reason = "asked on the admin socket, and by the watcher")
    )]
    ReloadAndTell(oneshot::Sender<Result<u64, String>>),
    /// To the binary before; and say how it went, if somebody asks.
    Rollback(Option<oneshot::Sender<Result<u64, String>>>),
    /// For what is kept under this name.
    Fetch {
        name: String,
        answer: oneshot::Sender<Option<OwnedFd>>,
    },
    /// Keep this for the workers to come.
    Keep {
        name: String,
        fd: OwnedFd,
    },
    Stop,
    /// Look for the next version; and say how that went, if somebody asks.
    #[cfg(feature = "fetch")]
    CheckForUpgrade(Option<oneshot::Sender<Checked>>),
    /// What is known of the binary with this digest?
    #[cfg(feature = "fetch")]
    Known {
        digest: String,
        answer: oneshot::Sender<Known>,
    },
    /// What the master may have waited for is over.
    #[cfg(feature = "fetch")]
    Look,
}

impl Handle {
    pub(crate) fn new() -> (Self, mpsc::UnboundedReceiver<Command>) {
        let (commands, receiver) = mpsc::unbounded_channel();
        let shared = Arc::new_cyclic(|shared| Shared {
            commands,
            drain: Drain::owned_by(shared.clone()),
            active: watch::Sender::new(false),
            generation: OnceLock::new(),
            keeping: tokio::sync::Mutex::default(),
        });
        (Self { shared }, receiver)
    }

    /// Asks for a new worker from the program that the path names now. Returns at once; a reload that
    /// runs already is followed by one more, however often this is called.
    ///
    /// # Errors
    ///
    /// [`is_no_master`](Error::is_no_master) in a single process, and when the server has ended.
    pub fn reload(&self) -> Result<(), Error> {
        self.ask(Command::Reload)
    }

    /// Asks for a new worker unless the binary in place, by the SHA-256 of its content, has failed
    /// before: for what reloads by itself, and should not try a bad binary for ever. Returns at once.
    ///
    /// # Errors
    ///
    /// As [`reload`](Self::reload).
    pub fn reload_untried(&self) -> Result<(), Error> {
        self.ask(Command::ReloadUntried)
    }

    /// Asks for a new worker from the binary that ran before the present one. That is kept open, so
    /// its file may have been replaced or deleted. Returns at once.
    ///
    /// # Errors
    ///
    /// As [`reload`](Self::reload).
    pub fn rollback(&self) -> Result<(), Error> {
        self.ask(Command::Rollback(None))
    }

    fn ask(&self, command: Command) -> Result<(), Error> {
        let no = |why| Error::new(Kind::NoMaster, format!("cannot reload: {why}"));
        if self.shared.generation.get() == Some(&None) {
            return Err(no("the server runs as a single process"));
        }
        self.shared.commands.send(command).map_err(|_| no("the server has ended"))
    }

    /// Asks for a new worker and waits until it serves or has failed to. Known in the master only.
    ///
    /// # Errors
    ///
    /// [`is_reload`](Error::is_reload), with the reason, when the old worker goes on;
    /// [`is_no_master`](Error::is_no_master) when nobody can know.
    #[cfg(feature = "admin")]
    pub(crate) async fn reload_and_wait(&self) -> Result<u64, Error> {
        self.wait_for(Command::ReloadAndTell).await
    }

    /// Asks for the binary before and waits likewise.
    #[cfg(feature = "admin")]
    pub(crate) async fn rollback_and_wait(&self) -> Result<u64, Error> {
        self.wait_for(|waiter| Command::Rollback(Some(waiter))).await
    }

    #[cfg(feature = "admin")]
    async fn wait_for(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<u64, String>>) -> Command,
    ) -> Result<u64, Error> {
        let ended = || Error::new(Kind::NoMaster, "cannot reload: the server has ended");
        let (sender, outcome) = oneshot::channel();
        self.shared.commands.send(command(sender)).map_err(|_| ended())?;
        let outcome = outcome.await.map_err(|_| ended())?;
        outcome.map_err(|why| Error::new(Kind::Reload, format!("the reload failed: {why}")))
    }

    /// Looks for the next version of the program, where [`Serve::upgrade`](crate::Serve::upgrade) says,
    /// and moves to it. Returns at once; a look that runs already is followed by one more.
    ///
    /// # Errors
    ///
    /// As [`reload`](Self::reload).
    #[cfg(feature = "fetch")]
    #[cfg_attr(docsrs, doc(cfg(feature = "fetch")))]
    pub fn check_for_upgrade(&self) -> Result<(), Error> {
        self.ask(Command::CheckForUpgrade(None))
    }

    /// The same, and waits until it is known how that went; `None` when nobody can know.
    #[cfg(all(feature = "admin", feature = "fetch"))]
    pub(crate) async fn check_for_upgrade_and_wait(&self) -> Option<Checked> {
        let (sender, checked) = oneshot::channel();
        self.shared.commands.send(Command::CheckForUpgrade(Some(sender))).ok()?;
        checked.await.ok()
    }

    /// What the master knows of a binary; nothing, when it has ended.
    #[cfg(feature = "fetch")]
    pub(crate) async fn known(&self, digest: &str) -> Known {
        let (answer, known) = oneshot::channel();
        // It fails when it has ended, as the next line will find.
        let _ = self.shared.commands.send(Command::Known { digest: digest.to_owned(), answer });
        known.await.unwrap_or_default()
    }

    /// Asks for a new worker, and waits for the outcome as the master has it.
    #[cfg(feature = "fetch")]
    pub(crate) async fn reload_outcome(&self) -> Outcome {
        let (sender, outcome) = oneshot::channel();
        // It fails when the server has ended, as the next line will find.
        let _ = self.shared.commands.send(Command::ReloadAndTell(sender));
        outcome.await.unwrap_or_else(|_| Err(STOPPING.to_owned()))
    }

    /// Wakes the loop of the master.
    #[cfg(feature = "fetch")]
    pub(crate) fn look(&self) {
        // It has nothing to look at any more when it has ended.
        let _ = self.shared.commands.send(Command::Look);
    }

    /// Stops the server as a stop signal does: what is in flight ends first. Returns at once.
    pub fn stop(&self) {
        // Nobody listens when it has ended already, which is what was asked for.
        let _ = self.shared.commands.send(Command::Stop);
    }

    /// Gives the socket, or whatever else has a descriptor, that the application keeps under a name
    /// across reloads. The first worker that asks binds it; the master holds a copy, and each later
    /// worker gets that same socket: for UDP, where nothing that arrives meanwhile is lost, or for a
    /// listener of another protocol.
    ///
    /// Waits until the server runs, or builds the application (`serve_with`). In a single process, and after a restart of the whole server, it
    /// just calls `bind`. The old and the new worker share the socket while both run: each should stop
    /// to read when it is [`draining`](Self::draining). What a generation and the one after it have not
    /// asked for is closed.
    ///
    /// # Example
    ///
    /// ```no_run
    /// use std::net::UdpSocket;
    ///
    /// # async fn f(handle: graceful::Handle) -> Result<(), Box<dyn std::error::Error>> {
    /// let bind = || UdpSocket::bind("0.0.0.0:5353");
    /// let socket: UdpSocket = handle.socket("dns", bind).await?;
    /// // The flag belongs to the socket, not to the process: every generation needs the same.
    /// socket.set_nonblocking(true)?;
    /// let socket = tokio::net::UdpSocket::from_std(socket)?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`is_bind`](Error::is_bind) with the error of `bind`; [`is_no_master`](Error::is_no_master) in
    /// the master, which serves nothing, and when the server has ended.
    ///
    /// # Cancel safety
    ///
    /// May be dropped and called again at any time.
    pub async fn socket<S>(
        &self,
        name: impl Into<String>,
        bind: impl FnOnce() -> io::Result<S>,
    ) -> Result<S, Error>
    where
        S: From<OwnedFd> + AsFd,
    {
        let name = name.into();
        let nobody =
            || Error::new(Kind::NoMaster, format!("cannot keep {name}: no worker runs here"));
        let _one = self.shared.keeping.lock().await;
        let (answer, answered) = oneshot::channel();
        let fetch = Command::Fetch { name: name.clone(), answer };
        self.shared.commands.send(fetch).map_err(|_| nobody())?;
        if let Some(fd) = answered.await.map_err(|_| nobody())? {
            return Ok(fd.into());
        }
        let failed = |error| Error::new(Kind::Bind, format!("cannot bind {name}")).because(error);
        let socket = bind().map_err(failed)?;
        let fd = socket.as_fd().try_clone_to_owned().map_err(failed)?;
        // It fails when the server has ended, and then nobody comes after this one.
        let _ = self.shared.commands.send(Command::Keep { name: name.clone(), fd });
        Ok(socket)
    }

    /// How many requests are in flight in this process; an upgraded connection counts as one.
    pub fn in_flight(&self) -> usize {
        self.shared.drain.in_flight()
    }

    /// Which generation this worker is: 1 for the first, one more for each that was started since.
    /// 0 in a master, in a single process and before the server runs.
    pub fn generation(&self) -> u64 {
        self.shared.generation.get().copied().flatten().unwrap_or(0)
    }

    /// Waits until the generation before this one has retired: until its `on_retire` hooks have run, or
    /// it has ended. At once in a first generation and in a single process. The moment to start what
    /// must not run twice, such as a scheduler.
    ///
    /// That is never before this generation serves: an application that waits for it while it is built
    /// (`serve_with`) is never ready. Let a task wait.
    ///
    /// # Cancel safety
    ///
    /// May be dropped and called again at any time.
    pub async fn active(&self) {
        // The sender is in this handle, so it does not end.
        let _ = self.shared.active.subscribe().wait_for(|active| *active).await;
    }

    pub(crate) fn set_active(&self) {
        self.shared.active.send_replace(true);
    }

    /// Waits until this process begins to end, because of a reload or a stop. The moment for a
    /// WebSocket or another endless response to say goodbye: at the deadline it is cut.
    ///
    /// # Cancel safety
    ///
    /// May be dropped and called again at any time.
    pub async fn draining(&self) {
        self.shared.drain.draining().await;
    }

    /// Whether this process has begun to end: what a readiness probe asks.
    pub fn is_draining(&self) -> bool {
        self.shared.drain.is_draining()
    }

    pub(crate) fn drain(&self) -> &Drain {
        &self.shared.drain
    }

    /// Says what this process has become. `None` is a single process.
    pub(crate) fn set_generation(&self, generation: Option<u64>) {
        // A second server in one process has a handle of its own, so nobody was faster.
        let _ = self.shared.generation.set(generation);
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle")
            .field("generation", &self.generation())
            .field("in_flight", &self.in_flight())
            .finish_non_exhaustive()
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Handle {
    type Rejection = (StatusCode, &'static str);

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        let missing = "this handler needs graceful::serve";
        // Found through the drain of the server: an extension of its own would cost each request.
        let shared = parts.extensions.get::<Drain>().and_then(Drain::owner);
        shared.map(|shared| Self { shared }).ok_or((StatusCode::INTERNAL_SERVER_ERROR, missing))
    }
}
