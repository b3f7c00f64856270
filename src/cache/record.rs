//! Recording: a body goes to its readers while it is kept for the store.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, DATE, ETAG};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, response};
use http_body::{Body, Frame};

use super::BoxError;
use super::body::Content;
use super::clock::Moment;
use super::coalesce::{Flight, Guard, Live};
use super::epoch::Epoch;
use super::event::count;
use super::fields::Fields;
use super::key::CacheKey;
use super::made;
use super::options::Options;
use super::policy::vary::{self, Vary};
use super::policy::{Refusal, Terms, single, stored_fields};
use super::service::Shared;
use super::stored::{Head, Stored, Tags};
use super::tape::Tape;

/// When a fill began, to know at its end whether something has changed since.
#[derive(Clone, Debug)]
pub(crate) enum Since {
    /// It is in the table of fills, where it can be doomed.
    Flight(Arc<Flight>),
    /// It is in no table: any change to its path dooms it.
    Epoch(Epoch),
    /// It may not be stored at all: it is for its client only.
    Never,
}

impl Since {
    pub(crate) fn is_wrong(&self, shared: &Shared) -> bool {
        match self {
            Self::Flight(flight) => flight.is_doomed(),
            Self::Epoch(epoch) => shared.state.is_past(*epoch),
            Self::Never => true,
        }
    }
}

/// A response on its way into the store.
pub(crate) struct Recording<B> {
    pub(crate) live: Arc<Live>,
    pump: Pump<B>,
}

struct Pump<B> {
    body: Pin<Box<B>>,
    key: CacheKey,
    since: Since,
    around: Around,
}

/// What is stored of a body already: before and after what is received.
#[derive(Clone, Debug, Default)]
pub(crate) struct Around {
    pub(crate) before: Bytes,
    pub(crate) after: Bytes,
}

impl Around {
    pub(crate) fn len(&self) -> u64 {
        (self.before.len() + self.after.len()) as u64
    }
}

/// Takes the tags out of a head; they are not for clients.
pub(crate) fn take_tags(options: &Options, headers: &mut HeaderMap) -> Tags {
    let Some(name) = &options.tag_header else {
        return None;
    };
    if !headers.contains_key(name) {
        return None;
    }
    let mut tags: Vec<Box<str>> = headers
        .get_all(name)
        .iter()
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split([',', ' ', '\t']))
        .filter(|tag| !tag.is_empty())
        .map(Box::from)
        .collect();
    tags.sort_unstable();
    tags.dedup();
    headers.remove(name);
    (!tags.is_empty()).then(|| Box::new(tags.into()))
}

/// The length that the head declares, which the body has to have.
pub(crate) fn declared_length(response: &response::Parts, body: &impl Body) -> Option<u64> {
    single(&response.headers, CONTENT_LENGTH)
        .and_then(|value| std::str::from_utf8(value).ok()?.parse().ok())
        .or_else(|| body.size_hint().exact())
}

/// What is kept of a response's head.
pub(crate) fn head(
    shared: &Shared,
    request: &HeaderMap,
    response: &mut response::Parts,
    terms: Terms,
    tags: Tags,
    now: Moment,
) -> (Head, Vary) {
    let rules = &shared.options.rules;
    if !response.headers.contains_key(DATE) {
        // Without one hyper would add the date of each hit, beside the age of the first.
        response.headers.insert(DATE, made::date(now.seconds()));
    }
    let vary = Vary::parse(&response.headers, &rules.key_headers);
    let head = Head {
        status: response.status,
        fields: Fields::new(&shared.state.shapes, &stored_fields(rules, &response.headers)),
        terms,
        selection: vary::selection(&vary, request),
        at: now,
        tags,
        own_etag: false,
        by_language: rules.by_language,
    };
    (head, vary)
}

impl<B> Recording<B>
where
    B: Content,
{
    pub(crate) fn new(live: Arc<Live>, body: B, key: CacheKey, since: Since) -> Self {
        let around = Around::default();
        Self { live, pump: Pump { body: Box::pin(body), key, since, around } }
    }

    /// The body is received without what is stored of it.
    pub(crate) fn around(mut self, around: Around) -> Self {
        self.pump.around = around;
        self
    }

    /// Records to the end. With a guard, others join until then.
    pub(crate) async fn run(self, shared: Arc<Shared>, guard: Option<Guard>) {
        let Self { live, pump } = self;
        // Ends the tape if this is dropped before: a panic in the body, or the end of the runtime. After
        // any other end it changes nothing.
        let _unfinished = Unfinished { tape: live.tape.clone() };
        let end = pump.record(&shared, &live, guard.as_ref()).await;
        match end {
            Ok(Some(mut recorded)) => {
                let stored = recorded.stored(&shared, &live);
                shared.state.put(&recorded.key, &shared.options, Arc::new(stored), || {
                    recorded.since.is_wrong(&shared)
                });
                // Stored before it leaves the table of fills: whoever looks finds it here or there.
                drop(guard);
                live.tape.finish(recorded.trailers);
            }
            Ok(None) => {
                count(&shared.state.counters.failed_fills);
                drop(guard);
            }
            Err(error) => {
                count(&shared.state.counters.failed_fills);
                if let Some(guard) = &guard {
                    guard.close();
                }
                live.tape.fail(error);
            }
        }
    }
}

/// A body that was recorded to its clean end.
struct Recorded {
    key: CacheKey,
    since: Since,
    body: Bytes,
    trailers: Option<HeaderMap>,
}

impl Recorded {
    fn stored(&mut self, shared: &Shared, live: &Live) -> Stored {
        let head = if shared.options.make_etag
            && live.head.status == StatusCode::OK
            && !live.head.fields.contains(&ETAG)
        {
            Arc::new(with_etag(shared, &live.head, &self.body))
        } else {
            live.head.clone()
        };
        // Taken, not cloned: a clone would make it shared, which costs an allocation.
        Stored::new(head, std::mem::take(&mut self.body), self.trailers.clone())
    }
}

impl<B> Pump<B>
where
    B: Content,
{
    /// `None` where nothing is to be stored although nothing failed.
    async fn record(
        mut self,
        shared: &Shared,
        live: &Live,
        guard: Option<&Guard>,
    ) -> Result<Option<Recorded>, BoxError> {
        let mut received = self.around.len();
        live.tape.push(self.around.before.clone());
        let mut trailers = None;
        let mut kept = true;
        loop {
            let Some(frame) = self.next_frame(&live.tape, shared.options.abandon_after).await?
            else {
                return Ok(None);
            };
            let Some(frame) = frame else {
                break;
            };
            match frame.into_data() {
                Ok(data) => {
                    received += data.len() as u64;
                    if kept && received > shared.options.max_body_size as u64 {
                        kept = false;
                        // Nobody joins any more before the beginning is dropped.
                        if let Some(guard) = guard {
                            guard.close();
                            let until = shared.state.pass_until(shared.options.pass_for);
                            let now = shared.state.now().steady();
                            shared.state.flights.remember_pass(guard.key(), until, now);
                        }
                        live.tape.stop_keeping();
                    }
                    live.tape.push(data);
                    if !kept {
                        poll_fn(|cx| live.tape.poll_room(cx)).await;
                        if live.tape.readers() == 0 {
                            return Ok(None);
                        }
                    }
                }
                Err(frame) => {
                    // Those of a part are not those of the whole.
                    if self.around.len() == 0 {
                        trailers = frame.into_trailers().ok();
                    }
                }
            }
        }
        if !kept {
            count(&shared.state.counters.failed_fills);
            live.tape.finish(trailers);
            return Ok(None);
        }
        if live.length.is_some_and(|declared| declared != received) {
            return Err("the body has not the length that its head declares".into());
        }
        live.tape.push(self.around.after);
        let body = live.tape.copy();
        Ok(Some(Recorded { key: self.key, since: self.since, body, trailers }))
    }

    /// The next frame; `Some(None)` at the end, and `None` once nobody has been reading for `allowance`.
    async fn next_frame(
        &mut self,
        tape: &Tape,
        allowance: Duration,
    ) -> Result<Option<Option<Frame<Bytes>>>, BoxError> {
        let mut wanted = true;
        loop {
            let frame = poll_fn(|cx| self.body.as_mut().poll_frame(cx));
            match tokio::time::timeout(allowance, frame).await {
                Ok(frame) => return Ok(Some(frame.transpose().map_err(Into::into)?)),
                Err(_) if tape.readers() > 0 => wanted = true,
                Err(_) if wanted => wanted = false,
                Err(_) => return Ok(None),
            }
        }
    }
}

/// Ends a tape that nobody else does: its readers would wait for ever.
struct Unfinished {
    tape: Arc<Tape>,
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        self.tape.fail("the recording was given up".into());
    }
}

/// A strong entity tag of the bytes themselves.
fn with_etag(shared: &Shared, head: &Head, body: &[u8]) -> Head {
    use std::hash::{DefaultHasher, Hasher};
    // Two fixed keys, 128 bits: the same bytes have the same tag after a restart and on every machine that
    // runs the same build.
    let half = |key: u8| {
        let mut hasher = DefaultHasher::new();
        hasher.write_u8(key);
        hasher.write(body);
        hasher.finish()
    };
    let tag = format!("\"{:016x}{:016x}\"", half(0), half(1));
    let tag = HeaderValue::try_from(tag).expect("hexadecimal digits are valid");
    Head {
        status: head.status,
        fields: head.fields.with(&shared.state.shapes, &ETAG, &tag),
        terms: head.terms.clone(),
        selection: head.selection.clone(),
        at: head.at,
        tags: head.tags.clone(),
        own_etag: true,
        by_language: head.by_language,
    }
}

/// Whether a body of this length would be too large to be stored.
pub(crate) fn too_large(options: &Options, length: Option<u64>) -> bool {
    length.is_some_and(|length| length > options.max_body_size as u64)
}

/// The detail of `Cache-Status` for what is not stored.
pub(crate) fn detail(refusal: Refusal) -> &'static str {
    match refusal {
        Refusal::Method => "method",
        Refusal::Status => "status",
        Refusal::Partial => "partial",
        Refusal::NotUnderstood => "must-understand",
        Refusal::NoStore => "no-store",
        Refusal::RequestNoStore => "request-no-store",
        Refusal::Private => "private",
        Refusal::Authorization => "authorization",
        Refusal::SetCookie => "set-cookie",
        Refusal::Vary => "vary",
        Refusal::NoFreshness => "no-freshness",
    }
}

/// Removes the targeted fields where they are for this cache alone.
pub(crate) fn remove_targeted(options: &Options, headers: &mut HeaderMap) {
    if options.remove_targeted {
        for name in &options.rules.targets {
            let name: &HeaderName = name;
            headers.remove(name);
        }
    }
}
