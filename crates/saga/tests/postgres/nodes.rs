//! Nodes, each a process of its own, that share one database and are killed and frozen.
//!
//! This program is the node as well: it runs one of its tests, which otherwise does nothing.

use std::{sync::Arc, time::Duration};

use gusset_engines::{Process, again};
use gusset_saga::{PostgresOptions, PostgresStore};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

use crate::{
    harness::{Server, times},
    orders::{LEASE, Ledger, STEPS, definition, orchestrator, place},
};

const URL: &str = "GUSSET_SAGA_NODE";

/// A process that places all orders that are `number` modulo `nodes`, and takes over what others leave.
fn node(server: &Server, number: usize, nodes: usize, orders: usize) -> Process {
    let mut command = again("nodes::as_a_node");
    command.env(URL, server.url());
    command.env("GUSSET_SAGA_ORDERS", format!("{number} {nodes} {orders}"));
    Process::started("node", command)
}

#[test]
fn as_a_node() {
    let Ok(url) = std::env::var(URL) else { return };
    let numbers = std::env::var("GUSSET_SAGA_ORDERS").unwrap();
    let [number, nodes, orders] =
        std::array::from_fn(|n| numbers.split(' ').nth(n).unwrap().parse::<u32>().unwrap());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async move {
        let store = PostgresStore::connect(PostgresOptions::new(&url).unwrap()).await.unwrap();
        let (client, link) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(link);
        let definition = Arc::new(definition(&Ledger::Table(Arc::new(client))));
        let sagas = orchestrator(store);
        sagas.register(&definition).unwrap();
        let _recovery = sagas.spawn_recovery(Duration::from_millis(100));
        let mut all = JoinSet::new();
        for order in (number..orders).step_by(nodes as usize) {
            let (sagas, definition) = (sagas.clone(), definition.clone());
            all.spawn(async move {
                sleep(Duration::from_millis(u64::from(order))).await;
                place(sagas, definition, order).await;
            });
        }
        // Until it is killed.
        std::future::pending::<()>().await;
    });
}

/// Waits until something was written since there were `before` records, or nothing is left to write.
async fn goes_on(server: &Server, before: &str, orders: usize) {
    let begin = Instant::now();
    loop {
        let sql = "SELECT (SELECT count(*) FROM gusset.journal), (SELECT count(finished_at) FROM gusset.sagas)";
        let now = tokio::task::block_in_place(|| server.psql(sql));
        let (records, ended) = now.split_once('|').unwrap_or_default();
        if records != before || ended == orders.to_string() {
            return;
        }
        assert!(begin.elapsed() < Duration::from_secs(60), "no progress: {now}");
        sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until all orders are there and have ended, and looks at what happened in effect.
async fn all_end(server: &Server, orders: usize) {
    let begin = Instant::now();
    loop {
        let sql = "SELECT count(*), count(finished_at) FROM gusset.sagas";
        let counts = tokio::task::block_in_place(|| server.psql(sql));
        if counts == format!("{orders}|{orders}") {
            break;
        }
        assert!(begin.elapsed() < Duration::from_secs(120 + orders as u64 / 20), "ended: {counts}");
        sleep(Duration::from_millis(50)).await;
    }
    // Of orders that are refused nothing is left, of the others everything.
    let wrong = format!(
        "SELECT s.id, s.state, count(*) FILTER (WHERE l.acted AND NOT l.undone) AS effects
         FROM gusset.sagas s JOIN ledger l ON l.saga = s.id GROUP BY s.id, s.state
         HAVING count(*) FILTER (WHERE l.acted AND NOT l.undone) <>
           CASE WHEN split_part(s.id, '-', 2)::int % 3 = 0 THEN 0 ELSE {} END
         OR s.state <> CASE WHEN split_part(s.id, '-', 2)::int % 3 = 0 THEN 'compensated' ELSE 'completed' END",
        STEPS.len()
    );
    assert_eq!(server.psql(&wrong), "");
    assert_eq!(server.psql("SELECT count(DISTINCT saga) FROM ledger"), orders.to_string());
    // Each journal is one story: no place twice, none left out.
    let gaps = "SELECT s.id FROM gusset.sagas s JOIN gusset.journal j ON j.saga = s.id GROUP BY s.id, s.next
        HAVING count(*) <> s.next OR max(j.sequence) <> s.next - 1";
    assert_eq!(server.psql(gaps), "");
}

fn server() -> Server {
    let server = Server::start();
    server.psql(Ledger::TABLE);
    server
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_is_killed_again_and_again_leaves_balanced_ledgers() {
    let server = server();
    // Makes the tables.
    drop(PostgresStore::connect(PostgresOptions::new(&server.url()).unwrap()).await.unwrap());
    let kills = times(20, 200);
    let orders = 30 * kills;
    let mut node = node(&server, 0, 1, orders);
    let mut written = "0".to_owned();
    for kill in 0..kills as u64 {
        // At any time, from its first steps on; how long it takes to come to them is the machine's business.
        goes_on(&server, &written, orders).await;
        sleep(Duration::from_millis(kill * 7919 % 340)).await;
        node.kill();
        written = server.psql("SELECT count(*) FROM gusset.journal");
        node.restart();
    }
    all_end(&server, orders).await;
    let epochs: u64 = server.psql("SELECT max(epoch) FROM gusset.sagas").parse().unwrap();
    assert!(epochs > 1, "some saga was taken over");
}

async fn nodes_share(nodes: usize, orders: usize) {
    let server = server();
    let mut all: Vec<_> = (0..nodes).map(|number| node(&server, number, nodes, orders)).collect();
    for round in 0..times(4, 40) {
        sleep(Duration::from_millis(500)).await;
        let (frozen, killed) = (round % nodes, (round + 1) % nodes);
        all[frozen].pause();
        all[killed].restart();
        sleep(LEASE * 3 / 2).await;
        // Whatever it was about to do it does now, on sagas that others have taken over.
        all[frozen].resume();
    }
    all_end(&server, orders).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_that_are_killed_and_frozen_do_nothing_twice() {
    nodes_share(2, times(800, 10_000)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn four_nodes_that_are_killed_and_frozen_do_nothing_twice() {
    nodes_share(4, times(800, 10_000)).await;
}
