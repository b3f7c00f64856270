//! What a shared cache may do with a message: the rules of RFC 9111 and its family, and nothing else.
//!
//! Pure: heads of requests and responses and both clocks come in, decisions go out. Nothing here knows of
//! a store, a body or a task, and nothing reads a clock.

use std::time::Duration;

use http::header::{
    AGE, AsHeaderName, CONNECTION, CONTENT_LENGTH, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION,
    SET_COOKIE, TE, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderName};

pub(crate) mod conditional;
pub(crate) mod control;
pub(crate) mod date;
pub(crate) mod etag;
pub(crate) mod field;
pub(crate) mod freshen;
pub(crate) mod freshness;
pub(crate) mod invalidation;
pub(crate) mod no_vary_search;
pub(crate) mod range;
pub(crate) mod rest;
pub(crate) mod reuse;
pub(crate) mod rules;
pub(crate) mod storing;
pub(crate) mod structured;
pub(crate) mod targeted;
pub(crate) mod variants;
pub(crate) mod vary;

#[cfg(test)]
mod tests;

pub(crate) use control::RequestControl;
pub(crate) use freshness::Terms;
pub(crate) use reuse::{Failure, Reuse};
pub(crate) use rules::Rules;
pub(crate) use storing::{Exchange, Refusal};

/// The value of a field that occurs exactly once.
pub(crate) fn single(headers: &HeaderMap, name: impl AsHeaderName) -> Option<&[u8]> {
    let mut lines = headers.get_all(name).iter();
    let first = lines.next()?;
    lines.next().is_none().then(|| first.as_bytes())
}

/// Whole seconds of a wall clock reading since 1970.
pub(crate) fn seconds(wall: Duration) -> i64 {
    i64::try_from(wall.as_secs()).unwrap_or(i64::MAX)
}

/// Removes the fields that speak about one connection only (RFC 9110, section 7.6.1; RFC 9111, section
/// 3.1), among them those that `Connection` names.
pub(crate) fn remove_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(CONNECTION) {
        let named: Vec<_> = field::members(headers, CONNECTION)
            .filter_map(|name| HeaderName::from_bytes(name).ok())
            .collect();
        for name in named {
            headers.remove(name);
        }
        headers.remove(CONNECTION);
    }
    const HOP_BY_HOP: [HeaderName; 8] = [
        HeaderName::from_static("keep-alive"),
        HeaderName::from_static("proxy-connection"),
        HeaderName::from_static("proxy-authentication-info"),
        PROXY_AUTHENTICATE,
        PROXY_AUTHORIZATION,
        TE,
        TRANSFER_ENCODING,
        UPGRADE,
    ];
    for name in HOP_BY_HOP {
        headers.remove(name);
    }
}

/// The head as it is stored: without fields of the connection, without what `private` and `no-cache` name,
/// and without `Age` and `Content-Length`, which are made anew for each answer.
pub(crate) fn stored_fields(rules: &Rules, response: &HeaderMap) -> HeaderMap {
    let mut stored = response.clone();
    let control = freshness::control(rules, response);
    remove_hop_by_hop(&mut stored);
    for name in control.private.fields().iter().chain(control.no_cache.fields()) {
        stored.remove(name);
    }
    stored.remove(AGE);
    stored.remove(CONTENT_LENGTH);
    if rules.set_cookie != rules::SetCookie::Store {
        stored.remove(SET_COOKIE);
    }
    stored
}
