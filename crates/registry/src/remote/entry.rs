//! Instances as Consul lists them: `/v1/health/service/:name`.

use std::{collections::BTreeMap, num::NonZeroU32, sync::Arc, time::Duration};

use serde::Deserialize;

use crate::{
    Health, Instance, LastSeen,
    wire::{LAYOUT, METADATA, PREFIX, VERSION, unescaped},
};

/// One entry. Go writes null for what is empty.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Entry {
    node: Node,
    service: Service,
    #[serde(default)]
    checks: Option<Vec<Check>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Node {
    #[serde(default)]
    address: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Service {
    #[serde(rename = "ID")]
    id: String,
    #[serde(default)]
    tags: Option<Vec<String>>,
    #[serde(default)]
    address: String,
    port: u16,
    #[serde(default)]
    meta: Option<BTreeMap<String, String>>,
    #[serde(default)]
    weights: Option<Weights>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Weights {
    passing: u32,
    warning: u32,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Check {
    #[serde(rename = "CheckID")]
    id: String,
    status: String,
    #[serde(default)]
    output: String,
    /// Ours says it, Consul does not.
    #[serde(default)]
    last_heard_ms: Option<u64>,
    /// So does this: the status is what was known before the server was started again.
    #[serde(default)]
    suspect: bool,
}

impl Entry {
    /// The id that the instance has on its agent.
    pub(super) fn agent_id(&self) -> &str {
        &self.service.id
    }

    /// None if it is of a version of the layout that is not known here, or not what it says it is. `confirmed` is when the server was heard last.
    pub(super) fn instance(self, service: &Arc<str>, confirmed: &LastSeen) -> Option<Instance> {
        let health = self.health();
        let last_seen = match health {
            Health::Healthy | Health::Draining => confirmed.clone(),
            Health::Unknown => LastSeen::default(),
            Health::Unhealthy => self.heard(),
        };
        let warning = self.checks().iter().any(|check| check.status == "warning");
        let suspect = self.checks().iter().any(|check| check.suspect);
        let Service { id, tags, address, port, meta, weights } = self.service;
        let mut meta = meta.unwrap_or_default();
        if meta.remove(LAYOUT).is_some_and(|version| version != VERSION) {
            return None;
        }
        let host = if address.is_empty() { self.node.address } else { address };
        let mut instance = Instance::new(service.clone(), host, port);
        instance.id = meta.remove("gusset-id").unwrap_or(id).into();
        instance.health = health;
        instance.suspect = suspect;
        instance.last_seen = last_seen;
        instance.tags = tags.unwrap_or_default().into_iter().collect();
        let weight = weights.map_or(1, |w| if warning { w.warning } else { w.passing });
        let weight = meta.get("gusset-weight").map_or(Some(weight), |text| text.parse().ok())?;
        instance.weight = NonZeroU32::new(weight).unwrap_or(NonZeroU32::MIN);
        instance.version = meta.remove("gusset-version");
        instance.zone = meta.remove("gusset-zone");
        let incarnation = meta.get("gusset-incarnation").map(|text| text.parse());
        instance.incarnation = incarnation.transpose().ok()?.unwrap_or(0);
        instance.checked = meta.contains_key("gusset-checked");
        for (name, value) in meta {
            if let Some(key) = name.strip_prefix(METADATA) {
                instance.metadata.insert(unescaped(key)?, value);
            } else if !name.starts_with(PREFIX) {
                instance.metadata.insert(name, value);
            }
        }
        Some(instance)
    }

    fn checks(&self) -> &[Check] {
        self.checks.as_deref().unwrap_or_default()
    }

    /// A warning is a warning, and no reason to send calls elsewhere.
    fn health(&self) -> Health {
        let is_maintenance = |check: &&Check| {
            check.id.starts_with("_service_maintenance") || check.id == "_node_maintenance"
        };
        let critical = self.checks().iter().filter(|check| check.status == "critical");
        let (drained, failed): (Vec<_>, Vec<_>) = critical.partition(is_maintenance);
        if failed.iter().any(|check| !check.output.is_empty()) {
            Health::Unhealthy
        } else if !drained.is_empty() {
            Health::Draining
        } else if !failed.is_empty() {
            Health::Unknown
        } else {
            Health::Healthy
        }
    }

    fn heard(&self) -> LastSeen {
        let heard = self.checks().iter().filter_map(|check| check.last_heard_ms).min();
        heard.map_or_else(LastSeen::default, |ms| LastSeen::told(Duration::from_millis(ms)))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(entry: Value) -> Option<Instance> {
        let entry: Entry = serde_json::from_value(entry).unwrap();
        entry.instance(&"cart".into(), &LastSeen::default())
    }

    fn with_checks(checks: Value) -> Health {
        let service = json!({"ID": "c1", "Service": "cart", "Port": 80});
        read(json!({"Node": {"Address": "n"}, "Service": service, "Checks": checks}))
            .unwrap()
            .health
    }

    #[test]
    fn an_instance_that_somebody_else_registered_is_one_as_well() {
        let instance = read(json!({
            "Node": {"Node": "n1", "Address": "10.0.0.9"},
            "Service": {
                "ID": "cart-1", "Service": "cart", "Tags": null, "Address": "", "Port": 80,
                "Meta": {"team": "shop"}, "Weights": {"Passing": 5, "Warning": 2},
            },
            "Checks": [{"CheckID": "c", "Status": "warning", "Output": "hot"}],
        }));
        let expected = Instance::new("cart", "10.0.0.9", 80)
            .with_id("cart-1")
            .with_metadata("team", "shop")
            .with_weight(2.try_into().unwrap())
            .with_health(Health::Healthy);
        assert_eq!(instance, Some(expected));
    }

    #[test]
    fn health_is_that_of_the_worst_check() {
        let check = |id: &str, status: &str, output: &str| json!({"CheckID": id, "Status": status, "Output": output});
        let (ok, silent) = (check("a", "passing", ""), check("a", "critical", "TTL expired"));
        let new = check("a", "critical", "");
        let maintained = check("_service_maintenance:c1", "critical", "");
        assert_eq!(with_checks(json!(null)), Health::Healthy);
        assert_eq!(with_checks(json!([ok])), Health::Healthy);
        assert_eq!(with_checks(json!([ok, new])), Health::Unknown);
        assert_eq!(with_checks(json!([ok, maintained])), Health::Draining);
        assert_eq!(with_checks(json!([new, maintained])), Health::Draining);
        assert_eq!(with_checks(json!([silent, maintained])), Health::Unhealthy);
    }

    #[test]
    fn an_instance_of_a_newer_layout_or_with_a_broken_one_is_none() {
        for meta in [
            json!({"gusset": "2"}),
            json!({"gusset": "1", "gusset-incarnation": "x"}),
            json!({"gusset": "1", "gusset-weight": "-1"}),
            json!({"gusset": "1", "gusset-m-_F": ""}),
        ] {
            let service = json!({"ID": "c1", "Port": 80, "Meta": meta});
            assert_eq!(read(json!({"Node": {}, "Service": service})), None, "{service}");
        }
    }
}
