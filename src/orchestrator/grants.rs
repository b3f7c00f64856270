//! The listeners that workers ask the master for.

use std::os::fd::OwnedFd;

use super::{
    master::{Input, Master},
    message::ToWorker,
    state::{Id, Phase},
};
use crate::{
    error::Error,
    listener::{Address, Bound, Socket, bind},
    process::wire,
};

impl Master {
    pub(super) fn listen(&mut self, id: Id, text: &str, nth: u32) {
        let address: Address = match text.parse() {
            Ok(address) => address,
            Err(error) => return self.refuse(id, format!("{error:?}")),
        };
        match self.sockets.find(id, &address, nth) {
            Some(Ok(fd)) => self.give(id, vec![fd]),
            Some(Err(error)) => self.refuse(id, format!("cannot copy the socket: {error}")),
            None => {
                let candidates = match self.sockets.candidates() {
                    Ok(candidates) => candidates,
                    Err(error) => return self.refuse(id, format!("cannot copy sockets: {error}")),
                };
                // A name may take its time to be looked up, and the loop must not.
                let inputs = self.inputs.clone();
                tokio::task::spawn_blocking(move || {
                    let mut candidates = candidates.into_iter().enumerate();
                    let input = match candidates.find(|(_, socket)| socket.is_bound_to(&address)) {
                        Some((index, socket)) => Input::Inherited(id, index, socket),
                        None => {
                            let bound = bind(&address);
                            Input::Bound(id, address, nth, bound)
                        }
                    };
                    // It fails when the master has left.
                    let _ = inputs.send(input);
                });
            }
        }
    }

    /// One of the sockets of the supervisor is what a worker has asked for.
    pub(super) fn found(&mut self, id: Id, index: usize, socket: Socket) {
        if self.state.phase(id) == Some(Phase::Starting) {
            self.sockets.given(id, index);
            self.give(id, vec![socket.into_fd()]);
        }
    }

    pub(super) fn bound(
        &mut self,
        id: Id,
        address: &Address,
        nth: u32,
        bound: Result<Bound, Error>,
    ) {
        if self.state.phase(id) != Some(Phase::Starting) {
            return;
        }
        let kept = bound.and_then(|bound| self.sockets.keep(id, address, nth, bound));
        match kept {
            Ok(fd) => self.give(id, vec![fd]),
            Err(error) => self.refuse(id, format!("{error:?}")),
        }
    }

    pub(super) fn give(&self, id: Id, mut fds: Vec<OwnedFd>) {
        let Some(worker) = self.workers.get(&id) else { return };
        while fds.len() > wire::MAX_FDS {
            let rest = fds.split_off(wire::MAX_FDS);
            worker.link.send_with(ToWorker::Listeners { more: true }, fds);
            fds = rest;
        }
        worker.link.send_with(ToWorker::Listeners { more: false }, fds);
    }

    pub(super) fn refuse(&self, id: Id, reason: String) {
        tracing::error!(generation = id, reason, "refused a listener");
        self.tell(id, ToWorker::Refused { reason });
    }
}
