use std::{fmt, time::Duration};

use rusqlite::{Connection, Transaction};
use serde::Serialize;

use super::{
    Entry, FORMAT, InboxCall, InboxError,
    machine::{Past, Row, decide, quoted, readable, signed},
};
use crate::Json;

/// Tells a receiver with a SQLite database of its own which calls of a saga's steps to carry out: see [`Entry`] for what that guarantees.
///
/// ```
/// use gusset_saga::{Entry, InboxCall, SqliteInbox, rusqlite::Connection};
///
/// /// What the shop's saga calls, by whatever way, as often as it likes.
/// fn reserve(shelf: &mut Connection, inbox: &SqliteInbox, key: &str, epoch: u64) -> Result<String, Box<dyn std::error::Error>> {
///     let call = InboxCall::from_key(key, epoch)?;
///     let transaction = shelf.transaction()?;
///     let answer = match inbox.enter(&transaction, &call)? {
///         Entry::Act => {
///             transaction.execute("UPDATE stock SET left = left - 1", ())?;
///             inbox.answer(&transaction, &call, "one from shelf 7")?;
///             "one from shelf 7".to_owned()
///         }
///         Entry::Undo { .. } => {
///             transaction.execute("UPDATE stock SET left = left + 1", ())?;
///             "put back".to_owned()
///         }
///         Entry::Repeated { answer: Some(answer) } => answer.decode()?,
///         Entry::Repeated { answer: None } | Entry::NothingToUndo => "put back".to_owned(),
///         no => return Err(format!("{no:?}").into()),
///     };
///     transaction.commit()?;
///     Ok(answer)
/// }
///
/// let mut shelf = Connection::open_in_memory()?;
/// shelf.execute_batch("CREATE TABLE stock (left INTEGER); INSERT INTO stock VALUES (10)")?;
/// let inbox = SqliteInbox::new();
/// inbox.prepare(&shelf)?;
///
/// assert_eq!(reserve(&mut shelf, &inbox, "order-1/reserve/do", 1)?, "one from shelf 7");
/// assert_eq!(reserve(&mut shelf, &inbox, "order-1/reserve/do", 1)?, "one from shelf 7", "a repetition");
/// assert_eq!(reserve(&mut shelf, &inbox, "order-2/reserve/undo", 1)?, "put back", "it never came");
/// assert!(reserve(&mut shelf, &inbox, "order-2/reserve/do", 1).is_err(), "too late");
/// let left: u32 = shelf.query_row("SELECT left FROM stock", (), |row| row.get(0))?;
/// assert_eq!(left, 9);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # The table
///
/// `gusset_inbox`, with one row for each operation: `operation` (`<saga>/<step>`), `past` (`acted`, `refused` or `undone`), `epoch` (the highest seen), `answer` (JSON), `at`
/// (milliseconds since 1970). The row without an operation says the format in `epoch`. It grows until [`forget`](Self::forget).
///
/// # Transactions
///
/// [`enter`](Self::enter) writes first, so a deferred transaction that has not read anything before it does not fail half-way; where others write,
/// set a `busy_timeout`. A transaction that is rolled back leaves nothing, and the next call is the first.
pub struct SqliteInbox {
    table: String,
}

impl Default for SqliteInbox {
    fn default() -> Self {
        Self { table: "\"gusset_inbox\"".to_owned() }
    }
}

/// Milliseconds since 1970 as SQLite says them.
const NOW: &str = "CAST(unixepoch('subsec') * 1000 AS INTEGER)";

impl SqliteInbox {
    /// In the table `gusset_inbox`.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// In another table.
    ///
    /// # Errors
    ///
    /// [`InboxError::Table`].
    pub fn named(table: &str) -> Result<Self, InboxError> {
        Ok(Self { table: quoted(table)? })
    }

    /// Makes the table if it is not there.
    ///
    /// # Errors
    ///
    /// [`InboxError::Newer`] if a later release made it, and whatever SQLite says.
    pub fn prepare(&self, database: &Connection) -> Result<(), InboxError> {
        let table = &self.table;
        database.execute_batch(&format!(
            "CREATE TABLE IF NOT EXISTS {table} (
                operation TEXT PRIMARY KEY,
                past TEXT NOT NULL,
                epoch INTEGER NOT NULL,
                answer TEXT,
                at INTEGER NOT NULL
            ) STRICT, WITHOUT ROWID;
            INSERT INTO {table} VALUES ('', 'format', {FORMAT}, NULL, {}) ON CONFLICT (operation) DO NOTHING;",
            i64::MAX
        ))?;
        let format = format!("SELECT epoch FROM {table} WHERE operation = ''");
        readable(database.query_row(&format, (), |row| row.get(0))?)
    }

    /// Says what to do about a call, and notes in this transaction that it is done.
    ///
    /// # Errors
    ///
    /// Whatever SQLite says; a table that is not there is one of it.
    pub fn enter(
        &self,
        transaction: &Transaction<'_>,
        call: &InboxCall,
    ) -> Result<Entry, InboxError> {
        let seen = format!(
            "INSERT INTO {} (operation, past, epoch, at) VALUES (?1, ?2, ?3, {NOW})
             ON CONFLICT (operation) DO UPDATE SET epoch = max(epoch, excluded.epoch)
             RETURNING past, epoch, answer",
            self.table
        );
        let nothing = Past::Nothing.text();
        let row = transaction
            .prepare_cached(&seen)?
            .query_row((&*call.operation, nothing, signed(call.epoch)), |row| {
                Ok(Row { past: row.get(0)?, epoch: row.get(1)?, answer: row.get(2)? })
            })?;
        let (entry, past) = decide(call, row)?;
        if let Some(past) = past {
            let done =
                format!("UPDATE {} SET past = ?2, at = {NOW} WHERE operation = ?1", self.table);
            transaction.prepare_cached(&done)?.execute((&*call.operation, past.text()))?;
        }
        Ok(entry)
    }

    /// Keeps what the action answers, for repetitions and for its undo. After [`Entry::Act`], in the same transaction.
    ///
    /// # Errors
    ///
    /// [`InboxError::NoEntry`] where there was no [`Entry::Act`], [`InboxError::Answer`], and whatever SQLite says.
    pub fn answer<T: Serialize + ?Sized>(
        &self,
        transaction: &Transaction<'_>,
        call: &InboxCall,
        answer: &T,
    ) -> Result<(), InboxError> {
        self.settle(transaction, call, Past::Acted, Json::encode(answer))
    }

    /// Notes that the action was not done and never will be: repetitions are refused as well. After [`Entry::Act`], in the same transaction, in which nothing else
    /// was written; then commit.
    ///
    /// # Errors
    ///
    /// As [`answer`](Self::answer).
    pub fn refuse(
        &self,
        transaction: &Transaction<'_>,
        call: &InboxCall,
        reason: &str,
    ) -> Result<(), InboxError> {
        self.settle(transaction, call, Past::Refused, Json::encode(reason))
    }

    fn settle(
        &self,
        transaction: &Transaction<'_>,
        call: &InboxCall,
        past: Past,
        answer: Result<Json, crate::BoxError>,
    ) -> Result<(), InboxError> {
        let answer = answer.map_err(InboxError::Answer)?;
        let sql = format!(
            "UPDATE {} SET past = ?2, answer = ?3 WHERE operation = ?1 AND past = ?4 AND answer IS NULL",
            self.table
        );
        let values = (&*call.operation, past.text(), answer.get(), Past::Acted.text());
        match transaction.prepare_cached(&sql)?.execute(values)? {
            0 => Err(InboxError::NoEntry(call.operation.clone())),
            _ => Ok(()),
        }
    }

    /// Forgets operations that nothing happened to for `age`, and answers how many. A call that comes later than that counts as the first: keep them for longer than any saga lasts
    /// that calls here, a message can be on its way, and an operator can take to retry.
    ///
    /// # Errors
    ///
    /// Whatever SQLite says.
    pub fn forget(&self, database: &Connection, age: Duration) -> Result<u64, InboxError> {
        let sql = format!("DELETE FROM {} WHERE at <= {NOW} - ?1", self.table);
        let age = i64::try_from(age.as_millis()).unwrap_or(i64::MAX / 2).min(i64::MAX / 2);
        Ok(database.execute(&sql, [age])? as u64)
    }
}

impl fmt::Debug for SqliteInbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SqliteInbox").field(&self.table).finish()
    }
}
