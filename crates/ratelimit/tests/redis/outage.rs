//! Servers that are stopped, killed, paused, slow, or never were.

use std::{
    num::NonZeroU8,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use gusset_call::{Overloaded, Refusal, refusal_in};
use gusset_engines::{Faults, Proxy, Redis};
use gusset_ratelimit::{
    Judge, Quota, RedisDenied, RedisLimiter, RedisPolicy, RedisServer, RedisState, WhenAway,
};
use tokio::task::JoinHandle;

use super::{
    at_once, connection, eventually, is_away, local, ms, patient, patient_at, room, server_at,
};

const WAIT: Duration = Duration::from_millis(20);

/// For what must answer in time on a busy machine, too.
const SLOW: Duration = Duration::from_millis(100);

/// Callers that never stop asking, and how long the slowest answer took.
struct Load {
    stop: Arc<AtomicBool>,
    /// In nanoseconds, the longest of all calls.
    worst: Arc<AtomicU64>,
    /// The longest by which a timer came late meanwhile: what the machine itself does to whoever waits.
    late: Arc<AtomicU64>,
    /// How many calls were decided by: Redis, this process, nobody; and how many were refused since nobody knew.
    judged: [Arc<AtomicU64>; 4],
    tasks: Vec<JoinHandle<()>>,
}

impl Load {
    const CALLERS: usize = 16;

    fn on(limiters: &[RedisLimiter]) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (worst, late) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let judged: [Arc<AtomicU64>; 4] = Default::default();
        let mut tasks: Vec<_> = (0..Self::CALLERS)
            .map(|number| {
                let limiter = limiters[number % limiters.len()].clone();
                tokio::spawn(ask(limiter, stop.clone(), worst.clone(), judged.clone()))
            })
            .collect();
        tasks.push(tokio::spawn(watch_timers(stop.clone(), late.clone())));
        Self { stop, worst, late, judged, tasks }
    }

    fn by(&self, judge: usize) -> u64 {
        self.judged[judge].load(SeqCst)
    }

    /// Some more of these decisions are seen.
    async fn sees(&self, judge: usize) {
        let before = self.by(judge);
        let what = ["redis decides", "this process decides", "calls pass", "calls are refused"];
        eventually(what[judge], async || self.by(judge) > before + 50).await;
    }

    /// No call took longer than the bounded wait, what the machine took, and a little.
    async fn end(self) {
        self.stop.store(true, SeqCst);
        for task in self.tasks {
            task.await.unwrap();
        }
        let worst = Duration::from_nanos(self.worst.load(SeqCst));
        let late = Duration::from_nanos(self.late.load(SeqCst));
        assert!(worst <= WAIT + 2 * late + ms(15), "{worst:?}; timers came {late:?} late");
    }
}

async fn ask(
    limiter: RedisLimiter,
    stop: Arc<AtomicBool>,
    worst: Arc<AtomicU64>,
    judged: [Arc<AtomicU64>; 4],
) {
    while !stop.load(SeqCst) {
        let begin = Instant::now();
        let decided = limiter.check("k").await;
        worst.fetch_max(begin.elapsed().as_nanos() as u64, SeqCst);
        match decided.as_ref().map(|decided| decided.by()) {
            Ok(Judge::Redis) => judged[0].fetch_add(1, SeqCst),
            Ok(Judge::ThisProcess) => judged[1].fetch_add(1, SeqCst),
            Ok(_) => judged[2].fetch_add(1, SeqCst),
            Err(RedisDenied::Away(_)) => judged[3].fetch_add(1, SeqCst),
            Err(denied) => panic!("{denied:?}"),
        };
        tokio::time::sleep(ms(1)).await;
    }
}

async fn watch_timers(stop: Arc<AtomicBool>, late: Arc<AtomicU64>) {
    while !stop.load(SeqCst) {
        let begin = Instant::now();
        tokio::time::sleep(ms(5)).await;
        late.fetch_max((begin.elapsed() - ms(5)).as_nanos() as u64, SeqCst);
    }
}

/// One limiter of each mode, with room for all calls.
fn of_each_mode(redis: &RedisServer) -> [RedisLimiter; 3] {
    [("local", local(2)), ("open", WhenAway::Open), ("closed", WhenAway::Closed)]
        .map(|(name, mode)| RedisLimiter::new(redis, name, at_once(u32::MAX / 2)).when_away(mode))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_killed_and_restarted_empty_in_mid_load_costs_no_call_more_than_the_bounded_wait()
{
    let mut server = Redis::start();
    let redis = server_at(&server);
    let load = Load::on(&of_each_mode(&redis));
    for _ in 0..2 {
        load.sees(0).await;
        server.kill();
        for judge in [1, 2, 3] {
            load.sees(judge).await;
        }
        assert!(is_away(&redis));
        server.restart_empty();
        load.sees(0).await;
        assert_eq!(redis.state(), RedisState::Connected);
    }
    load.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_stopped_in_mid_load_is_noticed_and_so_is_its_return() {
    let mut server = Redis::start();
    let redis = server_at(&server);
    let load = Load::on(&of_each_mode(&redis));
    load.sees(0).await;
    server.stop();
    for judge in [1, 2, 3] {
        load.sees(judge).await;
    }
    server.restart_empty();
    load.sees(0).await;
    load.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_server_costs_the_wait_a_few_times_and_then_nothing() {
    let server = Redis::start();
    let redis = server_at(&server);
    let load = Load::on(&of_each_mode(&redis));
    load.sees(0).await;
    server.pause();
    eventually("it is away", async || is_away(&redis)).await;
    let begin = redis.stats();
    for _ in 0..10 {
        for judge in [1, 2, 3] {
            load.sees(judge).await;
        }
    }
    let end = redis.stats();
    let (asked, skipped) = (end.asked - begin.asked, end.skipped - begin.skipped);
    assert!(skipped > 1_000, "{skipped}");
    assert!(asked <= 1 + skipped / 100, "asked {asked} times, skipped {skipped}");
    assert!(end.connects - begin.connects <= asked, "one attempt at a time");
    server.resume();
    load.sees(0).await;
    assert_eq!(redis.state(), RedisState::Connected);
    load.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_do_not_storm_a_server_that_comes_back() {
    let mut server = Redis::start();
    let redis = server_at(&server);
    let limiter = RedisLimiter::new(&redis, "k", at_once(u32::MAX / 2));
    redis.connect().await;
    server.kill();
    let limiters: Vec<_> = (0..32).map(|_| limiter.clone()).collect();
    let load = Load::on(&limiters);
    eventually("it is away", async || is_away(&redis)).await;
    server.restart_empty();
    load.sees(0).await;
    let connects = redis.stats().connects;
    load.end().await;
    assert_eq!(connects, redis.stats().connects, "and one connection is enough");
    let mut beside = connection(&server);
    let clients: String = redis::cmd("CLIENT").arg("LIST").query(&mut beside).unwrap();
    assert_eq!(clients.lines().count(), 2, "{clients}");
}

#[tokio::test]
async fn a_limiter_can_be_made_while_the_server_is_down() {
    let mut server = Redis::down(&[]);
    let redis = patient(&server);
    assert_eq!(redis.state(), RedisState::Unknown);
    let limiter = RedisLimiter::new(&redis, "api", at_once(1_000_000));
    assert_eq!(limiter.check("k").await.unwrap().by(), Judge::ThisProcess);
    assert!(is_away(&redis), "{}", redis.state());
    assert_eq!(redis.stats().timeouts, 0, "a refused connection is understood at once");
    server.restart_empty();
    eventually("it is found", async || limiter.check("k").await.unwrap().by() == Judge::Redis)
        .await;
}

#[tokio::test]
async fn an_address_that_never_answers_costs_the_first_calls_only() {
    // The kernel accepts, and nobody reads.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("redis://{}", silent.local_addr().unwrap());
    let redis = RedisServer::new(&url).unwrap();
    let limiter = RedisLimiter::new(&redis, "api", at_once(1_000_000)).when_away(WhenAway::Open);
    let begin = Instant::now();
    for _ in 0..1_000 {
        limiter.check("k").await.unwrap();
    }
    assert!(is_away(&redis));
    let stats = redis.stats();
    assert!((5..=20).contains(&stats.asked), "{stats:?}");
    assert!(begin.elapsed() >= 5 * WAIT);
    assert_eq!(stats.skipped, 1_000 - stats.asked);
}

#[tokio::test]
async fn when_redis_is_away_a_local_limiter_with_its_share_decides() {
    // Wanted of httprate-redis (15) and of Kong's scalable rate limiter (14).
    let redis = server_at(&Redis::down(&[]));
    let limiter = RedisLimiter::new(&redis, "api", at_once(100)).when_away(local(4));
    let mut allowed = 0;
    for _ in 0..100 {
        match limiter.check("k").await {
            Ok(decided) => {
                assert_eq!(decided.by(), Judge::ThisProcess);
                allowed += 1;
            }
            Err(denied) => assert_eq!(refusal_in(&denied).unwrap().status(), 429),
        }
    }
    assert_eq!(allowed, 25);
    assert_eq!(limiter.stats_without_redis().allowed, 25);
    assert_eq!(limiter.stats_without_redis().refused, 75);
    // More than the share, but not more than the quota: this process cannot know.
    let denied = limiter.check_n("other", 26).await.unwrap_err();
    assert!(matches!(denied, RedisDenied::Away(_)), "{denied:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_local_share_is_exact_under_concurrency() {
    let redis = server_at(&Redis::down(&[]));
    let mode = WhenAway::Local { instances: 3.try_into().unwrap(), capacity: room(16) };
    let limiter = RedisLimiter::new(&redis, "api", at_once(3_000)).when_away(mode);
    let callers: Vec<_> = (0..64)
        .map(|_| {
            let limiter = limiter.clone();
            tokio::spawn(async move {
                let mut allowed = 0;
                for _ in 0..50 {
                    allowed += u32::from(limiter.check("k").await.is_ok());
                }
                allowed
            })
        })
        .collect();
    let mut allowed = 0;
    for caller in callers {
        allowed += caller.await.unwrap();
    }
    assert_eq!(allowed, 1_000);
}

#[tokio::test]
async fn a_redis_that_is_down_refuses_nobody_unless_that_was_chosen() {
    // istio 12115: 429 for all while Redis was down.
    let redis = server_at(&Redis::down(&[]));
    let limiter = RedisLimiter::new(&redis, "api", Quota::per_second(10));
    assert!(limiter.check("k").await.is_ok());
    let open = RedisLimiter::new(&redis, "api", Quota::per_second(1)).when_away(WhenAway::Open);
    for _ in 0..100 {
        let passed = open.check("k").await.unwrap();
        assert!(passed.by() == Judge::Nobody && passed.level().is_none());
    }
}

#[tokio::test]
async fn a_closed_limit_answers_503_with_a_time_to_come_back_and_neither_429_nor_500() {
    // traefik 13529: 500 while Redis was down.
    let redis = server_at(&Redis::down(&[]));
    let limiter = RedisLimiter::new(&redis, "api", at_once(10)).when_away(WhenAway::Closed);
    for _ in 0..10 {
        let refusal = limiter.check("k").await.unwrap_err().into_refusal();
        let refusal = refusal.downcast_ref::<Overloaded>().unwrap();
        assert_eq!((refusal.status(), refusal.grpc_code()), (503, 14));
        let wait = refusal.retry_after().unwrap();
        assert!(wait >= WAIT && wait <= Duration::from_secs(5), "{wait:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_down_costs_no_call_a_second() {
    // Envoy's ratelimit 462: one to ten seconds for each request, though it was to fail open.
    let redis = server_at(&Redis::down(&[]));
    let limiter = RedisLimiter::new(&redis, "api", at_once(10)).when_away(WhenAway::Open);
    let begin = Instant::now();
    for _ in 0..10_000 {
        limiter.check("k").await.unwrap();
    }
    let each = begin.elapsed() / 10_000;
    assert!(each < ms(1), "{each:?}");
}

#[tokio::test]
async fn a_missing_password_is_told_as_what_it_is() {
    let server = Redis::start_with(&["--requirepass", "secret"]);
    let redis = patient(&server);
    let limiter = RedisLimiter::new(&redis, "api", at_once(10));
    assert_eq!(limiter.check("k").await.unwrap().by(), Judge::ThisProcess);
    let RedisState::Away { cause } = redis.connect().await else { panic!("{}", redis.state()) };
    assert!(cause.to_lowercase().contains("auth"), "{cause}");

    let url = server.url().replace("//", "//:wrong@");
    let RedisState::Away { cause } = patient_at(&url).connect().await else { panic!() };
    assert!(cause.contains("authentication failed") || cause.contains("WRONGPASS"), "{cause}");
    assert!(!format!("{:?}", RedisServer::new(&url)).contains("wrong"), "no password in logs");

    let url = server.url().replace("//", "//:secret@");
    assert_eq!(patient_at(&url).connect().await, RedisState::Connected);
}

#[tokio::test]
async fn a_forbidden_command_is_told_as_what_it_is_and_stops_the_asking() {
    let server = Redis::start();
    let mut beside = connection(&server);
    let mut rule = redis::cmd("ACL");
    let rule = rule.arg("SETUSER").arg("limiter").arg("on").arg(">secret").arg("~gusset:rl:1:*");
    let few = ["+evalsha", "+script|load", "+get", "+time"];
    let _: () = rule.arg(&few).query(&mut beside).unwrap();
    let url = server.url().replace("//", "//limiter:secret@");
    let redis = patient_at(&url);
    let RedisState::Away { cause } = redis.connect().await else { panic!("{}", redis.state()) };
    assert!(cause.contains("can't run this command"), "{cause}");
    // What the docs say is needed is enough.
    let _: () =
        redis::cmd("ACL").arg("SETUSER").arg("limiter").arg("+set").query(&mut beside).unwrap();
    assert_eq!(redis.connect().await, RedisState::Connected);
    let limiter = RedisLimiter::new(&redis, "api", at_once(1_000));
    assert_eq!(limiter.check("k").await.unwrap().by(), Judge::Redis);

    let take_away = redis::cmd("ACL").arg("SETUSER").arg("limiter").arg("-evalsha").clone();
    let _: () = take_away.query(&mut beside).unwrap();
    for _ in 0..100 {
        assert_eq!(limiter.check("k").await.unwrap().by(), Judge::ThisProcess);
    }
    let RedisState::Away { cause } = redis.state() else { panic!("{}", redis.state()) };
    assert!(cause.contains("evalsha"), "{cause}");
    let stats = redis.stats();
    assert!(stats.skipped >= 80, "{stats:?}");
}

#[tokio::test]
async fn a_connection_closed_in_a_quiet_hour_costs_the_next_call_nothing() {
    let server = Redis::start();
    let redis = patient(&server);
    let limiter = RedisLimiter::new(&redis, "api", at_once(1_000)).when_away(WhenAway::Closed);
    limiter.check("k").await.unwrap();
    let mut beside = connection(&server);
    for _ in 0..5 {
        let mut kill = redis::cmd("CLIENT");
        let _: u32 = kill.arg("KILL").arg("TYPE").arg("normal").query(&mut beside).unwrap();
        assert_eq!(limiter.check("k").await.unwrap().by(), Judge::Redis);
    }
    assert_eq!(redis.state(), RedisState::Connected);
}

#[tokio::test]
async fn a_connection_from_which_nothing_comes_back_is_given_up_for_a_new_one() {
    let server = Redis::start();
    let proxy = Proxy::before(server.port());
    let policy = RedisPolicy::default().call_within(SLOW);
    let redis = RedisServer::with_policy(&proxy.url("redis"), policy).unwrap();
    let limiter = RedisLimiter::new(&redis, "api", at_once(1_000)).when_away(WhenAway::Open);
    let by_redis = async || limiter.check("k").await.unwrap().by() == Judge::Redis;
    eventually("it answers", by_redis).await;
    let connects = redis.stats().connects;
    proxy.set_present(Faults { mute: true, ..Faults::default() });
    for _ in 0..5 {
        assert_eq!(limiter.check("k").await.unwrap().by(), Judge::Nobody);
    }
    assert!(is_away(&redis));
    eventually("a new one works", async || limiter.check("k").await.unwrap().by() == Judge::Redis)
        .await;
    assert!(redis.stats().connects > connects);
}

#[tokio::test]
async fn a_server_that_answers_too_late_is_not_taken_back_just_because_it_can_be_reached() {
    let server = Redis::start();
    let proxy = Proxy::before(server.port());
    let policy = RedisPolicy::default().call_within(SLOW);
    let redis = RedisServer::with_policy(&proxy.url("redis"), policy).unwrap();
    let limiter = RedisLimiter::new(&redis, "api", at_once(1_000_000)).when_away(WhenAway::Open);
    let by_redis = async || limiter.check("k").await.unwrap().by() == Judge::Redis;
    eventually("it answers", by_redis).await;
    let connects = redis.stats().connects;
    proxy.set(Faults { delay: 2 * SLOW, ..Faults::default() });
    let begin = Instant::now();
    while begin.elapsed() < ms(1_000) {
        assert_eq!(limiter.check("k").await.unwrap().by(), Judge::Nobody);
        tokio::task::yield_now().await;
    }
    let stats = redis.stats();
    assert!(stats.timeouts <= 10 + stats.connects, "{stats:?}");
    assert!(stats.connects <= connects + 6, "{stats:?}");
    proxy.mend();
    eventually("it is back", async || limiter.check("k").await.unwrap().by() == Judge::Redis).await;
}

#[tokio::test]
async fn callers_less_patient_than_the_policy_do_not_hide_that_nothing_answers() {
    let server = Redis::start();
    let policy = RedisPolicy::default().call_within(ms(2_000)).failures(NonZeroU8::new(3).unwrap());
    let redis = RedisServer::with_policy(&server.url(), policy).unwrap();
    let limiter = RedisLimiter::new(&redis, "api", at_once(1_000)).when_away(WhenAway::Open);
    redis.connect().await;
    server.pause();
    for _ in 0..4 {
        assert!(tokio::time::timeout(ms(1_100), limiter.check("k")).await.is_err());
    }
    assert!(is_away(&redis));
    assert_eq!(redis.stats().left, 4);
    // One that leaves at once says nothing about the server.
    server.resume();
    eventually("it is back", async || limiter.check("k").await.unwrap().by() == Judge::Redis).await;
    for _ in 0..10 {
        let check = limiter.check("k");
        tokio::pin!(check);
        tokio::select! { biased; _ = &mut check => {}, () = std::future::ready(()) => {} }
    }
    assert_eq!(redis.state(), RedisState::Connected);
}

#[test]
fn a_runtime_that_ended_takes_the_connection_with_it_and_the_next_one_opens_another() {
    let server = Redis::start();
    let redis = patient(&server);
    let limiter = RedisLimiter::new(&redis, "api", at_once(1_000)).when_away(WhenAway::Closed);
    for round in 1..4 {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let by = runtime.block_on(async { limiter.check("k").await.unwrap().by() });
        assert_eq!(by, Judge::Redis);
        assert_eq!(redis.stats().connects, round);
    }
}

#[tokio::test]
async fn the_connection_ends_with_the_last_limiter() {
    let server = Redis::start();
    let redis = patient(&server);
    let mut states = redis.subscribe();
    let limiter = RedisLimiter::new(&redis, "api", at_once(1_000));
    limiter.check("k").await.unwrap();
    let mut beside = connection(&server);
    let mut clients = || {
        let list: String = redis::cmd("CLIENT").arg("LIST").query(&mut beside).unwrap();
        list.lines().count()
    };
    assert_eq!(clients(), 2);
    drop(redis);
    assert_eq!(clients(), 2);
    drop(limiter);
    eventually("it is closed", async || clients() == 1).await;
    assert_eq!(*states.borrow_and_update(), RedisState::Connected);
    assert!(states.changed().await.is_err());
}

#[test]
fn a_runtime_that_ended_in_the_middle_of_connecting_is_in_nobodys_way() {
    let mut server = Redis::down(&[]);
    // The kernel accepts, and nobody reads.
    let silent = std::net::TcpListener::bind(("127.0.0.1", server.port())).unwrap();
    let redis = patient(&server);
    let limiter = RedisLimiter::new(&redis, "api", at_once(1_000)).when_away(WhenAway::Closed);
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime().block_on(async {
        let check = tokio::time::timeout(ms(50), limiter.check("k"));
        assert!(check.await.is_err());
    });
    drop(silent);
    server.restart_empty();
    let by = runtime().block_on(async { limiter.check("k").await.unwrap().by() });
    assert_eq!(by, Judge::Redis);
    assert_eq!(redis.stats().connects, 2);
}

#[tokio::test]
async fn a_server_that_may_only_be_read_is_left_until_it_may_be_written_again() {
    // As after a fail-over: the address still leads to the old one.
    let server = Redis::start();
    let redis = patient(&server);
    let limiter = RedisLimiter::new(&redis, "api", at_once(1_000)).when_away(WhenAway::Open);
    assert_eq!(limiter.check("k").await.unwrap().by(), Judge::Redis);
    let mut beside = connection(&server);
    let mut replica = |host: &str, port: &str| {
        redis::cmd("REPLICAOF").arg(host).arg(port).exec(&mut beside).unwrap();
    };
    replica("127.0.0.1", "1");
    for _ in 0..100 {
        assert_eq!(limiter.check("k").await.unwrap().by(), Judge::Nobody);
    }
    let RedisState::Away { cause } = redis.state() else { panic!("{}", redis.state()) };
    assert!(cause.contains("read only"), "{cause}");
    assert!(redis.stats().skipped > 80, "{:?}", redis.stats());
    replica("NO", "ONE");
    eventually("it is back", async || limiter.check("k").await.unwrap().by() == Judge::Redis).await;
}

#[tokio::test]
async fn each_change_of_the_state_is_seen_once() {
    let mut server = Redis::start();
    let redis = patient(&server);
    let mut states = redis.subscribe();
    let limiter = RedisLimiter::new(&redis, "api", at_once(1_000_000));
    assert_eq!(*states.borrow_and_update(), RedisState::Unknown);
    limiter.check("k").await.unwrap();
    assert_eq!(*states.borrow_and_update(), RedisState::Connected);
    limiter.check("k").await.unwrap();
    assert!(!states.has_changed().unwrap());
    server.kill();
    limiter.check("k").await.unwrap();
    assert!(matches!(*states.borrow_and_update(), RedisState::Away { .. }));
    // It is tried again and again, for the same answer.
    let connects = redis.stats().connects;
    eventually("it is tried", async || {
        limiter.check("k").await.unwrap();
        redis.stats().connects > connects + 1
    })
    .await;
    assert!(!states.has_changed().unwrap());
    server.restart_empty();
    eventually("it is back", async || limiter.check("k").await.unwrap().by() == Judge::Redis).await;
    assert_eq!(*states.borrow_and_update(), RedisState::Connected);
}

#[tokio::test]
async fn an_attempt_to_connect_ends_with_the_last_limiter() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("redis://{}", silent.local_addr().unwrap());
    let hour = RedisPolicy::default().connect_within(Duration::from_secs(3_600));
    let redis = RedisServer::with_policy(&url, hour).unwrap();
    let limiter = RedisLimiter::new(&redis, "api", at_once(1));
    limiter.check("k").await.unwrap();
    let (mut connection, _) = silent.accept().await.unwrap();
    drop((redis, limiter));
    let mut heard = Vec::new();
    let end = tokio::io::AsyncReadExt::read_to_end(&mut connection, &mut heard);
    // Closed in order or not, but closed.
    let _ = tokio::time::timeout(ms(10_000), end).await.expect("it is still open");
}
