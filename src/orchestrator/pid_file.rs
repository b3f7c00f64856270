use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::{Error, error::Kind, process::place};

/// A file that holds the PID of this process. Dropping it removes the file, if it is still ours.
#[derive(Debug)]
pub(crate) struct PidFile {
    path: PathBuf,
}

impl PidFile {
    /// Writes the file in place of the one that may be there. By renaming: whoever reads it finds a
    /// whole PID, the old or the new one.
    pub(crate) fn write(path: &Path) -> Result<Self, Error> {
        let failed = |error| {
            let what = format!("cannot write the PID file {}", path.display());
            Error::new(Kind::Io, what).because(error)
        };
        // Absolute: the process may change its directory before it ends.
        let path = std::path::absolute(path).map_err(failed)?;
        let temporary = beside(&path).map_err(failed)?;
        let written = fs::write(&temporary, format!("{}\n", std::process::id()))
            .and_then(|()| fs::rename(&temporary, &path));
        written.map_err(|error| {
            // It may not even exist; the first error is the one to tell.
            let _ = fs::remove_file(&temporary);
            failed(error)
        })?;
        Ok(Self { path })
    }
}

/// Makes sure that a PID file could be written there, and writes nothing.
pub(crate) fn check(path: &Path) -> Result<(), Error> {
    let possible = std::path::absolute(path).and_then(|path| {
        if path.is_dir() {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        place::check(&beside(&path)?)
    });
    possible.map_err(|error| {
        let what = format!("cannot write the PID file {}", path.display());
        Error::new(Kind::Io, what).because(error)
    })
}

/// In the same directory, as a rename does not leave its file system.
fn beside(path: &Path) -> io::Result<PathBuf> {
    let Some(name) = path.file_name() else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it names no file"));
    };
    let mut name = name.to_owned();
    name.push(format!(".{}", std::process::id()));
    Ok(path.with_file_name(name))
}

impl Drop for PidFile {
    fn drop(&mut self) {
        let is_ours = fs::read_to_string(&self.path)
            .is_ok_and(|text| text.trim().parse() == Ok(std::process::id()));
        if is_ours {
            // Nobody is left to tell, and a PID of the past is what readers must expect anyway.
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_replaced_and_removed_at_the_end() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("app.pid");
        fs::write(&path, "1\n").unwrap();
        let file = PidFile::write(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n", std::process::id()));
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 1, "nothing else is left behind");
        drop(file);
        assert!(!path.exists());
    }

    #[test]
    fn a_file_that_another_process_has_written_since_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("app.pid");
        let file = PidFile::write(&path).unwrap();
        fs::write(&path, "1\n").unwrap();
        drop(file);
        assert_eq!(fs::read_to_string(&path).unwrap(), "1\n");
    }

    #[test]
    fn a_place_that_cannot_be_written_is_an_error_that_names_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("no/such/app.pid");
        for error in [PidFile::write(&path).unwrap_err(), check(&path).unwrap_err()] {
            assert!(format!("{error:?}").contains("no/such/app.pid: No such file"), "{error:?}");
        }
        assert!(PidFile::write(Path::new("/")).is_err());
        assert!(check(Path::new("/")).is_err());
        assert!(check(directory.path()).is_err());
        check(&directory.path().join("app.pid")).unwrap();
        fs::create_dir(directory.path().join("taken")).unwrap();
        assert!(PidFile::write(&directory.path().join("taken")).is_err());
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 1, "nothing else is left behind");
    }
}
