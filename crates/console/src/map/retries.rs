//! What callers see of an edge, beside what happens there.

use std::{collections::BTreeMap, sync::Arc};

use gusset_sidecar::{Family, Label, Metrics, Point, RetryStats, Value};
use serde_json::json;

use crate::{Sources, sources::Retries};

/// By caller and called.
pub(super) type Edges = BTreeMap<(Arc<str>, Arc<str>), RetryStats>;

/// Of all callers. An edge whose retries were named is not looked for in the metrics, which have them as well.
pub(super) fn of(sources: &Sources) -> Edges {
    let mut named = Edges::new();
    for Retries { from, to, read } in &sources.retries {
        add(named.entry((from.clone(), to.clone())).or_default(), &read());
    }
    let mut found = Edges::new();
    for (from, metrics) in &sources.metrics {
        for (to, stats) in in_metrics(metrics) {
            add(found.entry((from.clone(), to)).or_default(), &stats);
        }
    }
    for (from, gateway) in &sources.gateways {
        for (to, stats) in gateway.current().retries() {
            add(found.entry((from.clone(), to.into())).or_default(), &stats);
        }
    }
    found.extend(named);
    found
}

/// What [`RetryLayer::report`](gusset_sidecar::RetryLayer::report) has told.
fn in_metrics(metrics: &Metrics) -> BTreeMap<Arc<str>, RetryStats> {
    let mut found = BTreeMap::<Arc<str>, RetryStats>::new();
    for Family { name, points, .. } in metrics.collect().families {
        let Some(part) = part(&name) else { continue };
        for Point { labels, value, .. } in points {
            let text = |wanted: &str| match labels.iter().find(|(label, _)| label == wanted) {
                Some((_, Label::Text(text))) => Some(&**text),
                _ => None,
            };
            if let (Some(to), None | Some("over_budget")) = (text("upstream"), text("reason")) {
                *part(found.entry(to.into()).or_default()) += whole(&value);
            }
        }
    }
    found
}

/// Which figure a family of metrics tells.
fn part(family: &str) -> Option<fn(&mut RetryStats) -> &mut u64> {
    Some(match family {
        "gusset_calls_total" => |stats| &mut stats.calls,
        "gusset_calls_failed_total" => |stats| &mut stats.calls_failed,
        "gusset_attempts_total" => |stats| &mut stats.attempts,
        "gusset_attempts_failed_total" => |stats| &mut stats.attempts_failed,
        "gusset_retries_recovered_total" => |stats| &mut stats.recovered,
        "gusset_retries_given_up_total" => |stats| &mut stats.over_budget,
        _ => return None,
    })
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is a count")]
fn whole(value: &Value) -> u64 {
    match value {
        Value::Float(count) => *count as u64,
        Value::Int(count) => *count as u64,
        _ => 0,
    }
}

fn add(sum: &mut RetryStats, more: &RetryStats) {
    sum.calls += more.calls;
    sum.calls_failed += more.calls_failed;
    sum.attempts += more.attempts;
    sum.attempts_failed += more.attempts_failed;
    sum.recovered += more.recovered;
    sum.over_budget += more.over_budget;
}

/// What came after `before`, of one edge.
pub(super) fn json(
    edge: &(Arc<str>, Arc<str>),
    now: &Edges,
    before: Option<&Edges>,
) -> Option<serde_json::Value> {
    let now = now.get(edge)?;
    let before = before.and_then(|before| before.get(edge)).copied().unwrap_or_default();
    Some(json!({
        "calls": now.calls.saturating_sub(before.calls),
        "calls_failed": now.calls_failed.saturating_sub(before.calls_failed),
        "attempts": now.attempts.saturating_sub(before.attempts),
        "attempts_failed": now.attempts_failed.saturating_sub(before.attempts_failed),
        "recovered": now.recovered.saturating_sub(before.recovered),
        "over_budget": now.over_budget.saturating_sub(before.over_budget),
    }))
}
