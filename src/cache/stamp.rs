//! The values that every answer makes anew.

use std::time::Duration;

use bytes::Bytes;
use http::HeaderValue;

use super::options::Options;
use super::outcome::{Status, push_number};
use super::policy::field::MAX_SECONDS;

/// `Age`, `Content-Length` and `Cache-Status` of an answer, in one allocation.
#[derive(Clone, Debug)]
pub(crate) struct Stamp {
    pub(crate) age: HeaderValue,
    pub(crate) length: HeaderValue,
    pub(crate) status: HeaderValue,
}

impl Stamp {
    pub(crate) fn new(
        options: &Options,
        age: Duration,
        length: u64,
        key: &str,
        status: &Status,
    ) -> Self {
        let mut text = String::with_capacity(64);
        push_number(&mut text, age.as_secs().min(MAX_SECONDS));
        let first = text.len();
        push_number(&mut text, length);
        let second = text.len();
        if let Some(name) = &options.status_name {
            status.write_to(&mut text, name, options.status_key.then_some(key));
        }
        let bytes = Bytes::from(text);
        // A cache key may hold what a field value may not.
        let value = |bytes| {
            let invalid = |_| HeaderValue::from_static("invalid");
            HeaderValue::from_maybe_shared(bytes).unwrap_or_else(invalid)
        };
        Self {
            age: value(bytes.slice(..first)),
            length: value(bytes.slice(first..second)),
            status: value(bytes.slice(second..)),
        }
    }
}
