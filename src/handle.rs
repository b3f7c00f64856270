use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use axum::extract::FromRequestParts;
use http::{StatusCode, request::Parts};
use tokio::sync::{mpsc, oneshot, watch};

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
}

#[derive(Debug)]
pub(crate) enum Command {
    Reload,
    /// Unless the binary has failed before.
    ReloadUntried,
    /// And say how it went.
    #[cfg_attr(not(feature = "admin"), expect(dead_code, reason = "asked on the admin socket"))]
    ReloadAndTell(oneshot::Sender<Result<u64, String>>),
    /// To the binary before; and say how it went, if somebody asks.
    Rollback(Option<oneshot::Sender<Result<u64, String>>>),
    Stop,
}

impl Handle {
    pub(crate) fn new() -> (Self, mpsc::UnboundedReceiver<Command>) {
        let (commands, receiver) = mpsc::unbounded_channel();
        let shared = Arc::new_cyclic(|shared| Shared {
            commands,
            drain: Drain::owned_by(shared.clone()),
            active: watch::Sender::new(false),
            generation: OnceLock::new(),
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
        let ended = || Error::new(Kind::NoMaster, "cannot reload: the server has ended");
        let (sender, outcome) = oneshot::channel();
        self.shared.commands.send(Command::ReloadAndTell(sender)).map_err(|_| ended())?;
        let outcome = outcome.await.map_err(|_| ended())?;
        outcome.map_err(|why| Error::new(Kind::Reload, format!("the reload failed: {why}")))
    }

    /// Stops the server as a stop signal does: what is in flight ends first. Returns at once.
    pub fn stop(&self) {
        // Nobody listens when it has ended already, which is what was asked for.
        let _ = self.shared.commands.send(Command::Stop);
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
