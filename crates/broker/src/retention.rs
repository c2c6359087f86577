use std::time::{Duration, SystemTime};

use crate::Pattern;

/// Which messages are kept after all groups are done with them, for groups to come.
///
/// Whatever bound is met first, the oldest messages go.
#[derive(Clone, Debug)]
pub struct Retention {
    pub(crate) subjects: Pattern,
    pub(crate) messages: usize,
    pub(crate) bytes: usize,
    pub(crate) age: Duration,
}

impl Retention {
    /// Of messages with these subjects the last 10,000, at most 64 MiB, at most a day old: what a service that comes back after a bad night
    /// wants to know.
    #[must_use]
    pub const fn new(subjects: Pattern) -> Self {
        let age = Duration::from_secs(24 * 3600);
        Self { subjects, messages: 10_000, bytes: 64 << 20, age }
    }

    /// How many messages.
    #[must_use]
    pub const fn messages(mut self, messages: usize) -> Self {
        self.messages = messages;
        self
    }

    /// How many bytes, by [`Message::size`](crate::Message::size).
    #[must_use]
    pub const fn bytes(mut self, bytes: usize) -> Self {
        self.bytes = bytes;
        self
    }

    /// How long. What is older goes when the next one comes, and is not given to groups meanwhile.
    #[must_use]
    pub const fn age(mut self, span: Duration) -> Self {
        self.age = span;
        self
    }
}

/// With which message a group begins when it is made. A group that is there goes on where it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Start {
    /// With the next that is published.
    #[default]
    New,
    /// With the oldest that is retained.
    First,
    /// With the one that has this number, see [`Receipt::sequence`](crate::Receipt::sequence), or the oldest after it that is retained.
    Sequence(u64),
    /// With the first that was published at this time of the wall clock or later.
    Time(SystemTime),
}

/// What becomes of a message that no group wants and that is not retained.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum WhenUnheard {
    /// It is dropped, and counted as [`Stats::unroutable`](crate::Stats::unroutable): events are published whether or not anybody listens.
    #[default]
    Drop,
    /// It becomes a dead letter, as [`Reason::Unheard`](crate::Reason::Unheard), and is counted.
    Bury,
}
