use std::{
    io,
    net::SocketAddr,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
};

use super::{Socket, bind::SocketFile};
use crate::{Error, tls::Acceptor};

/// Accepts TCP or Unix connections. Implements axum's `Listener`.
#[derive(Debug)]
pub struct Listener {
    inner: Inner,
    address: Arc<str>,
    tls: Option<Acceptor>,
    /// Removes the file at the end; `None` where this process does not own it.
    _file: Option<SocketFile>,
}

#[derive(Debug)]
enum Inner {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// A TCP or Unix connection.
#[derive(Debug)]
#[non_exhaustive]
pub enum Stream {
    /// Over TCP.
    Tcp(TcpStream),
    /// Over a Unix socket.
    Unix(UnixStream),
    /// Encrypted, over one of these.
    #[cfg(feature = "tls")]
    Tls(Box<crate::tls::TlsStream>),
}

/// Who is at the other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Peer {
    /// The remote address of a TCP connection.
    Tcp(SocketAddr),
    /// The process behind a Unix socket.
    Unix(UnixPeer),
}

/// The process that opened a Unix connection (`SO_PEERCRED`, unix(7)). A handler finds it in
/// `ConnectInfo<UnixPeer>`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct UnixPeer {
    /// Its user.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Its process id, where the system tells.
    pub pid: Option<i32>,
}

impl Listener {
    pub(crate) fn open(socket: Socket, file: Option<SocketFile>) -> Result<Self, Error> {
        let address = socket.address();
        let unix = address.starts_with("unix:");
        let fd = socket.into_fd();
        let opened = match unix {
            true => UnixListener::from_std(fd.into()).map(Inner::Unix),
            false => TcpListener::from_std(fd.into()).map(Inner::Tcp),
        };
        match opened {
            Ok(inner) => Ok(Self { inner, address: address.into(), tls: None, _file: file }),
            Err(error) => Err(Error::io(format!("cannot listen on {address}"), error)),
        }
    }

    /// The address that it is bound to, as [`Address`](super::Address) writes it.
    pub fn address(&self) -> &str {
        &self.address
    }

    pub(crate) fn name(&self) -> Arc<str> {
        self.address.clone()
    }

    /// Its connections speak TLS.
    pub(crate) fn secure(&mut self, tls: Acceptor) {
        self.tls = Some(tls);
    }

    pub(crate) fn tls(&self) -> Option<&Acceptor> {
        self.tls.as_ref()
    }

    /// The IP address that it is bound to; `None` for a Unix socket.
    pub fn ip(&self) -> Option<SocketAddr> {
        self.address.parse().ok()
    }

    /// Accepts one connection. Every error is returned, also those that concern one connection only.
    pub(crate) fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<(Stream, Peer)>> {
        Poll::Ready(match &self.inner {
            Inner::Tcp(listener) => {
                let (stream, address) = std::task::ready!(listener.poll_accept(cx))?;
                Ok((Stream::Tcp(stream), Peer::Tcp(address)))
            }
            Inner::Unix(listener) => {
                let (stream, _) = std::task::ready!(listener.poll_accept(cx))?;
                let peer = Peer::Unix(UnixPeer::of(&stream));
                Ok((Stream::Unix(stream), peer))
            }
        })
    }

    /// Accepts what is in the backlog at this moment, asked of the kernel itself: the runtime may not
    /// know of it yet.
    pub(crate) fn accept_now(&self) -> io::Result<Option<(Stream, Peer)>> {
        let listener = match &self.inner {
            Inner::Tcp(listener) => socket2::SockRef::from(listener),
            Inner::Unix(listener) => socket2::SockRef::from(listener),
        };
        let (socket, address) = match listener.accept() {
            Ok(accepted) => accepted,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(error),
        };
        Stream::open(socket, &address).map(Some)
    }
}

/// What can be done about an error of `accept`.
pub(crate) enum AcceptError {
    /// The connection was gone before it was accepted (accept(2) lists these): take the next one.
    Connection,
    /// This process has too few of something: wait until connections have ended.
    Exhausted,
    /// The listener itself is broken.
    Listener,
}

impl From<&io::Error> for AcceptError {
    fn from(error: &io::Error) -> Self {
        use nix::libc;
        match error.raw_os_error() {
            Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM) => Self::Exhausted,
            Some(libc::EBADF | libc::EINVAL | libc::ENOTSOCK | libc::EFAULT | libc::EOPNOTSUPP) => {
                Self::Listener
            }
            _ => Self::Connection,
        }
    }
}

/// How long to wait when descriptors have run out.
pub(crate) const EXHAUSTED_PAUSE: Duration = Duration::from_millis(50);

impl axum::serve::Listener for Listener {
    type Io = Stream;
    type Addr = Peer;

    async fn accept(&mut self) -> (Stream, Peer) {
        loop {
            match std::future::poll_fn(|cx| self.poll_accept(cx)).await {
                Ok(accepted) => return accepted,
                Err(error) => match AcceptError::from(&error) {
                    AcceptError::Connection => {}
                    AcceptError::Exhausted | AcceptError::Listener => {
                        tracing::error!(listener = &*self.address, %error, "cannot accept");
                        tokio::time::sleep(EXHAUSTED_PAUSE).await;
                    }
                },
            }
        }
    }

    fn local_addr(&self) -> io::Result<Peer> {
        match &self.inner {
            Inner::Tcp(listener) => listener.local_addr().map(Peer::Tcp),
            Inner::Unix(_) => Ok(Peer::Unix(UnixPeer::default())),
        }
    }
}

impl Stream {
    /// Takes over a connection that another process has accepted.
    pub(crate) fn adopt(fd: OwnedFd) -> io::Result<(Self, Peer)> {
        let socket = socket2::Socket::from(fd);
        let peer = socket.peer_addr()?;
        Self::open(socket, &peer)
    }

    fn open(socket: socket2::Socket, peer: &socket2::SockAddr) -> io::Result<(Self, Peer)> {
        socket.set_nonblocking(true)?;
        Ok(match peer.as_socket() {
            Some(address) => (Self::Tcp(TcpStream::from_std(socket.into())?), Peer::Tcp(address)),
            None => {
                let stream = UnixStream::from_std(socket.into())?;
                let peer = Peer::Unix(UnixPeer::of(&stream));
                (Self::Unix(stream), peer)
            }
        })
    }

    /// Waits until there is something to read, or the peer has ended the stream.
    pub(crate) async fn readable(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.readable().await,
            Self::Unix(stream) => stream.readable().await,
            // Boxed, as this would contain itself.
            #[cfg(feature = "tls")]
            Self::Tls(stream) => Box::pin(stream.stream().readable()).await,
        }
    }

    /// Reads what is there without waiting; `WouldBlock` when nothing is.
    pub(crate) fn try_read(&self, bytes: &mut impl bytes::BufMut) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_read_buf(bytes),
            Self::Unix(stream) => stream.try_read_buf(bytes),
            // What is there is not what the client has said.
            #[cfg(feature = "tls")]
            Self::Tls(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Whether bytes or the end of the stream wait in the kernel, asked of the kernel itself.
    pub(crate) fn has_input(&self) -> bool {
        let mut byte = [std::mem::MaybeUninit::uninit(); 1];
        // Past the runtime, which may not have heard yet of what has just come.
        let socket = match self {
            Self::Tcp(stream) => socket2::SockRef::from(stream),
            Self::Unix(stream) => socket2::SockRef::from(stream),
            #[cfg(feature = "tls")]
            Self::Tls(stream) => return stream.has_input(),
        };
        socket.peek(&mut byte).is_ok_and(|length| length > 0)
    }
}

impl UnixPeer {
    fn of(stream: &UnixStream) -> Self {
        match stream.peer_cred() {
            Ok(peer) => Self { uid: peer.uid(), gid: peer.gid(), pid: peer.pid() },
            // The peer is gone already; the first read will say so.
            Err(_) => Self { uid: u32::MAX, gid: u32::MAX, pid: None },
        }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
            #[cfg(feature = "tls")]
            Self::Tls(stream) => stream.stream().as_fd(),
        }
    }
}

macro_rules! either {
    ($self:expr, $stream:ident => $call:expr) => {
        match $self.get_mut() {
            Stream::Tcp($stream) => $call,
            Stream::Unix($stream) => $call,
            #[cfg(feature = "tls")]
            Stream::Tls($stream) => $call,
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        either!(self, stream => Pin::new(stream).poll_read(cx, buf))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        either!(self, stream => Pin::new(stream).poll_write(cx, buf))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => Pin::new(stream).poll_shutdown(cx))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        either!(self, stream => Pin::new(stream).poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(stream) => stream.is_write_vectored(),
            Self::Unix(stream) => stream.is_write_vectored(),
            #[cfg(feature = "tls")]
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }
}
