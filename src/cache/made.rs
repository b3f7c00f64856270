//! What was made a moment ago: heads of answers, and the date.

use std::cell::RefCell;
use std::sync::Arc;

use http::{HeaderValue, response};

use super::policy;
use super::stored::Head;

/// The head of a hit. Within a second it is the same for all who ask.
struct Made {
    /// Held, so that no other head can have the same address.
    stored: Arc<Head>,
    name: Option<Arc<str>>,
    age: u64,
    /// Without extensions.
    parts: response::Parts,
}

/// How many heads a thread remembers: what is asked for often is asked for more than once in a second.
const REMEMBERED: usize = 64;

thread_local! {
    static MADE: RefCell<[Option<Made>; REMEMBERED]> =
        const { RefCell::new([const { None }; REMEMBERED]) };
    static DATE: RefCell<Option<(i64, HeaderValue)>> = const { RefCell::new(None) };
}

/// The head of an answer from `stored` at this `age` in seconds, by a cache of this `name`: a copy of the
/// last one, or what `make` makes.
pub(crate) fn head(
    stored: &Arc<Head>,
    name: Option<&Arc<str>>,
    age: u64,
    make: impl FnOnce() -> response::Parts,
) -> response::Parts {
    MADE.with_borrow_mut(|all| {
        // The low bits of an address are those of its alignment.
        let slot = &mut all[(Arc::as_ptr(stored).addr() >> 6) % REMEMBERED];
        // The same fields, then, if not the same values.
        let same = slot.as_mut().filter(|made| {
            let same_name = match (&made.name, name) {
                (Some(known), Some(name)) => Arc::ptr_eq(known, name),
                (None, None) => true,
                _ => false,
            };
            Arc::ptr_eq(&made.stored, stored) && same_name
        });
        if let Some(made) = &same
            && made.age == age
        {
            return made.parts.clone();
        }
        let parts = make();
        if let Some(made) = same {
            made.age = age;
            for (old, new) in made.parts.headers.values_mut().zip(parts.headers.values()) {
                old.clone_from(new);
            }
        } else {
            let (stored, name) = (stored.clone(), name.cloned());
            *slot = Some(Made { stored, name, age, parts: parts.clone() });
        }
        parts
    })
}

/// The value of `Date` for this second.
pub(crate) fn date(seconds: i64) -> HeaderValue {
    DATE.with_borrow_mut(|known| match known {
        Some((then, value)) if *then == seconds => value.clone(),
        _ => {
            let text = policy::date::format(seconds);
            let value = HeaderValue::try_from(text).expect("a date is a valid value");
            *known = Some((seconds, value.clone()));
            value
        }
    })
}
