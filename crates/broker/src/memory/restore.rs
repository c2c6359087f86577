//! How what an earlier process has written down becomes groups again.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::time::Instant;

use super::{
    group::Group,
    queue::Entry,
    scribe::{GroupRecord, Standing},
    shared::Shared,
};
use crate::{
    DeadLetter, Message, MessageId, OrderBy, engine::GroupInfo, message::wall_clock, policy::after,
};

/// A group with its messages in the order of their serials.
pub(crate) type Restored = (u64, Arc<GroupRecord>, Vec<(u64, Arc<Message>, Standing)>);

impl Shared {
    /// Before anybody else sees it.
    pub(crate) fn restore_groups(&self, restored: Vec<Restored>) {
        let (now, wall) = (Instant::now(), wall_clock());
        let mut groups = Vec::with_capacity(restored.len());
        for (id, record, messages) in restored {
            let info = GroupInfo { id, name: record.name.clone(), policy: record.policy };
            let order = record.header.clone().map(OrderBy::header);
            let group = Group::new(info, record.pattern.clone(), order, self.dead.clone());
            let mut due = None;
            for (serial, message, standing) in messages {
                let lane = group.lane_of(&message);
                // A lane is kept by who comes first, so the first of it waits no more.
                let kept = standing.waits.filter(|_| lane.is_none() || standing.attempts == 0);
                let waits = kept.map(|waits| after(now, left(waits, wall)));
                // What an operator took back is wanted however late it is.
                let ttl = message.ttl().filter(|_| standing.redrives == 0);
                let expires = ttl.map(|ttl| (message.published_at(), ttl));
                let expires = expires.map(|span| after(now, left(span, wall)));
                let entry = Entry::new(message, standing.redrives).numbered(serial);
                let entry = entry.in_lane(lane).until(expires).with_past(standing);
                group.lock().queue.push(entry, waits);
                due = due.into_iter().chain(waits).min();
            }
            if let Some(due) = due {
                group.expect(&mut group.lock(), due);
            }
            group.lock().restore_declared(record.declared);
            groups.push(Arc::new(group));
        }
        self.groups.store(groups.into());
    }

    pub(crate) fn restore_letters(&self, letters: Vec<Arc<DeadLetter>>, last: u64) {
        self.dead.restore(letters, last);
    }

    pub(crate) fn restore_known(&self, known: impl Iterator<Item = (MessageId, SystemTime)>) {
        let (now, wall) = (Instant::now(), wall_clock());
        let ages = known.map(|(id, at)| {
            let age = wall.duration_since(at).unwrap_or_default();
            (id, now.checked_sub(age))
        });
        // What is older than the machine's clock tells has been forgotten.
        self.ledger().restore(ages.filter_map(|(id, at)| Some((id, at?))));
    }
}

impl Entry {
    fn with_past(self, standing: Standing) -> Self {
        self.delivered(standing.attempts).failed(standing.history)
    }
}

/// What is left of a span. A wall clock that was set back makes it no longer than it was.
fn left((since, span): (SystemTime, Duration), now: SystemTime) -> Duration {
    span.saturating_sub(now.duration_since(since).unwrap_or_default())
}
