//! What is in flight on each connection, by name.

use std::{
    collections::HashMap,
    fmt,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context as TaskContext, Poll, Waker},
    time::{Duration, Instant},
};

use http::{Method, Uri, uri::PathAndQuery};
use http_body::Body as _;
use hyper::body::Incoming;
use serde::{Deserialize, Serialize};
use tokio::sync::OwnedSemaphorePermit;

use super::{Context, HandOver, Phase};
use crate::{drain::DrainGuard, process::wire::short};

/// So much of a body that the application has left unread is read all the same, so that the connection can
/// go on. As much as Go's server reads.
const MAX_REST: u64 = 256 * 1024;

/// A request that did not end before the deadline.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct CutRequest {
    pub(crate) method: String,
    pub(crate) path: String,
    /// Since its head was read.
    pub(crate) age: Duration,
    /// Its connection was upgraded, to a WebSocket for example.
    pub(crate) upgraded: bool,
}

impl fmt::Display for CutRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { method, path, age, upgraded } = self;
        let upgraded = if *upgraded { ", upgraded" } else { "" };
        write!(f, "{method} {path} (after {:.1} s{upgraded})", age.as_secs_f64())
    }
}

/// The connections of a process at one moment, by what they do.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Survey {
    /// No request has come yet.
    pub(crate) new: usize,
    /// A request is in flight.
    pub(crate) active: usize,
    /// Kept alive between requests.
    pub(crate) idle: usize,
    /// They speak another protocol by now.
    pub(crate) upgraded: usize,
    /// The longest ones in flight, the oldest first.
    pub(crate) oldest: Vec<CutRequest>,
}

/// The connections of this process.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    next: AtomicU64,
    connections: Mutex<HashMap<u64, Weak<Connection>>>,
}

/// One connection, as those see it who are not on it.
#[derive(Debug)]
pub(crate) struct Connection {
    id: u64,
    context: Arc<Context>,
    requests: Mutex<Requests>,
    /// What the latest request is called (see `unread`) while its body was not read to its end. Zero when
    /// it was: what follows is a new request.
    unread: AtomicU64,
    /// There is a rest of a body to be read.
    has_rest: AtomicBool,
    /// One side has said that no request follows (RFC 9112, section 9.6).
    last: AtomicBool,
    /// What is left of a body will not be read, so that nothing can follow.
    given_up: AtomicBool,
    upgrading: AtomicBool,
    /// It cannot move to the next worker.
    stays: AtomicBool,
    /// How long an HTTP/2 client may send what it had in mind before it heard of the goodbye.
    notice: OnceLock<Duration>,
    /// Something was read since the latest request began or ended.
    read: AtomicBool,
    #[cfg(feature = "tls")]
    tls: OnceLock<crate::tls::TlsSession>,
    /// Wakes the task that drives it.
    waker: Waker,
    _seat: Option<OwnedSemaphorePermit>,
    _guard: DrainGuard,
}

#[derive(Debug)]
struct Requests {
    begun: u64,
    /// It has made requests to the worker that it came from.
    before: bool,
    /// When the latest request ended; before the first one, when the connection began.
    idle_since: Instant,
    in_flight: Vec<Request>,
    /// The request that became another protocol; it ends with the connection.
    upgraded: Option<RequestGuard>,
    /// What the application has not read of a body.
    rest: Option<Rest>,
}

#[derive(Debug)]
struct Rest {
    /// Whose it is.
    request: u64,
    body: Incoming,
    /// How much of it may still come.
    most: u64,
}

/// How a request is called whose body was not read. Never zero.
fn unread(request: u64) -> u64 {
    request + 1
}

impl Requests {
    fn new(before: bool) -> Self {
        let (in_flight, upgraded, rest) = Default::default();
        Self { begun: 0, before, idle_since: Instant::now(), in_flight, upgraded, rest }
    }

    /// Whether the next one is the first that the client makes.
    fn is_new(&self) -> bool {
        self.begun == 0 && !self.before
    }
}

#[derive(Debug)]
struct Request {
    id: u64,
    method: Method,
    /// Nothing where the target has none (CONNECT).
    path: Option<PathAndQuery>,
    since: Instant,
}

/// One request in flight; dropping it ends that.
#[derive(Debug)]
pub(crate) struct RequestGuard {
    id: u64,
    connection: Arc<Connection>,
    _guard: DrainGuard,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Registry {
    /// Every request in flight, the oldest first.
    pub(crate) fn in_flight(&self) -> Vec<CutRequest> {
        let connections: Vec<_> =
            lock(&self.connections).values().filter_map(Weak::upgrade).collect();
        let mut requests: Vec<_> =
            connections.iter().flat_map(|connection| connection.in_flight()).collect();
        requests.sort_by_key(|request| std::cmp::Reverse(request.age));
        requests
    }

    /// Counts the connections and names their oldest requests, up to `most`.
    pub(crate) fn survey(&self, most: usize) -> Survey {
        let connections: Vec<_> =
            lock(&self.connections).values().filter_map(Weak::upgrade).collect();
        let mut survey = Survey::default();
        let mut since = Vec::new();
        for connection in &connections {
            let requests = lock(&connection.requests);
            let count = match (connection.is_upgrading(), requests.in_flight.is_empty()) {
                (true, _) => &mut survey.upgraded,
                (false, false) => &mut survey.active,
                (false, true) if requests.is_new() => &mut survey.new,
                (false, true) => &mut survey.idle,
            };
            *count += 1;
            since.extend(requests.in_flight.iter().map(|request| request.since));
        }
        // Names are made of the few only: there may be many thousands.
        since.sort_unstable();
        since.truncate(most);
        let youngest = since.last().copied();
        for connection in &connections {
            survey.oldest.extend(connection.named(|since| Some(since) <= youngest));
        }
        survey.oldest.sort_by_key(|request| std::cmp::Reverse(request.age));
        survey.oldest.truncate(most);
        survey
    }

    /// Makes every connection look at the phase of the process.
    pub(crate) fn wake(&self) {
        let connections: Vec<_> =
            lock(&self.connections).values().filter_map(Weak::upgrade).collect();
        for connection in connections {
            connection.waker.wake_by_ref();
        }
    }
}

impl Connection {
    /// `before` says whether it has made requests to the worker that it came from; `waker` is the one of the
    /// task that drives the connection, and of no part of it.
    pub(crate) fn new(
        context: Arc<Context>,
        before: bool,
        guard: DrainGuard,
        seat: Option<OwnedSemaphorePermit>,
        waker: Waker,
    ) -> Arc<Self> {
        let id = context.registry.next.fetch_add(1, Ordering::Relaxed);
        let connection = Arc::new(Self {
            id,
            context,
            requests: Mutex::new(Requests::new(before)),
            unread: AtomicU64::new(0),
            has_rest: AtomicBool::new(false),
            last: AtomicBool::new(false),
            given_up: AtomicBool::new(false),
            upgrading: AtomicBool::new(false),
            stays: AtomicBool::new(false),
            notice: OnceLock::new(),
            read: AtomicBool::new(false),
            #[cfg(feature = "tls")]
            tls: OnceLock::new(),
            waker,
            _seat: seat,
            _guard: guard,
        });
        let registry = &connection.context.registry;
        lock(&registry.connections).insert(id, Arc::downgrade(&connection));
        connection
    }

    pub(crate) fn context(&self) -> &Arc<Context> {
        &self.context
    }

    /// Notes the start of a request.
    pub(crate) fn begin(
        self: &Arc<Self>,
        method: &Method,
        uri: &Uri,
        has_body: bool,
    ) -> RequestGuard {
        let guard = self.context.requests.guard();
        self.read.store(false, Ordering::Relaxed);
        let (method, path) = (method.clone(), uri.path_and_query().cloned());
        let since = Instant::now();
        let mut requests = lock(&self.requests);
        let id = requests.begun;
        requests.begun += 1;
        self.unread.store(if has_body { unread(id) } else { 0 }, Ordering::Release);
        requests.in_flight.push(Request { id, method, path, since });
        drop(requests);
        RequestGuard { id, connection: self.clone(), _guard: guard }
    }

    /// The body of a request was read to its end.
    pub(crate) fn body_ended(&self, request: u64) {
        // Not when it is an older one: hyper may have read the next head before this end was taken from it.
        let exchanged =
            self.unread.compare_exchange(unread(request), 0, Ordering::AcqRel, Ordering::Relaxed);
        if exchanged.is_ok() {
            self.read.store(false, Ordering::Relaxed);
        }
    }

    /// Takes what the application has not read of a body. hyper alone would close the connection, without a
    /// word, where the rest has not arrived yet; and where it has, nobody outside could know.
    pub(crate) fn leave(&self, request: u64, body: Incoming) {
        if body.size_hint().lower() > MAX_REST {
            return self.give_up();
        }
        // Nothing follows it, or no request: hyper shall not wait for it.
        if self.last.load(Ordering::Acquire) || self.is_upgrading() {
            return;
        }
        let rest = Rest { request, body, most: MAX_REST };
        // The one before it was read to its end, or this request could not have begun.
        let before = lock(&self.requests).rest.replace(rest);
        drop(before);
        self.has_rest.store(true, Ordering::Release);
        // The application may have let go of it on another thread.
        self.waker.wake_by_ref();
    }

    /// The rest of a body will not be read: the answer has to say that nothing can follow it.
    pub(crate) fn give_up(&self) {
        self.given_up.store(true, Ordering::Release);
        self.set_last();
    }

    /// Reads what is left of a body, if there is one, once its request is answered: before that, a client
    /// that waits for `100 Continue` would be told to send it.
    pub(crate) fn poll_rest(&self, cx: &mut TaskContext<'_>) {
        if !self.has_rest.load(Ordering::Acquire) {
            return;
        }
        let mut requests = lock(&self.requests);
        if !requests.in_flight.is_empty() {
            return;
        }
        let Some(mut rest) = requests.rest.take() else { return };
        drop(requests);
        let ended = loop {
            match Pin::new(&mut rest.body).poll_frame(cx) {
                Poll::Ready(None) => break true,
                Poll::Ready(Some(Ok(frame))) => {
                    let length = frame.data_ref().map_or(0, |data| data.len() as u64);
                    match rest.most.checked_sub(length) {
                        _ if rest.body.is_end_stream() => break true,
                        Some(most) => rest.most = most,
                        None => break false,
                    }
                }
                Poll::Ready(Some(Err(_))) => break false,
                Poll::Pending => {
                    lock(&self.requests).rest = Some(rest);
                    return;
                }
            }
        };
        self.has_rest.store(false, Ordering::Release);
        if ended {
            self.body_ended(rest.request);
        }
    }

    /// Lets go of what is left of a body, so that hyper closes.
    pub(crate) fn drop_rest(&self) {
        if self.has_rest.load(Ordering::Relaxed) && self.has_rest.swap(false, Ordering::AcqRel) {
            let rest = lock(&self.requests).rest.take();
            // After the lock is released, as it wakes the task.
            drop(rest);
        }
    }

    /// No request follows the ones that have begun.
    pub(crate) fn set_last(&self) {
        self.last.store(true, Ordering::Release);
        self.drop_rest();
    }

    /// Whether the body of the latest request was read to its end.
    fn is_clean(&self) -> bool {
        self.unread.load(Ordering::Acquire) == 0
    }

    /// Whether the bytes after those that hyper has consumed are the start of a new request.
    pub(crate) fn may_go_on(&self) -> bool {
        self.is_clean() && !self.last.load(Ordering::Acquire)
    }

    /// The handshake is made.
    #[cfg(feature = "tls")]
    pub(crate) fn set_tls(&self, session: crate::tls::TlsSession) {
        // There is one handshake to a connection.
        let _ = self.tls.set(session);
    }

    #[cfg(feature = "tls")]
    pub(crate) fn tls(&self) -> Option<&crate::tls::TlsSession> {
        self.tls.get()
    }

    /// A goodbye is said in HTTP/2; the last word comes after so long.
    pub(crate) fn set_notice(&self, notice: Duration) {
        // The first one holds.
        let _ = self.notice.set(notice);
    }

    pub(crate) fn notice(&self) -> Option<Duration> {
        self.notice.get().copied()
    }

    /// Its protocol, or the next worker, does not let it move.
    pub(crate) fn stay(&self) {
        self.stays.store(true, Ordering::Release);
    }

    /// Whether the next worker could serve what follows.
    pub(crate) fn can_move(&self) -> bool {
        self.may_go_on() && !self.stays.load(Ordering::Acquire)
    }

    /// Whether it can when the rest of a body is read.
    fn can_move_soon(&self) -> bool {
        self.has_rest.load(Ordering::Acquire)
            && !self.last.load(Ordering::Acquire)
            && !self.stays.load(Ordering::Acquire)
    }

    /// Whether the answer that is made now has to be the last one here.
    pub(crate) fn says_goodbye(&self) -> bool {
        if self.given_up.load(Ordering::Acquire) {
            return true;
        }
        if !self.context.requests.is_draining() {
            return false;
        }
        match self.context.phase() {
            // The client will not notice that another process answers it next.
            Phase::Draining { hand_over: HandOver::Soon | HandOver::Now, .. } => {
                !self.can_move() && !self.can_move_soon()
            }
            Phase::Draining { .. } | Phase::Serving | Phase::Cut => true,
        }
    }

    /// How many requests have begun.
    pub(crate) fn begun(&self) -> u64 {
        lock(&self.requests).begun
    }

    /// Bytes have come. Seen only by the task that drives the connection, as are those below.
    pub(crate) fn has_read(&self) {
        self.read.store(true, Ordering::Relaxed);
    }

    /// Whether a part of the next request's head was read, if nothing is in flight.
    pub(crate) fn has_part(&self) -> bool {
        self.read.load(Ordering::Relaxed) && self.is_clean()
    }

    /// Since when the client owes a request, and whether it has made one before.
    pub(crate) fn idle_since(&self) -> (Instant, bool) {
        let requests = lock(&self.requests);
        (requests.idle_since, !requests.is_new())
    }

    pub(crate) fn is_idle(&self) -> bool {
        lock(&self.requests).in_flight.is_empty()
    }

    pub(crate) fn is_upgrading(&self) -> bool {
        self.upgrading.load(Ordering::Acquire)
    }

    /// The transport is closed.
    pub(crate) fn closed(&self) {
        // Dropped after the lock is released: the guard takes it, too.
        let upgraded = lock(&self.requests).upgraded.take();
        drop(upgraded);
    }

    fn in_flight(&self) -> Vec<CutRequest> {
        self.named(|_| true)
    }

    fn named(&self, which: impl Fn(Instant) -> bool) -> Vec<CutRequest> {
        let upgraded = self.is_upgrading();
        let cut = |request: &Request| CutRequest {
            method: short(request.method.as_str()),
            path: short(request.path.as_ref().map_or("", PathAndQuery::path)),
            age: request.since.elapsed(),
            upgraded,
        };
        let requests = lock(&self.requests);
        requests.in_flight.iter().filter(|request| which(request.since)).map(cut).collect()
    }
}

impl RequestGuard {
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    pub(crate) fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    /// The answer turns the connection into another protocol: the request ends with it.
    pub(crate) fn upgrade(self) {
        let connection = self.connection.clone();
        connection.upgrading.store(true, Ordering::Release);
        connection.drop_rest();
        lock(&connection.requests).upgraded = Some(self);
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        lock(&self.context.registry.connections).remove(&self.id);
    }
}

impl Drop for RequestGuard {
    fn drop(&mut self) {
        let mut requests = lock(&self.connection.requests);
        if let Some(at) = requests.in_flight.iter().position(|request| request.id == self.id) {
            let request = requests.in_flight.swap_remove(at);
            requests.idle_since = Instant::now();
            drop(requests);
            drop(request);
        }
    }
}
