//! Quotas that gateways share in Redis, and what becomes of them while that is away.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

use std::time::Duration;

use gusset::{gateway::serve, sidecar::Recorder};
use gusset_engines::Redis;
use reqwest::Client;
use serde_json::{Value, json};
use shop::{
    Ground, Quotas, Shop,
    chaos::{Fault, Server, Servers},
    front::{self, Door},
    token::Tokens,
};
use tokio::{net::TcpListener, time::Instant};
use uuid::Uuid;

const SECRET: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

/// Longer than anything takes on a machine that is merely busy.
const PATIENCE: Duration = Duration::from_secs(60);

struct Customer {
    http: Client,
    token: String,
}

impl Customer {
    async fn new(gateway: &str, email: &str) -> Self {
        let http = Client::builder().timeout(PATIENCE).build().unwrap();
        let form = json!({ "email": email, "name": "A", "password": "long enough" });
        let post = |path: &str| http.post(format!("{gateway}{path}")).json(&form).send();
        assert_eq!(post("/api/users").await.unwrap().status(), 201);
        let login: Value = post("/api/login").await.unwrap().json().await.unwrap();
        Self { token: login["token"].as_str().unwrap().to_owned(), http }
    }

    /// How many of so many looks at the cart are let through; the others are over the quota.
    async fn looks(&self, gateway: &str, count: usize) -> usize {
        let mut passed = 0;
        for _ in 0..count {
            let request = self.http.get(format!("{gateway}/api/cart")).bearer_auth(&self.token);
            match request.send().await.unwrap().status().as_u16() {
                200 => passed += 1,
                status => assert_eq!(status, 429),
            }
        }
        passed
    }

    async fn order(&self, gateway: &str, product: Uuid) -> u16 {
        let order = json!({ "items": [{ "product_id": product, "quantity": 1 }], "card": "4242424242424242" });
        let request = self.http.post(format!("{gateway}/api/orders")).bearer_auth(&self.token);
        request.json(&order).send().await.unwrap().status().as_u16()
    }
}

/// What 50 a minute are in a span: the bucket, and what comes into it.
fn at_most(since: Instant) -> usize {
    50 + (since.elapsed().as_secs_f64() / 60.0 * 50.0).ceil() as usize
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gateways_have_one_quota_together_and_each_its_own_while_redis_is_away() {
    let (servers, redis) = (Servers::default(), Redis::start());
    let ground =
        Ground { redis: Some(redis.url()), secret: Some(SECRET.to_owned()), ..Ground::default() };
    servers.add(Server::Redis(redis));
    servers.offer_to(&ground.chaos);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let one = format!("http://{}", listener.local_addr().unwrap());
    let shop = Shop::open(&ground, listener).await.unwrap();
    let lamp = shop.products.add("lamp", 1_999, 100).await.unwrap().id;

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let other = format!("http://{}", listener.local_addr().unwrap());
    let breaker = gusset::breaker::Policy::consecutive(5);
    let (tokens, quotas) = (Tokens::signed_by(SECRET), Quotas::of(&ground).unwrap());
    let door = Door { tokens, quotas, breaker };
    let (registry, recorder) = (shop.registry.clone(), Recorder::new("gateway"));
    let split = gusset::gateway::Split::new([gusset::gateway::Variant::new(
        "stable",
        "product-service",
        1,
    )]);
    let gateway = front::gateway(registry, &door, recorder, &split).unwrap();
    let serving = tokio::spawn(serve(listener, gateway, std::future::pending::<()>()));

    // A question that takes longer than Redis may is answered here, so on a machine that is busy with much else this may be more; once it is not.
    let together = async {
        for number in 0.. {
            let ann = Customer::new(&one, &format!("ann-{number}@example.com")).await;
            let since = Instant::now();
            let passed = ann.looks(&one, 30).await + ann.looks(&other, 50).await;
            assert!(passed >= 50, "{passed}");
            if passed <= at_most(since) {
                break;
            }
        }
    };
    tokio::time::timeout(PATIENCE, together).await.expect("one quota of both");

    shop.chaos.set(Fault::RedisDown, true).unwrap();
    servers.obey(shop.chaos.on()).await.unwrap();
    let bob = Customer::new(&one, "bob@example.com").await;
    for gateway in [&one, &other] {
        let since = Instant::now();
        let passed = bob.looks(gateway, 80).await;
        assert!((50..=at_most(since)).contains(&passed), "each by itself: {passed}");
        assert_eq!(bob.order(gateway, lamp).await, 201, "no order waits for Redis");
    }

    shop.chaos.calm();
    servers.obey(shop.chaos.on()).await.unwrap();
    let together = async {
        for number in 0.. {
            let cid = Customer::new(&one, &format!("cid-{number}@example.com")).await;
            let since = Instant::now();
            let passed = cid.looks(&one, 30).await + cid.looks(&other, 50).await;
            if passed <= at_most(since) {
                break;
            }
        }
    };
    tokio::time::timeout(PATIENCE, together).await.expect("one quota of both again");
    serving.abort();
    shop.close().await.unwrap();
}
