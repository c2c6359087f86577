mod retries;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use gusset_gateway::Live;
use gusset_registry::{Instance, Watch};
use gusset_sidecar::{Durations, Metrics, Snapshot, SpanKind, Summary};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{Sources, live::within, millis};

/// Of which time the figures tell.
const WINDOW: Duration = Duration::from_secs(10);
/// Services that are followed, and instances that are shown; the rest is counted.
const SERVICES: usize = 1_000;
const INSTANCES: usize = 5_000;

/// What is remembered from one look at the map to the next: at most 21 readings and a watch for each of 1,000 services.
#[derive(Default)]
pub(crate) struct Memory(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    watches: BTreeMap<Arc<str>, Watch>,
    readings: VecDeque<Arc<Reading>>,
}

struct Reading {
    at: Instant,
    services: BTreeMap<Arc<str>, Traffic>,
    retries: retries::Edges,
}

/// What one service has counted.
#[derive(Default)]
struct Traffic {
    served: Figures,
    active: i64,
    /// By whom it called.
    calls: BTreeMap<Arc<str>, Figures>,
}

#[derive(Clone, Copy, Default)]
struct Figures {
    errors: u64,
    durations: Durations,
}

impl From<Summary> for Figures {
    fn from(summary: Summary) -> Self {
        Self { errors: summary.errors, durations: summary.durations }
    }
}

impl Traffic {
    fn add(&mut self, more: Self) {
        self.served.add(&more.served);
        self.active += more.active;
        for (peer, figures) in more.calls {
            self.calls.entry(peer).or_default().add(&figures);
        }
    }

    fn of(metrics: &Metrics) -> Self {
        let snapshot = metrics.snapshot();
        let peers: BTreeSet<_> = snapshot.series.iter().filter_map(|s| s.peer.clone()).collect();
        let calls = peers.into_iter().map(|peer| (peer.clone(), of_peer(&snapshot, &peer)));
        Self {
            served: snapshot.total(SpanKind::Server).into(),
            active: snapshot
                .active
                .iter()
                .filter(|a| a.kind == SpanKind::Server)
                .map(|a| a.calls)
                .sum(),
            calls: calls.collect(),
        }
    }
}

fn of_peer(snapshot: &Snapshot, peer: &str) -> Figures {
    let mut figures = Figures::default();
    let is_meant = |of: &Option<Arc<str>>| of.as_deref() == Some(peer);
    for series in &snapshot.series {
        if series.kind == SpanKind::Client && is_meant(&series.peer) {
            figures.durations.add(&series.durations);
            // What was refused for a fault of the request is no failure of the service, which does not count it as one either.
            if series.is_failure() && !matches!(series.status, Some(400..=499)) {
                figures.errors += series.durations.count();
            }
        }
    }
    figures
}

impl Figures {
    fn add(&mut self, more: &Self) {
        self.errors += more.errors;
        self.durations.add(&more.durations);
    }

    /// What came after `earlier`, as JSON; a rate only where the time is known.
    fn json(&self, earlier: Option<&Self>, window: Duration) -> Value {
        let none = Self::default();
        let earlier = earlier.unwrap_or(&none);
        let durations = self.durations.since(&earlier.durations);
        let errors = self.errors.saturating_sub(earlier.errors);
        json!({
            "calls": durations.count(),
            "errors": errors,
            "rate": rate(durations.count(), window),
            "p50_ms": millis(durations.quantile(0.5)),
            "p99_ms": millis(durations.quantile(0.99)),
        })
    }
}

/// A second, to a tenth.
#[expect(clippy::cast_precision_loss, reason = "a rate for humans")]
fn rate(count: u64, window: Duration) -> Option<f64> {
    (!window.is_zero()).then(|| (count as f64 / window.as_secs_f64() * 10.0).round() / 10.0)
}

pub(crate) async fn page(sources: &Sources, memory: &Memory) -> Value {
    let mut error = None;
    if let Some(registry) = &sources.registry {
        match within(registry.services()).await {
            Ok(services) => memory.follow(&services, |service| registry.watch(service)),
            Err(why) => error = Some(why),
        }
    }
    memory.json(sources, error)
}

impl Memory {
    fn follow(&self, services: &[Arc<str>], watch: impl Fn(&str) -> Watch) {
        let unknown: Vec<_> = {
            let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            // The registry tells them sorted.
            inner.watches.retain(|known, _| services.binary_search(known).is_ok());
            let room = SERVICES.saturating_sub(inner.watches.len());
            let unknown = services.iter().filter(|service| !inner.watches.contains_key(*service));
            unknown.take(room).cloned().collect()
        };
        let watches: Vec<_> =
            unknown.into_iter().map(|service| (service.clone(), watch(&service))).collect();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).watches.extend(watches);
    }

    fn json(&self, sources: &Sources, error: Option<String>) -> Value {
        let now = Reading::of(sources);
        let instances = self.instances();
        let before = self.before(now.at);
        let before = before.as_deref();
        // After a pause in which nobody looked, it tells of the time since.
        let window = before.map_or(Duration::ZERO, |before| now.at - before.at);
        let page = json!({
            "window_ms": millis(window),
            "services": services(sources, &instances, (&now, before), window),
            "left_out": instances.left_out,
            "edges": edges((&now, before), window),
            "gateways": sources.gateways.iter().map(routes).collect::<Vec<_>>(),
            "error": error,
        });
        self.remember(now);
        page
    }

    /// The reading at the beginning of the window; older ones are forgotten.
    fn before(&self, now: Instant) -> Option<Arc<Reading>> {
        let readings = &mut self.0.lock().unwrap_or_else(PoisonError::into_inner).readings;
        while readings.get(1).is_some_and(|second| now - second.at >= WINDOW) {
            readings.pop_front();
        }
        readings.front().cloned()
    }

    fn remember(&self, now: Reading) {
        let readings = &mut self.0.lock().unwrap_or_else(PoisonError::into_inner).readings;
        // Who asks more often than the page does makes it no longer.
        if readings.back().is_none_or(|last| now.at - last.at >= WINDOW / 20) {
            readings.push_back(Arc::new(now));
        }
    }

    fn instances(&self) -> Instances {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut room, mut left_out) = (INSTANCES, 0);
        let mut of = BTreeMap::new();
        for (service, watch) in &mut inner.watches {
            let snapshot = watch.snapshot();
            let all = snapshot.instances();
            let shown = all.len().min(room);
            room -= shown;
            left_out += all.len() - shown;
            of.insert(service.clone(), all[..shown].to_vec());
        }
        Instances { of, left_out }
    }
}

struct Instances {
    of: BTreeMap<Arc<str>, Vec<Arc<Instance>>>,
    left_out: usize,
}

impl Reading {
    fn of(sources: &Sources) -> Self {
        let mut services: BTreeMap<_, Traffic> = BTreeMap::new();
        for (name, metrics) in &sources.metrics {
            services.entry(name.clone()).or_default().add(Traffic::of(metrics));
        }
        for (name, gateway) in &sources.gateways {
            services.entry(name.clone()).or_default().add(Traffic::of(gateway.current().metrics()));
        }
        Self { at: Instant::now(), services, retries: retries::of(sources) }
    }
}

fn services(
    sources: &Sources,
    instances: &Instances,
    (now, before): (&Reading, Option<&Reading>),
    window: Duration,
) -> Vec<Value> {
    let circuits = circuits(sources);
    let names: BTreeSet<_> = instances.of.keys().chain(now.services.keys()).collect();
    let service = |name: &Arc<str>| {
        let earlier = before.and_then(|before| before.services.get(name));
        let traffic = now.services.get(name);
        let instances = instances.of.get(name).map(Vec::as_slice).unwrap_or_default();
        let instances =
            instances.iter().map(|i| instance(i, circuits.get(&(name.to_string(), i.id.clone()))));
        json!({
            "name": &**name,
            "traffic": traffic.map(|now| now.served.json(earlier.map(|e| &e.served), window)),
            "active": traffic.map(|now| now.active),
            "instances": instances.collect::<Vec<_>>(),
        })
    };
    names.into_iter().map(service).collect()
}

fn instance(instance: &Instance, circuit: Option<&&'static str>) -> Value {
    json!({
        "id": &*instance.id,
        "address": instance.authority(),
        "health": instance.health,
        "suspect": instance.suspect,
        "version": instance.version,
        "zone": instance.zone,
        "weight": instance.weight,
        "circuit": circuit,
    })
}

/// What the gateways know of instances, by upstream and id.
fn circuits(sources: &Sources) -> HashMap<(String, Arc<str>), &'static str> {
    let gateways = sources.gateways.iter().flat_map(|(_, gateway)| gateway.current().breakers());
    gateways
        .map(|b| ((b.upstream.to_string(), b.instance.id.clone()), b.circuit.state().as_str()))
        .collect()
}

fn edges((now, before): (&Reading, Option<&Reading>), window: Duration) -> Vec<Value> {
    let mut edges = Vec::new();
    for (from, traffic) in &now.services {
        let earlier = before.and_then(|before| before.services.get(from));
        for (to, figures) in &traffic.calls {
            let earlier = earlier.and_then(|earlier| earlier.calls.get(to));
            let mut edge = figures.json(earlier, window);
            edge["from"] = (**from).into();
            edge["to"] = (**to).into();
            let edge_of = (from.clone(), to.clone());
            let before = before.map(|before| &before.retries);
            edge["retries"] = retries::json(&edge_of, &now.retries, before).into();
            edges.push(edge);
        }
    }
    edges
}

fn routes((name, gateway): &(Arc<str>, Live)) -> Value {
    let routes = gateway.current().stats().into_iter().map(|route| {
        let upstreams: Vec<_> = route.upstreams.iter().map(ToString::to_string).collect();
        let [_, ok, moved, client, server] = route.answers;
        json!({
            "path": &*route.path,
            "host": route.host.as_deref(),
            "upstreams": upstreams,
            "answers": { "2xx": ok, "3xx": moved, "4xx": client, "5xx": server },
            "refused": route.refused,
            "mean_ms": millis(route.mean_latency()),
        })
    });
    json!({ "name": &**name, "routes": routes.collect::<Vec<_>>() })
}
