//! The values that every answer makes anew.

use std::cell::RefCell;
use std::sync::Arc;
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

/// A stamp that was made, with all that it was made from.
struct Made {
    name: Arc<str>,
    age: u64,
    length: u64,
    lifetime: Duration,
    stamp: Stamp,
}

/// How many stamps a thread remembers: what is asked for often is asked for more than once in a second.
const REMEMBERED: usize = 64;

thread_local! {
    static MADE: RefCell<[Option<Made>; REMEMBERED]> =
        const { RefCell::new([const { None }; REMEMBERED]) };
}

impl Stamp {
    pub(crate) fn new(
        options: &Options,
        age: Duration,
        length: u64,
        key: &str,
        status: &Status,
    ) -> Self {
        let age = age.as_secs();
        let (Some(name), Some(lifetime)) = (&options.status_name, status.plain_hit()) else {
            return Self::write(options, age, length, key, status);
        };
        if options.status_key {
            return Self::write(options, age, length, key, status);
        }
        MADE.with_borrow_mut(|all| {
            let slot = &mut all[(length ^ lifetime.as_secs()) as usize % REMEMBERED];
            let known = slot.as_ref().filter(|made| {
                made.age == age
                    && made.length == length
                    && made.lifetime == lifetime
                    && Arc::ptr_eq(&made.name, name)
            });
            if let Some(made) = known {
                return made.stamp.clone();
            }
            let stamp = Self::write(options, age, length, key, status);
            let name = name.clone();
            *slot = Some(Made { name, age, length, lifetime, stamp: stamp.clone() });
            stamp
        })
    }

    fn write(options: &Options, age: u64, length: u64, key: &str, status: &Status) -> Self {
        let mut text = String::with_capacity(64);
        push_number(&mut text, age.min(MAX_SECONDS));
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
