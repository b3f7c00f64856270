use bytes::Bytes;
use http::{
    HeaderValue, Method, Request, Response, StatusCode,
    header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE},
};
use http_body_util::Full;
use serde::Serialize;
use serde_json::json;

use super::{metrics, page};
#[cfg(feature = "fetch")]
use crate::orchestrator::Checked;
use crate::{Error, Handle, orchestrator::Board};

const JSON: &str = "application/json";
const HTML: &str = "text/html; charset=utf-8";
/// Of the text format that Prometheus reads.
const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Answers a request to the control socket.
pub(super) async fn to<B>(
    request: &Request<B>,
    handle: &Handle,
    board: &Board,
) -> Response<Full<Bytes>> {
    let method = request.method();
    match request.uri().path() {
        "/" if reads(method) => with(StatusCode::OK, HTML, page::of(&board.status())),
        "/status" if reads(method) => {
            read_digests(board).await;
            json(StatusCode::OK, &board.status())
        }
        "/metrics" if reads(method) => with(StatusCode::OK, METRICS, metrics::of(&board.status())),
        "/reload" if method == Method::POST => match waits(request.uri().query()) {
            true => outcome(handle.reload_and_wait().await),
            false => accepted(handle.reload()),
        },
        "/rollback" if method == Method::POST => match waits(request.uri().query()) {
            true => outcome(handle.rollback_and_wait().await),
            false => accepted(handle.rollback()),
        },
        #[cfg(feature = "fetch")]
        "/upgrade" if method == Method::POST => match waits(request.uri().query()) {
            true => checked(handle.check_for_upgrade_and_wait().await),
            false => accepted(handle.check_for_upgrade()),
        },
        "/stop" if method == Method::POST => {
            handle.stop();
            accepted(Ok(()))
        }
        "/" | "/status" | "/metrics" => refused("GET, HEAD"),
        "/reload" | "/rollback" | "/stop" => refused("POST"),
        #[cfg(feature = "fetch")]
        "/upgrade" => refused("POST"),
        path => failed(StatusCode::NOT_FOUND, &format!("there is nothing at {path}")),
    }
}

/// Hashes the binaries that were not hashed yet, away from the loop that decides.
async fn read_digests(board: &Board) {
    for image in board.unread() {
        let read = tokio::task::spawn_blocking(move || image.digest()).await;
        if let Ok(Err(error)) = read {
            tracing::warn!(%error, "cannot read a binary");
        }
    }
}

fn reads(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD)
}

/// `?wait`, alone or among others, whatever its value.
fn waits(query: Option<&str>) -> bool {
    let mut names = query.unwrap_or_default().split('&').map(|pair| pair.split('=').next());
    names.any(|name| name == Some("wait"))
}

fn outcome(outcome: Result<u64, Error>) -> Response<Full<Bytes>> {
    match outcome {
        Ok(generation) => json(StatusCode::OK, &json!({ "generation": generation })),
        Err(error) => failed(StatusCode::INTERNAL_SERVER_ERROR, &format!("{error:?}")),
    }
}

#[cfg(feature = "fetch")]
fn checked(checked: Option<Checked>) -> Response<Full<Bytes>> {
    match checked {
        Some(Ok(verdict)) => json(StatusCode::OK, &verdict),
        Some(Err(why)) => failed(StatusCode::INTERNAL_SERVER_ERROR, &why),
        None => failed(StatusCode::INTERNAL_SERVER_ERROR, "the server has ended"),
    }
}

/// The order was given; how it goes is seen elsewhere.
fn accepted(given: Result<(), Error>) -> Response<Full<Bytes>> {
    match given {
        Ok(()) => json(StatusCode::ACCEPTED, &json!({})),
        Err(error) => failed(StatusCode::INTERNAL_SERVER_ERROR, &format!("{error:?}")),
    }
}

fn refused(allowed: &'static str) -> Response<Full<Bytes>> {
    let mut response = failed(StatusCode::METHOD_NOT_ALLOWED, &format!("only {allowed} here"));
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    response
}

fn failed(status: StatusCode, why: &str) -> Response<Full<Bytes>> {
    json(status, &json!({ "error": why }))
}

fn json(status: StatusCode, value: &impl Serialize) -> Response<Full<Bytes>> {
    // Keys are strings and nothing in it can fail to be written.
    let mut text = serde_json::to_string_pretty(value).unwrap_or_default();
    text.push('\n');
    with(status, JSON, text)
}

fn with(status: StatusCode, kind: &'static str, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;
    use crate::{handle::Command, orchestrator::Options};

    async fn ask(method: &str, uri: &str) -> (StatusCode, String, Vec<Command>) {
        let (handle, mut commands) = Handle::new();
        let board = Board::new("/bin/app".as_ref(), &Options::default());
        let request = Request::builder().method(method).uri(uri).body(()).unwrap();
        let response = to(&request, &handle, &board).await;
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let given = std::iter::from_fn(|| commands.try_recv().ok()).collect();
        (status, String::from_utf8(body.to_vec()).unwrap(), given)
    }

    #[tokio::test]
    async fn reading_orders_nothing() {
        for (uri, part) in [
            ("/", "<h1>"),
            ("/status", "\"state\": \"starting\""),
            ("/metrics", "graceful_in_flight 0"),
        ] {
            let (status, body, given) = ask("GET", uri).await;
            assert_eq!(status, StatusCode::OK);
            assert!(body.contains(part), "{body}");
            assert!(given.is_empty());
        }
    }

    #[tokio::test]
    async fn orders_are_given_by_post_only() {
        let (status, _, given) = ask("POST", "/reload?later").await;
        assert_eq!(status, StatusCode::ACCEPTED);
        assert!(matches!(given[..], [Command::Reload]), "{given:?}");
        let (status, _, given) = ask("POST", "/rollback").await;
        assert_eq!(status, StatusCode::ACCEPTED);
        assert!(matches!(given[..], [Command::Rollback(None)]), "{given:?}");
        let (status, _, given) = ask("POST", "/stop").await;
        assert_eq!(status, StatusCode::ACCEPTED);
        assert!(matches!(given[..], [Command::Stop]), "{given:?}");
        for (method, uri, status) in [
            ("GET", "/reload", StatusCode::METHOD_NOT_ALLOWED),
            ("GET", "/stop", StatusCode::METHOD_NOT_ALLOWED),
            ("GET", "/rollback?wait", StatusCode::METHOD_NOT_ALLOWED),
            ("PUT", "/reload?wait", StatusCode::METHOD_NOT_ALLOWED),
            ("POST", "/status", StatusCode::METHOD_NOT_ALLOWED),
            ("POST", "/", StatusCode::METHOD_NOT_ALLOWED),
            ("GET", "/nothing", StatusCode::NOT_FOUND),
            ("POST", "/reload/", StatusCode::NOT_FOUND),
        ] {
            let (answered, body, given) = ask(method, uri).await;
            assert_eq!(answered, status, "{method} {uri}");
            assert!(body.contains("\"error\""), "{body}");
            assert!(given.is_empty(), "{method} {uri}: {given:?}");
        }
    }

    #[tokio::test]
    async fn the_outcome_of_a_reload_is_the_status() {
        let died = || Err("it died".to_owned());
        for (uri, outcome, status, part) in [
            ("/reload?a=1&wait", Ok(7), StatusCode::OK, "\"generation\": 7"),
            ("/reload?wait", died(), StatusCode::INTERNAL_SERVER_ERROR, "failed: it died"),
            ("/rollback?wait", Ok(8), StatusCode::OK, "\"generation\": 8"),
            ("/rollback?wait", died(), StatusCode::INTERNAL_SERVER_ERROR, "failed: it died"),
        ] {
            let (handle, mut commands) = Handle::new();
            let board = Board::new("/bin/app".as_ref(), &Options::default());
            let request = Request::builder().method("POST").uri(uri).body(()).unwrap();
            let master = async {
                let waiter = match commands.recv().await {
                    Some(Command::ReloadAndTell(waiter)) if uri.starts_with("/reload") => waiter,
                    Some(Command::Rollback(Some(waiter))) if uri.starts_with("/rollback") => waiter,
                    other => panic!("{other:?}"),
                };
                waiter.send(outcome).unwrap();
            };
            let (response, ()) = tokio::join!(to(&request, &handle, &board), master);
            assert_eq!(response.status(), status);
            let body = response.into_body().collect().await.unwrap().to_bytes();
            let body = String::from_utf8(body.to_vec()).unwrap();
            assert!(body.contains(part), "{body}");
        }
    }

    #[tokio::test]
    async fn a_reload_of_which_nobody_knows_the_outcome_is_an_error() {
        let (handle, commands) = Handle::new();
        drop(commands);
        let board = Board::new("/bin/app".as_ref(), &Options::default());
        let request = Request::builder().method("POST").uri("/reload?wait").body(()).unwrap();
        let response = to(&request, &handle, &board).await;
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
    }

    #[test]
    fn wait_is_a_name_in_the_query() {
        for query in ["wait", "wait=1", "a=b&wait", "wait&a"] {
            assert!(waits(Some(query)), "{query}");
        }
        for query in [None, Some(""), Some("a=wait"), Some("waiting"), Some("await")] {
            assert!(!waits(query), "{query:?}");
        }
    }
}
