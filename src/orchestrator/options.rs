use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use tokio::sync::Semaphore;

use super::{Signal, health::Check, hooks::Hooks, pid_file, state::Limits};
#[cfg(feature = "fetch")]
use crate::fetch::Upgrade;
#[cfg(feature = "admin")]
use crate::listener::check_private;
use crate::{Error, server};

/// How the master and its workers behave; the methods of `Serve` document each.
#[derive(Clone)]
pub(crate) struct Options {
    pub(crate) reload_signals: Vec<Signal>,
    pub(crate) stop_signals: Vec<Signal>,
    pub(crate) hammer_signal: Option<Signal>,
    pub(crate) stop_timeout: Duration,
    pub(crate) idle_grace: Duration,
    pub(crate) shutdown_delay: Duration,
    pub(crate) ready_timeout: Duration,
    pub(crate) bake_time: Duration,
    pub(crate) watch_interval: Duration,
    pub(crate) backoff: (Duration, Duration),
    pub(crate) max_restarts: usize,
    pub(crate) restart_window: Duration,
    pub(crate) max_draining: usize,
    pub(crate) hand_over: bool,
    pub(crate) client_limits: server::Limits,
    pub(crate) check_before_reload: bool,
    pub(crate) upgrade_master: bool,
    pub(crate) single_process: bool,
    pub(crate) pid_file: Option<PathBuf>,
    #[cfg(feature = "admin")]
    pub(crate) admin: Option<PathBuf>,
    #[cfg(feature = "fetch")]
    pub(crate) upgrade: Option<Arc<Upgrade>>,
    /// A path that the master asks for.
    pub(crate) health_check: Option<String>,
    /// What a worker asks itself.
    pub(crate) own_checks: Vec<Check>,
    pub(crate) on_ready: Vec<Hook>,
    pub(crate) hooks: Hooks,
}

pub(crate) type Hook = Arc<dyn Fn(&Started) + Send + Sync>;

/// What a process knows of itself right before it accepts connections.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Started {
    /// The addresses that it listens on, as [`Address`](crate::listener::Address) writes them.
    pub addresses: Vec<String>,
    /// 1 for the first worker, one more for each that was started since; 0 in a single process.
    pub generation: u64,
    /// The process to which signals go: the master, or this one where there is no master.
    pub pid: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            reload_signals: vec![Signal::HUP, Signal::USR1],
            stop_signals: vec![Signal::TERM, Signal::INT],
            hammer_signal: Some(Signal::USR2),
            stop_timeout: Duration::from_secs(20),
            idle_grace: Duration::from_secs(2),
            shutdown_delay: Duration::ZERO,
            ready_timeout: Duration::from_secs(60),
            bake_time: Duration::from_secs(2),
            watch_interval: Duration::from_secs(1),
            backoff: (Duration::from_millis(100), Duration::from_secs(30)),
            max_restarts: 10,
            restart_window: Duration::from_secs(60),
            max_draining: 4,
            hand_over: true,
            client_limits: server::Limits::default(),
            check_before_reload: false,
            upgrade_master: true,
            single_process: false,
            pid_file: None,
            #[cfg(feature = "admin")]
            admin: None,
            #[cfg(feature = "fetch")]
            upgrade: None,
            health_check: None,
            own_checks: Vec::new(),
            on_ready: Vec::new(),
            hooks: Hooks::default(),
        }
    }
}

impl Options {
    /// Makes sure that each value means something, and of what stands for "never" that it can be reckoned with.
    pub(crate) fn check(&mut self) -> Result<(), Error> {
        super::signal::check(self)?;
        super::health::check_options(self)?;
        if self.watch_interval.is_zero() {
            return Err(Error::config("cannot watch workers at an interval of 0"));
        }
        if self.max_draining == 0 {
            return Err(Error::config("cannot reload with max_draining 0: the old worker drains"));
        }
        let limits = &mut self.client_limits;
        for (name, time) in [
            ("header_timeout", limits.header_timeout),
            ("keep_alive_timeout", limits.keep_alive_timeout),
            ("ping_interval", limits.ping_interval),
        ] {
            if time.is_some_and(|time| time.is_zero()) {
                let why = format!("cannot serve with a {name} of 0; for no limit it is None");
                return Err(Error::config(why));
            }
        }
        let clients =
            [&mut limits.header_timeout, &mut limits.keep_alive_timeout, &mut limits.ping_interval];
        for time in [
            &mut self.stop_timeout,
            &mut self.idle_grace,
            &mut self.shutdown_delay,
            &mut self.ready_timeout,
            &mut self.bake_time,
            &mut self.watch_interval,
            &mut self.backoff.0,
            &mut self.backoff.1,
            &mut self.restart_window,
            &mut self.hooks.limit,
        ]
        .into_iter()
        .chain(clients.into_iter().flatten())
        {
            *time = (*time).min(NEVER);
        }
        if let Some(connections) = &mut limits.max_connections {
            *connections = (*connections).min(Semaphore::MAX_PERMITS);
        }
        Ok(())
    }

    /// Makes sure that a master with these options could open what it is asked to, and opens nothing.
    pub(crate) fn check_places(&self) -> Result<(), Error> {
        #[cfg(feature = "admin")]
        self.admin.as_deref().filter(|_| !self.single_process).map_or(Ok(()), check_private)?;
        self.pid_file.as_deref().map_or(Ok(()), pid_file::check)
    }

    pub(crate) fn limits(&self) -> Limits {
        Limits {
            ready_timeout: self.ready_timeout,
            bake_time: self.bake_time,
            // The worker keeps the deadline itself; this is for one that no longer can.
            drain_timeout: self.shutdown_delay + self.stop_timeout + CUT_TIMEOUT,
            cut_timeout: CUT_TIMEOUT,
            backoff: self.backoff,
            max_restarts: self.max_restarts,
            restart_window: self.restart_window,
            max_draining: self.max_draining,
        }
    }
}

/// A time that ends no server, and of which several can be added to any moment.
const NEVER: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// How long a worker may take to leave after its deadline has cut everything.
const CUT_TIMEOUT: Duration = Duration::from_millis(500);

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("reload_signals", &self.reload_signals)
            .field("stop_signals", &self.stop_signals)
            .field("stop_timeout", &self.stop_timeout)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_without_a_meaning_are_refused() {
        let mut options = Options { watch_interval: Duration::ZERO, ..Options::default() };
        assert!(options.check().unwrap_err().is_config());
        let mut options = Options { max_draining: 0, ..Options::default() };
        assert!(options.check().unwrap_err().is_config());
    }
}
