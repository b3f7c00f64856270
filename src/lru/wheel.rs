//! When entries expire: a hierarchical timer wheel over the ids of a store.
//!
//! Six levels of 64 buckets; a tick is about a millisecond (2^20 ns), and a bucket of each level is 64
//! times as long as one of the level below, so that the top level reaches over two years. To set or cancel
//! a time is constant work. A bucket whose time has come is spliced, as a whole and in constant time, onto
//! a list of due entries, of which each write looks at a few: what has expired leaves, what has not goes to
//! a lower level, at most six times in its life.

use super::raw::Id;

/// Nanoseconds per tick, as a power of two.
const TICK: u32 = 20;
/// Buckets per level, as a power of two.
const BITS: u32 = 6;
const BUCKETS: u64 = 1 << BITS;
const LEVELS: u32 = 6;
/// The list of due entries, after the buckets of all levels.
const DUE: u32 = LEVELS << BITS;
/// The timers before that of id 0: one sentinel per bucket, and that of the due list.
const SENTINELS: u32 = DUE + 1;

/// Never expires.
pub(crate) const NEVER: u64 = u64::MAX;

#[derive(Clone, Debug)]
struct Timer {
    prev: u32,
    next: u32,
    deadline: u64,
}

#[derive(Clone, Debug)]
pub(crate) struct Wheel {
    timers: Vec<Timer>,
    /// The tick up to which buckets have been spliced.
    ticked: u64,
    /// The buckets of each level that hold something.
    filled: [u64; LEVELS as usize],
    set: usize,
}

impl Wheel {
    pub(crate) fn new() -> Self {
        Self {
            timers: (0..SENTINELS).map(Timer::unset).collect(),
            ticked: 0,
            filled: [0; LEVELS as usize],
            set: 0,
        }
    }

    /// One at the same time, with the timers of this many ids, none of them set.
    pub(crate) fn emptied(&self, ids: usize) -> Self {
        let timers = (0..ids as u32 + SENTINELS).map(Timer::unset).collect();
        Self { timers, ticked: self.ticked, filled: [0; LEVELS as usize], set: 0 }
    }

    #[inline]
    fn at(id: Id) -> u32 {
        id.index() as u32 + SENTINELS
    }

    #[inline]
    fn timer(&mut self, at: u32) -> &mut Timer {
        &mut self.timers[at as usize]
    }

    /// When the entry expires, in nanoseconds of the clock.
    #[inline]
    pub(crate) fn deadline(&self, id: Id) -> u64 {
        self.timers[Self::at(id) as usize].deadline
    }

    pub(crate) fn is_set(&self, id: Id) -> bool {
        self.deadline(id) != NEVER
    }

    /// Sets or moves the time of an entry.
    pub(crate) fn set(&mut self, id: Id, deadline: u64) {
        self.cancel(id);
        if deadline != NEVER {
            let at = Self::at(id);
            self.timer(at).deadline = deadline;
            self.set += 1;
            self.file(at);
        }
    }

    /// The entry leaves, or never expires.
    pub(crate) fn cancel(&mut self, id: Id) {
        let at = Self::at(id);
        if self.timer(at).deadline != NEVER {
            self.unlink(at);
            self.timer(at).deadline = NEVER;
            self.set -= 1;
        }
    }

    pub(crate) fn clear(&mut self) {
        for at in 0..self.timers.len() as u32 {
            *self.timer(at) = Timer::unset(at);
        }
        self.filled = [0; LEVELS as usize];
        self.set = 0;
    }

    /// Splices every bucket whose time has come onto the due list. At most 64 splices per level.
    #[inline]
    pub(crate) fn advance(&mut self, now: u64) {
        let tick = now >> TICK;
        if tick > self.ticked {
            self.turn(tick);
        }
    }

    fn turn(&mut self, tick: u64) {
        let before = std::mem::replace(&mut self.ticked, tick);
        for level in 0..LEVELS {
            let (from, to) = (before >> (BITS * level), tick >> (BITS * level));
            if from == to {
                break;
            }
            // The buckets after `from` up to `to`, all of them when that is more than one turn.
            let mut reached = self.filled[level as usize];
            if to - from < BUCKETS {
                let span = (1_u64 << (to - from)) - 1;
                reached &= span.rotate_left(((from + 1) % BUCKETS) as u32);
            }
            self.filled[level as usize] &= !reached;
            while reached != 0 {
                self.splice((level << BITS) + reached.trailing_zeros());
                reached &= reached - 1;
            }
        }
    }

    /// The next entry that is due and has expired, to be taken out by the caller; looks at up to `*look`
    /// entries and files those that have time left.
    pub(crate) fn expired(&mut self, now: u64, look: &mut usize) -> Option<Id> {
        while *look > 0 {
            let at = self.timer(DUE).prev;
            if at == DUE {
                return None;
            }
            *look -= 1;
            if is_over(self.timer(at).deadline, now) {
                return Some(Id::from_index(at - SENTINELS));
            }
            self.unlink(at);
            self.file(at);
        }
        None
    }

    /// Links a timer into the bucket of its deadline, or the due list when that is past.
    fn file(&mut self, at: u32) {
        // The tick after the deadline: a bucket is due when all of its deadlines are over.
        let tick = (self.timer(at).deadline >> TICK) + 1;
        let bucket = if tick <= self.ticked {
            DUE
        } else {
            let away = tick ^ self.ticked;
            let level = ((63 - away.leading_zeros()) / BITS).min(LEVELS - 1);
            let mut bucket = tick >> (BITS * level);
            let current = self.ticked >> (BITS * level);
            if bucket - current >= BUCKETS {
                // Beyond the top level: filed again when its turn comes.
                bucket = current + BUCKETS - 1;
            }
            let bucket = (bucket % BUCKETS) as u32;
            self.filled[level as usize] |= 1 << bucket;
            (level << BITS) + bucket
        };
        let first = self.timer(bucket).next;
        let timer = self.timer(at);
        timer.prev = bucket;
        timer.next = first;
        self.timer(first).prev = at;
        self.timer(bucket).next = at;
    }

    fn unlink(&mut self, at: u32) {
        let Timer { prev, next, .. } = *self.timer(at);
        self.timer(prev).next = next;
        self.timer(next).prev = prev;
        if prev == next && prev < DUE {
            self.filled[(prev >> BITS) as usize] &= !(1 << (u64::from(prev) % BUCKETS));
        }
    }

    /// Moves all of a bucket to the new end of the due list.
    fn splice(&mut self, bucket: u32) {
        let Timer { prev: last, next: first, .. } = *self.timer(bucket);
        if first == bucket {
            return;
        }
        *self.timer(bucket) = Timer::unset(bucket);
        let after = self.timer(DUE).next;
        self.timer(DUE).next = first;
        self.timer(first).prev = DUE;
        self.timer(last).next = after;
        self.timer(after).prev = last;
    }

    /// Checks every invariant, and that `set` entries have a time.
    pub(crate) fn validate(&self, set: usize) {
        assert_eq!(self.set, set, "another number of timers is set");
        let mut seen = 0;
        for bucket in 0..SENTINELS {
            let (mut before, mut at) = (bucket, self.timers[bucket as usize].next);
            while at != bucket {
                let timer = &self.timers[at as usize];
                assert!(at >= SENTINELS, "a bucket runs into another one");
                assert_eq!(timer.prev, before, "timers disagree");
                assert_ne!(timer.deadline, NEVER, "a timer is linked and not set");
                seen += 1;
                (before, at) = (at, timer.next);
            }
            if bucket < DUE {
                let filled =
                    self.filled[(bucket >> BITS) as usize] >> (u64::from(bucket) % BUCKETS) & 1;
                assert_eq!(filled == 1, before != bucket, "a bucket is marked wrongly");
            }
        }
        assert_eq!(seen, set, "a timer is lost");
    }
}

impl Timer {
    fn unset(at: u32) -> Self {
        Self { prev: at, next: at, deadline: NEVER }
    }
}

/// As in golang-lru: an entry is over only after its last nanosecond.
#[inline]
pub(crate) fn is_over(deadline: u64, now: u64) -> bool {
    now > deadline
}
