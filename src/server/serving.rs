use std::{
    collections::HashMap, future::pending, os::fd::OwnedFd, pin::pin, sync::Arc, time::Duration,
};

use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, sleep_until, timeout},
};

use super::{Accepting, App, Context, CutRequest, HandOver, Limits, accept::accept, handover};
use crate::{handle::Handle, listener::Listener};

/// Connections that were cut need a moment to end.
const CUT_PAUSE: Duration = Duration::from_millis(100);

/// The serving part of a process: its accept loops and connections, and how they end.
pub(crate) struct Serving {
    context: Arc<Context>,
    accepting: watch::Sender<Accepting>,
    /// Which application a listener belongs to, for connections that are taken over.
    apps: HashMap<Arc<str>, Box<dyn App>>,
}

/// How everything shall end.
#[derive(Debug)]
pub(crate) struct Ending {
    /// Whether another worker accepts on the same sockets.
    pub(crate) successor: bool,
    /// But not on these addresses.
    pub(crate) alone: Vec<String>,
    /// The way to a worker that takes connections over.
    pub(crate) hand_over: Option<OwnedFd>,
    /// Keep accepting for this long, already not ready.
    pub(crate) delay: Duration,
    pub(crate) idle_grace: Duration,
    /// After the delay: until everything has ended or is cut.
    pub(crate) timeout: Duration,
}

#[derive(Debug)]
pub(crate) enum Order {
    /// Stop accepting but on these addresses, and tell when nothing more is accepted elsewhere.
    Pause(Vec<String>, oneshot::Sender<()>),
    Resume,
    /// Take connections over from the worker at the other end.
    Adopt(OwnedFd),
    Drain(Ending),
    Cut,
}

impl Serving {
    /// Starts to accept on each listener.
    pub(crate) fn start(
        listeners: Vec<(Listener, Box<dyn App>)>,
        handle: Handle,
        limits: Limits,
    ) -> Self {
        let context = Context::new(handle, limits);
        let accepting = watch::Sender::new(Accepting::Yes);
        let mut apps = HashMap::new();
        for (listener, app) in listeners {
            apps.insert(listener.name(), app.another());
            let (context, accepting) = (context.clone(), accepting.subscribe());
            // Counted like a connection, so that nothing is over while something may be accepted.
            let guard = context.connections.guard();
            tokio::spawn(async move {
                accept(listener, app, context, accepting).await;
                drop(guard);
            });
        }
        Self { context, accepting, apps }
    }

    pub(crate) fn context(&self) -> &Arc<Context> {
        &self.context
    }

    /// Follows orders until everything has ended; tells what had to be cut.
    pub(crate) async fn run(self, mut orders: mpsc::UnboundedReceiver<Order>) -> Vec<CutRequest> {
        let mut ending: Option<Plan> = None;
        loop {
            let (delay, deadline, over) = match &ending {
                Some(plan) => (plan.delay, Some(plan.deadline), plan.delay.is_none()),
                None => (None, None, false),
            };
            tokio::select! {
                biased;
                order = orders.recv() => match order {
                    Some(Order::Pause(alone, paused)) if ending.is_none() => {
                        self.pause(alone, paused);
                    }
                    Some(Order::Resume) if ending.is_none() => self.set(Accepting::Yes),
                    Some(Order::Drain(wanted)) => self.drain(&mut ending, wanted),
                    Some(Order::Adopt(wire)) => self.adopt(wire),
                    Some(Order::Pause(..) | Order::Resume) => {}
                    Some(Order::Cut) | None => break,
                },
                () = until(delay) => {
                    if let Some(plan) = &mut ending {
                        plan.delay = None;
                        self.close(&mut plan.wanted);
                    }
                }
                () = until(deadline) => break,
                () = self.context.connections.drained(), if over => return Vec::new(),
            }
        }
        self.set(Accepting::Handed(Arc::default()));
        let cut = self.context.cut();
        for request in &cut {
            tracing::warn!(%request, "cut at the deadline");
        }
        // What was upgraded does not end by itself; it ends with the process.
        let _ = timeout(CUT_PAUSE, self.context.connections.drained()).await;
        cut
    }

    fn pause(&self, alone: Vec<String>, paused: oneshot::Sender<()>) {
        self.set(Accepting::Paused(alone.into()));
        let context = self.context.clone();
        tokio::spawn(async move {
            drop(context.accepting.write().await);
            // Who asked has stopped waiting.
            let _ = paused.send(());
        });
    }

    fn drain(&self, ending: &mut Option<Plan>, wanted: Ending) {
        let start = Instant::now();
        let delay = (!wanted.delay.is_zero()).then(|| start + wanted.delay);
        let deadline = start + wanted.delay + wanted.timeout;
        let mut plan = Plan { wanted, delay, deadline };
        if let Some(before) = ending {
            // A second order may shorten what was left, and never lengthen it.
            plan.deadline = plan.deadline.min(before.deadline);
            if before.delay.is_none() {
                plan.delay = None;
            }
        }
        match plan.delay {
            // Not ready any more, and answers say goodbye, but new connections are welcome.
            Some(_) => self.context.requests.start(),
            None => self.close(&mut plan.wanted),
        }
        *ending = Some(plan);
    }

    fn close(&self, wanted: &mut Ending) {
        let Ending { successor, idle_grace, .. } = *wanted;
        let (wire, alone) = (wanted.hand_over.take(), std::mem::take(&mut wanted.alone));
        let hand_over = if wire.is_some() { HandOver::Soon } else { HandOver::No };
        // Before the listeners are closed: who finds them closed finds this process draining.
        self.context.drain(idle_grace, successor, hand_over);
        self.set(match successor {
            true => Accepting::Handed(alone.into()),
            false => Accepting::Last,
        });
        if let Some(wire) = wire {
            // Not waited for: each connection waits for its own answer, and they are.
            tokio::spawn(handover::give(wire, self.context.clone()));
        }
    }

    fn adopt(&self, wire: OwnedFd) {
        let apps = self.apps.iter().map(|(name, app)| (name.clone(), app.another())).collect();
        let context = self.context.clone();
        // Counted like a connection: this process must not leave while some may come.
        let guard = context.connections.guard();
        tokio::spawn(async move {
            if let Err(error) = handover::take(wire, apps, context).await {
                tracing::warn!(%error, "cannot take more connections over");
            }
            drop(guard);
        });
    }

    fn set(&self, accepting: Accepting) {
        self.accepting.send_replace(accepting);
    }
}

struct Plan {
    wanted: Ending,
    /// When the delay is over; `None` when it is.
    delay: Option<Instant>,
    deadline: Instant,
}

async fn until(instant: Option<Instant>) {
    match instant {
        Some(instant) => pin!(sleep_until(instant)).await,
        None => pending().await,
    }
}
