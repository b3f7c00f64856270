//! Where the program is: behind a link, on a full disk, where nobody may write, where a trap is laid,
//! and where two servers run from one file.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::json;

use crate::build::{self, Signer, build};
use crate::program::{Watching, http, names};
use crate::shelf::{Fault, Shelf};
use crate::support::server::Setup;
use crate::support::skip;

#[tokio::test]
async fn a_read_only_program_is_replaced_by_switching_a_link() {
    let (shelf, signer, two) = (Shelf::open().await, Signer::new(), build("2.0.0", ""));
    shelf.publish("/app", &two, &signer);
    let package = tempfile::tempdir().unwrap();
    let shipped = package.path().join("app");
    build::put(&shipped, &build("1.0.0", ""));
    let directory = tempfile::tempdir().unwrap();
    let (link, versions) = (directory.path().join("current"), directory.path().join("versions"));
    fs::create_dir(&versions).unwrap();
    symlink(&shipped, &link).unwrap();
    let mut settings = http(&shelf.url("/app"), &signer);
    settings["versions"] = versions.to_str().unwrap().into();
    let bake = |setup: Setup, _: &Path| setup.bake(Duration::from_millis(800));
    let app = Watching::at(&link, directory, settings, bake).await;
    assert_eq!(app.check().await.1["version"], "2.0.0");
    let name = format!("current-{}", &build::sha256(&two)[..16]);
    assert_eq!(fs::read_link(&link).unwrap(), versions.canonicalize().unwrap().join(&name));
    assert_eq!(names(&versions), [name.as_str()]);
    app.serves("2.0.0").await;
    app.server.becomes(&link).await;
    // A version that crashes leaves nothing but its digest.
    shelf.publish("/app", &build("3.0.0", "die 0"), &signer);
    assert!(app.failure().await.contains("failed its trial"));
    assert_eq!(names(&versions), [name.as_str(), "current.refused"]);
    assert_eq!(app.names(), ["current", "versions"]);
    assert!(fs::read(&link).unwrap() == two);
    app.serves("2.0.0").await;
}

#[tokio::test]
async fn a_trap_at_the_temporary_path_catches_nothing() {
    let (shelf, signer) = (Shelf::open().await, Signer::new());
    shelf.publish("/app", &build("2.0.0", ""), &signer);
    let one = build("1.0.0", "");
    let app = Watching::start(&one, http(&shelf.url("/app"), &signer)).await;
    let victim = app.directory.path().join("victim");
    fs::write(&victim, "precious").unwrap();
    let trap = app.directory.path().join(".app.new");
    symlink(&victim, &trap).unwrap();
    let why = app.failure().await;
    assert_eq!(why, format!("{} is in the way, and no file of ours", trap.display()));
    assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
    assert!(fs::read(app.path()).unwrap() == one);
    assert_eq!(app.names(), [".app.new", "app", "victim"]);
    // What a killed master has left is no trap.
    fs::remove_file(&trap).unwrap();
    fs::write(&trap, "half").unwrap();
    assert_eq!(app.check().await.1["version"], "2.0.0");
}

#[tokio::test]
async fn two_servers_of_one_file_take_turns() {
    let (shelf, signer, two) = (Shelf::open().await, Signer::new(), build("2.0.0", ""));
    let settings = http(&shelf.url("/app"), &signer);
    let first = Watching::start(&build("1.0.0", ""), settings.clone()).await;
    let path = first.path();
    let elsewhere = tempfile::tempdir().unwrap();
    let second = Watching::at(&path, elsewhere, settings, |setup, _| setup).await;
    // The first one is in the middle of it.
    shelf.publish("/app", &two, &signer);
    shelf.put_faulty("/app", two.clone(), Fault::Stall(1000));
    assert_eq!(first.ask("POST", "/upgrade").await.0, 202);
    first.until("it fetches", |status| status["upgrade"]["received"] == 1000).await;
    shelf.put("/app", two.clone());
    let why = second.failure().await;
    let busy = format!("another process is upgrading {}", path.canonicalize().unwrap().display());
    assert!(why.starts_with(&busy), "{why}");
    assert_eq!(first.names(), [".app.new", "app"], "nobody has removed what it writes to");
    // It gives up, and the second one goes ahead; for the first one there is only to reload then.
    first.server.process.signal(nix::sys::signal::Signal::SIGTERM);
    assert!(first.server.process.exit(Duration::from_secs(30)).await.success());
    assert_eq!(names(path.parent().unwrap()), ["app"]);
    assert_eq!(second.check().await.1["version"], "2.0.0");
}

#[tokio::test]
async fn what_another_server_has_installed_is_only_reloaded() {
    let (shelf, signer, two) = (Shelf::open().await, Signer::new(), build("2.0.0", ""));
    let settings = http(&shelf.url("/app"), &signer);
    let first = Watching::start(&build("1.0.0", ""), settings.clone()).await;
    let elsewhere = tempfile::tempdir().unwrap();
    let second = Watching::at(&first.path(), elsewhere, settings, |setup, _| setup).await;
    shelf.publish("/app", &two, &signer);
    assert_eq!(first.check().await.1["outcome"], "upgraded");
    let names = first.names();
    let (status, answer) = second.check().await;
    assert_eq!((status, &answer["outcome"]), (200, &json!("upgraded")), "{answer}");
    second.serves("2.0.0").await;
    assert_eq!(first.names(), names, "it was not installed again");
}

/// How a command gets file systems of its own; nothing where that is not allowed.
fn unshare() -> Option<Vec<&'static str>> {
    let ways: [&[&str]; 2] = [&["--mount"], &["--mount", "--map-root-user"]];
    let works = |way: &&[&str]| {
        let mount = ["mount", "-t", "tmpfs", "none", "/mnt"];
        let probe = Command::new("unshare").args(*way).args(mount).output();
        probe.is_ok_and(|probe| probe.status.success())
    };
    ways.iter().find(|way| works(way)).map(|way| way.to_vec())
}

/// A server that runs after `prepare` has mounted something over its directory.
async fn mounted(
    one: &[u8],
    settings: serde_json::Value,
    prepare: &str,
) -> Option<(Watching, PathBuf)> {
    let way = unshare()?;
    let start = |setup: Setup, directory: &Path| {
        let directory = directory.to_str().expect("text").to_owned();
        let script = format!("d={directory}; {prepare}; exec \"$@\"");
        let mut args = way.clone();
        args.extend(["sh", "-ec", &script, "sh"]);
        setup.under("unshare", &args)
    };
    let app = Watching::with(one, settings, start).await;
    // The directory as the server sees it.
    let root = PathBuf::from(format!("/proc/{}/root", app.server.process.pid()));
    let seen = root.join(app.directory.path().strip_prefix("/").expect("absolute"));
    Some((app, seen))
}

#[tokio::test]
async fn a_full_disk_is_an_error_and_nothing_stays_on_it() {
    let (shelf, signer, two) = (Shelf::open().await, Signer::new(), build("2.0.0", ""));
    shelf.publish("/app", &two, &signer);
    let one = build("1.0.0", "");
    // There is room for one and a half of them.
    let size = one.len() + one.len() / 2;
    let prepare = format!(
        "cp $d/app $d/../$$.app; mount -t tmpfs -o size={size} none $d; \
         cp $d/../$$.app $d/app; rm $d/../$$.app"
    );
    let settings = http(&shelf.url("/app"), &signer);
    let Some((app, seen)) = mounted(&one, settings, &prepare).await else {
        return skip("no file system can be mounted here: it takes root");
    };
    let why = app.failure().await;
    assert_eq!(why, "cannot write the download: No space left on device (os error 28)");
    assert_eq!(names(&seen), ["app"]);
    app.serves("1.0.0").await;
    assert_eq!(app.status().await["generation"], 1);
    assert!(fs::read(seen.join("app")).unwrap() == one);
}

#[tokio::test]
async fn where_nobody_may_write_nothing_is_tried() {
    let (shelf, signer) = (Shelf::open().await, Signer::new());
    shelf.publish("/app", &build("2.0.0", ""), &signer);
    let settings = http(&shelf.url("/app"), &signer);
    let prepare = "mount --bind $d $d; mount -o remount,bind,ro $d";
    let Some((app, seen)) = mounted(&build("1.0.0", ""), settings, prepare).await else {
        return skip("no file system can be mounted here: it takes root");
    };
    let why = app.failure().await;
    assert!(why.starts_with("cannot create "), "{why}");
    assert!(why.ends_with("/.app.new: Read-only file system (os error 30)"), "{why}");
    assert_eq!(names(&seen), ["app"]);
    app.serves("1.0.0").await;
}
