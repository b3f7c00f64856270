//! The cache over real sockets, with HTTP/1 and HTTP/2: many clients and one call of the handler, and answers of which
//! the length has to be right.
#![allow(clippy::unwrap_used)]

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures_util::future::join_all;
use futures_util::stream;
use graceful::cache::{LruCache, LruCacheLayer};
use http::{Request, Response};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::Incoming;
use hyper::client::conn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tower::{Layer, Service, service_fn};

const CLIENTS: usize = 1000;
/// HTTP/2 puts all of them on a few connections.
const STREAMS: usize = 100;

type Body = UnsyncBoxBody<Bytes, Infallible>;

struct Server {
    address: SocketAddr,
    calls: Arc<AtomicUsize>,
    /// A permit for each call that may answer.
    heads: Arc<Semaphore>,
    /// What is sent here is the body of the first call, where it is streamed.
    body: mpsc::UnboundedSender<Bytes>,
}

impl Server {
    async fn start(streamed: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let calls = Arc::new(AtomicUsize::new(0));
        let heads = Arc::new(Semaphore::new(0));
        let (body, receive) = mpsc::unbounded_channel::<Bytes>();
        let receive = Arc::new(std::sync::Mutex::new(Some(receive)));
        let handler = {
            let (calls, heads) = (calls.clone(), heads.clone());
            service_fn(move |_: Request<Incoming>| {
                let (calls, heads, receive) = (calls.clone(), heads.clone(), receive.clone());
                async move {
                    calls.fetch_add(1, Ordering::SeqCst);
                    heads.acquire().await.unwrap().forget();
                    let taken = receive.lock().unwrap().take();
                    let body: Body = match taken.filter(|_| streamed) {
                        Some(mut receive) => StreamBody::new(stream::poll_fn(move |cx| {
                            receive.poll_recv(cx).map(|data| data.map(|data| Ok(Frame::data(data))))
                        }))
                        .boxed_unsync(),
                        None => Full::new(Bytes::from_static(b"abc")).boxed_unsync(),
                    };
                    let response = Response::builder().header("cache-control", "max-age=60");
                    Ok::<_, Infallible>(response.body(body).unwrap())
                }
            })
        };
        tokio::spawn(serve(listener, LruCacheLayer::new(1000).layer(handler)));
        Self { address, calls, heads, body }
    }

    fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    async fn called(&self) {
        while self.calls() == 0 {
            tokio::task::yield_now().await;
        }
    }
}

async fn serve<S>(listener: TcpListener, service: LruCache<S>)
where
    S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible>,
    S: Clone + Send + 'static,
    S::Future: Send + 'static,
{
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let service = TowerToHyperService::new(service.clone());
        tokio::spawn(async move {
            let server = auto::Builder::new(TokioExecutor::new());
            let _ = server.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

fn request(address: SocketAddr, version: http::Version) -> Request<Empty<Bytes>> {
    let uri = if version == http::Version::HTTP_2 {
        format!("http://{address}/")
    } else {
        "/".to_owned()
    };
    let mut request = Request::get(uri).version(version);
    if version == http::Version::HTTP_11 {
        request = request.header("host", address.to_string());
    }
    request.body(Empty::new()).unwrap()
}

enum Client {
    One(conn::http1::SendRequest<Empty<Bytes>>),
    Two(conn::http2::SendRequest<Empty<Bytes>>),
}

impl Client {
    async fn send(&mut self, address: SocketAddr) -> Response<Incoming> {
        self.ask(address, &[]).await
    }

    async fn ask(
        &mut self,
        address: SocketAddr,
        headers: &[(&'static str, &'static str)],
    ) -> Response<Incoming> {
        let version = match self {
            Self::One(_) => http::Version::HTTP_11,
            Self::Two(_) => http::Version::HTTP_2,
        };
        let mut request = request(address, version);
        for (name, value) in headers {
            request.headers_mut().insert(*name, http::HeaderValue::from_static(value));
        }
        match self {
            Self::One(client) => client.send_request(request).await.unwrap(),
            Self::Two(client) => client.send_request(request).await.unwrap(),
        }
    }
}

/// The clients of one connection: one with HTTP/1, many with HTTP/2.
async fn connect(address: SocketAddr, http2: bool) -> Vec<Client> {
    let io = TokioIo::new(TcpStream::connect(address).await.unwrap());
    if http2 {
        let (client, connection) = conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
        tokio::spawn(connection);
        (0..STREAMS).map(|_| Client::Two(client.clone())).collect()
    } else {
        let (client, connection) = conn::http1::handshake(io).await.unwrap();
        tokio::spawn(connection);
        vec![Client::One(client)]
    }
}

async fn clients(address: SocketAddr, http2: bool) -> Vec<Client> {
    let mut clients = Vec::new();
    while clients.len() < CLIENTS {
        clients.extend(connect(address, http2).await);
    }
    clients
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_clients_make_one_call() {
    for http2 in [false, true] {
        for streamed in [false, true] {
            for leader_leaves in [false, true] {
                let name =
                    format!("HTTP/2: {http2}, streamed: {streamed}, leaves: {leader_leaves}");
                let server = Server::start(streamed).await;
                let address = server.address;
                let mut clients = clients(address, http2).await;
                let mut leader = clients.pop().unwrap();
                let led = tokio::spawn(async move { (leader.send(address).await, leader) });
                server.called().await;
                let followers =
                    tokio::spawn(join_all(clients.into_iter().map(|mut client| async move {
                        let response = client.send(address).await;
                        let body = response.into_body().collect().await.unwrap();
                        (body.to_bytes(), client)
                    })));
                server.heads.add_permits(1);
                let (response, leader) = led.await.unwrap();
                if leader_leaves {
                    // The head has come; the connection of the leader goes away.
                    drop((response, leader));
                } else {
                    tokio::spawn(async move {
                        let _ = (response.into_body().collect().await, leader);
                    });
                }
                if streamed {
                    for piece in [&b"a"[..], b"b", b"c"] {
                        server.body.send(Bytes::from_static(piece)).unwrap();
                        tokio::task::yield_now().await;
                    }
                }
                drop(server.body);
                let bodies = followers.await.unwrap();
                assert!(bodies.iter().all(|(body, _)| body == "abc"), "{name}");
                assert_eq!(server.calls.load(Ordering::SeqCst), 1, "{name}");
            }
        }
    }
}

/// Answers one range of a thousand bytes, unless `If-Range` names another entity tag.
fn thousand(request: &Request<Incoming>) -> Response<Body> {
    let content: Vec<u8> = (0..1000).map(|place| b'a' + (place % 26) as u8).collect();
    let mut response = Response::builder()
        .header("cache-control", "max-age=60")
        .header("content-type", "text/plain")
        .header("etag", "\"a\"");
    let read = |name| request.headers().get(name).map(|value| value.to_str().unwrap());
    let range = read("range").filter(|_| read("if-range").is_none_or(|tag| tag == "\"a\""));
    let body = match range.and_then(|range| range.strip_prefix("bytes=")?.split_once('-')) {
        Some((first, last)) => {
            let place = format!("bytes {first}-{last}/1000");
            response = response.status(206).header("content-range", place);
            content[first.parse().unwrap()..=last.parse().unwrap()].to_vec()
        }
        None => content,
    };
    response.body(Full::new(Bytes::from(body)).boxed_unsync()).unwrap()
}

#[tokio::test]
async fn answers_of_several_pieces_leave_the_connection_in_step() {
    for http2 in [false, true] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(std::sync::Mutex::new(Vec::new()));
        let handler = service_fn({
            let asked = asked.clone();
            move |request: Request<Incoming>| {
                let range = request.headers().get("range").map(|range| range.to_str().unwrap());
                asked.lock().unwrap().push(range.map(str::to_owned));
                let response = thousand(&request);
                async move { Ok::<_, Infallible>(response) }
            }
        });
        let service = LruCacheLayer::new(1000).rfc9111().layer(handler);
        let server = tokio::spawn(serve(listener, service));
        let mut client = connect(address, http2).await.pop().unwrap();
        let mut ask = async |headers: &[(&'static str, &'static str)]| {
            let response = client.ask(address, headers).await;
            let status = response.status().as_u16();
            let length = response.headers().get("content-length").cloned();
            let body = response.into_body().collect().await.unwrap().to_bytes();
            if status != 304 {
                assert_eq!(length.unwrap(), body.len().to_string(), "{headers:?}");
            }
            (status, body)
        };
        let whole = |range: std::ops::Range<usize>| -> Bytes {
            range.map(|place| b'a' + (place % 26) as u8).collect()
        };
        assert_eq!(ask(&[("range", "bytes=0-99")]).await, (206, whole(0..100)));
        // The rest of what is stored in part, and both together.
        assert_eq!(ask(&[("range", "bytes=50-199")]).await, (206, whole(50..200)));
        assert_eq!(ask(&[]).await, (200, whole(0..1000)));
        let expected = [Some("bytes=0-99"), Some("bytes=100-199"), Some("bytes=200-999")];
        assert_eq!(*asked.lock().unwrap(), expected.map(|range| range.map(str::to_owned)));
        // Parts of the whole, and then something else on the same connection.
        let (status, parts) = ask(&[("range", "bytes=0-9,500-509")]).await;
        let text = std::str::from_utf8(&parts).unwrap();
        assert_eq!(status, 206);
        assert!(text.contains("Content-Range: bytes 0-9/1000\r\n\r\nabcdefghij\r\n--"), "{text}");
        assert!(text.contains("Content-Range: bytes 500-509/1000\r\n\r\n"), "{text}");
        assert_eq!(ask(&[("if-none-match", "\"a\"")]).await, (304, Bytes::new()));
        assert_eq!(ask(&[("range", "bytes=-10")]).await, (206, whole(990..1000)));
        assert_eq!(asked.lock().unwrap().len(), 3);
        server.abort();
    }
}
