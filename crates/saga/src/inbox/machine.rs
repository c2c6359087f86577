//! What follows from a call and from what was done before.

use super::{Entry, FORMAT, InboxCall, InboxError};
use crate::Direction;

/// What was done about an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Past {
    /// Nothing. Nobody sees such a row unless it was left by a transaction that committed without doing as told.
    Nothing,
    Acted,
    Refused,
    Undone,
}

impl Past {
    const ALL: [(Self, &str); 4] = [
        (Self::Nothing, "nothing"),
        (Self::Acted, "acted"),
        (Self::Refused, "refused"),
        (Self::Undone, "undone"),
    ];

    pub(super) fn text(self) -> &'static str {
        Self::ALL.iter().find(|(past, _)| *past == self).map_or("", |(_, text)| text)
    }

    fn of(text: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, known)| *known == text).map(|(past, _)| *past)
    }
}

/// A row as it is found, or as it was just made.
pub(super) struct Row {
    pub(super) past: String,
    /// Of the call, or a higher one that was seen.
    pub(super) epoch: i64,
    pub(super) answer: Option<String>,
}

/// What is to be done, and what the row says then, if that is something else than before.
pub(super) fn decide(call: &InboxCall, row: Row) -> Result<(Entry, Option<Past>), InboxError> {
    let seen = u64::try_from(row.epoch).unwrap_or(0);
    if seen > call.epoch {
        return Ok((Entry::Stale { seen }, None));
    }
    let no_entry = || InboxError::NoEntry(call.operation.clone());
    let past = Past::of(&row.past).ok_or_else(no_entry)?;
    let answer = || {
        let answer = row.answer.as_deref().map(serde_json::from_str).transpose();
        answer.map_err(|error| InboxError::Answer(error.into()))
    };
    Ok(match (past, call.direction) {
        (Past::Nothing, Direction::Act) => (Entry::Act, Some(Past::Acted)),
        (Past::Acted, Direction::Act) => (Entry::Repeated { answer: answer()? }, None),
        (Past::Refused, Direction::Act) => {
            let reason = answer()?.map(|answer| answer.decode()).transpose();
            let reason = reason.map_err(|error| InboxError::Answer(error.into()))?;
            (Entry::Refused { reason: reason.unwrap_or_else(|| "".into()) }, None)
        }
        (Past::Undone, Direction::Act) => (Entry::TooLate, None),
        (Past::Acted, Direction::Undo) => (Entry::Undo { answer: answer()? }, Some(Past::Undone)),
        (Past::Nothing | Past::Refused, Direction::Undo) => {
            (Entry::NothingToUndo, Some(Past::Undone))
        }
        (Past::Undone, Direction::Undo) => (Entry::Repeated { answer: None }, None),
    })
}

pub(super) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// The name in quotation marks, if it needs no escape. A schema may stand before it.
pub(super) fn quoted(table: &str) -> Result<String, InboxError> {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    let parts: Vec<_> = table.split('.').collect();
    let name = |part: &&str| (1..=63).contains(&part.len()) && part.bytes().all(fits);
    if parts.len() > 2 || !parts.iter().all(name) {
        return Err(InboxError::Table(table.chars().take(64).collect()));
    }
    Ok(format!("\"{}\"", parts.join("\".\"")))
}

/// Of a table that was read: its format must be known.
pub(super) fn readable(format: i64) -> Result<(), InboxError> {
    if format > FORMAT { Err(InboxError::Newer(format)) } else { Ok(()) }
}
