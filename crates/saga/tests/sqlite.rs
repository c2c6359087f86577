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
use gusset_saga::{SqliteStore, Store, StoreError, StoreFuture, testing::conformance};

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

#[tokio::test]
async fn the_sqlite_store_is_a_store() {
    conformance::run(async || Bed(Dir::new())).await;
}
