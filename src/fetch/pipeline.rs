//! From a release to a worker that runs it, step by step.

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
    sync::Arc,
};

use semver::Version;
use tokio::time::{Instant, timeout, timeout_at};

use super::{
    bar::Bar,
    download::{Expected, download, find},
    failure::Failure,
    fetcher::{Query, Release},
    files::Temporary,
    format,
    target::{Previous, Target},
    trust::Seal,
    upgrade::{Candidate, Upgrade},
};
use crate::{
    handle::Handle,
    orchestrator::{Board, Known, Step, Verdict, ask, blames_the_binary},
    process::{exec::Program, image::Image},
};

/// One look for the next version, and the move to it.
#[derive(Clone, Debug)]
pub(super) struct Pipeline {
    pub(super) upgrade: Arc<Upgrade>,
    pub(super) program: Program,
    pub(super) handle: Handle,
    pub(super) board: Board,
}

/// What is found out of a release on the way.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// By what its source knows it.
    pub(super) tag: Option<String>,
    /// By what it is known here before it is downloaded.
    pub(super) release: Option<String>,
    /// The digest of its content.
    pub(super) sha256: Option<String>,
}

/// What there is to do when all checks have passed.
#[derive(Debug)]
pub(super) enum Prepared {
    Nothing,
    /// Somebody else has put it in place already.
    InPlace {
        target: Target,
        digest: String,
        version: Option<String>,
    },
    New(Box<New>),
}

#[derive(Debug)]
pub(super) struct New {
    target: Target,
    file: Temporary,
    digest: String,
    version: Option<String>,
}

impl Pipeline {
    /// To be called when the server starts, before any worker does: if a server was killed while the
    /// binary in place was on trial, the workers run the one before it.
    pub(super) fn recover(&self) {
        let path = self.program.path();
        let recovered = Target::lock(path, self.upgrade.versions.as_deref())
            .and_then(|target| target.recover());
        match recovered {
            Ok(false) => {}
            Ok(true) => tracing::warn!("went back to the binary before one that was on trial"),
            // Another server is in the middle of it; or nothing can be put in place here anyway.
            Err(failure) => tracing::debug!(%failure, "no trial to go back from"),
        }
    }

    /// Everything up to the moment at which the file of the program is touched. May be dropped at any
    /// time, and then leaves nothing behind. Looks only once at what is refused, unless it is told to
    /// look `again`.
    pub(super) async fn prepare(
        &self,
        found: &mut Found,
        again: bool,
    ) -> Result<Prepared, Failure> {
        if let Some(pinned) = self.upgrade.trust.pinned()
            && digest(self.program.path()).await.is_ok_and(|present| present == pinned)
        {
            return Ok(Prepared::Nothing);
        }
        let deadline = Instant::now() + self.upgrade.time_limit;
        let Some(release) = self.ask_source(deadline).await? else { return Ok(Prepared::Nothing) };
        let refused = self.board.upgrade_status().and_then(|status| status.refused);
        let refused = refused.filter(|_| !again);
        (found.tag, found.release) = (release.tag.clone(), release.name());
        let (path, versions) = (self.program.path().to_owned(), self.upgrade.versions.clone());
        let target = blocking(move || Target::lock(&path, versions.as_deref())).await??;
        let trust = &self.upgrade.trust;
        let seal = trust.seal(release.signature.as_deref(), release.sha256.as_deref())?;
        let (seal, in_place) = find_in_place(&target, seal).await?;
        let (file, digest) = match in_place {
            // After a restart of the server it would be fetched only to be found the same.
            Some(digest) => (None, digest),
            None => {
                if let Some(refused) = &refused
                    && found.release.is_some()
                    && found.release == refused.release
                {
                    return Err(Failure::Refused { why: refused.why.clone() });
                }
                let (file, digest) = self.receive(&target, release, seal, deadline).await?;
                (Some(file), digest)
            }
        };
        found.sha256 = Some(digest.clone());
        let place = self.compare(&target, &digest).await?;
        if let Some(refused) = refused
            && !matches!(place, Place::Served)
            && found.sha256 == refused.sha256
        {
            return Err(Failure::Refused { why: refused.why });
        }
        match (place, file) {
            (Place::Served, _) => Ok(Prepared::Nothing),
            (Place::Waiting, _) => {
                let version = self.check(target.path()).await?;
                Ok(Prepared::InPlace { target, digest, version })
            }
            (Place::Elsewhere, Some(file)) => {
                target.dress(&file)?;
                let version = self.check(file.path()).await?;
                self.ask_user(&file, &digest, &version).await?;
                Ok(Prepared::New(Box::new(New { target, file, digest, version })))
            }
            // It was there a moment ago.
            (Place::Elsewhere, None) => Err(Failure::Busy(target.path().to_owned())),
        }
    }

    /// Puts it in place and moves to it; on a failure puts back what was there. Not to be dropped.
    pub(super) async fn take(&self, prepared: Prepared) -> Result<Verdict, Failure> {
        match prepared {
            Prepared::Nothing => Ok(Verdict::Unchanged),
            Prepared::InPlace { target, digest, version } => {
                if !self.upgrade.auto_reload {
                    return Ok(Verdict::Installed { sha256: digest, version });
                }
                let generation = self.reload(target, None, digest.clone()).await?;
                Ok(Verdict::Upgraded { generation, sha256: digest, version })
            }
            Prepared::New(new) => self.install(*new).await,
        }
    }

    async fn install(&self, new: New) -> Result<Verdict, Failure> {
        self.board.upgrade(|status| status.step = Step::Installing);
        let New { mut target, file, digest, version } = new;
        let (sha256, name) = (digest.clone(), digest.clone());
        let trial = self.upgrade.auto_reload;
        let (target, previous) = blocking(move || {
            let previous = target.install(file, &name, trial)?;
            Ok::<_, Failure>((target, previous))
        })
        .await??;
        self.board.upgrade(|status| {
            status.installed = Some(digest.clone());
            status.version.clone_from(&version);
        });
        tracing::info!(sha256, version, path = %target.path().display(), "a new binary is in place");
        if !self.upgrade.auto_reload {
            return Ok(Verdict::Installed { sha256, version });
        }
        match self.reload(target, Some(previous), digest).await {
            Ok(generation) => Ok(Verdict::Upgraded { generation, sha256, version }),
            Err(failure) => {
                self.board.upgrade(|status| (status.installed, status.version) = (None, None));
                Err(failure)
            }
        }
    }

    async fn ask_source(&self, deadline: Instant) -> Result<Option<Release>, Failure> {
        self.board.upgrade(|status| status.step = Step::Asking);
        let query = Query {
            seen: self.board.upgrade_status().and_then(|status| status.seen),
            signature: self.upgrade.trust.wants_signature(),
        };
        let fetched = timeout_at(deadline, self.upgrade.source.fetch(query)).await;
        fetched.map_err(|_| self.too_slow())?.map_err(Failure::Source)
    }

    /// Downloads it beside the program, and verifies it.
    async fn receive(
        &self,
        target: &Target,
        release: Release,
        seal: Seal,
        deadline: Instant,
    ) -> Result<(Temporary, String), Failure> {
        self.board.upgrade(|status| {
            (status.step, status.received, status.length) = (Step::Fetching, 0, release.length);
        });
        tracing::info!(length = release.length, tag = release.tag, "fetching a new binary");
        let Release { content, length, .. } = release;
        let present = head(target.path())?;
        let (temporary, file) = target.create()?;
        let bar = Bar::new(&self.upgrade, length);
        let progress = |received| {
            self.board.upgrade(|status| status.received = received);
            bar.set(received);
        };
        let expected = Expected { length, limit: self.upgrade.max_size, present: &present };
        let downloaded = timeout_at(deadline, download(content, file, seal, expected, progress));
        let digest = downloaded.await.map_err(|_| self.too_slow())??;
        Ok((temporary, digest))
    }

    fn too_slow(&self) -> Failure {
        Failure::TooSlow { limit: self.upgrade.time_limit }
    }

    /// Where it is already; an error if it has failed before.
    async fn compare(&self, target: &Target, digest: &str) -> Result<Place, Failure> {
        let Known { failed, serving } = self.handle.known(digest).await;
        if failed || target.refused().iter().any(|refused| refused == digest) {
            return Err(Failure::Tried { digest: digest.to_owned() });
        }
        let path = target.path().to_owned();
        let present = blocking(move || {
            let image = Image::open(&path)?;
            image.digest().map(|digest| (image, digest))
        })
        .await?;
        let (image, present) = present.map_err(Failure::file("read", target.path()))?;
        if present != digest {
            return Ok(Place::Elsewhere);
        }
        let ours = self.board.upgrade_status().and_then(|status| status.installed);
        // What this server has put there waits for a reload, or somebody has gone back from it.
        let known = ours.as_deref() == Some(digest);
        let is_served = serving.is_none_or(|serving| serving.is(&image));
        Ok(if known || is_served { Place::Served } else { Place::Waiting })
    }

    /// Asks the new binary what it is.
    async fn check(&self, path: &Path) -> Result<Option<String>, Failure> {
        self.board.upgrade(|status| status.step = Step::Checking);
        let environment = Some(self.upgrade.check_environment.as_slice());
        let limit = self.upgrade.check_limit;
        let answer = ask(&self.program, path, limit, environment).await;
        let version = answer.map_err(Failure::Check)?.version;
        let installed = self.board.upgrade_status().and_then(|status| status.version);
        for present in self.upgrade.own_version().into_iter().chain(installed.as_deref()) {
            in_order(present, version.as_deref(), self.upgrade.allow_downgrade)?;
        }
        Ok(version)
    }

    async fn ask_user(
        &self,
        file: &Temporary,
        digest: &str,
        version: &Option<String>,
    ) -> Result<(), Failure> {
        for hook in &self.upgrade.before {
            let candidate = Candidate {
                path: file.path().to_owned(),
                sha256: digest.to_owned(),
                version: version.clone(),
            };
            let limit = self.upgrade.hook_limit;
            let asked = timeout(limit, hook(candidate)).await;
            asked.map_err(|_| Failure::HookTooSlow { limit })?.map_err(Failure::Hook)?;
        }
        Ok(())
    }

    /// Lets the new binary prove itself. If it does not, the previous one gets its place back.
    async fn reload(
        &self,
        target: Target,
        previous: Option<Previous>,
        digest: String,
    ) -> Result<u64, Failure> {
        self.board.upgrade(|status| status.step = Step::Reloading);
        let outcome = self.handle.reload_outcome().await;
        let blamed = blames_the_binary(&outcome);
        blocking(move || match (outcome, previous) {
            (Ok(generation), previous) => {
                previous.into_iter().for_each(|_| target.end_trial());
                Ok(generation)
            }
            (Err(why), previous) => {
                if let Some(Err(failure)) = previous.map(|previous| target.restore(&previous)) {
                    return Err(Failure::Stuck { why, cause: Box::new(failure) });
                }
                if blamed && let Err(failure) = target.refuse(&digest) {
                    // Until the server ends it is known all the same.
                    tracing::warn!(%failure, "a binary that failed cannot be remembered");
                }
                Err(Failure::Trial { why, blamed })
            }
        })
        .await?
    }
}

/// Where a binary is already.
enum Place {
    /// Nowhere, or where it does not matter.
    Elsewhere,
    /// At the path of the program, put there by somebody else.
    Waiting,
    /// There, and the workers run it, or could do so for long.
    Served,
}

/// Refuses an older version, and one that nobody can compare.
fn in_order(present: &str, new: Option<&str>, allow_downgrade: bool) -> Result<(), Failure> {
    if allow_downgrade {
        return Ok(());
    }
    let new = new.ok_or(Failure::NoVersion)?;
    let parse = |text: &str| {
        Version::parse(text).map_err(|error| Failure::GarbledVersion(format!("{text:?}: {error}")))
    };
    if parse(new)?.cmp_precedence(&parse(present)?).is_lt() {
        return Err(Failure::Downgrade { from: present.to_owned(), to: new.to_owned() });
    }
    Ok(())
}

fn head(path: &Path) -> Result<Vec<u8>, Failure> {
    let mut head = Vec::new();
    let file = File::open(path).map_err(Failure::file("open", path))?;
    let read = file.take(format::HEAD as u64).read_to_end(&mut head);
    read.map_err(Failure::file("read", path))?;
    Ok(head)
}

/// The digest of the program in place, if it is the one that the seal is for.
async fn find_in_place(target: &Target, seal: Seal) -> Result<(Seal, Option<String>), Failure> {
    if !seal.is_telling() {
        return Ok((seal, None));
    }
    let path = target.path().to_owned();
    blocking(move || {
        let found = find(&path, &seal);
        (seal, found)
    })
    .await
}

async fn digest(path: &Path) -> Result<String, Failure> {
    let path: PathBuf = path.to_owned();
    blocking(move || {
        let digest = Image::open(&path).and_then(|image| image.digest());
        digest.map_err(Failure::file("read", path))
    })
    .await?
}

/// Does what may wait for a disk away from the loop of the master.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work).await.map_err(|_| Failure::Panicked)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_version_is_refused_unless_it_is_allowed() {
        let order = |present, new| in_order(present, new, false);
        assert!(order("1.2.3", Some("1.2.4")).is_ok());
        assert!(order("1.2.3", Some("1.2.3+build.2")).is_ok(), "another build of the same");
        assert!(matches!(order("1.10.0", Some("1.9.0")), Err(Failure::Downgrade { .. })));
        assert!(matches!(order("2.0.0", Some("2.0.0-rc.1")), Err(Failure::Downgrade { .. })));
        assert!(matches!(order("1.2.3", None), Err(Failure::NoVersion)));
        assert!(matches!(order("1.2.3", Some("new")), Err(Failure::GarbledVersion(_))));
        for new in [Some("1.0.0"), Some("new"), None] {
            assert!(in_order("1.2.3", new, true).is_ok());
        }
    }
}
