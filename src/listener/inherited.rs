use std::{
    ffi::OsString,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use nix::sys::{
    socket::{SockType, getsockopt, sockopt},
    stat::{SFlag, fstat},
};
use socket2::{SockAddr, SockRef};

use super::{Address, Bound, Listener, address::Form, bind};
use crate::{
    error::{Error, Kind},
    process::{env, fd},
};

/// The first descriptor that a supervisor passes (sd_listen_fds(3)).
const FIRST: i32 = 3;

/// A listening socket that this process was started with.
#[derive(Debug)]
pub(crate) struct Inherited {
    /// From `LISTEN_FDNAMES`; "unknown" where the supervisor gives none.
    pub(crate) name: String,
    pub(crate) socket: Socket,
}

impl Inherited {
    /// Nobody accepts on it, as far as this program goes.
    pub(crate) fn warn_of_waiting_clients(&self) {
        let (name, address) = (&self.name, self.socket.address());
        tracing::warn!(
            name,
            address,
            "clients of an inherited socket wait: no bind names its address"
        );
    }
}

/// An address to connect to.
#[derive(Clone, Debug)]
pub(crate) enum SocketAddress {
    Ip(std::net::SocketAddr),
    Unix(SockAddr),
}

/// A checked listening socket.
#[derive(Debug)]
pub(crate) struct Socket {
    fd: OwnedFd,
    address: SockAddr,
}

/// Takes the sockets that the supervisor promised in `LISTEN_FDS`, `LISTEN_PID` and
/// `LISTEN_FDNAMES`, and removes these variables.
///
/// Variables that were meant for another process are ignored, with a warning.
///
/// # Errors
///
/// When the promise is for this process and does not hold.
pub(crate) fn inherited() -> Result<Vec<Inherited>, Error> {
    let names = ["LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"];
    let [count, pid, names] = names.map(|name| env::take(name).map(lossy));
    let Some(count) = count else {
        return Ok(Vec::new());
    };
    let own = std::process::id();
    if pid.as_deref().and_then(|pid| pid.parse().ok()) != Some(own) {
        tracing::warn!(listen_pid = pid, own, "ignored LISTEN_FDS: it is for another process");
        return Ok(Vec::new());
    }
    let lie = |why: String| Error::new(Kind::Inherited, why);
    let count = match count.parse::<u16>() {
        Ok(count) if i32::from(count) <= i32::from(u16::MAX) - FIRST => i32::from(count),
        _ => return Err(lie(format!("LISTEN_FDS is {count:?}, which is not a number of sockets"))),
    };
    let mut names = names.iter().flat_map(|names| names.split(':'));
    (FIRST..FIRST + count)
        .map(|number| {
            let name = names.next().filter(|name| !name.is_empty()).unwrap_or("unknown").to_owned();
            let socket = fd::adopt_if(number, |fd| probe(fd).map(drop));
            let socket = socket.and_then(Socket::check).map_err(|why| {
                lie(format!("cannot listen on descriptor {number} ({name}) of LISTEN_FDS"))
                    .because(why)
            })?;
            Ok(Inherited { name, socket })
        })
        .collect()
}

fn lossy(value: OsString) -> String {
    value.to_string_lossy().into_owned()
}

impl Socket {
    /// Makes sure that the descriptor is a listening stream socket of a known family.
    pub(crate) fn check(fd: OwnedFd) -> io::Result<Self> {
        let address = probe(fd.as_fd())?;
        fd::set_nonblocking(fd.as_fd())?;
        if address.is_ipv4() || address.is_ipv6() {
            // As on those that are bound here; a supervisor sets it only when it is told to. Not every
            // stream has it.
            let _ = SockRef::from(&fd).set_tcp_nodelay(true);
        }
        Ok(Self { fd, address })
    }

    /// Whether binding `address` would mean this socket.
    pub(crate) fn is_bound_to(&self, address: &Address) -> bool {
        match &address.form {
            Form::Ip(wanted) => self.address.as_socket() == Some(*wanted),
            Form::Name(host, port) => self.address.as_socket().is_some_and(|bound| {
                use std::net::ToSocketAddrs;
                (host.as_str(), *port)
                    .to_socket_addrs()
                    .is_ok_and(|mut addresses| addresses.any(|address| address == bound))
            }),
            Form::Path(path) => self.address.as_pathname().is_some_and(|bound| {
                bound == path || std::path::absolute(path).is_ok_and(|path| bound == path)
            }),
            #[cfg(target_os = "linux")]
            Form::Abstract(name) => self.address.as_abstract_namespace() == Some(name),
        }
    }

    /// Where a client of this machine would connect; `None` for an unnamed Unix socket.
    pub(crate) fn connect_address(&self) -> Option<SocketAddress> {
        match self.address.as_socket() {
            Some(address) => Some(SocketAddress::Ip(address)),
            None if self.address.is_unnamed() => None,
            None => Some(SocketAddress::Unix(self.address.clone())),
        }
    }

    /// The address as [`Address`] writes it.
    pub(crate) fn address(&self) -> String {
        if let Some(ip) = self.address.as_socket() {
            return ip.to_string();
        }
        if let Some(path) = self.address.as_pathname() {
            return format!("unix:{}", path.display());
        }
        match self.address.as_abstract_namespace() {
            Some(name) => format!("unix:@{}", String::from_utf8_lossy(name)),
            None => "unix:".to_owned(),
        }
    }

    pub(crate) fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { fd: self.fd.try_clone()?, address: self.address.clone() })
    }

    pub(crate) fn into_fd(self) -> OwnedFd {
        self.fd
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl TryFrom<&Bound> for Socket {
    type Error = io::Error;

    fn try_from(bound: &Bound) -> io::Result<Self> {
        Self::check(bound.socket.try_clone()?.into())
    }
}

/// The address of a listening stream socket; an error when the descriptor is something else.
fn probe(fd: BorrowedFd<'_>) -> io::Result<SockAddr> {
    let no = |what| Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    if SFlag::from_bits_truncate(fstat(fd)?.st_mode) & SFlag::S_IFMT != SFlag::S_IFSOCK {
        return no("it is not a socket");
    }
    if getsockopt(&fd, sockopt::SockType)? != SockType::Stream {
        return no("it is not a stream socket");
    }
    if !getsockopt(&fd, sockopt::AcceptConn)? {
        return no("it is not listening");
    }
    let address = socket2::SockRef::from(&fd).local_addr()?;
    if !(address.is_ipv4() || address.is_ipv6() || address.is_unix()) {
        return no("it is neither a TCP nor a Unix socket");
    }
    Ok(address)
}

/// The sockets that this process was started with, and a place to bind more.
///
/// `graceful::serve` uses it by itself; it is public for servers that are run by other means.
///
/// # Example
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), graceful::Error> {
/// use graceful::Listeners;
///
/// let mut listeners = Listeners::from_env()?;
/// let listener = listeners.listen(&"127.0.0.1:0".parse()?)?;
/// # let app = axum::Router::new();
/// # let server = async move {
/// axum::serve(listener, app).await
/// # };
/// # drop(server);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Default)]
pub struct Listeners {
    inherited: Vec<Inherited>,
}

impl Listeners {
    /// Takes the sockets that a supervisor passed through `LISTEN_FDS` (sd_listen_fds(3)).
    ///
    /// The variables are removed from the environment, so a second call finds none. Variables whose
    /// `LISTEN_PID` is another process are ignored.
    ///
    /// # Errors
    ///
    /// [`is_inherited`](Error::is_inherited), when a promised descriptor is not a listening TCP or
    /// Unix stream socket.
    pub fn from_env() -> Result<Self, Error> {
        Ok(Self { inherited: inherited()? })
    }

    /// The names and addresses of the inherited sockets that were not taken yet.
    pub fn inherited(&self) -> impl Iterator<Item = (&str, String)> {
        self.inherited.iter().map(|entry| (entry.name.as_str(), entry.socket.address()))
    }

    /// Listens on an address: with the inherited socket that is bound to it, else with a new one.
    ///
    /// Must be called inside a tokio runtime.
    ///
    /// # Errors
    ///
    /// [`is_bind`](Error::is_bind), when the address cannot be bound.
    pub fn listen(&mut self, address: &Address) -> Result<Listener, Error> {
        match self.inherited.iter().position(|entry| entry.socket.is_bound_to(address)) {
            Some(index) => Listener::open(self.inherited.swap_remove(index).socket, None),
            None => {
                let bound = bind(address)?;
                let socket = Socket::try_from(&bound)
                    .map_err(|error| Error::io(format!("cannot listen on {address}"), error))?;
                Listener::open(socket, bound.file)
            }
        }
    }

    /// Listens on the inherited socket of this name (`FileDescriptorName=` of systemd.socket(5)).
    ///
    /// # Errors
    ///
    /// [`is_inherited`](Error::is_inherited), when there is no such socket.
    pub fn listen_named(&mut self, name: &str) -> Result<Listener, Error> {
        match self.inherited.iter().position(|entry| entry.name == name) {
            Some(index) => Listener::open(self.inherited.swap_remove(index).socket, None),
            None => {
                Err(Error::new(Kind::Inherited, format!("no socket named {name:?} was inherited")))
            }
        }
    }

    /// Says which were not taken.
    pub(crate) fn warn_of_the_rest(&self) {
        self.inherited.iter().for_each(Inherited::warn_of_waiting_clients);
    }

    pub(crate) fn into_inherited(self) -> Vec<Inherited> {
        self.inherited
    }

    /// Listens on every inherited socket.
    pub(crate) fn into_listeners(self) -> Result<Vec<Listener>, Error> {
        self.inherited.into_iter().map(|entry| Listener::open(entry.socket, None)).collect()
    }
}
