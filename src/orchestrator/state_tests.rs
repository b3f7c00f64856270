use std::collections::{BTreeMap, HashMap};

use proptest::prelude::*;

use super::*;

fn limits() -> Limits {
    Limits {
        ready_timeout: Duration::from_secs(60),
        bake_time: Duration::from_secs(2),
        drain_timeout: Duration::from_secs(20),
        cut_timeout: Duration::from_secs(1),
        backoff: (Duration::from_millis(100), Duration::from_secs(30)),
        max_restarts: 5,
        restart_window: Duration::from_secs(60),
        max_draining: 2,
    }
}

/// A machine whose actions are checked one event at a time; timers are left out of the comparison.
struct Table(State);

impl Table {
    fn new(limits: Limits) -> Self {
        Self(State::new(limits))
    }

    fn serving() -> Self {
        let mut table = Self::new(limits());
        table.on(Event::Start, &[Action::Spawn(1)]);
        table.on(Event::Ready(1), &[Action::Settle(1)]);
        table
    }

    #[track_caller]
    fn on(&mut self, event: Event, expected: &[Action]) -> Vec<Action> {
        let actions = self.0.step(Duration::ZERO, 0, event);
        let visible: Vec<_> = actions
            .iter()
            .filter(|action| !matches!(action, Action::Set(..) | Action::Clear(..)))
            .cloned()
            .collect();
        assert_eq!(visible, expected);
        actions
    }
}

fn drain(id: Id, successor: Id) -> Action {
    Action::Drain { id, successor: Some(successor) }
}

fn stop(id: Id) -> Action {
    Action::Drain { id, successor: None }
}

#[test]
fn a_reload_parks_the_old_worker_and_drains_it_after_the_trial() {
    let mut table = Table::serving();
    table.on(Event::Reload, &[Action::Spawn(2)]);
    table.on(Event::Ready(2), &[Action::Pause(1)]);
    assert_eq!(table.0.phase(1), Some(Phase::Parked));
    table.on(
        Event::Timer(Timer::Bake(2)),
        &[drain(1, 2), Action::Settle(2), Action::Reloaded(Ok(2))],
    );
    table.on(Event::Exited(1, "status 0".into()), &[]);
    assert_eq!(table.0.phase(2), Some(Phase::Serving));
}

#[test]
fn without_a_trial_the_old_worker_drains_at_once() {
    let mut table = Table::new(Limits { bake_time: Duration::ZERO, ..limits() });
    table.on(Event::Start, &[Action::Spawn(1)]);
    table.on(Event::Ready(1), &[Action::Settle(1)]);
    table.on(Event::Reload, &[Action::Spawn(2)]);
    table.on(Event::Ready(2), &[drain(1, 2), Action::Settle(2), Action::Reloaded(Ok(2))]);
}

#[test]
fn a_worker_that_dies_before_ready_changes_nothing() {
    let mut table = Table::serving();
    table.on(Event::Reload, &[Action::Spawn(2)]);
    table.on(Event::Exited(2, "status 1".into()), &[Action::Reloaded(Err("status 1".into()))]);
    assert_eq!(table.0.phase(1), Some(Phase::Serving));
    table.on(Event::Reload, &[Action::Spawn(3)]);
}

#[test]
fn a_worker_that_hangs_before_ready_is_killed() {
    let mut table = Table::serving();
    table.on(Event::Reload, &[Action::Spawn(2)]);
    let why = "it was not ready within 60s".to_owned();
    table.on(Event::Timer(Timer::Ready(2)), &[Action::Kill(2), Action::Reloaded(Err(why))]);
    table.on(Event::Ready(2), &[]);
    table.on(Event::Exited(2, "signal 9".into()), &[]);
}

#[test]
fn a_failed_trial_resumes_the_old_worker() {
    for event in [Event::Exited(2, "x".into()), Event::Unhealthy(2, "x".into())] {
        let mut table = Table::serving();
        table.on(Event::Reload, &[Action::Spawn(2)]);
        table.on(Event::Ready(2), &[Action::Pause(1)]);
        let mut expected = vec![Action::Resume(1), Action::Reloaded(Err("x".into()))];
        if matches!(event, Event::Unhealthy(..)) {
            expected.insert(0, Action::Kill(2));
        }
        table.on(event, &expected);
        assert_eq!(table.0.phase(1), Some(Phase::Serving));
        table.on(Event::Timer(Timer::Bake(2)), &[]);
    }
}

#[test]
fn a_worker_that_fails_its_health_check_finishes_what_it_has_begun() {
    let mut table = Table::serving();
    table.on(Event::Reload, &[Action::Spawn(2)]);
    table.on(Event::Unfit(2, "x".into()), &[]);
    table.on(Event::Ready(2), &[Action::Pause(1)]);
    let drain = Action::Drain { id: 2, successor: Some(1) };
    let expected = [Action::Resume(1), drain, Action::Reloaded(Err("x".into()))];
    table.on(Event::Unfit(2, "x".into()), &expected);
    assert_eq!(table.0.phase(1), Some(Phase::Serving));
    table.on(Event::Timer(Timer::Bake(2)), &[]);
    table.on(Event::Unfit(2, "again".into()), &[]);
    table.on(Event::Exited(2, "done".into()), &[]);
}

#[test]
fn reloads_during_a_reload_become_one() {
    let mut table = Table::serving();
    table.on(Event::Reload, &[Action::Spawn(2)]);
    for _ in 0..10 {
        table.on(Event::Reload, &[]);
    }
    table.on(Event::Ready(2), &[Action::Pause(1)]);
    table.on(Event::Reload, &[]);
    table.on(
        Event::Timer(Timer::Bake(2)),
        &[drain(1, 2), Action::Settle(2), Action::Reloaded(Ok(2)), Action::Spawn(3)],
    );
    table.on(Event::Ready(3), &[Action::Pause(2)]);
    table.on(
        Event::Timer(Timer::Bake(3)),
        &[drain(2, 3), Action::Settle(3), Action::Reloaded(Ok(3))],
    );
}

#[test]
fn a_rollback_is_a_reload_of_the_binary_before_and_the_latest_wish_counts() {
    let mut table = Table::serving();
    table.on(Event::Reload, &[Action::Spawn(2)]);
    table.on(Event::Reload, &[]);
    table.on(Event::Rollback, &[]);
    table.on(Event::Ready(2), &[Action::Pause(1)]);
    table.on(
        Event::Timer(Timer::Bake(2)),
        &[drain(1, 2), Action::Settle(2), Action::Reloaded(Ok(2)), Action::Rollback(3)],
    );
    table.on(Event::Exited(3, "x".into()), &[Action::Reloaded(Err("x".into()))]);
    assert_eq!(table.0.phase(2), Some(Phase::Serving));
}

#[test]
fn a_reload_before_the_first_worker_is_ready_is_remembered() {
    let mut table = Table::new(limits());
    table.on(Event::Start, &[Action::Spawn(1)]);
    table.on(Event::Reload, &[]);
    table.on(Event::Ready(1), &[Action::Settle(1), Action::Spawn(2)]);
}

#[test]
fn the_first_worker_must_come_up() {
    let mut table = Table::new(limits());
    table.on(Event::Start, &[Action::Spawn(1)]);
    table.on(Event::Exited(1, "cannot bind".into()), &[Action::Leave(Err("cannot bind".into()))]);
}

#[test]
fn a_crashed_worker_is_replaced_by_the_same_binary() {
    let mut table = Table::serving();
    let actions = table.on(Event::Exited(1, "signal 11".into()), &[]);
    assert!(actions.contains(&Action::Set(Timer::Respawn, Duration::from_millis(50))));
    table.on(Event::Timer(Timer::Respawn), &[Action::Respawn(2)]);
    table.on(Event::Ready(2), &[Action::Settle(2)]);
}

#[test]
fn a_crash_loop_ends_the_master() {
    let mut table = Table::serving();
    for id in 1..=5 {
        table.on(Event::Exited(id, "signal 11".into()), &[]);
        table.on(Event::Timer(Timer::Respawn), &[Action::Respawn(id + 1)]);
    }
    let actions = table.0.step(Duration::ZERO, 0, Event::Exited(6, "signal 11".into()));
    let Some(Action::Leave(Err(why))) = actions.last() else { panic!("{actions:?}") };
    assert_eq!(why, "workers died 6 times within 60s of service, the last one: signal 11");
}

/// A worker that dies so long after it was ready, with the default options: when the master gives up.
fn crash_loop(start: Duration, life: Duration) -> Option<Duration> {
    let mut state = State::new(crate::orchestrator::Options::default().limits());
    let mut now = Duration::ZERO;
    state.step(now, u32::MAX, Event::Start);
    for id in 1..=100 {
        now += start;
        state.step(now, u32::MAX, Event::Ready(id));
        now += life;
        let actions = state.step(now, u32::MAX, Event::Exited(id, "x".into()));
        let mut delay = None;
        for action in actions {
            match action {
                Action::Set(Timer::Respawn, after) => delay = Some(after),
                Action::Leave(Err(_)) => return Some(now),
                _ => {}
            }
        }
        now += delay.expect("it is replaced");
        state.step(now, u32::MAX, Event::Timer(Timer::Respawn));
    }
    None
}

#[test]
fn a_crash_loop_is_seen_however_long_the_delays_and_the_starts() {
    let millis = Duration::from_millis;
    for (start, life) in [(0, 0), (50, 100), (50, 2_000), (10_000, 100), (30_000, 5_000)] {
        let end = crash_loop(millis(start), millis(life));
        // The delays, of which each doubles up to 30 s, and eleven lives.
        let limit = Duration::from_secs(82) + 11 * millis(start + life);
        assert!(end.is_some_and(|end| end < limit), "{start} {life}: {end:?} {limit:?}");
    }
    // One crash a minute is none.
    assert_eq!(crash_loop(millis(50), Duration::from_secs(61)), None);
}

#[test]
fn old_crashes_are_forgotten_and_the_delay_doubles() {
    let mut state = State::new(limits());
    state.step(Duration::ZERO, 0, Event::Start);
    state.step(Duration::ZERO, 0, Event::Ready(1));
    let mut delays = Vec::new();
    for id in 1..=20 {
        // Five in the window, then a long time without.
        let now = Duration::from_secs(100 * (id / 5));
        let actions = state.step(now, u32::MAX, Event::Exited(id, "x".into()));
        let delay = actions.iter().find_map(|action| match action {
            Action::Set(Timer::Respawn, delay) => Some(delay.as_millis()),
            _ => None,
        });
        delays.push(delay.unwrap());
        state.step(now, 0, Event::Timer(Timer::Respawn));
        state.step(now, 0, Event::Ready(id + 1));
    }
    assert_eq!(delays[..6], [100, 200, 400, 800, 100, 200]);
}

#[test]
fn a_reload_does_not_wait_for_the_respawn() {
    let mut table = Table::serving();
    table.on(Event::Exited(1, "signal 11".into()), &[]);
    table.on(Event::Reload, &[Action::Spawn(2)]);
    table.on(Event::Timer(Timer::Respawn), &[]);
    let actions = table.on(Event::Ready(2), &[]);
    assert!(actions.contains(&Action::Set(Timer::Bake(2), limits().bake_time)));
    table.on(Event::Timer(Timer::Bake(2)), &[Action::Settle(2), Action::Reloaded(Ok(2))]);
}

#[test]
fn a_binary_that_fails_its_trial_when_no_old_worker_is_left_gives_way_to_the_good_one() {
    let why = || "x".to_owned();
    for event in [Event::Exited(2, why()), Event::Unhealthy(2, why()), Event::Unfit(2, why())] {
        let mut table = Table::serving();
        table.on(Event::Exited(1, "signal 11".into()), &[]);
        table.on(Event::Reload, &[Action::Spawn(2)]);
        table.on(Event::Ready(2), &[]);
        let mut expected = vec![Action::Reloaded(Err(why()))];
        if !matches!(event, Event::Exited(..)) {
            expected.insert(0, Action::Kill(2));
        }
        let actions = table.on(event, &expected);
        let respawns = |action: &Action| matches!(action, Action::Set(Timer::Respawn, _));
        assert!(actions.iter().any(respawns), "{actions:?}");
        table.on(Event::Timer(Timer::Bake(2)), &[]);
        table.on(Event::Timer(Timer::Respawn), &[Action::Respawn(3)]);
        // Which has proved itself.
        table.on(Event::Ready(3), &[Action::Settle(3)]);
    }
}

#[test]
fn a_worker_that_dies_during_a_reload_is_replaced_by_the_new_one() {
    let mut table = Table::serving();
    table.on(Event::Reload, &[Action::Spawn(2)]);
    table.on(Event::Exited(1, "signal 9".into()), &[]);
    table.on(Event::Ready(2), &[]);
    table.on(Event::Timer(Timer::Bake(2)), &[Action::Settle(2), Action::Reloaded(Ok(2))]);
}

#[test]
fn when_both_die_the_good_binary_is_started_again() {
    let mut table = Table::serving();
    table.on(Event::Reload, &[Action::Spawn(2)]);
    table.on(Event::Ready(2), &[Action::Pause(1)]);
    table.on(Event::Exited(1, "signal 9".into()), &[]);
    table.on(Event::Exited(2, "signal 9".into()), &[Action::Reloaded(Err("signal 9".into()))]);
    table.on(Event::Timer(Timer::Respawn), &[Action::Respawn(3)]);
}

#[test]
fn a_stop_drains_all_and_a_second_one_cuts() {
    let mut table = Table::serving();
    table.on(Event::Stop, &[stop(1)]);
    table.on(Event::Reload, &[Action::Reloaded(Err("the server is stopping".into()))]);
    table.on(Event::Stop, &[Action::Cut(1)]);
    table.on(Event::Timer(Timer::Drain(1)), &[Action::Kill(1)]);
    table.on(Event::Exited(1, "signal 9".into()), &[Action::Leave(Ok(()))]);
}

#[test]
fn a_stop_during_a_reload_ends_both() {
    let mut table = Table::serving();
    table.on(Event::Reload, &[Action::Spawn(2)]);
    let stopping = Action::Reloaded(Err("the server is stopping".into()));
    table.on(Event::Stop, &[stopping, stop(1), stop(2)]);
    table.on(Event::Exited(2, "signal 9".into()), &[]);
    table.on(Event::Exited(1, "status 0".into()), &[Action::Leave(Ok(()))]);
}

#[test]
fn a_reload_waits_while_too_many_workers_drain() {
    let mut table = Table::new(Limits { bake_time: Duration::ZERO, ..limits() });
    table.on(Event::Start, &[Action::Spawn(1)]);
    table.on(Event::Ready(1), &[Action::Settle(1)]);
    for id in 2..=3 {
        table.on(Event::Reload, &[Action::Spawn(id)]);
        table.0.step(Duration::ZERO, 0, Event::Ready(id));
    }
    table.on(Event::Reload, &[]);
    table.on(Event::Reload, &[]);
    table.on(Event::Exited(2, "status 0".into()), &[Action::Spawn(4)]);
    table.0.step(Duration::ZERO, 0, Event::Ready(4));
    // Nobody serves: then there is nothing to wait for.
    table.on(Event::Exited(4, "signal 9".into()), &[]);
    table.on(Event::Reload, &[Action::Spawn(5)]);
}

#[test]
fn a_stop_leaves_a_worker_that_may_accept_already_the_time_to_drain() {
    for accepts in [true, false] {
        let mut table = Table::new(limits());
        table.on(Event::Start, &[Action::Spawn(1)]);
        table.0.step(Duration::ZERO, 0, Event::Ready(1));
        table.on(Event::Reload, &[Action::Spawn(2)]);
        table.0.step(Duration::ZERO, 0, Event::Stop);
        assert_eq!(table.0.phase(2), Some(Phase::Leaving));
        if accepts {
            let set = Action::Set(Timer::Drain(2), limits().drain_timeout);
            assert_eq!(table.0.step(Duration::ZERO, 0, Event::Ready(2)), [set]);
            assert_eq!(table.0.phase(2), Some(Phase::Draining));
        }
        table.on(Event::Timer(Timer::Drain(2)), &[Action::Kill(2)]);
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Starting,
    Accepting,
    Paused,
    Draining,
}

/// The world outside the machine: workers as they would behave, and the clock.
struct World {
    state: State,
    now: Duration,
    workers: BTreeMap<Id, Mode>,
    timers: HashMap<Timer, Duration>,
    /// Workers that died or were killed and have not been reaped.
    dead: Vec<Id>,
    left: Option<Result<(), String>>,
    stopping: bool,
    /// Begun and without an outcome.
    reloads: usize,
}

impl World {
    fn new(bake: bool) -> Self {
        let mut limits = limits();
        if !bake {
            limits.bake_time = Duration::ZERO;
        }
        let mut world = Self {
            state: State::new(limits),
            now: Duration::ZERO,
            workers: BTreeMap::new(),
            timers: HashMap::new(),
            dead: Vec::new(),
            left: None,
            stopping: false,
            reloads: 0,
        };
        world.feed(Event::Start);
        world
    }

    fn accepting(&self) -> usize {
        self.workers.values().filter(|mode| **mode == Mode::Accepting).count()
    }

    fn feed(&mut self, event: Event) {
        assert!(self.left.is_none(), "events after the end");
        let asks = matches!(event, Event::Reload | Event::Rollback);
        // It is told at once that nothing comes of it.
        let refused = asks && self.state.stopping;
        self.reloads += usize::from(refused);
        self.stopping |= event == Event::Stop;
        let before = self.accepting();
        // What cannot be relied on is ended at once; and so is one that is not fit when no other is left,
        // whether the state knows that already or not.
        let ends = match event {
            Event::Unhealthy(..) => true,
            Event::Unfit(..) => {
                let parked = self.state.find(Phase::Parked);
                parked.is_none_or(|parked| !self.workers.contains_key(&parked))
            }
            _ => false,
        };
        // What the event itself took away is not the master's doing.
        for action in self.state.step(self.now, 7, event.clone()) {
            self.apply(action, &event);
        }
        let starting = self.workers.values().filter(|mode| **mode == Mode::Starting).count();
        assert!(starting <= 1, "two workers are starting");
        assert!(self.reloads <= 1, "two reloads at once");
        assert!(!self.state.stopping || self.reloads == 0, "without an outcome at a stop");
        if asks && !refused {
            assert!(self.reloads == 1 || self.state.remembered.is_some(), "{event:?} is forgotten");
        }
        if !self.stopping && before > 0 && !ends {
            assert!(self.accepting() > 0, "nobody accepts after {event:?}");
        }
        if self.left.is_some() {
            assert!(self.workers.is_empty() && self.dead.is_empty(), "left with children");
        }
    }

    fn apply(&mut self, action: Action, event: &Event) {
        match action {
            Action::Spawn(id) | Action::Respawn(id) | Action::Rollback(id) => {
                assert!(!self.stopping, "a worker is started during a stop");
                // All but the first worker, and who replaces a crashed one.
                let reload = !matches!(action, Action::Respawn(_)) && *event != Event::Start;
                self.reloads += usize::from(reload);
                assert!(self.workers.insert(id, Mode::Starting).is_none());
            }
            Action::Kill(id) => {
                if self.workers.remove(&id).is_some() {
                    self.dead.push(id);
                }
            }
            Action::Pause(id) => {
                // The machine does not know yet of a worker that has died.
                assert!(self.others_accept(id), "the last one is parked by {event:?}");
                self.change(id, Mode::Accepting, Mode::Paused);
            }
            Action::Resume(id) => self.change(id, Mode::Paused, Mode::Accepting),
            Action::Drain { id, successor } => {
                assert!(successor.is_none() || self.others_accept(id), "drained without successor");
                assert!(successor.is_some() || self.stopping || self.state.failure.is_some());
                if let Some(mode) = self.workers.get_mut(&id) {
                    *mode = Mode::Draining;
                }
            }
            Action::Cut(id) => {
                assert_ne!(self.workers.get(&id), Some(&Mode::Accepting));
                if self.workers.remove(&id).is_some() {
                    self.dead.push(id);
                }
            }
            Action::Set(timer, after) => {
                self.timers.insert(timer, self.now + after);
            }
            Action::Clear(timer) => {
                self.timers.remove(&timer);
            }
            Action::Settle(id) => assert!(self.state.phase(id) == Some(Phase::Serving)),
            Action::Reloaded(_) => {
                let left = self.reloads.checked_sub(1);
                self.reloads = left.expect("an outcome of something that was begun");
            }
            Action::Leave(result) => assert!(self.left.replace(result).is_none()),
        }
    }

    /// Another worker accepts, as far as the master can know.
    fn others_accept(&self, id: Id) -> bool {
        let accepts = |(other, mode): (&Id, &Mode)| *other != id && *mode == Mode::Accepting;
        self.workers.iter().any(accepts)
            || self
                .dead
                .iter()
                .any(|dead| matches!(self.state.phase(*dead), Some(Phase::Serving | Phase::Trial)))
    }

    fn change(&mut self, id: Id, from: Mode, to: Mode) {
        if let Some(mode) = self.workers.get_mut(&id) {
            assert_eq!(*mode, from, "worker {id}");
            *mode = to;
        }
    }

    fn nth(&self, nth: usize) -> Option<Id> {
        let count = self.workers.len();
        (count > 0).then(|| *self.workers.keys().nth(nth % count).expect("it is below the count"))
    }

    /// One thing that may happen; the ones that make no sense now are skipped.
    fn happen(&mut self, what: u8, nth: usize) {
        if self.left.is_some() {
            return;
        }
        match what {
            0 => self.feed(Event::Reload),
            1 => self.feed(Event::Rollback),
            2..=5 => {
                let starting = self.workers.iter_mut().find(|(_, mode)| **mode == Mode::Starting);
                if let Some((id, mode)) = starting {
                    *mode = Mode::Accepting;
                    let id = *id;
                    self.feed(Event::Ready(id));
                } else if let Some(id) = self.workers.keys().copied().find(|id| {
                    // It was ready when it was told to leave.
                    self.state.phase(*id) == Some(Phase::Leaving)
                }) {
                    self.feed(Event::Ready(id));
                }
            }
            6 => {
                if let Some(id) = self.nth(nth) {
                    self.workers.remove(&id);
                    self.dead.push(id);
                }
            }
            7..=9 => {
                if !self.dead.is_empty() {
                    let id = self.dead.remove(nth % self.dead.len());
                    self.feed(Event::Exited(id, "dead".into()));
                }
            }
            10 => {
                if let Some(id) = self.nth(nth) {
                    let why = "of no use".to_owned();
                    let is_unfit = (nth / 8).is_multiple_of(2);
                    self.feed(if is_unfit {
                        Event::Unfit(id, why)
                    } else {
                        Event::Unhealthy(id, why)
                    });
                }
            }
            11..=14 => {
                let next =
                    self.timers.iter().min_by_key(|(timer, at)| (**at, format!("{timer:?}")));
                if let Some((timer, at)) = next.map(|(timer, at)| (*timer, *at)) {
                    self.timers.remove(&timer);
                    self.now = self.now.max(at);
                    self.feed(Event::Timer(timer));
                }
            }
            15 => {
                // A drain that ends by itself.
                let draining = self.workers.iter().find(|(_, mode)| **mode == Mode::Draining);
                if let Some(id) = draining.map(|(id, _)| *id) {
                    self.workers.remove(&id);
                    self.feed(Event::Exited(id, "status 0".into()));
                }
            }
            // A timer that ran out while it was cleared, a message that comes late.
            16 => self.feed(Event::Timer(Timer::Bake(nth as Id))),
            17 => self.feed(Event::Timer(Timer::Respawn)),
            18 => self.feed(Event::Exited(nth as Id + 1000, "unknown".into())),
            19 => self.feed(Event::Hammer),
            _ if nth == 0 => self.feed(Event::Stop),
            _ => self.now += Duration::from_secs(1),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3_000))]

    /// Whatever happens: never two workers starting, never the serving one drained or parked without
    /// another that accepts, never a worker started during a stop; and in the end there is one that
    /// serves, or the master has left with no child behind.
    #[test]
    fn any_sequence_of_events_leaves_somebody_serving(
        bake in any::<bool>(),
        steps in prop::collection::vec((0u8..22, 0usize..40), 0..120),
    ) {
        let mut world = World::new(bake);
        for (what, nth) in steps {
            world.happen(what, nth);
        }
        // Now let the dust settle: everything answers, nothing fails.
        for _ in 0..200 {
            if world.left.is_some() {
                break;
            }
            for what in [2, 7, 15, 11] {
                world.happen(what, 0);
            }
        }
        match &world.left {
            Some(_) => prop_assert!(world.stopping || world.state.failure.is_none()),
            None => {
                prop_assert!(!world.stopping, "a stop comes to its end");
                prop_assert_eq!(world.accepting(), 1);
                prop_assert_eq!(world.workers.len(), 1, "no other worker is left");
                prop_assert!(world.dead.is_empty());
                prop_assert_eq!(world.reloads, 0, "each reload has had its outcome");
                prop_assert!(world.state.remembered.is_none(), "and each was begun");
            }
        }
    }
}
