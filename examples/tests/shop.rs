//! The shop as its customers see it, through the gateway and over real sockets.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

use std::{net::SocketAddr, time::Duration};

use gusset::{
    broker::Filter,
    call::TraceContext,
    sidecar::{Row, SpanKind, Waterfall},
};
use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};
use shop::{
    Ground, Place, Shop, Times,
    notification::POISON_EMAIL,
    payment::{Bank, DECLINED_CARD},
    settings::{GIFT_WRAP, price_key},
};
use tokio::{net::TcpListener, task::JoinSet};
use uuid::Uuid;

const CARD: &str = "4242424242424242";

struct Visitor {
    http: Client,
    gateway: SocketAddr,
    token: String,
}

async fn open() -> (Shop, SocketAddr) {
    open_at(&Place::Memory).await
}

async fn open_at(place: &Place) -> (Shop, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gateway = listener.local_addr().unwrap();
    let times = Times {
        ttl: Duration::from_secs(1),
        sweep: Duration::from_millis(250),
        open_for: Duration::from_secs(1),
    };
    let ground = Ground { registry: place.clone(), times, ..Ground::default() };
    (Shop::open(&ground, listener).await.unwrap(), gateway)
}

impl Visitor {
    async fn new(gateway: SocketAddr, email: &str) -> Self {
        let mut visitor = Self { http: Client::new(), gateway, token: String::new() };
        let account = json!({ "email": email, "name": "A", "password": "long enough" });
        let (status, _) = visitor.send(Method::POST, "/api/users", Some(account)).await;
        assert_eq!(status, 201);
        let login = json!({ "email": email, "password": "long enough" });
        let (status, body) = visitor.send(Method::POST, "/api/login", Some(login)).await;
        assert_eq!(status, 200);
        visitor.token = body["token"].as_str().unwrap().to_owned();
        visitor
    }

    async fn send(&self, method: Method, path: &str, body: Option<Value>) -> (StatusCode, Value) {
        let mut request = self.http.request(method, format!("http://{}{path}", self.gateway));
        if !self.token.is_empty() {
            request = request.bearer_auth(&self.token);
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await.unwrap();
        let status = answer.status();
        if status.is_client_error() || status.is_server_error() {
            assert_eq!(answer.headers()["content-type"], "application/problem+json", "{path}");
        }
        let body = answer.bytes().await.unwrap();
        (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
    }

    async fn send_with_key(&self, key: &str, order: Value) -> (StatusCode, Value) {
        let url = format!("http://{}/api/orders", self.gateway);
        let request = self.http.post(url).bearer_auth(&self.token).header("idempotency-key", key);
        let answer = request.json(&order).send().await.unwrap();
        (answer.status(), answer.json().await.unwrap())
    }

    async fn order(&self, product: Uuid, quantity: u32, card: &str) -> (StatusCode, Value) {
        let order = json!({
            "items": [{ "product_id": product, "quantity": quantity }],
            "card": card,
        });
        self.send(Method::POST, "/api/orders", Some(order)).await
    }
}

/// Asks the gateway until `holds` of the answer, for at most five seconds.
async fn until(visitor: &Visitor, path: &str, holds: impl Fn(&Value) -> bool) {
    tokio::time::timeout(Duration::from_secs(5), async {
        // Every instance has its own settings; twenty answers in a row are of all of them.
        let mut in_a_row = 0;
        while in_a_row < 20 {
            let (_, answer) = visitor.send(Method::GET, path, None).await;
            in_a_row = if holds(&answer) { in_a_row + 1 } else { 0 };
        }
    })
    .await
    .expect("a change is seen soon");
}

async fn stock(shop: &Shop, product: Uuid) -> u32 {
    shop.products.all().await.unwrap().iter().find(|found| found.id == product).unwrap().stock
}

/// Not only of messages: what an order has to tell is published after its answer.
async fn quiet(shop: &Shop) {
    tokio::time::timeout(Duration::from_secs(20), async {
        while !shop.is_at_rest().await.unwrap() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("messages are handled");
}

#[tokio::test]
async fn a_customer_registers_browses_fills_a_cart_orders_and_reads_the_order_back() {
    let (shop, gateway) = open().await;
    let lamp = shop.products.add("lamp", 1_999, 10).await.unwrap();
    let ann = Visitor::new(gateway, "ann@example.com").await;

    let (_, products) = ann.send(Method::GET, "/api/products", None).await;
    assert_eq!(products[0]["name"], "lamp");
    let path = format!("/api/cart/items/{}", lamp.id);
    let (status, _) = ann.send(Method::PUT, &path, Some(json!({ "quantity": 2 }))).await;
    assert_eq!(status, 200);
    let (_, cart) = ann.send(Method::GET, "/api/cart", None).await;
    assert_eq!(cart["items"][0]["quantity"], 2);

    let (status, order) = ann.order(lamp.id, 2, CARD).await;
    assert_eq!((status.as_u16(), &order["total_cents"]), (201, &json!(3_998)), "{order}");
    let id: Uuid = order["id"].as_str().unwrap().parse().unwrap();
    let (status, again) = ann.send(Method::GET, &format!("/api/orders/{id}"), None).await;
    assert_eq!((status.as_u16(), &again), (200, &order));
    assert_eq!(stock(&shop, lamp.id).await, 8);

    quiet(&shop).await;
    assert_eq!(shop.notifications.mails_about(id).await.unwrap(), 1);
    assert_eq!(shop.inventory.sold().await.unwrap()[&lamp.id], 2);

    let bob = Visitor::new(gateway, "bob@example.com").await;
    let (status, _) = bob.send(Method::GET, &format!("/api/orders/{id}"), None).await;
    assert_eq!(status, 404, "what others ordered is not there");
    let profile = format!("/api/users/{}", again["user_id"].as_str().unwrap());
    let (status, body) = ann.send(Method::GET, &profile, None).await;
    assert_eq!((status.as_u16(), &body["email"]), (200, &json!("ann@example.com")));
    let (status, _) = bob.send(Method::GET, &profile, None).await;
    assert_eq!(status, 404, "nor are other people");
    shop.close().await.unwrap();
}

/// Each span of a trace below its cause, in order of beginning; the two groups of consumers, which begin at the same time, by name.
async fn tree(shop: &Shop, trace: &TraceContext) -> Vec<String> {
    let records = shop.trace(trace.trace_id()).await;
    let waterfall = Waterfall::new(&records);
    let line = |row: &Row<'_>| {
        let status = row.record.status.map(|status| format!(" {status}")).unwrap_or_default();
        format!("{}{}{status}", "· ".repeat(row.depth), row.name())
    };
    let mut lines: Vec<_> = waterfall.rows().iter().map(line).collect();
    if let Some(consumers) = lines.iter().position(|line| line.contains(" process ")) {
        lines[consumers..].sort_unstable();
    }
    lines
}

#[tokio::test]
async fn an_order_is_one_trace_from_the_gateway_to_the_handlers_of_its_event() {
    let (shop, gateway) = open().await;
    let lamp = shop.products.add("lamp", 1_999, 10).await.unwrap();
    let ann = Visitor::new(gateway, "ann@example.com").await;
    let trace = TraceContext::new_root();
    let order = json!({ "items": [{ "product_id": lamp.id, "quantity": 1 }], "card": CARD });
    let request = ann.http.post(format!("http://{gateway}/api/orders")).bearer_auth(&ann.token);
    let request = request.header("traceparent", trace.to_string()).json(&order);
    assert_eq!(request.send().await.unwrap().status(), 201);

    // Consumers continue the span that the event was written in, as OpenTelemetry asks for; its publishing is another thing that came of it.
    let expected = [
        "gateway POST /api/orders 201",
        "· gateway → POST order-service 201",
        "· · order-service POST /orders 201",
        "· · · order-service → GET user-service 200",
        "· · · · user-service GET /users/{id}/validate 200",
        "· · · order-service → GET product-service 200",
        "· · · · product-service GET /products/{id} 200",
        "· · · order-service → POST product-service 204",
        "· · · · product-service POST /products/reserve 204",
        "· · · order-service → shop.Payments/Charge 200",
        "· · · · payment-service shop.Payments/Charge 200",
        "· · · order-service → publish order.created",
        "· · · inventory-service process order.created",
        "· · · notification-service process order.created",
    ];
    // Spans end with their bodies, and the event is told after the answer.
    let told = tokio::time::timeout(Duration::from_secs(20), async {
        while tree(&shop, &trace).await.len() < expected.len() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    let told = told.await;
    let seen = tree(&shop, &trace).await;
    assert_eq!(seen, expected, "{told:?}\n{}", seen.join("\n"));
    let records = shop.trace(trace.trace_id()).await;
    let root = records.iter().find(|record| *record.service == *"gateway").unwrap();
    assert_eq!(root.parent_id, Some(trace.span_id()));
    for group in ["inventory", "notification"] {
        let service = format!("{group}-service");
        let handled = records.iter().find(|record| *record.service == *service).unwrap();
        assert_eq!(handled.kind, SpanKind::Consumer);
        assert!(handled.tags.contains(&("messaging.consumer.group.name".into(), group.into())));
    }
    assert!(Waterfall::new(&records).to_string().lines().all(|line| line.contains('▬')));

    let teller = shop.running.iter().find(|one| one.service() == "inventory-service").unwrap();
    let metrics = ann.http.get(format!("http://{}/metrics", teller.addr())).send().await.unwrap();
    let metrics = metrics.text().await.unwrap();
    for group in ["inventory", "notification"] {
        let line = format!("gusset_broker_published_total{{group=\"{group}\"}} 1\n");
        assert!(metrics.contains(&line), "{metrics}");
    }
    shop.close().await.unwrap();
}

#[tokio::test]
async fn what_is_wrong_is_answered_with_the_right_problem() {
    let (shop, gateway) = open().await;
    let lamp = shop.products.add("lamp", 1_999, 3).await.unwrap();
    let ann = Visitor::new(gateway, "ann@example.com").await;
    let nobody = Visitor { http: Client::new(), gateway, token: String::new() };

    let (status, _) = nobody.send(Method::GET, "/api/orders", None).await;
    assert_eq!(status, 401);
    let forged = Visitor { http: Client::new(), gateway, token: "a.b.c".into() };
    let (status, _) = forged.send(Method::GET, "/api/cart", None).await;
    assert_eq!(status, 401);
    let (status, _) = nobody.send(Method::GET, "/api/nothing", None).await;
    assert_eq!(status, 404);
    let (status, _) = nobody.send(Method::DELETE, "/api/products", None).await;
    assert_eq!(status, 405);
    let account = json!({ "email": "ann@example.com", "name": "A", "password": "long enough" });
    let (status, _) = nobody.send(Method::POST, "/api/users", Some(account)).await;
    assert_eq!(status, 409);
    let (status, problem) = ann.order(lamp.id, 4, CARD).await;
    assert_eq!((status.as_u16(), &problem["detail"]), (409, &json!("lamp: 4 wanted, 3 left")));
    let (status, problem) = ann.order(lamp.id, 0, CARD).await;
    assert_eq!(status, 422);
    assert_eq!(problem["detail"], "items[0].quantity: must be at least 1");
    let (status, _) = ann.send(Method::POST, "/api/orders", Some(json!({ "items": 7 }))).await;
    assert_eq!(status, 422);
    for (quantity, expected) in [(1, 201), (1, 201), (2, 422)] {
        let order =
            json!({ "items": [{ "product_id": lamp.id, "quantity": quantity }], "card": CARD });
        let (status, problem) = ann.send_with_key("one-order", order).await;
        assert_eq!(status, expected, "{problem}");
    }
    assert_eq!(stock(&shop, lamp.id).await, 2, "one key, one order");
    let (status, _) = ann.order(lamp.id, 1, DECLINED_CARD).await;
    assert_eq!(status, 402);
    assert_eq!(stock(&shop, lamp.id).await, 2, "what was reserved for a declined card is back");
    // At once: a slow machine gives a token back between one and the next.
    let looks = (0..100).map(|_| ann.send(Method::GET, "/api/cart", None));
    let looks = futures_util::future::join_all(looks).await;
    assert!(looks.iter().any(|(status, _)| *status == 429));
    shop.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_orders_at_once_for_a_stock_of_ten_sell_exactly_ten() {
    let (shop, gateway) = open().await;
    let lamp = shop.products.add("lamp", 1_999, 10).await.unwrap();
    let mut buyers = Vec::new();
    for n in 0..20 {
        buyers.push(Visitor::new(gateway, &format!("{n}@example.com")).await);
    }
    let mut orders = tokio::task::JoinSet::new();
    for n in 0..1_000 {
        let buyer = &buyers[n % buyers.len()];
        let visitor = Visitor { http: buyer.http.clone(), gateway, token: buyer.token.clone() };
        orders.spawn(async move { visitor.order(lamp.id, 1, CARD).await.0.as_u16() });
    }
    let answers = orders.join_all().await;
    let count = |status| answers.iter().filter(|answer| **answer == status).count();
    assert_eq!(count(201), 10, "{answers:?}");
    assert_eq!(stock(&shop, lamp.id).await, 0);
    let totals = shop.payments.totals().await.unwrap();
    assert_eq!(
        (totals.captured - totals.refunded, shop.orders.confirmed().await.unwrap().len()),
        (10, 10)
    );
    shop.close().await.unwrap();
}

#[tokio::test]
async fn a_bank_that_is_down_costs_no_stock_and_opens_the_circuits() {
    let (shop, gateway) = open().await;
    let lamp = shop.products.add("lamp", 1_999, 10).await.unwrap();
    let ann = Visitor::new(gateway, "ann@example.com").await;
    shop.payments.set_bank(Bank::Down);
    let mut refused_by_a_circuit = false;
    for _ in 0..4 {
        // All at once: one after the other, the first circuit would be half-open again before the last one trips.
        let orders = (0..20).map(|_| ann.order(lamp.id, 1, CARD));
        for (status, problem) in futures_util::future::join_all(orders).await {
            // Those that find the stock reserved by the others are refused for that.
            assert!(matches!(status.as_u16(), 424 | 409), "{problem}");
            refused_by_a_circuit |= problem["detail"].to_string().contains("circuit payment");
        }
        if refused_by_a_circuit {
            break;
        }
    }
    assert!(refused_by_a_circuit, "no circuit opened");
    assert_eq!(stock(&shop, lamp.id).await, 10);
    let (status, _) = ann.send(Method::GET, "/api/products", None).await;
    assert_eq!(status, 200, "the catalogue has nothing to do with it");
    shop.close().await.unwrap();
}

#[tokio::test]
async fn a_killed_instance_costs_no_order() {
    let (mut shop, gateway) = open().await;
    let lamp = shop.products.add("lamp", 1_999, 1_000).await.unwrap();
    let ann = Visitor::new(gateway, "ann@example.com").await;
    ann.order(lamp.id, 1, CARD).await;
    shop.take("product-service-2").unwrap().kill();
    for _ in 0..30 {
        let (status, answer) = ann.order(lamp.id, 1, CARD).await;
        assert_eq!(status, 201, "{answer}");
    }
    shop.close().await.unwrap();
}

#[tokio::test]
async fn a_poison_message_dies_and_lives_again_after_the_repair() {
    let (shop, gateway) = open().await;
    let lamp = shop.products.add("lamp", 1_999, 10).await.unwrap();
    let bobby = Visitor::new(gateway, POISON_EMAIL).await;
    let (status, order) = bobby.order(lamp.id, 1, CARD).await;
    assert_eq!(status, 201);
    let id: Uuid = order["id"].as_str().unwrap().parse().unwrap();
    quiet(&shop).await;
    let letters = shop.broker.dead_letters().list(&Filter::all(), None, 10).await.unwrap();
    assert_eq!(letters.len(), 1);
    assert_eq!(shop.notifications.mails_about(id).await.unwrap(), 0);
    assert_eq!(shop.inventory.sold().await.unwrap()[&lamp.id], 1, "the other group is not held up");

    shop.notifications.repair();
    assert_eq!(shop.broker.dead_letters().redrive_all(&Filter::all()).await.unwrap().redriven, 1);
    quiet(&shop).await;
    assert_eq!(shop.notifications.mails_about(id).await.unwrap(), 1);
    shop.close().await.unwrap();
}

#[tokio::test]
async fn a_price_that_changes_is_in_the_next_listing_and_a_bad_one_changes_nothing() {
    let (shop, gateway) = open().await;
    let lamp = shop.products.add("desk lamp", 1_999, 10).await.unwrap();
    let ann = Visitor::new(gateway, "ann@example.com").await;
    let (key, path) = (price_key("desk-lamp"), format!("/api/products/{}", lamp.id));
    shop.keys.put(&key, "1500").await.unwrap();
    until(&ann, &path, |lamp| lamp["price_cents"] == 1_500).await;
    let (_, order) = ann.order(lamp.id, 2, CARD).await;
    assert_eq!(order["total_cents"], 3_000);

    shop.keys.put(&key, "a lot").await.unwrap();
    // Another change, so that one knows when the bad one was seen.
    shop.keys.put(&price_key("pot"), "7").await.unwrap();
    let of_products = shop.running.iter().filter(|one| one.service() == "product-service");
    for one in of_products {
        let url = format!("http://{}/settings", one.addr());
        let settings: Value = loop {
            let settings: Value = ann.http.get(&url).send().await.unwrap().json().await.unwrap();
            if settings["prices"]["pot"] == 7 {
                break settings;
            }
        };
        assert_eq!(settings["prices"]["desk-lamp"], 1_500);
        let refused = settings["refused"][&key].as_str().unwrap();
        assert_eq!(refused, r#"a price is whole cents from 1 to 100000000, not "a lot""#);
    }
    shop.close().await.unwrap();
}

#[tokio::test]
async fn orders_are_wrapped_as_gifts_while_the_flag_is_on() {
    let (shop, gateway) = open().await;
    let lamp = shop.products.add("lamp", 1_999, 10).await.unwrap();
    let ann = Visitor::new(gateway, "ann@example.com").await;
    let wrapped = json!({
        "items": [{ "product_id": lamp.id, "quantity": 1 }], "card": CARD, "gift_wrap": true,
    });
    let place = async || ann.send(Method::POST, "/api/orders", Some(wrapped.clone())).await;
    let (status, problem) = place().await;
    assert_eq!(status, 422);
    assert_eq!(problem["detail"], "gift_wrap: orders are not wrapped at present");
    shop.keys.put(GIFT_WRAP, "on").await.unwrap();
    let order = tokio::time::timeout(Duration::from_secs(5), async {
        loop {
            let (status, order) = place().await;
            if status == 201 {
                break order;
            }
        }
    });
    assert_eq!(order.await.unwrap()["total_cents"], 1_999 + 350);
    shop.close().await.unwrap();
}

#[tokio::test]
async fn an_order_keeps_its_total_when_a_price_changes_in_the_middle_of_its_saga() {
    let (shop, gateway) = open().await;
    let lamp = shop.products.add("lamp", 1_999, 10).await.unwrap();
    let ann = Visitor::new(gateway, "ann@example.com").await;
    let bob = Visitor::new(gateway, "bob@example.com").await;
    shop.payments.set_bank(Bank::Silent);
    let placing = tokio::spawn(async move { ann.order(lamp.id, 1, CARD).await });
    while stock(&shop, lamp.id).await == 10 {
        tokio::task::yield_now().await;
    }
    // The saga has begun, and waits for the bank.
    shop.keys.put(&price_key("lamp"), "5000").await.unwrap();
    let path = format!("/api/products/{}", lamp.id);
    until(&bob, &path, |lamp| lamp["price_cents"] == 5_000).await;
    assert!(!placing.is_finished());
    shop.payments.set_bank(Bank::Up);
    let (status, order) = placing.await.unwrap();
    assert_eq!((status.as_u16(), &order["total_cents"]), (201, &json!(1_999)), "{order}");
    assert_eq!(shop.payments.totals().await.unwrap().balance_cents, 1_999);
    let (_, next) = bob.order(lamp.id, 1, CARD).await;
    assert_eq!(next["total_cents"], 5_000);
    shop.close().await.unwrap();
}

#[tokio::test]
async fn a_repeated_order_is_the_same_order_after_its_price_has_changed() {
    let (shop, gateway) = open().await;
    let lamp = shop.products.add("lamp", 1_999, 10).await.unwrap();
    let ann = Visitor::new(gateway, "ann@example.com").await;
    let order = json!({ "items": [{ "product_id": lamp.id, "quantity": 1 }], "card": CARD });
    let first = ann.send_with_key("one-order", order.clone()).await;
    assert_eq!(first.0, 201);
    shop.keys.put(&price_key("lamp"), "5000").await.unwrap();
    let path = format!("/api/products/{}", lamp.id);
    until(&ann, &path, |lamp| lamp["price_cents"] == 5_000).await;
    // By either instance of the order service.
    for _ in 0..8 {
        assert_eq!(ann.send_with_key("one-order", order.clone()).await, first);
    }
    assert_eq!(
        (stock(&shop, lamp.id).await, shop.payments.totals().await.unwrap().captured),
        (9, 1)
    );
    shop.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_under_load_loses_no_request() {
    rolling_restart(&Place::Memory).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_under_load_loses_no_request_over_a_registry_served_by_http() {
    rolling_restart(&Place::Http).await;
}

async fn rolling_restart(place: &Place) {
    let (mut shop, gateway) = open_at(place).await;
    let lamp = shop.products.add("lamp", 1_999, 1_000_000).await.unwrap();
    shop.keys.put(&price_key("lamp"), "5").await.unwrap();
    let path = format!("/api/products/{}", lamp.id);
    let ann = Visitor::new(gateway, "ann@example.com").await;
    until(&ann, &path, |lamp| lamp["price_cents"] == 5).await;

    let running = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true));
    let mut customers = JoinSet::new();
    for n in 0..8 {
        let customer = Visitor::new(gateway, &format!("{n}@example.com")).await;
        let (running, path) = (running.clone(), path.clone());
        customers.spawn(async move {
            let mut done = 0_u32;
            while running.load(std::sync::atomic::Ordering::SeqCst) {
                // A read through the gateway, and an order, for which two services call the one that is restarted. Their quotas are
                // of 600 and 100 a minute.
                if done.is_multiple_of(10) {
                    let (status, answer) = customer.order(lamp.id, 1, CARD).await;
                    assert!(matches!(status.as_u16(), 201 | 429), "{status} {answer}");
                } else {
                    let (status, answer) = customer.send(Method::GET, &path, None).await;
                    assert!(matches!(status.as_u16(), 200 | 429), "{status} {answer}");
                    assert!(status == 429 || answer["price_cents"] == 5, "{answer}");
                }
                done += 1;
            }
            done
        });
    }
    let answered = async |shop: &Shop| -> Vec<u64> {
        let answered = shop.answered_by("product-service").await;
        answered.iter().map(|(_, answered)| answered.requests).collect()
    };
    for id in ["product-service-1", "product-service-2", "product-service-3"] {
        shop.restart(id).await.unwrap();
        let before: u64 = answered(&shop).await.iter().sum();
        while answered(&shop).await.iter().sum::<u64>() < before + 50 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    running.store(false, std::sync::atomic::Ordering::SeqCst);
    let done: u32 = customers.join_all().await.into_iter().sum();
    assert!(done > 150, "{done}");
    assert_eq!(answered(&shop).await.len(), 3, "those that came are counted with those that went");
    assert_eq!(shop.running.iter().filter(|one| one.service() == "product-service").count(), 3);
    shop.close().await.unwrap();
}

#[tokio::test]
async fn a_killed_instance_is_passed_over_where_the_registry_is_served_by_http() {
    let (mut shop, gateway) = open_at(&Place::Http).await;
    let lamp = shop.products.add("lamp", 1_999, 1_000).await.unwrap();
    let ann = Visitor::new(gateway, "ann@example.com").await;
    let mut watch = shop.registry.watch("product-service");
    shop.take("product-service-2").unwrap().kill();
    tokio::time::timeout(Duration::from_secs(10), async {
        while watch.snapshot().healthy().count() > 2 {
            watch.changed().await;
        }
    })
    .await
    .expect("silence is noticed");
    for _ in 0..10 {
        assert_eq!(ann.order(lamp.id, 1, CARD).await.0, 201);
    }
    shop.close().await.unwrap();
}

#[tokio::test]
async fn a_service_that_is_started_again_begins_with_the_prices_that_hold() {
    let (mut shop, gateway) = open().await;
    let lamp = shop.products.add("lamp", 1_999, 10).await.unwrap();
    shop.keys.put(&price_key("lamp"), "5").await.unwrap();
    let ann = Visitor::new(gateway, "ann@example.com").await;
    for _ in 0..5 {
        shop.restart("product-service-1").await.unwrap();
        let one = shop.running.iter().find(|one| one.id() == "product-service-1").unwrap();
        let url = format!("http://{}/products/{}", one.addr(), lamp.id);
        let first: Value = ann.http.get(url).send().await.unwrap().json().await.unwrap();
        assert_eq!(first["price_cents"], 5);
    }
    shop.close().await.unwrap();
}
