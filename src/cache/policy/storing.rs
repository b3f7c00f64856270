//! Whether a response may be stored (RFC 9111, section 3).

use std::fmt;
use std::time::Duration;

use http::header::{AUTHORIZATION, CONTENT_LOCATION, CONTENT_RANGE, SET_COOKIE};
use http::{HeaderMap, Method, StatusCode};

use super::freshness::{self, Source, has_validator};
use super::rules::SetCookie;
use super::vary::Vary;
use super::{RequestControl, Rules, Terms};

/// A request and the response to it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Exchange<'a> {
    pub(crate) method: &'a Method,
    pub(crate) request: &'a HeaderMap,
    pub(crate) status: StatusCode,
    pub(crate) response: &'a HeaderMap,
    /// The wall clock, since 1970, when the request was forwarded.
    pub(crate) requested: Duration,
    /// The wall clock, since 1970, when the head of the response came.
    pub(crate) received: Duration,
}

/// Why a response is not stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    Method,
    Status,
    Partial,
    NotUnderstood,
    NoStore,
    RequestNoStore,
    Private,
    Authorization,
    SetCookie,
    Vary,
    /// Nothing says for how long it could be used, and there is nothing to validate it with.
    NoFreshness,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Method => "method",
            Self::Status => "status",
            Self::Partial => "partial",
            Self::NotUnderstood => "must-understand",
            Self::NoStore => "no-store",
            Self::RequestNoStore => "request-no-store",
            Self::Private => "private",
            Self::Authorization => "authorization",
            Self::SetCookie => "set-cookie",
            Self::Vary => "vary",
            Self::NoFreshness => "no-freshness",
        })
    }
}

/// Under which terms the response may be stored, or why it may not.
pub(crate) fn storable(rules: &Rules, exchange: &Exchange<'_>) -> Result<Terms, Refusal> {
    match *exchange.method {
        Method::GET => {}
        Method::POST if rules.post && exchange.status == StatusCode::OK => {}
        _ => return Err(Refusal::Method),
    }
    let status = exchange.status.as_u16();
    if status < 200 || status == 304 {
        return Err(Refusal::Status);
    }
    if status == 206
        || (status < 300 && exchange.response.contains_key(CONTENT_RANGE)) && status != 200
    {
        return Err(Refusal::Partial);
    }
    let terms = storable_in_any_status(rules, exchange)?;
    if *exchange.method == Method::POST
        && (terms.source != Source::Explicit || !exchange.response.contains_key(CONTENT_LOCATION))
    {
        // RFC 9110, section 9.3.3: explicit freshness, and a Content-Location that is the target. The
        // caller, who knows the target, compares the two.
        return Err(Refusal::Method);
    }
    Ok(terms)
}

/// The same for a part of a response (section 3.3), whose status is 206.
pub(crate) fn storable_in_any_status(
    rules: &Rules,
    exchange: &Exchange<'_>,
) -> Result<Terms, Refusal> {
    let control = freshness::control(rules, exchange.response);
    let understood = is_understood(exchange.status);
    if control.must_understand {
        // Section 5.2.2.3: for a status that is understood it overrides no-store.
        if !understood {
            return Err(Refusal::NotUnderstood);
        }
    } else if control.no_store {
        return Err(Refusal::NoStore);
    }
    if rules.request_directives && RequestControl::parse(exchange.request).no_store {
        return Err(Refusal::RequestNoStore);
    }
    if control.private.is_response() {
        return Err(Refusal::Private);
    }
    // Section 3.5: only these three allow it.
    if exchange.request.contains_key(AUTHORIZATION)
        && !(control.public || control.must_revalidate || control.s_maxage.is_some())
    {
        return Err(Refusal::Authorization);
    }
    if rules.set_cookie == SetCookie::Refuse
        && exchange.response.contains_key(SET_COOKIE)
        && !names_set_cookie(&control)
    {
        return Err(Refusal::SetCookie);
    }
    if Vary::parse(exchange.response, &rules.key_headers) == Vary::Anything {
        return Err(Refusal::Vary);
    }
    let terms = Terms::with_control(rules, exchange, &control);
    let validator = has_validator(exchange.response);
    let usable = terms.usable_for(rules) > Duration::ZERO && !terms.no_cache;
    let wanted = match terms.source {
        Source::Explicit | Source::Default => usable || validator,
        Source::Heuristic => usable || validator,
        Source::Unknown => {
            rules.validators_alone
                && validator
                && (control.public || freshness::is_heuristically_cacheable(exchange.status))
        }
    };
    if !wanted {
        return Err(Refusal::NoFreshness);
    }
    Ok(terms)
}

/// `private="set-cookie"` and its like: the field is not stored, so it forbids nothing.
fn names_set_cookie(control: &super::control::ResponseControl) -> bool {
    let names = control.private.fields().iter().chain(control.no_cache.fields());
    names.into_iter().any(|name| name == SET_COOKIE)
}

/// The statuses whose caching rules this cache knows (RFC 9110, section 15, and RFC 7725).
fn is_understood(status: StatusCode) -> bool {
    matches!(
        status.as_u16(),
        200..=206 | 300..=305 | 307 | 308 | 400..=417 | 421 | 422 | 426 | 451 | 500..=505
    )
}
