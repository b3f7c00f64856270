//! The rules that a cache follows where the RFC leaves it a choice.

use std::time::Duration;

use http::{HeaderName, StatusCode};

/// What is done with a response that has a `Set-Cookie` field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SetCookie {
    /// It is not stored: a cookie is usually for one client. The default inside an app.
    Refuse,
    /// It is stored without the field; only the client that caused it to be made gets the cookie.
    Strip,
    /// It is stored with the field, as RFC 9111, section 7.3 has it. The default of `.rfc9111()`.
    Store,
}

/// Every choice; a profile is a set of them.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    /// Freshness of responses that do not state one, as a share of their age at the time (section 4.2.2).
    pub(crate) heuristic_percent: u32,
    pub(crate) heuristic_longest: Duration,
    /// Whether `Cache-Control` and `Pragma` of a request count (section 5.2.1).
    pub(crate) request_directives: bool,
    pub(crate) set_cookie: SetCookie,
    /// For how long past its freshness a response is used when the origin fails, without its permission
    /// (section 4.2.4).
    pub(crate) stale_on_failure: Duration,
    /// The windows of RFC 5861 for responses that do not state them.
    pub(crate) stale_while_revalidate: Duration,
    pub(crate) stale_if_error: Duration,
    /// `s-maxage` implies `proxy-revalidate` (section 5.2.2.10).
    pub(crate) s_maxage_forbids_stale: bool,
    /// Store what states no freshness but has a validator, to be validated each time.
    pub(crate) validators_alone: bool,
    pub(crate) targets: Vec<HeaderName>,
    pub(crate) default_ttl: Option<Duration>,
    pub(crate) status_ttl: Vec<(StatusCode, Duration)>,
    /// A response to POST that names its own target in `Content-Location` answers later GETs (RFC 9110,
    /// section 9.3.3).
    pub(crate) post: bool,
    pub(crate) partial: bool,
    /// What is missing of a stored part is asked for by itself (section 3.4).
    pub(crate) complete_parts: bool,
    /// The entity tags of stored variants are sent where none of them matches (section 4.1).
    pub(crate) validate_variants: bool,
    pub(crate) by_language: bool,
    pub(crate) no_vary_search: bool,
    /// Request fields that select a variant although no response names them in `Vary`.
    pub(crate) key_headers: Vec<HeaderName>,
}

impl Rules {
    /// Safe inside an app.
    pub(crate) fn explicit() -> Self {
        Self {
            heuristic_percent: 0,
            heuristic_longest: Duration::from_secs(86_400),
            request_directives: false,
            set_cookie: SetCookie::Refuse,
            stale_on_failure: Duration::ZERO,
            stale_while_revalidate: Duration::ZERO,
            stale_if_error: Duration::ZERO,
            s_maxage_forbids_stale: true,
            validators_alone: false,
            targets: vec![HeaderName::from_static("cdn-cache-control")],
            default_ttl: None,
            status_ttl: Vec::new(),
            post: true,
            partial: true,
            complete_parts: false,
            validate_variants: false,
            by_language: true,
            no_vary_search: true,
            key_headers: Vec::new(),
        }
    }

    /// What a proxy wants: all of RFC 9111.
    pub(crate) fn rfc9111(self) -> Self {
        Self {
            heuristic_percent: 10,
            request_directives: true,
            set_cookie: SetCookie::Store,
            stale_on_failure: Duration::from_secs(86_400),
            validators_alone: true,
            complete_parts: true,
            validate_variants: true,
            ..self
        }
    }
}
