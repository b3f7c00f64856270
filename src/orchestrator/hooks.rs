use std::{fmt, future::Future, pin::Pin, sync::Arc, time::Duration};

use tokio::time::timeout;

use super::Signal;

/// What the user wants to run at certain moments, one after the other, each within a time limit.
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
    /// Runs them; one that takes too long is dropped and the next one begins.
    pub(crate) async fn run(&self, moment: &str, value: T, limit: Duration) {
        for hook in &self.0 {
            if timeout(limit, hook(value.clone())).await.is_err() {
                tracing::error!(moment, ?limit, "a hook took too long and was dropped");
            }
        }
    }
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
