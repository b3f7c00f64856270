//! What became of every request: accounts by kind of client, and the report as a table.

use std::fmt;
use std::time::{Duration, Instant};

use super::histogram::Histogram;

/// What a client does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub(crate) enum Kind {
    /// `GET /` on one connection, with a pause between requests.
    KeepAlive,
    /// `GET /` on a connection of its own.
    Fresh,
    /// `GET /slow`, keep-alive.
    Slow,
    /// `GET /stream`, keep-alive, every byte verified.
    Stream,
    /// `POST /upload` in pieces, keep-alive, with a length and chunked in turn.
    Upload,
    /// `GET /` over HTTP/2, several streams at once.
    H2,
    /// `GET /slow` over HTTP/2, on the same connections.
    H2Slow,
    /// `GET /` over TLS, keep-alive.
    Tls,
    /// A message over a WebSocket, and its echo.
    WebSocket,
}

impl Kind {
    pub(crate) const ALL: [Self; 9] = [
        Self::KeepAlive,
        Self::Fresh,
        Self::Slow,
        Self::Stream,
        Self::Upload,
        Self::H2,
        Self::H2Slow,
        Self::Tls,
        Self::WebSocket,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::KeepAlive => "keep-alive",
            Self::Fresh => "fresh",
            Self::Slow => "slow",
            Self::Stream => "stream",
            Self::Upload => "upload",
            Self::H2 => "h2",
            Self::H2Slow => "h2 slow",
            Self::Tls => "tls",
            Self::WebSocket => "websocket",
        }
    }
}

/// Who answered: the headers `x-worker` and `x-generation`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Worker {
    pub(crate) pid: u32,
    pub(crate) generation: u64,
}

/// The first answer of a worker.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FirstAnswer {
    pub(crate) worker: Worker,
    pub(crate) at: Instant,
}

/// A request that got no complete answer, or a wrong one.
#[derive(Clone, Debug)]
pub(crate) struct Loss {
    pub(crate) kind: Kind,
    /// Since the start of the load.
    pub(crate) at: Duration,
    /// How long after the request began.
    pub(crate) after: Duration,
    /// What happened, with the bytes written and read.
    pub(crate) what: String,
    /// Who gave the last answer on that connection.
    pub(crate) worker: Option<Worker>,
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = self.at.as_secs_f64();
        let after = self.after.as_secs_f64() * 1e3;
        write!(f, "{:>10.4} s  {:<10}  after {after:.1} ms: {}", at, self.kind.name(), self.what)?;
        match self.worker {
            Some(Worker { pid, generation }) => {
                write!(f, "; last answer by worker {pid}, generation {generation}")
            }
            None => f.write_str("; no answer before on that connection"),
        }
    }
}

/// What became of the requests of one kind of client.
#[derive(Clone, Debug, Default)]
pub(crate) struct Account {
    /// Requests that got their complete and right answer.
    pub(crate) done: u64,
    /// Requests of which a byte was written and that got no complete and right answer, and
    /// connections that could not be made.
    pub(crate) lost: u64,
    /// HTTP/2 requests refused by GOAWAY or REFUSED_STREAM, and messages answered by a goodbye: not
    /// processed, safe to send again.
    pub(crate) refused: u64,
    /// Requests answered with 503.
    pub(crate) unavailable: u64,
    /// Connections made.
    pub(crate) connects: u64,
    /// Connections made by a client that had one before (never counted for `Kind::Fresh`).
    pub(crate) reconnects: u64,
    /// Connections whose end was announced by `Connection: close`, GOAWAY or close code 1012.
    pub(crate) announced: u64,
    /// Connections found closed, without an announcement, before anything of the next request was
    /// written.
    pub(crate) idle_closed: u64,
    /// From the first step of a request (the connect, if it needs one) to the last byte.
    pub(crate) latency: Histogram,
}

impl Account {
    fn merge(&mut self, other: &Self) {
        self.done += other.done;
        self.lost += other.lost;
        self.refused += other.refused;
        self.unavailable += other.unavailable;
        self.connects += other.connects;
        self.reconnects += other.reconnects;
        self.announced += other.announced;
        self.idle_closed += other.idle_closed;
        self.latency.merge(&other.latency);
    }
}

/// Losses that a report describes; further ones are only counted.
const LOSSES_DESCRIBED: usize = 1000;

/// What became of all requests; `Display` is a table of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Report {
    accounts: [Account; Kind::ALL.len()],
    losses: Vec<Loss>,
    elapsed: Duration,
}

impl Report {
    pub(crate) fn of(&self, kind: Kind) -> &Account {
        &self.accounts[kind as usize]
    }

    pub(super) fn of_mut(&mut self, kind: Kind) -> &mut Account {
        &mut self.accounts[kind as usize]
    }

    /// All kinds together.
    pub(crate) fn total(&self) -> Account {
        let mut total = Account::default();
        for account in &self.accounts {
            total.merge(account);
        }
        total
    }

    pub(crate) fn done(&self) -> u64 {
        self.accounts.iter().map(|account| account.done).sum()
    }

    pub(crate) fn lost(&self) -> u64 {
        self.accounts.iter().map(|account| account.lost).sum()
    }

    /// The losses in the order in which they were found.
    pub(crate) fn losses(&self) -> &[Loss] {
        &self.losses
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.elapsed
    }

    pub(crate) fn per_second(&self) -> f64 {
        self.done() as f64 / self.elapsed.as_secs_f64()
    }

    pub(super) fn lose(&mut self, loss: Loss) {
        self.of_mut(loss.kind).lost += 1;
        if self.losses.len() < LOSSES_DESCRIBED {
            self.losses.push(loss);
        }
    }

    pub(super) fn set_elapsed(&mut self, elapsed: Duration) {
        self.elapsed = elapsed;
    }

    /// Adds another report; the times add up too.
    pub(crate) fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.accounts.iter_mut().zip(&other.accounts) {
            mine.merge(theirs);
        }
        let room = LOSSES_DESCRIBED - self.losses.len();
        self.losses.extend(other.losses.iter().take(room).cloned());
        self.elapsed += other.elapsed;
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<10} {:>9} {:>6} {:>7} {:>5} {:>8} {:>10} {:>9} {:>11}  {:>8} {:>8} {:>8} {:>8}",
            "ms",
            "done",
            "LOST",
            "refused",
            "503",
            "connects",
            "reconnects",
            "announced",
            "idle closed",
            "p50",
            "p99",
            "p99.9",
            "max",
        )?;
        for kind in Kind::ALL {
            let account = self.of(kind);
            if account.connects + account.done + account.lost > 0 {
                row(f, kind.name(), account)?;
            }
        }
        row(f, "all", &self.total())?;
        writeln!(f, "{:.0} requests per second over {:.1?}", self.per_second(), self.elapsed)?;
        for loss in self.losses.iter().take(20) {
            writeln!(f, "LOST {loss}")?;
        }
        if self.lost() > 20 {
            writeln!(f, "LOST {} more", self.lost() - 20)?;
        }
        Ok(())
    }
}

fn row(f: &mut fmt::Formatter<'_>, name: &str, account: &Account) -> fmt::Result {
    let ms = |share| account.latency.quantile(share).as_secs_f64() * 1e3;
    writeln!(
        f,
        "{name:<10} {:>9} {:>6} {:>7} {:>5} {:>8} {:>10} {:>9} {:>11}  {:>8.2} {:>8.2} {:>8.2} {:>8.2}",
        account.done,
        account.lost,
        account.refused,
        account.unavailable,
        account.connects,
        account.reconnects,
        account.announced,
        account.idle_closed,
        ms(0.5),
        ms(0.99),
        ms(0.999),
        account.latency.max().as_secs_f64() * 1e3,
    )
}
