//! How an instance stands in Consul, in version 1.
//!
//! | of an instance | in Consul |
//! |---|---|
//! | service | the service's name; `namespace/name` is a name as any other, for namespaces cost money there |
//! | id | `ID` is `service:id`, both with all but letters, digits and `-._~:` written as `=XX`, for ids are unique on an agent and not in a service; as it is in `Meta` |
//! | host, port, tags | `Address`, `Port`, `Tags` |
//! | weight | `Weights`, of which 65535 is the most; more stands in `Meta` too |
//! | metadata | `Meta`; a key that Consul does not take stands behind `gusset-m-`, with `_XX` for what it does not take |
//! | version, zone, incarnation, checked | `Meta`, behind `gusset-` |
//! | health | a TTL check: passing is healthy, critical without a word unknown, critical else unhealthy; draining is maintenance |

use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::{Error, Health, Instance};

pub(crate) const PREFIX: &str = "gusset-";
pub(crate) const METADATA: &str = "gusset-m-";
/// Its value is the version of this layout.
pub(crate) const LAYOUT: &str = "gusset";
pub(crate) const VERSION: &str = "1";
/// What Consul takes of metadata: entries, and bytes of a key.
const ENTRIES: usize = 64;
const LONGEST_KEY: usize = 128;
/// Of an id; that of its check is some bytes longer, and 255 is what servers take.
const LONGEST_ID: usize = 240;
const LARGEST_WEIGHT: u32 = 65_535;

/// The id that an instance has on its agent.
pub(crate) fn id(service: &str, id: &str) -> Result<String, Error> {
    let whole = format!("{}:{}", escaped(service, '='), escaped(id, '='));
    match whole.len() {
        0..=LONGEST_ID => Ok(whole),
        _ => Err(Error::Invalid {
            field: "service and id",
            value: whole.chars().take(80).collect(),
            reason: "are longer than the 240 bytes that Consul has for both",
        }),
    }
}

/// The id of the check that heartbeats pass.
pub(crate) fn check(id: &str) -> String {
    format!("service:{id}")
}

/// The body of `/v1/agent/service/register`.
pub(crate) fn registration(
    instance: &Instance,
    ttl: Duration,
    evict_after: Duration,
) -> Result<Value, Error> {
    let id = id(&instance.service, &instance.id)?;
    let weight = instance.weight.get().min(LARGEST_WEIGHT);
    let passing = instance.health == Health::Healthy;
    Ok(json!({
        "Name": &*instance.service,
        "Address": instance.host,
        "Port": instance.port,
        "Tags": instance.tags,
        "Weights": {"Passing": weight, "Warning": weight},
        "Meta": meta(instance)?,
        "Check": {
            "CheckID": check(&id),
            "Name": "heartbeat",
            "TTL": format!("{}ms", ttl.as_millis()),
            "DeregisterCriticalServiceAfter": format!("{}ms", evict_after.as_millis()),
            "Status": if passing { "passing" } else { "critical" },
        },
        "ID": id,
    }))
}

fn meta(instance: &Instance) -> Result<Value, Error> {
    let mut meta = Map::new();
    let mut own = |name: &str, value: String| meta.insert(format!("{PREFIX}{name}"), value.into());
    own("id", instance.id.to_string());
    if let Some(version) = &instance.version {
        own("version", version.clone());
    }
    if let Some(zone) = &instance.zone {
        own("zone", zone.clone());
    }
    if instance.incarnation > 0 {
        own("incarnation", instance.incarnation.to_string());
    }
    if instance.weight.get() > LARGEST_WEIGHT {
        own("weight", instance.weight.to_string());
    }
    if instance.checked {
        own("checked", "true".into());
    }
    meta.insert(LAYOUT.into(), VERSION.into());
    for (key, value) in &instance.metadata {
        let name = meta_key(key);
        if name.len() > LONGEST_KEY {
            return Err(wrong(key, "is a key of more than the 128 bytes that Consul has for it"));
        }
        meta.insert(name, value.clone().into());
    }
    if meta.len() > ENTRIES {
        return Err(wrong(&instance.id, "has more entries than the 64 of Consul with ours"));
    }
    Ok(meta.into())
}

fn wrong(value: &str, reason: &'static str) -> Error {
    Error::Invalid { field: "metadata", value: value.chars().take(80).collect(), reason }
}

/// The name that a key of metadata has in Consul.
fn meta_key(key: &str) -> String {
    let taken = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    let reserved = key == LAYOUT || key.starts_with(PREFIX) || key.starts_with("consul-");
    if !reserved && key.bytes().all(taken) {
        return key.into();
    }
    format!("{METADATA}{}", escaped(key, '_'))
}

/// With `mark` and two digits for everything but letters, digits and what stands in names of hosts, where `mark` is none of those.
fn escaped(text: &str, mark: char) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        let plain = match mark {
            '_' => byte == b'-',
            _ => b"-._~:".contains(&byte),
        };
        if plain || byte.is_ascii_alphanumeric() {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("{mark}{byte:02X}"));
        }
    }
    out
}

/// What [`meta_key`] was made from, behind [`METADATA`].
pub(crate) fn unescaped(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        if *first != b'_' {
            bytes.push(*first);
            continue;
        }
        let code = std::str::from_utf8(rest.get(..2)?).ok()?;
        bytes.push(u8::from_str_radix(code, 16).ok()?);
        rest = &rest[2..];
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ids_of_two_services_are_apart_and_have_nothing_that_a_path_has() {
        assert_eq!(id("cart", "10.0.0.7:80").unwrap(), "cart:10.0.0.7:80");
        assert_eq!(id("a/b", "c d\u{e4}=%").unwrap(), "a=2Fb:c=20d=C3=A4=3D=25");
        assert!(id("s", &"\u{e4}".repeat(100)).is_err());
    }

    #[test]
    fn what_consul_has_no_room_for_is_refused() {
        let entries = |n| (0..n).map(|n: u32| (n.to_string(), String::new())).collect();
        let mut instance = Instance::new("s", "h", 1);
        instance.metadata = entries(62);
        assert!(meta(&instance).is_ok());
        instance.metadata = entries(63);
        assert!(matches!(meta(&instance), Err(Error::Invalid { field: "metadata", .. })));
        let instance = Instance::new("s", "h", 1).with_metadata("\u{e4}".repeat(40), "");
        assert!(meta(&instance).is_err());
    }

    proptest! {
        #[test]
        fn every_key_of_metadata_comes_back(key in ".{1,20}") {
            let name = meta_key(&key);
            prop_assert!(name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b)));
            match name.strip_prefix(METADATA) {
                Some(rest) => prop_assert_eq!(unescaped(rest), Some(key)),
                None => prop_assert_eq!(name, key),
            }
        }

        #[test]
        fn no_two_instances_have_one_id(
            one in ("[a:/=%]{1,4}", "[a:/=%]{1,4}"),
            other in ("[a:/=%]{1,4}", "[a:/=%]{1,4}"),
        ) {
            // A name of a service has no colon in it that could be taken for the one between.
            prop_assume!(one != other && !one.0.contains(':') && !other.0.contains(':'));
            prop_assert_ne!(id(&one.0, &one.1).unwrap(), id(&other.0, &other.1).unwrap());
        }
    }
}
