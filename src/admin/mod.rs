//! The master's control socket: HTTP on a Unix socket that only its own user can open.
//!
//! It knows no more than a [`Handle`], which takes orders, and a [`Board`], which shows what happens.
//! `Serve::admin` lists the requests.

mod answer;
mod metrics;
mod page;

use std::{
    convert::Infallible,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

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
    orchestrator::{AdminSocket, Board},
};

/// How long a client may take to send the head of its request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the last answers may take.
const FAREWELL: Duration = Duration::from_secs(1);
/// How often to look whether all are answered.
const POLL: Duration = Duration::from_millis(2);
/// After an error of accept(2) that lasts, such as too many open files.
const PAUSE: Duration = Duration::from_millis(100);

/// The control socket; it is closed, and its file removed, when this is dropped.
#[derive(Debug)]
pub(crate) struct Admin {
    listener: Arc<UnixListener>,
    path: PathBuf,
    file: Option<SocketFile>,
    handle: Handle,
    board: Board,
    accepting: JoinSet<()>,
    connections: Drain,
}

/// A socket that the program before this one has bound, and where.
type Left = ((PathBuf, SocketFile), OwnedFd);

/// A socket, and the file that leads to it.
struct Place {
    path: PathBuf,
    fd: OwnedFd,
    file: Option<SocketFile>,
}

impl Place {
    fn find(path: &Path, left: Option<Left>) -> Result<Self, Error> {
        let wanted = std::path::absolute(path)
            .map_err(|error| Error::io(format!("cannot listen on {}", path.display()), error));
        let left = left.map(|((path, file), fd)| Self { path, fd, file: Some(file) });
        match left {
            Some(left) if wanted.as_ref().is_ok_and(|wanted| *wanted == left.path) => Ok(left),
            left => match (wanted.and_then(Self::bind), left) {
                (Err(error), Some(left)) => {
                    let path = left.path.display();
                    tracing::error!(?error, %path, "the admin socket stays where it was");
                    Ok(left)
                }
                (bound, _) => bound,
            },
        }
    }

    fn bind(path: PathBuf) -> Result<Self, Error> {
        let bound = bind_private(&path)?;
        Ok(Self { path, fd: bound.socket.into(), file: bound.file })
    }
}

impl Admin {
    /// Binds the socket and begins to answer. One that the program before this one has left serves on,
    /// if it is bound to this path, or this path cannot be bound.
    ///
    /// # Errors
    ///
    /// When the path cannot be bound, and none is left.
    pub(crate) fn open(
        path: &Path,
        handle: Handle,
        board: Board,
        left: Option<Left>,
    ) -> Result<Self, Error> {
        let Place { path, fd, file } = Place::find(path, left)?;
        let listener = UnixListener::from_std(fd.into())
            .map_err(|error| Error::io(format!("cannot listen on {}", path.display()), error))?;
        let listener = Arc::new(listener);
        let (accepting, connections) = (JoinSet::new(), Drain::new());
        let mut this = Self { listener, path, file, handle, board, accepting, connections };
        this.go_on();
        Ok(this)
    }

    /// For a program that takes over.
    pub(crate) fn leave(&self) -> Option<AdminSocket> {
        let file = self.file.as_ref()?.inode();
        Some(AdminSocket { path: self.path.clone(), fd: self.as_fd().as_raw_fd(), file })
    }

    /// Accepts nobody from now on and waits until who came before is answered, at most for a second.
    pub(crate) async fn pause(&mut self) {
        self.accepting.shutdown().await;
        let answered = async {
            while self.connections.in_flight() > 0 {
                sleep(POLL).await;
            }
        };
        // Who has asked nothing by then cannot hold this up.
        let _ = timeout(FAREWELL, answered).await;
    }

    /// Accepts again.
    pub(crate) fn go_on(&mut self) {
        if self.accepting.is_empty() {
            let (listener, connections) = (self.listener.clone(), self.connections.clone());
            let (handle, board) = (self.handle.clone(), self.board.clone());
            self.accepting.spawn(accept(listener, handle, board, connections));
        }
    }

    /// Takes no more requests and waits for the answers that are on their way, at most for a second.
    pub(crate) async fn finish(&mut self) {
        self.accepting.shutdown().await;
        self.connections.start();
        // The others are cut.
        let _ = timeout(FAREWELL, self.connections.drained()).await;
    }
}

impl AsFd for Admin {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

async fn accept(listener: Arc<UnixListener>, handle: Handle, board: Board, connections: Drain) {
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
