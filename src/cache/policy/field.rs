//! Field values that are lists (RFC 9110, section 5.6.1).

use http::HeaderMap;
use http::header::AsHeaderName;

/// The largest number of seconds that is told apart: 2^31 (RFC 9111, section 1.2.2).
pub(crate) const MAX_SECONDS: u64 = 1 << 31;

/// The members of a list over all lines of a field, without surrounding white space, without empty
/// members; a comma inside a quoted string separates nothing.
pub(crate) fn members(headers: &HeaderMap, name: impl AsHeaderName) -> impl Iterator<Item = &[u8]> {
    headers.get_all(name).iter().flat_map(|line| split(line.as_bytes()))
}

/// The members of one line.
pub(crate) fn split(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    Split { rest: Some(line) }.filter(|member| !member.is_empty())
}

struct Split<'a> {
    rest: Option<&'a [u8]>,
}

impl<'a> Iterator for Split<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let rest = self.rest?;
        let mut quoted = false;
        let mut escaped = false;
        for (at, byte) in rest.iter().enumerate() {
            match byte {
                _ if escaped => escaped = false,
                b'\\' if quoted => escaped = true,
                b'"' => quoted = !quoted,
                b',' if !quoted => {
                    self.rest = Some(&rest[at + 1..]);
                    return Some(trim(&rest[..at]));
                }
                _ => {}
            }
        }
        self.rest = None;
        Some(trim(rest))
    }
}

/// Without optional white space (RFC 9110, section 5.6.3) at both ends.
pub(crate) fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = value {
        value = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// The content of a quoted string (RFC 9110, section 5.6.4), if it is exactly one.
pub(crate) fn unquote(value: &[u8]) -> Option<Vec<u8>> {
    let [b'"', inner @ .., b'"'] = value else {
        return None;
    };
    let mut out = Vec::with_capacity(inner.len());
    let mut bytes = inner.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => out.push(*bytes.next()?),
            b'"' => return None,
            other => out.push(*other),
        }
    }
    Some(out)
}

/// Digits and nothing else, at most [`MAX_SECONDS`]; `None` for everything that is not a number.
pub(crate) fn delta_seconds(value: &[u8]) -> Option<u64> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let seconds = value
        .iter()
        .fold(0_u64, |sum, digit| sum.saturating_mul(10).saturating_add(u64::from(digit - b'0')));
    Some(seconds.min(MAX_SECONDS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_split_at_commas_outside_quotes() {
        let table: &[(&str, &[&str])] = &[
            ("", &[]),
            (" , ,", &[]),
            ("a", &["a"]),
            ("a,b", &["a", "b"]),
            (" a ,\tb ", &["a", "b"]),
            ("a=\"x, y\", b", &["a=\"x, y\"", "b"]),
            ("a=\"x\\\", y\", b", &["a=\"x\\\", y\"", "b"]),
            ("a=\"open, b", &["a=\"open, b"]),
            ("a\\,b", &["a\\", "b"]),
        ];
        for (line, expected) in table {
            let members: Vec<_> = split(line.as_bytes()).collect();
            let expected: Vec<_> = expected.iter().map(|member| member.as_bytes()).collect();
            assert_eq!(members, expected, "{line:?}");
        }
    }

    #[test]
    fn lists_go_over_several_lines() {
        let mut headers = HeaderMap::new();
        for line in ["a, b", "", "c"] {
            headers.append("vary", line.parse().unwrap());
        }
        let members: Vec<_> = members(&headers, "vary").collect();
        assert_eq!(members, [b"a", b"b", b"c"]);
    }

    #[test]
    fn delta_seconds_are_digits() {
        let table = [
            ("0", Some(0)),
            ("003600", Some(3600)),
            ("2147483647", Some(2_147_483_647)),
            ("2147483648", Some(MAX_SECONDS)),
            ("99999999999", Some(MAX_SECONDS)),
            ("99999999999999999999999999999999", Some(MAX_SECONDS)),
            ("", None),
            ("-1", None),
            ("+1", None),
            ("1.0", None),
            ("1a", None),
            ("a1", None),
            ("1 ", None),
            ("'1'", None),
        ];
        for (text, expected) in table {
            assert_eq!(delta_seconds(text.as_bytes()), expected, "{text:?}");
        }
    }

    #[test]
    fn quoted_strings_are_unescaped() {
        let table = [
            ("\"\"", Some("")),
            ("\"a\"", Some("a")),
            ("\"a\\\"b\"", Some("a\"b")),
            ("\"a\"b\"", None),
            ("\"a", None),
            ("\"", None),
            ("a", None),
            ("\"a\\\"", None),
        ];
        for (text, expected) in table {
            let expected = expected.map(|text| text.as_bytes().to_vec());
            assert_eq!(unquote(text.as_bytes()), expected, "{text:?}");
        }
    }
}
