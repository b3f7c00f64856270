//! A worker: asks the master for its sockets, serves, and leaves when told to.

use std::{future::Future, os::fd::OwnedFd, pin::pin, time::Duration};

use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};

use super::{
    Options, Started, health,
    link::Link,
    message::{DrainOrder, Open, ToMaster, ToWorker, VERSION},
    provider::{self, Binding, Provider},
    signal::Signals,
};
use crate::{
    error::{Error, Kind},
    handle::{Command, Handle},
    listener::{Address, Listener, Socket},
    process::wire::{self, Reader, Writer, short},
    server::{Context, Ending, Order, Serving, Survey},
};

/// How long the last words may take.
const FAREWELL: Duration = Duration::from_secs(1);
/// How many of the requests in flight an answer to a ping names.
const NAMED: usize = 10;
/// How many requests that were cut a message names: with the longest names there is room for more.
const CUT_IN_A_FRAME: usize = 20;

/// Serves until the master says otherwise, or is gone.
pub(crate) async fn run(
    control: OwnedFd,
    build: impl Future<Output = Result<Vec<Binding>, Error>>,
    options: Options,
    handle: Handle,
    commands: mpsc::UnboundedReceiver<Command>,
) -> Result<(), Error> {
    // The same signals reach the whole process group or cgroup; the master decides what they mean.
    let _ignored = Signals::listen(&options)?;
    let (reader, writer) =
        wire::open(control).map_err(|error| Error::io("cannot talk to the master", error))?;
    tell_of_panics(&writer);
    let link = Link::new(writer);
    let mut master =
        Master { reader, link, handle, commands, asked: Vec::new(), state: Bond::default() };
    let result = match master.start(build, &options).await {
        Ok(serving) => master.serve(serving, &options).await,
        Err(_) if master.state == Bond::Dismissed => Ok(()),
        Err(error) => {
            master.link.send(ToMaster::Failed { reason: short(&format!("{error:?}")) });
            Err(error)
        }
    };
    let _ = timeout(FAREWELL, master.link.finish()).await;
    result
}

/// The master, as a worker sees it.
struct Master {
    reader: Reader,
    link: Link<ToMaster>,
    handle: Handle,
    /// What the application asks for.
    commands: mpsc::UnboundedReceiver<Command>,
    /// Who has asked for a descriptor, and waits for the answer of the master.
    asked: Vec<(String, oneshot::Sender<Option<OwnedFd>>)>,
    state: Bond,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Bond {
    #[default]
    Whole,
    /// Told to end before it was ready.
    Dismissed,
    /// The master is gone.
    Broken,
}

impl Master {
    async fn start(
        &mut self,
        build: impl Future<Output = Result<Vec<Binding>, Error>>,
        options: &Options,
    ) -> Result<Serving, Error> {
        let crate_version = env!("CARGO_PKG_VERSION").to_owned();
        self.link.send(ToMaster::Hello { version: VERSION, crate_version });
        let generation = loop {
            match receive(&mut self.reader).await?.0 {
                ToWorker::Welcome { version: VERSION, generation } => break generation,
                ToWorker::Welcome { version, .. } => {
                    let what =
                        format!("the master speaks version {version} of the wire, not {VERSION}");
                    return Err(Error::new(Kind::Worker, what));
                }
                ToWorker::Drain(_) => return Err(self.dismissed()),
                _ => {}
            }
        };
        self.handle.set_generation(Some(generation));
        let bindings = self.unless_gone(build).await?;
        let listeners = provider::open(self, bindings).await?;
        let addresses: Vec<_> =
            listeners.iter().map(|(listener, _)| listener.address().to_owned()).collect();
        let opened = |(listener, _): &(Listener, _)| Open {
            address: listener.address().to_owned(),
            tls: listener.tls().is_some(),
        };
        let opened = listeners.iter().map(opened).collect();
        let pid = nix::unistd::getppid().as_raw().unsigned_abs();
        let started = Started { addresses, generation, pid };
        // Before the first connection, so that no request meets what the hook has not prepared; and
        // before the master hears, which may then let the old worker go.
        options.on_ready.iter().for_each(|hook| hook(&started));
        let serving = Serving::start(listeners, self.handle.clone(), options.client_limits);
        tracing::info!(generation, addresses = ?started.addresses, "ready");
        let examines = !options.own_checks.is_empty();
        self.link.send(ToMaster::Ready { examines, listeners: opened });
        Ok(serving)
    }

    /// Builds the application, but for nobody if the master dies meanwhile.
    async fn unless_gone<T>(
        &mut self,
        build: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let mut build = pin!(build);
        loop {
            tokio::select! {
                built = &mut build => return built,
                Some(command) = self.commands.recv() => self.command(command),
                message = receive(&mut self.reader) => match message? {
                    (ToWorker::Ping, _) => self.pong(None),
                    (ToWorker::Drain(_), _) => return Err(self.dismissed()),
                    (ToWorker::Kept { name }, fds) => self.kept(&name, fds),
                    (message, _) => tracing::debug!(?message, "ignored while starting"),
                }
            }
        }
    }

    /// All shall end, and this worker has nothing to finish yet.
    fn dismissed(&mut self) -> Error {
        self.state = Bond::Dismissed;
        Error::new(Kind::Worker, "the server is stopping")
    }

    /// Answers a ping; there is nothing to count before it serves.
    fn pong(&self, context: Option<&Context>) {
        let of = |context: &Context| ToMaster::Status {
            in_flight: context.requests.in_flight(),
            connections: context.connections.in_flight(),
            survey: context.registry.survey(NAMED),
        };
        let idle = || ToMaster::Status { in_flight: 0, connections: 0, survey: Survey::default() };
        self.link.send(context.map_or_else(idle, of));
    }

    /// Asks for sockets and waits for the answer.
    async fn ask(&mut self, question: ToMaster) -> Result<Vec<Listener>, Error> {
        self.link.send(question);
        let mut listeners = Vec::new();
        loop {
            match receive(&mut self.reader).await? {
                (ToWorker::Listeners { more }, fds) => {
                    for fd in fds {
                        let socket = Socket::check(fd)
                            .map_err(|error| Error::io("cannot use the master's socket", error))?;
                        listeners.push(Listener::open(socket, None)?);
                    }
                    if !more {
                        return Ok(listeners);
                    }
                }
                (ToWorker::Kept { name }, fds) => self.kept(&name, fds),
                (ToWorker::Refused { reason }, _) => return Err(Error::new(Kind::Bind, reason)),
                (ToWorker::Ping, _) => self.pong(None),
                (ToWorker::Drain(_), _) => return Err(self.dismissed()),
                (message, _) => tracing::debug!(?message, "ignored while starting"),
            }
        }
    }

    /// Does what the application asks for.
    fn command(&mut self, command: Command) {
        self.link.send(match command {
            Command::Keep { name, fd } => {
                return self.link.send_with(ToMaster::Keep { name }, vec![fd]);
            }
            Command::Fetch { answer, .. } if self.state == Bond::Broken => {
                return drop(answer.send(None));
            }
            Command::Fetch { name, answer } => {
                self.asked.push((name.clone(), answer));
                ToMaster::Fetch { name }
            }
            // Who waits for the outcome hears that nobody knows it here.
            Command::Reload | Command::ReloadAndTell(_) => ToMaster::Reload,
            Command::ReloadUntried => ToMaster::ReloadUntried,
            Command::Rollback(_) => ToMaster::Rollback,
            #[cfg(feature = "fetch")]
            Command::CheckForUpgrade(_) => ToMaster::CheckForUpgrade,
            // Of the watcher, which runs in a master only.
            #[cfg(feature = "fetch")]
            Command::Known { .. } | Command::Look => return,
            Command::Stop => ToMaster::Stop,
        });
    }

    /// The master has answered what the application keeps under a name.
    fn kept(&mut self, name: &str, fds: Vec<OwnedFd>) {
        if let Some(at) = self.asked.iter().position(|(other, _)| other == name) {
            // Nobody may want it any more; then it is closed here.
            let _ = self.asked.swap_remove(at).1.send(fds.into_iter().next());
        }
    }

    async fn serve(&mut self, serving: Serving, options: &Options) -> Result<(), Error> {
        let (orders, receiver) = mpsc::unbounded_channel();
        // It fails when everything has ended; the loop below sees that first.
        let order = |order| {
            let _ = orders.send(order);
        };
        let context = serving.context().clone();
        let mut run = pin!(serving.run(receiver));
        let hooks = &options.hooks;
        let mut retiring = pin!(hooks.on_retire.run("on retire", (), hooks.limit));
        let mut retire = Retire::NotYet;
        // A panic of it is this worker's end, which fails the trial, too.
        let mut trial = pin!(health::watch_own(options.own_checks.clone(), options.bake_time));
        let mut on_trial = !options.own_checks.is_empty();
        let mut pausing: Option<oneshot::Receiver<()>> = None;
        let cut = loop {
            tokio::select! {
                cut = &mut run => break cut,
                paused = told(&mut pausing), if pausing.is_some() => {
                    pausing = None;
                    if paused {
                        self.link.send(ToMaster::Paused);
                    }
                }
                health = &mut trial, if on_trial => {
                    on_trial = false;
                    self.link.send(match health {
                        Ok(()) => ToMaster::Healthy,
                        Err(reason) => ToMaster::Unhealthy { reason: short(&reason) },
                    });
                }
                () = &mut retiring, if retire == Retire::Now => {
                    retire = Retire::Done;
                    self.link.send(ToMaster::Retired);
                }
                message = self.reader.receive::<ToWorker>(), if self.state != Bond::Broken => match message {
                    Ok(Some((message, fds))) => match message {
                        ToWorker::Pause { alone } => {
                            let (tell, paused) = oneshot::channel();
                            pausing = Some(paused);
                            order(Order::Pause(alone, tell));
                        }
                        ToWorker::Resume => order(Order::Resume),
                        ToWorker::Adopt => fds.into_iter().for_each(|wire| order(Order::Adopt(wire))),
                        ToWorker::Active => {
                            on_trial = false;
                            self.handle.set_active();
                        }
                        ToWorker::Drain(drain) => {
                            retire = retire.begin();
                            order(Order::Drain(ending(drain, fds.into_iter().next())));
                        }
                        ToWorker::Cut => order(Order::Cut),
                        ToWorker::Ping => self.pong(Some(&context)),
                        ToWorker::Kept { name } => self.kept(&name, fds),
                        message => tracing::debug!(?message, "ignored"),
                    },
                    end => {
                        tracing::warn!(?end, "the master is gone: this worker finishes and leaves");
                        self.state = Bond::Broken;
                        retire = retire.begin();
                        self.asked.drain(..).for_each(|(_, answer)| drop(answer.send(None)));
                        order(Order::Drain(Ending {
                            successor: false,
                            alone: Vec::new(),
                            hand_over: None,
                            delay: Duration::ZERO,
                            idle_grace: options.idle_grace,
                            timeout: options.stop_timeout,
                        }));
                    }
                },
                Some(command) = self.commands.recv() => self.command(command),
            }
        };
        if retire == Retire::Now {
            retiring.await;
            self.link.send(ToMaster::Retired);
        }
        for some in cut.chunks(CUT_IN_A_FRAME) {
            self.link.send(ToMaster::Drained { cut: some.to_vec() });
        }
        Ok(())
    }
}

async fn receive(reader: &mut Reader) -> Result<(ToWorker, Vec<OwnedFd>), Error> {
    match reader.receive().await {
        Ok(Some(received)) => Ok(received),
        Ok(None) => Err(Error::new(Kind::Worker, "the master is gone")),
        Err(error) => Err(Error::io("cannot understand the master", error)),
    }
}

/// Whether what is waited for has happened; not when it was given up.
async fn told(waiting: &mut Option<oneshot::Receiver<()>>) -> bool {
    match waiting {
        Some(waiting) => waiting.await.is_ok(),
        None => false,
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Retire {
    NotYet,
    Now,
    Done,
}

impl Retire {
    fn begin(self) -> Self {
        match self {
            Self::NotYet => Self::Now,
            begun => begun,
        }
    }
}

/// Sends each panic to the master, which knows by the exit status whether it was the end.
fn tell_of_panics(writer: &Writer) {
    let last_words = match writer.last_words() {
        Ok(last_words) => last_words,
        Err(error) => return tracing::warn!(%error, "the master will not hear of panics"),
    };
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let message = short(&format!("it {}", panic.to_string().replace('\n', " ")));
        last_words.send(&ToMaster::Panicked { message });
        before(panic);
    }));
}

impl Provider for Master {
    async fn inherited(&mut self) -> Result<Vec<Listener>, Error> {
        self.ask(ToMaster::Inherited).await
    }

    async fn listen(&mut self, address: &Address, nth: u32) -> Result<Listener, Error> {
        let listeners = self.ask(ToMaster::Listen { address: address.text(), nth }).await?;
        listeners.into_iter().next().ok_or_else(|| {
            Error::new(Kind::Worker, format!("the master sent no socket for {address}"))
        })
    }
}

fn ending(order: DrainOrder, hand_over: Option<OwnedFd>) -> Ending {
    let DrainOrder { successor, alone, delay, idle_grace, timeout } = order;
    Ending { successor, alone, hand_over, delay, idle_grace, timeout }
}
