//! `graceful::serve`.
//!
//! `graceful_server ADDR` is a master and its worker; it reloads on SIGHUP. `graceful_server ADDR single` is
//! one process without a master. With `bare` as the last argument the headers that tell who answered are
//! left out.

#[path = "../../../tests/support/mod.rs"]
mod support;

use std::error::Error;
use std::sync::OnceLock;
use std::time::Duration;

/// Set when this worker is ready, so before its first answer.
static GENERATION: OnceLock<u64> = OnceLock::new();

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().collect();
    let addr = args.get(1).ok_or("ADDR is missing")?;
    let is = |word| args.iter().skip(2).any(|arg| arg == word);
    let app = match is("bare") {
        true => support::app::routes(),
        false => support::app::app(|| GENERATION.get().copied().unwrap_or(0)),
    };
    let mut server = graceful::serve(app)
        .bind(addr)
        // The peers have no trial either.
        .bake_time(Duration::ZERO)
        .on_ready(|started| {
            let generation = *GENERATION.get_or_init(|| started.generation);
            println!("ready {} {generation}", std::process::id());
        });
    if is("single") {
        server = server.single_process();
    }
    server.run()?;
    Ok(())
}
