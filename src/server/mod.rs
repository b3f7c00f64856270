//! Doing: accepts connections, serves them with hyper, and ends them as the drain rules say.
//!
//! One [`accept`](accept::accept) loop per listener spawns one task per connection. A connection
//! peeks at its first bytes, is served as HTTP/1 or HTTP/2, and watches the [`Phase`] of the process:
//! when that turns to draining, it says goodbye with its next answer or, if none is due, when it has
//! been idle for long enough. `Context` is what they all share.

mod accept;
mod connection;
mod context;
mod frames;
mod handover;
mod io;
mod limits;
mod requests;
mod service;
mod serving;
mod whole;

pub(crate) use self::{
    accept::{Accepted, Accepting, App, HttpApp},
    context::{Context, HandOver, Phase},
    limits::Limits,
    requests::{CutRequest, Survey},
    serving::{Ending, Order, Serving},
};
