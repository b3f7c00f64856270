//! The master's control socket: HTTP on a Unix socket that only its own user can open.
//!
//! It knows no more than a [`Handle`], which takes orders, and a [`Board`], which shows what happens.
//! `Serve::admin` lists the requests.

mod answer;
mod metrics;
mod page;

use std::{convert::Infallible, io, path::Path, time::Duration};

use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{UnixListener, UnixStream},
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::{
    Error, Handle,
    drain::{Drain, DrainGuard},
    listener::{SocketFile, bind_private},
    orchestrator::Board,
};

/// How long a client may take to send the head of its request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the last answers may take.
const FAREWELL: Duration = Duration::from_secs(1);
/// After an error of accept(2) that lasts, such as too many open files.
const PAUSE: Duration = Duration::from_millis(100);

/// The control socket; it is closed, and its file removed, when this is dropped.
#[derive(Debug)]
pub(crate) struct Admin {
    accepting: JoinSet<()>,
    connections: Drain,
    _file: Option<SocketFile>,
}

impl Admin {
    /// Binds the socket and begins to answer.
    ///
    /// # Errors
    ///
    /// When the path cannot be bound.
    pub(crate) fn open(path: &Path, handle: Handle, board: Board) -> Result<Self, Error> {
        let bound = bind_private(path)?;
        let open = |socket: socket2::Socket| {
            UnixListener::from_std(std::os::fd::OwnedFd::from(socket).into())
        };
        let listener = open(bound.socket)
            .map_err(|error| Error::io(format!("cannot listen on {}", path.display()), error))?;
        let connections = Drain::new();
        let mut accepting = JoinSet::new();
        accepting.spawn(accept(listener, handle, board, connections.clone()));
        Ok(Self { accepting, connections, _file: bound.file })
    }

    /// Waits until what was asked until now is answered, at most for a second.
    pub(crate) async fn flush(&mut self) {
        let answered = async {
            while self.connections.in_flight() > 0 {
                sleep(Duration::from_millis(2)).await;
            }
        };
        let _ = timeout(FAREWELL, answered).await;
    }

    /// Takes no more requests and waits for the answers that are on their way, at most for a second.
    pub(crate) async fn finish(&mut self) {
        self.accepting.shutdown().await;
        self.connections.start();
        // The others are cut.
        let _ = timeout(FAREWELL, self.connections.drained()).await;
    }
}

async fn accept(listener: UnixListener, handle: Handle, board: Board, connections: Drain) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let guard = connections.guard();
                tokio::spawn(serve(stream, handle.clone(), board.clone(), guard));
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                tracing::error!(%error, "cannot accept on the admin socket");
                sleep(PAUSE).await;
            }
        }
    }
}

/// Serves one request: the end of the connection is the proof that the answer was sent.
async fn serve(stream: UnixStream, handle: Handle, board: Board, guard: DrainGuard) {
    let service = service_fn(move |request| {
        let (handle, board) = (handle.clone(), board.clone());
        async move { Ok::<_, Infallible>(answer::to(&request, &handle, &board).await) }
    });
    let connection = http1::Builder::new()
        .keep_alive(false)
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        tracing::debug!(%error, "a client of the admin socket is gone");
    }
    drop(guard);
}
