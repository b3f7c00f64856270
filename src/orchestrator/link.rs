use std::os::fd::{AsFd, OwnedFd};

use serde::Serialize;
use tokio::{sync::mpsc, task::JoinHandle};

use crate::process::wire::Writer;

/// Sends messages without ever waiting: a peer that does not read must not stop the loop that
/// decides.
#[derive(Debug)]
pub(crate) struct Link<T> {
    messages: mpsc::UnboundedSender<(T, Vec<OwnedFd>)>,
    writing: JoinHandle<()>,
}

impl<T: Serialize + Send + Sync + 'static> Link<T> {
    pub(crate) fn new(mut writer: Writer) -> Self {
        let (messages, mut queue) = mpsc::unbounded_channel::<(T, Vec<OwnedFd>)>();
        let writing = tokio::spawn(async move {
            while let Some((message, fds)) = queue.recv().await {
                let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
                if let Err(error) = writer.send(&message, &fds).await {
                    // The reading side meets the end of the stream and says what follows from it.
                    tracing::debug!(%error, "the wire is cut");
                    return;
                }
            }
        });
        Self { messages, writing }
    }

    pub(crate) fn send(&self, message: T) {
        self.send_with(message, Vec::new());
    }

    pub(crate) fn send_with(&self, message: T, fds: Vec<OwnedFd>) {
        // It fails when the wire is cut; see above.
        let _ = self.messages.send((message, fds));
    }

    /// Waits until everything is sent.
    pub(crate) async fn finish(self) {
        drop(self.messages);
        // It cannot panic and nobody aborts it.
        let _ = self.writing.await;
    }
}
