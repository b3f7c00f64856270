//! Descriptors that arrive by number.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
};

use nix::{
    fcntl::{FcntlArg, FdFlag, OFlag, fcntl},
    sys::resource::{Resource, getrlimit},
};

/// Takes over a descriptor that the parent process promised under this number.
///
/// # Errors
///
/// When no such descriptor is open.
pub(crate) fn adopt(number: RawFd) -> io::Result<OwnedFd> {
    adopt_if(number, |_| Ok(()))
}

/// Takes over a descriptor if it is what was promised. If it is not, it may well belong to another part
/// of this process, which has opened it since the start: then it is left alone.
pub(crate) fn adopt_if(
    number: RawFd,
    check: impl FnOnce(BorrowedFd<'_>) -> io::Result<()>,
) -> io::Result<OwnedFd> {
    // 0 to 2 belong to the standard streams of std, and -1 is no descriptor at all.
    if number <= 2 {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    // SAFETY: borrowed for these calls, of which the first fails on a number that is not open.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    fcntl(borrowed, FcntlArg::F_GETFD)?;
    check(borrowed)?;
    // SAFETY: it is open, as the calls above have shown, and the caller read the number from the
    // environment variable that hands it over, which `env::take` lets happen only once.
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    set_cloexec(fd.as_fd(), true)?;
    Ok(fd)
}

pub(crate) fn set_cloexec(fd: BorrowedFd<'_>, on: bool) -> io::Result<()> {
    let flags = if on { FdFlag::FD_CLOEXEC } else { FdFlag::empty() };
    fcntl(fd, FcntlArg::F_SETFD(flags))?;
    Ok(())
}

/// Makes the open file description non-blocking, for every process that shares it.
pub(crate) fn set_nonblocking(fd: BorrowedFd<'_>) -> io::Result<()> {
    let flags = OFlag::from_bits_truncate(fcntl(fd, FcntlArg::F_GETFL)?);
    if !flags.contains(OFlag::O_NONBLOCK) {
        fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    }
    Ok(())
}

/// How many more descriptors this process may open, with a reserve for what it needs itself.
pub(crate) fn headroom() -> usize {
    const RESERVE: usize = 64;
    let limit = match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((soft, _)) => usize::try_from(soft).unwrap_or(usize::MAX),
        Err(_) => return 0,
    };
    // Where the system does not tell how many are open, half of them is a careful guess.
    let open = std::fs::read_dir("/proc/self/fd").map_or(limit / 2, Iterator::count);
    limit.saturating_sub(open + RESERVE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_that_is_not_open_is_refused() {
        for number in [-1, 0, 2, 1_000_000] {
            assert!(adopt(number).is_err(), "{number}");
        }
    }
}
