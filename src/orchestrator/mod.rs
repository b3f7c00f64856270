//! Deciding: the master, its workers, and the process that is neither.
//!
//! The [`master`] keeps the listening sockets and starts workers; [`state`] decides what happens to
//! each, and does nothing else. A [`worker`] asks for its sockets, serves, and leaves when told to.
//! They talk over a wire ([`message`]). A [`single`] process is a worker without a master.
//!
//! What the world outside may know goes through the [`report`]: to [`systemd`], into the PID file, and
//! onto the board of [`status`] that the admin socket shows.

mod attend;
mod errands;
mod grants;
mod health;
mod hooks;
mod launch;
mod link;
pub(crate) mod master;
mod message;
mod options;
mod orders;
mod pid_file;
mod preflight;
#[cfg(feature = "tls")]
mod probe;
mod provider;
mod report;
mod signal;
pub(crate) mod single;
mod sockets;
mod state;
mod status;
mod store;
mod systemd;
mod takeover;
mod upgrade;
#[cfg(feature = "fetch")]
mod upgrade_status;
pub(crate) mod worker;

#[cfg(any(feature = "admin", feature = "fetch"))]
pub(crate) use self::status::Board;
#[cfg(all(feature = "admin", feature = "fetch"))]
pub(crate) use self::upgrade_status::UpgradeStatus;
pub(crate) use self::{
    health::check as health_check,
    options::Options,
    preflight::{Answer, is_asked},
    provider::{Binding, Place, default_addresses},
};
#[cfg(feature = "fetch")]
pub(crate) use self::{
    launch::Known,
    preflight::{CANNOT_RUN, ask},
    state::STOPPING,
    status::Outcome,
    upgrade_status::{Checked, Refused, Step, Verdict, blames_the_binary},
};
pub use self::{options::Started, signal::Signal};
#[cfg(feature = "admin")]
pub(crate) use self::{
    status::{Cut, OldRequest, Status},
    takeover::AdminSocket,
};
