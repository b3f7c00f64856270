//! What all services of one cache share.

use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use http::{Extensions, HeaderMap};

use super::clock::{Clock, Moment};
use super::coalesce::{Flight, Flights};
use super::epoch::{Changes, Epoch};
use super::event::{CacheEvent, Counters, count};
use super::key::CacheKey;
use super::options::Options;
use super::outcome::CacheOutcome;
use super::parts::Parts;
use super::policy::no_vary_search::NoVarySearch;
use super::shape::Shapes;
use super::store::{Change, Gone, Limits, Store, weigh};
use super::stored::{Head, Resource, Stored};
use crate::lru::{Cause, LruCache};

type Hook = Box<dyn Fn(CacheEvent<'_>) + Send + Sync>;

pub(crate) struct State {
    pub(crate) store: Store,
    pub(crate) flights: Arc<Flights>,
    pub(crate) counters: Counters,
    pub(crate) shapes: Shapes,
    pub(crate) clock: Clock,
    /// Of the response to a hit; to clone them costs less than to make them.
    pub(crate) hit: Extensions,
    hook: OnceLock<Hook>,
    changes: Changes,
    searches: Mutex<LruCache<Box<str>, NoVarySearch>>,
    any_search: OnceLock<()>,
}

/// How many paths may have a `No-Vary-Search` of their own.
const SEARCHES: usize = 4096;

/// What a lookup found.
pub(crate) enum Found {
    Selected(Arc<Stored>),
    /// Other variants only; one of them, which tells what selects.
    OtherVariant(Arc<Stored>),
    Nothing,
}

impl State {
    pub(crate) fn new(limits: &Limits) -> Self {
        let mut hit = Extensions::new();
        hit.insert(CacheOutcome::Hit);
        Self {
            store: Store::new(limits),
            flights: Arc::new(Flights::new()),
            counters: Counters::default(),
            shapes: Shapes::new(),
            clock: Clock::new(),
            hit,
            hook: OnceLock::new(),
            changes: Changes::new(),
            searches: Mutex::new(LruCache::new(SEARCHES)),
            any_search: OnceLock::new(),
        }
    }

    /// The first one set counts.
    pub(crate) fn set_hook(&self, hook: Hook) {
        let _ = self.hook.set(hook);
    }

    pub(crate) fn now(&self) -> Moment {
        self.clock.now()
    }

    pub(crate) fn tell(&self, event: CacheEvent<'_>) {
        if let Some(hook) = self.hook.get() {
            hook(event);
        }
    }

    /// The same for a hit, of which nobody needs to know the key but a hook.
    pub(crate) fn tell_hit(&self, key: &str) {
        if let Some(hook) = self.hook.get() {
            hook(CacheEvent::Hit(&CacheKey::of_text(key)));
        }
    }

    /// Looks for what answers `request`.
    pub(crate) fn find(&self, key: &str, request: &HeaderMap, now: &Moment) -> Found {
        let mut resource = self.get(key, now);
        if resource.is_none()
            && self.any_search.get().is_some()
            && let Some(key) = self.searched(&CacheKey::of_text(key))
        {
            resource = self.get(key.as_str(), now);
        }
        match resource {
            None => Found::Nothing,
            // Handed on as it is: to count another reader is an atomic operation.
            Some(Resource::One(stored)) if stored.head.is_selected_by(request) => {
                Found::Selected(stored)
            }
            Some(resource) => match resource.select(request) {
                Some(stored) => Found::Selected(stored.clone()),
                None => resource
                    .variants()
                    .first()
                    .map_or(Found::Nothing, |stored| Found::OtherVariant(stored.clone())),
            },
        }
    }

    /// Everything that is stored under `key`, whatever selects it.
    pub(crate) fn variants(&self, key: &CacheKey, now: &Moment) -> Vec<Arc<Stored>> {
        let resource = self.get(key.as_str(), now).or_else(|| {
            let key = self.searched(key)?;
            self.get(key.as_str(), now)
        });
        resource.map_or_else(Vec::new, |resource| resource.variants().to_vec())
    }

    fn get(&self, key: &str, now: &Moment) -> Option<Resource> {
        let (found, gone) = self.store.get(key, now);
        if !gone.is_empty() {
            self.discard(gone);
        }
        found
    }

    /// The key under which answers to queries like this one are stored, where a response said so.
    fn searched(&self, key: &CacheKey) -> Option<CacheKey> {
        self.any_search.get()?;
        let mut searches = self.searches.lock().unwrap_or_else(PoisonError::into_inner);
        let rule = searches.get(key.without_query())?;
        Some(searched_key(key, rule))
    }

    /// Where a response to `key` belongs.
    fn place(&self, key: &CacheKey, options: &Options, stored: &Stored) -> CacheKey {
        if !options.rules.no_vary_search {
            return key.clone();
        }
        let name = http::HeaderName::from_static("no-vary-search");
        if !stored.head.fields.contains(&name) {
            return key.clone();
        }
        let Some(rule) = NoVarySearch::parse(&stored.head.fields.to_map(0)) else {
            return key.clone();
        };
        let place = searched_key(key, &rule);
        let mut searches = self.searches.lock().unwrap_or_else(PoisonError::into_inner);
        searches.insert(key.without_query().into(), rule);
        self.any_search.get_or_init(|| ());
        place
    }

    /// Stores a response, unless something changed since its fill began.
    pub(crate) fn put(
        &self,
        key: &CacheKey,
        options: &Options,
        stored: Arc<Stored>,
        is_wrong: impl Fn() -> bool,
    ) -> bool {
        let place = self.place(key, options, &stored);
        let kept_for = stored.kept_for(&options.rules, options.retention);
        let mut weight = None;
        let gone = self.store.update(&place, &self.now(), |known| {
            // Asked under the lock of the shard: whoever makes it wrong says so first and takes the lock to
            // remove what is stored afterwards. So either this sees it, or that removes this.
            if is_wrong() || known.is_some_and(|known| known.has_newer(&stored)) {
                return Change::Keep;
            }
            let resource = match known {
                Some(known) => known.with(stored.clone(), options.max_variants),
                None => Resource::One(stored.clone()),
            };
            weight = Some(weigh(&place, &resource));
            Change::Put(resource, kept_for)
        });
        if let Some(weight) = weight {
            count(&self.counters.stores);
            self.tell(CacheEvent::Store(&place, weight));
        }
        self.discard(gone);
        weight.is_some()
    }

    /// Replaces one stored response by its updated form, if it is still there.
    pub(crate) fn freshen(
        &self,
        key: &CacheKey,
        options: &Options,
        old: &Arc<Stored>,
        new: Arc<Stored>,
    ) {
        let place = self.place(key, options, &new);
        let kept_for = new.kept_for(&options.rules, options.retention);
        let gone = self.store.update(&place, &self.now(), |known| {
            let Some(known) = known else {
                return Change::Keep;
            };
            let mut variants = known.variants().to_vec();
            let Some(slot) = variants.iter_mut().find(|stored| Arc::ptr_eq(stored, old)) else {
                return Change::Keep;
            };
            *slot = new.clone();
            match Resource::of(variants) {
                Some(resource) => Change::Put(resource, kept_for),
                None => Change::Keep,
            }
        });
        self.discard(gone);
    }

    /// Stores a part, joined to those of the same representation; hands out the whole once it is one.
    ///
    /// `head` makes that of both, where the stored ones are of the same representation.
    pub(crate) fn put_parts(
        &self,
        key: &CacheKey,
        options: &Options,
        parts: Arc<Parts>,
        epoch: Epoch,
        head: impl Fn(&Parts) -> Option<Arc<Head>>,
    ) -> Option<Arc<Parts>> {
        let place = parts_key(key);
        let kept_for = parts.head.terms.usable_for(&options.rules);
        let mut whole = None;
        let gone = self.store.update(&place, &self.now(), |known| {
            if self.is_past(epoch) {
                return Change::Keep;
            }
            let known = match known {
                Some(Resource::Parts(known)) => head(known).map(|head| known.with(&parts, head)),
                _ => None,
            };
            let joined = known.map_or_else(|| parts.clone(), Arc::new);
            if joined.bytes() > options.max_body_size {
                return Change::Keep;
            }
            if joined.whole().is_some() {
                whole = Some(joined);
                return Change::Remove;
            }
            Change::Put(Resource::Parts(joined), kept_for)
        });
        self.discard(gone);
        whole
    }

    /// The parts stored under `key`.
    pub(crate) fn parts(&self, key: &str, now: &Moment) -> Option<Arc<Parts>> {
        match self.get(parts_key(&CacheKey::of_text(key)).as_str(), now) {
            Some(Resource::Parts(parts)) => Some(parts),
            _ => None,
        }
    }

    /// Where something of `key` may be stored.
    pub(crate) fn places(&self, key: &CacheKey) -> impl Iterator<Item = CacheKey> {
        [Some(key.clone()), Some(parts_key(key)), self.searched(key)].into_iter().flatten()
    }

    /// Removes everything stored under `key`, and makes fills under way unfit to be stored.
    pub(crate) fn invalidate(&self, key: &CacheKey) -> bool {
        self.changes.count(key);
        self.flights.doom(|other, _| other == key);
        let mut found = false;
        for place in self.places(key) {
            let gone = self.store.update(&place, &self.now(), |known| {
                found |= known.is_some();
                Change::Remove
            });
            self.discard(gone);
        }
        found
    }

    /// Removes what `is_wrong` names.
    pub(crate) fn remove(&self, is_wrong: impl Fn(&CacheKey, &Resource) -> bool) -> usize {
        let gone = self.store.retain(|key, resource| !is_wrong(key, resource));
        let removed = gone.iter().filter(|(.., cause)| *cause == Cause::Removed).count();
        self.discard(gone);
        removed
    }

    /// Before anything is removed, so that no fill under way puts it back.
    pub(crate) fn doom(&self, concerned: impl Fn(&CacheKey, &Flight) -> bool) {
        self.changes.count_all();
        self.flights.doom(concerned);
    }

    pub(crate) fn epoch(&self, key: &CacheKey) -> Epoch {
        self.changes.epoch(key)
    }

    /// Whether something has changed that concerns a recording of then.
    pub(crate) fn is_past(&self, epoch: Epoch) -> bool {
        self.changes.is_past(epoch)
    }

    /// Tells of what left, and drops it outside of every lock.
    pub(crate) fn discard(&self, gone: Vec<Gone>) {
        for (key, resource, cause) in gone {
            match cause {
                Cause::Capacity => count(&self.counters.evictions),
                Cause::Expired => count(&self.counters.expirations),
                _ => {}
            }
            self.tell(CacheEvent::Evict(&key));
            drop(resource);
        }
    }

    /// How long a response to `key` stays usable at the latest.
    pub(crate) fn pass_until(&self, pass_for: Duration) -> Duration {
        self.now().steady() + pass_for
    }
}

fn searched_key(key: &CacheKey, rule: &NoVarySearch) -> CacheKey {
    key.beside("search", &rule.canonical(key.query()))
}

fn parts_key(key: &CacheKey) -> CacheKey {
    key.beside("parts", key.query())
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State")
            .field("store", &self.store)
            .field("counters", &self.counters)
            .finish_non_exhaustive()
    }
}
