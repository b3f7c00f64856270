//! What a program says of itself when it is asked instead of run: `GRACEFUL_CHECK=1 program`.

use std::{path::Path, process::Stdio, time::Duration};

use serde::{Deserialize, Serialize};
use tokio::{process::Command, time::timeout};

use super::{Place, message, provider::default_addresses, takeover};
use crate::{
    error::Error,
    process::{env, exec::Program},
};

/// Asks a program to say what it is, and to leave.
const CHECK: &str = "GRACEFUL_CHECK";

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
}

/// Whether this process is asked. Only the first call can find out.
pub(crate) fn is_asked() -> bool {
    env::take(CHECK).is_some_and(|value| !value.is_empty() && value != "0")
}

impl Answer {
    /// What this program answers.
    pub(crate) fn new(places: &[Place]) -> Result<Self, Error> {
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
            takeover: takeover::VERSION,
            listeners,
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

/// Runs the program at `path` and asks what it is.
pub(crate) async fn ask(program: &Program, path: &Path, limit: Duration) -> Result<Answer, String> {
    let mut command = Command::from(program.command(path));
    command.env(CHECK, "1").stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
    let running = async { command.spawn()?.wait_with_output().await };
    let output = match timeout(limit, running).await {
        Ok(Ok(output)) => output,
        Ok(Err(error)) => return Err(format!("its check cannot be run: {error}")),
        Err(_) => return Err(format!("its check did not end within {limit:?}")),
    };
    if !output.status.success() {
        return Err(format!("its check failed: {}", output.status));
    }
    let answer = Answer::find(&output.stdout)
        .ok_or("its check printed no answer: is it built on this crate?")?;
    match answer.wire {
        message::VERSION => Ok(answer),
        wire => Err(format!("it speaks version {wire} of the wire, not {}", message::VERSION)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_is_found_among_other_lines() {
        let answer = Answer::new(&[Place::At("unix:/a".parse().unwrap())]).unwrap();
        let line = serde_json::to_string(&answer).unwrap();
        let output = format!("starting\n{{\"a\":1}}\nready ... {line}\nbye\n");
        assert_eq!(Answer::find(output.as_bytes()), Some(answer));
        assert_eq!(Answer::find(b"hello\n"), None);
    }
}
