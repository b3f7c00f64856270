//! Tells systemd what this process is doing (sd_notify(3)), and leaves copies of the listening
//! sockets in its descriptor store (systemd.service(5), `FileDescriptorStoreMax=`).
//!
//! ```text
//! start                  EXTEND_TIMEOUT_USEC
//! first worker ready     READY=1
//! reload begins          RELOADING=1, MONOTONIC_USEC, EXTEND_TIMEOUT_USEC
//! reload ends            READY=1, whatever its outcome
//! stop                   STOPPING=1, EXTEND_TIMEOUT_USEC
//! a listener is bound    FDSTORE=1, FDNAME        and FDSTOREREMOVE=1 when it is closed
//! ```

use std::{
    ffi::{OsStr, OsString},
    io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::{ffi::OsStrExt, net},
    },
    time::Duration,
};

use nix::{
    sys::socket::{ControlMessage, MsgFlags, sendmsg},
    time::{ClockId, clock_gettime},
};
use tokio::{
    io::Interest,
    net::UnixDatagram,
    sync::{mpsc, oneshot},
    time::timeout,
};

use super::state::{Action, Event};
use crate::process::env;

/// What a step may take beyond the limit that the options give it, before systemd loses patience.
const MARGIN: Duration = Duration::from_secs(5);
/// How long the last messages may take.
const FAREWELL: Duration = Duration::from_secs(1);

/// The service manager above this process, if there is one.
#[derive(Debug)]
pub(crate) struct Systemd {
    messages: Messages,
    environment: Vec<(&'static str, OsString)>,
    watchdog: Option<Duration>,
    limits: Limits,
    stage: Stage,
    /// The last one that was sent.
    status: String,
}

/// How long each step may take by the options.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) start: Duration,
    pub(crate) reload: Duration,
    pub(crate) stop: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Starting,
    Running,
    Reloading,
    Stopping,
}

impl Systemd {
    /// Takes `NOTIFY_SOCKET` and the watchdog's variables out of the environment, so that neither a
    /// worker nor any other child speaks in the name of this process.
    ///
    /// Must be called inside a runtime.
    pub(crate) fn from_env(limits: Limits) -> Self {
        let names = ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"];
        let taken = names.map(env::take);
        let [socket, interval, pid] = taken.each_ref().map(Option::as_deref);
        let messages = Messages(match socket.map(address) {
            Some(Ok(address)) => {
                let (sender, queue) = mpsc::unbounded_channel();
                // It ends with the last sender; `finish` waits for what was sent until then.
                tokio::spawn(deliver(address, queue));
                Some(sender)
            }
            Some(Err(error)) => {
                tracing::warn!(?socket, %error, "cannot use NOTIFY_SOCKET");
                None
            }
            None => None,
        });
        let watchdog = watchdog(interval, pid, std::process::id()).filter(|_| messages.is_heard());
        let set = names.into_iter().zip(taken);
        let environment = set.filter_map(|(name, value)| Some((name, value?))).collect();
        let (stage, status) = (Stage::Starting, String::new());
        Self { messages, environment, watchdog, limits, stage, status }
    }

    /// The first worker is on its way.
    pub(crate) fn start(&mut self) {
        self.send(&[&extend(self.limits.start)]);
    }

    /// The service runs already: another program has started it in this process.
    pub(crate) fn go_on(&mut self) {
        self.stage = Stage::Running;
    }

    /// The variables that [`from_env`](Self::from_env) has taken: for a program that replaces this
    /// one in the same process.
    pub(crate) fn environment(&self) -> &[(&'static str, OsString)] {
        &self.environment
    }

    /// How often systemd expects a sign of life, twice within its limit; `None` when it expects none.
    pub(crate) fn watch_interval(&self) -> Option<Duration> {
        self.watchdog.map(|limit| limit / 2)
    }

    /// A way to send messages from elsewhere.
    pub(crate) fn messages(&self) -> Messages {
        self.messages.clone()
    }

    /// Notes what has happened; to be called before the actions that follow from it.
    pub(crate) fn event(&mut self, event: &Event) {
        match event {
            Event::Stop => self.stopping(),
            // From now on, even if it has to wait for a worker that is on its way.
            Event::Reload | Event::Rollback if self.stage == Stage::Running => {
                self.reloading();
            }
            _ => {}
        }
    }

    /// Tells of what the master is about to do.
    pub(crate) fn action(&mut self, action: &Action) {
        match action {
            Action::Settle(_) if self.stage == Stage::Starting => self.ready(),
            // A reload that was remembered while the last one ran.
            Action::Spawn(_) | Action::Rollback(_) if self.stage == Stage::Running => {
                self.reloading();
            }
            Action::Reloaded(_) if self.stage == Stage::Reloading => self.ready(),
            // Not every stop was asked for.
            Action::Drain { successor: None, .. } | Action::Leave(_) => self.stopping(),
            _ => {}
        }
    }

    /// The first worker serves, or a reload is over.
    pub(crate) fn ready(&mut self) {
        self.stage = Stage::Running;
        self.send(&["READY=1"]);
    }

    fn reloading(&mut self) {
        self.stage = Stage::Reloading;
        // systemd tells a reload that it has asked for from an earlier one by this time.
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from);
        let now = format!("MONOTONIC_USEC={}", now.as_micros());
        self.send(&["RELOADING=1", &now, &extend(self.limits.reload)]);
    }

    /// The end has begun.
    pub(crate) fn stopping(&mut self) {
        if self.stage != Stage::Stopping {
            self.stage = Stage::Stopping;
            self.send(&["STOPPING=1", &extend(self.limits.stop)]);
        }
    }

    /// Whether there is anybody to tell.
    pub(crate) fn is_heard(&self) -> bool {
        self.messages.is_heard()
    }

    /// Shows a line in `systemctl status`, if it is not the one that is there.
    pub(crate) fn status(&mut self, status: &str) {
        if self.messages.is_heard() && self.status != status {
            self.status = status.to_owned();
            // A message is made of lines.
            self.send(&[&format!("STATUS={}", status.replace(['\n', '\r'], " "))]);
        }
    }

    fn send(&self, lines: &[&str]) {
        self.messages.send(lines.join("\n"), None);
    }

    /// Waits until everything is sent.
    pub(crate) async fn finish(&self) {
        if let Some(queue) = &self.messages.0 {
            let (done, sent) = oneshot::channel();
            let _ = queue.send(Message::Flush(done));
            let _ = timeout(FAREWELL, sent).await;
        }
    }
}

fn extend(limit: Duration) -> String {
    format!("EXTEND_TIMEOUT_USEC={}", (limit + MARGIN).as_micros())
}

fn watchdog(interval: Option<&OsStr>, pid: Option<&OsStr>, own: u32) -> Option<Duration> {
    let number = |text: &OsStr| text.to_str()?.parse::<u64>().ok();
    if pid.is_some_and(|pid| number(pid) != Some(own.into())) {
        return None;
    }
    interval.and_then(number).filter(|micros| *micros > 0).map(Duration::from_micros)
}

fn address(socket: &OsStr) -> io::Result<net::SocketAddr> {
    match socket.as_bytes() {
        [b'/', ..] => net::SocketAddr::from_pathname(socket),
        #[cfg(target_os = "linux")]
        [b'@', name @ ..] => {
            use std::os::linux::net::SocketAddrExt;
            net::SocketAddr::from_abstract_name(name)
        }
        _ => Err(io::Error::new(io::ErrorKind::Unsupported, "it is not a Unix socket")),
    }
}

/// Sends messages without ever waiting: systemd may be busy, and the master must not be.
#[derive(Clone, Debug, Default)]
pub(crate) struct Messages(Option<mpsc::UnboundedSender<Message>>);

#[derive(Debug)]
enum Message {
    Text(String, Option<OwnedFd>),
    /// Everything before it is sent.
    Flush(oneshot::Sender<()>),
}

impl Messages {
    fn send(&self, text: String, fd: Option<OwnedFd>) {
        if let Some(queue) = &self.0 {
            tracing::trace!(text, "to systemd");
            // The other end lives as long as the runtime.
            let _ = queue.send(Message::Text(text, fd));
        }
    }

    /// A sign of life.
    pub(crate) fn watchdog(&self) {
        self.send("WATCHDOG=1".to_owned(), None);
    }

    /// Leaves a copy of a descriptor with systemd, under a name of at most 255 bytes of ASCII without
    /// control characters and colons. A copy that it has already is not kept twice.
    pub(crate) fn store(&self, name: &str, fd: OwnedFd) {
        self.send(format!("FDSTORE=1\nFDNAME={name}"), Some(fd));
    }

    /// Has systemd close its copy.
    pub(crate) fn remove(&self, name: &str) {
        self.send(format!("FDSTOREREMOVE=1\nFDNAME={name}"), None);
    }

    /// Whether anybody hears.
    pub(crate) fn is_heard(&self) -> bool {
        self.0.is_some()
    }
}

async fn deliver(address: net::SocketAddr, mut queue: mpsc::UnboundedReceiver<Message>) {
    while let Some(message) = queue.recv().await {
        let (text, fd) = match message {
            Message::Text(text, fd) => (text, fd),
            Message::Flush(done) => {
                // Whoever asked may have lost patience.
                let _ = done.send(());
                continue;
            }
        };
        if let Err(error) = send(&address, &text, fd.as_ref()).await {
            tracing::warn!(text, %error, "cannot tell systemd");
        }
    }
}

/// On a socket of its own, as sd_notify(3) does: the manager may have bound a new one since.
async fn send(address: &net::SocketAddr, text: &str, fd: Option<&OwnedFd>) -> io::Result<()> {
    let socket = net::UnixDatagram::unbound()?;
    socket.connect_addr(address)?;
    socket.set_nonblocking(true)?;
    let socket = UnixDatagram::from_std(socket)?;
    let numbers: Vec<_> = fd.iter().map(|fd| fd.as_raw_fd()).collect();
    let rights = [ControlMessage::ScmRights(&numbers)];
    let control: &[ControlMessage<'_>] = if numbers.is_empty() { &[] } else { &rights };
    let bytes = [io::IoSlice::new(text.as_bytes())];
    #[cfg(target_os = "linux")]
    let flags = MsgFlags::MSG_NOSIGNAL;
    #[cfg(not(target_os = "linux"))]
    let flags = MsgFlags::empty();
    let send = || Ok(sendmsg::<()>(socket.as_raw_fd(), &bytes, control, flags, None)?);
    socket.async_io(Interest::WRITABLE, send).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_watchdog_is_for_the_process_that_it_names() {
        let watchdog = |usec: Option<&str>, pid: Option<&str>| {
            watchdog(usec.map(OsStr::new), pid.map(OsStr::new), 42)
        };
        let limit = Some(Duration::from_micros(3_000_000));
        assert_eq!(watchdog(Some("3000000"), Some("42")), limit);
        assert_eq!(watchdog(Some("3000000"), None), limit);
        for (usec, pid) in [
            (Some("3000000"), Some("43")),
            (Some("3000000"), Some("x")),
            (Some("0"), None),
            (Some("soon"), None),
            (None, Some("42")),
        ] {
            assert_eq!(watchdog(usec, pid), None, "{usec:?} {pid:?}");
        }
    }

    #[test]
    fn paths_and_abstract_names_are_addresses_and_nothing_else_is() {
        assert!(address("/run/systemd/notify".as_ref()).unwrap().as_pathname().is_some());
        #[cfg(target_os = "linux")]
        assert!(address("@name".as_ref()).is_ok());
        for socket in ["", "relative", "vsock:2:1234"] {
            assert!(address(socket.as_ref()).is_err(), "{socket:?}");
        }
    }

    fn systemd() -> (Systemd, mpsc::UnboundedReceiver<Message>) {
        let (sender, queue) = mpsc::unbounded_channel();
        let limits = [5, 10, 15].map(Duration::from_secs);
        let systemd = Systemd {
            messages: Messages(Some(sender)),
            environment: Vec::new(),
            watchdog: None,
            limits: Limits { start: limits[0], reload: limits[1], stop: limits[2] },
            stage: Stage::Starting,
            status: String::new(),
        };
        (systemd, queue)
    }

    fn said(queue: &mut mpsc::UnboundedReceiver<Message>) -> Vec<String> {
        let first = |text: String| text.lines().next().unwrap().to_owned();
        std::iter::from_fn(|| text(queue)).map(first).collect()
    }

    fn text(queue: &mut mpsc::UnboundedReceiver<Message>) -> Option<String> {
        match queue.try_recv().ok()? {
            Message::Text(text, _) => Some(text),
            Message::Flush(_) => None,
        }
    }

    #[test]
    fn each_reload_ends_with_ready_and_a_respawn_is_none() {
        let (mut systemd, mut queue) = systemd();
        systemd.action(&Action::Spawn(1));
        assert!(said(&mut queue).is_empty());
        systemd.action(&Action::Settle(1));
        assert_eq!(said(&mut queue), ["READY=1"]);
        systemd.action(&Action::Respawn(2));
        systemd.action(&Action::Settle(2));
        assert!(said(&mut queue).is_empty());
        for outcome in [Ok(3), Err("it died".to_owned())] {
            systemd.action(&Action::Spawn(3));
            assert_eq!(said(&mut queue), ["RELOADING=1"]);
            systemd.action(&Action::Settle(3));
            systemd.action(&Action::Reloaded(outcome));
            assert_eq!(said(&mut queue), ["READY=1"]);
        }
    }

    #[test]
    fn after_stopping_it_is_never_ready_again() {
        let (mut systemd, mut queue) = systemd();
        systemd.action(&Action::Settle(1));
        systemd.action(&Action::Spawn(2));
        said(&mut queue);
        systemd.event(&Event::Stop);
        systemd.action(&Action::Reloaded(Err("the server is stopping".to_owned())));
        systemd.action(&Action::Drain { id: 1, successor: None });
        systemd.event(&Event::Stop);
        systemd.action(&Action::Leave(Ok(())));
        assert_eq!(said(&mut queue), ["STOPPING=1"]);
    }

    #[test]
    fn a_status_is_one_line_and_sent_once() {
        let (mut systemd, mut queue) = systemd();
        systemd.status("it died:\nREADY=1");
        systemd.status("it died:\nREADY=1");
        assert_eq!(text(&mut queue).as_deref(), Some("STATUS=it died: READY=1"));
        assert_eq!(text(&mut queue), None);
    }
}
