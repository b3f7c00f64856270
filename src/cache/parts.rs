//! Parts of a response, kept until they make a whole (RFC 9111, section 3.3).

use std::sync::Arc;

use bytes::Bytes;

use super::fields::SHARED;
use super::policy::range::Span;
use super::stored::Head;

/// How many parts of a response are kept that do not touch.
const MOST: usize = 32;

/// Parts of one representation, which its strong validator identifies; sorted, apart from each other.
#[derive(Clone, Debug)]
pub(crate) struct Parts {
    /// Of the newest part, without its `Content-Range`.
    pub(crate) head: Arc<Head>,
    pub(crate) length: u64,
    spans: Vec<(Span, Bytes)>,
}

impl Parts {
    pub(crate) fn new(head: Arc<Head>, length: u64, span: Span, body: Bytes) -> Self {
        Self { head, length, spans: vec![(span, body)] }
    }

    /// With another part of the same representation, and the head of both (RFC 9111, section 3.4).
    pub(crate) fn with(&self, new: &Parts, head: Arc<Head>) -> Self {
        let mut all: Vec<(Span, Bytes)> = self.spans.iter().chain(&new.spans).cloned().collect();
        all.sort_by_key(|(span, _)| *span);
        let mut spans: Vec<(Span, Bytes)> = Vec::with_capacity(all.len());
        for ((first, last), body) in all {
            match spans.last_mut() {
                Some(((_, end), _)) if last <= *end => {}
                Some(((start, end), known)) if first <= *end + 1 => {
                    let overlap = (*end + 1 - first) as usize;
                    let mut joined = Vec::with_capacity((last - *start + 1) as usize);
                    joined.extend_from_slice(known);
                    joined.extend_from_slice(&body[overlap..]);
                    *end = last;
                    *known = joined.into();
                }
                _ => spans.push(((first, last), body)),
            }
        }
        if spans.len() > MOST {
            // Whoever asks for single bytes must not make this long, nor push out what is worth keeping.
            let shortest = (0..spans.len()).min_by_key(|place| spans[*place].1.len());
            shortest.map(|place| spans.remove(place));
        }
        Self { head, length: new.length, spans }
    }

    /// Where the parts lie, from the first to the last.
    pub(crate) fn held(&self) -> Vec<Span> {
        self.spans.iter().map(|(span, _)| *span).collect()
    }

    /// The bytes of a span that lies inside one part.
    pub(crate) fn slice(&self, (first, last): Span) -> Option<Bytes> {
        self.spans.iter().find_map(|((start, end), body)| {
            (*start <= first && last <= *end)
                .then(|| body.slice((first - start) as usize..=(last - start) as usize))
        })
    }

    /// The whole, once nothing is missing.
    pub(crate) fn whole(&self) -> Option<Bytes> {
        self.slice((0, self.length.checked_sub(1)?))
    }

    pub(crate) fn bytes(&self) -> usize {
        self.spans.iter().map(|(_, body)| body.len()).sum()
    }

    pub(crate) fn weight(&self) -> usize {
        2 * size_of::<usize>()
            + size_of::<Self>()
            + size_of::<Head>()
            + self.head.fields.weight()
            + self.spans.capacity() * size_of::<(Span, Bytes)>()
            + self.spans.len() * SHARED
            + self.bytes()
    }
}
