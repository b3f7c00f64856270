//! What is known of the master and its workers at this moment.

use std::{
    collections::{BTreeMap, VecDeque},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

#[cfg(feature = "fetch")]
use super::upgrade_status::UpgradeStatus;
use super::{
    Options,
    state::{Action, Event, Id, Phase, STOPPING},
};
use crate::{
    process::image::Image,
    server::{CutRequest, Survey},
};

/// The outcome of a reload: the generation that serves now, or why it is still the old one.
pub(crate) type Outcome = Result<Id, String>;

/// Why somebody who waits for one of the two waits in vain.
pub(super) const ROLLBACK_INSTEAD: &str = "a rollback was asked for instead";
pub(super) const RELOAD_INSTEAD: &str = "a reload was asked for instead";

/// How many of the requests that were cut are remembered.
const CUTS: usize = 20;

/// What somebody asks for and waits to see done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    Reload,
    Rollback,
}

#[derive(Debug)]
struct Waiter {
    wish: Wish,
    answer: oneshot::Sender<Outcome>,
}

/// Where the master writes what it does, and others read it. Clones are the same board.
#[derive(Clone, Debug)]
pub(crate) struct Board(Arc<Mutex<Record>>);

#[derive(Debug)]
struct Record {
    program: PathBuf,
    started: (Instant, SystemTime),
    drain: Duration,
    workers: BTreeMap<Id, Worker>,
    /// The worker that was last past its trial.
    generation: Id,
    reloading: Option<Instant>,
    stopping: bool,
    succeeded: u64,
    failed: u64,
    last: Option<LastReload>,
    restarts: u64,
    cut: u64,
    /// The latest of these last.
    cuts: VecDeque<Cut>,
    /// Where the next version of the program is watched for.
    #[cfg(feature = "fetch")]
    upgrade: Option<UpgradeStatus>,
    /// When the program before this one has started its workers.
    recalled: BTreeMap<Id, f64>,
    /// They wait for the reload that runs or is next.
    waiting: Vec<Waiter>,
    /// They asked when one ran already and wait for the one after it.
    later: Vec<Waiter>,
}

#[derive(Debug)]
struct Worker {
    pid: Option<u32>,
    image: Option<Arc<Image>>,
    phase: Phase,
    started: (Instant, SystemTime),
    /// When the last message came.
    heard: Option<Instant>,
    /// When the numbers below came.
    counted: Option<Instant>,
    in_flight: usize,
    survey: Survey,
    deadline: Option<Instant>,
}

/// A copy of the board, as `GET /status` shows it. Ages and times are in seconds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Status {
    pub(crate) pid: u32,
    pub(crate) version: &'static str,
    pub(crate) state: &'static str,
    /// The one that serves, or the last one that did.
    pub(crate) generation: Id,
    pub(crate) program: PathBuf,
    /// Since the Unix epoch.
    pub(crate) started: f64,
    pub(crate) uptime: f64,
    pub(crate) in_flight: usize,
    pub(crate) workers: Vec<WorkerStatus>,
    pub(crate) reloads: Reloads,
    pub(crate) last_reload: Option<LastReload>,
    /// Workers that were started in place of crashed ones.
    pub(crate) restarts: u64,
    /// Requests that did not end before a deadline.
    pub(crate) cut: u64,
    /// The latest of them, the very latest first.
    pub(crate) last_cuts: Vec<Cut>,
    #[cfg(feature = "fetch")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) upgrade: Option<UpgradeStatus>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct WorkerStatus {
    pub(crate) generation: Id,
    pub(crate) pid: Option<u32>,
    pub(crate) program: Option<Program>,
    pub(crate) state: &'static str,
    pub(crate) started: f64,
    pub(crate) age: f64,
    pub(crate) in_flight: usize,
    pub(crate) connections: Connections,
    pub(crate) oldest_requests: Vec<OldRequest>,
    /// Until what is still in flight is cut.
    pub(crate) drain_deadline: Option<f64>,
    /// Since the worker gave these numbers.
    pub(crate) counted: Option<f64>,
}

/// What a worker runs; the path may name another file by now.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Program {
    pub(crate) path: PathBuf,
    /// `None` while it is not known yet.
    pub(crate) sha256: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Connections {
    pub(crate) new: usize,
    pub(crate) active: usize,
    pub(crate) idle: usize,
    pub(crate) upgraded: usize,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct OldRequest {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) age: f64,
    pub(crate) upgraded: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Reloads {
    pub(crate) succeeded: u64,
    pub(crate) failed: u64,
    pub(crate) running: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct LastReload {
    pub(crate) succeeded: bool,
    /// The new one, or the one that goes on.
    pub(crate) generation: Id,
    pub(crate) reason: Option<String>,
    /// When it ended, since the Unix epoch.
    pub(crate) at: f64,
    pub(crate) took: f64,
}

/// A request that was still in flight at the deadline of its worker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Cut {
    pub(crate) generation: Id,
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) age: f64,
    pub(crate) upgraded: bool,
    /// When, since the Unix epoch.
    pub(crate) at: f64,
}

/// What outlives the program of the master, when another one takes over.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Memory {
    /// Since the Unix epoch.
    started: Option<f64>,
    generation: Id,
    succeeded: u64,
    failed: u64,
    last: Option<LastReload>,
    restarts: u64,
    cut: u64,
    cuts: VecDeque<Cut>,
    /// When each worker was started.
    workers: BTreeMap<Id, f64>,
    #[cfg(feature = "fetch")]
    upgrade: Option<UpgradeStatus>,
}

impl Board {
    pub(crate) fn new(program: &Path, options: &Options) -> Self {
        Self(Arc::new(Mutex::new(Record {
            program: program.to_owned(),
            started: (Instant::now(), SystemTime::now()),
            drain: options.stop_timeout,
            workers: BTreeMap::new(),
            generation: 0,
            reloading: None,
            stopping: false,
            succeeded: 0,
            failed: 0,
            last: None,
            restarts: 0,
            cut: 0,
            cuts: VecDeque::new(),
            #[cfg(feature = "fetch")]
            upgrade: None,
            recalled: BTreeMap::new(),
            waiting: Vec::new(),
            later: Vec::new(),
        })))
    }

    /// With a worker that has just been started.
    #[cfg(all(test, feature = "admin"))]
    pub(crate) fn with_worker(program: &Path, options: &Options, id: Id) -> Self {
        let board = Self::new(program, options);
        board.action(&Action::Spawn(id), Duration::ZERO);
        board
    }

    fn lock(&self) -> MutexGuard<'_, Record> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes what has happened; to be called before the actions that follow from it.
    pub(crate) fn event(&self, event: &Event) {
        let mut record = self.lock();
        match event {
            Event::Stop => {
                record.stopping = true;
                let waiting = std::mem::take(&mut record.waiting);
                let later = std::mem::take(&mut record.later);
                drop(record);
                let waiting = waiting.into_iter().chain(later).collect();
                answer(waiting, &Err(STOPPING.to_owned()));
            }
            Event::Exited(id, _) => drop(record.workers.remove(id)),
            _ => {}
        }
    }

    /// Notes what the master is about to do.
    pub(crate) fn action(&self, action: &Action, delay: Duration) {
        let mut record = self.lock();
        let now = Instant::now();
        match action {
            Action::Respawn(id) => {
                record.restarts += 1;
                record.workers.insert(*id, Worker::new(now));
            }
            Action::Spawn(id) | Action::Rollback(id) => {
                record.workers.insert(*id, Worker::new(now));
                // The very first worker is no reload.
                if record.generation == 0 {
                    return;
                }
                record.reloading = Some(now);
                let (wish, why) = match action {
                    Action::Rollback(_) => (Wish::Rollback, ROLLBACK_INSTEAD),
                    _ => (Wish::Reload, RELOAD_INSTEAD),
                };
                let waiting = std::mem::take(&mut record.waiting);
                let (waiting, others) = waiting.into_iter().partition(|waiter| waiter.wish == wish);
                record.waiting = waiting;
                drop(record);
                answer(others, &Err(why.to_owned()));
            }
            Action::Drain { id, successor } => {
                let delay = if successor.is_some() { Duration::ZERO } else { delay };
                let deadline = now + delay + record.drain;
                record.limit(*id, deadline);
            }
            Action::Cut(id) => record.limit(*id, now),
            Action::Settle(id) => record.generation = *id,
            Action::Reloaded(outcome) => {
                let waiting = record.reloaded(outcome, now);
                drop(record);
                answer(waiting, outcome);
            }
            Action::Leave(_) => record.stopping = true,
            _ => {}
        }
    }

    /// Notes what each worker is doing by now.
    pub(crate) fn phases(&self, workers: impl Iterator<Item = (Id, Phase)>) {
        let mut record = self.lock();
        for (id, phase) in workers {
            if let Some(worker) = record.workers.get_mut(&id) {
                worker.phase = phase;
            }
        }
    }

    pub(crate) fn spawned(&self, id: Id, pid: u32, image: Option<Arc<Image>>) {
        if let Some(worker) = self.lock().workers.get_mut(&id) {
            worker.pid = Some(pid);
            worker.image = image;
        }
    }

    /// The binaries of which nobody has asked the digest yet. To tell it takes to read all of them.
    #[cfg(feature = "admin")]
    pub(crate) fn unread(&self) -> Vec<Arc<Image>> {
        let record = self.lock();
        let images = record.workers.values().filter_map(|worker| worker.image.clone());
        images.filter(|image| image.known_digest().is_none()).collect()
    }

    pub(crate) fn memory(&self) -> Memory {
        let record = self.lock();
        Memory {
            started: Some(unix(record.started.1)),
            generation: record.generation,
            succeeded: record.succeeded,
            failed: record.failed,
            last: record.last.clone(),
            restarts: record.restarts,
            cut: record.cut,
            cuts: record.cuts.clone(),
            workers: record
                .workers
                .iter()
                .map(|(id, worker)| (*id, unix(worker.started.1)))
                .collect(),
            #[cfg(feature = "fetch")]
            upgrade: record.upgrade.clone(),
        }
    }

    /// Goes on with what another program has noted.
    pub(crate) fn recall(&self, memory: Memory) {
        let mut record = self.lock();
        record.started = memory.started.map_or(record.started, back);
        record.generation = memory.generation;
        record.succeeded = memory.succeeded;
        record.failed = memory.failed;
        record.last = memory.last;
        record.restarts = memory.restarts;
        record.cut = memory.cut;
        record.cuts = memory.cuts;
        record.recalled = memory.workers;
        #[cfg(feature = "fetch")]
        {
            record.upgrade = memory.upgrade;
        }
    }

    /// From now on there is something to say of upgrades.
    #[cfg(feature = "fetch")]
    pub(crate) fn watch_for_upgrades(&self) {
        self.lock().upgrade.get_or_insert_default();
    }

    /// Notes what has become of one.
    #[cfg(feature = "fetch")]
    pub(crate) fn upgrade(&self, note: impl FnOnce(&mut UpgradeStatus)) {
        if let Some(status) = &mut self.lock().upgrade {
            note(status);
        }
    }

    #[cfg(feature = "fetch")]
    pub(crate) fn upgrade_status(&self) -> Option<UpgradeStatus> {
        self.lock().upgrade.clone()
    }

    /// Another program has started this worker.
    pub(crate) fn resumed(
        &self,
        id: Id,
        pid: u32,
        image: Option<Arc<Image>>,
        drain: Option<Duration>,
    ) {
        let mut record = self.lock();
        let now = Instant::now();
        let mut worker = Worker::new(now);
        worker.started = record.recalled.remove(&id).map_or(worker.started, back);
        worker.pid = Some(pid);
        worker.image = image;
        worker.deadline = drain.map(|left| now + left);
        record.workers.insert(id, worker);
    }

    /// Notes a sign of life.
    pub(crate) fn heard(&self, id: Id) {
        if let Some(worker) = self.lock().workers.get_mut(&id) {
            worker.heard = Some(Instant::now());
        }
    }

    pub(crate) fn counted(&self, id: Id, in_flight: usize, survey: Survey) {
        if let Some(worker) = self.lock().workers.get_mut(&id) {
            worker.counted = Some(Instant::now());
            worker.in_flight = in_flight;
            worker.survey = survey;
        }
    }

    /// Notes what a worker has cut.
    pub(crate) fn cut(&self, id: Id, cut: &[CutRequest]) {
        let mut record = self.lock();
        record.cut += cut.len() as u64;
        let at = unix(SystemTime::now());
        record.cuts.extend(cut.iter().map(|request| Cut {
            generation: id,
            method: request.method.clone(),
            path: request.path.clone(),
            age: request.age.as_secs_f64(),
            upgraded: request.upgraded,
            at,
        }));
        let surplus = record.cuts.len().saturating_sub(CUTS);
        record.cuts.drain(..surplus);
    }

    /// Somebody wants to know the outcome of what is asked for. To be called before it is begun.
    pub(crate) fn wait(&self, wish: Wish, answer: oneshot::Sender<Outcome>) {
        let waiter = Waiter { wish, answer };
        let mut record = self.lock();
        match record.reloading {
            // What it has started may be older than the binary that the caller has in mind.
            Some(_) => record.later.push(waiter),
            None => record.waiting.push(waiter),
        }
    }

    /// Whether a worker that accepts connections has been heard of within this time.
    pub(crate) fn is_answered(&self, within: Duration) -> bool {
        let record = self.lock();
        let mut workers = record.workers.values();
        workers.any(|worker| {
            matches!(worker.phase, Phase::Serving | Phase::Trial)
                && worker.heard.is_some_and(|heard| heard.elapsed() <= within)
        })
    }

    pub(crate) fn status(&self) -> Status {
        self.lock().status(Instant::now())
    }

    /// One line for people.
    pub(crate) fn line(&self) -> String {
        let status = self.status();
        let serving = |worker: &&WorkerStatus| worker.generation == status.generation;
        let in_flight = status.workers.iter().find(serving).map_or(0, |worker| worker.in_flight);
        let mut line = match status.state {
            "starting" => "starting".to_owned(),
            "stopping" => format!("stopping, {} in flight", status.in_flight),
            state => format!("{state}, generation {}, {in_flight} in flight", status.generation),
        };
        let draining: Vec<_> =
            status.workers.iter().filter(|worker| worker.state == "draining").collect();
        if !draining.is_empty() && status.state != "stopping" {
            let rest: usize = draining.iter().map(|worker| worker.in_flight).sum();
            line += &format!(", {} draining with {rest} in flight", draining.len());
        }
        let failed = status.last_reload.and_then(|last| last.reason);
        if let Some(reason) = failed.filter(|_| status.state == "serving") {
            line += &format!("; the last reload failed: {reason}");
        }
        line
    }
}

fn answer(waiters: Vec<Waiter>, outcome: &Outcome) {
    for waiter in waiters {
        // It has stopped waiting.
        let _ = waiter.answer.send(outcome.clone());
    }
}

impl Record {
    fn limit(&mut self, id: Id, deadline: Instant) {
        if let Some(worker) = self.workers.get_mut(&id) {
            // A second order may shorten what was left, and never lengthen it.
            let deadline = worker.deadline.map_or(deadline, |before| before.min(deadline));
            worker.deadline = Some(deadline);
        }
    }

    /// Answers who is to be told.
    fn reloaded(&mut self, outcome: &Outcome, now: Instant) -> Vec<Waiter> {
        // Without a start it was refused, as at a stop.
        if let Some(since) = self.reloading.take() {
            let (succeeded, generation) = match outcome {
                Ok(generation) => (true, *generation),
                Err(_) => (false, self.generation),
            };
            *(if succeeded { &mut self.succeeded } else { &mut self.failed }) += 1;
            self.last = Some(LastReload {
                succeeded,
                generation,
                reason: outcome.as_ref().err().cloned(),
                at: unix(SystemTime::now()),
                took: (now - since).as_secs_f64(),
            });
        }
        let later = std::mem::take(&mut self.later);
        std::mem::replace(&mut self.waiting, later)
    }

    fn status(&self, now: Instant) -> Status {
        let workers: Vec<_> =
            self.workers.iter().map(|(id, worker)| worker.status(*id, now)).collect();
        let accepts = |worker: &Worker| matches!(worker.phase, Phase::Serving | Phase::Trial);
        let state = if self.stopping {
            "stopping"
        } else if self.generation == 0 {
            "starting"
        } else if self.reloading.is_some() {
            "reloading"
        } else if self.workers.values().any(accepts) {
            "serving"
        } else {
            "restarting"
        };
        Status {
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION"),
            state,
            generation: self.generation,
            program: self.program.clone(),
            started: unix(self.started.1),
            uptime: seconds(now, self.started.0),
            in_flight: workers.iter().map(|worker| worker.in_flight).sum(),
            workers,
            reloads: Reloads {
                succeeded: self.succeeded,
                failed: self.failed,
                running: self.reloading.is_some(),
            },
            last_reload: self.last.clone(),
            restarts: self.restarts,
            cut: self.cut,
            last_cuts: self.cuts.iter().rev().cloned().collect(),
            #[cfg(feature = "fetch")]
            upgrade: self.upgrade.clone(),
        }
    }
}

impl Worker {
    fn new(now: Instant) -> Self {
        Self {
            pid: None,
            image: None,
            phase: Phase::Starting,
            started: (now, SystemTime::now()),
            heard: None,
            counted: None,
            in_flight: 0,
            survey: Survey::default(),
            deadline: None,
        }
    }

    fn status(&self, generation: Id, now: Instant) -> WorkerStatus {
        let Survey { new, active, idle, upgraded, oldest } = &self.survey;
        let counted = self.counted.map(|counted| seconds(now, counted));
        let request = |request: &CutRequest| OldRequest {
            method: request.method.clone(),
            path: request.path.clone(),
            // It has grown older since.
            age: request.age.as_secs_f64() + counted.unwrap_or(0.0),
            upgraded: request.upgraded,
        };
        WorkerStatus {
            generation,
            pid: self.pid,
            program: self.image.as_ref().map(|image| Program {
                path: image.path().to_owned(),
                sha256: image.known_digest().map(str::to_owned),
            }),
            state: match self.phase {
                Phase::Starting => "starting",
                Phase::Trial => "trial",
                Phase::Serving => "serving",
                Phase::Parked => "parked",
                Phase::Draining | Phase::Leaving => "draining",
                Phase::Killed => "killed",
            },
            started: unix(self.started.1),
            age: seconds(now, self.started.0),
            in_flight: self.in_flight,
            connections: Connections {
                new: *new,
                active: *active,
                idle: *idle,
                upgraded: *upgraded,
            },
            oldest_requests: oldest.iter().map(request).collect(),
            drain_deadline: self.deadline.map(|deadline| seconds(deadline, now)),
            counted,
        }
    }
}

/// The moment so many seconds after the Unix epoch.
fn back(unix: f64) -> (Instant, SystemTime) {
    let time = Duration::try_from_secs_f64(unix).ok().and_then(|unix| UNIX_EPOCH.checked_add(unix));
    let time = time.unwrap_or_else(SystemTime::now);
    let ago = time.elapsed().unwrap_or_default();
    let now = Instant::now();
    (now.checked_sub(ago).unwrap_or(now), time)
}

fn seconds(now: Instant, since: Instant) -> f64 {
    now.saturating_duration_since(since).as_secs_f64()
}

fn unix(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn board() -> Board {
        Board::new(Path::new("/bin/app"), &Options::default())
    }

    fn act(board: &Board, action: Action) {
        board.action(&action, Duration::ZERO);
    }

    fn asked(board: &Board) -> oneshot::Receiver<Outcome> {
        wished(board, Wish::Reload)
    }

    fn wished(board: &Board, wish: Wish) -> oneshot::Receiver<Outcome> {
        let (sender, receiver) = oneshot::channel();
        board.wait(wish, sender);
        receiver
    }

    /// The first worker serves.
    fn serving() -> Board {
        let board = board();
        assert_eq!(board.line(), "starting");
        act(&board, Action::Spawn(1));
        board.spawned(1, 100, None);
        act(&board, Action::Settle(1));
        board.phases([(1, Phase::Serving)].into_iter());
        board
    }

    #[test]
    fn who_asks_during_a_reload_waits_for_the_next_one() {
        let board = serving();
        let mut first = asked(&board);
        act(&board, Action::Spawn(2));
        let mut second = asked(&board);
        act(&board, Action::Reloaded(Err("it died".to_owned())));
        assert_eq!(first.try_recv().unwrap(), Err("it died".to_owned()));
        assert!(second.try_recv().is_err(), "not yet");
        act(&board, Action::Spawn(3));
        act(&board, Action::Settle(3));
        act(&board, Action::Reloaded(Ok(3)));
        assert_eq!(second.try_recv().unwrap(), Ok(3));
        let status = board.status();
        assert_eq!(status.reloads, Reloads { succeeded: 1, failed: 1, running: false });
        assert_eq!(status.last_reload.unwrap().generation, 3);
    }

    #[test]
    fn a_reload_does_not_pass_for_a_rollback() {
        let board = serving();
        act(&board, Action::Spawn(2));
        let mut reload = asked(&board);
        let mut rollback = wished(&board, Wish::Rollback);
        act(&board, Action::Reloaded(Ok(2)));
        // The latest wish is done.
        act(&board, Action::Rollback(3));
        let why = "a rollback was asked for instead".to_owned();
        assert_eq!(reload.try_recv().unwrap(), Err(why));
        assert!(rollback.try_recv().is_err(), "not yet");
        act(&board, Action::Reloaded(Ok(3)));
        assert_eq!(rollback.try_recv().unwrap(), Ok(3));
    }

    #[test]
    fn nobody_waits_for_ever_at_a_stop() {
        let board = serving();
        let mut first = asked(&board);
        act(&board, Action::Spawn(2));
        let mut second = asked(&board);
        board.event(&Event::Stop);
        for waiter in [&mut first, &mut second] {
            assert_eq!(waiter.try_recv().unwrap(), Err("the server is stopping".to_owned()));
        }
        // And who asks later is refused, which is no reload that failed.
        act(&board, Action::Reloaded(Err("the server is stopping".to_owned())));
        let mut third = asked(&board);
        act(&board, Action::Reloaded(Err("the server is stopping".to_owned())));
        assert!(third.try_recv().unwrap().is_err());
        assert_eq!(board.status().reloads.failed, 1);
    }

    #[test]
    fn a_worker_is_shown_from_its_start_to_its_end() {
        let board = serving();
        let oldest = CutRequest {
            method: "GET".to_owned(),
            path: "/slow".to_owned(),
            age: Duration::from_secs(3),
            upgraded: false,
        };
        let survey = Survey { active: 1, idle: 2, oldest: vec![oldest], ..Survey::default() };
        board.counted(1, 1, survey);
        let status = board.status();
        let worker = &status.workers[0];
        assert_eq!((worker.generation, worker.pid, worker.state), (1, Some(100), "serving"));
        assert_eq!((worker.in_flight, worker.connections.idle), (1, 2));
        assert_eq!(worker.oldest_requests[0].path, "/slow");
        assert!(worker.oldest_requests[0].age >= 3.0);
        assert_eq!(worker.drain_deadline, None);
        assert_eq!(board.line(), "serving, generation 1, 1 in flight");

        act(&board, Action::Spawn(2));
        assert_eq!(board.status().state, "reloading");
        act(&board, Action::Drain { id: 1, successor: Some(2) });
        act(&board, Action::Settle(2));
        act(&board, Action::Reloaded(Ok(2)));
        board.phases([(1, Phase::Draining), (2, Phase::Serving)].into_iter());
        let deadline = board.status().workers[0].drain_deadline.unwrap();
        assert!(deadline > 19.0 && deadline <= 20.0, "{deadline}");
        assert_eq!(board.line(), "serving, generation 2, 0 in flight, 1 draining with 1 in flight");
        act(&board, Action::Cut(1));
        assert_eq!(board.status().workers[0].drain_deadline, Some(0.0));
        board.event(&Event::Exited(1, "status 0".to_owned()));
        assert_eq!(board.status().workers.len(), 1);
    }

    #[test]
    fn what_was_noted_outlives_the_program() {
        let before = serving();
        act(&before, Action::Respawn(2));
        act(&before, Action::Spawn(3));
        act(&before, Action::Settle(3));
        act(&before, Action::Reloaded(Ok(3)));
        let (mut memory, before, after) = (before.memory(), before.status(), board());
        // As if all of it had been noted a while ago.
        let ago = 1000.0;
        memory.started = memory.started.map(|started| started - ago);
        memory.workers.values_mut().for_each(|started| *started -= ago);
        let memory = serde_json::to_string(&memory).unwrap();
        after.recall(serde_json::from_str(&memory).unwrap());
        after.resumed(2, 200, None, Some(Duration::from_secs(5)));
        after.resumed(3, 300, None, None);
        after.phases([(2, Phase::Draining), (3, Phase::Serving)].into_iter());
        let after = after.status();
        assert_eq!((after.state, after.generation), ("serving", 3));
        assert_eq!((after.reloads, after.restarts), (before.reloads, 1));
        assert_eq!(after.last_reload, before.last_reload);
        let is_past = |time: f64, before: f64| (time - (before - ago)).abs() < ago / 10.0;
        assert!(is_past(after.started, before.started), "{after:?} {before:?}");
        assert!(after.uptime > before.uptime + ago / 2.0, "{after:?} {before:?}");
        assert!(is_past(after.workers[1].started, before.workers[2].started));
        assert!(after.workers[0].drain_deadline.unwrap() > 4.0);
        assert_eq!(after.workers[1].drain_deadline, None);
        // Nothing that an older program leaves out matters.
        board().recall(serde_json::from_str("{}").unwrap());
    }

    #[test]
    fn the_latest_requests_that_were_cut_are_remembered() {
        let board = serving();
        let cut = |path: String| CutRequest {
            method: "GET".to_owned(),
            path,
            age: Duration::from_secs(3),
            upgraded: false,
        };
        let many: Vec<_> = (0..CUTS + 5).map(|nth| cut(format!("/{nth}"))).collect();
        board.cut(1, &many[..1]);
        board.cut(2, &many[1..]);
        let status = board.status();
        assert_eq!((status.cut, status.last_cuts.len()), (25, CUTS));
        let (latest, oldest) = (&status.last_cuts[0], &status.last_cuts[CUTS - 1]);
        assert_eq!((latest.generation, latest.path.as_str(), latest.age), (2, "/24", 3.0));
        assert_eq!(oldest.path, "/5");
        let memory = serde_json::to_string(&board.memory()).unwrap();
        let after = Board::new(Path::new("/bin/app"), &Options::default());
        after.recall(serde_json::from_str(&memory).unwrap());
        let after = after.status();
        let paths = |cuts: &[Cut]| cuts.iter().map(|cut| cut.path.clone()).collect::<Vec<_>>();
        assert_eq!((after.cut, paths(&after.last_cuts)), (25, paths(&status.last_cuts)));
    }

    #[test]
    fn a_crashed_worker_is_no_reload() {
        let board = serving();
        board.event(&Event::Exited(1, "signal 9".to_owned()));
        assert_eq!(board.status().state, "restarting");
        act(&board, Action::Respawn(2));
        let status = board.status();
        assert_eq!((status.restarts, status.reloads.running), (1, false));
    }

    #[test]
    fn only_a_worker_that_accepts_counts_as_an_answer() {
        let board = serving();
        let long = Duration::from_secs(60);
        assert!(!board.is_answered(long));
        board.heard(1);
        assert!(board.is_answered(long));
        board.phases([(1, Phase::Parked)].into_iter());
        assert!(!board.is_answered(long));
    }
}
