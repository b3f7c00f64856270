//! Counts what is in flight, tells it when to end, and waits until it has.
//!
//! A [`Drain`] hands out one [`DrainGuard`] for each piece of work. [`Drain::start`] tells everybody
//! who asks that the end is near; [`Drain::drained`] completes when the last guard is gone.
//!
//! [`GracefulLayer`] does this for HTTP requests on any tower stack: a request is in flight from the
//! call until its response body has ended, failed or was dropped. Under `graceful::serve` the server
//! counts by itself and the layer only adds its refusals, so that no request is counted twice.

mod body;
mod future;
mod layer;
mod service;
mod tracker;

pub use self::{
    body::ResponseBody,
    future::ResponseFuture,
    layer::{GracefulLayer, InFlightEvent},
    service::{Graceful, InFlight},
    tracker::{Drain, DrainGuard},
};

#[cfg(test)]
mod tests;
