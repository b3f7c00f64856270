use std::{io, path::Path};

use nix::unistd::{AccessFlags, access};

/// Makes sure that a file could be made at this path, and makes none.
pub(crate) fn check(path: &Path) -> io::Result<()> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    if !directory.metadata()?.is_dir() {
        return Err(io::ErrorKind::NotADirectory.into());
    }
    Ok(access(directory, AccessFlags::W_OK | AccessFlags::X_OK)?)
}
