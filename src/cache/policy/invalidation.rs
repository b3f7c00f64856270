//! What an unsafe method makes invalid (RFC 9111, section 4.4).

use http::header::{CONTENT_LOCATION, LOCATION};
use http::{HeaderMap, Method, StatusCode};

/// Whether a response to this method says that the stored ones may be wrong now.
pub(crate) fn invalidates(method: &Method, status: StatusCode) -> bool {
    // Those that the method registry calls safe; of all others it is unknown.
    const SAFE: [&str; 8] =
        ["GET", "HEAD", "OPTIONS", "TRACE", "PROPFIND", "REPORT", "SEARCH", "QUERY"];
    !SAFE.contains(&method.as_str()) && (200..400).contains(&status.as_u16())
}

/// Path and query of `Location` and `Content-Location`, where they have the authority of the target.
pub(crate) fn targets(authority: &str, path: &str, response: &HeaderMap) -> Vec<String> {
    [LOCATION, CONTENT_LOCATION]
        .iter()
        .filter_map(|name| {
            let reference = response.get(name)?.to_str().ok()?;
            resolve(authority, path, reference)
        })
        .collect()
}

/// A URI reference (RFC 3986, section 5.2) against the target's authority and its path and query; `None`
/// if it leads to another authority.
pub(crate) fn resolve(authority: &str, base: &str, reference: &str) -> Option<String> {
    let reference = reference.trim_matches([' ', '\t']);
    let reference = reference.split('#').next().unwrap_or_default();
    let rest = match scheme(reference) {
        Some(("http" | "https", rest)) => {
            if !rest.starts_with("//") {
                return None;
            }
            rest
        }
        Some(_) => return None,
        None => reference,
    };
    let path = if let Some(rest) = rest.strip_prefix("//") {
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (other, path) = rest.split_at(end);
        if !is_same_authority(authority, other) {
            return None;
        }
        path
    } else {
        rest
    };
    let base_path = base.split('?').next().unwrap_or_default();
    let joined = if path.is_empty() {
        // The same document, with its query; of an authority alone, its root.
        if rest.starts_with("//") { "/".to_owned() } else { base.to_owned() }
    } else if path.starts_with('?') {
        let path_alone = if rest.starts_with("//") { "/" } else { base_path };
        format!("{path_alone}{path}")
    } else if path.starts_with('/') {
        path.to_owned()
    } else {
        let directory = &base_path[..base_path.rfind('/').map_or(0, |at| at + 1)];
        format!("{directory}{path}")
    };
    Some(remove_dot_segments(&joined))
}

fn scheme(reference: &str) -> Option<(&'static str, &str)> {
    let colon = reference.find(':')?;
    let name = &reference[..colon];
    let mut letters = name.bytes();
    let valid = letters.next().is_some_and(|byte| byte.is_ascii_alphabetic())
        && letters.all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'));
    if !valid {
        return None;
    }
    let known = if name.eq_ignore_ascii_case("http") {
        "http"
    } else if name.eq_ignore_ascii_case("https") {
        "https"
    } else {
        "other"
    };
    Some((known, &reference[colon + 1..]))
}

fn is_same_authority(authority: &str, other: &str) -> bool {
    let other = other.rsplit('@').next().unwrap_or_default();
    let bare = |text: &str| {
        let text = text.to_ascii_lowercase();
        let stripped = text.strip_suffix(":80").or(text.strip_suffix(":443"));
        stripped.map_or(text.clone(), str::to_owned)
    };
    bare(authority) == bare(other)
}

/// RFC 3986, section 5.2.4, on the path; the query is left alone.
fn remove_dot_segments(reference: &str) -> String {
    let (path, query) = match reference.find('?') {
        Some(at) => reference.split_at(at),
        None => (reference, ""),
    };
    let mut segments: Vec<&str> = Vec::new();
    let mut parts = path.split('/').skip(1).peekable();
    while let Some(part) = parts.next() {
        let last = parts.peek().is_none();
        match part {
            "." => {}
            ".." => {
                segments.pop();
            }
            other => {
                segments.push(other);
                continue;
            }
        }
        if last {
            segments.push("");
        }
    }
    format!("/{}{query}", segments.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn successful_unsafe_methods_invalidate() {
        // RFC 9111, section 4.4: a non-error status is 2xx or 3xx.
        let table = [
            ("POST", 200, true),
            ("PUT", 204, true),
            ("DELETE", 303, true),
            ("PATCH", 399, true),
            ("M-SEARCH", 200, true),
            ("POST", 400, false),
            ("POST", 500, false),
            ("GET", 200, false),
            ("HEAD", 200, false),
            ("OPTIONS", 200, false),
            ("TRACE", 200, false),
            ("PROPFIND", 207, false),
            ("QUERY", 200, false),
        ];
        for (method, status, expected) in table {
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(invalidates(&method, status), expected, "{method} {status}");
        }
    }

    #[test]
    fn references_are_resolved_within_the_authority() {
        // RFC 3986, section 5.4, with http://a/b/c/d?q as the base.
        let table = [
            ("g", Some("/b/c/g")),
            ("./g", Some("/b/c/g")),
            ("g/", Some("/b/c/g/")),
            ("/g", Some("/g")),
            ("?y", Some("/b/c/d?y")),
            ("g?y", Some("/b/c/g?y")),
            ("#s", Some("/b/c/d?q")),
            ("g#s", Some("/b/c/g")),
            ("", Some("/b/c/d?q")),
            (".", Some("/b/c/")),
            ("./", Some("/b/c/")),
            ("..", Some("/b/")),
            ("../g", Some("/b/g")),
            ("../../../g", Some("/g")),
            ("/./g", Some("/g")),
            ("/../g", Some("/g")),
            ("g/./h", Some("/b/c/g/h")),
            ("g/../h", Some("/b/c/h")),
            ("g?y/../x", Some("/b/c/g?y/../x")),
            ("http://a/x", Some("/x")),
            ("HTTPS://A:443/x", Some("/x")),
            ("http://user@a/x", Some("/x")),
            ("//a/x?y", Some("/x?y")),
            ("//a", Some("/")),
            ("http://a?z", Some("/?z")),
            ("http://a:81/x", None),
            ("http://b/x", None),
            ("//b/x", None),
            ("ftp://a/x", None),
            ("mailto:a", None),
            ("http:g", None),
        ];
        for (reference, expected) in table {
            let resolved = resolve("a", "/b/c/d?q", reference);
            assert_eq!(resolved.as_deref(), expected, "{reference:?}");
        }
    }
}
