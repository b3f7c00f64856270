use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use super::requests::{CutRequest, Registry};
use crate::{drain::Drain, handle::Handle};

/// What all connections of a process share.
#[derive(Debug)]
pub(crate) struct Context {
    /// Counts requests in flight; handlers see it.
    pub(crate) requests: Drain,
    /// Counts connections, from their accept to their close.
    pub(crate) connections: Drain,
    pub(crate) registry: Registry,
    pub(crate) handle: Handle,
    phase: Mutex<Phase>,
}

/// What the process wants of its connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Serving,
    Draining {
        /// How long a connection with nothing in flight may wait for one more request.
        idle_grace: Duration,
    },
    /// The deadline has passed: end, whatever is in flight.
    Cut,
}

impl Context {
    pub(crate) fn new(handle: Handle) -> Arc<Self> {
        Arc::new(Self {
            requests: handle.drain().clone(),
            connections: Drain::new(),
            registry: Registry::default(),
            handle,
            phase: Mutex::new(Phase::Serving),
        })
    }

    /// What is wanted now. Costs a lock only once the drain has started.
    pub(crate) fn phase(&self) -> Phase {
        // Started before the phase is set and before the connections are woken: whoever is woken
        // sees it, and whoever is registered after that sees it at its first look.
        match self.connections.is_draining() {
            true => *self.phase.lock().unwrap_or_else(PoisonError::into_inner),
            false => Phase::Serving,
        }
    }

    /// Tells every connection to come to its end.
    pub(crate) fn drain(&self, idle_grace: Duration, successor: bool) {
        self.set(Phase::Draining { idle_grace });
        if successor {
            self.requests.start_handing_over();
        } else {
            self.requests.start();
        }
        self.connections.start();
        self.registry.wake();
    }

    /// Ends every connection and tells what was in flight on them.
    pub(crate) fn cut(&self) -> Vec<CutRequest> {
        let cut = self.registry.in_flight();
        self.set(Phase::Cut);
        self.requests.start();
        self.connections.start();
        self.registry.wake();
        cut
    }

    fn set(&self, phase: Phase) {
        *self.phase.lock().unwrap_or_else(PoisonError::into_inner) = phase;
    }
}
