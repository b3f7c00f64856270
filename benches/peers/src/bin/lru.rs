//! Compares the lists with other crates: `lru speed`, `lru strings`, `lru policies`, `lru memory`, `lru tail`,
//! `lru threads`, `lru hits`, or `lru all`.

#[path = "../lru_count.rs"]
mod lru_count;
#[path = "../lru_peers.rs"]
mod lru_peers;
#[path = "../lru_speed.rs"]
mod lru_speed;
#[path = "../lru_work.rs"]
mod lru_work;

#[global_allocator]
static COUNTED: lru_count::Counted = lru_count::Counted;

fn main() {
    let parts: Vec<String> = std::env::args().skip(1).collect();
    let wanted = |part: &str| parts.is_empty() || parts.iter().any(|p| p == part || p == "all");
    if wanted("speed") {
        lru_speed::numbers();
    }
    if wanted("strings") {
        lru_speed::strings();
    }
    if wanted("policies") {
        lru_speed::policies();
    }
}
