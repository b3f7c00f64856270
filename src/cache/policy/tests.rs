//! The rules compared with those of the `http-cache-semantics` crate, on requests and responses at random.
//!
//! Where the two differ, a row of [`DIFFERENCES`] says why, by the RFC; a difference without a row fails.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_cache_semantics::{CacheOptions, CachePolicy};
use proptest::prelude::*;
use proptest::strategy::ValueTree;

use super::{Exchange, Rules, date, storing};

/// 2026-01-01T00:00:00Z
const NOW: u64 = 1_767_225_600;

#[derive(Clone, Debug)]
struct Case {
    status: u16,
    request: HeaderMap,
    response: HeaderMap,
    elapsed: u64,
}

impl Case {
    fn ours(&self) -> bool {
        let exchange = Exchange {
            method: &Method::GET,
            request: &self.request,
            status: StatusCode::from_u16(self.status).unwrap(),
            response: &self.response,
            requested: Duration::from_secs(NOW),
            received: Duration::from_secs(NOW),
        };
        let rules = Rules::explicit().rfc9111();
        storing::storable(&rules, &exchange)
            .is_ok_and(|terms| terms.is_fresh(terms.age(Duration::from_secs(self.elapsed))))
    }

    fn theirs(&self) -> bool {
        let mut request = Request::get("http://h/").body(()).unwrap();
        *request.headers_mut() = self.request.clone();
        let mut response = Response::builder().status(self.status).body(()).unwrap();
        *response.headers_mut() = self.response.clone();
        let at = |seconds| -> SystemTime { UNIX_EPOCH + Duration::from_secs(seconds) };
        let options = CacheOptions { shared: true, ..CacheOptions::default() };
        let policy = CachePolicy::new_options(&request, &response, at(NOW), options);
        policy.is_storable() && policy.time_to_live(at(NOW + self.elapsed)) > Duration::ZERO
    }

    fn lines(&self, name: &str) -> Vec<String> {
        let lines = self.response.get_all(name).iter();
        lines.map(|line| String::from_utf8_lossy(line.as_bytes()).into_owned()).collect()
    }

    fn control(&self) -> String {
        self.lines("cache-control").join(",")
    }

    fn directives(&self) -> Vec<(String, Option<String>)> {
        let control = self.control();
        let members = control.split(',').filter(|member| !member.trim().is_empty());
        members
            .map(|member| match member.split_once('=') {
                Some((name, value)) => (name.trim_start().to_owned(), Some(value.to_owned())),
                None => (member.trim().to_owned(), None),
            })
            .collect()
    }
}

type Explains = fn(&Case) -> bool;

/// What `http-cache-semantics` does otherwise, and the section that we follow.
const DIFFERENCES: &[(&str, Explains)] = &[
    ("RFC 9111, 5.2: names of directives are case-insensitive", |case| {
        case.directives().iter().any(|(name, _)| name.bytes().any(|byte| byte.is_ascii_uppercase()))
    }),
    ("RFC 9111, 5.2: a quoted string may hold commas and equals signs", |case| {
        case.control().contains('"')
    }),
    (
        "RFC 9111, 4.2.1: a value that is none makes the response stale, not the next rule count",
        |case| {
            case.directives().iter().any(|(name, value)| {
                let age = ["max-age", "s-maxage"].contains(&name.trim());
                let digits = |value: &String| {
                    !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit())
                };
                age && !value.as_ref().is_some_and(digits)
            })
        },
    ),
    ("RFC 9111, 4.2.1: of duplicate directives the most restrictive counts", |case| {
        let directives = case.directives();
        ["max-age", "s-maxage"]
            .iter()
            .any(|age| directives.iter().filter(|(name, _)| name.trim() == *age).count() > 1)
    }),
    (
        "RFC 9111, 3.5: must-revalidate allows it, not directives that conflict, which add it there",
        |case| {
            let directives = case.directives();
            case.request.contains_key("authorization")
                && directives.iter().any(|(name, value)| {
                    directives.iter().any(|(other, another)| other == name && another != value)
                })
        },
    ),
    ("RFC 9111, 4.2.3: a Date in the past is age", |case| case.response.contains_key("date")),
    ("RFC 9111, 5.1: the first member of Age counts, beyond 2^31 it is 2^31", |case| {
        case.lines("age").iter().any(|line| line.parse::<u32>().is_err())
            || case.lines("age").len() > 1
    }),
    ("RFC 9111, 3: any final status may be stored with explicit freshness", |case| {
        ![200, 203, 204, 300, 301, 302, 303, 307, 308, 404, 405, 410, 414, 501]
            .contains(&case.status)
    }),
    ("RFC 9111, 4.2.2: heuristics only where the status or `public` allows them", |case| {
        [302, 303, 307].contains(&case.status)
    }),
    ("RFC 9111, 4.2.2: a heuristic is capped, at a day here", |case| {
        case.response.contains_key("last-modified")
    }),
    ("RFC 9111, 7.3: Set-Cookie does not inhibit caching", |case| {
        case.response.contains_key("set-cookie")
    }),
    ("RFC 9111, 5.2.2.8: proxy-revalidate is about stale responses only", |case| {
        case.control().contains("proxy-revalidate")
    }),
    ("RFC 8246, 2: immutable is no lifetime", |case| case.control().contains("immutable")),
    ("RFC 9111, 5.2.2.3: must-understand overrides no-store", |case| {
        case.control().contains("must-understand")
    }),
    ("RFC 9111, 4.1: a list with a `*` in it matches nothing", |case| {
        case.lines("vary").iter().any(|line| line.contains('*'))
    }),
    (
        "RFC 9111, 5.3: two lines of Expires are no date, and RFC 9110, 5.6.7 has three forms",
        |case| case.response.contains_key("expires"),
    ),
    ("RFC 9213, 2.1: a targeted field takes the place of Cache-Control", |case| {
        case.response.contains_key("cdn-cache-control")
    }),
    ("RFC 9111, 5.4: Pragma of a response has no meaning", |case| {
        case.response.contains_key("pragma")
    }),
];

fn case(status: u16, request: &[(&str, &str)], response: &[(&str, &str)], elapsed: u64) -> Case {
    let map = |lines: &[(&str, &str)]| {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            headers.append(name, HeaderValue::from_str(value).unwrap());
        }
        headers
    };
    Case { status, request: map(request), response: map(response), elapsed }
}

/// One example of each difference: what we say is fresh and what that crate says.
#[test]
fn each_difference_has_an_example() {
    let (past, soon) = (date::format(NOW as i64 - 100), date::format(NOW as i64 + 100));
    let long_ago = "Thu, 01 Jan 1970 00:00:01 GMT";
    let c = "cache-control";
    let rfc850 = "Thursday, 01-Jan-26 00:01:40 GMT";
    let table: Vec<(&str, Case, bool, bool)> = vec![
        ("case", case(200, &[], &[(c, "MaX-aGe=60")], 1), true, false),
        ("case", case(200, &[], &[(c, "max-age=60, No-Store")], 1), false, true),
        ("quotes", case(200, &[], &[(c, "x=\"a, no-store, b\", max-age=60")], 1), true, false),
        ("invalid", case(200, &[], &[(c, "max-age"), ("expires", &soon)], 1), false, true),
        ("duplicate", case(200, &[], &[(c, "max-age=60, max-age=1")], 30), false, true),
        (
            "conflict",
            case(200, &[("authorization", "x")], &[(c, "foo, max-age=10, foo=1")], 0),
            false,
            true,
        ),
        ("date", case(200, &[], &[(c, "max-age=60"), ("date", &past)], 1), false, true),
        ("age", case(200, &[], &[(c, "max-age=60"), ("age", "60, 0")], 1), false, true),
        ("status", case(499, &[], &[(c, "max-age=60")], 1), true, false),
        (
            "heuristic status",
            case(302, &[], &[("last-modified", long_ago), (c, "x")], 1),
            false,
            false,
        ),
        ("heuristic cap", case(200, &[], &[("last-modified", long_ago)], 90_000), false, true),
        ("set-cookie", case(200, &[], &[(c, "max-age=60"), ("set-cookie", "a=b")], 1), true, false),
        (
            "proxy-revalidate",
            case(200, &[], &[(c, "max-age=60, proxy-revalidate")], 1),
            true,
            false,
        ),
        ("immutable", case(200, &[], &[(c, "immutable"), ("expires", &past)], 1), false, true),
        (
            "must-understand",
            case(200, &[], &[(c, "max-age=60, no-store, must-understand")], 1),
            true,
            false,
        ),
        ("vary", case(200, &[], &[(c, "max-age=60"), ("vary", "a, *")], 1), false, true),
        ("expires", case(200, &[], &[("expires", rfc850)], 1), true, false),
        ("targeted", case(200, &[], &[("cdn-cache-control", "max-age=60")], 1), true, false),
        ("pragma", case(200, &[], &[("expires", &soon), ("pragma", "no-cache")], 1), true, false),
    ];
    for (name, case, ours, theirs) in table {
        assert_eq!(case.ours(), ours, "{name}, ours");
        assert_eq!(case.theirs(), theirs, "{name}, theirs");
        let explained = DIFFERENCES.iter().any(|(_, explains)| explains(&case));
        assert!(ours == theirs || explained, "{name}");
    }
}

fn cases() -> impl Strategy<Value = Case> {
    let dates = || {
        proptest::sample::select(vec![-100_000_000_i64, -5000, -60, 0, 60, 5000])
            .prop_map(|offset| date::format(NOW as i64 + offset))
    };
    let seconds = || proptest::sample::select(vec!["0", "10", "60", "0060", "3600", "99999999999"]);
    let directive = prop_oneof![
        8 => seconds().prop_map(|value| format!("max-age={value}")),
        4 => seconds().prop_map(|value| format!("s-maxage={value}")),
        6 => proptest::sample::select(vec![
            "no-store", "no-cache", "private", "public", "must-revalidate", "foo", "foo=1",
        ]).prop_map(str::to_owned),
        2 => proptest::sample::select(vec![
            "Max-Age=60", "NO-STORE", "max-age=\"60\"", "max-age=x", "max-age", "s-maxage=-1",
            "proxy-revalidate", "immutable", "must-understand", "private=\"a\"", "x=\"a, b\"",
        ]).prop_map(str::to_owned),
    ];
    let control = proptest::collection::vec(directive, 0..4).prop_map(|members| members.join(", "));
    let field = prop_oneof![
        6 => control.prop_map(|value| ("cache-control", value)),
        2 => dates().prop_map(|value| ("expires", value)),
        1 => dates().prop_map(|value| ("date", value)),
        2 => dates().prop_map(|value| ("last-modified", value)),
        2 => seconds().prop_map(|value| ("age", value.to_owned())),
        1 => proptest::sample::select(vec![
            ("etag", "\"a\""), ("vary", "*"), ("vary", "a"), ("vary", "a, *"), ("set-cookie", "a=b"),
            ("pragma", "no-cache"), ("expires", "0"), ("age", "x"), ("cdn-cache-control", "max-age=60"),
        ]).prop_map(|(name, value)| (name, value.to_owned())),
    ];
    let response = proptest::collection::vec(field, 0..5);
    let request = proptest::sample::select(vec![
        vec![],
        vec![],
        vec![("authorization", "x")],
        vec![("cache-control", "no-store")],
        vec![("cookie", "a=b")],
    ]);
    let status = prop_oneof![
        4 => Just(200),
        1 => proptest::sample::select(vec![201, 203, 204, 206, 302, 304, 404, 410, 418, 500, 599]),
    ];
    let elapsed = proptest::sample::select(vec![0, 5, 30, 59, 60, 61, 4000]);
    (status, request, response, elapsed).prop_map(|(status, request, response, elapsed)| {
        let response: Vec<_> =
            response.iter().map(|(name, value)| (*name, value.as_str())).collect();
        case(status, &request, &response, elapsed)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn differences_are_explained(case in cases()) {
        let (ours, theirs) = (case.ours(), case.theirs());
        if ours != theirs {
            let explained = DIFFERENCES.iter().any(|(_, explains)| explains(&case));
            prop_assert!(explained, "ours: {ours}, theirs: {theirs}");
        }
    }
}

/// The comparison says something: most cases that nothing explains away are there, of both kinds.
#[test]
fn cases_without_an_explanation_are_common() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let (mut fresh, mut stale) = (0, 0);
    for _ in 0..10_000 {
        let case = cases().new_tree(&mut runner).unwrap().current();
        if DIFFERENCES.iter().all(|(_, explains)| !explains(&case)) {
            if case.ours() { fresh += 1 } else { stale += 1 }
        }
    }
    assert!(fresh > 100 && stale > 100, "{fresh} fresh, {stale} stale");
}
