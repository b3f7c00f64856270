//! `Handle::socket`: what an application listens on beside HTTP survives a reload.
#![cfg(all(target_os = "linux", feature = "serve"))]

mod support;

use std::net::UdpSocket;
use std::sync::OnceLock;
use std::time::Duration;

use graceful::Handle;
use nix::sys::signal::Signal;

use support::procfs;
use support::server::{Server, Setup};
use support::until;

#[test]
#[ignore = "the server that the tests start"]
fn server() {
    static HANDLE: OnceLock<Handle> = OnceLock::new();
    let build = async || {
        let app = support::app::app(support::server::generation);
        if std::env::var_os("TEST_EARLY").is_some() {
            // While the application is built; it could not be without.
            let handle = HANDLE.get().expect("set before it runs");
            let bind = || UdpSocket::bind("127.0.0.1:0");
            let socket = handle.socket("early", bind).await.map_err(std::io::Error::other)?;
            println!("early on {}", socket.local_addr()?);
        }
        Ok::<_, std::io::Error>(app)
    };
    let server = support::server::options(graceful::serve_with(build));
    let handle = server.handle();
    HANDLE.set(handle.clone()).expect("set once");
    let server = server.on_ready(move |_| {
        tokio::spawn(echo(handle.clone()));
    });
    support::server::finish(server.run());
}

/// Answers each datagram with the generation, until the process drains.
async fn echo(handle: Handle) {
    let bind = || UdpSocket::bind("127.0.0.1:0");
    // Asked for by two at once: they must not bind two sockets.
    let (first, second) = tokio::join!(handle.socket("echo", bind), handle.socket("echo", bind));
    let (socket, second): (UdpSocket, _) = (first.expect("a socket"), second);
    let addr = socket.local_addr().expect("bound");
    if handle.generation() > 0 {
        assert_eq!(second.expect("the same").local_addr().expect("bound"), addr);
    }
    socket.set_nonblocking(true).expect("ours");
    let socket = tokio::net::UdpSocket::from_std(socket).expect("ours");
    println!("generation {} echoes on {addr}", handle.generation());
    let mut byte = [0];
    loop {
        tokio::select! {
            biased;
            () = handle.draining() => return,
            received = socket.recv_from(&mut byte) => {
                let (_, peer) = received.expect("a datagram");
                let answer = handle.generation().to_string();
                socket.send_to(answer.as_bytes(), peer).await.expect("sent");
            }
        }
    }
}

/// Where a generation echoes.
async fn address(server: &Server, generation: u64) -> String {
    let line = server.process.any_line(&format!("generation {generation} echoes on ")).await;
    line.split_once(" on ").expect("waited for").1.to_owned()
}

/// One datagram and its answer.
fn ask(socket: &UdpSocket) -> u64 {
    socket.send(&[0]).expect("not refused");
    let mut bytes = [0; 20];
    let length = socket.recv(&mut bytes).expect("an answer");
    std::str::from_utf8(&bytes[..length]).expect("text").parse().expect("a number")
}

fn client(addr: &str) -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("bind");
    socket.connect(addr).expect("an address");
    socket.set_read_timeout(Some(Duration::from_secs(20))).expect("a time");
    socket
}

#[tokio::test]
async fn a_udp_socket_receives_across_reloads() {
    let server = Setup::new().start().await;
    let addr = address(&server, 1).await;
    let descriptors = procfs::descriptors(server.process.pid());
    // On a thread of its own, without a pause: some datagrams meet each moment of a reload.
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let asking = std::thread::spawn({
        let addr = addr.clone();
        move || {
            let (socket, mut answers) = (client(&addr), [0_u64; 12]);
            while stopped.try_recv().is_err() {
                answers[ask(&socket) as usize] += 1;
            }
            answers
        }
    });
    for generation in 2..=11 {
        server.process.signal(Signal::SIGHUP);
        server.generation(generation).await;
        assert_eq!(address(&server, generation).await, addr, "the same port");
        // The old worker stops to read, so the new one answers from some time on.
        let socket = client(&addr);
        while ask(&socket) != generation {}
    }
    stop.send(()).expect("it runs");
    let answers = asking.join().expect("each datagram was answered");
    assert!(answers.iter().sum::<u64>() > 100, "{answers:?}");
    // The master lets go of what belonged to a worker once it has heard of its end.
    let master = server.process.pid();
    until("one worker", || procfs::children(master).len() == 1).await;
    until("none is left behind", || procfs::descriptors(master) <= descriptors + 2).await;
}

#[tokio::test]
async fn a_killed_worker_leaves_its_socket_to_the_next() {
    let server = Setup::new().start().await;
    let addr = address(&server, 1).await;
    let socket = client(&addr);
    assert_eq!(ask(&socket), 1);
    let worker = procfs::workers(server.process.pid())[0];
    support::process::signal(worker, Signal::SIGKILL);
    // Nobody reads, and nobody refuses.
    assert_eq!(ask(&socket), 2);
}

#[tokio::test]
async fn a_single_process_binds_for_itself() {
    let server = Setup::new().single().start().await;
    let addr = address(&server, 0).await;
    assert_eq!(ask(&client(&addr)), 0);
}

#[tokio::test]
async fn an_application_may_ask_while_it_is_built() {
    for (setup, workers) in [(Setup::new(), 2), (Setup::new().single(), 1)] {
        let server = setup.env("TEST_EARLY", 1).start().await;
        if workers == 2 {
            server.process.signal(Signal::SIGHUP);
            server.generation(2).await;
        }
        let lines = server.process.lines();
        let early = lines.iter().filter_map(|line| line.split_once("early on "));
        let early: Vec<_> = early.map(|(_, address)| address).collect();
        assert_eq!(early.len(), workers);
        assert!(early.iter().all(|address| *address == early[0]), "the same socket: {early:?}");
    }
}
