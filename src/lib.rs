//! Zero-downtime HTTP servers: axum and tower services that reload, stop and crash without losing a
//! request.
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(feature = "lru")]
pub mod lru;
