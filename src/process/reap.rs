//! Reaps the orphans that the kernel gives to PID 1 and to subreapers (prctl(2),
//! `PR_SET_CHILD_SUBREAPER`).
//!
//! A child's status can be read once. So only children that this process has not started itself are
//! reaped here, as far as that can be told: a child that its code has started is in its process group
//! or leads one of its own, and is waited for by whoever started it. An orphan is mostly in the group
//! of a worker. What might be either is left alone for a while: who waits for a child does it before
//! that.

use std::{
    collections::{HashMap, HashSet},
    fs,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use nix::{
    sys::wait::{WaitPidFlag, waitpid},
    unistd::{Pid, getpgrp},
};

/// How long an ended child that may be our own is left to whoever started it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// Whether orphans come to this process.
pub(crate) fn adopts() -> bool {
    #[cfg(target_os = "linux")]
    let subreaper = nix::sys::prctl::get_child_subreaper().unwrap_or(false);
    #[cfg(not(target_os = "linux"))]
    let subreaper = false;
    subreaper || std::process::id() == 1
}

/// The children of this process that others wait for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Own(Arc<Mutex<HashSet<i32>>>);

impl Own {
    /// Every child of this process as of now.
    pub(crate) fn children() -> Self {
        Self(Arc::new(Mutex::new(children().collect())))
    }

    pub(crate) fn insert(&self, pid: u32) {
        self.lock().insert(pid as i32);
    }

    /// It was waited for.
    pub(crate) fn remove(&self, pid: u32) {
        self.lock().remove(&(pid as i32));
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<i32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Finds ended orphans and reaps them.
#[derive(Debug)]
pub(crate) struct Reaper {
    own: Own,
    group: i32,
    /// Ended children that may be our own, and when they were first seen.
    seen: HashMap<i32, Instant>,
}

impl Reaper {
    pub(crate) fn new(own: Own) -> Self {
        Self { own, group: getpgrp().as_raw(), seen: HashMap::new() }
    }

    /// Reaps what may be reaped; says whether to look again later.
    pub(crate) fn reap(&mut self, now: Instant) -> bool {
        let own = self.own.lock().clone();
        let ended: Vec<Child> = children()
            .filter(|pid| !own.contains(pid))
            .filter_map(Child::of)
            .filter(|child| child.ended)
            .collect();
        self.seen.retain(|pid, _| ended.iter().any(|child| child.pid == *pid));
        for child in ended {
            if !self.is_orphan(child, now) {
                continue;
            }
            self.seen.remove(&child.pid);
            // By its number, which stays its own until it is reaped. It is gone if somebody was faster.
            if waitpid(Pid::from_raw(child.pid), Some(WaitPidFlag::WNOHANG)).is_ok() {
                tracing::debug!(pid = child.pid, "reaped an orphan");
            }
        }
        !self.seen.is_empty()
    }

    fn is_orphan(&mut self, child: Child, now: Instant) -> bool {
        if child.group != self.group && child.group != child.pid {
            return true;
        }
        let since = *self.seen.entry(child.pid).or_insert(now);
        now.saturating_duration_since(since) >= PATIENCE
    }
}

#[derive(Clone, Copy, Debug)]
struct Child {
    pid: i32,
    group: i32,
    /// It is a zombie.
    ended: bool,
}

impl Child {
    /// `None` when it is gone.
    fn of(pid: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // pid (name) state parent group ...; the name may contain anything.
        let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
        let ended = fields.next()? == "Z";
        let group = fields.nth(1)?.parse().ok()?;
        Some(Self { pid, group, ended })
    }
}

/// The children of every thread (proc_pid_task(5)); none where the kernel does not tell.
fn children() -> impl Iterator<Item = i32> {
    let tasks = fs::read_dir("/proc/self/task").into_iter().flatten();
    tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("children")).ok()).flat_map(
        |list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>(),
    )
}

#[cfg(target_os = "linux")]
#[cfg(test)]
mod tests {
    use std::{
        os::unix::process::CommandExt,
        process::{Child as Process, Command},
    };

    use nix::sys::wait::{Id, waitid};

    use super::*;

    /// A child that has ended and is not reaped.
    fn zombie(group: Option<i32>) -> Process {
        let mut command = Command::new("true");
        if let Some(group) = group {
            command.process_group(group);
        }
        let child = command.spawn().unwrap();
        let id = Id::Pid(Pid::from_raw(child.id() as i32));
        waitid(id, WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT).unwrap();
        child
    }

    /// Others in this program start children, too, so only the given one is looked at.
    fn reaps(reaper: &mut Reaper, child: &Process, now: Instant) -> bool {
        let child = Child::of(child.id() as i32).unwrap();
        assert!(child.ended);
        reaper.is_orphan(child, now)
    }

    #[test]
    fn what_may_be_waited_for_is_left_alone_for_a_while() {
        let mut reaper = Reaper::new(Own::default());
        let start = Instant::now();
        for group in [None, Some(0)] {
            let mut child = zombie(group);
            assert!(!reaps(&mut reaper, &child, start));
            assert!(!reaps(&mut reaper, &child, start + PATIENCE / 2));
            assert!(reaps(&mut reaper, &child, start + PATIENCE));
            assert!(child.wait().unwrap().success(), "nobody has taken its status");
        }
    }

    #[test]
    fn a_member_of_a_strange_group_is_an_orphan() {
        let mut reaper = Reaper::new(Own::default());
        let mut leader = Command::new("sleep").arg("600").process_group(0).spawn().unwrap();
        let mut child = zombie(Some(leader.id() as i32));
        assert!(reaps(&mut reaper, &child, Instant::now()));
        child.wait().unwrap();
        leader.kill().unwrap();
        leader.wait().unwrap();
    }

    #[test]
    fn children_are_seen_from_every_thread_and_the_own_ones_are_known() {
        let mut child = std::thread::spawn(|| zombie(None)).join().unwrap();
        let pid = child.id();
        assert!(children().any(|child| child == pid as i32));
        let own = Own::children();
        assert!(own.lock().contains(&(pid as i32)));
        own.remove(pid);
        own.insert(pid);
        assert!(own.lock().contains(&(pid as i32)));
        assert!(child.wait().unwrap().success());
    }
}
