//! Header fields in as little memory as they need.

use bytes::Bytes;
use http::header::HeaderName;
use http::{HeaderMap, HeaderValue};

/// The fields of a stored head: all values in one allocation.
///
/// The values of a received head are slices of the buffer that they were read into: kept as they are, 40
/// bytes would hold 8 KiB.
#[derive(Clone, Debug)]
pub(crate) struct Fields {
    entries: Box<[(HeaderName, HeaderValue)]>,
    bytes: usize,
}

impl Fields {
    pub(crate) fn new(headers: &HeaderMap) -> Self {
        let total = headers.values().map(HeaderValue::len).sum();
        let mut values = Vec::with_capacity(total);
        for value in headers.values() {
            values.extend_from_slice(value.as_bytes());
        }
        let values = Bytes::from(values);
        let mut at = 0;
        let entries: Box<[_]> = headers
            .iter()
            .map(|(name, value)| {
                let slice = values.slice(at..at + value.len());
                at += value.len();
                let mut copy = HeaderValue::from_maybe_shared(slice)
                    .expect("the bytes are those of a header value");
                copy.set_sensitive(value.is_sensitive());
                (name.clone(), copy)
            })
            .collect();
        // A name that is not well known has its bytes on the heap.
        let names: usize = entries
            .iter()
            .filter(|(name, _)| !is_well_known(name))
            .map(|(name, _)| name.as_str().len() + SHARED)
            .sum();
        let bytes = total + names + size_of_val(&*entries) + SHARED;
        Self { entries, bytes }
    }

    pub(crate) fn get(&self, name: &HeaderName) -> Option<&HeaderValue> {
        self.entries.iter().find(|(known, _)| known == name).map(|(_, value)| value)
    }

    pub(crate) fn contains(&self, name: &HeaderName) -> bool {
        self.get(name).is_some()
    }

    /// As a map with room for `more` fields.
    pub(crate) fn to_map(&self, more: usize) -> HeaderMap {
        let mut headers = HeaderMap::with_capacity(self.entries.len() + more);
        for (name, value) in &self.entries {
            headers.append(name.clone(), value.clone());
        }
        headers
    }

    /// What they take on the heap.
    pub(crate) fn weight(&self) -> usize {
        self.bytes
    }
}

/// What `Bytes` allocates beside its content once it is shared.
pub(crate) const SHARED: usize = 24;

fn is_well_known(name: &HeaderName) -> bool {
    // No other way to ask: well-known names are static, and cheap to recognise by these frequent ones. One
    // that is missing here is counted as if it were on the heap, which errs on the safe side.
    const KNOWN: [HeaderName; 12] = [
        http::header::CACHE_CONTROL,
        http::header::CONTENT_ENCODING,
        http::header::CONTENT_LANGUAGE,
        http::header::CONTENT_LOCATION,
        http::header::CONTENT_TYPE,
        http::header::DATE,
        http::header::ETAG,
        http::header::EXPIRES,
        http::header::LAST_MODIFIED,
        http::header::LOCATION,
        http::header::SERVER,
        http::header::VARY,
    ];
    KNOWN.contains(name)
}
