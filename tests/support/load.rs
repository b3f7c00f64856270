//! A load client that forgives nothing: it never retries, never pools, and accounts for every request.
//!
//! Clients of several kinds run at once, on a thread and a runtime of their own, until [`Running::stop`]
//! or until each has made its number of requests. A request is *lost* when any byte of it was written
//! and no complete, right answer came: end of file, reset, truncated or wrong body, time-out. A
//! connection that cannot be made is a loss too. What a client may rightly expect from HTTP is not: an
//! idle connection found closed before anything was written, an announced close, an HTTP/2 stream
//! that the server says it did not process. Those are counted by themselves.
//!
//! Who answered is read from the headers `x-worker` and `x-generation`, so that a test can wait for the
//! first answer of a new worker and a loss names the worker that is to blame.
//!
//! A kind of client is a file that drives one connection ([`http1`], [`h2`]) and a line in
//! [`Kind`]; a transport is a variant of [`Socket`](socket::Socket).

mod account;
mod client;
mod h2;
mod histogram;
mod http1;
mod socket;
mod websocket;

use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, oneshot, watch};
use tokio::task::JoinSet;
use tokio_rustls::rustls::ClientConfig;

pub(crate) use account::{Account, FirstAnswer, Kind, Loss, Report, Worker};
pub(crate) use histogram::Histogram;
pub(crate) use socket::Target;

use client::{Client, Random};

/// The clients to start.
///
/// ```ignore
/// let load = Load::new(addr)
///     .keep_alive(64, Duration::from_millis(10))
///     .fresh(8)
///     .slow(8)
///     .start();
/// load.generation(2).await;
/// let report = load.stop().await;
/// assert_eq!(report.lost(), 0, "{report}");
/// ```
#[must_use = "nothing runs before `start`"]
#[derive(Debug)]
pub(crate) struct Load {
    targets: Vec<Target>,
    groups: Vec<Group>,
    think: Duration,
    timeout: Duration,
    requests: u64,
    any_body: bool,
    seed: u64,
}

#[derive(Debug)]
struct Group {
    kind: Kind,
    clients: usize,
    /// `None`: the load's own.
    think: Option<Duration>,
    /// `None`: the load's own.
    target: Option<Target>,
}

impl Load {
    pub(crate) fn new(target: impl Into<Target>) -> Self {
        Self {
            targets: vec![target.into()],
            groups: Vec::new(),
            think: Duration::from_millis(5),
            timeout: Duration::from_secs(30),
            requests: u64::MAX,
            any_body: false,
            seed: 1,
        }
    }

    /// One more address; the clients of each kind are dealt out over all of them.
    pub(crate) fn target(mut self, target: impl Into<Target>) -> Self {
        self.targets.push(target.into());
        self
    }

    /// Clients that send `GET /` on one connection and pause up to `think` between requests.
    pub(crate) fn keep_alive(self, clients: usize, think: Duration) -> Self {
        self.group(Kind::KeepAlive, clients, Some(think))
    }

    /// Clients that open a connection for each `GET /`. Half of the requests ask for
    /// `Connection: close`, so that now the server and now the client closes.
    pub(crate) fn fresh(self, clients: usize) -> Self {
        self.group(Kind::Fresh, clients, None)
    }

    /// Clients that send `GET /slow?ms=300`.
    pub(crate) fn slow(self, clients: usize) -> Self {
        self.group(Kind::Slow, clients, None)
    }

    /// Clients that send `GET /stream` (8 chunks of 4 KiB over 280 ms) and verify each byte.
    pub(crate) fn streaming(self, clients: usize) -> Self {
        self.group(Kind::Stream, clients, None)
    }

    /// Clients that send `POST /upload` in 8 pieces over some 300 ms; the server's count and checksum
    /// must be right.
    pub(crate) fn uploads(self, clients: usize) -> Self {
        self.group(Kind::Upload, clients, None)
    }

    /// HTTP/2 connections, by prior knowledge, of four streams each: three `GET /`, one `GET /slow`.
    pub(crate) fn h2(self, connections: usize) -> Self {
        self.group(Kind::H2, connections, None)
    }

    /// Clients that send `GET /` over TLS, keep-alive, to an address of their own. They want HTTP/1.
    pub(crate) fn tls(
        mut self,
        clients: usize,
        addr: std::net::SocketAddr,
        config: Arc<ClientConfig>,
    ) -> Self {
        let target = Some(Target::Tls(addr, config));
        self.groups.push(Group { kind: Kind::Tls, clients, think: None, target });
        self
    }

    /// Clients that send messages of up to 32 KiB over a WebSocket at `/websocket`, one after the other,
    /// and expect each back. When told to reconnect, by the close code 1012, they do; any other end is a
    /// loss.
    pub(crate) fn websockets(self, clients: usize) -> Self {
        self.group(Kind::WebSocket, clients, None)
    }

    /// The longest pause between requests of the kinds whose method takes none; 5 ms unless told.
    pub(crate) fn think(mut self, think: Duration) -> Self {
        self.think = think;
        self
    }

    /// How long a request may take before it counts as lost; 30 s unless told.
    pub(crate) fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Each client (each stream of an HTTP/2 connection) ends after this many requests.
    pub(crate) fn requests(mut self, requests: u64) -> Self {
        self.requests = requests;
        self
    }

    /// Takes any body of a complete answer: for servers of other apps.
    pub(crate) fn any_body(mut self) -> Self {
        self.any_body = true;
        self
    }

    /// The seed of the pauses and sizes; 1 unless told.
    pub(crate) fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    fn group(mut self, kind: Kind, clients: usize, think: Option<Duration>) -> Self {
        self.groups.push(Group { kind, clients, think, target: None });
        self
    }

    /// Starts all clients, on a thread of their own.
    pub(crate) fn start(self) -> Running {
        let shared = Arc::new(Shared {
            started: Instant::now(),
            stats: Mutex::new(Stats::new()),
            changed: Notify::new(),
        });
        let (stop, stopped) = watch::channel(false);
        let (ended, end) = oneshot::channel();
        let clients = self.clients(&shared, &stopped);
        let thread = std::thread::Builder::new().name("load".to_owned()).spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("the runtime of the load client");
            runtime.block_on(run(clients));
            // The receiver is gone when nobody waits for the end.
            let _ = ended.send(());
        });
        Running { shared, stop, end, thread: Some(thread.expect("the thread of the load client")) }
    }

    fn clients(&self, shared: &Arc<Shared>, stopped: &watch::Receiver<bool>) -> Vec<Client> {
        let mut clients = Vec::new();
        for group in &self.groups {
            for number in 0..group.clients {
                clients.push(Client {
                    shared: Arc::clone(shared),
                    kind: group.kind,
                    target: match &group.target {
                        Some(target) => target.clone(),
                        None => self.targets[number % self.targets.len()].clone(),
                    },
                    think: group.think.unwrap_or(self.think),
                    timeout: self.timeout,
                    requests: self.requests,
                    any_body: self.any_body,
                    random: Random::new(self.seed, clients.len() as u64),
                    stopped: stopped.clone(),
                });
            }
        }
        clients
    }
}

async fn run(clients: Vec<Client>) {
    let mut tasks = JoinSet::new();
    for client in clients {
        match client.kind {
            Kind::H2 | Kind::H2Slow => tasks.spawn(h2::run(client)),
            Kind::WebSocket => tasks.spawn(websocket::run(client)),
            _ => tasks.spawn(http1::run(client)),
        };
    }
    while let Some(ended) = tasks.join_next().await {
        ended.expect("a load client does not panic");
    }
}

/// A load under way.
#[must_use = "the load ends when this is dropped"]
pub(crate) struct Running {
    shared: Arc<Shared>,
    stop: watch::Sender<bool>,
    end: oneshot::Receiver<()>,
    thread: Option<JoinHandle<()>>,
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Running").finish_non_exhaustive()
    }
}

impl Running {
    /// When the load started: the zero of [`Loss::at`].
    pub(crate) fn started(&self) -> Instant {
        self.shared.started
    }

    /// The account of everything up to now.
    pub(crate) fn snapshot(&self) -> Report {
        self.shared.stats().all()
    }

    /// The account since the last lap (or the start), which ends here. A request belongs to the lap in
    /// which it ends.
    pub(crate) fn lap(&self) -> Report {
        self.shared.stats().lap()
    }

    /// The first answer of each worker, in the order in which they came.
    pub(crate) fn first_answers(&self) -> Vec<FirstAnswer> {
        self.shared.stats().first_answers.clone()
    }

    /// Waits for the first answer of a generation.
    pub(crate) async fn generation(&self, generation: u64) -> FirstAnswer {
        self.first_answer(&format!("generation {generation}"), |worker| {
            worker.generation == generation
        })
        .await
    }

    /// Waits for the first answer of a process.
    pub(crate) async fn worker(&self, pid: u32) -> FirstAnswer {
        self.first_answer(&format!("worker {pid}"), |worker| worker.pid == pid).await
    }

    /// Waits for the first answer of any worker after the first `known` ones.
    pub(crate) async fn worker_after(&self, known: usize) -> FirstAnswer {
        self.wait(&format!("a worker after {known}"), |stats| {
            stats.first_answers.get(known).copied()
        })
        .await
    }

    async fn first_answer(&self, whose: &str, is_it: impl Fn(Worker) -> bool) -> FirstAnswer {
        let find =
            |stats: &Stats| stats.first_answers.iter().find(|answer| is_it(answer.worker)).copied();
        self.wait(whose, find).await
    }

    /// Waits until this many further requests of a kind are done.
    pub(crate) async fn further(&self, kind: Kind, requests: u64) {
        let enough = self.shared.stats().done(kind) + requests;
        let is_enough = |stats: &Stats| (stats.done(kind) >= enough).then_some(());
        self.wait(&format!("{requests} more requests of {}", kind.name()), is_enough).await;
    }

    /// Waits until something holds.
    ///
    /// # Panics
    ///
    /// After a minute, with the account so far.
    async fn wait<T>(&self, what: &str, holds: impl Fn(&Stats) -> Option<T>) -> T {
        let waiting = async {
            loop {
                let mut changed = std::pin::pin!(self.shared.changed.notified());
                // Listening before looking: a change in between is not missed.
                changed.as_mut().enable();
                let found = holds(&self.shared.stats());
                if let Some(found) = found {
                    return found;
                }
                changed.await;
            }
        };
        match tokio::time::timeout(Duration::from_secs(60), waiting).await {
            Ok(found) => found,
            Err(_) => panic!("waited a minute for {what}\n{}", self.snapshot()),
        }
    }

    /// Lets each client finish its request, and gives the account of everything.
    pub(crate) async fn stop(mut self) -> Report {
        self.stop.send_replace(true);
        self.finish().await
    }

    /// Waits until each client has made its number of requests, and gives the account of everything.
    pub(crate) async fn finish(&mut self) -> Report {
        let ended = (&mut self.end).await;
        if let Some(thread) = self.thread.take()
            && let Err(panic) = thread.join()
        {
            std::panic::resume_unwind(panic);
        }
        ended.expect("the load thread says when it ends");
        self.shared.stats().all()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.send_replace(true);
    }
}

/// What the clients and the one who watches them share.
struct Shared {
    started: Instant,
    stats: Mutex<Stats>,
    /// Told at each request done and each first answer.
    changed: Notify,
}

struct Stats {
    /// When the lap began.
    began: Instant,
    lap: Report,
    past: Report,
    first_answers: Vec<FirstAnswer>,
}

impl Stats {
    fn new() -> Self {
        Self {
            began: Instant::now(),
            lap: Report::default(),
            past: Report::default(),
            first_answers: Vec::new(),
        }
    }

    fn lap(&mut self) -> Report {
        let mut lap = std::mem::take(&mut self.lap);
        lap.set_elapsed(self.began.elapsed());
        self.began = Instant::now();
        self.past.merge(&lap);
        lap
    }

    fn all(&mut self) -> Report {
        self.lap.set_elapsed(self.began.elapsed());
        let mut all = self.past.clone();
        all.merge(&self.lap);
        all
    }

    fn done(&self, kind: Kind) -> u64 {
        self.past.of(kind).done + self.lap.of(kind).done
    }
}

impl Shared {
    fn stats(&self) -> MutexGuard<'_, Stats> {
        self.stats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts something in the account of a kind.
    fn count(&self, kind: Kind, count: impl FnOnce(&mut Account)) {
        count(self.stats().lap.of_mut(kind));
    }

    fn done(&self, kind: Kind, began: Instant) {
        let latency = began.elapsed();
        self.count(kind, |account| {
            account.done += 1;
            account.latency.record(latency);
        });
        self.changed.notify_waiters();
    }

    fn lost(&self, kind: Kind, began: Instant, what: String, worker: Option<Worker>) {
        let now = Instant::now();
        let at = now - self.started;
        self.stats().lap.lose(Loss { kind, at, after: now - began, what, worker });
    }

    /// Called when a connection is answered by another worker than before.
    fn answered_by(&self, worker: Worker) {
        let at = Instant::now();
        let mut stats = self.stats();
        if stats.first_answers.iter().any(|first| first.worker == worker) {
            return;
        }
        stats.first_answers.push(FirstAnswer { worker, at });
        drop(stats);
        self.changed.notify_waiters();
    }
}
