//! Zero-downtime HTTP servers: axum and tower services that reload, stop and crash without losing a
//! request.
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(feature = "layer")]
pub mod drain;

#[cfg(feature = "layer")]
#[doc(inline)]
pub use drain::{Drain, DrainGuard, GracefulLayer};
