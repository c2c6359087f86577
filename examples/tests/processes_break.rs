//! Everything breaks while customers order, in a shop of processes on real servers, by schedules that seeds make: two of them, twelve with `GUSSET_DEEP=1`, one with
//! `GUSSET_SEED=…`. Processes are killed with `kill -9` and stand still, so do the servers, and in the end every order is done or undone.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test"
)]

#[path = "common/campaign.rs"]
mod campaign;
mod common;
#[path = "common/stores.rs"]
mod stores;

use std::{env, time::Duration};

use campaign::{Customer, PATIENCE, campaign, goes_through, what_died_is_redriven};
use gusset_engines::{Etcd, Nats, Port, Postgres, Redis};
use shop::{
    Carrier, Flow, Ground, Hosting, Place, Shop, Times,
    chaos::{Fault, Faults, Schedule, Server, Servers},
};
use stores::{at_rest, the_stores_agree};
use tokio::{net::TcpListener, runtime::Runtime, time::timeout};

/// How long things break.
const SPAN: Duration = Duration::from_secs(6);

/// As in the test with threads.
const TIMES: Times = Times {
    ttl: Duration::from_secs(10),
    sweep: Duration::from_millis(250),
    open_for: Duration::from_secs(1),
};

/// All that a shop may stand on. Of three in four of these the instances find each other in etcd, of the others by their sidecars.
fn ground(seed: u64) -> (Ground, Servers) {
    let (nats, postgres, redis) = (Nats::start(), Postgres::start(), Redis::start());
    let program = common::program("ecommerce_demo");
    let mut ground = Ground {
        broker: Carrier::Nats(nats.url()),
        database: Some(postgres.url()),
        redis: Some(redis.url()),
        flow: if seed % 3 == 1 { Flow::Choreography } else { Flow::Orchestration },
        hosting: Hosting::Sidecars(program.clone()),
        times: TIMES,
        scratch: true,
        ..Ground::default()
    };
    let servers = Servers::default();
    let all = [Server::Nats(nats), Server::Postgres(postgres), Server::Redis(redis)];
    all.into_iter().for_each(|server| servers.add(server));
    if seed % 4 != 3 {
        let etcd = Etcd::start();
        ground.registry = Place::Etcd(vec![etcd.address()]);
        ground.hosting = Hosting::Processes(program);
        servers.add(Server::Etcd(etcd));
    }
    servers.offer_to(&ground.chaos);
    (ground, servers)
}

async fn open(ground: &Ground) -> (Shop, String, Port) {
    let port = Port::free();
    let listener = TcpListener::bind(port.address()).await.unwrap();
    let gateway = format!("http://{}", listener.local_addr().unwrap());
    (Shop::open(ground, listener).await.unwrap(), gateway, port)
}

async fn everything_breaks(seed: u64) {
    let (ground, servers) = ground(seed);
    let (mut shop, gateway, _port) = open(&ground).await;
    let here: Faults = Fault::all().filter(|&fault| shop.chaos.is_offered(fault)).collect();
    let schedule = Schedule::random(seed, SPAN, here);
    println!("{schedule}");
    let before = shop.processes();
    campaign(&mut shop, &gateway, &schedule, &servers).await;
    // None ended but those that were killed.
    let killed = |id: &str| {
        shop.chaos.happened().iter().any(|moment| {
            let name = moment.fault.name();
            name.strip_suffix("-killed").is_some_and(|service| id.starts_with(service))
        })
    };
    let after = shop.processes();
    for (id, process) in &before {
        let same = after.iter().any(|now| now == &(id.clone(), *process));
        assert!(same || killed(id), "{id} is another process now");
    }
    shop.close().await.unwrap();
}

#[test]
fn whatever_breaks_of_processes_and_servers_every_order_is_done_or_undone() {
    let seeds: Vec<u64> = match env::var("GUSSET_SEED") {
        Ok(seed) => vec![seed.parse().unwrap()],
        Err(_) => {
            let first = u64::from(rand::random::<u32>());
            (first..first + if env::var_os("GUSSET_DEEP").is_some() { 12 } else { 2 }).collect()
        }
    };
    for seed in seeds {
        println!("GUSSET_SEED={seed}");
        let runtime = Runtime::new().unwrap();
        runtime.block_on(everything_breaks(seed));
    }
}

/// Those that the servers are about, and those of which a process has to be told.
const ONE_BY_ONE: [Fault; 9] = [
    Fault::PostgresDown,
    Fault::BrokerDown,
    Fault::RedisDown,
    Fault::RegistryStopped,
    Fault::PaymentFails,
    Fault::MessagesDropped,
    Fault::MailFails,
    Fault::OrderFrozen,
    Fault::UserKilled,
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_breaks_by_itself_does_what_it_says_and_orders_go_through_when_it_is_over() {
    let (ground, servers) = ground(0);
    let (mut shop, gateway, _port) = open(&ground).await;
    let lamp = shop.products.add("lamp", 1_999, 100_000).await.unwrap().id;
    for fault in ONE_BY_ONE {
        let customer = Customer::new(&gateway, &format!("{fault}@example.com")).await;
        shop.chaos.set(fault, true).unwrap();
        servers.obey(shop.chaos.on()).await.unwrap();
        shop.obey().await.unwrap();
        let (status, answer) = customer.order(lamp).await;
        let expected: &[u16] = match fault {
            // Nothing can be written down.
            Fault::PostgresDown => &[503, 504],
            // Taken back, which cannot be before the fault is over.
            Fault::PaymentFails => &[424, 504],
            // An order that is known already stays with the instance that has it; a new customer is not known.
            Fault::UserKilled => &[503, 504, 424],
            Fault::OrderFrozen => &[201, 503, 504],
            // What was decided is told later; the stock, the money and the order itself need no message.
            _ => &[201],
        };
        assert!(expected.contains(&status), "{fault}: {status} {answer}");
        if fault == Fault::MailFails {
            let died = async {
                while shop.dead_letters().await.unwrap() == 0 {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            };
            timeout(PATIENCE, died).await.expect("a mail dies");
        }
        shop.chaos.set(fault, false).unwrap();
        servers.obey(shop.chaos.on()).await.unwrap();
        let back = async { while shop.obey().await.is_err() {} };
        timeout(PATIENCE, back).await.expect("all are there again");
        goes_through(&customer, lamp).await;
        at_rest(&shop).await;
        what_died_is_redriven(&shop, [fault].into_iter().collect()).await;
        the_stores_agree(&shop).await;
    }
    shop.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_that_comes_back_before_its_database_is_started_until_it_stays() {
    let (ground, servers) = ground(0);
    let (mut shop, gateway, _port) = open(&ground).await;
    let lamp = shop.products.add("lamp", 1_999, 100_000).await.unwrap().id;
    let customer = Customer::new(&gateway, "ann@example.com").await;
    let id = "order-service-1";
    for (fault, on) in
        [(Fault::PostgresDown, true), (Fault::OrderKilled, true), (Fault::OrderKilled, false)]
    {
        shop.chaos.set(fault, on).unwrap();
        servers.obey(shop.chaos.on()).await.unwrap();
        // It cannot begin without its database; that is said, and nobody waits for it.
        let came = shop.obey().await;
        assert_eq!(came.is_err(), fault == Fault::OrderKilled && !on, "{fault} {on}: {came:?}");
    }
    shop.obey().await.unwrap_err();
    assert!(shop.addr_of(id).is_none());
    assert!(shop.processes().len() > 10, "they can be listed meanwhile");
    shop.chaos.calm();
    servers.obey(shop.chaos.on()).await.unwrap();
    let back = async { while shop.obey().await.is_err() {} };
    timeout(PATIENCE, back).await.expect("it comes back");
    assert!(shop.addr_of(id).is_some());
    goes_through(&customer, lamp).await;
    at_rest(&shop).await;
    the_stores_agree(&shop).await;
    shop.close().await.unwrap();
}
