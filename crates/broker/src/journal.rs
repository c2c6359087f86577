use std::{fmt, sync::Arc, time::Duration};

use crate::{
    DeadLetter, Error, Failure, Message, Pattern,
    engine::{BoxFuture, GroupInfo},
};

/// Hears of everything that [`MemoryEngine`](crate::MemoryEngine) changes, so that a durable engine is the one in memory and a log.
///
/// What concerns one group is told under that group's lock, so in the order in which it happens: nothing here may block, or call the broker.
/// A message that dies is told first as a letter and then as gone from its group, one that is redriven first as entered and then as no letter any more; so a log that
/// ends anywhere has each message at least once.
pub trait Journal: fmt::Debug + Send + Sync + 'static {
    /// Something became of a group. It is told of its messages before it is made known as removed.
    fn group(&self, group: &GroupInfo, pattern: &Pattern, change: GroupChange);

    /// A message enters a group, for the first time or (`redrives` > 0) from the dead letters, to be delivered after `delay`. Returns the number by
    /// which the journal wants to hear of it again.
    fn entered(
        &self,
        group: u64,
        message: &Arc<Message>,
        redrives: u32,
        delay: Option<Duration>,
    ) -> u64;

    /// Something became of the message with this number.
    fn changed(&self, group: u64, number: u64, change: Change<'_>);

    /// Something became of a dead letter.
    fn letter(&self, letter: &DeadLetter, change: LetterChange);

    /// Ready when everything that was told before is as safe as it shall be: a publish waits for this. If it fails, so does the publish, and whether the
    /// message is delivered is not known.
    fn written(&self) -> BoxFuture<'static, Result<(), Error>>;
}

/// What becomes of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum GroupChange {
    /// It is there; it goes with its last member.
    Made,
    /// It stays without members.
    Declared,
    /// It goes with its last member again.
    Undeclared,
    /// It is gone, with its messages.
    Removed,
}

/// What becomes of a message in a group.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Change<'a> {
    /// A delivery begins, the one with this number from 1. Told before the handler hears of it.
    Begun(u32),
    /// The delivery was nobody's: it is ready again, uncharged.
    Returned,
    /// It failed, and waits so long.
    Retried(Duration, Option<&'a Failure>),
    /// Nobody answered in time: it is ready again, charged.
    Overdue,
    /// Done.
    Acked,
    /// It is a dead letter now.
    Buried,
    /// Its time to live was over.
    Expired,
    /// It made room for others.
    Dropped,
}

impl Change<'_> {
    /// Whether it is gone from its group.
    #[must_use]
    pub const fn is_end(self) -> bool {
        matches!(self, Self::Acked | Self::Buried | Self::Expired | Self::Dropped)
    }
}

/// What becomes of a dead letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LetterChange {
    /// It is there.
    Buried,
    /// It made room for younger ones.
    Evicted,
    /// It went back to its group.
    Redriven,
    /// An operator deleted it.
    Purged,
}
