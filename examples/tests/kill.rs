//! The demo on a folder, killed while customers order, and started again: three times, fifty with `GUSSET_DEEP=1`. In the end every order is done or undone.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod common;
#[path = "common/stores.rs"]
mod stores;

use std::{
    collections::{HashMap, HashSet},
    env,
    path::Path,
    process::Command,
    sync::{Arc, Mutex},
    time::Duration,
};

use gusset_engines::{Folder, Process};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use reqwest::Client;
use serde_json::{Value, json};
use shop::{Carrier, Ground, Shop, Times};
use stores::{at_rest, the_stores_agree};
use tokio::{net::TcpListener, task::JoinSet};
use uuid::Uuid;

const CUSTOMERS: usize = 4;
const PASSWORD: &str = "long enough";
const TIMES: Times = Times {
    ttl: Duration::from_secs(1),
    sweep: Duration::from_millis(250),
    open_for: Duration::from_secs(1),
};

/// A demo that runs until it is killed.
struct Demo {
    process: Process,
    gateway: String,
}

impl Demo {
    fn start(folder: &Path) -> Self {
        let mut command = Command::new(common::program("ecommerce_demo"));
        command.args(["--headless", "--port", "0", "--seconds", "10", "--rps", "60", "--data-dir"]);
        command.arg(folder);
        let mut process = Process::started("demo", command);
        let said = process.says("behind http://");
        Self { process, gateway: said["behind ".len()..].to_owned() }
    }

    /// How many sagas that an earlier process had left it has taken up.
    fn kill(mut self) -> u64 {
        assert!(self.process.has_ended().is_none(), "it ended by itself before it was killed");
        self.process.kill();
        let log = self.process.log();
        let left = log.lines().find_map(|line| Some(line.split_once("sagas were under way: ")?.1));
        left.map_or(0, |left| left.trim().parse().unwrap())
    }
}

/// An order that was sent under a key: whose, and what came of it, if that was heard.
#[derive(Clone)]
struct Sent {
    email: String,
    key: String,
    order: Value,
    answer: Option<(u16, Value)>,
}

#[derive(Clone)]
struct Customer {
    http: Client,
    gateway: String,
    email: String,
    token: String,
}

impl Customer {
    /// With an account, which may be there since an earlier process.
    async fn login(gateway: &str, email: &str) -> reqwest::Result<Self> {
        let http = Client::new();
        let form = json!({ "email": email, "name": "A", "password": PASSWORD });
        let post = |path: &str| http.post(format!("{gateway}{path}")).json(&form).send();
        let opened = post("/api/users").await?.status();
        assert!(matches!(opened.as_u16(), 201 | 409), "{opened}");
        let login: Value = post("/api/login").await?.json().await?;
        let token = login["token"].as_str().unwrap_or_default().to_owned();
        let (gateway, email) = (gateway.to_owned(), email.to_owned());
        Ok(Self { http, gateway, email, token })
    }

    async fn place(&self, key: &str, order: &Value) -> reqwest::Result<(u16, Value)> {
        let request = self.http.post(format!("{}/api/orders", self.gateway));
        let request = request.bearer_auth(&self.token).header("idempotency-key", key).json(order);
        let answer = request.send().await?;
        Ok((answer.status().as_u16(), answer.json().await?))
    }

    /// Orders one thing after the other until nobody answers.
    async fn shop(self, sent: Arc<Mutex<Vec<Sent>>>) -> reqwest::Result<()> {
        let products = self.http.get(format!("{}/api/products", self.gateway)).send().await?;
        let products: Vec<Value> = products.json().await?;
        for n in 0..60 {
            let product = &products[n % products.len().min(6)]["id"];
            let items = json!([{ "product_id": product, "quantity": 1 }]);
            let order = json!({ "items": items, "card": "4242424242424242" });
            let key = Uuid::now_v7().to_string();
            let email = self.email.clone();
            let place = {
                let mut sent = sent.lock().unwrap();
                sent.push(Sent { email, key: key.clone(), order: order.clone(), answer: None });
                sent.len() - 1
            };
            let answer = self.place(&key, &order).await?;
            sent.lock().unwrap()[place].answer = Some(answer);
        }
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_demo_that_is_killed_at_any_time_finishes_or_undoes_every_order() {
    let seed =
        env::var("GUSSET_SEED").map_or_else(|_| rand::random(), |seed| seed.parse().unwrap());
    println!("GUSSET_SEED={seed}");
    let mut chance = StdRng::seed_from_u64(seed);
    let kills = if env::var_os("GUSSET_DEEP").is_some() { 50 } else { 3 };
    let folder = Folder::new("demo-kill");
    let sent = Arc::<Mutex<Vec<Sent>>>::default();

    let mut left = 0;
    for run in 0..kills {
        let demo = Demo::start(&folder);
        let mut customers = JoinSet::new();
        for number in 0..CUSTOMERS {
            let (gateway, sent) = (demo.gateway.clone(), sent.clone());
            customers.spawn(async move {
                let email = format!("run-{run}-customer-{number}@example.com");
                Customer::login(&gateway, &email).await?.shop(sent).await
            });
        }
        tokio::time::sleep(Duration::from_millis(chance.random_range(200..6_000))).await;
        left += demo.kill();
        while customers.join_next().await.is_some() {}
    }
    println!("{left} sagas were taken up, {} orders were sent", sent.lock().unwrap().len());
    assert!(kills < 50 || left > 0, "no kill ever hit an order");

    let story = Command::new(common::program("ecommerce_demo"))
        .args(["--headless", "--port", "0", "--seconds", "10", "--data-dir"])
        .arg(&*folder)
        .output()
        .unwrap();
    assert!(story.status.success(), "{}", String::from_utf8_lossy(&story.stdout));
    let sent = std::mem::take(&mut *sent.lock().unwrap());
    nothing_is_half_done(&folder, sent).await;
}

/// Opens the folder in this process, and looks into every store.
async fn nothing_is_half_done(folder: &Path, sent: Vec<Sent>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gateway = format!("http://{}", listener.local_addr().unwrap());
    let (data_dir, times) = (Some(folder.to_owned()), TIMES);
    let ground = Ground { broker: Carrier::File, data_dir, times, ..Ground::default() };
    let shop = Shop::open(&ground, listener).await.unwrap();
    shop.notifications.repair();
    at_rest(&shop).await;
    the_stores_agree(&shop).await;

    // Who heard nothing asks again, under the same key; who heard something is told the same.
    let mut customers: HashMap<String, Customer> = HashMap::new();
    let (mut placed, mut told) = (HashSet::new(), 0);
    for Sent { email, key, order, answer } in &sent {
        if !customers.contains_key(email) {
            let customer = Customer::login(&gateway, email).await.unwrap();
            customers.insert(email.clone(), customer);
        }
        let (status, again) = customers[email].place(key, order).await.unwrap();
        if let Some((201, first)) = answer {
            assert_eq!((status, &again["id"]), (201, &first["id"]), "{again}");
            told += 1;
        }
        if let Some((402 | 409 | 424, first)) = answer {
            assert_ne!(status, 201, "it was refused: {first}");
        }
        if status == 201 {
            assert!(placed.insert(again["id"].clone()), "one key, one order");
        }
    }
    assert!(told > 0, "no customer was ever told anything");
    at_rest(&shop).await;
    the_stores_agree(&shop).await;
    let known: HashSet<_> =
        shop.orders.confirmed().await.unwrap().iter().map(|order| json!(order.id)).collect();
    assert!(placed.is_subset(&known));
    shop.close().await.unwrap();
}

#[test]
fn a_folder_that_is_open_elsewhere_is_refused_before_anything_happens() {
    let folder = Folder::new("demo-twice");
    let first = Demo::start(&folder);
    let second = Command::new(common::program("ecommerce_demo"))
        .args(["--headless", "--port", "0", "--data-dir"])
        .arg(&*folder)
        .output()
        .unwrap();
    first.kill();
    let said = String::from_utf8_lossy(&second.stderr);
    assert_eq!(second.status.code(), Some(2), "{said}");
    assert!(said.contains("is open in another shop"), "{said}");
}
