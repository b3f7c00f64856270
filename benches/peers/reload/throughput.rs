//! Requests per second of `graceful::serve` against `axum::serve`, on the same handler.
//!
//! ```text
//! cargo run --release --features reload --bin throughput -- [--rounds 15] [--seconds 0.6] [--clients 32]
//!     [--mode keep-alive|fresh]
//! ```
//!
//! The first CPU belongs to the server, the second to the client. The servers take turns in short rounds,
//! each in a process of its own, started anew; who is first alternates. Printed are medians over the rounds,
//! and the median of the ratios of neighbours. The CPU time per request is the server's, master and worker
//! together; it tells the servers apart even where the client is the limit. The best round is the one that
//! the rest of the machine disturbed least.

#[path = "../../../tests/support/mod.rs"]
mod support;

mod programs;

use std::error::Error;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use programs::{Peer, first_answer};
use support::load::Load;
use support::procfs;

const SERVER_CPU: usize = 0;
const CLIENT_CPU: usize = 1;
const WARM_UP: Duration = Duration::from_millis(200);

fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::from_args()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    for mode in options.modes.iter().copied() {
        let mut pairs = Vec::new();
        for round in 0..options.rounds {
            let measure = |peer| runtime.block_on(measure(peer, mode, &options));
            // Neither is always the first.
            pairs.push(if round % 2 == 0 {
                let graceful = measure(Peer::Graceful)?;
                (graceful, measure(Peer::Axum)?)
            } else {
                let axum = measure(Peer::Axum)?;
                (measure(Peer::Graceful)?, axum)
            });
        }
        print(mode, &options, &pairs);
    }
    Ok(())
}

#[derive(Clone, Copy)]
enum Mode {
    KeepAlive,
    Fresh,
}

struct Options {
    modes: Vec<Mode>,
    rounds: usize,
    seconds: f64,
    clients: usize,
}

impl Options {
    fn from_args() -> Result<Self, Box<dyn Error>> {
        let mut options = Self {
            modes: vec![Mode::KeepAlive, Mode::Fresh],
            rounds: 15,
            seconds: 0.6,
            clients: 32,
        };
        let mut args = std::env::args().skip(1);
        while let Some(name) = args.next() {
            let value = args.next().ok_or_else(|| format!("{name} needs a value"))?;
            match name.as_str() {
                "--rounds" => options.rounds = value.parse::<usize>()?.max(1),
                "--seconds" => options.seconds = value.parse()?,
                "--mode" => {
                    options.modes = match value.as_str() {
                        "keep-alive" => vec![Mode::KeepAlive],
                        "fresh" => vec![Mode::Fresh],
                        _ => return Err("--mode is keep-alive or fresh".into()),
                    };
                }
                "--clients" => options.clients = value.parse()?,
                _ => return Err(format!("unknown option {name}").into()),
            }
        }
        Ok(options)
    }
}

#[derive(Clone, Copy)]
struct Measured {
    per_second: f64,
    /// Of the server, for each request.
    cpu_micros: f64,
    p50_micros: f64,
    p99_micros: f64,
}

async fn measure(peer: Peer, mode: Mode, options: &Options) -> Result<Measured, Box<dyn Error>> {
    let addr: SocketAddr = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    // A child inherits the CPU of this thread, and so does the thread of the load.
    pin(SERVER_CPU)?;
    let server = peer.bare(addr).start();
    pin(CLIENT_CPU)?;
    first_answer(addr).await;
    let load = Load::new(addr).think(Duration::ZERO);
    let load = match mode {
        Mode::KeepAlive => load.keep_alive(options.clients, Duration::ZERO),
        Mode::Fresh => load.fresh(options.clients),
    };
    let load = load.start();
    tokio::time::sleep(WARM_UP).await;
    load.lap();
    let before = cpu_time(&server.tree());
    tokio::time::sleep(Duration::from_secs_f64(options.seconds)).await;
    let report = load.lap();
    let used = cpu_time(&server.tree()) - before;
    let all = load.stop().await;
    if all.lost() > 0 {
        return Err(format!("{peer} lost requests:\n{all}").into());
    }
    let latency = &report.total().latency;
    Ok(Measured {
        per_second: report.per_second(),
        cpu_micros: used.as_secs_f64() * 1e6 / report.done() as f64,
        p50_micros: latency.quantile(0.5).as_secs_f64() * 1e6,
        p99_micros: latency.quantile(0.99).as_secs_f64() * 1e6,
    })
}

fn pin(cpu: usize) -> nix::Result<()> {
    let mut cpus = CpuSet::new();
    cpus.set(cpu)?;
    sched_setaffinity(Pid::from_raw(0), &cpus)
}

fn cpu_time(pids: &[u32]) -> Duration {
    pids.iter().map(|pid| procfs::cpu_time(*pid)).sum()
}

fn print(mode: Mode, options: &Options, pairs: &[(Measured, Measured)]) {
    let Options { rounds, seconds, clients, .. } = options;
    let what = match mode {
        Mode::KeepAlive => "keep-alive connections",
        Mode::Fresh => "fresh connections",
    };
    println!("{what}: {clients} clients, medians of {rounds} rounds of {seconds} s");
    println!(
        "{:<10} {:>12} {:>10} {:>20} {:>12} {:>10} {:>10}",
        "", "requests/s", "best", "server CPU/request", "best", "p50", "p99"
    );
    let row = |name: &str, all: Vec<Measured>| {
        let of = |value: fn(&Measured) -> f64| median(all.iter().map(value).collect());
        let best = all.iter().map(|one| one.per_second).fold(0.0, f64::max);
        let least = all.iter().map(|one| one.cpu_micros).fold(f64::INFINITY, f64::min);
        println!(
            "{name:<10} {:>12.0} {best:>10.0} {:>17.2} us {least:>9.2} us {:>7.0} us {:>7.0} us",
            of(|one| one.per_second),
            of(|one| one.cpu_micros),
            of(|one| one.p50_micros),
            of(|one| one.p99_micros),
        );
    };
    row("graceful", pairs.iter().map(|pair| pair.0).collect());
    row("axum", pairs.iter().map(|pair| pair.1).collect());
    let ratio = |value: fn(&Measured) -> f64| {
        let mut all: Vec<f64> = pairs.iter().map(|pair| value(&pair.0) / value(&pair.1)).collect();
        all.sort_by(f64::total_cmp);
        format!("{:.3} ({:.3} to {:.3})", median(all.clone()), all[0], all[all.len() - 1])
    };
    println!("requests per second, graceful to axum: {}", ratio(|one| one.per_second));
    println!("CPU time per request, graceful to axum: {}\n", ratio(|one| one.cpu_micros));
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
