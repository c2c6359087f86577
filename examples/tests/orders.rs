//! What happens to orders, and how it is told.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

use std::{future::Future, net::SocketAddr, time::Duration};

use reqwest::{Client, Method, RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};
use shop::{
    Flow, Ground, Shop, Times,
    history::Replay,
    payment::{Bank, DECLINED_CARD},
};
use tokio::{net::TcpListener, time::timeout};
use uuid::Uuid;

const CARD: &str = "4242424242424242";

/// Far more than anything takes, on a machine that is busy with much else.
const PATIENCE: Duration = Duration::from_secs(60);

struct Customer {
    http: Client,
    gateway: SocketAddr,
    token: String,
}

async fn open(flow: Flow) -> (Shop, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gateway = listener.local_addr().unwrap();
    let times = Times {
        ttl: Duration::from_secs(5),
        sweep: Duration::from_millis(250),
        open_for: Duration::from_secs(1),
    };
    let ground = Ground { times, flow, ..Ground::default() };
    (Shop::open(&ground, listener).await.unwrap(), gateway)
}

impl Customer {
    async fn new(gateway: SocketAddr, email: &str) -> Self {
        let mut customer = Self { http: Client::new(), gateway, token: String::new() };
        let form = json!({ "email": email, "name": "A", "password": "long enough" });
        let opened = customer.ask(Method::POST, "/api/users").json(&form).send().await.unwrap();
        assert_eq!(opened.status(), 201);
        let login = customer.ask(Method::POST, "/api/login").json(&form).send().await.unwrap();
        let login: Value = login.json().await.unwrap();
        customer.token = login["token"].as_str().unwrap().to_owned();
        customer
    }

    fn ask(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("http://{}{path}", self.gateway));
        if self.token.is_empty() { request } else { request.bearer_auth(&self.token) }
    }

    async fn get(&self, path: &str) -> (StatusCode, Value) {
        let answer = self.ask(Method::GET, path).send().await.unwrap();
        (answer.status(), answer.json().await.unwrap())
    }

    async fn order(&self, product: Uuid, quantity: u32, card: &str) -> (StatusCode, Value) {
        let items = json!([{ "product_id": product, "quantity": quantity }]);
        let order = json!({ "items": items, "card": card });
        let answer = self.ask(Method::POST, "/api/orders").json(&order).send().await.unwrap();
        (answer.status(), answer.json().await.unwrap())
    }

    /// Does not wait for the end.
    async fn begin(&self, product: Uuid, quantity: u32, card: &str) -> Uuid {
        let items = json!([{ "product_id": product, "quantity": quantity }]);
        let order = json!({ "items": items, "card": card });
        let request = self.ask(Method::POST, "/api/orders").header("prefer", "respond-async");
        let answer = request.json(&order).send().await.unwrap();
        assert_eq!(answer.status(), 202);
        assert_eq!(answer.headers()["preference-applied"], "respond-async");
        let location = answer.headers()["location"].to_str().unwrap().to_owned();
        let order: Value = answer.json().await.unwrap();
        let id: Uuid = order["id"].as_str().unwrap().parse().unwrap();
        assert_eq!(location, format!("/api/orders/{id}"));
        id
    }

    async fn follow(&self, order: Uuid, after: Option<u64>) -> Events {
        let request = self.ask(Method::GET, &format!("/api/orders/{order}/events"));
        let request = match after {
            Some(after) => request.header("last-event-id", after.to_string()),
            None => request,
        };
        let answer = request.send().await.unwrap();
        if answer.status() == 200 {
            assert_eq!(answer.headers()["content-type"], "text/event-stream");
        }
        Events { answer, text: String::new() }
    }

    async fn history(&self, order: Uuid) -> Vec<String> {
        let (status, history) = self.get(&format!("/api/orders/{order}/history")).await;
        assert_eq!(status, 200, "{history}");
        let events = history.as_array().unwrap().iter();
        events.map(|event| event["event"].as_str().unwrap().to_owned()).collect()
    }
}

/// Server-sent events as they come.
struct Events {
    answer: Response,
    text: String,
}

impl Events {
    /// The next one: its id and its name. `None` at the end.
    async fn next(&mut self) -> Option<(u64, String)> {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let field = |name| event.lines().find_map(|line| line.strip_prefix(name));
                let next = field("id: ").zip(field("event: "));
                let next = next.map(|(id, name)| (id.parse().unwrap(), name.to_owned()));
                if let Some((_, name)) = &next {
                    let data: Value = serde_json::from_str(field("data: ").unwrap()).unwrap();
                    assert_eq!(data["event"], **name);
                }
                self.text = rest.to_owned();
                if next.is_some() {
                    return next;
                }
                continue;
            }
            let chunk = soon(self.answer.chunk()).await.unwrap()?;
            self.text.push_str(std::str::from_utf8(&chunk).unwrap());
        }
    }

    async fn rest(mut self) -> Vec<String> {
        let mut names = Vec::new();
        while let Some((_, name)) = self.next().await {
            names.push(name);
        }
        names
    }
}

async fn soon<F: Future>(future: F) -> F::Output {
    timeout(PATIENCE, future).await.expect("it comes soon")
}

async fn at_rest(shop: &Shop) {
    soon(async {
        while !shop.is_at_rest().await.unwrap() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

/// Every order is what its history says.
async fn replays(shop: &Shop, orders: u64) {
    at_rest(shop).await;
    let replay = shop.orders.replay().await.unwrap();
    assert_eq!(replay, Replay { histories: orders, orders, different: vec![] });
}

async fn an_order_is_followed_live_from_its_beginning_to_its_end(flow: Flow) {
    let (shop, gateway) = open(flow).await;
    let lamp = shop.products.add("lamp", 1_999, 10).await.unwrap();
    let ann = Customer::new(gateway, "ann@example.com").await;
    shop.payments.set_bank(Bank::Silent);
    let id = ann.begin(lamp.id, 2, CARD).await;
    let mut events = ann.follow(id, None).await;
    assert_eq!(events.next().await.unwrap(), (1, "placed".to_owned()));
    assert_eq!(events.next().await.unwrap(), (2, "stock-reserved".to_owned()));
    let (_, order) = ann.get(&format!("/api/orders/{id}")).await;
    assert_eq!(order["status"], "pending");
    shop.payments.set_bank(Bank::Up);
    assert_eq!(events.rest().await, ["payment-taken", "confirmed"], "and then it ends");
    let (_, order) = ann.get(&format!("/api/orders/{id}")).await;
    assert_eq!(order["status"], "confirmed");

    // Whoever comes again says what they know.
    assert_eq!(ann.follow(id, Some(2)).await.rest().await, ["payment-taken", "confirmed"]);
    assert_eq!(ann.follow(id, Some(4)).await.answer.status(), 204, "there is nothing to wait for");
    let bob = Customer::new(gateway, "bob@example.com").await;
    for path in ["events", "history"] {
        let (status, _) = bob.get(&format!("/api/orders/{id}/{path}")).await;
        assert_eq!(status, 404, "what others ordered is not there");
    }
    replays(&shop, 1).await;
    shop.close().await.unwrap();
}

async fn every_order_has_a_history_that_adds_up_to_what_it_is(flow: Flow) {
    let (shop, gateway) = open(flow).await;
    let lamp = shop.products.add("lamp", 1_999, 3).await.unwrap();
    let ann = Customer::new(gateway, "ann@example.com").await;
    let (status, order) = ann.order(lamp.id, 1, CARD).await;
    assert_eq!(status, 201);
    let id = order["id"].as_str().unwrap().parse().unwrap();
    let happened = ann.history(id).await;
    assert_eq!(happened, ["placed", "stock-reserved", "payment-taken", "confirmed"]);

    let (_, problem) = ann.order(lamp.id, 3, CARD).await;
    assert_eq!(problem["detail"], "lamp: 3 wanted, 2 left");
    assert_eq!(ann.order(lamp.id, 1, DECLINED_CARD).await.0, 402);
    at_rest(&shop).await;
    let (_, orders) = ann.get("/api/orders").await;
    let mut histories = Vec::new();
    for order in orders.as_array().unwrap() {
        if order["status"] == "cancelled" {
            histories.push(ann.history(order["id"].as_str().unwrap().parse().unwrap()).await);
        }
    }
    let declined = ["placed", "stock-reserved", "payment-refused", "stock-released", "cancelled"];
    assert_eq!(histories, [&["placed", "stock-refused", "cancelled"][..], &declined[..]]);
    replays(&shop, 3).await;
    shop.close().await.unwrap();
}

async fn who_follows_an_order_goes_on_at_another_instance_and_holds_up_no_end(flow: Flow) {
    let (mut shop, gateway) = open(flow).await;
    let lamp = shop.products.add("lamp", 1_999, 10).await.unwrap();
    let ann = Customer::new(gateway, "ann@example.com").await;
    shop.payments.set_bank(Bank::Silent);
    let id = ann.begin(lamp.id, 1, CARD).await;
    // One at each instance at least, and some that are dropped in the middle.
    let mut followers = Vec::new();
    for _ in 0..8 {
        followers.push(ann.follow(id, None).await);
    }
    for events in &mut followers {
        assert_eq!(events.next().await.unwrap().1, "placed");
    }
    followers.truncate(4);
    for id in ["order-service-1", "order-service-2"] {
        soon(shop.restart(id)).await.unwrap();
    }
    for mut events in followers {
        while events.next().await.is_some() {}
    }
    shop.payments.set_bank(Bank::Up);
    let mut known = 1;
    soon(async {
        loop {
            let mut events = ann.follow(id, Some(known)).await;
            while let Some((version, name)) = events.next().await {
                assert_eq!(version, known + 1, "{name}");
                known = version;
            }
            if events.answer.status() == 204 {
                return;
            }
        }
    })
    .await;
    replays(&shop, 1).await;

    // Nor does one who follows what does not end hold the shop open.
    shop.payments.set_bank(Bank::Silent);
    let id = ann.begin(lamp.id, 1, CARD).await;
    let mut events = ann.follow(id, None).await;
    events.next().await.unwrap();
    let payments = shop.payments.clone();
    let closing = tokio::spawn(shop.close());
    while events.next().await.is_some() {}
    payments.set_bank(Bank::Up);
    soon(closing).await.unwrap().unwrap();
}

async fn what_is_refused_is_undone_and_told_alike(flow: Flow) {
    let (shop, gateway) = open(flow).await;
    let lamp = shop.products.add("lamp", 1_999, 5).await.unwrap();
    let pot = shop.products.add("pot", 2_450, 1).await.unwrap();
    let ann = Customer::new(gateway, "ann@example.com").await;
    let (status, problem) = ann.order(lamp.id, 1, DECLINED_CARD).await;
    assert_eq!((status.as_u16(), &problem["detail"]), (402, &json!("the bank declined the card")));
    // The first line of it can be had.
    let lines =
        json!([{ "product_id": lamp.id, "quantity": 2 }, { "product_id": pot.id, "quantity": 2 }]);
    let order = json!({ "items": lines, "card": CARD });
    let answer = ann.ask(Method::POST, "/api/orders").json(&order).send().await.unwrap();
    assert_eq!(answer.status(), 409);
    let problem: Value = answer.json().await.unwrap();
    assert_eq!(problem["detail"], "pot: 2 wanted, 1 left");
    shop.payments.set_bank(Bank::Down);
    let mut details = Vec::new();
    // All at once, so that the last ones find the circuits open.
    while !details.iter().any(|detail: &String| detail.contains("circuit")) && details.len() < 80 {
        let orders = (0..5).map(|_| ann.order(lamp.id, 1, CARD));
        for (status, problem) in futures_util::future::join_all(orders).await {
            assert!(matches!(status.as_u16(), 424 | 409), "{problem}");
            details.push(problem["detail"].to_string());
        }
    }
    assert!(details.iter().any(|detail| detail.contains("circuit")), "{details:?}");
    at_rest(&shop).await;
    let all = shop.products.all().await.unwrap();
    assert_eq!(all.iter().map(|one| one.stock).collect::<Vec<_>>(), [5, 1], "all is back");
    assert_eq!(shop.payments.totals().await.unwrap().captured, 0);

    shop.payments.set_bank(Bank::Up);
    soon(async {
        while ann.order(lamp.id, 1, CARD).await.0 != 201 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    at_rest(&shop).await;
    assert_eq!(shop.payments.totals().await.unwrap().captured, 1);
    assert_eq!(shop.inventory.sold().await.unwrap()[&lamp.id], 1);
    let replay = shop.orders.replay().await.unwrap();
    assert!(replay.different.is_empty(), "{replay:?}");
    shop.close().await.unwrap();
}

async fn a_repeated_order_is_one_order(flow: Flow) {
    let (shop, gateway) = open(flow).await;
    let lamp = shop.products.add("lamp", 1_999, 10).await.unwrap();
    let ann = Customer::new(gateway, "ann@example.com").await;
    let order = json!({ "items": [{ "product_id": lamp.id, "quantity": 2 }], "card": CARD });
    let place = async || {
        let request = ann.ask(Method::POST, "/api/orders").header("idempotency-key", "one");
        let answer = request.json(&order).send().await.unwrap();
        (answer.status(), answer.json::<Value>().await.unwrap())
    };
    let both = tokio::join!(place(), place(), place());
    assert_eq!(both.0, both.1);
    assert_eq!((both.0.0.as_u16(), &both.0), (201, &both.2));
    replays(&shop, 1).await;
    assert_eq!(shop.payments.totals().await.unwrap().balance_cents, 2 * 1_999);
    assert_eq!(shop.products.all().await.unwrap()[0].stock, 8);
    assert_eq!(shop.inventory.sold().await.unwrap()[&lamp.id], 2);
    shop.close().await.unwrap();
}

async fn instances_that_are_killed_cost_no_order(flow: Flow) {
    let (mut shop, gateway) = open(flow).await;
    let lamp = shop.products.add("lamp", 1_999, 1_000).await.unwrap();
    let ann = Customer::new(gateway, "ann@example.com").await;
    shop.payments.set_bank(Bank::Silent);
    for _ in 0..6 {
        ann.begin(lamp.id, 1, CARD).await;
    }
    for id in ["product-service-1", "payment-service-1", "order-service-1"] {
        assert!(shop.kill(id).await.unwrap());
    }
    shop.payments.set_bank(Bank::Up);
    // Circuits that the silent bank has opened close again.
    soon(async {
        while ann.order(lamp.id, 1, CARD).await.0 != 201 {
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    })
    .await;
    at_rest(&shop).await;
    // Those that the bank has let wait for too long are undone.
    let confirmed = shop.orders.confirmed().await.unwrap().len() as u64;
    assert!(confirmed >= 1);
    assert_eq!(shop.payments.totals().await.unwrap().balance_cents, confirmed * 1_999);
    assert_eq!(u64::from(shop.products.all().await.unwrap()[0].stock), 1_000 - confirmed);
    assert_eq!(shop.inventory.sold().await.unwrap()[&lamp.id], confirmed);
    let replay = shop.orders.replay().await.unwrap();
    assert!(replay.different.is_empty() && replay.orders >= 7, "{replay:?}");
    shop.close().await.unwrap();
}

/// Each of these holds whoever knows what is to be done.
macro_rules! in_both_flows {
    ($($name:ident)*) => {
        mod orchestration {
            use shop::Flow;
            $(#[tokio::test]
            async fn $name() {
                super::$name(Flow::Orchestration).await;
            })*
        }
        mod choreography {
            use shop::Flow;
            $(#[tokio::test]
            async fn $name() {
                super::$name(Flow::Choreography).await;
            })*
        }
    };
}

in_both_flows! {
    an_order_is_followed_live_from_its_beginning_to_its_end
    every_order_has_a_history_that_adds_up_to_what_it_is
    who_follows_an_order_goes_on_at_another_instance_and_holds_up_no_end
    what_is_refused_is_undone_and_told_alike
    a_repeated_order_is_one_order
    instances_that_are_killed_cost_no_order
}
