//! Circuits, limiters and sagas.

use gusset_sidecar::{Metrics, Samples};

/// Adds the state and the counts of each circuit, under its name, to whatever `metrics` renders, which then keeps the circuits: `gusset_breaker_state` is 1 for the state that the circuit
/// is in and 0 for the others. Of more than 200 circuits the first by name are shown, and those that are not closed before all others.
#[cfg(feature = "breaker")]
pub fn circuits<K>(circuits: &gusset_breaker::Circuits<K>, metrics: &Metrics)
where
    K: std::hash::Hash + Eq + Clone + std::fmt::Display + Send + Sync + 'static,
{
    use gusset_breaker::State;
    /// So that others find room beside them.
    const SHOWN: usize = 200;
    let circuits = circuits.clone();
    metrics.on_render(move |samples| {
        let mut all = circuits.all();
        all.sort_by_cached_key(|one| (one.state() == State::Closed, one.name().to_owned()));
        for circuit in all.iter().take(SHOWN) {
            let (name, now, stats) = (circuit.name(), circuit.state(), circuit.stats());
            for state in State::ALL {
                let labels = [("circuit", name), ("state", state.as_str())];
                let value = if now == state { 1.0 } else { 0.0 };
                samples.gauge("gusset_breaker_state", "1 for the state it is in.", &labels, value);
            }
            for (outcome, count) in stats.by_outcome() {
                let labels = [("circuit", name), ("outcome", outcome)];
                add(
                    samples,
                    ("gusset_breaker_calls_total", "Calls, by what became of them."),
                    &labels,
                    count,
                );
            }
        }
        let evictions = ("gusset_breaker_evictions_total", "Circuits that made room for others.");
        add(samples, evictions, &[], circuits.evictions());
    });
}

/// Adds what a limiter let through and refused to whatever `metrics` renders, under the label `limiter`. All limiters of rates have such counts: `stats` asks the one that is meant.
///
/// ```
/// use gusset::{observe, ratelimit::{RateLimiter, Quota}, sidecar::Metrics};
/// use std::{num::NonZeroU32, sync::Arc};
///
/// let (metrics, limiter) = (Metrics::new(), Arc::new(RateLimiter::new(Quota::per_second(10))));
/// let counted = limiter.clone();
/// observe::limiter("logins", move || counted.stats(), &metrics);
/// limiter.check().unwrap();
/// let line = "gusset_limiter_calls_total{limiter=\"logins\",outcome=\"allowed\"} 1\n";
/// assert!(metrics.render_prometheus().contains(line));
/// ```
#[cfg(feature = "ratelimit")]
pub fn limiter(
    name: impl Into<String>,
    stats: impl Fn() -> gusset_ratelimit::Stats + Send + Sync + 'static,
    metrics: &Metrics,
) {
    let name = name.into();
    metrics.on_render(move |samples| {
        let stats = stats();
        for (outcome, count) in [("allowed", stats.allowed), ("refused", stats.refused)] {
            let labels = [("limiter", &*name), ("outcome", outcome)];
            add(
                samples,
                ("gusset_limiter_calls_total", "Calls, by what a limiter decided."),
                &labels,
                count,
            );
        }
        let full = ("gusset_limiter_queue_full_total", "Calls refused for want of room to wait.");
        add(samples, full, &[("limiter", &name)], stats.queue_full);
    });
}

/// Adds the limit of a limiter of concurrency, how many calls run under it and how many it refused to whatever `metrics` renders, which then keeps the limiter.
#[cfg(feature = "ratelimit")]
pub fn concurrency(limiter: &gusset_ratelimit::ConcurrencyLimiter, metrics: &Metrics) {
    let limiter = limiter.clone();
    metrics.on_render(move |samples| {
        let (labels, stats) = ([("limiter", limiter.name())], limiter.stats());
        let limit = f64::from(limiter.limit());
        samples.gauge("gusset_concurrency_limit", "Most calls at once.", &labels, limit);
        let running = f64::from(limiter.in_flight());
        samples.gauge("gusset_concurrency_in_flight", "Calls under way.", &labels, running);
        for (priority, stats) in [("normal", stats.normal), ("low", stats.low)] {
            for (outcome, count) in [("ended", stats.ended), ("refused", stats.refused)] {
                let labels = [labels[0], ("priority", priority), ("outcome", outcome)];
                add(
                    samples,
                    ("gusset_concurrency_calls_total", "Calls, by what became of them."),
                    &labels,
                    count,
                );
            }
        }
        let overloads =
            ("gusset_concurrency_overloads_total", "Calls that ended as signs of overload.");
        add(samples, overloads, &labels, stats.overloads);
    });
}

/// Adds what the sagas of this process do to whatever `metrics` renders, which then keeps the orchestrator.
#[cfg(feature = "saga")]
pub fn sagas(orchestrator: &gusset_saga::Orchestrator, metrics: &Metrics) {
    let orchestrator = orchestrator.clone();
    metrics.on_render(move |samples| {
        let stats = orchestrator.stats();
        samples.gauge("gusset_saga_running", "Sagas under way.", &[], stats.running as f64);
        let waiting = stats.waiting_for_store as f64;
        samples.gauge("gusset_saga_waiting_for_store", "Sagas whose store fails.", &[], waiting);
        for (event, count) in [
            ("started", stats.started),
            ("resumed", stats.resumed),
            ("completed", stats.completed),
            ("compensated", stats.compensated),
            ("closed", stats.closed),
            ("stuck", stats.stuck),
            ("blocked", stats.blocked),
            ("interrupted", stats.interrupted),
        ] {
            let labels = [("event", event)];
            add(samples, ("gusset_saga_events_total", "What happened to sagas."), &labels, count);
        }
        let failed =
            ("gusset_saga_failed_attempts_total", "Attempts of steps and undos that failed.");
        add(samples, failed, &[], stats.failed_attempts);
        let errors = ("gusset_saga_store_errors_total", "Failures of the store.");
        add(samples, errors, &[], stats.store_errors);
    });
}

fn add(samples: &mut Samples, (name, help): (&str, &str), labels: &[(&str, &str)], count: u64) {
    samples.counter(name, help, labels, count as f64);
}
