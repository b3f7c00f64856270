//! Stored variants offered to the origin when none matches (RFC 9111, section 4.1; RFC 9110, section 13.1.2).

use http::header::{ACCEPT_ENCODING, ETAG};
use http::{HeaderMap, HeaderValue};

use super::etag::EntityTag;
use super::{field, single, vary};

/// Whether a stored response with this entity tag and `Content-Encoding` may be offered for `request`.
///
/// Only by a strong tag: a weak one may be that of all variants (RFC 9110, section 8.8.3.3). And only in a
/// coding that the client accepts, as there are origins that have one strong tag for all codings.
pub(crate) fn may_be_offered(
    tag: Option<&HeaderValue>,
    coding: Option<&HeaderValue>,
    request: &HeaderMap,
) -> bool {
    let strong = tag.and_then(|tag| EntityTag::parse(tag.as_bytes())).is_some_and(|tag| !tag.weak);
    let accepted = |coding: &HeaderValue| {
        field::split(coding.as_bytes())
            .all(|name| vary::names_positively(request, &ACCEPT_ENCODING, name))
    };
    strong && coding.is_none_or(accepted)
}

/// `If-None-Match` with all these tags, each once.
pub(crate) fn list<'a>(tags: impl Iterator<Item = &'a HeaderValue>) -> Option<HeaderValue> {
    let mut named: Vec<&[u8]> = Vec::new();
    for tag in tags.map(HeaderValue::as_bytes) {
        if !named.contains(&tag) {
            named.push(tag);
        }
    }
    if named.is_empty() { None } else { HeaderValue::from_bytes(&named.join(&b", "[..])).ok() }
}

/// Which of the offered ones a 304 names (RFC 9111, section 4.3.4).
///
/// One that names none means the only one there was.
pub(crate) fn named<'a>(
    offered: impl Iterator<Item = &'a HeaderValue>,
    response: &HeaderMap,
) -> Option<usize> {
    let mut offered = offered.map(HeaderValue::as_bytes).enumerate();
    if !response.contains_key(ETAG) {
        let (place, first) = offered.next()?;
        return offered.all(|(_, other)| other == first).then_some(place);
    }
    let new = single(response, ETAG).and_then(EntityTag::parse)?;
    let is_named = |tag| EntityTag::parse(tag).is_some_and(|tag| tag.matches_weakly(new));
    offered.find(|(_, tag)| is_named(tag)).map(|(place, _)| place)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> HeaderValue {
        text.parse().unwrap()
    }

    #[test]
    fn what_may_be_offered() {
        type Coding = Option<&'static str>;
        let table: &[(Option<&str>, Coding, Coding, bool)] = &[
            (Some("\"a\""), None, None, true),
            (Some("W/\"a\""), None, None, false),
            (Some("a"), None, None, false),
            (None, None, None, false),
            (Some("\"a\""), Some("gzip"), None, false),
            (Some("\"a\""), Some("gzip"), Some("br"), false),
            (Some("\"a\""), Some("gzip"), Some("gzip;q=0"), false),
            (Some("\"a\""), Some("gzip"), Some("gzip;q=x"), false),
            (Some("\"a\""), Some("gzip"), Some("br, GZip;q=0.1"), true),
            (Some("\"a\""), Some("gzip, br"), Some("br, gzip"), true),
            (Some("\"a\""), Some("gzip, br"), Some("gzip"), false),
        ];
        for (tag, coding, accepted, expected) in table {
            let mut request = HeaderMap::new();
            if let Some(accepted) = accepted {
                request.insert(ACCEPT_ENCODING, value(accepted));
            }
            let (tag, coding) = (tag.map(value), coding.map(value));
            let offered = may_be_offered(tag.as_ref(), coding.as_ref(), &request);
            assert_eq!(offered, *expected, "{tag:?} {coding:?} {accepted:?}");
        }
    }

    #[test]
    fn each_tag_is_listed_once() {
        let tags = [value("\"a\""), value("\"b\""), value("\"a\"")];
        assert_eq!(list(tags.iter()), Some(value("\"a\", \"b\"")));
        assert_eq!(list([].iter()), None);
    }

    #[test]
    fn a_304_names_one_of_them() {
        let table: &[(&[&str], &[&str], Option<usize>)] = &[
            (&["\"a\"", "\"b\""], &["\"b\""], Some(1)),
            (&["\"a\"", "\"b\""], &["W/\"b\""], Some(1)),
            (&["\"a\"", "\"b\""], &["\"c\""], None),
            (&["\"a\"", "\"b\""], &["b"], None),
            (&["\"a\"", "\"b\""], &["\"a\"", "\"b\""], None),
            (&["\"a\"", "\"b\""], &[], None),
            (&["\"a\"", "\"a\""], &[], Some(0)),
            (&["\"a\""], &[], Some(0)),
            (&["\"a\""], &["\"b\""], None),
            (&[], &[], None),
        ];
        for (offered, lines, expected) in table {
            let tags: Vec<_> = offered.iter().map(|tag| value(tag)).collect();
            let mut response = HeaderMap::new();
            for line in *lines {
                response.append(ETAG, value(line));
            }
            assert_eq!(named(tags.iter(), &response), *expected, "{offered:?} {lines:?}");
        }
    }
}
