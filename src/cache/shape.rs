//! What many stored heads have in common: the names of their fields.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use http::header::{AGE, CONTENT_LENGTH, HeaderName};
use http::{HeaderMap, HeaderValue};

use super::answer::CACHE_STATUS;
use super::fields::SHARED;
use super::stamp::Stamp;
use crate::lru::LruCache;

/// The names of a stored head's fields, in order.
///
/// The responses of an app have few different sets of names, so the stored heads share them.
pub(crate) struct Shape {
    names: Box<[HeaderName]>,
    /// The head of an answer without its values. To clone it costs a fraction of building it.
    template: HeaderMap,
    /// Where in the template the value of `Cache-Status` is that this cache adds.
    status: usize,
}

impl Shape {
    fn new(names: &[HeaderName]) -> Self {
        let mut template = HeaderMap::with_capacity(names.len() + 3);
        let empty = HeaderValue::from_static("");
        for name in names {
            template.append(name.clone(), empty.clone());
        }
        // Each answer has one of these only.
        template.insert(AGE, empty.clone());
        template.insert(CONTENT_LENGTH, empty.clone());
        // A cache before this one may have added its own, which stay before this one's.
        template.append(CACHE_STATUS, HeaderValue::from_static("here"));
        let status = template.values().position(|value| value == "here");
        let status = status.expect("it was appended just now");
        Self { names: names.into(), template, status }
    }

    pub(crate) fn names(&self) -> &[HeaderName] {
        &self.names
    }

    /// The head of an answer with these stored values.
    pub(crate) fn head(&self, stored: &[HeaderValue], stamp: Stamp) -> HeaderMap {
        let mut head = self.template.clone();
        let Stamp { age, length, status } = stamp;
        let mut others = stored.iter().cloned().chain([age, length]);
        let mut status = Some(status);
        for (at, slot) in head.values_mut().enumerate() {
            // As many as there are names, in the order in which a map with these names has them.
            let value = if at == self.status { status.take() } else { others.next() };
            *slot = value.expect("a shape is of the same length as the values");
        }
        head
    }

    /// What it takes on the heap.
    fn weight(&self) -> usize {
        let texts: usize = self.names.iter().map(|name| name.as_str().len() + SHARED).sum();
        let entry = size_of::<HeaderName>() + size_of::<HeaderValue>() + 4 * size_of::<usize>();
        size_of::<Self>()
            + 2 * size_of::<usize>()
            + size_of_val(&*self.names)
            + texts
            + self.template.capacity() * (entry + size_of::<u64>())
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.names).finish()
    }
}

/// The shapes that are in use.
#[derive(Debug)]
pub(crate) struct Shapes {
    known: Mutex<LruCache<Box<[HeaderName]>, Arc<Shape>>>,
}

/// How many shapes new heads may share. What has one that is not among them any more keeps it.
const SHAPES: usize = 256;

impl Shapes {
    pub(crate) fn new() -> Self {
        Self { known: Mutex::new(LruCache::new(SHAPES)) }
    }

    /// The shape of a head with these names, and what it takes in memory if it was made for this one.
    pub(crate) fn of(&self, names: &[HeaderName]) -> (Arc<Shape>, usize) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(shape) = known.get(names) {
            return (shape.clone(), 0);
        }
        let shape = Arc::new(Shape::new(names));
        known.insert(names.into(), shape.clone());
        let weight = shape.weight();
        (shape, weight)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_have_the_stored_values_and_new_ones() {
        let value = HeaderValue::from_static;
        let mut stored = HeaderMap::new();
        stored.append("x-one", value("1"));
        stored.append(CACHE_STATUS, value("before; hit"));
        stored.append("x-two", value("2"));
        stored.append("x-one", value("1b"));
        let (names, values): (Vec<_>, Vec<_>) =
            stored.iter().map(|(name, value)| (name.clone(), value.clone())).unzip();
        let shapes = Shapes::new();
        let (shape, weight) = shapes.of(&names);
        assert!(weight > 0);
        let stamp = Stamp { age: value("3"), length: value("4"), status: value("after") };
        let head = shape.head(&values, stamp);
        stored.append(AGE, value("3"));
        stored.append(CONTENT_LENGTH, value("4"));
        stored.append(CACHE_STATUS, value("after"));
        assert_eq!(head, stored);
        // A second head of the same names shares it.
        let (again, weight) = shapes.of(&names);
        assert!(Arc::ptr_eq(&shape, &again));
        assert_eq!(weight, 0);
    }
}
