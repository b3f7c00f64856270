//! The layer and its options.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::header::HeaderName;
use http::{Extensions, StatusCode, Uri, request, response};
use tower_layer::Layer;

use super::event::CacheEvent;
use super::handle::CacheHandle;
use super::options::Options;
use super::policy::rules::SetCookie;
use super::service::{LruCache, Shared};
use super::state::State;
use super::store::Limits;
use crate::lru::AnyPolicy;

/// Caches the responses of a service; see the [module](super).
///
/// Everything that is made by one layer and its clones shares one store.
///
/// ```
/// use std::convert::Infallible;
/// use bytes::Bytes;
/// use graceful::cache::{CacheOutcome, LruCacheLayer};
/// use http::{Request, Response};
/// use http_body_util::{Empty, Full};
/// use tower::{Layer, Service, service_fn};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let slow = service_fn(|_: Request<Empty<Bytes>>| async {
///     let response = Response::builder().header("cache-control", "max-age=60");
///     Ok::<_, Infallible>(response.body(Full::from("hello")).unwrap())
/// });
/// let layer = LruCacheLayer::new(10_000);
/// let handle = layer.handle();
/// let mut service = layer.layer(slow);
///
/// let first = service.call(Request::get("http://h/").body(Empty::new()).unwrap()).await.unwrap();
/// assert_eq!(first.extensions().get(), Some(&CacheOutcome::Miss));
/// # use http_body_util::BodyExt;
/// # first.into_body().collect().await.unwrap();
/// # while handle.len() == 0 { tokio::task::yield_now().await; }
/// let second = service.call(Request::get("http://h/").body(Empty::new()).unwrap()).await.unwrap();
/// assert_eq!(second.extensions().get(), Some(&CacheOutcome::Hit));
/// assert_eq!(second.headers()["age"], "0");
/// assert_eq!(handle.stats().hits, 1);
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct LruCacheLayer {
    shared: Arc<Shared>,
    limits: Limits,
}

impl LruCacheLayer {
    /// A cache of at most `capacity` keys, and at most 256 MiB, in the profile that is safe inside an app.
    ///
    /// That is: stored is only what states its own freshness (`max-age`, `s-maxage`, `Expires`, a targeted
    /// field) or demands validation (`no-cache` with a validator); never with `Set-Cookie`; nothing stale is
    /// used unless the response permits it; `Cache-Control` of requests is ignored.
    pub fn new(capacity: usize) -> Self {
        let limits =
            Limits { entries: capacity, bytes: 256 * 1024 * 1024, policy: AnyPolicy::default() };
        let state = Arc::new(State::new(&limits));
        Self { shared: Arc::new(Shared { state, options: Options::default() }), limits }
    }

    /// Follows every rule of RFC 9111, as a proxy does: heuristic freshness, directives of requests,
    /// responses with `Set-Cookie`, validation of what states no freshness and of other variants, parts that
    /// are completed, and up to a day stale when the origin cannot be reached and does not forbid it.
    pub fn rfc9111(mut self) -> Self {
        let options = self.options();
        options.rules = options.rules.clone().rfc9111();
        self
    }

    /// Controls the store from outside of requests.
    pub fn handle(&self) -> CacheHandle {
        CacheHandle::new(self.shared.clone())
    }

    /// Options count for what is made afterwards.
    fn options(&mut self) -> &mut Options {
        &mut Arc::make_mut(&mut self.shared).options
    }

    fn relimited(mut self, change: impl FnOnce(&mut Limits)) -> Self {
        change(&mut self.limits);
        self.shared.state.store.configure(&self.limits);
        self
    }

    /// How many bytes are stored at most: heads, bodies, keys, and what it costs to manage them. Default:
    /// 256 MiB. Empties the store.
    ///
    /// No entry counts for less than this divided by the number of entries.
    pub fn max_bytes(self, bytes: usize) -> Self {
        self.relimited(|limits| limits.bytes = bytes)
    }

    /// Which key leaves a full store. Default: the one that was not asked for the longest
    /// ([`Lru`](crate::lru::Lru)); [`TwoQueue`](crate::lru::TwoQueue) and
    /// [`Adaptive`](crate::lru::Adaptive) withstand scans. Empties the store.
    pub fn policy(self, policy: impl Into<AnyPolicy>) -> Self {
        self.relimited(|limits| limits.policy = policy.into())
    }

    /// How large a body may be to be stored, in bytes. Default: 2 MiB.
    pub fn max_body_size(mut self, bytes: usize) -> Self {
        self.options().max_body_size = bytes;
        self
    }

    /// How many variants one key may have; the oldest leaves. Default: 32.
    pub fn max_variants(mut self, variants: usize) -> Self {
        self.options().max_variants = variants.max(1);
        self
    }

    /// How many ranges a request may ask for; one with more gets everything. Default: 16.
    pub fn max_ranges(mut self, ranges: usize) -> Self {
        self.options().max_ranges = ranges;
        self
    }

    /// Whether requests for the same thing at the same time make one call of the handler. Default: true.
    pub fn collapse(mut self, collapse: bool) -> Self {
        self.options().collapse = collapse;
        self
    }

    /// How long a request waits for the head of another's response before it asks for itself. Default: 10 s.
    pub fn collapse_timeout(mut self, timeout: Duration) -> Self {
        self.options().collapse_timeout = timeout;
        self
    }

    /// How long nobody waits for a key whose response could not be shared. Default: 2 s.
    pub fn pass_for(mut self, time: Duration) -> Self {
        self.options().pass_for = time;
        self
    }

    /// How long a fill that nobody waits for may stand still before it is given up. Default: 30 s.
    pub fn abandon_after(mut self, time: Duration) -> Self {
        self.options().abandon_after = time;
        self
    }

    /// How long a stale response that can be validated is kept. Default: 10 minutes.
    pub fn retention(mut self, time: Duration) -> Self {
        self.options().retention = time;
        self
    }

    /// The lifetime of responses that state none, in the statuses that RFC 9110, section 15.1 calls
    /// heuristically cacheable. Default: none, they are not stored.
    pub fn default_ttl(mut self, ttl: Duration) -> Self {
        self.options().rules.default_ttl = Some(ttl);
        self
    }

    /// The same for one status, whatever it is.
    pub fn status_ttl(mut self, status: StatusCode, ttl: Duration) -> Self {
        self.options().rules.status_ttl.retain(|(known, _)| *known != status);
        self.options().rules.status_ttl.push((status, ttl));
        self
    }

    /// Freshness for what states none but has `Last-Modified`: this share of its age then, at most a day
    /// (RFC 9111, section 4.2.2). Default: 0, which is none; 10 in [`rfc9111`](Self::rfc9111).
    pub fn heuristic_percent(mut self, percent: u32) -> Self {
        self.options().rules.heuristic_percent = percent;
        self
    }

    /// Whether `Cache-Control` and `Pragma` of requests count (RFC 9111, section 5.2.1). Default: false;
    /// true in [`rfc9111`](Self::rfc9111).
    pub fn request_directives(mut self, count: bool) -> Self {
        self.options().rules.request_directives = count;
        self
    }

    /// What is done with a response that has `Set-Cookie`. Default: [`SetCookie::Refuse`].
    pub fn set_cookie(mut self, set_cookie: SetCookie) -> Self {
        self.options().rules.set_cookie = set_cookie;
        self
    }

    /// How long past its freshness a response may answer when the handler fails to (502, 504 or an error),
    /// although it does not say so itself (RFC 9111, section 4.2.4). Default: never; one day in
    /// [`rfc9111`](Self::rfc9111).
    pub fn stale_on_failure(mut self, time: Duration) -> Self {
        self.options().rules.stale_on_failure = time;
        self
    }

    /// `stale-while-revalidate` (RFC 5861) of responses that do not state it. Default: none.
    pub fn stale_while_revalidate(mut self, time: Duration) -> Self {
        self.options().rules.stale_while_revalidate = time;
        self
    }

    /// `stale-if-error` (RFC 5861) of responses that do not state it. Default: none.
    pub fn stale_if_error(mut self, time: Duration) -> Self {
        self.options().rules.stale_if_error = time;
        self
    }

    /// Whether `s-maxage` forbids to use a response stale, as RFC 9111, section 5.2.2.10 has it. Default:
    /// true.
    pub fn s_maxage_forbids_stale(mut self, forbids: bool) -> Self {
        self.options().rules.s_maxage_forbids_stale = forbids;
        self
    }

    /// Whether to store what states no freshness but has a validator, and to validate it each time.
    /// Default: false; true in [`rfc9111`](Self::rfc9111).
    pub fn store_by_validator(mut self, store: bool) -> Self {
        self.options().rules.validators_alone = store;
        self
    }

    /// The fields of RFC 9213 that are for this cache, the first one wins. Default: `CDN-Cache-Control`.
    pub fn targeted(mut self, names: impl IntoIterator<Item = HeaderName>) -> Self {
        self.options().rules.targets = names.into_iter().collect();
        self
    }

    /// Whether to take the targeted fields out of responses. Default: false.
    pub fn remove_targeted(mut self, remove: bool) -> Self {
        self.options().remove_targeted = remove;
        self
    }

    /// Whether a response to POST that has explicit freshness and names its own URI in `Content-Location`
    /// answers later GETs (RFC 9110, section 9.3.3). Default: true.
    pub fn store_post(mut self, store: bool) -> Self {
        self.options().rules.post = store;
        self
    }

    /// Whether parts with a strong validator are kept and combined (RFC 9111, section 3.3). Default: true.
    pub fn store_parts(mut self, store: bool) -> Self {
        self.options().rules.partial = store;
        self
    }

    /// Whether a request for something of which parts are stored asks the handler for the rest only (`Range`
    /// with `If-Range`), and is answered with both (RFC 9111, section 3.4). Default: false; true in
    /// [`rfc9111`](Self::rfc9111).
    ///
    /// The handler has to know `If-Range`. When it answers with a part of something else all the same, a
    /// client that wants everything gets 502, and what was stored is gone.
    pub fn complete_parts(mut self, complete: bool) -> Self {
        self.options().rules.complete_parts = complete;
        self
    }

    /// Whether a request that no stored variant matches is sent on with their strong entity tags in
    /// `If-None-Match`, so that a 304 can name the one that fits (RFC 9111, sections 4.1 and 4.3.4).
    /// Default: false; true in [`rfc9111`](Self::rfc9111).
    ///
    /// No two variants may have the same strong entity tag. A 304 that names none of several is answered
    /// with 502, as there is nothing to answer with.
    pub fn validate_variants(mut self, validate: bool) -> Self {
        self.options().rules.validate_variants = validate;
        self
    }

    /// Whether a response whose `Content-Language` is what the client prefers before everything else answers
    /// it, although another client's `Accept-Language` caused it to be made. Default: true.
    pub fn select_language(mut self, select: bool) -> Self {
        self.options().rules.by_language = select;
        self
    }

    /// Whether `No-Vary-Search` of responses counts. Default: true.
    pub fn no_vary_search(mut self, count: bool) -> Self {
        self.options().rules.no_vary_search = count;
        self
    }

    /// A request header that the handlers read without naming it in `Vary`: it selects a variant all the
    /// same. For `X-Forwarded-Host` and its like.
    pub fn vary_by(mut self, name: HeaderName) -> Self {
        self.options().rules.key_headers.push(name);
        self
    }

    /// Whether a stored response without `ETag` gets one, made from its bytes, so that clients can ask
    /// whether it changed. Default: true.
    pub fn make_etag(mut self, make: bool) -> Self {
        self.options().make_etag = make;
        self
    }

    /// Whether all hosts share their responses. Default: false.
    pub fn ignore_host(mut self, ignore: bool) -> Self {
        self.options().ignore_host = ignore;
        self
    }

    /// The name of this cache in `Cache-Status` (RFC 9211); `None` sends none. Default: `graceful`.
    pub fn cache_status(mut self, name: Option<&str>) -> Self {
        self.options().status_name = name.map(Arc::from);
        self
    }

    /// Whether `Cache-Status` shows the cache key. Default: false.
    pub fn cache_status_key(mut self, show: bool) -> Self {
        self.options().status_key = show;
        self
    }

    /// The response header that lists the tags of a response, for [`CacheHandle::purge_tag`]; it is taken
    /// out before the response is sent. Default: `Cache-Tag`.
    pub fn tag_header(mut self, name: Option<HeaderName>) -> Self {
        self.options().tag_header = name;
        self
    }

    /// Requests that the cache must have no part in.
    pub fn skip_request(
        mut self,
        skip: impl Fn(&request::Parts) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.options().skip_request = Some(Arc::new(skip));
        self
    }

    /// Responses that must not be stored, whatever they say.
    pub fn skip_response(
        mut self,
        skip: impl Fn(&response::Parts) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.options().skip_response = Some(Arc::new(skip));
        self
    }

    /// Where the URI is that the client sent, on stacks that change it on the way in.
    pub fn original_uri(
        mut self,
        find: impl Fn(&Extensions) -> Option<&Uri> + Send + Sync + 'static,
    ) -> Self {
        self.options().original_uri = Some(Arc::new(find));
        self
    }

    /// Calls `hook` at each hit, miss, store and evict. The first hook set counts.
    ///
    /// It runs inside of requests and should be quick.
    pub fn on_event(self, hook: impl Fn(CacheEvent<'_>) + Send + Sync + 'static) -> Self {
        self.shared.state.set_hook(Box::new(hook));
        self
    }

    /// Another wall clock than the system's. The first one set before the first request counts.
    pub fn wall_clock(self, now: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        self.shared.state.clock.set_wall(now);
        self
    }
}

impl<S> Layer<S> for LruCacheLayer {
    type Service = LruCache<S>;

    fn layer(&self, inner: S) -> LruCache<S> {
        // Cheap: axum layers its routes anew for each request as long as a router has no state.
        LruCache::new(inner, self.shared.clone())
    }
}
