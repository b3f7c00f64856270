//! Whether a stored response may answer a request (RFC 9111, sections 4 and 5.2.1; RFC 5861).

use std::time::Duration;

use http::StatusCode;

use super::{RequestControl, Rules, Terms};

/// What may be done with a stored response of the right key and variant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reuse {
    /// Answer with it.
    Fresh,
    /// Answer with it although it is stale: the client said that it does not mind.
    Stale,
    /// Answer with it and validate it in the background.
    StaleWhileRevalidate,
    /// Ask the origin first.
    Validate,
}

/// How the origin failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// It answered with this status.
    Status(StatusCode),
    /// It did not answer.
    Error,
}

/// What to do with a response of this `age`; `request` is empty where request directives do not count.
///
/// `expired` is set for what was purged softly: it is stale whatever its lifetime.
pub(crate) fn reuse(
    terms: &Terms,
    request: &RequestControl,
    age: Duration,
    expired: Option<Duration>,
) -> Reuse {
    let staleness = expired.unwrap_or_else(|| terms.staleness(age));
    let fresh = terms.is_fresh(age) && expired.is_none();
    if request.no_cache || request.no_store {
        return Reuse::Validate;
    }
    let too_old =
        request.max_age.is_some_and(|seconds| age > Duration::from_secs(seconds) || seconds == 0);
    let too_short = request.min_fresh.is_some_and(|seconds| {
        !fresh || terms.lifetime().saturating_sub(age) < Duration::from_secs(seconds)
    });
    if too_old || too_short {
        return Reuse::Validate;
    }
    if fresh {
        return Reuse::Fresh;
    }
    if terms.no_cache || terms.must_revalidate {
        return Reuse::Validate;
    }
    // Section 5.2.1.2: an accepted staleness counts in whole seconds.
    if request.max_stale.is_some_and(|seconds| staleness.as_secs() <= seconds) {
        return Reuse::Stale;
    }
    let window = terms.stale_while_revalidate();
    if window > Duration::ZERO && staleness <= window {
        return Reuse::StaleWhileRevalidate;
    }
    Reuse::Validate
}

/// Whether the stale response may answer in place of a failure (RFC 5861, section 4; RFC 9111, section
/// 4.2.4).
pub(crate) fn is_usable_after(
    rules: &Rules,
    terms: &Terms,
    request: &RequestControl,
    age: Duration,
    expired: Option<Duration>,
    failure: Failure,
) -> bool {
    let (is_error, is_disconnection) = match failure {
        Failure::Error => (true, true),
        Failure::Status(status) => {
            (matches!(status.as_u16(), 500 | 502 | 503 | 504), matches!(status.as_u16(), 502 | 504))
        }
    };
    if !is_error || terms.no_cache || terms.must_revalidate || request.no_cache {
        return false;
    }
    let staleness = expired.unwrap_or_else(|| terms.staleness(age));
    let asked = request.stale_if_error.map(Duration::from_secs);
    let stated = asked.unwrap_or_default().max(terms.stale_if_error());
    (stated > Duration::ZERO && staleness <= stated)
        || (is_disconnection
            && rules.stale_on_failure > Duration::ZERO
            && staleness <= rules.stale_on_failure)
}
