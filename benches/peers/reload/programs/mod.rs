//! The server programs: how each is started, reloaded, and run alone.
#![allow(dead_code, reason = "each harness uses the part that it needs")]

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::process::{Process, Program};

/// A way to reload a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    Graceful,
    /// `axum::serve`, handed over by SO_REUSEPORT.
    Axum,
    Ecdysis,
}

impl Peer {
    pub(crate) const ALL: [Self; 3] = [Self::Graceful, Self::Axum, Self::Ecdysis];

    fn name(self) -> &'static str {
        match self {
            Self::Graceful => "graceful",
            Self::Axum => "axum",
            Self::Ecdysis => "ecdysis",
        }
    }

    fn program(self) -> Program {
        let name = match self {
            Self::Graceful => "graceful_server",
            Self::Axum => "axum_reuseport",
            Self::Ecdysis => "ecdysis_server",
        };
        Program::new(beside(name))
    }

    /// The server as it is deployed: it can be reloaded.
    fn deployed(self, addr: SocketAddr) -> Program {
        self.program().args([addr.to_string()])
    }

    /// The same program with nobody above it: what a start of the program itself takes.
    pub(crate) fn alone(self, addr: SocketAddr) -> Program {
        match self {
            Self::Graceful => self.deployed(addr).args(["single"]),
            Self::Axum => self.deployed(addr).args(["1"]),
            Self::Ecdysis => self.deployed(addr),
        }
    }
}

impl Peer {
    /// The server under its master, without the headers that tell who answered.
    pub(crate) fn bare(self, addr: SocketAddr) -> Program {
        match self {
            Self::Graceful => self.deployed(addr).args(["bare"]),
            Self::Axum => self.deployed(addr).args(["0"]),
            Self::Ecdysis => self.deployed(addr),
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Peer {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let peer = Self::ALL.into_iter().find(|peer| peer.name() == name);
        peer.ok_or_else(|| format!("unknown server {name:?}"))
    }
}

/// A program of this package.
fn beside(name: &str) -> PathBuf {
    let this = std::env::current_exe().expect("the path of this program");
    let path = this.with_file_name(name);
    assert!(path.exists(), "{name} is not built: cargo build --release --features reload");
    path
}

/// A server that runs, and who takes its signals.
pub(crate) struct Server {
    peer: Peer,
    pid: u32,
    /// All that it started ends with this.
    _process: Process,
}

impl Server {
    pub(crate) async fn start(peer: Peer, addr: SocketAddr) -> Self {
        let process = peer.deployed(addr).start();
        process.line("ready ").await;
        let pid = process.pid();
        Self { peer, pid, _process: process }
    }

    /// Asks for a reload.
    pub(crate) fn reload(&self) {
        crate::support::process::signal(self.pid, nix::sys::signal::Signal::SIGHUP);
    }

    /// A new process answers now.
    pub(crate) fn reloaded(&mut self, pid: u32) {
        if self.peer == Peer::Ecdysis {
            self.pid = pid;
        }
    }
}

/// Asks until somebody answers, and gives the time of that.
pub(crate) async fn first_answer(addr: SocketAddr) -> Instant {
    loop {
        if ask(addr).await.is_ok_and(|count| count > 0) {
            return Instant::now();
        }
        // The timer of the runtime is coarser than what is measured here.
        std::thread::sleep(Duration::from_micros(200));
    }
}

async fn ask(addr: SocketAddr) -> std::io::Result<usize> {
    let mut stream = TcpStream::connect(addr).await?;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: load\r\nconnection: close\r\n\r\n").await?;
    stream.read(&mut [0; 1024]).await
}
