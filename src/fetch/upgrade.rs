use std::{fmt, future::Future, path::PathBuf, pin::Pin, sync::Arc, time::Duration};

use super::{
    fetcher::{Fetcher, Source},
    trust::Trust,
};
use crate::{BoxError, error::Error};

/// How a program watches for its own next version and moves to it: for
/// [`Serve::upgrade`](crate::Serve::upgrade).
///
/// Made from any [`Fetcher`]. See the [module](super) for what happens in which order.
#[must_use = "nothing is watched until a server is told to"]
pub struct Upgrade {
    pub(super) source: Source,
    pub(super) trust: Trust,
    pub(super) version: Option<String>,
    pub(super) allow_downgrade: bool,
    pub(super) interval: Option<Duration>,
    pub(super) min_interval: Duration,
    pub(super) max_size: u64,
    pub(super) time_limit: Duration,
    pub(super) check_limit: Duration,
    pub(super) check_environment: Vec<String>,
    pub(super) versions: Option<PathBuf>,
    pub(super) before: Vec<Hook>,
    pub(super) hook_limit: Duration,
    pub(super) auto_reload: bool,
    #[cfg(feature = "progress")]
    pub(super) progress_bar: bool,
}

type Hook = Arc<
    dyn Fn(Candidate) -> Pin<Box<dyn Future<Output = Result<(), BoxError>> + Send>> + Send + Sync,
>;

/// A binary that has passed every check and is about to be put in place.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Candidate {
    /// Where it is now.
    pub path: PathBuf,
    /// The SHA-256 of its content, in hexadecimal.
    pub sha256: String,
    /// What it says its version is.
    pub version: Option<String>,
}

impl<F: Fetcher> From<F> for Upgrade {
    fn from(fetcher: F) -> Self {
        Self {
            source: Source::new(fetcher),
            trust: Trust::default(),
            version: None,
            allow_downgrade: false,
            interval: Some(Duration::from_secs(300)),
            min_interval: Duration::from_secs(1),
            max_size: 512 << 20,
            time_limit: Duration::from_secs(600),
            check_limit: Duration::from_secs(30),
            check_environment: Vec::new(),
            versions: None,
            before: Vec::new(),
            hook_limit: Duration::from_secs(600),
            auto_reload: true,
            #[cfg(feature = "progress")]
            progress_bar: false,
        }
    }
}

impl Upgrade {
    /// Takes only what is signed with this minisign key: the second line of `minisign.pub`, or the
    /// whole file. With several, for a change of keys, any of them will do.
    ///
    /// The sources find the signature beside the binary, as `<name>.minisig`.
    pub fn minisign(mut self, public_key: impl Into<String>) -> Self {
        self.trust.key(public_key.into());
        self
    }

    /// Takes only the binary with this SHA-256, in hexadecimal.
    pub fn sha256(mut self, digest: impl Into<String>) -> Self {
        self.trust.digest(digest.into());
        self
    }

    /// Takes whatever the source yields. Whoever can write to the source, or to the network on the way
    /// to it, can then run any program here.
    pub fn allow_unverified(mut self) -> Self {
        self.trust.anything();
        self
    }

    /// The version of this program, such as `env!("CARGO_PKG_VERSION")`, in the form of
    /// [Semantic Versioning](https://semver.org). The new binary is asked for its own, and one that is
    /// older, or does not say it, is refused.
    ///
    /// Without it the order of versions is not known, and an old binary that was once signed could be
    /// served again by whoever controls the source: a server without it does not start, unless a digest
    /// is [pinned](Upgrade::sha256) or [downgrades are allowed](Upgrade::allow_downgrade).
    pub fn version(mut self, version: impl Into<String>) -> Self {
        self.version = Some(version.into());
        self
    }

    /// Takes an older version, too, and one that does not say its version. Default: refused.
    pub fn allow_downgrade(mut self) -> Self {
        self.allow_downgrade = true;
        self
    }

    /// How often to look, a tenth more or less; after a failure twice as long, then four times, up to
    /// an hour. `None` is only when asked to, by
    /// [`Handle::check_for_upgrade`](crate::Handle::check_for_upgrade) or on the admin socket.
    /// Default: 5 minutes.
    pub fn interval(mut self, interval: impl Into<Option<Duration>>) -> Self {
        self.interval = interval.into();
        self
    }

    /// The least time from one look to the next, whoever asks for it. Default: 1 s.
    pub fn min_interval(mut self, interval: Duration) -> Self {
        self.min_interval = interval;
        self
    }

    /// How many bytes a binary may have. Default: 512 MiB.
    pub fn max_size(mut self, bytes: u64) -> Self {
        self.max_size = bytes;
        self
    }

    /// How long it may take to ask the source and to download the binary. Default: 10 minutes.
    pub fn time_limit(mut self, limit: Duration) -> Self {
        self.time_limit = limit;
        self
    }

    /// How long the check run of a new binary may take. Default: 30 s.
    pub fn check_limit(mut self, limit: Duration) -> Self {
        self.check_limit = limit;
        self
    }

    /// Lets the check run see this environment variable: one without which the application cannot be
    /// built. It sees `HOME`, `LANG`, `PATH`, `TMPDIR`, `TZ` and what tells it where to listen, and no
    /// other.
    pub fn check_env(mut self, name: impl Into<String>) -> Self {
        self.check_environment.push(name.into());
        self
    }

    /// Keeps the binaries in this directory, and makes the path of the program, which must be a
    /// symbolic link, lead to them: for a program that lies where nobody may write. The one before is
    /// kept, older ones are removed.
    pub fn versions(mut self, directory: impl Into<PathBuf>) -> Self {
        self.versions = Some(directory.into());
        self
    }

    /// Runs `hook` with each binary that is about to be put in place; an error refuses it, and so do a
    /// panic and more than [this time](Upgrade::hook_limit). For a backup, a migration, a question to
    /// somebody else.
    pub fn pre_upgrade<F, Fut, E>(mut self, hook: F) -> Self
    where
        F: Fn(Candidate) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<BoxError>,
    {
        self.before.push(Arc::new(move |candidate| {
            let checked = hook(candidate);
            Box::pin(async move { checked.await.map_err(Into::into) })
        }));
        self
    }

    /// How long each of these hooks may take. Default: 10 minutes.
    pub fn hook_limit(mut self, limit: Duration) -> Self {
        self.hook_limit = limit;
        self
    }

    /// Whether the server reloads when a new binary is in place. If not, the next reload starts it, and
    /// its file stays there if it then fails. Default: on.
    pub fn auto_reload(mut self, on: bool) -> Self {
        self.auto_reload = on;
        self
    }

    /// Draws a progress bar while it downloads, if standard error is a terminal.
    #[cfg(feature = "progress")]
    #[cfg_attr(docsrs, doc(cfg(feature = "progress")))]
    pub fn progress_bar(mut self) -> Self {
        self.progress_bar = true;
        self
    }

    /// Makes sure that it can be done, before anything is started.
    pub(crate) fn check(&self) -> Result<(), Error> {
        self.trust.check()?;
        if self.version.is_none() && !self.allow_downgrade && self.trust.pinned().is_none() {
            return Err(Error::config(
                "cannot tell an upgrade from a downgrade without the version of this program: \
                 version(env!(\"CARGO_PKG_VERSION\")) says it, allow_downgrade() takes any",
            ));
        }
        if let Some(version) = &self.version {
            semver::Version::parse(version).map_err(|error| {
                Error::config(format!("{version:?} is no version of a program")).because(error)
            })?;
        }
        if self.interval.is_some_and(|interval| interval < self.min_interval) {
            return Err(Error::config(format!(
                "cannot look for an upgrade more often than every {:?}",
                self.min_interval
            )));
        }
        Ok(())
    }

    /// What the check run of this program answers.
    pub(crate) fn own_version(&self) -> Option<&str> {
        self.version.as_deref()
    }
}

impl fmt::Debug for Upgrade {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upgrade")
            .field("trust", &self.trust)
            .field("version", &self.version)
            .field("interval", &self.interval)
            .field("auto_reload", &self.auto_reload)
            .finish_non_exhaustive()
    }
}
