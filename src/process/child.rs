use std::{fmt, io};

use nix::{
    errno::Errno,
    sys::{
        signal::{Signal, kill},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};
use tokio::signal::unix::{SignalKind, signal};

/// A child of this process, by its number. Unlike std's and tokio's it can be taken over from the
/// program that this process ran before an exec.
///
/// Its number is its own until `wait` has returned; dropping it neither ends it nor waits for it.
#[derive(Debug)]
pub(crate) struct Child {
    pid: Pid,
    ended: bool,
}

/// How a child has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    Status(i32),
    Signal(i32),
    /// Somebody else has waited for it, so nobody knows.
    Unknown,
}

impl Child {
    pub(crate) fn new(pid: u32) -> Self {
        Self { pid: Pid::from_raw(pid as i32), ended: false }
    }

    /// Waits for its end, and reaps it.
    ///
    /// # Cancel safety
    ///
    /// May be dropped and called again, until it has returned.
    pub(crate) async fn wait(&mut self) -> io::Result<Ended> {
        // Before the first look: an end in between is not missed.
        let mut children = signal(SignalKind::child())?;
        loop {
            let ended = match waitpid(self.pid, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(_, status)) => Some(Ended::Status(status)),
                Ok(WaitStatus::Signaled(_, signal, _)) => Some(Ended::Signal(signal as i32)),
                Ok(_) | Err(Errno::EINTR) => None,
                Err(Errno::ECHILD) => Some(Ended::Unknown),
                Err(errno) => return Err(errno.into()),
            };
            if let Some(ended) = ended {
                self.ended = true;
                return Ok(ended);
            }
            children.recv().await;
        }
    }

    /// Ends it with SIGKILL, if it has not ended.
    pub(crate) fn kill(&self) {
        if !self.ended {
            // It may be a zombie that `wait` has not seen yet: then there is nothing to do.
            let _ = kill(self.pid, Signal::SIGKILL);
        }
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => write!(f, "it exited with status {status}"),
            Self::Signal(number) => match Signal::try_from(*number) {
                Ok(signal) => write!(f, "it was killed by {signal}"),
                Err(_) => write!(f, "it was killed by signal {number}"),
            },
            Self::Unknown => f.write_str("it has ended, nobody knows how"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[tokio::test]
    #[expect(clippy::zombie_processes, reason = "the child under test waits for them")]
    async fn the_end_of_a_child_is_told() {
        for (script, ended) in [
            ("exit 0", Ended::Status(0)),
            ("exit 7", Ended::Status(7)),
            ("kill -SEGV $$", Ended::Signal(11)),
        ] {
            let spawned = Command::new("sh").args(["-c", script]).spawn().unwrap();
            assert_eq!(Child::new(spawned.id()).wait().await.unwrap(), ended);
        }
        let spawned = Command::new("sleep").arg("1000").spawn().unwrap();
        let mut child = Child::new(spawned.id());
        child.kill();
        assert_eq!(child.wait().await.unwrap(), Ended::Signal(9));
        child.kill();
        assert_eq!(child.wait().await.unwrap(), Ended::Unknown);
        assert_eq!(Ended::Signal(11).to_string(), "it was killed by SIGSEGV");
    }
}
