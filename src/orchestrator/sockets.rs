use std::{collections::HashSet, os::fd::OwnedFd};

use super::state::Id;
use crate::{
    error::Error,
    listener::{Address, Bound, Inherited, Socket, SocketFile},
};

/// The listening sockets that the master keeps for its workers.
#[derive(Debug)]
pub(crate) struct Sockets {
    inherited: Vec<Inherited>,
    bound: Vec<Entry>,
    /// Removed with the master, after the last worker.
    files: Vec<SocketFile>,
}

#[derive(Debug)]
struct Entry {
    key: (String, u32),
    socket: Socket,
    file: Option<SocketFile>,
    /// The generations that asked for it.
    wanted: HashSet<Id>,
}

impl Sockets {
    pub(crate) fn new(inherited: Vec<Inherited>) -> Self {
        Self { inherited, bound: Vec::new(), files: Vec::new() }
    }

    /// Copies of all sockets that the supervisor passed.
    pub(crate) fn inherited(&self) -> std::io::Result<Vec<OwnedFd>> {
        self.inherited.iter().map(|entry| Ok(entry.socket.try_clone()?.into_fd())).collect()
    }

    /// A copy of the socket for an address, if there is one already.
    pub(crate) fn find(
        &mut self,
        worker: Id,
        address: &Address,
        nth: u32,
    ) -> Option<std::io::Result<OwnedFd>> {
        let copy = |socket: &Socket| Ok(socket.try_clone()?.into_fd());
        let key = (address.to_string(), nth);
        if let Some(entry) = self.bound.iter_mut().find(|entry| entry.key == key) {
            entry.wanted.insert(worker);
            return Some(copy(&entry.socket));
        }
        let inherited = self.inherited.iter().find(|entry| entry.socket.is_bound_to(address))?;
        Some(copy(&inherited.socket))
    }

    /// Keeps a new socket and gives a copy of it.
    pub(crate) fn keep(
        &mut self,
        worker: Id,
        address: &Address,
        nth: u32,
        bound: Bound,
    ) -> Result<OwnedFd, Error> {
        let failed = |error| Error::io(format!("cannot listen on {address}"), error);
        let socket = Socket::try_from(&bound).map_err(failed)?;
        let copy = socket.try_clone().map_err(failed)?.into_fd();
        let (key, wanted) = ((address.to_string(), nth), HashSet::from([worker]));
        self.bound.push(Entry { key, socket, file: bound.file, wanted });
        Ok(copy)
    }

    /// Closes what this worker, which is past its trial, did not ask for.
    pub(crate) fn settle(&mut self, worker: Id) {
        self.bound.retain(|entry| {
            let wanted = entry.wanted.contains(&worker);
            if !wanted {
                tracing::info!(address = entry.key.0, "closed a listener that is no longer wanted");
            }
            wanted
        });
        for entry in &mut self.bound {
            entry.wanted.retain(|id| *id == worker);
        }
    }

    /// Lets go of all sockets, so that the last worker closes them when it stops accepting. The files
    /// of Unix sockets stay until this is dropped.
    pub(crate) fn release(&mut self) {
        self.inherited.clear();
        self.files.extend(self.bound.drain(..).filter_map(|entry| entry.file));
    }
}
