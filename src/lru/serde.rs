//! Caches as data: the capacity, and the entries from the oldest to the newest.
//!
//! What is not data is lost: hasher, weigher, listener, ghosts, and which entries were frequent. Caches
//! whose entries expire have no such form, as their clock starts anew.

use std::fmt;
use std::hash::{BuildHasher, Hash};
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde::ser::{Serialize, SerializeStruct, Serializer};

use super::builder::Builder;
use super::cache::Cache;
use super::policy::Policy;
use super::{Adaptive, Lru, TwoQueue};

const FIELDS: &[&str] = &["capacity", "entries"];

struct Entries<'a, K, V, P, S>(&'a Cache<K, V, P, S>);

impl<K: Serialize + Hash + Eq, V: Serialize, P: Policy, S: BuildHasher> Serialize
    for Entries<'_, K, V, P, S>
{
    fn serialize<T: Serializer>(&self, to: T) -> Result<T::Ok, T::Error> {
        to.collect_seq(self.0)
    }
}

fn write<K, V, P, S, T>(cache: &Cache<K, V, P, S>, to: T) -> Result<T::Ok, T::Error>
where
    K: Serialize + Hash + Eq,
    V: Serialize,
    P: Policy,
    S: BuildHasher,
    T: Serializer,
{
    let mut fields = to.serialize_struct("Cache", FIELDS.len())?;
    fields.serialize_field("capacity", &cache.capacity())?;
    fields.serialize_field("entries", &Entries(cache))?;
    fields.end()
}

/// What was written, before there is a cache: the entries may come before the capacity.
struct Written<K, V, P, S> {
    makes: PhantomData<Cache<K, V, P, S>>,
}

impl<'de, K, V, P, S> Visitor<'de> for Written<K, V, P, S>
where
    K: Deserialize<'de> + Hash + Eq,
    V: Deserialize<'de>,
    P: Policy + Default,
    S: BuildHasher + Default,
{
    type Value = Cache<K, V, P, S>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the capacity and the entries of a cache")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> Result<Self::Value, A::Error> {
        let capacity = from
            .next_element()?
            .ok_or_else(|| A::Error::missing_field("capacity"))?;
        let entries = from
            .next_element()?
            .ok_or_else(|| A::Error::missing_field("entries"))?;
        Ok(fill(capacity, entries))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut from: A) -> Result<Self::Value, A::Error> {
        let (mut capacity, mut entries) = (None, None);
        while let Some(field) = from.next_key::<Field>()? {
            match field {
                Field::Capacity => capacity = Some(from.next_value()?),
                Field::Entries => entries = Some(from.next_value()?),
            }
        }
        let capacity = capacity.ok_or_else(|| A::Error::missing_field("capacity"))?;
        let entries = entries.ok_or_else(|| A::Error::missing_field("entries"))?;
        Ok(fill(capacity, entries))
    }
}

fn fill<K: Hash + Eq, V, P: Policy + Default, S: BuildHasher + Default>(
    capacity: usize,
    entries: Vec<(K, V)>,
) -> Cache<K, V, P, S> {
    let builder = Builder::new(capacity).policy(P::default());
    let mut cache = builder.hasher(S::default()).build();
    cache.extend(entries);
    cache
}

enum Field {
    Capacity,
    Entries,
}

impl<'de> Deserialize<'de> for Field {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Name;
        impl Visitor<'_> for Name {
            type Value = Field;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`capacity` or `entries`")
            }

            fn visit_str<E: Error>(self, name: &str) -> Result<Field, E> {
                match name {
                    "capacity" => Ok(Field::Capacity),
                    "entries" => Ok(Field::Entries),
                    _ => Err(E::unknown_field(name, FIELDS)),
                }
            }
        }
        from.deserialize_identifier(Name)
    }
}

macro_rules! data {
    ($($policy:ty),*) => {$(
        impl<K: Serialize + Hash + Eq, V: Serialize, S: BuildHasher> Serialize for Cache<K, V, $policy, S> {
            fn serialize<T: Serializer>(&self, to: T) -> Result<T::Ok, T::Error> {
                write(self, to)
            }
        }

        impl<'de, K, V, S> Deserialize<'de> for Cache<K, V, $policy, S>
        where
            K: Deserialize<'de> + Hash + Eq,
            V: Deserialize<'de>,
            S: BuildHasher + Default,
        {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                from.deserialize_struct("Cache", FIELDS, Written { makes: PhantomData })
            }
        }
    )*};
}

data!(Lru, TwoQueue, Adaptive);
