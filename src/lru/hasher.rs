//! The default hasher.

use std::fmt;
use std::hash::{BuildHasher, Hasher};

/// Builds the default hasher: foldhash, seeded at random anew for each cache.
///
/// It is fast, and someone who does not know the seed cannot prepare keys that collide. It makes no promise
/// against one who can measure or learn the seed; where that matters, give the cache the standard library's
/// [`std::hash::RandomState`] (SipHash) instead. Whatever the keys are, colliding ones make a cache slow and
/// never wrong.
#[derive(Clone, Debug, Default)]
pub struct RandomState {
    seeded: foldhash::fast::RandomState,
}

/// The default hasher, made by [`RandomState`].
#[derive(Clone)]
pub struct DefaultHasher {
    inner: foldhash::fast::FoldHasher<'static>,
}

impl fmt::Debug for DefaultHasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DefaultHasher").finish_non_exhaustive()
    }
}

impl BuildHasher for RandomState {
    type Hasher = DefaultHasher;

    #[inline(always)]
    fn build_hasher(&self) -> DefaultHasher {
        DefaultHasher { inner: self.seeded.build_hasher() }
    }
}

macro_rules! forward {
    ($($write:ident: $of:ty),*) => {$(
        #[inline(always)]
        fn $write(&mut self, value: $of) {
            self.inner.$write(value);
        }
    )*};
}

impl Hasher for DefaultHasher {
    #[inline(always)]
    fn finish(&self) -> u64 {
        self.inner.finish()
    }

    forward!(
        write: &[u8], write_u8: u8, write_u16: u16, write_u32: u32, write_u64: u64, write_u128: u128,
        write_usize: usize, write_i8: i8, write_i16: i16, write_i32: i32, write_i64: i64, write_i128: i128,
        write_isize: isize
    );
}
