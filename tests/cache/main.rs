//! The response cache, seen from outside: requests go in, responses and calls of the handler are counted.
// Tables say more than names for their types.
#![allow(clippy::type_complexity, clippy::unwrap_used)]

mod bad_input;
mod body;
mod collapse;
mod control;
mod defects;
mod expiry;
mod gaps;
mod options;
mod parts;
mod rules;
mod semantics;
mod support;
mod variants;
