//! One quota, many askers.

use std::time::{Duration, Instant};

use gusset_call::refusal_in;
use gusset_engines::{Process, Redis, again};
use gusset_ratelimit::{
    Judge, Limited, Quota, RedisDenied, RedisLimiter, RedisServer, RedisState, WhenAway,
};

use super::{at_once, connection, eventually, ms, patient, patient_at};

/// Microseconds of the server's time.
async fn time(connection: &mut redis::aio::MultiplexedConnection) -> u64 {
    let (secs, micros): (u64, u64) = redis::cmd("TIME").query_async(connection).await.unwrap();
    secs * 1_000_000 + micros
}

/// What a process of its own does: for a second it takes what it can get, and then all that is left. It tells how much it got, between which
/// times it took the first, before when it was refused the last, when it was refused first, and how much it got after that.
async fn greedy(url: &str) {
    let limiter = RedisLimiter::new(&patient_at(url), "shared", Quota::per_second(500).burst(500))
        .when_away(WhenAway::Closed);
    assert_eq!(limiter.server().connect().await, RedisState::Connected);
    let client = redis::Client::open(url).unwrap();
    let mut beside = client.get_multiplexed_async_connection().await.unwrap();
    let begin = time(&mut beside).await;
    limiter.check("k").await.unwrap();
    let begun = time(&mut beside).await;
    let (mut allowed, mut empty, mut rest) = (1, None, 0);
    let (end, ended) = loop {
        let before = time(&mut beside).await;
        match limiter.check("k").await {
            Ok(_) => {
                allowed += 1;
                rest += u64::from(empty.is_some());
            }
            Err(RedisDenied::Limited(_)) => {
                let now = time(&mut beside).await;
                let _ = empty.get_or_insert(now);
                if before >= begin + 1_000_000 {
                    break (before, now);
                }
            }
            Err(denied) => panic!("{denied:?}"),
        }
    };
    let empty = empty.unwrap_or(end);
    println!("\nchild {allowed} {begin} {begun} {end} {ended} {empty} {rest}");
}

#[tokio::test]
async fn two_processes_share_one_quota_within_one_percent() {
    const NAME: &str = "sharing::two_processes_share_one_quota_within_one_percent";
    if let Ok(url) = std::env::var("GUSSET_TEST_REDIS") {
        return greedy(&url).await;
    }
    let server = Redis::start();
    let child = || {
        let mut command = again(NAME);
        command.env("GUSSET_TEST_REDIS", server.url());
        Process::started("greedy", command)
    };
    let [one, two] = [child(), child()].map(|mut child| {
        let line = child.says("child ");
        let numbers: Vec<u64> = line.split(' ').skip(1).map(|n| n.parse().unwrap()).collect();
        <[u64; 7]>::try_from(numbers).unwrap()
    });
    assert!(one[2].max(two[2]) < one[3].min(two[3]), "they did not run at the same time");
    let brought = |micros: u64| micros as f64 * 500.0 / 1e6;
    let (given, most) =
        ((one[0] + two[0]) as f64, 500.0 + brought(one[4].max(two[4]) - one[1].min(two[1])));
    assert!(given <= most * 1.01, "{given} of {most}");
    // While the bucket is full nothing flows in, and it is for as long as a busy machine lets nobody ask. From when both have found it empty all is given.
    let rest = (one[6] + two[6]) as f64;
    let least = brought(one[3].max(two[3]).saturating_sub(one[5].max(two[5])));
    assert!(rest >= least * 0.99 - 1.0, "{rest} of {least}");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_callers_over_two_connections_get_exactly_the_burst() {
    let server = Redis::start();
    let [one, two] = [(); 2].map(|()| {
        RedisLimiter::new(&patient(&server), "burst", at_once(500)).when_away(WhenAway::Closed)
    });
    one.server().connect().await;
    two.server().connect().await;
    let callers = (0..64).map(|number| {
        let limiter = if number % 2 == 0 { one.clone() } else { two.clone() };
        tokio::spawn(async move {
            let mut allowed = 0;
            for _ in 0..20 {
                allowed += u32::from(limiter.check("k").await.is_ok());
            }
            allowed
        })
    });
    let mut allowed = 0;
    for caller in callers.collect::<Vec<_>>() {
        allowed += caller.await.unwrap();
    }
    let unheard: u64 =
        [&one, &two].map(|l| l.server().stats()).map(|s| s.asked - s.answered).iter().sum();
    assert!(allowed <= 500, "{allowed}");
    assert!(u64::from(allowed) + unheard >= 500, "{allowed} and {unheard}");
    assert_eq!(one.stats().allowed + two.stats().allowed, u64::from(allowed));
}

#[tokio::test]
async fn a_check_tells_what_is_left_and_a_refusal_when_to_come_back() {
    let server = Redis::start();
    let limiter = RedisLimiter::new(&patient(&server), "api", Quota::per_minute(60).burst(10));
    let allowed = limiter.check_n("ann", 4).await.unwrap();
    assert_eq!(allowed.by(), Judge::Redis);
    let level = allowed.level().unwrap();
    assert_eq!((level.remaining(), level.full_in()), (6, Duration::from_secs(4)));
    assert_eq!(limiter.check("bob").await.unwrap().level().unwrap().remaining(), 9);

    let denied = limiter.check_n("ann", 9).await.unwrap_err();
    let RedisDenied::Limited(limited) = &denied else { panic!("{denied:?}") };
    let wait = limited.retry_after().unwrap();
    assert!(wait <= ms(3_000) && wait > ms(1_000), "{wait:?}");
    assert_eq!(refusal_in(&denied).unwrap().status(), 429);
    assert!(denied.into_refusal().is::<Limited>());

    assert_eq!(limiter.check_n("ann", 0).await.unwrap().level().unwrap().remaining(), 6);
    assert!(matches!(limiter.check_n("ann", 11).await, Err(RedisDenied::TooCostly(_))));
    assert_eq!((limiter.stats().allowed, limiter.stats().refused), (3, 2));
    assert_eq!(limiter.stats_without_redis(), Default::default());
}

#[tokio::test]
async fn a_quota_of_zero_refuses_without_asking() {
    let redis = RedisServer::new("redis://127.0.0.1:1").unwrap();
    let limiter = RedisLimiter::new(&redis, "none", Quota::per_minute(0)).when_away(WhenAway::Open);
    let denied = limiter.check("k").await.unwrap_err();
    assert_eq!(denied, RedisDenied::Limited(Limited::new(Duration::from_secs(60))));
    assert_eq!(limiter.check_n("k", 2).await.unwrap_err(), denied, "whatever it costs");
    assert_eq!(redis.stats().asked, 0);
}

#[tokio::test]
async fn a_bucket_that_is_full_again_leaves_nothing_behind() {
    let server = Redis::start();
    let limiter = RedisLimiter::new(&patient(&server), "api", Quota::per_second(10).burst(3));
    limiter.check_n("k", 3).await.unwrap();
    let mut beside = connection(&server);
    let keys: Vec<String> = redis::cmd("KEYS").arg("gusset:*api*").query(&mut beside).unwrap();
    assert_eq!(keys, ["gusset:rl:1:api:{k}"]);
    let left: i64 = redis::cmd("PTTL").arg(&keys[0]).query(&mut beside).unwrap();
    assert!((1..=302).contains(&left), "{left} ms");
    eventually("the key is gone", async || {
        redis::cmd("DBSIZE").query::<u32>(&mut beside).unwrap() == 0
    })
    .await;
}

#[tokio::test]
async fn limiters_of_one_name_share_buckets_and_others_do_not() {
    let server = Redis::start();
    let redis = patient(&server);
    let new = |name| RedisLimiter::new(&redis, name, at_once(1));
    assert!(new("a").check("k").await.is_ok());
    assert!(new("a").check("k").await.is_err());
    assert!(new("b").check("k").await.is_ok());
    assert!(new("a:{k}").check("").await.is_ok(), "a name cannot reach into another's keys");
}

#[tokio::test]
async fn garbage_and_other_types_in_a_key_are_begun_anew() {
    let server = Redis::start();
    let limiter =
        RedisLimiter::new(&patient(&server), "api", at_once(2)).when_away(WhenAway::Closed);
    let key = "gusset:rl:1:api:{k}";
    let mut beside = connection(&server);
    for put in [
        redis::cmd("SET").arg(key).arg("garbage"),
        redis::cmd("SET").arg(key).arg("1790000000000000"),
        redis::cmd("SET").arg(key).arg("-1.5"),
        redis::cmd("SET").arg(key).arg("inf.000000000"),
        redis::cmd("SET").arg(key).arg(vec![0_u8; 1 << 20]),
        redis::cmd("LPUSH").arg(key).arg("x"),
        redis::cmd("HSET").arg(key).arg("x").arg("y"),
    ] {
        let _: () = redis::cmd("DEL").arg(key).query(&mut beside).unwrap();
        let _: redis::Value = put.query(&mut beside).unwrap();
        let left = limiter.check("k").await.unwrap().level().unwrap().remaining();
        assert_eq!(left, 1);
        assert_eq!(limiter.check("k").await.unwrap().by(), Judge::Redis);
        assert!(limiter.check("k").await.is_err(), "it limits again");
    }
}

#[tokio::test]
async fn a_value_from_a_server_with_a_fast_clock_locks_no_key_longer_than_its_burst() {
    let server = Redis::start();
    let limiter = RedisLimiter::new(&patient(&server), "api", Quota::per_second(10).burst(3));
    let mut beside = connection(&server);
    let far = "9007199254740991.999999999";
    let _: () = redis::cmd("SET").arg("gusset:rl:1:api:{k}").arg(far).query(&mut beside).unwrap();
    let denied = limiter.check("k").await.unwrap_err();
    assert_eq!(denied, RedisDenied::Limited(Limited::new(ms(100))));
    let begin = Instant::now();
    eventually("it is allowed again", async || limiter.check("k").await.is_ok()).await;
    assert!(begin.elapsed() >= ms(95), "{:?}", begin.elapsed());
    eventually("it is full again", async || limiter.check_n("k", 3).await.is_ok()).await;
}

#[tokio::test]
async fn scripts_that_were_flushed_are_loaded_again_and_the_call_does_not_notice() {
    let server = Redis::start();
    let limiter =
        RedisLimiter::new(&patient(&server), "api", at_once(10)).when_away(WhenAway::Closed);
    limiter.check("k").await.unwrap();
    let mut beside = connection(&server);
    let _: () = redis::cmd("SCRIPT").arg("FLUSH").query(&mut beside).unwrap();
    let level = limiter.check("k").await.unwrap().level().unwrap();
    assert_eq!(level.remaining(), 8, "taken once");
    assert_eq!(limiter.server().stats().reloads, 1);
    limiter.check("k").await.unwrap();
    assert_eq!(limiter.server().stats().reloads, 1);
}
