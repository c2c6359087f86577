//! From rows to what they mean, and keys that a column of text can hold.

use std::{borrow::Cow, collections::HashMap, time::Duration};

use tokio_postgres::{Client, Row, Statement};

use super::{Failure, unsigned};
use crate::{
    Bundle, Journal, Json, MessageId, Pending, Post, Record, SagaId, State, Summary, Unreadable,
};

/// As the journal names it.
pub(super) fn state_name(state: State) -> String {
    serde_json::to_string(&state).unwrap_or_default().trim_matches('"').to_owned()
}

/// One that only a later release knows is one that this process cannot carry on.
pub(super) fn state(name: &str) -> State {
    serde_json::from_str(&format!("\"{name}\"")).unwrap_or(State::Blocked)
}

/// PostgreSQL has no text with a zero byte in it.
pub(super) fn escaped(key: &str) -> Cow<'_, str> {
    if key.contains(['\0', '\\']) {
        key.replace('\\', "\\\\").replace('\0', "\\0").into()
    } else {
        key.into()
    }
}

pub(super) fn unescaped(key: &str) -> String {
    let (mut text, mut characters) = (String::with_capacity(key.len()), key.chars());
    while let Some(character) = characters.next() {
        text.push(match character {
            '\\' if characters.next() == Some('0') => '\0',
            other => other,
        });
    }
    text
}

/// Whole journals of these sagas, in any order. All statements are sent at once; the transaction around them is the caller's matter.
pub(super) async fn journals(
    client: &Client,
    [sagas, records, mails]: &[Statement; 3],
    ids: &[&str],
) -> Result<Vec<Journal>, Failure> {
    let (sagas, records, mails) = futures_util::future::try_join3(
        client.query(sagas, &[&ids]),
        client.query(records, &[&ids]),
        client.query(mails, &[&ids]),
    )
    .await?;
    let mut written: HashMap<&str, Vec<&str>> = HashMap::new();
    for row in &records {
        written.entry(row.try_get(0)?).or_default().push(row.try_get(1)?);
    }
    let mut posts: HashMap<&str, Result<Vec<Post>, Unreadable>> = HashMap::new();
    for row in &mails {
        let posts = posts.entry(row.try_get(0)?).or_insert_with(|| Ok(Vec::new()));
        match post(row, 1)? {
            Ok(post) => posts.as_mut().map_or((), |posts| posts.push(post)),
            Err(error) => *posts = Err(error),
        }
    }
    sagas
        .iter()
        .map(|row| {
            let id: &str = row.try_get(0)?;
            let records = written.remove(id).unwrap_or_default();
            journal(row, &records, posts.remove(id).unwrap_or_else(|| Ok(Vec::new())))
        })
        .collect()
}

/// What cannot be read makes only this journal unreadable.
fn journal(
    row: &Row,
    records: &[&str],
    mail: Result<Vec<Post>, Unreadable>,
) -> Result<Journal, Failure> {
    let epoch = unsigned(row.try_get(1)?);
    let records: Result<Vec<_>, _> = records.iter().map(|text| Record::from_json(text)).collect();
    let mut journal = Journal::new(saga(row.try_get(0)?)?, epoch, records);
    journal.node = row.try_get::<_, Option<&str>>(2)?.map(Into::into);
    journal.crashes = u32::try_from(row.try_get::<_, i64>(3)?).unwrap_or(u32::MAX);
    journal.mail_taken = unsigned(row.try_get(5)?);
    match row.try_get::<_, Option<&str>>(4)?.map(json).transpose() {
        Ok(note) => journal.note = note,
        Err(error) => journal.records = Err(error),
    }
    match mail {
        Ok(mail) => journal.mail = mail,
        Err(error) => journal.records = Err(error),
    }
    Ok(journal)
}

/// Number, key and body, from column `first` on.
pub(super) fn post(row: &Row, first: usize) -> Result<Result<Post, Unreadable>, Failure> {
    let (number, key): (i64, &str) = (row.try_get(first)?, row.try_get(first + 1)?);
    let body = json(row.try_get(first + 2)?);
    Ok(body.map(|body| Post::new(unsigned(number), unescaped(key).into(), body)))
}

pub(super) fn summary(row: &Row) -> Result<Summary, Failure> {
    let version = u32::try_from(row.try_get::<_, i64>(2)?).unwrap_or(u32::MAX);
    let definition: &str = row.try_get(1)?;
    let mut summary = Summary::new(saga(row.try_get(0)?)?, definition.into(), version);
    summary.state = state(row.try_get(3)?);
    summary.epoch = unsigned(row.try_get(4)?);
    summary.records = unsigned(row.try_get(5)?);
    summary.created_at = unsigned(row.try_get(6)?);
    summary.changed_at = unsigned(row.try_get(7)?);
    summary.node = row.try_get::<_, Option<&str>>(8)?.map(Into::into);
    summary.due = row.try_get::<_, Option<i64>>(9)?.map(unsigned);
    Ok(summary)
}

/// Who was taken, with failures, and their messages by saga and order.
pub(super) fn bundles(held: &[Row], messages: &[Row]) -> Result<Vec<Bundle>, Failure> {
    let mut waiting: HashMap<&str, Vec<(MessageId, &str)>> = HashMap::new();
    for row in messages {
        let (sequence, place): (i64, i64) = (row.try_get(1)?, row.try_get(2)?);
        let place = u32::try_from(place).unwrap_or(u32::MAX);
        let id: &str = row.try_get(0)?;
        let message = MessageId::new(saga(id)?, unsigned(sequence), place);
        let message = message.of_life(unsigned(row.try_get(4)?));
        waiting.entry(id).or_default().push((message, row.try_get(3)?));
    }
    let bundle = |row: &Row| {
        let (id, failures): (&str, i64) = (row.try_get(0)?, row.try_get(1)?);
        let failures = u32::try_from(failures).unwrap_or(u32::MAX);
        Ok(Bundle::new(saga(id)?, failures, waiting.remove(id).unwrap_or_default()))
    };
    held.iter().map(bundle).collect()
}

pub(super) fn pending(rows: &[Row]) -> Result<Pending, Failure> {
    let Some(row) = rows.first() else { return Ok(Pending::default()) };
    let age = row.try_get::<_, Option<i64>>(1)?;
    let age = age.map(|age| Duration::from_millis(unsigned(age)));
    Ok(Pending::new(unsigned(row.try_get(0)?), age, unsigned(row.try_get(2)?)))
}

pub(super) fn saga(id: &str) -> Result<SagaId, Failure> {
    id.parse().map_err(|error: crate::InvalidName| Failure::Damaged(error.to_string()))
}

fn json(text: &str) -> Result<Json, Unreadable> {
    serde_json::from_str(text).map_err(|error| Unreadable::Damaged(error.to_string().into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_with_a_zero_byte_comes_back_and_equals_no_other() {
        for key in ["", "plain", "\0", "\\0", "\\\\0", "a\\\0\\", "\\\\"] {
            assert_eq!(unescaped(&escaped(key)), key);
            assert!(!escaped(key).contains('\0'));
        }
    }

    #[test]
    fn a_state_of_a_later_release_is_one_that_cannot_be_carried_on() {
        assert_eq!(state(&state_name(State::TurningBack)), State::TurningBack);
        assert_eq!(state("teleported"), State::Blocked);
    }
}
