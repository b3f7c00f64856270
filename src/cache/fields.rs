//! Header fields in as little memory as they need.

use std::sync::Arc;

use bytes::Bytes;
use http::header::HeaderName;
use http::{HeaderMap, HeaderValue};

use super::shape::{Shape, Shapes};
use super::stamp::Stamp;

/// The fields of a stored head: all values in one allocation, the names shared with other heads.
///
/// The values of a received head are slices of the buffer that they were read into: kept as they are, 40
/// bytes would hold 8 KiB.
#[derive(Clone, Debug)]
pub(crate) struct Fields {
    shape: Arc<Shape>,
    values: Box<[HeaderValue]>,
    bytes: usize,
}

impl Fields {
    pub(crate) fn new(shapes: &Shapes, headers: &HeaderMap) -> Self {
        Self::of(shapes, &headers.iter().collect::<Vec<_>>())
    }

    /// With one more at the end.
    pub(crate) fn with(&self, shapes: &Shapes, name: &HeaderName, value: &HeaderValue) -> Self {
        Self::of(shapes, &self.iter().chain([(name, value)]).collect::<Vec<_>>())
    }

    fn of(shapes: &Shapes, fields: &[(&HeaderName, &HeaderValue)]) -> Self {
        let total = fields.iter().map(|(_, value)| value.len()).sum();
        let mut text = Vec::with_capacity(total);
        for (_, value) in fields {
            text.extend_from_slice(value.as_bytes());
        }
        let text = Bytes::from(text);
        let mut at = 0;
        let values: Box<[_]> = fields
            .iter()
            .map(|(_, value)| {
                let slice = text.slice(at..at + value.len());
                at += value.len();
                let mut copy = HeaderValue::from_maybe_shared(slice)
                    .expect("the bytes are those of a header value");
                copy.set_sensitive(value.is_sensitive());
                copy
            })
            .collect();
        let names: Vec<HeaderName> = fields.iter().map(|(name, _)| (*name).clone()).collect();
        let (shape, shape_bytes) = shapes.of(&names);
        let bytes = total + SHARED + size_of_val(&*values) + shape_bytes;
        Self { shape, values, bytes }
    }

    pub(crate) fn get(&self, name: &HeaderName) -> Option<&HeaderValue> {
        self.iter().find(|(known, _)| *known == name).map(|(_, value)| value)
    }

    pub(crate) fn contains(&self, name: &HeaderName) -> bool {
        self.shape.names().contains(name)
    }

    fn iter(&self) -> impl Iterator<Item = (&HeaderName, &HeaderValue)> {
        self.shape.names().iter().zip(&self.values)
    }

    /// As a map with room for `more` fields.
    pub(crate) fn to_map(&self, more: usize) -> HeaderMap {
        let mut headers = HeaderMap::with_capacity(self.values.len() + more);
        for (name, value) in self.iter() {
            headers.append(name.clone(), value.clone());
        }
        headers
    }

    /// As the head of an answer.
    pub(crate) fn to_answer(&self, stamp: Stamp) -> HeaderMap {
        self.shape.head(&self.values, stamp)
    }

    /// What they take on the heap.
    pub(crate) fn weight(&self) -> usize {
        self.bytes
    }
}

/// What `Bytes` allocates beside its content once it is shared.
pub(crate) const SHARED: usize = 24;
