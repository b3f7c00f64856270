//! The two clocks of a cache.

use std::fmt;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

/// A reading of both clocks: the steady one for how long something was kept, the wall clock for what is
/// written in headers. Both in milliseconds: every stored response has one of these.
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
        Duration::from_millis(steady.max(self.wall.saturating_sub(earlier.wall)))
    }

    /// The steady clock, since the cache was made.
    pub(crate) fn steady(&self) -> Duration {
        Duration::from_millis(self.steady)
    }

    /// The wall clock, since 1970.
    pub(crate) fn wall(&self) -> Duration {
        Duration::from_millis(self.wall)
    }

    pub(crate) fn seconds(&self) -> i64 {
        super::policy::seconds(self.wall())
    }
}

type WallClock = Box<dyn Fn() -> SystemTime + Send + Sync>;

pub(crate) struct Clock {
    start: Instant,
    wall: OnceLock<WallClock>,
}

impl Clock {
    pub(crate) fn new() -> Self {
        Self { start: Instant::now(), wall: OnceLock::new() }
    }

    /// The first one set counts.
    pub(crate) fn set_wall(&self, wall: impl Fn() -> SystemTime + Send + Sync + 'static) {
        let _ = self.wall.set(Box::new(wall));
    }

    pub(crate) fn now(&self) -> Moment {
        let wall = self.wall.get().map_or_else(SystemTime::now, |wall| wall());
        let wall = wall.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Moment { steady: millis(self.start.elapsed()), wall: millis(wall) }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clock").field("own_wall", &self.wall.get().is_some()).finish()
    }
}
