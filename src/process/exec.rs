//! Starts this program again, with one end of a socket pair.

use std::{
    env,
    ffi::{OsStr, OsString},
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::process::CommandExt,
    },
    path::{Path, PathBuf},
    process::Command,
};

use nix::unistd::{AccessFlags, access};

use super::{env as environment, fd};

/// Names the control descriptor of a worker and the process that may have sent it: `3:1234`.
const CONTROL: &str = "GRACEFUL_CONTROL";

/// The program that reloads start, and how it was called.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    path: PathBuf,
    arg0: OsString,
    args: Vec<OsString>,
}

impl Program {
    /// Finds the program that this process runs, as the user named it.
    ///
    /// Not `current_exe()`: after a deploy that answers "(deleted)", and it has already followed the
    /// symbolic link (`current/app`) that the next reload should follow anew.
    pub(crate) fn resolve() -> io::Result<Self> {
        let mut args = env::args_os();
        let arg0 = args.next().unwrap_or_default();
        let start = env::current_dir()?;
        let path = match find(&arg0, &start, env::var_os("PATH").as_deref()) {
            Some(path) => path,
            None => env::current_exe()?,
        };
        Ok(Self { path, arg0, args: args.collect() })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Starts the program; it inherits `control` and no other descriptor above 2.
    pub(crate) fn spawn(&self, control: OwnedFd) -> io::Result<tokio::process::Child> {
        let number = control.as_raw_fd();
        let mut command = Command::new(&self.path);
        command
            .arg0(&self.arg0)
            .args(&self.args)
            .env(CONTROL, format!("{number}:{}", std::process::id()))
            // A group of its own: Ctrl-C and the end of a terminal reach the master only.
            .process_group(0);
        // SAFETY: `control` lives until after the fork, and the child's copy until its exec.
        let inherited = unsafe { BorrowedFd::borrow_raw(number) };
        // SAFETY: the closure runs between fork and exec. It makes one system call and allocates,
        // locks and panics nowhere.
        unsafe { command.pre_exec(move || fd::set_cloexec(inherited, false)) };
        let child = tokio::process::Command::from(command).spawn()?;
        drop(control);
        Ok(child)
    }
}

fn find(arg0: &OsStr, start: &Path, path: Option<&OsStr>) -> Option<PathBuf> {
    if arg0.is_empty() {
        return None;
    }
    if Path::new(arg0).components().count() > 1 || arg0.as_encoded_bytes().contains(&b'/') {
        let path = start.join(arg0);
        return path.exists().then_some(path);
    }
    env::split_paths(path?)
        .map(|directory| start.join(directory).join(arg0))
        .find(|candidate| candidate.is_file() && access(candidate, AccessFlags::X_OK).is_ok())
}

/// What the environment says about the parent of this process.
#[derive(Debug)]
pub(crate) enum Parent {
    /// It is not a master.
    Other,
    /// It is a master, and this is the way to talk to it.
    Master(OwnedFd),
    /// The variable is there, but it was not meant for this process or is not what a master writes.
    Garbled(OsString),
}

/// Reads and removes the control variable. Only the first call in a process can find a master.
pub(crate) fn parent() -> Parent {
    let Some(value) = environment::take(CONTROL) else {
        return Parent::Other;
    };
    match control(&value) {
        Some(control) => Parent::Master(control),
        None => Parent::Garbled(value),
    }
}

fn control(value: &OsStr) -> Option<OwnedFd> {
    let (number, master) = value.to_str()?.split_once(':')?;
    let (number, master): (i32, i32) = (number.parse().ok()?, master.parse().ok()?);
    // A grandchild may have inherited the variable by way of a program that is not ours. Whoever has
    // lost its master already is still a worker: it will read the end of the stream and leave.
    let parent = nix::unistd::getppid().as_raw();
    if parent != master && nix::sys::signal::kill(nix::unistd::Pid::from_raw(master), None).is_ok()
    {
        return None;
    }
    let fd = fd::adopt(number).ok()?;
    nix::sys::socket::getsockopt(&fd.as_fd(), nix::sys::socket::sockopt::SockType).ok()?;
    Some(fd)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_found_as_a_shell_finds_it() {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("bin/app");
        std::fs::create_dir(directory.path().join("bin")).unwrap();
        std::fs::write(&program, "").unwrap();
        let find =
            |arg0: &str, path: &str| find(arg0.as_ref(), directory.path(), Some(path.as_ref()));

        assert_eq!(find("bin/app", ""), Some(directory.path().join("bin/app")));
        assert_eq!(find("./bin/app", ""), Some(directory.path().join("./bin/app")));
        assert_eq!(find(program.to_str().unwrap(), ""), Some(program.clone()));
        assert_eq!(find("app", "other:bin"), None, "not executable yet");
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(find("app", "other:bin"), Some(program));
        assert_eq!(find("bin/gone", ""), None);
        assert_eq!(find("", "bin"), None);
    }

    #[test]
    fn a_garbled_control_variable_is_refused() {
        let parent = nix::unistd::getppid();
        for value in ["", "3", "x:y", "3:", ":1", "-1:1", "99999:1", "3:4:5"] {
            assert!(control(value.as_ref()).is_none(), "{value:?}");
        }
        assert!(control(format!("999999:{parent}").as_ref()).is_none(), "not open");
        let file = tempfile::tempfile().unwrap();
        let number = std::os::fd::IntoRawFd::into_raw_fd(file);
        assert!(control(format!("{number}:{parent}").as_ref()).is_none(), "not a socket");
    }
}
