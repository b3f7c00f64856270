//! Where connections come from: sockets inherited from a supervisor, and sockets bound here.
//!
//! [`Listeners`] recovers what `LISTEN_FDS` promises (sd_listen_fds(3)) and binds the rest;
//! a [`Listener`] accepts TCP or Unix connections and works with `axum::serve`, too.

mod address;
mod bind;
mod inherited;
mod stream;

#[cfg(feature = "admin")]
pub(crate) use self::bind::{bind_private, check_private};
pub use self::{
    address::Address,
    inherited::Listeners,
    stream::{Listener, Peer, Stream, UnixPeer},
};
pub(crate) use self::{
    bind::{Bound, SocketFile, bind},
    inherited::{Inherited, Socket, SocketAddress},
    stream::{AcceptError, EXHAUSTED_PAUSE},
};
