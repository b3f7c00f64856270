//! What stored responses are found by.

use std::cell::Cell;
use std::fmt;

use http::header::HOST;
use http::{HeaderMap, Uri};

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
        let mut text = String::new();
        join(&mut text, authority, path_and_query);
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
    pub(crate) fn of_request(uri: &Uri, headers: &HeaderMap, ignore_host: bool) -> Option<Self> {
        let path_and_query = uri.path_and_query().map_or("/", |path| path.as_str());
        if !path_and_query.starts_with('/') {
            return None;
        }
        let mut hosts = headers.get_all(HOST).iter();
        let host = hosts.next();
        if hosts.next().is_some() {
            return None;
        }
        let authority = match (ignore_host, uri.authority(), host) {
            (true, _, _) | (false, None, None) => "",
            (false, Some(authority), _) => authority.as_str(),
            (false, None, Some(host)) => host.to_str().ok()?,
        };
        // A slash in the host would let one resource pose as another.
        if !authority.bytes().all(is_authority) {
            return None;
        }
        let mut text = BUFFER.take();
        text.clear();
        join(&mut text, authority, path_and_query);
        Some(Self { text })
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

/// Appends the text of a key.
fn join(text: &mut String, authority: &str, path_and_query: &str) {
    let authority = without_default_port(authority);
    let path_and_query = if path_and_query.is_empty() { "/" } else { path_and_query };
    text.reserve_exact(authority.len() + path_and_query.len());
    text.push_str(authority);
    text.make_ascii_lowercase();
    text.push_str(path_and_query);
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

fn is_authority(byte: u8) -> bool {
    const ALLOWED: [bool; 256] = {
        let mut allowed = [false; 256];
        let others = b"-._~%!$&'()*+,;=:[]@";
        let mut at = 0;
        while at < 256 {
            allowed[at] = (at as u8).is_ascii_alphanumeric();
            at += 1;
        }
        let mut at = 0;
        while at < others.len() {
            allowed[others[at] as usize] = true;
            at += 1;
        }
        allowed
    };
    ALLOWED[byte as usize]
}

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
        let key = KeyText::of_request(&uri.parse().unwrap(), &headers, false);
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
