use super::*;

fn program(directory: &Path) -> PathBuf {
    let path = directory.join("app");
    fs::write(&path, "one").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o750)).unwrap();
    path
}

/// The names of what is there.
fn names(directory: &Path) -> Vec<String> {
    let name = |entry: fs::DirEntry| entry.file_name().into_string().unwrap();
    let mut names: Vec<_> = fs::read_dir(directory).unwrap().flatten().map(name).collect();
    names.sort();
    names
}

fn put(target: &mut Target, content: &str, digest: char) -> Previous {
    let (new, mut file) = target.create().unwrap();
    io::Write::write_all(&mut file, content.as_bytes()).unwrap();
    drop(file);
    target.dress(&new).unwrap();
    target.install(new, &digest.to_string().repeat(64), false).unwrap()
}

#[test]
fn a_file_is_replaced_and_put_back() {
    let directory = tempfile::tempdir().unwrap();
    let path = program(directory.path());
    let id = |path: &Path| fs::metadata(path).unwrap().ino();
    let one = id(&path);
    let mut target = Target::lock(&path, None).unwrap();
    let previous = put(&mut target, "two", '2');
    assert_eq!(fs::read_to_string(&path).unwrap(), "two");
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o750);
    assert_eq!(names(directory.path()), ["app", "app.previous"]);
    assert_eq!(id(&directory.path().join("app.previous")), one, "the same file");
    target.restore(&previous).unwrap();
    assert_eq!((fs::read_to_string(&path).unwrap().as_str(), id(&path)), ("one", one));
    assert_eq!(names(directory.path()), ["app"]);
}

#[test]
fn a_link_is_switched_and_only_one_older_version_is_kept() {
    let directory = tempfile::tempdir().unwrap();
    let first = program(directory.path());
    let (link, versions) = (directory.path().join("current"), directory.path().join("versions"));
    fs::create_dir(&versions).unwrap();
    fs::write(versions.join("current-notes"), "of a person").unwrap();
    std::os::unix::fs::symlink("app", &link).unwrap();
    let lock = || Target::lock(&link, Some(&versions)).unwrap();
    let version = |digit: char| format!("current-{}", digit.to_string().repeat(16));
    for digit in ['a', 'b', 'c'] {
        put(&mut lock(), &digit.to_string(), digit);
        assert_eq!(fs::read_to_string(&link).unwrap(), digit.to_string());
    }
    assert_eq!(names(&versions), [version('b'), version('c'), "current-notes".to_owned()]);
    let mut target = lock();
    let previous = put(&mut target, "d", 'd');
    target.restore(&previous).unwrap();
    assert_eq!(fs::read_to_string(&link).unwrap(), "c");
    assert_eq!(names(&versions), [version('c'), "current-notes".to_owned()]);
    assert_eq!(fs::read_to_string(first).unwrap(), "one", "the first one was not ours");
    assert!(matches!(Target::lock(&versions, Some(&versions)), Err(Failure::NoLink(_))));
}

#[test]
fn one_at_a_time_whatever_file_is_there() {
    let directory = tempfile::tempdir().unwrap();
    let path = program(directory.path());
    let mut target = Target::lock(&path, None).unwrap();
    let is_busy = || matches!(Target::lock(&path, None), Err(Failure::Busy(_)));
    assert!(is_busy());
    let previous = put(&mut target, "two", '2');
    assert!(is_busy(), "the new file is locked from its first moment there");
    target.restore(&previous).unwrap();
    assert!(is_busy(), "and so is the old one that is back");
    drop(target);
    Target::lock(&path, None).unwrap();
}

#[test]
fn a_program_found_by_a_link_is_replaced_where_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let path = program(directory.path());
    let link = directory.path().join("link");
    std::os::unix::fs::symlink("app", &link).unwrap();
    put(&mut Target::lock(&link, None).unwrap(), "two", '2');
    assert!(link.is_symlink());
    assert_eq!(fs::read_to_string(&path).unwrap(), "two");
}

#[test]
fn what_is_planted_at_the_temporary_path_is_not_touched() {
    let directory = tempfile::tempdir().unwrap();
    let path = program(directory.path());
    let victim = directory.path().join("victim");
    fs::write(&victim, "precious").unwrap();
    let temporary = directory.path().join(".app.new");
    std::os::unix::fs::symlink(&victim, &temporary).unwrap();
    let target = Target::lock(&path, None).unwrap();
    assert!(matches!(target.create(), Err(Failure::Planted(_))));
    assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
    fs::remove_file(&temporary).unwrap();
    // A master that was killed has left this.
    fs::write(&temporary, "half of a binary").unwrap();
    let (new, file) = target.create().unwrap();
    assert_eq!(file.metadata().unwrap().mode() & 0o777, 0o600, "nobody else may write");
    assert_eq!(file.metadata().unwrap().len(), 0);
    drop(new);
    assert_eq!(names(directory.path()), ["app", "victim"], "nothing stays behind");
}

#[test]
fn what_has_failed_is_remembered() {
    let directory = tempfile::tempdir().unwrap();
    let target = Target::lock(&program(directory.path()), None).unwrap();
    assert!(target.refused().is_empty());
    for digest in ["a", "b", "a"] {
        target.refuse(digest).unwrap();
    }
    assert_eq!(target.refused(), ["a", "b"]);
    (0..100).for_each(|number| target.refuse(&number.to_string()).unwrap());
    assert_eq!(target.refused().len(), REMEMBERED);
    assert_eq!(target.refused().last().unwrap(), "99");
    assert_eq!(names(directory.path()), ["app", "app.refused"]);
}

#[test]
fn a_trial_that_nobody_has_ended_is_gone_back_from() {
    let directory = tempfile::tempdir().unwrap();
    let path = program(directory.path());
    let install = |content: &str| {
        let mut target = Target::lock(&path, None).unwrap();
        let (new, mut file) = target.create().unwrap();
        io::Write::write_all(&mut file, content.as_bytes()).unwrap();
        drop(file);
        let digest = Image::open(new.path()).unwrap().digest().unwrap();
        target.install(new, &digest, true).unwrap();
    };
    let recover = || Target::lock(&path, None).unwrap().recover().unwrap();
    assert!(!recover(), "there was none");
    install("two");
    assert_eq!(names(directory.path()), ["app", "app.previous", "app.trial"]);
    assert!(recover());
    assert_eq!(fs::read_to_string(&path).unwrap(), "one");
    assert_eq!(names(directory.path()), ["app"]);
    // What somebody has deployed since is not on trial.
    install("two");
    fs::write(&path, "three").unwrap();
    assert!(!recover());
    assert_eq!(fs::read_to_string(&path).unwrap(), "three");
    assert_eq!(names(directory.path()), ["app", "app.previous"]);
    // And a garbled note says nothing.
    fs::write(directory.path().join("app.trial"), "{").unwrap();
    assert!(!recover());
}
