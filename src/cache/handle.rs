//! The store seen from outside of requests.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response};

use super::clock::Moment;
use super::coalesce::Landing;
use super::event::CacheStats;
use super::key::{CacheKey, Host, KeyText};
use super::policy::Exchange;
use super::record;
use super::service::{Shared, judge};
use super::state::Found;
use super::store::Change;
use super::stored::{Resource, Stored};

/// Controls the store of a [`LruCacheLayer`](super::LruCacheLayer): counters, purging, warm-up.
///
/// Whatever is purged is also not stored by a fill that is under way: its handler may have looked before
/// the change.
///
/// ```
/// use graceful::cache::{CacheKey, LruCacheLayer};
///
/// let layer = LruCacheLayer::new(10_000);
/// let handle = layer.handle();
/// let request = http::Request::get("http://example.com/page").body(()).unwrap();
/// let response = http::Response::builder()
///     .header("cache-control", "max-age=60")
///     .header("cache-tag", "news")
///     .body(bytes::Bytes::from_static(b"hello"))
///     .unwrap();
/// assert!(handle.insert(&request, response));
/// assert_eq!(handle.len(), 1);
/// assert_eq!(handle.get(&request).unwrap().body(), "hello");
/// assert_eq!(handle.purge_tag("news"), 1);
/// assert!(!handle.purge(&CacheKey::new("example.com", "/page")));
/// ```
#[derive(Clone, Debug)]
pub struct CacheHandle {
    shared: Arc<Shared>,
}

impl CacheHandle {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// The counters.
    pub fn stats(&self) -> CacheStats {
        self.shared.state.counters.snapshot()
    }

    /// How many keys are stored.
    pub fn len(&self) -> usize {
        self.shared.state.store.len()
    }

    /// Whether nothing is stored.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many bytes are stored: heads, bodies, keys, and what it costs to manage them.
    pub fn bytes(&self) -> usize {
        self.shared.state.store.bytes()
    }

    /// How many fills are under way that others can join.
    pub fn fills(&self) -> usize {
        self.shared.state.flights.len()
    }

    /// Removes all variants of a key; says whether there were any.
    pub fn purge(&self, key: &CacheKey) -> bool {
        self.shared.state.invalidate(key)
    }

    /// Removes every key of this authority whose path begins with `prefix`; says how many.
    pub fn purge_prefix(&self, authority: &str, prefix: &str) -> usize {
        let prefix = CacheKey::new(authority, prefix);
        let state = &self.shared.state;
        let begins = |key: &CacheKey| key.as_str().starts_with(prefix.as_str());
        state.doom(|key, _| begins(key));
        state.remove(|key, _| begins(key))
    }

    /// Removes every key of which a variant has this tag; says how many.
    pub fn purge_tag(&self, tag: &str) -> usize {
        let state = &self.shared.state;
        state.doom(|_, flight| match flight.landing() {
            // Its tags are not known yet.
            Landing::Waiting => true,
            Landing::Recording(live) => is_tagged(live.head.tags(), tag),
            Landing::Stored(stored, _) => is_tagged(stored.head.tags(), tag),
            Landing::Released => true,
        });
        state.remove(|_, resource| has_tag(resource, tag))
    }

    /// Removes everything.
    pub fn clear(&self) {
        self.shared.state.doom(|_, _| true);
        self.shared.state.remove(|_, _| true);
    }

    /// Makes all variants of a key stale: they are validated before they are used again, or used while that
    /// happens where they permit it. Parts are removed. Says whether there were any.
    pub fn expire(&self, key: &CacheKey) -> bool {
        let state = &self.shared.state;
        state.doom(|other, _| other == key);
        let now = state.now();
        let mut found = false;
        for place in state.places(key) {
            let gone = state.store.update(&place, &now, |known| match known {
                None => Change::Keep,
                Some(resource) => {
                    found = true;
                    expire(resource, now)
                }
            });
            state.discard(gone);
        }
        found
    }

    /// The same for everything with this tag; says how many keys.
    pub fn expire_tag(&self, tag: &str) -> usize {
        let state = &self.shared.state;
        state.doom(|_, flight| !matches!(flight.landing(), Landing::Stored(..)));
        let now = state.now();
        let mut expired = 0;
        let gone = state.store.retain(|_, resource| {
            if !has_tag(resource, tag) {
                return true;
            }
            expired += 1;
            matches!(expire(resource, now), Change::Keep)
        });
        state.discard(gone);
        expired
    }

    /// Takes out what is of no use any more, which otherwise leaves when something is written.
    pub fn evict_expired(&self) {
        let state = &self.shared.state;
        state.discard(state.store.evict_expired(&state.now()));
    }

    /// The response that is stored for this request, fresh or stale, without the fields that an answer adds.
    pub fn get<B>(&self, request: &Request<B>) -> Option<Response<Bytes>> {
        let key = self.key(request)?;
        let state = &self.shared.state;
        let Found::Selected(stored) = state.find(key.as_str(), request.headers(), &state.now())
        else {
            return None;
        };
        let mut response = Response::new(stored.body.clone());
        *response.status_mut() = stored.head.status;
        *response.headers_mut() = stored.head.fields.to_map(0);
        Some(response)
    }

    /// Stores a response as if the handler had just answered the request with it; says whether the rules
    /// allowed it.
    pub fn insert<B>(&self, request: &Request<B>, response: Response<Bytes>) -> bool {
        let Some(key) = self.key(request) else {
            return false;
        };
        let state = &self.shared.state;
        let now = state.now();
        let (mut parts, body) = response.into_parts();
        let tags = record::take_tags(&self.shared.options, &mut parts.headers);
        let exchange = Exchange {
            method: &Method::GET,
            request: request.headers(),
            status: parts.status,
            response: &parts.headers,
            requested: now.wall(),
            received: now.wall(),
        };
        let Some(terms) = judge(&self.shared, &exchange) else {
            return false;
        };
        if body.len() > self.shared.options.max_body_size {
            return false;
        }
        let headers: &HeaderMap = request.headers();
        let (head, _) = record::head(&self.shared, headers, &mut parts, terms, tags, now);
        // Copied: what is given may be a small slice of something large.
        let stored = Stored::new(Arc::new(head), Bytes::copy_from_slice(&body), None);
        state.put(&key, &self.shared.options, Arc::new(stored), || false)
    }

    fn key<B>(&self, request: &Request<B>) -> Option<CacheKey> {
        let ignore_host = self.shared.options.ignore_host;
        let text = KeyText::of_request(request.uri(), Host::of(request.headers()), ignore_host);
        text.map(|text| text.to_key())
    }
}

/// Makes what is complete stale. There is nothing to validate a part with.
fn expire(resource: &Resource, now: Moment) -> Change {
    resource.variants().iter().for_each(|stored| stored.expire(now));
    match resource {
        Resource::Parts(_) => Change::Remove,
        Resource::One(_) | Resource::Many(_) => Change::Keep,
    }
}

fn is_tagged(tags: &[Box<str>], tag: &str) -> bool {
    tags.iter().any(|known| &**known == tag)
}

fn has_tag(resource: &Resource, tag: &str) -> bool {
    match resource {
        Resource::Parts(parts) => is_tagged(parts.head.tags(), tag),
        _ => resource.variants().iter().any(|stored| is_tagged(stored.head.tags(), tag)),
    }
}
