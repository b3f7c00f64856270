//! Reloads servers under load and accounts for every request.
//!
//! ```text
//! cargo run --release --features reload --bin reload -- [--reloads 30] [--clients 64]
//!     [--servers graceful,axum,ecdysis] [--rounds 3] [--seconds 2] [--think 10]
//! ```
//!
//! The servers take turns: a round of each, then the next round. In a round a server is started and loaded;
//! the first `--seconds` are the quiet before; then its program is started a few times more, on another
//! port, to see how long a bare start takes under this load; then it is reloaded, again and again, each time
//! as soon as the old process is gone. `--clients` keep-alive clients pause up to `--think` ms; for every
//! eight of them there is one of each other kind.

#[path = "../../../tests/support/mod.rs"]
mod support;

mod programs;

use std::error::Error;
use std::fmt;
use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};

use programs::{Peer, Server, first_answer};
use support::load::{Kind, Load, Report, Running};
use support::procfs;

/// How long an old process may drain before the next reload.
const LONGEST_DRAIN: Duration = Duration::from_secs(10);
const BARE_STARTS: usize = 4;

fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::from_args()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // Whoever interrupts this interrupts the servers too: they end when their owner is dropped.
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        tokio::select! {
            ended = run(&options) => ended,
            _ = tokio::signal::ctrl_c() => Err("interrupted".into()),
            _ = terminate.recv() => Err("terminated".into()),
        }
    })
}

async fn run(options: &Options) -> Result<(), Box<dyn Error>> {
    let mut tallies: Vec<Tally> = options.servers.iter().copied().map(Tally::new).collect();
    for round in 0..options.rounds {
        for tally in &mut tallies {
            eprintln!("round {} of {}: {}", round + 1, options.rounds, tally.peer);
            let reloads = share(options.reloads, options.rounds, round);
            tally.round(options, reloads, round as u64 + 1).await?;
        }
    }
    println!(
        "{} reloads of each server in {} rounds; {} keep-alive clients (think 0 to {} ms) and {} of \
         each other kind; nothing is retried",
        options.reloads,
        options.rounds,
        options.clients,
        options.think.as_millis(),
        options.others(),
    );
    for tally in &tallies {
        println!("\n{tally}");
    }
    summary(&tallies);
    Ok(())
}

/// What part of all reloads a round makes.
fn share(all: usize, rounds: usize, round: usize) -> usize {
    all * (round + 1) / rounds - all * round / rounds
}

struct Options {
    reloads: usize,
    clients: usize,
    servers: Vec<Peer>,
    rounds: usize,
    seconds: f64,
    think: Duration,
}

impl Options {
    fn from_args() -> Result<Self, Box<dyn Error>> {
        let mut options = Self {
            reloads: 30,
            clients: 64,
            servers: Peer::ALL.to_vec(),
            rounds: 3,
            seconds: 2.0,
            think: Duration::from_millis(10),
        };
        let mut args = std::env::args().skip(1);
        while let Some(name) = args.next() {
            let value = args.next().ok_or_else(|| format!("{name} needs a value"))?;
            match name.as_str() {
                "--reloads" => options.reloads = value.parse()?,
                "--clients" => options.clients = value.parse()?,
                "--rounds" => options.rounds = value.parse::<usize>()?.max(1),
                "--seconds" => options.seconds = value.parse()?,
                "--think" => options.think = Duration::from_millis(value.parse()?),
                "--servers" => {
                    options.servers = value.split(',').map(str::parse).collect::<Result<_, _>>()?;
                }
                _ => return Err(format!("unknown option {name}").into()),
            }
        }
        Ok(options)
    }

    /// Clients of each kind but keep-alive.
    fn others(&self) -> usize {
        self.clients.div_ceil(8)
    }

    fn load(&self, addr: SocketAddr, seed: u64) -> Running {
        let others = self.others();
        Load::new(addr)
            .keep_alive(self.clients, self.think)
            .fresh(others)
            .slow(others)
            .streaming(others)
            .uploads(others)
            .h2(others)
            .seed(seed)
            .start()
    }
}

/// What was seen of one server in all rounds.
struct Tally {
    peer: Peer,
    /// Under load, no reload.
    before: Report,
    /// From the first signal to the end of the last drain.
    during: Report,
    /// Everything, the start and the end too.
    all: Report,
    reloads: usize,
    reloads_with_loss: usize,
    reloads_with_reconnects: usize,
    /// From the signal to the first answer of the new generation.
    first_answers: Vec<Duration>,
    /// From the signal to the end of the old process.
    drains: Vec<Duration>,
    still_draining: usize,
    /// From exec to the first answer, nothing else running.
    cold_starts: Vec<Duration>,
    /// The same under the load.
    loaded_starts: Vec<Duration>,
}

impl Tally {
    fn new(peer: Peer) -> Self {
        Self {
            peer,
            before: Report::default(),
            during: Report::default(),
            all: Report::default(),
            reloads: 0,
            reloads_with_loss: 0,
            reloads_with_reconnects: 0,
            first_answers: Vec::new(),
            drains: Vec::new(),
            still_draining: 0,
            cold_starts: Vec::new(),
            loaded_starts: Vec::new(),
        }
    }

    async fn round(
        &mut self,
        options: &Options,
        reloads: usize,
        seed: u64,
    ) -> Result<(), Box<dyn Error>> {
        for _ in 0..BARE_STARTS {
            self.cold_starts.push(bare_start(self.peer).await?);
        }
        let addr = free_address()?;
        let mut server = Server::start(self.peer, addr).await;
        let load = options.load(addr, seed);
        load.worker_after(0).await;
        // The first requests of all clients at once are no steady state.
        tokio::time::sleep(Duration::from_millis(300)).await;
        load.lap();
        tokio::time::sleep(Duration::from_secs_f64(options.seconds)).await;
        self.before.merge(&load.lap());
        for _ in 0..BARE_STARTS {
            self.loaded_starts.push(bare_start(self.peer).await?);
        }
        load.lap();
        for number in 0..reloads {
            self.reload(&mut server, &load).await;
            // The next signal falls somewhere in the rhythm of the slow requests.
            tokio::time::sleep(Duration::from_millis(37 * (number as u64 % 5))).await;
            let lap = load.lap();
            self.reloads_with_loss += usize::from(lap.lost() > 0);
            self.reloads_with_reconnects += usize::from(lap.total().reconnects > 0);
            self.during.merge(&lap);
        }
        self.all.merge(&load.stop().await);
        Ok(())
    }

    async fn reload(&mut self, server: &mut Server, load: &Running) {
        let known = load.first_answers();
        let old = known.last().expect("the load has been answered").worker.pid;
        let signalled = Instant::now();
        server.reload();
        let first = load.worker_after(known.len()).await;
        self.first_answers.push(first.at - signalled);
        self.reloads += 1;
        server.reloaded(first.worker.pid);
        while procfs::is_running(old) {
            if signalled.elapsed() > LONGEST_DRAIN {
                self.still_draining += 1;
                return;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        self.drains.push(signalled.elapsed());
    }
}

/// Starts the program with nothing to take over, on a port of its own, and takes the time from before exec
/// to its first answer.
async fn bare_start(peer: Peer) -> Result<Duration, Box<dyn Error>> {
    let addr = free_address()?;
    let began = Instant::now();
    let program = peer.alone(addr).start();
    let answered = first_answer(addr).await;
    drop(program);
    Ok(answered - began)
}

fn free_address() -> std::io::Result<SocketAddr> {
    TcpListener::bind("127.0.0.1:0")?.local_addr()
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "== {} ==", self.peer)?;
        writeln!(f, "-- during {} reloads --\n{}", self.reloads, self.during)?;
        writeln!(f, "latency in ms        {}", Latency::HEAD)?;
        for kind in Kind::ALL {
            writeln!(f, "{:<10} before    {}", kind.name(), Latency(&self.before, kind))?;
            writeln!(f, "{:<10} during    {}", "", Latency(&self.during, kind))?;
        }
        writeln!(f, "\n{:<52} {}", "ms", Spread::HEAD)?;
        let signal = "signal to first answer of the new generation";
        writeln!(f, "{signal:<52} {}", Spread(&self.first_answers))?;
        let loaded = "bare start to first answer, under the same load";
        writeln!(f, "{loaded:<52} {}", Spread(&self.loaded_starts))?;
        let cold = "bare start to first answer, machine idle";
        writeln!(f, "{cold:<52} {}", Spread(&self.cold_starts))?;
        let drain = "signal to the end of the old process";
        writeln!(f, "{drain:<52} {}", Spread(&self.drains))?;
        if self.still_draining > 0 {
            let count = self.still_draining;
            writeln!(f, "{count} old processes were still there after {LONGEST_DRAIN:?}")?;
        }
        Ok(())
    }
}

/// One line for each server.
fn summary(tallies: &[Tally]) {
    println!(
        "{:<10} {:>8} {:>9} {:>6} {:>16} {:>10} {:>21} {:>14} {:>14}",
        "",
        "reloads",
        "requests",
        "LOST",
        "reloads w/ loss",
        "reconnects",
        "reloads w/ reconnect",
        "first answer",
        "bare start",
    );
    for tally in tallies {
        println!(
            "{:<10} {:>8} {:>9} {:>6} {:>16} {:>10} {:>21} {:>11.1} ms {:>11.1} ms",
            tally.peer.to_string(),
            tally.reloads,
            tally.all.done(),
            tally.all.lost(),
            tally.reloads_with_loss,
            tally.during.total().reconnects,
            tally.reloads_with_reconnects,
            ms(quantile(&tally.first_answers, 0.5)),
            ms(quantile(&tally.loaded_starts, 0.5)),
        );
    }
}

struct Latency<'a>(&'a Report, Kind);

impl Latency<'_> {
    const HEAD: &'static str = "    count      p50      p90      p99    p99.9      max";
}

impl fmt::Display for Latency<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let latency = &self.0.of(self.1).latency;
        write!(f, "{:>9}", latency.count())?;
        for share in [0.5, 0.9, 0.99, 0.999] {
            write!(f, " {:>8.2}", ms(latency.quantile(share)))?;
        }
        write!(f, " {:>8.2}", ms(latency.max()))
    }
}

struct Spread<'a>(&'a [Duration]);

impl Spread<'_> {
    const HEAD: &'static str = "    n      min   median      p90      max";
}

impl fmt::Display for Spread<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>5}", self.0.len())?;
        for share in [0.0, 0.5, 0.9, 1.0] {
            write!(f, " {:>8.2}", ms(quantile(self.0, share)))?;
        }
        Ok(())
    }
}

fn quantile(durations: &[Duration], share: f64) -> Duration {
    let mut sorted = durations.to_vec();
    sorted.sort_unstable();
    let place = ((sorted.len() as f64 * share).ceil() as usize).saturating_sub(1);
    sorted.get(place).copied().unwrap_or_default()
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
