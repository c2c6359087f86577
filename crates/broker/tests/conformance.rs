//! The suite that every engine passes, on the engine in memory.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall fail")]

use gusset_broker::{Broker, conformance};

#[tokio::test(start_paused = true)]
async fn the_engine_in_memory_keeps_all_promises() {
    for (name, case) in conformance::CASES {
        conformance::check(name, *case, Broker::new()).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_engine_in_memory_keeps_all_promises_on_several_threads() {
    for (name, case) in conformance::CASES {
        conformance::check(name, *case, Broker::new()).await.unwrap();
    }
}
