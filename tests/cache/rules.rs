//! The rule sheet, as tables written from the RFCs: what is answered from the store, in each profile.

use graceful::cache::CacheOutcome;
use http::Method;

use super::support::*;

/// A response, some seconds, and whether it still answers.
struct Rule {
    name: &'static str,
    request: Vec<(&'static str, String)>,
    status: u16,
    response: Vec<(&'static str, String)>,
    wait: u64,
    explicit: bool,
    rfc9111: bool,
}

fn rule(name: &'static str, response: &[(&'static str, &str)]) -> Rule {
    Rule {
        name,
        request: Vec::new(),
        status: 200,
        response: response.iter().map(|(name, value)| (*name, (*value).to_owned())).collect(),
        wait: 3,
        explicit: false,
        rfc9111: false,
    }
}

impl Rule {
    fn with(mut self, request: &[(&'static str, &str)]) -> Self {
        self.request = request.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        self
    }

    fn status(mut self, status: u16) -> Self {
        self.status = status;
        self
    }

    fn after(mut self, seconds: u64) -> Self {
        self.wait = seconds;
        self
    }

    /// Answers from the store in both profiles.
    fn stored(mut self) -> Self {
        (self.explicit, self.rfc9111) = (true, true);
        self
    }

    /// Only with all of RFC 9111.
    fn stored_by_rfc9111(mut self) -> Self {
        (self.explicit, self.rfc9111) = (false, true);
        self
    }
}

async fn check(rules: Vec<Rule>) {
    for rule in rules {
        for rfc9111 in [false, true] {
            let layer = if rfc9111 { layer().rfc9111() } else { layer() };
            let (status_code, response) = (rule.status, rule.response.clone());
            let app = App::new(layer, move |_, request| {
                // Only unconditional requests tell a hit from a call.
                assert_eq!(request.method, Method::GET);
                let headers: Vec<_> =
                    response.iter().map(|(name, value)| (*name, value.as_str())).collect();
                status(status_code, &headers, "")
            });
            let request: Vec<_> =
                rule.request.iter().map(|(name, value)| (*name, value.as_str())).collect();
            app.get_with("/", &request).await;
            advance(rule.wait).await;
            let second = app.get_with("/", &request).await;
            let hit = second.outcome == Some(CacheOutcome::Hit);
            let expected = if rfc9111 { rule.rfc9111 } else { rule.explicit };
            assert_eq!(hit, expected, "{} (RFC 9111: {rfc9111})", rule.name);
            assert_eq!(app.calls(), if hit { 1 } else { 2 }, "{}", rule.name);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn lifetimes() {
    // RFC 9111, section 4.2.1: s-maxage, else max-age, else Expires minus Date.
    let (past, now, soon, later) = (date(-7200), date(0), date(10), date(3600));
    let (past, now, soon, later) = (past.as_str(), now.as_str(), soon.as_str(), later.as_str());
    check(vec![
        rule("none", &[]),
        rule("max-age", &[("cache-control", "max-age=60")]).stored(),
        rule("max-age over", &[("cache-control", "max-age=60")]).after(60),
        rule("max-age just not over", &[("cache-control", "max-age=60")]).after(59).stored(),
        rule("max-age 0", &[("cache-control", "max-age=0")]).after(0),
        rule("max-age beyond 2^31", &[("cache-control", "max-age=99999999999")]).stored(),
        rule("max-age quoted", &[("cache-control", "max-age=\"60\"")]).stored(),
        rule("max-age in single quotes", &[("cache-control", "max-age='60'")]),
        rule("max-age negative", &[("cache-control", "max-age=-60")]),
        rule("max-age with a fraction", &[("cache-control", "max-age=60.0")]),
        rule("max-age twice, the smaller", &[("cache-control", "max-age=1, max-age=60")]),
        rule("max-age with space", &[("cache-control", "max-age =60")]),
        rule("max-age in another's string", &[("cache-control", "x=\"max-age=60\"")]),
        rule("s-maxage", &[("cache-control", "s-maxage=60")]).stored(),
        rule("s-maxage before max-age", &[("cache-control", "max-age=60, s-maxage=1")]),
        rule("s-maxage after max-age", &[("cache-control", "s-maxage=60, max-age=1")]).stored(),
        rule(
            "s-maxage on another line",
            &[("cache-control", "max-age=60"), ("cache-control", "s-maxage=1")],
        ),
        rule("expires", &[("date", now), ("expires", later)]).stored(),
        rule("expires without date", &[("expires", later)]).stored(),
        rule("expires with a bad date", &[("date", "foo"), ("expires", soon)]).stored(),
        rule("expires past", &[("date", now), ("expires", past)]),
        rule("expires present", &[("date", now), ("expires", now)]).after(0),
        rule("expires 0", &[("date", now), ("expires", "0")]),
        rule("expires twice", &[("expires", later), ("expires", later)]),
        rule("expires and max-age", &[("expires", past), ("cache-control", "max-age=60")]).stored(),
        rule("expires and max-age 0", &[("expires", later), ("cache-control", "max-age=0")]),
        rule("expires with an unknown directive", &[("expires", later), ("cache-control", "x")])
            .stored(),
        rule("expires before date", &[("date", later), ("expires", soon)]),
    ])
    .await;
}

#[tokio::test(start_paused = true)]
async fn ages() {
    // RFC 9111, sections 4.2.3 and 5.1.
    let (early, fast) = (date(-10), date(10));
    let ten = date(20);
    let max_age = ("cache-control", "max-age=3600");
    check(vec![
        rule("age", &[max_age, ("age", "3500")]).stored(),
        rule("age over", &[max_age, ("age", "7200")]),
        rule("age and residence over", &[max_age, ("age", "3598")]),
        rule("age of 2^31", &[max_age, ("age", "2147483648")]),
        rule("age beyond", &[max_age, ("age", "99999999999999999999")]),
        rule("age that is none", &[max_age, ("age", "abc")]).stored(),
        rule("age negative", &[max_age, ("age", "-7200")]).stored(),
        rule("age with a fraction", &[max_age, ("age", "7200.0")]).stored(),
        rule("age with a parameter", &[max_age, ("age", "7200;x=1")]).stored(),
        rule("ages in a list, the first", &[max_age, ("age", "7200, 0")]),
        rule("ages in a list, the first young", &[max_age, ("age", "0, 7200")]).stored(),
        rule("ages on lines, the first", &[max_age, ("age", "7200"), ("age", "0")]),
        rule("ages on lines, the first young", &[max_age, ("age", "0"), ("age", "7200")]).stored(),
        rule("apparent age", &[("date", date(-7200).as_str()), max_age]),
        rule("apparent age below", &[("date", early.as_str()), max_age]).stored(),
        rule("a date in the future has no age", &[("date", fast.as_str()), max_age]).stored(),
        rule(
            "the larger of two ages",
            &[("date", early.as_str()), ("expires", ten.as_str()), ("age", "35")],
        ),
    ])
    .await;
}

#[tokio::test(start_paused = true)]
async fn heuristics() {
    // RFC 9111, section 4.2.2; RFC 9110, section 15.1.
    let modified = date(-1000);
    let modified = ("last-modified", modified.as_str());
    let mut rules = vec![
        rule("a tenth", &[modified]).after(99).stored_by_rfc9111(),
        rule("public", &[modified, ("cache-control", "public")]).status(599).stored_by_rfc9111(),
        rule("a directive that is no freshness", &[modified, ("cache-control", "x")])
            .stored_by_rfc9111(),
        rule("a day at most", &[("last-modified", "Thu, 01 Jan 1970 00:00:01 GMT")])
            .after(86_399)
            .stored_by_rfc9111(),
        rule("modified in the future", &[("last-modified", date(1000).as_str())]),
    ];
    for known in [200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501] {
        rules.push(rule("status with heuristics", &[modified]).status(known).stored_by_rfc9111());
    }
    for other in [201, 202, 302, 303, 307, 400, 403, 500, 502, 503, 504, 599] {
        rules.push(rule("status without", &[modified]).status(other));
    }
    // The response is stale after its tenth, and would be validated.
    check(rules).await;
}

#[tokio::test(start_paused = true)]
async fn every_final_status_with_explicit_freshness() {
    // RFC 9111, section 3.
    let max_age = ("cache-control", "max-age=60");
    let mut rules = Vec::new();
    for status in [
        200, 201, 202, 203, 204, 205, 299, 300, 301, 302, 303, 307, 308, 400, 401, 403, 404, 410,
        418, 451, 499, 500, 502, 503, 504, 599,
    ] {
        rules.push(rule("status", &[max_age]).status(status).stored());
    }
    rules.push(rule("part", &[max_age, ("content-range", "bytes 0-1/9")]).status(206));
    rules.push(rule("not modified", &[max_age]).status(304));
    let understand = ("cache-control", "max-age=60, must-understand");
    let overridden = ("cache-control", "max-age=60, must-understand, no-store");
    rules.push(rule("understood", &[understand]).stored());
    rules.push(rule("not understood", &[understand]).status(599));
    rules.push(rule("understood overrides no-store", &[overridden]).stored());
    rules.push(rule("not understood, no-store", &[overridden]).status(599));
    check(rules).await;
}

#[tokio::test(start_paused = true)]
async fn prohibitions() {
    // RFC 9111, sections 3, 3.5 and 5.2.2.
    let user = ("authorization", "x");
    let max_age = "max-age=60";
    let cookie = ("set-cookie", "a=b");
    check(vec![
        rule("no-store", &[("cache-control", "max-age=60, no-store")]),
        rule("private", &[("cache-control", "max-age=60, private")]),
        rule("private of a field", &[("cache-control", "max-age=60, private=\"x\"")]).stored(),
        rule("no-cache", &[("cache-control", "max-age=60, no-cache")]),
        rule("no-cache of a field", &[("cache-control", "max-age=60, no-cache=\"x\"")]).stored(),
        rule("immutable is no lifetime", &[("cache-control", "immutable")]),
        rule(
            "pragma of a response says nothing",
            &[("cache-control", max_age), ("pragma", "no-cache")],
        )
        .stored(),
        rule("authorization", &[("cache-control", max_age)]).with(&[user]),
        rule("authorization, public", &[("cache-control", "max-age=60, public")])
            .with(&[user])
            .stored(),
        rule("authorization, must-revalidate", &[("cache-control", "max-age=60, must-revalidate")])
            .with(&[user])
            .stored(),
        rule("authorization, s-maxage", &[("cache-control", "s-maxage=60")]).with(&[user]).stored(),
        rule(
            "authorization, proxy-revalidate",
            &[("cache-control", "max-age=60, proxy-revalidate")],
        )
        .with(&[user]),
        rule("cookie of a request", &[("cache-control", max_age)])
            .with(&[("cookie", "a=b")])
            .stored(),
        rule("set-cookie", &[("cache-control", max_age), cookie]).stored_by_rfc9111(),
        rule(
            "set-cookie that is private",
            &[("cache-control", "max-age=60, private=\"set-cookie\""), cookie],
        )
        .stored(),
        rule("vary *", &[("cache-control", max_age), ("vary", "*")]),
        rule("vary with a *", &[("cache-control", max_age), ("vary", "foo, *")]),
    ])
    .await;
}

#[tokio::test(start_paused = true)]
async fn targeted_fields() {
    // RFC 9213, section 2.1.
    let cdn = |value: &'static str| ("cdn-cache-control", value);
    let cc = |value: &'static str| ("cache-control", value);
    let later = date(3600);
    let expires = ("expires", later.as_str());
    check(vec![
        rule("alone", &[cdn("max-age=60")]).stored(),
        rule("before cache-control", &[cdn("max-age=60"), cc("max-age=1")]).stored(),
        rule("before cache-control, shorter", &[cdn("max-age=1"), cc("max-age=60")]),
        rule("before no-store", &[cdn("max-age=60"), cc("no-store")]).stored(),
        rule("no-store", &[cdn("no-store"), cc("max-age=60")]),
        rule("no-cache", &[cdn("no-cache"), cc("max-age=60"), expires]),
        rule("private", &[cdn("private"), cc("max-age=60"), expires]),
        rule("before expires", &[cdn("max-age=0"), expires]),
        rule("without freshness", &[cdn("public"), expires]),
        rule("malformed", &[cdn("max-age=60, &&&"), cc("no-store")]),
        rule("malformed, and cache-control", &[cdn("max-age=60, &&&"), cc("max-age=60")]).stored(),
        rule("of the wrong type", &[cdn("max-age=\"60\""), cc("no-store")]),
        rule("empty", &[cdn(""), cc("max-age=60")]).stored(),
        rule("in upper case", &[cdn("MaX-aGe=60"), cc("no-store")]),
        rule("with age", &[cdn("max-age=60"), ("age", "60")]),
    ])
    .await;
}

/// A stored response with an age of 10 of 60 seconds, and a second request: whether it is a hit.
async fn asked(rfc9111: bool, response: &'static str, headers: &[(&str, &str)]) -> CacheOutcome {
    let layer = if rfc9111 { layer().rfc9111() } else { layer() };
    let app = App::new(layer, move |_, _| answer(&[("cache-control", response)], ""));
    app.get("/").await;
    advance(10).await;
    app.get_with("/", headers).await.outcome.unwrap()
}

#[tokio::test(start_paused = true)]
async fn directives_of_requests() {
    // RFC 9111, section 5.2.1. By default a client cannot defeat the cache of an origin.
    use CacheOutcome::{Bypass, Hit, Miss, Stale};
    let table: &[(&str, &[(&str, &str)], CacheOutcome, CacheOutcome)] = &[
        ("max-age=60", &[("cache-control", "max-age=0")], Hit, Miss),
        ("max-age=60", &[("cache-control", "max-age=9")], Hit, Miss),
        ("max-age=60", &[("cache-control", "max-age=10")], Hit, Hit),
        ("max-age=60", &[("cache-control", "no-cache")], Hit, Miss),
        ("max-age=60", &[("cache-control", "no-store")], Hit, Bypass),
        ("max-age=60", &[("cache-control", "min-fresh=50")], Hit, Hit),
        ("max-age=60", &[("cache-control", "min-fresh=51")], Hit, Miss),
        ("max-age=60", &[("cache-control", "only-if-cached")], Hit, Hit),
        ("max-age=60", &[("pragma", "no-cache")], Hit, Miss),
        ("max-age=60", &[("pragma", "foo")], Hit, Hit),
        ("max-age=60", &[("pragma", "no-cache"), ("cache-control", "x")], Hit, Hit),
        ("max-age=5", &[("cache-control", "max-stale")], Miss, Miss),
        ("max-age=5, stale-if-error=60", &[("cache-control", "max-stale")], Miss, Stale),
        ("max-age=5, stale-if-error=60", &[("cache-control", "max-stale=5")], Miss, Stale),
        ("max-age=5, stale-if-error=60", &[("cache-control", "max-stale=4")], Miss, Miss),
        (
            "max-age=5, stale-if-error=60, must-revalidate",
            &[("cache-control", "max-stale")],
            Miss,
            Miss,
        ),
        ("s-maxage=5, stale-if-error=60", &[("cache-control", "max-stale")], Miss, Miss),
    ];
    for (response, headers, explicit, rfc9111) in table {
        let name = format!("{response} {headers:?}");
        assert_eq!(asked(false, response, headers).await, *explicit, "{name}");
        if *headers == [("cache-control", "max-stale")] && *response == "max-age=5" {
            // Kept for a day past its freshness, for when the origin fails.
            assert_eq!(asked(true, response, headers).await, Stale, "{name}");
        } else {
            assert_eq!(asked(true, response, headers).await, *rfc9111, "{name}, RFC 9111");
        }
    }
}

#[tokio::test]
async fn only_if_cached_is_504() {
    let app = App::new(layer().rfc9111(), |_, _| answer(&[], ""));
    let refused = app.get_with("/", &[("cache-control", "only-if-cached")]).await;
    assert_eq!((refused.status.as_u16(), refused.outcome), (504, Some(CacheOutcome::NotStored)));
    assert_eq!(app.calls(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_delay_of_the_response_is_age() {
    let app = App::with_service(layer(), |number, _| async move {
        tokio::time::sleep(std::time::Duration::from_secs(5)).await;
        Ok(answer(&[("cache-control", "max-age=10")], number.to_string()))
    });
    assert_eq!(app.get("/").await.text(), "1");
    advance(4).await;
    assert_eq!(app.get("/").await.header("age"), Some("9"));
    advance(1).await;
    assert_eq!(app.get("/").await.text(), "2");
}

#[tokio::test]
async fn invalidation() {
    // RFC 9111, section 4.4.
    let table = [
        ("POST", 200, None, true),
        ("PUT", 204, None, true),
        ("DELETE", 303, None, true),
        ("PATCH", 200, None, true),
        ("M-SEARCH", 200, None, true),
        ("POST", 500, None, false),
        ("DELETE", 404, None, false),
        ("OPTIONS", 200, None, false),
        ("POST", 201, Some(("location", "/a")), true),
        ("POST", 201, Some(("content-location", "http://example.com/a")), true),
        ("POST", 201, Some(("location", "a?")), false),
        ("POST", 201, Some(("location", "http://other.example/a")), false),
        ("POST", 500, Some(("location", "/a")), false),
    ];
    for (method, code, location, gone) in table {
        let app = App::new(layer(), move |_, request| {
            if request.method == Method::GET {
                return answer(&[("cache-control", "max-age=60")], "");
            }
            status(code, location.as_slice(), "")
        });
        app.get("/a").await;
        let target = if location.is_some() { "/b" } else { "/a" };
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        app.send(request(method.clone(), target, &[])).await;
        let hit = app.get("/a").await.outcome == Some(CacheOutcome::Hit);
        assert_eq!(hit, !gone, "{method} {code} {location:?}");
    }
}

#[tokio::test]
async fn fields_of_a_connection_are_not_stored() {
    // RFC 9110, section 7.6.1; RFC 9111, section 3.1.
    let dropped = [
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authentication-info",
        "proxy-connection",
        "te",
        "upgrade",
        "x-named",
        "x-private",
        "x-no-cache",
    ];
    let app = App::new(layer(), move |_, _| {
        let mut response = answer(
            &[
                ("cache-control", "max-age=60, private=\"x-private\", no-cache=\"x-no-cache\""),
                ("connection", "X-Named, close"),
                ("x-kept", "1"),
            ],
            "",
        );
        for name in dropped.into_iter().filter(|name| *name != "connection") {
            response.headers_mut().insert(name, "1".parse().unwrap());
        }
        response
    });
    let first = app.get("/").await;
    assert_eq!(first.header("x-private"), Some("1"), "the first client gets everything");
    let hit = app.get("/").await;
    assert_eq!(hit.outcome, Some(CacheOutcome::Hit));
    assert_eq!(hit.header("x-kept"), Some("1"));
    for name in dropped {
        assert_eq!(hit.header(name), None, "{name}");
    }
}
