//! The layer.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
    time::Instant,
};

use gusset_call::{BoxError, Inadmissible, Limited, Overloaded};
use gusset_engines::Redis;
use gusset_ratelimit::{RedisLimitLayer, RedisLimiter, WhenAway, WithoutKey};
use tokio::sync::Semaphore;
use tower::{
    Layer, Service, ServiceBuilder, ServiceExt, limit::GlobalConcurrencyLimitLayer, service_fn,
};

use super::{at_once, eventually, ms, patient, server_at};

async fn echo(request: u32) -> Result<u32, BoxError> {
    Ok(request)
}

#[tokio::test]
async fn the_layer_refuses_what_the_bucket_of_all_lacks() {
    let server = Redis::start();
    let limiter = RedisLimiter::new(&patient(&server), "mail", at_once(2));
    let layer = RedisLimitLayer::new(limiter.clone());
    let (mut one, mut two) = (layer.layer(service_fn(echo)), layer.layer(service_fn(echo)));
    assert_eq!(one.ready().await.unwrap().call(1).await.unwrap(), 1);
    assert_eq!(two.ready().await.unwrap().call(2).await.unwrap(), 2);
    assert!(one.ready().await.unwrap().call(3).await.unwrap_err().is::<Limited>());
    // No key reaches that bucket.
    for key in ["", "mail", "*", "}", "{"] {
        assert!(limiter.check(key).await.is_ok());
    }
}

#[tokio::test]
async fn each_key_has_a_bucket_and_what_has_none_shares_one_or_passes() {
    let server = Redis::start();
    let limiter = RedisLimiter::new(&patient(&server), "api", at_once(1));
    let odd = |request: &u32| (request % 2 == 1).then_some(*request);
    let layer = RedisLimitLayer::keyed(limiter, odd);
    let mut service = layer.layer(service_fn(echo));
    for (request, allowed) in [(1, true), (1, false), (3, true), (2, true), (4, false)] {
        let result = service.ready().await.unwrap().call(request).await;
        assert_eq!(result.is_ok(), allowed, "{request}");
    }
    let mut passing = layer.clone().without_key(WithoutKey::Pass).layer(service_fn(echo));
    for request in [2, 4, 6] {
        passing.ready().await.unwrap().call(request).await.unwrap();
    }
    let mut refusing = layer.without_key(WithoutKey::Refuse).layer(service_fn(echo));
    assert!(refusing.ready().await.unwrap().call(5).await.is_ok());
    assert!(refusing.ready().await.unwrap().call(2).await.unwrap_err().is::<Inadmissible>());
}

#[tokio::test]
async fn a_closed_layer_without_its_server_is_overloaded() {
    let limiter = RedisLimiter::new(&server_at(&Redis::down(&[])), "api", at_once(1));
    let layer = RedisLimitLayer::new(limiter.when_away(WhenAway::Closed));
    let error = layer.layer(service_fn(echo)).oneshot(1).await.unwrap_err();
    assert!(error.is::<Overloaded>(), "{error}");
}

#[tokio::test]
async fn what_the_inner_service_reserved_is_held_no_longer_than_the_bounded_wait() {
    let server = Redis::start();
    let redis = server_at(&server);
    let limiter = RedisLimiter::new(&redis, "api", at_once(1)).when_away(WhenAway::Closed);
    redis.connect().await;
    let places = Arc::new(Semaphore::new(1));
    let mut service = ServiceBuilder::new()
        .layer(RedisLimitLayer::new(limiter))
        .layer(GlobalConcurrencyLimitLayer::with_semaphore(places.clone()))
        .service_fn(echo);

    // The readied instance is the one that is called, so one place is enough.
    service.ready().await.unwrap().call(1).await.unwrap();
    assert_eq!(places.available_permits(), 1);
    // A refusal gives the place back, and so does a dropped call.
    assert!(service.ready().await.unwrap().call(1).await.is_err());
    assert_eq!(places.available_permits(), 1);
    server.pause();
    let begin = Instant::now();
    let call = service.ready().await.unwrap().call(1);
    assert_eq!(places.available_permits(), 0);
    call.await.unwrap_err();
    assert!(begin.elapsed() < ms(20_000), "{:?}", begin.elapsed());
    assert_eq!(places.available_permits(), 1);
    drop(service.ready().await.unwrap().call(1));
    assert_eq!(places.available_permits(), 1);
}

#[tokio::test]
async fn a_call_dropped_while_redis_is_asked_does_not_reach_the_service() {
    let server = Redis::start();
    let redis = server_at(&server);
    redis.connect().await;
    let called = Arc::new(AtomicU32::new(0));
    let counted = called.clone();
    let service = service_fn(move |request: u32| {
        counted.fetch_add(1, SeqCst);
        echo(request)
    });
    let layer = RedisLimitLayer::new(RedisLimiter::new(&redis, "api", at_once(1)));
    let mut service = layer.layer(service);
    let mut call = tokio_test::task::spawn(service.ready().await.unwrap().call(1));
    assert!(call.poll().is_pending());
    drop(call);
    eventually("the call is over", async || redis.stats().left == 1).await;
    assert_eq!(called.load(SeqCst), 0);
}

#[cfg(feature = "http")]
#[tokio::test]
async fn clients_are_told_when_admitted_and_when_refused_but_not_where_nobody_decided() {
    use std::time::Duration;

    use gusset_ratelimit::{AnswerLayer, Quota, RedisServer};
    use http::{Request, Response};

    async fn told(redis: &RedisServer, away: WhenAway) -> (u16, [Option<String>; 4]) {
        let quota = Quota::new(100, Duration::from_secs(1_000)).burst(2);
        let limiter = RedisLimiter::new(redis, "told", quota).when_away(away);
        let server = ServiceBuilder::new()
            .layer(AnswerLayer::new())
            .layer(RedisLimitLayer::new(limiter).headers("all").legacy())
            .service_fn(async |_: Request<()>| Ok::<_, BoxError>(Response::new(String::new())));
        let answer = server.oneshot(Request::new(())).await.unwrap();
        let field = |name| answer.headers().get(name).map(|v| v.to_str().unwrap().to_owned());
        let fields = ["ratelimit-policy", "ratelimit", "x-ratelimit-remaining", "retry-after"];
        (answer.status().as_u16(), fields.map(field))
    }

    let server = Redis::start();
    let redis = patient(&server);
    let text = |text: &str| Some(text.to_owned());
    for left in ["1", "0"] {
        let (status, [policy, limit, legacy, wait]) = told(&redis, WhenAway::Closed).await;
        assert_eq!((status, policy, wait), (200, text("\"all\";q=100;w=1000"), None));
        // The time until there is one again is that of the server, which runs.
        assert!(limit.unwrap().starts_with(&format!("\"all\";r={left};t=")));
        assert_eq!(legacy, text(left));
    }
    let (status, [policy, limit, left, wait]) = told(&redis, WhenAway::Closed).await;
    assert_eq!((status, policy), (429, text("\"all\";q=100;w=1000")));
    assert_eq!((limit, left), (wait.as_ref().map(|s| format!("\"all\";r=0;t={s}")), text("0")));

    let down = server_at(&Redis::down(&[]));
    assert_eq!(told(&down, WhenAway::Open).await, (200, [const { None }; 4]));
    let (status, [policy, ..]) = told(&down, WhenAway::Closed).await;
    assert_eq!((status, policy), (503, None));
}
