//! `axum::serve` with `with_graceful_shutdown`, handed over by `SO_REUSEPORT`: a supervisor starts the new
//! process, waits until it is ready, and tells the old one to stop. What one does with axum today.
//!
//! `axum_reuseport ADDR` is the supervisor; it reloads on SIGHUP and stops on SIGTERM.
//! `axum_reuseport ADDR GENERATION` is one server; generation 0 serves without the headers that tell who
//! answered.

#[path = "../../../tests/support/mod.rs"]
mod support;

use std::error::Error;
use std::net::SocketAddr;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let addr: SocketAddr = args.next().ok_or("ADDR is missing")?.parse()?;
    match args.next() {
        Some(generation) => serve(addr, generation.parse()?).await,
        None => supervise(addr).await,
    }
}

async fn serve(addr: SocketAddr, generation: u64) -> Result<(), Box<dyn Error>> {
    let mut stop = signal(SignalKind::terminate())?;
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    // As graceful does; accepted connections inherit it.
    socket.set_tcp_nodelay(true)?;
    socket.bind(&addr.into())?;
    socket.listen(1024)?;
    let listener = tokio::net::TcpListener::from_std(socket.into())?;
    let app = match generation {
        0 => support::app::routes(),
        _ => support::app::app(move || generation),
    };
    println!("ready {} {generation}", std::process::id());
    let stopped = async move {
        stop.recv().await;
    };
    axum::serve(listener, app).with_graceful_shutdown(stopped).await?;
    Ok(())
}

async fn supervise(addr: SocketAddr) -> Result<(), Box<dyn Error>> {
    let mut reload = signal(SignalKind::hangup())?;
    let mut stop = signal(SignalKind::terminate())?;
    let mut generation = 1;
    let mut server = start(addr, generation).await?;
    loop {
        tokio::select! {
            _ = reload.recv() => {
                generation += 1;
                let new = start(addr, generation).await?;
                drain(std::mem::replace(&mut server, new))?;
            }
            _ = stop.recv() => {
                terminate(&server)?;
                server.wait().await?;
                return Ok(());
            }
        }
    }
}

/// Starts a server and waits until it listens.
async fn start(addr: SocketAddr, generation: u64) -> Result<Child, Box<dyn Error>> {
    let mut server = Command::new(std::env::current_exe()?)
        .arg(addr.to_string())
        .arg(generation.to_string())
        .stdout(std::process::Stdio::piped())
        .spawn()?;
    let output = server.stdout.take().ok_or("stdout is piped")?;
    let mut lines = BufReader::new(output).lines();
    let ready = lines.next_line().await?.ok_or("the server ended before it was ready")?;
    println!("{ready}");
    Ok(server)
}

fn drain(mut server: Child) -> Result<(), Box<dyn Error>> {
    terminate(&server)?;
    // Reaped whenever it ends.
    tokio::spawn(async move { server.wait().await });
    Ok(())
}

fn terminate(server: &Child) -> Result<(), Box<dyn Error>> {
    let pid = server.id().ok_or("the server has ended by itself")?;
    kill(Pid::from_raw(pid.try_into()?), Signal::SIGTERM)?;
    Ok(())
}
