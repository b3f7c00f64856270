//! Files put in place in one step: what the file system has to be asked for, and in which order.

use std::{
    ffi::OsString,
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};

use super::failure::Failure;

/// How often another file may come to a path while it is being locked.
const LOCK_ATTEMPTS: u32 = 100;

/// A file that is removed unless it is moved to where it belongs.
#[derive(Debug)]
pub(super) struct Temporary {
    pub(super) path: PathBuf,
    pub(super) moved: bool,
}

impl Temporary {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.moved {
            remove(&self.path);
        }
    }
}

pub(super) fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path) {
        tracing::warn!(path = %path.display(), %error, "a file stays behind");
    }
}

/// Locks the file that `path` names, in the moment in which it names it.
pub(super) fn lock(path: &Path) -> Result<Flock<File>, Failure> {
    for _ in 0..LOCK_ATTEMPTS {
        let file = File::open(path).map_err(Failure::file("open", path))?;
        let lock = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => lock,
            Err((_, Errno::EWOULDBLOCK)) => return Err(Failure::Busy(path.to_owned())),
            Err((_, errno)) => return Err(Failure::file("lock", path)(errno.into())),
        };
        let id = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
        let locked = lock.metadata().map(id).map_err(Failure::file("read", path))?;
        // Who held it before may have put another file there.
        if fs::metadata(path).map(id).is_ok_and(|named| named == locked) {
            return Ok(lock);
        }
    }
    Err(Failure::Busy(path.to_owned()))
}

/// Makes `previous` another name of the file at `path`, in place of what it was.
pub(super) fn keep(path: &Path, previous: &Path) -> Result<(), Failure> {
    match fs::remove_file(previous) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(Failure::file("remove", previous)(error));
        }
        _ => {}
    }
    // Not every file system has hard links, and a kernel may forbid one to the file of another user.
    if fs::hard_link(path, previous).is_ok() {
        return Ok(());
    }
    fs::copy(path, previous).map_err(Failure::file("keep the present binary as", previous))?;
    let file = File::open(previous).and_then(|file| file.sync_all());
    file.map_err(Failure::file("write", previous))
}

/// Makes a symbolic link lead elsewhere, in one step.
pub(super) fn switch(link: &Path, to: &Path) -> Result<(), Failure> {
    let mut name = OsString::from(".");
    name.push(link.file_name().unwrap_or_default());
    name.push(".link");
    let new = parent(link).join(name);
    // It may be left by a process that was killed.
    let _ = fs::remove_file(&new);
    std::os::unix::fs::symlink(to, &new).map_err(Failure::file("create", &new))?;
    rename(&new, link)?;
    sync(parent(link))
}

pub(super) fn rename(from: &Path, to: &Path) -> Result<(), Failure> {
    fs::rename(from, to).map_err(Failure::file("put the new file in place of", to))
}

/// A rename outlives a loss of power only when its directory is written.
pub(super) fn sync(directory: &Path) -> Result<(), Failure> {
    let synced = File::open(directory).and_then(|directory| directory.sync_all());
    synced.map_err(Failure::file("write", directory))
}

pub(super) fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}
