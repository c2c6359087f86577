//! The key-value store: values with an index each, found by key or by prefix.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Bound,
    sync::Arc,
};

use bytes::Bytes;

use super::topic::{Indexes, Topic};

#[derive(Debug)]
pub(super) struct Kv {
    entries: BTreeMap<Arc<str>, Arc<Pair>>,
    /// When keys that are gone went. Without it the index of a prefix would fall when its youngest key is deleted.
    graves: BTreeMap<Arc<str>, u64>,
    /// What is missing in the graves went no later than this. No index is lower.
    floor: u64,
    /// Keys and prefixes that somebody waits for.
    waits: HashMap<Wanted, Topic>,
    clean_at: usize,
    bytes: usize,
    limits: Limits,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) keys: usize,
    /// Of keys and values together.
    pub(super) bytes: usize,
}

#[derive(Debug)]
pub(super) struct Pair {
    pub(super) key: Arc<str>,
    pub(super) value: Bytes,
    pub(super) flags: u64,
    pub(super) created: u64,
    pub(super) modified: u64,
}

/// What is read or waited for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Wanted {
    Key(Arc<str>),
    Prefix(Arc<str>),
}

/// What somebody wants to have written. `cas`: only if the key was last changed at this index; 0: only if there is none.
#[derive(Debug)]
pub(super) enum Write {
    Put { key: Arc<str>, value: Bytes, flags: u64, cas: Option<u64> },
    Delete { key: Arc<str>, cas: Option<u64> },
    DeleteUnder(Arc<str>),
}

/// What a [`Write`] comes to: found out before it is done, so that it can be made durable in between.
#[derive(Debug)]
pub(super) enum Plan {
    /// Its condition does not hold.
    Refused,
    /// It is so already.
    Nothing,
    Change(Change),
}

/// With the index that it has.
#[derive(Clone, Debug)]
pub(super) enum Change {
    Put(Arc<Pair>),
    Delete(Arc<str>, u64),
    DeleteUnder(Arc<str>, u64),
}

/// How many keys and bytes are planned and not there yet.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Beside {
    pub(super) keys: usize,
    pub(super) bytes: usize,
}

/// The store is at its bound.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Full;

const GRAVES: usize = 4_096;

impl Kv {
    pub(super) fn new(limits: Limits, indexes: &Indexes) -> Self {
        Self {
            entries: BTreeMap::new(),
            graves: BTreeMap::new(),
            floor: indexes.last(),
            waits: HashMap::new(),
            clean_at: 64,
            bytes: 0,
            limits,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn get(&self, key: &str) -> Option<&Arc<Pair>> {
        self.entries.get(key)
    }

    pub(super) fn under<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = &'a Arc<Pair>> {
        starting_with(&self.entries, prefix).map(|(_, pair)| pair)
    }

    pub(super) fn index(&self, wanted: &Wanted) -> u64 {
        let youngest = match wanted {
            Wanted::Key(key) => {
                let pair = self.entries.get(key).map(|pair| pair.modified);
                pair.or_else(|| self.graves.get(key).copied())
            }
            Wanted::Prefix(prefix) => {
                let pairs = self.under(prefix).map(|pair| pair.modified);
                pairs.chain(starting_with(&self.graves, prefix).map(|(_, went)| *went)).max()
            }
        };
        youngest.unwrap_or(0).max(self.floor)
    }

    pub(super) fn topic(&mut self, wanted: &Wanted) -> Topic {
        if self.waits.len() >= self.clean_at {
            self.waits.retain(|_, topic| !topic.is_alone());
            self.clean_at = 2 * self.waits.len() + 64;
        }
        let index = self.index(wanted);
        let topic = self.waits.entry(wanted.clone()).or_insert_with(|| Topic::new(index));
        topic.index = index;
        topic.clone()
    }

    /// Does it. Says whether its condition held.
    pub(super) fn write(&mut self, indexes: &mut Indexes, write: Write) -> Result<bool, Full> {
        match self.plan(indexes, write, Beside::default())? {
            Plan::Refused => Ok(false),
            Plan::Nothing => Ok(true),
            Plan::Change(change) => {
                self.apply(indexes, change);
                Ok(true)
            }
        }
    }

    /// What the write comes to, if all `beside` it is done as well.
    pub(super) fn plan(
        &self,
        indexes: &mut Indexes,
        write: Write,
        beside: Beside,
    ) -> Result<Plan, Full> {
        match write {
            Write::Put { key, value, flags, cas } => {
                self.plan_put(indexes, (key, value), (flags, cas), beside)
            }
            Write::Delete { key, cas } => Ok(match self.entries.get(&key) {
                None => Plan::Nothing,
                Some(pair) if cas.is_some_and(|cas| cas != pair.modified) => Plan::Refused,
                Some(_) => Plan::Change(Change::Delete(key, indexes.next())),
            }),
            Write::DeleteUnder(prefix) => Ok(match self.under(&prefix).next() {
                None => Plan::Nothing,
                Some(_) => Plan::Change(Change::DeleteUnder(prefix.clone(), indexes.next())),
            }),
        }
    }

    fn plan_put(
        &self,
        indexes: &mut Indexes,
        (key, value): (Arc<str>, Bytes),
        (flags, cas): (u64, Option<u64>),
        beside: Beside,
    ) -> Result<Plan, Full> {
        let known = self.entries.get(&key);
        if cas.is_some_and(|cas| cas != known.map_or(0, |pair| pair.modified)) {
            return Ok(Plan::Refused);
        }
        // A write that changes nothing wakes nobody.
        if known.is_some_and(|pair| pair.value == value && pair.flags == flags) {
            return Ok(Plan::Nothing);
        }
        let freed = known.map_or(0, |pair| pair.size());
        let bytes = self.bytes + beside.bytes - freed + key.len() + value.len();
        let keys = self.entries.len() + beside.keys + usize::from(known.is_none());
        if bytes > self.limits.bytes || (known.is_none() && keys > self.limits.keys) {
            return Err(Full);
        }
        let index = indexes.next();
        let created = known.map_or(index, |pair| pair.created);
        let pair = Pair { key, value, flags, created, modified: index };
        Ok(Plan::Change(Change::Put(Arc::new(pair))))
    }

    pub(super) fn apply(&mut self, indexes: &mut Indexes, change: Change) {
        match change {
            Change::Put(pair) => {
                self.graves.remove(&pair.key);
                self.set(pair.clone());
                self.touch(indexes, &pair.key);
            }
            Change::Delete(key, index) => self.remove(indexes, &key, index),
            Change::DeleteUnder(prefix, index) => self.remove_under(indexes, &prefix, index),
        }
    }

    fn set(&mut self, pair: Arc<Pair>) {
        self.bytes += pair.size();
        if let Some(before) = self.entries.insert(pair.key.clone(), pair) {
            self.bytes -= before.size();
        }
    }

    /// Takes in what was there before a restart, even beyond the bounds. What was written since stays.
    #[cfg(feature = "file")]
    pub(super) fn restore(&mut self, indexes: &Indexes, pairs: impl Iterator<Item = Arc<Pair>>) {
        for pair in pairs {
            if !self.entries.contains_key(&pair.key) {
                self.set(pair);
            }
        }
        self.floor = indexes.last();
    }

    fn remove(&mut self, indexes: &mut Indexes, key: &Arc<str>, index: u64) {
        if self.bury(key, index) {
            self.touch(indexes, key);
        }
    }

    /// Who waits is looked at once, and not once for each key: heartbeats wait for the same lock.
    fn remove_under(&mut self, indexes: &mut Indexes, prefix: &str, index: u64) {
        let keys: Vec<_> = self.under(prefix).map(|pair| pair.key.clone()).collect();
        if keys.is_empty() {
            return;
        }
        for (wanted, topic) in &mut self.waits {
            let concerned = match wanted {
                Wanted::Key(key) => key.starts_with(prefix) && self.entries.contains_key(key),
                Wanted::Prefix(within) if within.starts_with(prefix) => {
                    starting_with(&self.entries, within).next().is_some()
                }
                Wanted::Prefix(around) => prefix.starts_with(&**around),
            };
            if concerned {
                indexes.touch(topic);
            }
        }
        for key in keys {
            self.bury(&key, index);
        }
    }

    fn bury(&mut self, key: &Arc<str>, index: u64) -> bool {
        let Some(pair) = self.entries.remove(key) else { return false };
        self.bytes -= pair.size();
        if self.graves.len() >= GRAVES {
            self.graves.clear();
            self.floor = index;
        }
        self.graves.insert(key.clone(), index);
        true
    }

    fn touch(&mut self, indexes: &mut Indexes, key: &str) {
        // Few are waited for at a time, compared with how many keys there are.
        for (wanted, topic) in &mut self.waits {
            let concerned = match wanted {
                Wanted::Key(wanted) => **wanted == *key,
                Wanted::Prefix(prefix) => key.starts_with(&**prefix),
            };
            if concerned {
                indexes.touch(topic);
            }
        }
    }
}

impl Pair {
    pub(super) fn size(&self) -> usize {
        self.key.len() + self.value.len()
    }
}

fn starting_with<'a, T>(
    map: &'a BTreeMap<Arc<str>, T>,
    prefix: &'a str,
) -> impl Iterator<Item = (&'a Arc<str>, &'a T)> {
    map.range::<str, _>((Bound::Included(prefix), Bound::Unbounded))
        .take_while(move |(key, _)| key.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    impl Kv {
        fn put(
            &mut self,
            indexes: &mut Indexes,
            (key, value): (&str, Bytes),
            flags: u64,
            cas: Option<u64>,
        ) -> Result<bool, Full> {
            self.write(indexes, Write::Put { key: key.into(), value, flags, cas })
        }

        fn delete(&mut self, indexes: &mut Indexes, key: &str, cas: Option<u64>) -> bool {
            self.write(indexes, Write::Delete { key: key.into(), cas }).unwrap()
        }
    }

    fn store() -> (Kv, Indexes) {
        let indexes = Indexes::new(100);
        (Kv::new(Limits { keys: 8, bytes: 64 }, &indexes), indexes)
    }

    fn put(kv: &mut Kv, indexes: &mut Indexes, key: &str, value: &'static str) -> u64 {
        assert_eq!(kv.put(indexes, (key, value.into()), 0, None), Ok(true));
        kv.index(&Wanted::Key(key.into()))
    }

    #[test]
    fn a_check_and_set_with_an_old_index_changes_nothing() {
        let (mut kv, mut indexes) = store();
        let first = put(&mut kv, &mut indexes, "a", "1");
        put(&mut kv, &mut indexes, "a", "2");
        assert_eq!(kv.put(&mut indexes, ("a", "3".into()), 0, Some(first)), Ok(false));
        assert_eq!(kv.put(&mut indexes, ("a", "3".into()), 0, Some(0)), Ok(false));
        assert_eq!(kv.get("a").unwrap().value, "2");
        assert!(!kv.delete(&mut indexes, "a", Some(first)));
        assert_eq!(kv.put(&mut indexes, ("b", "3".into()), 0, Some(0)), Ok(true));
    }

    #[test]
    fn the_store_takes_no_more_than_its_bounds_and_gives_room_back() {
        let (mut kv, mut indexes) = store();
        let long = |n| Bytes::from(vec![b'v'; n]);
        assert_eq!(kv.put(&mut indexes, ("a", long(63)), 0, None), Ok(true));
        assert_eq!(kv.put(&mut indexes, ("b", Bytes::new()), 0, None), Err(Full));
        assert_eq!(kv.put(&mut indexes, ("a", long(60)), 0, None), Ok(true), "smaller");
        assert!(kv.delete(&mut indexes, "a", None));
        assert_eq!(kv.bytes, 0);
        for key in 0..8 {
            put(&mut kv, &mut indexes, &key.to_string(), "");
        }
        assert_eq!(kv.put(&mut indexes, ("8", Bytes::new()), 0, None), Err(Full));
    }

    #[test]
    fn graves_and_waits_are_bounded() {
        let (mut kv, mut indexes) = store();
        for n in 0..3 * GRAVES {
            let key = format!("k{n}");
            put(&mut kv, &mut indexes, &key, "");
            kv.delete(&mut indexes, &key, None);
            drop(kv.topic(&Wanted::Key(key.into())));
        }
        assert!(kv.graves.len() <= GRAVES && kv.waits.len() <= 64);
    }

    #[test]
    fn many_keys_that_go_at_once_wake_many_who_wait_without_a_look_at_each_pair_of_them() {
        let key = |n: usize| format!("jobs/{n:06}");
        let wanted = |n: usize| Wanted::Key(key(n).into());
        let took = || {
            let mut indexes = Indexes::new(100);
            let mut kv = Kv::new(Limits { keys: 100_000, bytes: 64 << 20 }, &indexes);
            for n in 0..20_000 {
                put(&mut kv, &mut indexes, &key(n), "");
            }
            let waiting: Vec<_> = (0..10_000).map(|n| kv.topic(&wanted(n))).collect();
            let began = std::time::Instant::now();
            kv.write(&mut indexes, Write::DeleteUnder("jobs/".into())).unwrap();
            let took = began.elapsed();
            for (n, before) in waiting.iter().enumerate() {
                assert!(kv.topic(&wanted(n)).index > before.index);
            }
            took
        };
        // 200,000,000 comparisons are seconds, in which no heartbeat would be heard. A machine that is busy with others is quick once in a while.
        let quickest = (0..10).map(|_| took()).find(|took| took.as_millis() < 500);
        assert!(quickest.is_some(), "never within half a second");
    }

    proptest! {
        #[test]
        fn who_waits_is_woken_by_a_prefix_that_goes_if_and_only_if_a_key_of_theirs_went(
            present in prop::collection::vec(0..6_usize, 0..6), gone in 0..7_usize,
        ) {
            const KEYS: [&str; 7] = ["a", "a/b", "a/b/c", "a/c", "b", "b/a", ""];
            let (mut kv, mut indexes) = store();
            for key in present {
                put(&mut kv, &mut indexes, KEYS[key], "1");
            }
            let wanted: Vec<_> = KEYS.iter().flat_map(|key| {
                [Wanted::Key((*key).into()), Wanted::Prefix((*key).into())]
            }).collect();
            let topics: Vec<_> = wanted.iter().map(|wanted| kv.topic(wanted)).collect();
            let before: Vec<_> = kv.entries.keys().cloned().collect();
            let mut waits: Vec<_> =
                topics.iter().map(|topic| tokio_test::task::spawn(topic.changed())).collect();
            waits.iter_mut().for_each(|wait| assert!(wait.poll().is_pending()));
            let _ = indexes.take_wakes();
            kv.write(&mut indexes, Write::DeleteUnder(KEYS[gone].into())).unwrap();
            indexes.take_wakes().wake();
            for (wanted, mut wait) in wanted.iter().zip(waits) {
                let concerned = before.iter().filter(|key| key.starts_with(KEYS[gone])).any(|key| {
                    match wanted {
                        Wanted::Key(wanted) => wanted == key,
                        Wanted::Prefix(prefix) => key.starts_with(&**prefix),
                    }
                });
                prop_assert_eq!(wait.poll().is_ready(), concerned, "{:?}", wanted);
            }
        }

        #[test]
        fn the_index_of_what_is_wanted_never_falls_and_rises_with_each_change(
            steps in prop::collection::vec((0..6_usize, any::<bool>(), 0..3_u8), 0..200),
        ) {
            const KEYS: [&str; 6] = ["a", "a/b", "a/b/c", "a/c", "b", "b/a"];
            let wanted: Vec<_> = KEYS.iter().flat_map(|key| {
                [Wanted::Key((*key).into()), Wanted::Prefix((*key).into())]
            }).collect();
            let (mut kv, mut indexes) = store();
            for (key, delete, value) in steps {
                let key = KEYS[key];
                let before: Vec<_> = wanted.iter().map(|wanted| kv.index(wanted)).collect();
                let old = kv.get(key).map(|pair| pair.value.clone());
                if delete {
                    kv.delete(&mut indexes, key, None);
                } else {
                    kv.put(&mut indexes, (key, vec![value].into()), 0, None).unwrap();
                }
                let changed = kv.get(key).map(|pair| pair.value.clone()) != old;
                for (wanted, before) in wanted.iter().zip(before) {
                    let concerned = changed && match wanted {
                        Wanted::Key(wanted) => **wanted == *key,
                        Wanted::Prefix(prefix) => key.starts_with(&**prefix),
                    };
                    let after = kv.index(wanted);
                    let kept = if concerned { after > before } else { after == before };
                    prop_assert!(kept, "{wanted:?}");
                }
            }
        }
    }
}
