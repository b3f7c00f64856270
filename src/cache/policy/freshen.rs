//! Stored heads brought up to date by a 304 or by HEAD (RFC 9111, sections 3.2, 4.3.4 and 4.3.5).

use http::header::{
    AGE, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, LAST_MODIFIED,
};
use http::{HeaderMap, HeaderName};

use super::etag::EntityTag;
use super::{Rules, single, stored_fields};

/// Replaces every field that `update` carries, except those that describe the stored bytes themselves.
pub(crate) fn merge(rules: &Rules, stored: &HeaderMap, update: &HeaderMap) -> HeaderMap {
    const KEPT: [HeaderName; 7] = [
        CONTENT_LENGTH,
        CONTENT_ENCODING,
        CONTENT_TYPE,
        CONTENT_RANGE,
        ETAG,
        HeaderName::from_static("content-md5"),
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

/// Whether a 304 names a strong entity tag that is not the stored one (section 4.3.4): then it speaks about
/// something else, and must not update what is stored.
///
/// Where the stored response has no entity tag, the date that validated it identifies it.
pub(crate) fn names_another(stored: &HeaderMap, update: &HeaderMap) -> bool {
    let strong = |headers| single(headers, ETAG).and_then(EntityTag::parse).filter(|tag| !tag.weak);
    matches!((strong(stored), strong(update)), (Some(stored), Some(new)) if stored != new)
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
