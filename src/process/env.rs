//! Environment variables that are meant for this process only.

use std::{env, ffi::OsString};

/// Reads a variable and removes it, so that no child of this process ever sees it.
pub(crate) fn take(name: &str) -> Option<OsString> {
    let value = env::var_os(name)?;
    // SAFETY: other threads of this program that use `std::env` are kept out by its lock. Code in C
    // that reads the environment at this moment may miss a variable but meets no freed memory: glibc,
    // musl and macOS move pointers inside the array and free no string that the process was started
    // with. A program that wants no such moment calls `run()` from a plain `fn main()`.
    unsafe { env::remove_var(name) };
    Some(value)
}
