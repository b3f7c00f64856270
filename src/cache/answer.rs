//! Answers made from what is stored or being recorded.

use std::sync::Arc;
use std::time::Duration;

use http::header::{ACCEPT_RANGES, AGE, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode};

use super::asked::Asked;
use super::body::ResponseBody;
use super::clock::Moment;
use super::coalesce::Live;
use super::made;
use super::multipart;
use super::options::Options;
use super::outcome::{CacheOutcome, HIT, Status};
use super::parts::Parts;
use super::policy::field::MAX_SECONDS;
use super::policy::range::{self, Ranges, Span};
use super::policy::{conditional, seconds};
use super::record;
use super::stamp::Stamp;
use super::stored::Stored;
use super::tape::TapeReader;

pub(crate) const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// Appends this cache's member to `Cache-Status`, and the outcome to the extensions.
pub(crate) fn mark<B>(
    options: &Options,
    response: &mut Response<B>,
    key: &str,
    status: &Status,
    outcome: CacheOutcome,
) {
    add_status(options, response, key, status);
    response.extensions_mut().insert(outcome);
}

fn add_status<B>(options: &Options, response: &mut Response<B>, key: &str, status: &Status) {
    if let Some(name) = &options.status_name {
        let key = options.status_key.then_some(key);
        response.headers_mut().append(CACHE_STATUS, status.to_value(name, key));
    }
}

/// An answer out of the store; its outcome is for the caller to add.
#[inline]
pub(crate) fn from_stored<B>(
    options: &Options,
    asked: Asked<'_>,
    stored: &Stored,
    now: &Moment,
    status: &Status,
) -> Response<ResponseBody<B>> {
    let head = &stored.head;
    let age = head.age(now);
    let length = stored.body.len() as u64;
    let make = || {
        let ttl = Some((head.terms.lifetime(), age));
        let stamp = Stamp::new(options, age, length, asked.key, &Status { ttl, ..status.clone() });
        let mut headers = head.fields.to_answer(stamp);
        if options.status_name.is_none() {
            remove_last(&mut headers, CACHE_STATUS);
        }
        whole(head.status, headers, ()).into_parts().0
    };
    let mut parts = if status.is_plain_hit() && !options.status_key {
        made::head(head, options.status_name.as_ref(), age.as_secs(), make)
    } else {
        make()
    };
    record::remove_targeted(options, &mut parts.headers);
    let form = form(options, asked, head.status, &parts.headers, Some(length), now);
    // Trailers need a body without a declared length (RFC 9112, section 7.1.2).
    let is_whole = matches!(form, Form::Whole);
    if is_bodiless(head.status) || (is_whole && stored.trailers.is_some()) {
        parts.headers.remove(CONTENT_LENGTH);
    }
    match form {
        Form::Whole => {
            let body = ResponseBody::stored(stored.body.clone(), stored.trailers.clone());
            Response::from_parts(parts, body)
        }
        Form::Head => Response::from_parts(parts, ResponseBody::empty()),
        Form::NotModified => not_modified(parts.headers),
        Form::Unsatisfiable => unsatisfiable(parts.headers, length),
        Form::Part(span) => part(
            parts.headers,
            span,
            length,
            ResponseBody::stored(stored.body.slice(span.0 as usize..=span.1 as usize), None),
        ),
        Form::Multipart(spans) => multipart::answer(parts.headers, &stored.body, &spans),
    }
}

/// An answer that is being recorded for another request.
pub(crate) fn from_live<B>(
    options: &Options,
    asked: Asked<'_>,
    live: &Live,
    reader: TapeReader,
    now: &Moment,
    mut status: Status,
) -> Response<ResponseBody<B>> {
    let head = &live.head;
    let age = head.age(now);
    let mut headers = head.fields.to_map(4);
    record::remove_targeted(options, &mut headers);
    headers.insert(AGE, age_value(age));
    status.ttl = Some((head.terms.lifetime(), age));
    let form = form(options, asked, head.status, &headers, live.length, now);
    let mut response = match (form, live.length) {
        (Form::NotModified, _) => not_modified(headers),
        (Form::Unsatisfiable, Some(length)) => unsatisfiable(headers, length),
        (Form::Part(span), Some(length)) => part(
            headers,
            span,
            length,
            ResponseBody::recorded_part(reader, span.0, span.1 - span.0 + 1),
        ),
        (Form::Head, length) => {
            if let Some(length) = length {
                headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
            }
            whole(head.status, headers, ResponseBody::empty())
        }
        (_, length) => {
            if let Some(length) = length.filter(|_| !is_bodiless(head.status)) {
                headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
            }
            whole(head.status, headers, ResponseBody::recorded(reader, length))
        }
    };
    mark(options, &mut response, asked.key, &status, CacheOutcome::Collapsed);
    response
}

/// A part of a response of which only parts are stored.
pub(crate) fn from_parts<B>(
    options: &Options,
    asked: Asked<'_>,
    parts: &Parts,
    now: &Moment,
) -> Option<Response<ResponseBody<B>>> {
    // RFC 9110, section 13.2.2: conditions come first, and the origin can judge them.
    if asked.noted.conditional {
        return None;
    }
    let head = &parts.head;
    let age = head.age(now);
    let headers = head.fields.to_map(4);
    let ranges =
        range::resolve(asked.headers, &headers, parts.length, options.max_ranges, now.seconds());
    let Ranges::Parts(spans) = ranges else {
        return None;
    };
    let &[span] = spans.as_slice() else {
        return None;
    };
    let bytes = parts.slice(span)?;
    let mut headers = headers;
    record::remove_targeted(options, &mut headers);
    headers.insert(AGE, age_value(age));
    let mut response = part(headers, span, parts.length, ResponseBody::stored(bytes, None));
    let status = Status { ttl: Some((head.terms.lifetime(), age)), ..HIT };
    add_status(options, &mut response, asked.key, &status);
    Some(response)
}

/// RFC 9111, section 5.2.1.7.
pub(crate) fn not_stored<B>(options: &Options, key: &str) -> Response<ResponseBody<B>> {
    let mut response = Response::new(ResponseBody::empty());
    *response.status_mut() = StatusCode::GATEWAY_TIMEOUT;
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    let status = Status { detail: Some("only-if-cached"), ..Status::default() };
    add_status(options, &mut response, key, &status);
    response
}

/// Turns an answer of the handler into a 304 where the client has it already: its conditions were taken
/// away from the request, so that the answer could be for everyone.
pub(crate) fn is_not_modified(
    asked: Asked<'_>,
    response: &http::response::Parts,
    now: Duration,
) -> bool {
    asked.noted.conditional
        && conditional::is_not_modified(
            asked.headers,
            response.status,
            &response.headers,
            false,
            seconds(now),
        )
}

pub(crate) fn strip_for_not_modified(response: &mut http::response::Parts) {
    response.status = StatusCode::NOT_MODIFIED;
    conditional::strip_for_not_modified(&mut response.headers);
}

/// Takes out the value that was added last.
fn remove_last(headers: &mut HeaderMap, name: HeaderName) {
    let mut values: Vec<HeaderValue> = headers.get_all(&name).iter().cloned().collect();
    values.pop();
    headers.remove(&name);
    for value in values {
        headers.append(&name, value);
    }
}

enum Form {
    Whole,
    Head,
    NotModified,
    Part(Span),
    Multipart(Vec<Span>),
    Unsatisfiable,
}

fn form(
    options: &Options,
    asked: Asked<'_>,
    status: StatusCode,
    headers: &HeaderMap,
    length: Option<u64>,
    now: &Moment,
) -> Form {
    // RFC 9110, section 13.2.2: conditions first, ranges afterwards.
    if asked.noted.conditional
        && conditional::is_not_modified(asked.headers, status, headers, true, now.seconds())
    {
        return Form::NotModified;
    }
    if asked.method == Method::HEAD {
        return Form::Head;
    }
    // Section 14.2: a range is of the content of a 200 to GET.
    if status == StatusCode::OK
        && asked.noted.range
        && let Some(length) = length
    {
        let ranges =
            range::resolve(asked.headers, headers, length, options.max_ranges, now.seconds());
        return match ranges {
            Ranges::Whole => Form::Whole,
            Ranges::Unsatisfiable => Form::Unsatisfiable,
            Ranges::Parts(spans) => match *spans {
                [span] => Form::Part(span),
                _ => Form::Multipart(spans),
            },
        };
    }
    Form::Whole
}

#[inline]
pub(crate) fn whole<B>(status: StatusCode, headers: HeaderMap, body: B) -> Response<B> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

fn not_modified<B>(mut headers: HeaderMap) -> Response<ResponseBody<B>> {
    conditional::strip_for_not_modified(&mut headers);
    whole(StatusCode::NOT_MODIFIED, headers, ResponseBody::empty())
}

fn part<B>(
    mut headers: HeaderMap,
    (first, last): Span,
    length: u64,
    body: ResponseBody<B>,
) -> Response<ResponseBody<B>> {
    conditional::strip_for_part(&mut headers);
    let value = format!("bytes {first}-{last}/{length}");
    headers.insert(CONTENT_RANGE, HeaderValue::try_from(value).expect("digits are valid"));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(last - first + 1));
    whole(StatusCode::PARTIAL_CONTENT, headers, body)
}

/// RFC 9110, section 15.5.17.
fn unsatisfiable<B>(mut headers: HeaderMap, length: u64) -> Response<ResponseBody<B>> {
    conditional::strip_for_not_modified(&mut headers);
    let value = format!("bytes */{length}");
    headers.insert(CONTENT_RANGE, HeaderValue::try_from(value).expect("digits are valid"));
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    whole(StatusCode::RANGE_NOT_SATISFIABLE, headers, ResponseBody::empty())
}

/// RFC 9110, sections 15.3.5 and 15.4.5.
pub(crate) fn is_bodiless(status: StatusCode) -> bool {
    matches!(status.as_u16(), 100..=199 | 204 | 205 | 304)
}

fn age_value(age: Duration) -> HeaderValue {
    HeaderValue::from(age.as_secs().min(MAX_SECONDS))
}

/// The answer to one who waited for a fill that ended in a stored response.
pub(crate) fn forwarded_status(
    forward: super::outcome::Forward,
    status: Option<StatusCode>,
) -> Status {
    Status { forward_status: status, ..Status::forwarded(forward) }
}

/// A handle on a live response for one more reader.
pub(crate) fn reader(live: &Arc<Live>) -> Option<TapeReader> {
    live.tape.read()
}
