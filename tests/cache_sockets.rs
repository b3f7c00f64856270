//! Collapsing over real sockets, with HTTP/1 and HTTP/2: many clients, one call of the handler.
#![allow(clippy::unwrap_used)]

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures_util::future::join_all;
use futures_util::stream;
use graceful::cache::LruCacheLayer;
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
use tower::{Layer, service_fn};

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
        let service = LruCacheLayer::new(1000).layer(handler);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let service = TowerToHyperService::new(service.clone());
                tokio::spawn(async move {
                    let server = auto::Builder::new(TokioExecutor::new());
                    let _ = server.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
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
        match self {
            Self::One(client) => {
                client.send_request(request(address, http::Version::HTTP_11)).await.unwrap()
            }
            Self::Two(client) => {
                client.send_request(request(address, http::Version::HTTP_2)).await.unwrap()
            }
        }
    }
}

async fn clients(address: SocketAddr, http2: bool) -> Vec<Client> {
    let mut clients = Vec::new();
    while clients.len() < CLIENTS {
        let io = TokioIo::new(TcpStream::connect(address).await.unwrap());
        if http2 {
            let (client, connection) =
                conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
            tokio::spawn(connection);
            clients.extend((0..STREAMS).map(|_| Client::Two(client.clone())));
        } else {
            let (client, connection) = conn::http1::handshake(io).await.unwrap();
            tokio::spawn(connection);
            clients.push(Client::One(client));
        }
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
