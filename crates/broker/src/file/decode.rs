//! How events are read that [`encode`](super::encode) has written.

use std::{
    num::NonZeroU32,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use uuid::Uuid;

use crate::{
    DeadLetter, DeadLetterId, Failure, FailureKind, Message, MessageId, Pattern, Policy, Priority,
    Reason, WhenExpired, WhenFull,
    memory::{
        queue::History,
        scribe::{Event, GroupRecord, Standing},
    },
    policy::Backoff,
};

/// The events of `bytes`; none if they are not such.
pub(super) fn read(bytes: &[u8]) -> Option<Vec<Event>> {
    let (mut left, mut events) = (In(bytes), Vec::new());
    while !left.0.is_empty() {
        events.push(left.event()?);
    }
    Some(events)
}

/// What is left to read. Whatever is not as it is written reads as none.
struct In<'b>(&'b [u8]);

impl<'b> In<'b> {
    fn event(&mut self) -> Option<Event> {
        Some(match self.u8()? {
            1 => Event::Group(self.u64()?, self.group()?.into()),
            2 => Event::GroupGone(self.u64()?),
            3 => Event::Published {
                serial: self.u64()?,
                message: self.message()?.into(),
                groups: self.many(Self::u64)?,
            },
            4 => Event::Attempts { group: self.u64()?, serial: self.u64()?, attempts: self.u32()? },
            5 => Event::Retried {
                group: self.u64()?,
                serial: self.u64()?,
                failure: self.failure()?,
                at: self.time()?,
                after: self.span()?,
            },
            6 => Event::Gone { group: self.u64()?, serial: self.u64()? },
            7 => Event::Died {
                group: self.u64()?,
                serial: self.u64()?,
                letter: self.letter()?.into(),
            },
            8 => Event::LetterGone(self.u64()?),
            9 => Event::Redriven { group: self.u64()?, serial: self.u64()?, letter: self.u64()? },
            10 => Event::Stands {
                group: self.u64()?,
                serial: self.u64()?,
                standing: self.standing()?,
            },
            11 => Event::Known(self.id()?, self.time()?),
            12 => Event::Last { serial: self.u64()?, letter: self.u64()? },
            13 => Event::Kept {
                serial: self.u64()?,
                message: self.message()?.into(),
                groups: self.many(|left| Some((left.u64()?, left.standing()?)))?,
            },
            14 => Event::Renumbered(self.many(|left| Some((left.u64()?, left.u64()?)))?),
            15 => Event::Begins(self.u64()?),
            _ => return None,
        })
    }

    fn take(&mut self, length: usize) -> Option<&'b [u8]> {
        let (taken, left) = self.0.split_at_checked(length)?;
        self.0 = left;
        Some(taken)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn u32(&mut self) -> Option<u32> {
        self.take(4)?.try_into().ok().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take(8)?.try_into().ok().map(u64::from_le_bytes)
    }

    fn flag(&mut self) -> Option<bool> {
        match self.u8()? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }

    fn bytes(&mut self) -> Option<&'b [u8]> {
        let length = self.u32()?;
        self.take(usize::try_from(length).ok()?)
    }

    fn text(&mut self) -> Option<&'b str> {
        std::str::from_utf8(self.bytes()?).ok()
    }

    fn option<T>(&mut self, read: impl FnOnce(&mut Self) -> Option<T>) -> Option<Option<T>> {
        if self.flag()? { read(self).map(Some) } else { Some(None) }
    }

    fn many<T>(&mut self, read: impl Fn(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        let count = self.u32()?;
        (0..count).map(|_| read(self)).collect()
    }

    fn span(&mut self) -> Option<Duration> {
        self.u64().map(Duration::from_nanos)
    }

    fn time(&mut self) -> Option<SystemTime> {
        SystemTime::UNIX_EPOCH.checked_add(self.span()?)
    }

    fn id(&mut self) -> Option<MessageId> {
        Some(MessageId::new(Uuid::from_bytes(self.take(16)?.try_into().ok()?)))
    }

    fn message(&mut self) -> Option<Message> {
        let id = self.id()?;
        let subject = self.text()?;
        // Copied, so that one message does not keep what was read with it.
        let payload = Bytes::copy_from_slice(self.bytes()?);
        let at = self.time()?;
        let mut message = Message::new(subject, payload).ok()?;
        for (name, value) in self.many(|left| Some((left.text()?, left.text()?)))? {
            message = message.with_header(name.to_owned(), value);
        }
        if let Some(delay) = self.option(Self::span)? {
            message = message.with_delay(delay);
        }
        if let Some(ttl) = self.option(Self::span)? {
            message = message.with_ttl(ttl);
        }
        if self.flag()? {
            message = message.with_priority(Priority::High);
        }
        if self.flag()? {
            message = message.with_id(id);
        }
        Some(message.written(id, at))
    }

    fn group(&mut self) -> Option<GroupRecord> {
        let name = self.text()?.into();
        let pattern = Pattern::new(self.text()?).ok()?;
        let policy = Policy {
            capacity: usize::try_from(self.u64()?).ok()?,
            max_bytes: usize::try_from(self.u64()?).ok()?,
            when_full: match self.u8()? {
                0 => WhenFull::Wait(self.span()?),
                1 => WhenFull::Reject,
                2 => WhenFull::DropOldest,
                _ => return None,
            },
            max_attempts: NonZeroU32::new(self.u32()?)?,
            backoff: Backoff { base: self.span()?, max: self.span()? },
            attempt_timeout: self.span()?,
            when_expired: if self.flag()? { WhenExpired::Drop } else { WhenExpired::Bury },
        };
        let header = self.option(Self::text)?.map(Into::into);
        Some(GroupRecord { name, pattern, policy, header, declared: self.flag()? })
    }

    fn failure(&mut self) -> Option<Failure> {
        Some(Failure {
            attempt: self.u32()?,
            at: self.time()?,
            kind: match self.u8()? {
                0 => FailureKind::Error,
                1 => FailureKind::Panic,
                2 => FailureKind::Timeout,
                3 => FailureKind::Retry,
                _ => return None,
            },
            error: self.text()?.to_owned().into(),
        })
    }

    fn letter(&mut self) -> Option<DeadLetter> {
        Some(DeadLetter {
            id: DeadLetterId::new(self.u64()?),
            message: Arc::new(self.message()?),
            group: self.text()?.into(),
            reason: match self.u8()? {
                0 => Reason::Exhausted,
                1 => Reason::Rejected(self.text()?.to_owned()),
                2 => Reason::Undecodable(self.text()?.to_owned()),
                3 => Reason::Expired,
                4 => Reason::Unheard,
                _ => return None,
            },
            attempts: self.u32()?,
            first_failure: self.option(Self::failure)?,
            last_failure: self.option(Self::failure)?,
            died_at: self.time()?,
            redrives: self.u32()?,
        })
    }

    fn standing(&mut self) -> Option<Standing> {
        Some(Standing {
            attempts: self.u32()?,
            redrives: self.u32()?,
            history: self
                .option(|left| {
                    Some(History {
                        first: left.failure()?,
                        later: left.option(Self::failure)?.map(Box::new),
                    })
                })?
                .map(Box::new),
            waits: self.option(|left| Some((left.time()?, left.span()?)))?,
        })
    }
}
