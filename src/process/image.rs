use std::{
    fs::{self, File},
    io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    path::{Path, PathBuf},
    sync::OnceLock,
};

/// A program file that stays at hand, whatever happens to its path.
#[derive(Debug)]
pub(crate) struct Image {
    file: File,
    path: PathBuf,
    id: (u64, u64),
    digest: OnceLock<String>,
}

impl Image {
    /// Opens what the path names now.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        Self::adopt(File::open(path)?, path)
    }

    pub(crate) fn adopt(file: File, path: &Path) -> io::Result<Self> {
        let metadata = file.metadata()?;
        Ok(Self {
            file,
            path: path.to_owned(),
            id: (metadata.dev(), metadata.ino()),
            digest: OnceLock::new(),
        })
    }

    /// Whether both are the same file.
    pub(crate) fn is(&self, other: &Self) -> bool {
        self.id == other.id
    }

    /// Whether the path still names this file.
    pub(crate) fn is_in_place(&self) -> bool {
        id(&self.path).is_ok_and(|id| id == self.id)
    }

    /// Whether a process runs this file itself, and no interpreter of it.
    pub(crate) fn is_run_by(&self, pid: u32) -> bool {
        id(&PathBuf::from(format!("/proc/{pid}/exe"))).is_ok_and(|id| id == self.id)
    }

    /// Whether this file is what a child was started from, by its path: as above, or by what is left of one
    /// that has ended at once and was not waited for.
    pub(crate) fn is_started_as(&self, child: u32) -> bool {
        // No other process lacks a program, be it a zombie or about to become one (proc_pid_exe(5)).
        let ended = match id(&PathBuf::from(format!("/proc/{child}/exe"))) {
            Ok(id) => return id == self.id,
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        };
        let is_there = || PathBuf::from(format!("/proc/{child}")).exists();
        ended && is_there() && self.is_in_place() && !self.is_script()
    }

    fn is_script(&self) -> bool {
        use std::os::unix::fs::FileExt;
        let mut head = [0; 2];
        self.file.read_exact_at(&mut head, 0).is_ok() && head == *b"#!"
    }

    /// A path by which this process and a child that was just forked can execute it.
    pub(crate) fn executable(&self) -> PathBuf {
        if self.is_in_place() {
            // The process is then known by its name and not by the number of a descriptor.
            self.path.clone()
        } else {
            PathBuf::from(format!("/proc/self/fd/{}", self.file.as_raw_fd()))
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The SHA-256 of its content, in hexadecimal. Reads the whole file, the first time.
    pub(crate) fn digest(&self) -> io::Result<String> {
        if let Some(digest) = self.digest.get() {
            return Ok(digest.clone());
        }
        let digest = self.read_digest()?;
        Ok(self.digest.get_or_init(|| digest).clone())
    }

    /// The same, if it was asked for before.
    pub(crate) fn known_digest(&self) -> Option<&str> {
        self.digest.get().map(String::as_str)
    }

    fn read_digest(&self) -> io::Result<String> {
        use sha2::Digest;
        use std::os::unix::fs::FileExt;
        let mut hasher = sha2::Sha256::new();
        let mut buffer = vec![0; 1 << 16];
        let mut offset = 0;
        // At an offset of its own: others may read the same descriptor.
        loop {
            let length = self.file.read_at(&mut buffer, offset)?;
            if length == 0 {
                break;
            }
            hasher.update(&buffer[..length]);
            offset += length as u64;
        }
        Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
    }

    pub(crate) fn try_clone_fd(&self) -> io::Result<OwnedFd> {
        Ok(self.file.try_clone()?.into())
    }
}

fn id(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_outlives_its_path() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("true");
        fs::copy("/bin/true", &path).unwrap();
        let image = Image::open(&path).unwrap();
        assert!(image.is_in_place());
        assert_eq!(image.executable(), path);
        fs::remove_file(&path).unwrap();
        fs::copy("/bin/false", &path).unwrap();
        assert!(!image.is_in_place());
        assert!(!image.is(&Image::open(&path).unwrap()));
        let status = std::process::Command::new(image.executable()).status().unwrap();
        assert!(status.success(), "it is still /bin/true");
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_child_that_ends_at_once_is_known_by_its_file() {
        use nix::sys::wait::{Id, WaitPidFlag, waitid};
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("false");
        fs::copy("/bin/false", &path).unwrap();
        let image = Image::open(&path).unwrap();
        // Another thread of this program may have the new file open for a moment, in a child of its own.
        let mut child = loop {
            match std::process::Command::new(&path).spawn() {
                Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy => {}
                child => break child.unwrap(),
            }
        };
        let pid = nix::unistd::Pid::from_raw(child.id().cast_signed());
        waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT).unwrap();
        assert!(!image.is_run_by(child.id()), "a zombie runs nothing");
        assert!(image.is_started_as(child.id()));
        assert!(!Image::open(Path::new("/bin/true")).unwrap().is_started_as(std::process::id()));
        fs::write(directory.path().join("script"), "#!/bin/false").unwrap();
        let script = Image::open(&directory.path().join("script")).unwrap();
        assert!(!script.is_started_as(child.id()), "its interpreter has run");
        fs::rename(directory.path().join("script"), &path).unwrap();
        assert!(!image.is_started_as(child.id()), "it may have been the other one");
        child.wait().unwrap();
        assert!(!script.is_started_as(child.id()) && !image.is_started_as(child.id()));
    }

    #[test]
    fn the_digest_is_that_of_the_content() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("abc");
        fs::write(&path, "abc").unwrap();
        // FIPS 180-2, appendix B.1.
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let image = Image::open(&path).unwrap();
        assert_eq!(image.known_digest(), None);
        assert_eq!(image.digest().unwrap(), expected);
        assert_eq!(image.known_digest(), Some(expected));
    }
}
