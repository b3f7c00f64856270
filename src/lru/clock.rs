//! Where the time comes from.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A clock for entries that expire.
///
/// It says how long it has been running. One that goes backwards does no harm: within a cache, time stands
/// still until the clock has caught up.
pub trait Clock: fmt::Debug + Send + Sync {
    /// The time since some fixed moment.
    fn now(&self) -> Duration;
}

/// The monotonic clock of the system, read at every use.
#[derive(Clone, Copy, Debug)]
pub struct MonotonicClock {
    start: Instant,
}

impl MonotonicClock {
    /// A clock that starts now.
    pub fn new() -> Self {
        Self { start: Instant::now() }
    }
}

impl Default for MonotonicClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for MonotonicClock {
    #[inline]
    fn now(&self) -> Duration {
        self.start.elapsed()
    }
}

/// A clock that moves only when it is told to: for tests, and as a coarse clock that one timer drives.
///
/// ```
/// use std::sync::Arc;
/// use std::time::Duration;
/// use graceful::lru::{ExpirableCache, ManualClock};
///
/// let clock = Arc::new(ManualClock::new());
/// let mut cache = ExpirableCache::builder(10)
///     .ttl(Duration::from_secs(60))
///     .clock(clock.clone())
///     .build();
/// cache.insert("key", 1);
/// clock.advance(Duration::from_secs(61));
/// assert_eq!(cache.get("key"), None);
/// ```
#[derive(Debug, Default)]
pub struct ManualClock {
    nanos: AtomicU64,
}

impl ManualClock {
    /// A clock that stands at zero.
    pub fn new() -> Self {
        Self::default()
    }

    /// Moves the clock on.
    pub fn advance(&self, by: Duration) {
        // Relaxed: the time is a value of its own and orders nothing else.
        self.nanos.fetch_add(nanos(by), Ordering::Relaxed);
    }

    /// Sets the clock, backwards too.
    pub fn set(&self, to: Duration) {
        self.nanos.store(nanos(to), Ordering::Relaxed);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Duration {
        Duration::from_nanos(self.nanos.load(Ordering::Relaxed))
    }
}

/// In nanoseconds, at most 584 years.
pub(crate) fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
