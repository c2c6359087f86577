//! The tables, and which releases may use them.
//!
//! `format.version` counts changes of the tables. `format.compatible` is the oldest format whose releases can work with them: a change that only adds
//! leaves it, so that nodes of two releases run side by side during an update. A release refuses tables whose `compatible` is above its own format.

use tokio_postgres::{Client, Row, error::SqlState};

use super::{Failure, sql::Sql};

/// The format that this release makes.
const FORMAT: i32 = 2;

/// Whose releases can work with it.
const COMPATIBLE: i32 = 1;

/// Any two constants will do, as long as all releases have the same: `gusset` and `saga` in ASCII.
const LOCK: &str = "SELECT pg_advisory_xact_lock(x'67757373'::int4, hashtext($1))";

/// Fails unless the tables are there and this release can work with them.
pub(super) async fn check(client: &Client, sql: &Sql) -> Result<(), Failure> {
    let row = client.query_one(&sql.get("format"), &[]).await?;
    readable(&row)
}

/// Makes the tables, or what is new in them. Where all is there nothing is written, so that a role that may not create anything can work with what
/// another one made.
pub(super) async fn prepare(client: &mut Client, sql: &Sql, make: bool) -> Result<(), Failure> {
    let missing = [SqlState::UNDEFINED_TABLE, SqlState::INVALID_SCHEMA_NAME];
    match client.query_one(&sql.get("format"), &[]).await {
        Ok(row) if row.try_get::<_, i32>(0)? < FORMAT => {
            if !make {
                return Err(Failure::Older(row.try_get(0)?));
            }
        }
        Ok(row) => return readable(&row),
        Err(error) if error.code().is_some_and(|code| missing.contains(code)) => {
            if !make {
                return Err(Failure::Missing(sql.schema().to_owned()));
            }
        }
        Err(error) => return Err(error.into()),
    }
    let transaction = client.transaction().await?;
    // One node makes them, the others wait for it here and find them made.
    transaction.execute(LOCK, &[&sql.schema()]).await?;
    let there = "SELECT FROM pg_namespace WHERE nspname = $1";
    if transaction.query_opt(there, &[&sql.schema()]).await?.is_none() {
        transaction.batch_execute(&sql.get("create schema")).await?;
    }
    let there = "SELECT FROM pg_tables WHERE schemaname = $1 AND tablename = 'format'";
    if transaction.query_opt(there, &[&sql.schema()]).await?.is_none() {
        transaction.batch_execute(&sql.get("create tables")).await?;
        transaction.execute(&sql.get("set format"), &[&1_i32, &COMPATIBLE]).await?;
    }
    let row = transaction.query_one(&sql.get("format"), &[]).await?;
    readable(&row)?;
    if row.try_get::<_, i32>(0)? < FORMAT {
        transaction.batch_execute(&sql.get("add of format 2")).await?;
        transaction.execute(&sql.get("raise format"), &[&FORMAT]).await?;
    }
    transaction.commit().await?;
    Ok(())
}

fn readable(row: &Row) -> Result<(), Failure> {
    let (version, compatible): (i32, i32) = (row.try_get(0)?, row.try_get(1)?);
    if compatible > FORMAT {
        return Err(Failure::Newer { version, compatible, known: FORMAT });
    }
    Ok(())
}
