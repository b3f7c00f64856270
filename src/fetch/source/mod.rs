//! Where binaries come from: files, HTTP servers, GitHub and object stores.

mod client;
mod file;
mod github;
mod http;
#[cfg(feature = "object-store")]
mod object_store;
mod transfer;

#[cfg(feature = "object-store")]
pub use self::object_store::ObjectStore;
pub use self::{file::File, github::GitHubRelease, http::Http};
