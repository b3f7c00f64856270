//! A request for something of which parts are stored: the origin is asked for the rest only, and both make
//! the answer (RFC 9111, section 3.4).

use std::sync::Arc;
use std::time::Duration;

use http::header::{CONTENT_LENGTH, CONTENT_RANGE, ETAG};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, response};

use super::answer;
use super::body::{Content, ResponseBody};
use super::coalesce::Live;
use super::fetch::{Client, Fetched, contradiction, spawn};
use super::outcome::{CacheOutcome, Forward, Status};
use super::partial::{self, Collected};
use super::parts::Parts;
use super::policy::freshen::{self, Updated};
use super::policy::range::{self, Ranges, Span};
use super::policy::vary::Vary;
use super::policy::{Exchange, rest};
use super::record::{self, Around, Recording, Since};
use super::service::Shared;
use super::stored::Tags;
use super::tape::Tape;

/// What is missing, and what is stored beside it.
pub(crate) struct Rest {
    known: Arc<Parts>,
    /// What the client wants.
    wanted: Span,
    /// What was asked for.
    span: Span,
}

/// The answer of the origin, and what it makes of the stored head.
struct Answered<B> {
    parts: response::Parts,
    body: B,
    tags: Tags,
    updated: Updated,
    /// The stored bytes beside those that it brings.
    around: Around,
}

impl Rest {
    /// Makes a request ask for what is missing, where something of what it wants is stored.
    pub(crate) fn ask(
        shared: &Shared,
        client: &Client,
        request: &mut HeaderMap,
        keep_conditions: bool,
    ) -> Option<Self> {
        let Shared { state, options } = shared;
        let ranged = client.noted.range;
        // A range goes on as it came, everything is asked for without conditions.
        let is_plain = ranged == keep_conditions && !(ranged && client.noted.conditional);
        if !options.rules.complete_parts || client.method != Method::GET || !is_plain {
            return None;
        }
        let now = state.now();
        let known = state.parts(client.key.as_str(), &now)?;
        let fields = known.head.fields.to_map(0);
        let wanted = if ranged {
            let (length, limit) = (known.length, options.max_ranges);
            match range::resolve(&client.headers, &fields, length, limit, now.seconds()) {
                Ranges::Parts(spans) if spans.len() == 1 => spans[0],
                _ => return None,
            }
        } else {
            (0, known.length.checked_sub(1)?)
        };
        let span = rest::missing(wanted, &known.held())?;
        rest::ask(request, span, fields.get(ETAG)?);
        Some(Self { known, wanted, span })
    }

    /// What a 206 means.
    pub(crate) fn settle<B>(
        self,
        shared: &Arc<Shared>,
        client: &Client,
        response: Response<B>,
        requested: Duration,
        since: Since,
    ) -> Fetched<B>
    where
        B: Content,
    {
        let options = &shared.options;
        let now = shared.state.now();
        let (mut parts, body) = response.into_parts();
        let tags = record::take_tags(options, &mut parts.headers);
        let stored = self.known.head.fields.to_map(1);
        if !rest::is_missing(&stored, self.known.length, self.span, &parts.headers) {
            if client.noted.range {
                // It says which bytes it has, so the client can tell.
                return partial::part(shared, client, parts, body, tags, requested, since);
            }
            return contradiction(shared, client, parts.status);
        }
        // As if everything had been answered by this one.
        let exchange =
            Exchange { status: StatusCode::OK, ..client.exchange(&parts, requested, &now) };
        let mut updated = freshen::update(&options.rules, &stored, &exchange);
        updated.keeps &= options.skip_response.as_ref().is_none_or(|skip| !skip(&parts));
        parts.headers = joined(&updated.fields, &parts.headers);
        let tags = tags.or_else(|| self.known.head.tags.clone());
        let Some(around) = self.around() else {
            return contradiction(shared, client, parts.status);
        };
        let answered = Answered { parts, body, tags, updated, around };
        if client.noted.range {
            self.part(shared, client, answered, since)
        } else {
            self.whole(shared, client, answered, since)
        }
    }

    /// The stored bytes beside those that are missing.
    fn around(&self) -> Option<Around> {
        let (wanted, span) = (self.wanted, self.span);
        let slice = |first, last| self.known.slice((first, last));
        let before =
            if wanted.0 < span.0 { slice(wanted.0, span.0 - 1)? } else { Default::default() };
        let after =
            if span.1 < wanted.1 { slice(span.1 + 1, wanted.1)? } else { Default::default() };
        Some(Around { before, after })
    }

    /// The range that the client asked for.
    fn part<B>(
        self,
        shared: &Arc<Shared>,
        client: &Client,
        answered: Answered<B>,
        since: Since,
    ) -> Fetched<B>
    where
        B: Content,
    {
        let Answered { mut parts, body, tags, updated, around } = answered;
        let (first, last) = self.wanted;
        let place = format!("bytes {first}-{last}/{}", self.known.length);
        let place = HeaderValue::try_from(place).expect("digits are valid");
        parts.headers.insert(CONTENT_RANGE, place);
        parts.headers.insert(CONTENT_LENGTH, HeaderValue::from(last - first + 1));
        let plain = Vary::parse(&parts.headers, &shared.options.rules.key_headers) == Vary::Nothing;
        let collected = Collected {
            whole: self.known.length,
            span: self.wanted,
            around,
            terms: updated.terms,
            since: if updated.keeps && plain { since } else { Since::Never },
        };
        partial::collect(shared, client, parts, body, tags, collected)
    }

    /// Everything, for all who want it: it is recorded as if the origin had sent it.
    fn whole<B>(
        self,
        shared: &Arc<Shared>,
        client: &Client,
        answered: Answered<B>,
        since: Since,
    ) -> Fetched<B>
    where
        B: Content,
    {
        let options = &shared.options;
        let now = shared.state.now();
        let Answered { mut parts, body, tags, updated, around } = answered;
        let status = parts.status;
        parts.status = StatusCode::OK;
        let length = self.known.length;
        parts.headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
        let Updated { terms, keeps, .. } = updated;
        let (head, vary) = record::head(shared, &client.headers, &mut parts, terms, tags, now);
        let tape = Arc::new(Tape::new());
        let reader = tape.read();
        let live = Arc::new(Live { head: Arc::new(head), vary, tape, length: Some(length) });
        record::remove_targeted(options, &mut parts.headers);
        let own = if answer::is_not_modified(client.asked(), &parts, now.wall()) {
            answer::strip_for_not_modified(&mut parts);
            ResponseBody::empty()
        } else {
            reader.map_or_else(ResponseBody::empty, |reader| {
                ResponseBody::recorded(reader, Some(length))
            })
        };
        let mut response = Response::from_parts(parts, own);
        let said = answer::forwarded_status(Forward::Partial, Some(status));
        let said = Status { stored: keeps, ..said };
        answer::mark(options, &mut response, client.key.as_str(), &said, CacheOutcome::Miss);
        let since = if keeps { since } else { Since::Never };
        let recording = Recording::new(live, body, client.key.clone(), since).around(around);
        if keeps {
            return Fetched::Recording(recording, response);
        }
        // It may not be kept, nor be for anyone else.
        spawn(recording.run(shared.clone(), None));
        Fetched::Pass(response)
    }
}

/// The head for the client: what is stored, and what is new and for this client only.
fn joined(stored: &HeaderMap, new: &HeaderMap) -> HeaderMap {
    let mut headers = stored.clone();
    for (name, value) in new {
        if !stored.contains_key(name) && name != CONTENT_RANGE && name != CONTENT_LENGTH {
            headers.append(name, value.clone());
        }
    }
    headers
}
