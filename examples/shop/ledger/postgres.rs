//! Rows in a PostgreSQL database.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use gusset::call::BoxError;
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::timeout,
};
use tokio_postgres::{Client, NoTls};

use super::{Answer, Decide, Engine, Ledger, NotKept, Page, Place, Row};
use crate::api::lock;

/// What the table `format` says. A change that an older release cannot work with is a higher number.
const FORMAT: i32 = 1;

/// How many connections a process has at most; further callers wait for one.
const CONNECTIONS: usize = 4;

/// How long anything may take. What is cut off then is not done, or its answer is not known.
const LIMIT: Duration = Duration::from_secs(5);

/// Two processes that begin at once must not both make the tables, which `IF NOT EXISTS` alone does not prevent.
const MAKE: &str = "BEGIN;
    SELECT pg_advisory_xact_lock(hashtextextended('gusset_shop', 0));
    CREATE SCHEMA IF NOT EXISTS gusset_shop;
    CREATE TABLE IF NOT EXISTS gusset_shop.kept (
        kind text NOT NULL, key text NOT NULL, value jsonb NOT NULL, PRIMARY KEY (kind, key));
    CREATE TABLE IF NOT EXISTS gusset_shop.format (one boolean PRIMARY KEY DEFAULT true CHECK (one), number integer NOT NULL);
    INSERT INTO gusset_shop.format (number) VALUES (1) ON CONFLICT DO NOTHING;
    COMMIT";

/// Rows that are not there yet cannot be locked, so their names are. All in one order, so that no two wait for each other.
const LOCK: &str = "SELECT pg_advisory_xact_lock(hash) FROM (
    SELECT DISTINCT hashtextextended(kind || ' ' || key, 1) AS hash
    FROM unnest($1::text[], $2::text[]) AS place (kind, key) ORDER BY 1) AS names";

const GET: &str = "SELECT kind, key, value::text FROM gusset_shop.kept
    WHERE (kind, key) IN (SELECT * FROM unnest($1::text[], $2::text[]))";

const PUT: &str = "INSERT INTO gusset_shop.kept
    SELECT kind, key, value::jsonb FROM unnest($1::text[], $2::text[], $3::text[]) AS given (kind, key, value)
    ON CONFLICT (kind, key) DO UPDATE SET value = excluded.value";

const REMOVE: &str = "DELETE FROM gusset_shop.kept
    WHERE (kind, key) IN (SELECT * FROM unnest($1::text[], $2::text[]))";

const LIST: &str =
    "SELECT key, value::text FROM gusset_shop.kept WHERE kind = $1 ORDER BY key COLLATE \"C\"";

struct Postgres {
    url: String,
    places: Semaphore,
    idle: Mutex<Vec<Client>>,
}

/// Connects, and makes the tables in the schema `gusset_shop` if they are not there.
pub(crate) async fn connect(url: &str) -> Result<Ledger, BoxError> {
    let (places, idle) = (Semaphore::new(CONNECTIONS), Mutex::default());
    let postgres = Postgres { url: url.to_owned(), places, idle };
    let first = postgres.client().await?;
    first.batch_execute(MAKE).await?;
    let found: i32 = first.query_one("SELECT number FROM gusset_shop.format", &[]).await?.get(0);
    if found > FORMAT {
        return Err(format!(
            "a newer shop made the tables (format {found}, this one knows up to {FORMAT})"
        )
        .into());
    }
    lock(&postgres.idle).push(first);
    Ok(Ledger(Arc::new(postgres)))
}

impl Postgres {
    /// One that is idle, or a new one. The task that drives a connection ends with it.
    async fn client(&self) -> Result<Client, tokio_postgres::Error> {
        let idle = std::iter::from_fn(|| lock(&self.idle).pop()).find(|idle| !idle.is_closed());
        if let Some(client) = idle {
            return Ok(client);
        }
        let (client, connection) = tokio_postgres::connect(&self.url, NoTls).await?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::warn!(error = &error as &dyn std::error::Error, "a connection broke");
            }
        });
        client.batch_execute("SET synchronous_commit = on; SET statement_timeout = '5s'").await?;
        Ok(client)
    }

    async fn lend(&self) -> Result<Lent<'_>, tokio_postgres::Error> {
        let place = self.places.acquire().await;
        Ok(Lent { client: self.client().await?, _place: place.ok() })
    }

    fn take_back(&self, lent: Lent<'_>) {
        lock(&self.idle).push(lent.client);
    }
}

/// A connection that is at work. One that is not [taken back](Postgres::take_back) is closed, which takes back what it was at.
struct Lent<'a> {
    client: Client,
    _place: Option<SemaphorePermit<'a>>,
}

async fn within<T>(
    work: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, NotKept> {
    let error: BoxError = match timeout(LIMIT, work).await {
        Ok(Ok(done)) => return Ok(done),
        Ok(Err(error)) => error.into(),
        Err(late) => late.into(),
    };
    tracing::error!(error = &*error, "the shop's database");
    Err(NotKept)
}

/// As the arrays that statements take.
fn columns(places: &[Place]) -> (Vec<&str>, Vec<&str>) {
    places.iter().map(|place| (place.kind, &*place.key)).unzip()
}

async fn values(
    client: &Client,
    places: Vec<Place>,
) -> Result<Vec<(Place, Option<String>)>, tokio_postgres::Error> {
    let (kinds, keys) = columns(&places);
    let rows = client.query(GET, &[&kinds, &keys]).await?;
    let at = |place: &Place| {
        let row = rows
            .iter()
            .find(|row| row.get::<_, &str>(0) == place.kind && row.get::<_, &str>(1) == place.key);
        row.map(|row| row.get(2))
    };
    Ok(places.iter().map(|place| (place.clone(), at(place))).collect())
}

async fn change(
    client: &Client,
    places: Vec<Place>,
    decide: Decide,
) -> Result<(), tokio_postgres::Error> {
    client.batch_execute("BEGIN").await?;
    let mut read = Vec::new();
    if !places.is_empty() {
        let (kinds, keys) = columns(&places);
        client.query(LOCK, &[&kinds, &keys]).await?;
        // A statement of its own sees what was committed until it had the locks.
        read = values(client, places).await?;
    }
    let mut page = Page::new(read);
    decide(&mut page);
    put(client, &page).await?;
    client.batch_execute("COMMIT").await
}

async fn put(client: &Client, page: &Page) -> Result<(), tokio_postgres::Error> {
    let (mut kinds, mut keys, mut values) = (Vec::new(), Vec::new(), Vec::new());
    let (mut gone_kinds, mut gone_keys) = (Vec::new(), Vec::new());
    for Row { place: Place { kind, key }, value } in &page.written {
        match value {
            Some(value) => {
                kinds.push(*kind);
                keys.push(&**key);
                values.push(&**value);
            }
            None => {
                gone_kinds.push(*kind);
                gone_keys.push(&**key);
            }
        }
    }
    if !kinds.is_empty() {
        client.execute(PUT, &[&kinds, &keys, &values]).await?;
    }
    if !gone_kinds.is_empty() {
        client.execute(REMOVE, &[&gone_kinds, &gone_keys]).await?;
    }
    Ok(())
}

impl Engine for Postgres {
    fn change(&self, places: Vec<Place>, decide: Decide) -> Answer<'_, ()> {
        Box::pin(within(async {
            let lent = self.lend().await?;
            change(&lent.client, places, decide).await?;
            self.take_back(lent);
            Ok(())
        }))
    }

    fn get(&self, place: Place) -> Answer<'_, Option<String>> {
        Box::pin(within(async {
            let lent = self.lend().await?;
            let mut found = values(&lent.client, vec![place]).await?;
            self.take_back(lent);
            Ok(found.pop().and_then(|(_, value)| value))
        }))
    }

    fn list(&self, kind: &'static str) -> Answer<'_, Vec<(String, String)>> {
        Box::pin(within(async move {
            let lent = self.lend().await?;
            let rows = lent.client.query(LIST, &[&kind]).await?;
            self.take_back(lent);
            Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
        }))
    }
}
