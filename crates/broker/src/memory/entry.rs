//! A message in the queue of one group.

use std::{num::NonZeroU64, sync::Arc};

use tokio::time::Instant;

use crate::{Failure, Message, Priority};

/// Names one delivery of one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    pub(super) slot: u32,
    pub(super) lease: u32,
}

impl Token {
    pub(crate) const fn to_bits(self) -> u64 {
        (self.slot as u64) << 32 | self.lease as u64
    }

    #[expect(clippy::cast_possible_truncation, reason = "the halves of what was put together")]
    pub(crate) const fn from_bits(bits: u64) -> Self {
        Self { slot: (bits >> 32) as u32, lease: bits as u32 }
    }
}

/// A message on its way through one group. Of three words, since full queues are made of these.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) message: Arc<Message>,
    /// Boxed, since most messages have none of it.
    rare: Option<Box<Rare>>,
    /// Deliveries so far, the one under way included, in the bits of [`ATTEMPTS`]; above them what must be known of an entry that comes due, while the rest of it
    /// lies where no cache has it.
    marks: u32,
    /// Which delivery is under way; 0 if none is.
    pub(super) lease: u32,
}

/// Beyond half a billion attempts are no more counted.
const ATTEMPTS: u32 = (1 << 29) - 1;
const WATCHED: u32 = 1 << 29;
const KEYED: u32 = 1 << 30;
const HIGH: u32 = 1 << 31;

#[derive(Debug, Default)]
struct Rare {
    redrives: u32,
    serial: u64,
    lane: Option<NonZeroU64>,
    leads: bool,
    expires: Option<Instant>,
    history: Option<History>,
}

/// How it failed.
#[derive(Clone, Debug)]
pub(crate) struct History {
    pub(crate) first: Failure,
    /// None if it is the first.
    pub(crate) later: Option<Box<Failure>>,
}

impl History {
    pub(crate) fn last(&self) -> &Failure {
        self.later.as_deref().unwrap_or(&self.first)
    }
}

impl Entry {
    pub(crate) fn new(message: Arc<Message>, redrives: u32) -> Self {
        let marks = if message.priority() == Priority::High { HIGH } else { 0 };
        let mut entry = Self { message, rare: None, marks, lease: 0 };
        if redrives > 0 {
            entry.rare().redrives = redrives;
        }
        entry
    }

    pub(crate) fn numbered(mut self, serial: u64) -> Self {
        if serial > 0 {
            self.rare().serial = serial;
        }
        self
    }

    pub(crate) fn in_lane(mut self, lane: Option<NonZeroU64>) -> Self {
        if lane.is_some() {
            self.rare().lane = lane;
            self.marks |= KEYED;
        }
        self
    }

    pub(crate) fn until(mut self, expires: Option<Instant>) -> Self {
        if expires.is_some() {
            self.rare().expires = expires;
        }
        self
    }

    #[cfg(feature = "file")]
    pub(super) fn failed(mut self, history: Option<Box<History>>) -> Self {
        if let Some(history) = history {
            self.rare().history = Some(*history);
        }
        self
    }

    #[cfg(feature = "file")]
    pub(super) fn delivered(mut self, attempts: u32) -> Self {
        self.marks = self.marks & !ATTEMPTS | attempts.min(ATTEMPTS);
        self
    }

    /// Deliveries so far, the one under way included.
    pub(crate) const fn attempts(&self) -> u32 {
        self.marks & ATTEMPTS
    }

    pub(super) const fn charge(&mut self) {
        if self.attempts() < ATTEMPTS {
            self.marks += 1;
        }
    }

    /// The delivery under way was none.
    pub(super) const fn uncharge(&mut self) {
        if self.attempts() > 0 {
            self.marks -= 1;
        }
    }

    pub(super) const fn priority(&self) -> Priority {
        if self.marks & HIGH == 0 { Priority::Normal } else { Priority::High }
    }

    /// Whether it is on the wheel.
    pub(super) const fn is_watched(&self) -> bool {
        self.marks & WATCHED != 0
    }

    pub(super) const fn watch(&mut self, watched: bool) {
        self.marks = if watched { self.marks | WATCHED } else { self.marks & !WATCHED };
    }

    /// All bounds in bytes count it.
    pub(crate) fn size(&self) -> usize {
        self.message.size()
    }

    /// Something of each part that handling it needs, so that it is read.
    pub(super) fn weight(&self) -> usize {
        self.size() ^ self.redrives() as usize
    }

    /// How often an operator took it back from the dead letters.
    pub(crate) fn redrives(&self) -> u32 {
        self.rare.as_ref().map_or(0, |rare| rare.redrives)
    }

    /// Names it in the log; 0 if there is none.
    pub(crate) fn serial(&self) -> u64 {
        self.rare.as_ref().map_or(0, |rare| rare.serial)
    }

    /// Hash of the key whose order is kept; two keys that share it only wait for each other. None: no order.
    pub(super) fn lane(&self) -> Option<NonZeroU64> {
        if self.marks & KEYED == 0 { None } else { self.rare.as_ref()?.lane }
    }

    /// Whether it is the one of its lane that may go on.
    pub(super) fn leads(&self) -> bool {
        self.rare.as_ref().is_some_and(|rare| rare.leads)
    }

    pub(super) fn lead(&mut self) {
        self.rare().leads = true;
    }

    /// When it is of no use any more.
    pub(crate) fn expires(&self) -> Option<Instant> {
        self.rare.as_ref()?.expires
    }

    pub(crate) fn history(&self) -> Option<&History> {
        self.rare.as_ref()?.history.as_ref()
    }

    pub(crate) fn note(&mut self, failure: Failure) {
        let history = &mut self.rare().history;
        match history {
            Some(history) => history.later = Some(failure.into()),
            None => *history = Some(History { first: failure, later: None }),
        }
    }

    fn rare(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }
}
