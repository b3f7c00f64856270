//! Which signal means what.

use std::{
    collections::VecDeque,
    fmt,
    future::poll_fn,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    task::{Poll, ready},
};

use signal_hook::{SigId, low_level};
use tokio::net::UnixStream;

use super::{Options, takeover::Signalled};
use crate::Error;

/// A signal (signal(7)).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Signal(i32);

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    Reload,
    Stop,
    Hammer,
}

macro_rules! signals {
    ($($name:ident = $constant:ident),*) => {
        impl Signal {
            $(
                #[doc = concat!("`", stringify!($constant), "`.")]
                pub const $name: Self = Self(nix::libc::$constant);
            )*
        }

        impl fmt::Display for Signal {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match *self {
                    $(Self::$name => f.write_str(stringify!($constant)),)*
                    Self(number) => write!(f, "signal {number}"),
                }
            }
        }
    };
}

signals! {
    ABRT = SIGABRT,
    ALRM = SIGALRM,
    HUP = SIGHUP,
    INT = SIGINT,
    KILL = SIGKILL,
    QUIT = SIGQUIT,
    STOP = SIGSTOP,
    TERM = SIGTERM,
    TSTP = SIGTSTP,
    TTIN = SIGTTIN,
    TTOU = SIGTTOU,
    USR1 = SIGUSR1,
    USR2 = SIGUSR2,
    WINCH = SIGWINCH
}

impl Signal {
    /// A signal by its number on this system.
    pub const fn from_raw(number: i32) -> Self {
        Self(number)
    }

    /// Its number on this system.
    pub const fn as_raw(self) -> i32 {
        self.0
    }
}

impl fmt::Debug for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The signals of a process, from now on handled here and nowhere else.
///
/// What has arrived waits in the kernel, and so survives the program when that is replaced: the runtime may
/// have heard of it or not.
#[derive(Debug)]
pub(crate) struct Signals {
    pipes: Vec<Pipe>,
    /// What the program before this one has left.
    left: VecDeque<(Signal, Order)>,
}

/// A handler writes a byte into it each time that the signal arrives (the self-pipe trick).
#[derive(Debug)]
struct Pipe {
    signal: Signal,
    order: Order,
    stream: UnixStream,
    id: SigId,
}

impl Pipe {
    fn open(signal: Signal, order: Order) -> io::Result<Self> {
        let (ours, handlers) = std::os::unix::net::UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let stream = UnixStream::from_std(ours)?;
        let id = low_level::pipe::register(signal.0, handlers)?;
        #[cfg(target_os = "linux")]
        crate::process::threads::handle_alone(signal.0)?;
        Ok(Self { signal, order, stream, id })
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        low_level::unregister(self.id);
    }
}

/// Whether the signal has arrived, once or more, since the last look.
fn has_arrived(pipe: BorrowedFd<'_>) -> bool {
    nix::unistd::read(pipe, &mut [0; 256]).is_ok_and(|count| count > 0)
}

impl Signals {
    /// Takes over the signals that the options name.
    ///
    /// # Errors
    ///
    /// When one of them cannot be handled.
    pub(crate) fn listen(options: &Options) -> Result<Self, Error> {
        let first = std::process::id() == 1;
        let unset = if first { unset(options) } else { Vec::new() };
        let mut pipes: Vec<Pipe> = Vec::new();
        for (signals, order) in meanings(options).into_iter().chain([(&*unset, Order::Stop)]) {
            for signal in signals {
                if pipes.iter().any(|pipe| pipe.signal == *signal) {
                    continue;
                }
                pipes.push(Pipe::open(*signal, order).map_err(|error| {
                    Error::config(format!("cannot handle {signal}")).because(error)
                })?);
            }
        }
        Ok(Self { pipes, left: VecDeque::new() })
    }

    /// Whether there is one that the program before this one has left.
    pub(crate) fn is_behind(&self) -> bool {
        !self.left.is_empty()
    }

    /// The next one, if it has arrived already: as the kernel knows, not as the runtime does.
    pub(crate) fn arrived(&self) -> Option<(Signal, Order)> {
        let pipe = self.pipes.iter().find(|pipe| has_arrived(pipe.stream.as_fd()))?;
        Some((pipe.signal, pipe.order))
    }

    /// Waits for the next one.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when the future is dropped.
    pub(crate) async fn next(&mut self) -> (Signal, Order) {
        if let Some(left) = self.left.pop_front() {
            return left;
        }
        poll_fn(|cx| {
            for pipe in &self.pipes {
                let mut poll = || -> Poll<bool> {
                    loop {
                        if ready!(pipe.stream.poll_read_ready(cx)).is_err() {
                            return Poll::Ready(false);
                        }
                        match pipe.stream.try_read(&mut [0; 256]) {
                            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                            read => return Poll::Ready(read.is_ok_and(|count| count > 0)),
                        }
                    }
                };
                if poll() == Poll::Ready(true) {
                    return Poll::Ready((pipe.signal, pipe.order));
                }
            }
            Poll::Pending
        })
        .await
    }

    /// What is to be kept open for the next program.
    pub(crate) fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.pipes.iter().map(|pipe| pipe.stream.as_fd())
    }

    pub(crate) fn numbers(&self) -> impl Iterator<Item = i32> {
        self.pipes.iter().map(|pipe| pipe.signal.0)
    }

    pub(crate) fn leave(&self) -> Vec<Signalled> {
        let leave = |pipe: &Pipe| Signalled { signal: pipe.signal.0, fd: pipe.stream.as_raw_fd() };
        self.pipes.iter().map(leave).collect()
    }

    /// Takes what arrived after the last look of the program before this one.
    pub(crate) fn recall(&mut self, signal: i32, left: &OwnedFd) {
        let pipe = self.pipes.iter().find(|pipe| pipe.signal.0 == signal);
        match pipe {
            Some(pipe) if has_arrived(left.as_fd()) => {
                self.left.push_back((pipe.signal, pipe.order));
            }
            _ => {}
        }
    }
}

fn meanings(options: &Options) -> [(&[Signal], Order); 3] {
    [
        (&options.reload_signals, Order::Reload),
        (&options.stop_signals, Order::Stop),
        (options.hammer_signal.as_slice(), Order::Hammer),
    ]
}

/// Signals that would end any process but PID 1, for which the kernel drops what it does not handle
/// (kill(2)): without this, a container with another `STOPSIGNAL` would be killed at its time limit.
fn unset(options: &Options) -> Vec<Signal> {
    let has_meaning =
        |signal: &Signal| meanings(options).iter().any(|(signals, _)| signals.contains(signal));
    let mut ending = vec![Signal::HUP, Signal::INT, Signal::QUIT, Signal::TERM];
    ending.retain(|signal| !has_meaning(signal));
    ending
}

/// Makes sure that each signal can be handled and means one thing.
pub(crate) fn check(options: &Options) -> Result<(), Error> {
    let mut seen: Vec<(Signal, Order)> = Vec::new();
    for (signals, order) in meanings(options) {
        for signal in signals {
            let refuse = |why: &str| Err(Error::config(format!("cannot handle {signal}: {why}")));
            if matches!(*signal, Signal::KILL | Signal::STOP) {
                return refuse("the kernel delivers it to no program (signal(7))");
            }
            if !(1..=64).contains(&signal.0) {
                return refuse("there is no such signal");
            }
            // The runtime relies on this one, and the faults of a program are not orders.
            if is_fault(signal.0) {
                return refuse("it tells of children and faults of this process");
            }
            if let Some((_, other)) = seen.iter().find(|(other, _)| other == signal) {
                if *other != order {
                    return refuse("it is asked to mean two things");
                }
                continue;
            }
            seen.push((*signal, order));
        }
    }
    Ok(())
}

fn is_fault(number: i32) -> bool {
    use nix::libc::{SIGABRT, SIGBUS, SIGCHLD, SIGFPE, SIGILL, SIGSEGV, SIGTRAP};
    [SIGABRT, SIGBUS, SIGCHLD, SIGFPE, SIGILL, SIGSEGV, SIGTRAP].contains(&number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ends_any_other_process_ends_pid_1_unless_it_has_a_meaning() {
        assert_eq!(unset(&Options::default()), [Signal::QUIT]);
        let stop_signals = vec![Signal::QUIT];
        let options = Options { stop_signals, reload_signals: Vec::new(), ..Options::default() };
        assert_eq!(unset(&options), [Signal::HUP, Signal::INT, Signal::TERM]);
    }

    #[test]
    fn signals_that_cannot_be_handled_are_refused_with_a_reason() {
        let with = |stop: &[Signal]| Options { stop_signals: stop.to_vec(), ..Options::default() };
        assert!(check(&Options::default()).is_ok());
        assert!(check(&with(&[])).is_ok());
        assert!(check(&with(&[Signal::TERM, Signal::TERM])).is_ok());
        for (signal, why) in [
            (Signal::KILL, "SIGKILL: the kernel delivers it to no program"),
            (Signal::STOP, "SIGSTOP: the kernel"),
            (Signal::HUP, "SIGHUP: it is asked to mean two things"),
            (Signal::USR2, "SIGUSR2: it is asked to mean two things"),
            (Signal::from_raw(11), "faults"),
            (Signal::from_raw(0), "no such signal"),
            (Signal::from_raw(-9), "no such signal"),
            (Signal::from_raw(1000), "no such signal"),
        ] {
            let error = check(&with(&[Signal::TERM, signal])).unwrap_err();
            assert!(error.is_config());
            assert!(error.to_string().contains(why), "{error}");
        }
    }
}
