//! Forwarding to the handler: alone, or once for all who wait.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_LOCATION, CONTENT_RANGE, ETAG, RANGE};
use http::{Extensions, HeaderMap, Method, Request, Response, StatusCode};
use http_body::Body;
use tokio::sync::{oneshot, watch};
use tower_service::Service;

use super::BoxError;
use super::answer::{self, Asked};
use super::body::ResponseBody;
use super::coalesce::{FlightKey, Guard, Join, Landing, Live, Use};
use super::event::{CacheEvent, count};
use super::key::CacheKey;
use super::outcome::{CacheOutcome, Forward, Status};
use super::parts::Parts;
use super::policy::etag::EntityTag;
use super::policy::vary::{self, Vary};
use super::policy::{
    Exchange, Failure, RequestControl, Reuse, Terms, conditional, freshen, invalidation, range,
    reuse, single, storing,
};
use super::record::{self, Recording, Since};
use super::service::Shared;
use super::state::{Epoch, Found};
use super::stored::{Head, Stored};
use super::tape::Tape;

type Answer<B, E> = Result<Response<ResponseBody<B>>, E>;

/// Counts background work as in flight, where the server says with what.
#[cfg(feature = "layer")]
fn in_flight(extensions: &Extensions) -> Option<crate::drain::DrainGuard> {
    extensions.get::<crate::drain::Drain>().map(crate::drain::Drain::guard)
}

#[cfg(not(feature = "layer"))]
fn in_flight(_: &Extensions) -> Option<()> {
    None
}

/// What the client asked; kept while its request is with the handler.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    pub(crate) method: Method,
    pub(crate) headers: HeaderMap,
    pub(crate) key: CacheKey,
    pub(crate) control: RequestControl,
    pub(crate) forward: Forward,
}

impl Client {
    pub(crate) fn asked(&self) -> Asked<'_> {
        Asked { method: &self.method, headers: &self.headers, key: self.key.as_str() }
    }

    fn forces_an_answer(&self) -> bool {
        let control = &self.control;
        control.no_cache || control.max_age.is_some() || control.min_fresh.is_some()
    }
}

/// A request that the store could not answer.
pub(crate) struct Fill<S, Q> {
    pub(crate) shared: Arc<Shared>,
    pub(crate) inner: S,
    pub(crate) request: Request<Q>,
    pub(crate) client: Client,
    pub(crate) stale: Option<Arc<Stored>>,
    /// What is known to select among the stored responses.
    pub(crate) vary: Vary,
}

/// What the handler's answer means.
enum Fetched<B> {
    /// The stored response answers, after this status.
    Stored(Arc<Stored>, Use, Option<StatusCode>),
    /// It is recorded.
    Recording(Recording<B>, Response<ResponseBody<B>>),
    /// It goes to the client and nowhere else.
    Pass(Response<ResponseBody<B>>),
}

/// Calls the service once it is ready.
pub(crate) async fn call<S, Q>(mut inner: S, request: Request<Q>) -> Result<S::Response, S::Error>
where
    S: Service<Request<Q>>,
{
    poll_fn(|cx| inner.poll_ready(cx)).await?;
    inner.call(request).await
}

impl<S, Q, B> Fill<S, Q>
where
    S: Service<Request<Q>, Response = Response<B>> + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    Q: Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    /// Answers from the handler, collapsed with others where that is allowed.
    pub(crate) async fn answer(mut self) -> Answer<B, S::Error> {
        let options = &self.shared.options;
        let alone = !options.collapse
            || self.client.method != Method::GET
            || self.client.forces_an_answer();
        if alone {
            return self.alone(false).await;
        }
        // A part is no answer for everyone, so who asks for one does not lead. But it may lie in what others
        // are about to get.
        let follows_only = self.client.headers.contains_key(RANGE) && self.stale.is_none();
        // Twice at most: under the selection that is known, and under the one that the answer names.
        for _ in 0..2 {
            let key = self.flight_key();
            let shared = self.shared.clone();
            let flights = &shared.state.flights;
            let join = if follows_only {
                match flights.follow(&key) {
                    Some(join) => join,
                    None => return self.alone(false).await,
                }
            } else {
                flights.join(&key, shared.state.now().steady, || self.look_again())
            };
            match join {
                Join::Found(stored) => return Ok(self.hit(&stored)),
                Join::Lead(guard) => return self.lead(guard).await,
                Join::Pass => {
                    count(&shared.state.counters.passed);
                    return self.alone(true).await;
                }
                Join::Follow(landing) => {
                    let wait = landed(landing);
                    let limit = shared.options.collapse_timeout;
                    match tokio::time::timeout(limit, wait).await {
                        Ok(Landing::Recording(live)) => {
                            if live.head.is_selected_by(&self.client.headers) {
                                if let Some(reader) = answer::reader(&live) {
                                    return Ok(self.follow(&live, reader));
                                }
                                return self.alone(false).await;
                            }
                            self.vary = live.vary.clone();
                            self.client.forward = Forward::VaryMiss;
                        }
                        Ok(Landing::Stored(stored, used))
                            if stored.head.is_selected_by(&self.client.headers) =>
                        {
                            return Ok(self.landed(&stored, used, None, true));
                        }
                        _ => return self.alone(true).await,
                    }
                }
            }
        }
        self.alone(false).await
    }

    fn flight_key(&self) -> FlightKey {
        FlightKey {
            key: self.client.key.clone(),
            selection: vary::selection(&self.vary, &self.client.headers),
            authorized: self.client.headers.contains_key(AUTHORIZATION),
        }
    }

    /// A fill may have ended since the store was asked.
    fn look_again(&self) -> Option<Arc<Stored>> {
        let state = &self.shared.state;
        let Found::Selected(stored) = state.find(&self.client.key, &self.client.headers) else {
            return None;
        };
        let now = state.now();
        let expired = stored.expired_for(&now);
        let reuse =
            reuse::reuse(&stored.head.terms, &self.client.control, stored.head.age(&now), expired);
        (reuse == Reuse::Fresh).then_some(stored)
    }

    fn hit(&self, stored: &Stored) -> Response<ResponseBody<B>> {
        let state = &self.shared.state;
        count(&state.counters.hits);
        state.tell(CacheEvent::Hit(&self.client.key));
        let status = Status { hit: true, ..Status::default() };
        let now = state.now();
        let asked = self.client.asked();
        answer::from_stored(&self.shared.options, asked, stored, &now, status, CacheOutcome::Hit)
    }

    fn follow(&self, live: &Live, reader: super::tape::TapeReader) -> Response<ResponseBody<B>> {
        let state = &self.shared.state;
        count(&state.counters.collapsed);
        let status = Status { collapsed: true, ..Status::forwarded(self.client.forward) };
        let asked = self.client.asked();
        answer::from_live(&self.shared.options, asked, live, reader, &state.now(), status)
    }

    fn landed(
        &self,
        stored: &Stored,
        used: Use,
        forward_status: Option<StatusCode>,
        collapsed: bool,
    ) -> Response<ResponseBody<B>> {
        landed_on(&self.shared, &self.client, stored, used, forward_status, collapsed)
    }

    /// Calls the handler for this client only. What it answers may still be stored.
    async fn alone(self, known: bool) -> Answer<B, S::Error> {
        let Self { shared, inner, request, client, stale, .. } = self;
        let guard = in_flight(request.extensions());
        let since = Since::Epoch(shared.state.epoch());
        // A key known not to be cacheable gets its requests as they are: the handler may judge conditions
        // and ranges better than by sending everything.
        let keep_conditions = known || client.headers.contains_key(RANGE);
        let fetched = fetch(
            &shared,
            inner,
            request,
            &client,
            stale.as_ref().filter(|_| !client.headers.contains_key(RANGE) || !known),
            keep_conditions,
            since,
        )
        .await?;
        match fetched {
            Fetched::Stored(stored, used, status) => {
                Ok(landed_on(&shared, &client, &stored, used, status, false))
            }
            Fetched::Pass(response) => Ok(response),
            Fetched::Recording(recording, response) => {
                let key = FlightKey {
                    key: client.key.clone(),
                    selection: recording.live.head.selection.clone(),
                    authorized: client.headers.contains_key(AUTHORIZATION),
                };
                if recording.live.head.terms.is_shareable() {
                    shared.state.flights.forget_pass(&key);
                }
                let run = recording.run(shared, None);
                tokio::spawn(async move {
                    let _guard = guard;
                    run.await;
                });
                Ok(response)
            }
        }
    }

    /// Calls the handler for all who wait, in a task of its own: it goes on when this client leaves.
    async fn lead(self, guard: Guard) -> Answer<B, S::Error> {
        let (send, receive) = oneshot::channel();
        let task = tokio::spawn(self.fly(guard, Some(send)));
        match receive.await {
            Ok(answer) => answer,
            Err(_) => match task.await {
                // As without the cache: whoever catches panics outside sees this one.
                Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                // The runtime ends, or the fill was given up, which it is not while this waits.
                _ => {
                    let mut response = Response::new(ResponseBody::empty());
                    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
                    Ok(response)
                }
            },
        }
    }

    /// Validates in the background, unless someone does already.
    pub(crate) fn refresh(self) {
        let key = self.flight_key();
        let state = self.shared.state.clone();
        let joined = state.flights.join(&key, state.now().steady, || self.look_again());
        if let Join::Lead(guard) = joined {
            count(&state.counters.refreshes);
            tokio::spawn(self.fly(guard, None));
        }
    }

    async fn fly(self, guard: Guard, leader: Option<oneshot::Sender<Answer<B, S::Error>>>) {
        let Self { shared, inner, request, client, stale, .. } = self;
        // Until the body is stored: a stop waits for it.
        let _in_flight = in_flight(request.extensions());
        let flight = guard.flight().clone();
        let since = Since::Flight(flight.clone());
        let fetched = fetch(&shared, inner, request, &client, stale.as_ref(), false, since);
        let is_wanted =
            || leader.as_ref().is_some_and(|leader| !leader.is_closed()) || flight.followers() > 0;
        let fetched = match while_wanted(fetched, is_wanted, shared.options.abandon_after).await {
            Some(fetched) => fetched,
            None => return guard.release(shared.state.now().steady, Duration::ZERO),
        };
        let pass_for = shared.options.pass_for;
        let tell = |answer| {
            if let Some(leader) = leader {
                // A leader that has left does not want it.
                let _ = leader.send(answer);
            }
        };
        match fetched {
            Err(error) => {
                guard.release(shared.state.now().steady, pass_for);
                tell(Err(error));
            }
            Ok(Fetched::Pass(response)) => {
                guard.release(shared.state.now().steady, pass_for);
                tell(Ok(response));
            }
            Ok(Fetched::Stored(stored, used, status)) => {
                let answer = landed_on(&shared, &client, &stored, used, status, false);
                if used == Use::StaleOnFailure || stored.head.terms.is_shareable() {
                    guard.land(Landing::Stored(stored, used));
                    drop(guard);
                } else {
                    guard.release(shared.state.now().steady, pass_for);
                }
                tell(Ok(answer));
            }
            Ok(Fetched::Recording(recording, response)) => {
                if recording.live.head.terms.is_shareable() {
                    guard.land(Landing::Recording(recording.live.clone()));
                    tell(Ok(response));
                    recording.run(shared, Some(guard)).await;
                } else {
                    guard.release(shared.state.now().steady, pass_for);
                    tell(Ok(response));
                    recording.run(shared, None).await;
                }
            }
        }
    }
}

/// What a fill came to, however it ends.
async fn landed(mut landing: watch::Receiver<Landing>) -> Landing {
    match landing.wait_for(|landing| !matches!(landing, Landing::Waiting)).await {
        Ok(landing) => landing.clone(),
        Err(_) => Landing::Released,
    }
}

/// The output, or `None` once nobody has wanted it for `allowance`.
async fn while_wanted<F: Future>(
    future: F,
    is_wanted: impl Fn() -> bool,
    allowance: Duration,
) -> Option<F::Output> {
    let mut future = pin!(future);
    loop {
        match tokio::time::timeout(allowance, future.as_mut()).await {
            Ok(output) => return Some(output),
            Err(_) if is_wanted() => {}
            Err(_) => return None,
        }
    }
}

fn landed_on<B>(
    shared: &Shared,
    client: &Client,
    stored: &Stored,
    used: Use,
    forward_status: Option<StatusCode>,
    collapsed: bool,
) -> Response<ResponseBody<B>> {
    let state = &shared.state;
    let outcome = match used {
        Use::Validated => {
            count(&state.counters.validated);
            CacheOutcome::Validated
        }
        Use::StaleOnFailure => {
            count(&state.counters.stale);
            CacheOutcome::Stale
        }
    };
    let forward = match client.forward {
        Forward::Request => Forward::Request,
        _ => Forward::Stale,
    };
    let status = Status { collapsed, ..answer::forwarded_status(forward, forward_status) };
    answer::from_stored(&shared.options, client.asked(), stored, &state.now(), status, outcome)
}

/// Asks the handler, with the validators of what is stored, and judges what it answers.
async fn fetch<S, Q, B>(
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
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
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
    let requested = shared.state.now().wall;
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
        let new = freshened(shared, client, stored, parts, requested, &since);
        return Ok(Fetched::Stored(new, Use::Validated, Some(status)));
    }
    if let Some(stored) = usable_after(Failure::Status(status)) {
        return Ok(Fetched::Stored(stored, Use::StaleOnFailure, Some(status)));
    }
    Ok(settle(shared, client, response, requested, since, !keep_conditions))
}

/// The stored response, brought up to date by a 304 (RFC 9111, section 4.3.4).
fn freshened(
    shared: &Shared,
    client: &Client,
    stored: &Arc<Stored>,
    mut update: http::response::Parts,
    requested: Duration,
    since: &Since,
) -> Arc<Stored> {
    let options = &shared.options;
    let now = shared.state.now();
    let mut tags = record::take_tags(options, &mut update.headers);
    if tags.is_empty() {
        tags = stored.head.tags.clone();
    }
    let merged = freshen::merge(&options.rules, &stored.head.fields.to_map(0), &update.headers);
    // The age of the stored response is that of the 304 now, not its own.
    let mut dated = merged.clone();
    if let Some(age) = update.headers.get(http::header::AGE) {
        dated.insert(http::header::AGE, age.clone());
    }
    if !update.headers.contains_key(http::header::DATE) {
        dated.remove(http::header::DATE);
    }
    let exchange = Exchange {
        method: &Method::GET,
        request: &client.headers,
        status: stored.head.status,
        response: &dated,
        requested,
        received: now.wall,
    };
    let terms = Terms::new(&options.rules, &exchange);
    let mut merged = merged;
    if !update.headers.contains_key(http::header::DATE) {
        let date = super::policy::date::format(now.seconds());
        if let Ok(date) = date.try_into() {
            merged.insert(http::header::DATE, date);
        }
    }
    let head = Head {
        status: stored.head.status,
        fields: super::fields::Fields::new(&merged),
        terms,
        selection: stored.head.selection.clone(),
        at: now,
        tags,
        own_etag: stored.head.own_etag,
        by_language: stored.head.by_language,
    };
    let trailers = stored.trailers.as_deref().cloned();
    let new = Arc::new(Stored::new(Arc::new(head), stored.body.clone(), trailers));
    let keeps = storing::storable(&options.rules, &exchange).is_ok();
    if !since.is_wrong(shared) {
        if keeps {
            shared.state.freshen(&client.key, options, stored, new.clone());
        } else {
            // The 304 says that it may not be kept any more.
            shared.state.invalidate(&client.key);
        }
    }
    new
}

/// Decides at the head whether a response is recorded; what is not goes through untouched.
fn settle<B>(
    shared: &Arc<Shared>,
    client: &Client,
    response: Response<B>,
    requested: Duration,
    since: Since,
    conditions_removed: bool,
) -> Fetched<B>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let options = &shared.options;
    let now = shared.state.now();
    let (mut parts, body) = response.into_parts();
    let tags = record::take_tags(options, &mut parts.headers);
    let exchange = Exchange {
        method: &client.method,
        request: &client.headers,
        status: parts.status,
        response: &parts.headers,
        requested,
        received: now.wall,
    };
    let mut refusal = None;
    let mut judged = None;
    let length = record::declared_length(&parts, &body);
    if options.skip_response.as_ref().is_some_and(|skip| skip(&parts)) {
        refusal = Some("skipped");
    } else if record::too_large(options, length) {
        refusal = Some("too-large");
    } else {
        match storing::storable(&options.rules, &exchange) {
            Ok(terms) if client.method == Method::POST && !names_itself(client, &parts.headers) => {
                drop(terms);
                refusal = Some("method");
            }
            Ok(terms) => judged = Some(terms),
            Err(storing::Refusal::Partial) if options.rules.partial => {
                return part(shared, client, parts, body, tags, requested, since);
            }
            Err(reason) => refusal = Some(record::detail(reason)),
        }
    }
    let mut status = answer::forwarded_status(client.forward, Some(parts.status));
    status.stored = judged.is_some();
    status.detail = refusal;
    let recorded = judged.map(|terms| {
        let (head, vary) = record::head(shared, &client.headers, &mut parts, terms, tags, now);
        let tape = Arc::new(Tape::default());
        let live = Arc::new(Live { head: Arc::new(head), vary, tape, length });
        (live, parts.headers.clone())
    });
    record::remove_targeted(options, &mut parts.headers);
    let not_modified = conditions_removed
        && client.method == Method::GET
        && answer::is_not_modified(client.asked(), &parts, now.wall);
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

/// A part that is kept as such: passed on while it is collected.
fn part<B>(
    shared: &Arc<Shared>,
    client: &Client,
    mut parts: http::response::Parts,
    body: B,
    tags: Box<[Box<str>]>,
    requested: Duration,
    since: Since,
) -> Fetched<B>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let options = &shared.options;
    let now = shared.state.now();
    let exchange = Exchange {
        method: &client.method,
        request: &client.headers,
        status: parts.status,
        response: &parts.headers,
        requested,
        received: now.wall,
    };
    let place = single(&parts.headers, CONTENT_RANGE).and_then(range::content_range);
    let strong =
        single(&parts.headers, ETAG).and_then(EntityTag::parse).is_some_and(|tag| !tag.weak);
    let terms = storing::storable_in_any_status(&options.rules, &exchange).ok();
    // Without variants: which parts belong together is hard enough for one representation.
    let plain = Vary::parse(&parts.headers, &options.rules.key_headers) == Vary::Nothing;
    let status = answer::forwarded_status(client.forward, Some(parts.status));
    let epoch = match &since {
        Since::Epoch(epoch) => Some(*epoch),
        Since::Flight(_) => None,
    };
    let (Some((span, whole)), true, true, Some(terms), Some(epoch)) =
        (place, strong, plain, terms, epoch)
    else {
        let mut response = Response::from_parts(parts, ResponseBody::inner(body));
        answer::mark(options, &mut response, client.key.as_str(), &status, CacheOutcome::Miss);
        return Fetched::Pass(response);
    };
    if whole > options.max_body_size as u64 {
        let mut response = Response::from_parts(parts, ResponseBody::inner(body));
        answer::mark(options, &mut response, client.key.as_str(), &status, CacheOutcome::Miss);
        return Fetched::Pass(response);
    }
    let (mut head, _) = record::head(shared, &client.headers, &mut parts, terms, tags, now);
    let mut fields = head.fields.to_map(0);
    fields.remove(CONTENT_RANGE);
    fields.remove(CONTENT_LENGTH);
    head.fields = super::fields::Fields::new(&fields);
    let collected = PartBody {
        shared: shared.clone(),
        key: client.key.clone(),
        epoch,
        head: Arc::new(head),
        span,
        whole,
    };
    let tape = Arc::new(Tape::default());
    let reader = tape.read();
    let length = record::declared_length(&parts, &body);
    let own =
        reader.map_or_else(ResponseBody::empty, |reader| ResponseBody::recorded(reader, length));
    let mut response = Response::from_parts(parts, own);
    let status = Status { stored: true, ..status };
    answer::mark(options, &mut response, client.key.as_str(), &status, CacheOutcome::Miss);
    tokio::spawn(collected.run(Box::pin(body), tape));
    Fetched::Pass(response)
}

struct PartBody {
    shared: Arc<Shared>,
    key: CacheKey,
    epoch: Epoch,
    head: Arc<Head>,
    span: range::Span,
    whole: u64,
}

impl PartBody {
    async fn run<B>(self, mut body: std::pin::Pin<Box<B>>, tape: Arc<Tape>)
    where
        B: Body<Data = Bytes>,
        B::Error: Into<BoxError>,
    {
        let expected = self.span.1 - self.span.0 + 1;
        let mut received = 0;
        let trailers = loop {
            if tape.readers() == 0 {
                return;
            }
            // Made ours before anything is awaited again: the body's own error need not be Send.
            let frame = poll_fn(|cx| {
                body.as_mut()
                    .poll_frame(cx)
                    .map(|frame| frame.map(|frame| frame.map_err(Into::into)))
            });
            let frame: Option<Result<_, BoxError>> = frame.await;
            match frame {
                None => break None,
                Some(Err(error)) => return tape.fail(error),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => {
                        received += data.len() as u64;
                        if received > expected {
                            tape.stop_keeping();
                        }
                        tape.push(data);
                        poll_fn(|cx| tape.poll_room(cx)).await;
                    }
                    Err(frame) => break frame.into_trailers().ok(),
                },
            }
        };
        if received == expected && trailers.is_none() {
            self.keep(tape.copy());
        }
        tape.finish(trailers);
    }

    fn keep(self, body: Bytes) {
        let Self { shared, key, epoch, head, span, whole } = self;
        let tag = |head: &Head| head.fields.get(&ETAG).cloned();
        let new = tag(&head);
        let parts = Parts::new(head, whole, span, body);
        let options = &shared.options;
        let is_same = |known: &Parts| known.length == whole && tag(&known.head) == new;
        let Some(joined) = shared.state.put_parts(&key, options, parts, epoch, is_same) else {
            return;
        };
        let Some(body) = joined.whole() else {
            return;
        };
        // RFC 9111, section 3.4: the parts make a complete response, whose status is 200.
        let head = Head {
            status: StatusCode::OK,
            fields: super::fields::Fields::new(&joined.head.fields.to_map(0)),
            terms: joined.head.terms.clone(),
            selection: joined.head.selection.clone(),
            at: joined.head.at,
            tags: joined.head.tags.clone(),
            own_etag: false,
            by_language: joined.head.by_language,
        };
        let body = Bytes::copy_from_slice(&body);
        let stored = Arc::new(Stored::new(Arc::new(head), body, None));
        shared.state.put(&key, options, stored, || shared.state.epoch() != epoch);
    }
}

/// A request that may change something: forwarded, and what it makes wrong is removed.
pub(crate) async fn write<S, Q, B>(
    shared: Arc<Shared>,
    inner: S,
    request: Request<Q>,
    client: Client,
) -> Answer<B, S::Error>
where
    S: Service<Request<Q>, Response = Response<B>>,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let requested = shared.state.now().wall;
    let guard = in_flight(request.extensions());
    let response = call(inner, request).await?;
    if invalidation::invalidates(&client.method, response.status()) {
        shared.state.invalidate(&client.key);
        let target = client.key.path_and_query();
        let authority = client.key.authority();
        for other in invalidation::targets(authority, target, response.headers()) {
            shared.state.invalidate(&client.key.sibling(&other));
        }
    }
    let since = Since::Epoch(shared.state.epoch());
    match settle(&shared, &client, response, requested, since, false) {
        Fetched::Recording(recording, response) => {
            let run = recording.run(shared, None);
            tokio::spawn(async move {
                let _guard = guard;
                run.await;
            });
            Ok(response)
        }
        Fetched::Pass(response) => Ok(response),
        Fetched::Stored(stored, used, status) => {
            Ok(landed_on(&shared, &client, &stored, used, status, false))
        }
    }
}

/// HEAD that the store could not answer: what it says freshens the stored response to GET, or shows that it
/// is out of date (RFC 9111, section 4.3.5).
pub(crate) async fn head<S, Q, B>(
    shared: Arc<Shared>,
    inner: S,
    request: Request<Q>,
    client: Client,
    stale: Option<Arc<Stored>>,
) -> Answer<B, S::Error>
where
    S: Service<Request<Q>, Response = Response<B>>,
{
    let options = &shared.options;
    let requested = shared.state.now().wall;
    let since = Since::Epoch(shared.state.epoch());
    let response = call(inner, request).await?;
    let (mut parts, body) = response.into_parts();
    let status = answer::forwarded_status(client.forward, Some(parts.status));
    if let Some(stored) = stale {
        let same = freshen::is_same(
            &stored.head.fields.to_map(0),
            stored.body.len() as u64,
            &parts.headers,
        );
        if parts.status == stored.head.status && same {
            let mut update = http::Response::new(()).into_parts().0;
            update.headers = parts.headers.clone();
            freshened(&shared, &client, &stored, update, requested, &since);
        } else if !parts.status.is_server_error() && parts.status != StatusCode::NOT_MODIFIED {
            stored.expire(shared.state.now());
        }
    }
    let _ = record::take_tags(options, &mut parts.headers);
    let mut response = Response::from_parts(parts, ResponseBody::inner(body));
    answer::mark(options, &mut response, client.key.as_str(), &status, CacheOutcome::Miss);
    Ok(response)
}
