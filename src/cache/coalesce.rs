//! Collapsing: one call to the handler for all who ask for the same thing at the same time.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use super::key::CacheKey;
use super::policy::vary::{Selection, Vary};
use super::stored::{Head, Stored};
use super::tape::Tape;

/// What is filled: a variant of a resource, for clients of one kind.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct FlightKey {
    pub(crate) key: CacheKey,
    /// What the request presents in the fields known to select; empty as long as none are known.
    pub(crate) selection: Selection,
    /// Answers to requests with credentials are told apart: few of them may be shared.
    pub(crate) authorized: bool,
}

/// What came of a fill, for those who wait for it.
#[derive(Clone, Debug)]
pub(crate) enum Landing {
    /// The head has not come yet.
    Waiting,
    /// It is being recorded, and may be shared.
    Recording(Arc<Live>),
    /// The stored response was validated, or is used in place of a failure.
    Stored(Arc<Stored>, Use),
    /// Everyone has to ask for themselves.
    Released,
}

/// Why a stored response answers after a fill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    Validated,
    /// As before, but the response may not be stored any more.
    ValidatedForOne,
    StaleOnFailure,
}

/// A response whose body is being recorded.
#[derive(Debug)]
pub(crate) struct Live {
    pub(crate) head: Arc<Head>,
    pub(crate) vary: Vary,
    pub(crate) tape: Arc<Tape>,
    /// The length of the body, where it is declared.
    pub(crate) length: Option<u64>,
}

/// A fill under way.
#[derive(Debug)]
pub(crate) struct Flight {
    landing: watch::Sender<Landing>,
    doomed: AtomicBool,
}

impl Flight {
    /// Makes its result unfit to be stored or joined: what it answers may be from before a change.
    pub(crate) fn doom(&self) {
        self.doomed.store(true, Ordering::SeqCst);
    }

    pub(crate) fn is_doomed(&self) -> bool {
        self.doomed.load(Ordering::SeqCst)
    }

    /// How many wait for it.
    pub(crate) fn followers(&self) -> usize {
        self.landing.receiver_count()
    }

    pub(crate) fn landing(&self) -> Landing {
        self.landing.borrow().clone()
    }

    /// Whether one who comes now may wait for it; `may_join` judges what is being recorded.
    fn is_open(&self, may_join: impl FnOnce(&Live) -> bool) -> bool {
        !self.is_doomed()
            && match &*self.landing.borrow() {
                Landing::Recording(live) => may_join(live),
                Landing::Waiting | Landing::Stored(..) | Landing::Released => true,
            }
    }
}

/// What a request does about a missing response.
pub(crate) enum Join<T> {
    /// What it came for is there by now.
    Found(T),
    Lead(Guard),
    Follow(watch::Receiver<Landing>),
    /// The key was not worth waiting for lately.
    Pass,
}

/// Fills under way, and keys that turned out not to be shareable a short time ago.
#[derive(Debug)]
pub(crate) struct Flights {
    inner: Mutex<Inner>,
    hasher: RandomState,
}

#[derive(Debug, Default)]
struct Inner {
    flights: HashMap<FlightKey, Arc<Flight>>,
    /// Those that nobody joins any more, but whose responses may be stored still.
    retired: Vec<(CacheKey, Arc<Flight>)>,
    /// Until when, by hash only: a collision costs a collapse, nothing else.
    passes: HashMap<u64, Duration>,
}

/// How many keys are remembered as not shareable.
const PASSES: usize = 16 * 1024;

impl Flights {
    pub(crate) fn new() -> Self {
        Self { inner: Mutex::default(), hasher: RandomState::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Joins the fill of `key` where `may_join` does not object to what is recorded, or begins another.
    ///
    /// `look` looks into the store once more, under the lock: a fill that ended since the caller looked has
    /// stored its response before it left the table, so it is either here or there.
    pub(crate) fn join<T>(
        self: &Arc<Self>,
        key: &FlightKey,
        now: Duration,
        may_join: impl FnOnce(&Live) -> bool,
        look: impl FnOnce() -> Option<T>,
    ) -> Join<T> {
        let hash = self.hasher.hash_one(key);
        let mut inner = self.lock();
        if let Some(until) = inner.passes.get(&hash) {
            if *until > now {
                return Join::Pass;
            }
            inner.passes.remove(&hash);
        }
        if let Some(flight) = inner.flights.get(key)
            && flight.is_open(may_join)
        {
            return Join::Follow(flight.landing.subscribe());
        }
        if let Some(found) = look() {
            return Join::Found(found);
        }
        let flight = Arc::new(Flight {
            landing: watch::Sender::new(Landing::Waiting),
            doomed: AtomicBool::new(false),
        });
        if let Some(old) = inner.flights.insert(key.clone(), flight.clone()) {
            inner.retired.push((key.key.clone(), old));
        }
        drop(inner);
        Join::Lead(Guard { flights: self.clone(), key: key.clone(), flight })
    }

    /// Joins the fill of `key` if there is one.
    pub(crate) fn follow<T>(
        &self,
        key: &FlightKey,
        may_join: impl FnOnce(&Live) -> bool,
    ) -> Option<Join<T>> {
        let inner = self.lock();
        let flight = inner.flights.get(key).filter(|flight| flight.is_open(may_join))?;
        Some(Join::Follow(flight.landing.subscribe()))
    }

    /// Remembers that answers for this key cannot be shared.
    pub(crate) fn remember_pass(&self, key: &FlightKey, until: Duration, now: Duration) {
        let hash = self.hasher.hash_one(key);
        let mut inner = self.lock();
        if inner.passes.len() >= PASSES {
            inner.passes.retain(|_, until| *until > now);
        }
        if inner.passes.len() < PASSES {
            inner.passes.insert(hash, until);
        }
    }

    /// Takes that back: an answer could be shared after all.
    pub(crate) fn forget_pass(&self, key: &FlightKey) {
        let hash = self.hasher.hash_one(key);
        self.lock().passes.remove(&hash);
    }

    /// Dooms the fills that `concerned` names.
    pub(crate) fn doom(&self, concerned: impl Fn(&CacheKey, &Flight) -> bool) {
        let inner = self.lock();
        let open = inner.flights.iter().map(|(key, flight)| (&key.key, flight));
        let retired = inner.retired.iter().map(|(key, flight)| (key, flight));
        for (key, flight) in open.chain(retired) {
            if concerned(key, flight) {
                flight.doom();
            }
        }
    }

    /// How many fills are under way that can be joined.
    pub(crate) fn len(&self) -> usize {
        self.lock().flights.len()
    }
}

impl Inner {
    /// Takes a fill out of those that can be joined; says whether it was there.
    fn remove(&mut self, key: &FlightKey, flight: &Arc<Flight>) -> bool {
        let is_it = self.flights.get(key).is_some_and(|known| Arc::ptr_eq(known, flight));
        is_it && self.flights.remove(key).is_some()
    }
}

/// Held by the one who fills. However it goes away, nobody waits for it after that.
#[derive(Debug)]
pub(crate) struct Guard {
    flights: Arc<Flights>,
    key: FlightKey,
    flight: Arc<Flight>,
}

impl Guard {
    pub(crate) fn key(&self) -> &FlightKey {
        &self.key
    }

    pub(crate) fn flight(&self) -> &Arc<Flight> {
        &self.flight
    }

    /// Tells all followers what came of it.
    pub(crate) fn land(&self, landing: Landing) {
        self.flight.landing.send_replace(landing);
    }

    /// Lets the followers go their own ways, and those of the next `pass` not queue at all.
    ///
    /// Nobody joins it any more, but what is purged while this is held still dooms it.
    pub(crate) fn release(&self, now: Duration, pass: Duration) {
        if !pass.is_zero() {
            // Before the followers are woken: what they see when they ask again is the pass.
            self.flights.remember_pass(&self.key, now + pass, now);
        }
        let mut inner = self.flights.lock();
        if inner.remove(&self.key, &self.flight) {
            inner.retired.push((self.key.key.clone(), self.flight.clone()));
        }
        drop(inner);
        self.land(Landing::Released);
    }

    /// Lets nobody join any more; who has joined stays. For what is not to be stored, or is by now.
    pub(crate) fn close(&self) {
        let mut inner = self.flights.lock();
        if !inner.remove(&self.key, &self.flight) {
            inner.retired.retain(|(_, retired)| !Arc::ptr_eq(retired, &self.flight));
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.close();
        self.flight.landing.send_if_modified(|landing| {
            let waiting = matches!(landing, Landing::Waiting);
            if waiting {
                *landing = Landing::Released;
            }
            waiting
        });
    }
}
