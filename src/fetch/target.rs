//! The file of the program: locked, replaced in one step, and put back.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use nix::fcntl::Flock;
use serde::{Deserialize, Serialize};

use super::{
    failure::Failure,
    files::{Temporary, keep, lock, parent, remove, rename, switch, sync},
};
use crate::process::image::Image;

/// What is beside the program: the binary before it, a note of the trial that it is on, and the digests
/// of those that have failed theirs.
const PREVIOUS: &str = ".previous";
const TRIAL: &str = ".trial";
const REFUSED: &str = ".refused";
/// How many binaries that failed are remembered.
const REMEMBERED: usize = 64;

/// Where the program is, and how it is replaced. While this is there, no other process upgrades it.
#[derive(Debug)]
pub(super) struct Target {
    place: Place,
    /// For the names of the files around it.
    name: OsString,
    /// Where these are.
    directory: PathBuf,
    /// Whatever the path names while this is there: the file that it named at first, and each that was
    /// put there since. A lock file of its own would stay behind for ever.
    locks: Vec<Flock<File>>,
}

#[derive(Clone, Debug)]
enum Place {
    /// The file itself is replaced; its predecessor stays beside it.
    File(PathBuf),
    /// A symbolic link is switched from one file to another.
    Link(PathBuf),
}

/// What was replaced, and how to undo that.
#[derive(Debug)]
pub(super) struct Previous(PathBuf);

/// What is on trial, and what to go back to.
#[derive(Debug, Serialize, Deserialize)]
struct Trial {
    digest: String,
    previous: PathBuf,
}

impl Target {
    /// Locks the program that `path` names.
    pub(super) fn lock(path: &Path, versions: Option<&Path>) -> Result<Self, Failure> {
        let place = match versions {
            Some(_) if path.is_symlink() => Place::Link(path.to_owned()),
            Some(_) => return Err(Failure::NoLink(path.to_owned())),
            // To replace a symbolic link would leave what it stands for as it is.
            None => Place::File(path.canonicalize().map_err(Failure::file("find", path))?),
        };
        let path = place.path();
        let directory = match versions {
            Some(versions) => versions.to_owned(),
            None => parent(path).to_owned(),
        };
        let name = path.file_name().unwrap_or(OsStr::new("program")).to_owned();
        let locks = vec![lock(path)?];
        Ok(Self { name, directory, locks, place })
    }

    /// What a program is started by.
    pub(super) fn path(&self) -> &Path {
        self.place.path()
    }

    /// A new file beside it, for this process only, that will be moved there.
    pub(super) fn create(&self) -> Result<(Temporary, File), Failure> {
        let path = self.beside(".", ".new");
        match path.symlink_metadata() {
            // Left by a process that was killed; as this one holds the lock, nobody writes to it.
            Ok(left) if left.is_file() => {
                fs::remove_file(&path).map_err(Failure::file("remove", &path))?;
            }
            Ok(_) => return Err(Failure::Planted(path)),
            Err(_) => {}
        }
        // With `create_new` a link that was planted in between is not followed either.
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        match file {
            Ok(file) => Ok((Temporary { path, moved: false }, file)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                Err(Failure::Planted(path))
            }
            Err(cause) => Err(Failure::File { doing: "create", path, cause }),
        }
    }

    /// Gives the new file the owner and the permissions of the present one.
    pub(super) fn dress(&self, new: &Temporary) -> Result<(), Failure> {
        let path = self.path();
        let present = fs::metadata(path).map_err(Failure::file("read", path))?;
        // Not ours to give where this process is not root; then it is ours, as it should be.
        if let Err(error) =
            std::os::unix::fs::chown(&new.path, Some(present.uid()), Some(present.gid()))
        {
            tracing::debug!(%error, "the new binary has another owner than the present one");
        }
        // After the owner: to change that takes the set-user-ID bit away, which nobody needs here.
        let mode = fs::Permissions::from_mode(present.mode() & 0o777);
        fs::set_permissions(&new.path, mode).map_err(Failure::file("change the mode of", &new.path))
    }

    /// Puts the new file in place. The one that was there is kept. With `trial`, until that is
    /// [over](Self::end_trial) the next start of this program [goes back](Self::recover) to it.
    pub(super) fn install(
        &mut self,
        new: Temporary,
        digest: &str,
        trial: bool,
    ) -> Result<Previous, Failure> {
        // Before it is in place: whoever finds it there finds it locked.
        self.locks.push(lock(&new.path)?);
        let previous = match &self.place {
            Place::File(path) => {
                let previous = self.beside("", PREVIOUS);
                keep(path, &previous)?;
                Previous(previous)
            }
            Place::Link(link) => {
                Previous(fs::read_link(link).map_err(Failure::file("read", link))?)
            }
        };
        if trial {
            self.begin_trial(digest, &previous)?;
        }
        let moved = self.move_there(new, digest, &previous);
        if moved.is_err() {
            self.end_trial();
        }
        moved.map(|()| previous)
    }

    fn move_there(
        &self,
        mut new: Temporary,
        digest: &str,
        previous: &Previous,
    ) -> Result<(), Failure> {
        match &self.place {
            Place::File(path) => {
                rename(&new.path, path)?;
                new.moved = true;
                if let Err(failure) = sync(&self.directory) {
                    self.put_back(previous)?;
                    return Err(failure);
                }
            }
            Place::Link(link) => {
                let version = self.beside("", &format!("-{}", &digest[..16]));
                rename(&new.path, &version)?;
                // Removed with this unless the link leads to it.
                new.path = version.canonicalize().map_err(Failure::file("find", &version))?;
                sync(&self.directory)?;
                if let Err(failure) = switch(link, &new.path) {
                    // It may lead there by now.
                    new.moved = switch(link, &previous.0).is_err();
                    return Err(failure);
                }
                new.moved = true;
                self.forget_versions(&[&new.path, &parent(link).join(&previous.0)]);
            }
        }
        Ok(())
    }

    /// Puts back what was there before; the trial is over then.
    pub(super) fn restore(&self, previous: &Previous) -> Result<(), Failure> {
        self.put_back(previous)?;
        self.end_trial();
        Ok(())
    }

    fn put_back(&self, previous: &Previous) -> Result<(), Failure> {
        match &self.place {
            Place::File(path) => {
                rename(&previous.0, path)?;
                sync(&self.directory)
            }
            Place::Link(link) => {
                let failed = fs::canonicalize(link).ok();
                switch(link, &previous.0)?;
                // It is of no more use; what is not in the directory of versions is not ours.
                let ours = failed.filter(|path| self.is_version(path));
                ours.into_iter().for_each(|path| remove(&path));
                Ok(())
            }
        }
    }

    fn begin_trial(&self, digest: &str, previous: &Previous) -> Result<(), Failure> {
        let trial = Trial { digest: digest.to_owned(), previous: previous.0.clone() };
        let failed = Failure::file("write", self.beside("", TRIAL));
        let text = serde_json::to_string(&trial).map_err(|error| failed(error.into()))?;
        self.note(TRIAL, &text)
    }

    /// It has proved itself, or is no longer in place.
    pub(super) fn end_trial(&self) {
        let path = self.beside("", TRIAL);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(path = %path.display(), %error, "a file stays behind");
            }
            _ => {}
        }
    }

    /// Goes back to the previous binary if the one in place was on trial when its server was killed.
    /// Says whether it was.
    pub(super) fn recover(&self) -> Result<bool, Failure> {
        let path = self.beside("", TRIAL);
        let text = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            text => text.map_err(Failure::file("read", &path))?,
        };
        let present = Image::open(self.path()).and_then(|image| image.digest());
        let present = present.map_err(Failure::file("read", self.path()))?;
        // Somebody may have put yet another binary there.
        match serde_json::from_slice::<Trial>(&text) {
            Ok(trial) if trial.digest == present => {
                self.restore(&Previous(trial.previous))?;
                Ok(true)
            }
            _ => {
                self.end_trial();
                Ok(false)
            }
        }
    }

    /// The digests of binaries that have failed their trial, at any time.
    pub(super) fn refused(&self) -> Vec<String> {
        let text = fs::read_to_string(self.beside("", REFUSED)).unwrap_or_default();
        text.lines().filter_map(|line| Some(line.split_whitespace().next()?.to_owned())).collect()
    }

    /// Remembers one more, even if this process and the machine end now.
    pub(super) fn refuse(&self, digest: &str) -> Result<(), Failure> {
        let mut digests = self.refused();
        if digests.iter().any(|refused| refused == digest) {
            return Ok(());
        }
        digests.push(digest.to_owned());
        self.note(REFUSED, &(digests[digests.len().saturating_sub(REMEMBERED)..].join("\n") + "\n"))
    }

    /// Writes a small file beside the program, in one step and for good.
    fn note(&self, name: &str, text: &str) -> Result<(), Failure> {
        let (path, new) = (self.beside("", name), self.beside(".", name));
        // It may be left by a process that was killed. A link that was planted is removed, not followed.
        let _ = fs::remove_file(&new);
        let write = || {
            let mut file = OpenOptions::new().write(true).create_new(true).open(&new)?;
            io::Write::write_all(&mut file, text.as_bytes())?;
            file.sync_all()
        };
        write().map_err(|error| {
            let _ = fs::remove_file(&new);
            Failure::file("write", &new)(error)
        })?;
        rename(&new, &path)?;
        sync(&self.directory)
    }

    fn beside(&self, before: &str, after: &str) -> PathBuf {
        let mut name = OsString::from(before);
        name.push(&self.name);
        name.push(after);
        self.directory.join(name)
    }

    /// Whether this is a file that `install` has put into the directory of versions.
    fn is_version(&self, path: &Path) -> bool {
        let directory = self.directory.canonicalize().unwrap_or_else(|_| self.directory.clone());
        let name = path.file_name().unwrap_or_default().as_encoded_bytes();
        let digest = name
            .strip_prefix(self.name.as_encoded_bytes())
            .and_then(|rest| rest.strip_prefix(b"-"));
        parent(path) == directory
            && digest.is_some_and(|digest| {
                digest.len() == 16 && digest.iter().all(u8::is_ascii_hexdigit)
            })
    }

    /// Removes all versions but these.
    fn forget_versions(&self, keep: &[&Path]) {
        let keep: Vec<_> = keep.iter().filter_map(|path| path.canonicalize().ok()).collect();
        let entries = fs::read_dir(&self.directory).into_iter().flatten().flatten();
        for path in entries.filter_map(|entry| entry.path().canonicalize().ok()) {
            if self.is_version(&path) && !keep.contains(&path) {
                remove(&path);
            }
        }
    }
}

impl Place {
    fn path(&self) -> &Path {
        match self {
            Self::File(path) | Self::Link(path) => path,
        }
    }
}

#[cfg(test)]
#[path = "target_tests.rs"]
mod tests;
