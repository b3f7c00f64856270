//! A caching reverse proxy, to be put in front of any origin.
//!
//! ```text
//! cargo run --release --example reverse_proxy -- \
//!     --listen 127.0.0.1:8001 --origin http://127.0.0.1:8000 --profile rfc9111
//! ```
//!
//! Bodies stream both ways. Fields of a connection are not forwarded; `Via`, `Forwarded` and
//! `X-Forwarded-*` are added. Upgrades (WebSocket) pass. An origin that cannot be reached is 502, one that
//! does not answer in time 504. `Cache-Status` says what the cache did.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::convert::Infallible;
use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use graceful::cache::LruCacheLayer;
use http::header::{CONNECTION, HOST, HeaderName, UPGRADE, VIA};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Uri, Version};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tower::{Layer, Service};

type BoxError = Box<dyn Error + Send + Sync>;
type Body = UnsyncBoxBody<Bytes, BoxError>;
type Answer = std::pin::Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

const USAGE: &str = "reverse_proxy --listen ADDRESS --origin http://HOST:PORT \
                     [--profile default|rfc9111] [--capacity KEYS] [--max-bytes BYTES] [--timeout SECONDS]";

/// Origins usually close a connection after five idle seconds; one that they are about to close is not used.
const IDLE: Duration = Duration::from_secs(4);

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let options = Options::from_args(std::env::args().skip(1))?;
    let listener = TcpListener::bind(options.listen).await?;
    println!("listening on {}", listener.local_addr()?);

    let mut layer = LruCacheLayer::new(options.capacity).max_bytes(options.max_bytes);
    if options.rfc9111 {
        layer = layer.rfc9111();
    }
    let proxy = Proxy::new(options.origin, options.timeout);
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Usually too many open files, which takes a moment to pass.
                eprintln!("cannot accept: {error}");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let _ = stream.set_nodelay(true);
        let service = TowerToHyperService::new(layer.layer(proxy.for_peer(peer)));
        tokio::spawn(async move {
            let server = auto::Builder::new(TokioExecutor::new());
            let io = TokioIo::new(stream);
            if let Err(error) = server.serve_connection_with_upgrades(io, service).await {
                eprintln!("{peer}: {error}");
            }
        });
    }
}

struct Options {
    listen: SocketAddr,
    origin: (Scheme, Authority),
    rfc9111: bool,
    capacity: usize,
    max_bytes: usize,
    timeout: Duration,
}

impl Options {
    fn from_args(mut args: impl Iterator<Item = String>) -> Result<Self, BoxError> {
        let mut options = Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8001)),
            origin: (Scheme::HTTP, Authority::from_static("127.0.0.1:8000")),
            rfc9111: false,
            capacity: 100_000,
            max_bytes: 256 * 1024 * 1024,
            timeout: Duration::from_secs(30),
        };
        while let Some(name) = args.next() {
            let value = args.next().ok_or_else(|| format!("{name} needs a value\n{USAGE}"))?;
            match name.as_str() {
                "--listen" => options.listen = value.parse()?,
                "--origin" => options.origin = origin(&value)?,
                "--profile" => {
                    options.rfc9111 = match value.as_str() {
                        "rfc9111" => true,
                        "default" => false,
                        _ => return Err(format!("no such profile: {value}\n{USAGE}").into()),
                    }
                }
                "--capacity" => options.capacity = value.parse()?,
                "--max-bytes" => options.max_bytes = value.parse()?,
                "--timeout" => options.timeout = Duration::from_secs(value.parse()?),
                _ => return Err(format!("no such option: {name}\n{USAGE}").into()),
            }
        }
        Ok(options)
    }
}

fn origin(text: &str) -> Result<(Scheme, Authority), BoxError> {
    let uri: Uri = text.parse()?;
    match (uri.scheme(), uri.authority()) {
        (Some(scheme), Some(authority)) if *scheme == Scheme::HTTP => {
            Ok((scheme.clone(), authority.clone()))
        }
        _ => Err(format!("the origin must be http://HOST:PORT, not {text}").into()),
    }
}

/// Forwards every request to the origin.
#[derive(Clone)]
struct Proxy {
    client: Client<HttpConnector, Incoming>,
    origin: Arc<(Scheme, Authority)>,
    timeout: Duration,
    peer: Option<SocketAddr>,
}

impl Proxy {
    fn new(origin: (Scheme, Authority), timeout: Duration) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(timeout));
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .build(connector);
        Self { client, origin: Arc::new(origin), timeout, peer: None }
    }

    fn for_peer(&self, peer: SocketAddr) -> Self {
        Self { peer: Some(peer), ..self.clone() }
    }

    async fn forward(self, mut request: Request<Incoming>) -> Response<Body> {
        let wanted = upgrade(request.headers());
        let client_side = wanted.is_some().then(|| hyper::upgrade::on(&mut request));
        if let Err(error) = self.prepare(&mut request, wanted.as_ref()) {
            return failure(StatusCode::BAD_REQUEST, &*error);
        }
        let answer = tokio::time::timeout(self.timeout, self.client.request(request)).await;
        let mut response = match answer {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return failure(StatusCode::BAD_GATEWAY, &error),
            Err(error) => return failure(StatusCode::GATEWAY_TIMEOUT, &error),
        };
        let version = response.version();
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            let Some(client_side) = client_side else {
                return failure(StatusCode::BAD_GATEWAY, &*BoxError::from("unasked upgrade"));
            };
            let origin_side = hyper::upgrade::on(&mut response);
            tokio::spawn(async move {
                let (Ok(client), Ok(origin)) = tokio::join!(client_side, origin_side) else {
                    return;
                };
                let (mut client, mut origin) = (TokioIo::new(client), TokioIo::new(origin));
                let _ = tokio::io::copy_bidirectional(&mut client, &mut origin).await;
            });
        } else {
            remove_hop_by_hop(response.headers_mut());
        }
        add_via(response.headers_mut(), version);
        *response.version_mut() = Version::HTTP_11;
        response.map(|body| body.map_err(Into::into).boxed_unsync())
    }

    fn prepare(
        &self,
        request: &mut Request<Incoming>,
        upgrade: Option<&HeaderValue>,
    ) -> Result<(), BoxError> {
        let (scheme, authority) = &*self.origin;
        let path = request.uri().path_and_query().cloned();
        let host = match request.uri().authority() {
            Some(authority) => HeaderValue::from_str(authority.as_str())?,
            None => match request.headers().get(HOST) {
                Some(host) => host.clone(),
                None => HeaderValue::from_str(authority.as_str())?,
            },
        };
        *request.uri_mut() = Uri::builder()
            .scheme(scheme.clone())
            .authority(authority.clone())
            .path_and_query(path.unwrap_or_else(|| PathAndQuery::from_static("/")))
            .build()?;
        let version = request.version();
        *request.version_mut() = Version::HTTP_11;
        let headers = request.headers_mut();
        remove_hop_by_hop(headers);
        if let Some(protocol) = upgrade {
            headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
            headers.insert(UPGRADE, protocol.clone());
        }
        if let Some(peer) = self.peer {
            let address = peer.ip();
            append(headers, "x-forwarded-for", &address.to_string())?;
            let node = match address {
                std::net::IpAddr::V4(address) => format!("for={address}"),
                std::net::IpAddr::V6(address) => format!("for=\"[{address}]\""),
            };
            append(headers, "forwarded", &node)?;
        }
        headers.entry(HeaderName::from_static("x-forwarded-host")).or_insert_with(|| host.clone());
        headers
            .entry(HeaderName::from_static("x-forwarded-proto"))
            .or_insert(HeaderValue::from_static("http"));
        headers.insert(HOST, host);
        add_via(headers, version);
        Ok(())
    }
}

impl Service<Request<Incoming>> for Proxy {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Incoming>) -> Answer {
        let proxy = self.clone();
        Box::pin(async move { Ok(proxy.forward(request).await) })
    }
}

/// The protocol that a client wants to change to.
fn upgrade(headers: &HeaderMap) -> Option<HeaderValue> {
    let asks = headers.get_all(CONNECTION).iter().any(|line| {
        let line = line.to_str().unwrap_or_default();
        line.split(',').any(|member| member.trim().eq_ignore_ascii_case("upgrade"))
    });
    headers.get(UPGRADE).filter(|_| asks).cloned()
}

/// RFC 9110, section 7.6.1.
fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named {
        headers.remove(name);
    }
    for name in [
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authentication-info",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "transfer-encoding",
        "upgrade",
    ] {
        headers.remove(name);
    }
}

fn add_via(headers: &mut HeaderMap, version: Version) {
    let received = if version == Version::HTTP_2 {
        "2.0 graceful"
    } else if version == Version::HTTP_10 {
        "1.0 graceful"
    } else {
        "1.1 graceful"
    };
    headers.append(VIA, HeaderValue::from_static(received));
}

/// One more member of a list.
fn append(headers: &mut HeaderMap, name: &'static str, member: &str) -> Result<(), BoxError> {
    let mut members: Vec<&str> =
        headers.get_all(name).iter().filter_map(|line| line.to_str().ok()).collect();
    members.push(member);
    let value = HeaderValue::from_str(&members.join(", "))?;
    headers.insert(name, value);
    Ok(())
}

fn failure(status: StatusCode, error: &(dyn Error + 'static)) -> Response<Body> {
    eprintln!("{status}: {error}");
    let mut response = Response::new(Empty::new().map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = status;
    response
}
