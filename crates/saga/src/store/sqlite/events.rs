//! Events of aggregates.

use std::sync::Arc;

use futures_util::FutureExt;
use rusqlite::{Connection, OptionalExtension, Row};

use super::{
    SqliteStore, now,
    queue::Worked,
    read::{int, uint, unreadable},
};
use crate::{
    EventLog, EventLogError, EventLogFuture, Json, NewEvents, Recorded, Snapshot, StoreError,
    StreamId, StreamPage, StreamSummary,
};

fn extend(
    connection: &Connection,
    new: &NewEvents,
    now: u64,
) -> Worked<Result<u64, EventLogError>> {
    let stream = new.stream.as_str();
    let last = "SELECT max(version) FROM event WHERE stream = ?1";
    let last = connection.prepare_cached(last)?.query_row([stream], |row| row.get(0));
    let found = uint(last.map(Option::unwrap_or_default)?);
    let end = new.expected + new.events.len() as u64;
    if found != new.expected {
        let key = "SELECT key = ?3 FROM event WHERE stream = ?1 AND version = ?2";
        let first = (stream, int(new.expected + 1), &*new.key);
        let same = connection.prepare_cached(key)?.query_row(first, |row| row.get(0)).optional()?;
        return Ok(if same == Some(true) { Ok(end) } else { Err(new.conflict(found)) });
    }
    let mut insert =
        connection.prepare_cached("INSERT INTO event VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)")?;
    for (version, event) in (new.expected + 1..).zip(&*new.events) {
        let (version, now, event) = (int(version), int(now), event.get());
        insert.execute((stream, version, now, &*new.key, &*new.note, new.format, event))?;
    }
    Ok(Ok(end))
}

type RawEvent = (i64, i64, String, u32, String);

fn read(
    connection: &Connection,
    stream: &StreamId,
    after: u64,
    limit: usize,
) -> Worked<Vec<RawEvent>> {
    let sql = "SELECT version, at, note, format, body FROM event WHERE stream = ?1 AND version > ?2 ORDER BY version LIMIT ?3";
    let event =
        |row: &Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?));
    let mut statement = connection.prepare_cached(sql)?;
    let found = statement.query_map((stream.as_str(), int(after), int(limit as u64)), event)?;
    Ok(found.collect::<Result<_, _>>()?)
}

fn recorded((version, at, note, format, body): RawEvent) -> Result<Recorded, EventLogError> {
    let event = json(&body)?;
    Ok(Recorded { version: uint(version), at: uint(at), note: note.into(), format, event })
}

fn json(text: &str) -> Result<Json, StoreError> {
    serde_json::from_str(text).map_err(unreadable)
}

fn keep(connection: &Connection, stream: &StreamId, snapshot: &Snapshot) -> Worked<()> {
    let sql = "INSERT INTO snapshot VALUES (?1, ?2, ?3, ?4) ON CONFLICT (stream) DO UPDATE \
        SET version = ?2, format = ?3, state = ?4 WHERE version <= ?2";
    let Snapshot { version, format, state } = snapshot;
    let row = (stream.as_str(), int(*version), format, state.get());
    connection.prepare_cached(sql)?.execute(row)?;
    Ok(())
}

fn snapshot(connection: &Connection, stream: &StreamId) -> Worked<Option<(i64, u32, String)>> {
    let sql = "SELECT version, format, state FROM snapshot WHERE stream = ?1";
    let row = |row: &Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?));
    Ok(connection.prepare_cached(sql)?.query_row([stream.as_str()], row).optional()?)
}

/// From stream to stream by the key of the table.
fn list(connection: &Connection, page: &StreamPage) -> Worked<Vec<(String, i64, i64)>> {
    let next = "SELECT stream FROM event WHERE stream > ?1 AND stream < ?2 ORDER BY stream LIMIT 1";
    let mut next = connection.prepare_cached(next)?;
    let last = "SELECT version, at FROM event WHERE stream = ?1 ORDER BY version DESC LIMIT 1";
    let mut last = connection.prepare_cached(last)?;
    let (mut from, end) = page.bounds();
    let mut found = Vec::new();
    while found.len() < page.limit {
        let stream = next.query_row((&from, &end), |row| row.get::<_, String>(0)).optional()?;
        let Some(stream) = stream else { break };
        let (version, at) = last.query_row([&stream], |row| Ok((row.get(0)?, row.get(1)?)))?;
        found.push((stream.clone(), version, at));
        from = stream;
    }
    Ok(found)
}

fn summary((stream, version, at): (String, i64, i64)) -> Result<StreamSummary, EventLogError> {
    let stream = stream.parse().map_err(unreadable)?;
    Ok(StreamSummary { stream, version: uint(version), changed_at: uint(at) })
}

impl EventLog for SqliteStore {
    fn extend<'a>(&'a self, new: &'a NewEvents) -> EventLogFuture<'a, u64> {
        let new = Arc::new(new.clone());
        let work = self.0.writer.ask(move |file| extend(file, &new, now()));
        work.map(|answer| answer?).boxed()
    }

    fn read<'a>(
        &'a self,
        stream: &'a StreamId,
        after: u64,
        limit: usize,
    ) -> EventLogFuture<'a, Vec<Recorded>> {
        let stream = stream.clone();
        let found = self.0.reader.ask(move |file| read(file, &stream, after, limit));
        found.map(|found| found?.into_iter().map(recorded).collect()).boxed()
    }

    fn keep<'a>(&'a self, stream: &'a StreamId, of: &'a Snapshot) -> EventLogFuture<'a, ()> {
        let (stream, of) = (stream.clone(), of.clone());
        let work = self.0.writer.ask(move |file| keep(file, &stream, &of));
        work.map(|done| Ok(done?)).boxed()
    }

    fn snapshot<'a>(&'a self, stream: &'a StreamId) -> EventLogFuture<'a, Option<Snapshot>> {
        let stream = stream.clone();
        let found = self.0.reader.ask(move |file| snapshot(file, &stream));
        let found = found.map(|found| {
            let Some((version, format, state)) = found? else { return Ok(None) };
            Ok(Some(Snapshot { version: uint(version), format, state: json(&state)? }))
        });
        found.boxed()
    }

    fn streams<'a>(&'a self, page: &'a StreamPage) -> EventLogFuture<'a, Vec<StreamSummary>> {
        let page = page.clone();
        let found = self.0.reader.ask(move |file| list(file, &page));
        found.map(|found| found?.into_iter().map(summary).collect()).boxed()
    }
}
