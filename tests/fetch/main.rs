//! A program that fetches its own next version: from every source, under load, and whatever it is given.
#![cfg(target_os = "linux")]

#[path = "../support/mod.rs"]
mod support;

mod bad_input;
mod build;
mod memory;
mod places;
mod program;
mod shelf;
mod sources;
mod story;

#[test]
#[ignore = "the server that the tests start"]
fn server() {
    program::serve();
}
