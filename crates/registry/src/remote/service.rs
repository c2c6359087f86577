//! One service as this process sees it.

use std::{
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering::Relaxed},
    time::Duration,
};

use serde::Deserialize;

use super::{
    address::encoded,
    client::{Answer, Ask, Client},
    entry::Entry,
    failure::Failure,
    follow::{Followed, Seen},
    mirror::Mirror,
};
use crate::{Instance, LastSeen, Snapshot, Watch, last_known::LastKnown};

/// Of the answer to a question of a watch, which has its own rules.
const NONE: u64 = u64::MAX;

/// What is known of a service, and who is told.
#[derive(Debug)]
pub(super) struct Service {
    name: Arc<str>,
    path: String,
    known: LastKnown<Mirror>,
    /// There is a task that follows it.
    followed: Mutex<bool>,
}

impl Service {
    pub(super) fn new(name: Arc<str>, ttl: Duration) -> Self {
        Self {
            path: format!("/v1/health/service/{}", encoded(&name)),
            known: LastKnown::new(name.clone(), Mirror::new(ttl)),
            name,
            followed: Mutex::new(false),
        }
    }

    /// A watch, and whether somebody has to follow the service from now on.
    pub(super) fn watch(&self) -> (Watch, bool) {
        let mut followed = self.followed();
        let watch = self.known.watch();
        (watch, !mem::replace(&mut followed, true))
    }

    /// The question, and how often it was answered so far.
    pub(super) fn ask(&self) -> (Ask, u64) {
        (Ask::get(self.path.clone()), self.known.ask())
    }

    /// The last known set, if any is known.
    pub(super) fn last_known(&self) -> Option<Arc<Snapshot>> {
        self.known.snapshot()
    }

    /// For how long nothing has confirmed what is known.
    pub(super) fn age(&self) -> Option<Duration> {
        self.known.age()
    }

    /// Whether nobody watches it, follows it, or has asked for it for a while.
    pub(super) fn is_idle(&self) -> bool {
        !*self.followed() && self.known.is_idle()
    }

    /// Whether it is of no use to anybody: there is none, as far as is known.
    pub(super) fn is_vain(&self) -> bool {
        let empty = self.last_known().is_none_or(|known| known.instances().is_empty());
        empty && !*self.followed() && !self.known.is_watched()
    }

    /// Somebody took an instance out.
    pub(super) fn remove(&self, id: &str) {
        self.known.change(|mirror| mirror.remove(id));
    }

    /// Takes the answer to a question in that was put when there had been so many `answers`. If there were no others since, it is the youngest
    /// of all, whatever its index is: another server may have answered, or one that was started again.
    pub(super) fn take_read(
        &self,
        client: &Client,
        answer: (&Ask, Answer),
        seen: Seen,
        answers: u64,
    ) -> Result<Option<Duration>, Failure> {
        let instances = self.instances(client, answer)?;
        Ok(self.known.confirm(|mirror, heard| {
            let reset = seen.reset || heard.answers == answers;
            mirror.list(Seen { reset, ..seen }, instances, heard.at);
            mirror.next().map(|next| next.saturating_sub(heard.at))
        }))
    }

    fn followed(&self) -> MutexGuard<'_, bool> {
        self.followed.lock().unwrap_or_else(PoisonError::into_inner)
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
            match entry.instance(&self.name, self.known.confirmed()) {
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
        self.take_read(client, answer, seen, NONE)
    }

    fn doubt(&self, old: Duration) -> Option<Duration> {
        self.known.failed(Mirror::fail);
        self.known.doubt(old)
    }

    fn is_done(&self) -> bool {
        let mut followed = self.followed();
        *followed = self.known.is_watched();
        !*followed
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RemotePolicy;

    fn answer(ids: &[&str]) -> Answer {
        let entries: Vec<_> = ids
            .iter()
            .map(|id| serde_json::json!({"Node": {"Address": "h"}, "Service": {"ID": id, "Port": 1}}))
            .collect();
        let body = serde_json::to_vec(&entries).unwrap().into();
        Answer { status: http::StatusCode::OK, index: None, body }
    }

    fn shown(service: &Service) -> String {
        let known = service.last_known().unwrap();
        let fresh = known.instances().iter().filter(|instance| !instance.suspect);
        fresh.map(|instance| &*instance.id).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_read_believes_a_server_whose_index_is_lower_unless_something_younger_is_known() {
        let client = Client::new("127.0.0.1:1", RemotePolicy::default()).unwrap();
        let service = Service::new("s".into(), Duration::from_secs(30));
        let seen = |index| Seen { breaks: 0, index, reset: false };
        let read = |ids: &[&str], index, answers| {
            let ask = Ask::get(String::new());
            service.take_read(&client, (&ask, answer(ids)), seen(index), answers).unwrap();
        };
        let (_, answers) = service.ask();
        read(&["a"], 900, answers);
        // Behind a proxy, so that no connection broke, another server answers.
        let (_, answers) = service.ask();
        read(&["b"], 3, answers);
        assert_eq!(shown(&service), "b");
        // Of two that were asked at once the older answer comes last.
        let (_, answers) = service.ask();
        read(&["b", "c"], 5, answers);
        read(&["b"], 4, answers);
        assert_eq!(shown(&service), "bc");
    }
}
