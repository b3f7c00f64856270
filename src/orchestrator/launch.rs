//! How the program of a worker is chosen, asked, started and, when it fails, remembered.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::{
    attend,
    link::Link,
    master::{Input, Master, Worker},
    preflight,
    state::{Event, Id},
};
use crate::process::{child::Child, image::Image, wire};

/// How the reason begins when the system could not start a program.
pub(super) const CANNOT_START: &str = "cannot start ";

/// What the master knows of a binary.
#[cfg(feature = "fetch")]
#[derive(Debug, Default)]
pub(crate) struct Known {
    /// It has failed before.
    pub(crate) failed: bool,
    /// What the worker runs that proved itself last.
    pub(crate) serving: Option<Arc<Image>>,
}

impl Master {
    /// A worker that never proved itself has ended: its binary is not tried again by itself.
    pub(super) fn remember_failure(&mut self, id: Id) {
        let Some(image) = self.unproven.remove(&id).filter(|_| !self.stopping) else { return };
        // It reads the whole file.
        self.errands.ask_blocking(move || Input::Failed(image.digest()));
    }

    pub(super) fn failed(&mut self, digest: std::io::Result<String>) {
        match digest {
            Ok(digest) => drop(self.failed.insert(digest)),
            Err(error) => tracing::warn!(%error, "a binary that failed cannot be remembered"),
        }
    }

    #[cfg(feature = "fetch")]
    pub(super) fn known(&self, digest: &str) -> Known {
        Known { failed: self.failed.contains(digest), serving: self.current.clone() }
    }

    /// Reloads if what the path names now has not failed before.
    pub(super) fn reload_untried(&mut self) {
        let path = self.program.path().to_owned();
        self.errands.ask_blocking(move || {
            // What cannot be read cannot have been tried; the reload will say what is wrong.
            Input::Untried(Image::open(&path).and_then(|image| image.digest()).ok())
        });
    }

    pub(super) fn untried(&mut self, digest: Option<String>) {
        match digest {
            Some(digest) if self.failed.contains(&digest) => {
                tracing::warn!(digest, "not reloaded: this binary has failed before");
            }
            _ => self.reload(),
        }
    }

    /// Asks the program what it is before it becomes a worker.
    pub(super) fn check(&mut self, id: Id) {
        self.checking.insert(id);
        let (program, limit) = (self.program.clone(), self.options.ready_timeout);
        self.errands.ask(async move {
            let answer = preflight::ask(&program, program.path(), limit, None).await;
            Input::Checked(id, answer.map(drop))
        });
    }

    pub(super) fn checked(&mut self, id: Id, result: Result<(), String>) {
        // Else it was killed meanwhile.
        if self.checking.remove(&id) {
            match result {
                Ok(()) => self.spawn(id, None),
                Err(why) => self.cannot_spawn(id, why),
            }
        }
    }

    /// Starts a worker from a pinned program or from what the path names now.
    pub(super) fn spawn(&mut self, id: Id, image: Option<Arc<Image>>) {
        match self.start(id, image) {
            Ok(worker) => {
                tracing::info!(generation = id, pid = worker.pid, "started a worker");
                self.report.spawned(id, worker.pid, worker.image.clone());
                self.workers.insert(id, worker);
            }
            Err(error) => {
                let path = self.program.path().display();
                self.cannot_spawn(id, format!("{CANNOT_START}{path}: {error}"));
            }
        }
    }

    pub(super) fn cannot_spawn(&self, id: Id, why: String) {
        // As an input: the machine is in the middle of a step.
        let _ = self.inputs.send(Input::Event(Event::Exited(id, why)));
    }

    /// Starts the task that attends a worker; gives the way to tell it what to do.
    pub(super) fn attend(
        &self,
        id: Id,
        child: Child,
        reader: wire::Reader,
    ) -> mpsc::UnboundedSender<attend::Order> {
        let (attendant, orders) = mpsc::unbounded_channel();
        tokio::spawn(attend::attend(id, child, reader, orders, self.inputs.clone()));
        attendant
    }

    fn start(&mut self, id: Id, image: Option<Arc<Image>>) -> std::io::Result<Worker> {
        let (ours, theirs) = wire::pair()?;
        let (reader, writer) = wire::open(ours)?;
        let (pid, image) = match image {
            Some(image) => (self.program.spawn_image(&image, theirs)?, Some(image)),
            None => {
                let (pid, image) = self.program.spawn(theirs)?;
                let image = image.map(Arc::new);
                self.unproven.extend(image.clone().map(|image| (id, image)));
                (pid, image)
            }
        };
        let attendant = self.attend(id, Child::new(pid), reader);
        let link = Link::new(writer);
        Ok(Worker { pid, image, link, attendant, reason: None, panic: None, unanswered: 0 })
    }
}
