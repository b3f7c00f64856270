//! Stored responses, and the several that one key may have.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_LANGUAGE, ETAG, LAST_MODIFIED};
use http::{HeaderMap, StatusCode};

use super::clock::Moment;
use super::fields::{Fields, SHARED};
use super::parts::Parts;
use super::policy::vary::{self, Selection};
use super::policy::{Rules, Terms};

/// Names by which a response can be purged.
pub(crate) type Tags = Option<Box<Box<[Box<str>]>>>;

/// The head of a response that is stored, or on its way to be.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    pub(crate) status: StatusCode,
    pub(crate) fields: Fields,
    pub(crate) terms: Terms,
    pub(crate) selection: Selection,
    pub(crate) at: Moment,
    /// Boxed twice: most have none.
    pub(crate) tags: Tags,
    /// The entity tag was made here, so the origin does not know it.
    pub(crate) own_etag: bool,
    /// Whether `Content-Language` may select it.
    pub(crate) by_language: bool,
}

impl Head {
    pub(crate) fn tags(&self) -> &[Box<str>] {
        self.tags.as_ref().map_or(&[], |tags| tags)
    }

    pub(crate) fn age(&self, now: &Moment) -> Duration {
        self.terms.age(now.since(&self.at))
    }

    pub(crate) fn is_selected_by(&self, request: &HeaderMap) -> bool {
        if self.selection.is_empty() {
            return true;
        }
        let language = if self.by_language {
            self.fields
                .get(&CONTENT_LANGUAGE)
                .map(|value| value.as_bytes())
                .filter(|value| !value.contains(&b','))
        } else {
            None
        };
        vary::selects(&self.selection, language, request)
    }

    pub(crate) fn has_validator(&self) -> bool {
        (!self.own_etag && self.fields.contains(&ETAG)) || self.fields.contains(&LAST_MODIFIED)
    }

    fn weight(&self) -> usize {
        let selection: usize = self
            .selection
            .iter()
            .map(|(name, value)| {
                name.as_str().len() + value.as_ref().map_or(0, |value| value.len())
            })
            .sum();
        let tags: usize = self.tags().iter().map(|tag| size_of::<[usize; 4]>() + tag.len()).sum();
        2 * size_of::<usize>()
            + size_of::<Self>()
            + self.fields.weight()
            + size_of_val(&*self.selection)
            + selection
            + tags
    }
}

/// A complete stored response.
#[derive(Debug)]
pub(crate) struct Stored {
    pub(crate) head: Arc<Head>,
    pub(crate) body: Bytes,
    pub(crate) trailers: Option<Box<HeaderMap>>,
    /// When it was purged softly.
    expired: OnceLock<Box<Moment>>,
}

impl Stored {
    /// The body must be an allocation of its own, of its own length.
    pub(crate) fn new(head: Arc<Head>, body: Bytes, trailers: Option<HeaderMap>) -> Self {
        Self { head, body, trailers: trailers.map(Box::new), expired: OnceLock::new() }
    }

    /// Makes it stale now, whatever its lifetime.
    pub(crate) fn expire(&self, now: Moment) {
        // The first time counts.
        self.expired.get_or_init(|| Box::new(now));
    }

    /// For how long it has been stale by [`expire`](Self::expire).
    pub(crate) fn expired_for(&self, now: &Moment) -> Option<Duration> {
        self.expired.get().map(|then| now.since(then))
    }

    pub(crate) fn weight(&self) -> usize {
        let trailers = self.trailers.as_ref().map_or(0, |trailers| {
            size_of::<HeaderMap>()
                + trailers.capacity() * 120
                + trailers
                    .iter()
                    .map(|(name, value)| name.as_str().len() + value.len())
                    .sum::<usize>()
        });
        2 * size_of::<usize>()
            + size_of::<Self>()
            + self.head.weight()
            + self.body.len()
            + SHARED
            + trailers
    }

    /// For how long it is worth keeping: as long as it can be used, and where it can be validated for
    /// `retention` beyond that.
    pub(crate) fn kept_for(&self, rules: &Rules, retention: Duration) -> Duration {
        let usable = self.head.terms.usable_for(rules);
        if self.head.has_validator() { usable.saturating_add(retention) } else { usable }
    }
}

/// What is stored under one key.
#[derive(Clone, Debug)]
pub(crate) enum Resource {
    One(Arc<Stored>),
    /// Newest first.
    Many(Arc<[Arc<Stored>]>),
    Parts(Arc<Parts>),
}

impl Resource {
    pub(crate) fn variants(&self) -> &[Arc<Stored>] {
        match self {
            Self::One(stored) => std::slice::from_ref(stored),
            Self::Many(variants) => variants,
            Self::Parts(_) => &[],
        }
    }

    /// The newest that `request` selects.
    pub(crate) fn select(&self, request: &HeaderMap) -> Option<&Arc<Stored>> {
        self.variants().iter().find(|stored| stored.head.is_selected_by(request))
    }

    /// Whether another response to the same requests came after this one, whose body took longer.
    pub(crate) fn has_newer(&self, new: &Stored) -> bool {
        let came = new.head.at.steady();
        self.variants().iter().any(|known| {
            known.head.selection == new.head.selection && known.head.at.steady() > came
        })
    }

    pub(crate) fn of(mut variants: Vec<Arc<Stored>>) -> Option<Self> {
        match variants.len() {
            0 => None,
            1 => variants.pop().map(Self::One),
            _ => Some(Self::Many(variants.into())),
        }
    }

    /// With `new` as the newest: what it takes the place of goes, and the oldest beyond `limit`.
    pub(crate) fn with(&self, new: Arc<Stored>, limit: usize) -> Self {
        let mut variants = vec![new];
        let new = variants[0].clone();
        for known in self.variants() {
            // A response without `Vary` would answer every request that the new one does not match.
            let replaced = new.head.selection.is_empty()
                || known.head.selection.is_empty()
                || known.head.selection == new.head.selection;
            if !replaced && variants.len() < limit {
                variants.push(known.clone());
            }
        }
        Self::of(variants).expect("at least the new one is in it")
    }

    pub(crate) fn weight(&self) -> usize {
        match self {
            Self::One(stored) => stored.weight(),
            Self::Many(variants) => {
                let list = (2 + variants.len()) * size_of::<usize>();
                list + variants.iter().map(|stored| stored.weight()).sum::<usize>()
            }
            Self::Parts(parts) => parts.weight(),
        }
    }
}
