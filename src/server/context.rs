use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::sync::{RwLock, Semaphore, mpsc};

use super::{
    Limits,
    handover::Gift,
    requests::{CutRequest, Registry, lock},
};
use crate::{drain::Drain, handle::Handle};

/// What all connections of a process share.
#[derive(Debug)]
pub(crate) struct Context {
    /// Counts requests in flight; handlers see it.
    pub(crate) requests: Drain,
    /// Counts connections, from their accept to their close.
    pub(crate) connections: Drain,
    pub(crate) registry: Registry,
    pub(crate) limits: Limits,
    /// Read while a loop may accept: who can write knows that none does.
    pub(super) accepting: RwLock<()>,
    /// One for each connection that may be served; `None` where there is no limit.
    pub(super) seats: Option<Arc<Semaphore>>,
    /// Handlers find it through the drain, which does not keep it.
    _handle: Handle,
    phase: Mutex<Phase>,
    gifts: Mutex<Option<mpsc::UnboundedSender<Gift>>>,
}

/// What the process wants of its connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Serving,
    Draining {
        /// How long a connection with nothing in flight may wait for one more request.
        idle_grace: Duration,
        hand_over: HandOver,
    },
    /// The deadline has passed: end, whatever is in flight.
    Cut,
}

/// Whether connections can be given to the next worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HandOver {
    No,
    /// The next worker has yet to say that it takes them: serve on, without a goodbye.
    Soon,
    Now,
}

impl Context {
    pub(crate) fn new(handle: Handle, limits: Limits) -> Arc<Self> {
        let seats = limits.max_connections.map(|most| Arc::new(Semaphore::new(most)));
        Arc::new(Self {
            requests: handle.drain().clone(),
            connections: Drain::new(),
            registry: Registry::default(),
            limits,
            accepting: RwLock::default(),
            seats,
            _handle: handle,
            phase: Mutex::new(Phase::Serving),
            gifts: Mutex::default(),
        })
    }

    /// What is wanted now. Costs a lock only once the drain has started.
    pub(crate) fn phase(&self) -> Phase {
        // Started before the phase is set and before the connections are woken: whoever is woken
        // sees it, and whoever is registered after that sees it at its first look.
        match self.connections.is_draining() {
            true => *lock(&self.phase),
            false => Phase::Serving,
        }
    }

    /// Tells every connection to come to its end.
    pub(crate) fn drain(&self, idle_grace: Duration, successor: bool, hand_over: HandOver) {
        self.set(Phase::Draining { idle_grace, hand_over });
        // Before the requests: an answer that sees those drain also sees the phase, and knows whether
        // it has to say goodbye.
        self.connections.start();
        if successor {
            self.requests.start_handing_over();
        } else {
            self.requests.start();
        }
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

    /// The next worker takes connections: they go through this queue.
    pub(super) fn hand_over_open(&self, queue: mpsc::UnboundedSender<Gift>) {
        *lock(&self.gifts) = Some(queue);
        self.hand_over(HandOver::Now);
    }

    /// It takes no more.
    pub(super) fn hand_over_ended(&self) {
        *lock(&self.gifts) = None;
        self.hand_over(HandOver::No);
    }

    fn hand_over(&self, now: HandOver) {
        if let Phase::Draining { hand_over, .. } = &mut *lock(&self.phase) {
            // A stop has ended the hand-over for good.
            if *hand_over != HandOver::No {
                *hand_over = now;
            }
        }
        self.registry.wake();
    }

    /// Sends a connection to the next worker; it comes back at once where there is none.
    pub(super) fn give(&self, gift: Gift) -> Result<(), Gift> {
        match &*lock(&self.gifts) {
            Some(gifts) => gifts.send(gift).map_err(|error| error.0),
            None => Err(gift),
        }
    }

    fn set(&self, phase: Phase) {
        *lock(&self.phase) = phase;
    }
}
