//! One service as this process sees it.

use std::{
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering::Relaxed},
    time::Duration,
};

use serde::Deserialize;
use tokio::time::Instant;

use super::{
    address::encoded,
    client::{Answer, Ask, Client},
    entry::Entry,
    failure::Failure,
    follow::{Followed, Seen},
    mirror::Mirror,
};
use crate::{Instance, LastSeen, Publisher, Snapshot, Watch};

/// For how long a service that nobody watches is remembered after it was last asked for.
const IDLE: Duration = Duration::from_secs(300);

/// What is known of a service, and who is told.
#[derive(Debug)]
pub(super) struct Service {
    name: Arc<str>,
    path: String,
    publisher: Publisher,
    epoch: Instant,
    /// Shared by all instances: what confirms one confirms all.
    confirmed: LastSeen,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    mirror: Mirror,
    asked: Instant,
    /// What is known is old, and says so.
    suspect: bool,
    /// There is a task that follows it.
    followed: bool,
}

impl Service {
    pub(super) fn new(name: Arc<str>, ttl: Duration) -> Self {
        let now = Instant::now();
        let state = State { mirror: Mirror::new(ttl), asked: now, suspect: false, followed: false };
        Self {
            path: format!("/v1/health/service/{}", encoded(&name)),
            publisher: Publisher::new(name.clone()),
            name,
            epoch: now,
            confirmed: LastSeen::never(now),
            state: Mutex::new(state),
        }
    }

    /// A watch, and whether somebody has to follow the service from now on.
    pub(super) fn watch(&self) -> (Watch, bool) {
        let mut state = self.lock();
        let watch = self.publisher.watch();
        (watch, !mem::replace(&mut state.followed, true))
    }

    pub(super) fn ask(&self) -> Ask {
        self.lock().asked = Instant::now();
        Ask::get(self.path.clone())
    }

    /// The last known set, if any is known.
    pub(super) fn last_known(&self) -> Option<Arc<Snapshot>> {
        let state = self.lock();
        state.mirror.is_known().then(|| self.publisher.snapshot())
    }

    /// For how long nothing has confirmed what is known.
    pub(super) fn age(&self) -> Option<Duration> {
        self.confirmed.age()
    }

    /// Whether nobody watches it, follows it, or has asked for it for a while.
    pub(super) fn is_idle(&self) -> bool {
        let state = self.lock();
        self.publisher.is_alone() && !state.followed && state.asked.elapsed() > IDLE
    }

    /// Somebody took an instance out.
    pub(super) fn remove(&self, id: &str) {
        self.change(|mirror, _| mirror.remove(id));
    }

    /// Changes the mirror, and publishes what comes of it. Nobody is woken under the lock.
    fn change(&self, change: impl FnOnce(&mut Mirror, Duration)) -> Option<Duration> {
        let mut state = self.lock();
        let now = self.epoch.elapsed();
        change(&mut state.mirror, now);
        let mut instances = state.mirror.instances();
        if state.suspect {
            instances.iter_mut().for_each(|instance| Arc::make_mut(instance).suspect = true);
        }
        self.publisher.store(instances);
        let next = state.mirror.next().map(|next| next.saturating_sub(now));
        drop(state);
        self.publisher.wake();
        next
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn instances(
        &self,
        client: &Client,
        (ask, answer): (&Ask, Answer),
    ) -> Result<Vec<Instance>, Failure> {
        let answer = client.success(ask, answer)?;
        let entries: Vec<Entry> =
            serde_json::from_slice(&answer.body).map_err(|error| client.garbled(ask, error))?;
        let mut instances = Vec::with_capacity(entries.len());
        for entry in entries {
            match entry.instance(&self.name, &self.confirmed) {
                Some(instance) => instances.push(instance),
                None => _ = client.meters.unreadable.fetch_add(1, Relaxed),
            }
        }
        let more = instances.len().saturating_sub(client.policy.capacity);
        if more > 0 {
            instances.sort_by(|a, b| a.id.cmp(&b.id));
            instances.truncate(client.policy.capacity);
            client.meters.left_out.fetch_add(more as u64, Relaxed);
            tracing::warn!(service = &*self.name, more, "more instances than there is room for");
        }
        Ok(instances)
    }
}

impl Followed for Service {
    fn path(&self) -> &str {
        &self.path
    }

    fn take(
        &self,
        client: &Client,
        answer: (&Ask, Answer),
        seen: Seen,
    ) -> Result<Option<Duration>, Failure> {
        let instances = self.instances(client, answer)?;
        self.confirmed.hear(self.epoch.elapsed());
        self.lock().suspect = false;
        Ok(self.change(|mirror, now| mirror.list(seen, instances, now)))
    }

    fn doubt(&self, old: Duration) -> Option<Duration> {
        let mut state = self.lock();
        state.mirror.fail();
        let age = self.age()?;
        if age < old {
            return Some(old - age);
        }
        let doubted = mem::replace(&mut state.suspect, true);
        drop(state);
        if !doubted {
            self.change(|_, _| ());
        }
        None
    }

    fn is_done(&self) -> bool {
        let mut state = self.lock();
        let done = self.publisher.is_alone();
        if done {
            state.followed = false;
        }
        done
    }
}

/// The id that each instance of an answer has on its agent, beside the one that it has here.
pub(super) fn agent_ids(body: &[u8]) -> Result<Vec<(String, Arc<str>)>, serde_json::Error> {
    let entries: Vec<Entry> = serde_json::from_slice(body)?;
    let ids = entries.into_iter().filter_map(|entry| {
        let id = entry.agent_id().to_owned();
        Some((id, entry.instance(&"".into(), &LastSeen::default())?.id))
    });
    Ok(ids.collect())
}

/// Names of services, with their tags, as the catalog lists them.
#[derive(Deserialize)]
#[serde(transparent)]
pub(super) struct Names(pub(super) std::collections::BTreeMap<Arc<str>, serde::de::IgnoredAny>);
