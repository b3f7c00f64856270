//! The listeners that workers ask the master for.

use std::os::fd::OwnedFd;

use super::{
    master::{Input, Master},
    message::ToWorker,
    state::{Id, Phase},
};
use crate::{
    error::Error,
    listener::{Address, Bound, bind},
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
                // A name may take its time to be looked up, and the loop must not.
                let inputs = self.inputs.clone();
                tokio::task::spawn_blocking(move || {
                    let bound = bind(&address);
                    let _ = inputs.send(Input::Bound(id, address, nth, bound));
                });
            }
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
