//! The master: signals, messages and timers become events, actions become calls. It never accepts a
//! connection and never builds the application.

use std::{
    collections::HashMap,
    os::{fd::OwnedFd, unix::process::ExitStatusExt},
    pin::pin,
    process::ExitStatus,
    time::Duration,
};

use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval, sleep_until, timeout},
};

use super::{
    Options,
    link::Link,
    message::{DrainOrder, ToMaster, ToWorker, VERSION},
    signal::{self, Signals},
    single,
    sockets::Sockets,
    state::{Action, Event, Id, Phase, State, Timer},
};
use crate::{
    error::{Error, Kind},
    handle::{Command, Handle},
    listener::{Address, Bound, Listeners, bind},
    process::{
        exec::Program,
        wire::{self, Reader},
    },
    server::CutRequest,
};

/// Pings without an answer after which a worker counts as hung.
const MISSED_PINGS: u32 = 5;
/// How long a worker that has closed its wire may take to end by itself, so that its exit status
/// can tell why.
const WIRE_PAUSE: Duration = Duration::from_millis(500);
/// How long to wait for the last messages of a worker that has ended.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// Runs workers until a stop.
pub(crate) async fn run(
    options: Options,
    handle: Handle,
    mut commands: mpsc::UnboundedReceiver<Command>,
) -> Result<(), Error> {
    // First of all: a signal that arrives from now on waits until the first worker is ready.
    let mut signals = Signals::listen(&options)?;
    let sockets = Sockets::new(Listeners::from_env()?.into_inherited());
    let program =
        Program::resolve().map_err(|error| Error::io("cannot find this program", error))?;
    let (sender, mut inputs) = mpsc::unbounded_channel();
    let mut pings = interval(options.watch_interval);
    pings.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut master = Master {
        state: State::new(options.limits()),
        options,
        program,
        sockets,
        workers: HashMap::new(),
        timers: HashMap::new(),
        inputs: sender,
        started: Instant::now(),
        stopping: false,
        reload_since: None,
        cut: Vec::new(),
        result: None,
    };
    drop(handle);
    master.feed(Event::Start);
    loop {
        if let Some(result) = master.result.take() {
            return result;
        }
        let next = master.next_timer();
        tokio::select! {
            Some(input) = inputs.recv() => master.input(input),
            order = signals.next() => master.order(order),
            Some(command) = commands.recv() => master.command(command),
            timer = expired(next) => {
                master.timers.remove(&timer);
                master.feed(Event::Timer(timer));
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

struct Master {
    state: State,
    options: Options,
    program: Program,
    sockets: Sockets,
    workers: HashMap<Id, Worker>,
    timers: HashMap<Timer, Instant>,
    inputs: mpsc::UnboundedSender<Input>,
    started: Instant,
    stopping: bool,
    reload_since: Option<Instant>,
    /// What was cut during a stop.
    cut: Vec<CutRequest>,
    result: Option<Result<(), Error>>,
}

/// A worker process.
struct Worker {
    pid: Option<u32>,
    link: Link<ToWorker>,
    kill: mpsc::UnboundedSender<()>,
    /// What the worker said of its own failure.
    reason: Option<String>,
    unanswered: u32,
}

/// What the tasks of the master tell its loop.
enum Input {
    Message(Id, ToMaster),
    /// The wire has ended, or made no sense.
    WireEnded(Id, Option<String>),
    Exited(Id, std::io::Result<ExitStatus>),
    Bound(Id, Address, u32, Result<Bound, Error>),
    Event(Event),
}

impl Master {
    fn feed(&mut self, event: Event) {
        tracing::debug!(?event);
        let random = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0) as u32;
        let actions = self.state.step(self.started.elapsed(), random, event);
        for action in actions {
            tracing::debug!(?action);
            self.act(action);
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Spawn(id) | Action::Respawn(id) => self.spawn(id),
            Action::Kill(id) => {
                if let Some(worker) = self.workers.get(&id) {
                    // It fails when the worker has ended already.
                    let _ = worker.kill.send(());
                }
            }
            Action::Pause(id) => self.tell(id, ToWorker::Pause),
            Action::Resume(id) => self.tell(id, ToWorker::Resume),
            Action::Drain { id, successor } => self.drain(id, successor),
            Action::Cut(id) => self.tell(id, ToWorker::Cut),
            Action::Set(timer, after) => {
                self.timers.insert(timer, Instant::now() + after);
            }
            Action::Clear(timer) => {
                self.timers.remove(&timer);
            }
            Action::Settle(id) => self.sockets.settle(id),
            Action::Reloaded(outcome) => self.reloaded(outcome),
            Action::Leave(outcome) => {
                self.result = Some(match outcome {
                    Ok(()) => single::finished(&self.cut),
                    Err(why) => Err(Error::new(Kind::Worker, format!("the worker failed: {why}"))),
                });
            }
        }
    }

    fn tell(&self, id: Id, message: ToWorker) {
        if let Some(worker) = self.workers.get(&id) {
            worker.link.send(message);
        }
    }

    fn spawn(&mut self, id: Id) {
        match self.start(id) {
            Ok(worker) => {
                tracing::info!(generation = id, pid = worker.pid, "started a worker");
                self.workers.insert(id, worker);
            }
            Err(error) => {
                let path = self.program.path().display();
                let why = format!("cannot start {path}: {error}");
                // As an input: the machine is in the middle of a step.
                let _ = self.inputs.send(Input::Event(Event::Exited(id, why)));
            }
        }
    }

    fn start(&self, id: Id) -> std::io::Result<Worker> {
        let (ours, theirs) = wire::pair()?;
        let (reader, writer) = wire::open(ours)?;
        let child = self.program.spawn(theirs)?;
        let pid = child.id();
        let (kill, killed) = mpsc::unbounded_channel();
        tokio::spawn(attend(id, child, reader, killed, self.inputs.clone()));
        Ok(Worker { pid, link: Link::new(writer), kill, reason: None, unanswered: 0 })
    }

    fn drain(&mut self, id: Id, successor: Option<Id>) {
        let Options { shutdown_delay, idle_grace, stop_timeout, .. } = self.options;
        let order = match successor {
            // Nobody waits for this worker, so its idle connections may take their time. Those that
            // are still idle near the end are closed with care, not cut.
            Some(_) => DrainOrder {
                successor: true,
                delay: Duration::ZERO,
                idle_grace: idle_grace.max(stop_timeout.mul_f64(0.75)),
                timeout: stop_timeout,
            },
            None => DrainOrder {
                successor: false,
                delay: shutdown_delay,
                idle_grace,
                timeout: stop_timeout,
            },
        };
        self.tell(id, ToWorker::Drain(order));
        if successor.is_none() {
            self.sockets.release();
        }
    }

    fn reloaded(&mut self, outcome: Result<Id, String>) {
        let took = self.reload_since.take().map(|since| since.elapsed());
        match outcome {
            Ok(generation) => tracing::info!(generation, ?took, "reloaded"),
            Err(why) => tracing::error!(why, "the reload failed, the old worker goes on"),
        }
    }

    fn order(&mut self, order: signal::Order) {
        match order {
            signal::Order::Reload => self.reload(),
            signal::Order::Stop => self.stop(),
            signal::Order::Hammer => self.feed(Event::Hammer),
        }
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Reload => self.reload(),
            // A second signal means more than the first; a second call does not.
            Command::Stop if self.stopping => {}
            Command::Stop => self.stop(),
        }
    }

    fn reload(&mut self) {
        self.reload_since.get_or_insert_with(Instant::now);
        self.feed(Event::Reload);
    }

    fn stop(&mut self) {
        self.stopping = true;
        self.feed(Event::Stop);
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
                worker.link.send(ToWorker::Ping);
            }
        }
        for id in hung {
            let silence = self.options.watch_interval * MISSED_PINGS;
            let why = format!("it has not answered for {silence:?}");
            tracing::error!(generation = id, why, "a worker hangs");
            self.feed(Event::Unhealthy(id, why));
        }
    }

    fn input(&mut self, input: Input) {
        match input {
            Input::Message(id, message) => {
                if let Some(worker) = self.workers.get_mut(&id) {
                    worker.unanswered = 0;
                }
                self.message(id, message);
            }
            Input::WireEnded(id, why) => {
                let why = why.unwrap_or_else(|| "it closed its wire to the master".to_owned());
                self.feed(Event::Unhealthy(id, why));
            }
            Input::Exited(id, status) => {
                let worker = self.workers.remove(&id);
                let mut why = ended(status);
                if let Some(reason) = worker.and_then(|worker| worker.reason) {
                    why = format!("{why}: {reason}");
                }
                tracing::info!(generation = id, why, "a worker has ended");
                self.feed(Event::Exited(id, why));
            }
            Input::Bound(id, address, nth, bound) => self.bound(id, &address, nth, bound),
            Input::Event(event) => self.feed(event),
        }
    }

    fn message(&mut self, id: Id, message: ToMaster) {
        match message {
            ToMaster::Hello { version, crate_version } => {
                tracing::debug!(generation = id, version, crate_version, "hello");
                // A worker that speaks another version says so itself when it reads this.
                self.tell(id, ToWorker::Welcome { version: VERSION, generation: id });
            }
            ToMaster::Listen { address, nth } => self.listen(id, &address, nth),
            ToMaster::Inherited => match self.sockets.inherited() {
                Ok(fds) => self.give(id, fds),
                Err(error) => self.refuse(id, format!("cannot copy inherited sockets: {error}")),
            },
            ToMaster::Ready => self.feed(Event::Ready(id)),
            ToMaster::Failed { reason } => {
                if let Some(worker) = self.workers.get_mut(&id) {
                    worker.reason = Some(reason);
                }
            }
            ToMaster::Status { in_flight, connections } => {
                tracing::trace!(generation = id, in_flight, connections, "status");
            }
            ToMaster::Reload => self.reload(),
            ToMaster::Stop => self.command(Command::Stop),
            ToMaster::Drained { cut } => {
                for request in &cut {
                    tracing::warn!(generation = id, %request, "cut at the deadline");
                }
                if self.stopping {
                    self.cut.extend(cut);
                }
            }
            ToMaster::Unknown => tracing::debug!(generation = id, "an unknown message"),
        }
    }

    fn listen(&mut self, id: Id, text: &str, nth: u32) {
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

    fn bound(&mut self, id: Id, address: &Address, nth: u32, bound: Result<Bound, Error>) {
        if self.state.phase(id) != Some(Phase::Starting) {
            return;
        }
        let kept = bound.and_then(|bound| self.sockets.keep(id, address, nth, bound));
        match kept {
            Ok(fd) => self.give(id, vec![fd]),
            Err(error) => self.refuse(id, format!("{error:?}")),
        }
    }

    fn give(&self, id: Id, fds: Vec<OwnedFd>) {
        if let Some(worker) = self.workers.get(&id) {
            worker.link.send_with(ToWorker::Listeners, fds);
        }
    }

    fn refuse(&self, id: Id, reason: String) {
        tracing::error!(generation = id, reason, "refused a listener");
        self.tell(id, ToWorker::Refused { reason });
    }
}

fn ended(status: std::io::Result<ExitStatus>) -> String {
    match status {
        Ok(status) => match (status.code(), status.signal()) {
            (Some(code), _) => format!("it exited with status {code}"),
            (None, Some(number)) => format!("it was killed by {}", super::Signal::from_raw(number)),
            (None, None) => format!("it ended: {status}"),
        },
        Err(error) => format!("it cannot be waited for: {error}"),
    }
}

/// Waits for a worker's messages and for its end, and reaps it.
async fn attend(
    id: Id,
    mut child: tokio::process::Child,
    mut reader: Reader,
    mut killed: mpsc::UnboundedReceiver<()>,
    inputs: mpsc::UnboundedSender<Input>,
) {
    // The loop is gone when the master leaves, which it does after the last worker.
    let tell = |input| drop(inputs.send(input));
    let mut reading = pin!(async {
        loop {
            match reader.receive::<ToMaster>().await {
                Ok(Some((message, _))) => tell(Input::Message(id, message)),
                Ok(None) => return None,
                Err(error) => return Some(format!("it wrote garbage on the wire: {error}")),
            }
        }
    });
    let mut ended = None;
    let mut pause = pin!(sleep_until(Instant::now()));
    let status = loop {
        tokio::select! {
            status = child.wait() => break status,
            Some(()) = killed.recv() => {
                // It fails when the child has ended, which is what was wanted.
                let _ = child.start_kill();
            }
            end = &mut reading, if ended.is_none() => {
                pause.as_mut().reset(Instant::now() + WIRE_PAUSE);
                ended = Some(Some(end));
            }
            () = &mut pause, if matches!(ended, Some(Some(_))) => {
                let end = ended.replace(None).flatten().flatten();
                tell(Input::WireEnded(id, end));
            }
        }
    };
    if ended.is_none() {
        // What it sent before it ended is still to be read; a forked copy may hold the wire open.
        let _ = timeout(LAST_WORDS, reading).await;
    }
    tell(Input::Exited(id, status));
}
