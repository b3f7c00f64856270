//! Messages between two processes: JSON frames with their length in front, and descriptors beside
//! them (`SCM_RIGHTS`, unix(7)).

use std::{
    collections::VecDeque,
    io::{self, IoSlice, IoSliceMut},
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg,
    sendmsg, socketpair,
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::{io::Interest, net::UnixStream};

/// A frame longer than this is garbage: the largest ones are lists of cut requests.
const MAX_FRAME: usize = 1 << 20;
/// Descriptors in one `sendmsg` (Linux allows 253).
pub(crate) const MAX_FDS: usize = 64;
/// A text from outside that becomes part of a message: a path, the words of a panic.
const MAX_TEXT: usize = 1024;
/// The kernel takes so much of a stream as a whole or not at all (`unix_stream_sendmsg` cuts it into buffers of
/// 32 KiB at least).
const ATOMIC: usize = 16 * 1024;
/// Length of the JSON text and number of descriptors, both as big-endian `u32`.
const HEAD: usize = 8;

/// The beginning of a text, so that the message with it has room on the wire.
pub(crate) fn short(text: &str) -> String {
    match text.len() > MAX_TEXT {
        true => format!("{}…", &text[..text.floor_char_boundary(MAX_TEXT)]),
        false => text.to_owned(),
    }
}

/// The two ends of a new wire: ours, and the one that a child will inherit.
pub(crate) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    #[cfg(target_os = "linux")]
    let flags = SockFlag::SOCK_CLOEXEC;
    #[cfg(not(target_os = "linux"))]
    let flags = SockFlag::empty();
    let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::Stream, None, flags)?;
    #[cfg(not(target_os = "linux"))]
    for fd in [&ours, &theirs] {
        super::fd::set_cloexec(fd.as_fd(), true)?;
    }
    Ok((ours, theirs))
}

/// Opens one end of a wire for reading and writing.
pub(crate) fn open(fd: OwnedFd) -> io::Result<(Reader, Writer)> {
    super::fd::set_nonblocking(fd.as_fd())?;
    let stream = Arc::new(UnixStream::from_std(fd.into())?);
    let reader = Reader { stream: stream.clone(), bytes: Vec::new(), fds: VecDeque::new() };
    Ok((reader, Writer { stream, is_inside: Arc::default() }))
}

/// The receiving half.
#[derive(Debug)]
pub(crate) struct Reader {
    stream: Arc<UnixStream>,
    bytes: Vec<u8>,
    /// Descriptors that have arrived; they precede the last byte of the frame they belong to.
    fds: VecDeque<OwnedFd>,
}

/// The sending half.
#[derive(Debug)]
pub(crate) struct Writer {
    stream: Arc<UnixStream>,
    /// Whether a frame is sent in part.
    is_inside: Arc<Mutex<bool>>,
}

impl Reader {
    /// Puts back what another reader of the same wire has read and not used.
    pub(crate) fn preload(&mut self, bytes: Vec<u8>) {
        self.bytes = bytes;
    }

    /// What was read and not used, if no descriptor came with it.
    pub(crate) fn leftover(&self) -> Option<&[u8]> {
        self.fds.is_empty().then_some(&self.bytes)
    }

    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    /// Receives the next message and its descriptors; `None` when the other end is gone.
    ///
    /// # Errors
    ///
    /// When what arrives is not a frame. The wire is of no use after that.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when the future is dropped: what has arrived waits in the reader.
    pub(crate) async fn receive<T: DeserializeOwned>(
        &mut self,
    ) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
        loop {
            if let Some(frame) = self.frame()? {
                return Ok(Some(frame));
            }
            let this = &mut *self;
            let received = loop {
                this.stream.readable().await?;
                let (bytes, fds) = (&mut this.bytes, &mut this.fds);
                let fd = this.stream.as_raw_fd();
                match this.stream.try_io(Interest::READABLE, || receive(fd, bytes, fds)) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    // The other end died with frames of ours unread: to us that is its end.
                    Err(error) if error.kind() == io::ErrorKind::ConnectionReset => break 0,
                    received => break received?,
                }
            };
            if received == 0 {
                return match self.bytes.is_empty() {
                    true => Ok(None),
                    false => Err(garbage("the stream ended inside a frame")),
                };
            }
        }
    }

    fn frame<T: DeserializeOwned>(&mut self) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
        let Some((head, rest)) = self.bytes.split_at_checked(HEAD) else {
            return Ok(None);
        };
        let number = |at: usize| {
            let bytes = head[at..at + 4].try_into().expect("four bytes");
            u32::from_be_bytes(bytes) as usize
        };
        let (length, fds) = (number(0), number(4));
        if length > MAX_FRAME || fds > MAX_FDS {
            return Err(garbage("a frame that no graceful process writes"));
        }
        let Some(json) = rest.get(..length) else {
            return Ok(None);
        };
        let message = serde_json::from_slice(json)?;
        if self.fds.len() < fds {
            return Err(garbage("a frame without its descriptors"));
        }
        self.bytes.drain(..HEAD + length);
        Ok(Some((message, self.fds.drain(..fds).collect())))
    }
}

fn garbage(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn receive(fd: RawFd, bytes: &mut Vec<u8>, fds: &mut VecDeque<OwnedFd>) -> io::Result<usize> {
    let mut buffer = [0; 8192];
    let mut control = nix::cmsg_space!([RawFd; MAX_FDS]);
    let mut slices = [IoSliceMut::new(&mut buffer)];
    #[cfg(target_os = "linux")]
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    #[cfg(not(target_os = "linux"))]
    let flags = MsgFlags::empty();
    let message = recvmsg::<()>(fd, &mut slices, Some(&mut control), flags)?;
    let length = message.bytes;
    let truncated = message.flags.contains(MsgFlags::MSG_CTRUNC);
    for control in message.cmsgs()? {
        let ControlMessageOwned::ScmRights(numbers) = control else { continue };
        for number in numbers {
            // SAFETY: the kernel has just installed this descriptor for us, and nobody else knows it.
            let fd = unsafe { OwnedFd::from_raw_fd(number) };
            #[cfg(not(target_os = "linux"))]
            super::fd::set_cloexec(fd.as_fd(), true)?;
            fds.push_back(fd);
        }
    }
    // Descriptors are dropped by the kernel when this process may not open that many.
    if truncated {
        return Err(garbage("descriptors were lost: too many open files"));
    }
    bytes.extend_from_slice(&buffer[..length]);
    Ok(length)
}

/// A way to say one last thing at once, from a process that may be gone at the next moment.
#[derive(Debug)]
pub(crate) struct LastWords {
    fd: OwnedFd,
    is_inside: Arc<Mutex<bool>>,
}

impl LastWords {
    /// Sends the message if there is room for it, and no other one is sent in part; does not wait.
    pub(crate) fn send<T: Serialize>(&self, message: &T) {
        let Ok(frame) = Frame::new(message, 0) else { return };
        let is_inside = lock(&self.is_inside);
        // More than that the kernel may take in part, and nobody would send the rest.
        if !*is_inside && frame.bytes.len() <= ATOMIC {
            // Nobody is left to tell when it fails.
            let _ = send(self.fd.as_fd(), &frame.bytes, &[]);
        }
    }
}

fn lock(is_inside: &Mutex<bool>) -> MutexGuard<'_, bool> {
    is_inside.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A message on its way.
#[derive(Debug)]
pub(crate) struct Frame {
    bytes: Vec<u8>,
    sent: usize,
}

impl Frame {
    /// # Errors
    ///
    /// When the message is too large, or there are too many descriptors.
    pub(crate) fn new<T: Serialize>(message: &T, fds: usize) -> io::Result<Self> {
        let mut bytes = vec![0; HEAD];
        serde_json::to_writer(&mut bytes, message)?;
        let length = bytes.len() - HEAD;
        if length > MAX_FRAME || fds > MAX_FDS {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the message is too large"));
        }
        bytes[..4].copy_from_slice(&(length as u32).to_be_bytes());
        bytes[4..HEAD].copy_from_slice(&(fds as u32).to_be_bytes());
        Ok(Self { bytes, sent: 0 })
    }
}

impl Writer {
    pub(crate) fn last_words(&self) -> io::Result<LastWords> {
        let fd = self.stream.as_fd().try_clone_to_owned()?;
        Ok(LastWords { fd, is_inside: self.is_inside.clone() })
    }

    /// Sends a message and copies of the descriptors.
    ///
    /// Waits as long as the other end does not read. Who is also the reader of that end's messages must
    /// go on reading meanwhile, or both may wait for ever: see [`progress`](Self::progress).
    ///
    /// Not cancel safe: a frame that is half sent garbles the wire.
    pub(crate) async fn send<T: Serialize>(
        &mut self,
        message: &T,
        fds: &[BorrowedFd<'_>],
    ) -> io::Result<()> {
        self.progress(&mut Frame::new(message, fds.len())?, fds).await
    }

    /// Sends what is left of a frame. The descriptors are those that it was made for.
    ///
    /// # Cancel safety
    ///
    /// The frame knows how much of it is sent; nothing else may be sent before its end.
    pub(crate) async fn progress(
        &mut self,
        frame: &mut Frame,
        fds: &[BorrowedFd<'_>],
    ) -> io::Result<()> {
        while let Some(rest) = frame.bytes.get(frame.sent..).filter(|rest| !rest.is_empty()) {
            self.stream.writable().await?;
            // They go with the first byte, so they are there when the frame is complete.
            let fds = if frame.sent == 0 { fds } else { &[] };
            let socket = self.stream.as_fd();
            // Held while it is sent: last words come before a frame or after it.
            let mut is_inside = lock(&self.is_inside);
            match self.stream.try_io(Interest::WRITABLE, || send(socket, rest, fds)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => {
                    let sent = result?;
                    *is_inside = sent < rest.len();
                    frame.sent += sent;
                }
            }
        }
        Ok(())
    }
}

fn send(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let fds: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&fds)];
    let control: &[ControlMessage<'_>] = if fds.is_empty() { &[] } else { &rights };
    #[cfg(target_os = "linux")]
    let flags = MsgFlags::MSG_NOSIGNAL;
    #[cfg(not(target_os = "linux"))]
    let flags = MsgFlags::empty();
    let slices = [IoSlice::new(bytes)];
    Ok(sendmsg::<()>(socket.as_raw_fd(), &slices, control, flags, None)?)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek, Write};

    use super::*;

    async fn wire() -> (Reader, Writer) {
        let (ours, theirs) = pair().unwrap();
        (open(theirs).unwrap().0, open(ours).unwrap().1)
    }

    #[tokio::test]
    async fn messages_arrive_in_order_with_their_descriptors() {
        let (mut reader, mut writer) = wire().await;
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"inside").unwrap();
        writer.send(&"plain", &[]).await.unwrap();
        writer.send(&"with", &[file.as_fd(), file.as_fd()]).await.unwrap();
        writer.send(&"after", &[file.as_fd()]).await.unwrap();
        drop(writer);

        let (text, fds) = reader.receive::<String>().await.unwrap().unwrap();
        assert_eq!((text.as_str(), fds.len()), ("plain", 0));
        let (text, fds) = reader.receive::<String>().await.unwrap().unwrap();
        assert_eq!((text.as_str(), fds.len()), ("with", 2));
        let mut copy = std::fs::File::from(fds.into_iter().next().unwrap());
        let mut content = String::new();
        copy.rewind().unwrap();
        copy.read_to_string(&mut content).unwrap();
        assert_eq!(content, "inside");
        let (text, fds) = reader.receive::<String>().await.unwrap().unwrap();
        assert_eq!((text.as_str(), fds.len()), ("after", 1));
        assert!(reader.receive::<String>().await.unwrap().is_none());
    }

    #[tokio::test]
    async fn a_frame_larger_than_the_socket_buffer_arrives_whole() {
        let (mut reader, mut writer) = wire().await;
        let long = "x".repeat(900_000);
        let (sent, received) = tokio::join!(writer.send(&long, &[]), reader.receive::<String>());
        sent.unwrap();
        assert_eq!(received.unwrap().unwrap().0, long);
        assert!(writer.send(&"x".repeat(MAX_FRAME), &[]).await.is_err());
    }

    #[tokio::test]
    async fn last_words_come_whole_and_never_inside_a_frame() {
        let (mut reader, mut writer) = wire().await;
        let last_words = writer.last_words().unwrap();
        // More than the kernel takes at once, while nobody reads.
        let mut long = Frame::new(&"x".repeat(900_000), 0).unwrap();
        while long.sent == 0 {
            tokio::select! {
                _ = writer.progress(&mut long, &[]) => panic!("nobody reads"),
                () = tokio::task::yield_now() => {}
            }
        }
        last_words.send(&"inside");
        let (sent, received) =
            tokio::join!(writer.progress(&mut long, &[]), reader.receive::<String>());
        sent.unwrap();
        assert_eq!(received.unwrap().unwrap().0.len(), 900_000);
        last_words.send(&"x".repeat(ATOMIC));
        last_words.send(&"after");
        assert_eq!(reader.receive::<String>().await.unwrap().unwrap().0, "after");
    }

    #[test]
    fn a_long_text_is_cut_between_characters() {
        let text = format!("{}ä", "x".repeat(MAX_TEXT - 1));
        assert_eq!(short(&text), format!("{}…", "x".repeat(MAX_TEXT - 1)));
        assert_eq!(short("short"), "short");
    }

    #[tokio::test]
    async fn garbage_is_an_error_and_not_a_panic() {
        for bytes in [
            &b"\xff\xff\xff\xff\0\0\0\0"[..],
            b"\0\0\0\x02\xff\xff\xff\xff{}",
            b"\0\0\0\x02\0\0\0\x01{}",
            b"\0\0\0\x02\0\0\0\0}{",
            b"\0\0\0\x02\0\0",
            b"GET / HTTP/1.1\r\n\r\n",
        ] {
            let (ours, theirs) = pair().unwrap();
            let mut reader = open(theirs).unwrap().0;
            let mut raw = std::os::unix::net::UnixStream::from(ours);
            raw.write_all(bytes).unwrap();
            drop(raw);
            assert!(reader.receive::<serde_json::Value>().await.is_err(), "{bytes:?}");
        }
    }
}
