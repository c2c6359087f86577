//! How events are written: a tag, then the fields in their order; numbers little-endian, texts and bytes after their length.

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

/// Adds `event` to `out`.
pub(super) fn write(out: &mut Vec<u8>, event: &Event) {
    let mut out = Out(out);
    match event {
        Event::Group(id, record) => {
            out.u8(1);
            out.u64(*id);
            out.group(record);
        }
        Event::GroupGone(id) => out.pair(2, *id, None),
        Event::Published { serial, message, groups } => {
            out.pair(3, *serial, None);
            out.message(message);
            out.u32(groups.len());
            groups.iter().for_each(|group| out.u64(*group));
        }
        Event::Attempts { group, serial, attempts } => {
            out.pair(4, *group, Some(*serial));
            out.n32(*attempts);
        }
        Event::Retried { group, serial, failure, at, after } => {
            out.pair(5, *group, Some(*serial));
            out.failure(failure);
            out.time(*at);
            out.span(*after);
        }
        Event::Gone { group, serial } => out.pair(6, *group, Some(*serial)),
        Event::Died { group, serial, letter } => {
            out.pair(7, *group, Some(*serial));
            out.letter(letter);
        }
        Event::LetterGone(id) => out.pair(8, *id, None),
        Event::Redriven { letter, group, serial } => {
            out.pair(9, *group, Some(*serial));
            out.u64(*letter);
        }
        Event::Stands { group, serial, standing } => {
            out.pair(10, *group, Some(*serial));
            out.standing(standing);
        }
        Event::Known(id, at) => {
            out.u8(11);
            out.id(*id);
            out.time(*at);
        }
        Event::Last { serial, letter } => out.pair(12, *serial, Some(*letter)),
    }
}

/// The events of `bytes`; none if they are not such.
pub(super) fn read(bytes: &[u8]) -> Option<Vec<Event>> {
    let (mut left, mut events) = (In(bytes), Vec::new());
    while !left.0.is_empty() {
        events.push(left.event()?);
    }
    Some(events)
}

struct Out<'b>(&'b mut Vec<u8>);

impl Out<'_> {
    fn u8(&mut self, n: u8) {
        self.0.push(n);
    }

    fn n32(&mut self, n: u32) {
        self.0.extend_from_slice(&n.to_le_bytes());
    }

    /// Nothing that is written has so many bytes or parts that it would not fit: frames are smaller.
    fn u32(&mut self, n: usize) {
        self.n32(u32::try_from(n).unwrap_or(u32::MAX));
    }

    fn u64(&mut self, n: u64) {
        self.0.extend_from_slice(&n.to_le_bytes());
    }

    fn pair(&mut self, tag: u8, first: u64, second: Option<u64>) {
        self.u8(tag);
        self.u64(first);
        second.into_iter().for_each(|n| self.u64(n));
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.u32(bytes.len());
        self.0.extend_from_slice(bytes);
    }

    fn option<T>(&mut self, option: Option<T>, write: impl FnOnce(&mut Self, T)) {
        self.u8(option.is_some().into());
        if let Some(present) = option {
            write(self, present);
        }
    }

    /// In nanoseconds, 584 years at most.
    fn span(&mut self, span: Duration) {
        self.u64(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX));
    }

    fn time(&mut self, at: SystemTime) {
        self.span(at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default());
    }

    fn id(&mut self, id: MessageId) {
        self.0.extend_from_slice(id.get().as_bytes());
    }

    fn message(&mut self, message: &Message) {
        self.id(message.id());
        self.bytes(message.subject().as_str().as_bytes());
        self.bytes(message.payload());
        self.time(message.published_at());
        self.u32(message.headers().iter().count());
        for (name, value) in message.headers().iter() {
            self.bytes(name.as_bytes());
            self.bytes(value.as_bytes());
        }
        self.option(message.delay(), Self::span);
        self.option(message.ttl(), Self::span);
        self.u8((message.priority() == Priority::High).into());
        self.u8(message.is_known_by_id().into());
    }

    fn group(&mut self, record: &GroupRecord) {
        self.bytes(record.name.as_bytes());
        self.bytes(record.pattern.as_str().as_bytes());
        let policy = &record.policy;
        self.u64(policy.capacity as u64);
        self.u64(policy.max_bytes as u64);
        match policy.when_full {
            WhenFull::Wait(span) => {
                self.u8(0);
                self.span(span);
            }
            WhenFull::Reject => self.u8(1),
            WhenFull::DropOldest => self.u8(2),
        }
        self.n32(policy.max_attempts.get());
        self.span(policy.backoff.base);
        self.span(policy.backoff.max);
        self.span(policy.attempt_timeout);
        self.u8((policy.when_expired == WhenExpired::Drop).into());
        self.option(record.header.as_deref(), |out, name| out.bytes(name.as_bytes()));
        self.u8(record.declared.into());
    }

    fn failure(&mut self, failure: &Failure) {
        self.n32(failure.attempt);
        self.time(failure.at);
        self.u8(match failure.kind {
            FailureKind::Error => 0,
            FailureKind::Panic => 1,
            FailureKind::Timeout => 2,
            FailureKind::Retry => 3,
        });
        self.bytes(failure.error.as_bytes());
    }

    fn letter(&mut self, letter: &DeadLetter) {
        self.u64(letter.id.get());
        self.message(&letter.message);
        self.bytes(letter.group.as_bytes());
        match &letter.reason {
            Reason::Exhausted => self.u8(0),
            Reason::Rejected(why) => {
                self.u8(1);
                self.bytes(why.as_bytes());
            }
            Reason::Undecodable(why) => {
                self.u8(2);
                self.bytes(why.as_bytes());
            }
            Reason::Expired => self.u8(3),
            Reason::Unheard => self.u8(4),
        }
        self.n32(letter.attempts);
        self.option(letter.first_failure.as_ref(), Self::failure);
        self.option(letter.last_failure.as_ref(), Self::failure);
        self.time(letter.died_at);
        self.n32(letter.redrives);
    }

    fn standing(&mut self, standing: &Standing) {
        self.n32(standing.attempts);
        self.n32(standing.redrives);
        self.option(standing.history.as_deref(), |out, history| {
            out.failure(&history.first);
            out.option(history.later.as_ref(), Out::failure);
        });
        self.option(standing.waits, |out, (since, span)| {
            out.time(since);
            out.span(span);
        });
    }
}

/// What is left to read. Whatever is not as [`Out`] writes it reads as none.
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
            error: self.text()?.to_owned(),
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
                    Some(History { first: left.failure()?, later: left.option(Self::failure)? })
                })?
                .map(Box::new),
            waits: self.option(|left| Some((left.time()?, left.span()?)))?,
        })
    }
}
