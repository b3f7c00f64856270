//! docs later
#![allow(missing_docs)]
mod bar;
mod download;
mod failure;
mod fetcher;
mod format;
mod pipeline;
mod schedule;
mod source;
mod target;
mod trust;
mod upgrade;
mod watcher;

#[cfg(feature = "object-store")]
pub use self::source::ObjectStore;
pub(crate) use self::watcher::Watcher;
pub use self::{
    fetcher::{Fetcher, FromFn, Query, Release, from_fn},
    source::{File, GitHubRelease, Http},
    upgrade::{Candidate, Upgrade},
};
