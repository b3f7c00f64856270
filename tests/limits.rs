//! Clients that are slow, silent or too many: each has its limit, and what is in flight has none.
#![cfg(all(target_os = "linux", feature = "serve"))]

mod support;

use std::time::{Duration, Instant};

use support::raw::{self, Raw};
use support::server::{Server, Setup};

#[test]
#[ignore = "the server that the tests start"]
fn server() {
    let build = async || Ok::<_, std::io::Error>(support::app::announced(support::app::routes()));
    let server = support::server::options(graceful::serve_with(build))
        .header_timeout(HEADER)
        .keep_alive_timeout(KEEP_ALIVE)
        .max_headers(10)
        .max_streams(7)
        .ping_interval(PING);
    let server = match std::env::var("TEST_CONNECTIONS") {
        Ok(most) => server.max_connections(most.parse().expect("a number")),
        Err(_) => server,
    };
    support::server::finish(server.run());
}

const HEADER: Duration = Duration::from_millis(300);
const KEEP_ALIVE: Duration = Duration::from_millis(700);
const PING: Duration = Duration::from_millis(100);
/// How late a timer may be on a busy machine.
const LATE: Duration = Duration::from_millis(900);

const GET: &str = "GET / HTTP/1.1\r\nhost: x\r\n\r\n";

async fn start() -> Server {
    Setup::new().single().start().await
}

#[track_caller]
fn took(since: Instant, until: Instant, limit: Duration) {
    took_between(since, since, until, limit);
}

/// The server began to count somewhere between the two first moments.
#[track_caller]
fn took_between(earliest: Instant, latest: Instant, until: Instant, limit: Duration) {
    let (most, least) = (until - earliest, until - latest);
    assert!(most >= limit && least < limit + LATE, "{least:?} to {most:?}, not {limit:?}");
}

#[tokio::test]
async fn a_head_that_does_not_end_is_refused() {
    let server = start().await;
    // Before, and what there is of the head; also one that may still become HTTP/2.
    for (before, head) in [("", "GET / HTTP/1.1\r\nho"), ("", "PRI * HT"), (GET, "GET / HT")] {
        let mut raw = Raw::connect(server.addr()).await;
        let early = usize::from(!before.is_empty());
        raw.send(before).await;
        for _ in 0..early {
            assert_eq!(raw.answer().await.expect("an answer").status, 200);
        }
        let since = Instant::now();
        raw.send(head).await;
        let answer = raw.answer().await.expect("an answer");
        took(since, Instant::now(), HEADER);
        assert_eq!(answer.status, 408);
        assert!(answer.is_last());
        assert_eq!(raw.answer().await, None);
    }
}

#[tokio::test]
async fn a_head_that_trickles_has_the_same_limit() {
    let server = start().await;
    let mut raw = Raw::connect(server.addr()).await;
    let since = Instant::now();
    let trickling = async {
        loop {
            raw.send_if_open("x").await;
            if let Ok(answer) = tokio::time::timeout(HEADER / 10, raw.answer()).await {
                return answer;
            }
        }
    };
    let answer = trickling.await.expect("an answer");
    took(since, Instant::now(), HEADER);
    assert_eq!(answer.status, 408);
}

#[tokio::test]
async fn a_client_that_says_nothing_is_left() {
    let server = start().await;
    let since = Instant::now();
    let mut raw = Raw::connect(server.addr()).await;
    assert_eq!(raw.answer().await, None);
    took(since, Instant::now(), HEADER);
}

/// Whoever closes both ways at once resets a client that is still writing, and may cost it its last answer.
#[tokio::test]
async fn a_connection_that_the_server_closes_first_is_not_reset() {
    let server = start().await;
    let mut raw = Raw::connect(server.addr()).await;
    raw.send(GET).await;
    assert_eq!(raw.answer().await.expect("an answer").status, 200);
    assert_eq!(raw.answer().await, None);
    // A reset would have come back by the time that the first is written, and the second would fail.
    raw.send("GET / HTTP").await;
    raw.send("/1.1\r\n").await;
}

#[tokio::test]
async fn an_idle_connection_is_closed_after_its_time() {
    let server = start().await;
    let upload = "POST /upload HTTP/1.1\r\nhost: x\r\ncontent-length: 8\r\n\r\nhalf";
    for (first, second) in [(GET, ""), (upload, "rest")] {
        let mut raw = Raw::connect(server.addr()).await;
        let mut asked = Instant::now();
        for _ in 0..3 {
            // Longer than the limit of a head, so that this is seen not to count here.
            tokio::time::sleep(HEADER / 2).await;
            asked = Instant::now();
            raw.send(first).await;
            if !second.is_empty() {
                server.process.line("begun POST /upload").await;
                raw.send(second).await;
            }
            assert_eq!(raw.answer().await.expect("an answer").status, 200);
        }
        let since = Instant::now();
        assert_eq!(raw.answer().await, None, "nothing is said to a client that has asked nothing");
        took_between(asked, since, Instant::now(), KEEP_ALIVE);
    }
}

/// The next worker knows that it is no new one, which has less time.
#[tokio::test]
async fn an_idle_connection_has_the_same_time_where_it_moves_to() {
    let server = Setup::new().bake(Duration::ZERO).start().await;
    let mut raw = Raw::connect(server.addr()).await;
    raw.send(GET).await;
    assert_eq!(raw.answer().await.expect("an answer").status, 200);
    let since = Instant::now();
    server.process.signal(nix::sys::signal::Signal::SIGHUP);
    server.process.line("reloaded: 2").await;
    let moved = Instant::now();
    assert_eq!(raw.answer().await, None);
    took_between(since, moved, Instant::now(), KEEP_ALIVE);
}

/// Its window is full, and it answers pings.
#[tokio::test]
async fn an_http2_client_that_reads_slowly_is_not_idle() {
    let server = start().await;
    let mut raw = Raw::connect(server.addr()).await;
    raw.start_h2().await;
    raw.acknowledge_settings().await;
    raw.send(raw::get(1, "/whole?bytes=100000")).await;
    let (since, mut received) = (Instant::now(), 0);
    let mut has_room = false;
    while received < 100_000 {
        let frame = raw.frame().await.expect("it is in flight");
        assert_ne!(frame.kind, raw::GOAWAY, "it is in flight");
        if frame.kind == raw::PING {
            raw.send(raw::frame(raw::PING, raw::ACK, 0, &frame.payload)).await;
        } else if frame.kind == 0 {
            received += frame.payload.len();
        }
        if !has_room && since.elapsed() > 2 * KEEP_ALIVE {
            has_room = true;
            let room = (1_u32 << 20).to_be_bytes();
            raw.send([0, 1].map(|of| raw::frame(8, 0, of, &room)).concat()).await;
        }
    }
    assert!(has_room, "all of it fitted");
}

#[tokio::test]
async fn what_is_in_flight_is_not_limited() {
    let server = start().await;
    let mut slow = Raw::connect(server.addr()).await;
    slow.send("GET /slow?ms=1500 HTTP/1.1\r\nhost: x\r\n\r\n").await;
    let mut upload = Raw::connect(server.addr()).await;
    upload.send("POST /upload HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\nab").await;
    assert_eq!(slow.answer().await.expect("an answer").status, 200);
    upload.send("cd").await;
    assert_eq!(upload.answer().await.expect("an answer").status, 200);
}

#[tokio::test]
async fn too_many_fields_are_refused() {
    let server = start().await;
    let fields: String = (0..20).map(|number| format!("x-{number}: y\r\n")).collect();
    let mut raw = Raw::connect(server.addr()).await;
    raw.send(format!("GET / HTTP/1.1\r\nhost: x\r\n{fields}\r\n")).await;
    assert_eq!(raw.answer().await.expect("an answer").status, 431);
}

#[tokio::test]
async fn one_connection_too_many_waits_for_its_turn() {
    let server = Setup::new().single().env("TEST_CONNECTIONS", 2).start().await;
    let slow = "GET /slow?ms=500 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let mut first = Vec::new();
    for _ in 0..2 {
        let mut raw = Raw::connect(server.addr()).await;
        raw.send(slow).await;
        server.process.line("begun GET /slow").await;
        first.push(raw);
    }
    let mut waiting = Vec::new();
    for _ in 0..4 {
        let mut raw = Raw::connect(server.addr()).await;
        raw.send(GET.replace("host", "connection: close\r\nhost")).await;
        waiting.push(raw);
    }
    let mut turn = first.remove(0);
    assert_eq!(turn.answer().await.expect("an answer").status, 200);
    let begun = server.process.lines().iter().filter(|line| line.contains("begun GET")).count();
    assert_eq!(begun, 2, "nobody was served before a place was free");
    drop((turn, first));
    for mut raw in waiting {
        assert_eq!(raw.answer().await.expect("an answer").status, 200);
    }
}

#[tokio::test]
async fn an_idle_http2_connection_is_told_to_go() {
    let server = start().await;
    for acknowledges in [true, false] {
        let mut raw = Raw::connect(server.addr()).await;
        raw.start_h2().await;
        raw.acknowledge_settings().await;
        let asked = Instant::now();
        raw.send(raw::get(1, "/")).await;
        raw.frame_of(raw::HEADERS).await;
        let since = Instant::now();
        let mut gone = None;
        while let Some(frame) = raw.frame().await {
            if frame.kind == raw::GOAWAY {
                gone.get_or_insert_with(Instant::now);
            }
            // Its pings are answered; the one of the goodbye is not always.
            if frame.kind == raw::PING && (acknowledges || gone.is_none()) {
                raw.send_if_open(raw::frame(raw::PING, raw::ACK, 0, &frame.payload)).await;
            }
        }
        took_between(asked, since, gone.expect("a goodbye"), KEEP_ALIVE);
        let linger = if acknowledges { Duration::ZERO } else { Duration::from_secs(1) };
        took_between(asked + KEEP_ALIVE, gone.expect("a goodbye"), Instant::now(), linger);
    }
}

#[tokio::test]
async fn http2_streams_are_limited_and_the_peer_is_asked_for_a_sign_of_life() {
    let server = start().await;
    let mut raw = Raw::connect(server.addr()).await;
    raw.send([raw::PREFACE, &raw::frame(raw::SETTINGS, 0, 0, &[])].concat()).await;
    let settings = raw.frame_of(raw::SETTINGS).await;
    const MAX_CONCURRENT_STREAMS: [u8; 6] = [0, 3, 0, 0, 0, 7];
    assert!(settings.payload.chunks(6).any(|one| one == MAX_CONCURRENT_STREAMS), "{settings:?}");
    raw.acknowledge_settings().await;
    raw.send(raw::get(1, "/slow?ms=400")).await;
    raw.frame_of(raw::PING).await;
}
