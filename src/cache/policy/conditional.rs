//! Conditional requests: answered from the store, and made to validate it (RFC 9110, section 13; RFC 9111,
//! section 4.3).

use http::header::{
    ACCEPT_RANGES, CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE,
    DATE, ETAG, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, LAST_MODIFIED, RANGE, TRAILER,
};
use http::{HeaderMap, HeaderName, StatusCode};

use super::etag::{EntityTag, names};
use super::{date, single};

/// Whether the client has already what is stored, or what the origin has just answered: the answer is 304.
pub(crate) fn is_not_modified(
    request: &HeaderMap,
    status: StatusCode,
    stored: &HeaderMap,
    is_stored: bool,
    now: i64,
) -> bool {
    // RFC 9110, section 13.2.1: a condition counts only where the answer without it would be a success.
    if !status.is_success() {
        return false;
    }
    if request.contains_key(IF_NONE_MATCH) {
        // It takes precedence over If-Modified-Since (section 13.1.3).
        let tag = single(stored, ETAG).and_then(EntityTag::parse);
        return names(request, IF_NONE_MATCH, tag);
    }
    let parsed = |value: Option<&[u8]>| value.and_then(|value| date::parse(value, now));
    let since = parsed(single(request, IF_MODIFIED_SINCE));
    let modified = parsed(single(stored, LAST_MODIFIED).or_else(|| {
        // Section 4.3.2 of RFC 9111: what says nothing else was made when its `Date` says.
        if is_stored { single(stored, DATE) } else { None }
    }));
    matches!((since, modified), (Some(since), Some(modified)) if modified <= since)
}

/// Turns the head of a stored response into that of a 304 (RFC 9110, section 15.4.5): without fields that
/// describe the representation, except those that tell the client which one it is.
pub(crate) fn strip_for_not_modified(headers: &mut HeaderMap) {
    const REPRESENTATION: [HeaderName; 11] = [
        CONTENT_TYPE,
        CONTENT_LENGTH,
        CONTENT_ENCODING,
        CONTENT_LANGUAGE,
        CONTENT_RANGE,
        ACCEPT_RANGES,
        TRAILER,
        HeaderName::from_static("content-md5"),
        HeaderName::from_static("content-digest"),
        HeaderName::from_static("repr-digest"),
        HeaderName::from_static("digest"),
    ];
    for name in REPRESENTATION {
        headers.remove(name);
    }
    if headers.contains_key(ETAG) {
        headers.remove(LAST_MODIFIED);
    }
}

/// Removes what is about the whole content from the head of a part (RFC 9530, section 2: a digest of the
/// content is one of the message that it is in).
pub(crate) fn strip_for_part(headers: &mut HeaderMap) {
    const OF_THE_WHOLE: [HeaderName; 2] =
        [HeaderName::from_static("content-md5"), HeaderName::from_static("content-digest")];
    for name in OF_THE_WHOLE {
        headers.remove(name);
    }
}

/// Removes what makes a request conditional or partial, so that its answer can be for everyone.
pub(crate) fn remove_conditions(request: &mut HeaderMap) {
    for name in [IF_NONE_MATCH, IF_MODIFIED_SINCE, RANGE, IF_RANGE] {
        request.remove(name);
    }
}

/// Makes a request ask whether `stored` is still good (RFC 9111, section 4.3.1).
pub(crate) fn add_validators(request: &mut HeaderMap, stored: &HeaderMap) {
    remove_conditions(request);
    if let Some(tag) = stored.get(ETAG) {
        request.insert(IF_NONE_MATCH, tag.clone());
    }
    if let Some(modified) = stored.get(LAST_MODIFIED) {
        request.insert(IF_MODIFIED_SINCE, modified.clone());
    }
}
