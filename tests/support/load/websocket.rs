//! The WebSocket clients: each message has to come back whole, and each end has to be announced.

use std::time::Instant;

use futures_util::{SinkExt, StreamExt};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error, Message};

use super::super::pattern;
use super::client::Client;
use super::socket::Socket;

/// The longest message.
const BYTES: u64 = 32 * 1024;

type Connection = WebSocketStream<Socket>;

pub(super) async fn run(mut client: Client) {
    let mut connection: Option<Connection> = None;
    let mut connected = false;
    for _ in 0..client.requests {
        if !client.pause().await {
            break;
        }
        let began = Instant::now();
        let mut open = match connection.take() {
            Some(open) => open,
            None => {
                let Some(open) = connect(&client, began, connected).await else { continue };
                connected = true;
                open
            }
        };
        let message = pattern::bytes(0, client.random.below(BYTES) as usize);
        let echo = tokio::time::timeout(client.timeout, exchange(&mut open, message)).await;
        match echo.unwrap_or_else(|_| Err("timed out".to_owned())) {
            Ok(Answer::Echo) => {
                client.done(began);
                connection = Some(open);
            }
            Ok(Answer::Goodbye) => client.count(|account| {
                account.announced += 1;
                account.refused += 1;
            }),
            Err(what) => client.lost(began, what, None),
        }
    }
    if let Some(mut open) = connection {
        // The account is closed: it may have been told to go meanwhile.
        let _ = open.close(None).await;
    }
}

async fn connect(client: &Client, began: Instant, again: bool) -> Option<Connection> {
    let socket = client.connect(began, again).await?;
    match tokio_tungstenite::client_async("ws://load/websocket", socket).await {
        Ok((connection, _)) => Some(connection),
        Err(error) => {
            client.lost(began, format!("cannot open a WebSocket: {error}"), None);
            None
        }
    }
}

enum Answer {
    Echo,
    /// The server has said that it leaves, and the message was not heard: send it again elsewhere.
    Goodbye,
}

async fn exchange(open: &mut Connection, bytes: Vec<u8>) -> Result<Answer, String> {
    let sent = open.send(Message::binary(bytes.clone())).await;
    loop {
        match open.next().await {
            Some(Ok(Message::Binary(echo))) if echo == bytes => {
                sent.map_err(|error| format!("{error} while sending"))?;
                return Ok(Answer::Echo);
            }
            Some(Ok(Message::Close(Some(frame)))) if frame.code == CloseCode::Restart => break,
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
            Some(Ok(other)) => return Err(format!("{} wrong bytes", other.len())),
            Some(Err(error)) => return Err(format!("{error} instead of an echo")),
            None => return Err("EOF instead of an echo".to_owned()),
        }
    }
    // Our goodbye goes out with the next read, and the end has to be a clean one.
    match open.next().await {
        None | Some(Err(Error::ConnectionClosed)) => Ok(Answer::Goodbye),
        Some(Ok(message)) => Err(format!("{} bytes after the goodbye", message.len())),
        Some(Err(error)) => Err(format!("{error} after the goodbye")),
    }
}
