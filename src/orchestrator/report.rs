//! Everybody outside who is told what the master does: systemd, the reader of the PID file, those who
//! ask on the admin socket, and those who wait for the outcome of a reload.

#[cfg(feature = "admin")]
use std::os::fd::AsFd;
use std::{
    ffi::OsString,
    os::fd::BorrowedFd,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::oneshot,
    task::JoinSet,
    time::{MissedTickBehavior, interval, sleep},
};

#[cfg(feature = "fetch")]
use super::upgrade_status::Checked;
use super::{
    Options,
    pid_file::PidFile,
    state::{Action, Event, Id, Phase},
    status::{Board, Outcome, Wish},
    systemd::{Limits, Messages, Systemd},
    takeover::{Descriptors, Handoff},
};
#[cfg(feature = "fetch")]
use crate::fetch::Watcher;
#[cfg(feature = "admin")]
use crate::{admin::Admin, listener::SocketFile};
use crate::{
    error::Error,
    handle::Handle,
    process::{
        exec::Program,
        image::Image,
        reap::{self, Own, Reaper},
    },
    server::{CutRequest, Survey},
};

/// How often to look again for ended children that may be somebody's.
const REAP_INTERVAL: Duration = Duration::from_secs(1);

/// What this process tells the world; the tasks that do it end with this.
#[derive(Debug)]
pub(crate) struct Report {
    board: Board,
    systemd: Systemd,
    own: Own,
    shutdown_delay: Duration,
    #[cfg(feature = "admin")]
    admin: Option<Admin>,
    #[cfg(feature = "fetch")]
    watcher: Option<Watcher>,
    _pid_file: Option<PidFile>,
    _tasks: JoinSet<()>,
}

impl Report {
    /// Must be called inside a runtime, and before any worker is started.
    ///
    /// # Errors
    ///
    /// When the PID file cannot be written or the admin socket cannot be bound. Not with a predecessor:
    /// a server that runs does without what only its next program wants.
    #[cfg_attr(not(feature = "admin"), expect(unused_variables, reason = "for the admin socket"))]
    pub(crate) fn open(
        options: &Options,
        program: &Program,
        handle: &Handle,
        predecessor: Option<&mut (Handoff, Descriptors)>,
    ) -> Result<Self, Error> {
        let mut systemd = Systemd::from_env(limits(options));
        let takes_over = predecessor.is_some();
        let pid_file = options.pid_file.as_deref().map(PidFile::write);
        let pid_file = indispensable(pid_file.transpose(), takes_over)?.flatten();
        let board = Board::new(program.path(), options);
        let own = match &predecessor {
            // Those who had started the other children are gone with the program before this one.
            Some(_) => Own::default(),
            None => Own::children(),
        };
        #[cfg(feature = "admin")]
        let mut admin = None;
        match predecessor {
            Some((handoff, descriptors)) => {
                board.recall(std::mem::take(&mut handoff.memory));
                systemd.go_on();
                #[cfg(feature = "admin")]
                if let Some(left) = handoff.admin.take() {
                    // Removed with this, if it is of no more use.
                    let address = format!("unix:{}", left.path.display());
                    let file = SocketFile::again(&address, left.file);
                    admin =
                        file.map(|file| (left.path, file)).zip(descriptors.remove(left.fd).ok());
                }
            }
            None => systemd.start(),
        }
        let mut tasks = JoinSet::new();
        if let Some(every) = systemd.watch_interval() {
            let (board, messages) = (board.clone(), systemd.messages());
            // One answer may be late.
            let within = every.max(2 * options.watch_interval);
            tasks.spawn(watch(every, messages, move || board.is_answered(within)));
        }
        reap_orphans(&own, &mut tasks)?;
        Ok(Self {
            #[cfg(feature = "fetch")]
            watcher: options.upgrade.clone().map(|upgrade| {
                board.watch_for_upgrades();
                let (program, handle) = (program.clone(), handle.clone());
                Watcher::start(upgrade, program, handle, board.clone(), takes_over)
            }),
            #[cfg(feature = "admin")]
            admin: match &options.admin {
                Some(path) => {
                    let admin = Admin::open(path, handle.clone(), board.clone(), admin);
                    indispensable(admin, takes_over)?
                }
                None => None,
            },
            board,
            systemd,
            own,
            shutdown_delay: options.shutdown_delay,
            _pid_file: pid_file,
            _tasks: tasks,
        })
    }

    /// The way to systemd's descriptor store.
    pub(crate) fn systemd(&self) -> Messages {
        self.systemd.messages()
    }

    /// Notes what has happened; to be called before the actions that follow from it.
    pub(crate) fn event(&mut self, event: &Event) {
        self.board.event(event);
        self.systemd.event(event);
    }

    /// Notes what the master is about to do.
    pub(crate) fn action(&mut self, action: &Action) {
        self.board.action(action, self.shutdown_delay);
        self.systemd.action(action);
    }

    /// Notes what each worker is doing, after the actions.
    pub(crate) fn phases(&mut self, workers: impl Iterator<Item = (Id, Phase)>) {
        self.board.phases(workers);
        self.tell();
    }

    pub(crate) fn spawned(&self, id: Id, pid: u32, image: Option<Arc<Image>>) {
        self.own.insert(pid);
        self.board.spawned(id, pid, image);
    }

    /// The program before this one had started a worker that serves or, for so long, drains.
    pub(crate) fn resumed(
        &mut self,
        id: Id,
        pid: u32,
        image: Option<Arc<Image>>,
        drain: Option<Duration>,
    ) {
        self.own.insert(pid);
        self.board.resumed(id, pid, image, drain);
    }

    /// Writes down what a program that takes over needs to know.
    pub(crate) fn leave(&self, handoff: &mut Handoff) {
        handoff.memory = self.board.memory();
        #[cfg(feature = "admin")]
        {
            handoff.admin = self.admin.as_ref().and_then(Admin::leave);
        }
    }

    /// Every descriptor that `leave` has named.
    pub(crate) fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        #[cfg(feature = "admin")]
        let fds = self.admin.iter().map(AsFd::as_fd);
        #[cfg(not(feature = "admin"))]
        let fds = std::iter::empty();
        fds
    }

    /// A worker was waited for.
    pub(crate) fn reaped(&self, pid: Option<u32>) {
        pid.into_iter().for_each(|pid| self.own.remove(pid));
    }

    /// A message of a worker has come.
    pub(crate) fn heard(&self, id: Id) {
        self.board.heard(id);
    }

    /// What a worker has last said of itself, for the log.
    pub(crate) fn last_status(&self, id: Id) -> String {
        let worker = self.board.status().workers.into_iter().find(|worker| worker.generation == id);
        worker.and_then(|worker| serde_json::to_string(&worker).ok()).unwrap_or_default()
    }

    pub(crate) fn counted(&mut self, id: Id, in_flight: usize, survey: Survey) {
        self.board.counted(id, in_flight, survey);
        self.tell();
    }

    /// A worker has come to its end without these.
    pub(crate) fn cut(&self, id: Id, cut: &[CutRequest]) {
        self.board.cut(id, cut);
    }

    /// Somebody wants to know the outcome of what is about to be asked for.
    pub(crate) fn wait(&self, wish: Wish, waiter: oneshot::Sender<Outcome>) {
        self.board.wait(wish, waiter);
    }

    fn tell(&mut self) {
        if self.systemd.is_heard() {
            self.systemd.status(&self.board.line());
        }
    }

    /// What a program that replaces this one needs in its environment to go on.
    pub(crate) fn environment(&self) -> &[(&'static str, OsString)] {
        self.systemd.environment()
    }

    /// Looks for the next version of the program soon, and says how that has ended.
    #[cfg(feature = "fetch")]
    pub(crate) fn check_for_upgrade(&self, waiter: Option<oneshot::Sender<Checked>>) {
        match (&self.watcher, waiter) {
            (Some(watcher), waiter) => watcher.check(waiter),
            // It has stopped waiting.
            (None, Some(waiter)) => drop(waiter.send(Err("no upgrade is configured".to_owned()))),
            (None, None) => tracing::warn!("cannot look for an upgrade: none is configured"),
        }
    }

    /// Sees to it that nothing begins that the end of this program would break; false while there is
    /// something under way.
    pub(crate) fn hold(&self) -> bool {
        #[cfg(feature = "fetch")]
        let held = self.watcher.as_ref().is_none_or(Watcher::hold);
        #[cfg(not(feature = "fetch"))]
        let held = true;
        held
    }

    /// Waits until what was said has arrived, at most for a second or two. Who connects to the admin
    /// socket from now on waits until somebody goes on: this program or the next one.
    pub(crate) async fn flush(&mut self) {
        self.systemd.finish().await;
        #[cfg(feature = "admin")]
        if let Some(admin) = &mut self.admin {
            admin.pause().await;
        }
    }

    /// After a hold, and after a flush: this program stays.
    pub(crate) fn go_on(&mut self) {
        #[cfg(feature = "admin")]
        if let Some(admin) = &mut self.admin {
            admin.go_on();
        }
        #[cfg(feature = "fetch")]
        if let Some(watcher) = &self.watcher {
            watcher.go_on();
        }
    }

    /// Waits until everything is said, at most for a second or two.
    pub(crate) async fn finish(&mut self) {
        #[cfg(feature = "fetch")]
        if let Some(watcher) = &mut self.watcher {
            watcher.finish().await;
        }
        #[cfg(feature = "admin")]
        if let Some(admin) = &mut self.admin {
            admin.finish().await;
        }
        self.systemd.finish().await;
    }
}

/// A server that begins needs all that it was asked for; one that takes over goes on without.
fn indispensable<T>(opened: Result<T, Error>, takes_over: bool) -> Result<Option<T>, Error> {
    match opened {
        Err(error) if takes_over => {
            tracing::error!(?error, "the new program goes on without");
            Ok(None)
        }
        opened => opened.map(Some),
    }
}

/// How long each step may take by the options.
fn limits(options: &Options) -> Limits {
    let stop = options.shutdown_delay + options.stop_timeout;
    Limits {
        start: options.ready_timeout,
        // It may have to wait until an old generation has left.
        reload: options.ready_timeout + options.bake_time + options.stop_timeout,
        stop,
    }
}

/// Tells systemd that all is well, while it is.
async fn watch(every: Duration, systemd: Messages, is_well: impl Fn() -> bool) {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if is_well() {
            systemd.watchdog();
        }
    }
}

/// Reaps orphans as they end, if they come to this process at all.
fn reap_orphans(own: &Own, tasks: &mut JoinSet<()>) -> Result<(), Error> {
    if !reap::adopts() {
        return Ok(());
    }
    let ended = signal(SignalKind::child())
        .map_err(|error| Error::io("cannot hear of children that end", error))?;
    tasks.spawn(reap(ended, Reaper::new(own.clone())));
    Ok(())
}

async fn reap(mut ended: Signal, mut reaper: Reaper) {
    loop {
        let again = reaper.reap(Instant::now());
        tokio::select! {
            _ = ended.recv() => {}
            () = sleep(REAP_INTERVAL), if again => {}
        }
    }
}

/// What a process without a master tells the world.
#[derive(Debug)]
pub(crate) struct SingleReport {
    systemd: Systemd,
    _pid_file: Option<PidFile>,
    tasks: JoinSet<()>,
}

impl SingleReport {
    pub(crate) fn open(options: &Options) -> Result<Self, Error> {
        let mut systemd = Systemd::from_env(limits(options));
        systemd.start();
        let pid_file = options.pid_file.as_deref().map(PidFile::write).transpose()?;
        let mut tasks = JoinSet::new();
        reap_orphans(&Own::children(), &mut tasks)?;
        Ok(Self { systemd, _pid_file: pid_file, tasks })
    }

    pub(crate) fn ready(&mut self) {
        self.systemd.ready();
        if let Some(every) = self.systemd.watch_interval() {
            // That the runtime runs this task is all there is to know.
            self.tasks.spawn(watch(every, self.systemd.messages(), || true));
        }
    }

    pub(crate) fn stopping(&mut self) {
        self.systemd.stopping();
    }

    pub(crate) async fn finish(&mut self) {
        self.systemd.finish().await;
    }
}
