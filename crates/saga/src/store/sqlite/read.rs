//! What is asked of the tables.

use std::{collections::HashSet, sync::Arc};

use rusqlite::{CachedStatement, Connection, OptionalExtension, Row, types::Value};
use serde::{Deserialize, de::IntoDeserializer};

use super::{
    SqliteError,
    error::is_local,
    queue::Worked,
    schema::{RECORDS, place},
    write::Claimed,
};
use crate::{
    Journal, Json, Post, Query, Record, SagaId, State, StoreError, Summary, Unreadable, Wanted,
};

/// A number as SQLite has them.
pub(super) fn int(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A number that was written by [`int`].
pub(super) fn uint(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

pub(super) fn unreadable(why: impl ToString) -> StoreError {
    SqliteError::Unreadable(Unreadable::Damaged(why.to_string().into())).into()
}

pub(super) fn state_of(text: &str) -> Result<State, StoreError> {
    let state: Result<_, serde::de::value::Error> = State::deserialize(text.into_deserializer());
    state.map_err(unreadable)
}

/// A journal as it stands in the file. Whoever asked makes sense of it, not the thread that all wait for.
pub(super) struct Raw {
    saga: String,
    epoch: u64,
    node: Option<String>,
    crashes: u32,
    note: Option<String>,
    mail_taken: u64,
    records: Result<Vec<String>, Unreadable>,
    mail: Vec<RawPost>,
}

pub(super) type RawPost = (i64, String, String);

/// The journal of the saga of this id.
pub(super) fn raw_by_id(connection: &Connection, saga: &SagaId) -> Worked<Option<Raw>> {
    let sql = "SELECT number, id, epoch, node, crashes, note, mail_taken FROM saga WHERE id = ?1";
    raw(connection, connection.prepare_cached(sql)?, saga.as_str().to_owned().into())
}

/// The journals of sagas that `node` has just claimed. Should others have claimed them since, whoever did this claim has its epoch, and can write nothing.
pub(super) fn claimed(connection: &Connection, sagas: &[Claimed], node: &str) -> Worked<Vec<Raw>> {
    let sql =
        "SELECT number, id, epoch, node, crashes, note, mail_taken FROM saga WHERE number = ?1";
    let mut found = Vec::new();
    for &Claimed { number, epoch, crashes } in sagas {
        let saga = raw(connection, connection.prepare_cached(sql)?, number.into())?;
        let node = Some(node.to_owned());
        found.extend(saga.map(|saga| Raw { epoch, crashes, node, ..saga }));
    }
    Ok(found)
}

fn raw(
    connection: &Connection,
    mut saga: CachedStatement<'_>,
    which: Value,
) -> Worked<Option<Raw>> {
    let head = |row: &Row<'_>| {
        let raw = Raw {
            saga: row.get(1)?,
            epoch: uint(row.get(2)?),
            node: row.get(3)?,
            crashes: row.get(4)?,
            note: row.get(5)?,
            mail_taken: uint(row.get(6)?),
            records: Ok(Vec::new()),
            mail: Vec::new(),
        };
        Ok((row.get(0)?, raw))
    };
    let Some((number, mut raw)) = saga.query_row([which], head).optional()? else {
        return Ok(None);
    };
    // What is damaged is this saga's alone, and must keep nobody from claiming the others.
    let (mail, records) = (posts(connection, number, raw.mail_taken), records(connection, number));
    match (mail, records) {
        (Ok(mail), Ok(records)) => (raw.mail, raw.records) = (mail, Ok(records)),
        (Err(error), _) | (_, Err(error)) if is_local(&error) => {
            raw.records = Err(Unreadable::Damaged(error.to_string().into()));
        }
        (Err(error), _) | (_, Err(error)) => return Err(error.into()),
    }
    Ok(Some(raw))
}

fn records(connection: &Connection, number: i64) -> rusqlite::Result<Vec<String>> {
    let sql = "SELECT record FROM journal WHERE place BETWEEN ?1 AND ?2 ORDER BY place";
    let all = [place(number, 0), place(number, RECORDS - 1)];
    connection.prepare_cached(sql)?.query_map(all, |row| row.get(0))?.collect()
}

fn posts(connection: &Connection, number: i64, from: u64) -> rusqlite::Result<Vec<RawPost>> {
    let sql = "SELECT number, key, body FROM mail WHERE saga = ?1 AND number >= ?2 ORDER BY number";
    let post = |row: &Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?));
    connection.prepare_cached(sql)?.query_map([number, int(from)], post)?.collect()
}

pub(super) fn mail(connection: &Connection, saga: &SagaId, from: u64) -> Worked<Vec<RawPost>> {
    let sql = "SELECT number FROM saga WHERE id = ?1";
    let number = connection.prepare_cached(sql)?.query_row([saga.as_str()], |row| row.get(0));
    Ok(match number.optional()? {
        Some(number) => posts(connection, number, from)?,
        None => Vec::new(),
    })
}

pub(super) fn post((number, key, body): RawPost) -> Result<Post, StoreError> {
    Ok(Post::new(uint(number), key.into(), json(&body).map_err(unreadable)?))
}

fn json(text: &str) -> serde_json::Result<Json> {
    serde_json::from_str(text)
}

impl Raw {
    /// Fails only if not even the id is one.
    pub(super) fn journal(self) -> Result<Journal, StoreError> {
        let saga: SagaId = self.saga.parse().map_err(unreadable)?;
        let mut journal = Journal::new(saga, self.epoch, Ok(Vec::new()));
        journal.node = self.node.map(Arc::from);
        journal.crashes = self.crashes;
        journal.mail_taken = self.mail_taken;
        let damaged = |error: serde_json::Error| Unreadable::Damaged(error.to_string().into());
        let parts = || {
            let records: Result<Vec<_>, _> =
                self.records?.iter().map(|text| Record::from_json(text)).collect();
            let mail = self.mail.into_iter().map(|(number, key, body)| {
                Ok(Post::new(uint(number), key.into(), json(&body).map_err(damaged)?))
            });
            let note = self.note.as_deref().map(json).transpose().map_err(damaged)?;
            Ok((note, mail.collect::<Result<Vec<_>, _>>()?, records))
        };
        match parts() {
            Ok((note, mail, records)) => {
                (journal.note, journal.mail, journal.records) = (note, mail, records);
            }
            Err(why) => journal.records = Err(why),
        }
        Ok(journal)
    }
}

/// Numbers of the sagas to claim, the ones that are due for longest first.
pub(super) fn wanted(connection: &Connection, wanted: &Wanted, now: u64) -> Worked<Vec<i64>> {
    let (known, orphaned, except, limit) = match wanted {
        Wanted::One(saga) => {
            let sql = "SELECT number FROM saga \
                WHERE id = ?1 AND finished_at IS NULL AND (node IS NULL OR due <= ?2)";
            let mut statement = connection.prepare_cached(sql)?;
            let number = statement.query_row((saga.as_str(), int(now)), |row| row.get(0));
            return Ok(number.optional()?.into_iter().collect());
        }
        Wanted::Due { known, orphaned, except, limit } => (known, orphaned, except, *limit),
    };
    let known: HashSet<_> = known.iter().map(|(name, version)| (&**name, *version)).collect();
    let except: HashSet<_> = except.iter().map(SagaId::as_str).collect();
    let overdue = now.saturating_sub(super::millis(*orphaned));
    // A saga in a final state is never due.
    let sql = "SELECT number, id, definition, version, due FROM saga WHERE due <= ?1 ORDER BY due";
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query([int(now)])?;
    let mut found = Vec::new();
    while found.len() < limit {
        let Some(row) = rows.next()? else { break };
        let (id, definition) = (row.get_ref(1)?.as_str(), row.get_ref(2)?.as_str());
        let (Ok(id), Ok(definition)) = (id, definition) else { continue };
        let known = known.contains(&(definition, row.get(3)?));
        if (known || uint(row.get(4)?) <= overdue) && !except.contains(id) {
            found.push(row.get(0)?);
        }
    }
    Ok(found)
}

/// A row of a list, and its state and id as they stand there.
pub(super) struct RawSummary {
    id: String,
    state: String,
    rest: (String, u32, u64, u64, u64, u64, Option<String>, Option<i64>),
}

/// Behind all ids, which are of visible ASCII characters.
const LAST: &str = "\u{7f}";

pub(super) fn list(connection: &Connection, query: &Query) -> Worked<Vec<RawSummary>> {
    let (behind, order, start) =
        if query.newest_first { ("<", "DESC", LAST) } else { (">", "ASC", "") };
    let mut sql = format!(
        "SELECT id, state, definition, version, epoch, next, created_at, changed_at, node, due FROM saga WHERE id {behind} ?1"
    );
    let after = query.after.as_ref().map_or(start, SagaId::as_str);
    let mut values = vec![Value::from(after.to_owned())];
    if let Some(state) = query.state {
        sql += " AND state = ?2";
        values.push(state_text(state)?.into());
    }
    if let Some(name) = &query.definition {
        values.push(name.to_string().into());
        sql += &format!(" AND definition = ?{}", values.len());
    }
    sql += &format!(" ORDER BY id {order} LIMIT ");
    sql += &int(query.limit as u64).to_string();
    let summary = |row: &Row<'_>| {
        let times = (uint(row.get(6)?), uint(row.get(7)?));
        let (epoch, next) = (uint(row.get(4)?), uint(row.get(5)?));
        let rest =
            (row.get(2)?, row.get(3)?, epoch, next, times.0, times.1, row.get(8)?, row.get(9)?);
        Ok(RawSummary { id: row.get(0)?, state: row.get(1)?, rest })
    };
    let mut statement = connection.prepare(&sql)?;
    let found = statement.query_map(rusqlite::params_from_iter(values), summary)?;
    Ok(found.collect::<Result<_, _>>()?)
}

pub(super) fn state_text(state: State) -> Result<String, StoreError> {
    let text = serde_json::to_string(&state).map_err(unreadable)?;
    Ok(text.trim_matches('"').to_owned())
}

impl RawSummary {
    pub(super) fn summary(self) -> Result<Summary, StoreError> {
        let (definition, version, epoch, records, created_at, changed_at, node, due) = self.rest;
        let id: SagaId = self.id.parse().map_err(unreadable)?;
        let mut summary = Summary::new(id, definition.into(), version);
        summary.state = state_of(&self.state)?;
        (summary.epoch, summary.records) = (epoch, records);
        (summary.created_at, summary.changed_at) = (created_at, changed_at);
        (summary.node, summary.due) = (node.map(Arc::from), due.map(uint));
        Ok(summary)
    }
}

pub(super) fn count(connection: &Connection) -> Worked<Vec<(String, i64)>> {
    let sql = "SELECT state, count(*) FROM saga GROUP BY state";
    let mut statement = connection.prepare_cached(sql)?;
    let counts = statement.query_map((), |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(counts.collect::<Result<_, _>>()?)
}
