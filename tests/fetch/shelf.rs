//! An HTTP server with binaries, which keeps account of who asks for what, and can be made to fail.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::{StreamExt, stream};

use crate::build::Signer;

/// How a download goes wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) enum Fault {
    #[default]
    None,
    /// The connection is cut after so many bytes of each answer.
    Cut(usize),
    /// The same, and there is nothing by which to know it again.
    CutForgotten(usize),
    /// The same, but it answers with the whole of it, whatever part is asked for.
    CutWhole(usize),
    /// It has a date, and no tag.
    Dated,
    /// Nothing comes after so many bytes.
    Stall(usize),
}

#[derive(Clone, Debug)]
struct Item {
    content: Bytes,
    fault: Fault,
    etag: String,
}

/// A request, by what matters here.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) status: u16,
}

impl Asked {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().expect("text"))
    }
}

#[derive(Debug, Default)]
struct Inner {
    items: HashMap<String, Item>,
    redirects: HashMap<String, String>,
    asked: Vec<Asked>,
    versions: u64,
}

#[derive(Clone, Debug)]
pub(crate) struct Shelf {
    inner: Arc<Mutex<Inner>>,
    pub(crate) addr: SocketAddr,
}

impl Shelf {
    pub(crate) async fn open() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let addr = listener.local_addr().expect("bound");
        let shelf = Self { inner: Arc::default(), addr };
        let router = shelf.router();
        tokio::spawn(async move { axum::serve(listener, router).await });
        shelf
    }

    pub(crate) fn router(&self) -> Router {
        Router::new().fallback(answer).with_state(self.clone())
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no panic while it is held")
    }

    pub(crate) fn put(&self, path: &str, content: impl Into<Bytes>) {
        self.put_faulty(path, content, Fault::None);
    }

    pub(crate) fn put_faulty(&self, path: &str, content: impl Into<Bytes>, fault: Fault) {
        let mut inner = self.lock();
        inner.versions += 1;
        let etag = format!("\"{}\"", inner.versions);
        inner.items.insert(path.to_owned(), Item { content: content.into(), fault, etag });
    }

    /// Puts a binary there with its signature.
    pub(crate) fn publish(&self, path: &str, content: &Bytes, signer: &Signer) {
        self.put(&format!("{path}.minisig"), signer.sign(content));
        self.put(path, content.clone());
    }

    pub(crate) fn remove(&self, path: &str) {
        self.lock().items.remove(path);
    }

    pub(crate) fn redirect(&self, path: &str, to: impl Into<String>) {
        self.lock().redirects.insert(path.to_owned(), to.into());
    }

    /// Redirects no more.
    pub(crate) fn stay(&self, path: &str) {
        self.lock().redirects.remove(path);
    }

    /// What was asked for at this path.
    pub(crate) fn asked(&self, path: &str) -> Vec<Asked> {
        self.lock().asked.iter().filter(|asked| asked.path == path).cloned().collect()
    }

    /// The statuses of the answers at this path.
    pub(crate) fn statuses(&self, path: &str) -> Vec<u16> {
        self.asked(path).iter().map(|asked| asked.status).collect()
    }

    pub(crate) fn forget(&self) {
        self.lock().asked.clear();
    }
}

async fn answer(State(shelf): State<Shelf>, request: Request) -> Response {
    let path = request.uri().path().to_owned();
    let response = shelf.find(&path, request.headers());
    let (headers, status) = (request.headers().clone(), response.status().as_u16());
    shelf.lock().asked.push(Asked { path, headers, status });
    response
}

impl Shelf {
    fn find(&self, path: &str, asked: &HeaderMap) -> Response {
        let inner = self.lock();
        if let Some(to) = inner.redirects.get(path) {
            return (StatusCode::FOUND, [(header::LOCATION, to.clone())]).into_response();
        }
        let Some(item) = inner.items.get(path) else {
            return StatusCode::NOT_FOUND.into_response();
        };
        let is = |name| asked.get(name).is_some_and(|value| *value == item.etag);
        if item.fault == Fault::Dated {
            let date = "Sun, 06 Nov 1994 08:49:37 GMT";
            let seen = asked.get(header::IF_MODIFIED_SINCE).is_some_and(|seen| seen == date);
            let dated = [(header::LAST_MODIFIED, date)];
            return match seen {
                true => StatusCode::NOT_MODIFIED.into_response(),
                false => (dated, item.content.clone()).into_response(),
            };
        }
        if is(header::IF_NONE_MATCH) {
            return StatusCode::NOT_MODIFIED.into_response();
        }
        let part = asked.get(header::RANGE).filter(|_| is(header::IF_RANGE));
        let part = part.filter(|_| !matches!(item.fault, Fault::CutWhole(_)));
        let start = part.and_then(|part| {
            part.to_str().ok()?.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok()
        });
        let length = item.content.len();
        let mut response = Response::new(item.body(start.unwrap_or(0)));
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_LENGTH, (length - start.unwrap_or(0)).into());
        if !matches!(item.fault, Fault::CutForgotten(_)) {
            headers.insert(header::ETAG, item.etag.parse().expect("a tag"));
        }
        if let Some(start) = start {
            let range = format!("bytes {start}-{}/{length}", length - 1);
            headers.insert(header::CONTENT_RANGE, range.parse().expect("a range"));
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        }
        response
    }
}

impl Item {
    fn body(&self, start: usize) -> Body {
        let content = self.content.slice(start..);
        let cut = |bytes: usize| content.slice(..bytes.min(content.len()));
        match self.fault {
            Fault::None | Fault::Dated => Body::from(content),
            Fault::Cut(bytes) | Fault::CutForgotten(bytes) if bytes >= content.len() => {
                Body::from(content)
            }
            Fault::Cut(bytes) | Fault::CutForgotten(bytes) => {
                let end = stream::once(async {
                    // So that what came before it is sent.
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    Err(std::io::Error::other("cut"))
                });
                Body::from_stream(stream::iter([Ok(cut(bytes))]).chain(end))
            }
            // One more piece with each answer: else it would never end.
            Fault::CutWhole(bytes) => {
                let end = stream::once(async {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    Err(std::io::Error::other("cut"))
                });
                static ANSWERS: std::sync::atomic::AtomicUsize =
                    std::sync::atomic::AtomicUsize::new(1);
                let answers = ANSWERS.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                match bytes * answers >= content.len() {
                    true => Body::from(content),
                    false => Body::from_stream(stream::iter([Ok(cut(bytes * answers))]).chain(end)),
                }
            }
            Fault::Stall(bytes) => {
                let silence = stream::pending();
                Body::from_stream(
                    stream::iter([Ok::<_, std::io::Error>(cut(bytes))]).chain(silence),
                )
            }
        }
    }
}
