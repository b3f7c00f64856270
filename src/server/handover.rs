//! Gives connections to the next worker, and takes them in from the last one.
//!
//! A connection moves as a descriptor and the bytes that were read and not served. At no moment may
//! two processes read one socket, and at none may nobody hold it:
//!
//! 1. The giver takes the connection apart, so that nobody reads it, sends it and keeps its own copy.
//! 2. The taker answers whether it takes it, and only when the answer is written begins to read.
//! 3. The giver closes its copy when it reads "taken", and serves on when it reads "refused".
//! 4. When the taker is gone, the giver first reads every answer that was still on the wire; only what
//!    was not answered by then comes back. A taker that is merely slow is never overruled.
//!
//! If the giver is gone when the taker answers, there is no other reader: the connection is the taker's.

use std::{
    collections::HashMap,
    io,
    ops::Range,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use super::{Accepted, App, Context};
use crate::{
    listener::Stream,
    process::{
        fd::headroom,
        wire::{self, Frame, Writer},
    },
};

/// Connections in one frame.
const BATCH: usize = 64;
/// Connections sent and not yet answered. The kernel limits descriptors in flight (unix(7),
/// `ETOOMANYREFS`), and what is in flight is served by nobody.
const WINDOW: usize = 512;
/// A connection with more bytes read than this is better served here.
const MAX_BYTES: usize = 64 * 1024;
/// No further connection is put into a frame with so many bytes: with the last one, and each byte as the six
/// characters that JSON may need for it, that is still less than a frame may hold.
const BATCH_BYTES: usize = 64 * 1024;

/// What the giver says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Give {
    /// One descriptor comes along for each.
    Connections { connections: Vec<Moved> },
    #[serde(other)]
    Unknown,
}

#[derive(Debug, Serialize, Deserialize)]
struct Moved {
    id: u64,
    /// The address of the listener that accepted it: it says which application serves it.
    listener: String,
    /// Whether it has served a request, so that it can be nothing but HTTP/1.
    begun: bool,
    /// One character for each byte.
    bytes: String,
}

/// What the taker says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Take {
    /// The first message: how many connections it has room for.
    Grant {
        connections: usize,
    },
    Answer {
        taken: Vec<u64>,
        refused: Vec<u64>,
    },
    #[serde(other)]
    Unknown,
}

/// A connection on its way to the next worker.
#[derive(Debug)]
pub(super) struct Gift {
    pub(super) stream: Stream,
    pub(super) bytes: Bytes,
    pub(super) listener: Arc<str>,
    pub(super) begun: bool,
    /// Answered with the connection when it comes back, and with nothing when it is taken. Dropped
    /// when nobody can tell whose it is.
    pub(super) answer: oneshot::Sender<Option<(Stream, Bytes)>>,
}

impl Gift {
    fn come_back(self) {
        // Its task is gone when the deadline has passed; then it is closed, as it should be.
        let _ = self.answer.send(Some((self.stream, self.bytes)));
    }

    fn taken(self) {
        let _ = self.answer.send(None);
    }
}

/// Gives every connection that can move to the worker at the other end of `wire`.
pub(super) async fn give(wire: OwnedFd, context: Arc<Context>) {
    let (queue, mut gifts) = mpsc::unbounded_channel();
    let end = give_through(wire, &context, queue, &mut gifts).await;
    context.hand_over_ended();
    gifts.close();
    // Nobody has sent these anywhere.
    while let Some(gift) = gifts.recv().await {
        gift.come_back();
    }
    tracing::debug!(?end, "the hand-over has ended");
}

async fn give_through(
    fd: OwnedFd,
    context: &Context,
    queue: mpsc::UnboundedSender<Gift>,
    gifts: &mut mpsc::UnboundedReceiver<Gift>,
) -> io::Result<()> {
    let (mut reader, mut writer) = wire::open(fd)?;
    let room = match reader.receive::<Take>().await? {
        Some((Take::Grant { connections }, _)) => connections,
        _ => return Ok(()),
    };
    // Only now: before, a connection that was taken apart might have waited for nothing.
    context.hand_over_open(queue);

    let mut out = Out { room, ..Out::default() };
    let mut is_open = true;
    loop {
        // Read and written at once: a taker that waits for room for its answers reads nothing either.
        tokio::select! {
            biased;
            answer = reader.receive::<Take>() => match answer {
                Ok(Some((Take::Answer { taken, refused }, _))) => {
                    taken.iter().filter_map(|id| out.sent.remove(id)).for_each(Gift::taken);
                    refused.iter().filter_map(|id| out.sent.remove(id)).for_each(Gift::come_back);
                }
                Ok(Some(_)) => {}
                // The end of the stream comes after the last answer, and is the end of the taker.
                Ok(None) => {
                    out.come_back();
                    return Ok(());
                }
                // A taker that talks nonsense may still read: what it has been sent is closed here.
                Err(error) => return Err(error),
            },
            result = out.progress(&mut writer), if out.frame.is_some() => {
                let frame = out.frame.take();
                if let Err(error) = result {
                    tracing::debug!(%error, "cannot send to the successor");
                    // It acts on whole frames only, and there will be no other.
                    let (_, ids) = frame.expect("this was it");
                    ids.filter_map(|id| out.sent.remove(&id)).for_each(Gift::come_back);
                    is_open = false;
                    context.hand_over_ended();
                    gifts.close();
                }
            }
            gift = gifts.recv(), if is_open && out.frame.is_none() && out.sent.len() < WINDOW => {
                let Some(gift) = gift else { return Ok(()) };
                out.send(gift, gifts)?;
            }
        }
        if !is_open && out.sent.is_empty() {
            return Ok(());
        }
    }
}

/// What is on its way to the taker.
#[derive(Default)]
struct Out {
    /// How many more connections the taker has room for.
    room: usize,
    next: u64,
    /// By id, until answered.
    sent: HashMap<u64, Gift>,
    /// The frame that is being written, and the ids in it.
    frame: Option<(Frame, Range<u64>)>,
}

impl Out {
    /// Makes the next frame, of this connection and of those that wait behind it. What cannot go comes back.
    fn send(&mut self, gift: Gift, gifts: &mut mpsc::UnboundedReceiver<Gift>) -> io::Result<()> {
        let first = self.next;
        let (mut connections, mut bytes) = (Vec::new(), 0);
        let mut gift = Some(gift);
        while let Some(this) = gift {
            if self.room > 0 && this.bytes.len() <= MAX_BYTES {
                bytes += this.bytes.len();
                connections.push(Moved {
                    id: self.next,
                    listener: this.listener.to_string(),
                    begun: this.begun,
                    bytes: this.bytes.iter().map(|byte| char::from(*byte)).collect(),
                });
                self.sent.insert(self.next, this);
                self.room -= 1;
                self.next += 1;
            } else {
                this.come_back();
            }
            let is_full = connections.len() == BATCH || bytes >= BATCH_BYTES;
            gift = if is_full { None } else { gifts.try_recv().ok() };
        }
        if !connections.is_empty() {
            let count = connections.len();
            let frame = Frame::new(&Give::Connections { connections }, count)?;
            self.frame = Some((frame, first..self.next));
        }
        Ok(())
    }

    /// Writes what is left of the frame. Cancel safe.
    async fn progress(&mut self, writer: &mut Writer) -> io::Result<()> {
        let Some((frame, ids)) = &mut self.frame else { return Ok(()) };
        // One that is missing was answered for before it was sent: that taker gets a frame it cannot read.
        let gifts = ids.clone().filter_map(|id| self.sent.get(&id));
        let fds: Vec<_> = gifts.map(|gift| gift.stream.as_fd()).collect();
        writer.progress(frame, &fds).await
    }

    fn come_back(&mut self) {
        self.sent.drain().for_each(|(_, gift)| gift.come_back());
    }
}

/// Takes in connections from the worker at the other end of `wire`, until that is gone.
pub(super) async fn take(
    wire: OwnedFd,
    apps: HashMap<Arc<str>, Box<dyn App>>,
    context: Arc<Context>,
) -> io::Result<()> {
    let (mut reader, mut writer) = wire::open(wire)?;
    writer.send(&Take::Grant { connections: headroom() }, &[]).await?;
    let mut count = 0;
    while let Some((message, fds)) = reader.receive::<Give>().await? {
        let Give::Connections { connections } = message else { continue };
        let (mut taken, mut refused, mut adopted) = (Vec::new(), Vec::new(), Vec::new());
        for (moved, fd) in connections.into_iter().zip(fds) {
            let id = moved.id;
            match adopt(moved, fd, &apps, &context) {
                Ok(accepted) => {
                    taken.push(id);
                    adopted.push(accepted);
                }
                Err(error) => {
                    tracing::debug!(%error, "refused a connection");
                    refused.push(id);
                }
            }
        }
        count += taken.len();
        if let Err(error) = writer.send(&Take::Answer { taken, refused }, &[]).await {
            tracing::debug!(%error, "the giver is gone: its connections are ours");
        }
        for accepted in adopted {
            if let Some(app) = apps.get(&accepted.listener) {
                app.spawn(accepted, context.clone());
            }
        }
    }
    tracing::debug!(count, "took connections over");
    Ok(())
}

fn adopt(
    moved: Moved,
    fd: OwnedFd,
    apps: &HashMap<Arc<str>, Box<dyn App>>,
    context: &Context,
) -> io::Result<Accepted> {
    let (listener, _) = apps
        .get_key_value(moved.listener.as_str())
        .ok_or_else(|| io::Error::other("nothing listens there in this generation"))?;
    let seat = match &context.seats {
        Some(seats) => Some(seats.clone().try_acquire_owned().map_err(io::Error::other)?),
        None => None,
    };
    let bytes: Option<Vec<u8>> =
        moved.bytes.chars().map(|char| u8::try_from(u32::from(char)).ok()).collect();
    let bytes = bytes.ok_or_else(|| io::Error::other("a character that is no byte"))?;
    let (stream, peer) = Stream::adopt(fd)?;
    Ok(Accepted {
        stream,
        peer,
        listener: listener.clone(),
        bytes: bytes.into(),
        begun: moved.begun,
        guard: context.connections.guard(),
        seat,
        tls: None,
    })
}

#[cfg(test)]
#[path = "handover_tests.rs"]
mod tests;
