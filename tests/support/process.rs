//! A server as a child process: its output line by line, signals, its exit, and no orphans.

use std::ffi::OsStr;
use std::fmt;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::sync::watch;

/// Marks every process that a [`Process`] has started, however far its parents have gone: the
/// environment is inherited, and the kernel shows it.
const MARK: &str = "GRACEFUL_TEST_TREE";

/// How long an expected line or exit may take before the test fails.
const PATIENCE: Duration = Duration::from_secs(60);

/// A program to start.
#[must_use = "nothing runs before `start`"]
#[derive(Debug)]
pub(crate) struct Program {
    command: Command,
    stdin: Stdio,
}

impl Program {
    pub(crate) fn new(path: impl AsRef<Path>) -> Self {
        Self { command: Command::new(path.as_ref()), stdin: Stdio::null() }
    }

    /// This test program itself, to run one `#[test] #[ignore]` function that is a server and not a
    /// test.
    pub(crate) fn this_test(function: &str) -> Self {
        let program = std::env::current_exe().expect("the path of this test program");
        Self::new(program).args(Self::server_args(function))
    }

    /// What makes a test program run one ignored function and nothing else.
    pub(crate) fn server_args(function: &str) -> [&str; 5] {
        ["--ignored", "--exact", function, "--nocapture", "--test-threads=1"]
    }

    pub(crate) fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.command.args(args);
        self
    }

    pub(crate) fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    pub(crate) fn env_remove(mut self, name: impl AsRef<OsStr>) -> Self {
        self.command.env_remove(name);
        self
    }

    /// What it reads; nothing unless told.
    pub(crate) fn stdin(mut self, stdin: impl Into<Stdio>) -> Self {
        self.stdin = stdin.into();
        self
    }

    /// The same arguments, environment and input for the program at another path.
    pub(crate) fn at(self, path: impl AsRef<Path>) -> Self {
        let mut command = Command::new(path.as_ref());
        command.args(self.command.get_args());
        self.with(command)
    }

    /// The same program, its environment and input, but started by another one, whose arguments end
    /// with its path and its arguments.
    pub(crate) fn under<A: AsRef<OsStr>>(
        self,
        program: impl AsRef<Path>,
        args: impl IntoIterator<Item = A>,
    ) -> Self {
        let mut command = Command::new(program.as_ref());
        command.args(args).arg(self.command.get_program()).args(self.command.get_args());
        self.with(command)
    }

    fn with(self, mut command: Command) -> Self {
        for (name, value) in self.command.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        Self { command, stdin: self.stdin }
    }

    /// Whatever else a `Command` can be told.
    pub(crate) fn command(&mut self) -> &mut Command {
        &mut self.command
    }

    /// Starts it, in a process group of its own, with both outputs captured.
    pub(crate) fn start(mut self) -> Process {
        static STARTED: AtomicU32 = AtomicU32::new(0);
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let mark = format!("{}.{number}", std::process::id());
        self.command
            .env(MARK, &mark)
            .stdin(self.stdin)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut self.command, 0);
        let mut child = self.command.spawn().unwrap_or_else(|error| {
            panic!("cannot start {:?}: {error}", self.command.get_program());
        });
        let pid = child.id();
        let lines = watch::Sender::new(Vec::new());
        copy_lines(child.stdout.take().expect("stdout is piped"), &lines);
        copy_lines(child.stderr.take().expect("stderr is piped"), &lines);
        let (status, exit) = watch::channel(None);
        let state = Arc::new(Mutex::new(child));
        wait_for_exit(Arc::clone(&state), status);
        Process { pid, mark, state, lines, exit, seen: Mutex::new(0) }
    }
}

/// Both outputs of the program and of all that inherit them, in the order in which the lines came.
type Lines = watch::Sender<Vec<String>>;

fn copy_lines(output: impl Read + Send + 'static, lines: &Lines) {
    let lines = lines.clone();
    std::thread::spawn(move || {
        for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).into_owned();
            lines.send_modify(|lines| lines.push(line));
        }
    });
}

fn wait_for_exit(child: Arc<Mutex<Child>>, exit: watch::Sender<Option<ExitStatus>>) {
    let pid = lock(&child).id();
    std::thread::spawn(move || {
        loop {
            sleep_until_exit(pid);
            // Reaped under the lock, and published before it is released: nobody signals a PID
            // that may already belong to another process.
            let mut child = lock(&child);
            if let Some(status) = child.try_wait().expect("the child is ours to wait for") {
                exit.send_replace(Some(status));
                return;
            }
        }
    });
}

/// Returns when the child has exited; it stays a zombie.
#[cfg(target_os = "linux")]
fn sleep_until_exit(pid: u32) {
    use nix::sys::wait::{Id, WaitPidFlag, waitid};
    // An interrupted wait is repeated by the caller.
    let _ = waitid(Id::Pid(nix_pid(pid)), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT);
}

#[cfg(not(target_os = "linux"))]
fn sleep_until_exit(_: u32) {
    std::thread::sleep(Duration::from_millis(2));
}

/// A program that was started, and all that it has started. They end when this is dropped.
pub(crate) struct Process {
    pid: u32,
    mark: String,
    state: Arc<Mutex<Child>>,
    lines: Lines,
    exit: watch::Receiver<Option<ExitStatus>>,
    /// Lines that [`Process::line`] has passed.
    seen: Mutex<usize>,
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Process").field("pid", &self.pid).finish_non_exhaustive()
    }
}

impl Process {
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Sends a signal to the program, and to it alone; false when it has exited.
    pub(crate) fn signal(&self, signal: Signal) -> bool {
        let _reaping = lock(&self.state);
        self.exit.borrow().is_none() && kill(nix_pid(self.pid), signal).is_ok()
    }

    /// Waits for the next line that contains a text, and passes it: the next call looks only at the
    /// lines after it.
    ///
    /// # Panics
    ///
    /// After a minute, with all lines.
    pub(crate) async fn line(&self, text: &str) -> String {
        let mut lines = self.lines.subscribe();
        let found = {
            let found = lines.wait_for(|lines| self.find(lines, text).is_some());
            tokio::time::timeout(PATIENCE, found).await.is_ok()
        };
        let lines = self.lines.borrow();
        let Some(place) = self.find(&lines, text).filter(|_| found) else {
            panic!("waited a minute for a line with {text:?}; there were:\n{}", lines.join("\n"));
        };
        *lock(&self.seen) = place + 1;
        lines[place].clone()
    }

    /// Waits for a line that contains a text, wherever it is: the two outputs are read side by side, so
    /// that lines of one and of the other come in any order.
    ///
    /// # Panics
    ///
    /// After a minute, with all lines.
    pub(crate) async fn any_line(&self, text: &str) -> String {
        let mut lines = self.lines.subscribe();
        let find = |lines: &Vec<String>| lines.iter().find(|line| line.contains(text)).cloned();
        let found = lines.wait_for(|lines| find(lines).is_some());
        if let Ok(Ok(lines)) = tokio::time::timeout(PATIENCE, found).await {
            return find(&lines).expect("waited for");
        }
        panic!(
            "waited a minute for a line with {text:?}; there were:\n{}",
            self.lines().join("\n")
        );
    }

    fn find(&self, lines: &[String], text: &str) -> Option<usize> {
        let seen = *lock(&self.seen);
        let place = lines.get(seen..)?.iter().position(|line| line.contains(text))?;
        Some(seen + place)
    }

    /// All lines up to now.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.lines.borrow().clone()
    }

    pub(crate) fn has_exited(&self) -> bool {
        self.exit.borrow().is_some()
    }

    /// Waits for the exit of the program.
    ///
    /// # Panics
    ///
    /// When it does not exit in this time, with all lines.
    pub(crate) async fn exit(&self, within: Duration) -> ExitStatus {
        let mut exit = self.exit.clone();
        let exited = tokio::time::timeout(within, exit.wait_for(Option::is_some)).await;
        match exited {
            Ok(Ok(status)) => status.expect("waited for it"),
            _ => {
                panic!("{} has not exited in {within:?}:\n{}", self.pid, self.lines().join("\n"))
            }
        }
    }

    /// The program and every process that descends from it and is still there, whoever is its parent
    /// now.
    #[cfg(target_os = "linux")]
    pub(crate) fn tree(&self) -> Vec<u32> {
        super::procfs::marked(MARK, &self.mark)
    }

    /// Ends the program and everything that it started, at once.
    pub(crate) fn kill(&self) {
        self.signal(Signal::SIGKILL);
        #[cfg(target_os = "linux")]
        loop {
            // Again until none is left: one may have been started meanwhile.
            let rest = self.tree();
            if rest.is_empty() {
                return;
            }
            for pid in rest {
                // It may have ended by itself.
                let _ = kill(nix_pid(pid), Signal::SIGKILL);
            }
            std::thread::yield_now();
        }
        #[cfg(not(target_os = "linux"))]
        {
            // The group that the program was started in; empty when all have ended.
            let _ = nix::sys::signal::killpg(nix_pid(self.pid), Signal::SIGKILL);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            #[expect(
                clippy::print_stderr,
                reason = "why a test failed is often said by the server"
            )]
            for line in self.lines() {
                eprintln!("[{}] {line}", self.pid);
            }
        }
    }
}

/// Sends a signal to a process that is not the started program itself: a worker, say.
pub(crate) fn signal(pid: u32, signal: Signal) {
    kill(nix_pid(pid), signal).unwrap_or_else(|error| panic!("cannot signal {pid}: {error}"));
}

/// The same for one that may have ended by itself by now; says whether it was still there.
pub(crate) fn signal_if_there(pid: u32, signal: Signal) -> bool {
    kill(nix_pid(pid), signal).is_ok()
}

fn nix_pid(pid: u32) -> Pid {
    Pid::from_raw(i32::try_from(pid).expect("a PID fits"))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
