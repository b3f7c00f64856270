//! The service: what can be answered at once, and what has to be forwarded.

use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, RANGE, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, Method, Request, Response, Uri, request};
use http_body::Body;
use tower_service::Service;

use super::BoxError;
use super::answer::{self, Asked};
use super::body::ResponseBody;
use super::event::{CacheEvent, count};
use super::fetch::{self, Client};
use super::fill::Fill;
use super::future::ResponseFuture;
use super::key::CacheKey;
use super::options::Options;
use super::outcome::{CacheOutcome, Forward, Status};
use super::policy::vary::Vary;
use super::policy::{RequestControl, Reuse, conditional, field, freshness, reuse};
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
#[derive(Clone, Debug)]
pub struct LruCache<S> {
    inner: S,
    shared: Arc<Shared>,
}

impl<S> LruCache<S> {
    pub(crate) fn new(inner: S, shared: Arc<Shared>) -> Self {
        Self { inner, shared }
    }

    /// The service whose responses are cached.
    pub fn inner(&self) -> &S {
        &self.inner
    }
}

/// What a request is to the cache.
enum Kind {
    Read,
    Write,
    Neither(Forward),
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

    fn call(&mut self, request: Request<Q>) -> Self::Future {
        let shared = &self.shared;
        let (parts, body) = request.into_parts();
        let kind = kind(shared, &parts, &body);
        let key = match &kind {
            Kind::Neither(_) => None,
            Kind::Read | Kind::Write => key(&shared.options, &parts),
        };
        let (kind, key) = match (kind, key) {
            (Kind::Neither(forward), _) => return self.bypass(parts, body, forward),
            (_, None) => return self.bypass(parts, body, Forward::Bypass),
            (kind, Some(key)) => (kind, key),
        };
        if let Kind::Write = kind {
            count(&shared.state.counters.bypassed);
            let client = client(&parts, key, RequestControl::default(), Forward::Method);
            let request = Request::from_parts(parts, body);
            return ResponseFuture::boxed(write::write(
                shared.clone(),
                self.inner.clone(),
                request,
                client,
            ));
        }
        self.read(parts, body, key)
    }
}

impl<S> LruCache<S> {
    fn read<Q, B>(
        &self,
        parts: request::Parts,
        body: Q,
        key: CacheKey,
    ) -> ResponseFuture<B, S::Error>
    where
        S: Service<Request<Q>, Response = Response<B>> + Clone + Send + 'static,
        S::Future: Send + 'static,
        S::Error: Send + 'static,
        Q: Body + Send + 'static,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let shared = &self.shared;
        let options = &shared.options;
        let state = &shared.state;
        let control = if options.rules.request_directives {
            RequestControl::parse(&parts.headers)
        } else {
            RequestControl::default()
        };
        if control.no_store && !control.only_if_cached {
            // Neither read nor written (RFC 9111, section 5.2.1.5).
            return self.bypass(parts, body, Forward::Request);
        }
        let now = state.now();
        let asked = Asked { method: &parts.method, headers: &parts.headers, key: key.as_str() };
        let mut stale = None;
        let mut vary = Vary::Nothing;
        let mut forward = Forward::UriMiss;
        let mut refreshes = None;
        match state.find(&key, &parts.headers, &now) {
            Found::Selected(stored) => {
                let age = stored.head.age(&now);
                let expired = stored.expired_for(&now);
                match reuse::reuse(&stored.head.terms, &control, age, expired) {
                    Reuse::Fresh => {
                        count(&state.counters.hits);
                        state.tell(CacheEvent::Hit(&key));
                        let status = Status { hit: true, ..Status::default() };
                        let outcome = CacheOutcome::Hit;
                        let response =
                            answer::from_stored(options, asked, &stored, &now, status, outcome);
                        return ResponseFuture::ready(response);
                    }
                    Reuse::Stale => {
                        return ResponseFuture::ready(self.stale(asked, &key, &stored));
                    }
                    Reuse::StaleWhileRevalidate => {
                        refreshes = Some(self.stale(asked, &key, &stored));
                    }
                    Reuse::Validate => {
                        let fresh = stored.head.terms.is_fresh(age) && expired.is_none();
                        forward = if fresh { Forward::Request } else { Forward::Stale };
                    }
                }
                vary = vary_of(&stored);
                stale = Some(stored);
            }
            Found::OtherVariant(stored) => {
                forward = Forward::VaryMiss;
                vary = vary_of(&stored);
            }
            Found::Nothing => {}
        }
        if stale.is_none()
            && options.rules.partial
            && parts.method == Method::GET
            && parts.headers.contains_key(RANGE)
            && let Some(known) = state.parts(&key, &now)
        {
            let age = known.head.age(&now);
            let reuse = reuse::reuse(&known.head.terms, &control, age, None);
            if reuse == Reuse::Fresh
                && let Some(response) = answer::from_parts(options, asked, &known, &now)
            {
                count(&state.counters.hits);
                state.tell(CacheEvent::Hit(&key));
                return ResponseFuture::ready(response);
            }
            forward = Forward::Partial;
        }
        if control.only_if_cached && refreshes.is_none() {
            return ResponseFuture::ready(answer::not_stored(options, key.as_str()));
        }
        let client = client(&parts, key, control, forward);
        let request = Request::from_parts(parts, body);
        if client.method == Method::HEAD {
            if let Some(response) = refreshes {
                // The next GET validates; a HEAD would be answered without a body to store.
                return ResponseFuture::ready(response);
            }
            count(&state.counters.misses);
            state.tell(CacheEvent::Miss(&client.key));
            return ResponseFuture::boxed(write::head(
                shared.clone(),
                self.inner.clone(),
                request,
                client,
                stale,
            ));
        }
        let inner = self.inner.clone();
        let fill = Fill { shared: shared.clone(), inner, request, client, stale, vary };
        if let Some(response) = refreshes {
            fill.refresh();
            return ResponseFuture::ready(response);
        }
        count(&state.counters.misses);
        state.tell(CacheEvent::Miss(&fill.client.key));
        ResponseFuture::boxed(fill.answer())
    }

    fn stale<B>(
        &self,
        asked: Asked<'_>,
        key: &CacheKey,
        stored: &Stored,
    ) -> Response<ResponseBody<B>> {
        let state = &self.shared.state;
        count(&state.counters.stale);
        state.tell(CacheEvent::Hit(key));
        let status = Status { hit: true, ..Status::default() };
        let outcome = CacheOutcome::Stale;
        answer::from_stored(&self.shared.options, asked, stored, &state.now(), status, outcome)
    }

    /// Forwards a request that is nothing to the cache, as it is.
    fn bypass<Q, B>(
        &self,
        parts: request::Parts,
        body: Q,
        forward: Forward,
    ) -> ResponseFuture<B, S::Error>
    where
        S: Service<Request<Q>, Response = Response<B>> + Clone + Send + 'static,
        S::Future: Send + 'static,
        S::Error: Send + 'static,
        Q: Send + 'static,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let shared = self.shared.clone();
        count(&shared.state.counters.bypassed);
        let inner = self.inner.clone();
        let key = parts.uri.path().to_owned();
        let request = Request::from_parts(parts, body);
        ResponseFuture::boxed(async move {
            let mut response = fetch::call(inner, request).await?.map(ResponseBody::inner);
            let _ = record::take_tags(&shared.options, response.headers_mut());
            let status = answer::forwarded_status(forward, Some(response.status()));
            answer::mark(&shared.options, &mut response, &key, &status, CacheOutcome::Bypass);
            Ok(response)
        })
    }
}

/// What selected the stored response.
fn vary_of(stored: &Stored) -> Vary {
    let names: Box<[_]> = stored.head.selection.iter().map(|(name, _)| name.clone()).collect();
    if names.is_empty() { Vary::Nothing } else { Vary::Fields(names) }
}

fn client(
    parts: &request::Parts,
    key: CacheKey,
    control: RequestControl,
    forward: Forward,
) -> Client {
    Client { method: parts.method.clone(), headers: parts.headers.clone(), key, control, forward }
}

fn kind(shared: &Shared, parts: &request::Parts, body: &impl Body) -> Kind {
    if parts.method == Method::CONNECT || is_upgrade(&parts.headers) {
        return Kind::Neither(Forward::Bypass);
    }
    if shared.options.skip_request.as_ref().is_some_and(|skip| skip(parts)) {
        return Kind::Neither(Forward::Bypass);
    }
    match parts.method {
        Method::GET | Method::HEAD => {
            if has_body(&parts.headers, body) || conditional::is_for_origin(&parts.headers) {
                Kind::Neither(Forward::Bypass)
            } else {
                Kind::Read
            }
        }
        Method::OPTIONS | Method::TRACE => Kind::Neither(Forward::Method),
        _ => Kind::Write,
    }
}

fn is_upgrade(headers: &HeaderMap) -> bool {
    headers.contains_key(UPGRADE)
        || field::members(headers, CONNECTION).any(|member| member.eq_ignore_ascii_case(b"upgrade"))
}

/// A body is not part of the key, so the answer to one is not for others.
fn has_body(headers: &HeaderMap, body: &impl Body) -> bool {
    !body.is_end_stream()
        || headers.contains_key(TRANSFER_ENCODING)
        || headers.get(CONTENT_LENGTH).is_some_and(|length| length != "0")
}

fn key(options: &Options, parts: &request::Parts) -> Option<CacheKey> {
    CacheKey::of_request(original_uri(options, parts), &parts.headers, options.ignore_host)
}

/// The URI before routers took their prefixes off it.
fn original_uri<'a>(options: &'a Options, parts: &'a request::Parts) -> &'a Uri {
    if let Some(original) = &options.original_uri
        && let Some(uri) = original(&parts.extensions)
    {
        return uri;
    }
    #[cfg(feature = "serve")]
    if let Some(original) = parts.extensions.get::<axum::extract::OriginalUri>() {
        return &original.0;
    }
    &parts.uri
}

/// For warm-up: whether a response may be stored, and under which terms.
pub(crate) fn judge(
    shared: &Shared,
    exchange: &super::policy::Exchange<'_>,
) -> Option<freshness::Terms> {
    super::policy::storing::storable(&shared.options.rules, exchange).ok()
}
