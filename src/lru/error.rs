//! What a constructor refuses.

use std::error::Error;
use std::fmt;

/// A cache cannot be made as asked: its capacity is 0, or a ratio is not within 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CapacityError {
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Capacity,
    RecentRatio,
    GhostRatio,
}

impl CapacityError {
    pub(crate) fn capacity() -> Self {
        Self { kind: Kind::Capacity }
    }

    pub(crate) fn recent_ratio() -> Self {
        Self { kind: Kind::RecentRatio }
    }

    pub(crate) fn ghost_ratio() -> Self {
        Self { kind: Kind::GhostRatio }
    }

    /// Whether it is the capacity that was refused, and not a ratio.
    pub fn is_capacity(&self) -> bool {
        self.kind == Kind::Capacity
    }
}

impl fmt::Display for CapacityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            Kind::Capacity => "a cache needs a capacity above 0",
            Kind::RecentRatio => "the recent ratio is not within 0 to 1",
            Kind::GhostRatio => "the ghost ratio is not within 0 to 1",
        })
    }
}

impl Error for CapacityError {}
