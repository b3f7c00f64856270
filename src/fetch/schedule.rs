//! When to look again: pure, the random number comes in.

use std::time::Duration;

/// The longest pause that failures lead to, unless the interval itself is longer.
const MOST: Duration = Duration::from_secs(3600);

/// How long to wait after a look that was the `failures`th in a row to fail. `random` is in 0..1: a
/// tenth of the time, up or down, so that many servers do not ask in step.
pub(super) fn delay(interval: Duration, failures: u32, random: f64) -> Duration {
    let most = MOST.max(interval);
    let base = interval.saturating_mul(1 << failures.min(20)).min(most);
    base.mul_f64(0.9 + 0.2 * random)
}

/// How long to wait after the start: soon, and not together with all the others that were started by
/// the same deploy.
pub(super) fn first(interval: Duration, random: f64) -> Duration {
    (interval / 10).mul_f64(random)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn failures_double_the_pause_up_to_an_hour() {
        for (failures, minutes) in [(0, 1), (1, 2), (2, 4), (5, 32), (6, 60), (40, 60)] {
            assert_eq!(delay(MINUTE, failures, 0.5), MINUTE * minutes, "{failures}");
        }
        assert_eq!(delay(120 * MINUTE, 3, 0.5), 120 * MINUTE, "an interval beyond it is kept");
    }

    #[test]
    fn the_jitter_is_a_tenth() {
        assert_eq!(delay(MINUTE, 0, 0.0), MINUTE.mul_f64(0.9));
        assert_eq!(delay(MINUTE, 0, 1.0), MINUTE.mul_f64(1.1));
        assert_eq!(first(MINUTE, 0.0), Duration::ZERO);
        assert_eq!(first(MINUTE, 1.0), MINUTE / 10);
    }
}
