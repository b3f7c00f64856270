//! The HTTP/1.1 clients: one connection each, requests written by hand, answers read to the last byte.

use std::io;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::super::{app, pattern};
use super::Shared;
use super::account::{Kind, Worker};
use super::client::Client;
use super::socket::{Idle, Socket};

const STREAM_CHUNKS: usize = 8;
const STREAM_BYTES: usize = 4096;
const UPLOAD_PIECES: usize = 8;
const UPLOAD_PAUSE: Duration = Duration::from_millis(40);

pub(super) async fn run(mut client: Client) {
    let mut connection = None;
    let mut connected = false;
    for _ in 0..client.requests {
        if !client.pause().await {
            break;
        }
        let request = Request::of(&mut client);
        let began = Instant::now();
        if client.kind == Kind::Fresh {
            connection = None;
        }
        if let Some(idle) = connection.take() {
            connection = still_open(&client, idle, began);
        }
        if connection.is_none() {
            let again = connected && client.kind != Kind::Fresh;
            let Some(socket) = client.connect(began, again).await else { continue };
            connection = Some(Connection::new(socket));
            connected = true;
        }
        connection = exchange(&client, connection.take(), &request, began).await;
    }
}

/// Looks for an end of file right before the request is written: what can be known by then is known.
fn still_open(client: &Client, mut connection: Connection, began: Instant) -> Option<Connection> {
    match connection.socket.look() {
        Idle::Open if connection.unread() == 0 => Some(connection),
        Idle::Closed if connection.unread() == 0 => {
            client.count(|account| account.idle_closed += 1);
            None
        }
        _ => {
            let what = "bytes on the connection before the request was written";
            client.lost(began, what.to_owned(), connection.worker);
            None
        }
    }
}

/// One request and its answer. Gives the connection back if it may carry another.
async fn exchange(
    client: &Client,
    connection: Option<Connection>,
    request: &Request,
    began: Instant,
) -> Option<Connection> {
    let mut connection = connection?;
    connection.written = 0;
    connection.read = 0;
    let answer = connection.request(request, &client.shared);
    let answer = match tokio::time::timeout(client.timeout, answer).await {
        Ok(answer) => answer,
        Err(_) => Err(Failure::Lost("timed out".to_owned())),
    };
    match answer {
        Ok(answer) => {
            if answer.status == 503 {
                client.count(|account| account.unavailable += 1);
            } else {
                client.done(began);
            }
            if answer.close && client.kind != Kind::Fresh {
                client.count(|account| account.announced += 1);
            }
            (!answer.close).then_some(connection)
        }
        Err(Failure::Unsent) => {
            client.count(|account| account.idle_closed += 1);
            None
        }
        Err(Failure::Lost(what)) => {
            let Connection { written, read, worker, .. } = connection;
            let what = format!("{what} after {written} bytes written, {read} read");
            client.lost(began, what, worker);
            None
        }
    }
}

/// A request, and the answer that is right.
struct Request {
    head: Vec<u8>,
    pieces: Vec<Vec<u8>>,
    expected: Expected,
}

enum Expected {
    Anything,
    Text(String),
    /// So many bytes of the pattern.
    Pattern(usize),
}

impl Request {
    fn of(client: &mut Client) -> Self {
        let mut request = match client.kind {
            Kind::Fresh if client.random.below(2) == 0 => {
                Self::get("/", "connection: close\r\n", Expected::Text(app::PAGE.to_owned()))
            }
            Kind::Slow => Self::get("/slow?ms=300", "", Expected::Text(app::SLOW.to_owned())),
            Kind::Stream => {
                let path = format!("/stream?chunks={STREAM_CHUNKS}&bytes={STREAM_BYTES}&ms=40");
                Self::get(&path, "", Expected::Pattern(STREAM_CHUNKS * STREAM_BYTES))
            }
            Kind::Upload => Self::upload(client.random.next()),
            _ => Self::get("/", "", Expected::Text(app::PAGE.to_owned())),
        };
        if client.any_body {
            request.expected = Expected::Anything;
        }
        request
    }

    fn get(path: &str, headers: &str, expected: Expected) -> Self {
        let head = format!("GET {path} HTTP/1.1\r\nhost: load\r\n{headers}\r\n").into_bytes();
        Self { head, pieces: Vec::new(), expected }
    }

    /// Chunked or with a length, 8 to 64 KiB.
    fn upload(random: u64) -> Self {
        let chunked = random & 1 == 0;
        let piece = 1024 + (random >> 1) as usize % 7168;
        let total = UPLOAD_PIECES * piece;
        let mut tally = pattern::Tally::new();
        tally.add(&pattern::bytes(0, total));
        let framing = if chunked {
            "transfer-encoding: chunked".to_owned()
        } else {
            format!("content-length: {total}")
        };
        let head = format!("POST /upload HTTP/1.1\r\nhost: load\r\n{framing}\r\n\r\n").into_bytes();
        let mut pieces: Vec<Vec<u8>> =
            (0..UPLOAD_PIECES).map(|number| pattern::bytes(number * piece, piece)).collect();
        if chunked {
            for data in &mut pieces {
                let mut framed = format!("{:x}\r\n", data.len()).into_bytes();
                framed.append(data);
                framed.extend_from_slice(b"\r\n");
                *data = framed;
            }
            pieces.push(b"0\r\n\r\n".to_vec());
        }
        Self { head, pieces, expected: Expected::Text(tally.answer()) }
    }
}

enum Failure {
    /// The connection was gone before the kernel took one byte.
    Unsent,
    Lost(String),
}

struct Answer {
    status: u16,
    /// The connection carries no further request.
    close: bool,
}

struct Connection {
    socket: Socket,
    buffer: Vec<u8>,
    /// The unread bytes are `buffer[start..end]`.
    start: usize,
    end: usize,
    /// Since the request began.
    written: usize,
    read: usize,
    worker: Option<Worker>,
}

impl Connection {
    fn new(socket: Socket) -> Self {
        Self {
            socket,
            buffer: vec![0; 16 * 1024],
            start: 0,
            end: 0,
            written: 0,
            read: 0,
            worker: None,
        }
    }

    fn unread(&self) -> usize {
        self.end - self.start
    }

    async fn request(&mut self, request: &Request, shared: &Shared) -> Result<Answer, Failure> {
        match self.send(request).await {
            Ok(()) => self.answer(&request.expected, shared).await.map_err(Failure::Lost),
            Err(error) if self.written == 0 && is_gone(&error) => Err(Failure::Unsent),
            // The server may have answered without waiting for the rest, and closed.
            Err(error) => match self.answer(&request.expected, shared).await {
                Ok(answer) => Ok(Answer { close: true, ..answer }),
                Err(what) => {
                    Err(Failure::Lost(format!("{} while writing, then {what}", named(&error))))
                }
            },
        }
    }

    async fn send(&mut self, request: &Request) -> io::Result<()> {
        self.write(&request.head).await?;
        for piece in &request.pieces {
            // An early answer or end of file ends the pause, and the upload.
            if let Ok(read) = tokio::time::timeout(UPLOAD_PAUSE, self.fill()).await {
                read?;
                return Err(io::Error::other("answer before the end of the upload"));
            }
            self.write(piece).await?;
        }
        Ok(())
    }

    async fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let count = self.socket.write(bytes).await?;
            self.written += count;
            bytes = &bytes[count..];
        }
        self.socket.flush().await
    }

    /// Reads what there is; end of file is an error.
    async fn fill(&mut self) -> io::Result<()> {
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        if self.end == self.buffer.len() {
            return Err(io::Error::other("more than 16 KiB in one line"));
        }
        let count = self.socket.read(&mut self.buffer[self.end..]).await?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.end += count;
        self.read += count;
        Ok(())
    }

    async fn answer(&mut self, expected: &Expected, shared: &Shared) -> Result<Answer, String> {
        let head = loop {
            let head = self.head().await?;
            // An interim answer (100 Continue) comes before the final one.
            if !(100..200).contains(&head.status) {
                break head;
            }
        };
        if let (Some(pid), Some(generation)) = (head.worker, head.generation) {
            let worker = Worker { pid, generation };
            if self.worker.replace(worker) != Some(worker) {
                shared.answered_by(worker);
            }
        }
        let is_right = matches!(head.status, 200 | 503);
        let anything = Expected::Anything;
        let expected = if head.status == 200 { expected } else { &anything };
        let mut body = Body { expected, place: 0, is_right };
        let delimited = self.body(&head, &mut body).await?;
        if !body.is_complete() {
            return Err(format!("wrong answer: status {}, {} bytes", head.status, body.place));
        }
        Ok(Answer { status: head.status, close: head.close || !delimited })
    }

    async fn head(&mut self) -> Result<Head, String> {
        let mut searched = 0;
        loop {
            let unread = &self.buffer[self.start..self.end];
            if let Some(end) = end_of_head(unread, searched) {
                let head = Head::parse(&unread[..end])?;
                self.start += end;
                return Ok(head);
            }
            searched = unread.len();
            self.fill().await.map_err(|error| format!("{} in the head", named(&error)))?;
        }
    }

    /// Reads the body to its end. False: its end was the end of the connection.
    async fn body(&mut self, head: &Head, body: &mut Body<'_>) -> Result<bool, String> {
        if head.chunked {
            self.chunks(body).await?;
            return Ok(true);
        }
        if let Some(length) = head.length {
            self.take(length, body).await?;
            return Ok(true);
        }
        if !head.close {
            return Err("a body without an end".to_owned());
        }
        loop {
            let unread = self.unread();
            self.take(unread, body).await?;
            match self.fill().await {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
                Err(error) => return Err(format!("{} in the body", named(&error))),
            }
        }
    }

    async fn chunks(&mut self, body: &mut Body<'_>) -> Result<(), String> {
        loop {
            let line = self.line().await?;
            let size = line.split(';').next().unwrap_or_default().trim();
            let size =
                usize::from_str_radix(size, 16).map_err(|_| format!("a chunk of size {size:?}"))?;
            if size == 0 {
                // Trailers, and the empty line at the end.
                while !self.line().await?.is_empty() {}
                return Ok(());
            }
            self.take(size, body).await?;
            let end = self.line().await?;
            if !end.is_empty() {
                return Err(format!("{end:?} at the end of a chunk"));
            }
        }
    }

    async fn line(&mut self) -> Result<String, String> {
        loop {
            let unread = &self.buffer[self.start..self.end];
            if let Some(end) = unread.windows(2).position(|two| two == b"\r\n") {
                let line = String::from_utf8_lossy(&unread[..end]).into_owned();
                self.start += end + 2;
                return Ok(line);
            }
            self.fill().await.map_err(|error| format!("{} in the body", named(&error)))?;
        }
    }

    async fn take(&mut self, mut count: usize, body: &mut Body<'_>) -> Result<(), String> {
        while count > 0 {
            if self.unread() == 0 {
                self.fill().await.map_err(|error| format!("{} in the body", named(&error)))?;
            }
            let now = count.min(self.unread());
            body.feed(&self.buffer[self.start..self.start + now]);
            self.start += now;
            count -= now;
        }
        Ok(())
    }
}

/// Compares a body with the expected one as it comes.
struct Body<'a> {
    expected: &'a Expected,
    place: usize,
    is_right: bool,
}

impl Body<'_> {
    fn feed(&mut self, bytes: &[u8]) {
        let end = self.place + bytes.len();
        self.is_right &= match self.expected {
            Expected::Anything => true,
            Expected::Text(text) => text.as_bytes().get(self.place..end) == Some(bytes),
            Expected::Pattern(_) => {
                (self.place..end).zip(bytes).all(|(place, byte)| pattern::byte(place) == *byte)
            }
        };
        self.place = end;
    }

    fn is_complete(&self) -> bool {
        self.is_right
            && match self.expected {
                Expected::Anything => true,
                Expected::Text(text) => self.place == text.len(),
                Expected::Pattern(length) => self.place == *length,
            }
    }
}

#[derive(Default)]
struct Head {
    status: u16,
    length: Option<usize>,
    chunked: bool,
    close: bool,
    worker: Option<u32>,
    generation: Option<u64>,
}

impl Head {
    fn parse(bytes: &[u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(bytes).map_err(|_| "a head that is not text".to_owned())?;
        let mut lines = text.split("\r\n");
        let status = lines.next().unwrap_or_default();
        let mut head = Self {
            status: status
                .strip_prefix("HTTP/1.1 ")
                .and_then(|rest| rest.get(..3)?.parse().ok())
                .ok_or_else(|| format!("the status line {status:?}"))?,
            ..Self::default()
        };
        for (name, value) in lines.filter_map(|line| line.split_once(": ")) {
            if name.eq_ignore_ascii_case("content-length") {
                let length = value.parse().map_err(|_| format!("a body of length {value:?}"))?;
                head.length = Some(length);
            } else if name.eq_ignore_ascii_case("transfer-encoding") {
                head.chunked = value.eq_ignore_ascii_case("chunked");
            } else if name.eq_ignore_ascii_case("connection") {
                head.close = value.eq_ignore_ascii_case("close");
            } else if name.eq_ignore_ascii_case("x-worker") {
                head.worker = value.parse().ok();
            } else if name.eq_ignore_ascii_case("x-generation") {
                head.generation = value.parse().ok();
            }
        }
        Ok(head)
    }
}

/// Where the head ends, if it does; what was `searched` before is not searched again.
fn end_of_head(bytes: &[u8], searched: usize) -> Option<usize> {
    let from = searched.saturating_sub(3);
    let end = bytes[from..].windows(4).position(|four| four == b"\r\n\r\n")?;
    Some(from + end + 4)
}

fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}

fn named(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => "EOF".to_owned(),
        io::ErrorKind::ConnectionReset => "RST".to_owned(),
        _ => error.to_string(),
    }
}
