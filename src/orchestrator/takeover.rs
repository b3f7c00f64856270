//! The master replaces its own program in place: same process, same children, the same sockets.
//!
//! The old program writes what it knows into a memfd, lets the descriptors it names survive the exec,
//! and executes the new one, which finds the memfd in its environment. Signals that arrive in between
//! stay pending: they are blocked until the new program listens.

use std::{
    collections::{HashMap, hash_map::Entry},
    os::fd::OwnedFd,
    path::PathBuf,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{state::Id, status::Memory};
use crate::{
    error::{BoxError, Error, Kind},
    process::{exec, fd},
};

/// Changes when an old master's state can no longer be understood.
pub(crate) const VERSION: u32 = 1;

/// Everything that a master knows.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Handoff {
    version: u32,
    pub(crate) last: Id,
    pub(crate) workers: Vec<Worker>,
    pub(crate) inherited: Vec<InheritedSocket>,
    pub(crate) bound: Vec<BoundSocket>,
    #[serde(default)]
    pub(crate) kept: Vec<KeptSocket>,
    /// Binaries: the present one, and the one before.
    pub(crate) current: Option<Binary>,
    pub(crate) previous: Option<Binary>,
    #[serde(default)]
    pub(crate) signals: Vec<Signalled>,
    #[serde(default)]
    pub(crate) memory: Memory,
    #[serde(default)]
    pub(crate) admin: Option<AdminSocket>,
    /// The digests of binaries that have failed.
    pub(crate) failed: Vec<String>,
}

/// A worker that serves or drains. Descriptors are numbers here; `Descriptors` owns them.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Worker {
    pub(crate) id: Id,
    pub(crate) pid: u32,
    /// What is left of its drain; `None` for the one that serves.
    pub(crate) drain: Option<Duration>,
    pub(crate) wire: i32,
    /// Read from the wire, and not yet a whole message.
    pub(crate) read: Vec<u8>,
    pub(crate) binary: Option<Binary>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct InheritedSocket {
    pub(crate) name: String,
    pub(crate) fd: i32,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct BoundSocket {
    pub(crate) address: String,
    pub(crate) nth: u32,
    pub(crate) fd: i32,
    /// Device and inode of a Unix socket's file.
    pub(crate) file: Option<(u64, u64)>,
    pub(crate) stored: Option<String>,
    pub(crate) wanted: Vec<Id>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct AdminSocket {
    pub(crate) path: PathBuf,
    pub(crate) fd: i32,
    /// Device and inode of its file.
    pub(crate) file: (u64, u64),
}

/// A descriptor that the application keeps.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct KeptSocket {
    pub(crate) name: String,
    pub(crate) fd: i32,
    pub(crate) asked: Id,
}

/// A descriptor that can be read from when this signal has arrived.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Signalled {
    pub(crate) signal: i32,
    pub(crate) fd: i32,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Binary {
    pub(crate) path: PathBuf,
    pub(crate) fd: i32,
}

impl Handoff {
    pub(crate) fn new(last: Id) -> Self {
        Self {
            version: VERSION,
            last,
            workers: Vec::new(),
            inherited: Vec::new(),
            bound: Vec::new(),
            kept: Vec::new(),
            current: None,
            previous: None,
            signals: Vec::new(),
            memory: Memory::default(),
            admin: None,
            failed: Vec::new(),
        }
    }

    /// Reads what the program before this one has left, if there was one.
    pub(crate) fn take() -> Result<Option<(Self, Descriptors)>, Error> {
        let Some(text) = exec::predecessor() else { return Ok(None) };
        let failed = |error: BoxError| {
            Error::new(Kind::Worker, "cannot take over from the master").because(error)
        };
        let text = text.map_err(|error| failed(error.into()))?;
        let handoff: Self = serde_json::from_slice(&text).map_err(|error| failed(error.into()))?;
        if handoff.version != VERSION {
            return Err(failed(format!("its state has version {}", handoff.version).into()));
        }
        let descriptors = Descriptors::adopt(&handoff).map_err(|error| failed(error.into()))?;
        Ok(Some((handoff, descriptors)))
    }

    /// The numbers of all descriptors that it names.
    pub(crate) fn numbers(&self) -> impl Iterator<Item = i32> {
        let binaries = self.current.iter().chain(&self.previous);
        let binaries =
            binaries.chain(self.workers.iter().filter_map(|worker| worker.binary.as_ref()));
        let workers = self.workers.iter().map(|worker| worker.wire);
        let inherited = self.inherited.iter().map(|socket| socket.fd);
        let bound = self.bound.iter().map(|socket| socket.fd);
        let admin = self.admin.iter().map(|socket| socket.fd);
        let kept = self.kept.iter().map(|socket| socket.fd);
        let signals = self.signals.iter().map(|signalled| signalled.fd);
        let sockets = workers.chain(inherited).chain(bound).chain(kept).chain(admin);
        binaries.map(|binary| binary.fd).chain(sockets).chain(signals)
    }
}

/// The descriptors that a [`Handoff`] names, each owned once.
#[derive(Debug)]
pub(crate) struct Descriptors(HashMap<i32, OwnedFd>);

impl Descriptors {
    fn adopt(handoff: &Handoff) -> std::io::Result<Self> {
        let mut fds = HashMap::new();
        for number in handoff.numbers() {
            // A number that stands twice would be closed twice.
            if let Entry::Vacant(entry) = fds.entry(number) {
                entry.insert(fd::adopt(number)?);
            }
        }
        Ok(Self(fds))
    }

    /// Takes the descriptor of this number.
    pub(crate) fn remove(&mut self, number: i32) -> Result<OwnedFd, Error> {
        self.0.remove(&number).ok_or_else(|| {
            Error::new(Kind::Worker, format!("the master's state lacks descriptor {number}"))
        })
    }
}
