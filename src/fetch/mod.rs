//! A program that watches for its own next version and moves to it.
//!
//! The master looks for a new binary where a [`Fetcher`] says, makes sure of what it is, puts it in place
//! of its own file and reloads. The new worker is on trial as after any reload; if it fails, the old one
//! goes on and the file is put back. It is the master that does all this, so that it is done once, and
//! so that a worker that keeps crashing can still be repaired.
//!
//! ```no_run
//! use axum::{Router, routing::get};
//! use graceful::fetch::{GitHubRelease, Upgrade};
//!
//! fn main() -> Result<(), graceful::Error> {
//!     let app = Router::new().route("/", get(|| async { "hello" }));
//!     let upgrade = Upgrade::from(GitHubRelease::new("owner", "app")?)
//!         .minisign("RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3")
//!         .version(env!("CARGO_PKG_VERSION"));
//!     graceful::serve(app).upgrade(upgrade).run()
//! }
//! ```
//!
//! # What happens, in this order
//!
//! Each step can fail for a reason of its own; then nothing stays behind and the server goes on untouched.
//!
//! 1. The source is asked, at best under the condition that it has something else than before.
//! 2. The file of the program is locked: of several servers that run from one file, one upgrades it.
//! 3. The binary is written to a new file beside the program, `.app.new`, at most
//!    [so large](Upgrade::max_size) and [so slow](Upgrade::time_limit). From its first bytes on: is it a
//!    program for this machine?
//! 4. Its minisign signature or its SHA-256 is verified, as it is written.
//! 5. One that has failed before is refused, by the digest of its content. What was refused in step 4 or
//!    6 is neither downloaded nor run again as long as the source says the same of it, unless somebody
//!    asks for a look.
//! 6. It is run with `GRACEFUL_CHECK=1`, a [time limit](Upgrade::check_limit) and next to
//!    [no environment](Upgrade::check_env): it must be built on this crate, build its application, and
//!    say a version that is [not older](Upgrade::version).
//! 7. The [`pre_upgrade`](Upgrade::pre_upgrade) hooks may refuse it.
//! 8. It takes the place of the program in one step; the previous one stays as `app.previous`.
//! 9. The server reloads. If the new worker fails its trial, the previous file gets its place back and
//!    the digest is noted in `app.refused`: this binary is never tried again, unless somebody removes
//!    its line there. At a stop during the trial the file is put back as well.
//!
//! With [`versions`](Upgrade::versions) a symbolic link is switched instead, for programs that lie where
//! nobody may write.
//!
//! # Whom it trusts
//!
//! The holder of the secret minisign key, and nobody else: not the server, not the network, not the
//! store. Sign with `minisign -S -m app` and publish the signature, `app.minisig`, before the binary. A
//! key should sign one program only, as the signature does not say which program it is for. Against
//! somebody who hides new releases nothing here helps. Without a key and without a digest a server does
//! not start, unless [`allow_unverified`](Upgrade::allow_unverified) says in so many words that the source
//! is trusted; nor does it without its own [`version`](Upgrade::version), as any old release could be
//! served again, unless [`allow_downgrade`](Upgrade::allow_downgrade) says that this is wanted.
//!
//! # When it looks
//!
//! Each [`interval`](Upgrade::interval), a tenth more or less; after failures twice as long, four times,
//! up to an hour. A panic in a fetcher or hook of yours is such a failure. And when it is told to: by
//! [`Handle::check_for_upgrade`](crate::Handle::check_for_upgrade), or by `POST /upgrade?wait` on the
//! admin socket, where `/status` and `/metrics` show how it goes.
//!
//! # What to know
//!
//! - A server that is killed during the trial, or that the machine takes down with it, goes back to the
//!   previous binary when it starts again: `app.trial` says so. But it is the new binary that starts
//!   then; if it does not even get as far as this crate, only `mv app.previous app` helps.
//! - A new file has the owner and the permissions of the old one, but not its capabilities
//!   (`setcap`): the master holds the sockets, and it is restarted with the machine.
//! - While a download is under way the master does not [become](crate::Serve::upgrade_master) another
//!   program; it does so right after.
//! - In a [single process](crate::Serve::single_process) nobody looks.

mod bar;
mod download;
mod failure;
mod fetcher;
mod files;
mod format;
mod pipeline;
mod schedule;
mod source;
mod target;
mod trust;
mod upgrade;
mod watcher;

#[cfg(feature = "object-store")]
#[cfg_attr(docsrs, doc(cfg(feature = "object-store")))]
pub use self::source::ObjectStore;
pub(crate) use self::watcher::Watcher;
pub use self::{
    fetcher::{Fetcher, FromFn, Query, Release, from_fn},
    source::{File, GitHubRelease, Http},
    upgrade::{Candidate, Upgrade},
};
