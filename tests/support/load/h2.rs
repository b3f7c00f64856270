//! The HTTP/2 clients: several streams on one connection, a new connection after GOAWAY.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use http::{HeaderMap, Request, StatusCode};
use tokio::sync::Mutex;
use tokio::task::JoinSet;

use super::super::app;
use super::account::{Kind, Worker};
use super::client::Client;

const STREAMS: u64 = 4;

pub(super) async fn run(client: Client) {
    let session = Arc::new(Mutex::new(Session::default()));
    let mut streams = JoinSet::new();
    for number in 0..STREAMS {
        let mut client = client.clone();
        if number == STREAMS - 1 {
            client.kind = Kind::H2Slow;
        }
        client.random.jump(number);
        streams.spawn(stream(client, Arc::clone(&session)));
    }
    while let Some(ended) = streams.join_next().await {
        ended.expect("a stream of the load client does not panic");
    }
}

/// The connection that new requests go to.
#[derive(Default)]
struct Session {
    /// How many connections were made; tells this one from those before.
    number: u64,
    sender: Option<SendRequest<Bytes>>,
    worker: Option<Worker>,
    /// A request was answered on it.
    used: bool,
}

async fn stream(mut client: Client, session: Arc<Mutex<Session>>) {
    for _ in 0..client.requests {
        if !client.pause().await {
            break;
        }
        let began = Instant::now();
        let Some((number, response)) = send(&client, &session, began).await else { continue };
        match tokio::time::timeout(client.timeout, answer(&client, response)).await {
            Ok(Ok(Answer { status, worker })) => {
                if status == StatusCode::SERVICE_UNAVAILABLE {
                    client.count(|account| account.unavailable += 1);
                } else {
                    client.done(began);
                }
                let mut session = session.lock().await;
                if session.number == number {
                    session.used = true;
                    session.worker = worker.or(session.worker);
                }
                drop(session);
                if let Some(worker) = worker {
                    client.shared.answered_by(worker);
                }
            }
            Ok(Err(failure)) => fail(&client, &session, number, began, failure).await,
            Err(_) => {
                let failure = Failure::Lost("timed out".to_owned());
                fail(&client, &session, number, began, failure).await;
            }
        }
    }
}

/// Hands a request to the connection, or to a new one if that one has ended or said GOAWAY: nothing of
/// the request was written then. None: it was lost.
async fn send(
    client: &Client,
    session: &Mutex<Session>,
    began: Instant,
) -> Option<(u64, ResponseFuture)> {
    let path = if client.kind == Kind::H2Slow { "/slow?ms=300" } else { "/" };
    loop {
        let (number, sender) = connected(client, session, began).await?;
        let request = Request::get(format!("http://load{path}")).body(()).expect("a fixed request");
        let sent = match sender.ready().await {
            Ok(mut sender) => sender.send_request(request, true),
            Err(error) => Err(error),
        };
        let error = match sent {
            Ok((response, _)) => return Some((number, response)),
            Err(error) => error,
        };
        let mut session = session.lock().await;
        if session.number != number || session.sender.is_none() {
            // Another stream has seen it first, and accounted for it.
            continue;
        }
        session.sender = None;
        if error.is_go_away() && error.is_remote() {
            client.count(|account| account.announced += 1);
        } else if session.used {
            client.count(|account| account.idle_closed += 1);
        } else {
            let what = format!("a new connection ended before a request: {error}");
            client.lost(began, what, None);
            return None;
        }
    }
}

/// The connection of this session, or a new one. None: it could not be made, which is a loss.
async fn connected(
    client: &Client,
    session: &Mutex<Session>,
    began: Instant,
) -> Option<(u64, SendRequest<Bytes>)> {
    // Held while connecting: the streams share one connection.
    let mut session = session.lock().await;
    if let Some(sender) = &session.sender {
        return Some((session.number, sender.clone()));
    }
    let socket = client.connect(began, session.number > 0).await?;
    let handshake = h2::client::handshake(socket);
    let (sender, connection) = match tokio::time::timeout(client.timeout, handshake).await {
        Ok(Ok(both)) => both,
        Ok(Err(error)) => {
            client.lost(began, format!("cannot begin HTTP/2: {error}"), None);
            return None;
        }
        Err(_) => {
            client.lost(began, "timed out while beginning HTTP/2".to_owned(), None);
            return None;
        }
    };
    // Ends with the connection; each stream learns of an error by its own response.
    tokio::spawn(connection);
    *session =
        Session { number: session.number + 1, sender: Some(sender.clone()), ..Session::default() };
    Some((session.number, sender))
}

enum Failure {
    /// Not processed by the server, which said so.
    Refused {
        goaway: bool,
    },
    Lost(String),
}

impl From<h2::Error> for Failure {
    fn from(error: h2::Error) -> Self {
        // A stream at or below the last one of a GOAWAY goes on: only those above it end with it.
        if error.is_go_away() && error.is_remote() && error.reason() == Some(h2::Reason::NO_ERROR) {
            return Self::Refused { goaway: true };
        }
        if error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM) {
            return Self::Refused { goaway: false };
        }
        Self::Lost(error.to_string())
    }
}

async fn fail(
    client: &Client,
    session: &Mutex<Session>,
    number: u64,
    began: Instant,
    failure: Failure,
) {
    let mut session = session.lock().await;
    let is_current = session.number == number && session.sender.is_some();
    match failure {
        Failure::Refused { goaway } => {
            client.count(|account| {
                account.refused += 1;
                account.announced += u64::from(goaway && is_current);
            });
            if goaway && is_current {
                session.sender = None;
            }
        }
        Failure::Lost(what) => {
            client.lost(began, what, session.worker);
            if is_current {
                session.sender = None;
            }
        }
    }
}

struct Answer {
    status: StatusCode,
    worker: Option<Worker>,
}

async fn answer(client: &Client, response: ResponseFuture) -> Result<Answer, Failure> {
    let (head, mut body) = response.await?.into_parts();
    let expected = if client.kind == Kind::H2Slow { app::SLOW } else { app::PAGE };
    let mut received = Vec::with_capacity(expected.len());
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        received.extend_from_slice(&data);
    }
    let is_right = match head.status {
        StatusCode::OK => client.any_body || received == expected.as_bytes(),
        status => status == StatusCode::SERVICE_UNAVAILABLE,
    };
    if !is_right {
        let (status, length) = (head.status, received.len());
        return Err(Failure::Lost(format!("wrong answer: status {status}, {length} bytes")));
    }
    Ok(Answer { status: head.status, worker: worker(&head.headers) })
}

fn worker(headers: &HeaderMap) -> Option<Worker> {
    let number = |name| headers.get(name)?.to_str().ok()?.parse::<u64>().ok();
    Some(Worker {
        pid: u32::try_from(number("x-worker")?).ok()?,
        generation: number("x-generation")?,
    })
}
