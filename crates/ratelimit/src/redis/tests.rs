//! The script, run by a real server, against the limiter of one process.

use std::{cell::RefCell, time::Duration};

use gusset_engines::Redis;
use proptest::{prelude::*, test_runner::TestRunner};

use super::{
    link::SCRIPT,
    meter::{Answer, Meter, Take},
};
use crate::{
    Quota,
    gcra::{Gcra, Scale},
};

/// Some moment of the year 2026.
const BEGIN: u64 = 1_790_000_000_000_000;

/// The script with the clock as a fifth argument, in microseconds.
struct Script {
    connection: redis::Connection,
    script: String,
    _server: Redis,
}

impl Script {
    fn new() -> Self {
        let server = Redis::start();
        let read = "tonumber(clock[1]) * 1000000 + tonumber(clock[2])";
        assert_eq!(SCRIPT.matches(read).count(), 1);
        // Nothing may expire by the real clock meanwhile.
        let expiry = "'PX', string.format('%.0f', millis)";
        assert_eq!(SCRIPT.matches(expiry).count(), 1);
        let script = SCRIPT.replace(read, "tonumber(ARGV[5])").replace(expiry, "'PX', 1e12");
        Self {
            connection: redis::Client::open(server.url()).unwrap().get_connection().unwrap(),
            script,
            _server: server,
        }
    }

    fn take(&mut self, key: &str, take: Take, now: u64) -> Answer {
        let mut command = redis::cmd("EVAL");
        command.arg(&self.script).arg(1).arg(key);
        for argument in take.0 {
            command.arg(argument);
        }
        Answer::new(command.arg(now).query(&mut self.connection).unwrap()).unwrap()
    }
}

fn quotas() -> impl Strategy<Value = Quota> {
    // From one a day to 10⁹ a second.
    let tokens = prop_oneof![1..10_u32, 1..1_000_u32, 1..1_000_000_000_u32, Just(1_000_000_000)];
    let per = prop_oneof![Just(1_u64), Just(60), Just(3_600), Just(86_400)];
    let burst = prop_oneof![1..10_u32, 1..1_000_u32, 1..1_000_000_u32, Just(u32::MAX)];
    (tokens, per, burst)
        .prop_map(|(tokens, per, burst)| Quota::new(tokens, Duration::from_secs(per)).burst(burst))
}

/// Time in parts of what the burst takes, and cost in parts of the burst.
fn steps() -> impl Strategy<Value = Vec<(f64, f64)>> {
    let part = || prop_oneof![0.0..0.01, 0.0..0.3, 0.0..1.0];
    prop::collection::vec((part(), part()), 1..60)
}

#[test]
fn it_gives_what_a_limiter_in_the_process_gives_within_a_thousandth() {
    let script = RefCell::new((Script::new(), 0));
    let mut runner = TestRunner::default();
    let result = runner.run(&(quotas(), steps()), |(quota, steps)| {
        let (meter, gcra) = (Meter::new(quota), Gcra::new(quota, 62));
        let (script, number) = &mut *script.borrow_mut();
        *number += 1;
        let key = format!("k{number}");
        let refill = f64::from(meter.burst()) * quota.per.as_secs_f64() / f64::from(quota.tokens);
        let (mut micros, mut full_at) = (0_u64, 0_u64);
        let (mut local, mut remote) = (0_u64, 0_u64);
        for (pause, part) in steps {
            micros += ((pause * refill).min(1e8) * 1e6) as u64;
            let cost = ((f64::from(meter.burst()) * part) as u32).max(1);
            let now = gcra.now(micros * 1_000);
            if let Ok(spent) = gcra.take(full_at, gcra.cost(cost).unwrap(), now, now.tick) {
                full_at = spent;
                local += u64::from(cost);
            }
            let answer = script.take(&key, meter.take(cost).unwrap(), BEGIN + micros);
            match meter.verdict(cost, answer) {
                Ok(_) => remote += u64::from(cost),
                Err(limited) => {
                    // What a refusal promises is kept, and not a microsecond sooner.
                    let wait = limited.retry_after().unwrap().as_micros();
                    prop_assert!(wait > 0);
                    let mut probe = |wait: u128| {
                        let mut copy = redis::cmd("COPY");
                        let copy = copy.arg(&key).arg("copy").arg("REPLACE");
                        let copied: bool = copy.query(&mut script.connection).unwrap();
                        assert!(copied);
                        let now = BEGIN + micros + wait as u64;
                        script.take("copy", meter.take(cost).unwrap(), now).allowed
                    };
                    prop_assert!(probe(wait));
                    prop_assert!(!probe(wait - 1));
                }
            }
            // One decision that falls to the other side of a clock's step is made up for later.
            let apart = local.abs_diff(remote) as f64;
            let allowed = f64::from(cost).max(local.max(remote) as f64 * 0.001);
            prop_assert!(apart <= allowed, "{} and {} after {:?}", local, remote, quota);
            if local != remote {
                break;
            }
        }
        Ok(())
    });
    result.unwrap();
}

#[test]
fn who_asks_all_the_time_gets_burst_and_rate_to_the_thousandth() {
    let mut script = Script::new();
    for quota in [
        Quota::per_second(7).burst(2),
        Quota::per_second(7_000_000).burst(1_000_000),
        Quota::per_second(1_000_000_000).burst(1_000_000),
        Quota::new(1, Duration::from_secs(86_400)).burst(1),
        Quota::new(3, Duration::from_secs(1)).burst(2),
    ] {
        let meter = Meter::new(quota);
        let key = format!("{quota:?}");
        let per_token = quota.per.as_secs_f64() / f64::from(quota.tokens);
        // A thousand times as long as a token takes, but at least a microsecond a step.
        let step = ((per_token * 1e6) as u64 / 3).max(1_000);
        let cost = ((step as f64 / 1e6 / per_token) as u32 / 3).max(1);
        let mut given = 0_u64;
        for now in (0..3_000).map(|number| number * step) {
            while script.take(&key, meter.take(cost).unwrap(), BEGIN + now).allowed {
                given += u64::from(cost);
            }
        }
        let span = (2_999 * step) as f64 / 1e6;
        let expected = f64::from(quota.burst) + span / per_token;
        let tolerance = (expected * 0.001).max(f64::from(cost) + 1.0);
        assert!((given as f64 - expected).abs() <= tolerance, "{given} of {expected}: {quota:?}");
        assert!(given as f64 <= expected * 1.001, "{given} of {expected}: {quota:?}");
    }
}

#[test]
fn a_clock_that_jumps_back_locks_no_key_longer_than_its_burst_lasts() {
    let mut script = Script::new();
    let quota = Quota::per_second(10).burst(5);
    let meter = Meter::new(quota);
    let (one, five) = (meter.take(1).unwrap(), meter.take(5).unwrap());
    assert!(script.take("k", five, BEGIN).allowed);
    // A year, as after a fail-over from a server with a wrong clock.
    let now = BEGIN - 365 * 86_400 * 1_000_000;
    let refused = script.take("k", one, now);
    assert!(!refused.allowed);
    assert_eq!(
        meter.verdict(1, refused).unwrap_err(),
        gusset_call::Limited::new(Duration::from_millis(100)),
        "as an empty bucket, no worse"
    );
    assert!(script.take("k", one, now + 100_000).allowed);
    assert!(!script.take("k", one, now + 199_999).allowed);
    assert!(script.take("k", one, now + 200_000).allowed);
    assert!(script.take("k", five, now + 700_000).allowed, "and full again after the burst's time");
}

#[test]
fn a_clock_that_jumps_forward_gives_what_that_time_would_have_given_and_no_more() {
    let mut script = Script::new();
    let meter = Meter::new(Quota::per_second(10).burst(5));
    let (one, five) = (meter.take(1).unwrap(), meter.take(5).unwrap());
    assert!(script.take("k", five, BEGIN).allowed);
    let now = BEGIN + 365 * 86_400 * 1_000_000;
    assert!(script.take("k", five, now).allowed);
    assert!(!script.take("k", one, now).allowed);
}

#[test]
fn looking_takes_nothing_and_leaves_no_key() {
    let mut script = Script::new();
    let meter = Meter::new(Quota::per_second(10).burst(5));
    let look = meter.take(0).unwrap();
    assert_eq!(meter.verdict(0, script.take("k", look, BEGIN)).unwrap().remaining(), 5);
    let exists: bool = redis::cmd("EXISTS").arg("k").query(&mut script.connection).unwrap();
    assert!(!exists);
    script.take("k", meter.take(2).unwrap(), BEGIN);
    let level = meter.verdict(0, script.take("k", look, BEGIN)).unwrap();
    assert_eq!((level.remaining(), level.full_in()), (3, Duration::from_millis(200)));
}

proptest! {
    #[test]
    fn every_number_of_the_script_is_exact_in_a_double(tokens: u32, nanos: u64, burst: u32) {
        let meter = Meter::new(Quota::new(tokens, Duration::from_nanos(nanos)).burst(burst));
        let Take([cost, cost_rest, hold, hold_rest]) = meter.take(meter.burst()).unwrap();
        // The year 2100.
        let now = 4_102_444_800_000_000_u64;
        prop_assert!(now + hold + cost + 1 < 1 << 53);
        prop_assert!(cost_rest.max(hold_rest) < 1_000_000_000);
        prop_assert_eq!((cost, cost_rest), (hold, hold_rest), "a full bucket holds its burst");
    }

    #[test]
    fn a_full_bucket_has_its_burst_and_an_empty_one_nothing(tokens in 1..u32::MAX, secs in 1..100_000_u64, burst in 1..u32::MAX) {
        let quota = Quota::new(tokens, Duration::from_secs(secs)).burst(burst);
        let meter = Meter::new(quota);
        let full = Answer { allowed: true, debt: 0 };
        prop_assert_eq!(meter.verdict(0, full).unwrap().remaining(), meter.burst());
        let Take([_, _, hold, rest]) = meter.take(0).unwrap();
        let empty = Answer::new((1, hold as i64, rest as i64)).unwrap();
        prop_assert_eq!(meter.verdict(0, empty).unwrap().remaining(), 0);
    }
}

#[test]
fn a_period_of_centuries_counts_as_fifty_years() {
    let meter = Meter::new(Quota::new(1, Duration::MAX).burst(u32::MAX));
    assert_eq!(meter.burst(), 1);
    assert!(meter.take(1).is_ok());
    assert_eq!(Scale::nanos(Duration::MAX), 1 << 63);
}
