//! The two clocks of a cache.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

/// A reading of both clocks: the steady one for how long something was kept, the wall clock for what is
/// written in headers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    pub(crate) steady: Instant,
    /// Milliseconds since 1970; a clock before that reads zero.
    wall: u64,
}

impl Moment {
    /// The time that passed since `earlier`: the larger of the two differences, never negative.
    ///
    /// The steady clock stands still while the machine sleeps, the wall clock may be set back.
    pub(crate) fn since(&self, earlier: &Moment) -> Duration {
        let steady = self.steady.saturating_duration_since(earlier.steady);
        steady.max(Duration::from_millis(self.wall.saturating_sub(earlier.wall)))
    }

    /// The wall clock, since 1970.
    pub(crate) fn wall(&self) -> Duration {
        Duration::from_millis(self.wall)
    }

    pub(crate) fn seconds(&self) -> i64 {
        super::policy::seconds(self.wall())
    }
}

type WallClock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

#[derive(Clone, Default)]
pub(crate) struct Clock {
    wall: Option<WallClock>,
}

impl Clock {
    pub(crate) fn with_wall(wall: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        Self { wall: Some(Arc::new(wall)) }
    }

    pub(crate) fn now(&self) -> Moment {
        let wall = self.wall.as_ref().map_or_else(SystemTime::now, |wall| wall());
        let wall = wall.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Moment { steady: Instant::now(), wall: u64::try_from(wall.as_millis()).unwrap_or(u64::MAX) }
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clock").field("own_wall", &self.wall.is_some()).finish()
    }
}
