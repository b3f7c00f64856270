//! `Cache-Control` (RFC 9111, section 5.2; RFC 5861; RFC 8246).

use http::header::{CACHE_CONTROL, PRAGMA};
use http::{HeaderMap, HeaderName};

use super::field::{delta_seconds, members, trim, unquote};

/// What a directive such as `private` speaks about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Scope {
    #[default]
    Nothing,
    /// The whole response.
    Response,
    /// Only the named fields (RFC 9111, sections 5.2.2.4 and 5.2.2.7).
    Fields(Vec<HeaderName>),
}

impl Scope {
    pub(crate) fn is_response(&self) -> bool {
        matches!(self, Self::Response)
    }

    pub(crate) fn fields(&self) -> &[HeaderName] {
        match self {
            Self::Fields(names) => names,
            Self::Nothing | Self::Response => &[],
        }
    }

    fn widen(&mut self, argument: Argument<'_>) {
        let names = match argument {
            Argument::None => None,
            Argument::Token(value) => field_names(value),
            Argument::Quoted(value) => field_names(&value),
            Argument::Invalid => None,
        };
        match (&mut *self, names) {
            (Self::Response, _) => {}
            // An argument that names no field cannot narrow anything.
            (_, None) => *self = Self::Response,
            (Self::Nothing, Some(names)) => *self = Self::Fields(names),
            (Self::Fields(known), Some(names)) => known.extend(names),
        }
    }
}

/// The directives of a response.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ResponseControl {
    pub(crate) max_age: Option<u64>,
    pub(crate) s_maxage: Option<u64>,
    pub(crate) stale_while_revalidate: Option<u64>,
    pub(crate) stale_if_error: Option<u64>,
    pub(crate) no_cache: Scope,
    pub(crate) private: Scope,
    pub(crate) no_store: bool,
    pub(crate) public: bool,
    pub(crate) must_revalidate: bool,
    pub(crate) proxy_revalidate: bool,
    pub(crate) must_understand: bool,
    pub(crate) immutable: bool,
}

impl ResponseControl {
    pub(crate) fn parse(headers: &HeaderMap) -> Self {
        let mut control = Self::default();
        for (name, argument) in directives(headers) {
            let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
            if is("max-age") {
                smallest(&mut control.max_age, argument.seconds());
            } else if is("s-maxage") {
                smallest(&mut control.s_maxage, argument.seconds());
            } else if is("stale-while-revalidate") {
                smallest(&mut control.stale_while_revalidate, argument.seconds());
            } else if is("stale-if-error") {
                smallest(&mut control.stale_if_error, argument.seconds());
            } else if is("no-cache") {
                control.no_cache.widen(argument);
            } else if is("private") {
                control.private.widen(argument);
            } else if is("no-store") {
                control.no_store = true;
            } else if is("public") {
                // The only flag that permits: an argument that it does not have makes it unknown.
                control.public |= matches!(argument, Argument::None);
            } else if is("must-revalidate") {
                control.must_revalidate = true;
            } else if is("proxy-revalidate") {
                control.proxy_revalidate = true;
            } else if is("must-understand") {
                control.must_understand = true;
            } else if is("immutable") {
                control.immutable |= matches!(argument, Argument::None);
            }
        }
        control
    }
}

/// The directives of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RequestControl {
    pub(crate) max_age: Option<u64>,
    pub(crate) min_fresh: Option<u64>,
    /// Without an argument any staleness is accepted (RFC 9111, section 5.2.1.2): `u64::MAX`.
    pub(crate) max_stale: Option<u64>,
    pub(crate) stale_if_error: Option<u64>,
    pub(crate) no_cache: bool,
    pub(crate) no_store: bool,
    pub(crate) only_if_cached: bool,
}

impl RequestControl {
    pub(crate) fn parse(headers: &HeaderMap) -> Self {
        let mut control = Self::default();
        if !headers.contains_key(CACHE_CONTROL) {
            // RFC 9111, section 5.4: `Pragma` counts only where `Cache-Control` is absent.
            control.no_cache =
                members(headers, PRAGMA).any(|member| member.eq_ignore_ascii_case(b"no-cache"));
            return control;
        }
        for (name, argument) in directives(headers) {
            let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
            if is("max-age") {
                smallest(&mut control.max_age, argument.seconds());
            } else if is("min-fresh") {
                // The stricter of two is the larger; what is no number asks for the most.
                let seconds = argument.number().unwrap_or(super::field::MAX_SECONDS);
                control.min_fresh = Some(control.min_fresh.unwrap_or(0).max(seconds));
            } else if is("max-stale") {
                let seconds = match argument {
                    Argument::None => u64::MAX,
                    other => other.seconds(),
                };
                smallest(&mut control.max_stale, seconds);
            } else if is("stale-if-error") {
                smallest(&mut control.stale_if_error, argument.seconds());
            } else if is("no-cache") {
                control.no_cache = true;
            } else if is("no-store") {
                control.no_store = true;
            } else if is("only-if-cached") {
                control.only_if_cached = true;
            }
        }
        control
    }
}

/// RFC 9111, section 4.2.1: of conflicting values the most restrictive one, a response with an invalid
/// one is stale.
fn smallest(slot: &mut Option<u64>, seconds: u64) {
    *slot = Some(slot.map_or(seconds, |known| known.min(seconds)));
}

enum Argument<'a> {
    None,
    Token(&'a [u8]),
    Quoted(Vec<u8>),
    Invalid,
}

impl Argument<'_> {
    fn number(&self) -> Option<u64> {
        match self {
            Self::Token(value) => delta_seconds(value),
            Self::Quoted(value) => delta_seconds(value),
            Self::None | Self::Invalid => None,
        }
    }

    fn seconds(&self) -> u64 {
        self.number().unwrap_or(0)
    }
}

fn directives(headers: &HeaderMap) -> impl Iterator<Item = (&[u8], Argument<'_>)> {
    members(headers, CACHE_CONTROL).map(|member| {
        let Some(equals) = member.iter().position(|byte| *byte == b'=') else {
            return (member, Argument::None);
        };
        let (name, value) = (&member[..equals], &member[equals + 1..]);
        let argument = if trim(name) != name || trim(value) != value {
            // No space is allowed around the equals sign: the directive is known, its value is not.
            Argument::Invalid
        } else if value.starts_with(b"\"") {
            unquote(value).map_or(Argument::Invalid, Argument::Quoted)
        } else if value.is_empty() {
            Argument::Invalid
        } else {
            Argument::Token(value)
        };
        (trim(name), argument)
    })
}

/// `None` when a name is not one, or when there is none.
fn field_names(list: &[u8]) -> Option<Vec<HeaderName>> {
    let names: Option<Vec<_>> =
        super::field::split(list).map(|name| HeaderName::from_bytes(name).ok()).collect();
    names.filter(|names| !names.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(CACHE_CONTROL, line.parse().unwrap());
        }
        headers
    }

    #[test]
    fn max_age_is_strict_in_number_and_lenient_in_form() {
        // RFC 9111, sections 1.2.2, 4.2.1 and 5.2.
        let table: &[(&[&str], Option<u64>)] = &[
            (&[], None),
            (&["public"], None),
            (&["max-age=3600"], Some(3600)),
            (&["MaX-aGe=3600"], Some(3600)),
            (&["max-age=\"3600\""], Some(3600)),
            (&["max-age=003600"], Some(3600)),
            (&["foobar, max-age=3600"], Some(3600)),
            (&["max-age=99999999999"], Some(1 << 31)),
            (&["max-age=3600", "max-age=1800"], Some(1800)),
            (&["max-age=1, max-age=1800"], Some(1)),
            (&["max-age=1800, max-age=1"], Some(1)),
            (&["max-age=1800, max-age=x"], Some(0)),
            (&["max-age"], Some(0)),
            (&["max-age="], Some(0)),
            (&["max-age=-3600"], Some(0)),
            (&["max-age='3600'"], Some(0)),
            (&["max-age =3600"], Some(0)),
            (&["max-age= 3600"], Some(0)),
            (&["max-age=3600.0"], Some(0)),
            (&["max-age=3600a"], Some(0)),
            (&["max-age=a3600"], Some(0)),
            (&["max-age=\"3600"], Some(0)),
            (&["max-age=3600;x=y"], Some(0)),
            (&["extension=\"max-age=3600\", max-age=1"], Some(1)),
            (&["max-age=1, extension=\"max-age=3600\""], Some(1)),
            (&["extension=\"max-age=3600, max-age=1\""], None),
        ];
        for (lines, expected) in table {
            let control = ResponseControl::parse(&headers(lines));
            assert_eq!(control.max_age, *expected, "{lines:?}");
        }
    }

    #[test]
    fn flags_are_found_in_any_case_and_place() {
        let control = ResponseControl::parse(&headers(&[
            "No-StOrE, Must-Revalidate",
            "PROXY-revalidate , must-Understand,public,Immutable",
        ]));
        assert!(control.no_store && control.must_revalidate && control.proxy_revalidate);
        assert!(control.must_understand && control.public && control.immutable);
        let control = ResponseControl::parse(&headers(&["no-store=1, public=1, immutable=0"]));
        assert!(control.no_store, "a restriction holds whatever follows it");
        assert!(!control.public && !control.immutable, "a permission does not");
    }

    #[test]
    fn private_and_no_cache_speak_about_the_response_or_about_fields() {
        // RFC 9111, sections 5.2.2.4 and 5.2.2.7.
        let fields = |names: &[&str]| {
            Scope::Fields(
                names.iter().map(|name| HeaderName::from_bytes(name.as_bytes()).unwrap()).collect(),
            )
        };
        let table: &[(&[&str], Scope)] = &[
            (&["max-age=1"], Scope::Nothing),
            (&["private"], Scope::Response),
            (&["Private"], Scope::Response),
            (&["private=\"a\""], fields(&["a"])),
            (&["private=a"], fields(&["a"])),
            (&["private=\"a, b\""], fields(&["a", "b"])),
            (&["private=\"a\"", "private=\"b\""], fields(&["a", "b"])),
            (&["private=\"a\", private"], Scope::Response),
            (&["private, private=\"a\""], Scope::Response),
            (&["private=\"\""], Scope::Response),
            (&["private="], Scope::Response),
            (&["private=\"a b\""], Scope::Response),
            (&["private=\"a"], Scope::Response),
            (&["private = \"a\""], Scope::Response),
        ];
        for (lines, expected) in table {
            assert_eq!(ResponseControl::parse(&headers(lines)).private, *expected, "{lines:?}");
            let lines: Vec<_> = lines
                .iter()
                .map(|line| line.to_lowercase().replace("private", "no-cache"))
                .collect();
            let lines: Vec<_> = lines.iter().map(String::as_str).collect();
            assert_eq!(ResponseControl::parse(&headers(&lines)).no_cache, *expected, "{lines:?}");
        }
    }

    #[test]
    fn request_directives() {
        // RFC 9111, section 5.2.1.
        let parse = |line: &str| RequestControl::parse(&headers(&[line]));
        assert_eq!(parse("max-age=0").max_age, Some(0));
        assert_eq!(parse("max-stale").max_stale, Some(u64::MAX));
        assert_eq!(parse("max-stale=10").max_stale, Some(10));
        assert_eq!(parse("max-stale=x").max_stale, Some(0));
        assert_eq!(parse("max-stale, max-stale=5").max_stale, Some(5));
        assert_eq!(parse("min-fresh=5, min-fresh=9").min_fresh, Some(9));
        assert_eq!(parse("min-fresh=x").min_fresh, Some(1 << 31));
        assert_eq!(parse("stale-if-error=7").stale_if_error, Some(7));
        assert!(parse("no-cache").no_cache);
        assert!(parse("No-Store").no_store);
        assert!(parse("only-if-cached").only_if_cached);
    }

    #[test]
    fn pragma_counts_only_without_cache_control() {
        // RFC 9111, section 5.4.
        let mut request = HeaderMap::new();
        request.insert(PRAGMA, "foo, No-Cache".parse().unwrap());
        assert!(RequestControl::parse(&request).no_cache);
        request.insert(CACHE_CONTROL, "max-stale=1".parse().unwrap());
        assert!(!RequestControl::parse(&request).no_cache);
    }
}
