//! Takes an endpoint out for a while whose calls fail, although the registry has it as healthy.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{
            AtomicU32, AtomicU64,
            Ordering::{AcqRel, Acquire, Relaxed, Release},
        },
    },
    time::Duration,
};

use crate::balance::{hash::chance, load::Load};

/// When an endpoint is ejected because its calls fail, and for how long (Envoy's outlier detection).
///
/// The first ejection takes [`base`](Self::base) (30 s), the second twice that, and so on up to [`longest`](Self::longest)
/// (5 min), plus up to 10 % by chance, so that endpoints that failed together do not come back together. It ends by itself. Each `base` without ejection
/// takes one back. At most [`share`](Self::share) of the instances (half) are out at once, and never the last one.
///
/// | an endpoint is ejected | default |
/// |---|---|
/// | after so many [failures in a row](Self::consecutive) | 5 |
/// | when its [success rate](Self::success_rate) is far below the mean | off |
#[derive(Clone, Debug)]
pub struct Ejection {
    consecutive: u32,
    success_rate: Option<SuccessRate>,
    base: Duration,
    longest: Duration,
    share: f64,
}

/// Which success rate is far below that of the others, for [`Ejection::success_rate`].
#[derive(Clone, Debug)]
pub struct SuccessRate {
    interval: Duration,
    min_calls: u32,
    min_endpoints: usize,
    deviations: f64,
}

impl Default for Ejection {
    fn default() -> Self {
        Self {
            consecutive: 5,
            success_rate: None,
            base: Duration::from_secs(30),
            longest: Duration::from_secs(300),
            share: 0.5,
        }
    }
}

impl Default for SuccessRate {
    /// Envoy's numbers: over 10 s, with at least 100 calls at each of at least 5 endpoints, 1.9 standard deviations below the mean.
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(10),
            min_calls: 100,
            min_endpoints: 5,
            deviations: 1.9,
        }
    }
}

impl SuccessRate {
    /// How often rates are compared. Default 10 s.
    #[must_use]
    pub const fn interval(mut self, interval: Duration) -> Self {
        self.interval = interval;
        self
    }

    /// Endpoints with fewer calls in an interval are left out. Default 100.
    #[must_use]
    pub const fn min_calls(mut self, calls: u32) -> Self {
        self.min_calls = calls;
        self
    }

    /// Nothing is compared with fewer endpoints that have enough calls. Default 5.
    #[must_use]
    pub const fn min_endpoints(mut self, endpoints: usize) -> Self {
        self.min_endpoints = endpoints;
        self
    }

    /// How many standard deviations below the mean are too many. Default 1.9.
    #[must_use]
    pub const fn deviations(mut self, deviations: f64) -> Self {
        self.deviations = deviations;
        self
    }

    /// Those of `rates` that are too low.
    fn outliers(&self, rates: &[(usize, f64)]) -> Vec<usize> {
        if rates.len() < self.min_endpoints.max(1) {
            return Vec::new();
        }
        let count = rates.len() as f64;
        let mean = rates.iter().map(|(_, rate)| rate).sum::<f64>() / count;
        let variance = rates.iter().map(|(_, rate)| (rate - mean).powi(2)).sum::<f64>() / count;
        let least = mean - self.deviations * variance.sqrt();
        rates.iter().filter(|(_, rate)| *rate < least).map(|(index, _)| *index).collect()
    }
}

impl Ejection {
    /// After how many failures in a row; 0 counts as 1, `u32::MAX` as never. Default 5, as in Envoy.
    #[must_use]
    pub const fn consecutive(mut self, failures: u32) -> Self {
        self.consecutive = if failures == 0 { 1 } else { failures };
        self
    }

    /// Compares success rates as well. Off by default: it needs a fleet with much traffic.
    #[must_use]
    pub const fn success_rate(mut self, rate: SuccessRate) -> Self {
        self.success_rate = Some(rate);
        self
    }

    /// For how long the first time. Default 30 s.
    #[must_use]
    pub const fn base(mut self, base: Duration) -> Self {
        self.base = base;
        self
    }

    /// For how long at most, before the 10 % by chance. Default 5 min.
    #[must_use]
    pub const fn longest(mut self, longest: Duration) -> Self {
        self.longest = longest;
        self
    }

    /// Which part of the healthy instances may be out at once, from 0 to 1. One is always left. Default 0.5; Envoy has
    /// 0.1, where one bad release of a third of a small fleet stays in.
    #[must_use]
    pub const fn share(mut self, share: f64) -> Self {
        self.share = share;
        self
    }

    /// How many of `count` may be out at once.
    fn most(&self, count: usize) -> usize {
        // A NaN counts as nothing.
        ((count as f64 * self.share.clamp(0.0, 1.0)) as usize).min(count.saturating_sub(1))
    }

    fn span(&self, times: u32, chance: u64) -> Duration {
        let span = self.base.saturating_mul(times).min(self.longest.max(self.base));
        span.saturating_add(span.mul_f64((chance >> 32) as f64 / (1_u64 << 32) as f64 / 10.0))
    }
}

/// How an endpoint did lately.
#[derive(Debug)]
pub(crate) struct Record {
    failures_in_a_row: AtomicU32,
    /// Calls in the upper half, successes in the lower, since rates were last compared.
    calls: AtomicU64,
    /// When it comes back; 0 if it is not ejected.
    until: AtomicU64,
    /// How often it was ejected, less what is forgiven. Written under the lock of the ejector.
    times: AtomicU32,
    /// When it came back, or comes.
    back: AtomicU64,
}

impl Record {
    pub(crate) const fn new() -> Self {
        Self {
            failures_in_a_row: AtomicU32::new(0),
            calls: AtomicU64::new(0),
            until: AtomicU64::new(0),
            times: AtomicU32::new(0),
            back: AtomicU64::new(0),
        }
    }

    /// The moment at which its ejection ends, 0 without one.
    pub(crate) fn ejected_until(&self) -> u64 {
        self.until.load(Acquire)
    }

    /// Ends an ejection that is over; whether it did.
    pub(crate) fn come_back(&self, now: u64) -> bool {
        let until = self.ejected_until();
        let over = until != 0 && until <= now;
        if over {
            self.failures_in_a_row.store(0, Relaxed);
            self.calls.store(0, Relaxed);
        }
        over && self.until.compare_exchange(until, 0, AcqRel, Relaxed).is_ok()
    }
}

/// Decides who is ejected: one for each balancer.
#[derive(Debug)]
pub(crate) struct Ejector {
    policy: Ejection,
    /// When rates were last compared.
    compared: AtomicU64,
    deciding: Mutex<()>,
    ejections: AtomicU64,
    refused: AtomicU64,
}

impl Ejector {
    pub(crate) const fn new(policy: Ejection) -> Self {
        Self {
            policy,
            compared: AtomicU64::new(0),
            deciding: Mutex::new(()),
            ejections: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        }
    }

    pub(crate) const fn policy(&self) -> &Ejection {
        &self.policy
    }

    /// Ejections so far, and those that the share did not allow.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (self.ejections.load(Relaxed), self.refused.load(Relaxed))
    }

    /// Takes the end of a call down. Whether somebody may have to go, which [`decide`](Self::decide) finds out.
    pub(crate) fn note(&self, load: &Load, failed: bool, now: impl FnOnce() -> u64) -> bool {
        let record = &load.record;
        let in_a_row = if failed {
            record.failures_in_a_row.fetch_add(1, Relaxed).saturating_add(1)
        } else {
            if record.failures_in_a_row.load(Relaxed) != 0 {
                record.failures_in_a_row.store(0, Relaxed);
            }
            0
        };
        let too_many = in_a_row >= self.policy.consecutive && self.policy.consecutive != u32::MAX;
        let compare = self.policy.success_rate.as_ref().is_some_and(|rate| {
            let call = 1 << 32 | u64::from(!failed);
            let calls = (record.calls.fetch_add(call, Relaxed) >> 32) + 1;
            // The clock is not read by each call.
            calls % 16 == 0 && self.is_due(rate, now())
        });
        compare || (too_many && record.ejected_until() == 0)
    }

    fn is_due(&self, rate: &SuccessRate, now: u64) -> bool {
        now.saturating_sub(self.compared.load(Relaxed)) >= nanos(rate.interval)
    }

    /// Ejects who has to go; whether it ejected anybody. `loads` are those of all healthy instances.
    pub(crate) fn decide(&self, loads: &[&Load], now: u64) -> bool {
        // One decides at a time, or together they would take out more than the share.
        let _deciding: MutexGuard<'_, ()> =
            self.deciding.lock().unwrap_or_else(PoisonError::into_inner);
        let mut leaving: Vec<usize> = (0..loads.len())
            .filter(|&i| loads[i].record.failures_in_a_row.load(Relaxed) >= self.policy.consecutive)
            .collect();
        if let Some(rate) = self.policy.success_rate.as_ref().filter(|rate| self.is_due(rate, now))
        {
            self.compared.store(now, Relaxed);
            leaving.extend(rate.outliers(&rates(rate, loads)));
        }
        let mut out = loads.iter().filter(|load| load.record.ejected_until() != 0).count();
        let most = self.policy.most(loads.len());
        let mut any = false;
        for index in leaving {
            let record = &loads[index].record;
            if record.ejected_until() != 0 {
                continue;
            }
            if out >= most {
                self.refused.fetch_add(1, Relaxed);
                // It is asked about again after as many failures more.
                record.failures_in_a_row.store(0, Relaxed);
                continue;
            }
            self.eject(record, now);
            (out, any) = (out + 1, true);
        }
        any
    }

    fn eject(&self, record: &Record, now: u64) {
        let forgiven =
            now.saturating_sub(record.back.load(Relaxed)) / nanos(self.policy.base).max(1);
        let forgiven = u32::try_from(forgiven).unwrap_or(u32::MAX);
        let times = record.times.load(Relaxed).saturating_sub(forgiven).saturating_add(1);
        record.times.store(times, Relaxed);
        let until = now.saturating_add(nanos(self.policy.span(times, chance()))).max(1);
        record.back.store(until, Relaxed);
        record.until.store(until, Release);
        self.ejections.fetch_add(1, Relaxed);
    }
}

/// The success rates of those with enough calls, and a new beginning for all.
fn rates(rate: &SuccessRate, loads: &[&Load]) -> Vec<(usize, f64)> {
    let taken = loads.iter().map(|load| load.record.calls.swap(0, Relaxed)).enumerate();
    taken
        .map(|(index, word)| (index, word >> 32, word & u64::from(u32::MAX)))
        .filter(|(_, calls, _)| *calls >= u64::from(rate.min_calls.max(1)))
        .map(|(index, calls, good)| (index, good as f64 / calls as f64))
        .collect()
}

pub(crate) fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
