//! What waits to be relayed.

use std::{
    ops::Bound::{Excluded, Unbounded},
    sync::Arc,
    time::Duration,
};

use super::tables::{Tables, millis};
use crate::{Bundle, Message, MessageId, Outgoing, Pending, Relay, Relayed, SagaId};

pub(super) struct Waiting {
    pub(super) message: Message,
    pub(super) since: u64,
}

/// Who has the messages of a saga. `None`: nobody, they pause.
pub(super) struct Relaying {
    node: Option<Arc<str>>,
    until: u64,
    failures: u32,
}

/// Behind all messages of the saga.
const fn end_of(saga: SagaId) -> MessageId {
    MessageId::new(saga, u64::MAX, u32::MAX).of_life(u64::MAX)
}

impl Tables {
    pub(super) fn bundles(&mut self, relay: &Relay, now: u64) -> Vec<Bundle> {
        let mut bundles = Vec::new();
        let mut last = relay.after.clone().map(end_of);
        while bundles.len() < relay.sagas {
            let from = last.as_ref().map_or(Unbounded, Excluded);
            let Some((id, _)) = self.outbox.range((from, Unbounded)).next() else { break };
            let saga = id.saga.clone();
            last = Some(end_of(saga.clone()));
            let held = self.relaying.get(&saga);
            if held.is_some_and(|held| held.until > now) {
                continue;
            }
            let failures = held.map_or(0, |held| held.failures);
            let until = now.saturating_add(millis(relay.lease));
            let held = Relaying { node: Some(relay.node.clone()), until, failures };
            self.relaying.insert(saga.clone(), held);
            let messages = self.first(&saga, relay.messages);
            bundles.push(Bundle { messages: Ok(messages), ..Bundle::new(saga, failures, []) });
        }
        bundles
    }

    fn first(&self, saga: &SagaId, most: usize) -> Vec<Outgoing> {
        let range = MessageId::new(saga.clone(), 0, 0)..=end_of(saga.clone());
        let first = self.outbox.range(range).take(most.max(1));
        first
            .map(|(id, waiting)| Outgoing { id: id.clone(), message: waiting.message.clone() })
            .collect()
    }

    pub(super) fn has_messages(&self, saga: &SagaId) -> bool {
        if self.outbox.is_empty() {
            return false;
        }
        let all = MessageId::new(saga.clone(), 0, 0)..=end_of(saga.clone());
        self.outbox.range(all).next().is_some()
    }

    pub(super) fn relayed(&mut self, done: &Relayed, now: u64) {
        for id in &done.sent {
            self.outbox.remove(id);
            self.let_go(&id.saga);
        }
        let Some(held) = self.relaying.get_mut(&done.saga) else { return };
        if held.node.as_ref() != Some(&done.node) {
            return;
        }
        match done.pause {
            None => drop(self.relaying.remove(&done.saga)),
            Some((span, failures)) => {
                let until = now.saturating_add(millis(span));
                *held = Relaying { node: None, until, failures };
            }
        }
    }

    pub(super) fn pending(&self, now: u64) -> Pending {
        let since = self.outbox.values().map(|waiting| waiting.since).min();
        let oldest = since.map(|since| Duration::from_millis(now.saturating_sub(since)));
        let failing = self.relaying.values().filter(|held| held.failures > 0).count();
        Pending::new(self.outbox.len() as u64, oldest, failing as u64)
    }
}
