//! TLS: both versions of HTTP, certificates that a reload renews, handshakes that do not end, and drains.
#![cfg(all(target_os = "linux", feature = "tls"))]

mod support;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Extension;
use axum::routing::get;
use graceful::tls::{TlsConfig, TlsSession, rustls};
use nix::sys::signal::Signal;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::ClientConfig;

use support::certificates::Certificate;
use support::load::{Kind, Load};
use support::raw::Raw;
use support::server::Setup;

#[test]
#[ignore = "the server that the tests start"]
fn server() {
    let build = async || {
        let who = async |Extension(session): Extension<TlsSession>| {
            let name = session.server_name().unwrap_or("nobody");
            format!("{name} {}", session.peer_certificates().len())
        };
        Ok::<_, Infallible>(support::app::app(support::server::generation).route("/who", get(who)))
    };
    let server = support::server::options(graceful::serve_with(build));
    let path = |name| PathBuf::from(std::env::var_os(name).expect("set by the test"));
    let (cert, key) = (path("TEST_CERT"), path("TEST_KEY"));
    let server = match std::env::var("TEST_TLS").as_deref() {
        Ok("clients") => {
            server.bind_tls("127.0.0.1:0", TlsConfig::from_rustls(asking(&cert, &key)))
        }
        Ok("hasty") => {
            let config = TlsConfig::from_pem_files(cert, key);
            server.bind_tls("127.0.0.1:0", config.handshake_timeout(HASTE))
        }
        _ => server.tls(cert, key),
    };
    support::server::finish(server.run());
}

/// A configuration that demands a certificate of the client: one that is signed as the server's own.
fn asking(cert: &Path, key: &Path) -> Arc<rustls::ServerConfig> {
    let read = |path| std::fs::read_to_string(path).expect("a PEM file");
    let own = Certificate { cert: read(cert), key: read(key) };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let roots = Arc::new(own.roots());
    let verifier =
        rustls::server::WebPkiClientVerifier::builder_with_provider(roots, provider.clone());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the defaults are right")
        .with_client_cert_verifier(verifier.build().expect("a verifier"))
        .with_single_cert(vec![own.der()], own.key_der())
        .expect("our own certificate");
    Arc::new(config)
}

const HASTE: Duration = Duration::from_millis(300);
const LONG: Duration = Duration::from_secs(20);
const GET: &str = "GET / HTTP/1.1\r\nhost: x\r\n\r\n";

struct Fixture {
    directory: TempDir,
    certificate: Certificate,
}

impl Fixture {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let certificate = Certificate::new();
        certificate.write(directory.path());
        Self { directory, certificate }
    }

    fn setup(&self) -> Setup {
        let path = |name| self.directory.path().join(name).display().to_string();
        Setup::new().env("TEST_CERT", path("cert.pem")).env("TEST_KEY", path("key.pem"))
    }
}

type Client = TlsStream<TcpStream>;

async fn connect(addr: SocketAddr, config: Arc<ClientConfig>) -> std::io::Result<Client> {
    let stream = TcpStream::connect(addr).await?;
    let name = "localhost".try_into().expect("a name");
    TlsConnector::from(config).connect(name, stream).await
}

/// One answer with a `content-length`.
async fn ask(client: &mut Client, request: &str) -> std::io::Result<String> {
    client.write_all(request.as_bytes()).await?;
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            if body.len() >= length.map_or(0, |length| length.parse().expect("a number")) {
                return Ok(text.into_owned());
            }
        }
        bytes.push(client.read_u8().await?);
    }
}

/// The server has said that it ends, and nothing else: without `close_notify` this is an error.
async fn expect_goodbye(client: &mut Client) {
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).await.expect("close_notify");
    assert_eq!(rest, b"");
}

/// Both ways to run.
fn setups(fixture: &Fixture) -> [Setup; 2] {
    [fixture.setup(), fixture.setup().single()]
}

#[tokio::test]
async fn the_client_chooses_the_version_of_http() {
    let fixture = Fixture::new();
    for setup in setups(&fixture) {
        let server = setup.start().await;
        for protocols in [&["http/1.1"][..], &[]] {
            let config = fixture.certificate.client(protocols);
            let mut client = connect(server.addr(), config).await.expect("a connection");
            for _ in 0..2 {
                let answer = ask(&mut client, GET).await.expect("an answer");
                assert!(answer.ends_with("hello, world\n"), "{answer}");
            }
            let who = GET.replace("/ ", "/who ");
            assert!(ask(&mut client, &who).await.expect("an answer").ends_with("localhost 0"));
        }
        let config = fixture.certificate.client(&["h2", "http/1.1"]);
        let stream = connect(server.addr(), config).await.expect("a connection");
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let (mut sender, connection) = h2::client::handshake(stream).await.expect("HTTP/2");
        let connection = tokio::spawn(connection);
        let request = http::Request::get("https://localhost/").body(()).expect("a request");
        let (response, _) = sender.send_request(request, true).expect("sent");
        assert_eq!(response.await.expect("an answer").status(), 200);
        drop(sender);
        connection.await.expect("no panic").expect("a clean end");
    }
}

#[tokio::test]
async fn a_client_can_be_asked_for_its_certificate() {
    let fixture = Fixture::new();
    // Its one address is bound by the server itself.
    let setup = fixture.setup().bind("").env("TEST_TLS", "clients");
    let server = setup.start().await;
    let own = Some(&fixture.certificate);
    let config = Arc::new(fixture.certificate.client_with(&["http/1.1"], own));
    let mut client = connect(server.addr(), config).await.expect("a connection");
    let who = GET.replace("/ ", "/who ");
    assert!(ask(&mut client, &who).await.expect("an answer").ends_with("localhost 1"));

    let config = fixture.certificate.client(&["http/1.1"]);
    // In TLS 1.3 the client's handshake is over before the server has looked at it.
    if let Ok(mut client) = connect(server.addr(), config).await {
        ask(&mut client, GET).await.expect_err("no certificate, no answer");
    }
}

#[tokio::test]
async fn a_health_check_speaks_tls_where_all_listeners_do() {
    let fixture = Fixture::new();
    for (path, outcome) in [("/", "reloaded: 2 "), ("/nowhere", "was answered with 404")] {
        let setup = fixture.setup().bake(Duration::from_secs(1));
        let server = setup.env("TEST_HEALTH", path).start().await;
        server.process.signal(Signal::SIGHUP);
        let line = server.process.line("reload").await;
        assert!(line.contains(outcome), "{line}");
    }
}

#[tokio::test]
async fn a_reload_renews_the_certificate_and_a_bad_one_changes_nothing() {
    let fixture = Fixture::new();
    let server = fixture.setup().start().await;
    let answers = async |certificate: &Certificate| {
        let config = certificate.client(&[]);
        match connect(server.addr(), config).await {
            Ok(mut client) => ask(&mut client, GET).await.expect("an answer"),
            Err(error) => error.to_string(),
        }
    };
    assert!(answers(&fixture.certificate).await.contains("x-generation: 1"));

    let renewed = Certificate::new();
    renewed.write(fixture.directory.path());
    assert!(answers(&fixture.certificate).await.contains("x-generation: 1"), "not read yet");
    server.process.signal(Signal::SIGHUP);
    server.generation(2).await;
    until(async || answers(&renewed).await.contains("x-generation: 2")).await;

    // A key that belongs to another certificate.
    let other = Certificate::new();
    std::fs::write(fixture.directory.path().join("key.pem"), &other.key).expect("a key file");
    server.process.signal(Signal::SIGHUP);
    server.process.any_line("cannot serve TLS with").await;
    assert!(answers(&renewed).await.contains("x-generation: 2"));

    other.write(fixture.directory.path());
    // The failed worker may not be reaped yet; the reload waits for that.
    server.process.signal(Signal::SIGHUP);
    server.process.line("ready: 4 ").await;
    until(async || answers(&other).await.contains("x-generation: 4")).await;
}

async fn until(holds: impl AsyncFn() -> bool) {
    let since = Instant::now();
    while !holds().await {
        assert!(since.elapsed() < LONG, "it never holds");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn files_that_cannot_be_used_are_an_error_at_the_start() {
    type Break = fn(&Path);
    let break_it: [(&str, Break); 5] = [
        ("cannot use the certificate in", |path| {
            std::fs::remove_file(path.join("cert.pem")).expect("it is there");
        }),
        ("cannot use the certificate in", |path| {
            std::fs::write(path.join("cert.pem"), "no certificate").expect("written");
        }),
        ("cannot use the key in", |path| {
            std::fs::remove_file(path.join("key.pem")).expect("it is there");
        }),
        ("cannot use the key in", |path| {
            std::fs::copy(path.join("cert.pem"), path.join("key.pem")).expect("copied");
        }),
        ("cannot serve TLS with", |path| {
            std::fs::write(path.join("key.pem"), Certificate::new().key).expect("written");
        }),
    ];
    for (what, break_it) in break_it {
        let fixture = Fixture::new();
        break_it(fixture.directory.path());
        for setup in setups(&fixture) {
            let process = setup.spawn();
            assert_eq!(process.exit(LONG).await.code(), Some(1));
            let line = process.any_line("Error: ").await;
            assert!(line.contains(what), "{line}");
        }
    }
}

#[tokio::test]
async fn a_handshake_that_does_not_end_is_given_up() {
    let fixture = Fixture::new();
    let setup = fixture.setup().bind("").env("TEST_TLS", "hasty").env("TEST_SINGLE", "1");
    let server = setup.start().await;
    for bytes in [&b""[..], b"\x16\x03\x01\x02\x00\x01"] {
        let since = Instant::now();
        let mut raw = Raw::connect(server.addr()).await;
        raw.send(bytes).await;
        let took = raw.ended().await - since;
        assert!(took >= HASTE && took < HASTE + Duration::from_millis(500), "{took:?}");
    }
}

#[tokio::test]
async fn what_is_not_tls_gets_no_answer() {
    let fixture = Fixture::new();
    let server = fixture.setup().start().await;
    let mut raw = Raw::connect(server.addr()).await;
    raw.send(GET).await;
    assert_eq!(raw.statuses(1).await, [] as [u16; 0]);
}

#[tokio::test]
async fn a_drain_answers_once_more_and_says_goodbye() {
    let fixture = Fixture::new();
    let mut ways = Vec::new();
    for setup in setups(&fixture) {
        ways.push((setup, Signal::SIGTERM));
    }
    ways.push((fixture.setup(), Signal::SIGHUP));
    for (setup, signal) in ways {
        let server = setup.idle_grace(LONG).stop_timeout(2 * LONG).start().await;
        let config = fixture.certificate.client(&[]);
        let client = async || connect(server.addr(), config.clone()).await.expect("connected");
        let mut idle = client().await;
        ask(&mut idle, GET).await.expect("an answer");
        let mut slow = client().await;
        let asking = async {
            let answer = ask(&mut slow, &GET.replace("/ ", "/slow?ms=300 ")).await;
            assert!(answer.expect("an answer").contains("connection: close"));
            expect_goodbye(&mut slow).await;
        };
        let draining = async {
            server.process.signal(signal);
            match signal {
                Signal::SIGHUP => server.generation(2).await,
                _ => while TcpStream::connect(server.addr()).await.is_ok() {},
            }
        };
        tokio::join!(asking, draining);
        let answer = ask(&mut idle, GET).await.expect("an answer");
        assert!(answer.contains("connection: close"), "{answer}");
        expect_goodbye(&mut idle).await;
    }
}

#[tokio::test]
async fn an_idle_connection_is_told_when_its_grace_is_over() {
    let fixture = Fixture::new();
    let grace = Duration::from_millis(300);
    for setup in setups(&fixture) {
        let server = setup.idle_grace(grace).start().await;
        let config = fixture.certificate.client(&[]);
        let mut idle = connect(server.addr(), config.clone()).await.expect("connected");
        ask(&mut idle, GET).await.expect("an answer");
        let mut fresh = connect(server.addr(), config).await.expect("connected");
        let mut silent = Raw::connect(server.addr()).await;
        // Accepted after these, and answered.
        let config = fixture.certificate.client(&[]);
        let mut last = connect(server.addr(), config).await.expect("connected");
        ask(&mut last, &GET.replace("host", "connection: close\r\nhost")).await.expect("an answer");
        drop(last);
        let since = Instant::now();
        server.process.signal(Signal::SIGTERM);
        expect_goodbye(&mut idle).await;
        expect_goodbye(&mut fresh).await;
        silent.ended().await;
        assert!(since.elapsed() >= grace, "{:?}", since.elapsed());
        drop((idle, fresh));
        assert!(server.process.exit(LONG).await.success());
        assert!(since.elapsed() < grace + Duration::from_millis(600), "{:?}", since.elapsed());
    }
}

#[tokio::test]
async fn a_handshake_that_stalls_does_not_outlive_the_drain() {
    let fixture = Fixture::new();
    let deadline = Duration::from_millis(500);
    for setup in setups(&fixture) {
        let server = setup.idle_grace(Duration::ZERO).stop_timeout(deadline).start().await;
        let mut half = Raw::connect(server.addr()).await;
        half.send(b"\x16\x03\x01\x02\x00\x01").await;
        let config = fixture.certificate.client(&[]);
        let mut client = connect(server.addr(), config).await.expect("connected");
        ask(&mut client, &GET.replace("host", "connection: close\r\nhost"))
            .await
            .expect("an answer");
        drop(client);
        let since = Instant::now();
        server.process.signal(Signal::SIGTERM);
        server.process.exit(LONG).await;
        assert!(since.elapsed() < deadline + Duration::from_millis(900), "{:?}", since.elapsed());
    }
}

#[tokio::test]
async fn reloads_lose_no_request_under_load() {
    let fixture = Fixture::new();
    let server = fixture.setup().idle_grace(LONG).start().await;
    let config = fixture.certificate.client(&["http/1.1"]);
    let load = Load::new(server.addr()).tls(32, server.addr(), config).start();
    load.generation(1).await;
    for generation in 2..=11 {
        server.process.signal(Signal::SIGHUP);
        load.generation(generation).await;
        load.further(Kind::Tls, 200).await;
    }
    let report = load.stop().await;
    assert_eq!(report.lost(), 0, "{report}");
    let account = report.of(Kind::Tls);
    assert_eq!((account.idle_closed, account.unavailable), (0, 0), "{report}");
    assert_eq!(account.announced, account.reconnects, "{report}");
    eprintln!("{report}");
    server.one_worker().await;
}
