use std::os::fd::{AsFd, OwnedFd};

use serde::Serialize;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
};

use crate::process::wire::{Frame, Writer};

/// Sends messages without ever waiting: a peer that does not read must not stop the loop that
/// decides.
#[derive(Debug)]
pub(crate) struct Link<T> {
    queue: mpsc::UnboundedSender<Item<T>>,
    writing: JoinHandle<()>,
}

enum Item<T> {
    Message(T, Vec<OwnedFd>),
    /// Everything before it is sent.
    Flushed(oneshot::Sender<()>),
}

impl<T: Serialize + Send + Sync + 'static> Link<T> {
    pub(crate) fn new(mut writer: Writer) -> Self {
        let (sender, mut queue) = mpsc::unbounded_channel();
        let writing = tokio::spawn(async move {
            while let Some(item) = queue.recv().await {
                let (message, fds) = match item {
                    Item::Message(message, fds) => (message, fds),
                    Item::Flushed(flushed) => {
                        // Who asked has stopped waiting.
                        let _ = flushed.send(());
                        continue;
                    }
                };
                let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
                let mut frame = match Frame::new(&message, fds.len()) {
                    Ok(frame) => frame,
                    // Nothing of it was sent; what follows must be.
                    Err(error) => {
                        tracing::error!(%error, "a message is lost");
                        continue;
                    }
                };
                if let Err(error) = writer.progress(&mut frame, &fds).await {
                    // The reading side meets the end of the stream and says what follows from it.
                    tracing::debug!(%error, "the wire is cut");
                    return;
                }
            }
        });
        Self { queue: sender, writing }
    }

    pub(crate) fn send(&self, message: T) {
        self.send_with(message, Vec::new());
    }

    pub(crate) fn send_with(&self, message: T, fds: Vec<OwnedFd>) {
        // It fails when the wire is cut; see above.
        let _ = self.queue.send(Item::Message(message, fds));
    }

    /// Waits until everything is sent; says whether it was.
    pub(crate) async fn flush(&self) -> bool {
        let (flushed, told) = oneshot::channel();
        self.queue.send(Item::Flushed(flushed)).is_ok() && told.await.is_ok()
    }

    /// Waits until everything is sent, and ends.
    pub(crate) async fn finish(self) {
        drop(self.queue);
        // It cannot panic and nobody aborts it.
        let _ = self.writing.await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::wire;

    #[tokio::test]
    async fn a_message_that_is_too_large_does_not_silence_those_after_it() {
        let (ours, theirs) = wire::pair().unwrap();
        let (mut reader, _writer) = wire::open(theirs).unwrap();
        let (_reader, writer) = wire::open(ours).unwrap();
        let link = Link::new(writer);
        link.send("x".repeat(2 << 20));
        link.send("after".to_owned());
        assert_eq!(reader.receive::<String>().await.unwrap().unwrap().0, "after");
        assert!(link.flush().await);
    }
}
