//! Reverse proxies with pools of connections to the server and without retries see no error at a reload,
//! and, with the hand-over, not even a new connection.
#![cfg(all(target_os = "linux", feature = "serve"))]

mod support;

use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use axum::extract::{ConnectInfo, Request};
use axum::middleware::map_request;
use nix::sys::signal::Signal;
use tokio::net::UnixStream;

use support::load::{Kind, Load};
use support::process::{Process, Program};
use support::server::{Server, Setup};

#[test]
#[ignore = "the server that the tests start"]
fn server() {
    static SEEN: Mutex<Option<HashSet<SocketAddr>>> = Mutex::new(None);
    let build = async || {
        let app = support::app::app(support::server::generation);
        Ok::<_, std::io::Error>(app.layer(map_request(
            async |ConnectInfo(peer): ConnectInfo<SocketAddr>, request: Request| {
                if SEEN.lock().unwrap().get_or_insert_default().insert(peer) {
                    println!("connection from {peer}");
                }
                request
            },
        )))
    };
    support::server::finish(support::server::options(graceful::serve_with(build)).run());
}

const CLIENTS: usize = 32;
const RELOADS: u64 = 100;
/// Without the hand-over an old worker waits for the idle connections of the pool.
const RELOADS_WITHOUT: u64 = 20;

#[derive(Clone, Copy, Debug)]
enum Proxy {
    Nginx,
    Haproxy,
}

impl Proxy {
    fn program(self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
        }
    }

    /// Where Debian has it; not every user's PATH goes there.
    fn path(self) -> Option<std::path::PathBuf> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let mut directories: Vec<_> = std::env::split_paths(&path).collect();
        directories.push("/usr/sbin".into());
        directories
            .into_iter()
            .map(|directory| directory.join(self.program()))
            .find(|p| p.is_file())
    }

    fn configuration(self, directory: &Path, upstream: SocketAddr) -> String {
        let d = directory.display();
        match self {
            Self::Nginx => format!(
                "daemon off;
                master_process off;
                pid {d}/nginx.pid;
                error_log stderr warn;
                events {{ worker_connections 1024; }}
                http {{
                    access_log off;
                    client_body_temp_path {d}/body;
                    proxy_temp_path {d}/proxy;
                    fastcgi_temp_path {d}/fastcgi;
                    uwsgi_temp_path {d}/uwsgi;
                    scgi_temp_path {d}/scgi;
                    keepalive_requests 1000000;
                    upstream app {{
                        server {upstream} max_fails=0;
                        keepalive 64;
                        keepalive_requests 1000000;
                        keepalive_timeout 1h;
                    }}
                    server {{
                        listen unix:{d}/proxy.sock;
                        location / {{
                            proxy_pass http://app;
                            proxy_http_version 1.1;
                            proxy_set_header Connection \"\";
                            proxy_next_upstream off;
                            proxy_request_buffering off;
                            proxy_buffering off;
                        }}
                    }}
                }}\n"
            ),
            Self::Haproxy => format!(
                "global
                    nbthread 1
                    maxconn 1024
                defaults
                    mode http
                    retries 0
                    timeout connect 10s
                    timeout client 1m
                    timeout server 1m
                    timeout http-keep-alive 1h
                    http-reuse always
                frontend clients
                    bind unix@{d}/proxy.sock
                    default_backend app
                backend app
                    server app {upstream} pool-max-conn 64 pool-purge-delay 1h\n"
            ),
        }
    }

    /// Starts it in the foreground, on a Unix socket in this directory.
    async fn start(self, program: &Path, directory: &Path, upstream: SocketAddr) -> Process {
        let file = directory.join("proxy.conf");
        std::fs::write(&file, self.configuration(directory, upstream)).expect("a configuration");
        let program = Program::new(program);
        let process = match self {
            Self::Nginx => program.args(["-p".as_ref(), directory, "-c".as_ref(), file.as_path()]),
            Self::Haproxy => program.args(["-db".as_ref(), "-f".as_ref(), file.as_path()]),
        }
        .start();
        let since = Instant::now();
        while UnixStream::connect(directory.join("proxy.sock")).await.is_err() {
            let lines = process.lines().join("\n");
            assert!(!process.has_exited() && since.elapsed().as_secs() < 30, "{lines}");
            tokio::task::yield_now().await;
        }
        process
    }
}

/// The connections that the server has seen.
fn connections(server: &Server) -> HashSet<String> {
    let lines = server.process.lines();
    let peer = |line: &String| Some(line.split_once("connection from ")?.1.to_owned());
    lines.iter().filter_map(peer).collect()
}

async fn reload_behind(proxy: Proxy, hand_over: bool) {
    let Some(program) = proxy.path() else {
        let name = proxy.program();
        assert!(std::env::var_os("GRACEFUL_REQUIRE_ALL").is_none(), "{name} is not installed");
        eprintln!("SKIPPED: {name} is not installed, so nothing was tested behind it");
        return;
    };
    let directory = tempfile::tempdir().expect("a directory");
    let setup = Setup::new().stop_timeout(Duration::from_secs(4));
    let setup = if hand_over { setup } else { setup.env("TEST_STAY", 1) };
    let server = setup.start().await;
    let running = proxy.start(&program, directory.path(), server.addr()).await;
    let socket = directory.path().join("proxy.sock");
    // As many requests at once as there will ever be: then the pool has all the connections that it needs.
    Load::new(socket.clone()).slow(CLIENTS).requests(2).start().finish().await;
    let before = connections(&server).len();
    let load = Load::new(socket)
        .keep_alive(CLIENTS - 8, Duration::from_millis(5))
        .uploads(2)
        .slow(2)
        .streaming(2)
        .fresh(2)
        .start();
    load.generation(1).await;
    load.further(Kind::Slow, 4).await;
    let reloads = if hand_over { RELOADS } else { RELOADS_WITHOUT };
    for generation in 2..2 + reloads {
        server.process.signal(Signal::SIGHUP);
        load.generation(generation).await;
        load.further(Kind::KeepAlive, 50).await;
    }
    let report = load.stop().await;
    let connections = connections(&server).len();
    eprintln!("{proxy:?}, hand-over {hand_over}: {connections} upstream connections\n{report}");
    assert_eq!(report.lost(), 0, "{report}{}", running.lines().join("\n"));
    assert_eq!(report.total().unavailable, 0, "{report}");
    if hand_over {
        assert_eq!(connections, before, "upstream connections\n{report}");
    }
}

#[tokio::test]
async fn nginx_sees_no_error_and_makes_no_connection_anew() {
    reload_behind(Proxy::Nginx, true).await;
}

#[tokio::test]
async fn nginx_sees_no_error_without_the_hand_over() {
    reload_behind(Proxy::Nginx, false).await;
}

#[tokio::test]
async fn haproxy_sees_no_error_and_makes_no_connection_anew() {
    reload_behind(Proxy::Haproxy, true).await;
}

#[tokio::test]
async fn haproxy_sees_no_error_without_the_hand_over() {
    reload_behind(Proxy::Haproxy, false).await;
}
