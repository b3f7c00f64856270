//! The lock of a shard.
//!
//! Tests that are built with `--cfg shuttle` let shuttle choose which thread runs next.

#[cfg(not(all(test, shuttle)))]
use std::{
    hint,
    sync::{LockResult, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
    sync::{TryLockError, TryLockResult},
    thread,
};

#[cfg(all(test, shuttle))]
use shuttle::{
    hint,
    sync::{LockResult, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
    sync::{TryLockError, TryLockResult},
    thread,
};

/// The pauses of a thread that waits for a lock before it yields.
///
/// They are long: meanwhile the holder does many operations on lines that are near it, which is worth more
/// than a fair share for each, as to carry the lines of a shard from one core to the other takes longer
/// than an operation.
const PAUSES: &[u32] = if cfg!(shuttle) { &[1] } else { &[16, 32, 64, 128, 256] };
/// How often it yields before it sleeps until it is woken.
const YIELDS: u32 = if cfg!(shuttle) { 1 } else { 4 };

/// A lock that waits awhile before it sleeps, and that no panic poisons.
#[derive(Debug)]
pub(crate) struct Lock<T> {
    inner: RwLock<T>,
}

impl<T> Lock<T> {
    pub(crate) fn new(value: T) -> Self {
        Self { inner: RwLock::new(value) }
    }

    /// Beside other readers.
    #[inline]
    pub(crate) fn read(&self) -> RwLockReadGuard<'_, T> {
        take(|| self.inner.try_read(), || self.inner.read())
    }

    /// Alone.
    #[inline]
    pub(crate) fn write(&self) -> RwLockWriteGuard<'_, T> {
        take(|| self.inner.try_write(), || self.inner.write())
    }
}

#[inline]
fn take<G>(attempt: impl Fn() -> TryLockResult<G>, block: impl FnOnce() -> LockResult<G>) -> G {
    match attempt() {
        Ok(guard) => guard,
        // Poison says that user code panicked under the lock; the cache is consistent all the same.
        Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
        Err(TryLockError::WouldBlock) => wait(attempt, block),
    }
}

/// A lock is held for some tens of nanoseconds: much less than it takes to sleep and be woken.
#[cold]
fn wait<G>(attempt: impl Fn() -> TryLockResult<G>, block: impl FnOnce() -> LockResult<G>) -> G {
    let pauses = PAUSES.iter().map(|pauses| Some(*pauses));
    for pauses in pauses.chain((0..YIELDS).map(|_| None)) {
        match pauses {
            Some(pauses) => (0..pauses).for_each(|_| hint::spin_loop()),
            None => thread::yield_now(),
        }
        match attempt() {
            Ok(guard) => return guard,
            Err(TryLockError::Poisoned(poisoned)) => return poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => {}
        }
    }
    block().unwrap_or_else(PoisonError::into_inner)
}
