//! A shared HTTP cache as a tower layer: RFC 9111 and its family, inside the origin.
//!
//! ```
//! # #[cfg(feature = "serve")] {
//! use axum::{Router, routing::get};
//! use graceful::cache::LruCacheLayer;
//!
//! let app: Router = Router::new()
//!     .route("/", get(|| async { ([("cache-control", "max-age=60")], "hello") }))
//!     .layer(LruCacheLayer::new(10_000));
//! # }
//! ```
//!
//! A request goes one of these ways:
//!
//! - **Hit.** A fresh stored response of the same key and variant answers at once: its head with `Age` and
//!   `Cache-Status`, its body as it lies in the store. The handler is not asked, whether it is ready or not.
//! - **Stale.** The handler is asked whether the stored response is still good (`If-None-Match`,
//!   `If-Modified-Since`). Or the stored response answers and that happens in the background, where it
//!   permits so (`stale-while-revalidate`).
//! - **Miss.** One call of the handler for all who ask at the same time. Its body streams to all of them
//!   while it is recorded, and it goes on when they leave.
//! - **Pass.** What may not be stored goes through untouched and is never buffered: the first byte of an
//!   event stream, trailers and length are as they would be without the layer. Those who waited are let go
//!   at once, and for a short time nobody waits for this key.
//!
//! **Two profiles.** By default the layer is safe inside an app: it stores only what the handler says may be
//! kept for how long, never with `Set-Cookie`, and a client cannot defeat it with `Cache-Control: no-cache`.
//! [`LruCacheLayer::rfc9111`] is what a proxy wants: all of RFC 9111, with heuristics and request
//! directives. Each difference is an option of its own, too.
//!
//! **Where to put it.** As a layer of a `Router` it runs once per route, after routing. Around the whole
//! `Router` (`LruCacheLayer::new(10_000).layer(router)`) a hit skips routing, and costs less than a handler
//! that has nothing to do.
//! It belongs outside of compression (or one variant is stored per encoding) and inside of what is
//! different for each client, such as authentication that is not in the request's `Authorization`. Inside a
//! nested router it reads axum's `OriginalUri` (with the feature `serve`); on other stacks,
//! [`LruCacheLayer::original_uri`] says where the URI is.
//!
//! **What it does not do.** Parts are kept of responses that have no variants, and in the default profile they
//! are combined only when they happen to make a whole ([`LruCacheLayer::complete_parts`]). Several ranges of a
//! response that is still being recorded, or that has a content coding, get everything. Interim responses
//! (1xx) do not pass, because a tower service has one response.
//!
//! **What it needs.** A tokio runtime with its timer enabled: fills and refreshes are tasks of their own.
//! When the server puts a `Drain` into the requests' extensions they count as in flight, so a stop waits
//! for them.

mod answer;
mod asked;
mod body;
mod clock;
mod coalesce;
mod epoch;
mod event;
mod fetch;
mod fields;
mod fill;
mod future;
mod handle;
mod key;
mod layer;
mod made;
mod multipart;
mod options;
mod outcome;
mod partial;
mod parts;
mod policy;
mod record;
mod rest;
mod service;
mod shape;
mod stamp;
mod state;
mod store;
mod stored;
mod tape;
mod variants;
mod write;

pub use self::body::ResponseBody;
pub use self::event::{CacheEvent, CacheStats};
pub use self::future::ResponseFuture;
pub use self::handle::CacheHandle;
pub use self::key::CacheKey;
pub use self::layer::LruCacheLayer;
pub use self::outcome::CacheOutcome;
pub use self::policy::rules::SetCookie;
pub use self::service::LruCache;

/// An error of a body.
pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;
