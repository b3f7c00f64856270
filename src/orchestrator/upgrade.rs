//! The master becomes the program that its workers run already.

use std::{
    collections::HashMap,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, timeout},
};

use super::{
    attend,
    link::Link,
    master::{Input, Master, Worker},
    preflight,
    signal::Signals,
    state::{Id, Phase, State, Timer},
    takeover::{self, Binary, Descriptors, Handoff},
};
use crate::{
    error::Error,
    handle::Command,
    process::{child::Child, exec, image::Image, wire},
};

/// How long each step of the preparation may take; then it is tried again later.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often it is tried for one binary.
const ATTEMPTS: u32 = 5;

/// A program that this process could become.
#[derive(Debug)]
pub(super) struct Candidate {
    image: Arc<Image>,
    attempts: u32,
}

impl Master {
    /// After a reload: asks the binary that now serves whether it could be the master, too.
    pub(super) fn consider(&mut self) {
        let Some(image) = self.current.clone().filter(|_| self.options.upgrade_master) else {
            return;
        };
        if image.is_run_by(std::process::id()) {
            return;
        }
        let (program, limit) = (self.program.clone(), self.options.ready_timeout);
        self.errands.ask(async move {
            let answer = preflight::ask(&program, &image.executable(), limit, None).await;
            let fit = answer.and_then(|answer| match answer.takeover {
                takeover::VERSION => Ok(()),
                other => Err(format!("it takes over version {other} of the state")),
            });
            Input::Candidate(image, fit)
        });
    }

    /// The answer to that.
    pub(super) fn candidate(&mut self, image: Arc<Image>, fit: Result<(), String>) {
        match fit {
            Ok(()) => self.candidate = Some(Candidate { image, attempts: 0 }),
            Err(why) => {
                tracing::warn!(why, "the new binary cannot be the master, which stays the old one");
            }
        }
    }

    /// Whether this is the moment to become the candidate: when nothing that this program was asked for
    /// would end with it.
    ///
    /// A signal, or another wish for a reload or a stop, is always in one of these places, and passes from one
    /// to the next within one turn of the loop. The exec may fall into the first two only:
    ///
    /// 1. Not delivered yet. It is blocked from before the last look until the next program listens, and
    ///    waits in the kernel.
    /// 2. In its pipe, or in the channel of commands or of messages. The last look, `is_quiet`, finds it and
    ///    nothing is executed; a pipe that is written to after that look is left to the next program.
    /// 3. Its hooks run, `before_signal` or `before_reload`. That is an errand, and counts as one until the
    ///    loop has taken its end and acted on it. So do questions about binaries.
    /// 4. It is obeyed. The state is not calm from its first action until a worker serves again; a second
    ///    reload is remembered in the state. The messages of a worker are read before the state is asked.
    /// 5. It is done, and `after_signal`, `after_reload` or `on_rollback` run: errands again. They may say so
    ///    to somebody outside, and are not cut short.
    pub(super) fn is_due(&self) -> bool {
        self.candidate.is_some()
            && self.is_idle()
            && self.retiring.is_empty()
            && self.result.is_none()
    }

    fn is_idle(&self) -> bool {
        self.state.is_calm() && self.errands.is_empty()
    }

    /// Becomes the candidate. Returns only where that fails: then everything goes on as before.
    pub(super) async fn upgrade(
        &mut self,
        signals: &Signals,
        inputs: &mut mpsc::UnboundedReceiver<Input>,
        commands: &mpsc::UnboundedReceiver<Command>,
    ) {
        let Some(mut candidate) = self.candidate.take() else { return };
        // The last reload may have been another one.
        if !self.current.as_ref().is_some_and(|current| current.is(&candidate.image)) {
            return;
        }
        if !self.report.hold() {
            self.candidate = Some(candidate);
            return;
        }
        candidate.attempts += 1;
        let mut released = HashMap::new();
        let why = match self.release(&mut released).await {
            Ok(()) => {
                // What was said until the workers were released.
                while let Ok(input) = inputs.try_recv() {
                    self.input(input);
                }
                self.exec(&candidate.image, &released, signals, inputs, commands).await
            }
            Err(why) => why,
        };
        self.report.go_on();
        for (id, (child, reader)) in released {
            let attendant = self.attend(id, child, reader);
            if let Some(worker) = self.workers.get_mut(&id) {
                worker.attendant = attendant;
            }
        }
        if candidate.attempts < ATTEMPTS {
            tracing::debug!(why, "the master could not become the new binary yet");
            self.candidate = Some(candidate);
        } else {
            tracing::warn!(why, "the master could not become the new binary and stays the old one");
        }
    }

    /// Takes the workers back from the tasks that attend them, with every message sent.
    async fn release(
        &mut self,
        released: &mut HashMap<Id, (Child, wire::Reader)>,
    ) -> Result<(), String> {
        for (id, worker) in &self.workers {
            let (taker, taken) = oneshot::channel();
            // It fails when the task has ended, as the next line will find.
            let _ = worker.attendant.send(attend::Order::Release(taker));
            let Ok(Ok(parts)) = timeout(PATIENCE, taken).await else {
                return Err(format!("worker {id} is ending"));
            };
            released.insert(*id, parts);
            if !timeout(PATIENCE, worker.link.flush()).await.unwrap_or(false) {
                return Err(format!("worker {id} does not read"));
            }
        }
        Ok(())
    }

    async fn exec(
        &mut self,
        image: &Image,
        released: &HashMap<Id, (Child, wire::Reader)>,
        signals: &Signals,
        inputs: &mut mpsc::UnboundedReceiver<Input>,
        commands: &mpsc::UnboundedReceiver<Command>,
    ) -> String {
        // Whoever waits for the outcome of the reload has it before this program ends.
        self.report.flush().await;
        // The messages that came with the workers may have begun something.
        if !self.is_idle() {
            return "something else has begun".to_owned();
        }
        let mut binaries = Vec::new();
        let mut handoff = match self.handoff(released, &mut binaries) {
            Ok(handoff) => handoff,
            Err(why) => return why,
        };
        handoff.signals = signals.leave();
        let state = match serde_json::to_vec(&handoff) {
            Ok(state) => state,
            Err(error) => return format!("its state cannot be written: {error}"),
        };
        let wires = released.values().map(|(_, reader)| reader.as_fd());
        let binaries = binaries.iter().map(AsFd::as_fd);
        let sockets = self.sockets.fds().chain(self.report.fds());
        let keep: Vec<BorrowedFd<'_>> =
            wires.chain(binaries).chain(sockets).chain(signals.fds()).collect();
        tracing::info!(path = %image.path().display(), "the master becomes the new binary");
        let mut order = None;
        let error = self.program.replace(
            &image.executable(),
            &state,
            &keep,
            self.report.environment(),
            signals.numbers(),
            || {
                order = signals.arrived();
                order.is_none() && !signals.is_behind() && inputs.is_empty() && commands.is_empty()
            },
        );
        if let Some((signal, order)) = order {
            self.signal(signal, order);
        }
        error.to_string()
    }

    /// Writes down everything; the binaries get descriptors of their own, one for each mention.
    fn handoff(
        &self,
        released: &HashMap<Id, (Child, wire::Reader)>,
        binaries: &mut Vec<OwnedFd>,
    ) -> Result<Handoff, String> {
        let mut binary = |image: &Option<Arc<Image>>| -> Result<Option<Binary>, String> {
            let Some(image) = image else { return Ok(None) };
            let fd = image.try_clone_fd().map_err(|error| error.to_string())?;
            let number = fd.as_raw_fd();
            binaries.push(fd);
            Ok(Some(Binary { path: image.path().to_owned(), fd: number }))
        };
        let mut handoff = Handoff::new(self.state.last());
        handoff.current = binary(&self.current)?;
        handoff.previous = binary(&self.previous)?;
        handoff.failed = self.failed.iter().cloned().collect();
        self.sockets.leave(&mut handoff);
        self.report.leave(&mut handoff);
        for (id, worker) in &self.workers {
            let (_, reader) = released.get(id).ok_or("a worker was started meanwhile")?;
            let read = reader.leftover().ok_or("a descriptor is on its way")?.to_vec();
            let left = |at: &Instant| at.saturating_duration_since(Instant::now());
            handoff.workers.push(takeover::Worker {
                id: *id,
                pid: worker.pid,
                drain: self.timers.get(&Timer::Drain(*id)).map(left),
                wire: reader.as_fd().as_raw_fd(),
                read,
                binary: binary(&worker.image)?,
            });
        }
        Ok(handoff)
    }

    /// Goes on where the program before this one has stopped.
    pub(super) fn resume(
        &mut self,
        handoff: Handoff,
        mut descriptors: Descriptors,
    ) -> Result<(), Error> {
        let mut image = |binary: Option<Binary>| -> Result<Option<Arc<Image>>, Error> {
            let Some(Binary { path, fd }) = binary else { return Ok(None) };
            let image = Image::adopt(descriptors.remove(fd)?.into(), &path)
                .map_err(|error| Error::io("cannot take over a binary", error))?;
            Ok(Some(Arc::new(image)))
        };
        self.current = image(handoff.current)?;
        self.previous = image(handoff.previous)?;
        self.failed = handoff.failed.into_iter().collect();
        let mut workers = handoff.workers;
        workers.sort_by_key(|worker| worker.id);
        let images = workers.iter_mut().map(|worker| image(worker.binary.take()));
        let images = images.collect::<Result<Vec<_>, _>>()?;
        let phases: Vec<_> = workers
            .iter()
            .map(|worker| (worker.id, worker.drain.map_or(Phase::Serving, |_| Phase::Draining)))
            .collect();
        self.state = State::resume(self.options.limits(), handoff.last, &phases);
        for (worker, image) in workers.into_iter().zip(images) {
            if let Some(left) = worker.drain {
                self.timers.insert(Timer::Drain(worker.id), Instant::now() + left);
            }
            let failed = |error| Error::io("cannot take over a worker", error);
            let (mut reader, writer) =
                wire::open(descriptors.remove(worker.wire)?).map_err(failed)?;
            reader.preload(worker.read);
            let attendant = self.attend(worker.id, Child::new(worker.pid), reader);
            self.report.resumed(worker.id, worker.pid, image.clone(), worker.drain);
            let link = Link::new(writer);
            let (pid, reason, panic, unanswered) = (worker.pid, None, None, 0);
            let resumed = Worker { pid, image, link, attendant, reason, panic, unanswered };
            self.workers.insert(worker.id, resumed);
        }
        self.report.phases(self.state.workers());
        exec::unblock_signals();
        let workers = self.workers.len();
        tracing::info!(workers, "this program has taken over as the master");
        Ok(())
    }
}
