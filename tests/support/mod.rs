//! What the tests and the comparison benches share: an app, a load client that forgives nothing, and
//! server processes that can be started, signalled and looked into.
//!
//! - [`app`]: the handlers that every server under test serves.
//! - [`http`]: requests and responses by hand.
//! - [`load`]: clients of many kinds at once; every request is accounted for, none is sent twice.
//! - [`process`]: a server as a child process: its lines, signals, exit.
//! - [`procfs`]: what the kernel says about a process (Linux only).
#![allow(dead_code, unused_imports, reason = "each program uses the part that it needs")]

pub(crate) mod app;
pub(crate) mod http;
pub(crate) mod load;
pub(crate) mod pattern;
pub(crate) mod process;
#[cfg(target_os = "linux")]
pub(crate) mod procfs;
#[cfg(unix)]
pub(crate) mod server;
