//! How a gateway stands, on the page of its metrics.

use std::{collections::BTreeMap, sync::Arc};

use gusset_breaker::{Circuit, State, Stats};
use gusset_ratelimit::ConcurrencyLimiter;
use gusset_sidecar::{RetryStats, Samples};

use crate::Gateway;

/// Circuits, upstreams and limits that are shown, of each so many: that others find room beside them.
const SHOWN: usize = 200;

impl Gateway {
    /// Adds to `samples` how it stands, to be called from a source of [`Metrics::on_render`](gusset_sidecar::Metrics::on_render); [`Live::report_to`](crate::Live::report_to) and
    /// `Admin` do that.
    ///
    /// | family | labels | what |
    /// |---|---|---|
    /// | `gusset_calls_total`, `gusset_attempts_total`, `gusset_retries_total` and their neighbours | `upstream` | what [`RetryLayer::report`](gusset_sidecar::RetryLayer::report) says, over all routes |
    /// | `gusset_hedges_total` and its neighbours | `upstream` | what became of slow calls |
    /// | `gusset_breaker_state`, `gusset_breaker_calls_total` | `upstream`, `circuit` | the circuit of each healthy instance |
    /// | `gusset_limiter_calls_total` | `limiter` | quotas, by the names or paths of routes |
    /// | `gusset_concurrency_limit`, `_in_flight`, `_calls_total`, `_overloads_total` | `limiter` | requests at once: of the whole `gateway`, and of routes |
    /// | `gusset_mirror_copies_total` | `route`, `outcome` | copies for a [`Mirror`](crate::Mirror) |
    /// | `gusset_access_log_lost_total` | | lines that were left out |
    ///
    /// Of upstreams, circuits and routes, 200 of each are shown, first by name; circuits that are not closed before all others. What an upstream has counted goes on in the next gateway
    /// of the same file.
    pub fn report(&self, samples: &mut Samples) {
        all(std::iter::once(self), samples);
        limits(self, samples);
    }

    /// What callers of its upstreams saw, beside what happened: by upstream, over all routes.
    #[must_use]
    pub fn retries(&self) -> Vec<(String, RetryStats)> {
        let upstreams = self.shared.upstreams.iter().filter(|(_, shared)| shared.measured);
        upstreams.map(|(upstream, shared)| (upstream.to_string(), shared.retries())).collect()
    }
}

/// Upstreams and circuits of several gateways.
pub(crate) fn all<'g>(gateways: impl Iterator<Item = &'g Gateway>, samples: &mut Samples) {
    let (mut upstreams, mut circuits) = (BTreeMap::new(), Vec::new());
    for gateway in gateways {
        let measured = gateway.shared.upstreams.iter().filter(|(_, shared)| shared.measured);
        for (upstream, shared) in measured {
            let name: Arc<str> = upstream.to_string().into();
            let of_it = shared.read().into_iter();
            circuits
                .extend(of_it.map(|(at, circuit)| (name.clone(), at.instance.id.clone(), circuit)));
            upstreams.insert(name, shared);
        }
    }
    for (name, upstream) in upstreams.iter().take(SHOWN) {
        upstream.report(name, samples);
    }
    circuits.sort_by_cached_key(|(upstream, id, circuit)| {
        (state(circuit.as_ref()) == State::Closed, upstream.clone(), id.clone())
    });
    for (upstream, id, circuit) in circuits.iter().take(SHOWN) {
        breaker((upstream, id), circuit.as_ref(), samples);
    }
}

/// That which nobody needed yet is closed.
fn state(circuit: Option<&Circuit>) -> State {
    circuit.map_or(State::Closed, Circuit::state)
}

fn breaker((upstream, id): (&str, &str), circuit: Option<&Circuit>, samples: &mut Samples) {
    let (now, stats) = (state(circuit), circuit.map_or_else(Stats::default, Circuit::stats));
    for state in State::ALL {
        let labels = [("upstream", upstream), ("circuit", id), ("state", state.as_str())];
        let value = if now == state { 1.0 } else { 0.0 };
        samples.gauge("gusset_breaker_state", "1 for the state it is in.", &labels, value);
    }
    for (outcome, calls) in stats.by_outcome() {
        let labels = [("upstream", upstream), ("circuit", id), ("outcome", outcome)];
        let family = ("gusset_breaker_calls_total", "Calls, by what became of them.");
        count(samples, family, &labels, calls);
    }
}

/// What one gateway has of its own.
fn limits(gateway: &Gateway, samples: &mut Samples) {
    let shared = &gateway.shared;
    let routes = shared.targets.iter().zip(&shared.front.gates);
    // Routes of several hosts may be called the same.
    let (mut quotas, mut copies) = (BTreeMap::new(), BTreeMap::new());
    let mut in_flight = BTreeMap::new();
    for (target, gate) in routes {
        let name = &**target.called();
        if let Some(limit) = &gate.limit {
            let stats = limit.read(target.path.clone(), None).stats;
            let sum: &mut [u64; 2] = quotas.entry(name).or_default();
            *sum = [sum[0] + stats.allowed, sum[1] + stats.refused];
        }
        if let Some(mirror) = &target.mirror {
            let stats = mirror.stats().1;
            let all = [stats.sent, stats.failed, stats.no_place, stats.too_large];
            let sum: &mut [u64; 4] = copies.entry(name).or_default();
            *sum = std::array::from_fn(|at| sum[at] + all[at]);
        }
        if let Some(limiter) = &gate.places.route {
            in_flight.entry(name).or_insert(limiter);
        }
        if let Some(limiter) = &gate.places.gateway {
            in_flight.insert("gateway", limiter);
        }
    }
    for (route, calls) in quotas.iter().take(SHOWN) {
        for (outcome, calls) in ["allowed", "refused"].into_iter().zip(calls) {
            let labels = [("limiter", *route), ("outcome", outcome)];
            let family = ("gusset_limiter_calls_total", "Calls, by what a limiter decided.");
            count(samples, family, &labels, *calls);
        }
    }
    for (name, limiter) in in_flight.iter().take(SHOWN) {
        concurrency(name, limiter, samples);
    }
    for (route, copies) in copies.iter().take(SHOWN) {
        for (outcome, copies) in ["sent", "failed", "no_place", "too_large"].into_iter().zip(copies)
        {
            let labels = [("route", *route), ("outcome", outcome)];
            let family = ("gusset_mirror_copies_total", "Copies, by what became of them.");
            count(samples, family, &labels, *copies);
        }
    }
    if let Some(log) = &shared.access_log {
        let family = ("gusset_access_log_lost_total", "Lines left out, for too many waited.");
        count(samples, family, &[], log.lost());
    }
}

fn concurrency(name: &str, limiter: &ConcurrencyLimiter, samples: &mut Samples) {
    let (labels, stats) = ([("limiter", name)], limiter.stats());
    let limit = f64::from(limiter.limit());
    samples.gauge("gusset_concurrency_limit", "Most calls at once.", &labels, limit);
    let running = f64::from(limiter.in_flight());
    samples.gauge("gusset_concurrency_in_flight", "Calls under way.", &labels, running);
    for (priority, stats) in [("normal", stats.normal), ("low", stats.low)] {
        for (outcome, calls) in [("ended", stats.ended), ("refused", stats.refused)] {
            let labels = [labels[0], ("priority", priority), ("outcome", outcome)];
            let family = ("gusset_concurrency_calls_total", "Calls, by what became of them.");
            count(samples, family, &labels, calls);
        }
    }
    let family = ("gusset_concurrency_overloads_total", "Calls that ended as signs of overload.");
    count(samples, family, &labels, stats.overloads);
}

fn count(samples: &mut Samples, (name, help): (&str, &str), labels: &[(&str, &str)], count: u64) {
    samples.counter(name, help, labels, count as f64);
}
