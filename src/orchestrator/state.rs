//! Which worker does what: pure decisions of the master.
//!
//! Events go in, actions come out. No I/O, no clock and no randomness: the time that has passed since
//! the start and a random number come with each event.
//!
//! ```text
//!              ready             bake time over
//! Starting ───────────▶ Trial ──────────────────▶ Serving ─────▶ Draining ─▶ (gone)
//!    │                    │ dies, hangs              │ ▲  a successor has proved itself, or a stop
//!    │ dies, hangs        ▼                          ▼ │
//!    └────────────────▶ Killed                     Parked   while a successor is on trial
//! ```

use std::{collections::VecDeque, time::Duration};

/// Why nothing is started any more.
pub(crate) const STOPPING: &str = "the server is stopping";

/// A generation: the first worker is 1, each further one counts up.
pub(crate) type Id = u64;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// The master is set up: start the first worker.
    Start,
    /// A new generation was asked for.
    Reload,
    /// A generation of the binary before the present one was asked for.
    Rollback,
    /// All shall end. The second time: at once.
    Stop,
    /// Cut what is still draining.
    Hammer,
    /// A worker accepts connections.
    Ready(Id),
    /// A worker has ended and was reaped, or could not be started at all.
    Exited(Id, String),
    /// A worker lives but cannot be relied on: it hangs or talks nonsense.
    Unhealthy(Id, String),
    /// A worker on trial has failed its health check; it can still finish what it has begun.
    Unfit(Id, String),
    /// A timer that was set has run out.
    Timer(Timer),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Timer {
    /// A starting worker must have said ready.
    Ready(Id),
    /// The trial of a worker is over.
    Bake(Id),
    /// A draining worker must have left.
    Drain(Id),
    /// A crashed worker is replaced.
    Respawn,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Start a worker from the program's path.
    Spawn(Id),
    /// Start a worker from the program that the last good worker ran.
    Respawn(Id),
    /// Start a worker from the program before that.
    Rollback(Id),
    /// End a worker with SIGKILL.
    Kill(Id),
    /// Stop accepting, keep everything else.
    Pause(Id),
    /// Accept again.
    Resume(Id),
    /// Finish what is in flight and leave.
    Drain {
        id: Id,
        successor: Option<Id>,
    },
    /// End a drain now.
    Cut(Id),
    Set(Timer, Duration),
    Clear(Timer),
    /// Close the listeners that this worker, which is past its trial, did not ask for.
    Settle(Id),
    /// The outcome of a reload.
    Reloaded(Result<Id, String>),
    /// The master has nothing left to do.
    Leave(Result<(), String>),
}

#[derive(Clone, Debug)]
pub(crate) struct Limits {
    pub(crate) ready_timeout: Duration,
    pub(crate) bake_time: Duration,
    /// From the order to drain until the worker is killed; a little more than it was told.
    pub(crate) drain_timeout: Duration,
    pub(crate) cut_timeout: Duration,
    pub(crate) backoff: (Duration, Duration),
    pub(crate) max_restarts: usize,
    pub(crate) restart_window: Duration,
    pub(crate) max_draining: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Starting,
    Trial,
    Serving,
    Parked,
    Draining,
    /// Told to drain at a stop, before it has said that it is ready. It may accept by now, and then it
    /// says so; else it has nothing to finish.
    Leaving,
    /// Killed and not yet reaped.
    Killed,
}

#[derive(Debug)]
struct Worker {
    id: Id,
    phase: Phase,
    /// Started by a reload or a rollback; else by the start or in place of a crashed one.
    reload: bool,
}

/// What a new generation is made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    Reload,
    Rollback,
}

#[derive(Debug)]
pub(crate) struct State {
    limits: Limits,
    /// In the order of their start.
    workers: Vec<Worker>,
    last: Id,
    /// Some worker was once ready: from now on the master carries on.
    proven: bool,
    /// One more reload was asked for while one ran.
    remembered: Option<Wanted>,
    respawning: bool,
    stopping: bool,
    failure: Option<String>,
    /// For how long somebody has served, at the last event.
    served: Duration,
    stepped: Duration,
    /// When, by `served`.
    crashes: VecDeque<Duration>,
}

impl State {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            workers: Vec::new(),
            last: 0,
            proven: false,
            remembered: None,
            respawning: false,
            stopping: false,
            failure: None,
            served: Duration::ZERO,
            stepped: Duration::ZERO,
            crashes: VecDeque::new(),
        }
    }

    /// Goes on where another master has stopped: one worker serves, others drain.
    pub(crate) fn resume(limits: Limits, last: Id, workers: &[(Id, Phase)]) -> Self {
        let mut state = Self::new(limits);
        let worker = |(id, phase): &(Id, Phase)| Worker { id: *id, phase: *phase, reload: false };
        state.workers = workers.iter().map(worker).collect();
        state.last = last;
        state.proven = true;
        state
    }

    /// The generation that was started last.
    pub(crate) fn last(&self) -> Id {
        self.last
    }

    /// Whether nothing is under way but drains, so that another master could go on from here.
    pub(crate) fn is_calm(&self) -> bool {
        let calm = |worker: &Worker| matches!(worker.phase, Phase::Serving | Phase::Draining);
        let busy = self.stopping || self.respawning || self.remembered.is_some();
        !busy && self.find(Phase::Serving).is_some() && self.workers.iter().all(calm)
    }

    /// What a worker is doing; `None` when it is gone.
    pub(crate) fn phase(&self, id: Id) -> Option<Phase> {
        self.workers.iter().find(|worker| worker.id == id).map(|worker| worker.phase)
    }

    /// The workers that are there, in the order of their start.
    pub(crate) fn workers(&self) -> impl Iterator<Item = (Id, Phase)> {
        self.workers.iter().map(|worker| (worker.id, worker.phase))
    }

    /// Decides what an event means. `now` is the time since the start, `random` any number.
    pub(crate) fn step(&mut self, now: Duration, random: u32, event: Event) -> Vec<Action> {
        if self.find(Phase::Serving).or(self.find(Phase::Trial)).is_some() {
            self.served += now.saturating_sub(self.stepped);
        }
        self.stepped = now;
        let mut step = Step { state: self, actions: Vec::new(), random };
        match event {
            Event::Start => step.spawn(None),
            Event::Reload => step.reload(Wanted::Reload),
            Event::Rollback => step.reload(Wanted::Rollback),
            Event::Stop if step.state.stopping => step.hammer(),
            Event::Stop => step.stop(None),
            Event::Hammer => step.hammer(),
            Event::Ready(id) => step.ready(id),
            Event::Exited(id, why) => step.exited(id, why),
            Event::Unhealthy(id, why) => step.unhealthy(id, why),
            Event::Unfit(id, why) => step.unfit(id, why),
            Event::Timer(timer) => step.timer(timer),
        }
        step.leave_if_empty();
        step.actions
    }

    fn find(&self, phase: Phase) -> Option<Id> {
        self.workers.iter().find(|worker| worker.phase == phase).map(|worker| worker.id)
    }

    /// Whether somebody waits for the outcome of this worker's trial.
    fn is_reload(&self, id: Id) -> bool {
        self.workers.iter().any(|worker| worker.id == id && worker.reload)
    }

    fn set(&mut self, id: Id, phase: Phase) {
        if let Some(worker) = self.workers.iter_mut().find(|worker| worker.id == id) {
            worker.phase = phase;
        }
    }

    /// So many old generations drain that the next one has to wait for the oldest to leave, which it
    /// does at its deadline at the latest. To cut it instead would lose its requests to a reload.
    pub(crate) fn is_crowded(&self) -> bool {
        let draining = self.workers.iter().filter(|worker| worker.phase == Phase::Draining).count();
        draining >= self.limits.max_draining && self.find(Phase::Serving).is_some()
    }

    /// A worker is on its way, so another one must wait.
    fn is_changing(&self) -> bool {
        self.find(Phase::Starting).or(self.find(Phase::Trial)).is_some()
    }
}

struct Step<'a> {
    state: &'a mut State,
    actions: Vec<Action>,
    random: u32,
}

impl Step<'_> {
    fn act(&mut self, action: Action) {
        self.actions.push(action);
    }

    fn spawn(&mut self, wanted: Option<Wanted>) {
        self.state.last += 1;
        let id = self.state.last;
        self.act(match wanted {
            Some(Wanted::Reload) => Action::Spawn(id),
            Some(Wanted::Rollback) => Action::Rollback(id),
            None if self.state.proven => Action::Respawn(id),
            None => Action::Spawn(id),
        });
        self.act(Action::Set(Timer::Ready(id), self.state.limits.ready_timeout));
        let reload = wanted.is_some();
        self.state.workers.push(Worker { id, phase: Phase::Starting, reload });
    }

    fn reload(&mut self, wanted: Wanted) {
        if self.state.stopping {
            self.act(Action::Reloaded(Err(STOPPING.to_owned())));
        } else if self.state.is_changing() || self.state.is_crowded() {
            // The latest wish counts.
            self.state.remembered = Some(wanted);
        } else {
            self.start_reload(wanted);
        }
    }

    fn start_reload(&mut self, wanted: Wanted) {
        // A new binary may be the cure for a worker that keeps crashing: it need not wait.
        if std::mem::take(&mut self.state.respawning) {
            self.act(Action::Clear(Timer::Respawn));
        }
        self.spawn(Some(wanted));
    }

    fn ready(&mut self, id: Id) {
        match self.state.phase(id) {
            Some(Phase::Starting) => {}
            Some(Phase::Leaving) => {
                self.state.set(id, Phase::Draining);
                self.act(Action::Set(Timer::Drain(id), self.state.limits.drain_timeout));
                return;
            }
            _ => return,
        }
        self.act(Action::Clear(Timer::Ready(id)));
        self.state.proven = true;
        let old = self.state.find(Phase::Serving);
        // Who replaces a crashed worker runs what has proved itself before. A new binary has not, even
        // where no old worker is left to go on: then it is the old binary that does.
        let untried = old.is_some() || self.state.is_reload(id);
        if !untried || self.state.limits.bake_time.is_zero() {
            return self.settle(id);
        }
        self.state.set(id, Phase::Trial);
        if let Some(old) = old {
            self.state.set(old, Phase::Parked);
            self.act(Action::Pause(old));
        }
        self.act(Action::Set(Timer::Bake(id), self.state.limits.bake_time));
    }

    /// The worker has proved itself: all others may go.
    fn settle(&mut self, id: Id) {
        self.state.set(id, Phase::Serving);
        let old = |worker: &&Worker| {
            worker.id != id && matches!(worker.phase, Phase::Serving | Phase::Parked)
        };
        let old: Vec<Id> = self.state.workers.iter().filter(old).map(|worker| worker.id).collect();
        for old in old {
            self.drain(old, Some(id));
        }
        self.act(Action::Settle(id));
        if self.state.is_reload(id) {
            self.act(Action::Reloaded(Ok(id)));
        }
        self.next();
    }

    fn drain(&mut self, id: Id, successor: Option<Id>) {
        self.state.set(id, Phase::Draining);
        self.act(Action::Drain { id, successor });
        self.act(Action::Set(Timer::Drain(id), self.state.limits.drain_timeout));
    }

    fn cut(&mut self, id: Id) {
        self.act(Action::Cut(id));
        self.act(Action::Set(Timer::Drain(id), self.state.limits.cut_timeout));
    }

    fn kill(&mut self, id: Id) {
        self.state.set(id, Phase::Killed);
        self.act(Action::Kill(id));
    }

    fn exited(&mut self, id: Id, why: String) {
        let Some(index) = self.state.workers.iter().position(|worker| worker.id == id) else {
            return;
        };
        let Worker { phase, reload, .. } = self.state.workers.remove(index);
        for timer in [Timer::Ready(id), Timer::Bake(id), Timer::Drain(id)] {
            self.act(Action::Clear(timer));
        }
        self.lost(phase, reload, why);
    }

    fn unhealthy(&mut self, id: Id, why: String) {
        let Some(worker) = self.state.workers.iter().find(|worker| worker.id == id) else {
            return;
        };
        let (phase, reload) = (worker.phase, worker.reload);
        // A draining worker has its deadline already.
        if matches!(phase, Phase::Draining | Phase::Leaving | Phase::Killed) {
            return;
        }
        self.kill(id);
        for timer in [Timer::Ready(id), Timer::Bake(id)] {
            self.act(Action::Clear(timer));
        }
        self.lost(phase, reload, why);
    }

    fn resume(&mut self, parked: Id) {
        self.state.set(parked, Phase::Serving);
        self.act(Action::Resume(parked));
    }

    /// The one before it goes on; what has come to this one meanwhile is not lost.
    fn unfit(&mut self, id: Id, why: String) {
        if self.state.phase(id) != Some(Phase::Trial) {
            return;
        }
        let Some(parked) = self.state.find(Phase::Parked) else {
            return self.unhealthy(id, why);
        };
        self.act(Action::Clear(Timer::Bake(id)));
        self.resume(parked);
        self.drain(id, Some(parked));
        if self.state.is_reload(id) {
            self.act(Action::Reloaded(Err(why)));
        }
        self.next();
    }

    /// A worker can no longer do what it was there for.
    fn lost(&mut self, phase: Phase, reload: bool, why: String) {
        if self.state.stopping {
            return;
        }
        match phase {
            // Nothing depended on them, but a reload may have waited. (Where a trial fails after
            // this, the respawn below helps.)
            Phase::Draining | Phase::Leaving | Phase::Killed | Phase::Parked => {}
            Phase::Starting if !self.state.proven => {
                self.stop(Some(why));
                return;
            }
            Phase::Starting | Phase::Trial if reload => {
                if let Some(parked) = self.state.find(Phase::Parked) {
                    self.resume(parked);
                }
                self.act(Action::Reloaded(Err(why)));
            }
            Phase::Starting | Phase::Trial => {
                if !self.crashed(why) {
                    return;
                }
            }
            Phase::Serving => {
                if !self.crashed(why) {
                    return;
                }
            }
        }
        self.next();
    }

    /// Notes a crash; says whether to go on.
    ///
    /// The window is one of service. By the clock, the growing delays between the crashes of a loop would
    /// last longer than any sensible window, and the loop would never be seen.
    fn crashed(&mut self, why: String) -> bool {
        let window = self.state.limits.restart_window;
        let now = self.state.served;
        self.state.crashes.push_back(now);
        self.state.crashes.retain(|at| now.saturating_sub(*at) <= window);
        if self.state.crashes.len() <= self.state.limits.max_restarts {
            return true;
        }
        let times = self.state.crashes.len();
        self.stop(Some(format!(
            "workers died {times} times within {window:?} of service, the last one: {why}"
        )));
        false
    }

    /// Nobody is on the way: starts whoever is missing or was asked for.
    fn next(&mut self) {
        if self.state.stopping || self.state.is_changing() {
            return;
        }
        if let Some(wanted) = self.state.remembered
            && !self.state.is_crowded()
        {
            self.state.remembered = None;
            self.start_reload(wanted);
        } else if self.state.find(Phase::Serving).is_none() && !self.state.respawning {
            self.state.respawning = true;
            let delay = self.backoff();
            self.act(Action::Set(Timer::Respawn, delay));
        }
    }

    /// Doubles with each crash in the window; the last half of it is random, so that many servers
    /// that lost the same database do not come back in step.
    fn backoff(&self) -> Duration {
        let (first, most) = self.state.limits.backoff;
        let doublings = self.state.crashes.len().saturating_sub(1).min(20) as u32;
        let delay = first.saturating_mul(1 << doublings).min(most);
        delay / 2 + (delay / 2).mul_f64(f64::from(self.random) / f64::from(u32::MAX))
    }

    fn stop(&mut self, failure: Option<String>) {
        self.state.stopping = true;
        self.state.failure = failure;
        self.state.remembered = None;
        if std::mem::take(&mut self.state.respawning) {
            self.act(Action::Clear(Timer::Respawn));
        }
        let changing = |worker: &Worker| {
            worker.reload && matches!(worker.phase, Phase::Starting | Phase::Trial)
        };
        if self.state.workers.iter().any(changing) {
            self.act(Action::Reloaded(Err(STOPPING.to_owned())));
        }
        let workers: Vec<_> =
            self.state.workers.iter().map(|worker| (worker.id, worker.phase)).collect();
        for (id, phase) in workers {
            self.act(Action::Clear(Timer::Ready(id)));
            self.act(Action::Clear(Timer::Bake(id)));
            match phase {
                Phase::Starting => {
                    self.state.set(id, Phase::Leaving);
                    self.act(Action::Drain { id, successor: None });
                    self.act(Action::Set(Timer::Drain(id), self.state.limits.cut_timeout));
                }
                Phase::Trial | Phase::Serving | Phase::Parked => self.drain(id, None),
                // There is no successor any more. Its deadline, the earlier one, stays.
                Phase::Draining => self.act(Action::Drain { id, successor: None }),
                Phase::Leaving | Phase::Killed => {}
            }
        }
    }

    fn hammer(&mut self) {
        let draining = |worker: &&Worker| worker.phase == Phase::Draining;
        let draining: Vec<Id> =
            self.state.workers.iter().filter(draining).map(|worker| worker.id).collect();
        for id in draining {
            self.cut(id);
        }
        if let Some(leaving) = self.state.find(Phase::Leaving) {
            self.kill(leaving);
        }
    }

    fn leave_if_empty(&mut self) {
        if self.state.stopping && self.state.workers.is_empty() {
            let result = self.state.failure.take().map_or(Ok(()), Err);
            self.act(Action::Leave(result));
        }
    }

    fn timer(&mut self, timer: Timer) {
        match timer {
            Timer::Ready(id) if self.state.phase(id) == Some(Phase::Starting) => {
                let limit = self.state.limits.ready_timeout;
                self.unhealthy(id, format!("it was not ready within {limit:?}"));
            }
            Timer::Bake(id) if self.state.phase(id) == Some(Phase::Trial) => self.settle(id),
            Timer::Drain(id)
                if matches!(self.state.phase(id), Some(Phase::Draining | Phase::Leaving)) =>
            {
                self.kill(id);
            }
            Timer::Respawn if std::mem::take(&mut self.state.respawning) => self.spawn(None),
            // It ran out at the moment in which it was cleared.
            Timer::Ready(_) | Timer::Bake(_) | Timer::Drain(_) | Timer::Respawn => {}
        }
    }
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
