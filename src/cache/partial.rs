//! Answers that are parts of a response: passed on while they are collected.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_RANGE, ETAG};
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
use super::policy::vary::Vary;
use super::policy::{Terms, freshen, range, rest, single, storing};
use super::record::{self, Around, Since};
use super::service::Shared;
use super::stored::{Head, Stored, Tags};
use super::tape::Tape;

/// A part that is kept as such, where it may be: passed on while it is collected.
pub(crate) fn part<B>(
    shared: &Arc<Shared>,
    client: &Client,
    parts: response::Parts,
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
    let strong = rest::strong_tag(&parts.headers).is_some();
    let terms = storing::storable_in_any_status(&options.rules, &exchange).ok();
    // Without variants: which parts belong together is hard enough for one representation.
    let plain = Vary::parse(&parts.headers, &options.rules.key_headers) == Vary::Nothing;
    let is_small = |(_, whole): &(_, u64)| *whole <= options.max_body_size as u64;
    let kept = place.filter(is_small).zip(terms).filter(|_| strong && plain);
    if let Some(((span, whole), terms)) = kept
        && let Since::Epoch(_) = since
    {
        let collected = Collected { whole, span, around: Around::default(), terms, since };
        return collect(shared, client, parts, body, tags, collected);
    }
    let status = answer::forwarded_status(client.forward, Some(parts.status));
    let mut response = Response::from_parts(parts, ResponseBody::inner(body));
    answer::mark(options, &mut response, client.key.as_str(), &status, CacheOutcome::Miss);
    Fetched::Pass(response)
}

/// What is collected.
pub(crate) struct Collected {
    /// The length of everything.
    pub(crate) whole: u64,
    /// Which part of it this is, with what is stored around what is received.
    pub(crate) span: range::Span,
    pub(crate) around: Around,
    pub(crate) terms: Terms,
    pub(crate) since: Since,
}

/// Passes a part on, and keeps it unless it changed meanwhile.
pub(crate) fn collect<B>(
    shared: &Arc<Shared>,
    client: &Client,
    mut parts: response::Parts,
    body: B,
    tags: Tags,
    collected: Collected,
) -> Fetched<B>
where
    B: Content,
{
    let options = &shared.options;
    let now = shared.state.now();
    let Collected { whole, span, around, terms, since } = collected;
    let (mut head, _) = record::head(shared, &client.headers, &mut parts, terms, tags, now);
    let mut fields = head.fields.to_map(0);
    fields.remove(CONTENT_RANGE);
    head.fields = Fields::new(&shared.state.shapes, &fields);
    let epoch = match since {
        Since::Epoch(epoch) => Some(epoch),
        Since::Flight(_) | Since::Never => None,
    };
    let status = answer::forwarded_status(client.forward, Some(parts.status));
    let status = Status { stored: epoch.is_some(), ..status };
    let length = if around.len() > 0 {
        Some(span.1 - span.0 + 1)
    } else {
        record::declared_length(&parts, &body)
    };
    let collected = PartBody {
        shared: shared.clone(),
        key: client.key.clone(),
        epoch,
        head: Arc::new(head),
        span,
        whole,
        around,
    };
    let tape = Arc::new(Tape::new());
    let reader = tape.read();
    let own =
        reader.map_or_else(ResponseBody::empty, |reader| ResponseBody::recorded(reader, length));
    record::remove_targeted(options, &mut parts.headers);
    let mut response = Response::from_parts(parts, own);
    answer::mark(options, &mut response, client.key.as_str(), &status, CacheOutcome::Miss);
    spawn(collected.run(Box::pin(body), tape));
    Fetched::Pass(response)
}

struct PartBody {
    shared: Arc<Shared>,
    key: CacheKey,
    /// `None` for what is not kept.
    epoch: Option<Epoch>,
    head: Arc<Head>,
    span: range::Span,
    whole: u64,
    around: Around,
}

impl PartBody {
    async fn run<B>(self, mut body: Pin<Box<B>>, tape: Arc<Tape>)
    where
        B: Body<Data = Bytes>,
        B::Error: Into<BoxError>,
    {
        let expected = self.span.1 - self.span.0 + 1;
        let mut received = self.around.len();
        tape.push(self.around.before.clone());
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
                    // Those of the rest are not those of what it is joined with.
                    Err(frame) => {
                        let trailers = frame.into_trailers().ok();
                        break trailers.filter(|_| self.around.len() == 0);
                    }
                },
            }
        };
        if received != expected && self.around.len() > 0 {
            // What is stored would be in the wrong place.
            return tape.fail("the part has not the length that its head declares".into());
        }
        tape.push(self.around.after.clone());
        if received == expected
            && trailers.is_none()
            && let Some(epoch) = self.epoch
        {
            self.keep(epoch, tape.copy());
        }
        tape.finish(trailers);
    }

    fn keep(self, epoch: Epoch, body: Bytes) {
        let Self { shared, key, head, span, whole, .. } = self;
        let options = &shared.options;
        let parts = Arc::new(Parts::new(head.clone(), whole, span, body));
        // RFC 9111, section 3.4: of the same representation, and with the fields of both, as a part that was
        // asked for with If-Range has not all of them (RFC 9110, section 15.3.7).
        let of_both = |known: &Parts| {
            let tag = |head: &Head| head.fields.get(&ETAG).cloned();
            if known.length != whole || tag(&known.head) != tag(&head) {
                return None;
            }
            let (old, new) = (known.head.fields.to_map(0), head.fields.to_map(0));
            let fields = freshen::merge(&options.rules, &old, &new);
            let fields = Fields::new(&shared.state.shapes, &fields);
            Some(Arc::new(Head { fields, ..Head::clone(&head) }))
        };
        let Some(joined) = shared.state.put_parts(&key, options, parts, epoch, of_both) else {
            return;
        };
        let Some(body) = joined.whole() else {
            return;
        };
        // RFC 9111, section 3.4: the parts make a complete response, whose status is 200.
        let head = Head { status: StatusCode::OK, ..Head::clone(&joined.head) };
        let body = Bytes::copy_from_slice(&body);
        let stored = Arc::new(Stored::new(Arc::new(head), body, None));
        shared.state.put(&key, options, stored, || shared.state.is_past(epoch));
    }
}
