//! Keys and the order in which they are asked for.

/// Spreads small numbers over all 64 bits, one to one.
pub fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Random numbers that are the same in each run.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(1);
        mix(self.0)
    }

    pub fn below(&mut self, end: usize) -> usize {
        ((u128::from(self.next()) * end as u128) >> 64) as usize
    }

    pub fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// Ranks under a zipf distribution, by rejection-inversion (Hörmann and Derflinger, 1996).
pub struct Zipf {
    exponent: f64,
    end: f64,
    low: f64,
    high: f64,
    edge: f64,
}

impl Zipf {
    pub fn new(end: usize, exponent: f64) -> Self {
        let mut zipf = Self { exponent, end: end as f64, low: 0.0, high: 0.0, edge: 0.0 };
        zipf.low = zipf.integral(1.5) - 1.0;
        zipf.high = zipf.integral(zipf.end + 0.5);
        zipf.edge = 2.0 - zipf.inverse(zipf.integral(2.5) - 2_f64.powf(-exponent));
        zipf
    }

    fn integral(&self, x: f64) -> f64 {
        let log = x.ln();
        let t = (1.0 - self.exponent) * log;
        log * if t.abs() > 1e-8 { t.exp_m1() / t } else { 1.0 + t / 2.0 }
    }

    fn inverse(&self, x: f64) -> f64 {
        let t = (x * (1.0 - self.exponent)).max(-1.0);
        (x * if t.abs() > 1e-8 { t.ln_1p() / t } else { 1.0 - t / 2.0 }).exp()
    }

    /// A rank from 0.
    pub fn next(&self, random: &mut Random) -> usize {
        loop {
            let u = self.high + random.unit() * (self.low - self.high);
            let x = self.inverse(u);
            let k = x.round().clamp(1.0, self.end);
            if k - x <= self.edge || u >= self.integral(k + 0.5) - k.powf(-self.exponent) {
                return k as usize - 1;
            }
        }
    }
}

/// Keys in the order of their use.
pub trait Keys {
    type Key;
    type Ask: ?Sized;
    fn from_ranks(ranks: impl Iterator<Item = usize>) -> Self;
    fn len(&self) -> usize;
    fn ask(&self, at: usize) -> &Self::Ask;
    fn own(&self, at: usize) -> Self::Key;
}

pub struct Numbers(Vec<u64>);

impl Keys for Numbers {
    type Key = u64;
    type Ask = u64;

    fn from_ranks(ranks: impl Iterator<Item = usize>) -> Self {
        Self(ranks.map(|rank| mix(rank as u64)).collect())
    }

    fn len(&self) -> usize {
        self.0.len()
    }

    #[inline(always)]
    fn ask(&self, at: usize) -> &u64 {
        &self.0[at]
    }

    #[inline(always)]
    fn own(&self, at: usize) -> u64 {
        self.0[at]
    }
}

/// Thirty bytes each, one after the other.
pub struct Strings(String);

const LENGTH: usize = 30;

impl Keys for Strings {
    type Key = String;
    type Ask = str;

    fn from_ranks(ranks: impl Iterator<Item = usize>) -> Self {
        use std::fmt::Write;
        let mut text = String::new();
        for rank in ranks {
            let _ = write!(text, "/path/to/page/{:016x}", mix(rank as u64));
        }
        Self(text)
    }

    fn len(&self) -> usize {
        self.0.len() / LENGTH
    }

    #[inline(always)]
    fn ask(&self, at: usize) -> &str {
        &self.0[at * LENGTH..(at + 1) * LENGTH]
    }

    #[inline(always)]
    fn own(&self, at: usize) -> String {
        self.ask(at).to_owned()
    }
}
