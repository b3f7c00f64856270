//! Zero-downtime HTTP servers: axum and tower services that reload, stop and crash without losing a
//! request.
#![cfg_attr(docsrs, feature(doc_cfg))]
#![warn(clippy::exit, clippy::print_stderr, clippy::print_stdout)]

#[cfg(feature = "admin")]
mod admin;
#[cfg(feature = "cache")]
pub mod cache;
#[cfg(feature = "layer")]
pub mod drain;
#[cfg(feature = "serve")]
mod error;
#[cfg(feature = "serve")]
mod handle;
#[cfg(feature = "serve")]
pub mod listener;
#[cfg(feature = "lru")]
pub mod lru;
#[cfg(feature = "serve")]
mod orchestrator;
#[cfg(feature = "serve")]
mod process;
#[cfg(feature = "serve")]
mod serve;
#[cfg(feature = "serve")]
mod server;

#[cfg(feature = "tls")]
pub mod tls;
#[cfg(all(feature = "serve", not(feature = "tls")))]
#[path = "no_tls.rs"]
mod tls;

#[cfg(feature = "serve")]
pub(crate) use error::BoxError;

#[cfg(feature = "cache")]
#[doc(inline)]
pub use cache::LruCacheLayer;
#[cfg(feature = "layer")]
#[doc(inline)]
pub use drain::{Drain, DrainGuard, GracefulLayer};
#[cfg(feature = "serve")]
#[doc(inline)]
pub use {
    error::Error,
    handle::Handle,
    listener::Listeners,
    orchestrator::{Signal, Started},
    serve::{Apps, Built, One, Serve, Server, Several, serve, serve_with},
};
