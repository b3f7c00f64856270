//! Byte ranges of a complete response (RFC 9110, section 14).

use http::HeaderMap;
use http::header::{CONTENT_ENCODING, DATE, ETAG, IF_RANGE, LAST_MODIFIED, RANGE};

use super::etag::EntityTag;
use super::field::{split, trim};
use super::{date, single};

/// First and last position, both inclusive.
pub(crate) type Span = (u64, u64);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spec {
    From(u64),
    Between(u64, u64),
    Last(u64),
}

/// What a request for ranges gets from a complete response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ranges {
    /// There is no range, or one that is to be ignored: the whole response.
    Whole,
    /// These parts, apart from each other, in the order in which they were asked for.
    Parts(Vec<Span>),
    /// None of them lies inside the response: 416.
    Unsatisfiable,
}

/// Which parts of a response of `length` bytes answer `request`.
///
/// Ranges that lie close together are one (section 15.3.7.2). More than `limit` ranges, or several that take
/// as much as everything, get the whole response (section 14.2 allows it, and section 17.15 says why).
pub(crate) fn resolve(
    request: &HeaderMap,
    response: &HeaderMap,
    length: u64,
    limit: usize,
    now: i64,
) -> Ranges {
    let Some(specs) = requested(request) else {
        return Ranges::Whole;
    };
    if request.contains_key(IF_RANGE) && !is_unchanged(request, response, now) {
        return Ranges::Whole;
    }
    let spans: Vec<Span> = specs.iter().filter_map(|spec| within(*spec, length)).collect();
    if spans.is_empty() {
        return Ranges::Unsatisfiable;
    }
    if specs.len() > limit {
        return Ranges::Whole;
    }
    if spans.len() == 1 {
        return Ranges::Parts(spans);
    }
    let spans = coalesced(&spans);
    let sent: u64 = spans.iter().map(|(first, last)| last - first + 1 + PART_OVERHEAD).sum();
    // The coding of a multipart would be that of its parts, so what is encoded is not cut into one.
    if spans.len() > 1 && (sent >= length || response.contains_key(CONTENT_ENCODING)) {
        return Ranges::Whole;
    }
    Ranges::Parts(spans)
}

/// What it costs to send a part by itself (section 15.3.7.2), in bytes.
const PART_OVERHEAD: u64 = 80;

/// Those that overlap, or that have less between them than two parts would cost, as one: at the place of the
/// first of them that was asked for.
fn coalesced(spans: &[Span]) -> Vec<Span> {
    let mut sorted: Vec<(Span, usize)> = spans.iter().copied().zip(0..).collect();
    sorted.sort_unstable();
    let mut apart: Vec<(Span, usize)> = Vec::with_capacity(sorted.len());
    for (span, place) in sorted {
        match apart.last_mut() {
            Some((known, first)) if span.0 <= known.1.saturating_add(PART_OVERHEAD) => {
                known.1 = known.1.max(span.1);
                *first = place.min(*first);
            }
            _ => apart.push((span, place)),
        }
    }
    apart.sort_unstable_by_key(|(_, place)| *place);
    apart.into_iter().map(|(span, _)| span).collect()
}

/// `Content-Range: bytes 0-4/10` with a known length (section 14.4): the span and the whole length.
pub(crate) fn content_range(value: &[u8]) -> Option<(Span, u64)> {
    let space = value.iter().position(|byte| *byte == b' ')?;
    let (unit, rest) = value.split_at(space);
    if !unit.eq_ignore_ascii_case(b"bytes") {
        return None;
    }
    let rest = &rest[1..];
    let slash = rest.iter().position(|byte| *byte == b'/')?;
    let dash = rest[..slash].iter().position(|byte| *byte == b'-')?;
    let first = position(&rest[..dash])?;
    let last = position(&rest[dash + 1..slash])?;
    let length = position(&rest[slash + 1..])?;
    (first <= last && last < length).then_some(((first, last), length))
}

/// `None` when the field is absent, not in bytes, or malformed: then it is ignored (section 14.2).
fn requested(request: &HeaderMap) -> Option<Vec<Spec>> {
    let value = single(request, RANGE)?;
    let equals = value.iter().position(|byte| *byte == b'=')?;
    let (unit, set) = (&value[..equals], &value[equals + 1..]);
    if !unit.eq_ignore_ascii_case(b"bytes") {
        return None;
    }
    let specs: Option<Vec<Spec>> = split(set).map(spec).collect();
    specs.filter(|specs| !specs.is_empty())
}

fn spec(value: &[u8]) -> Option<Spec> {
    let dash = value.iter().position(|byte| *byte == b'-')?;
    match (&value[..dash], &value[dash + 1..]) {
        (b"", last) => position(last).map(Spec::Last),
        (first, b"") => position(first).map(Spec::From),
        (first, last) => {
            let (first, last) = (position(first)?, position(last)?);
            (first <= last).then_some(Spec::Between(first, last))
        }
    }
}

/// Digits; a number that is too large is as good as the largest.
fn position(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(
        digits.iter().fold(0_u64, |sum, digit| {
            sum.saturating_mul(10).saturating_add(u64::from(digit - b'0'))
        }),
    )
}

fn within(spec: Spec, length: u64) -> Option<Span> {
    let last = length.checked_sub(1)?;
    match spec {
        Spec::From(first) => (first <= last).then_some((first, last)),
        Spec::Between(first, end) => (first <= last).then_some((first, end.min(last))),
        Spec::Last(0) => None,
        Spec::Last(count) => Some((length.saturating_sub(count), last)),
    }
}

/// `If-Range` (section 13.1.5): an entity tag by strong comparison, or a date that is exactly the strong
/// `Last-Modified`.
fn is_unchanged(request: &HeaderMap, response: &HeaderMap, now: i64) -> bool {
    let Some(condition) = single(request, IF_RANGE).map(trim) else {
        return false;
    };
    if let Some(tag) = EntityTag::parse(condition) {
        return single(response, ETAG)
            .and_then(EntityTag::parse)
            .is_some_and(|stored| stored.matches_strongly(tag));
    }
    let parsed = |value: Option<&[u8]>| value.and_then(|value| date::parse(value, now));
    let modified = parsed(single(response, LAST_MODIFIED));
    let made = parsed(single(response, DATE));
    // Section 8.8.2.2: a modification within the second of the response could be followed by another.
    let strong = matches!((modified, made), (Some(modified), Some(made)) if modified < made);
    strong && parsed(Some(condition)) == modified
}

#[cfg(test)]
mod tests {
    use http::HeaderName;

    use super::*;

    fn map(lines: &[(HeaderName, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn ranges_of_ten_bytes() {
        // RFC 9110, sections 14.1.1, 14.1.2 and 14.2.
        let parts = |spans: &[Span]| Ranges::Parts(spans.to_vec());
        let table = [
            ("bytes=0-1", parts(&[(0, 1)])),
            ("Bytes=0-1", parts(&[(0, 1)])),
            ("bytes=0-0", parts(&[(0, 0)])),
            ("bytes=1-", parts(&[(1, 9)])),
            ("bytes=-1", parts(&[(9, 9)])),
            ("bytes=-100", parts(&[(0, 9)])),
            ("bytes=5-100", parts(&[(5, 9)])),
            ("bytes=5-99999999999999999999999", parts(&[(5, 9)])),
            ("bytes=0-1,5-6", parts(&[(0, 6)])),
            ("bytes= 5-6 ,\t0-1", parts(&[(0, 6)])),
            ("bytes=0-5,5-6", parts(&[(0, 6)])),
            ("bytes=0-,0-", parts(&[(0, 9)])),
            ("bytes=0-1,20-30", parts(&[(0, 1)])),
            ("bytes=0-1,-1,3-4,6-7", Ranges::Whole),
            ("bytes=10-", Ranges::Unsatisfiable),
            ("bytes=99999999999999999999999-", Ranges::Unsatisfiable),
            ("bytes=-0", Ranges::Unsatisfiable),
            ("bytes=20-30,40-", Ranges::Unsatisfiable),
            ("bytes=5-4", Ranges::Whole),
            ("bytes=", Ranges::Whole),
            ("bytes=-", Ranges::Whole),
            ("bytes=a-b", Ranges::Whole),
            ("bytes=0-1,x", Ranges::Whole),
            ("bytes=0x0-1", Ranges::Whole),
            ("bytes=+0-1", Ranges::Whole),
            ("bytes 0-1", Ranges::Whole),
            ("lines=0-1", Ranges::Whole),
            ("", Ranges::Whole),
        ];
        for (line, expected) in table {
            let request = map(&[(RANGE, line)]);
            let ranges = resolve(&request, &HeaderMap::new(), 10, 3, 0);
            assert_eq!(ranges, expected, "{line:?}");
        }
        let empty = map(&[(RANGE, "bytes=0-")]);
        assert_eq!(resolve(&empty, &HeaderMap::new(), 0, 3, 0), Ranges::Unsatisfiable);
        let twice = map(&[(RANGE, "bytes=0-1"), (RANGE, "bytes=3-4")]);
        assert_eq!(
            resolve(&twice, &HeaderMap::new(), 10, 3, 0),
            Ranges::Whole,
            "two fields are malformed"
        );
    }

    #[test]
    fn several_ranges_of_a_thousand_bytes() {
        // RFC 9110, sections 14.2 and 15.3.7.2: close together they are one, in the order asked for.
        let parts = |spans: &[Span]| Ranges::Parts(spans.to_vec());
        let table = [
            ("bytes=0-9,500-509", parts(&[(0, 9), (500, 509)])),
            ("bytes=500-509,0-9", parts(&[(500, 509), (0, 9)])),
            ("bytes=500-509,0-9,-10", parts(&[(500, 509), (0, 9), (990, 999)])),
            // Less between them than another part would cost.
            ("bytes=0-9,89-90", parts(&[(0, 90)])),
            ("bytes=0-9,90-91", parts(&[(0, 9), (90, 91)])),
            ("bytes=500-509,0-9,510-519", parts(&[(500, 519), (0, 9)])),
            ("bytes=0-9,500-509,5-20", parts(&[(0, 20), (500, 509)])),
            ("bytes=0-99,0-9,0-19", parts(&[(0, 99)])),
            ("bytes=0-9,500-509,2000-", parts(&[(0, 9), (500, 509)])),
            // As much as everything.
            ("bytes=0-399,500-999", Ranges::Whole),
            ("bytes=0-9,500-509,700-709,900-909", Ranges::Whole),
        ];
        for (line, expected) in table {
            let request = map(&[(RANGE, line)]);
            let ranges = resolve(&request, &HeaderMap::new(), 1000, 3, 0);
            assert_eq!(ranges, expected, "{line:?}");
        }
        let encoded = map(&[(CONTENT_ENCODING, "gzip")]);
        let request = map(&[(RANGE, "bytes=0-9,500-509")]);
        assert_eq!(resolve(&request, &encoded, 1000, 3, 0), Ranges::Whole);
        let request = map(&[(RANGE, "bytes=0-9")]);
        assert_eq!(resolve(&request, &encoded, 1000, 3, 0), parts(&[(0, 9)]));
    }

    #[test]
    fn if_range_compares_strongly() {
        // RFC 9110, section 13.1.5.
        let modified = "Sun, 06 Nov 1994 08:49:37 GMT";
        let later = "Sun, 06 Nov 1994 08:49:38 GMT";
        type Lines<'a> = &'a [(HeaderName, &'a str)];
        let table: &[(Lines<'_>, &str, bool)] = &[
            (&[(ETAG, "\"a\"")], "\"a\"", true),
            (&[(ETAG, "\"a\"")], "\"b\"", false),
            (&[(ETAG, "W/\"a\"")], "W/\"a\"", false),
            (&[(ETAG, "\"a\"")], "W/\"a\"", false),
            (&[(ETAG, "\"a\"")], "*", false),
            (&[(ETAG, "\"a\"")], "\"a\", \"b\"", false),
            (&[], "\"a\"", false),
            (&[(LAST_MODIFIED, modified), (DATE, later)], modified, true),
            (&[(LAST_MODIFIED, modified), (DATE, later)], later, false),
            (&[(LAST_MODIFIED, modified), (DATE, modified)], modified, false),
            (&[(LAST_MODIFIED, modified)], modified, false),
            (&[(LAST_MODIFIED, "x"), (DATE, later)], "x", false),
        ];
        for (response, condition, expected) in table {
            let request = map(&[(RANGE, "bytes=0-1"), (IF_RANGE, condition)]);
            let ranges = resolve(&request, &map(response), 10, 3, 0);
            let is_part = ranges == Ranges::Parts(vec![(0, 1)]);
            assert_eq!(is_part, *expected, "{response:?} {condition}");
        }
    }

    #[test]
    fn content_ranges() {
        let table = [
            ("bytes 0-4/10", Some(((0, 4), 10))),
            ("BYTES 5-9/10", Some(((5, 9), 10))),
            ("bytes 4-9/10", Some(((4, 9), 10))),
            ("bytes 5-10/10", None),
            ("bytes 5-4/10", None),
            ("bytes 0-4/*", None),
            ("bytes */10", None),
            ("bytes=0-4/10", None),
            ("items 0-4/10", None),
            ("bytes 0-4", None),
            ("bytes 0-4/x", None),
        ];
        for (line, expected) in table {
            assert_eq!(content_range(line.as_bytes()), expected, "{line}");
        }
    }
}
