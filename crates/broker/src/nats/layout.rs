//! What lies where on the server.
//!
//! | stream | subjects | what |
//! |---|---|---|
//! | `NS` | `NS.message.SUBJECT` | messages, each until all groups that want it have settled it |
//! | `NS_dead` | `NS.dead.GROUP.SUBJECT` | dead letters |
//! | `NS_notes` | `NS.note.GROUP.ID.REDRIVES` | of messages that failed: how, and what was not their fault |
//!
//! `NS.answer.INBOX` is in no stream: an answer on its way to whoever asked.
//!
//! A group is a durable consumer of the first stream. The description of each stream says which format it has.

use std::{fmt::Write as _, time::Duration};

use serde_json::{Value, json};

use super::{
    NatsError, NatsOptions,
    moment::{nanos_since_1970, written},
};
use crate::{MessageId, Pattern, Start, Subject, WhenLettersFull, engine::GroupSpec, policy::FAR};

/// Of everything that this engine leaves on a server. One that is older is read; one that is newer is refused.
pub(crate) const FORMAT: u32 = 1;

/// Retention of a stream whose messages go when all groups that want them have settled them.
pub(crate) const SETTLED: &str = "interest";
/// Retention of a stream whose messages go when they are old.
pub(crate) const RETAINED: &str = "limits";

const MARK: &str = "gusset-broker format ";
const ORDERED: &str = " ordered by ";

/// For how long it is remembered how a message failed; afterwards it goes on without.
const NOTES_LAST: Duration = Duration::from_secs(7 * 24 * 3600);
const NOTES: u64 = 100_000;
const NOTES_BYTES: u64 = 64 << 20;

#[derive(Clone, Debug)]
pub(crate) struct Layout {
    pub(crate) messages: String,
    pub(crate) dead: String,
    pub(crate) notes: String,
    namespace: String,
}

impl Layout {
    pub(crate) fn new(namespace: &str) -> Self {
        Self {
            messages: namespace.to_owned(),
            dead: format!("{namespace}_dead"),
            notes: format!("{namespace}_notes"),
            namespace: namespace.to_owned(),
        }
    }

    /// Where a message with this subject, or with one that this pattern matches, lies.
    pub(crate) fn message(&self, subject: &str) -> String {
        format!("{}.message.{subject}", self.namespace)
    }

    /// The subject of the message that lies at `place`.
    pub(crate) fn subject_of(&self, place: &str) -> Option<Subject> {
        let rest = place.strip_prefix(&*self.namespace)?.strip_prefix(".message.")?;
        Subject::new(rest).ok()
    }

    /// Where a dead letter lies; `*` and `>` mean any.
    pub(crate) fn dead_letter(&self, group: &str, subject: &str) -> String {
        format!("{}.dead.{group}.{subject}", self.namespace)
    }

    /// The subject of the message of the dead letter that lies at `place`.
    pub(crate) fn subject_of_dead(&self, place: &str) -> Option<Subject> {
        let rest = place.strip_prefix(&*self.namespace)?.strip_prefix(".dead.")?;
        Subject::new(rest.split_once('.')?.1).ok()
    }

    /// Where an answer goes: past all streams.
    pub(crate) fn answer(&self, subject: &str) -> String {
        format!("{}.answer.{subject}", self.namespace)
    }

    /// The subject of the answer that came to `place`.
    pub(crate) fn subject_of_answer(&self, place: &str) -> Option<Subject> {
        let rest = place.strip_prefix(&*self.namespace)?.strip_prefix(".answer.")?;
        Subject::new(rest).ok()
    }

    /// What a group wants whose consumer has this filter.
    pub(crate) fn pattern_of(&self, filter: &str) -> Option<Pattern> {
        let rest = filter.strip_prefix(&*self.namespace)?.strip_prefix(".message.")?;
        Pattern::new(rest).ok()
    }

    pub(crate) fn note(&self, group: &str, id: MessageId, redrives: u32) -> String {
        format!("{}.note.{group}.{id}.{redrives}", self.namespace)
    }

    /// Names and settings of all streams.
    pub(crate) fn streams(
        &self,
        options: &NatsOptions,
        limits: &crate::Limits,
    ) -> [(String, Value); 3] {
        let subjects = |kind| format!("{}.{kind}.>", self.namespace);
        let stream = |name: &str, kind, settings: &Value| {
            let mut config = json!({
                "name": name,
                "description": format!("{MARK}{FORMAT}"),
                "subjects": [subjects(kind)],
                "storage": "file",
                "num_replicas": options.replicas,
                "max_consumers": -1,
                "max_msg_size": -1,
                "max_msgs_per_subject": -1,
            });
            if let (Some(config), Some(settings)) = (config.as_object_mut(), settings.as_object()) {
                config.extend(settings.iter().map(|(name, value)| (name.clone(), value.clone())));
            }
            (name.to_owned(), config)
        };
        [
            stream(
                &self.messages,
                "message",
                &json!({
                    // A message goes when all groups that want it have settled it, and is not kept if none does.
                    "retention": if options.retain.is_some() { RETAINED } else { SETTLED },
                    "discard": "new",
                    "max_msgs": options.max_messages,
                    "max_bytes": options.max_bytes,
                    "max_age": nanos(options.retain.unwrap_or_default()),
                    "duplicate_window": nanos(options.dedup_window.min(options.retain.unwrap_or(FAR))),
                }),
            ),
            stream(
                &self.dead,
                "dead",
                &json!({
                    "retention": "limits",
                    "discard": match limits.when_letters_full {
                        WhenLettersFull::DropOldest => "old",
                        WhenLettersFull::Refuse => "new",
                    },
                    "max_msgs": limits.dead_letters.max(1),
                    "max_bytes": limits.dead_letter_bytes,
                    "max_age": 0,
                    // A crash between this record and the end of the original brings the original again.
                    "duplicate_window": nanos(Duration::from_secs(3600).max(options.ack_wait * 2)),
                }),
            ),
            stream(
                &self.notes,
                "note",
                &json!({
                    "retention": "limits",
                    "discard": "old",
                    "max_msgs": NOTES,
                    "max_bytes": NOTES_BYTES,
                    "max_age": nanos(NOTES_LAST),
                    "max_msgs_per_subject": 1,
                    // Notes are written anew, not twice.
                    "duplicate_window": nanos(Duration::from_millis(100)),
                }),
            ),
        ]
    }

    /// The consumer that is a group.
    pub(crate) fn group(
        &self,
        name: &str,
        spec: &GroupSpec,
        options: &NatsOptions,
        lives: Life,
    ) -> Value {
        let order = spec.order.as_ref().map(|order| format!("{ORDERED}{}", order.name()));
        // What is under way or waits for another attempt is counted, so one at a time is all in their order.
        let unsettled = if order.is_some() { 1 } else { options.max_unsettled };
        let mut config = json!({
            "durable_name": name,
            "description": format!("{MARK}{FORMAT}{}", order.unwrap_or_default()),
            "filter_subject": self.message(spec.pattern.as_str()),
            "ack_policy": "explicit",
            "ack_wait": nanos(options.ack_wait),
            // Attempts are counted here, so that nothing stays behind unseen when they are used up.
            "max_deliver": -1,
            "max_ack_pending": unsettled,
            "max_waiting": 2_048,
            "replay_policy": "instant",
            "deliver_policy": "new",
        });
        if let Life::Subscription = lives {
            config["inactive_threshold"] = nanos(FORGOTTEN).into();
        }
        match spec.start {
            Start::New => {}
            Start::First | Start::Sequence(0) => config["deliver_policy"] = "all".into(),
            Start::Sequence(first) => {
                config["deliver_policy"] = "by_start_sequence".into();
                config["opt_start_seq"] = first.into();
            }
            Start::Time(first) => {
                config["deliver_policy"] = "by_start_time".into();
                config["opt_start_time"] = written(nanos_since_1970(first)).into();
            }
        }
        config
    }
}

/// How long a group lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Life {
    /// Until it is removed.
    Declared,
    /// Until its subscription ends, or the server has not heard of it for a time.
    Subscription,
}

/// How long the group of a subscription without a name outlives its process: longer than the restart of a server takes.
pub(crate) const FORGOTTEN: Duration = Duration::from_secs(300);

/// Says whether what has this description is of this engine and of a format that it knows.
pub(crate) fn check_format(what: &str, description: &str) -> Result<(), NatsError> {
    let words = description.strip_prefix(MARK);
    let format = words.and_then(|words| words.split(' ').next()?.parse().ok());
    match format {
        None => Err(NatsError::Foreign(what.to_owned())),
        Some(format) if format > FORMAT => Err(NatsError::Newer { what: what.to_owned(), format }),
        Some(_) => Ok(()),
    }
}

/// By which order the group keeps its messages that has this description.
pub(crate) fn order_in(description: &str) -> Option<&str> {
    let words = description.strip_prefix(MARK)?;
    words.trim_start_matches(|c: char| c.is_ascii_digit()).strip_prefix(ORDERED)
}

/// The name of a group as a token of a subject and the name of a consumer, neither of which may have dots, wildcards or
/// slashes: what is no letter, digit, `-` or `_` becomes `=` and two hexadecimal digits for each byte.
pub(crate) fn token_of(group: &str) -> String {
    let mut token = String::with_capacity(group.len());
    for byte in group.bytes() {
        if byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_' {
            token.push(char::from(byte));
        } else {
            let _ = write!(token, "={byte:02X}");
        }
    }
    token
}

/// The group that has this token.
#[cfg(any(test, fuzzing))]
pub(crate) fn group_of(token: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(token.len());
    let mut rest = token.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first == b'=' {
            let digits = std::str::from_utf8(rest.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &rest[2..];
        } else {
            bytes.push(*first);
        }
    }
    String::from_utf8(bytes).ok()
}

/// The server counts in nanoseconds, in 63 bits.
pub(crate) fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX).min(u64::MAX >> 1)
}

#[cfg(test)]
mod tests;
