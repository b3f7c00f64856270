//! Compares the lists with other crates: `lru speed`, `lru strings`, `lru policies`, `lru memory`, `lru tail`,
//! `lru threads`, `lru hits`, or `lru all`.
//!
//! `LRU_CAPACITIES=1k,100k` and `LRU_CELLS=hit,miss` choose rows, `LRU_STRICT=1` leaves out peers that are no LRU,
//! `LRU_ROUNDS` sets the rounds of which medians are taken. Memory and hits end in failure when ours are not as promised.

use std::process::ExitCode;

#[path = "../lru_count.rs"]
mod lru_count;
#[path = "../lru_hits.rs"]
mod lru_hits;
#[path = "../lru_memory.rs"]
mod lru_memory;
#[path = "../lru_peers.rs"]
mod lru_peers;
#[path = "../lru_speed.rs"]
mod lru_speed;
#[path = "../lru_threads.rs"]
mod lru_threads;
#[path = "../lru_work.rs"]
mod lru_work;

#[global_allocator]
static COUNTED: lru_count::Counted = lru_count::Counted;

fn main() -> ExitCode {
    let parts: Vec<String> = std::env::args().skip(1).collect();
    let wanted = |part: &str| parts.iter().any(|p| p == part || p == "all");
    let mut kept = true;
    if wanted("memory") {
        kept &= lru_memory::memory();
    }
    if wanted("hits") {
        kept &= lru_hits::hits();
    }
    if wanted("tail") {
        lru_memory::tail();
    }
    if wanted("threads") {
        lru_threads::threads();
    }
    if wanted("policies") {
        lru_speed::policies();
    }
    if wanted("strings") {
        lru_speed::strings();
    }
    if wanted("speed") {
        lru_speed::numbers();
    }
    if kept { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
