//! Looks for the next version from time to time, and when it is asked to.

use std::{
    hash::{BuildHasher, RandomState},
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use futures_util::FutureExt;
use tokio::{
    sync::{Notify, oneshot, watch},
    task::JoinHandle,
    time::{sleep, timeout},
};

use super::{
    failure::Failure,
    pipeline::{Found, Pipeline},
    schedule,
    upgrade::Upgrade,
};
use crate::{
    handle::Handle,
    orchestrator::{Board, Checked, Refused, STOPPING, Verdict},
    process::exec::Program,
};

/// How long the end of the server waits until the file of the program is what it should be.
const FAREWELL: Duration = Duration::from_secs(5);

/// The task that looks; only a master has one. It ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Watcher {
    gate: Arc<Gate>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Watcher {
    /// Must be called inside a runtime. With `again` another program of this process has looked before.
    pub(crate) fn start(
        upgrade: Arc<Upgrade>,
        program: Program,
        handle: Handle,
        board: Board,
        again: bool,
    ) -> Self {
        let gate = Arc::new(Gate::default());
        let (stop, stopped) = watch::channel(false);
        let pipeline = Pipeline { upgrade, program, handle, board };
        if !again {
            pipeline.recover();
        }
        let task = tokio::spawn(Looking { pipeline, gate: gate.clone(), stopped }.run(again));
        Self { gate, stop, task }
    }

    /// Looks as soon as it may, and says how that has ended.
    pub(crate) fn check(&self, waiter: Option<oneshot::Sender<Checked>>) {
        let mut state = self.gate.lock();
        state.asked = true;
        state.waiters.extend(waiter);
        drop(state);
        self.gate.changed.notify_one();
    }

    /// Looks no more until it is told to go on; false while it is looking or was asked to.
    pub(crate) fn hold(&self) -> bool {
        self.gate.hold()
    }

    pub(crate) fn go_on(&self) {
        self.gate.go_on();
    }

    /// Looks no more. What was put in place and could not prove itself is taken back first.
    pub(crate) async fn finish(&mut self) {
        self.stop.send_replace(true);
        if timeout(FAREWELL, &mut self.task).await.is_err() {
            tracing::warn!("an upgrade was not over when the server ended");
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Who may look when.
#[derive(Debug, Default)]
struct Gate {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// Somebody wants a look, and these want to hear of it.
    asked: bool,
    waiters: Vec<oneshot::Sender<Checked>>,
    looking: bool,
    /// The master is about to become another program, which would cut a look short.
    held: bool,
}

impl Gate {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn asked(&self) {
        while !self.lock().asked {
            // One that was told before is not missed.
            self.changed.notified().await;
        }
    }

    /// Waits until nobody holds it; says whether somebody has asked, and who waits for this look.
    async fn enter(&self) -> (bool, Vec<oneshot::Sender<Checked>>) {
        loop {
            {
                let mut state = self.lock();
                if !state.held {
                    state.looking = true;
                    let asked = std::mem::take(&mut state.asked);
                    return (asked, std::mem::take(&mut state.waiters));
                }
            }
            self.changed.notified().await;
        }
    }

    fn leave(&self) {
        self.lock().looking = false;
    }

    fn hold(&self) -> bool {
        let mut state = self.lock();
        state.held = !state.looking && !state.asked;
        state.held
    }

    fn go_on(&self) {
        self.lock().held = false;
        self.changed.notify_one();
    }
}

struct Looking {
    pipeline: Pipeline,
    gate: Arc<Gate>,
    stopped: watch::Receiver<bool>,
}

impl Looking {
    async fn run(mut self, again: bool) {
        let Upgrade { interval, min_interval, .. } = *self.pipeline.upgrade;
        let mut pause = match again {
            false => interval.map(|interval| schedule::first(interval, random())),
            true => self.pause(interval),
        };
        let mut last: Option<Instant> = None;
        loop {
            let asked = async {
                self.gate.asked().await;
                let since = last.map_or(min_interval, |last| last.elapsed());
                sleep(min_interval.saturating_sub(since)).await;
            };
            let mut stopped = self.stopped.clone();
            tokio::select! {
                () = pass(pause) => {}
                () = asked => {}
                _ = stopped.wait_for(|stopped| *stopped) => return,
            }
            last = Some(Instant::now());
            let (asked, waiters) = self.gate.enter().await;
            let checked = self.look(asked).await;
            for waiter in waiters {
                // It has stopped waiting.
                let _ = waiter.send(checked.clone());
            }
            self.gate.leave();
            // The master may have waited for this.
            self.pipeline.handle.look();
            pause = self.pause(interval);
        }
    }

    fn pause(&self, interval: Option<Duration>) -> Option<Duration> {
        let failures = self.pipeline.board.upgrade_status().map_or(0, |status| status.failures);
        interval.map(|interval| schedule::delay(interval, failures, random()))
    }

    /// Looks once; at what was refused only if somebody has `asked`.
    async fn look(&mut self, asked: bool) -> Checked {
        let since = Instant::now();
        let mut found = Found::default();
        // Fetchers and hooks are the user's: a panic in one is a look that has failed, and not the last.
        let preparing = AssertUnwindSafe(self.pipeline.prepare(&mut found, asked)).catch_unwind();
        let prepared = tokio::select! {
            prepared = preparing => {
                Some(prepared.unwrap_or_else(|panic| Err(Failure::broken(&*panic))))
            }
            _ = self.stopped.wait_for(|stopped| *stopped) => None,
        };
        let result = match prepared {
            Some(Ok(prepared)) => self.pipeline.take(prepared).await,
            Some(Err(failure)) => Err(failure),
            None => return Err(STOPPING.to_owned()),
        };
        let is_dealt_with = match &result {
            Ok(_) => true,
            Err(failure) => failure.is_final(),
        };
        let is_refused = result.as_ref().is_err_and(Failure::is_refusal);
        let checked = result.map_err(|failure| failure.to_string());
        match &checked {
            Ok(Verdict::Unchanged) => tracing::debug!("there is no upgrade"),
            Ok(verdict) => tracing::info!(?verdict, "upgraded"),
            Err(why) => tracing::error!(why, "the upgrade failed"),
        }
        let (at, took) = (now(), since.elapsed().as_secs_f64());
        self.pipeline.board.upgrade(|status| {
            status.checked(&checked, at, took);
            if is_refused && let Err(why) = &checked {
                let Found { release, sha256, .. } = found;
                status.refused = Some(Refused { release, sha256, why: why.clone() });
                return;
            }
            if matches!(checked, Ok(Verdict::Installed { .. } | Verdict::Upgraded { .. })) {
                status.refused = None;
            }
            if is_dealt_with && found.tag.is_some() {
                status.seen = found.tag;
            }
        });
        checked
    }
}

async fn pass(pause: Option<Duration>) {
    match pause {
        Some(pause) => sleep(pause).await,
        None => std::future::pending().await,
    }
}

/// A number in 0..1.
fn random() -> f64 {
    let random = RandomState::new().hash_one(0) as u32;
    f64::from(random) / f64::from(u32::MAX)
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |now| now.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn nobody_looks_while_it_is_held_and_nobody_holds_it_while_somebody_looks() {
        let gate = Gate::default();
        assert!(gate.hold());
        let mut entering = std::pin::pin!(gate.enter());
        assert!(futures_util::poll!(&mut entering).is_pending());
        gate.go_on();
        entering.await;
        assert!(!gate.hold(), "it looks");
        gate.leave();
        gate.lock().asked = true;
        assert!(!gate.hold(), "a look was asked for");
        gate.asked().await;
    }
}
