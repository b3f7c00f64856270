//! Requests that go to the handler for more than an answer: those that change something, and HEAD.

use std::sync::Arc;

use http::{Request, Response, StatusCode};
use tower_service::Service;

use super::answer;
use super::body::{Content, ResponseBody};
use super::fetch::{Answer, Client, Fetched, call, freshened, in_flight, landed_on, settle, spawn};
use super::outcome::CacheOutcome;
use super::policy::{freshen, invalidation};
use super::record::{self, Since};
use super::service::Shared;
use super::stored::Stored;

/// A request that may change something: forwarded, and what it makes wrong is removed.
pub(crate) async fn write<S, Q, B>(
    shared: Arc<Shared>,
    inner: S,
    request: Request<Q>,
    client: Client,
) -> Answer<B, S::Error>
where
    S: Service<Request<Q>, Response = Response<B>>,
    B: Content,
{
    let requested = shared.state.now().wall();
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
    let since = Since::Epoch(shared.state.epoch(&client.key));
    match settle(&shared, &client, response, requested, since, false) {
        Fetched::Recording(recording, response) => {
            let run = recording.run(shared, None);
            spawn(async move {
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
    let requested = shared.state.now().wall();
    let since = Since::Epoch(shared.state.epoch(&client.key));
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
