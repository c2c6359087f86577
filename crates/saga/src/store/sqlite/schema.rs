//! The file: what is in it, and how it is opened.

use std::{path::Path, time::Duration};

use rusqlite::{Connection, OpenFlags, TransactionBehavior};

use super::SqliteError;

/// What `user_version` says. A change that an older release cannot work with is a higher number.
pub(super) const FORMAT: i64 = 2;

/// What `application_id` says: `GuSa`.
const APPLICATION: i64 = 0x4775_5361;

/// Bytes of a page.
pub(super) const PAGE: u64 = 4_096;

/// How long a connection waits for one of another process that writes, and for how long between two looks.
const PATIENCE: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// `saga.due` is the end of the lease while there is a `node`, and else from when on the saga may be claimed. Times are milliseconds since 1970.
const TABLES: &str = "
    CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
    CREATE TABLE saga (
        number INTEGER PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        definition TEXT NOT NULL,
        version INTEGER NOT NULL,
        state TEXT NOT NULL,
        epoch INTEGER NOT NULL,
        node TEXT,
        due INTEGER,
        crashes INTEGER NOT NULL DEFAULT 0,
        note TEXT,
        next INTEGER NOT NULL,
        mail_count INTEGER NOT NULL DEFAULT 0,
        mail_taken INTEGER NOT NULL DEFAULT 0,
        created_at INTEGER NOT NULL,
        changed_at INTEGER NOT NULL,
        finished_at INTEGER
    ) STRICT;
    CREATE INDEX saga_due ON saga (due) WHERE due IS NOT NULL;
    CREATE INDEX saga_finished ON saga (finished_at) WHERE finished_at IS NOT NULL;
    CREATE INDEX saga_state ON saga (state, id);
    CREATE TABLE journal (place INTEGER PRIMARY KEY, record TEXT NOT NULL) STRICT;
    CREATE TABLE mail (
        saga INTEGER NOT NULL,
        number INTEGER NOT NULL,
        key TEXT NOT NULL,
        body TEXT NOT NULL,
        PRIMARY KEY (saga, number),
        UNIQUE (saga, key)
    ) STRICT, WITHOUT ROWID;
";

/// What format 2 has and format 1 has not.
const SINCE_2: &str = "
    CREATE TABLE outbox (
        saga TEXT NOT NULL,
        life INTEGER NOT NULL,
        sequence INTEGER NOT NULL,
        place INTEGER NOT NULL,
        message TEXT NOT NULL,
        at INTEGER NOT NULL,
        PRIMARY KEY (saga, life, sequence, place)
    ) STRICT, WITHOUT ROWID;
    CREATE VIEW history AS
        SELECT saga.id AS saga, place & 1048575 AS sequence, record
        FROM saga JOIN journal ON place BETWEEN saga.number << 20 AND saga.number << 20 | 1048575;
    CREATE INDEX outbox_at ON outbox (at);
    CREATE TABLE relaying (
        saga TEXT PRIMARY KEY,
        node TEXT,
        until INTEGER NOT NULL,
        failures INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE event (
        stream TEXT NOT NULL,
        version INTEGER NOT NULL,
        at INTEGER NOT NULL,
        key TEXT NOT NULL,
        note TEXT NOT NULL,
        format INTEGER NOT NULL,
        body TEXT NOT NULL,
        PRIMARY KEY (stream, version)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE snapshot (
        stream TEXT PRIMARY KEY,
        version INTEGER NOT NULL,
        format INTEGER NOT NULL,
        state TEXT NOT NULL
    ) STRICT, WITHOUT ROWID;
";

/// From format 1, and what it had is taken over by [`FROM_1`]. What waits to be relayed is as old as the update. Records had a key of two columns: as a table by row id the journal is written in less
/// time, and a record of some KiB stays in its page.
const TO_2: &str = "
    ALTER TABLE journal RENAME TO journal_1;
    CREATE TABLE journal (place INTEGER PRIMARY KEY, record TEXT NOT NULL) STRICT;
    INSERT INTO journal SELECT saga << 20 | sequence, record FROM journal_1 ORDER BY saga, sequence;
    DROP TABLE journal_1;
    ALTER TABLE outbox RENAME TO outbox_1;
    DROP TABLE relay;
";

const FROM_1: &str = "
    INSERT INTO outbox SELECT saga, 0, sequence, place, message, CAST(unixepoch('subsec') * 1000 AS INTEGER) FROM outbox_1;
    DROP TABLE outbox_1;
";

/// Records that the journal of one saga has room for, by how their places are made.
pub(super) const RECORDS: u64 = 1 << 20;

/// Place of a record: the number of its saga, and behind it 20 bits for its sequence.
pub(super) const fn place(saga: i64, sequence: u64) -> i64 {
    saga << 20 | (sequence & (RECORDS - 1)) as i64
}

/// The connection that writes. Where `make` says so, it makes the file if there is none.
pub(super) fn writer(
    path: &Path,
    most: Option<u64>,
    make: bool,
) -> Result<Connection, SqliteError> {
    let mut tries = 0;
    loop {
        match try_writer(path, most, make) {
            // Who turns a new file over to the write-ahead log is refused at once while another does.
            Err(SqliteError::Locked(_)) if wait(tries) => tries += 1,
            opened => return opened,
        }
    }
}

fn try_writer(path: &Path, most: Option<u64>, make: bool) -> Result<Connection, SqliteError> {
    if !make && path.try_exists().is_ok_and(|there| !there) {
        return Err(SqliteError::Missing);
    }
    let create = if make { OpenFlags::SQLITE_OPEN_CREATE } else { OpenFlags::empty() };
    let mut connection = connect(path, create)?;
    // Looked at before anything is changed: it may be another program's.
    match check(&connection)? {
        None if !make => return Err(SqliteError::Missing),
        // A program of the release that made it may be using it.
        Some(found) if !make && found < FORMAT => return Err(SqliteError::Older(found)),
        _ => {}
    }
    // Has an effect on a file without tables only, and before the log is chosen.
    connection.pragma_update(None, "page_size", PAGE as i64)?;
    connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
    let mode: String =
        connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))?;
    if mode != "wal" {
        return Err(SqliteError::NoLog(mode.into()));
    }
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "fullfsync", true)?;
    connection.pragma_update(None, "checkpoint_fullfsync", true)?;
    connection.pragma_update(None, "journal_size_limit", 64 << 20)?;
    connection.pragma_update(None, "cache_size", -8_192)?;
    if let Some(bytes) = most {
        let pages = i64::try_from(bytes / PAGE).unwrap_or(i64::MAX).max(1);
        connection.pragma_update(None, "max_page_count", pages)?;
    }
    // An empty transaction all the same if there is nothing to make: a file that cannot be written is told now.
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let found = check(&transaction)?;
    if found == Some(1) {
        transaction.execute_batch(TO_2)?;
        transaction.execute_batch(SINCE_2)?;
        transaction.execute_batch(FROM_1)?;
        let now = "UPDATE meta SET value = ?1 WHERE key = 'format'";
        transaction.execute(now, [FORMAT.to_string()])?;
        transaction.pragma_update(None, "user_version", FORMAT)?;
    }
    if found.is_none() {
        transaction.execute_batch(TABLES)?;
        transaction.execute_batch(SINCE_2)?;
        let made = "INSERT INTO meta VALUES ('format', ?1), ('made_by', ?2)";
        transaction.execute(made, (FORMAT.to_string(), env!("CARGO_PKG_VERSION")))?;
        transaction.pragma_update(None, "application_id", APPLICATION)?;
        transaction.pragma_update(None, "user_version", FORMAT)?;
    }
    transaction.commit()?;
    Ok(connection)
}

/// A connection that reads, of a file that is there.
pub(super) fn reader(path: &Path) -> Result<Connection, SqliteError> {
    let connection = connect(path, OpenFlags::empty())?;
    connection.pragma_update(None, "query_only", true)?;
    Ok(connection)
}

fn connect(path: &Path, more: OpenFlags) -> Result<Connection, SqliteError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX | more;
    let mut connection = Connection::open_with_flags(path, flags)?;
    connection.busy_handler(Some(wait))?;
    connection.set_prepared_statement_cache_capacity(32);
    connection.pragma_update(None, "trusted_schema", false)?;
    Ok(connection)
}

/// The format of the file, `None` while it is empty; fails if it is not ours, or of a later release.
fn check(connection: &Connection) -> Result<Option<i64>, SqliteError> {
    let read = "SELECT (SELECT application_id FROM pragma_application_id), \
        (SELECT user_version FROM pragma_user_version), (SELECT count(*) FROM sqlite_schema)";
    let row = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?));
    match connection.query_row(read, (), row)? {
        (0_i64, 0_i64, 0_i64) => Ok(None),
        (APPLICATION, found @ 1..=FORMAT, _) => Ok(Some(found)),
        (APPLICATION, found, _) if found > FORMAT => Err(SqliteError::Newer(found)),
        _ => Err(SqliteError::Foreign),
    }
}

/// A fixed pause, and not SQLite's growing one: whoever looks ten times a second hardly ever finds a busy writer between two transactions.
#[expect(
    clippy::disallowed_methods,
    reason = "on a thread of its own, which has nothing else to do"
)]
fn wait(tries: i32) -> bool {
    let patient = LOOK_EVERY * tries.unsigned_abs() < PATIENCE;
    if patient {
        std::thread::sleep(LOOK_EVERY);
    }
    patient
}
