//! What a program says of itself when it is asked instead of run: `GRACEFUL_CHECK=1 program`.

use std::{
    ffi::OsStr,
    io,
    path::Path,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use serde::{Deserialize, Serialize};
use tokio::{
    io::AsyncReadExt,
    process::{Child, Command},
    time::{sleep, timeout},
};

use super::{Place, message, provider::default_addresses, takeover};
use crate::{
    error::Error,
    process::{
        env,
        exec::{self, Program},
    },
};

/// Asks a program to say what it is, and to leave.
const CHECK: &str = "GRACEFUL_CHECK";
/// How the reason begins when the system could not start it.
pub(crate) const CANNOT_RUN: &str = "its check cannot be run";
/// What a program that knows nothing of this may print before it is stopped.
const MAX_OUTPUT: u64 = 1 << 20;
const BUSY_ATTEMPTS: u32 = 50;
const PAUSE: Duration = Duration::from_millis(10);

/// The answer: one line of JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Answer {
    /// The version of this crate.
    pub(crate) graceful: String,
    /// The version of the wire between master and worker.
    pub(crate) wire: u32,
    /// The version of the state that a master can take over; 0 where it cannot.
    pub(crate) takeover: u32,
    /// Where it would listen.
    pub(crate) listeners: Vec<String>,
    /// Its own version, where it says that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) version: Option<String>,
}

/// Whether this process is asked. Only the first call can find out.
pub(crate) fn is_asked() -> bool {
    env::take(CHECK).is_some_and(|value| !value.is_empty() && value != "0")
}

impl Answer {
    /// What this program answers.
    pub(crate) fn new(places: &[Place], version: Option<&str>) -> Result<Self, Error> {
        let mut listeners = Vec::new();
        for place in places {
            match place {
                Place::At(address) => listeners.push(address.to_string()),
                Place::Default => {
                    listeners.extend(default_addresses()?.iter().map(ToString::to_string));
                }
            }
        }
        Ok(Self {
            graceful: env!("CARGO_PKG_VERSION").to_owned(),
            wire: message::VERSION,
            takeover: if cfg!(target_os = "linux") { takeover::VERSION } else { 0 },
            listeners,
            version: version.map(str::to_owned),
        })
    }

    /// Prints it for whoever asked.
    #[allow(clippy::print_stdout, reason = "it is what this run of the program is for")]
    pub(crate) fn print(&self) {
        println!("{}", serde_json::to_string(self).expect("strings and numbers become JSON"));
    }

    /// The last line that is an answer; the program may have printed others.
    fn find(output: &[u8]) -> Option<Self> {
        let text = String::from_utf8_lossy(output);
        // Something may stand before it on its line.
        let parse = |line: &str| serde_json::from_str(&line[line.find("{\"graceful\":")?..]).ok();
        text.lines().rev().find_map(parse)
    }
}

/// What every program needs, and what tells it where to listen.
const NEEDED: [&str; 7] = ["GRACEFUL_LISTEN", "HOME", "LANG", "PATH", "PORT", "TMPDIR", "TZ"];

/// Runs the program at `path` and asks what it is. With `only`, it sees no more of the environment than
/// it needs and these variables.
pub(crate) async fn ask(
    program: &Program,
    path: &Path,
    limit: Duration,
    only: Option<&[String]>,
) -> Result<Answer, String> {
    let is_seen = |name: &OsStr| {
        let Some(names) = only else { return true };
        NEEDED.into_iter().chain(names.iter().map(String::as_str)).any(|needed| name == needed)
    };
    let environment = std::env::vars_os().filter(|(name, _)| is_seen(name));
    let command = program.command(path, environment.chain([(CHECK.into(), "1".into())]));
    let ended = async { run(Command::from(command?)).await.map_err(exec::explain) };
    let (status, output) = match timeout(limit, ended).await {
        Ok(Ok(ended)) => ended,
        Ok(Err(error)) => return Err(format!("{CANNOT_RUN}: {error}")),
        Err(_) => return Err(format!("its check did not end within {limit:?}")),
    };
    if output.len() as u64 > MAX_OUTPUT {
        return Err(format!("its check printed more than {MAX_OUTPUT} bytes"));
    }
    if !status.success() {
        return Err(format!("its check failed: {status}"));
    }
    let answer =
        Answer::find(&output).ok_or("its check printed no answer: is it built on this crate?")?;
    match answer.wire {
        message::VERSION => Ok(answer),
        wire => Err(format!("it speaks version {wire} of the wire, not {}", message::VERSION)),
    }
}

/// Runs it to its end, or until it has printed too much.
async fn run(mut command: Command) -> io::Result<(ExitStatus, Vec<u8>)> {
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut group = Group(spawn(&mut command).await?);
    let mut output = Vec::new();
    if let Some(stdout) = group.0.stdout.take() {
        stdout.take(MAX_OUTPUT + 1).read_to_end(&mut output).await?;
    }
    if output.len() as u64 > MAX_OUTPUT {
        group.kill();
    }
    Ok((group.0.wait().await?, output))
}

/// A file that was just written may still be open, for a moment, in a worker that is being forked.
async fn spawn(command: &mut Command) -> io::Result<Child> {
    for _ in 0..BUSY_ATTEMPTS {
        match command.spawn() {
            Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy => sleep(PAUSE).await,
            result => return result,
        }
    }
    command.spawn()
}

/// A child that leads a process group: it ends with this, and all that it has started.
struct Group(Child);

impl Group {
    fn kill(&self) {
        // No number when it was waited for: then the group may be another one.
        if let Some(pid) = self.0.id().and_then(|pid| i32::try_from(pid).ok()) {
            // It fails when all have ended.
            let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_is_found_among_other_lines() {
        let answer = Answer::new(&[Place::At("unix:/a".parse().unwrap())], Some("1.2.3")).unwrap();
        let line = serde_json::to_string(&answer).unwrap();
        let output = format!("starting\n{{\"a\":1}}\nready ... {line}\nbye\n");
        assert_eq!(Answer::find(output.as_bytes()), Some(answer));
        assert_eq!(Answer::find(b"hello\n"), None);
    }
}
