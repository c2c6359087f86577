//! The SQLite store does what every store must, and what only a file has to.

#![cfg(all(feature = "sqlite", feature = "testing"))]
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

#[path = "sqlite/dir.rs"]
mod dir;
#[path = "sqlite/inbox.rs"]
mod inbox;
#[path = "sqlite/kill.rs"]
mod kill;
#[path = "sqlite/outbox.rs"]
mod outbox;

use std::sync::Arc;

use dir::Dir;
use futures_util::FutureExt;
use gusset_saga::{
    EventLog, EventLogError, EventLogFuture, SqliteStore, Store, StoreError, StoreFuture,
    testing::conformance::{self, events},
};

struct Bed(Dir);

impl conformance::Bed for Bed {
    fn open(&self) -> StoreFuture<'_, Arc<dyn Store>> {
        let open = async {
            let store = SqliteStore::open(self.0.file()).await.map_err(StoreError::failed)?;
            Ok(Arc::new(store) as Arc<dyn Store>)
        };
        open.boxed()
    }
}

impl events::Bed for Bed {
    fn open_log(&self) -> EventLogFuture<'_, Arc<dyn EventLog>> {
        let open = async {
            let store = SqliteStore::open(self.0.file()).await.map_err(EventLogError::failed)?;
            Ok(Arc::new(store) as Arc<dyn EventLog>)
        };
        open.boxed()
    }
}

#[tokio::test]
async fn the_sqlite_store_is_an_event_log() {
    events::run(async || Bed(Dir::new())).await;
}

#[tokio::test]
async fn the_sqlite_store_is_a_store() {
    conformance::run(async || Bed(Dir::new())).await;
}
