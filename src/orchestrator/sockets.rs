use std::{
    collections::HashSet,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use super::{
    message::Open,
    state::Id,
    store::StoredName,
    systemd::Messages,
    takeover::{BoundSocket, Descriptors, Handoff, InheritedSocket, KeptSocket},
};
use crate::{
    error::Error,
    listener::{Address, Bound, Inherited, Socket, SocketAddress, SocketFile},
};

/// The listening sockets that the master keeps for its workers.
#[derive(Debug)]
pub(crate) struct Sockets {
    inherited: Vec<Inherited>,
    /// Which generation asked for which of these.
    asked: HashSet<(Id, usize)>,
    bound: Vec<Entry>,
    kept: Vec<Kept>,
    /// Where the latest worker that became ready listens.
    opened: (Id, Vec<Open>),
    /// The latest worker that was past its trial.
    settled: Id,
    /// Removed with the master, after the last worker.
    files: Vec<SocketFile>,
    /// Has a copy of each bound socket, for the case that this process is killed.
    systemd: Messages,
}

#[derive(Debug)]
struct Entry {
    key: (String, u32),
    socket: Socket,
    file: Option<SocketFile>,
    /// Its name in systemd's descriptor store.
    stored: Option<String>,
    /// The generations that asked for it.
    wanted: HashSet<Id>,
}

/// A descriptor that the application keeps from one worker to the next.
#[derive(Debug)]
struct Kept {
    name: String,
    fd: OwnedFd,
    /// The latest generation that asked for it.
    asked: Id,
}

impl Sockets {
    fn empty(systemd: Messages) -> Self {
        let (inherited, asked, bound, kept, opened, files) = Default::default();
        Self { inherited, asked, bound, kept, opened, settled: 0, files, systemd }
    }

    /// Sorts what this process was started with: the sockets that the user configured, and those
    /// that an earlier master, which was killed, has left in systemd's descriptor store.
    pub(crate) fn new(inherited: Vec<Inherited>, systemd: Messages) -> Self {
        let mut sockets = Self::empty(systemd);
        for entry in inherited {
            match entry.name.parse() {
                Ok(name) => sockets.restore(name, entry),
                Err(_) => sockets.inherited.push(entry),
            }
        }
        sockets
    }

    fn restore(&mut self, name: StoredName, Inherited { name: text, socket }: Inherited) {
        let StoredName { address, nth, file } = name;
        let file = file.map(|inode| SocketFile::again(&address, inode));
        if matches!(file, Some(None)) {
            // Its file is gone or another socket's, so nobody could find it.
            tracing::info!(address, "closed a stored listener without a file");
            return self.systemd.remove(&text);
        }
        tracing::info!(address, "took a listener back from the descriptor store");
        let (key, file, stored) = ((address, nth), file.flatten(), Some(text));
        self.bound.push(Entry { key, socket, file, stored, wanted: HashSet::new() });
    }

    /// Writes down every socket for a program that takes over.
    pub(crate) fn leave(&self, handoff: &mut Handoff) {
        for Inherited { name, socket } in &self.inherited {
            let (name, fd) = (name.clone(), socket.as_fd().as_raw_fd());
            handoff.inherited.push(InheritedSocket { name, fd });
        }
        for entry in &self.bound {
            handoff.bound.push(BoundSocket {
                address: entry.key.0.clone(),
                nth: entry.key.1,
                fd: entry.socket.as_fd().as_raw_fd(),
                file: entry.file.as_ref().map(SocketFile::inode),
                stored: entry.stored.clone(),
                wanted: entry.wanted.iter().copied().collect(),
            });
        }
        for Kept { name, fd, asked } in &self.kept {
            let (name, fd, asked) = (name.clone(), fd.as_raw_fd(), *asked);
            handoff.kept.push(KeptSocket { name, fd, asked });
        }
    }

    /// Every descriptor that `leave` has named.
    pub(crate) fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let inherited = self.inherited.iter().map(|entry| entry.socket.as_fd());
        let bound = self.bound.iter().map(|entry| entry.socket.as_fd());
        inherited.chain(bound).chain(self.kept.iter().map(|kept| kept.fd.as_fd()))
    }

    /// Takes over what another program has left.
    pub(crate) fn take_over(
        handoff: &Handoff,
        descriptors: &mut Descriptors,
        systemd: Messages,
    ) -> Result<Self, Error> {
        let mut socket = |number| {
            Socket::check(descriptors.remove(number)?)
                .map_err(|error| Error::io("cannot take over a listener", error))
        };
        let mut sockets = Self::empty(systemd);
        let serving = handoff.workers.iter().filter(|worker| worker.drain.is_none());
        sockets.settled = serving.map(|worker| worker.id).max().unwrap_or_default();
        for InheritedSocket { name, fd } in &handoff.inherited {
            sockets.inherited.push(Inherited { name: name.clone(), socket: socket(*fd)? });
        }
        for left in &handoff.bound {
            sockets.bound.push(Entry {
                key: (left.address.clone(), left.nth),
                socket: socket(left.fd)?,
                file: left.file.and_then(|inode| SocketFile::again(&left.address, inode)),
                stored: left.stored.clone(),
                wanted: left.wanted.iter().copied().collect(),
            });
        }
        for KeptSocket { name, fd, asked } in &handoff.kept {
            let (name, fd, asked) = (name.clone(), descriptors.remove(*fd)?, *asked);
            sockets.kept.push(Kept { name, fd, asked });
        }
        Ok(sockets)
    }

    /// A copy of what the application keeps under this name.
    pub(crate) fn fetch(&mut self, worker: Id, name: &str) -> std::io::Result<Option<OwnedFd>> {
        let Some(kept) = self.kept.iter_mut().find(|kept| kept.name == name) else {
            return Ok(None);
        };
        kept.asked = worker;
        kept.fd.try_clone().map(Some)
    }

    /// Keeps a descriptor for the workers to come.
    pub(crate) fn keep_for_app(&mut self, worker: Id, name: String, fd: OwnedFd) {
        self.kept.retain(|kept| kept.name != name);
        self.kept.push(Kept { name, fd, asked: worker });
    }

    /// A worker has become ready.
    pub(crate) fn opened(&mut self, worker: Id, listeners: Vec<Open>) {
        self.opened = (worker, listeners);
    }

    /// Where this machine can connect to a worker that has become ready, and whether that speaks TLS. Without
    /// it, if there is a choice.
    pub(crate) fn connect_address(&self, worker: Id) -> Option<(SocketAddress, bool)> {
        let (id, open) = &self.opened;
        let bound = self.bound.iter().map(|entry| &entry.socket);
        let inherited = self.inherited.iter().map(|entry| &entry.socket);
        let sockets: Vec<_> = bound.chain(inherited).collect();
        let connect = |open: &Open| {
            let socket = sockets.iter().find(|socket| socket.address() == open.address)?;
            Some((socket.connect_address()?, open.tls))
        };
        let mut open: Vec<_> = open.iter().filter(|_| *id == worker).collect();
        open.sort_by_key(|open| open.tls);
        open.into_iter().find_map(connect)
    }

    /// The listeners of one worker that another one has not asked for.
    pub(crate) fn alone(&self, worker: Id, other: Id) -> Vec<String> {
        let wanted = |entry: &&Entry, id| entry.wanted.contains(&id);
        let alone =
            self.bound.iter().filter(|entry| wanted(entry, worker) && !wanted(entry, other));
        alone.map(|entry| entry.socket.address()).collect()
    }

    /// Copies of all sockets that the supervisor passed, for a worker that asked for them.
    pub(crate) fn inherited(&mut self, worker: Id) -> std::io::Result<Vec<OwnedFd>> {
        self.asked.extend((0..self.inherited.len()).map(|index| (worker, index)));
        Ok(self.candidates()?.into_iter().map(Socket::into_fd).collect())
    }

    /// Copies of the same, in the same order: one of them may be bound to what a worker asks for. To find out
    /// may take the look-up of a name, for which the master's loop has no time.
    pub(crate) fn candidates(&self) -> std::io::Result<Vec<Socket>> {
        self.inherited.iter().map(|entry| entry.socket.try_clone()).collect()
    }

    /// A worker has asked for one of these and is given it.
    pub(crate) fn given(&mut self, worker: Id, candidate: usize) {
        self.asked.insert((worker, candidate));
    }

    /// A copy of the socket that was bound for an address, if there is one already.
    pub(crate) fn find(
        &mut self,
        worker: Id,
        address: &Address,
        nth: u32,
    ) -> Option<std::io::Result<OwnedFd>> {
        let key = (address.to_string(), nth);
        let entry = self.bound.iter_mut().find(|entry| entry.key == key)?;
        entry.wanted.insert(worker);
        Some(entry.socket.try_clone().map(Socket::into_fd))
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
        let stored = self.store(&key, &socket, bound.file.as_ref());
        self.bound.push(Entry { key, socket, file: bound.file, stored, wanted });
        Ok(copy)
    }

    /// Leaves a copy with systemd, if there is one, and answers under which name.
    fn store(
        &self,
        (address, nth): &(String, u32),
        socket: &Socket,
        file: Option<&SocketFile>,
    ) -> Option<String> {
        if !self.systemd.is_heard() {
            return None;
        }
        let file = file.map(SocketFile::inode);
        let name = StoredName { address: address.clone(), nth: *nth, file }.text()?;
        match socket.try_clone() {
            Ok(copy) => self.systemd.store(&name, copy.into_fd()),
            Err(error) => {
                tracing::warn!(address, %error, "cannot store a listener");
                return None;
            }
        }
        Some(name)
    }

    /// Closes what this worker, which is past its trial, did not ask for.
    pub(crate) fn settle(&mut self, worker: Id) {
        self.keep_only(|entry| {
            entry.wanted.retain(|id| *id == worker);
            !entry.wanted.is_empty()
        });
        // Not closed: the supervisor has a copy, so that clients would not be refused, and a later
        // generation may ask for it.
        for (index, entry) in self.inherited.iter().enumerate() {
            if !self.asked.contains(&(worker, index)) {
                entry.warn_of_waiting_clients();
            }
        }
        self.asked.retain(|(id, _)| *id == worker);
        // The application may ask for it at any time after its start: one generation of patience.
        let before = std::mem::replace(&mut self.settled, worker);
        self.kept.retain(|kept| kept.asked >= before);
    }

    /// A worker has ended. Nobody comes to accept what it alone had asked for, unless it had served: then the
    /// next one asks for the same.
    pub(crate) fn gone(&mut self, worker: Id) {
        if worker != self.settled {
            self.keep_only(|entry| !entry.wanted.remove(&worker) || !entry.wanted.is_empty());
        }
    }

    /// Closes the other sockets.
    fn keep_only(&mut self, mut is_wanted: impl FnMut(&mut Entry) -> bool) {
        let systemd = &self.systemd;
        self.bound.retain_mut(|entry| {
            let wanted = is_wanted(entry);
            if !wanted {
                tracing::info!(address = entry.key.0, "closed a listener that is no longer wanted");
                entry.stored.iter().for_each(|name| systemd.remove(name));
            }
            wanted
        });
    }

    /// Lets go of all sockets, so that the last worker closes them when it stops accepting. The files
    /// of Unix sockets stay until this is dropped.
    pub(crate) fn release(&mut self) {
        self.inherited.clear();
        self.kept.clear();
        // Nobody would accept what connects to systemd's copies.
        let stored = self.bound.iter().filter_map(|entry| entry.stored.as_deref());
        stored.for_each(|name| self.systemd.remove(name));
        self.files.extend(self.bound.drain(..).filter_map(|entry| entry.file));
    }
}
