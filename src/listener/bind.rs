use std::{
    fs, io,
    net::{SocketAddr, ToSocketAddrs},
    os::{fd::AsFd, unix::fs::MetadataExt},
    path::{Path, PathBuf},
};

use nix::fcntl::{Flock, FlockArg};
use socket2::{Domain, SockAddr, Socket, Type};

use super::address::{Address, Form};
use crate::error::{Error, Kind};

/// Connections that may wait to be accepted; the kernel lowers it to `net.core.somaxconn`.
const BACKLOG: i32 = 1024;

/// A socket that was bound by this process.
#[derive(Debug)]
pub(crate) struct Bound {
    pub(crate) socket: Socket,
    /// The file of a Unix socket, removed when this is dropped.
    pub(crate) file: Option<SocketFile>,
}

/// Binds a socket and listens, non-blocking and close-on-exec.
pub(crate) fn bind(address: &Address) -> Result<Bound, Error> {
    let failed = |error| Error::new(Kind::Bind, format!("cannot bind {address}")).because(error);
    match &address.form {
        Form::Ip(ip) => bind_ip(*ip),
        Form::Name(host, port) => bind_name(host, *port),
        Form::Path(path) => bind_path(path, address.mode),
        #[cfg(target_os = "linux")]
        Form::Abstract(name) => bind_abstract(name),
    }
    .map_err(failed)
}

fn bind_ip(address: SocketAddr) -> io::Result<Bound> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    // Binding again while connections of the last run are in TIME_WAIT.
    socket.set_reuse_address(true)?;
    // Inherited by every accepted connection, which saves a call for each.
    socket.set_tcp_nodelay(true)?;
    if address.is_ipv6() {
        // Stated, as the system's default differs from machine to machine (ipv6(7), bindv6only).
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    listening(socket, None)
}

fn bind_name(host: &str, port: u16) -> io::Result<Bound> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in (host, port).to_socket_addrs()? {
        match bind_ip(address) {
            Ok(bound) => return Ok(bound),
            Err(error) => last = error,
        }
    }
    Err(last)
}

#[cfg(target_os = "linux")]
fn bind_abstract(name: &[u8]) -> io::Result<Bound> {
    use std::os::{linux::net::SocketAddrExt, unix::net};
    let address = net::SocketAddr::from_abstract_name(name)?;
    let listener = net::UnixListener::bind_addr(&address)?;
    listening(Socket::from(std::os::fd::OwnedFd::from(listener)), None)
}

/// Binds a Unix socket to which only this user can connect, from its first moment.
#[cfg(feature = "admin")]
pub(crate) fn bind_private(path: &Path) -> Result<Bound, Error> {
    bind_path(path, Some(0o600)).map_err(|error| {
        Error::new(Kind::Bind, format!("cannot bind {}", path.display())).because(error)
    })
}

/// Makes sure that this could be done, and binds nothing.
#[cfg(feature = "admin")]
pub(crate) fn check_private(path: &Path) -> Result<(), Error> {
    use std::os::unix::fs::FileTypeExt;
    let possible = SockAddr::unix(path).and_then(|_| match path.symlink_metadata() {
        // Who answers there may well be the server that is to become this program.
        Ok(file) if file.file_type().is_socket() => Ok(()),
        Ok(_) => Err(io::Error::new(io::ErrorKind::AlreadyExists, "the file is not a socket")),
        Err(_) => Ok(()),
    });
    possible.and_then(|()| crate::process::place::check(path)).map_err(|error| {
        Error::new(Kind::Bind, format!("cannot bind {}", path.display())).because(error)
    })
}

fn bind_path(path: &Path, mode: Option<u32>) -> io::Result<Bound> {
    // Two processes that find the same stale file must not remove each other's new one. The lock is
    // on the directory, so that it leaves no file behind.
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let directory = fs::File::open(directory)?;
    let _lock = Flock::lock(directory, FlockArg::LockExclusive).map_err(|(_, errno)| errno)?;

    let address = SockAddr::unix(path)?;
    if path.symlink_metadata().is_ok() {
        remove_stale(path, &address)?;
    }
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    #[cfg(target_os = "linux")]
    if let Some(mode) = mode {
        use nix::sys::stat::{Mode, fchmod};
        // The kernel makes the file with the mode of the socket, less the umask.
        fchmod(&socket, Mode::from_bits_truncate(mode))?;
    }
    socket.bind(&address)?;
    let file = SocketFile::of(path)?;
    if let Some(mode) = mode
        && path.symlink_metadata()?.mode() & 0o777 != mode
    {
        use std::os::unix::fs::PermissionsExt;
        // Nobody can connect yet: nobody listens.
        fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    }
    listening(socket, Some(file))
}

/// Removes the file of a socket on which nobody listens any more.
fn remove_stale(path: &Path, address: &SockAddr) -> io::Result<()> {
    use std::os::unix::fs::FileTypeExt;
    if !path.symlink_metadata()?.file_type().is_socket() {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "the file is not a socket"));
    }
    let probe = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // A full backlog must not make this wait: it says by itself that somebody listens.
    probe.set_nonblocking(true)?;
    match probe.connect(address) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(error),
        _ => Err(io::Error::new(io::ErrorKind::AddrInUse, "another process answers there")),
    }
}

fn listening(socket: Socket, file: Option<SocketFile>) -> io::Result<Bound> {
    socket.listen(BACKLOG)?;
    crate::process::fd::set_nonblocking(socket.as_fd())?;
    Ok(Bound { socket, file })
}

/// The file of a Unix socket. Dropping it removes the file, if it is still the same one.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    inode: (u64, u64),
}

impl SocketFile {
    fn of(path: &Path) -> io::Result<Self> {
        // Absolute: the process may change its directory before it ends.
        let path = std::path::absolute(path)?;
        let inode = inode(&path)?;
        Ok(Self { path, inode })
    }

    /// The file of a socket that an earlier process has bound to this address, if it is still there.
    pub(crate) fn again(address: &str, wanted: (u64, u64)) -> Option<Self> {
        let path = std::path::absolute(address.strip_prefix("unix:")?).ok()?;
        (inode(&path).ok()? == wanted).then_some(Self { path, inode: wanted })
    }

    /// Device and inode.
    pub(crate) fn inode(&self) -> (u64, u64) {
        self.inode
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if inode(&self.path).is_ok_and(|inode| inode == self.inode) {
            // Nobody is left to tell, and the next start removes a stale file.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn inode(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = path.symlink_metadata()?;
    Ok((metadata.dev(), metadata.ino()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;

    fn unix(path: &Path) -> Address {
        format!("unix:{}", path.display()).parse().unwrap()
    }

    #[test]
    fn a_stale_socket_file_is_replaced_and_removed_at_the_end() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.sock");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let bound = bind(&unix(&path)).unwrap();
        UnixStream::connect(&path).unwrap();
        drop(bound);
        assert!(!path.exists());
    }

    #[test]
    fn a_socket_that_answers_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.sock");
        let _listener = UnixListener::bind(&path).unwrap();
        let error = bind(&unix(&path)).unwrap_err();
        assert!(error.is_bind());
        assert!(format!("{error:?}").contains("another process answers"), "{error:?}");
        UnixStream::connect(&path).unwrap();
    }

    #[test]
    fn a_file_that_is_no_socket_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("data");
        fs::write(&path, "precious").unwrap();
        assert!(bind(&unix(&path)).unwrap_err().is_bind());
        assert_eq!(fs::read(&path).unwrap(), b"precious");
        assert!(bind(&unix(&directory.path().join("no/such/dir.sock"))).unwrap_err().is_bind());
    }

    #[test]
    fn only_the_own_file_is_removed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.sock");
        let bound = bind(&unix(&path)).unwrap();
        fs::remove_file(&path).unwrap();
        let _other = UnixListener::bind(&path).unwrap();
        drop(bound);
        UnixStream::connect(&path).unwrap();
    }

    #[cfg(feature = "admin")]
    #[test]
    fn a_private_socket_is_for_its_user_whatever_the_umask() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.sock");
        let bound = bind_private(&path).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        check_private(&path).unwrap();
        drop(bound);
        check_private(&path).unwrap();
        fs::write(&path, "precious").unwrap();
        for bad in
            [&path, &directory.path().join("no/such.sock"), &path.with_extension("x".repeat(108))]
        {
            assert!(check_private(bad).unwrap_err().is_bind());
        }
        fs::remove_file(&path).unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn the_file_of_a_socket_has_the_mode_that_is_asked_for_whatever_the_umask() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        // The umask of most systems takes the one from the group, and leaves the other to everybody.
        for mode in [0o660, 0o600, 0o777, 0o000] {
            let path = directory.path().join("a.sock");
            let address = format!("unix:{}?mode={mode:03o}", path.display());
            let _bound = bind(&address.parse().unwrap()).unwrap();
            assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, mode);
        }
    }

    #[test]
    fn a_taken_port_is_an_error() {
        let bound = bind(&"127.0.0.1:0".parse().unwrap()).unwrap();
        let taken = bound.socket.local_addr().unwrap().as_socket().unwrap();
        let error = bind(&taken.into()).unwrap_err();
        assert!(error.is_bind());
        assert!(error.to_string().starts_with("cannot bind 127.0.0.1:"), "{error}");
    }

    #[test]
    fn both_families_can_share_a_port() {
        let Ok(v6) = bind(&"[::]:0".parse().unwrap()) else { return };
        let port = v6.socket.local_addr().unwrap().as_socket().unwrap().port();
        bind(&format!("0.0.0.0:{port}").parse().unwrap()).unwrap();
    }

    #[test]
    fn sockets_do_not_block_and_are_not_inherited() {
        let bound = bind(&"localhost:0".parse().unwrap()).unwrap();
        assert!(bound.socket.nonblocking().unwrap());
        let flags = nix::fcntl::fcntl(&bound.socket, nix::fcntl::FcntlArg::F_GETFD).unwrap();
        assert_eq!(flags & 1, 1, "FD_CLOEXEC");
    }
}
