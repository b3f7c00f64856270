//! What became of a request: for access logs, and for `Cache-Status` (RFC 9211).

use std::fmt;
use std::time::Duration;

use http::{HeaderValue, StatusCode};

/// How the cache answered a request; found in the extensions of every response that passed it.
///
/// ```
/// use graceful::cache::CacheOutcome;
///
/// let response = http::Response::builder().extension(CacheOutcome::Hit).body(()).unwrap();
/// let outcome = response.extensions().get::<CacheOutcome>().unwrap();
/// assert!(outcome.is_from_store());
/// assert_eq!(outcome.to_string(), "hit");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CacheOutcome {
    /// Answered with a fresh stored response.
    Hit,
    /// Answered with a stale one, as the response, the request or the options allow.
    Stale,
    /// Answered with a stored response that the handler has just said is still good.
    Validated,
    /// Answered by the handler; nothing usable was stored.
    Miss,
    /// Answered by the handler's answer to another request that was under way.
    Collapsed,
    /// Answered by the handler: the cache had no part in it.
    Bypass,
    /// Refused with 504: the client wanted only what is stored.
    NotStored,
}

impl CacheOutcome {
    /// Whether the body came out of the store.
    pub fn is_from_store(self) -> bool {
        matches!(self, Self::Hit | Self::Stale | Self::Validated)
    }
}

impl fmt::Display for CacheOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Hit => "hit",
            Self::Stale => "stale",
            Self::Validated => "validated",
            Self::Miss => "miss",
            Self::Collapsed => "collapsed",
            Self::Bypass => "bypass",
            Self::NotStored => "not-stored",
        })
    }
}

/// Why a request was forwarded (RFC 9211, section 2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Forward {
    Bypass,
    Method,
    UriMiss,
    VaryMiss,
    Stale,
    Request,
    Partial,
}

impl Forward {
    fn as_str(self) -> &'static str {
        match self {
            Self::Bypass => "bypass",
            Self::Method => "method",
            Self::UriMiss => "uri-miss",
            Self::VaryMiss => "vary-miss",
            Self::Stale => "stale",
            Self::Request => "request",
            Self::Partial => "partial",
        }
    }
}

/// One member of `Cache-Status`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Status {
    pub(crate) hit: bool,
    pub(crate) forward: Option<Forward>,
    pub(crate) forward_status: Option<StatusCode>,
    pub(crate) stored: bool,
    pub(crate) collapsed: bool,
    /// Lifetime and age.
    pub(crate) ttl: Option<(Duration, Duration)>,
    pub(crate) detail: Option<&'static str>,
}

/// Answered from the store.
pub(crate) const HIT: Status = Status {
    hit: true,
    forward: None,
    forward_status: None,
    stored: false,
    collapsed: false,
    ttl: None,
    detail: None,
};

impl Status {
    pub(crate) fn forwarded(forward: Forward) -> Self {
        Self { forward: Some(forward), ..Self::default() }
    }

    /// Whether it says no more than that the store answered.
    pub(crate) fn is_plain_hit(&self) -> bool {
        self.hit
            && self.forward.is_none()
            && self.forward_status.is_none()
            && !self.stored
            && !self.collapsed
            && self.detail.is_none()
    }

    pub(crate) fn to_value(&self, name: &str, key: Option<&str>) -> HeaderValue {
        let mut text = String::with_capacity(64);
        self.write_to(&mut text, name, key);
        HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static("invalid"))
    }

    pub(crate) fn write_to(&self, text: &mut String, name: &str, key: Option<&str>) {
        text.push_str(name);
        if self.hit {
            text.push_str("; hit");
        }
        if let Some(forward) = self.forward {
            text.push_str("; fwd=");
            text.push_str(forward.as_str());
        }
        if let Some(status) = self.forward_status {
            text.push_str("; fwd-status=");
            text.push_str(status.as_str());
        }
        if let Some((lifetime, age)) = self.ttl {
            text.push_str("; ttl=");
            if age.as_secs() > lifetime.as_secs() {
                text.push('-');
            }
            push_number(text, lifetime.as_secs().abs_diff(age.as_secs()));
        }
        if self.stored {
            text.push_str("; stored");
        }
        if self.collapsed {
            text.push_str("; collapsed");
        }
        if let Some(key) = key {
            text.push_str("; key=\"");
            for byte in key.chars() {
                if matches!(byte, '"' | '\\') {
                    text.push('\\');
                }
                text.push(byte);
            }
            text.push('"');
        }
        if let Some(detail) = self.detail {
            text.push_str("; detail=");
            text.push_str(detail);
        }
    }
}

pub(crate) fn push_number(text: &mut String, number: u64) {
    text.push_str(itoa::Buffer::new().format(number));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_of_cache_status() {
        // RFC 9211, section 2.
        let hit = Status {
            hit: true,
            ttl: Some((Duration::from_secs(60), Duration::from_secs(90))),
            ..Status::default()
        };
        assert_eq!(hit.to_value("graceful", None), "graceful; hit; ttl=-30");
        let miss = Status {
            forward_status: Some(StatusCode::OK),
            stored: true,
            collapsed: true,
            detail: Some("no-store"),
            ..Status::forwarded(Forward::UriMiss)
        };
        assert_eq!(
            miss.to_value("\"a b\"", Some("h/x\"y")),
            "\"a b\"; fwd=uri-miss; fwd-status=200; stored; collapsed; key=\"h/x\\\"y\"; detail=no-store"
        );
    }
}
