//! Bytes per entry as an allocator counts them, and the slowest single operation.

use crate::lru_count;
use crate::lru_peers::*;
use crate::lru_speed::processor_time;
use crate::lru_work::{Numbers, mix};

struct Memory {
    filled: f64,
    churned: f64,
    peak: f64,
    /// Allocations during the churn.
    calls: usize,
}

fn measure<P: Peer<Numbers>>(capacity: usize) -> Memory {
    let before = lru_count::bytes();
    let _ = lru_count::peak();
    let mut peer = P::new(capacity);
    let per_entry = |bytes: usize| (bytes - before) as f64 / capacity as f64;
    for i in 0..capacity as u64 {
        peer.insert(mix(i), i);
    }
    let filled = per_entry(lru_count::bytes());
    let calls = lru_count::calls();
    for i in capacity as u64..4 * capacity as u64 {
        peer.insert(mix(i), i);
    }
    let calls = lru_count::calls() - calls;
    let churned = per_entry(lru_count::bytes());
    let peak = per_entry(lru_count::peak());
    Memory { filled, churned, peak, calls }
}

fn row<P: Peer<Numbers>>(capacities: &[usize]) -> Vec<Memory> {
    let measured: Vec<_> = capacities.iter().map(|capacity| measure::<P>(*capacity)).collect();
    let cells: Vec<_> = measured
        .iter()
        .map(|m| format!("{:.1} -> {:.1} ({:.1}) {}", m.filled, m.churned, m.peak, m.calls))
        .collect();
    println!("{:>20} | {}", P::NAME, cells.join(" | "));
    measured
}

/// Returns whether our own figures are as promised.
pub fn memory() -> bool {
    let capacities = [1000, 50_000, 100_000, 114_000, 120_000, 1_000_000];
    println!(
        "\nu64 -> u64: bytes per entry when filled -> after a churn of 3 times the capacity (peak), allocations of the churn"
    );
    println!("{:>20} | {capacities:?}", "");
    let ours = row::<Ours<u64>>(&capacities);
    row::<Schnellru<u64>>(&capacities);
    row::<Hashlink<u64>>(&capacities);
    row::<LruRs<u64>>(&capacities);
    row::<Clru<u64>>(&capacities);
    if std::env::var_os("LRU_STRICT").is_none() {
        row::<QuickUnsync<u64>>(&capacities);
        row::<Moka<u64>>(&capacities);
    }
    row::<OursWeighted<u64>>(&capacities);
    row::<OursExpirable<u64>>(&capacities);
    row::<OursTwoQueue<u64>>(&capacities);
    row::<OursAdaptive<u64>>(&capacities);
    let kept = ours.iter().all(|m| m.peak <= 33.0 && m.calls == 0);
    println!("at most 33 bytes at its peak, and no allocation once full: {kept}");
    kept
}

/// The slowest single insert while a cache is filled and then full, in microseconds: the least of several
/// runs, and of all inserts the one whose own least time over the runs is the longest. The second is what
/// the cache does at that insert; the first also has what the machine did in every run, such as interrupts.
fn slowest<P: Peer<Numbers>>(capacity: usize) -> (f64, f64) {
    let mut least = f64::MAX;
    let mut each = vec![f32::MAX; capacity + capacity / 2];
    for _ in 0..5 {
        let mut peer = P::new(capacity);
        let mut worst = 0.0_f64;
        for (i, each) in each.iter_mut().enumerate() {
            let before = processor_time();
            peer.insert(mix(i as u64), i as u64);
            let taken = (processor_time() - before) / 1000.0;
            // The first one allocates for all.
            if i > 0 {
                worst = worst.max(taken);
            }
            *each = each.min(taken as f32);
        }
        least = least.min(worst);
    }
    (least, each[1..].iter().copied().fold(0.0, f32::max).into())
}

fn tail_row<P: Peer<Numbers>>() {
    let (run, insert) = slowest::<P>(1_000_000);
    println!("{:>20} | {run:.0} | {insert:.0}", P::NAME);
}

pub fn tail() {
    println!(
        "\nslowest single insert at 1M entries, microseconds of processor time: of the best of 5 runs | of the insert that is slow in all of them"
    );
    tail_row::<Ours<u64>>();
    tail_row::<OursExpirable<u64>>();
    tail_row::<OursTwoQueue<u64>>();
    tail_row::<OursAdaptive<u64>>();
    tail_row::<Schnellru<u64>>();
    tail_row::<Hashlink<u64>>();
    tail_row::<LruRs<u64>>();
    tail_row::<QuickUnsync<u64>>();
}
