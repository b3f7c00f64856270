//! The door to the operating system: programs are started, descriptors passed and children reaped
//! here, and nowhere else. All unsafe code of the server is in this room.
#![allow(unsafe_code)]

pub(crate) mod child;
pub(crate) mod env;
pub(crate) mod exec;
pub(crate) mod fd;
pub(crate) mod image;
mod invocation;
pub(crate) mod place;
pub(crate) mod reap;
#[cfg(target_os = "linux")]
pub(crate) mod threads;
pub(crate) mod wire;
