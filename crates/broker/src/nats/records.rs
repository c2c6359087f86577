//! What is written about messages that failed: notes while they are tried, dead letters afterwards.

use std::sync::Arc;

use async_nats::HeaderMap;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{
    NatsError,
    core::Core,
    jetstream::{STREAM_NOT_FOUND, Stored},
    kept::Kept,
    layout::FORMAT,
    link::Fault,
    wire::{self, Delivered, Unreadable},
};
use crate::{
    DeadLetter, DeadLetterId, Error, Failure, FailureKind, Message, Reason, message::wall_clock,
};

const RECORD: &str = "Gusset-Dead";

/// How a message has fared in a group so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Note {
    /// Deliveries that were not the message's fault.
    pub(crate) uncharged: u64,
    /// The number of the delivery that this was written about, since when the server has been told to deliver it again; zero if that is not known.
    pub(crate) times: u64,
    pub(crate) first: Option<Failure>,
    pub(crate) last: Option<Failure>,
}

impl Note {
    /// Which attempt the delivery number `times` is. A server that was killed may have forgotten some; the note has not.
    pub(crate) fn attempt(&self, times: u64) -> u32 {
        let counted = times.saturating_sub(self.uncharged).max(1);
        let counted = u32::try_from(counted).unwrap_or(u32::MAX);
        let noted = self.last.as_ref().map_or(1, |last| last.attempt.saturating_add(1));
        counted.max(noted)
    }

    /// This is about the delivery number `times` from now on. A server that `miscounts` may have counted one more, which nobody was given: one that is
    /// missing behind a note is not charged. What ends its process each time leaves no notes, so there all are.
    pub(crate) fn goes_on(&mut self, times: u64, miscounts: bool) {
        if miscounts && self.times > 0 && times == self.times.saturating_add(2) {
            self.uncharged = self.uncharged.saturating_add(1);
        }
        self.times = times;
    }

    pub(crate) fn add(&mut self, failure: Failure) {
        if self.first.is_none() {
            self.first = Some(failure.clone());
        }
        self.last = Some(failure);
    }
}

/// A message to be buried.
#[derive(Debug)]
pub(crate) struct Dead<'a> {
    pub(crate) message: &'a Message,
    pub(crate) token: &'a str,
    pub(crate) group: &'a Arc<str>,
    pub(crate) reason: &'a Reason,
    pub(crate) attempts: u32,
    pub(crate) note: &'a Note,
    pub(crate) redrives: u32,
    pub(crate) seq: u64,
}

#[derive(Serialize, Deserialize)]
struct WrittenNote {
    format: u32,
    uncharged: u64,
    /// Releases before this was noted read it as well.
    #[serde(default)]
    times: u64,
    first: Option<WrittenFailure>,
    last: Option<WrittenFailure>,
}

#[derive(Serialize, Deserialize)]
struct WrittenDeath {
    format: u32,
    group: String,
    reason: String,
    #[serde(default)]
    text: String,
    attempts: u32,
    first: Option<WrittenFailure>,
    last: Option<WrittenFailure>,
    died_at: u64,
    redrives: u32,
}

#[derive(Serialize, Deserialize)]
struct WrittenFailure {
    attempt: u32,
    at: u64,
    kind: String,
    error: String,
}

impl From<&Failure> for WrittenFailure {
    fn from(failure: &Failure) -> Self {
        let kind = match failure.kind {
            FailureKind::Error => "error",
            FailureKind::Panic => "panic",
            FailureKind::Timeout => "timeout",
            FailureKind::Retry => "retry",
        };
        let (attempt, error) = (failure.attempt, failure.error.clone().into_owned());
        Self { attempt, at: wire::micros(failure.at), kind: kind.to_owned(), error }
    }
}

impl From<WrittenFailure> for Failure {
    fn from(written: WrittenFailure) -> Self {
        let kind = match &*written.kind {
            "panic" => FailureKind::Panic,
            "timeout" => FailureKind::Timeout,
            "retry" => FailureKind::Retry,
            _ => FailureKind::Error,
        };
        let at = wire::at_micros(written.at);
        Self { attempt: written.attempt, at, kind, error: written.error.into() }
    }
}

pub(crate) async fn write_note(core: &Core, place: &str, note: &Note) -> Result<(), Error> {
    let note = WrittenNote {
        format: FORMAT,
        uncharged: note.uncharged,
        times: note.times,
        first: note.first.as_ref().map(Into::into),
        last: note.last.as_ref().map(Into::into),
    };
    let note = serde_json::to_vec(&note).map_err(strange)?;
    store(core, place, &HeaderMap::new, note.into()).await?;
    Ok(())
}

pub(crate) async fn read_note(core: &Core, place: &str) -> Result<Option<Note>, Error> {
    let question = json!({ "last_by_subj": place });
    let until = core.link.patience();
    let kept = match core.link.look_up(&core.layout.notes, &question, until).await {
        Err(fault) if fault.is_refusal(STREAM_NOT_FOUND) => None,
        kept => kept?,
    };
    let Some(kept) = kept else { return Ok(None) };
    let note: WrittenNote = serde_json::from_slice(&kept.payload).map_err(strange)?;
    check(note.format, "note")?;
    let (first, last) = (note.first.map(Into::into), note.last.map(Into::into));
    Ok(Some(Note { uncharged: note.uncharged, times: note.times, first, last }))
}

/// Writes the record; ready when the server has it.
pub(crate) async fn bury(core: &Core, dead: &Dead<'_>) -> Result<(), Error> {
    let (reason, text) = match dead.reason {
        Reason::Exhausted => ("exhausted", ""),
        Reason::Rejected(why) => ("rejected", &**why),
        Reason::Undecodable(why) => ("undecodable", &**why),
        Reason::Expired => ("expired", ""),
        Reason::Unheard => ("unheard", ""),
    };
    let died_at = wall_clock();
    let record = WrittenDeath {
        format: FORMAT,
        group: dead.group.to_string(),
        reason: reason.to_owned(),
        text: text.to_owned(),
        attempts: dead.attempts,
        first: dead.note.first.as_ref().map(Into::into),
        last: dead.note.last.as_ref().map(Into::into),
        died_at: wire::micros(died_at),
        redrives: dead.redrives,
    };
    let record = serde_json::to_string(&record).map_err(strange)?;
    let (message, redrives) = (dead.message, dead.redrives);
    // A process that crashes after this and before the original goes will come here again.
    let nats_id = format!("{}/{}/{redrives}/{}", message.id(), dead.token, dead.seq);
    let headers = || {
        let mut headers = wire::write_as(message, "", nats_id.clone());
        wire::put(&mut headers, RECORD, record.clone());
        headers
    };
    let place = core.layout.dead_letter(dead.token, message.subject().as_str());
    store(core, &place, &headers, message.payload().clone()).await?;
    tracing::warn!(
        group = &**dead.group,
        subject = message.subject().as_str(),
        id = %message.id(),
        attempts = dead.attempts,
        reason = %dead.reason,
        last_error = dead.note.last.as_ref().map(|failure| &*failure.error),
        "dead letter"
    );
    Ok(())
}

/// Puts a record into its stream, which is made again if it is gone.
async fn store(
    core: &Core,
    place: &str,
    headers: &(dyn Fn() -> HeaderMap + Sync),
    payload: bytes::Bytes,
) -> Result<Stored, Error> {
    let until = core.link.patience();
    let stored = core.link.store(place, headers, payload.clone(), until).await;
    if !matches!(stored, Err(Fault::Nobody)) {
        return Ok(stored?);
    }
    core.restore().await?;
    Ok(core.link.store(place, headers, payload, core.link.patience()).await?)
}

/// The dead letter that lies in the stream.
pub(crate) fn read_dead(core: &Core, kept: &Kept) -> Result<DeadLetter, Error> {
    let what = || format!("dead letter {}", kept.seq);
    let broken = || Error::from(NatsError::Strange(format!("{} cannot be read", what())));
    let record = kept.headers.get(RECORD).ok_or_else(broken)?;
    // The format first: the rest may be another.
    let format = serde_json::from_str::<serde_json::Value>(record.as_str()).map_err(strange)?;
    let format = format["format"].as_u64().and_then(|format| u32::try_from(format).ok());
    check(format.unwrap_or(u32::MAX), &what())?;
    let record: WrittenDeath = serde_json::from_str(record.as_str()).map_err(strange)?;
    let subject = core.layout.subject_of_dead(&kept.subject).ok_or_else(broken)?;
    let delivered = Delivered { times: 1, seq: kept.seq, at: 0 };
    let read = wire::read(subject, Some(&kept.headers), kept.payload.clone(), delivered);
    let (message, _) = read.map_err(|unreadable| match unreadable {
        Unreadable::Newer(format) => NatsError::Newer { what: what(), format }.into(),
        Unreadable::Subject => broken(),
    })?;
    let reason = match &*record.reason {
        "rejected" => Reason::Rejected(record.text),
        "undecodable" => Reason::Undecodable(record.text),
        "expired" => Reason::Expired,
        "unheard" => Reason::Unheard,
        _ => Reason::Exhausted,
    };
    Ok(DeadLetter {
        id: DeadLetterId::new(kept.seq),
        message: message.into(),
        group: record.group.into(),
        reason,
        attempts: record.attempts,
        first_failure: record.first.map(Into::into),
        last_failure: record.last.map(Into::into),
        died_at: wire::at_micros(record.died_at),
        redrives: record.redrives,
    })
}

fn check(format: u32, what: &str) -> Result<(), Error> {
    if format > FORMAT {
        return Err(NatsError::Newer { what: what.to_owned(), format }.into());
    }
    Ok(())
}

#[expect(clippy::needless_pass_by_value, reason = "used as a function to map errors with")]
fn strange(error: serde_json::Error) -> Error {
    NatsError::Strange(error.to_string()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(times: u64, uncharged: u64) -> Note {
        Note { times, uncharged, ..Note::default() }
    }

    #[test]
    fn one_delivery_that_is_missing_behind_a_note_is_not_charged_where_servers_miscount() {
        let attempt = |mut note: Note, times, miscounts| {
            note.goes_on(times, miscounts);
            assert_eq!(note.times, times);
            note.attempt(times)
        };
        assert_eq!(attempt(note(2, 2), 4, true), 1);
        assert_eq!(attempt(note(2, 2), 4, false), 2, "somebody had it and said nothing");
        assert_eq!(attempt(note(2, 2), 3, true), 1, "none is missing");
        assert_eq!(attempt(note(2, 2), 5, true), 3, "more are missing than such a server counts");
        assert_eq!(attempt(note(0, 2), 4, true), 2, "a note of an earlier release");
        assert_eq!(attempt(Note::default(), 3, true), 3, "no note: its process died each time");
    }
}
