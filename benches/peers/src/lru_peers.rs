//! The crates that are compared, each as it is built by default.

use crate::lru_work::{Keys, Numbers, Strings};

pub trait Peer<S: Keys> {
    const NAME: &'static str;
    fn new(capacity: usize) -> Self;
    fn get(&mut self, key: &S::Ask) -> Option<u64>;
    fn insert(&mut self, key: S::Key, value: u64);
    fn len(&self) -> usize;
}

macro_rules! peer {
    ($peer:ident, $name:literal, $new:expr, $get:expr, $insert:expr, $len:expr) => {
        peer!(@ $peer<u64>, $name, Numbers, u64, u64, $new, $get, $insert, $len);
        peer!(@ $peer<String>, $name, Strings, String, str, $new, $get, $insert, $len);
    };
    (@ $peer:ty, $name:literal, $keys:ty, $key:ty, $ask:ty, $new:expr, $get:expr, $insert:expr, $len:expr) => {
        impl Peer<$keys> for $peer {
            const NAME: &'static str = $name;
            #[inline(always)]
            fn new(capacity: usize) -> Self {
                Self($new(capacity))
            }
            #[inline(always)]
            fn get(&mut self, key: &$ask) -> Option<u64> {
                $get(&mut self.0, key)
            }
            #[inline(always)]
            fn insert(&mut self, key: $key, value: u64) {
                $insert(&mut self.0, key, value);
            }
            fn len(&self) -> usize {
                $len(&self.0)
            }
        }
    };
}

fn nonzero(capacity: usize) -> std::num::NonZeroUsize {
    capacity.try_into().unwrap()
}

use std::hash::Hash;

macro_rules! ours {
    ($peer:ident, $name:literal, $cache:ident) => {
        pub struct $peer<K: Hash + Eq>(pub graceful::lru::$cache<K, u64>);
        peer!(
            $peer,
            $name,
            |n| graceful::lru::$cache::new(n),
            |c: &mut graceful::lru::$cache<_, u64>, k| c.get(k).copied(),
            |c: &mut graceful::lru::$cache<_, u64>, k, v| {
                c.insert(k, v);
            },
            |c: &graceful::lru::$cache<_, u64>| c.len()
        );
    };
}
ours!(Ours, "graceful", LruCache);
ours!(OursTwoQueue, "graceful 2Q", TwoQueueCache);
ours!(OursAdaptive, "graceful ARC", AdaptiveCache);

pub struct OursExpirable<K: Hash + Eq>(graceful::lru::ExpirableCache<K, u64>);
peer!(
    OursExpirable,
    "graceful expirable",
    |n| graceful::lru::ExpirableCache::new(n, std::time::Duration::from_secs(3600)),
    |c: &mut graceful::lru::ExpirableCache<_, u64>, k| c.get(k).copied(),
    |c: &mut graceful::lru::ExpirableCache<_, u64>, k, v| {
        c.insert(k, v);
    },
    |c: &graceful::lru::ExpirableCache<_, u64>| c.len()
);

pub struct OursWeighted<K: Hash + Eq>(graceful::lru::LruCache<K, u64>);
peer!(
    OursWeighted,
    "graceful weighted",
    |n| graceful::lru::LruCache::builder(n).weigher(|_, _| 1).build(),
    |c: &mut graceful::lru::LruCache<_, u64>, k| c.get(k).copied(),
    |c: &mut graceful::lru::LruCache<_, u64>, k, v| {
        c.insert(k, v);
    },
    |c: &graceful::lru::LruCache<_, u64>| c.len()
);

pub struct LruRs<K: Hash + Eq>(lru::LruCache<K, u64>);
peer!(
    LruRs,
    "lru",
    |n| lru::LruCache::new(nonzero(n)),
    |c: &mut lru::LruCache<_, u64>, k| c.get(k).copied(),
    |c: &mut lru::LruCache<_, u64>, k, v| {
        c.put(k, v);
    },
    |c: &lru::LruCache<_, u64>| c.len()
);

pub struct Schnellru<K: Hash + Eq>(schnellru::LruMap<K, u64>);
peer!(
    Schnellru,
    "schnellru",
    |n| schnellru::LruMap::new(schnellru::ByLength::new(n as u32)),
    |c: &mut schnellru::LruMap<_, u64>, k| c.get(k).copied(),
    |c: &mut schnellru::LruMap<_, u64>, k, v| {
        c.insert(k, v);
    },
    |c: &schnellru::LruMap<_, u64>| c.len()
);

pub struct Hashlink<K: Hash + Eq>(hashlink::LruCache<K, u64>);
peer!(
    Hashlink,
    "hashlink",
    hashlink::LruCache::new,
    |c: &mut hashlink::LruCache<_, u64>, k| c.get(k).copied(),
    |c: &mut hashlink::LruCache<_, u64>, k, v| {
        c.insert(k, v);
    },
    |c: &hashlink::LruCache<_, u64>| c.len()
);

pub struct Clru<K: Hash + Eq>(clru::CLruCache<K, u64>);
peer!(
    Clru,
    "clru",
    |n| clru::CLruCache::new(nonzero(n)),
    |c: &mut clru::CLruCache<_, u64>, k| c.get(k).copied(),
    |c: &mut clru::CLruCache<_, u64>, k, v| {
        c.put(k, v);
    },
    |c: &clru::CLruCache<_, u64>| c.len()
);

pub struct QuickUnsync<K: Hash + Eq>(quick_cache::unsync::Cache<K, u64>);
peer!(
    QuickUnsync,
    "quick_cache unsync",
    quick_cache::unsync::Cache::new,
    |c: &mut quick_cache::unsync::Cache<_, u64>, k| c.get(k).copied(),
    |c: &mut quick_cache::unsync::Cache<_, u64>, k, v| {
        c.insert(k, v);
    },
    |c: &quick_cache::unsync::Cache<_, u64>| c.len()
);

pub struct QuickSync<K: Hash + Eq>(quick_cache::sync::Cache<K, u64>);
peer!(
    QuickSync,
    "quick_cache sync",
    quick_cache::sync::Cache::new,
    |c: &mut quick_cache::sync::Cache<_, u64>, k| c.get(k),
    |c: &mut quick_cache::sync::Cache<_, u64>, k, v| {
        c.insert(k, v);
    },
    |c: &quick_cache::sync::Cache<_, u64>| c.len()
);

pub struct Moka<K: Hash + Eq>(moka::sync::Cache<K, u64>);
peer!(
    Moka,
    "moka",
    |n| moka::sync::Cache::new(n as u64),
    |c: &mut moka::sync::Cache<_, u64>, k| c.get(k),
    |c: &mut moka::sync::Cache<_, u64>, k, v| {
        c.insert(k, v);
    },
    |c: &moka::sync::Cache<_, u64>| {
        c.run_pending_tasks();
        c.entry_count() as usize
    }
);

pub struct MiniMoka(mini_moka::unsync::Cache<u64, u64>);
peer!(@ MiniMoka, "mini-moka unsync", Numbers, u64, u64, |n| mini_moka::unsync::Cache::new(n as u64),
    |c: &mut mini_moka::unsync::Cache<_, u64>, k| c.get(k).copied(),
    |c: &mut mini_moka::unsync::Cache<_, u64>, k, v| { c.insert(k, v); },
    |c: &mini_moka::unsync::Cache<_, u64>| c.entry_count() as usize);

macro_rules! caches {
    ($peer:ident, $name:literal, $cache:ident) => {
        pub struct $peer(caches::$cache<u64, u64>);
        impl Peer<Numbers> for $peer {
            const NAME: &'static str = $name;
            fn new(capacity: usize) -> Self {
                $peer(caches::$cache::new(capacity).unwrap())
            }
            #[inline(always)]
            fn get(&mut self, key: &u64) -> Option<u64> {
                use caches::Cache;
                self.0.get(key).copied()
            }
            #[inline(always)]
            fn insert(&mut self, key: u64, value: u64) {
                use caches::Cache;
                self.0.put(key, value);
            }
            fn len(&self) -> usize {
                use caches::Cache;
                self.0.len()
            }
        }
    };
}
caches!(CachesRaw, "caches RawLRU", RawLRU);
caches!(CachesTwoQueue, "caches 2Q", TwoQueueCache);
caches!(CachesAdaptive, "caches ARC", AdaptiveCache);
