//! The memory store does what every store must.

#![cfg(feature = "testing")]

use std::sync::Arc;

use futures_util::{FutureExt, future::ready};
use gusset_saga::{
    EventLog, EventLogFuture, MemoryStore, Store, StoreFuture,
    testing::conformance::{self, events},
};

struct Bed(MemoryStore);

impl conformance::Bed for Bed {
    fn open(&self) -> StoreFuture<'_, Arc<dyn Store>> {
        ready(Ok(Arc::new(self.0.clone()) as Arc<dyn Store>)).boxed()
    }
}

impl events::Bed for Bed {
    fn open_log(&self) -> EventLogFuture<'_, Arc<dyn EventLog>> {
        ready(Ok(Arc::new(self.0.clone()) as Arc<dyn EventLog>)).boxed()
    }
}

#[tokio::test(start_paused = true)]
async fn the_memory_store_is_an_event_log() {
    events::run(async || Bed(MemoryStore::new())).await;
}

#[tokio::test(start_paused = true)]
async fn the_memory_store_is_a_store() {
    conformance::run(async || Bed(MemoryStore::new())).await;
}
