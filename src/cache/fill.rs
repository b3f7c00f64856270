//! Forwarding what the store could not answer: alone, or once for all who wait.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http::header::AUTHORIZATION;
use http::{Method, Request, Response, StatusCode};
use tokio::sync::{oneshot, watch};
use tower_service::Service;

use super::answer;
use super::body::{Content, ResponseBody};
use super::clock::Moment;
use super::coalesce::{FlightKey, Guard, Join, Landing, Live, Use};
use super::event::count;
use super::fetch::{Answer, Client, Fetched, Handler, fetch, in_flight, landed_on, spawn};
use super::outcome::{CacheOutcome, Forward, Status};
use super::policy::vary::{self, Vary};
use super::policy::{Reuse, reuse};
use super::record::Since;
use super::service::Shared;
use super::state::Found;
use super::stored::{Head, Stored};
use super::tape::TapeReader;

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

impl<S, Q, B> Fill<S, Q>
where
    S: Handler<Q, B> + Service<Request<Q>, Response = Response<B>>,
    Q: Send + 'static,
    B: Content,
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
        let follows_only = self.client.noted.range && self.stale.is_none();
        // Twice at most: under the selection that is known, and under the one that the answer names.
        for _ in 0..2 {
            let key = self.flight_key();
            let shared = self.shared.clone();
            let flights = &shared.state.flights;
            let now = shared.state.now();
            let may_join = |live: &Live| self.may_join(live, &now);
            let join = if follows_only {
                match flights.follow(&key, may_join) {
                    Some(join) => join,
                    None => return self.alone(false).await,
                }
            } else {
                flights.join(&key, now.steady(), may_join, || self.look_again(&now))
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

    /// Whether this client can have what is being recorded: as if it were stored (RFC 9111, section 4), and
    /// as long as more of it comes.
    fn may_join(&self, live: &Live, now: &Moment) -> bool {
        let Head { terms, .. } = &*live.head;
        let reuse = reuse::reuse(terms, &self.client.control, live.head.age(now), None);
        matches!(reuse, Reuse::Fresh | Reuse::Stale)
            && live.tape.stands_still_for() < self.shared.options.collapse_timeout
    }

    /// A fill may have ended since the store was asked.
    fn look_again(&self, now: &Moment) -> Option<Arc<Stored>> {
        let state = &self.shared.state;
        let found = state.find(self.client.key.as_str(), &self.client.headers, now);
        let Found::Selected(stored) = found else {
            return None;
        };
        let expired = stored.expired_for(now);
        let reuse =
            reuse::reuse(&stored.head.terms, &self.client.control, stored.head.age(now), expired);
        (reuse == Reuse::Fresh).then_some(stored)
    }

    fn hit(&self, stored: &Stored) -> Response<ResponseBody<B>> {
        let now = self.shared.state.now();
        let outcome = CacheOutcome::Hit;
        let mut response = self.shared.stored(self.client.asked(), stored, &now, outcome);
        response.extensions_mut().insert(outcome);
        response
    }

    fn follow(&self, live: &Live, reader: TapeReader) -> Response<ResponseBody<B>> {
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
        let since = Since::Epoch(shared.state.epoch(&client.key));
        // A key known not to be cacheable gets its requests as they are: the handler may judge conditions
        // and ranges better than by sending everything.
        let keep_conditions = known || client.noted.range;
        let fetched = fetch(
            &shared,
            inner,
            request,
            &client,
            stale.as_ref().filter(|_| !client.noted.range || !known),
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
                spawn(async move {
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
        let task = spawn(self.fly(guard, Some(send)));
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
        let now = state.now();
        let may_join = |live: &Live| self.may_join(live, &now);
        let joined = state.flights.join(&key, now.steady(), may_join, || self.look_again(&now));
        if let Join::Lead(guard) = joined {
            count(&state.counters.refreshes);
            spawn(self.fly(guard, None));
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
            None => return guard.release(shared.state.now().steady(), Duration::ZERO),
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
                guard.release(shared.state.now().steady(), pass_for);
                tell(Err(error));
            }
            Ok(Fetched::Pass(response)) => {
                guard.release(shared.state.now().steady(), pass_for);
                tell(Ok(response));
            }
            Ok(Fetched::Stored(stored, used, status)) => {
                let answer = landed_on(&shared, &client, &stored, used, status, false);
                let shared_by_all = match used {
                    Use::StaleOnFailure => true,
                    Use::Validated => stored.head.terms.is_shareable(),
                    Use::ValidatedForOne => false,
                };
                if shared_by_all {
                    guard.land(Landing::Stored(stored, used));
                    drop(guard);
                } else {
                    guard.release(shared.state.now().steady(), pass_for);
                }
                tell(Ok(answer));
            }
            Ok(Fetched::Recording(recording, response)) => {
                if recording.live.head.terms.is_shareable() {
                    guard.land(Landing::Recording(recording.live.clone()));
                } else {
                    guard.release(shared.state.now().steady(), pass_for);
                }
                tell(Ok(response));
                recording.run(shared, Some(guard)).await;
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
