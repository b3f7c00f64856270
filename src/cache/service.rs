//! The service: what can be answered at once, and what has to be forwarded.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Extensions, Method, Request, Response, Uri};
use http_body::Body;
use tower_service::Service;

use super::BoxError;
use super::answer;
use super::asked::{Asked, Kind, Noted};
use super::body::{Content, ResponseBody};
use super::clock::Moment;
use super::event::{CacheEvent, count};
use super::fetch::{self, Client, Handler};
use super::fill::Fill;
use super::future::ResponseFuture;
use super::key::{CacheKey, KeyText};
use super::options::Options;
use super::outcome::{CacheOutcome, Forward, HIT};
use super::policy::vary::Vary;
use super::policy::{RequestControl, Reuse, freshness, reuse};
use super::record;
use super::state::{Found, State};
use super::stored::Stored;
use super::write;

/// What all clones of a service share.
#[derive(Clone, Debug)]
pub(crate) struct Shared {
    pub(crate) state: Arc<State>,
    pub(crate) options: Options,
}

/// A service whose responses are cached; made by [`LruCacheLayer`](super::LruCacheLayer).
///
/// It is always ready: the inner service is asked whether it is only when a request has to be forwarded, so
/// that one which is busy does not hold up what is stored. Errors are those of the inner service.
pub struct LruCache<S> {
    stack: Arc<Stack<S>>,
}

/// What the clones of one service have in common.
struct Stack<S> {
    /// Cloned when a request has to be forwarded. Servers clone a service for each request, and a clone of
    /// what is inside can cost more than a hit. Behind a mutex, as few services are `Sync`.
    inner: Mutex<S>,
    shared: Arc<Shared>,
}

impl<S> LruCache<S> {
    pub(crate) fn new(inner: S, shared: Arc<Shared>) -> Self {
        Self { stack: Arc::new(Stack { inner: Mutex::new(inner), shared }) }
    }
}

impl<S> Clone for LruCache<S> {
    fn clone(&self) -> Self {
        Self { stack: self.stack.clone() }
    }
}

impl<S> fmt::Debug for LruCache<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LruCache").field("shared", &self.stack.shared).finish_non_exhaustive()
    }
}

impl<S, Q, B> Service<Request<Q>> for LruCache<S>
where
    S: Service<Request<Q>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    Q: Body + Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<ResponseBody<B>>;
    type Error = S::Error;
    type Future = ResponseFuture<B, S::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Q>) -> Self::Future {
        let options = &self.stack.shared.options;
        if let Some(skip) = &options.skip_request {
            let (parts, body) = request.into_parts();
            let skipped = skip(&parts);
            request = Request::from_parts(parts, body);
            if skipped {
                return self.bypass(request, Forward::Bypass);
            }
        }
        let (noted, host) = Noted::of(request.headers());
        let kind = noted.kind(request.method(), request.headers(), request.body());
        if let Kind::Neither(forward) = kind {
            return self.bypass(request, forward);
        }
        let uri = original_uri(options, request.uri(), request.extensions());
        let Some(key) = KeyText::of_request(uri, host, options.ignore_host) else {
            return self.bypass(request, Forward::Bypass);
        };
        if let Kind::Write = kind {
            return self.write(request, key.to_key(), noted);
        }
        let control = if options.rules.request_directives {
            RequestControl::parse(request.headers())
        } else {
            RequestControl::default()
        };
        if control.no_store && !control.only_if_cached {
            // Neither read nor written (RFC 9111, section 5.2.1.5).
            return self.bypass(request, Forward::Request);
        }
        let (method, headers) = (request.method(), request.headers());
        let asked = Asked { method, headers, key: key.as_str(), noted };
        let shared = &*self.stack.shared;
        let now = shared.state.now();
        let (mut response, outcome) = match shared.look(asked, &control, &now) {
            Look::Stored(stored, outcome) => {
                // Returned from here: to move an answer costs as much as to look for it.
                let mut response = shared.stored(asked, &stored, &now, outcome);
                *response.extensions_mut() = shared.extensions(&mut request, outcome);
                return ResponseFuture::ready(response);
            }
            Look::Refresh(stored, missing) => {
                let outcome = CacheOutcome::Stale;
                let response = shared.stored(asked, &stored, &now, outcome);
                // The next GET validates; a HEAD would be answered without a body to store.
                if request.method() != Method::HEAD {
                    self.fill(request, key.to_key(), noted, missing).refresh();
                }
                (response, outcome)
            }
            Look::Answer(response, outcome) => (response, outcome),
            Look::Missing(missing) => return self.forward(request, key.to_key(), noted, missing),
        };
        response.extensions_mut().insert(outcome);
        ResponseFuture::ready(response)
    }
}

/// What is missing in the store.
struct Missing {
    forward: Forward,
    control: RequestControl,
    /// What may be validated.
    stale: Option<Arc<Stored>>,
    /// What is known to select among the stored responses.
    vary: Vary,
}

/// What the store has for a request.
enum Look<B> {
    /// What answers.
    Stored(Arc<Stored>, CacheOutcome),
    /// What answers although it is stale, and is to be validated in the background.
    Refresh(Arc<Stored>, Missing),
    Answer(Response<ResponseBody<B>>, CacheOutcome),
    Missing(Missing),
}

impl<S: Clone> LruCache<S> {
    /// What a request is forwarded with.
    fn parts(&self) -> (Arc<Shared>, S) {
        let Stack { inner, shared } = &*self.stack;
        (shared.clone(), inner.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }

    fn fill<Q>(
        &self,
        request: Request<Q>,
        key: CacheKey,
        noted: Noted,
        missing: Missing,
    ) -> Fill<S, Q> {
        let Missing { forward, control, stale, vary } = missing;
        let client = client(&request, key, noted, control, forward);
        let (shared, inner) = self.parts();
        Fill { shared, inner, request, client, stale, vary }
    }

    /// Asks the handler.
    fn forward<Q, B>(
        &self,
        request: Request<Q>,
        key: CacheKey,
        noted: Noted,
        missing: Missing,
    ) -> ResponseFuture<B, S::Error>
    where
        S: Handler<Q, B>,
        Q: Send + 'static,
        B: Content,
    {
        let state = &self.stack.shared.state;
        count(&state.counters.misses);
        state.tell(CacheEvent::Miss(&key));
        let fill = self.fill(request, key, noted, missing);
        if fill.client.method == Method::HEAD {
            let Fill { shared, inner, request, client, stale, .. } = fill;
            return ResponseFuture::boxed(write::head(shared, inner, request, client, stale));
        }
        ResponseFuture::boxed(fill.answer())
    }

    /// Forwards a request that may change something.
    fn write<Q, B>(
        &self,
        request: Request<Q>,
        key: CacheKey,
        noted: Noted,
    ) -> ResponseFuture<B, S::Error>
    where
        S: Handler<Q, B>,
        Q: Send + 'static,
        B: Content,
    {
        count(&self.stack.shared.state.counters.bypassed);
        let client = client(&request, key, noted, RequestControl::default(), Forward::Method);
        let (shared, inner) = self.parts();
        ResponseFuture::boxed(write::write(shared, inner, request, client))
    }

    /// Forwards a request that is nothing to the cache, as it is.
    fn bypass<Q, B>(&self, request: Request<Q>, forward: Forward) -> ResponseFuture<B, S::Error>
    where
        S: Handler<Q, B>,
        Q: Send + 'static,
        B: Content,
    {
        let (shared, inner) = self.parts();
        count(&shared.state.counters.bypassed);
        let key = request.uri().path().to_owned();
        ResponseFuture::boxed(async move {
            let mut response = fetch::call(inner, request).await?.map(ResponseBody::inner);
            let _ = record::take_tags(&shared.options, response.headers_mut());
            let status = answer::forwarded_status(forward, Some(response.status()));
            answer::mark(&shared.options, &mut response, &key, &status, CacheOutcome::Bypass);
            Ok(response)
        })
    }
}

impl Shared {
    /// Those of a response that ends `request`.
    fn extensions<Q>(&self, request: &mut Request<Q>, outcome: CacheOutcome) -> Extensions {
        let mut extensions = std::mem::take(request.extensions_mut());
        if extensions.is_empty() && outcome == CacheOutcome::Hit {
            return self.state.hit.clone();
        }
        // Emptied, they keep their memory.
        extensions.clear();
        extensions.insert(outcome);
        extensions
    }

    /// Looks for what may answer without the handler.
    fn look<B>(&self, asked: Asked<'_>, control: &RequestControl, now: &Moment) -> Look<B> {
        let Self { state, options } = self;
        let (forward, stale, vary) = match state.find(asked.key, asked.headers, now) {
            Found::Selected(stored) => {
                let expired = stored.expired_for(now);
                let age = stored.head.age(now);
                let terms = &stored.head.terms;
                let reuse = reuse::reuse(terms, control, age, expired);
                match reuse {
                    Reuse::Fresh => return Look::Stored(stored, CacheOutcome::Hit),
                    Reuse::Stale => return Look::Stored(stored, CacheOutcome::Stale),
                    Reuse::StaleWhileRevalidate | Reuse::Validate => {}
                }
                let fresh = terms.is_fresh(age) && expired.is_none();
                let forward = if fresh { Forward::Request } else { Forward::Stale };
                let (control, vary) = (control.clone(), vary_of(&stored));
                if reuse == Reuse::StaleWhileRevalidate {
                    let stale = Some(stored.clone());
                    return Look::Refresh(stored, Missing { forward, control, stale, vary });
                }
                (forward, Some(stored), vary)
            }
            Found::OtherVariant(stored) => (Forward::VaryMiss, None, vary_of(&stored)),
            Found::Nothing => (Forward::UriMiss, None, Vary::Nothing),
        };
        let mut missing = Missing { forward, control: control.clone(), stale, vary };
        if missing.stale.is_none()
            && options.rules.partial
            && *asked.method == Method::GET
            && asked.noted.range
            && let Some(known) = state.parts(asked.key, now)
        {
            let age = known.head.age(now);
            let reuse = reuse::reuse(&known.head.terms, &missing.control, age, None);
            if reuse == Reuse::Fresh
                && let Some(response) = answer::from_parts(options, asked, &known, now)
            {
                count(&state.counters.hits);
                state.tell_hit(asked.key);
                return Look::Answer(response, CacheOutcome::Hit);
            }
            missing.forward = Forward::Partial;
        }
        if missing.control.only_if_cached {
            let response = answer::not_stored(options, asked.key);
            return Look::Answer(response, CacheOutcome::NotStored);
        }
        Look::Missing(missing)
    }

    /// Answers with what is stored, fresh or stale; the outcome is for the caller to add.
    #[inline]
    pub(crate) fn stored<B>(
        &self,
        asked: Asked<'_>,
        stored: &Stored,
        now: &Moment,
        outcome: CacheOutcome,
    ) -> Response<ResponseBody<B>> {
        let counters = &self.state.counters;
        count(if outcome == CacheOutcome::Hit { &counters.hits } else { &counters.stale });
        self.state.tell_hit(asked.key);
        answer::from_stored(&self.options, asked, stored, now, &HIT)
    }
}

/// What selected the stored response.
fn vary_of(stored: &Stored) -> Vary {
    let names: Box<[_]> = stored.head.selection.iter().map(|(name, _)| name.clone()).collect();
    if names.is_empty() { Vary::Nothing } else { Vary::Fields(names) }
}

fn client<Q>(
    request: &Request<Q>,
    key: CacheKey,
    noted: Noted,
    control: RequestControl,
    forward: Forward,
) -> Client {
    let (method, headers) = (request.method().clone(), request.headers().clone());
    Client { method, headers, key, noted, control, forward }
}

/// The URI before routers took their prefixes off it.
fn original_uri<'a>(options: &Options, uri: &'a Uri, extensions: &'a Extensions) -> &'a Uri {
    if let Some(original) = &options.original_uri
        && let Some(uri) = original(extensions)
    {
        return uri;
    }
    #[cfg(feature = "serve")]
    if let Some(original) = extensions.get::<axum::extract::OriginalUri>() {
        return &original.0;
    }
    uri
}

/// For warm-up: whether a response may be stored, and under which terms.
pub(crate) fn judge(
    shared: &Shared,
    exchange: &super::policy::Exchange<'_>,
) -> Option<freshness::Terms> {
    super::policy::storing::storable(&shared.options.rules, exchange).ok()
}
