//! What a large download costs the master.

use std::fs;

use crate::build::{self, Signer, build, padded};
use crate::program::{Watching, http};
use crate::shelf::Shelf;
use crate::support::procfs;

const MIB: u64 = 1 << 20;

/// The most memory that a process had in RAM since this was last reset (proc_pid_status(5)), in bytes.
fn peak(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    let kib = line.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok());
    1024 * kib.expect("a number")
}

#[tokio::test]
async fn a_binary_of_100_mib_costs_less_than_8_mib() {
    let (shelf, signer) = (Shelf::open().await, Signer::new());
    let two = padded("2.0.0", "", 100 * MIB as usize);
    shelf.publish("/app", &two, &signer);
    let mut settings = http(&shelf.url("/app"), &signer);
    // The master stays what it is, so that there is one process to look at.
    settings["install_only"] = true.into();
    let app = Watching::start(&build("1.0.0", ""), settings).await;
    let pid = app.server.process.pid();
    let before = procfs::resident_kib(pid) * 1024;
    // From now on the peak counts (proc_pid_clear_refs(5)).
    fs::write(format!("/proc/{pid}/clear_refs"), "5").expect("reset the peak");
    let (status, answer) = app.check().await;
    assert_eq!((status, &answer["outcome"]), (200, &"installed".into()), "{answer}");
    let grown = peak(pid).saturating_sub(before);
    assert_eq!(build::sha256(&fs::read(app.path()).unwrap()), build::sha256(&two));
    println!("{} MiB were fetched and installed with {} KiB", two.len() as u64 / MIB, grown / 1024);
    assert!(grown < 8 * MIB, "{grown} bytes");
}
