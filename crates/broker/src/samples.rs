use std::sync::Arc;

use crate::{GroupStats, Stats};

/// One number of a [`Stats`], as exporters want it.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Sample {
    /// Name of the metric, in the manner of Prometheus.
    pub name: &'static str,
    /// What it is, in a sentence.
    pub help: &'static str,
    /// Whether it only grows.
    pub kind: SampleKind,
    /// Of which group, for a label `group`; none of the broker as a whole.
    pub group: Option<Arc<str>>,
    /// The number.
    pub value: f64,
}

/// Whether a number only grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SampleKind {
    /// It only grows, as long as its group is there.
    Counter,
    /// It goes up and down.
    Gauge,
}

type Of<S> = (&'static str, &'static str, fn(&S) -> u64);

const COUNTERS: [Of<GroupStats>; 11] = [
    ("gusset_broker_published_total", "Messages that came in.", |g| g.published),
    ("gusset_broker_delivered_total", "Deliveries.", |g| g.delivered),
    ("gusset_broker_redelivered_total", "Deliveries after the first of a message.", |g| {
        g.redelivered
    }),
    ("gusset_broker_acked_total", "Messages done.", |g| g.acked),
    ("gusset_broker_dead_total", "Messages that became dead letters.", |g| g.dead),
    ("gusset_broker_redriven_total", "Messages that came back from the dead letters.", |g| {
        g.redriven
    }),
    ("gusset_broker_dropped_total", "Messages dropped for want of room.", |g| g.dropped),
    ("gusset_broker_expired_total", "Messages dropped since nobody waited any more.", |g| {
        g.expired
    }),
    ("gusset_broker_overdue_total", "Deliveries that were not answered in time.", |g| g.overdue),
    ("gusset_broker_returned_total", "Deliveries given back uncharged.", |g| g.returned),
    ("gusset_broker_refused_total", "Publishes refused for want of room.", |g| g.refused),
];

const GAUGES: [Of<GroupStats>; 6] = [
    ("gusset_broker_lag", "Messages that no handler has yet.", |g| g.lag() as u64),
    ("gusset_broker_in_flight", "Messages being handled.", |g| g.in_flight as u64),
    ("gusset_broker_delayed", "Messages that wait for their time.", |g| g.delayed as u64),
    ("gusset_broker_bytes", "Bytes of the messages held.", |g| g.bytes as u64),
    ("gusset_broker_waiting_publishers", "Publishers that wait for room.", |g| g.waiting as u64),
    ("gusset_broker_subscriptions", "Subscriptions that compete.", |g| g.subscriptions as u64),
];

const OLDEST: (&str, &str) = (
    "gusset_broker_oldest_seconds",
    "How long the message that is next in line could have been delivered.",
);

const BROKER_COUNTERS: [Of<Stats>; 5] = [
    ("gusset_broker_unroutable_total", "Messages that no group wanted.", |s| s.unroutable),
    ("gusset_broker_duplicates_total", "Messages that came again.", |s| s.duplicates),
    ("gusset_broker_discarded_total", "Messages that went with their group.", |s| s.discarded),
    (
        "gusset_broker_dead_letters_dropped_total",
        "Dead letters that made room for younger ones.",
        |s| s.dead_letters_dropped,
    ),
    ("gusset_broker_dead_letters_refused_total", "Burials put off for want of room.", |s| {
        s.dead_letters_refused
    }),
];

const BROKER_GAUGES: [Of<Stats>; 4] = [
    ("gusset_broker_dead_letters", "Dead letters kept.", |s| s.dead_letters as u64),
    ("gusset_broker_dead_letter_bytes", "Their bytes.", |s| s.dead_letter_bytes as u64),
    ("gusset_broker_retained", "Messages retained for groups to come.", |s| s.retained as u64),
    ("gusset_broker_retained_bytes", "Their bytes.", |s| s.retained_bytes as u64),
];

/// The group of the sums.
const OTHERS: &str = "_others";

impl Stats {
    /// How many groups have samples of their own.
    pub const MAX_LABELLED: usize = 200;

    /// All numbers with their names, at most 20 for each of [`MAX_LABELLED`](Self::MAX_LABELLED) groups, those with a name that were made first, and some of the whole. Of all other
    /// groups there are gauges only, summed (the greatest age, not the sum) as the group `_others`: subscriptions without a group come and go, and a sum of their counters would
    /// not only grow.
    ///
    /// ```
    /// use gusset_broker::{Broker, SampleKind};
    ///
    /// for sample in Broker::new().stats().samples() {
    ///     let kind = if sample.kind == SampleKind::Counter { "counter" } else { "gauge" };
    ///     println!("{kind} {}{{group={:?}}} {}", sample.name, sample.group, sample.value);
    /// }
    /// ```
    #[must_use]
    pub fn samples(&self) -> Vec<Sample> {
        let mut samples = Vec::new();
        let mut add = |name, help, kind, group: Option<&Arc<str>>, value| {
            samples.push(Sample { name, help, kind, group: group.cloned(), value });
        };
        for (name, help, value) in BROKER_COUNTERS {
            add(name, help, SampleKind::Counter, None, number(value(self)));
        }
        for (name, help, value) in BROKER_GAUGES {
            add(name, help, SampleKind::Gauge, None, number(value(self)));
        }
        let (mut labelled, mut others) = (Vec::new(), Vec::new());
        for group in &self.groups {
            if labelled.len() < Self::MAX_LABELLED && !group.group.starts_with('_') {
                labelled.push(group);
            } else {
                others.push(group);
            }
        }
        for group in &labelled {
            for (name, help, value) in COUNTERS {
                add(name, help, SampleKind::Counter, Some(&group.group), number(value(group)));
            }
        }
        let rest: Arc<str> = OTHERS.into();
        let others = (!others.is_empty()).then_some((&rest, others));
        let each = labelled.into_iter().map(|group| (&group.group, vec![group]));
        for (label, groups) in each.chain(others) {
            for (name, help, value) in GAUGES {
                let sum = groups.iter().map(|group| value(group)).sum();
                add(name, help, SampleKind::Gauge, Some(label), number(sum));
            }
            let oldest = groups.iter().filter_map(|group| group.oldest).max();
            let (name, help) = OLDEST;
            let seconds = oldest.unwrap_or_default().as_secs_f64();
            add(name, help, SampleKind::Gauge, Some(label), seconds);
        }
        samples
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "exact up to 2^53, and exporters know no other numbers"
)]
const fn number(value: u64) -> f64 {
    value as f64
}
