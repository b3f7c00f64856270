//! Bytes that both ends can compute, so that a lost, repeated or foreign byte shows.

/// The byte at a place of a body.
pub(crate) fn byte(place: usize) -> u8 {
    // 251 is prime: a block of any usual size that is lost or repeated shifts what follows.
    (place % 251) as u8
}

/// Bytes of the pattern from `place` on.
pub(crate) fn bytes(place: usize, len: usize) -> Vec<u8> {
    (place..place + len).map(byte).collect()
}

/// A count and a checksum (FNV-1a) of the bytes seen so far.
#[derive(Debug)]
pub(crate) struct Tally {
    count: usize,
    sum: u64,
}

impl Tally {
    pub(crate) fn new() -> Self {
        Self { count: 0, sum: 0xcbf2_9ce4_8422_2325 }
    }

    pub(crate) fn add(&mut self, bytes: &[u8]) {
        self.count += bytes.len();
        for byte in bytes {
            self.sum = (self.sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    /// The answer that a server gives to an upload of these bytes.
    pub(crate) fn answer(&self) -> String {
        format!("{} {:016x}\n", self.count, self.sum)
    }
}
