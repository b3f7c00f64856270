//! The load client and the process harness themselves: they must see what goes wrong, or the tests that
//! use them prove nothing.
#![cfg(all(unix, feature = "serve"))]

mod support;

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener};

use support::load::{Histogram, Kind, Load, Report};
use support::process::Program;

/// An axum server in this process, for as long as the test runs.
async fn axum_server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let addr = listener.local_addr().expect("bound");
    tokio::spawn(async { axum::serve(listener, support::app::app(|| 7)).await });
    addr
}

/// A server that treats each connection as it is told, and counts from 0.
async fn raw_server<F, T>(mut treat: F) -> SocketAddr
where
    F: FnMut(usize, TcpStream) -> T + Send + 'static,
    T: Future<Output = io::Result<()>> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let addr = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        for number in 0.. {
            let (stream, _) = listener.accept().await.expect("accept");
            tokio::spawn(treat(number, stream));
        }
    });
    addr
}

async fn read_head(stream: &mut TcpStream) -> io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    Ok(())
}

/// The report of one client that makes this many requests of a server that answers each with the same
/// bytes, and closes when they say so or when they are `broken`.
async fn answered_with(answer: &'static str, requests: u64) -> Report {
    let addr = raw_server(move |_, mut stream| async move {
        loop {
            read_head(&mut stream).await?;
            stream.write_all(answer.as_bytes()).await?;
            if !answer.ends_with("hello, world\n") || answer.contains("close") {
                return Ok(());
            }
        }
    })
    .await;
    let mut load = Load::new(addr).keep_alive(1, Duration::ZERO).requests(requests).start();
    load.finish().await
}

#[tokio::test]
async fn every_kind_of_client_is_served_by_axum() {
    let addr = axum_server().await;
    let load = Load::new(addr)
        .keep_alive(4, Duration::from_millis(2))
        .fresh(2)
        .slow(2)
        .streaming(2)
        .uploads(2)
        .h2(2)
        .start();
    let first = load.generation(7).await;
    assert_eq!(first.worker.pid, std::process::id());
    let kinds =
        || Kind::ALL.into_iter().filter(|kind| !matches!(kind, Kind::Tls | Kind::WebSocket));
    for kind in kinds() {
        load.further(kind, 2).await;
    }
    let lap = load.lap();
    load.further(Kind::KeepAlive, 1).await;
    let report = load.stop().await;
    assert_eq!(report.lost(), 0, "{report}");
    assert!(report.done() > lap.done(), "a lap is part of the whole");
    for kind in kinds() {
        let account = report.of(kind);
        assert!(account.done >= 2, "{report}");
        assert_eq!(account.latency.count(), account.done);
        let closed = account.reconnects + account.idle_closed + account.announced;
        assert_eq!(closed + account.refused + account.unavailable, 0, "{report}");
    }
    assert_eq!(report.of(Kind::KeepAlive).connects, 4);
    assert_eq!(report.of(Kind::H2).connects + report.of(Kind::H2Slow).connects, 2);
    let fresh = report.of(Kind::Fresh);
    assert_eq!(fresh.connects, fresh.done);
}

#[tokio::test]
async fn a_unix_socket_is_a_target_too() {
    let path = std::env::temp_dir().join(format!("graceful-load-{}.sock", std::process::id()));
    let listener = UnixListener::bind(&path).expect("bind");
    tokio::spawn(async { axum::serve(listener, support::app::app(|| 1)).await });
    let mut load =
        Load::new(path.clone()).keep_alive(1, Duration::ZERO).uploads(1).h2(1).requests(3).start();
    let report = load.finish().await;
    std::fs::remove_file(path).expect("the socket file is ours");
    assert_eq!((report.lost(), report.done()), (0, 3 + 3 + 4 * 3), "{report}");
}

#[tokio::test]
async fn an_answer_that_does_not_come_is_a_loss() {
    let addr = raw_server(|_, mut stream| async move { read_head(&mut stream).await }).await;
    let mut load = Load::new(addr).keep_alive(1, Duration::ZERO).requests(3).start();
    let report = load.finish().await;
    assert_eq!((report.lost(), report.done()), (3, 0), "{report}");
    let loss = &report.losses()[0];
    assert!(loss.what.starts_with("EOF in the head after 30 bytes written, 0 read"), "{loss}");
}

#[tokio::test]
async fn a_reset_is_a_loss() {
    // Closed with the request unread: the kernel answers with a reset.
    let treat = async |stream: TcpStream| stream.peek(&mut [0]).await.map(drop);
    let addr = raw_server(move |_, stream| treat(stream)).await;
    let mut load = Load::new(addr).keep_alive(1, Duration::ZERO).requests(3).start();
    let report = load.finish().await;
    assert_eq!((report.lost(), report.done()), (3, 0), "{report}");
    let loss = &report.losses()[0];
    assert!(loss.what.starts_with("RST in the head after 30 bytes written, 0 read"), "{loss}");
}

#[tokio::test]
async fn a_truncated_body_is_a_loss() {
    let report = answered_with("HTTP/1.1 200 OK\r\ncontent-length: 13\r\n\r\nhello", 2).await;
    assert_eq!((report.lost(), report.done()), (2, 0), "{report}");
    assert!(report.losses()[0].what.starts_with("EOF in the body"), "{report}");
    let chunk = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nd\r\nhello, world\n\r\n";
    let report = answered_with(chunk, 2).await;
    assert_eq!((report.lost(), report.done()), (2, 0), "{report}");
    assert!(report.losses()[0].what.starts_with("EOF in the body"), "{report}");
}

#[tokio::test]
async fn a_wrong_answer_is_a_loss() {
    let body = "HTTP/1.1 200 OK\r\ncontent-length: 13\r\n\r\nHello, world\n";
    let status = "HTTP/1.1 500 Oh\r\ncontent-length: 13\r\n\r\nhello, world\n";
    for answer in [body, status] {
        let report = answered_with(answer, 2).await;
        assert_eq!((report.lost(), report.done()), (2, 0), "{report}");
        assert!(report.losses()[0].what.starts_with("wrong answer"), "{report}");
    }
}

#[tokio::test]
async fn a_time_out_is_a_loss() {
    let addr = raw_server(|_, mut stream| async move {
        read_head(&mut stream).await?;
        // Nothing more comes: this waits until the client has closed.
        stream.read_u8().await.map(drop)
    })
    .await;
    let load = Load::new(addr).keep_alive(1, Duration::ZERO).timeout(Duration::from_millis(20));
    let report = load.requests(2).start().finish().await;
    assert_eq!((report.lost(), report.done()), (2, 0), "{report}");
    assert!(report.losses()[0].what.starts_with("timed out"), "{report}");
}

#[tokio::test]
async fn a_refused_connection_is_a_loss() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let addr = listener.local_addr().expect("bound");
    drop(listener);
    let mut load = Load::new(addr).keep_alive(1, Duration::ZERO).h2(1).requests(2).start();
    let report = load.finish().await;
    assert_eq!((report.lost(), report.done()), (2 + 4 * 2, 0), "{report}");
    assert!(report.losses()[0].what.starts_with("cannot connect"), "{report}");
}

#[tokio::test]
async fn an_announced_close_is_not_a_loss() {
    let close = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 13\r\n\r\nhello, world\n";
    let report = answered_with(close, 3).await;
    assert_eq!((report.lost(), report.done()), (0, 3), "{report}");
    let account = report.of(Kind::KeepAlive);
    assert_eq!((account.announced, account.reconnects, account.idle_closed), (3, 2, 0));
}

#[tokio::test]
async fn a_refusal_with_503_is_counted_by_itself() {
    let refusal = "HTTP/1.1 503 No\r\nconnection: close\r\ncontent-length: 3\r\n\r\nno\n";
    let report = answered_with(refusal, 3).await;
    assert_eq!((report.lost(), report.done()), (0, 0), "{report}");
    assert_eq!(report.of(Kind::KeepAlive).unavailable, 3);
}

#[tokio::test]
async fn an_idle_connection_that_is_closed_is_not_a_loss() {
    let addr = raw_server(|_, mut stream| async move {
        read_head(&mut stream).await?;
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 13\r\n\r\nhello, world\n").await
    })
    .await;
    // The end of file comes with the answer; the client pauses at least a millisecond now and then.
    let mut load = Load::new(addr).keep_alive(4, Duration::from_millis(20)).requests(10).start();
    let report = load.finish().await;
    let account = report.of(Kind::KeepAlive);
    assert_eq!(account.done + account.lost, 40, "{report}");
    assert!(account.idle_closed > 20, "{report}");
    assert_eq!(account.connects, account.reconnects + 4);
}

#[tokio::test]
async fn a_refused_stream_is_counted_by_itself() {
    let addr = raw_server(|_, stream| async move {
        let mut connection = h2::server::handshake(stream).await.map_err(io::Error::other)?;
        while let Some(request) = connection.accept().await {
            let (_, mut respond) = request.map_err(io::Error::other)?;
            respond.send_reset(h2::Reason::REFUSED_STREAM);
        }
        Ok(())
    })
    .await;
    let report = Load::new(addr).h2(1).requests(3).start().finish().await;
    assert_eq!((report.lost(), report.done(), report.total().refused), (0, 0, 12), "{report}");
    assert_eq!(report.total().connects, 1);
}

#[tokio::test]
async fn after_goaway_requests_go_to_a_new_connection() {
    // The first connection takes one request, says GOAWAY above it, and answers it.
    let addr = raw_server(|number, stream| async move {
        let mut connection = h2::server::handshake(stream).await.map_err(io::Error::other)?;
        while let Some(request) = connection.accept().await {
            let (request, mut respond) = request.map_err(io::Error::other)?;
            if number == 0 {
                connection.graceful_shutdown();
            }
            let body = if request.uri().path() == "/slow" { "slow\n" } else { "hello, world\n" };
            let mut send =
                respond.send_response(http::Response::new(()), false).map_err(io::Error::other)?;
            send.send_data(body.into(), true).map_err(io::Error::other)?;
        }
        Ok(())
    })
    .await;
    let report = Load::new(addr).h2(1).requests(20).start().finish().await;
    let total = report.total();
    assert_eq!((total.lost, total.done + total.refused), (0, 80), "{report}");
    assert_eq!((total.connects, total.reconnects, total.announced), (2, 1, 1), "{report}");
    assert!(total.refused < 4, "{report}");
}

#[tokio::test]
async fn an_h2_connection_that_breaks_loses_its_requests() {
    let addr = raw_server(|_, stream| async move {
        let mut connection = h2::server::handshake(stream).await.map_err(io::Error::other)?;
        connection.accept().await.transpose().map(drop).map_err(io::Error::other)
    })
    .await;
    let report = Load::new(addr).h2(1).requests(1).start().finish().await;
    assert_eq!((report.lost(), report.done()), (4, 0), "{report}");
}

#[test]
fn quantiles_are_within_three_percent() {
    let mut histogram = Histogram::default();
    for micros in 1..=10_000 {
        histogram.record(Duration::from_micros(micros));
    }
    for (share, exact) in [(0.5, 5_000.0), (0.99, 9_900.0), (0.999, 9_990.0), (1.0, 10_000.0)] {
        let found = histogram.quantile(share).as_secs_f64() * 1e6;
        assert!((found / exact - 1.0).abs() < 0.035, "{share}: {found}");
    }
    assert_eq!((histogram.count(), histogram.max()), (10_000, Duration::from_millis(10)));
}

#[tokio::test]
async fn a_process_can_be_signalled() {
    let process = Program::new("/bin/sh").args(["-c", "echo out; exec sleep 600"]).start();
    process.line("out").await;
    assert!(process.signal(nix::sys::signal::Signal::SIGTERM));
    let status = process.exit(Duration::from_secs(20)).await;
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(15));
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_process_shows_its_lines_and_its_exit_and_leaves_no_orphan() {
    let script = "echo out; echo err >&2; sleep 600 & read -r line < /dev/null; exit 3";
    let process = Program::new("/bin/sh").args(["-c", script]).start();
    process.line("out").await;
    let status = process.exit(Duration::from_secs(20)).await;
    assert_eq!(status.code(), Some(3));
    assert!(process.has_exited());
    assert!(!process.signal(nix::sys::signal::Signal::SIGTERM), "nothing to signal");
    let orphans = process.tree();
    assert_eq!(orphans.len(), 1, "the sleeper");
    assert!(support::procfs::descriptors(orphans[0]) > 0);
    assert!(support::procfs::resident_kib(orphans[0]) > 0);
    process.kill();
    assert!(process.tree().is_empty());
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_process_is_seen_while_it_becomes_another_program() {
    let script = "exec /bin/sh -c \"$0\" \"$0\"";
    let process = Program::new("/bin/sh").args(["-c", script, script]).start();
    for look in 0..2_000 {
        assert_eq!(process.tree(), [process.pid()], "look {look}");
    }
}
