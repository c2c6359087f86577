use gusset_breaker::State;
use serde_json::{Value, json};

use crate::{Gateway, traffic::Mirroring};

/// The routes in the order of their file.
pub(super) fn routes(gateway: &Gateway) -> Value {
    let mirrors = gateway.targets().iter().map(|target| target.mirror.as_ref());
    let routes = gateway.stats().into_iter().zip(mirrors).map(|(route, mirror)| {
        let upstreams: Vec<_> = route.upstreams.iter().map(ToString::to_string).collect();
        let [_, ok, moved, client, server] = route.answers;
        json!({
            "name": route.name.as_deref(),
            "path": &*route.path,
            "host": route.host.as_deref(),
            "upstreams": upstreams,
            "answers": { "2xx": ok, "3xx": moved, "4xx": client, "5xx": server },
            "refused": route.refused,
            "mean_latency_ms": millis(route.mean_latency()),
            "mirror": mirror.map(copies),
        })
    });
    Value::Array(routes.collect())
}

fn copies(mirror: &Mirroring) -> Value {
    let (to, stats) = mirror.stats();
    json!({
        "to": to.to_string(),
        "sent": stats.sent,
        "failed": stats.failed,
        "no_place": stats.no_place,
        "too_large": stats.too_large,
    })
}

/// The healthy instances of each upstream.
pub(super) fn upstreams(gateway: &Gateway) -> Value {
    let mut upstreams = serde_json::Map::new();
    for (upstream, load, circuit) in gateway.read() {
        let instance = &load.instance;
        let circuit = circuit.map_or(State::Closed, |circuit| circuit.state());
        let instance = json!({
            "id": &*instance.id,
            "address": instance.authority(),
            "health": instance.health,
            "suspect": instance.suspect,
            "version": instance.version,
            "zone": instance.zone,
            "circuit": circuit.as_str(),
            "pending": load.pending,
            "failure_ratio": load.failure_ratio,
            "share": load.share,
            "ejected_for_ms": load.ejected.map(millis),
        });
        let of = upstreams.entry(upstream.to_string()).or_insert_with(|| json!([]));
        if let Value::Array(instances) = of {
            instances.push(instance);
        }
    }
    Value::Object(upstreams)
}

pub(super) fn millis(span: std::time::Duration) -> f64 {
    (span.as_secs_f64() * 1e6).round() / 1e3
}
