use std::{fmt, future::Future, panic::AssertUnwindSafe, pin::Pin, sync::Arc, time::Duration};

use futures_util::FutureExt;
use tokio::time::timeout;

use super::Signal;
use crate::error;

/// What the user wants to run at certain moments, one after the other, each within a time limit. One that
/// panics is over.
#[derive(Clone)]
pub(crate) struct Hooks {
    pub(crate) before_signal: List<Signal>,
    pub(crate) after_signal: List<Signal>,
    pub(crate) before_reload: List<()>,
    /// The generation that serves now, or why it does not.
    pub(crate) after_reload: List<Result<u64, String>>,
    /// Why the old worker goes on.
    pub(crate) on_rollback: List<String>,
    pub(crate) on_retire: List<()>,
    pub(crate) limit: Duration,
}

type Run = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Hooks for one moment.
#[derive(Clone)]
pub(crate) struct List<T>(Vec<Arc<dyn Fn(T) -> Run + Send + Sync>>);

impl<T> List<T> {
    pub(crate) fn push<F, Fut>(&mut self, hook: F)
    where
        F: Fn(T) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        self.0.push(Arc::new(move |value| Box::pin(hook(value))));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<T: Clone> List<T> {
    /// Runs them; one that takes too long or panics is dropped and the next one begins.
    pub(crate) async fn run(&self, moment: &str, value: T, limit: Duration) {
        for hook in &self.0 {
            let value = value.clone();
            match timeout(limit, unwound(async { hook(value).await })).await {
                Ok(Ok(())) => {}
                Ok(Err(panic)) => tracing::error!(moment, panic, "a hook panicked"),
                Err(_) => tracing::error!(moment, ?limit, "a hook took too long and was dropped"),
            }
        }
    }
}

/// The end of a hook, or the message of its panic. What comes after a hook must come whatever becomes of
/// it: a signal whose hook has panicked is still to be obeyed.
async fn unwound(hook: impl Future<Output = ()>) -> Result<(), String> {
    // A hook that has panicked is dropped and not polled again, so nobody sees it half done; what it shares
    // with others is theirs to guard, as with any task that panics.
    let ended = AssertUnwindSafe(hook).catch_unwind().await;
    ended.map_err(|panic| error::words(&*panic).unwrap_or_default().to_owned())
}

impl<T> Default for List<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl Default for Hooks {
    fn default() -> Self {
        Self {
            before_signal: List::default(),
            after_signal: List::default(),
            before_reload: List::default(),
            after_reload: List::default(),
            on_rollback: List::default(),
            on_retire: List::default(),
            limit: Duration::from_secs(5),
        }
    }
}

impl fmt::Debug for Hooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hooks").field("limit", &self.limit).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[tokio::test]
    async fn a_hook_that_panics_keeps_nobody_from_what_comes_after() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let mut hooks = List::<u32>::default();
        hooks.push(|value| -> std::future::Ready<()> { panic!("no future for {value}") });
        hooks.push(|_| async {
            tokio::task::yield_now().await;
            panic!("in the middle");
        });
        let last = seen.clone();
        hooks.push(move |value| {
            let seen = last.clone();
            async move { seen.lock().unwrap().push(value) }
        });
        hooks.run("test", 7, Duration::from_secs(5)).await;
        assert_eq!(*seen.lock().unwrap(), [7]);
        let why = unwound(async { panic!("no {}", "way") }).await;
        assert_eq!(why, Err("no way".to_owned()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_hook_that_hangs_costs_its_limit_and_no_more() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let mut hooks = List::<u32>::default();
        assert!(hooks.is_empty());
        let first = seen.clone();
        hooks.push(move |value| {
            let seen = first.clone();
            async move { seen.lock().unwrap().push(value) }
        });
        hooks.push(|_| std::future::pending());
        let last = seen.clone();
        hooks.push(move |value| {
            let seen = last.clone();
            async move { seen.lock().unwrap().push(value + 1) }
        });
        let since = tokio::time::Instant::now();
        hooks.run("test", 7, Duration::from_secs(5)).await;
        assert_eq!(since.elapsed(), Duration::from_secs(5));
        assert_eq!(*seen.lock().unwrap(), [7, 8]);
    }
}
