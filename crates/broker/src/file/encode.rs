//! How events are written: a tag, then the fields in their order; numbers little-endian, texts and bytes after their length. [`decode`](super::decode)
//! reads them.

use std::time::{Duration, SystemTime};

use crate::{
    DeadLetter, Failure, FailureKind, Message, MessageId, Priority, Reason, WhenExpired, WhenFull,
    memory::scribe::{Event, GroupRecord, Standing},
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
        Event::Kept { serial, message, groups } => {
            out.pair(13, *serial, None);
            out.message(message);
            out.u32(groups.len());
            for (group, standing) in groups {
                out.u64(*group);
                out.standing(standing);
            }
        }
        Event::Renumbered(ids) => {
            out.u8(14);
            out.u32(ids.len());
            for (from, to) in ids {
                out.u64(*from);
                out.u64(*to);
            }
        }
        Event::Begins(segment) => out.pair(15, *segment, None),
    }
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
            out.option(history.later.as_deref(), Out::failure);
        });
        self.option(standing.waits, |out, (since, span)| {
            out.time(since);
            out.span(span);
        });
    }
}
