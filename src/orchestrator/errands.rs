//! What the master has begun beside its loop and not seen the end of: hooks, and questions that take time.

use std::future::{Future, pending};

use tokio::task::JoinSet;

use super::master::Input;

/// Counted until the loop has taken what they end with: until then this program must not become another one,
/// which would know nothing of them.
#[derive(Debug, Default)]
pub(super) struct Errands {
    /// Each ends with something for the loop.
    questions: JoinSet<Input>,
    /// Each is its own purpose.
    hooks: JoinSet<()>,
}

impl Errands {
    /// Runs something whose end the loop has to hear of.
    pub(super) fn ask(&mut self, question: impl Future<Output = Input> + Send + 'static) {
        self.questions.spawn(question);
    }

    /// The same for what blocks its thread.
    pub(super) fn ask_blocking(&mut self, question: impl FnOnce() -> Input + Send + 'static) {
        self.questions.spawn_blocking(question);
    }

    /// Runs hooks that nothing waits for.
    pub(super) fn run(&mut self, hooks: impl Future<Output = ()> + Send + 'static) {
        self.hooks.spawn(hooks);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.questions.is_empty() && self.hooks.is_empty()
    }

    /// Waits for the next one to end; gives what the loop has to hear, if it is one of these.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when the future is dropped.
    pub(super) async fn next(&mut self) -> Option<Input> {
        let ended = tokio::select! {
            Some(ended) = self.questions.join_next() => ended.map(Some),
            Some(ended) = self.hooks.join_next() => ended.map(|()| None),
            else => pending().await,
        };
        ended.unwrap_or_else(|error| {
            tracing::error!(%error, "a task of the master has failed");
            None
        })
    }

    /// All has ended: nobody has to hear anything any more, but hooks come to their end.
    pub(super) async fn finish(&mut self) {
        self.questions.abort_all();
        while self.hooks.join_next().await.is_some() {}
    }
}
