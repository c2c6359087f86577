use std::{fmt, time::Duration};

use serde::Serialize;
use tokio_postgres::{GenericClient, Transaction, types::Type};

use super::{
    Entry, FORMAT, InboxCall, InboxError,
    machine::{Past, Row, decide, quoted, readable, signed},
};
use crate::Json;

/// Tells a receiver with a PostgreSQL database of its own which calls of a saga's steps to carry out: see [`Entry`] for what that guarantees.
///
/// ```no_run
/// use gusset_saga::{Entry, InboxCall, PostgresInbox, tokio_postgres::Client};
///
/// /// What the shop's saga calls, by whatever way, as often as it likes.
/// async fn reserve(shelf: &mut Client, inbox: &PostgresInbox, key: &str, epoch: u64) -> Result<String, Box<dyn std::error::Error>> {
///     let call = InboxCall::from_key(key, epoch)?;
///     let transaction = shelf.transaction().await?;
///     let answer = match inbox.enter(&transaction, &call).await? {
///         Entry::Act => {
///             transaction.execute("UPDATE stock SET amount = amount - 1", &[]).await?;
///             inbox.answer(&transaction, &call, "one from shelf 7").await?;
///             "one from shelf 7".to_owned()
///         }
///         Entry::Undo { .. } => {
///             transaction.execute("UPDATE stock SET amount = amount + 1", &[]).await?;
///             "put back".to_owned()
///         }
///         Entry::Repeated { answer: Some(answer) } => answer.decode()?,
///         Entry::Repeated { answer: None } | Entry::NothingToUndo => "put back".to_owned(),
///         no => return Err(format!("{no:?}").into()),
///     };
///     transaction.commit().await?;
///     Ok(answer)
/// }
/// ```
///
/// # The table
///
/// `gusset_inbox`, with one row for each operation: `operation` (`<saga>/<step>`), `past` (`acted`, `refused` or `undone`), `epoch` (the highest seen), `answer` (JSON), `at`
/// (milliseconds since 1970). The row without an operation says the format in `epoch`. It grows until [`forget`](Self::forget).
///
/// # Transactions
///
/// Any isolation level will do. [`enter`](Self::enter) locks the row of its operation: who calls for the same one waits until this transaction ends, and then sees what it did
/// (or fails to be serialised, from repeatable read on, and is to be tried again). One that is rolled back leaves nothing, and the next call is the first.
///
/// # Cancellation
///
/// As for any statement of the transaction: roll it back.
pub struct PostgresInbox {
    table: String,
}

impl Default for PostgresInbox {
    fn default() -> Self {
        Self { table: "\"gusset_inbox\"".to_owned() }
    }
}

/// Milliseconds since 1970 as PostgreSQL says them.
const NOW: &str = "(extract(epoch FROM clock_timestamp()) * 1000)::int8";

impl PostgresInbox {
    /// In the table `gusset_inbox`, wherever the `search_path` leads to.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// In another table; a schema may stand before it: `shop.inbox`.
    ///
    /// # Errors
    ///
    /// [`InboxError::Table`].
    pub fn named(table: &str) -> Result<Self, InboxError> {
        Ok(Self { table: quoted(table)? })
    }

    /// Makes the table if it is not there. Several may do so at once.
    ///
    /// # Errors
    ///
    /// [`InboxError::Newer`] if a later release made it, and whatever PostgreSQL says.
    pub async fn prepare(&self, database: &(impl GenericClient + Sync)) -> Result<(), InboxError> {
        let table = &self.table;
        // What is sent at once is one transaction.
        let make = format!(
            "SELECT pg_advisory_xact_lock(x'67757373'::int4, hashtext('{table}'));
             CREATE TABLE IF NOT EXISTS {table} (
                operation text COLLATE \"C\" PRIMARY KEY,
                past text NOT NULL,
                epoch int8 NOT NULL,
                answer text,
                at int8 NOT NULL
             );
             INSERT INTO {table} VALUES ('', 'format', {FORMAT}, NULL, {}) ON CONFLICT (operation) DO NOTHING",
            i64::MAX
        );
        let format = format!("SELECT epoch FROM {table} WHERE operation = ''");
        // Who may not make tables works with the one that there is.
        let there = "SELECT to_regclass($1) IS NOT NULL";
        let there = database.query_typed(there, &[(&self.table, Type::TEXT)]).await?;
        if !there.first().map_or(Ok(false), |row| row.try_get(0))? {
            database.batch_execute(&make).await?;
        }
        let rows = database.query_typed(&format, &[]).await?;
        readable(rows.first().map_or(Ok(FORMAT), |row| row.try_get(0))?)
    }

    /// Says what to do about a call, and notes in this transaction that it is done.
    ///
    /// # Errors
    ///
    /// Whatever PostgreSQL says; a table that is not there is one of it.
    pub async fn enter(
        &self,
        transaction: &Transaction<'_>,
        call: &InboxCall,
    ) -> Result<Entry, InboxError> {
        let seen = format!(
            "INSERT INTO {} AS i (operation, past, epoch, at) VALUES ($1, $2, $3, {NOW})
             ON CONFLICT (operation) DO UPDATE SET epoch = greatest(i.epoch, excluded.epoch)
             RETURNING past, epoch, answer",
            self.table
        );
        let (operation, nothing) = (&*call.operation, Past::Nothing.text());
        let epoch = signed(call.epoch);
        let values: Values<'_> =
            &[(&operation, Type::TEXT), (&nothing, Type::TEXT), (&epoch, Type::INT8)];
        let rows = transaction.query_typed(&seen, values).await?;
        let no_entry = || InboxError::NoEntry(call.operation.clone());
        let row = rows.first().ok_or_else(no_entry)?;
        let row = Row { past: row.try_get(0)?, epoch: row.try_get(1)?, answer: row.try_get(2)? };
        let (entry, past) = decide(call, row)?;
        if let Some(past) = past.map(Past::text) {
            let done =
                format!("UPDATE {} SET past = $2, at = {NOW} WHERE operation = $1", self.table);
            let values: Values<'_> = &[(&operation, Type::TEXT), (&past, Type::TEXT)];
            transaction.query_typed(&done, values).await?;
        }
        Ok(entry)
    }

    /// Keeps what the action answers, for repetitions and for its undo. After [`Entry::Act`], in the same transaction.
    ///
    /// # Errors
    ///
    /// [`InboxError::NoEntry`] where there was no [`Entry::Act`], [`InboxError::Answer`], and whatever PostgreSQL says.
    pub async fn answer<T: Serialize + ?Sized>(
        &self,
        transaction: &Transaction<'_>,
        call: &InboxCall,
        answer: &T,
    ) -> Result<(), InboxError> {
        let answer = Json::encode(answer).map_err(InboxError::Answer)?;
        self.settle(transaction, call, Past::Acted, answer).await
    }

    /// Notes that the action was not done and never will be: repetitions are refused as well. After [`Entry::Act`], in the same transaction, in which nothing else
    /// was written; then commit.
    ///
    /// # Errors
    ///
    /// As [`answer`](Self::answer).
    pub async fn refuse(
        &self,
        transaction: &Transaction<'_>,
        call: &InboxCall,
        reason: &str,
    ) -> Result<(), InboxError> {
        let reason = Json::encode(reason).map_err(InboxError::Answer)?;
        self.settle(transaction, call, Past::Refused, reason).await
    }

    async fn settle(
        &self,
        transaction: &Transaction<'_>,
        call: &InboxCall,
        past: Past,
        answer: Json,
    ) -> Result<(), InboxError> {
        let sql = format!(
            "UPDATE {} SET past = $2, answer = $3 WHERE operation = $1 AND past = $4 AND answer IS NULL RETURNING true",
            self.table
        );
        let (operation, past, acted) = (&*call.operation, past.text(), Past::Acted.text());
        let answer = answer.get();
        let values: Values<'_> = &[
            (&operation, Type::TEXT),
            (&past, Type::TEXT),
            (&answer, Type::TEXT),
            (&acted, Type::TEXT),
        ];
        if transaction.query_typed(&sql, values).await?.is_empty() {
            return Err(InboxError::NoEntry(call.operation.clone()));
        }
        Ok(())
    }

    /// Forgets operations that nothing happened to for `age`, and answers how many. A call that comes later than that counts as the first: keep them for longer than any saga lasts
    /// that calls here, a message can be on its way, and an operator can take to retry.
    ///
    /// # Errors
    ///
    /// Whatever PostgreSQL says.
    pub async fn forget(
        &self,
        database: &(impl GenericClient + Sync),
        age: Duration,
    ) -> Result<u64, InboxError> {
        let sql = format!("DELETE FROM {} WHERE at <= {NOW} - $1::int8 RETURNING true", self.table);
        let age = i64::try_from(age.as_millis()).unwrap_or(i64::MAX).min(i64::MAX / 2);
        Ok(database.query_typed(&sql, &[(&age, Type::INT8)]).await?.len() as u64)
    }
}

type Values<'a> = &'a [(&'a (dyn tokio_postgres::types::ToSql + Sync), Type)];

impl fmt::Debug for PostgresInbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PostgresInbox").field(&self.table).finish()
    }
}
