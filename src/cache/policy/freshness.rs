//! Freshness lifetime and age (RFC 9111, section 4.2).

use std::time::Duration;

use http::header::{AGE, DATE, ETAG, EXPIRES, LAST_MODIFIED};
use http::{HeaderMap, StatusCode};

use super::control::{ResponseControl, Scope};
use super::field::{MAX_SECONDS, delta_seconds, split};
use super::{Exchange, Rules, date, seconds, single, targeted};

/// Where a lifetime comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// The response states it: a directive, a targeted field, or `Expires`.
    Explicit,
    /// The options of the layer.
    Default,
    /// The share of its age since `Last-Modified`.
    Heuristic,
    /// Nothing says how long: it is stale at once.
    Unknown,
}

/// Under which terms a stored response may be used: everything about time that its head says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Terms {
    /// In milliseconds, which is half of what a `Duration` takes; there are many of these.
    lifetime: u64,
    /// The age at the moment it was received (section 4.2.3), in milliseconds.
    initial_age: u64,
    pub(crate) source: Source,
    /// It must be validated before each use.
    pub(crate) no_cache: bool,
    /// It must never be used stale.
    pub(crate) must_revalidate: bool,
    stale_while_revalidate: u32,
    stale_if_error: u32,
}

impl Terms {
    pub(crate) fn new(rules: &Rules, exchange: &Exchange<'_>) -> Self {
        let control = control(rules, exchange.response);
        Self::with_control(rules, exchange, &control)
    }

    pub(crate) fn with_control(
        rules: &Rules,
        exchange: &Exchange<'_>,
        control: &ResponseControl,
    ) -> Self {
        let (lifetime, source) = lifetime(rules, exchange, control);
        let window = |stated: Option<u64>, default: Duration| {
            let seconds = stated.unwrap_or(default.as_secs());
            u32::try_from(seconds).unwrap_or(u32::MAX)
        };
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Self {
            lifetime: millis(lifetime),
            initial_age: millis(initial_age(exchange)),
            source,
            no_cache: control.no_cache.is_response(),
            must_revalidate: control.must_revalidate
                || control.proxy_revalidate
                || (control.s_maxage.is_some() && rules.s_maxage_forbids_stale),
            stale_while_revalidate: window(
                control.stale_while_revalidate,
                rules.stale_while_revalidate,
            ),
            stale_if_error: window(control.stale_if_error, rules.stale_if_error),
        }
    }

    pub(crate) fn lifetime(&self) -> Duration {
        Duration::from_millis(self.lifetime)
    }

    /// The age after it was kept for `resident`.
    pub(crate) fn age(&self, resident: Duration) -> Duration {
        Duration::from_millis(self.initial_age).saturating_add(resident)
    }

    /// Whether it may be used without asking anyone, at this age. A lifetime that equals the age is over.
    pub(crate) fn is_fresh(&self, age: Duration) -> bool {
        !self.no_cache && self.lifetime() > age
    }

    /// For how long it has been stale.
    pub(crate) fn staleness(&self, age: Duration) -> Duration {
        age.saturating_sub(self.lifetime())
    }

    /// For how long past its freshness it may answer while it is validated (RFC 5861, section 3).
    pub(crate) fn stale_while_revalidate(&self) -> Duration {
        Duration::from_secs(self.stale_while_revalidate.into())
    }

    /// For how long past its freshness it may answer in place of an error (RFC 5861, section 4).
    pub(crate) fn stale_if_error(&self) -> Duration {
        Duration::from_secs(self.stale_if_error.into())
    }

    /// Whether one response may answer several requests that came while it was made.
    ///
    /// One that has to be validated before each use, or that is stale on arrival, is for one request only.
    pub(crate) fn is_shareable(&self) -> bool {
        self.is_fresh(self.age(Duration::ZERO))
    }

    /// For how long it can be of use without a validator: until it is neither fresh nor usable stale.
    pub(crate) fn usable_for(&self, rules: &Rules) -> Duration {
        let stale = if self.no_cache || self.must_revalidate {
            Duration::ZERO
        } else {
            self.stale_while_revalidate().max(self.stale_if_error()).max(rules.stale_on_failure)
        };
        self.lifetime().saturating_add(stale).saturating_sub(self.age(Duration::ZERO))
    }
}

/// The directives that count: those of the first valid targeted field (RFC 9213), else `Cache-Control`.
pub(crate) fn control(rules: &Rules, response: &HeaderMap) -> ResponseControl {
    targeted::parse(response, &rules.targets).unwrap_or_else(|| ResponseControl::parse(response))
}

pub(crate) fn is_targeted(rules: &Rules, response: &HeaderMap) -> bool {
    targeted::parse(response, &rules.targets).is_some()
}

/// Whether there is something to validate the response with.
pub(crate) fn has_validator(response: &HeaderMap) -> bool {
    response.contains_key(ETAG) || response.contains_key(LAST_MODIFIED)
}

fn lifetime(
    rules: &Rules,
    exchange: &Exchange<'_>,
    control: &ResponseControl,
) -> (Duration, Source) {
    // RFC 9111, section 4.2.1: the first that is present.
    if let Some(stated) = control.s_maxage.or(control.max_age) {
        return (Duration::from_secs(stated), Source::Explicit);
    }
    let received = seconds(exchange.received);
    let made = made(exchange);
    let targeted = is_targeted(rules, exchange.response);
    if !targeted && exchange.response.contains_key(EXPIRES) {
        // Two lines, or what is no date, mean the past (section 5.3).
        let expires = single(exchange.response, EXPIRES)
            .and_then(|value| date::parse(value, received))
            .unwrap_or(i64::MIN);
        return (duration(expires.saturating_sub(made)), Source::Explicit);
    }
    if control.no_cache == Scope::Response {
        return (Duration::ZERO, Source::Explicit);
    }
    let for_status = rules.status_ttl.iter().find(|(status, _)| *status == exchange.status);
    if let Some((_, ttl)) = for_status {
        return (*ttl, Source::Default);
    }
    let heuristically = control.public || is_heuristically_cacheable(exchange.status);
    if let Some(ttl) = rules.default_ttl.filter(|_| heuristically) {
        return (ttl, Source::Default);
    }
    if rules.heuristic_percent > 0 && heuristically && !targeted {
        let modified =
            single(exchange.response, LAST_MODIFIED).and_then(|value| date::parse(value, received));
        if let Some(modified) = modified {
            let since = duration(made.saturating_sub(modified));
            let share = since.saturating_mul(rules.heuristic_percent) / 100;
            return (share.min(rules.heuristic_longest), Source::Heuristic);
        }
    }
    (Duration::ZERO, Source::Unknown)
}

/// RFC 9110, section 15.1, without 206, which is never stored as the representation.
pub(crate) fn is_heuristically_cacheable(status: StatusCode) -> bool {
    matches!(status.as_u16(), 200 | 203 | 204 | 300 | 301 | 308 | 404 | 405 | 410 | 414 | 501)
}

/// RFC 9111, section 4.2.3.
fn initial_age(exchange: &Exchange<'_>) -> Duration {
    let received = seconds(exchange.received);
    let apparent = duration(received.saturating_sub(made(exchange)));
    let delay = exchange.received.saturating_sub(exchange.requested);
    let corrected = age_value(exchange.response).saturating_add(delay);
    apparent.max(corrected)
}

/// `Date`, or the moment of reception if there is none that can be read (RFC 9110, section 6.6.1).
fn made(exchange: &Exchange<'_>) -> i64 {
    let received = seconds(exchange.received);
    single(exchange.response, DATE)
        .and_then(|value| date::parse(value, received))
        .unwrap_or(received)
}

/// RFC 9111, section 5.1: the first member; what is no number is ignored.
fn age_value(response: &HeaderMap) -> Duration {
    let first = response.get(AGE).and_then(|line| split(line.as_bytes()).next());
    first.and_then(delta_seconds).map_or(Duration::ZERO, Duration::from_secs)
}

/// A difference of two dates: never negative, never above 2^31 seconds.
fn duration(seconds: i64) -> Duration {
    Duration::from_secs(u64::try_from(seconds).unwrap_or(0).min(MAX_SECONDS))
}
