//! What the services of a shop keep: rows of a kind and a key, each with JSON, on one of three engines.
//!
//! | engine | who shares it |
//! |---|---|
//! | [`memory`] | this process, and it ends with it |
//! | [`sqlite`] | the processes of this machine |
//! | [`postgres`] | whoever reaches the database |
//!
//! Services hold nothing between two calls, so any number of instances, here or in processes of their own, work on the same rows.

mod memory;
#[cfg(feature = "postgres")]
pub(crate) mod postgres;
#[cfg(feature = "files")]
pub(crate) mod sqlite;
#[cfg(test)]
mod tests;

use std::{error::Error, fmt, future::Future, pin::Pin, str::FromStr, sync::Arc};

use gusset::call::Problem;
use http::StatusCode;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::json;
use tokio::sync::oneshot;

use crate::api::problem;

/// Where a row stands.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) kind: &'static str,
    pub(crate) key: String,
}

/// What holds at a place, until a later row says otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) place: Place,
    /// JSON; `None` if there is nothing any more.
    pub(crate) value: Option<String>,
}

/// The rows that a change is about, as nobody else changes them before it is written.
#[derive(Debug)]
pub(crate) struct Page {
    read: Vec<(Place, Option<String>)>,
    written: Vec<Row>,
}

/// What should be kept cannot be written or read at present.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotKept;

type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, NotKept>> + Send + 'a>>;

/// Says what is to be written.
type Decide = Box<dyn FnOnce(&mut Page) + Send>;

/// Keeps rows.
trait Engine: Send + Sync {
    /// Reads these places, has `decide` write to the page, and keeps that: all of it or nothing, before this is ready. Nobody else changes the places in between.
    /// A change that was begun is not ended by dropping the future.
    fn change(&self, places: Vec<Place>, decide: Decide) -> Answer<'_, ()>;

    fn get(&self, place: Place) -> Answer<'_, Option<String>>;

    /// All of a kind, by key.
    fn list(&self, kind: &'static str) -> Answer<'_, Vec<(String, String)>>;
}

/// Where the services of a shop keep what they know. Clones are one; the default one is in memory.
#[derive(Clone)]
pub(crate) struct Ledger(Arc<dyn Engine>);

impl Default for Ledger {
    fn default() -> Self {
        Self(Arc::new(memory::Memory::default()))
    }
}

impl Ledger {
    /// Reads what stands at these places, and writes what `decide` puts down, if that is `Ok`: all of it or nothing. Nobody changes the places in between.
    ///
    /// # Errors
    ///
    /// That of `decide`, or [`NotKept`]. Whether anything was written is not known then.
    pub(crate) async fn change<T, E>(
        &self,
        places: impl IntoIterator<Item = Place>,
        decide: impl FnOnce(&mut Page) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<NotKept> + Send + 'static,
    {
        let (tell, told) = oneshot::channel();
        let decide = move |page: &mut Page| {
            let decided = decide(page);
            if decided.is_err() {
                page.written.clear();
            }
            let _ = tell.send(decided);
        };
        self.0.change(places.into_iter().collect(), Box::new(decide)).await?;
        told.await.unwrap_or(Err(NotKept.into()))
    }

    /// Writes one row, whatever stood there.
    #[cfg(test)]
    pub(crate) async fn put(
        &self,
        kind: &'static str,
        key: impl ToString,
        value: &impl Serialize,
    ) -> Result<(), NotKept> {
        let row = Row::new(kind, key, value);
        self.change([], move |page| {
            page.written.push(row);
            Ok(())
        })
        .await
    }

    pub(crate) async fn get<T: DeserializeOwned>(
        &self,
        kind: &'static str,
        key: impl ToString,
    ) -> Result<Option<T>, NotKept> {
        let place = place(kind, key);
        let value = self.0.get(place.clone()).await?;
        value.map(|value| read(kind, &place.key, &value)).transpose()
    }

    /// All of a kind, by key.
    pub(crate) async fn list<K, T>(&self, kind: &'static str) -> Result<Vec<(K, T)>, NotKept>
    where
        K: FromStr,
        T: DeserializeOwned,
    {
        let rows = self.0.list(kind).await?;
        let known = |(key, value): (String, String)| {
            let known = key.parse().map_err(|_| unreadable(kind, &key))?;
            Ok((known, read(kind, &key, &value)?))
        };
        rows.into_iter().map(known).collect()
    }
}

/// Where the row of a kind and a key stands.
pub(crate) fn place(kind: &'static str, key: impl ToString) -> Place {
    Place { kind, key: key.to_string() }
}

impl Row {
    fn new(kind: &'static str, key: impl ToString, value: &impl Serialize) -> Self {
        Self { place: place(kind, key), value: Some(json!(value).to_string()) }
    }
}

impl Page {
    fn new(read: Vec<(Place, Option<String>)>) -> Self {
        Self { read, written: Vec::new() }
    }

    /// What stands at one of the places that were asked for.
    pub(crate) fn get<T: DeserializeOwned>(
        &self,
        kind: &'static str,
        key: impl ToString,
    ) -> Result<Option<T>, NotKept> {
        let key = key.to_string();
        let found = self.read.iter().find(|(place, _)| place.kind == kind && place.key == key);
        let (_, value) = found.ok_or(NotKept)?;
        value.as_deref().map(|value| read(kind, &key, value)).transpose()
    }

    /// Holds once the change is made.
    pub(crate) fn put(&mut self, kind: &'static str, key: impl ToString, value: &impl Serialize) {
        self.write(Row::new(kind, key, value));
    }

    /// Once the change is made there is nothing at this place.
    pub(crate) fn remove(&mut self, kind: &'static str, key: impl ToString) {
        self.write(Row { place: place(kind, key), value: None });
    }

    /// The last word about a place is the one that counts.
    fn write(&mut self, row: Row) {
        self.written.retain(|before| before.place != row.place);
        self.written.push(row);
    }
}

fn read<T: DeserializeOwned>(kind: &str, key: &str, value: &str) -> Result<T, NotKept> {
    serde_json::from_str(value).map_err(|_| unreadable(kind, key))
}

fn unreadable(kind: &str, key: &str) -> NotKept {
    tracing::error!(kind, key, "the shop keeps what it cannot read");
    NotKept
}

impl fmt::Debug for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ledger").finish_non_exhaustive()
    }
}

impl fmt::Display for NotKept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("what happened cannot be written down or looked up at present")
    }
}

impl Error for NotKept {}

impl From<NotKept> for std::io::Error {
    fn from(error: NotKept) -> Self {
        Self::other(error)
    }
}

/// 503. Whether it took effect is not known, as always with that answer.
impl From<NotKept> for Problem {
    fn from(error: NotKept) -> Self {
        problem(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
    }
}
