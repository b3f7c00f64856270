//! Nanoseconds per operation and their ratios, every peer in turn within each round.

use std::hint::black_box;

use crate::lru_peers::*;
use crate::lru_work::{Keys, Numbers, Random, Strings, Zipf};

#[derive(Clone, Copy, PartialEq)]
enum Cell {
    Hit,
    Miss,
    Insert,
    Zipf99,
    Zipf80,
}

const CELLS: [(Cell, &str); 5] = [
    (Cell::Hit, "hit"),
    (Cell::Miss, "miss"),
    (Cell::Insert, "insert"),
    (Cell::Zipf99, "zipf 0.99"),
    (Cell::Zipf80, "zipf 0.8"),
];
const CAPACITIES: [(usize, &str); 3] = [(1000, "1k"), (100_000, "100k"), (1_000_000, "1M")];

/// The keys of one cell, and how to warm up for it.
struct Work<S> {
    cell: Cell,
    fill: S,
    keys: S,
    slice: usize,
}

impl<S: Keys> Work<S> {
    fn new(cell: Cell, capacity: usize) -> Self {
        let mut random = Random(7);
        let large = capacity >= 1_000_000;
        let slice = if large { 1_000_000 } else { 200_000 };
        let keys = match cell {
            Cell::Hit => S::from_ranks((0..slice).map(|_| random.below(capacity))),
            Cell::Miss => S::from_ranks((0..slice).map(|_| capacity + random.below(capacity))),
            Cell::Insert => {
                S::from_ranks(capacity..capacity + if large { 4 * slice } else { 5 * slice })
            }
            Cell::Zipf99 | Cell::Zipf80 => {
                let zipf = Zipf::new(10 * capacity, if cell == Cell::Zipf99 { 0.99 } else { 0.8 });
                let length = if large { 4 * slice } else { 8 * slice };
                S::from_ranks((0..length).map(|_| zipf.next(&mut random)))
            }
        };
        let fill = S::from_ranks(0..capacity);
        Self { cell, fill, keys, slice }
    }
}

/// One peer with its state.
trait Run<S> {
    fn name(&self) -> &'static str;
    fn warm(&mut self, work: &Work<S>);
    fn slice(&mut self, work: &Work<S>) -> f64;
    fn times(&mut self) -> &mut Vec<f64>;
}

struct Runner<P> {
    peer: P,
    at: usize,
    /// Slow peers do fewer operations.
    part: usize,
    times: Vec<f64>,
    hits: usize,
    asked: usize,
}

impl<P> Runner<P> {
    #[inline(never)]
    fn run<S: Keys>(&mut self, work: &Work<S>, from: usize, to: usize) -> u64
    where
        P: Peer<S>,
    {
        let mut sum = 0;
        match work.cell {
            Cell::Hit | Cell::Miss => {
                for at in from..to {
                    sum ^= self.peer.get(work.keys.ask(at)).unwrap_or(1);
                }
            }
            Cell::Insert => {
                for at in from..to {
                    self.peer.insert(work.keys.own(at), at as u64);
                }
            }
            Cell::Zipf99 | Cell::Zipf80 => {
                for at in from..to {
                    match self.peer.get(work.keys.ask(at)) {
                        Some(value) => {
                            sum ^= value;
                            self.hits += 1;
                        }
                        None => self.peer.insert(work.keys.own(at), at as u64),
                    }
                }
                self.asked += to - from;
            }
        }
        sum
    }
}

impl<S: Keys, P: Peer<S>> Run<S> for Runner<P> {
    fn name(&self) -> &'static str {
        P::NAME
    }

    fn warm(&mut self, work: &Work<S>) {
        for at in 0..work.fill.len() {
            self.peer.insert(work.fill.own(at), at as u64);
        }
        if matches!(work.cell, Cell::Hit | Cell::Miss) {
            // The order of use is not that of memory, as after some life.
            let mut random = Random(99);
            for _ in 0..work.fill.len() / self.part {
                black_box(self.peer.get(work.fill.ask(random.below(work.fill.len()))));
            }
        } else {
            let most = work.keys.len() / self.part / self.part;
            black_box(self.run(work, 0, most));
            self.at = most % work.keys.len();
        }
    }

    fn slice(&mut self, work: &Work<S>) -> f64 {
        let count = work.slice / self.part;
        if self.at + count > work.keys.len() {
            self.at = 0;
        }
        let (from, to) = (self.at, self.at + count);
        let before = processor_time();
        black_box(self.run(work, from, to));
        let taken = processor_time() - before;
        self.at = to;
        taken / count as f64
    }

    fn times(&mut self) -> &mut Vec<f64> {
        &mut self.times
    }
}

/// What this thread has used of a processor, in nanoseconds.
pub fn processor_time() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a place for the answer.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    time.tv_sec as f64 * 1e9 + time.tv_nsec as f64
}

fn runner<S: Keys + 'static, P: Peer<S> + 'static>(
    capacity: usize,
    part: usize,
) -> Box<dyn Run<S>> {
    Box::new(Runner { peer: P::new(capacity), at: 0, part, times: Vec::new(), hits: 0, asked: 0 })
}

fn median(mut of: Vec<f64>) -> f64 {
    of.sort_by(f64::total_cmp);
    of[of.len() / 2]
}

fn geometric_mean(of: &[f64]) -> f64 {
    (of.iter().map(|x| x.ln()).sum::<f64>() / of.len() as f64).exp()
}

fn rounds() -> usize {
    std::env::var("LRU_ROUNDS").ok().and_then(|r| r.parse().ok()).unwrap_or(9)
}

/// Prints one line per cell: nanoseconds of each peer, and the ratio of the first to each of the others,
/// the median over rounds of the ratio within a round.
fn table<S: Keys + 'static>(
    title: &str,
    capacities: &[(usize, &str)],
    cells: &[(Cell, &str)],
    strict: usize,
    make: impl Fn(usize) -> Vec<Box<dyn Run<S>>>,
) {
    println!("\n{title}");
    let mut all: Vec<Vec<f64>> = Vec::new();
    let mut best: Vec<f64> = Vec::new();
    for (capacity, size) in capacities {
        for (cell, name) in cells {
            let work: Work<S> = Work::new(*cell, *capacity);
            let mut runners = make(*capacity);
            for runner in &mut runners {
                runner.warm(&work);
            }
            for _ in 0..rounds() {
                for runner in &mut runners {
                    let time = runner.slice(&work);
                    runner.times().push(time);
                }
            }
            if all.is_empty() {
                let names: Vec<_> = runners.iter().map(|runner| runner.name()).collect();
                println!("{:>16} | {}", "", names.join(" | "));
            }
            let ours = runners[0].times().clone();
            let mut line = Vec::new();
            let mut ratios = Vec::new();
            for runner in &mut runners {
                let times = runner.times().clone();
                let ratio = median(ours.iter().zip(&times).map(|(a, b)| a / b).collect());
                line.push(format!("{:.1} ({ratio:.2})", median(times)));
                ratios.push(ratio);
            }
            let strictest = ratios[1..strict].iter().copied().fold(0.0, f64::max);
            best.push(strictest);
            println!("{:>16} | {}", format!("{size} {name}"), line.join(" | "));
            all.push(ratios);
        }
    }
    let means: Vec<_> = (0..all[0].len())
        .map(|peer| geometric_mean(&all.iter().map(|ratios| ratios[peer]).collect::<Vec<_>>()))
        .map(|mean| format!("{mean:.3}"))
        .collect();
    println!("{:>16} | {}", "geometric mean", means.join(" | "));
    if strict > 1 {
        println!("to the best strict peer of each cell: {:.3}", geometric_mean(&best));
    }
}

fn chosen<T: Copy>(all: &[(T, &'static str)], variable: &str) -> Vec<(T, &'static str)> {
    match std::env::var(variable) {
        Ok(names) => {
            let names: Vec<_> = names.split(',').collect();
            all.iter().copied().filter(|(_, name)| names.contains(name)).collect()
        }
        Err(_) => all.to_vec(),
    }
}

pub fn numbers() {
    let strict_only = std::env::var_os("LRU_STRICT").is_some();
    table::<Numbers>(
        "u64 -> u64: nanoseconds (ratio of graceful to it)",
        &chosen(&CAPACITIES, "LRU_CAPACITIES"),
        &chosen(&CELLS, "LRU_CELLS"),
        6,
        |capacity| {
            let mut runners = vec![
                runner::<Numbers, Ours<u64>>(capacity, 1),
                runner::<Numbers, Schnellru<u64>>(capacity, 1),
                runner::<Numbers, Hashlink<u64>>(capacity, 1),
                runner::<Numbers, LruRs<u64>>(capacity, 1),
                runner::<Numbers, Clru<u64>>(capacity, 1),
                runner::<Numbers, CachesRaw>(capacity, 2),
            ];
            if !strict_only {
                runners.push(runner::<Numbers, QuickUnsync<u64>>(capacity, 1));
                runners.push(runner::<Numbers, QuickSync<u64>>(capacity, 1));
                runners.push(runner::<Numbers, MiniMoka>(capacity, 4));
                runners.push(runner::<Numbers, Moka<u64>>(capacity, 8));
            }
            runners
        },
    );
}

pub fn strings() {
    table::<Strings>(
        "30-byte String -> u64: nanoseconds (ratio of graceful to it)",
        &chosen(&CAPACITIES, "LRU_CAPACITIES"),
        &chosen(&CELLS, "LRU_CELLS"),
        5,
        |capacity| {
            vec![
                runner::<Strings, Ours<String>>(capacity, 1),
                runner::<Strings, Schnellru<String>>(capacity, 1),
                runner::<Strings, Hashlink<String>>(capacity, 1),
                runner::<Strings, LruRs<String>>(capacity, 1),
                runner::<Strings, Clru<String>>(capacity, 1),
                runner::<Strings, QuickUnsync<String>>(capacity, 1),
                runner::<Strings, Moka<String>>(capacity, 8),
            ]
        },
    );
}

pub fn policies() {
    for (title, make) in [
        (
            "2Q: nanoseconds (ratio of graceful 2Q to it)",
            two_queue as fn(usize) -> Vec<Box<dyn Run<Numbers>>>,
        ),
        ("ARC: nanoseconds (ratio of graceful ARC to it)", adaptive),
        ("expirable: nanoseconds (ratio of graceful expirable to it)", expirable),
    ] {
        table(title, &chosen(&CAPACITIES, "LRU_CAPACITIES"), &chosen(&CELLS, "LRU_CELLS"), 1, make);
    }
}

fn two_queue(capacity: usize) -> Vec<Box<dyn Run<Numbers>>> {
    vec![
        runner::<Numbers, OursTwoQueue<u64>>(capacity, 1),
        runner::<Numbers, Ours<u64>>(capacity, 1),
        runner::<Numbers, CachesTwoQueue>(capacity, 4),
    ]
}

fn adaptive(capacity: usize) -> Vec<Box<dyn Run<Numbers>>> {
    vec![
        runner::<Numbers, OursAdaptive<u64>>(capacity, 1),
        runner::<Numbers, Ours<u64>>(capacity, 1),
        runner::<Numbers, CachesAdaptive>(capacity, 4),
    ]
}

fn expirable(capacity: usize) -> Vec<Box<dyn Run<Numbers>>> {
    vec![
        runner::<Numbers, OursExpirable<u64>>(capacity, 1),
        runner::<Numbers, OursWeighted<u64>>(capacity, 1),
        runner::<Numbers, Ours<u64>>(capacity, 1),
    ]
}
