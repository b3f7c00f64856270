//! One call of the handler, and what its answer means.

use std::future::{Future, poll_fn};
use std::sync::Arc;
use std::time::Duration;

use http::header::{CACHE_CONTROL, CONTENT_LOCATION, ETAG};
use http::{Extensions, HeaderMap, HeaderValue, Method, Request, Response, StatusCode, response};
use tokio::task::JoinHandle;
use tower_service::Service;

use super::answer;
use super::asked::{Asked, Noted};
use super::body::{Content, ResponseBody};
use super::clock::Moment;
use super::coalesce::{Live, Use};
use super::event::count;
use super::fields::Fields;
use super::key::CacheKey;
use super::outcome::{CacheOutcome, Forward, Status};
use super::partial;
use super::policy::{
    Exchange, Failure, RequestControl, conditional, freshen, invalidation, reuse, single, storing,
};
use super::record::{self, Recording, Since};
use super::rest::Rest;
use super::service::Shared;
use super::stored::{Head, Stored};
use super::tape::Tape;
use super::variants::Variants;

/// What can be behind a cache.
pub(crate) trait Handler<Q, B>:
    Service<Request<Q>, Response = Response<B>, Future: Send + 'static, Error: Send + 'static>
    + Send
    + 'static
{
}

impl<S, Q, B> Handler<Q, B> for S where
    S: Service<Request<Q>, Response = Response<B>, Future: Send + 'static, Error: Send + 'static>
        + Send
        + 'static
{
}

/// What comes of a request.
pub(crate) type Answer<B, E> = Result<Response<ResponseBody<B>>, E>;

/// What the client asked; kept while its request is with the handler.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    pub(crate) method: Method,
    pub(crate) headers: HeaderMap,
    pub(crate) key: CacheKey,
    pub(crate) noted: Noted,
    pub(crate) control: RequestControl,
    pub(crate) forward: Forward,
}

impl Client {
    pub(crate) fn asked(&self) -> Asked<'_> {
        let Self { method, headers, noted, .. } = self;
        Asked { method, headers, key: self.key.as_str(), noted: *noted }
    }

    /// Its request and what the handler answered.
    pub(crate) fn exchange<'a>(
        &'a self,
        response: &'a response::Parts,
        requested: Duration,
        received: &Moment,
    ) -> Exchange<'a> {
        Exchange {
            method: &self.method,
            request: &self.headers,
            status: response.status,
            response: &response.headers,
            requested,
            received: received.wall(),
        }
    }

    pub(crate) fn forces_an_answer(&self) -> bool {
        let control = &self.control;
        control.no_cache || control.max_age.is_some() || control.min_fresh.is_some()
    }
}

/// What the handler's answer means.
pub(crate) enum Fetched<B> {
    /// The stored response answers, after this status.
    Stored(Arc<Stored>, Use, Option<StatusCode>),
    /// It is recorded.
    Recording(Recording<B>, Response<ResponseBody<B>>),
    /// It goes to the client and nowhere else.
    Pass(Response<ResponseBody<B>>),
}

/// Asks the handler, with the validators of what is stored, and judges what it answers.
pub(crate) async fn fetch<S, Q, B>(
    shared: &Arc<Shared>,
    inner: S,
    mut request: Request<Q>,
    client: &Client,
    stale: Option<&Arc<Stored>>,
    keep_conditions: bool,
    since: Since,
) -> Result<Fetched<B>, S::Error>
where
    S: Service<Request<Q>, Response = Response<B>>,
    B: Content,
{
    let rules = &shared.options.rules;
    let validated = stale.filter(|stored| stored.head.has_validator());
    if let Some(stored) = validated {
        let mut fields = stored.head.fields.to_map(0);
        if stored.head.own_etag {
            fields.remove(ETAG);
        }
        conditional::add_validators(request.headers_mut(), &fields);
    } else if !keep_conditions {
        conditional::remove_conditions(request.headers_mut());
    }
    let headers = request.headers_mut();
    let mut rest = None;
    let mut variants = None;
    if validated.is_none() {
        rest = Rest::ask(shared, client, headers, keep_conditions);
    }
    if validated.is_none() && rest.is_none() {
        variants = Variants::ask(shared, client, headers, keep_conditions);
    }
    let requested = shared.state.now().wall();
    let answer = call(inner, request).await;
    let now = shared.state.now();
    let usable_after = |failure| {
        stale
            .filter(|stored| {
                let age = stored.head.age(&now);
                let expired = stored.expired_for(&now);
                let terms = &stored.head.terms;
                reuse::is_usable_after(rules, terms, &client.control, age, expired, failure)
            })
            .cloned()
    };
    let response = match answer {
        Ok(response) => response,
        Err(error) => {
            return match usable_after(Failure::Error) {
                Some(stored) => Ok(Fetched::Stored(stored, Use::StaleOnFailure, None)),
                None => Err(error),
            };
        }
    };
    let status = response.status();
    if status == StatusCode::NOT_MODIFIED
        && let Some(stored) = validated
    {
        let (parts, _) = response.into_parts();
        let fields = stored.head.fields.to_map(0);
        if !stored.head.own_etag && freshen::names_another(&fields, &parts.headers) {
            // The client may have what is stored: the origin was asked about that and said that it is good.
            // But not for long, as it contradicts itself.
            shared.state.invalidate(&client.key);
            return Ok(Fetched::Stored(stored.clone(), Use::ValidatedForOne, Some(status)));
        }
        let (new, used) = freshened(shared, client, stored, parts, requested, &since);
        return Ok(Fetched::Stored(new, used, Some(status)));
    }
    if status == StatusCode::NOT_MODIFIED
        && let Some(variants) = variants
    {
        return Ok(variants.settle(shared, client, response, requested, &since));
    }
    if status == StatusCode::PARTIAL_CONTENT
        && let Some(rest) = rest
    {
        return Ok(rest.settle(shared, client, response, requested, since));
    }
    if let Some(stored) = usable_after(Failure::Status(status)) {
        return Ok(Fetched::Stored(stored, Use::StaleOnFailure, Some(status)));
    }
    Ok(settle(shared, client, response, requested, since, !keep_conditions))
}

/// What contradicts itself, so that there is nothing to answer with.
pub(crate) fn contradiction<B>(shared: &Shared, client: &Client, status: StatusCode) -> Fetched<B> {
    // The next one asks without what was stored.
    shared.state.invalidate(&client.key);
    let mut response = Response::new(ResponseBody::empty());
    *response.status_mut() = StatusCode::BAD_GATEWAY;
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    let mut said = answer::forwarded_status(client.forward, Some(status));
    said.detail = Some("contradiction");
    let key = client.key.as_str();
    answer::mark(&shared.options, &mut response, key, &said, CacheOutcome::Miss);
    Fetched::Pass(response)
}

/// The stored response, brought up to date by a 304 (RFC 9111, section 4.3.4), and for whom it is.
pub(crate) fn freshened(
    shared: &Shared,
    client: &Client,
    stored: &Arc<Stored>,
    mut update: http::response::Parts,
    requested: Duration,
    since: &Since,
) -> (Arc<Stored>, Use) {
    let options = &shared.options;
    let now = shared.state.now();
    let mut tags = record::take_tags(options, &mut update.headers);
    if tags.is_none() {
        tags = stored.head.tags.clone();
    }
    let exchange = Exchange {
        method: &Method::GET,
        status: stored.head.status,
        ..client.exchange(&update, requested, &now)
    };
    let updated = freshen::update(&options.rules, &stored.head.fields.to_map(0), &exchange);
    let head = Head {
        status: stored.head.status,
        fields: Fields::new(&shared.state.shapes, &updated.fields),
        terms: updated.terms,
        selection: stored.head.selection.clone(),
        at: now,
        tags,
        own_etag: stored.head.own_etag,
        by_language: stored.head.by_language,
    };
    let trailers = stored.trailers.as_deref().cloned();
    let new = Arc::new(Stored::new(Arc::new(head), stored.body.clone(), trailers));
    let used = if updated.keeps { Use::Validated } else { Use::ValidatedForOne };
    if !since.is_wrong(shared) {
        if updated.keeps {
            shared.state.freshen(&client.key, options, stored, new.clone());
        } else {
            // The 304 says that it may not be kept any more.
            shared.state.invalidate(&client.key);
        }
    }
    (new, used)
}

/// Decides at the head whether a response is recorded; what is not goes through untouched.
pub(crate) fn settle<B>(
    shared: &Arc<Shared>,
    client: &Client,
    response: Response<B>,
    requested: Duration,
    since: Since,
    conditions_removed: bool,
) -> Fetched<B>
where
    B: Content,
{
    let options = &shared.options;
    let now = shared.state.now();
    let (mut parts, body) = response.into_parts();
    let tags = record::take_tags(options, &mut parts.headers);
    let exchange = client.exchange(&parts, requested, &now);
    let mut refusal = None;
    let mut judged = None;
    let length = record::declared_length(&parts, &body);
    if options.skip_response.as_ref().is_some_and(|skip| skip(&parts)) {
        refusal = Some("skipped");
    } else if record::too_large(options, length) {
        refusal = Some("too-large");
    } else {
        match storing::storable(&options.rules, &exchange) {
            Ok(_) if client.method == Method::POST && !names_itself(client, &parts.headers) => {
                refusal = Some("method");
            }
            Ok(terms) => judged = Some(terms),
            Err(storing::Refusal::Partial) if options.rules.partial => {
                return partial::part(shared, client, parts, body, tags, requested, since);
            }
            Err(reason) => refusal = Some(record::detail(reason)),
        }
    }
    let mut status = answer::forwarded_status(client.forward, Some(parts.status));
    status.stored = judged.is_some();
    status.detail = refusal;
    let recorded = judged.map(|terms| {
        let (head, vary) = record::head(shared, &client.headers, &mut parts, terms, tags, now);
        let tape = Arc::new(Tape::new());
        let live = Arc::new(Live { head: Arc::new(head), vary, tape, length });
        (live, parts.headers.clone())
    });
    record::remove_targeted(options, &mut parts.headers);
    let not_modified = conditions_removed
        && client.method == Method::GET
        && answer::is_not_modified(client.asked(), &parts, now.wall());
    if not_modified {
        answer::strip_for_not_modified(&mut parts);
    }
    match recorded {
        None => {
            let body = if not_modified { ResponseBody::empty() } else { ResponseBody::inner(body) };
            let mut response = Response::from_parts(parts, body);
            answer::mark(options, &mut response, client.key.as_str(), &status, CacheOutcome::Miss);
            Fetched::Pass(response)
        }
        Some((live, _)) => {
            let own = match live.tape.read() {
                Some(reader) if !not_modified => ResponseBody::recorded(reader, length),
                _ => ResponseBody::empty(),
            };
            let mut response = Response::from_parts(parts, own);
            answer::mark(options, &mut response, client.key.as_str(), &status, CacheOutcome::Miss);
            let recording = Recording::new(live, body, client.key.clone(), since);
            Fetched::Recording(recording, response)
        }
    }
}

/// A response to POST that says where to GET it (RFC 9110, section 9.3.3).
fn names_itself(client: &Client, response: &HeaderMap) -> bool {
    let Some(location) = single(response, CONTENT_LOCATION) else {
        return false;
    };
    let Ok(location) = std::str::from_utf8(location) else {
        return false;
    };
    let target = client.key.path_and_query();
    invalidation::resolve(client.key.authority(), target, location).as_deref() == Some(target)
}

pub(crate) fn landed_on<B>(
    shared: &Shared,
    client: &Client,
    stored: &Stored,
    used: Use,
    forward_status: Option<StatusCode>,
    collapsed: bool,
) -> Response<ResponseBody<B>> {
    let state = &shared.state;
    let outcome = match used {
        Use::Validated | Use::ValidatedForOne => {
            count(&state.counters.validated);
            CacheOutcome::Validated
        }
        Use::StaleOnFailure => {
            count(&state.counters.stale);
            CacheOutcome::Stale
        }
    };
    let forward = match client.forward {
        known @ (Forward::Request | Forward::VaryMiss) => known,
        _ => Forward::Stale,
    };
    let status = Status { collapsed, ..answer::forwarded_status(forward, forward_status) };
    let asked = client.asked();
    let mut response = answer::from_stored(&shared.options, asked, stored, &state.now(), &status);
    response.extensions_mut().insert(outcome);
    response
}

/// Calls the service once it is ready.
pub(crate) async fn call<S, Q>(mut inner: S, request: Request<Q>) -> Result<S::Response, S::Error>
where
    S: Service<Request<Q>>,
{
    poll_fn(|cx| inner.poll_ready(cx)).await?;
    inner.call(request).await
}

/// A task for what goes on when its client leaves, in the span of the request that caused it.
pub(crate) fn spawn<F>(work: F) -> JoinHandle<F::Output>
where
    F: Future<Output: Send> + Send + 'static,
{
    // Boxed: tokio moves a task some ten times until it runs, and these are of kilobytes.
    let work = Box::pin(work);
    #[cfg(feature = "serve")]
    let work = tracing::Instrument::in_current_span(work);
    tokio::spawn(work)
}

/// Counts background work as in flight, where the server says with what.
#[cfg(feature = "layer")]
pub(crate) fn in_flight(extensions: &Extensions) -> Option<crate::drain::DrainGuard> {
    extensions.get::<crate::drain::Drain>().map(crate::drain::Drain::guard)
}

#[cfg(not(feature = "layer"))]
pub(crate) fn in_flight(_: &Extensions) -> Option<()> {
    None
}
