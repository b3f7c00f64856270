//! The two clocks of a cache.

use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

/// A reading of both clocks: the steady one for how long something was kept, the wall clock for what is
/// written in headers. Both in microseconds: with less, a lifetime could seem to be over too early.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    /// Since the cache was made.
    steady: u64,
    /// Since 1970; a clock before that reads zero.
    wall: u64,
}

impl Moment {
    /// The time that passed since `earlier`: the larger of the two differences, never negative.
    ///
    /// The steady clock stands still while the machine sleeps, the wall clock may be set back.
    pub(crate) fn since(&self, earlier: &Moment) -> Duration {
        let steady = self.steady.saturating_sub(earlier.steady);
        Duration::from_micros(steady.max(self.wall.saturating_sub(earlier.wall)))
    }

    /// The steady clock, since the cache was made.
    pub(crate) fn steady(&self) -> Duration {
        Duration::from_micros(self.steady)
    }

    /// The same in whole milliseconds, for what all threads share: written less often.
    pub(crate) fn steady_millis(&self) -> Duration {
        Duration::from_millis(self.steady / 1000)
    }

    /// The wall clock, since 1970.
    pub(crate) fn wall(&self) -> Duration {
        Duration::from_micros(self.wall)
    }

    pub(crate) fn seconds(&self) -> i64 {
        super::policy::seconds(self.wall())
    }
}

type WallClock = Box<dyn Fn() -> SystemTime + Send + Sync>;

pub(crate) struct Clock {
    start: Instant,
    wall: OnceLock<WallClock>,
    /// How far the system's wall clock is ahead of the steady one, and when that was last looked at.
    ahead: AtomicU64,
    looked: AtomicU64,
}

/// For how many microseconds the two clocks are taken to go together: a reading costs as much as an
/// allocation, and there would be two per hit. So a clock that was set, or a machine that slept, is noticed
/// that much later.
const TOGETHER: u64 = 10_000;

impl Clock {
    pub(crate) fn new() -> Self {
        Self {
            start: Instant::now(),
            wall: OnceLock::new(),
            ahead: AtomicU64::new(0),
            looked: AtomicU64::new(0),
        }
    }

    /// The first one set counts.
    pub(crate) fn set_wall(&self, wall: impl Fn() -> SystemTime + Send + Sync + 'static) {
        let _ = self.wall.set(Box::new(wall));
    }

    pub(crate) fn now(&self) -> Moment {
        let steady = micros(self.start.elapsed());
        let wall = match self.wall.get() {
            Some(wall) => since_1970(wall()),
            None => self.system(steady),
        };
        Moment { steady, wall }
    }

    /// The system's wall clock.
    fn system(&self, steady: u64) -> u64 {
        let look = steady / TOGETHER + 1;
        // Acquire and release: whoever sees that someone has looked sees what was seen.
        if self.looked.load(Ordering::Acquire) != look {
            let ahead = since_1970(SystemTime::now()).wrapping_sub(steady);
            self.ahead.store(ahead, Ordering::Relaxed);
            self.looked.store(look, Ordering::Release);
        }
        self.ahead.load(Ordering::Relaxed).wrapping_add(steady)
    }
}

fn since_1970(wall: SystemTime) -> u64 {
    micros(wall.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO))
}

fn micros(time: Duration) -> u64 {
    // In 64 bits: `as_micros` computes with 128.
    time.as_secs().saturating_mul(1_000_000).saturating_add(time.subsec_micros().into())
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clock").field("own_wall", &self.wall.get().is_some()).finish()
    }
}
