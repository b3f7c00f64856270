#[cfg(feature = "serve")]
use std::any::Any;
use std::{
    fmt,
    pin::pin,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU8, Ordering},
    },
};

use tokio::sync::Notify;

/// Counts what is in flight and tells when to end it.
///
/// Clones share one count. Taking a guard and dropping it costs two atomic operations and no
/// allocation, because a guard is a strong reference to the tracker and nothing else: the count is
/// the reference count.
///
/// # Example
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// use graceful::Drain;
///
/// let drain = Drain::new();
/// let guard = drain.guard();
/// assert_eq!(drain.in_flight(), 1);
///
/// drain.start();
/// drop(guard);
/// drain.drained().await;
/// assert_eq!(drain.in_flight(), 0);
/// # }
/// ```
#[derive(Clone)]
pub struct Drain {
    shared: Arc<Shared>,
}

/// One piece of work in flight; dropping it ends that.
///
/// It is deliberately not `Clone`: one guard is one request, and a copy would be a second one.
#[must_use = "dropping the guard says that the work has ended"]
pub struct DrainGuard {
    _tracker: Arc<Tracker>,
}

struct Shared {
    signal: Arc<Signal>,
    /// The tracker of everything that began before the count first fell to zero in a drain.
    tracker: Weak<Tracker>,
    current: Mutex<Current>,
    #[cfg(feature = "serve")]
    owner: Weak<dyn Any + Send + Sync>,
}

struct Current {
    /// Keeps the tracker alive while no drain runs; given up by `start`.
    base: Option<Arc<Tracker>>,
    tracker: Weak<Tracker>,
}

/// Alive as long as anything is in flight. Its drop is the end of the drain.
struct Tracker {
    signal: Arc<Signal>,
}

/// Apart from `Shared`, which owns a tracker: a tracker that owned `Shared` would be a cycle.
#[derive(Default)]
struct Signal {
    phase: AtomicU8,
    started: Notify,
    ended: Notify,
}

const RUNNING: u8 = 0;
#[cfg(feature = "serve")]
const HANDING_OVER: u8 = 1;
const STOPPING: u8 = 2;

impl Drain {
    /// Creates a drain with nothing in flight that has not started.
    pub fn new() -> Self {
        Self {
            shared: Arc::new(Shared::new(
                #[cfg(feature = "serve")]
                Weak::<()>::new(),
            )),
        }
    }

    /// Creates a drain that belongs to something larger, which can be found through it.
    #[cfg(feature = "serve")]
    pub(crate) fn owned_by<T: Any + Send + Sync>(owner: Weak<T>) -> Self {
        Self { shared: Arc::new(Shared::new(owner)) }
    }

    /// What it belongs to, if it does and if that is a `T`.
    #[cfg(feature = "serve")]
    pub(crate) fn owner<T: Any + Send + Sync>(&self) -> Option<Arc<T>> {
        self.shared.owner.upgrade()?.downcast().ok()
    }

    /// Counts one more piece of work as in flight until the guard is dropped.
    ///
    /// Works during a drain, too: what a server has accepted it serves.
    #[inline]
    pub fn guard(&self) -> DrainGuard {
        let tracker = match self.shared.tracker.upgrade() {
            Some(tracker) => tracker,
            None => self.shared.late_tracker(),
        };
        DrainGuard { _tracker: tracker }
    }

    /// How many guards are alive.
    pub fn in_flight(&self) -> usize {
        self.shared.in_flight().0
    }

    /// Starts the drain: [`draining`](Self::draining) completes, and [`drained`](Self::drained) will
    /// once the last guard is gone. A second call changes nothing.
    pub fn start(&self) {
        self.begin(STOPPING);
    }

    /// Starts a drain of a process that has a successor: new requests need not be refused.
    #[cfg(feature = "serve")]
    pub(crate) fn start_handing_over(&self) {
        self.begin(HANDING_OVER);
    }

    fn begin(&self, phase: u8) {
        // A stop may follow a hand-over and not the other way round, so the phase only grows.
        self.shared.signal.phase.fetch_max(phase, Ordering::SeqCst);
        self.shared.signal.started.notify_waiters();
        let base = self.shared.lock().base.take();
        // Dropped after the lock is released: this may be the last reference, whose drop wakes others.
        drop(base);
    }

    /// Whether the drain has started.
    #[inline]
    pub fn is_draining(&self) -> bool {
        // Acquire: who sees the start also sees what its caller did before it.
        self.shared.signal.phase.load(Ordering::Acquire) != RUNNING
    }

    /// Whether it has started and nobody takes over, so that new requests may be refused.
    #[inline]
    pub(crate) fn is_stopping(&self) -> bool {
        self.shared.signal.phase.load(Ordering::Acquire) == STOPPING
    }

    /// Waits until the drain starts; returns at once if it has.
    ///
    /// # Cancel safety
    ///
    /// May be dropped and called again at any time.
    pub async fn draining(&self) {
        let mut started = pin!(self.shared.signal.started.notified());
        // Registered before the phase is read: a start in between is not missed.
        started.as_mut().enable();
        if !self.is_draining() {
            started.await;
        }
    }

    /// Waits until the drain has started and nothing is in flight.
    ///
    /// # Cancel safety
    ///
    /// May be dropped and called again at any time.
    pub async fn drained(&self) {
        self.draining().await;
        loop {
            let mut ended = pin!(self.shared.signal.ended.notified());
            // Registered before the count is read: a guard that goes in between wakes this.
            ended.as_mut().enable();
            let (in_flight, base) = self.shared.in_flight();
            if in_flight == 0 && !base {
                return;
            }
            ended.await;
        }
    }
}

impl Default for Drain {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Drain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Drain")
            .field("in_flight", &self.in_flight())
            .field("draining", &self.is_draining())
            .finish()
    }
}

impl fmt::Debug for DrainGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DrainGuard")
    }
}

impl Shared {
    fn new(#[cfg(feature = "serve")] owner: Weak<dyn Any + Send + Sync>) -> Self {
        let signal = Arc::new(Signal::default());
        let base = Arc::new(Tracker { signal: signal.clone() });
        let tracker = Arc::downgrade(&base);
        let current = Current { base: Some(base), tracker: tracker.clone() };
        Self {
            signal,
            tracker,
            current: Mutex::new(current),
            #[cfg(feature = "serve")]
            owner,
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The guards alive, and whether the base reference is still held.
    fn in_flight(&self) -> (usize, bool) {
        let current = self.lock();
        let base = current.base.is_some();
        (current.tracker.strong_count().saturating_sub(usize::from(base)), base)
    }

    /// A tracker for work that begins after the drain has already completed once.
    #[cold]
    fn late_tracker(&self) -> Arc<Tracker> {
        let mut current = self.lock();
        current.tracker.upgrade().unwrap_or_else(|| {
            let tracker = Arc::new(Tracker { signal: self.signal.clone() });
            current.tracker = Arc::downgrade(&tracker);
            tracker
        })
    }
}

impl Drop for Tracker {
    fn drop(&mut self) {
        self.signal.ended.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drain_that_never_starts_frees_its_memory() {
        let drain = Drain::new();
        let signal = Arc::downgrade(&drain.shared.signal);
        drop(drain.guard());
        drop(drain);
        assert_eq!(signal.strong_count(), 0, "no cycle keeps it alive");
    }
}
