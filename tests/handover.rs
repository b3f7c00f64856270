//! A reload closes no connection: plaintext HTTP/1 moves to the next worker, with what was read of it.
#![cfg(all(target_os = "linux", feature = "serve"))]

mod support;

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;

use support::http::{GET, answer, connect, expect_end, send};
use support::load::{Kind, Load};
use support::server::{Server, Setup};

#[test]
#[ignore = "the server that the tests start"]
fn server() {
    support::server::serve();
}

async fn reload(server: &Server, generation: u64) {
    server.process.signal(Signal::SIGHUP);
    server.generation(generation).await;
}

fn reloads(default: u64) -> u64 {
    std::env::var("GRACEFUL_RELOADS").map_or(default, |count| count.parse().expect("a number"))
}

/// Whatever else is idle has moved by then, too, or is about to.
async fn until_moved(client: &mut UnixStream) {
    loop {
        send(client, GET).await;
        if generation(&answer(client).await) == "2" {
            return;
        }
    }
}

#[tokio::test]
async fn no_keep_alive_client_ever_connects_again() {
    let server = Setup::new().start().await;
    let load = Load::new(server.addr())
        .keep_alive(200, Duration::from_millis(20))
        .fresh(4)
        .slow(4)
        .streaming(4)
        .uploads(4)
        .h2(4)
        .start();
    for generation in 2..2 + reloads(50) {
        reload(&server, generation).await;
        load.generation(generation).await;
        load.further(Kind::KeepAlive, 400).await;
    }
    let report = load.stop().await;
    println!("{report}");
    assert_eq!(report.lost(), 0, "{report}");
    assert_eq!(report.of(Kind::KeepAlive).connects, 200, "{report}");
    for kind in [Kind::KeepAlive, Kind::Slow, Kind::Stream, Kind::Upload] {
        assert_eq!(report.of(kind).reconnects, 0, "{kind:?} {report}");
    }
}

fn generation(answer: &str) -> &str {
    let line = answer.lines().find_map(|line| line.strip_prefix("x-generation: "));
    line.expect("the header of the test app")
}

#[tokio::test]
async fn every_state_of_a_connection_moves() {
    let server = Setup::new().start().await;
    let mut fresh = connect(server.addr()).await;
    let mut preface = connect(server.addr()).await;
    send(&mut preface, "PRI * HT").await;
    let mut partial = connect(server.addr()).await;
    send(&mut partial, "GET / HTTP/1.1\r\nho").await;
    let mut idle = connect(server.addr()).await;
    send(&mut idle, GET).await;
    assert_eq!(generation(&answer(&mut idle).await), "1");
    let mut second = connect(server.addr()).await;
    send(&mut second, &format!("{GET}GET / HTTP/1.1\r\nho")).await;
    assert_eq!(generation(&answer(&mut second).await), "1");
    let mut busy = connect(server.addr()).await;
    send(&mut busy, "GET /slow?ms=300 HTTP/1.1\r\nhost: x\r\n\r\n").await;
    let mut pipelined = connect(server.addr()).await;
    let slow = "GET /slow?ms=300 HTTP/1.1\r\nhost: x\r\n\r\n";
    send(&mut pipelined, &format!("{slow}{GET}{GET}GET / HT")).await;
    // Behind all of these in the accept queue: when it is answered, they have been accepted.
    let mut last = connect(server.addr()).await;
    send(&mut last, GET).await;
    answer(&mut last).await;

    reload(&server, 2).await;
    for stream in [&mut busy, &mut pipelined] {
        let text = answer(stream).await;
        assert_eq!(generation(&text), "1", "what has begun ends where it began");
        assert!(!text.contains("connection: close"), "{text}");
    }
    server.one_worker().await;
    send(&mut fresh, GET).await;
    send(&mut partial, "st: x\r\n\r\n").await;
    send(&mut second, "st: x\r\n\r\n").await;
    send(&mut idle, GET).await;
    send(&mut busy, GET).await;
    send(&mut pipelined, "TP/1.1\r\nhost: x\r\n\r\n").await;
    for stream in [&mut fresh, &mut partial, &mut second, &mut idle, &mut busy] {
        assert_eq!(generation(&answer(stream).await), "2");
    }
    // What had arrived whole was served where it was read, the rest of it where it ends.
    for expected in ["1", "1", "2"] {
        let text = answer(&mut pipelined).await;
        assert_eq!(generation(&text), expected);
        assert!(!text.contains("connection: close"), "{text}");
    }
    // HTTP/2 from the first byte on, though another process has read eight of them.
    let stream = PrefaceRest(preface).finish().await;
    let (mut client, connection) = h2::client::handshake(stream).await.expect("handshake");
    tokio::spawn(connection);
    let request = http::Request::get("http://x/").body(()).expect("a request");
    let (response, _) = client.send_request(request, true).expect("a stream");
    assert_eq!(response.await.expect("a response").headers()["x-generation"], "2");
}

/// What a handler does not read is read all the same: the connection may go on, and move.
#[tokio::test]
async fn a_body_that_nobody_reads_holds_no_connection() {
    const LENGTH: usize = 200 * 1024;
    let server = Setup::new().start().await;
    // Of a path that takes no `POST`. What is sent of the body before the answer, after it, and in the drain.
    let whole = |length: usize| format!("content-length: {length}\r\n\r\n");
    let chunked = "transfer-encoding: chunked\r\n\r\n".to_owned();
    let half = "x".repeat(LENGTH / 2);
    let cases = [
        (whole(10), "0123456789", "", ""),
        (whole(10), "", "0123456789", ""),
        (whole(10), "0123", "4", "56789"),
        (whole(LENGTH), &*half, &*half, ""),
        (whole(LENGTH), "", &*half, &*half),
        (chunked.clone(), "4\r\nfour\r\n0\r\n\r\n", "", ""),
        (chunked.clone(), "4\r\nfour\r\n", "0\r\n\r\n", ""),
        (chunked, "4\r\nfo", "ur\r\n", "0\r\n\r\n"),
    ];
    let mut streams = Vec::new();
    for (fields, before, after, _) in &cases {
        let mut stream = connect(server.addr()).await;
        send(&mut stream, &format!("POST / HTTP/1.1\r\nhost: x\r\n{fields}{before}")).await;
        let text = answer(&mut stream).await;
        assert!(text.starts_with("HTTP/1.1 405"), "{text}");
        assert!(!text.contains("connection: close"), "{text}");
        send(&mut stream, after).await;
        streams.push(stream);
    }
    let since = Instant::now();
    reload(&server, 2).await;
    for (stream, (.., late)) in streams.iter_mut().zip(&cases) {
        send(stream, late).await;
        // Together with the rest, or after it.
        send(stream, GET).await;
        let text = answer(stream).await;
        assert!(text.starts_with("HTTP/1.1 200"), "{text}");
        assert!(!text.contains("connection: close"), "{text}");
    }
    server.one_worker().await;
    // One that could not move would have been there for 15 s.
    assert!(since.elapsed() < Duration::from_secs(10), "{:?}", since.elapsed());
    for stream in &mut streams {
        send(stream, GET).await;
        assert_eq!(generation(&answer(stream).await), "2");
    }
}

/// A drain that has begun changes nothing of that: the answer does not say goodbye.
#[tokio::test]
async fn a_body_that_is_left_unread_in_a_drain_holds_no_connection() {
    let server = Setup::new().start().await;
    let mut stream = connect(server.addr()).await;
    let fields = "host: x\r\ncontent-length: 10\r\n\r\n";
    send(&mut stream, &format!("POST /slow?ms=300 HTTP/1.1\r\n{fields}01234")).await;
    reload(&server, 2).await;
    let text = answer(&mut stream).await;
    assert!(!text.contains("connection: close"), "{text}");
    send(&mut stream, "56789").await;
    server.one_worker().await;
    send(&mut stream, GET).await;
    assert_eq!(generation(&answer(&mut stream).await), "2");
}

/// Too long to be read for nothing, or of a client that may send it or not: the answer is the last one, says
/// so, and arrives.
#[tokio::test]
async fn an_answer_to_a_long_body_that_nobody_reads_says_goodbye() {
    let server = Setup::new().start().await;
    let part = "x".repeat(100 * 1024);
    for fields in ["content-length: 100000000", "content-length: 5\r\nexpect: 100-continue"] {
        let mut stream = connect(server.addr()).await;
        send(&mut stream, &format!("POST / HTTP/1.1\r\nhost: x\r\n{fields}\r\n\r\n")).await;
        if !fields.contains("expect") {
            send(&mut stream, &part).await;
        }
        let text = answer(&mut stream).await;
        assert!(text.starts_with("HTTP/1.1 405"), "{text}");
        assert!(text.contains("connection: close"), "{text}");
        expect_end(&mut stream).await;
    }
}

/// A connection on which eight bytes of the preface are already on their way.
struct PrefaceRest(tokio::net::TcpStream);

impl PrefaceRest {
    /// The client writes the whole preface; the first eight bytes of that are dropped.
    async fn finish(self) -> impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin {
        let (near, far) = tokio::io::duplex(1 << 16);
        let (mut from_client, mut to_client) = tokio::io::split(far);
        let (mut from_server, mut to_server) = self.0.into_split();
        tokio::spawn(async move { tokio::io::copy(&mut from_server, &mut to_client).await });
        tokio::spawn(async move {
            let mut first = [0; 8];
            tokio::io::AsyncReadExt::read_exact(&mut from_client, &mut first).await?;
            assert_eq!(&first, b"PRI * HT");
            tokio::io::copy(&mut from_client, &mut to_server).await
        });
        near
    }
}

#[tokio::test]
async fn a_connection_knows_its_peer_and_its_listener_after_the_move() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("a.sock");
    let setup = Setup::new().bind(&format!("127.0.0.1:0 unix:{}", path.display()));
    let server = setup.start().await;
    let mut tcp = connect(server.addr()).await;
    let mut unix = UnixStream::connect(&path).await.expect("connect");
    let peer = "GET /peer HTTP/1.1\r\nhost: x\r\n\r\n";
    for expected in ["1", "2", "3"] {
        send(&mut tcp, peer).await;
        let text = answer(&mut tcp).await;
        assert_eq!(generation(&text), expected);
        let own = tcp.local_addr().expect("connected");
        assert!(text.ends_with(&format!("\r\n\r\ntcp {own}")), "{text}");
        send(&mut unix, peer).await;
        let text = answer(&mut unix).await;
        assert_eq!(generation(&text), expected);
        assert!(text.ends_with(&format!("unix {}", std::process::id())), "{text}");
        if expected != "3" {
            reload(&server, expected.parse::<u64>().expect("a number") + 1).await;
            server.one_worker().await;
        }
    }
}

/// Its client waits for the end of the connection, which is that of the answer; and reads it late, when the
/// worker has nothing left to do but to write.
#[tokio::test]
async fn an_answer_without_a_length_ends_its_connection() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("a.sock");
    // Its buffer does not grow by itself, as that of TCP does.
    let server = Setup::new().bind(&format!("unix:{}", path.display())).start().await;
    let mut client = UnixStream::connect(&path).await.expect("connect");
    let stream =
        "GET /stream?chunks=10&bytes=40960&ms=0 HTTP/1.0\r\nconnection: keep-alive\r\n\r\n";
    send(&mut client, stream).await;
    let mut received = Vec::new();
    while received.len() < 4096 {
        client.read_buf(&mut received).await.expect("the begin");
    }
    let mut other = UnixStream::connect(&path).await.expect("connect");
    send(&mut other, GET).await;
    answer(&mut other).await;
    reload(&server, 2).await;
    until_moved(&mut other).await;
    let all = tokio::time::timeout(Duration::from_secs(20), client.read_to_end(&mut received));
    all.await.expect("the end of the connection").expect("the rest");
    let head = received.windows(4).position(|four| four == b"\r\n\r\n").expect("a head") + 4;
    assert_eq!(received.len() - head, 10 * 40_960);
}

#[tokio::test]
async fn without_the_hand_over_the_next_answer_says_goodbye() {
    let server = Setup::new().env("TEST_STAY", 1).start().await;
    let mut idle = connect(server.addr()).await;
    send(&mut idle, GET).await;
    assert!(!answer(&mut idle).await.contains("connection: close"));
    reload(&server, 2).await;
    // The old worker may learn of it after this request; then the next one is the last.
    loop {
        send(&mut idle, GET).await;
        let text = answer(&mut idle).await;
        assert_eq!(generation(&text), "1");
        if text.contains("connection: close") {
            break;
        }
    }
    expect_end(&mut idle).await;
}

#[tokio::test]
async fn a_worker_without_descriptors_to_spare_refuses_and_nothing_is_lost() {
    // 64 are kept in reserve, so that there is room for some of the hundred and not for all.
    let server = Setup::new().env("TEST_NOFILE", 130).start().await;
    let mut streams = Vec::new();
    for _ in 0..100 {
        let mut stream = connect(server.addr()).await;
        send(&mut stream, GET).await;
        answer(&mut stream).await;
        streams.push(stream);
    }
    reload(&server, 2).await;
    let mut moved = 0;
    for stream in &mut streams {
        loop {
            send(stream, GET).await;
            let text = answer(stream).await;
            if generation(&text) == "2" {
                moved += 1;
                break;
            }
            if text.contains("connection: close") {
                expect_end(stream).await;
                break;
            }
        }
    }
    assert!((1..100).contains(&moved), "{moved} of 100 moved");
}

#[tokio::test]
async fn five_thousand_idle_connections_move_in_half_a_second() {
    const CONNECTIONS: usize = 5_000;
    let (soft, hard) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE)
        .expect("a limit");
    if hard < 12_000 {
        println!("SKIPPED: only {hard} descriptors are allowed, 12,000 are needed");
        assert!(std::env::var_os("GRACEFUL_REQUIRE_ALL").is_none(), "nothing may be skipped");
        return;
    }
    let limit = nix::sys::resource::Resource::RLIMIT_NOFILE;
    nix::sys::resource::setrlimit(limit, soft.max(12_000), hard).expect("set the limit");
    let server = Setup::new().start().await;
    let mut streams = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut stream = connect(server.addr()).await;
        send(&mut stream, GET).await;
        answer(&mut stream).await;
        streams.push(stream);
    }
    reload(&server, 2).await;
    let since = Instant::now();
    server.one_worker().await;
    let took = since.elapsed();
    println!("{CONNECTIONS} connections moved, and the old worker left, in {took:?}");
    for stream in &mut streams {
        send(stream, GET).await;
        assert_eq!(generation(&answer(stream).await), "2");
    }
    // Without optimizations and beside other tests only a hang is worth a failure.
    let limit = if cfg!(debug_assertions) { 10_000 } else { 500 };
    assert!(took < Duration::from_millis(limit), "{took:?}");
}
