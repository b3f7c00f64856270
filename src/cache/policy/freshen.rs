//! Stored heads brought up to date by a 304 or by HEAD (RFC 9111, sections 3.2, 4.3.4 and 4.3.5).

use http::header::{
    AGE, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, DATE, ETAG, LAST_MODIFIED,
};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::etag::EntityTag;
use super::{Exchange, Rules, Terms, date, seconds, single, stored_fields, storing};

/// A stored head, brought up to date.
pub(crate) struct Updated {
    pub(crate) fields: HeaderMap,
    pub(crate) terms: Terms,
    /// Whether it may be stored still.
    pub(crate) keeps: bool,
}

/// Updates stored fields by those of a newer response: `new`, with the status of what is stored.
pub(crate) fn update(rules: &Rules, stored: &HeaderMap, new: &Exchange<'_>) -> Updated {
    let mut fields = merge(rules, stored, new.response);
    // The age of the stored response is that of the new one now, not its own.
    let mut dated = fields.clone();
    if let Some(age) = new.response.get(AGE) {
        dated.insert(AGE, age.clone());
    }
    if !new.response.contains_key(DATE) {
        dated.remove(DATE);
        let now = date::format(seconds(new.received));
        fields.insert(DATE, HeaderValue::try_from(now).expect("a date is a valid value"));
    }
    let exchange = Exchange { response: &dated, ..*new };
    let keeps = storing::storable(rules, &exchange).is_ok();
    Updated { fields, terms: Terms::new(rules, &exchange), keeps }
}

/// Replaces every field that `update` carries, except those that describe the stored bytes themselves, or
/// the message that they came in.
pub(crate) fn merge(rules: &Rules, stored: &HeaderMap, update: &HeaderMap) -> HeaderMap {
    const KEPT: [HeaderName; 6] = [
        CONTENT_LENGTH,
        // An origin that codes or types 304s otherwise says nothing about the bytes that are stored.
        CONTENT_ENCODING,
        CONTENT_TYPE,
        // Section 3.2 lets it be omitted; that of a stored part is made for each answer.
        CONTENT_RANGE,
        ETAG,
        // RFC 9530, section 2: of the content of its own message, and a 304 has none.
        HeaderName::from_static("content-digest"),
    ];
    let mut merged = stored.clone();
    merged.remove(AGE);
    let mut update = stored_fields(rules, update);
    for name in KEPT {
        // A validator or digest that the stored head lacks is news; one that it has is about its bytes.
        if name != ETAG || stored.contains_key(ETAG) {
            update.remove(name);
        }
    }
    let names: Vec<HeaderName> = update.keys().cloned().collect();
    for name in names {
        merged.remove(&name);
        for value in update.get_all(&name) {
            merged.append(&name, value.clone());
        }
    }
    merged
}

/// Whether a 304 names an entity tag that is not the stored one (section 4.3.4): then it speaks about
/// something else, and must not update what is stored.
///
/// Where the stored response has no entity tag, the date that validated it identifies it.
pub(crate) fn names_another(stored: &HeaderMap, update: &HeaderMap) -> bool {
    let tag = |headers| single(headers, ETAG).and_then(EntityTag::parse);
    matches!((tag(stored), tag(update)), (Some(stored), Some(new)) if !stored.matches_weakly(new))
}

/// Whether a response to HEAD speaks about the stored response (section 4.3.5): every validator that it
/// has is the stored one, and so is its length.
pub(crate) fn is_same(stored: &HeaderMap, length: u64, head: &HeaderMap) -> bool {
    let tags = match (single(stored, ETAG), single(head, ETAG)) {
        (Some(stored), Some(new)) => match (EntityTag::parse(stored), EntityTag::parse(new)) {
            (Some(stored), Some(new)) => stored.matches_weakly(new),
            _ => stored == new,
        },
        (None, Some(_)) => false,
        (_, None) => true,
    };
    let dates = match single(head, LAST_MODIFIED) {
        Some(new) => single(stored, LAST_MODIFIED) == Some(new),
        None => true,
    };
    let lengths = match single(head, CONTENT_LENGTH) {
        Some(new) => new == length.to_string().as_bytes(),
        None => true,
    };
    tags && dates && lengths
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(lines: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn what_a_304_updates() {
        // RFC 9111, section 3.2: everything, but for these.
        let table = [
            ("cache-control", true),
            ("expires", true),
            ("date", true),
            ("vary", true),
            ("x-any", true),
            ("content-foo", true),
            ("content-location", true),
            ("content-md5", true),
            ("content-security-policy", true),
            ("content-length", false),
            ("content-range", false),
            ("content-encoding", false),
            ("content-type", false),
            ("content-digest", false),
            ("etag", false),
            ("keep-alive", false),
            ("x-named", false),
        ];
        for (name, updated) in table {
            let stored = map(&[(name, "1"), ("x-old", "1"), ("age", "9")]);
            let update = map(&[(name, "2"), ("connection", "x-named"), ("age", "5")]);
            let merged = merge(&Rules::explicit(), &stored, &update);
            assert_eq!(merged[name], if updated { "2" } else { "1" }, "{name}");
            assert_eq!((merged.len(), &merged["x-old"]), (2, &"1".parse().unwrap()), "{name}");
        }
        // A validator that the stored head lacks is news.
        let merged = merge(&Rules::explicit(), &map(&[]), &map(&[("etag", "\"a\"")]));
        assert_eq!(merged["etag"], "\"a\"");
        // All lines of a field are replaced by all of the new ones.
        let (stored, update) =
            (map(&[("x-a", "1"), ("x-a", "2")]), map(&[("x-a", "3"), ("x-a", "4")]));
        let merged = merge(&Rules::explicit(), &stored, &update);
        assert_eq!(merged.get_all("x-a").iter().collect::<Vec<_>>(), ["3", "4"]);
    }

    #[test]
    fn what_a_304_speaks_about() {
        // RFC 9111, section 4.3.4.
        let table: &[(&[&str], &[&str], bool)] = &[
            (&["\"a\""], &["\"a\""], false),
            (&["\"a\""], &["\"b\""], true),
            (&["W/\"a\""], &["W/\"a\""], false),
            (&["W/\"a\""], &["W/\"b\""], true),
            (&["\"a\""], &["W/\"a\""], false),
            (&["\"a\""], &[], false),
            (&[], &["\"a\""], false),
            (&[], &[], false),
        ];
        let tags = |tags: &[&str]| map(&tags.iter().map(|tag| ("etag", *tag)).collect::<Vec<_>>());
        for (stored, update, another) in table {
            assert_eq!(
                names_another(&tags(stored), &tags(update)),
                *another,
                "{stored:?} {update:?}"
            );
        }
    }

    #[test]
    fn what_an_update_says_about_time() {
        // RFC 9111, sections 4.2.3 and 4.3.4: the age is that of the newer response.
        let request = HeaderMap::new();
        let stored = map(&[
            ("cache-control", "max-age=60"),
            ("date", "Sun, 06 Nov 1994 08:49:37 GMT"),
            ("etag", "\"a\""),
        ]);
        let updated = |lines: &[(&'static str, &str)]| {
            let new = map(lines);
            let exchange = Exchange {
                method: &http::Method::GET,
                request: &request,
                status: http::StatusCode::OK,
                response: &new,
                requested: std::time::Duration::from_secs(1_767_225_600),
                received: std::time::Duration::from_secs(1_767_225_600),
            };
            update(&Rules::explicit(), &stored, &exchange)
        };
        let age = |updated: &Updated| updated.terms.age(std::time::Duration::ZERO).as_secs();
        let plain = updated(&[]);
        assert_eq!((age(&plain), plain.keeps), (0, true));
        assert_eq!(plain.fields["date"], "Thu, 01 Jan 2026 00:00:00 GMT");
        assert_eq!(age(&updated(&[("age", "7")])), 7);
        let dated = updated(&[("date", "Wed, 31 Dec 2025 23:59:30 GMT")]);
        assert_eq!(
            (age(&dated), &dated.fields["date"]),
            (30, &"Wed, 31 Dec 2025 23:59:30 GMT".parse().unwrap())
        );
        let longer = updated(&[("cache-control", "max-age=90")]);
        assert_eq!(longer.terms.lifetime().as_secs(), 90);
        assert!(!updated(&[("cache-control", "no-store")]).keeps);
        assert!(!updated(&[("cache-control", "private")]).keeps);
    }
}
