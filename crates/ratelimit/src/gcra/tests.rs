use std::time::Duration;

use crate::{Level, Quota, TooCostly, gcra::*};
use proptest::prelude::*;

const DIRECT: u32 = 62;
const KEYED: u32 = 36;

/// Any quota from one per year to 10⁹ per second, evenly over the orders of magnitude.
pub(crate) fn quotas() -> impl Strategy<Value = Quota> {
    let period = prop_oneof![
        Just(Duration::from_secs(1)),
        Just(Duration::from_secs(60)),
        Just(Duration::from_secs(3600)),
        Just(Duration::from_secs(24 * 3600)),
        Just(Duration::from_secs(365 * 24 * 3600)),
        (1..u64::MAX >> 10).prop_map(Duration::from_nanos),
    ];
    (magnitude(30), period, magnitude(32)).prop_filter_map(
        "at most one a nanosecond",
        |(n, per, m)| {
            (u128::from(n) <= per.as_nanos()).then(|| Quota::new(n as u32, per).burst(m as u32))
        },
    )
}

/// 1 and more, less than two to the power of `bits`, evenly over the orders of magnitude.
fn magnitude(bits: u32) -> impl Strategy<Value = u64> {
    (1..=bits).prop_flat_map(|bits| (1_u64 << (bits - 1))..=(u64::MAX >> (64 - bits)))
}

/// The bucket of the textbooks in exact fractions: its content is counted in units of `1 / per` tokens.
struct Textbook {
    quota: Quota,
    content: i128,
    at: u64,
}

impl Textbook {
    fn new(quota: Quota, at: u64) -> Self {
        let mut textbook = Self { quota, content: 0, at };
        textbook.content = textbook.full();
        textbook
    }

    fn per(&self) -> i128 {
        self.quota.per.as_nanos() as i128
    }

    fn full(&self) -> i128 {
        i128::from(self.quota.burst) * self.per()
    }

    fn refill(&mut self, at: u64) {
        let gained = i128::from(at - self.at) * i128::from(self.quota.tokens);
        self.content = (self.content + gained).min(self.full());
        self.at = at;
    }

    /// Two steps of the clock: all that a machine may differ by, ever.
    fn slack(&self, gcra: &Gcra) -> i128 {
        2 * ((self.per() >> gcra.shift) + 1)
    }
}

/// What one does to a bucket: wait for so many nanoseconds, or for as long as the last refusal said; then ask for a cost.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Step {
    After(u64, u64),
    AsTold(u64),
}

pub(crate) fn steps() -> impl Strategy<Value = (u64, Vec<Step>)> {
    let wait = prop_oneof![Just(0), magnitude(20), magnitude(40), magnitude(52)];
    let step = prop_oneof![
        (wait, magnitude(32)).prop_map(|(wait, cost)| Step::After(wait, cost)),
        magnitude(32).prop_map(Step::AsTold),
    ];
    (magnitude(50), prop::collection::vec(step, 1..100))
}

/// Runs a machine beside the textbook. They never differ by more than two steps of the clock, however long it goes on: so
/// never is more given than burst and rate allow, and never is a fraction of a token lost.
pub(crate) fn agrees_with_the_textbook(
    quota: Quota,
    gcra: &Gcra,
    (start, steps): (u64, Vec<Step>),
    mut take: impl FnMut(u32, u64) -> Result<Level, Duration>,
) -> Result<(), TestCaseError> {
    let (mut nanos, mut told) = (start, 0);
    let mut textbook = Textbook::new(quota, start);
    let slack = textbook.slack(gcra);
    for step in steps {
        let (wait, cost) = match step {
            Step::After(wait, cost) => (wait, cost),
            Step::AsTold(cost) => (std::mem::take(&mut told), cost),
        };
        if nanos.saturating_add(wait) >= Scale::END / 2 {
            break;
        }
        nanos += wait;
        let tokens = (cost % u64::from(quota.burst) + 1) as u32;
        let price = i128::from(tokens) * textbook.per();
        textbook.refill(nanos);
        match take(tokens, nanos) {
            Ok(level) => {
                prop_assert!(textbook.content >= price - slack, "too much was given");
                textbook.content -= price;
                let content = textbook.content;
                let remaining = i128::from(level.remaining()) * textbook.per();
                prop_assert!(remaining <= content + slack, "too much is said to be left");
                prop_assert!(remaining > content - textbook.per() - slack, "too little is left");
            }
            Err(wait) => {
                prop_assert!(textbook.content < price + slack, "a token was lost");
                prop_assert!(!wait.is_zero());
                told = u64::try_from(wait.as_nanos()).unwrap();
                prop_assert!(take(tokens, nanos + told - 1).is_err(), "told too late");
            }
        }
    }
    Ok(())
}

proptest! {
    /// Over 292 years: that is far less than 0.1 % of any rate.
    #[test]
    fn the_clock_is_never_wrong_by_more_than_a_tick(
        quota in quotas(), nanos in magnitude(63), bits in prop_oneof![Just(DIRECT), Just(KEYED)],
    ) {
        let gcra = Gcra::new(quota, bits);
        let (per, produced) = (quota.per.as_nanos(), u128::from(quota.tokens) * u128::from(nanos));
        let exact = ((produced / per) << gcra.shift) + (((produced % per) << gcra.shift) / per);
        let shown = u128::from(gcra.scale.tick(nanos));
        prop_assert!(exact <= shown && shown <= exact + 1, "{exact} {shown}");
    }

    #[test]
    fn a_tick_is_at_most_two_nanoseconds_or_a_16th_of_a_token(quota in quotas()) {
        let interval = quota.per.as_nanos() / u128::from(quota.tokens);
        prop_assert!(interval >> Gcra::new(quota, KEYED).shift <= (interval >> 4).max(2));
        prop_assert!(interval >> Gcra::new(quota, DIRECT).shift <= (interval >> 30).max(2));
    }

    #[test]
    fn times_are_told_to_the_nanosecond(quota in quotas(), nanos in magnitude(62)) {
        let scale = Gcra::new(quota, DIRECT).scale;
        let tick = scale.tick(nanos) + 1;
        let at = scale.nanos_at(tick);
        prop_assume!(at <= Scale::END);
        prop_assert!(scale.tick(at) >= tick && scale.tick(at - 1) < tick);
    }

    #[test]
    fn the_clock_never_goes_back(quota in quotas(), a in magnitude(63), b in magnitude(63)) {
        let scale = Gcra::new(quota, DIRECT).scale;
        prop_assert!(scale.tick(a.min(b)) <= scale.tick(a.max(b)));
    }

    #[test]
    fn spent_tokens_stay_spent_under_another_quota(
        old in quotas(), new in quotas(), nanos in magnitude(50), debt: u64,
        bits in prop_oneof![Just(DIRECT), Just(KEYED)],
    ) {
        let (older, newer) = (Gcra::new(old, bits), Gcra::new(new, bits));
        let debt = debt % (older.burst_ticks() + 1);
        let now = newer.now(nanos);
        let carried = newer.carried(&older, older.now(nanos).tick + debt, nanos) - now.tick;
        // In tokens, as fine as either clock can tell.
        let (was, is) = (debt as f64 / f64::from(2).powi(older.shift as i32), carried as f64 / f64::from(2).powi(newer.shift as i32));
        let step = f64::from(2).powi(-(newer.shift as i32));
        prop_assert!(is <= f64::from(new.burst));
        prop_assert!((is - was.min(f64::from(new.burst))).abs() <= step + was * 1e-12, "{was} {is}");
    }

    #[test]
    fn nothing_overflows_at_any_time_for_any_quota(
        tokens: u32, per: u64, burst: u32, now: u64, full_at in 0..=(1_u64 << 63) + (1 << 62),
        wait in 0..=365 * 24 * 3600_u64, bits in prop_oneof![Just(DIRECT), Just(KEYED)],
    ) {
        let gcra = Gcra::new(Quota::new(tokens, Duration::from_nanos(per)).burst(burst), bits);
        let now = gcra.now(now);
        let latest = gcra.tick_after(now, Duration::from_secs(wait));
        if let Ok(cost) = gcra.cost(burst) {
            let _ = gcra.take(full_at, cost, now, latest).map_err(|at| gcra.limited(at, now));
        }
        let _ = gcra.level(full_at, now).full_in();
        let other = Gcra::new(Quota::new(per as u32, Duration::from_nanos(tokens.into())).burst(!burst), bits);
        let _ = other.carried(&gcra, full_at, now.nanos);
        let _ = gcra.now(u64::MAX);
    }
}

#[test]
fn a_token_that_is_due_at_a_whole_nanosecond_is_there_at_it() {
    for (quota, interval) in [
        (Quota::per_minute(100), 600_000_000),
        (Quota::per_second(3_000), 333_334),
        (Quota::per_second(7_000_000), 143),
        (Quota::per_second(1_000_000_000), 1),
        (Quota::per_hour(7), 514_285_714_286),
        (Quota::new(1, Duration::from_secs(86_400)), 86_400_000_000_000),
    ] {
        let gcra = Gcra::new(quota.burst(1), DIRECT);
        let token = gcra.cost(1).unwrap();
        assert_eq!(gcra.nanos_at(token), interval, "{quota:?}");
        assert_eq!(u128::from(gcra.nanos_at(1000 * token)), {
            (1000 * quota.per.as_nanos()).div_ceil(u128::from(quota.tokens))
        });
    }
}

#[test]
fn zero_allows_nothing() {
    for quota in [
        Quota::per_second(0),
        Quota::per_second(0).burst(5),
        Quota::per_second(5).burst(0),
        Quota::new(0, Duration::ZERO),
    ] {
        assert_eq!(Gcra::new(quota, DIRECT).cost(1), Err(TooCostly::new(1, 0)), "{quota:?}");
    }
}

#[test]
fn a_rate_beyond_the_nanosecond_counts_as_one_a_nanosecond() {
    for quota in [Quota::per_second(u32::MAX), Quota::new(5, Duration::ZERO)] {
        let gcra = Gcra::new(quota, DIRECT);
        assert_eq!(gcra.nanos_at(gcra.cost(5).unwrap()), 5);
    }
}
