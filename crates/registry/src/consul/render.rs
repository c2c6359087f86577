//! The catalog as Consul shows it.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Map, Value, json};

use super::{
    kv::Pair,
    record::{CheckDef, CheckRecord, Entry, NodeRecord, ServiceRecord},
};

/// What is the same in all answers.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) datacenter: String,
    pub(super) now: Duration,
}

pub(super) fn agent_service(record: &ServiceRecord, frame: &Frame) -> Value {
    let def = &record.def;
    json!({
        "ID": &*def.id,
        "Service": &*def.name,
        "Tags": def.tags,
        "Meta": def.meta,
        "Port": def.port,
        "Address": def.address,
        "TaggedAddresses": def.tagged_addresses,
        "Weights": {"Passing": def.weights.0, "Warning": def.weights.1},
        "EnableTagOverride": def.enable_tag_override,
        "CreateIndex": record.created,
        "ModifyIndex": record.modified,
        "Datacenter": frame.datacenter,
    })
}

/// A service within an answer that names the node beside it.
fn service(record: &ServiceRecord) -> Value {
    let def = &record.def;
    json!({
        "ID": &*def.id,
        "Service": &*def.name,
        "Tags": def.tags,
        "Address": def.address,
        "TaggedAddresses": def.tagged_addresses,
        "Meta": def.meta,
        "Port": def.port,
        "Weights": {"Passing": def.weights.0, "Warning": def.weights.1},
        "EnableTagOverride": def.enable_tag_override,
        "CreateIndex": record.created,
        "ModifyIndex": record.modified,
    })
}

pub(super) fn node(record: &NodeRecord, frame: &Frame) -> Value {
    let def = &record.def;
    json!({
        "ID": def.id,
        "Node": &*def.name,
        "Address": def.address,
        "Datacenter": frame.datacenter,
        "TaggedAddresses": {"lan": def.address, "wan": def.address},
        "Meta": def.meta,
        "CreateIndex": record.created,
        "ModifyIndex": record.modified,
    })
}

/// Consul has no `LastHeardMs`: how long ago a TTL check was told of, in milliseconds, or null for never; and no `Suspect`: whether
/// its status is what was last known rather than what was heard.
pub(super) fn check(record: &CheckRecord) -> Value {
    let (def, service) = (&record.def, record.service.as_ref().map(|service| &service.def));
    let ttl = if def.ttl.is_some() { "ttl" } else { "" };
    let kind = def.active.as_ref().map_or(ttl, |active| active.kind());
    let heard = record.heard.age().map(|age| age.as_millis());
    json!({
        "Node": &*record.node,
        "CheckID": &*def.id,
        "Name": def.name,
        "Status": record.status.name(),
        "Notes": def.notes,
        "Output": record.output,
        "ServiceID": service.map_or("", |service| &service.id),
        "ServiceName": service.map_or("", |service| &service.name),
        "ServiceTags": service.map_or(&[][..], |service| &service.tags),
        "Type": kind,
        "Definition": definition(def),
        "CreateIndex": record.created,
        "ModifyIndex": record.modified,
        "Suspect": record.suspect,
        "LastHeardMs": heard.and_then(|millis| u64::try_from(millis).ok()),
    })
}

fn definition(def: &CheckDef) -> Value {
    let Some(active) = &def.active else { return json!({}) };
    let millis = |span: Duration| format!("{}ms", span.as_millis());
    let mut shown = json!({
        active.kind().to_uppercase(): active.target(),
        "Interval": millis(active.interval),
        "Timeout": millis(active.timeout),
    });
    if let Some(after) = def.deregister_after {
        shown["DeregisterCriticalServiceAfter"] = millis(after).into();
    }
    shown
}

pub(super) fn health(entry: &Entry, frame: &Frame) -> Value {
    let checks: Vec<_> = entry.checks.iter().map(|record| check(record)).collect();
    json!({"Node": node(&entry.node, frame), "Service": service(&entry.service), "Checks": checks})
}

pub(super) fn catalog_service(entry: &Entry, frame: &Frame) -> Value {
    let (node, def) = (&entry.node.def, &entry.service.def);
    json!({
        "ID": node.id,
        "Node": &*node.name,
        "Address": node.address,
        "Datacenter": frame.datacenter,
        "TaggedAddresses": {"lan": node.address, "wan": node.address},
        "NodeMeta": node.meta,
        "ServiceKind": "",
        "ServiceID": &*def.id,
        "ServiceName": &*def.name,
        "ServiceTags": def.tags,
        "ServiceAddress": def.address,
        "ServiceTaggedAddresses": def.tagged_addresses,
        "ServiceWeights": {"Passing": def.weights.0, "Warning": def.weights.1},
        "ServiceMeta": def.meta,
        "ServicePort": def.port,
        "ServiceEnableTagOverride": def.enable_tag_override,
        "CreateIndex": entry.service.created,
        "ModifyIndex": entry.service.modified,
    })
}

pub(super) fn pair(pair: &Pair) -> Value {
    let value = (!pair.value.is_empty()).then(|| STANDARD.encode(&pair.value));
    json!({
        "LockIndex": 0,
        "Key": &*pair.key,
        "Flags": pair.flags,
        "Value": value,
        "CreateIndex": pair.created,
        "ModifyIndex": pair.modified,
    })
}

/// A target of Prometheus, with the labels of its own discovery by Consul, so that existing relabelling goes on working.
pub(super) fn target(entry: &Entry, frame: &Frame) -> Value {
    let (node, def) = (&entry.node.def, &entry.service.def);
    let host = if def.address.is_empty() { &node.address } else { &def.address };
    let target = match host.contains(':') {
        true => format!("[{host}]:{}", def.port),
        false => format!("{host}:{}", def.port),
    };
    let mut labels = Map::new();
    let mut label = |name: String, value: &str| labels.insert(name, value.into());
    label("__meta_consul_service".into(), &def.name);
    label("__meta_consul_service_id".into(), &def.id);
    label("__meta_consul_service_address".into(), &def.address);
    label("__meta_consul_service_port".into(), &def.port.to_string());
    label("__meta_consul_node".into(), &node.name);
    label("__meta_consul_address".into(), &node.address);
    label("__meta_consul_dc".into(), &frame.datacenter);
    label("__meta_consul_health".into(), entry.status().name());
    label("__meta_consul_tags".into(), &format!(",{},", def.tags.join(",")));
    for (key, value) in &def.meta {
        label(format!("__meta_consul_service_metadata_{}", label_name(key)), value);
    }
    json!({"targets": [target], "labels": labels})
}

fn label_name(key: &str) -> String {
    key.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect()
}
