//! The shop as processes: the same story as in one, no order lost when one after the other is killed, and nothing left behind.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod common;
#[path = "common/stores.rs"]
mod stores;

use std::{
    fs,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use gusset_engines::{Etcd, Folder, Nats, Port, Postgres, Process};
use reqwest::Client;
use serde_json::{Value, json};
use shop::{Carrier, Ground, Hosting, Place, Shop, Times};
use stores::{at_rest, the_stores_agree};
use tokio::{net::TcpListener, task::JoinSet, time::timeout};
use uuid::Uuid;

const PASSWORD: &str = "long enough";
const CARD: &str = "4242424242424242";

/// Longer than anything takes on a machine that is merely busy.
const LIMIT: Duration = Duration::from_secs(120);

/// What the demo says in the end, of this length and with these options.
fn told(options: &[&str]) -> Value {
    let folder = Folder::new("demo-told");
    let summary = folder.join("summary.json");
    let mut command = Command::new(common::program("ecommerce_demo"));
    command.args(["--headless", "--port", "0", "--seconds", "10"]).args(options);
    let done = command.arg("--summary").arg(&summary).output().unwrap();
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&done.stdout),
        String::from_utf8_lossy(&done.stderr)
    );
    assert!(done.status.success(), "{options:?}: {}\n{said}", done.status);
    serde_json::from_slice(&fs::read(summary).unwrap()).unwrap()
}

/// The promises, whatever the figures in them.
fn promises(summary: &Value) -> Vec<String> {
    let all = summary["promises"].as_array().unwrap().iter();
    let text = |promise: &Value| promise["text"].as_str().unwrap().to_owned();
    all.map(|promise| text(promise).chars().filter(|c| !c.is_ascii_digit()).collect()).collect()
}

#[test]
fn the_story_is_the_same_in_one_process_in_many_and_on_all_servers() {
    let one = told(&[]);
    for options in [&["--processes"][..], &["--processes", "--backend", "all"], &["--sidecars"]] {
        let many = told(options);
        assert_eq!(promises(&many), promises(&one), "{options:?}");
        for figure in ["/stock/at_start", "/dead_letters", "/rolling_restart/instances"] {
            assert_eq!(many.pointer(figure), one.pointer(figure), "{options:?} {figure}");
        }
        for figure in ["/orders_confirmed", "/requests/answered", "/retries"] {
            assert!(many.pointer(figure).unwrap().as_u64() > Some(0), "{options:?} {figure}");
        }
    }
}

#[test]
fn all_processes_end_with_the_demo_even_if_that_is_killed() {
    let mut command = Command::new(common::program("ecommerce_demo"));
    command.args(["--headless", "--port", "0", "--seconds", "60", "--processes"]);
    let mut demo = Process::started("demo", command);
    demo.says("a circuit stays open");
    let log = demo.log();
    let began = log.lines().skip_while(|line| !line.contains("processes beside this one"));
    let rows = began.skip(1).take_while(|line| line.starts_with("          "));
    let ids: Vec<u32> = rows
        .flat_map(|row| row.split_whitespace().skip(1).step_by(2))
        .map(|id| id.parse().unwrap())
        .collect();
    assert!(ids.len() > 10, "{log}");
    assert!(ids.iter().all(|id| runs(*id)), "{log}");

    // The process alone: what it began is not helped along.
    gusset_engines::signal(demo.id(), "KILL");
    let begun = Instant::now();
    while ids.iter().any(|id| runs(*id)) {
        assert!(begun.elapsed() < LIMIT, "some are left: {ids:?}");
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

fn runs(id: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['X', 'Z']))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_one_after_the_other_they_lose_no_order() {
    let (nats, folder) = (Nats::start(), Folder::new("shop-processes"));
    let broker = Carrier::Nats(nats.url());
    let data_dir = Some(folder.to_path_buf());
    each_is_killed(Ground { broker, data_dir, ..ground() }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_one_after_the_other_they_lose_no_order_on_etcd_and_postgres() {
    let (nats, etcd, postgres) = (Nats::start(), Etcd::start(), Postgres::start());
    let broker = Carrier::Nats(nats.url());
    let registry = Place::Etcd(vec![etcd.address()]);
    let database = Some(postgres.url());
    each_is_killed(Ground { registry, broker, database, ..ground() }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_with_their_sidecars_they_lose_no_order() {
    let (nats, folder) = (Nats::start(), Folder::new("shop-sidecars"));
    let hosting = Hosting::Sidecars(common::program("ecommerce_demo"));
    let (broker, data_dir) = (Carrier::Nats(nats.url()), Some(folder.to_path_buf()));
    each_is_killed(Ground { broker, data_dir, hosting, ..ground() }).await;
}

fn ground() -> Ground {
    let times = Times {
        ttl: Duration::from_secs(2),
        sweep: Duration::from_millis(250),
        open_for: Duration::from_secs(1),
    };
    let hosting = Hosting::Processes(common::program("ecommerce_demo"));
    Ground { times, hosting, ..Ground::default() }
}

async fn each_is_killed(ground: Ground) {
    let port = Port::free();
    let listener = TcpListener::bind(port.address()).await.unwrap();
    let gateway = format!("http://{}", listener.local_addr().unwrap());
    let mut shop = Shop::open(&ground, listener).await.unwrap();
    let lamp = shop.products.add("lamp", 1_999, 100_000).await.unwrap().id;
    let (running, told) = (Arc::new(AtomicBool::new(true)), Arc::<AtomicU32>::default());
    let mut customers = JoinSet::new();
    for n in 0..4 {
        let (gateway, running, told) = (gateway.clone(), running.clone(), told.clone());
        customers.spawn(async move {
            let http = Client::builder().timeout(Duration::from_secs(30)).build().unwrap();
            let token = account(&http, &gateway, &format!("{n}@example.com")).await;
            let mut confirmed = Vec::new();
            while running.load(SeqCst) {
                if let Some(id) = order(&http, &gateway, &token, lamp).await {
                    told.fetch_add(1, SeqCst);
                    confirmed.push(id);
                }
                // Each may order a hundred times a minute.
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
            confirmed
        });
    }
    let ids: Vec<String> = shop.instances().into_iter().map(|(id, _)| id).collect();
    assert_eq!(ids.len(), 11);
    for id in &ids {
        more(&told).await;
        assert!(shop.kill(id).await.unwrap(), "{id}");
        shop.restart(id).await.unwrap();
    }
    more(&told).await;
    running.store(false, SeqCst);
    let confirmed: Vec<Uuid> = customers.join_all().await.into_iter().flatten().collect();
    at_rest(&shop).await;
    the_stores_agree(&shop).await;
    let known: Vec<Uuid> =
        shop.orders.confirmed().await.unwrap().iter().map(|order| order.id).collect();
    assert!(confirmed.iter().all(|id| known.contains(id)), "an order that was told of is gone");
    shop.close().await.unwrap();
}

/// Waits until customers have ordered again.
async fn more(told: &AtomicU32) {
    let before = told.load(SeqCst);
    let ordered = async {
        while told.load(SeqCst) < before + 3 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(LIMIT, ordered).await.expect("orders go on");
}

async fn account(http: &Client, gateway: &str, email: &str) -> String {
    let form = json!({ "email": email, "name": "A", "password": PASSWORD });
    let opened = async {
        loop {
            // The first answer may have been lost with its instance.
            let post = |path: &str| http.post(format!("{gateway}{path}")).json(&form).send();
            let _ = post("/api/users").await;
            let Ok(login) = post("/api/login").await else { continue };
            let login: Value = login.json().await.unwrap_or_default();
            if let Some(token) = login["token"].as_str() {
                return token.to_owned();
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(LIMIT, opened).await.expect("an account")
}

/// The order, if one was confirmed.
async fn order(http: &Client, gateway: &str, token: &str, product: Uuid) -> Option<Uuid> {
    let items = json!([{ "product_id": product, "quantity": 1 }]);
    let request = http.post(format!("{gateway}/api/orders")).bearer_auth(token);
    let request = request.header("idempotency-key", Uuid::now_v7().to_string());
    let answer = request.json(&json!({ "items": items, "card": CARD })).send().await.ok()?;
    let confirmed = answer.status() == 201;
    let order: Value = answer.json().await.ok()?;
    confirmed.then(|| order["id"].as_str().unwrap().parse().unwrap())
}

#[tokio::test]
async fn what_processes_cannot_share_is_refused_before_anything_is_started() {
    for (ground, why) in [
        (ground(), "through NATS"),
        (Ground { broker: Carrier::File, ..ground() }, "through NATS"),
        (Ground { broker: Carrier::Nats("nats://127.0.0.1:1".into()), ..ground() }, "a folder"),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let refused = Shop::open(&ground, listener).await.unwrap_err().to_string();
        assert!(refused.contains(why), "{refused}");
    }
}
