//! Entity tags and lists of them (RFC 9110, sections 8.8.3 and 13.1.2).

use http::HeaderMap;
use http::header::AsHeaderName;

use super::field::members;

/// An entity tag: its quotes are part of `opaque`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EntityTag<'a> {
    pub(crate) weak: bool,
    pub(crate) opaque: &'a [u8],
}

impl<'a> EntityTag<'a> {
    /// `None` for everything that is not exactly one entity tag.
    pub(crate) fn parse(value: &'a [u8]) -> Option<Self> {
        let (weak, opaque) = match value.strip_prefix(b"W/") {
            Some(opaque) => (true, opaque),
            None => (false, value),
        };
        let [b'"', inner @ .., b'"'] = opaque else {
            return None;
        };
        let valid = |byte: &u8| matches!(byte, 0x21 | 0x23..=0x7e | 0x80..=0xff);
        inner.iter().all(valid).then_some(Self { weak, opaque })
    }

    /// RFC 9110, section 8.8.3.2: neither may be weak.
    pub(crate) fn matches_strongly(self, other: EntityTag<'_>) -> bool {
        !self.weak && !other.weak && self.opaque == other.opaque
    }

    /// RFC 9110, section 8.8.3.2: weak or not does not matter.
    pub(crate) fn matches_weakly(self, other: EntityTag<'_>) -> bool {
        self.opaque == other.opaque
    }
}

/// Whether a list such as `If-None-Match` names `tag`, by weak comparison; `*` names everything.
///
/// A member that is no entity tag matches nothing.
pub(crate) fn names(
    headers: &HeaderMap,
    field: impl AsHeaderName,
    tag: Option<EntityTag<'_>>,
) -> bool {
    let mut whole = members(headers, field).peekable();
    // `*` stands alone; inside a list it is no entity tag.
    if let Some(&first) = whole.peek()
        && first == b"*"
    {
        whole.next();
        return whole.next().is_none();
    }
    let Some(tag) = tag else {
        return false;
    };
    whole.filter_map(EntityTag::parse).any(|other| tag.matches_weakly(other))
}

#[cfg(test)]
mod tests {
    use http::header::IF_NONE_MATCH;

    use super::*;

    #[test]
    fn tags_are_quoted() {
        let table: &[(&str, Option<bool>)] = &[
            ("\"\"", Some(false)),
            ("\"abc\"", Some(false)),
            ("W/\"abc\"", Some(true)),
            ("\"a,b\\\"", Some(false)),
            ("\"\u{fc}\"", Some(false)),
            ("", None),
            ("\"", None),
            ("abc", None),
            ("w/\"abc\"", None),
            ("W\"abc\"", None),
            ("W\\\"abc\"", None),
            ("\"a b\"", None),
            ("\"a\"b\"", None),
            ("\"a\" ", None),
            ("'a'", None),
        ];
        for (text, weak) in table {
            let tag = EntityTag::parse(text.as_bytes());
            assert_eq!(tag.map(|tag| tag.weak), *weak, "{text}");
        }
    }

    #[test]
    fn strong_and_weak_comparison() {
        // The table of RFC 9110, section 8.8.3.2.
        let table = [
            ("W/\"1\"", "W/\"1\"", false, true),
            ("W/\"1\"", "W/\"2\"", false, false),
            ("W/\"1\"", "\"1\"", false, true),
            ("\"1\"", "\"1\"", true, true),
        ];
        for (left, right, strong, weak) in table {
            let left = EntityTag::parse(left.as_bytes()).unwrap();
            let right = EntityTag::parse(right.as_bytes()).unwrap();
            assert_eq!(left.matches_strongly(right), strong);
            assert_eq!(left.matches_weakly(right), weak);
        }
    }

    #[test]
    fn lists_name_tags() {
        let table: &[(&[&str], &str, bool)] = &[
            (&["\"a\""], "\"a\"", true),
            (&["W/\"a\""], "\"a\"", true),
            (&["\"a\""], "W/\"a\"", true),
            (&["\"x\", \"a\", \"y\""], "\"a\"", true),
            (&["\"x\"", "\"a\""], "\"a\"", true),
            (&["\"x\",\"a\""], "\"a\"", true),
            (&["*"], "\"a\"", true),
            (&["\"a,b\""], "\"a,b\"", true),
            (&["\"x\""], "\"a\"", false),
            (&["a"], "\"a\"", false),
            (&["\"x\", *"], "\"a\"", false),
            (&["*, \"x\""], "\"a\"", false),
            (&[""], "\"a\"", false),
            (&[], "\"a\"", false),
        ];
        for (lines, tag, expected) in table {
            let mut headers = HeaderMap::new();
            for line in *lines {
                headers.append(IF_NONE_MATCH, line.parse().unwrap());
            }
            let tag = EntityTag::parse(tag.as_bytes());
            assert_eq!(names(&headers, IF_NONE_MATCH, tag), *expected, "{lines:?}");
        }
        let mut any = HeaderMap::new();
        any.insert(IF_NONE_MATCH, "*".parse().unwrap());
        assert!(names(&any, IF_NONE_MATCH, None), "`*` is any representation");
    }
}
