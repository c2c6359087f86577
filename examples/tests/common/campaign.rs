//! Customers of a shop in which things break by a schedule, and what has to hold for them in the end.

#![allow(dead_code, reason = "each test uses its part")]

use std::{
    collections::{BTreeMap, HashSet},
    fmt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use gusset::broker::Filter;
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use reqwest::Client;
use serde_json::{Value, json};
use shop::{
    Shop,
    chaos::{Chaos, Fault, Faults, Schedule, Servers},
    payment::DECLINED_CARD,
};
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};
use uuid::Uuid;

use crate::stores::{at_rest, the_stores_agree};

pub(crate) const CARD: &str = "4242424242424242";

/// Longer than anything takes on a machine that is merely busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

const CUSTOMERS: usize = 5;

/// How many orders a customer sends. Each is asked about once more in the end, and the quota is of 100 a minute.
const ORDERS: usize = 45;

#[derive(Clone)]
pub(crate) struct Customer {
    pub(crate) http: Client,
    pub(crate) gateway: String,
    pub(crate) token: String,
}

impl Customer {
    pub(crate) async fn new(gateway: &str, email: &str) -> Self {
        let http = Client::builder().timeout(PATIENCE).build().unwrap();
        let form = json!({ "email": email, "name": "A", "password": "long enough" });
        let post = |path: &str| http.post(format!("{gateway}{path}")).json(&form).send();
        assert_eq!(post("/api/users").await.unwrap().status(), 201);
        let login: Value = post("/api/login").await.unwrap().json().await.unwrap();
        let (token, gateway) = (login["token"].as_str().unwrap().to_owned(), gateway.to_owned());
        Self { http, gateway, token }
    }

    /// Status and body.
    pub(crate) async fn place(&self, key: &str, order: &Value) -> (u16, Value) {
        let request = self.http.post(format!("{}/api/orders", self.gateway));
        let request = request.bearer_auth(&self.token).header("idempotency-key", key).json(order);
        let answer = request.send().await.expect("the gateway answers, whatever is behind it");
        (answer.status().as_u16(), answer.json().await.unwrap_or_default())
    }

    pub(crate) async fn order(&self, product: Uuid) -> (u16, Value) {
        self.place(&Uuid::now_v7().to_string(), &order(&[product], CARD)).await
    }

    pub(crate) async fn browse(&self) -> u16 {
        let request = self.http.get(format!("{}/api/products", self.gateway));
        let answer = request.bearer_auth(&self.token).send().await.expect("as above");
        answer.status().as_u16()
    }
}

pub(crate) fn order(products: &[Uuid], card: &str) -> Value {
    let items: Vec<_> =
        products.iter().map(|id| json!({ "product_id": id, "quantity": 1 })).collect();
    json!({ "items": items, "card": card })
}

/// Tells what happened where a test fails.
pub(crate) struct Told {
    schedule: Schedule,
    chaos: Chaos,
}

impl Drop for Told {
    fn drop(&mut self) {
        if thread::panicking() {
            println!(
                "GUSSET_SEED={}\nplanned: {}\nwhat happened:",
                self.schedule.seed(),
                self.schedule
            );
            self.chaos.happened().iter().for_each(|moment| println!("{moment}"));
        }
    }
}

/// An order that was sent, and what was answered.
#[derive(Clone)]
pub(crate) struct Sent {
    customer: usize,
    key: String,
    order: Value,
    calm: bool,
    answer: (u16, Value),
}

impl fmt::Debug for Sent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of customer {}: {:?}", self.key, self.customer, self.answer)
    }
}

/// What customers sent.
#[derive(Default)]
pub(crate) struct Books {
    pub(crate) orders: Mutex<Vec<Sent>>,
    /// Answers to those who look at the catalogue, with what was broken when they asked.
    pub(crate) looks: Mutex<Vec<(u16, Faults)>>,
    pub(crate) over: AtomicBool,
}

impl Books {
    pub(crate) async fn shop(
        &self,
        number: usize,
        customer: Customer,
        products: Vec<Uuid>,
        seed: u64,
        chaos: Chaos,
    ) {
        let mut chance = StdRng::seed_from_u64(seed ^ number as u64);
        let mut sent = 0;
        while !self.over.load(Relaxed) {
            if sent < ORDERS && chance.random_ratio(1, 2) {
                sent += 1;
                let lines = chance.random_range(1..=3);
                let chosen: Vec<_> = products.sample(&mut chance, lines).copied().collect();
                let card = if chance.random_ratio(1, 8) { DECLINED_CARD } else { CARD };
                let (key, order) = (Uuid::now_v7().to_string(), order(&chosen, card));
                let answer = customer.place(&key, &order).await;
                // Until it was answered: something may break while it is on its way.
                let calm = chaos.happened().is_empty();
                let sent = Sent { customer: number, key, order, calm, answer };
                self.orders.lock().unwrap().push(sent);
            } else {
                let broken = chaos.on();
                let status = customer.browse().await;
                self.looks.lock().unwrap().push((status, broken));
            }
            sleep(Duration::from_millis(chance.random_range(0..60))).await;
        }
    }
}

/// Customers order while things break by this schedule; in the end every order is done or undone, and everybody knows which.
pub(crate) async fn campaign(
    shop: &mut Shop,
    gateway: &str,
    schedule: &Schedule,
    servers: &Servers,
) -> Arc<Books> {
    let told = Told { schedule: schedule.clone(), chaos: shop.chaos.clone() };
    let mut products = Vec::new();
    for (name, price, stock) in [
        ("lamp", 1_999, 100_000),
        ("pot", 1_999, 100_000),
        ("knife", 1_999, 100_000),
        ("rarity", 90_000, 5),
    ] {
        products.push(shop.products.add(name, price, stock).await.unwrap().id);
    }

    let (books, mut customers) = (Arc::<Books>::default(), Vec::new());
    for number in 0..CUSTOMERS {
        customers.push(Customer::new(gateway, &format!("{number}@example.com")).await);
    }
    let mut shopping = JoinSet::new();
    for (number, customer) in customers.iter().cloned().enumerate() {
        let (books, products) = (books.clone(), products.clone());
        let (chaos, seed) = (shop.chaos.clone(), schedule.seed());
        shopping.spawn(async move {
            books.shop(number, customer, products, seed, chaos).await;
        });
    }
    follow(shop, schedule, servers).await;
    books.over.store(true, Relaxed);
    while let Some(shopped) = timeout(PATIENCE, shopping.join_next()).await.expect("answers come") {
        shopped.unwrap();
    }
    at_rest(shop).await;
    what_died_is_redriven(shop, schedule.faults()).await;
    the_stores_agree(shop).await;
    everybody_was_told_the_truth(shop, &customers, &books).await;
    goes_through(&customers[0], products[0]).await;
    // Who asked again may have begun what had not begun before.
    at_rest(shop).await;
    the_stores_agree(shop).await;
    everybody_was_mailed_once(shop).await;
    drop(told);
    books
}

/// Mails that could not be noted are sent again, and noted once.
pub(crate) async fn everybody_was_mailed_once(shop: &Shop) {
    let mails = shop.notifications.mails().await.unwrap();
    for order in shop.orders.confirmed().await.unwrap() {
        assert_eq!(mails.get(&order.id), Some(&1), "{order:?}");
    }
}

/// Lets happen what the schedule says, until nothing is broken any more.
pub(crate) async fn follow(shop: &mut Shop, schedule: &Schedule, servers: &Servers) {
    let (chaos, plan) = (shop.chaos.clone(), schedule.clone());
    let mut switches = chaos.watch();
    let mut following = tokio::spawn({
        let chaos = chaos.clone();
        async move { chaos.follow(&plan).await }
    });
    loop {
        let on = *switches.borrow_and_update();
        servers.obey(on).await.expect("servers come back");
        // One that cannot come back yet is tried again below.
        let _ = shop.obey().await;
        tokio::select! {
            changed = switches.changed() => changed.unwrap(),
            followed = &mut following => break followed.unwrap(),
        }
    }
    servers.obey(chaos.on()).await.expect("servers come back");
    let back = async { while shop.obey().await.is_err() {} };
    timeout(PATIENCE, back).await.expect("what was killed is started again");
}

/// Mails that could not be sent are the only messages that die, and what could not be noted where the database was away.
pub(crate) async fn what_died_is_redriven(shop: &Shop, faults: Faults) {
    let letters = shop.broker.dead_letters();
    for letter in letters.list(&Filter::all(), None, 1_000).await.unwrap() {
        let is_mail = faults.has(Fault::MailFails) && &*letter.group == "notification";
        assert!(is_mail || faults.has(Fault::PostgresDown), "{letter:?}");
    }
    letters.redrive_all(&Filter::all()).await.unwrap();
    at_rest(shop).await;
    assert_eq!(shop.dead_letters().await.unwrap(), 0, "nothing dies any more");
}

/// Each asks again under the same key, and is told the same, or how it ended where that was not known.
pub(crate) async fn everybody_was_told_the_truth(
    shop: &Shop,
    customers: &[Customer],
    books: &Books,
) {
    let (orders, mut placed) = (books.orders.lock().unwrap().clone(), HashSet::new());
    let mut by_status: BTreeMap<u16, usize> = BTreeMap::new();
    for sent in &orders {
        let (first, told) = &sent.answer;
        *by_status.entry(*first).or_default() += 1;
        assert!(!sent.calm || *first < 500, "nothing was broken yet: {sent:?}");
        let (status, again) = until_decided(&customers[sent.customer], sent).await;
        if status == 201 {
            assert!(placed.insert(again["id"].clone()), "one key, one order: {sent:?}");
        }
        match first {
            201 => assert_eq!((status, &again["id"]), (201, &told["id"]), "{sent:?}"),
            402 | 409 | 424 => assert_ne!(status, 201, "it was refused: {sent:?} {again}"),
            _ => {}
        }
    }
    println!("{} orders, answered at first {by_status:?}", orders.len());
    let confirmed = shop.orders.confirmed().await.unwrap();
    let known: HashSet<_> = confirmed.iter().map(|order| json!(order.id)).collect();
    assert_eq!(placed, known, "an order stands if, and only if, whoever sent it is told so");
}

/// Circuits that are still open refuse for a moment, and what nobody conducts may take one.
pub(crate) async fn until_decided(customer: &Customer, sent: &Sent) -> (u16, Value) {
    let asking = async {
        loop {
            let (status, answer) = customer.place(&sent.key, &sent.order).await;
            if status < 500 && status != 429 && status != 202 {
                return (status, answer);
            }
            sleep(Duration::from_millis(200)).await;
        }
    };
    timeout(PATIENCE, asking).await.unwrap_or_else(|_| panic!("never decided: {sent:?}"))
}

/// Until circuits are closed again.
pub(crate) async fn goes_through(customer: &Customer, product: Uuid) -> Uuid {
    let placed = async {
        loop {
            let (status, order) = customer.order(product).await;
            if status == 201 {
                return order["id"].as_str().unwrap().parse().unwrap();
            }
            sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(PATIENCE, placed).await.expect("an order goes through again")
}
