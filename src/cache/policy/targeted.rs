//! Targeted cache control, such as `CDN-Cache-Control` (RFC 9213).

use http::{HeaderMap, HeaderName};

use super::control::{ResponseControl, Scope};
use super::field::MAX_SECONDS;
use super::structured::{Item, dictionary};

/// The directives of the first field of `targets` that is present, valid and not empty.
///
/// That field alone decides: `Cache-Control`, `Expires` and `Pragma` count no more (section 2.1). A field
/// that is malformed, or in which a directive has a value of the wrong type, is ignored.
pub(crate) fn parse(headers: &HeaderMap, targets: &[HeaderName]) -> Option<ResponseControl> {
    targets.iter().find_map(|name| {
        let mut lines = headers.get_all(name).iter();
        let first = lines.next()?.as_bytes();
        let mut value = first.to_vec();
        for line in lines {
            value.extend_from_slice(b", ");
            value.extend_from_slice(line.as_bytes());
        }
        let members = dictionary(&value).filter(|members| !members.is_empty())?;
        control(&members)
    })
}

fn control(members: &[(String, Item)]) -> Option<ResponseControl> {
    let mut control = ResponseControl::default();
    for (key, item) in members {
        match key.as_str() {
            "max-age" => control.max_age = Some(seconds(item)?),
            "s-maxage" => control.s_maxage = Some(seconds(item)?),
            "stale-while-revalidate" => control.stale_while_revalidate = Some(seconds(item)?),
            "stale-if-error" => control.stale_if_error = Some(seconds(item)?),
            "no-cache" => control.no_cache = scope(item)?,
            "private" => control.private = scope(item)?,
            "no-store" => control.no_store = flag(item)?,
            "public" => control.public = flag(item)?,
            "must-revalidate" => control.must_revalidate = flag(item)?,
            "proxy-revalidate" => control.proxy_revalidate = flag(item)?,
            "must-understand" => control.must_understand = flag(item)?,
            "immutable" => control.immutable = flag(item)?,
            _ => {}
        }
    }
    Some(control)
}

fn seconds(item: &Item) -> Option<u64> {
    match item {
        Item::Integer(seconds) => Some(u64::try_from(*seconds).unwrap_or(0).min(MAX_SECONDS)),
        _ => None,
    }
}

fn flag(item: &Item) -> Option<bool> {
    match item {
        Item::Boolean(set) => Some(*set),
        _ => None,
    }
}

fn scope(item: &Item) -> Option<Scope> {
    match item {
        Item::Boolean(true) => Some(Scope::Response),
        Item::Boolean(false) => Some(Scope::Nothing),
        Item::String(names) => {
            let names: Option<Vec<_>> = super::field::split(names.as_bytes())
                .map(|name| HeaderName::from_bytes(name).ok())
                .collect();
            Some(match names {
                Some(names) if !names.is_empty() => Scope::Fields(names),
                _ => Scope::Response,
            })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CDN: HeaderName = HeaderName::from_static("cdn-cache-control");
    const OWN: HeaderName = HeaderName::from_static("own-cache-control");

    fn parsed(lines: &[(HeaderName, &str)]) -> Option<ResponseControl> {
        let mut headers = HeaderMap::new();
        for (name, line) in lines {
            headers.append(name, line.parse().unwrap());
        }
        parse(&headers, &[OWN, CDN])
    }

    #[test]
    fn a_valid_field_decides_alone() {
        // RFC 9213, sections 2.1 and 2.2.
        assert_eq!(parsed(&[]), None);
        let control = parsed(&[(CDN, "max-age=60, foobar")]).unwrap();
        assert_eq!(control.max_age, Some(60));
        assert_eq!(parsed(&[(CDN, "max-age=99999999999")]).unwrap().max_age, Some(1 << 31));
        assert_eq!(parsed(&[(CDN, "max-age=-5")]).unwrap().max_age, Some(0));
        assert!(parsed(&[(CDN, "no-store")]).unwrap().no_store);
        assert!(!parsed(&[(CDN, "no-store=?0")]).unwrap().no_store);
        assert_eq!(parsed(&[(CDN, "private")]).unwrap().private, Scope::Response);
        assert_eq!(
            parsed(&[(CDN, "no-cache=\"a, b\"")]).unwrap().no_cache,
            Scope::Fields(vec![HeaderName::from_static("a"), HeaderName::from_static("b")])
        );
        assert_eq!(parsed(&[(CDN, "max-age=1"), (CDN, "max-age=2")]).unwrap().max_age, Some(2));
    }

    #[test]
    fn the_first_target_wins() {
        let control = parsed(&[(CDN, "max-age=1"), (OWN, "max-age=2")]).unwrap();
        assert_eq!(control.max_age, Some(2));
        let control = parsed(&[(CDN, "max-age=1"), (OWN, "max-age=x, &")]).unwrap();
        assert_eq!(control.max_age, Some(1), "the malformed one is ignored");
    }

    #[test]
    fn a_malformed_field_is_ignored() {
        for line in [
            "",
            " ",
            "max-age=\"60\"",
            "max-age=60.0",
            "max-age",
            "max-age=60, &&&&&",
            "max-age =60",
            "max-age= 60",
            "MaX-aGe=60, no-store=1",
            "no-store=1",
            "private=5",
        ] {
            assert_eq!(parsed(&[(CDN, line)]), None, "{line:?}");
        }
    }
}
