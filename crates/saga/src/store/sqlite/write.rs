//! What changes the tables. Each function looks first, refuses, and only then writes: see [`Fault::Refused`].

use std::time::Duration;

use rusqlite::{Connection, OptionalExtension};

use super::{
    millis,
    queue::{Fault, Worked},
    read::{self, int, state_text, uint},
    schema::{RECORDS, place},
};
use crate::{
    Begin, Claim, Commit, Hold, Json, Mail, MessageId, Release, Renewed, Retention, SagaId, State,
    StoreError,
};

/// Most sagas that one transaction forgets: others wait for it.
const FORGET: usize = 200;

/// Most pages that one transaction gives back to the disk.
const SHRINK: i64 = 2_048;

/// What a writer has to know of a saga.
struct Saga {
    number: i64,
    epoch: u64,
    next: u64,
    state: String,
    ended: bool,
    mail_count: u64,
}

fn find(connection: &Connection, saga: &SagaId) -> rusqlite::Result<Option<Saga>> {
    let sql = "SELECT number, epoch, next, state, finished_at IS NOT NULL, mail_count FROM saga WHERE id = ?1";
    let saga = connection.prepare_cached(sql)?.query_row([saga.as_str()], |row| {
        Ok(Saga {
            number: row.get(0)?,
            epoch: uint(row.get(1)?),
            next: uint(row.get(2)?),
            state: row.get(3)?,
            ended: row.get(4)?,
            mail_count: uint(row.get(5)?),
        })
    });
    saga.optional()
}

pub(super) fn create(
    connection: &Connection,
    begin: &Begin,
    records: &[String],
    now: u64,
) -> Worked<()> {
    if records.len() as u64 > RECORDS {
        return Err(Fault::Refused(StoreError::full("journal of a saga")));
    }
    let sql = "INSERT INTO saga (id, definition, version, state, epoch, node, due, next, created_at, changed_at) \
        VALUES (?1, ?2, ?3, ?4, 1, ?5, ?6, ?7, ?8, ?8) ON CONFLICT (id) DO NOTHING";
    let due = now.saturating_add(millis(begin.lease));
    let made = connection.prepare_cached(sql)?.execute((
        begin.saga.as_str(),
        &*begin.definition,
        begin.version,
        state_text(State::Running)?,
        &*begin.node,
        int(due),
        int(records.len() as u64),
        int(now),
    ))?;
    if made == 0 {
        return Err(Fault::Refused(StoreError::Exists(begin.saga.clone())));
    }
    write_records(connection, connection.last_insert_rowid(), 0, records)
}

fn write_records(connection: &Connection, saga: i64, from: u64, records: &[String]) -> Worked<()> {
    let mut insert = connection.prepare_cached("INSERT INTO journal VALUES (?1, ?2)")?;
    for (sequence, record) in (from..).zip(records) {
        insert.execute((place(saga, sequence), record))?;
    }
    Ok(())
}

/// A commit with its records and messages as they will stand in the file.
pub(super) struct Append {
    pub(super) commit: Commit,
    pub(super) state: String,
    pub(super) records: Vec<String>,
    pub(super) messages: Vec<String>,
}

pub(super) fn append(connection: &Connection, append: &Append, now: u64) -> Worked<()> {
    let Append { commit, state, records, messages } = append;
    let id = &commit.saga;
    let Some(saga) = find(connection, id)? else {
        return Err(Fault::Refused(StoreError::NoSuchSaga(id.clone())));
    };
    if commit.epoch != saga.epoch {
        let (saga, epoch) = (id.clone(), commit.epoch);
        return Err(Fault::Refused(StoreError::Fenced { saga, epoch }));
    }
    if records.is_empty() || commit.expected() != saga.next || saga.ended {
        let (saga, next) = (id.clone(), saga.next);
        return Err(Fault::Refused(StoreError::Conflict { saga, next }));
    }
    if saga.next + records.len() as u64 > RECORDS {
        return Err(Fault::Refused(StoreError::full("journal of a saga")));
    }
    write_records(connection, saga.number, saga.next, records)?;
    // One that is there is of a saga that began and was purged while format 1 was, which told no lives apart.
    let sql = "INSERT OR REPLACE INTO outbox VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
    for (message, text) in commit.outbox.iter().zip(messages) {
        let MessageId { saga, life, sequence, index } = &message.id;
        let row = (saga.as_str(), int(*life), int(*sequence), index, text, int(now));
        connection.prepare_cached(sql)?.execute(row)?;
    }
    let next = int(saga.next + records.len() as u64);
    let (taken, number) = (int(commit.mail_taken), saga.number);
    match &commit.hold {
        // The usual one by far: as little as possible is touched.
        Hold::Keep(lease) if *state == saga.state => {
            let sql = "UPDATE saga SET next = ?2, mail_taken = ?3, changed_at = ?4, crashes = 0, due = ?5 WHERE number = ?1";
            let due = int(now.saturating_add(millis(*lease)));
            connection.prepare_cached(sql)?.execute((number, next, taken, int(now), due))?;
        }
        hold => {
            let finished = commit.state.is_final().then(|| int(now));
            let waits = saga.mail_count > commit.mail_taken;
            let (keep, due, note) = match hold {
                Hold::Keep(lease) => (true, Some(now.saturating_add(millis(*lease))), &None),
                Hold::Park { due, note } => (false, if waits { Some(now) } else { *due }, note),
            };
            let note = note.as_ref().map(Json::get);
            let due = due.filter(|_| finished.is_none()).map(int);
            let sql = "UPDATE saga SET next = ?2, mail_taken = ?3, changed_at = ?4, crashes = 0, due = ?5, state = ?6, \
                finished_at = ?7, node = iif(?8 AND ?7 IS NULL, node, NULL), note = iif(?8, note, ?9) WHERE number = ?1";
            connection.prepare_cached(sql)?.execute((
                number,
                next,
                taken,
                int(now),
                due,
                state,
                finished,
                keep,
                note,
            ))?;
        }
    }
    Ok(())
}

/// What a claim got, to be read outside its transaction: one that meets damage can write no more.
pub(super) struct Claimed {
    pub(super) number: i64,
    pub(super) epoch: u64,
    pub(super) crashes: u32,
}

pub(super) fn claim(connection: &Connection, claim: &Claim, now: u64) -> Worked<Vec<Claimed>> {
    let sql = "UPDATE saga SET epoch = epoch + 1, crashes = min(crashes + (node IS NOT NULL), 4294967295), node = ?2, due = ?3 \
        WHERE number = ?1 RETURNING epoch, crashes";
    let due = int(now.saturating_add(millis(claim.lease)));
    let mut update = connection.prepare_cached(sql)?;
    let mut claimed = Vec::new();
    for number in read::wanted(connection, &claim.wanted, now)? {
        claimed.push(update.query_row((number, &*claim.node, due), |row| {
            Ok(Claimed { number, epoch: uint(row.get(0)?), crashes: row.get(1)? })
        })?);
    }
    Ok(claimed)
}

pub(super) fn renew(
    connection: &Connection,
    held: &[(SagaId, u64)],
    lease: Duration,
    now: u64,
) -> Worked<Renewed> {
    let sql = "UPDATE saga SET due = ?3 WHERE id = ?1 AND epoch = ?2 AND node IS NOT NULL RETURNING mail_count > mail_taken";
    let mut update = connection.prepare_cached(sql)?;
    let due = int(now.saturating_add(millis(lease)));
    let mut renewed = Renewed::default();
    for (saga, epoch) in held {
        let mail = update.query_row((saga.as_str(), int(*epoch), due), |row| row.get(0));
        match mail.optional()? {
            Some(true) => renewed.mail.push(saga.clone()),
            Some(false) => {}
            None => renewed.lost.push(saga.clone()),
        }
    }
    Ok(renewed)
}

pub(super) fn release(connection: &Connection, release: &Release, now: u64) -> Worked<()> {
    let sql = "UPDATE saga SET node = NULL, note = ?3, due = iif(mail_count > mail_taken, ?4, ?5), state = ifnull(?6, state) \
        WHERE id = ?1 AND epoch = ?2 AND node IS NOT NULL";
    let blocked = release.blocked.then(|| state_text(State::Blocked)).transpose()?;
    connection.prepare_cached(sql)?.execute((
        release.saga.as_str(),
        int(release.epoch),
        release.note.as_ref().map(Json::get),
        int(now),
        release.due.map(int),
        blocked,
    ))?;
    Ok(())
}

pub(super) fn send(connection: &Connection, mail: &Mail, now: u64) -> Worked<bool> {
    let refused = match find(connection, &mail.saga)? {
        None => StoreError::NoSuchSaga(mail.saga.clone()),
        Some(saga) if saga.ended => StoreError::Ended(mail.saga.clone()),
        Some(saga) => {
            let sql = "SELECT 1 FROM mail WHERE saga = ?1 AND key = ?2";
            if connection.prepare_cached(sql)?.exists((saga.number, &*mail.key))? {
                return Ok(false);
            }
            if saga.mail_count < Mail::MOST {
                put(connection, &saga, mail, now)?;
                return Ok(true);
            }
            StoreError::full("mail of a saga")
        }
    };
    Err(Fault::Refused(refused))
}

fn put(connection: &Connection, saga: &Saga, mail: &Mail, now: u64) -> Worked<()> {
    let (number, count) = (saga.number, int(saga.mail_count));
    let mut insert = connection.prepare_cached("INSERT INTO mail VALUES (?1, ?2, ?3, ?4)")?;
    insert.execute((number, count, &*mail.key, mail.body.get()))?;
    let sql = "UPDATE saga SET mail_count = mail_count + 1, due = iif(node IS NULL, ?2, due) WHERE number = ?1";
    connection.prepare_cached(sql)?.execute((number, int(now)))?;
    Ok(())
}

/// Forgets some, and says how many and whether there are more.
pub(super) fn purge(connection: &Connection, keep: &Retention, now: u64) -> Worked<(u64, bool)> {
    let newest = "SELECT finished_at, number FROM saga WHERE finished_at IS NOT NULL \
        ORDER BY finished_at DESC, number DESC LIMIT 1 OFFSET ?1";
    let newest = connection.prepare_cached(newest)?.query_row([int(keep.newest as u64)], |row| {
        Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?))
    });
    // What finished in this very millisecond is younger than one.
    let limit = |age: Duration| now.saturating_sub(millis(age)) + u64::from(age.is_zero());
    let limit = int(keep.younger_than.map_or(0, limit)) - 1;
    let last: (i64, i64) = newest.optional()?.unwrap_or((-1, 0)).max((limit, i64::MAX));
    let oldest = "SELECT number FROM saga WHERE finished_at IS NOT NULL AND (finished_at, number) <= (?1, ?2) \
        AND NOT EXISTS (SELECT 1 FROM outbox WHERE outbox.saga = saga.id) ORDER BY finished_at, number LIMIT ?3";
    let mut oldest = connection.prepare_cached(oldest)?;
    let oldest = oldest.query_map((last.0, last.1, FORGET as i64), |row| row.get(0))?;
    let oldest: Vec<i64> = oldest.collect::<Result<_, _>>()?;
    for number in &oldest {
        let records = "DELETE FROM journal WHERE place BETWEEN ?1 AND ?2";
        let all = [place(*number, 0), place(*number, RECORDS - 1)];
        connection.prepare_cached(records)?.execute(all)?;
        for table in ["DELETE FROM mail WHERE saga = ?1", "DELETE FROM saga WHERE number = ?1"] {
            connection.prepare_cached(table)?.execute([number])?;
        }
    }
    let more = oldest.len() == FORGET;
    if !more {
        shrink(connection)?;
    }
    Ok((oldest.len() as u64, more))
}

/// Gives pages back to the disk while more than a quarter of the file is empty. The rest is for the next sagas.
fn shrink(connection: &Connection) -> Worked<()> {
    let pragma = |sql| connection.query_row(sql, (), |row| row.get::<_, i64>(0));
    let (free, all) = (pragma("PRAGMA freelist_count")?, pragma("PRAGMA page_count")?);
    let pages = (free - all / 4).min(SHRINK);
    if pages > 0 {
        // Each step gives one page back.
        let mut vacuum = connection.prepare(&format!("PRAGMA incremental_vacuum({pages})"))?;
        let mut steps = vacuum.query(())?;
        while steps.next()?.is_some() {}
    }
    Ok(())
}
