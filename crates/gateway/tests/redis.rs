//! What gateways share by a Redis server, and what becomes of it when one of them dies.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may")]

mod common;

use std::{
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
    time::Duration,
};

use axum::{
    Router,
    routing::{any, post},
};
use bytes::Bytes;
use common::*;
use gusset_engines::Redis;
use gusset_gateway::{
    AnswersInRedis, Begun, Gateway, GatewayBody, Idempotency, IdempotencyStore, Route,
    StoredAnswer, Upstream,
};
use gusset_ratelimit::{Quota, RedisLimiter, RedisPolicy, RedisServer, WhenAway};
use gusset_registry::MemoryRegistry;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::Full;
use tokio::time::{Instant, sleep};
use tower::ServiceExt;

const MINUTE: Duration = Duration::from_secs(60);

/// Waits for `condition`, but not for ever.
async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let begin = Instant::now();
    while !condition().await {
        assert!(begin.elapsed() < MINUTE, "never: {what}");
        sleep(Duration::from_millis(5)).await;
    }
}

fn command(redis: &Redis, words: &[&[u8]]) -> redis::Value {
    let mut connection = redis::Client::open(redis.url()).unwrap().get_connection().unwrap();
    let mut command = redis::Cmd::new();
    for word in words {
        command.arg(*word);
    }
    command.query(&mut connection).unwrap()
}

mod quotas {
    use super::*;

    /// With a wait so long that a busy machine does not decide what happens.
    fn gateway(redis: &Redis, to: &Running, when_away: WhenAway) -> Gateway {
        let policy = RedisPolicy::default().call_within(Duration::from_secs(10));
        let server = RedisServer::with_policy(&redis.url(), policy).unwrap();
        let quota = Quota::new(5, Duration::from_secs(100_000));
        let limiter = RedisLimiter::new(&server, "route", quota).when_away(when_away);
        let route = Route::new("/{*rest}").to(Upstream::fixed([to.address]));
        Gateway::builder(MemoryRegistry::default())
            .route(route.shared_quota(limiter))
            .build()
            .unwrap()
    }

    async fn shop() -> Running {
        upstream(Router::new().route("/{*rest}", any(async || "ok"))).await
    }

    #[tokio::test]
    async fn gateways_count_together_and_a_refusal_tells_of_the_quota() {
        let (redis, shop) = (Redis::start(), shop().await);
        let gateways = [(); 2].map(|()| gateway(&redis, &shop, WhenAway::Closed));
        let mut refused = Vec::new();
        for number in 0..8 {
            let answer = ask(&gateways[number % 2], to("/a")).await;
            if answer.status() != 200 {
                refused.push((number, answer));
            }
        }
        let numbers: Vec<_> = refused.iter().map(|(number, _)| *number).collect();
        assert_eq!(numbers, [5, 6, 7]);
        let answer = refused.pop().unwrap().1;
        assert_eq!(answer.status(), 429);
        for name in ["retry-after", "ratelimit", "ratelimit-policy"] {
            assert!(answer.headers().contains_key(name), "{name}: {answer:?}");
        }
        assert_eq!(gateways.iter().map(|gateway| gateway.stats()[0].refused).sum::<u64>(), 3);
    }

    #[tokio::test]
    async fn while_redis_is_gone_each_gateway_decides_as_it_was_told() {
        let (mut redis, shop) = (Redis::start(), shop().await);
        let local = WhenAway::local(NonZeroU32::MIN);
        let [local, open, closed] = [local, WhenAway::Open, WhenAway::Closed]
            .map(|when_away| gateway(&redis, &shop, when_away));
        assert_eq!(ask(&closed, to("/a")).await.status(), 200);
        redis.kill();
        let mut answers = Vec::new();
        for _ in 0..7 {
            answers.push(ask(&local, to("/a")).await.status().as_u16());
            assert_eq!(ask(&open, to("/a")).await.status(), 200);
            let answer = ask(&closed, to("/a")).await;
            assert_eq!(answer.status(), 503);
            assert!(answer.headers().contains_key("retry-after"));
        }
        assert_eq!(answers, [200, 200, 200, 200, 200, 429, 429], "a quota of its own");
        redis.start();
        eventually("it is asked again", async || ask(&closed, to("/a")).await.status() == 200)
            .await;
    }
}

fn in_redis(redis: &Redis) -> AnswersInRedis {
    AnswersInRedis::new(&redis.url(), "shop: {a}").unwrap()
}

/// Counts its payments.
async fn bank() -> (Running, Arc<AtomicU32>) {
    let payments = Arc::new(AtomicU32::new(0));
    let count = payments.clone();
    let pay = async move |_: Bytes| {
        let number = count.fetch_add(1, SeqCst) + 1;
        sleep(Duration::from_millis(20)).await;
        (StatusCode::CREATED, [("x-payment", number.to_string())], "paid")
    };
    (upstream(Router::new().route("/pay", post(pay))).await, payments)
}

fn payments(to: &Running, answers: AnswersInRedis) -> Gateway {
    let route = Route::new("/pay").to(Upstream::fixed([to.address]));
    let route = route.idempotency(Idempotency::by(answers)).timeout(MINUTE);
    Gateway::builder(MemoryRegistry::default()).route(route).build().unwrap()
}

async fn pay(gateway: &Gateway, key: &str, body: &'static str) -> Response<GatewayBody> {
    let request = Request::post("http://gateway/pay").header("idempotency-key", key);
    gateway.clone().oneshot(request.body(Full::<Bytes>::from(body)).unwrap()).await.unwrap()
}

#[tokio::test]
async fn of_a_hundred_requests_to_several_gateways_one_has_an_effect() {
    let (redis, (bank, count)) = (Redis::start(), bank().await);
    let gateways = [(); 3].map(|()| payments(&bank, in_redis(&redis)));
    let mut clients = tokio::task::JoinSet::new();
    for number in 0..100 {
        let gateway = gateways[number % 3].clone();
        clients.spawn(async move { pay(&gateway, "one", "ten").await.status().as_u16() });
    }
    let statuses = clients.join_all().await;
    assert!(statuses.iter().all(|status| [201, 409].contains(status)), "{statuses:?}");
    assert_eq!(count.load(SeqCst), 1);
    for gateway in &gateways {
        let again = pay(gateway, "one", "ten").await;
        assert_eq!(
            (again.status().as_u16(), &again.headers()["x-payment"]),
            (201, &"1".parse().unwrap())
        );
        assert_eq!(again.headers()["idempotent-replayed"], "true");
        assert_eq!(text(again).await, "paid");
        assert_eq!(pay(gateway, "one", "twenty").await.status(), 422);
    }
    assert_eq!(count.load(SeqCst), 1);
}

mod store {
    use super::*;

    const LEASE: Duration = Duration::from_secs(300);

    /// A key, by the only way to one: a request that has it.
    struct Spy(tokio::sync::mpsc::UnboundedSender<gusset_gateway::RequestKey>);

    impl IdempotencyStore for Spy {
        fn begin<'a>(
            &'a self,
            key: &'a gusset_gateway::RequestKey,
            _: Duration,
        ) -> gusset_gateway::Pending<'a, Begun> {
            let _ = self.0.send(*key);
            Box::pin(std::future::ready(Ok(Begun::Full)))
        }

        fn keep<'a>(
            &'a self,
            _: &'a gusset_gateway::RequestKey,
            _: u64,
            _: Arc<StoredAnswer>,
            _: Duration,
        ) -> gusset_gateway::Pending<'a, ()> {
            Box::pin(std::future::ready(Ok(())))
        }

        fn release(&self, _: &gusset_gateway::RequestKey, _: u64) {}
    }

    async fn key() -> gusset_gateway::RequestKey {
        let (seen, mut keys) = tokio::sync::mpsc::unbounded_channel();
        let route = Route::new("/pay").to(Upstream::fixed(["127.0.0.1:1".parse().unwrap()]));
        let route = route.idempotency(Idempotency::by(Spy(seen)));
        let gateway = Gateway::builder(MemoryRegistry::default()).route(route).build().unwrap();
        pay(&gateway, "key", "").await;
        keys.recv().await.unwrap()
    }

    fn answer() -> Arc<StoredAnswer> {
        Arc::new(StoredAnswer {
            target: [1; 32],
            sent: None,
            status: StatusCode::CREATED,
            headers: HeaderMap::new(),
            body: Some(Bytes::from_static(b"paid")),
            trailers: None,
        })
    }

    async fn claimed(store: &AnswersInRedis, lease: Duration) -> u64 {
        match store.begin(&key().await, lease).await.unwrap() {
            Begun::Claimed(claim) => claim,
            other => panic!("{other:?}"),
        }
    }

    async fn found(store: &AnswersInRedis) -> Begun {
        store.begin(&key().await, LEASE).await.unwrap()
    }

    #[tokio::test]
    async fn a_gateway_that_died_leaves_its_key_when_its_claim_ends_and_says_nothing_later() {
        let redis = Redis::start();
        let (dead, alive) = (in_redis(&redis), in_redis(&redis));
        // On a machine so slow that a second passes in between, it would be free too early for the next line, and not for the one after it.
        let old = claimed(&dead, Duration::from_secs(5)).await;
        assert!(matches!(found(&alive).await, Begun::Running));
        let mut new = None;
        eventually("the claim ends", async || {
            new = match found(&alive).await {
                Begun::Claimed(claim) => Some(claim),
                _ => None,
            };
            new.is_some()
        })
        .await;
        let key = key().await;
        dead.keep(&key, old, answer(), LEASE).await.unwrap();
        assert!(matches!(found(&dead).await, Begun::Running), "it was not heard");
        dead.release(&key, old);
        alive.keep(&key, new.unwrap(), answer(), LEASE).await.unwrap();
        match found(&dead).await {
            Begun::Answered(answer) => assert_eq!(answer.body.as_deref(), Some(&b"paid"[..])),
            other => panic!("{other:?}"),
        }
        assert_eq!(alive.stats(), gusset_gateway::AnswersInRedisStats::default());
    }

    #[tokio::test]
    async fn what_was_given_back_is_free_and_what_is_kept_ends() {
        let redis = Redis::start();
        let store = in_redis(&redis);
        let claim = claimed(&store, LEASE).await;
        store.release(&key().await, claim);
        let mut again = 0;
        eventually("it is free", async || {
            let Begun::Claimed(claim) = found(&store).await else { return false };
            again = claim;
            true
        })
        .await;
        store.keep(&key().await, again, answer(), Duration::from_millis(50)).await.unwrap();
        eventually("the answer ends", async || matches!(found(&store).await, Begun::Claimed(_)))
            .await;
    }

    #[tokio::test]
    async fn no_request_passes_without_redis_and_one_with_a_disk_forgets_nothing() {
        let disk = ["--appendonly", "yes", "--appendfsync", "always"];
        let mut redis = Redis::start_with(&disk);
        let (bank, count) = bank().await;
        let gateway = payments(&bank, in_redis(&redis));
        assert_eq!(pay(&gateway, "a", "ten").await.status(), 201);
        redis.kill();
        for _ in 0..3 {
            problem(pay(&gateway, "a", "ten").await).await;
            assert_eq!(pay(&gateway, "b", "ten").await.status(), 503);
        }
        redis.start();
        eventually("it answers again", async || {
            let again = pay(&gateway, "a", "ten").await;
            again.status() == 201 && again.headers().contains_key("idempotent-replayed")
        })
        .await;
        assert_eq!(count.load(SeqCst), 1);
    }

    #[tokio::test]
    async fn an_answer_that_cannot_be_kept_at_once_is_given_and_kept_later() {
        let redis = Redis::start();
        let (bank, count) = bank().await;
        let answers = in_redis(&redis);
        let key = key().await;
        let claim = claimed(&answers, LEASE).await;
        redis.pause();
        assert!(answers.keep(&key, claim, answer(), LEASE).await.is_err());
        assert!(answers.stats().failures > 0);
        redis.resume();
        eventually("it is kept", async || {
            let found = answers.begin(&key, LEASE).await;
            matches!(found, Ok(Begun::Answered(_)))
        })
        .await;
        assert_eq!(answers.stats().unkept, 0);
        drop((bank, count));
    }

    #[tokio::test]
    async fn what_another_version_has_kept_is_an_error_and_a_full_server_is_said_to_be() {
        let redis = Redis::start();
        let store = in_redis(&redis);
        let key = key().await;
        claimed(&store, LEASE).await;
        let hash: String = key.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        let place = format!("gusset:once:1:shop%3A%20%7Ba%7D:{{{hash}}}");
        for other in [&b"a2..."[..], b"", b"a1..."] {
            command(&redis, &[b"SET", place.as_bytes(), other]);
            assert!(store.begin(&key, LEASE).await.is_err(), "{other:?}");
        }
        command(&redis, &[b"DEL", place.as_bytes()]);
        command(&redis, &[b"CONFIG", b"SET", b"maxmemory", b"1"]);
        assert!(matches!(store.begin(&key, LEASE).await.unwrap(), Begun::Full));
    }
}
