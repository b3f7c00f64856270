//! Zero-downtime HTTP servers: axum and tower services that reload, stop and crash without losing a
//! request.
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(feature = "cache")]
pub mod cache;
#[cfg(feature = "layer")]
pub mod drain;
#[cfg(feature = "serve")]
mod error;
#[cfg(feature = "serve")]
pub mod listener;
#[cfg(feature = "lru")]
pub mod lru;
#[cfg(feature = "serve")]
mod orchestrator;
#[cfg(feature = "serve")]
mod process;

#[cfg(feature = "layer")]
#[doc(inline)]
pub use drain::{Drain, DrainGuard, GracefulLayer};
#[cfg(feature = "serve")]
pub use error::Error;
#[cfg(feature = "serve")]
#[doc(inline)]
pub use listener::Listeners;
