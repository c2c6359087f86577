//! Events of aggregates.

use futures_util::FutureExt;
use tokio_postgres::Row;

use super::{
    Failure, PostgresStore, Values,
    rows::{escaped, unescaped},
    signed, unsigned,
};
use crate::{
    EventLog, EventLogError, EventLogFuture, Json, NewEvents, Recorded, Snapshot, StoreError,
    StreamId, StreamPage, StreamSummary,
};

impl From<Failure> for EventLogError {
    fn from(failure: Failure) -> Self {
        StoreError::from(failure).into()
    }
}

fn number(row: &Row, column: usize) -> Result<u64, Failure> {
    Ok(unsigned(row.try_get(column)?))
}

fn form(row: &Row, column: usize) -> Result<u32, Failure> {
    Ok(u32::try_from(row.try_get::<_, i64>(column)?).unwrap_or(u32::MAX))
}

fn json(row: &Row, column: usize) -> Result<Json, Failure> {
    let text: &str = row.try_get(column)?;
    serde_json::from_str(text).map_err(|error| Failure::Damaged(error.to_string()))
}

fn recorded(row: &Row) -> Result<Recorded, EventLogError> {
    Ok(Recorded {
        version: number(row, 0)?,
        at: number(row, 1)?,
        note: unescaped(row.try_get(2).map_err(Failure::from)?).into(),
        format: form(row, 3)?,
        event: json(row, 4)?,
    })
}

fn summary(row: &Row) -> Result<StreamSummary, EventLogError> {
    let stream: &str = row.try_get(0).map_err(Failure::from)?;
    let stream = stream.parse::<StreamId>().map_err(EventLogError::failed)?;
    Ok(StreamSummary { stream, version: number(row, 1)?, changed_at: number(row, 2)? })
}

impl PostgresStore {
    /// Why nothing was added: because it is there already, or because something else is.
    async fn refused(&self, new: &NewEvents) -> Result<u64, EventLogError> {
        let (stream, key) = (new.stream.as_str(), escaped(&new.key));
        let values: Values<'_> = &[&stream, &signed(new.expected + 1), &&*key];
        let rows = self.0.ask("stream", values).await?;
        let Some(row) = rows.first() else { return Err(new.conflict(0)) };
        if row.try_get(1).map_err(Failure::from)? {
            return Ok(new.expected + new.events.len() as u64);
        }
        Err(new.conflict(number(row, 0)?))
    }
}

impl EventLog for PostgresStore {
    fn extend<'a>(&'a self, new: &'a NewEvents) -> EventLogFuture<'a, u64> {
        async move {
            let events: Vec<_> = new.events.iter().map(Json::get).collect();
            let (stream, expected) = (new.stream.as_str(), signed(new.expected));
            let end = new.expected + events.len() as u64;
            let (key, note) = (escaped(&new.key), escaped(&new.note));
            let values: Values<'_> = &[
                &stream,
                &expected,
                &signed(end),
                &&*key,
                &&*note,
                &i64::from(new.format),
                &events,
            ];
            if self.0.ask("extend", values).await?.is_empty() {
                return self.refused(new).await;
            }
            Ok(end)
        }
        .boxed()
    }

    fn read<'a>(
        &'a self,
        stream: &'a StreamId,
        after: u64,
        limit: usize,
    ) -> EventLogFuture<'a, Vec<Recorded>> {
        async move {
            let values: Values<'_> = &[&stream.as_str(), &signed(after), &signed(limit as u64)];
            self.0.ask("events", values).await?.iter().map(recorded).collect()
        }
        .boxed()
    }

    fn keep<'a>(&'a self, stream: &'a StreamId, snapshot: &'a Snapshot) -> EventLogFuture<'a, ()> {
        async move {
            let Snapshot { version, format, state } = snapshot;
            let values: Values<'_> =
                &[&stream.as_str(), &signed(*version), &i64::from(*format), &state.get()];
            self.0.ask("keep snapshot", values).await?;
            Ok(())
        }
        .boxed()
    }

    fn snapshot<'a>(&'a self, stream: &'a StreamId) -> EventLogFuture<'a, Option<Snapshot>> {
        async move {
            let rows = self.0.ask("snapshot", &[&stream.as_str()]).await?;
            let Some(row) = rows.first() else { return Ok(None) };
            let (version, format) = (number(row, 0)?, form(row, 1)?);
            Ok(Some(Snapshot { version, format, state: json(row, 2)? }))
        }
        .boxed()
    }

    fn streams<'a>(&'a self, page: &'a StreamPage) -> EventLogFuture<'a, Vec<StreamSummary>> {
        async move {
            let (from, end) = page.bounds();
            let limit = signed(page.limit as u64);
            let rows = self.0.ask("streams", &[&from, &end, &limit]).await?;
            rows.iter().map(summary).collect()
        }
        .boxed()
    }
}
