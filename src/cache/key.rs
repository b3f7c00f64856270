//! What stored responses are found by.

use std::cell::Cell;
use std::fmt;

use http::header::HOST;
use http::{HeaderMap, HeaderValue, Uri};

/// Names a resource in the cache: authority, path and query.
///
/// The authority is in lower case and without its default port. Path and query are compared byte by byte,
/// as a router does.
///
/// ```
/// use graceful::cache::CacheKey;
///
/// let key = CacheKey::new("Example.com:443", "/a?b=c");
/// assert_eq!(key, CacheKey::new("example.com", "/a?b=c"));
/// assert_eq!(key.to_string(), "example.com/a?b=c");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CacheKey {
    /// Unambiguous, because an authority has no slash and a path begins with one.
    text: Box<str>,
}

impl CacheKey {
    /// The key of `path_and_query` at `authority`, which is empty where hosts are ignored.
    pub fn new(authority: &str, path_and_query: &str) -> Self {
        Self::join(authority, path_and_query)
    }

    fn join(authority: &str, path_and_query: &str) -> Self {
        let mut text = without_default_port(authority).to_ascii_lowercase();
        text.push_str(if path_and_query.is_empty() { "/" } else { path_and_query });
        Self { text: text.into_boxed_str() }
    }

    /// The key that this is the text of.
    pub(crate) fn of_text(text: &str) -> Self {
        Self { text: text.into() }
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.text
    }

    /// Host and port, as far as they are part of the key.
    pub fn authority(&self) -> &str {
        self.text.split_at(self.slash()).0
    }

    /// The path and, after a question mark, the query.
    pub fn path_and_query(&self) -> &str {
        self.text.split_at(self.slash()).1
    }

    fn slash(&self) -> usize {
        self.text.find('/').unwrap_or(self.text.len())
    }

    /// Everything before the query.
    pub(crate) fn without_query(&self) -> &str {
        let end = self.text.find('?').unwrap_or(self.text.len());
        &self.text[..end]
    }

    pub(crate) fn query(&self) -> &str {
        self.text.find('?').map_or("", |at| &self.text[at + 1..])
    }

    /// A key beside this one that no request has: a path has no space in it.
    pub(crate) fn beside(&self, mark: &str, rest: &str) -> Self {
        let text = format!("{} {mark} {rest}", self.without_query());
        Self { text: text.into_boxed_str() }
    }

    /// The same authority with another path and query.
    pub(crate) fn sibling(&self, path_and_query: &str) -> Self {
        Self::join(self.authority(), path_and_query)
    }
}

/// The `Host` field of a request.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Host<'a> {
    None,
    One(&'a HeaderValue),
    /// Nobody knows which of them is meant.
    Several,
}

impl<'a> Host<'a> {
    pub(crate) fn of(headers: &'a HeaderMap) -> Self {
        let mut host = Self::None;
        for value in headers.get_all(HOST) {
            host.add(value);
        }
        host
    }

    pub(crate) fn add(&mut self, value: &'a HeaderValue) {
        *self = if matches!(self, Self::None) { Self::One(value) } else { Self::Several };
    }
}

/// The key of a request, in a buffer that the next one on this thread uses again: a hit needs no key of its
/// own.
#[derive(Debug)]
pub(crate) struct KeyText {
    text: String,
}

thread_local! {
    static BUFFER: Cell<String> = const { Cell::new(String::new()) };
}

/// A longer buffer than this is not kept.
const LONGEST: usize = 4096;

impl KeyText {
    /// The key of a request, or `None` where it cannot be known which resource is meant: several hosts, or
    /// one that is malformed.
    pub(crate) fn of_request(uri: &Uri, host: Host<'_>, ignore_host: bool) -> Option<Self> {
        let path_and_query = uri.path_and_query().map_or("/", |path| path.as_str());
        if !path_and_query.starts_with('/') {
            return None;
        }
        let host = match host {
            Host::None => &[],
            Host::One(host) => host.as_bytes(),
            Host::Several => return None,
        };
        let authority = match uri.authority() {
            Some(authority) => authority.as_str().as_bytes(),
            None => host,
        };
        let mut key = Self { text: BUFFER.take() };
        key.text.clear();
        if !ignore_host {
            key.push_authority(authority)?;
        }
        key.text.push_str(path_and_query);
        Some(key)
    }

    /// Appends an authority in lower case, without its default port; `None` where it is malformed: a slash
    /// in the host would let one resource pose as another.
    fn push_authority(&mut self, authority: &[u8]) -> Option<()> {
        self.text.reserve(authority.len());
        for byte in authority {
            match AUTHORITY[usize::from(*byte)] {
                0 => return None,
                lower => self.text.push(char::from(lower)),
            }
        }
        self.text.truncate(without_default_port(&self.text).len());
        Some(())
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.text
    }

    pub(crate) fn to_key(&self) -> CacheKey {
        CacheKey::of_text(&self.text)
    }
}

impl Drop for KeyText {
    fn drop(&mut self) {
        if self.text.capacity() <= LONGEST {
            BUFFER.set(std::mem::take(&mut self.text));
        }
    }
}

impl fmt::Display for CacheKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The key of an absolute URI; of a path alone, the key where hosts are ignored.
impl From<&Uri> for CacheKey {
    fn from(uri: &Uri) -> Self {
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        Self::join(authority, uri.path_and_query().map_or("/", |path| path.as_str()))
    }
}

/// What may be in an authority, in lower case; zero for what may not.
const AUTHORITY: [u8; 256] = {
    let mut allowed = [0; 256];
    let others = b"-._~%!$&'()*+,;=:[]@";
    let mut at = 0;
    while at < 256 {
        if (at as u8).is_ascii_alphanumeric() {
            allowed[at] = (at as u8).to_ascii_lowercase();
        }
        at += 1;
    }
    let mut at = 0;
    while at < others.len() {
        allowed[others[at] as usize] = others[at];
        at += 1;
    }
    allowed
};

fn without_default_port(authority: &str) -> &str {
    authority.strip_suffix(":80").or(authority.strip_suffix(":443")).unwrap_or(authority)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(uri: &str, hosts: &[&str]) -> Option<String> {
        let mut headers = HeaderMap::new();
        for host in hosts {
            headers.append(HOST, host.parse().unwrap());
        }
        let key = KeyText::of_request(&uri.parse().unwrap(), Host::of(&headers), false);
        key.map(|key| key.to_key().to_string())
    }

    #[test]
    fn authority_path_and_query_make_the_key() {
        let table: &[(&str, &[&str], Option<&str>)] = &[
            ("/a?b", &["h"], Some("h/a?b")),
            ("/a?b", &["H.Example:80"], Some("h.example/a?b")),
            ("/a", &["h:443"], Some("h/a")),
            ("/a", &["h:8080"], Some("h:8080/a")),
            ("/a", &["[::1]:8080"], Some("[::1]:8080/a")),
            ("http://u/a", &["h"], Some("u/a")),
            ("http://U:80/a", &[], Some("u/a")),
            ("http://u", &["h"], Some("u/")),
            ("/A", &["h"], Some("h/A")),
            ("/a%2fb", &["h"], Some("h/a%2fb")),
            ("/a//b/../c", &["h"], Some("h/a//b/../c")),
            ("/a?", &["h"], Some("h/a?")),
            ("/a", &[], Some("/a")),
            ("/a", &["h", "h"], None),
            ("/a", &["h", "i"], None),
            ("/a", &["h/b"], None),
            ("/a", &["h b"], None),
            ("/a", &["h?x"], None),
            ("*", &["h"], None),
        ];
        for (uri, hosts, expected) in table {
            assert_eq!(key(uri, hosts).as_deref(), *expected, "{uri} {hosts:?}");
        }
    }

    #[test]
    fn keys_come_apart_where_they_were_joined() {
        let key = CacheKey::new("h:81", "/a?b?c");
        assert_eq!((key.authority(), key.path_and_query()), ("h:81", "/a?b?c"));
        assert_eq!((key.without_query(), key.query()), ("h:81/a", "b?c"));
        assert_eq!(key.sibling("/x").to_string(), "h:81/x");
        assert_eq!(CacheKey::from(&"http://H:81/a".parse::<Uri>().unwrap()), key.sibling("/a"));
    }
}
