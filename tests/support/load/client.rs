//! What every kind of client has: its target, its pauses, its place in the account.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::Shared;
use super::account::{Account, Kind, Worker};
use super::socket::{Socket, Target};

/// After a connection could not be made: a server that is down must not be asked a million times.
const PAUSE_AFTER_FAILED_CONNECT: Duration = Duration::from_millis(10);

#[derive(Clone)]
pub(super) struct Client {
    pub(super) shared: Arc<Shared>,
    pub(super) kind: Kind,
    pub(super) target: Target,
    pub(super) think: Duration,
    pub(super) timeout: Duration,
    pub(super) requests: u64,
    pub(super) any_body: bool,
    pub(super) random: Random,
    pub(super) stopped: watch::Receiver<bool>,
}

impl Client {
    /// Pauses as long as this client thinks. False: the load is stopped.
    pub(super) async fn pause(&mut self) -> bool {
        let think = self.random.up_to(self.think);
        if !think.is_zero() {
            let stopped = self.stopped.wait_for(|stopped| *stopped);
            // The time is up, or the load is stopped: the next line tells which.
            let _ = tokio::time::timeout(think, stopped).await;
        }
        !*self.stopped.borrow()
    }

    /// Connects; a failure is a loss.
    pub(super) async fn connect(&self, began: Instant, again: bool) -> Option<Socket> {
        let failed = match tokio::time::timeout(self.timeout, self.target.connect()).await {
            Ok(Ok(socket)) => {
                self.count(|account| {
                    account.connects += 1;
                    account.reconnects += u64::from(again);
                });
                return Some(socket);
            }
            Ok(Err(error)) => format!("cannot connect: {error}"),
            Err(_) => "timed out while connecting".to_owned(),
        };
        self.lost(began, failed, None);
        tokio::time::sleep(PAUSE_AFTER_FAILED_CONNECT).await;
        None
    }

    pub(super) fn count(&self, count: impl FnOnce(&mut Account)) {
        self.shared.count(self.kind, count);
    }

    pub(super) fn done(&self, began: Instant) {
        self.shared.done(self.kind, began);
    }

    pub(super) fn lost(&self, began: Instant, what: String, worker: Option<Worker>) {
        self.shared.lost(self.kind, began, what, worker);
    }
}

/// A small generator (SplitMix64): the same seed gives the same pauses.
#[derive(Clone, Debug)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64, client: u64) -> Self {
        Self(seed.wrapping_mul(0xa076_1d64_78bd_642f) ^ client.wrapping_mul(0xe703_7ed1_a0b4_28db))
    }

    /// Another sequence, for a part of the same client.
    pub(super) fn jump(&mut self, part: u64) {
        self.0 ^= part.wrapping_mul(0x8ebc_6af0_9c88_c6e3);
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    pub(super) fn up_to(&mut self, max: Duration) -> Duration {
        let max = u64::try_from(max.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(self.below(max.saturating_add(1)))
    }
}
