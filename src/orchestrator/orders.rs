//! What the master is told to do, by signals and by handles, with the hooks around that.

use tokio::time::Instant;

use super::{
    Signal,
    master::{Input, Master},
    signal,
    state::{Event, Id},
    status::Wish,
};
use crate::handle::Command;

impl Master {
    pub(super) fn reloaded(&mut self, outcome: Result<Id, String>) {
        let hooks = self.options.hooks.clone();
        if !hooks.after_reload.is_empty() {
            let outcome = outcome.clone();
            self.errands.run(async move {
                hooks.after_reload.run("after a reload", outcome, hooks.limit).await;
            });
        }
        let took = self.reload_since.take().map(|since| since.elapsed());
        match outcome {
            Ok(generation) => {
                tracing::info!(generation, ?took, "reloaded");
                self.consider();
            }
            Err(why) => {
                tracing::error!(why, "the reload failed, the old worker goes on");
                self.rolled_back(why);
            }
        }
    }

    pub(super) fn signal(&mut self, signal: Signal, order: signal::Order) {
        let hooks = self.options.hooks.clone();
        if hooks.before_signal.is_empty() {
            return self.order(signal, order);
        }
        self.errands.ask(async move {
            hooks.before_signal.run("before a signal", signal, hooks.limit).await;
            Input::Signal(signal, order)
        });
    }

    /// A trial has failed: tells those who want to know.
    fn rolled_back(&mut self, why: String) {
        let hooks = self.options.hooks.clone();
        if std::mem::take(&mut self.rolled_back) && !hooks.on_rollback.is_empty() {
            self.errands.run(async move {
                hooks.on_rollback.run("on rollback", why, hooks.limit).await;
            });
        }
    }

    pub(super) fn order(&mut self, signal: Signal, order: signal::Order) {
        match order {
            signal::Order::Reload => self.reload(),
            signal::Order::Stop => self.stop(),
            signal::Order::Hammer => self.feed(Event::Hammer),
        }
        let hooks = self.options.hooks.clone();
        if !hooks.after_signal.is_empty() {
            self.errands.run(async move {
                hooks.after_signal.run("after a signal", signal, hooks.limit).await;
            });
        }
    }

    pub(super) fn command(&mut self, command: Command) {
        match command {
            Command::Reload => self.reload(),
            Command::ReloadUntried => self.reload_untried(),
            Command::ReloadAndTell(waiter) => {
                self.report.wait(Wish::Reload, waiter);
                self.reload();
            }
            Command::Rollback(waiter) => {
                waiter.into_iter().for_each(|waiter| self.report.wait(Wish::Rollback, waiter));
                self.rollback();
            }
            // The one who asks hears that nobody can answer it.
            Command::Fetch { .. } | Command::Keep { .. } => {}
            // A second signal means more than the first; a second call does not.
            Command::Stop if self.stopping => {}
            Command::Stop => self.stop(),
            #[cfg(feature = "fetch")]
            Command::CheckForUpgrade(waiter) => self.report.check_for_upgrade(waiter),
            #[cfg(feature = "fetch")]
            Command::Known { digest, answer } => {
                // It fails when the look was cut short.
                let _ = answer.send(self.known(&digest));
            }
            // To have come here is all that it takes: the loop begins anew.
            #[cfg(feature = "fetch")]
            Command::Look => {}
        }
    }

    pub(super) fn rollback(&mut self) {
        self.begin(Event::Rollback);
    }

    pub(super) fn reload(&mut self) {
        if self.state.is_crowded() {
            tracing::warn!("the reload waits: too many old generations are draining");
        }
        self.begin(Event::Reload);
    }

    /// Feeds a reload, after the hooks that come before it.
    fn begin(&mut self, event: Event) {
        self.reload_since.get_or_insert_with(Instant::now);
        let hooks = self.options.hooks.clone();
        if hooks.before_reload.is_empty() {
            return self.feed(event);
        }
        self.errands.ask(async move {
            hooks.before_reload.run("before a reload", (), hooks.limit).await;
            Input::Event(event)
        });
    }

    pub(super) fn stop(&mut self) {
        self.stopping = true;
        self.feed(Event::Stop);
    }
}
