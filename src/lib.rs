//! Zero-downtime HTTP servers: axum and tower services that reload, stop and crash without losing a
//! request.
//!
//! [`serve`] turns an axum `Router`, or any tower HTTP service, into a master that keeps the PID and
//! the listening sockets, and a worker that serves. `SIGHUP` starts the next worker from the binary
//! that is in place by then; it takes over the sockets and the idle connections, and a bad one is
//! rolled back. `SIGTERM` ends all when the requests in flight have ended.
//!
#![cfg_attr(feature = "serve", doc = "```no_run")]
#![cfg_attr(not(feature = "serve"), doc = "```ignore")]
//! use axum::{Router, routing::get};
//! use graceful::GracefulLayer;
//!
//! #[tokio::main]
//! async fn main() -> Result<(), graceful::Error> {
//!     let app = Router::new().route("/", get(|| async { "hello" })).layer(GracefulLayer::new());
//!     graceful::serve(app).bind("127.0.0.1:8080").await
//! }
//! ```
//!
//! In one process, for tests for example, it runs like this:
//!
#![cfg_attr(feature = "serve", doc = "```")]
#![cfg_attr(not(feature = "serve"), doc = "```ignore")]
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), graceful::Error> {
//! use axum::{Router, routing::get};
//!
//! let app = Router::new().route("/", get(|| async { "hello" }));
//! let server = graceful::serve(app).bind("127.0.0.1:0").single_process();
//! let handle = server.handle();
//! let running = tokio::spawn(async { server.await });
//! handle.stop();
//! running.await.expect("it does not panic")?;
//! # Ok(())
//! # }
//! ```
//!
//! # Features
//!
//! | feature | brings |
//! | --- | --- |
//! | `serve` (default) | [`serve`], [`serve_with`], [`Server`], [`Handle`], [`Listeners`] |
//! | `cache` (default) | `LruCacheLayer`: an HTTP response cache for any tower stack |
//! | `layer` | [`GracefulLayer`] and [`Drain`], for any tower stack on any platform |
//! | `lru` | `lru`: the lists, with no runtime |
//! | `serde` | the lists as data |
//! | `tls` | rustls, HTTP/2 by ALPN |
//! | `admin` | the master's control socket |
//! | `fetch` | `fetch`: the program watches for its own next version and moves to it |
//! | `object-store` | the same from S3, GCS and Azure |
//! | `progress` | a progress bar while it fetches |
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
#[cfg(feature = "fetch")]
pub mod fetch;
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
