//! Hit ratios on real and made-up traces.

use std::io::Read;
use std::path::PathBuf;

use crate::lru_peers::*;
use crate::lru_work::{Numbers, Random, Zipf};

/// Capacity, and the hit ratios of LRU, 2Q and ARC in percent that exact ones have on a trace.
type Known = (usize, [f64; 3]);

const WEB07: [Known; 4] = [
    (500, [45.58, 48.18, 48.28]),
    (1000, [50.41, 52.98, 53.15]),
    (2500, [57.18, 59.18, 59.24]),
    (5000, [62.67, 64.14, 64.31]),
];
const WEB12: [Known; 4] = [
    (500, [55.78, 58.31, 58.50]),
    (1000, [64.73, 67.09, 67.49]),
    (2500, [74.80, 76.28, 76.52]),
    (5000, [80.70, 81.53, 81.89]),
];

fn ratio<P: Peer<Numbers>>(capacity: usize, trace: &[u64]) -> f64 {
    let mut peer = P::new(capacity);
    let mut hits = 0_usize;
    for (at, key) in trace.iter().enumerate() {
        match peer.get(key) {
            Some(_) => hits += 1,
            None => peer.insert(*key, 0),
        }
        if at % 16 == 0 {
            // moka does its work in `len`.
            let _ = peer.len();
        }
    }
    hits as f64 * 100.0 / trace.len() as f64
}

fn row(name: &str, capacity: usize, trace: &[u64]) -> [f64; 3] {
    let ours = [
        ratio::<Ours<u64>>(capacity, trace),
        ratio::<OursTwoQueue<u64>>(capacity, trace),
        ratio::<OursAdaptive<u64>>(capacity, trace),
    ];
    let quick = ratio::<QuickUnsync<u64>>(capacity, trace);
    let moka = ratio::<Moka<u64>>(capacity, trace);
    println!(
        "{name:>20} | {capacity:>6} | {:>5.2} | {:>5.2} | {:>5.2} | {quick:>5.2} | {moka:>5.2}",
        ours[0], ours[1], ours[2]
    );
    ours
}

fn read(name: &str) -> Option<Vec<u64>> {
    let folder = std::env::var_os("GRACEFUL_TRACES").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/traces"),
        PathBuf::from,
    );
    let mut bytes = Vec::new();
    let file = std::fs::File::open(folder.join(name)).ok()?;
    xz2::read::XzDecoder::new(file).read_to_end(&mut bytes).ok()?;
    let (keys, _) = bytes.as_chunks::<4>();
    Some(keys.iter().map(|key| u64::from(u32::from_be_bytes(*key))).collect())
}

/// Returns whether our own figures are those of exact LRU, 2Q and ARC.
pub fn hits() -> bool {
    println!("\nhits in percent");
    println!("{:>20} | {:>6} | LRU   | 2Q    | ARC   | quick | moka", "", "");
    let (mut kept, mut checked) = (true, 0);
    for (name, known) in [("web07", WEB07), ("web12", WEB12)] {
        let Some(trace) = read(&format!("{name}.trace.xz")) else {
            println!("SKIPPED: {name}.trace.xz is not there; GRACEFUL_TRACES names its folder");
            continue;
        };
        for (capacity, expected) in known {
            let ours = row(name, capacity, &trace);
            checked += 1;
            for (ours, expected) in ours.into_iter().zip(expected) {
                kept &= (ours - expected).abs() <= 0.0101;
            }
        }
    }
    let count = 400_000;
    let mut random = Random(5);
    for exponent in [0.8, 0.99] {
        let zipf = Zipf::new(100_000, exponent);
        let trace: Vec<_> = (0..count).map(|_| zipf.next(&mut random) as u64).collect();
        row(&format!("zipf {exponent}"), 1000, &trace);
        row(&format!("zipf {exponent}"), 10_000, &trace);
    }
    let zipf = Zipf::new(100_000, 0.9);
    let scan: Vec<_> =
        (0..count)
            .map(|at| {
                if at % 20_000 < 2000 { 1 << 32 | at as u64 } else { zipf.next(&mut random) as u64 }
            })
            .collect();
    row("zipf 0.9 and scans", 1000, &scan);
    let looped: Vec<_> = (0..count as u64).map(|at| at % 1200).collect();
    row("loop of 1200", 1000, &looped);
    let mixed: Vec<_> = (0..count as u64)
        .map(|at| {
            if at % 2 == 0 { (1 << 32) | (at / 2 % 12_000) } else { zipf.next(&mut random) as u64 }
        })
        .collect();
    row("zipf 0.9 and loop", 10_000, &mixed);
    println!("exact to 0.01 points in all of {checked} rows of the real traces: {kept}");
    kept
}
