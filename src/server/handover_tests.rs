//! The giver against takers that answer, refuse, talk nonsense or die at any point.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

use super::{
    super::{HandOver, Limits, Phase},
    *,
};
use crate::{handle::Handle, process::wire::Reader, process::wire::Writer};

/// A giver that runs, and the taker's end of its wire.
struct Giver {
    context: Arc<Context>,
    reader: Reader,
    writer: Writer,
    task: JoinHandle<()>,
}

type Answer = oneshot::Receiver<Option<(Stream, Bytes)>>;

impl Giver {
    async fn start(room: usize) -> Self {
        Self::start_on(wire::pair().unwrap(), room).await
    }

    async fn start_on((ours, theirs): (OwnedFd, OwnedFd), room: usize) -> Self {
        let context = Context::new(Handle::new().0, Limits::default());
        context.drain(std::time::Duration::from_secs(60), true, HandOver::Soon);
        let (reader, mut writer) = wire::open(ours).unwrap();
        let task = tokio::spawn(give(theirs, context.clone()));
        writer.send(&Take::Grant { connections: room }, &[]).await.unwrap();
        while !matches!(context.phase(), Phase::Draining { hand_over: HandOver::Now, .. }) {
            tokio::task::yield_now().await;
        }
        Self { context, reader, writer, task }
    }

    /// Gives a connection; returns the client's end and where the answer will come.
    async fn give(&self, bytes: &'static [u8]) -> (TcpStream, Answer) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let stream = Stream::Tcp(listener.accept().await.unwrap().0);
        let (answer, answered) = oneshot::channel();
        let (bytes, listener) = (Bytes::from_static(bytes), Arc::from("127.0.0.1:80"));
        let gift = Gift { stream, bytes, listener, begun: true, answer };
        self.context.give(gift).expect("the hand-over is open");
        (client, answered)
    }

    /// Receives as many connections, in however many frames they come.
    async fn receive(&mut self, count: usize) -> Vec<(Moved, OwnedFd)> {
        let mut received = Vec::new();
        while received.len() < count {
            match self.reader.receive::<Give>().await.unwrap().unwrap() {
                (Give::Connections { connections }, fds) => {
                    assert_eq!(connections.len(), fds.len());
                    received.extend(connections.into_iter().zip(fds));
                }
                (Give::Unknown, _) => panic!("an unknown message"),
            }
        }
        received
    }

    async fn answer(&mut self, taken: &[u64], refused: &[u64]) {
        let answer = Take::Answer { taken: taken.to_vec(), refused: refused.to_vec() };
        self.writer.send(&answer, &[]).await.unwrap();
    }
}

/// The connection that came back still works.
async fn works(mut client: TcpStream, back: Option<(Stream, Bytes)>) {
    let (mut stream, _) = back.expect("it comes back");
    stream.write_all(b"served here").await.unwrap();
    drop(stream);
    let mut text = String::new();
    client.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "served here");
}

#[tokio::test]
async fn what_is_taken_is_gone_here_and_open_there() {
    let mut giver = Giver::start(10).await;
    let (mut client, answer) = giver.give(b"GET / \xff\0").await;
    let (moved, fd) = giver.receive(1).await.remove(0);
    assert!(moved.begun && moved.listener == "127.0.0.1:80");
    let bytes: Vec<u8> = moved.bytes.chars().map(|char| u32::from(char) as u8).collect();
    assert_eq!(bytes, b"GET / \xff\0");
    giver.answer(&[moved.id], &[]).await;
    assert!(answer.await.unwrap().is_none());
    let (mut stream, _) = Stream::adopt(fd).unwrap();
    stream.write_all(b"served there").await.unwrap();
    drop(stream);
    let mut text = String::new();
    client.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "served there");
}

#[tokio::test]
async fn what_is_refused_or_has_no_room_comes_back() {
    let mut giver = Giver::start(1).await;
    let (refused, refusal) = giver.give(b"").await;
    let (moved, _fd) = giver.receive(1).await.remove(0);
    giver.answer(&[], &[moved.id]).await;
    drop(_fd);
    works(refused, refusal.await.unwrap()).await;
    let (no_room, answer) = giver.give(b"").await;
    works(no_room, answer.await.unwrap()).await;
}

#[tokio::test]
async fn a_connection_with_too_many_bytes_stays() {
    let giver = Giver::start(1).await;
    let (client, answer) = giver.give(&[b'x'; MAX_BYTES + 1]).await;
    works(client, answer.await.unwrap()).await;
}

#[tokio::test]
async fn many_connections_with_many_bytes_all_move() {
    // The longest that a byte can become.
    const BYTES: &[u8] = &[1; MAX_BYTES];
    let mut giver = Giver::start(100).await;
    let mut given = Vec::new();
    for _ in 0..20 {
        given.push(giver.give(BYTES).await);
    }
    for (moved, _fd) in giver.receive(20).await {
        assert_eq!(moved.bytes.len(), MAX_BYTES);
        giver.answer(&[moved.id], &[]).await;
    }
    for (_client, answer) in given {
        assert!(answer.await.unwrap().is_none());
    }
}

/// Found by a million hand-overs: both waited for the other to read.
#[tokio::test]
async fn a_taker_that_waits_to_answer_does_not_stop_the_giver() {
    const CONNECTIONS: usize = 300;
    let (ours, theirs) = wire::pair().unwrap();
    for fd in [&ours, &theirs] {
        // As little as the kernel allows, so that neither can write much ahead.
        socket2::SockRef::from(fd).set_send_buffer_size(1).unwrap();
    }
    let mut giver = Giver::start_on((ours, theirs), CONNECTIONS).await;
    let mut given = Vec::new();
    for _ in 0..CONNECTIONS {
        given.push(giver.give(b"").await);
    }
    let taking = async {
        let mut count = 0;
        while count < CONNECTIONS {
            // It reads on only when each answer is written, as `take` does.
            for (moved, _fd) in giver.receive(1).await {
                giver.answer(&[moved.id], &[]).await;
                count += 1;
            }
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(60), taking).await.expect("it goes on");
    for (_client, answer) in given {
        assert!(answer.await.unwrap().is_none());
    }
}

#[tokio::test]
async fn a_taker_that_dies_keeps_what_it_has_answered_for() {
    let mut giver = Giver::start(10).await;
    let mut given = Vec::new();
    for _ in 0..3 {
        given.push(giver.give(b"").await);
    }
    let mut received = giver.receive(3).await;
    let first = received[0].0.id;
    giver.answer(&[first], &[]).await;
    // It dies with the answer still unread by the giver, and two connections unanswered.
    let (_, kept) = received.remove(0);
    drop((received, giver.reader, giver.writer));
    let mut given = given.into_iter();
    let (_client, answer) = given.next().unwrap();
    assert!(answer.await.unwrap().is_none(), "taken, whatever happened then");
    drop(kept);
    for (client, answer) in given {
        works(client, answer.await.unwrap()).await;
    }
    giver.task.await.unwrap();
    assert!(matches!(giver.context.phase(), Phase::Draining { hand_over: HandOver::No, .. }));
}

#[tokio::test]
async fn a_taker_that_dies_unheard_keeps_nothing() {
    let giver = Giver::start(10).await;
    let (first, answer) = giver.give(b"").await;
    drop((giver.reader, giver.writer));
    works(first, answer.await.unwrap()).await;
    giver.task.await.unwrap();
}

#[tokio::test]
async fn nobody_serves_what_a_mad_taker_may_still_read() {
    let mut giver = Giver::start(10).await;
    let (mut client, answer) = giver.give(b"").await;
    let received = giver.receive(1).await;
    giver.writer.send(&"nonsense", &[]).await.unwrap();
    assert!(answer.await.is_err(), "neither taken nor back");
    giver.task.await.unwrap();
    drop(received);
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).await.unwrap();
    assert!(rest.is_empty());
}

#[tokio::test]
async fn a_silent_taker_is_not_overruled() {
    let mut giver = Giver::start(10).await;
    let (_client, mut answer) = giver.give(b"").await;
    let received = giver.receive(1).await;
    // Another connection goes through the same loop after it; the first one is still out.
    let (_other, mut unanswered) = giver.give(b"").await;
    giver.receive(1).await;
    assert!(answer.try_recv().is_err() && unanswered.try_recv().is_err());
    drop(received);
    giver.answer(&[0], &[1]).await;
    assert!(answer.await.unwrap().is_none());
    assert!(unanswered.await.unwrap().is_some());
}

#[tokio::test]
async fn a_taker_that_never_speaks_gets_nothing() {
    let context = Context::new(Handle::new().0, Limits::default());
    context.drain(std::time::Duration::from_secs(60), true, HandOver::Soon);
    let (ours, theirs) = wire::pair().unwrap();
    let task = tokio::spawn(give(theirs, context.clone()));
    assert!(matches!(context.phase(), Phase::Draining { hand_over: HandOver::Soon, .. }));
    drop(ours);
    task.await.unwrap();
    assert!(matches!(context.phase(), Phase::Draining { hand_over: HandOver::No, .. }));
}
