//! What the server knows of TLS when the feature is off: that there is none.

use std::{
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use crate::{error::Error, listener::Stream};

#[derive(Clone, Debug)]
pub(crate) enum TlsConfig {}

#[derive(Clone, Debug)]
pub(crate) enum Acceptor {}

#[derive(Debug)]
pub(crate) enum Handshake {}

impl TlsConfig {
    pub(crate) fn load(&self) -> Result<Acceptor, Error> {
        match *self {}
    }
}

impl Acceptor {
    pub(crate) fn start(&self, _: Stream) -> Handshake {
        match *self {}
    }

    pub(crate) fn timeout(&self) -> Duration {
        match *self {}
    }
}

impl Handshake {
    pub(crate) fn has_begun(&self) -> bool {
        match *self {}
    }
}

impl Future for Handshake {
    type Output = io::Result<(Stream, bool)>;

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Self::Output> {
        match *self {}
    }
}
