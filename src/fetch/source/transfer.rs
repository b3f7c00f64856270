//! A resource at a URL: redirects followed, conditions set, a broken download taken up where it broke.

use std::{io, time::Duration};

use bytes::Bytes;
use futures_util::stream::try_unfold;
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri,
    header::{
        CONTENT_RANGE, ETAG, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, LAST_MODIFIED, LOCATION,
        RANGE,
    },
};
use http_body_util::{BodyExt, Empty};
use hyper::body::{Body, Incoming};
use tokio::time::{sleep, timeout};

use super::client::{Client, Shown, is_secure};
use crate::{BoxError, fetch::Release};

/// How long nothing may come before the connection counts as cut.
const SILENCE: Duration = Duration::from_secs(30);
/// How often a download is taken up again without one further byte, and the first pause before that.
const ATTEMPTS: u32 = 4;
const PAUSE: Duration = Duration::from_millis(100);
/// A signature has some 300 bytes.
const MAX_SIGNATURE: usize = 16 << 10;

/// How to ask for a resource, again if need be.
#[derive(Clone, Debug)]
pub(super) struct Transfer {
    pub(super) client: Client,
    pub(super) url: Uri,
    /// Sent wherever a redirect leads.
    pub(super) headers: HeaderMap,
    /// Sent to the origin of the URL only.
    pub(super) secrets: HeaderMap,
    pub(super) redirects: u32,
}

impl Transfer {
    pub(super) fn to(&self, url: Uri) -> Self {
        Self { url, ..self.clone() }
    }

    /// The resource, unless it is the one with this tag.
    pub(super) async fn release(&self, seen: Option<&str>) -> Result<Option<Release>, BoxError> {
        let response = self.get(&condition(seen)?).await?;
        match response.status() {
            StatusCode::NOT_MODIFIED => return Ok(None),
            StatusCode::OK => {}
            status => return Err(self.unexpected(status)),
        }
        let tag = tag(response.headers());
        let (validator, length) =
            (validator(response.headers()), response.body().size_hint().exact());
        let body = response.into_body();
        let reading =
            Reading { transfer: self.clone(), validator, body, received: 0, skip: 0, attempts: 0 };
        let content = try_unfold(reading, |mut reading| async move {
            Ok::<_, BoxError>(reading.next().await?.map(|chunk| (chunk, reading)))
        });
        Ok(Some(Release::new(content).length(length).tag(tag)))
    }

    /// A small resource as text; nothing where there is none.
    pub(super) async fn text(&self, limit: usize) -> Result<Option<String>, BoxError> {
        let response = self.get(&HeaderMap::new()).await?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND | StatusCode::GONE => return Ok(None),
            status => return Err(self.unexpected(status)),
        }
        let mut body = response.into_body();
        let mut text = Vec::new();
        while let Some(chunk) = chunk(&mut body).await? {
            text.extend_from_slice(&chunk);
            if text.len() > limit {
                return Err(format!("{} is too large", Shown(&self.url)).into());
            }
        }
        Ok(Some(String::from_utf8(text)?))
    }

    /// The minisign signature there.
    pub(super) async fn signature(&self) -> Result<Option<String>, BoxError> {
        self.text(MAX_SIGNATURE).await
    }

    fn unexpected(&self, status: StatusCode) -> BoxError {
        format!("{} answers with {status}", Shown(&self.url)).into()
    }

    /// Asks, and asks where the answer says to ask.
    async fn get(&self, more: &HeaderMap) -> Result<Response<Incoming>, BoxError> {
        let mut url = self.url.clone();
        for _ in 0..=self.redirects {
            let mut request = Request::new(Empty::<Bytes>::new());
            (*request.method_mut(), *request.uri_mut()) = (Method::GET, url.clone());
            request.headers_mut().extend(self.headers.clone());
            request.headers_mut().extend(more.clone());
            if is_same_origin(&url, &self.url) {
                request.headers_mut().extend(self.secrets.clone());
            }
            let response = self.client.send(request).await?;
            match response.status().as_u16() {
                301 | 302 | 303 | 307 | 308 => {}
                _ => return Ok(response),
            }
            let location = response.headers().get(LOCATION);
            let location = location.ok_or("a redirect that leads nowhere")?.to_str()?;
            let next = join(&url, location)?;
            if is_secure(&url)? && !is_secure(&next)? {
                return Err(format!("redirected from https to {}", Shown(&next)).into());
            }
            url = next;
        }
        Err(format!("more than {} redirects from {}", self.redirects, Shown(&self.url)).into())
    }
}

/// A download on its way.
struct Reading {
    transfer: Transfer,
    /// With which a part can be asked for; without one a broken download is lost.
    validator: Option<HeaderValue>,
    body: Incoming,
    received: u64,
    /// What comes once more.
    skip: u64,
    attempts: u32,
}

impl Reading {
    async fn next(&mut self) -> Result<Option<Bytes>, BoxError> {
        loop {
            match chunk(&mut self.body).await {
                Ok(None) if self.skip == 0 => return Ok(None),
                Ok(None) => return Err("it has become shorter meanwhile".into()),
                Ok(Some(mut chunk)) => {
                    let known = self.skip.min(chunk.len() as u64);
                    self.skip -= known;
                    let chunk = chunk.split_off(known as usize);
                    if chunk.is_empty() {
                        continue;
                    }
                    self.received += chunk.len() as u64;
                    self.attempts = 0;
                    return Ok(Some(chunk));
                }
                Err(error) => self.resume(error).await?,
            }
        }
    }

    /// Asks for the rest.
    async fn resume(&mut self, mut error: BoxError) -> Result<(), BoxError> {
        let Some(validator) = self.validator.clone() else { return Err(error) };
        while self.attempts < ATTEMPTS {
            tracing::debug!(%error, received = self.received, "a download broke off");
            sleep(PAUSE * (1 << self.attempts)).await;
            self.attempts += 1;
            let range = HeaderValue::try_from(format!("bytes={}-", self.received))?;
            let more = [(RANGE, range), (IF_RANGE, validator.clone())].into_iter().collect();
            match self.transfer.get(&more).await {
                Ok(response) => return self.go_on(response, &validator),
                Err(again) => error = again,
            }
        }
        Err(error)
    }

    fn go_on(
        &mut self,
        response: Response<Incoming>,
        before: &HeaderValue,
    ) -> Result<(), BoxError> {
        self.skip = match response.status() {
            StatusCode::PARTIAL_CONTENT => {
                let range =
                    response.headers().get(CONTENT_RANGE).and_then(|range| range.to_str().ok());
                let start = format!("bytes {}-", self.received);
                if !range.is_some_and(|range| range.starts_with(&start)) {
                    return Err("the rest of it does not begin where it broke off".into());
                }
                0
            }
            // This server knows no ranges, or it is another one by now.
            StatusCode::OK if validator(response.headers()).as_ref() == Some(before) => {
                self.received
            }
            StatusCode::OK => return Err("it has changed while it was fetched".into()),
            status => return Err(self.transfer.unexpected(status)),
        };
        self.body = response.into_body();
        Ok(())
    }
}

async fn chunk(body: &mut Incoming) -> Result<Option<Bytes>, BoxError> {
    loop {
        let frame = timeout(SILENCE, body.frame()).await;
        let frame = frame.map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "nothing comes"))?;
        match frame.transpose()?.map(hyper::body::Frame::into_data) {
            None => return Ok(None),
            Some(Ok(data)) => return Ok(Some(data)),
            // Trailers.
            Some(Err(_)) => {}
        }
    }
}

/// What a condition on a part may be based on: RFC 9110, section 13.1.5, wants a strong one.
fn validator(headers: &HeaderMap) -> Option<HeaderValue> {
    let strong = |tag: &&HeaderValue| !tag.as_bytes().starts_with(b"W/");
    headers.get(ETAG).filter(strong).or_else(|| headers.get(LAST_MODIFIED)).cloned()
}

/// What the next request says that it has seen.
fn tag(headers: &HeaderMap) -> Option<String> {
    let text = |value: &HeaderValue| value.to_str().ok().map(str::to_owned);
    let etag = headers.get(ETAG).and_then(text).map(|tag| format!("etag {tag}"));
    etag.or_else(|| headers.get(LAST_MODIFIED).and_then(text).map(|date| format!("date {date}")))
}

fn condition(seen: Option<&str>) -> Result<HeaderMap, BoxError> {
    let mut headers = HeaderMap::new();
    match seen.and_then(|seen| seen.split_once(' ')) {
        Some(("etag", tag)) => headers.insert(IF_NONE_MATCH, tag.try_into()?),
        Some(("date", date)) => headers.insert(IF_MODIFIED_SINCE, date.try_into()?),
        _ => None,
    };
    Ok(headers)
}

fn is_same_origin(one: &Uri, other: &Uri) -> bool {
    let port = |url: &Uri| url.port_u16().or((url.scheme_str() == Some("https")).then_some(443));
    (one.scheme(), one.host(), port(one)) == (other.scheme(), other.host(), port(other))
}

/// Resolves a reference (RFC 3986, section 5.2), but for dots in its path.
fn join(base: &Uri, reference: &str) -> Result<Uri, BoxError> {
    let reference = reference.split('#').next().unwrap_or_default();
    let scheme = base.scheme_str().unwrap_or("http");
    let authority = base.authority().map_or("", |authority| authority.as_str());
    let text = if reference.contains("://") {
        reference.to_owned()
    } else if reference.starts_with("//") {
        format!("{scheme}:{reference}")
    } else if reference.starts_with('/') {
        format!("{scheme}://{authority}{reference}")
    } else if reference.starts_with('?') {
        format!("{scheme}://{authority}{}{reference}", base.path())
    } else {
        let (directory, _) = base.path().rsplit_once('/').unwrap_or_default();
        format!("{scheme}://{authority}{directory}/{reference}")
    };
    Ok(text.parse()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_is_resolved_as_a_browser_does() {
        let base: Uri = "http://host:8/a/b?c".parse().unwrap();
        for (reference, joined) in [
            ("https://other/x?y", "https://other/x?y"),
            ("//other/x", "http://other/x"),
            ("/x?y", "http://host:8/x?y"),
            ("x", "http://host:8/a/x"),
            ("?d", "http://host:8/a/b?d"),
            ("/x#fragment", "http://host:8/x"),
        ] {
            assert_eq!(join(&base, reference).unwrap().to_string(), joined, "{reference}");
        }
        assert!(join(&base, "http://a b/").is_err());
    }

    #[test]
    fn a_secret_is_for_its_origin() {
        let same =
            |one: &str, other: &str| is_same_origin(&one.parse().unwrap(), &other.parse().unwrap());
        assert!(same("https://a/x", "https://a:443/y"));
        assert!(!same("https://a/x", "http://a/x"));
        assert!(!same("https://a/x", "https://a:444/x"));
        assert!(!same("https://a/x", "https://a.b/x"));
    }

    #[test]
    fn a_tag_becomes_the_condition_that_it_came_from() {
        let headers = |list: &[(http::HeaderName, &'static str)]| -> HeaderMap {
            list.iter()
                .map(|(name, value)| (name.clone(), HeaderValue::from_static(value)))
                .collect()
        };
        let date = "Sun, 06 Nov 1994 08:49:37 GMT";
        let both = headers(&[(ETAG, "W/\"1\""), (LAST_MODIFIED, date)]);
        assert_eq!(condition(tag(&both).as_deref()).unwrap()[IF_NONE_MATCH], "W/\"1\"");
        assert_eq!(validator(&both).unwrap(), date, "a weak tag says nothing of a part");
        let dated = headers(&[(LAST_MODIFIED, date)]);
        assert_eq!(condition(tag(&dated).as_deref()).unwrap()[IF_MODIFIED_SINCE], date);
        assert!(condition(tag(&headers(&[])).as_deref()).unwrap().is_empty());
        assert!(condition(Some("a tag of another source")).unwrap().is_empty());
    }
}
