//! The service manager's end of `NOTIFY_SOCKET`.

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use tempfile::TempDir;
use tokio::io::Interest;
use tokio::net::UnixDatagram;
use tokio::sync::{Mutex, mpsc};

const PATIENCE: Duration = Duration::from_secs(60);

/// Hears what a service says, at once: the kernel queues a few messages only, and then the service
/// waits.
#[derive(Debug)]
pub(crate) struct Notify {
    socket: Arc<UnixDatagram>,
    heard: Mutex<mpsc::UnboundedReceiver<Message>>,
    address: String,
    _directory: Option<TempDir>,
}

/// One message.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) lines: Vec<String>,
    pub(crate) fds: Vec<OwnedFd>,
}

impl Message {
    /// The value of a variable, if the message has it.
    pub(crate) fn value(&self, name: &str) -> Option<&str> {
        self.lines.iter().find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
    }
}

impl Notify {
    pub(crate) fn at_path() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("notify");
        let socket = UnixDatagram::bind(&path).expect("a socket");
        let address = path.into_os_string().into_string().expect("a path of text");
        Self::hear(socket, address, Some(directory))
    }

    pub(crate) fn at_abstract_name() -> Self {
        use std::os::linux::net::SocketAddrExt;
        use std::os::unix::net;
        use std::sync::atomic::{AtomicU32, Ordering};
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("graceful-test-{}-{number}", std::process::id());
        let address = net::SocketAddr::from_abstract_name(&name).expect("a name");
        let socket = net::UnixDatagram::bind_addr(&address).expect("a socket");
        socket.set_nonblocking(true).expect("a socket that does not block");
        let socket = UnixDatagram::from_std(socket).expect("a runtime");
        Self::hear(socket, format!("@{name}"), None)
    }

    fn hear(socket: UnixDatagram, address: String, directory: Option<TempDir>) -> Self {
        let (sender, heard) = mpsc::unbounded_channel();
        let socket = Arc::new(socket);
        let hearing = socket.clone();
        tokio::spawn(async move {
            while let Ok(message) = hearing.async_io(Interest::READABLE, || receive(&hearing)).await
            {
                if sender.send(message).is_err() {
                    return;
                }
            }
        });
        Self { socket, heard: Mutex::new(heard), address, _directory: directory }
    }

    /// What `NOTIFY_SOCKET` has to be.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Waits for the next message.
    pub(crate) async fn any(&self) -> Message {
        let mut heard = self.heard.lock().await;
        let message = tokio::time::timeout(PATIENCE, heard.recv()).await;
        message.expect("a message within a minute").expect("a task that hears")
    }

    /// Waits for the next message that is more than a line of status.
    pub(crate) async fn next(&self) -> Message {
        loop {
            let message = self.any().await;
            if message.lines.len() > 1 || message.value("STATUS").is_none() {
                return message;
            }
        }
    }

    /// Waits for a status that contains a text; other messages are passed.
    pub(crate) async fn status(&self, text: &str) -> String {
        loop {
            let message = self.any().await;
            if let Some(status) = message.value("STATUS").filter(|status| status.contains(text)) {
                return status.to_owned();
            }
        }
    }

    /// Everything that has come and was not received yet, but for the status.
    pub(crate) fn rest(&self) -> Vec<Message> {
        let mut heard = self.heard.try_lock().expect("nobody waits for a message");
        let heard = std::iter::from_fn(|| heard.try_recv().ok());
        // What the task has not heard yet; it does not run meanwhile, on this thread.
        let messages = heard.chain(std::iter::from_fn(|| receive(&self.socket).ok()));
        messages.filter(|message| message.value("STATUS").is_none()).collect()
    }
}

fn receive(socket: &UnixDatagram) -> io::Result<Message> {
    let mut bytes = [0; 4096];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(16))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut slices = [IoSliceMut::new(&mut bytes)];
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let length = recvmsg(socket, &mut slices, &mut control, flags)?.bytes;
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            fds.extend(received);
        }
    }
    let text = String::from_utf8_lossy(&bytes[..length]);
    Ok(Message { lines: text.lines().map(str::to_owned).collect(), fds })
}
