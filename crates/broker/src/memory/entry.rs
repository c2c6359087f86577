//! A message in the queue of one group.

use std::{num::NonZeroU64, sync::Arc};

use tokio::time::Instant;

use crate::{Failure, Message};

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

/// A message on its way through one group.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) message: Arc<Message>,
    /// Computed once: all bounds in bytes count it.
    pub(super) size: usize,
    /// Deliveries so far, the one under way included.
    pub(crate) attempts: u32,
    /// How often an operator took it back from the dead letters.
    pub(crate) redrives: u32,
    /// Names it in the log, if there is one.
    pub(crate) serial: u64,
    /// Which delivery is under way; 0 if none is.
    pub(super) lease: u32,
    /// Hash of the key whose order is kept; two keys that share it only wait for each other. None: no order.
    pub(crate) lane: Option<NonZeroU64>,
    /// When it is of no use any more.
    pub(crate) expires: Option<Instant>,
    /// It is the one of its lane that may go on.
    pub(super) leads: bool,
    /// Boxed, since most messages never fail.
    pub(crate) history: Option<Box<History>>,
}

/// How it failed.
#[derive(Clone, Debug)]
pub(crate) struct History {
    pub(crate) first: Failure,
    /// None if it is the first.
    pub(crate) later: Option<Failure>,
}

impl History {
    pub(crate) fn last(&self) -> &Failure {
        self.later.as_ref().unwrap_or(&self.first)
    }
}

impl Entry {
    pub(crate) fn new(message: Arc<Message>, redrives: u32) -> Self {
        let size = message.size();
        Self {
            message,
            size,
            attempts: 0,
            redrives,
            serial: 0,
            lease: 0,
            lane: None,
            expires: None,
            leads: false,
            history: None,
        }
    }

    pub(crate) const fn numbered(mut self, serial: u64) -> Self {
        self.serial = serial;
        self
    }

    pub(crate) const fn in_lane(mut self, lane: Option<NonZeroU64>) -> Self {
        self.lane = lane;
        self
    }

    pub(crate) const fn until(mut self, expires: Option<Instant>) -> Self {
        self.expires = expires;
        self
    }

    pub(crate) const fn size(&self) -> usize {
        self.size
    }

    pub(crate) fn note(&mut self, failure: Failure) {
        match &mut self.history {
            Some(history) => history.later = Some(failure),
            None => self.history = Some(History { first: failure, later: None }.into()),
        }
    }
}
