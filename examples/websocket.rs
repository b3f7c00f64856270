//! A WebSocket that echoes what it hears. At a reload or a stop it says so, with the close code 1012
//! ("service restart"), and the client connects again: to the new worker.
//!
//! ```text
//! cargo run --example websocket
//! ```

use axum::{
    Router,
    extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code},
    response::Response,
    routing::get,
};
use graceful::Handle;

pub fn app() -> Router {
    Router::new().route("/websocket", get(echo))
}

async fn echo(upgrade: WebSocketUpgrade, handle: Handle) -> Response {
    upgrade.on_upgrade(|socket| talk(socket, handle))
}

async fn talk(mut socket: WebSocket, handle: Handle) {
    loop {
        // Only between two messages: what has begun is finished.
        let message = tokio::select! {
            message = socket.recv() => message,
            () = handle.draining() => return part(socket).await,
        };
        match message {
            Some(Ok(message @ (Message::Text(_) | Message::Binary(_)))) => {
                if socket.send(message).await.is_err() {
                    return;
                }
            }
            // axum answers pings and the client's goodbye by itself.
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
            Some(Ok(Message::Close(_)) | Err(_)) | None => return,
        }
    }
}

/// Says goodbye, and waits for the client's goodbye, so that nothing on its way is cut off.
async fn part(mut socket: WebSocket) {
    let reason = "a new version takes over".into();
    let frame = CloseFrame { code: close_code::RESTART, reason };
    if socket.send(Message::Close(Some(frame))).await.is_ok() {
        // The process waits for this connection, too, up to `stop_timeout`.
        while let Some(Ok(_)) = socket.recv().await {}
    }
}

#[tokio::main]
async fn main() -> Result<(), graceful::Error> {
    graceful::serve(app()).await
}
