//! Deciding: the master, its workers, and the process that is neither.
//!
//! The [`master`] keeps the listening sockets and starts workers; [`state`] decides what happens to
//! each, and does nothing else. A [`worker`] asks for its sockets, serves, and leaves when told to.
//! They talk over a wire ([`message`]). A [`single`] process is a worker without a master.

mod link;
pub(crate) mod master;
mod message;
mod options;
mod provider;
mod signal;
pub(crate) mod single;
mod sockets;
mod state;
pub(crate) mod worker;

pub(crate) use self::{
    options::Options,
    provider::{Binding, Place, default_addresses},
    signal::check,
};
pub use self::{options::Started, signal::Signal};
