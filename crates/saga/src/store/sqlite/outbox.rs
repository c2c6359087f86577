//! What waits to be relayed.

use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, Row};

use super::{
    millis,
    queue::Worked,
    read::{int, uint, unreadable},
};
use crate::{Bundle, MessageId, Pending, Relay, Relayed, SagaId, StoreError};

/// Messages as they stand in the file: life, sequence, place, text.
type Raw = (i64, i64, u32, String);

pub(super) struct RawBundle {
    saga: String,
    failures: u32,
    messages: Vec<Raw>,
}

impl RawBundle {
    pub(super) fn bundle(self) -> Result<Bundle, StoreError> {
        let saga: SagaId = self.saga.parse().map_err(unreadable)?;
        let messages = self.messages.iter();
        let messages = messages.map(|(life, sequence, place, text)| {
            let id = MessageId::new(saga.clone(), uint(*sequence), *place);
            (id.of_life(uint(*life)), &**text)
        });
        Ok(Bundle::new(saga.clone(), self.failures, messages))
    }
}

/// Goes from saga to saga by the key of the table, so it costs as many look-ups as there are sagas, and not messages. Where nothing can be had, nothing is written.
pub(super) fn bundles(connection: &Connection, relay: &Relay, now: u64) -> Worked<Vec<RawBundle>> {
    let mut next = connection
        .prepare_cached("SELECT saga FROM outbox WHERE saga > ?1 ORDER BY saga LIMIT 1")?;
    let hold = "INSERT INTO relaying VALUES (?1, ?2, ?3, 0) ON CONFLICT (saga) DO UPDATE SET node = ?2, until = ?3 \
        WHERE until <= ?4 RETURNING failures";
    let mut hold = connection.prepare_cached(hold)?;
    let until = int(now.saturating_add(millis(relay.lease)));
    let mut last = relay.after.as_ref().map_or("", SagaId::as_str).to_owned();
    let mut bundles = Vec::new();
    while bundles.len() < relay.sagas {
        let saga = next.query_row([&last], |row| row.get::<_, String>(0)).optional()?;
        let Some(saga) = saga else { break };
        let held = hold.query_row((&saga, &*relay.node, until, int(now)), |row| row.get(0));
        if let Some(failures) = held.optional()? {
            let messages = messages(connection, &saga, relay.messages)?;
            bundles.push(RawBundle { saga: saga.clone(), failures, messages });
        }
        last = saga;
    }
    Ok(bundles)
}

fn messages(connection: &Connection, saga: &str, most: usize) -> rusqlite::Result<Vec<Raw>> {
    let sql = "SELECT life, sequence, place, message FROM outbox WHERE saga = ?1 ORDER BY life, sequence, place LIMIT ?2";
    let message = |row: &Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?));
    let most = int(most.max(1) as u64);
    connection.prepare_cached(sql)?.query_map((saga, most), message)?.collect()
}

pub(super) fn relayed(connection: &Connection, done: &[Relayed], now: u64) -> Worked<()> {
    let delete =
        "DELETE FROM outbox WHERE saga = ?1 AND life = ?2 AND sequence = ?3 AND place = ?4";
    let mut delete = connection.prepare_cached(delete)?;
    for MessageId { saga, life, sequence, index } in done.iter().flat_map(|done| &done.sent) {
        delete.execute((saga.as_str(), int(*life), int(*sequence), index))?;
    }
    let free = "DELETE FROM relaying WHERE saga = ?1 AND node = ?2";
    let mut free = connection.prepare_cached(free)?;
    let pause =
        "UPDATE relaying SET node = NULL, until = ?3, failures = ?4 WHERE saga = ?1 AND node = ?2";
    let mut pause = connection.prepare_cached(pause)?;
    for Relayed { saga, node, pause: span, .. } in done {
        let (saga, node) = (saga.as_str(), &**node);
        match span {
            None => free.execute((saga, node))?,
            Some((span, failures)) => {
                let until = int(now.saturating_add(millis(*span)));
                pause.execute((saga, node, until, failures))?
            }
        };
    }
    Ok(())
}

pub(super) fn pending(connection: &Connection, now: u64) -> Worked<Pending> {
    let sql = "SELECT (SELECT count(*) FROM outbox), (SELECT min(at) FROM outbox), \
        (SELECT count(*) FROM relaying WHERE failures > 0)";
    let mut statement = connection.prepare_cached(sql)?;
    let pending = statement.query_row((), |row| {
        let since: Option<i64> = row.get(1)?;
        let age = since.map(|since| Duration::from_millis(now.saturating_sub(uint(since))));
        Ok(Pending::new(uint(row.get(0)?), age, uint(row.get(2)?)))
    });
    Ok(pending?)
}
