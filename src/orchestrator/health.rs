use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpStream, UnixStream},
    time::{Instant, sleep_until, timeout_at},
};

use crate::listener::SocketAddress;

/// How often a worker on trial is asked.
const INTERVAL: Duration = Duration::from_millis(250);
/// Enough of an answer to find its status.
const HEAD: usize = 12;

/// Asks for `path` again and again until the trial is over. Completes with the reason when an answer
/// is not a success (2xx) or does not come; the listener is shared, but the parked worker does not
/// accept, so it is the new one that answers.
pub(super) async fn watch(
    address: SocketAddress,
    path: String,
    trial: Duration,
) -> Result<(), String> {
    let end = Instant::now() + trial;
    let mut next = Instant::now();
    while next < end {
        sleep_until(next).await;
        next = Instant::now() + INTERVAL;
        let status = match timeout_at(end, ask(&address, &path)).await {
            Ok(Ok(status)) => status,
            Ok(Err(error)) => return Err(format!("its health check {path} failed: {error}")),
            Err(_) => return Err(format!("its health check {path} was not answered in time")),
        };
        if !status.starts_with('2') {
            return Err(format!("its health check {path} was answered with {status}"));
        }
    }
    Ok(())
}

async fn ask(address: &SocketAddress, path: &str) -> io::Result<String> {
    match address {
        SocketAddress::Ip(address) => {
            let mut address = *address;
            match address.ip() {
                IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
                IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
                _ => {}
            }
            get(TcpStream::connect(address).await?, path).await
        }
        SocketAddress::Unix(address) => {
            let stream = std::os::unix::net::UnixStream::connect_addr(address)?;
            stream.set_nonblocking(true)?;
            get(UnixStream::from_std(stream)?, path).await
        }
    }
}

/// The status of the answer.
async fn get(mut stream: impl AsyncRead + AsyncWrite + Unpin, path: &str) -> io::Result<String> {
    let request = format!(
        "GET {path} HTTP/1.1\r\nhost: localhost\r\nuser-agent: graceful\r\nconnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut head = [0; HEAD];
    stream.read_exact(&mut head).await?;
    let text = String::from_utf8_lossy(&head);
    let status = text.strip_prefix("HTTP/1.1 ").or_else(|| text.strip_prefix("HTTP/1.0 "));
    let status = status.ok_or_else(|| io::Error::other("the answer is not HTTP/1"))?.to_owned();
    // Read to its end, so that the worker does not see a client that went away.
    let mut rest = Vec::new();
    stream.take(1 << 20).read_to_end(&mut rest).await?;
    Ok(status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_a_success_is_healthy() {
        for (answer, healthy) in [
            ("HTTP/1.1 200 OK\r\n\r\n", true),
            ("HTTP/1.1 204 No Content\r\n\r\n", true),
            ("HTTP/1.1 500 Oh No\r\n\r\n", false),
            ("HTTP/1.1 302 Found\r\n\r\n", false),
            ("SSH-2.0-OpenSSH_9", false),
            ("", false),
        ] {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = SocketAddress::Ip(listener.local_addr().unwrap());
            let server = tokio::spawn(async move {
                loop {
                    let (mut stream, _) = listener.accept().await.unwrap();
                    let mut head = [0; 1024];
                    let length = stream.read(&mut head).await.unwrap();
                    assert!(head[..length].starts_with(b"GET /healthz HTTP/1.1\r\n"));
                    stream.write_all(answer.as_bytes()).await.unwrap();
                }
            });
            let result = watch(address, "/healthz".into(), Duration::from_millis(300)).await;
            assert_eq!(result.is_ok(), healthy, "{answer:?}: {result:?}");
            server.abort();
        }
    }
}
