//! Answers that are parts of a response: passed on while they are collected.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_RANGE, ETAG};
use http::{Response, StatusCode, response};
use http_body::Body;

use super::BoxError;
use super::answer;
use super::body::{Content, ResponseBody};
use super::epoch::Epoch;
use super::fetch::{Client, Fetched, spawn};
use super::fields::Fields;
use super::key::CacheKey;
use super::outcome::{CacheOutcome, Status};
use super::parts::Parts;
use super::policy::etag::EntityTag;
use super::policy::vary::Vary;
use super::policy::{range, single, storing};
use super::record::{self, Since};
use super::service::Shared;
use super::stored::{Head, Stored, Tags};
use super::tape::Tape;

/// A part that is kept as such: passed on while it is collected.
pub(crate) fn part<B>(
    shared: &Arc<Shared>,
    client: &Client,
    mut parts: response::Parts,
    body: B,
    tags: Tags,
    requested: Duration,
    since: Since,
) -> Fetched<B>
where
    B: Content,
{
    let options = &shared.options;
    let now = shared.state.now();
    let exchange = client.exchange(&parts, requested, &now);
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
    head.fields = Fields::new(&shared.state.shapes, &fields);
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
    spawn(collected.run(Box::pin(body), tape));
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
    async fn run<B>(self, mut body: Pin<Box<B>>, tape: Arc<Tape>)
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
            fields: Fields::new(&shared.state.shapes, &joined.head.fields.to_map(0)),
            terms: joined.head.terms.clone(),
            selection: joined.head.selection.clone(),
            at: joined.head.at,
            tags: joined.head.tags.clone(),
            own_etag: false,
            by_language: joined.head.by_language,
        };
        let body = Bytes::copy_from_slice(&body);
        let stored = Arc::new(Stored::new(Arc::new(head), body, None));
        shared.state.put(&key, options, stored, || shared.state.is_past(epoch));
    }
}
