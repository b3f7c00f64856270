//! What has changed since a fill began that is in no table where it could be doomed.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};

use super::key::CacheKey;

/// How many counters the paths share. Two with the same counter doom each other's fills for nothing.
const PATHS: usize = 256;

/// Counts whatever makes stored responses wrong.
#[derive(Debug)]
pub(crate) struct Changes {
    all: AtomicU64,
    paths: Box<[AtomicU64]>,
}

/// When a recording began, as far as later changes are concerned.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Epoch {
    path: usize,
    of_all: u64,
    of_path: u64,
}

impl Changes {
    pub(crate) fn new() -> Self {
        let paths = (0..PATHS).map(|_| AtomicU64::new(0)).collect();
        Self { all: AtomicU64::new(0), paths }
    }

    /// Whatever is stored may be wrong.
    pub(crate) fn count_all(&self) {
        self.all.fetch_add(1, Ordering::SeqCst);
    }

    /// What is stored for the path of `key` may be wrong, whatever the query.
    pub(crate) fn count(&self, key: &CacheKey) {
        self.paths[path(key)].fetch_add(1, Ordering::SeqCst);
    }

    pub(crate) fn epoch(&self, key: &CacheKey) -> Epoch {
        self.read(path(key))
    }

    pub(crate) fn is_past(&self, epoch: Epoch) -> bool {
        let now = self.read(epoch.path);
        (now.of_all, now.of_path) != (epoch.of_all, epoch.of_path)
    }

    fn read(&self, path: usize) -> Epoch {
        let of_all = self.all.load(Ordering::SeqCst);
        Epoch { path, of_all, of_path: self.paths[path].load(Ordering::SeqCst) }
    }
}

/// The counter for the path of `key`. Derived keys have a space where the query begins.
fn path(key: &CacheKey) -> usize {
    let text = key.as_str();
    let end = text.find(['?', ' ']).unwrap_or(text.len());
    let mut hasher = DefaultHasher::new();
    text[..end].hash(&mut hasher);
    hasher.finish() as usize % PATHS
}
