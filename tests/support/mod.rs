//! What the tests and the comparison benches share: an app, a load client that forgives nothing, and
//! server processes that can be started, signalled and looked into.
//!
//! - [`app`]: the handlers that every server under test serves.
//! - [`certificates`]: for TLS.
//! - [`http`]: requests and responses by hand.
//! - [`load`]: clients of many kinds at once; every request is accounted for, none is sent twice.
//! - [`notify`]: the service manager's end of `NOTIFY_SOCKET` (Linux only).
//! - [`process`]: a server as a child process: its lines, signals, exit.
//! - [`raw`]: HTTP/1 and HTTP/2 written byte by byte.
//! - [`procfs`]: what the kernel says about a process (Linux only).
#![allow(dead_code, unused_imports, reason = "each program uses the part that it needs")]

use std::io::Write;

pub(crate) mod app;
pub(crate) mod certificates;
pub(crate) mod http;
pub(crate) mod load;
#[cfg(all(target_os = "linux", feature = "serve"))]
pub(crate) mod notify;
pub(crate) mod pattern;
pub(crate) mod process;
#[cfg(target_os = "linux")]
pub(crate) mod procfs;
pub(crate) mod raw;
#[cfg(all(unix, feature = "serve"))]
pub(crate) mod server;

/// Waits until something holds that nobody tells of: the kernel's view of processes and files.
///
/// # Panics
///
/// After a minute.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let since = std::time::Instant::now();
    while !holds() {
        assert!(since.elapsed() < std::time::Duration::from_secs(60), "waited a minute for {what}");
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
}

/// Says aloud that a test could not run here. A failure where everything must run (`.ci/run`).
pub(crate) fn skip(why: &str) {
    assert!(std::env::var_os("GRACEFUL_REQUIRE_ALL").is_none(), "must not be skipped: {why}");
    // Not by `eprintln!`, which the test harness shows only of tests that fail.
    let _ = writeln!(std::io::stderr(), "SKIPPED: {why}");
}
