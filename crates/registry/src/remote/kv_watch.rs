use std::{
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use tokio::{runtime, sync::watch, task::JoinHandle, time::Instant};

use super::{
    client::{Answer, Ask, Client},
    failure::Failure,
    follow::{Followed, Seen, follow},
    kv::{KvEntry, entries},
};

/// The keys with one prefix at one moment, sorted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KvSnapshot {
    version: u64,
    suspect: bool,
    entries: Box<[KvEntry]>,
}

impl KvSnapshot {
    /// Rises with every change, and with nothing else. 0 is the beginning, before the server has answered.
    #[must_use]
    pub const fn version(&self) -> u64 {
        self.version
    }

    /// Whether the server has ever answered; before that there is nothing here.
    #[must_use]
    pub const fn is_known(&self) -> bool {
        self.version > 0
    }

    /// Whether this is only what was last known: the server is away, or came back with nothing at all.
    #[must_use]
    pub const fn is_suspect(&self) -> bool {
        self.suspect
    }

    /// All entries.
    #[must_use]
    pub const fn entries(&self) -> &[KvEntry] {
        &self.entries
    }

    /// The entry of this key, which is the whole one, with the prefix.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&KvEntry> {
        let found = self.entries.binary_search_by(|entry| (*entry.key).cmp(key));
        found.ok().map(|place| &self.entries[place])
    }

    /// The value of this key.
    #[must_use]
    pub fn value(&self, key: &str) -> Option<&Bytes> {
        self.get(key).map(|entry| &entry.value)
    }

    /// The value of this key, if it is UTF-8.
    #[must_use]
    pub fn text(&self, key: &str) -> Option<&str> {
        std::str::from_utf8(self.value(key)?).ok()
    }
}

/// Follows the keys with one prefix. Made by [`RemoteKv::watch`](crate::RemoteKv::watch).
///
/// Reading is one atomic load, whatever the server is doing. Changes that come faster than they are looked at, or faster than 100 a second, become
/// one; the last state is never missed. A clone has seen what the original has seen.
///
/// While the server is away the last known values stay, marked as [suspect](KvSnapshot::is_suspect) after a third of the
/// [TTL](crate::RemotePolicy::ttl), and the question is asked again after pauses that grow to 5 s. A server that comes back without any
/// of the keys, because it kept them in memory, is believed only after a TTL: whoever owns the values has that long to write them again.
#[derive(Clone, Debug)]
pub struct KvWatch {
    seen: u64,
    versions: watch::Receiver<u64>,
    task: Arc<Task>,
}

#[derive(Debug)]
struct Task {
    feed: Arc<Feed>,
    task: JoinHandle<()>,
}

impl Drop for Task {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Debug)]
struct Feed {
    /// `/v1/kv/…?recurse`.
    path: String,
    current: ArcSwap<KvSnapshot>,
    /// That of `current`, sent after it was stored.
    versions: watch::Sender<u64>,
    state: Mutex<State>,
}

/// What is known of the server's answers.
#[derive(Debug, Default)]
struct State {
    confirmed: Option<Instant>,
    /// There was a failure, or a connection that broke, and no answer since that has anything in it.
    away: bool,
    breaks: u64,
    /// Until when an empty answer is not believed.
    doubted_until: Option<Instant>,
}

impl KvWatch {
    pub(super) fn spawn(client: Arc<Client>, runtime: &runtime::Handle, path: String) -> Self {
        let feed = Arc::new(Feed {
            path,
            current: ArcSwap::default(),
            versions: watch::Sender::new(0),
            state: Mutex::default(),
        });
        let versions = feed.versions.subscribe();
        let task = runtime.spawn(follow(client, feed.clone()));
        Self { seen: 0, versions, task: Arc::new(Task { feed, task }) }
    }

    /// The current snapshot. Looking at it does not make it count as seen.
    #[must_use]
    pub fn snapshot(&self) -> Arc<KvSnapshot> {
        self.task.feed.current.load_full()
    }

    /// Waits until the server has answered once, and returns the current snapshot.
    pub async fn known(&self) -> Arc<KvSnapshot> {
        // The sender lives as long as `self`.
        let _ = self.versions.clone().wait_for(|version| *version > 0).await;
        self.snapshot()
    }

    /// Waits until there is a snapshot younger than the one returned last, and returns the youngest. The first is that of the
    /// server's first answer.
    ///
    /// # Cancellation
    ///
    /// Nothing is lost: a change that was not returned is returned by the next call.
    pub async fn changed(&mut self) -> Arc<KvSnapshot> {
        let seen = self.seen;
        let _ = self.versions.wait_for(|version| *version > seen).await;
        let snapshot = self.snapshot();
        self.seen = snapshot.version;
        snapshot
    }

    /// For how long nothing has confirmed what is known; while the server answers no longer than [`RemotePolicy::wait`](crate::RemotePolicy::wait)
    /// and a little. `None` if nothing is known.
    #[must_use]
    pub fn age(&self) -> Option<Duration> {
        self.task.feed.state().confirmed.map(|confirmed| confirmed.elapsed())
    }
}

impl Feed {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the keys in. Returns for how long they are doubted.
    fn list(&self, entries: Vec<KvEntry>, breaks: u64, doubt_for: Duration) -> Option<Duration> {
        let (now, known) = (Instant::now(), self.current.load_full());
        let mut state = self.state();
        state.away |= mem::replace(&mut state.breaks, breaks) != breaks;
        state.confirmed = Some(now);
        let lost = entries.is_empty() && !known.entries.is_empty();
        if lost && state.away {
            let until = *state.doubted_until.get_or_insert(now + doubt_for);
            if now < until {
                drop(state);
                self.publish(known.entries.clone(), true);
                return Some(until - now);
            }
        }
        (state.away, state.doubted_until) = (false, None);
        drop(state);
        self.publish(entries.into(), false);
        None
    }

    /// Only the task of the watch publishes.
    fn publish(&self, entries: Box<[KvEntry]>, suspect: bool) {
        let known = self.current.load();
        if known.is_known() && known.suspect == suspect && known.entries == entries {
            return;
        }
        let version = known.version + 1;
        self.current.store(Arc::new(KvSnapshot { version, suspect, entries }));
        self.versions.send_replace(version);
    }
}

impl Followed for Feed {
    fn path(&self) -> &str {
        &self.path
    }

    fn take(
        &self,
        client: &Client,
        (ask, answer): (&Ask, Answer),
        seen: Seen,
    ) -> Result<Option<Duration>, Failure> {
        let entries = entries(client, ask, answer)?;
        Ok(self.list(entries, seen.breaks, client.policy.ttl))
    }

    fn doubt(&self, old: Duration) -> Option<Duration> {
        let mut state = self.state();
        state.away = true;
        let age = state.confirmed?.elapsed();
        drop(state);
        if age < old {
            return Some(old - age);
        }
        self.publish(self.current.load().entries.clone(), true);
        None
    }

    /// The task is ended from outside.
    fn is_done(&self) -> bool {
        false
    }
}
