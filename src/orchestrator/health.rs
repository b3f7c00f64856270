//! Whether a worker on trial is well: asked by the master over HTTP, and by the worker of itself.

use std::{
    future::Future,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::OwnedFd,
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use socket2::{Domain, SockAddr, Socket, Type};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpStream, UnixStream},
    time::{Instant, sleep, sleep_until, timeout_at},
};

use super::Options;
use crate::{BoxError, error::Error, listener::SocketAddress};

/// How often a worker on trial is asked.
const INTERVAL: Duration = Duration::from_millis(250);
/// The part of the trial in which every answer must have come: who has not answered by then has not passed.
const IN_TIME: f64 = 0.9;
/// How long to wait where too many wait already.
const PAUSE: Duration = Duration::from_millis(10);
/// Enough of an answer to find its status.
const HEAD: usize = 12;

/// A question of the user's about the worker in which it is asked.
pub(crate) type Check = Arc<dyn Fn() -> Asked + Send + Sync>;

type Asked = Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;

pub(crate) fn check<F, Fut, E>(ask: F) -> Check
where
    F: Fn() -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<(), E>> + Send + 'static,
    E: Into<BoxError>,
{
    Arc::new(move || {
        let asked = ask();
        Box::pin(async move {
            asked.await.map_err(|error| format!("its health check failed: {}", error.into()))
        })
    })
}

/// Finds what no worker could pass, and what would ask none.
pub(crate) fn check_options(options: &Options) -> Result<(), Error> {
    if let Some(path) = &options.health_check
        && !(path.starts_with('/') && path.bytes().all(|byte| byte.is_ascii_graphic()))
    {
        let why =
            "a path begins with a slash, and spaces and what is not ASCII are percent-encoded";
        return Err(Error::config(format!("cannot check health at {path:?}: {why}")));
    }
    let asks = options.health_check.is_some() || !options.own_checks.is_empty();
    if asks && options.bake_time.is_zero() {
        return Err(Error::config("cannot check health during a trial (bake_time) of 0"));
    }
    Ok(())
}

/// Asks for `path` until the trial is over. Completes with the reason when an answer is not a success
/// (2xx) or does not come; the listener is shared, but the parked worker does not accept, so it is the new
/// one that answers.
pub(super) async fn watch(
    address: SocketAddress,
    tls: bool,
    path: String,
    trial: Duration,
) -> Result<(), String> {
    repeat(|| get(&address, tls, &path), &path, trial).await
}

/// Asks this process until the trial is over.
pub(super) async fn watch_own(checks: Vec<Check>, trial: Duration) -> Result<(), String> {
    repeat(|| all(&checks), "of its own", trial).await
}

async fn all(checks: &[Check]) -> Result<(), String> {
    for check in checks {
        check().await?;
    }
    Ok(())
}

async fn get(address: &SocketAddress, tls: bool, path: &str) -> Result<(), String> {
    match ask(address, tls, path).await {
        Ok(status) if status.starts_with('2') => Ok(()),
        Ok(status) => Err(format!("its health check {path} was answered with {status}")),
        Err(error) => Err(format!("its health check {path} failed: {error}")),
    }
}

async fn repeat<F>(ask: impl Fn() -> F, name: &str, trial: Duration) -> Result<(), String>
where
    F: Future<Output = Result<(), String>>,
{
    let mut next = Instant::now();
    let end = next + trial.mul_f64(IN_TIME);
    loop {
        match timeout_at(end, ask()).await {
            Ok(answer) => answer?,
            Err(_) => return Err(format!("its health check {name} was not answered in time")),
        }
        next = next.max(Instant::now()) + INTERVAL;
        // Who is asked has time to answer.
        if next + INTERVAL > end {
            return Ok(());
        }
        sleep_until(next).await;
    }
}

async fn ask(address: &SocketAddress, tls: bool, path: &str) -> io::Result<String> {
    match address {
        SocketAddress::Ip(address) => {
            let mut address = *address;
            match address.ip() {
                IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
                IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
                _ => {}
            }
            speak(TcpStream::connect(address).await?, tls, path).await
        }
        SocketAddress::Unix(address) => speak(connect_unix(address).await?, tls, path).await,
    }
}

async fn connect_unix(address: &SockAddr) -> io::Result<UnixStream> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // Where too many wait to be accepted, a connect that blocks would hold up all that this thread does.
    socket.set_nonblocking(true)?;
    loop {
        match socket.connect(address) {
            // And nothing tells when there is room again (connect(2)).
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => sleep(PAUSE).await,
            connected => break connected?,
        }
    }
    UnixStream::from_std(OwnedFd::from(socket).into())
}

async fn speak(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    tls: bool,
    path: &str,
) -> io::Result<String> {
    #[cfg(feature = "tls")]
    if tls {
        return status(super::probe::connect(stream).await?, path).await;
    }
    // Without the feature no worker says that it speaks TLS.
    debug_assert!(!tls, "it has no TLS");
    status(stream, path).await
}

/// The status of the answer.
async fn status(mut stream: impl AsyncRead + AsyncWrite + Unpin, path: &str) -> io::Result<String> {
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
            let result = watch(address, false, "/healthz".into(), Duration::from_millis(900)).await;
            assert_eq!(result.is_ok(), healthy, "{answer:?}: {result:?}");
            server.abort();
        }
    }

    #[tokio::test]
    async fn a_full_backlog_holds_up_nothing_but_the_question() {
        let directory = tempfile::tempdir().unwrap();
        let address = SockAddr::unix(directory.path().join("a.sock")).unwrap();
        let unix = || {
            let socket = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
            socket.set_nonblocking(true).unwrap();
            socket
        };
        let listener = unix();
        listener.bind(&address).unwrap();
        listener.listen(0).unwrap();
        let mut waiting = Vec::new();
        while waiting.last().is_none_or(|connected: &(_, io::Result<()>)| connected.1.is_ok()) {
            let socket = unix();
            let connected = socket.connect(&address);
            waiting.push((socket, connected));
        }
        let ask = |path: &'static str| {
            watch(SocketAddress::Unix(address.clone()), false, path.into(), Duration::from_secs(1))
        };
        let why = ask("/full").await.unwrap_err();
        assert_eq!(why, "its health check /full was not answered in time");

        let listener = std::os::unix::net::UnixListener::from(OwnedFd::from(listener));
        let listener = tokio::net::UnixListener::from_std(listener).unwrap();
        let server = async {
            // Begins after the question has found no room.
            sleep(PAUSE).await;
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                tokio::spawn(async move {
                    // The others ask nothing.
                    let _length = stream.read(&mut [0; 1024]).await.unwrap();
                    stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
                });
            }
        };
        tokio::select! {
            answer = ask("/room") => answer.unwrap(),
            () = server => {}
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_answer_before_the_end_has_not_passed() {
        let silent = check(std::future::pending::<Result<(), BoxError>>);
        let since = Instant::now();
        let why = watch_own(vec![silent], Duration::from_secs(2)).await.unwrap_err();
        assert_eq!(why, "its health check of its own was not answered in time");
        assert!(since.elapsed() < Duration::from_secs(2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_worker_asks_itself_again_and_again() {
        let times = Arc::new(std::sync::atomic::AtomicU32::new(0));
        let asked = times.clone();
        let second = check(move || {
            let time = asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            async move { if time < 3 { Ok(()) } else { Err("no database") } }
        });
        let well = check(async || Ok::<_, BoxError>(()));
        let why = watch_own(vec![well, second], Duration::from_secs(2)).await.unwrap_err();
        assert_eq!(why, "its health check failed: no database");
        assert_eq!(times.load(std::sync::atomic::Ordering::Relaxed), 4);
    }
}
