//! What a request asks, as far as it matters to a cache.

use http::header::{CONNECTION, CONTENT_LENGTH};
use http::{HeaderMap, Method};
use http_body::Body;

use super::key::Host;
use super::outcome::Forward;
use super::policy::field;

/// What the client asked, as far as it shapes the answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked<'a> {
    pub(crate) method: &'a Method,
    pub(crate) headers: &'a HeaderMap,
    pub(crate) key: &'a str,
    pub(crate) noted: Noted,
}

/// Which of the fields are there that a cache looks at: one pass over a head is cheaper than to ask for each
/// of them, and most requests have none.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Noted {
    upgrade: bool,
    connection: bool,
    length: bool,
    encoding: bool,
    /// Conditions that only the origin can judge (RFC 9111, section 4.3.2).
    for_origin: bool,
    /// Conditions that are answered from the store.
    pub(crate) conditional: bool,
    pub(crate) range: bool,
}

/// What a request is to the cache.
pub(crate) enum Kind {
    Read,
    Write,
    Neither(Forward),
}

impl Noted {
    /// With the host that the request names, which the key needs.
    pub(crate) fn of(headers: &HeaderMap) -> (Self, Host<'_>) {
        let (mut noted, mut host) = (Self::default(), Host::None);
        for (name, value) in headers {
            match name.as_str() {
                "host" => host.add(value),
                "upgrade" => noted.upgrade = true,
                "connection" => noted.connection = true,
                "content-length" => noted.length = true,
                "transfer-encoding" => noted.encoding = true,
                "if-match" | "if-unmodified-since" => noted.for_origin = true,
                "if-none-match" | "if-modified-since" => noted.conditional = true,
                "range" => noted.range = true,
                _ => {}
            }
        }
        (noted, host)
    }

    pub(crate) fn kind(self, method: &Method, headers: &HeaderMap, body: &impl Body) -> Kind {
        if *method == Method::CONNECT || self.is_upgrade(headers) {
            return Kind::Neither(Forward::Bypass);
        }
        match *method {
            Method::GET | Method::HEAD => {
                if self.has_body(headers, body) || self.for_origin {
                    Kind::Neither(Forward::Bypass)
                } else {
                    Kind::Read
                }
            }
            Method::OPTIONS | Method::TRACE => Kind::Neither(Forward::Method),
            _ => Kind::Write,
        }
    }

    fn is_upgrade(self, headers: &HeaderMap) -> bool {
        let named = |member: &[u8]| member.eq_ignore_ascii_case(b"upgrade");
        self.upgrade || (self.connection && field::members(headers, CONNECTION).any(named))
    }

    /// A body is not part of the key, so the answer to one is not for others.
    fn has_body(self, headers: &HeaderMap, body: &impl Body) -> bool {
        !body.is_end_stream()
            || self.encoding
            || (self.length && headers.get(CONTENT_LENGTH).is_some_and(|length| length != "0"))
    }
}
