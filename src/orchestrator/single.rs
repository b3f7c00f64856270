//! A process without a master: it serves, and signals end it.

use std::{future::Future, pin::pin};

use tokio::{sync::mpsc, task::JoinSet};

use super::{
    Options, Started,
    provider::{self, Binding, Provider},
    report::SingleReport,
    signal::{self, Signals},
};
use crate::{
    error::{Error, Kind},
    handle::{Command, Handle},
    listener::{Address, Listener, Listeners},
    server::{CutRequest, Ending, Order, Serving},
};

/// Serves until it is told to stop.
pub(crate) async fn run(
    build: impl Future<Output = Result<Vec<Binding>, Error>>,
    options: Options,
    handle: Handle,
    mut commands: mpsc::UnboundedReceiver<Command>,
) -> Result<(), Error> {
    let mut signals = Signals::listen(&options)?;
    let mut report = SingleReport::open(&options)?;
    handle.set_generation(None);
    handle.set_active();
    let mut own = Own(Listeners::from_env()?);
    let (bindings, stop_at_once) = building(build, &mut commands).await?;
    let listeners = provider::open(&mut own, bindings).await?;
    own.0.warn_of_the_rest();
    let addresses = listeners.iter().map(|(listener, _)| listener.address().to_owned()).collect();
    let started = Started { addresses, generation: 0, pid: std::process::id() };
    options.on_ready.iter().for_each(|hook| hook(&started));
    let serving = Serving::start(listeners, handle.clone(), options.client_limits);
    tracing::info!(addresses = ?started.addresses, "serving as a single process");
    report.ready();

    let (orders, receiver) = mpsc::unbounded_channel();
    let mut stop = |stopping: &mut bool| {
        report.stopping();
        let ending = Ending {
            successor: false,
            alone: Vec::new(),
            hand_over: None,
            delay: options.shutdown_delay,
            idle_grace: options.idle_grace,
            timeout: options.stop_timeout,
        };
        let order = match std::mem::replace(stopping, true) {
            false => Order::Drain(ending),
            true => Order::Cut,
        };
        // It fails when everything has ended, which is what was asked for.
        let _ = orders.send(order);
    };
    let mut stopping = false;
    if stop_at_once {
        stop(&mut stopping);
    }
    // Signals whose hooks have run.
    let (obey, mut obeyed) = mpsc::unbounded_channel();
    let mut after = JoinSet::new();
    let run = serving.run(receiver);
    tokio::pin!(run);
    let cut = loop {
        tokio::select! {
            cut = &mut run => break cut,
            (signal, order) = signals.next() => {
                let (hooks, obey) = (options.hooks.clone(), obey.clone());
                // A slow hook must not keep the deadline from being kept.
                tokio::spawn(async move {
                    hooks.before_signal.run("before a signal", signal, hooks.limit).await;
                    // It fails when everything has ended.
                    let _ = obey.send((signal, order));
                });
            },
            Some((signal, order)) = obeyed.recv() => {
                match order {
                    signal::Order::Stop => stop(&mut stopping),
                    signal::Order::Hammer if stopping => stop(&mut stopping),
                    signal::Order::Hammer => {}
                    signal::Order::Reload => {
                        tracing::warn!("ignored a reload: this process runs without a master");
                    }
                }
                let hooks = options.hooks.clone();
                after.spawn(async move {
                    hooks.after_signal.run("after a signal", signal, hooks.limit).await;
                });
            },
            Some(command) = commands.recv() => match command {
                Command::Stop if !stopping => stop(&mut stopping),
                Command::Stop
                | Command::Reload
                | Command::ReloadUntried
                | Command::ReloadAndTell(_)
                | Command::Rollback(_)
                | Command::Keep { .. } => {}
                #[cfg(feature = "fetch")]
                Command::CheckForUpgrade(_) | Command::Known { .. } | Command::Look => {}
                // There is nobody to keep it, and no other process to keep it for.
                Command::Fetch { answer, .. } => drop(answer.send(None)),
            },
        }
    };
    while after.join_next().await.is_some() {}
    report.finish().await;
    finished(&cut)
}

/// Builds the application, which may ask for a descriptor meanwhile. Says whether it has asked for the end.
async fn building<T>(
    build: impl Future<Output = Result<T, Error>>,
    commands: &mut mpsc::UnboundedReceiver<Command>,
) -> Result<(T, bool), Error> {
    let (mut build, mut stop) = (pin!(build), false);
    loop {
        tokio::select! {
            built = &mut build => return Ok((built?, stop)),
            Some(command) = commands.recv() => match command {
                Command::Fetch { answer, .. } => drop(answer.send(None)),
                command => stop |= matches!(command, Command::Stop),
            },
        }
    }
}

/// An error when something was cut.
pub(crate) fn finished(cut: &[CutRequest]) -> Result<(), Error> {
    match cut {
        [] => Ok(()),
        [oldest, ..] => {
            let count = cut.len();
            let what = format!(
                "stopped, but cut {count} requests at the deadline, the oldest one {oldest}"
            );
            Err(Error::new(Kind::Cut, what))
        }
    }
}

struct Own(Listeners);

impl Provider for Own {
    async fn inherited(&mut self) -> Result<Vec<Listener>, Error> {
        std::mem::take(&mut self.0).into_listeners()
    }

    async fn listen(&mut self, address: &Address, _: u32) -> Result<Listener, Error> {
        self.0.listen(address)
    }
}
