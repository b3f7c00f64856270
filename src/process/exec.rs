//! Starts this program again, with one end of a socket pair.

use std::{
    env,
    ffi::{OsStr, OsString},
    io,
    os::{
        fd::{AsRawFd, BorrowedFd, OwnedFd},
        unix::{fs::MetadataExt, process::CommandExt},
    },
    path::{Path, PathBuf},
    process::Command,
};

use nix::{
    libc,
    unistd::{AccessFlags, access},
};
#[cfg(target_os = "linux")]
use {
    nix::sys::{
        memfd::{MFdFlags, memfd_create},
        signal::{SigSet, Signal},
    },
    std::{
        convert::Infallible,
        fs::File,
        io::{Read, Seek, Write},
    },
};

#[cfg(target_os = "linux")]
use super::threads::Shield;
use super::{
    env as environment, fd,
    image::Image,
    invocation::{Invocation, PID_DIGITS},
};

/// Names the control descriptor of a worker and the worker itself, as `LISTEN_PID` does: `3:0000001234`.
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
        // A deploy may have removed the directory that it was started in; then only whole paths are known.
        let start = env::current_dir().unwrap_or_default();
        let path = match find(&arg0, &start, env::var_os("PATH").as_deref(), is_this_program) {
            Some(path) => path,
            None => env::current_exe()?,
        };
        Ok(Self { path, arg0, args: args.collect() })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Starts what the path names now. Answers its process number and, where it can be pinned, the
    /// file that it runs.
    pub(crate) fn spawn(&self, control: OwnedFd) -> io::Result<(u32, Option<Image>)> {
        let image = Image::open(&self.path);
        let pid = self.spawn_from(&self.path, control)?;
        // A deploy may have come in between, and a script runs an interpreter: then what is open here
        // is not what runs there, and must not be taken for it.
        Ok((pid, image.ok().filter(|image| image.is_started_as(pid))))
    }

    /// Starts a pinned program.
    pub(crate) fn spawn_image(&self, image: &Image, control: OwnedFd) -> io::Result<u32> {
        self.spawn_from(&image.executable(), control)
    }

    /// The program at `path`, called as this one was, with no other environment than this. What
    /// is added to its arguments and variables later is lost; why it does not start, [`explain`] tells.
    pub(crate) fn command(
        &self,
        path: &Path,
        environment: impl Iterator<Item = (OsString, OsString)>,
    ) -> io::Result<Command> {
        self.command_with(path, environment, None)
    }

    fn command_with(
        &self,
        path: &Path,
        environment: impl Iterator<Item = (OsString, OsString)>,
        inherited: Option<BorrowedFd<'static>>,
    ) -> io::Result<Command> {
        let mut invocation = self.invocation(path, environment)?;
        let mut command = Command::new(path);
        // A group of its own: Ctrl-C and the end of a terminal reach the master only.
        command.process_group(0);
        let exec = move || {
            if let Some(inherited) = inherited {
                fd::set_cloexec(inherited, false)?;
                invocation.write_own_pid();
            }
            Err(invocation.exec())
        };
        // SAFETY: the closure runs between fork and exec. It makes system calls and allocates, locks and
        // panics nowhere.
        unsafe { command.pre_exec(exec) };
        Ok(command)
    }

    fn invocation(
        &self,
        path: &Path,
        environment: impl Iterator<Item = (OsString, OsString)>,
    ) -> io::Result<Invocation> {
        let args = [&self.arg0].into_iter().chain(&self.args).map(OsString::as_os_str);
        Invocation::new(path.as_os_str(), args, environment)
    }

    /// Starts the program; it inherits `control` and no other descriptor above 2.
    fn spawn_from(&self, path: &Path, control: OwnedFd) -> io::Result<u32> {
        let number = control.as_raw_fd();
        // The child writes its number over these digits; the variable is to be the last one for that.
        let value = format!("{number}:{:0width$}", 0, width = PID_DIGITS);
        let environment = env::vars_os().chain([(CONTROL.into(), value.into())]);
        // SAFETY: `control` lives until after the fork, and the child's copy until its exec.
        let inherited = unsafe { BorrowedFd::borrow_raw(number) };
        let mut command = self.command_with(path, environment, Some(inherited))?;
        let child = command.spawn().map_err(explain)?;
        drop(control);
        Ok(child.id())
    }
}

/// Says why a program could not be started, in words that tell what to do about it.
pub(crate) fn explain(error: io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(libc::ENOEXEC) => {
            io::Error::new(error.kind(), format!("not a program for this system: {error}"))
        }
        _ => error,
    }
}

/// Names the memfd in which the program before this one has left its state: `3:1234`.
#[cfg(target_os = "linux")]
const TAKEOVER: &str = "GRACEFUL_TAKEOVER";

#[cfg(target_os = "linux")]
impl Program {
    /// Executes the program at `path` in this process. It finds `state` with [`predecessor`], the
    /// descriptors open, and signals blocked; see [`unblock_signals`]. None of `signals` is lost: it was
    /// handled when `is_quiet` was asked, or waits for the new program.
    ///
    /// Returns only when it fails, and then everything is as before.
    pub(crate) fn replace(
        &self,
        path: &Path,
        state: &[u8],
        keep: &[BorrowedFd<'_>],
        environment: &[(&str, OsString)],
        signals: impl Iterator<Item = i32>,
        is_quiet: impl FnOnce() -> bool,
    ) -> io::Error {
        match self.try_replace(path, state, keep, environment, signals, is_quiet) {
            Ok(never) => match never {},
            Err(error) => error,
        }
    }

    fn try_replace(
        &self,
        path: &Path,
        state: &[u8],
        keep: &[BorrowedFd<'_>],
        environment: &[(&str, OsString)],
        signals: impl Iterator<Item = i32>,
        is_quiet: impl FnOnce() -> bool,
    ) -> io::Result<Infallible> {
        let memory = memfd_create(c"graceful", MFdFlags::empty())?;
        let mut memory = File::from(memory);
        memory.write_all(state)?;
        memory.rewind()?;
        let value = format!("{}:{}", memory.as_raw_fd(), std::process::id());
        let own = environment.iter().map(|(name, value)| (OsString::from(name), value.clone()));
        let variables = env::vars_os().chain(own).chain([(TAKEOVER.into(), value.into())]);
        let invocation = self.invocation(path, variables)?;

        for fd in keep {
            fd::set_cloexec(*fd, false)?;
        }
        // From here until the new program listens: a signal's default action would end the process.
        let failed = block_signals().and_then(|()| {
            let _shield = Shield::raise(signals)?;
            if !is_quiet() {
                let why = "a signal has come first";
                return Err(io::Error::new(io::ErrorKind::Interrupted, why));
            }
            Err(explain(invocation.exec()))
        });
        unblock_signals();
        for fd in keep {
            fd::set_cloexec(*fd, true)?;
        }
        failed
    }
}

/// Blocks all but the one that means nothing by default, and by which threads are told to block more.
#[cfg(target_os = "linux")]
fn block_signals() -> io::Result<()> {
    let mut signals = SigSet::all();
    signals.remove(Signal::SIGURG);
    Ok(signals.thread_block()?)
}

/// Lets the signals in that have waited since the program before this one was replaced.
#[cfg(target_os = "linux")]
pub(crate) fn unblock_signals() {
    if let Err(error) = SigSet::all().thread_unblock() {
        tracing::error!(%error, "signals stay blocked");
    }
}

/// Elsewhere the master stays the program that it is: there is no file that outlives an exec and has no
/// name, and no `/proc` by which a program that was deleted could be executed.
#[cfg(not(target_os = "linux"))]
impl Program {
    pub(crate) fn replace(
        &self,
        _path: &Path,
        _state: &[u8],
        _keep: &[BorrowedFd<'_>],
        _environment: &[(&str, OsString)],
        _signals: impl Iterator<Item = i32>,
        _is_quiet: impl FnOnce() -> bool,
    ) -> io::Error {
        io::ErrorKind::Unsupported.into()
    }
}

/// Nobody has blocked any.
#[cfg(not(target_os = "linux"))]
pub(crate) fn unblock_signals() {}

/// The state that the program before this one has left. Only the first call can find it.
#[cfg(target_os = "linux")]
pub(crate) fn predecessor() -> Option<io::Result<Vec<u8>>> {
    let value = environment::take(TAKEOVER)?;
    let (number, pid) = value.to_str()?.split_once(':')?;
    // Left to a child by a program in between.
    if pid.parse() != Ok(std::process::id()) {
        return None;
    }
    let memory = fd::adopt(number.parse().ok()?);
    Some(memory.and_then(|memory| {
        let mut state = Vec::new();
        File::from(memory).read_to_end(&mut state)?;
        Ok(state)
    }))
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn predecessor() -> Option<io::Result<Vec<u8>>> {
    None
}

/// Whether this process runs the file. A name alone says little: `exec -a` gives any.
fn is_this_program(path: &Path) -> bool {
    let own =
        if cfg!(target_os = "linux") { Ok("/proc/self/exe".into()) } else { env::current_exe() };
    let file = |path: &Path| path.metadata().map(|file| (file.dev(), file.ino()));
    matches!((own.and_then(|own| file(&own)), file(path)), (Ok(own), Ok(other)) if own == other)
}

fn find(
    arg0: &OsStr,
    start: &Path,
    path: Option<&OsStr>,
    is_it: impl Fn(&Path) -> bool,
) -> Option<PathBuf> {
    if arg0.is_empty() {
        return None;
    }
    if Path::new(arg0).components().count() > 1 || arg0.as_encoded_bytes().contains(&b'/') {
        let path = start.join(arg0);
        // Relative still where the directory is gone.
        return (path.is_absolute() && path.exists()).then_some(path);
    }
    env::split_paths(path?)
        .map(|directory| start.join(directory).join(arg0))
        .find(|candidate| candidate.is_file() && access(candidate, AccessFlags::X_OK).is_ok())
        .filter(|candidate| is_it(candidate))
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
    let (number, pid) = value.to_str()?.split_once(':')?;
    let (number, pid): (i32, u32) = (number.parse().ok()?, pid.parse().ok()?);
    // A grandchild may have inherited the variable by way of a program that is not ours. Who the parent
    // is says nothing: a worker that has lost its master is still one, and must see it and leave.
    if pid != std::process::id() {
        return None;
    }
    fd::adopt_if(number, |fd| {
        let is_wire = socket2::SockRef::from(&fd).peer_addr()?.is_unix();
        if is_wire { Ok(()) } else { Err(io::Error::other("it is no wire")) }
    })
    .ok()
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
        let find = |arg0: &str, path: &str| {
            find(arg0.as_ref(), directory.path(), Some(path.as_ref()), |path| *path == program)
        };

        assert_eq!(find("bin/app", ""), Some(directory.path().join("bin/app")));
        assert_eq!(find("./bin/app", ""), Some(directory.path().join("./bin/app")));
        assert_eq!(find(program.to_str().unwrap(), ""), Some(program.clone()));
        assert_eq!(find("app", "other:bin"), None, "not executable yet");
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(find("app", "other:bin"), Some(program.clone()));
        std::fs::create_dir(directory.path().join("other")).unwrap();
        std::fs::copy(&program, directory.path().join("other/app")).unwrap();
        assert_eq!(find("app", "other:bin"), None, "a shell would find another program");
        assert_eq!(find("bin/gone", ""), None);
        assert_eq!(find("", "bin"), None);
    }

    #[test]
    fn a_garbled_control_variable_is_refused() {
        let own = std::process::id();
        for value in ["", "3", "x:y", "3:", ":1", "-1:1", "99999:1", "3:4:5"] {
            assert!(control(value.as_ref()).is_none(), "{value:?}");
        }
        assert!(control(format!("999999:{own}").as_ref()).is_none(), "not open");
        let file = std::os::fd::IntoRawFd::into_raw_fd(tempfile::tempfile().unwrap());
        assert!(control(format!("{file}:{own}").as_ref()).is_none(), "not a socket");
        let (wire, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        let wire = std::os::fd::IntoRawFd::into_raw_fd(wire);
        let parent = nix::unistd::getppid();
        assert!(control(format!("{wire}:{parent}").as_ref()).is_none(), "for another process");
        assert!(control(format!("{wire}:{own:010}").as_ref()).is_some());
    }
}
