//! The rest of a response of which parts are stored (RFC 9111, section 3.4; RFC 9110, section 13.1.5).

use http::header::{CONTENT_RANGE, ETAG, IF_RANGE, RANGE};
use http::{HeaderMap, HeaderValue};

use super::etag::EntityTag;
use super::range::{Span, content_range};
use super::{conditional, single};

/// The range to ask for so that, together with the parts that are `held`, nothing of `wanted` is missing.
///
/// `None` where nothing is missing, and where asking for the rest would be asking for everything.
pub(crate) fn missing(wanted: Span, held: &[Span]) -> Option<Span> {
    let (mut first, mut last) = wanted;
    for (start, end) in held {
        if *start <= first && first <= *end {
            first = end + 1;
        }
    }
    if first > last {
        return None;
    }
    for (start, end) in held.iter().rev() {
        if *start <= last && last <= *end {
            last = start - 1;
        }
    }
    ((first, last) != wanted).then_some((first, last))
}

/// Makes a request ask for this range, or for everything where the representation is another by now.
pub(crate) fn ask(request: &mut HeaderMap, (first, last): Span, tag: &HeaderValue) {
    conditional::remove_conditions(request);
    let range = HeaderValue::try_from(format!("bytes={first}-{last}"));
    request.insert(RANGE, range.expect("digits are valid"));
    request.insert(IF_RANGE, tag.clone());
}

/// The strong entity tag, by which parts are known to belong together.
pub(crate) fn strong_tag(headers: &HeaderMap) -> Option<EntityTag<'_>> {
    single(headers, ETAG).and_then(EntityTag::parse).filter(|tag| !tag.weak)
}

/// Whether a 206 is what was asked for: this range of the representation that is `stored`.
pub(crate) fn is_missing(
    stored: &HeaderMap,
    length: u64,
    span: Span,
    response: &HeaderMap,
) -> bool {
    let place = single(response, CONTENT_RANGE).and_then(content_range);
    let tags = (strong_tag(stored), strong_tag(response));
    place == Some((span, length)) && matches!(tags, (Some(stored), Some(new)) if stored == new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_range_is_what_is_missing() {
        let table: &[(Span, &[Span], Option<Span>)] = &[
            ((0, 9), &[], None),
            ((0, 9), &[(0, 9)], None),
            ((2, 5), &[(0, 9)], None),
            ((0, 9), &[(0, 3)], Some((4, 9))),
            ((0, 9), &[(7, 9)], Some((0, 6))),
            ((0, 9), &[(0, 3), (7, 9)], Some((4, 6))),
            ((0, 9), &[(0, 3), (5, 5)], Some((4, 9))),
            ((0, 9), &[(0, 3), (5, 5), (8, 9)], Some((4, 7))),
            // What lies in the middle would be asked for with the rest.
            ((0, 9), &[(4, 5)], None),
            ((2, 8), &[(0, 3)], Some((4, 8))),
            ((2, 8), &[(8, 9)], Some((2, 7))),
            ((2, 8), &[(0, 1), (9, 9)], None),
            ((2, 2), &[(0, 1), (3, 9)], None),
        ];
        for (wanted, held, expected) in table {
            assert_eq!(missing(*wanted, held), *expected, "{wanted:?} of {held:?}");
        }
    }

    #[test]
    fn parts_belong_together_by_their_strong_tag() {
        type Lines<'a> = &'a [(&'static str, &'a str)];
        let head = |lines: Lines<'_>| {
            let mut headers = HeaderMap::new();
            for (name, value) in lines {
                headers.append(*name, value.parse().unwrap());
            }
            headers
        };
        let range = ("content-range", "bytes 4-9/10");
        let table: &[(&str, Lines<'_>, bool)] = &[
            ("\"a\"", &[("etag", "\"a\""), range], true),
            ("\"a\"", &[("etag", "\"b\""), range], false),
            ("\"a\"", &[("etag", "W/\"a\""), range], false),
            ("W/\"a\"", &[("etag", "W/\"a\""), range], false),
            ("\"a\"", &[range], false),
            ("\"a\"", &[("etag", "\"a\"")], false),
            ("\"a\"", &[("etag", "\"a\""), ("content-range", "bytes 4-8/10")], false),
            ("\"a\"", &[("etag", "\"a\""), ("content-range", "bytes 4-9/11")], false),
            ("\"a\"", &[("etag", "\"a\""), ("content-range", "bytes 4-9/*")], false),
            ("\"a\"", &[("etag", "\"a\""), range, range], false),
        ];
        for (stored, response, expected) in table {
            let stored = head(&[("etag", stored)]);
            assert_eq!(is_missing(&stored, 10, (4, 9), &head(response)), *expected, "{response:?}");
        }
    }

    #[test]
    fn the_rest_is_asked_for_alone() {
        let mut request = HeaderMap::new();
        request.insert("if-none-match", "\"x\"".parse().unwrap());
        request.insert("range", "bytes=0-9".parse().unwrap());
        ask(&mut request, (4, 9), &HeaderValue::from_static("\"a\""));
        assert_eq!(
            (&request["range"], &request["if-range"]),
            (&"bytes=4-9".parse().unwrap(), &"\"a\"".parse().unwrap())
        );
        assert_eq!(request.len(), 2);
    }
}
