//! The last call of each bucket that failed or was slow, so that a figure leads to a trace.

use std::sync::{
    Mutex, OnceLock, PoisonError,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use gusset_call::TraceContext;

use super::collected::Exemplar;

/// How long an example stays before another may take its place. So many failures at once meet only a number that they read.
const KEPT: u64 = 1_000_000_000;

/// One example for each of `N` buckets. Nothing is taken until there is one.
#[derive(Debug)]
pub(crate) struct Exemplars<const N: usize>(OnceLock<Box<[Slot; N]>>);

#[derive(Debug)]
struct Slot {
    /// From when on, by the registry's clock, the next example is taken.
    due: AtomicU64,
    last: Mutex<Option<Exemplar>>,
}

impl<const N: usize> Default for Exemplars<N> {
    fn default() -> Self {
        Self(OnceLock::new())
    }
}

impl<const N: usize> Exemplars<N> {
    /// Offers a call of this bucket that took `nanos` and ended at `now`, by the registry's clock; `unix_nanos` is asked if it is taken.
    #[cold]
    pub(crate) fn offer(
        &self,
        bucket: usize,
        (nanos, now): (u64, u64),
        trace: TraceContext,
        unix_nanos: impl FnOnce() -> u64,
    ) {
        let slots = self.0.get_or_init(|| {
            Box::new([const { Slot { due: AtomicU64::new(0), last: Mutex::new(None) } }; N])
        });
        let slot = &slots[bucket];
        let due = slot.due.load(Relaxed);
        if now < due
            || slot.due.compare_exchange(due, now.saturating_add(KEPT), Relaxed, Relaxed).is_err()
        {
            return;
        }
        #[expect(clippy::cast_precision_loss, reason = "a duration in seconds")]
        let value = nanos as f64 / 1e9;
        let example = Exemplar {
            value,
            unix_nanos: unix_nanos(),
            trace_id: trace.trace_id(),
            span_id: trace.span_id(),
        };
        *slot.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(example);
    }

    pub(crate) fn read(&self) -> Vec<Exemplar> {
        let slots = self.0.get().into_iter().flat_map(|slots| slots.iter());
        slots.filter_map(|slot| *slot.last.lock().unwrap_or_else(PoisonError::into_inner)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_of_each_bucket_is_kept_and_replaced_once_a_second() {
        let exemplars = Exemplars::<3>::default();
        assert!(exemplars.read().is_empty());
        let offer = |bucket, millis: u64, at: u64| {
            let trace = TraceContext::new_root();
            exemplars.offer(bucket, (millis * 1_000_000, at), trace, || at);
            trace.trace_id()
        };
        let (first, _) = (offer(1, 70, 5), offer(1, 71, 5 + KEPT - 1));
        let values = |of: Vec<Exemplar>| of.iter().map(|one| one.value).collect::<Vec<_>>();
        assert_eq!(exemplars.read()[0].trace_id, first);
        offer(1, 72, 5 + KEPT);
        offer(0, 3, 7);
        assert_eq!(values(exemplars.read()), [0.003, 0.072]);
    }
}
