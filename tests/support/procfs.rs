//! What the kernel says about a process.

use std::fs;
use std::io::Read;
use std::time::Duration;

/// A child of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Child {
    pub(crate) pid: u32,
    /// It has exited and was not waited for.
    pub(crate) is_zombie: bool,
}

/// The children of a process, zombies among them.
pub(crate) fn children(parent: u32) -> Vec<Child> {
    let child = |pid| {
        let stat = Stat::of(pid)?;
        (stat.parent == parent).then_some(Child { pid, is_zombie: stat.state == 'Z' })
    };
    pids().filter_map(child).collect()
}

/// The living children of a process.
pub(crate) fn workers(parent: u32) -> Vec<u32> {
    children(parent).iter().filter(|child| !child.is_zombie).map(|child| child.pid).collect()
}

/// How many children of a process have exited and were not waited for.
pub(crate) fn zombies(parent: u32) -> usize {
    children(parent).iter().filter(|child| child.is_zombie).count()
}

/// Whether a process is there and has not exited.
pub(crate) fn is_running(pid: u32) -> bool {
    Stat::of(pid).is_some_and(|stat| stat.state != 'Z')
}

/// How many descriptors a process has open; none when it is gone.
pub(crate) fn descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

/// The memory of a process that is in RAM, in KiB; zero when it is gone.
pub(crate) fn resident_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// The CPU time that a living process has used: by all its threads, ended ones included.
pub(crate) fn cpu_time(pid: u32) -> Duration {
    // The kernel counts in hundredths here, on every platform (USER_HZ).
    Stat::of(pid).map_or(Duration::ZERO, |stat| Duration::from_millis(10 * stat.ticks))
}

/// Every living process whose environment, when it was started, had this variable with this value.
pub(crate) fn marked(name: &str, value: &str) -> Vec<u32> {
    let entry = format!("{name}={value}").into_bytes();
    let is_marked =
        |pid: &u32| environment(*pid).split(|byte| *byte == 0).any(|variable| variable == entry);
    pids().filter(is_marked).collect()
}

/// The environment that a process was started with; empty for a zombie, for a thread of the kernel
/// and for a process of somebody else.
fn environment(pid: u32) -> Vec<u8> {
    let mut environment = vec![0; 256 * 1024];
    for _ in 0..100 {
        // At one go: what was opened shows no more once the process is another program.
        let file = fs::File::open(format!("/proc/{pid}/environ"));
        let length = file.and_then(|mut file| file.read(&mut environment)).unwrap_or(0);
        // There is a moment in execve(2) in which the new program is there and its environment is
        // not.
        if length > 0 || fs::read_link(format!("/proc/{pid}/exe")).is_err() {
            environment.truncate(length);
            return environment;
        }
        std::thread::sleep(Duration::from_micros(100));
    }
    Vec::new()
}

fn pids() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").expect("/proc is mounted");
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

struct Stat {
    state: char,
    parent: u32,
    ticks: u64,
}

impl Stat {
    /// None when the process is gone.
    fn of(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name, in parentheses, may contain anything.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let ticks = |place: usize| fields.get(place)?.parse::<u64>().ok();
        Some(Self {
            state: fields.first()?.chars().next()?,
            parent: fields.get(1)?.parse().ok()?,
            ticks: ticks(11)? + ticks(12)?,
        })
    }
}
