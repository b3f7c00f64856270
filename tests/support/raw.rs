//! Clients that write what they like: HTTP/1 as text, HTTP/2 frame by frame, and only as far as a test
//! wants it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// How long an expected byte may take before the test fails.
const PATIENCE: Duration = Duration::from_secs(30);

/// One connection to a server.
#[derive(Debug)]
pub(crate) struct Raw {
    stream: TcpStream,
    /// Read and not yet asked for.
    buffer: Vec<u8>,
}

/// An answer of HTTP/1.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// In lower case, with the line ends.
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// Whether it announces that the connection ends.
    pub(crate) fn is_last(&self) -> bool {
        self.head.contains("\r\nconnection: close\r\n")
    }
}

/// An HTTP/2 frame.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
pub(crate) const HEADERS: u8 = 1;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const ACK: u8 = 1;

impl Raw {
    pub(crate) async fn connect(addr: SocketAddr) -> Self {
        let stream = TcpStream::connect(addr).await.expect("connect");
        stream.set_nodelay(true).expect("a TCP socket");
        Self { stream, buffer: Vec::new() }
    }

    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.expect("write");
    }

    /// Sends to a server that may have closed by now, which is no failure.
    pub(crate) async fn send_if_open(&mut self, bytes: impl AsRef<[u8]>) {
        // The server's reset is one of the right answers.
        let _ = self.stream.write_all(bytes.as_ref()).await;
    }

    /// Closes our side.
    pub(crate) async fn finish(&mut self) {
        // It may be closed on the other side already.
        let _ = self.stream.shutdown().await;
    }

    /// Reads more; false at the end of the stream or a reset.
    async fn fill(&mut self) -> bool {
        let read = tokio::time::timeout(PATIENCE, self.stream.read_buf(&mut self.buffer)).await;
        let read = read.unwrap_or_else(|_| panic!("nothing came after {:?}", self.text()));
        read.is_ok_and(|length| length > 0)
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.buffer).into_owned()
    }

    /// Reads one answer; `None` when the connection ends before it is complete.
    pub(crate) async fn answer(&mut self) -> Option<Answer> {
        let end = loop {
            if let Some(end) = self.buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                break end + 4;
            }
            if !self.fill().await {
                return None;
            }
        };
        let head = String::from_utf8_lossy(&self.buffer[..end]).to_lowercase();
        self.buffer.drain(..end);
        let status = head.get(9..12).and_then(|status| status.parse().ok()).expect("a status");
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let length = length.map_or(0, |length| length.parse().expect("a number"));
        while self.buffer.len() < length {
            if !self.fill().await {
                return None;
            }
        }
        let body = self.buffer.drain(..length).collect();
        Some(Answer { status, head, body })
    }

    /// Every answer until the connection ends.
    pub(crate) async fn answers(&mut self) -> Vec<Answer> {
        let mut answers = Vec::new();
        while let Some(answer) = self.answer().await {
            answers.push(answer);
        }
        answers
    }

    /// Waits until the server has closed, whatever comes before.
    pub(crate) async fn ended(&mut self) -> Instant {
        while self.fill().await {
            self.buffer.clear();
        }
        Instant::now()
    }

    /// Reads so many heads of answers, or all that come until the end, and gives their statuses; the
    /// bodies are passed over.
    pub(crate) async fn statuses(&mut self, most: usize) -> Vec<u16> {
        const START: &str = "HTTP/1.";
        loop {
            let text = self.text();
            // After the minor version.
            let status = |(at, _)| text.get(at + START.len() + 2..)?.get(..3)?.parse().ok();
            let found: Vec<u16> = text.match_indices(START).filter_map(status).collect();
            if found.len() >= most || !self.fill().await {
                return found;
            }
        }
    }

    /// Reads one HTTP/2 frame; `None` at the end of the stream.
    pub(crate) async fn frame(&mut self) -> Option<Frame> {
        loop {
            if let Some((head, rest)) = self.buffer.split_first_chunk::<9>() {
                let [a, b, c, kind, flags, stream @ ..] = *head;
                let length = u32::from_be_bytes([0, a, b, c]) as usize;
                if rest.len() >= length {
                    let stream = u32::from_be_bytes(stream) & 0x7fff_ffff;
                    let payload = rest[..length].to_vec();
                    self.buffer.drain(..9 + length);
                    return Some(Frame { kind, flags, stream, payload });
                }
            }
            if !self.fill().await {
                return None;
            }
        }
    }

    /// Reads frames until one of this kind.
    pub(crate) async fn frame_of(&mut self, kind: u8) -> Frame {
        loop {
            let frame = self.frame().await;
            let frame = frame.unwrap_or_else(|| panic!("the end, before a frame of kind {kind}"));
            if frame.kind == kind {
                return frame;
            }
        }
    }

    /// The preface and empty settings; the server's settings are not acknowledged.
    pub(crate) async fn start_h2(&mut self) {
        self.send([PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).await;
        self.frame_of(SETTINGS).await;
    }

    pub(crate) async fn acknowledge_settings(&mut self) {
        self.send(frame(SETTINGS, ACK, 0, &[])).await;
    }
}

pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a frame fits");
    let mut bytes = length.to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// The frame of a `GET` without a body.
pub(crate) fn get(stream: u32, path: &str) -> Vec<u8> {
    let literal = |index: u8, text: &str| {
        // Without indexing, no Huffman code (RFC 7541, section 6.2.2).
        let length = u8::try_from(text.len()).expect("short");
        [&[index, length], text.as_bytes()].concat()
    };
    // `:method: GET` and `:scheme: http` have entries of their own in the static table.
    let block = [vec![0x82, 0x86], literal(4, path), literal(1, "x")].concat();
    const END_STREAM_AND_HEADERS: u8 = 0x5;
    frame(HEADERS, END_STREAM_AND_HEADERS, stream, &block)
}
