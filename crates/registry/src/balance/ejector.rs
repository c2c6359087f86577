//! Decides who is ejected.

use std::sync::{
    Mutex, MutexGuard, PoisonError,
    atomic::{
        AtomicU32, AtomicU64,
        Ordering::{AcqRel, Acquire, Relaxed, Release},
    },
};

use crate::{
    Ejection, SuccessRate,
    balance::{hash::chance, hub::nanos},
};

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
    pub(crate) fn note(&self, record: &Record, failed: bool, now: impl FnOnce() -> u64) -> bool {
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

    /// Ejects who has to go; whether it ejected anybody. `records` are those of all healthy instances.
    pub(crate) fn decide(&self, records: &[&Record], now: u64) -> bool {
        // One decides at a time, or together they would take out more than the share.
        let _deciding: MutexGuard<'_, ()> =
            self.deciding.lock().unwrap_or_else(PoisonError::into_inner);
        let mut leaving: Vec<usize> = (0..records.len())
            .filter(|&i| records[i].failures_in_a_row.load(Relaxed) >= self.policy.consecutive)
            .collect();
        if let Some(rate) = self.policy.success_rate.as_ref().filter(|rate| self.is_due(rate, now))
        {
            self.compared.store(now, Relaxed);
            leaving.extend(rate.outliers(&rates(rate, records)));
        }
        let mut out = records.iter().filter(|record| record.ejected_until() != 0).count();
        let most = self.policy.most(records.len());
        let mut any = false;
        for index in leaving {
            let record = records[index];
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
fn rates(rate: &SuccessRate, records: &[&Record]) -> Vec<(usize, f64)> {
    let taken = records.iter().map(|record| record.calls.swap(0, Relaxed)).enumerate();
    taken
        .map(|(index, word)| (index, word >> 32, word & u64::from(u32::MAX)))
        .filter(|(_, calls, _)| *calls >= u64::from(rate.min_calls.max(1)))
        .map(|(index, calls, good)| (index, good as f64 / calls as f64))
        .collect()
}

#[cfg(test)]
mod tests;
