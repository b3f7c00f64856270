//! HTTP/1.1 by hand, for tests that need to see and to send every byte.

use std::net::SocketAddr;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

pub(crate) const GET: &str = "GET / HTTP/1.1\r\nhost: x\r\n\r\n";

pub(crate) async fn connect(addr: SocketAddr) -> TcpStream {
    TcpStream::connect(addr).await.expect("connect")
}

pub(crate) async fn send(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), text: &str) {
    stream.write_all(text.as_bytes()).await.expect("write");
}

/// Reads one response with a `content-length`.
pub(crate) async fn answer(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> String {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            let length: usize = length.expect("a content-length").parse().expect("a number");
            if body.len() >= length {
                return text.into_owned();
            }
        }
        let byte = stream.read_u8().await;
        bytes.push(byte.unwrap_or_else(|error| panic!("{error} after {bytes:?}")));
    }
}

/// The server has closed the connection; nothing more came.
pub(crate) async fn expect_end(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) {
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.expect("a clean end");
    assert_eq!(rest, b"", "bytes after the last answer");
}
