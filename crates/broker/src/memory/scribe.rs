//! Where an engine that lasts writes down what happens here, as it happens. In memory alone there is no scribe.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::queue::History;
use crate::{DeadLetter, Failure, Message, MessageId, Pattern, Policy};

/// Told of each change under the lock that makes it, so that the order is the one in which it happened. Must only remember.
pub(crate) trait Scribe: fmt::Debug + Send + Sync {
    /// A number that no message of a group had before. They grow.
    fn serial(&self) -> u64;

    fn note(&self, event: Event);
}

/// Something that happened. A group is named by its id in this process, a message in it by its serial.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// A group is there from now on, or is declared, or no longer.
    Group(u64, Arc<GroupRecord>),
    GroupGone(u64),
    /// It entered these groups, perhaps none.
    Published {
        serial: u64,
        message: Arc<Message>,
        groups: Vec<u64>,
    },
    /// So many deliveries are counted from now on.
    Attempts {
        group: u64,
        serial: u64,
        attempts: u32,
    },
    /// Failed, to be tried again `after` `at`.
    Retried {
        group: u64,
        serial: u64,
        failure: Failure,
        at: SystemTime,
        after: Duration,
    },
    /// Done, dropped or expired.
    Gone {
        group: u64,
        serial: u64,
    },
    /// It left the group for the dead letters; group 0 if it was in none.
    Died {
        group: u64,
        serial: u64,
        letter: Arc<DeadLetter>,
    },
    LetterGone(u64),
    /// A dead letter became a message of its group again.
    Redriven {
        letter: u64,
        group: u64,
        serial: u64,
    },
    /// How a message in a group stands. Read only, from the first format.
    Stands {
        group: u64,
        serial: u64,
        standing: Standing,
    },
    // What follows does not happen here, but in what is written.
    /// An id that was given, and when.
    Known(MessageId, SystemTime),
    /// Serials and letters that were given so far.
    Last {
        serial: u64,
        letter: u64,
    },
    /// It is still in these groups, where it stands so.
    Kept {
        serial: u64,
        message: Arc<Message>,
        groups: Vec<(u64, Standing)>,
    },
    /// Groups have other ids from now on, all at once: old and new ones.
    Renumbered(Vec<(u64, u64)>),
    /// What is written in a file before this one is not needed any more.
    Begins(u64),
}

/// A group as it is written down.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct GroupRecord {
    pub(crate) name: Arc<str>,
    pub(crate) pattern: Pattern,
    pub(crate) policy: Policy,
    /// The header by which it keeps the order.
    pub(crate) header: Option<Arc<str>>,
    pub(crate) declared: bool,
}

/// What a message in a group has been through.
#[derive(Clone, Debug, Default)]
pub(crate) struct Standing {
    pub(crate) attempts: u32,
    pub(crate) redrives: u32,
    pub(crate) history: Option<Box<History>>,
    /// Since when it waits, and how long.
    pub(crate) waits: Option<(SystemTime, Duration)>,
}
