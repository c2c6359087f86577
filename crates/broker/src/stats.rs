use std::{sync::Arc, time::Duration};

use crate::Pattern;

/// What a broker holds and what it has seen.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Stats {
    /// Messages that no group wanted.
    pub unroutable: u64,
    /// Messages that came again with an id that was known, and were not taken again.
    pub duplicates: u64,
    /// Messages retained for groups to come.
    pub retained: usize,
    /// Their bytes.
    pub retained_bytes: usize,
    /// Messages that a group took with it when it went: its last subscription ended, and it was in memory and not
    /// [declared](crate::Broker::declare). What its handlers were at work on then is among them.
    pub discarded: u64,
    /// Dead letters kept.
    pub dead_letters: usize,
    /// Their bytes.
    pub dead_letter_bytes: usize,
    /// Dead letters that had to make room for younger ones.
    pub dead_letters_dropped: u64,
    /// Messages that were to become dead letters and stayed in their groups, or were not published, since there was no room; each time they were to.
    pub dead_letters_refused: u64,
    /// The groups in the order in which they were made.
    pub groups: Vec<GroupStats>,
}

/// What a group holds and what it has seen since it was made. `published + redriven` is always
/// `acked + dead + dropped + expired + ready + in_flight + delayed + in_lanes`.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct GroupStats {
    /// Name of the group; of a subscription without a group, one that begins with `_`.
    pub group: Arc<str>,
    /// What it listens to.
    pub pattern: Pattern,
    /// How many subscriptions compete in it.
    pub subscriptions: usize,
    /// Messages to be delivered as soon as a handler is free.
    pub ready: usize,
    /// Messages being handled.
    pub in_flight: usize,
    /// Messages that wait for their time: they failed, or were published with a delay.
    pub delayed: usize,
    /// Messages that wait for an earlier one with the same key.
    pub in_lanes: usize,
    /// Bytes of all these.
    pub bytes: usize,
    /// How long ago the message that is next in line could have been delivered for the first time: since it was published, or since its delay was over. None if nothing is
    /// ready, or the engine does not know. By the wall clock.
    pub oldest: Option<Duration>,
    /// Publishers that wait for room.
    pub waiting: usize,
    /// Messages that came in.
    pub published: u64,
    /// Messages that came back from the dead letters.
    pub redriven: u64,
    /// Deliveries.
    pub delivered: u64,
    /// Deliveries after the first of the same message.
    pub redelivered: u64,
    /// Messages done.
    pub acked: u64,
    /// Messages that became dead letters.
    pub dead: u64,
    /// Messages dropped by [`WhenFull::DropOldest`](crate::WhenFull::DropOldest).
    pub dropped: u64,
    /// Messages whose time to live was over, dropped by [`WhenExpired::Drop`](crate::WhenExpired::Drop).
    pub expired: u64,
    /// Deliveries that were pulled and not answered in time.
    pub overdue: u64,
    /// Deliveries cut short by the end of a subscription, given back uncharged.
    pub returned: u64,
    /// Publishes that this group refused for want of room.
    pub refused: u64,
}

impl GroupStats {
    /// Messages that no handler has yet: ready, delayed, or behind an earlier one of their key.
    #[must_use]
    pub const fn lag(&self) -> usize {
        self.ready + self.delayed + self.in_lanes
    }
}
