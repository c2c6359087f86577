use gusset_broker::conformance;

use crate::harness::{Server, connect};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_engine_on_nats_keeps_all_promises() {
    let server = Server::start();
    let mut broken = Vec::new();
    for (number, (name, case)) in conformance::CASES.iter().enumerate() {
        let broker = connect(server.options().namespace(format!("case-{number}"))).await;
        if let Err(why) = conformance::check(name, *case, broker).await {
            broken.push(why.to_string());
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}
