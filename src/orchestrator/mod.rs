//! Deciding: the master and its workers.

pub(crate) mod state;
