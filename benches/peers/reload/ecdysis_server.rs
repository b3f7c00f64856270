//! The published ecdysis crate with hyper-util's `GracefulShutdown`, put together as the examples of both
//! do: on SIGHUP the process starts its successor, which inherits the listening socket; when that one is
//! ready, the old one stops accepting, shuts its connections down gracefully, and ends.
//!
//! `ecdysis_server ADDR`. The PID changes with each reload.

#[path = "../../../tests/support/mod.rs"]
mod support;

use std::error::Error;
use std::net::SocketAddr;
use std::time::Duration;

use ecdysis::tokio_ecdysis::{SignalKind, StopOnShutdown, TokioEcdysisBuilder};
use futures_util::StreamExt;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;

/// Which generation this is; ecdysis hands its environment down to the successor.
const GENERATION: &str = "ECDYSIS_SERVER_GENERATION";
/// The longest drain in the example of ecdysis.
const EXIT_AFTER_UPGRADE: Duration = Duration::from_secs(60);

fn main() -> Result<(), Box<dyn Error>> {
    let before = std::env::var(GENERATION).map_or(Ok(0), |number| number.parse::<u64>())?;
    let generation = before + 1;
    // SAFETY: no other thread runs yet.
    unsafe { std::env::set_var(GENERATION, generation.to_string()) };
    let addr: SocketAddr = std::env::args().nth(1).ok_or("ADDR is missing")?.parse()?;
    tokio::runtime::Runtime::new()?.block_on(serve(addr, generation))
}

async fn serve(addr: SocketAddr, generation: u64) -> Result<(), Box<dyn Error>> {
    let mut ecdysis = TokioEcdysisBuilder::new(SignalKind::hangup())?;
    ecdysis.stop_on_signal(SignalKind::terminate())?;
    let incoming = ecdysis.build_listen_tcp(StopOnShutdown::Yes, addr, |socket, addr| {
        socket.set_reuse_address(true)?;
        // As graceful does; accepted connections inherit it.
        socket.set_nodelay(true)?;
        socket.bind(&addr.into())?;
        socket.listen(1024)?;
        Ok(socket.into())
    })?;
    let accepting = tokio::spawn(accept(incoming, support::app::app(move || generation)));
    let (_ecdysis, stopped) = ecdysis.ready()?;
    println!("ready {} {generation}", std::process::id());
    stopped.await?;
    let connections = accepting.await?;
    tokio::select! {
        () = connections.shutdown() => Ok(()),
        () = tokio::time::sleep(EXIT_AFTER_UPGRADE) => Err("still draining after a minute".into()),
    }
}

/// Serves what the listener gives until it stops giving.
async fn accept<L>(mut incoming: L, app: axum::Router) -> GracefulShutdown
where
    L: futures_util::Stream<Item = std::io::Result<tokio::net::TcpStream>> + Unpin,
{
    let server = auto::Builder::new(TokioExecutor::new());
    let connections = GracefulShutdown::new();
    while let Some(stream) = incoming.next().await {
        let Ok(stream) = stream else { continue };
        let service = TowerToHyperService::new(app.clone());
        let connection = server.serve_connection_with_upgrades(TokioIo::new(stream), service);
        let connection = connections.watch(connection.into_owned());
        // A connection that breaks is the business of its client.
        tokio::spawn(async move { drop(connection.await) });
    }
    connections
}
