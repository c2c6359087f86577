use std::time::Duration;

/// What becomes of a message that is to be a dead letter when there is no room for another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenLettersFull {
    /// The oldest dead letters make room, counted as [`Stats::dead_letters_dropped`](crate::Stats::dead_letters_dropped): what nobody looked at for so long is
    /// missed least.
    #[default]
    DropOldest,
    /// It stays in its group, where it counts for the bounds, and is buried later: it is tried again after the backoff. Counted as
    /// [`Stats::dead_letters_refused`](crate::Stats::dead_letters_refused). Nothing is ever lost, but a group whose messages all fail is full in the end, and holds up its publishers. A
    /// message that no group wants, and that is to be buried, is refused when it is published, with [`Error::LettersFull`](crate::Error::LettersFull).
    ///
    /// On NATS it is the server that refuses, which is logged and not counted; streams that were made with the other choice are refused when the engine connects.
    Refuse,
}

/// What bounds a broker's memory, beside the [`Policy`](crate::Policy) of each group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub(crate) groups: usize,
    pub(crate) dead_letters: usize,
    pub(crate) dead_letter_bytes: usize,
    pub(crate) when_letters_full: WhenLettersFull,
    pub(crate) redrives: u32,
    pub(crate) dedup_window: Duration,
    pub(crate) dedup_ids: usize,
}

impl Limits {
    /// All defaults.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            groups: 10_000,
            dead_letters: 10_000,
            dead_letter_bytes: 64 << 20,
            when_letters_full: WhenLettersFull::DropOldest,
            redrives: 5,
            dedup_window: Duration::from_secs(120),
            dedup_ids: 100_000,
        }
    }

    /// How many groups there may be, subscriptions without a group included. Default 10,000; a publish looks at each.
    #[must_use]
    pub const fn groups(mut self, groups: usize) -> Self {
        self.groups = groups;
        self
    }

    /// How many dead letters are kept. 0 means the same as 1. Default 10,000: more than anyone
    /// reads, and an hour's worth at three a second.
    #[must_use]
    pub const fn dead_letters(mut self, records: usize) -> Self {
        self.dead_letters = records;
        self
    }

    /// How many bytes of dead letters are kept, records and texts of errors included. Default 64 MiB. A first one is taken whatever its size.
    #[must_use]
    pub const fn dead_letter_bytes(mut self, bytes: usize) -> Self {
        self.dead_letter_bytes = bytes;
        self
    }

    /// What becomes of the next one when so many are kept. Default [`WhenLettersFull::DropOldest`]: that dead letters pile up shall not stop what works.
    #[must_use]
    pub const fn when_letters_full(mut self, choice: WhenLettersFull) -> Self {
        self.when_letters_full = choice;
        self
    }

    /// How often one message may be redriven, so that a machine that redrives all it finds does not keep a poisonous one
    /// going for ever. Default 5.
    #[must_use]
    pub const fn redrives(mut self, times: u32) -> Self {
        self.redrives = times;
        self
    }

    /// How long an id that was [given](crate::Message::with_id) is known, and how many ids are; at the bound the oldest is forgotten. 0 of either: no
    /// duplicate is recognised. Default two minutes, past the retries of any relay, and 100,000 ids.
    #[must_use]
    pub const fn dedup(mut self, window: Duration, ids: usize) -> Self {
        self.dedup_window = window;
        self.dedup_ids = ids;
        self
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self::new()
    }
}
