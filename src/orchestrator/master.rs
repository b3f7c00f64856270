//! The master: signals, messages and timers become events, actions become calls. It never accepts a
//! connection and never builds the application.

use std::{
    collections::{HashMap, HashSet},
    os::fd::OwnedFd,
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};

use super::{
    Options, Signal, attend,
    errands::Errands,
    health,
    link::Link,
    message::{DrainOrder, ToMaster, ToWorker, VERSION},
    report::Report,
    signal::{self, Signals},
    single,
    sockets::Sockets,
    state::{Action, Event, Id, Phase, State, Timer},
    takeover::Handoff,
    upgrade::Candidate,
};
use crate::{
    error::{Error, Kind},
    handle::{Command, Handle},
    listener::{Address, Bound, Listeners, Socket},
    process::{child::Ended, exec::Program, image::Image, wire},
    server::CutRequest,
};

/// Pings without an answer after which a worker counts as hung.
const MISSED_PINGS: u32 = 5;

/// Runs workers until a stop.
pub(crate) async fn run(
    options: Options,
    handle: Handle,
    mut commands: mpsc::UnboundedReceiver<Command>,
) -> Result<(), Error> {
    // First of all: a signal that arrives from now on waits until the first worker is ready.
    let mut signals = Signals::listen(&options)?;
    let program =
        Program::resolve().map_err(|error| Error::io("cannot find this program", error))?;
    let mut predecessor = Handoff::take()?;
    if let Some((handoff, descriptors)) = &mut predecessor {
        for left in std::mem::take(&mut handoff.signals) {
            signals.recall(left.signal, &descriptors.remove(left.fd)?);
        }
    }
    let report = Report::open(&options, &program, &handle, predecessor.as_mut())?;
    let sockets = match &mut predecessor {
        Some((handoff, descriptors)) => Sockets::take_over(handoff, descriptors, report.systemd())?,
        None => Sockets::new(Listeners::from_env()?.into_inherited(), report.systemd()),
    };
    let (sender, mut inputs) = mpsc::unbounded_channel();
    let mut pings = interval(options.watch_interval);
    pings.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut master = Master {
        state: State::new(options.limits()),
        options,
        program,
        report,
        sockets,
        workers: HashMap::new(),
        current: None,
        previous: None,
        candidate: None,
        checking: HashSet::new(),
        examined: HashSet::new(),
        overdue: None,
        pausing: None,
        retiring: HashSet::new(),
        unproven: HashMap::new(),
        failed: HashSet::new(),
        timers: HashMap::new(),
        errands: Errands::default(),
        inputs: sender,
        started: Instant::now(),
        stopping: false,
        reload_since: None,
        rolled_back: false,
        cut: Vec::new(),
        result: None,
    };
    drop(handle);
    match predecessor {
        Some((handoff, descriptors)) => master.resume(handoff, descriptors)?,
        None => master.feed(Event::Start),
    }
    loop {
        if master.is_due() {
            master.upgrade(&signals, &mut inputs, &commands).await;
        }
        if let Some(result) = master.result.take() {
            let Master { report, errands, .. } = &mut master;
            tokio::join!(report.finish(), errands.finish());
            return result;
        }
        let next = master.next_timer();
        tokio::select! {
            Some(input) = inputs.recv() => master.input(input),
            ended = master.errands.next() => ended.into_iter().for_each(|input| master.input(input)),
            (signal, order) = signals.next() => master.signal(signal, order),
            Some(command) = commands.recv() => master.command(command),
            timer = expired(next) => {
                master.timers.remove(&timer);
                master.expired(timer);
            }
            _ = pings.tick() => master.ping(),
        }
    }
}

async fn expired(next: Option<(Timer, Instant)>) -> Timer {
    match next {
        Some((timer, at)) => {
            sleep_until(at).await;
            timer
        }
        None => std::future::pending().await,
    }
}

pub(super) struct Master {
    pub(super) state: State,
    pub(super) options: Options,
    pub(super) program: Program,
    pub(super) report: Report,
    pub(super) sockets: Sockets,
    pub(super) workers: HashMap<Id, Worker>,
    /// What the last worker that proved itself runs, and what the one before it ran.
    pub(super) current: Option<Arc<Image>>,
    pub(super) previous: Option<Arc<Image>>,
    /// What this process will become.
    pub(super) candidate: Option<Candidate>,
    /// Workers whose program is being asked before it is started.
    pub(super) checking: HashSet<Id>,
    /// Workers whose health is being asked about, and by whom.
    pub(super) examined: HashSet<(Id, Examiner)>,
    /// Its trial would be over, but for an examination that has not ended.
    pub(super) overdue: Option<Id>,
    /// Who has been told to stop accepting for the sake of the one on trial, and has not answered.
    pub(super) pausing: Option<Id>,
    /// What workers run that are not past their trial.
    pub(super) unproven: HashMap<Id, Arc<Image>>,
    /// The digests of binaries that did not get past it.
    pub(super) failed: HashSet<String>,
    /// Workers with a successor whose `on_retire` hooks may still run.
    pub(super) retiring: HashSet<Id>,
    pub(super) timers: HashMap<Timer, Instant>,
    pub(super) errands: Errands,
    pub(super) inputs: mpsc::UnboundedSender<Input>,
    started: Instant,
    pub(super) stopping: bool,
    pub(super) reload_since: Option<Instant>,
    /// An old worker goes on in place of one that failed its trial.
    pub(super) rolled_back: bool,
    /// What was cut during a stop.
    cut: Vec<CutRequest>,
    pub(super) result: Option<Result<(), Error>>,
}

/// A worker process.
pub(super) struct Worker {
    pub(super) pid: u32,
    /// What it runs; `None` where that cannot be pinned.
    pub(super) image: Option<Arc<Image>>,
    pub(super) link: Link<ToWorker>,
    pub(super) attendant: mpsc::UnboundedSender<attend::Order>,
    /// What the worker said of its own failure.
    pub(super) reason: Option<String>,
    /// Its last panic.
    pub(super) panic: Option<String>,
    pub(super) unanswered: u32,
}

impl Worker {
    /// What it has said that explains this end.
    fn last_words(self, status: &std::io::Result<Ended>) -> Option<String> {
        // What a panic ends a process with; other panics have ended a task.
        const STATUS: i32 = 101;
        let panicked = matches!(status, Ok(Ended::Status(STATUS)))
            || matches!(status, Ok(Ended::Signal(number)) if *number == Signal::ABRT.as_raw());
        self.panic.filter(|_| panicked).or(self.reason)
    }
}

/// What the tasks of the master tell its loop.
pub(super) enum Input {
    Message(Id, ToMaster, Vec<OwnedFd>),
    /// The wire has ended, or made no sense.
    WireEnded(Id, Option<String>),
    Exited(Id, std::io::Result<Ended>),
    Bound(Id, Address, u32, Result<Bound, Error>),
    /// A socket of the supervisor, by its place there, is bound to what the worker has asked for.
    Inherited(Id, usize, Socket),
    Event(Event),
    /// A worker has answered well as long as it was asked.
    Healthy(Id),
    /// The digest of a binary that has failed.
    Failed(std::io::Result<String>),
    /// The digest of what the path names, for a reload that wants it to be untried.
    Untried(Option<String>),
    /// The hooks before a signal have run.
    Signal(Signal, signal::Order),
    /// The program of a worker that is about to start has been asked.
    Checked(Id, Result<(), String>),
    /// A program has been asked whether this process can become it.
    Candidate(Arc<Image>, Result<(), String>),
}

/// Who asks about the health of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Examiner {
    Master,
    Itself,
}

impl Master {
    pub(super) fn feed(&mut self, event: Event) {
        tracing::debug!(?event);
        self.report.event(&event);
        let random = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0) as u32;
        let actions = self.state.step(self.started.elapsed(), random, event);
        for action in actions {
            tracing::debug!(?action);
            self.report.action(&action);
            self.act(action);
        }
        self.report.phases(self.state.workers());
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Spawn(id) if self.options.check_before_reload => self.check(id),
            Action::Spawn(id) => self.spawn(id, None),
            Action::Respawn(id) => self.spawn(id, self.current.clone()),
            Action::Rollback(id) => match self.previous.clone() {
                Some(previous) => self.spawn(id, Some(previous)),
                None => {
                    self.cannot_spawn(id, "there is no previous binary to go back to".to_owned());
                }
            },
            Action::Kill(id) => {
                if let Some(worker) = self.workers.get(&id) {
                    // It fails when the worker has ended already.
                    let _ = worker.attendant.send(attend::Order::Kill);
                } else if self.checking.remove(&id) {
                    self.cannot_spawn(id, "it was no longer wanted".to_owned());
                }
            }
            Action::Pause(id) => {
                self.pausing = Some(id);
                let alone = self.on_trial().map(|trial| self.sockets.alone(id, trial));
                self.tell(id, ToWorker::Pause { alone: alone.unwrap_or_default() });
            }
            Action::Resume(id) => {
                self.tell(id, ToWorker::Resume);
                self.rolled_back = true;
                // The one before it may have retired while nobody served.
                self.activate();
            }
            Action::Drain { id, successor } => self.drain(id, successor),
            Action::Cut(id) => self.tell(id, ToWorker::Cut),
            Action::Set(timer, after) => {
                self.timers.insert(timer, Instant::now() + after);
                if let Timer::Bake(id) = timer {
                    self.begin_trial(id);
                }
            }
            Action::Clear(timer) => {
                self.timers.remove(&timer);
            }
            Action::Settle(id) => self.settle(id),
            Action::Reloaded(outcome) => self.reloaded(outcome),
            Action::Leave(outcome) => {
                // No worker was there to drain when the stop came before the first was ready.
                self.sockets.release();
                self.result = Some(match outcome {
                    Ok(()) => single::finished(&self.cut),
                    Err(why) => Err(Error::new(Kind::Worker, format!("the worker failed: {why}"))),
                });
            }
        }
    }

    pub(super) fn tell(&self, id: Id, message: ToWorker) {
        if let Some(worker) = self.workers.get(&id) {
            worker.link.send(message);
        }
    }

    /// This worker has proved itself, and so has its binary.
    fn settle(&mut self, id: Id) {
        self.unproven.remove(&id);
        self.sockets.settle(id);
        let image = self.workers.get(&id).and_then(|worker| worker.image.clone());
        let same = match (&self.current, &image) {
            (Some(current), Some(image)) => current.is(image),
            _ => false,
        };
        if !same {
            self.previous = std::mem::replace(&mut self.current, image);
        }
        self.activate();
    }

    /// What a worker did in the background has ended.
    fn retired(&mut self, id: Id) {
        if self.retiring.remove(&id) {
            self.activate();
        }
    }

    /// Tells the worker that serves when it is the only one that may work in the background.
    fn activate(&self) {
        let serving = self.state.workers().find(|(_, phase)| *phase == Phase::Serving);
        if let (Some((id, _)), true) = (serving, self.retiring.is_empty()) {
            self.tell(id, ToWorker::Active);
        }
    }

    fn drain(&mut self, id: Id, successor: Option<Id>) {
        let Options { shutdown_delay, idle_grace, stop_timeout, .. } = self.options;
        let order = match successor {
            // Nobody waits for this worker, so its idle connections may take their time. Those that
            // are still idle near the end are closed with care, not cut.
            Some(successor) => DrainOrder {
                successor: true,
                alone: self.sockets.alone(id, successor),
                delay: Duration::ZERO,
                idle_grace: idle_grace.max(stop_timeout.mul_f64(0.75)),
                timeout: stop_timeout,
            },
            None => DrainOrder {
                successor: false,
                alone: Vec::new(),
                delay: shutdown_delay,
                idle_grace,
                timeout: stop_timeout,
            },
        };
        if successor.is_some() {
            // Nothing is remembered of one that has proved itself.
            self.remember_failure(id);
            self.retiring.insert(id);
        }
        let hand_over = successor.and_then(|successor| self.hand_over(successor));
        if let Some(worker) = self.workers.get(&id) {
            worker.link.send_with(ToWorker::Drain(order), hand_over.into_iter().collect());
        }
        if successor.is_none() {
            self.sockets.release();
        }
    }

    /// Gives one end of a socket pair to the successor; the other one is for the worker that leaves.
    fn hand_over(&self, successor: Id) -> Option<OwnedFd> {
        if !self.options.hand_over {
            return None;
        }
        let successor = self.workers.get(&successor)?;
        match wire::pair() {
            Ok((giver, taker)) => {
                successor.link.send_with(ToWorker::Adopt, vec![taker]);
                Some(giver)
            }
            Err(error) => {
                tracing::error!(%error, "no connection can be handed over");
                None
            }
        }
    }

    fn on_trial(&self) -> Option<Id> {
        self.state.workers().find(|(_, phase)| *phase == Phase::Trial).map(|(id, _)| id)
    }

    fn begin_trial(&mut self, id: Id) {
        let health_check = self.options.health_check.iter();
        self.examined.extend(health_check.map(|_| (id, Examiner::Master)));
        // Else it waits until the old worker has paused.
        if self.pausing.is_none() {
            self.probe();
        }
    }

    /// A worker accepts no more, or is gone.
    fn paused(&mut self, id: Id) {
        if self.pausing == Some(id) {
            self.pausing = None;
            self.probe();
        }
    }

    /// Asks the worker on trial for its health, if the user wants that. It is the only one that accepts.
    fn probe(&mut self) {
        let (Some(path), Some(id)) = (self.options.health_check.clone(), self.on_trial()) else {
            return;
        };
        let Some((address, tls)) = self.sockets.connect_address(id) else {
            tracing::warn!("there is no socket to check the new worker's health on");
            return self.healthy(id, Examiner::Master);
        };
        let (inputs, time) = (self.inputs.clone(), self.options.bake_time);
        tokio::spawn(async move {
            let input = match health::watch(address, tls, path, time).await {
                Ok(()) => Input::Healthy(id),
                Err(why) => Input::Event(Event::Unfit(id, why)),
            };
            // It fails when the master has left.
            let _ = inputs.send(input);
        });
    }

    fn expired(&mut self, timer: Timer) {
        if let Timer::Bake(id) = timer
            && self.examined.iter().any(|(examined, _)| *examined == id)
        {
            // On a busy machine the result may come later than the end of the trial; it counts all the same.
            self.overdue = Some(id);
            return;
        }
        self.feed(Event::Timer(timer));
    }

    /// One examination of a worker on trial has ended well.
    fn healthy(&mut self, id: Id, examiner: Examiner) {
        self.examined.remove(&(id, examiner));
        if self.overdue == Some(id) {
            self.overdue = None;
            self.expired(Timer::Bake(id));
        }
    }

    fn next_timer(&self) -> Option<(Timer, Instant)> {
        self.timers.iter().map(|(timer, at)| (*timer, *at)).min_by_key(|(_, at)| *at)
    }

    fn ping(&mut self) {
        let mut hung = Vec::new();
        for (id, worker) in &mut self.workers {
            // One that starts has `ready_timeout`, one that drains has its deadline.
            if matches!(self.state.phase(*id), Some(Phase::Trial | Phase::Serving | Phase::Parked))
            {
                if worker.unanswered >= MISSED_PINGS {
                    hung.push(*id);
                }
                worker.unanswered += 1;
            } else if self.state.phase(*id) != Some(Phase::Draining) {
                continue;
            }
            worker.link.send(ToWorker::Ping);
        }
        for id in hung {
            let silence = self.options.watch_interval * MISSED_PINGS;
            let why = format!("it has not answered for {silence:?}");
            let status = self.report.last_status(id);
            tracing::error!(generation = id, why, %status, "a worker hangs");
            self.feed(Event::Unhealthy(id, why));
        }
    }

    pub(super) fn input(&mut self, input: Input) {
        match input {
            Input::Message(id, message, fds) => {
                if let Some(worker) = self.workers.get_mut(&id) {
                    worker.unanswered = 0;
                }
                self.report.heard(id);
                self.message(id, message, fds);
            }
            Input::WireEnded(id, why) => {
                let why = why.unwrap_or_else(|| "it closed its wire to the master".to_owned());
                self.feed(Event::Unhealthy(id, why));
            }
            Input::Exited(id, status) => {
                let worker = self.workers.remove(&id);
                self.report.reaped(worker.as_ref().map(|worker| worker.pid));
                self.retired(id);
                self.sockets.gone(id);
                self.examined.retain(|(examined, _)| *examined != id);
                self.remember_failure(id);
                let mut why = match &status {
                    Ok(ended) => ended.to_string(),
                    Err(error) => format!("it cannot be waited for: {error}"),
                };
                if let Some(reason) = worker.and_then(|worker| worker.last_words(&status)) {
                    why = format!("{why}: {reason}");
                }
                tracing::info!(generation = id, why, "a worker has ended");
                self.feed(Event::Exited(id, why));
                self.paused(id);
            }
            Input::Bound(id, address, nth, bound) => self.bound(id, &address, nth, bound),
            Input::Inherited(id, index, socket) => self.found(id, index, socket),
            Input::Healthy(id) => self.healthy(id, Examiner::Master),
            Input::Event(event) => self.feed(event),
            Input::Failed(digest) => self.failed(digest),
            Input::Untried(digest) => self.untried(digest),
            Input::Signal(signal, order) => self.order(signal, order),
            Input::Checked(id, result) => self.checked(id, result),
            Input::Candidate(image, fit) => self.candidate(image, fit),
        }
    }

    fn message(&mut self, id: Id, message: ToMaster, fds: Vec<OwnedFd>) {
        match message {
            ToMaster::Hello { version, crate_version } => {
                tracing::debug!(generation = id, version, crate_version, "hello");
                self.tell(id, ToWorker::Welcome { version: VERSION, generation: id });
                if version != VERSION {
                    let why = format!("it speaks version {version} of the wire, not {VERSION}");
                    self.feed(Event::Unhealthy(id, why));
                }
            }
            ToMaster::Listen { address, nth } => self.listen(id, &address, nth),
            ToMaster::Inherited => match self.sockets.inherited(id) {
                Ok(fds) => self.give(id, fds),
                Err(error) => self.refuse(id, format!("cannot copy inherited sockets: {error}")),
            },
            ToMaster::Fetch { name } => {
                let fd = self.sockets.fetch(id, &name).unwrap_or_else(|error| {
                    tracing::error!(generation = id, name, %error, "cannot copy a descriptor");
                    None
                });
                if let Some(worker) = self.workers.get(&id) {
                    worker.link.send_with(ToWorker::Kept { name }, fd.into_iter().collect());
                }
            }
            ToMaster::Keep { name } => {
                // At a stop nobody comes after this worker.
                if let (false, Some(fd)) = (self.stopping, fds.into_iter().next()) {
                    self.sockets.keep_for_app(id, name, fd);
                }
            }
            ToMaster::Ready { examines, listeners } => {
                self.sockets.opened(id, listeners);
                if examines {
                    self.examined.insert((id, Examiner::Itself));
                }
                self.feed(Event::Ready(id));
            }
            ToMaster::Paused => self.paused(id),
            ToMaster::Healthy => self.healthy(id, Examiner::Itself),
            ToMaster::Unhealthy { reason } => self.feed(Event::Unfit(id, reason)),
            ToMaster::Retired => self.retired(id),
            ToMaster::Panicked { message } => {
                tracing::error!(generation = id, message, "a worker panicked");
                if let Some(worker) = self.workers.get_mut(&id) {
                    worker.panic = Some(message);
                }
            }
            ToMaster::Failed { reason } => {
                if let Some(worker) = self.workers.get_mut(&id) {
                    worker.reason = Some(reason);
                }
            }
            ToMaster::Status { in_flight, connections, survey } => {
                tracing::trace!(generation = id, in_flight, connections, "status");
                self.report.counted(id, in_flight, survey);
            }
            ToMaster::Reload => self.reload(),
            ToMaster::ReloadUntried => self.reload_untried(),
            ToMaster::Rollback => self.rollback(),
            #[cfg(feature = "fetch")]
            ToMaster::CheckForUpgrade => self.report.check_for_upgrade(None),
            #[cfg(not(feature = "fetch"))]
            ToMaster::CheckForUpgrade => tracing::warn!("this program cannot fetch an upgrade"),
            ToMaster::Stop => self.command(Command::Stop),
            ToMaster::Drained { cut } => {
                for request in &cut {
                    tracing::warn!(generation = id, %request, "cut at the deadline");
                }
                self.report.cut(id, &cut);
                if self.stopping {
                    self.cut.extend(cut);
                }
            }
            ToMaster::Unknown => tracing::debug!(generation = id, "an unknown message"),
        }
    }
}
