//! `Vary` and the request fields that select a variant (RFC 9111, section 4.1).

use std::borrow::Cow;

use http::header::{ACCEPT_ENCODING, ACCEPT_LANGUAGE, VARY};
use http::{HeaderMap, HeaderName};

use super::field::trim;

/// What a response says about the request fields that it was selected by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Vary {
    /// By no request field: every request matches.
    #[default]
    Nothing,
    /// By these request fields, sorted, each once.
    Fields(Box<[HeaderName]>),
    /// By something outside the request (`*`): no request matches.
    Anything,
}

impl Vary {
    pub(crate) fn parse(headers: &HeaderMap, extra: &[HeaderName]) -> Self {
        if extra.is_empty() && !headers.contains_key(VARY) {
            return Self::Nothing;
        }
        let mut names = extra.to_vec();
        for member in super::field::members(headers, VARY) {
            // What is no field name cannot be compared, so nothing can be known to match.
            match HeaderName::from_bytes(member) {
                Ok(name) if member != b"*" => names.push(name),
                _ => return Self::Anything,
            }
        }
        names.sort_by(|left, right| left.as_str().cmp(right.as_str()));
        names.dedup();
        if names.is_empty() { Self::Nothing } else { Self::Fields(names.into()) }
    }

    pub(crate) fn fields(&self) -> &[HeaderName] {
        match self {
            Self::Fields(names) => names,
            Self::Nothing | Self::Anything => &[],
        }
    }
}

/// The selecting fields of the request that a stored response answers, normalised.
///
/// A field that was absent is told apart from an empty one.
pub(crate) type Selection = Box<[(HeaderName, Option<Box<[u8]>>)]>;

/// What `request` presents in the fields that `vary` names.
pub(crate) fn selection(vary: &Vary, request: &HeaderMap) -> Selection {
    vary.fields()
        .iter()
        .map(|name| {
            let value = presented(request, name).map(|value| value.into_owned().into());
            (name.clone(), value)
        })
        .collect()
}

/// Whether `request` selects the stored response, whose fields are `stored`.
///
/// A stored response whose `language` is the one that the request prefers before all others matches in
/// `Accept-Language`, whatever the first request listed.
pub(crate) fn selects(
    selection: &[(HeaderName, Option<Box<[u8]>>)],
    language: Option<&[u8]>,
    request: &HeaderMap,
) -> bool {
    selection.iter().all(|(name, value)| {
        let presented = presented(request, name);
        presented.as_deref() == value.as_deref()
            || (name == ACCEPT_LANGUAGE
                && language.is_some_and(|language| is_preferred_language(language, request)))
    })
}

fn presented<'a>(request: &'a HeaderMap, name: &HeaderName) -> Option<Cow<'a, [u8]>> {
    let mut lines = request.get_all(name).iter();
    let first = lines.next()?.as_bytes();
    if *name == ACCEPT_LANGUAGE || *name == ACCEPT_ENCODING {
        return Some(Cow::Owned(preferences(request, name).canonical()));
    }
    let second = lines.next();
    if second.is_none() && !first.contains(&b',') {
        return Some(Cow::Borrowed(trim(first)));
    }
    let mut value = Vec::with_capacity(first.len());
    for member in super::field::members(request, name) {
        if !value.is_empty() {
            value.push(b',');
        }
        value.extend_from_slice(member);
    }
    Some(Cow::Owned(value))
}

/// Names of a list with quality values (RFC 9110, section 12.4.2), the most preferred first.
struct Preferences {
    /// Lower case, with the quality in thousandths.
    names: Vec<(Vec<u8>, u16)>,
}

fn preferences(request: &HeaderMap, name: &HeaderName) -> Preferences {
    let mut names: Vec<(Vec<u8>, u16)> = Vec::new();
    for member in super::field::members(request, name) {
        let mut parts = member.split(|byte| *byte == b';').map(trim);
        let name = parts.next().unwrap_or_default().to_ascii_lowercase();
        let mut thousandths = 1000;
        for parameter in parts {
            if let Some(value) =
                parameter.strip_prefix(b"q=").or_else(|| parameter.strip_prefix(b"Q="))
            {
                // A quality that is none keeps the member apart from every well-formed one.
                thousandths = quality(value).unwrap_or(u16::MAX);
            }
        }
        names.push((name, thousandths));
    }
    names.sort_by(|left, right| right.1.cmp(&left.1).then_with(|| left.0.cmp(&right.0)));
    names.dedup();
    Preferences { names }
}

impl Preferences {
    /// Groups of equal preference: `en,de>fr>!it`. How far apart two qualities are does not matter, only
    /// which is larger; a quality of zero excludes.
    fn canonical(&self) -> Vec<u8> {
        let mut value = Vec::new();
        let mut last = None;
        for (name, quality) in &self.names {
            match last {
                None => {}
                Some(last) if last == *quality => value.push(b','),
                Some(_) => value.push(b'>'),
            }
            last = Some(*quality);
            if *quality == 0 {
                value.push(b'!');
            }
            if *quality == u16::MAX {
                value.push(b'?');
            }
            value.extend_from_slice(name);
        }
        value
    }

    /// The one name before all others.
    fn first(&self) -> Option<&[u8]> {
        let (name, quality) = self.names.first()?;
        let alone = self.names.get(1).is_none_or(|(_, second)| second != quality);
        (alone && (1..=1000).contains(quality) && name != b"*").then_some(name.as_slice())
    }
}

fn quality(value: &[u8]) -> Option<u16> {
    let (whole, fraction) = match value {
        [whole] => (whole, &[][..]),
        [whole, b'.', fraction @ ..] if fraction.len() <= 3 => (whole, fraction),
        _ => return None,
    };
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let mut thousandths = match whole {
        b'0' => 0,
        b'1' => 1000,
        _ => return None,
    };
    let mut unit = 100;
    for digit in fraction {
        thousandths += u16::from(digit - b'0') * unit;
        unit /= 10;
    }
    (thousandths <= 1000).then_some(thousandths)
}

/// Whether a list with quality values has this member, and does not exclude it.
pub(crate) fn names_positively(request: &HeaderMap, field: &HeaderName, member: &[u8]) -> bool {
    let preferences = preferences(request, field);
    let mut named = preferences.names.iter().filter(|(name, _)| name.eq_ignore_ascii_case(member));
    named.next().is_some_and(|(_, quality)| (1..=1000).contains(quality))
}

fn is_preferred_language(language: &[u8], request: &HeaderMap) -> bool {
    let preferences = preferences(request, &ACCEPT_LANGUAGE);
    preferences.first().is_some_and(|first| language.eq_ignore_ascii_case(first))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(lines: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers
                .append(HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn vary_is_a_set_of_names_or_a_star() {
        let fields = |names: &[&str]| {
            Vary::Fields(
                names.iter().map(|name| HeaderName::from_bytes(name.as_bytes()).unwrap()).collect(),
            )
        };
        let table: &[(&[&str], Vary)] = &[
            (&[], Vary::Nothing),
            (&[""], Vary::Nothing),
            (&["Foo"], fields(&["foo"])),
            (&["Foo, bar, FOO"], fields(&["bar", "foo"])),
            (&["foo", "bar"], fields(&["bar", "foo"])),
            (&["*"], Vary::Anything),
            (&["*, *"], Vary::Anything),
            (&["*", "*"], Vary::Anything),
            (&[", *"], Vary::Anything),
            (&["", "*"], Vary::Anything),
            (&["*, foo"], Vary::Anything),
            (&["foo, *"], Vary::Anything),
            (&["foo", "*"], Vary::Anything),
            (&["foo bar"], Vary::Anything),
            (&["\"foo\""], Vary::Anything),
        ];
        for (lines, expected) in table {
            let lines: Vec<_> = lines.iter().map(|line| ("vary", *line)).collect();
            assert_eq!(Vary::parse(&map(&lines), &[]), *expected, "{lines:?}");
        }
        let extra = [HeaderName::from_static("cookie")];
        assert_eq!(Vary::parse(&map(&[]), &extra), fields(&["cookie"]));
    }

    fn matches(vary: &str, first: &[(&str, &str)], second: &[(&str, &str)]) -> bool {
        let stored = map(&[("vary", vary)]);
        let vary = Vary::parse(&stored, &[]);
        let selection = selection(&vary, &map(first));
        selects(&selection, None, &map(second))
    }

    #[test]
    fn requests_match_in_every_selecting_field() {
        // RFC 9111, section 4.1.
        type Lines = &'static [(&'static str, &'static str)];
        let table: &[(&str, Lines, Lines, bool)] = &[
            ("foo", &[("foo", "1")], &[("foo", "1")], true),
            ("foo", &[("foo", "1")], &[("foo", "2")], false),
            ("foo", &[("foo", "a")], &[("foo", "A")], false),
            ("foo", &[("foo", "1")], &[], false),
            ("foo", &[], &[("foo", "1")], false),
            ("foo", &[], &[], true),
            ("foo", &[], &[("foo", "")], false),
            ("foo", &[("foo", "1"), ("x", "2")], &[("foo", "1"), ("x", "3")], true),
            ("foo, bar", &[("foo", "1"), ("bar", "2")], &[("bar", "2"), ("foo", "1")], true),
            ("foo, bar", &[("foo", "1"), ("bar", "2")], &[("foo", "1")], false),
            ("foo, bar", &[("foo", "1"), ("bar", "2")], &[("foo", "1"), ("bar", "3")], false),
            ("foo, bar", &[("foo", "1")], &[("foo", "1")], true),
            ("foo", &[("foo", "1, 2")], &[("foo", "1"), ("foo", "2")], true),
            ("foo", &[("foo", "1,2")], &[("foo", " 1, 2 ")], true),
            ("foo", &[("foo", "1,2")], &[("foo", "2,1")], false),
            ("foo", &[("foo", "\"1,2\"")], &[("foo", "\"1, 2\"")], false),
            (
                "accept-language",
                &[("accept-language", "en, de")],
                &[("accept-language", "de, en")],
                true,
            ),
            (
                "accept-language",
                &[("accept-language", "en, de")],
                &[("accept-language", "eN, De")],
                true,
            ),
            (
                "accept-language",
                &[("accept-language", "en, de")],
                &[("accept-language", " en ,   de")],
                true,
            ),
            (
                "accept-language",
                &[("accept-language", "en, de;q=0.5")],
                &[("accept-language", "de;q=0.7, en")],
                true,
            ),
            (
                "accept-language",
                &[("accept-language", "en, de;q=0.5")],
                &[("accept-language", "de, en;q=0.5")],
                false,
            ),
            (
                "accept-language",
                &[("accept-language", "en")],
                &[("accept-language", "en, de;q=0")],
                false,
            ),
            (
                "accept-encoding",
                &[("accept-encoding", "gzip, br")],
                &[("accept-encoding", "br,GZIP")],
                true,
            ),
            (
                "accept-encoding",
                &[("accept-encoding", "gzip")],
                &[("accept-encoding", "br")],
                false,
            ),
            (
                "accept-encoding",
                &[("accept-encoding", "gzip;q=1")],
                &[("accept-encoding", "gzip")],
                true,
            ),
            (
                "accept-encoding",
                &[("accept-encoding", "gzip;q=x")],
                &[("accept-encoding", "gzip")],
                false,
            ),
            (
                "accept-encoding",
                &[("accept-encoding", "gzip, identity;q=0")],
                &[("accept-encoding", "gzip")],
                false,
            ),
        ];
        for (vary, first, second, expected) in table {
            assert_eq!(matches(vary, first, second), *expected, "{vary}: {first:?} and {second:?}");
        }
    }

    #[test]
    fn content_language_selects_the_strictly_preferred() {
        let stored = map(&[("vary", "accept-language"), ("content-language", "De")]);
        let vary = Vary::parse(&stored, &[]);
        let selection = selection(&vary, &map(&[("accept-language", "en, de")]));
        let table = [
            ("fr;q=0.5, de;q=1.0", true),
            ("de", true),
            ("DE, *;q=0.1", true),
            ("de, fr", false),
            ("fr, de;q=0.9", false),
            ("de;q=0", false),
            ("de;q=x", false),
            ("*", false),
            ("de-AT", false),
        ];
        for (line, expected) in table {
            let request = map(&[("accept-language", line)]);
            assert_eq!(selects(&selection, Some(b"De"), &request), expected, "{line}");
            assert!(!selects(&selection, None, &request), "{line}");
        }
    }
}
