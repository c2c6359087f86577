//! What clients register, from JSON.

use std::{sync::Arc, time::Duration};

use serde_json::{Map, Value};

use super::{
    active,
    fields::{Fields, Wrong},
    record::{CheckDef, NodeDef, ServiceDef, Status},
};

/// As in Consul: less would race with the one who is to come back.
const SHORTEST_DEREGISTER_AFTER: Duration = Duration::from_secs(60);
const SHORTEST_TTL: Duration = Duration::from_millis(10);
const LONGEST_OUTPUT: usize = 4_096;
/// What a check may be in Consul that is not done here.
const NOT_SERVED: [&str; 8] = [
    "UDP",
    "H2PING",
    "Args",
    "ScriptArgs",
    "Script",
    "DockerContainerID",
    "AliasService",
    "OSService",
];

/// The body of `/v1/agent/service/register`.
pub(super) fn agent_service(fields: &Fields<'_>) -> Result<(ServiceDef, Vec<CheckDef>), Wrong> {
    if fields.get("Name").is_none() {
        return Err(fields.wrong("Name", "missing"));
    }
    let service = service(fields, "Name")?;
    let mut checks = Vec::new();
    // Some clients send an empty one for none.
    checks.extend(fields.object("Check")?.filter(|check| !check.is_empty()));
    checks.extend(fields.objects("Checks")?);
    let alone = checks.len() == 1;
    let define = |(place, fields): (usize, &Fields<'_>)| {
        let default = match alone {
            true => format!("service:{}", service.id),
            false => format!("service:{}:{}", service.id, place + 1),
        };
        let mut check = check(fields, default)?;
        check.service = Some(service.id.clone());
        if check.name.is_empty() {
            check.name = format!("Service '{}' check", service.name);
        }
        Ok(check)
    };
    let checks = checks.iter().enumerate().map(define).collect::<Result<_, _>>()?;
    Ok((service, checks))
}

/// A service, whose name stands in `Name` for an agent and in `Service` for the catalog.
pub(super) fn service(fields: &Fields<'_>, name_field: &str) -> Result<ServiceDef, Wrong> {
    let name = fields.name(name_field)?;
    if name.is_empty() {
        return Err(fields.wrong(name_field, "empty"));
    }
    let id = fields.name("ID")?;
    let weights = match fields.object("Weights")? {
        Some(weights) => (
            weights.number("Passing", 65_535)?.unwrap_or(1),
            weights.number("Warning", 65_535)?.unwrap_or(1),
        ),
        None => (1, 1),
    };
    for unsupported in ["Connect", "Proxy"] {
        if fields.get(unsupported).is_some() {
            return Err(fields.wrong(unsupported, "a service mesh is not part of this server"));
        }
    }
    Ok(ServiceDef {
        id: if id.is_empty() { name.as_str().into() } else { id.into() },
        name: name.into(),
        tags: fields.texts("Tags")?,
        address: fields.name("Address")?,
        port: u16::try_from(fields.number("Port", 65_535)?.unwrap_or(0)).unwrap_or(0),
        meta: fields.meta("Meta")?,
        tagged_addresses: tagged_addresses(fields)?,
        weights,
        enable_tag_override: fields.flag("EnableTagOverride")?,
    })
}

fn tagged_addresses(fields: &Fields<'_>) -> Result<Value, Wrong> {
    let mut addresses = Map::new();
    let Some(sent) = fields.object("TaggedAddresses")? else { return Ok(addresses.into()) };
    for tag in ["lan", "lan_ipv4", "lan_ipv6", "wan", "wan_ipv4", "wan_ipv6"] {
        let Some(sent) = sent.object(tag)? else { continue };
        let (address, port) = (sent.name("Address")?, sent.number("Port", 65_535)?.unwrap_or(0));
        addresses.insert(tag.into(), serde_json::json!({"Address": address, "Port": port}));
    }
    Ok(addresses.into())
}

/// The body of `/v1/agent/check/register`.
pub(super) fn agent_check(fields: &Fields<'_>) -> Result<CheckDef, Wrong> {
    let name = fields.name("Name")?;
    if name.is_empty() {
        return Err(fields.wrong("Name", "missing"));
    }
    let service = fields.name("ServiceID")?;
    let mut check = check(fields, name)?;
    check.service = (!service.is_empty()).then(|| service.into());
    Ok(check)
}

/// `default` is its id if none is given.
fn check(fields: &Fields<'_>, default: String) -> Result<CheckDef, Wrong> {
    if let Some(kind) = NOT_SERVED.iter().find(|kind| fields.get(kind).is_some()) {
        return Err(fields.wrong(kind, "only TTL, HTTP, TCP and gRPC checks are served here"));
    }
    let ttl = fields.span("TTL")?;
    let active = active::parse(fields)?;
    match ttl {
        None if active.is_none() => {
            return Err(fields.wrong("TTL", "missing, and so are HTTP, TCP and GRPC"));
        }
        Some(_) if active.is_some() => {
            return Err(fields.wrong("TTL", "a check is of one kind only"));
        }
        Some(ttl) if ttl < SHORTEST_TTL => return Err(fields.wrong("TTL", "shorter than 10ms")),
        _ => {}
    }
    let deregister_after = fields.span("DeregisterCriticalServiceAfter")?;
    let mut id = fields.name("CheckID")?;
    if id.is_empty() {
        id = fields.name("ID")?;
    }
    Ok(CheckDef {
        id: if id.is_empty() { default.into() } else { id.into() },
        name: fields.name("Name")?,
        notes: fields.text("Notes", LONGEST_OUTPUT)?,
        ttl,
        status: status(fields)?,
        output: output(fields.text("Output", usize::MAX)?),
        service: None,
        deregister_after: deregister_after.map(|after| after.max(SHORTEST_DEREGISTER_AFTER)),
        active,
    })
}

pub(super) fn status(fields: &Fields<'_>) -> Result<Status, Wrong> {
    let text = fields.text("Status", 64)?;
    if text.is_empty() {
        return Ok(Status::Critical);
    }
    Status::named(&text)
        .ok_or_else(|| fields.wrong("Status", "is none of passing, warning, critical"))
}

/// Cut off where Consul cuts it, between two characters.
pub(super) fn output(mut output: String) -> String {
    let mut end = LONGEST_OUTPUT.min(output.len());
    while !output.is_char_boundary(end) {
        end -= 1;
    }
    output.truncate(end);
    output
}

/// The body of `/v1/catalog/register`.
pub(super) struct CatalogEntry {
    pub(super) node: NodeDef,
    /// Whether what is known of the node stays.
    pub(super) skip_node: bool,
    pub(super) service: Option<ServiceDef>,
    pub(super) checks: Vec<CheckDef>,
}

pub(super) fn catalog_entry(fields: &Fields<'_>) -> Result<CatalogEntry, Wrong> {
    let (name, address) = (fields.name("Node")?, fields.name("Address")?);
    let skip_node = fields.flag("SkipNodeUpdate")?;
    if name.is_empty() || (address.is_empty() && !skip_node) {
        return Err(Wrong("Must provide Node and Address".into()));
    }
    let service = fields.object("Service")?.map(|fields| service(&fields, "Service"));
    let mut checks = fields.objects("Checks")?;
    checks.extend(fields.object("Check")?);
    Ok(CatalogEntry {
        node: NodeDef {
            name: name.into(),
            id: fields.name("ID")?,
            address,
            meta: fields.meta("NodeMeta")?,
        },
        skip_node,
        service: service.transpose()?,
        checks: checks.iter().map(catalog_check).collect::<Result<_, _>>()?,
    })
}

/// The state of a check that somebody else makes.
fn catalog_check(fields: &Fields<'_>) -> Result<CheckDef, Wrong> {
    let (mut id, name) = (fields.name("CheckID")?, fields.name("Name")?);
    if id.is_empty() {
        id.clone_from(&name);
    }
    if id.is_empty() {
        return Err(fields.wrong("CheckID", "missing"));
    }
    let service = fields.name("ServiceID")?;
    Ok(CheckDef {
        id: id.into(),
        name,
        notes: fields.text("Notes", LONGEST_OUTPUT)?,
        ttl: None,
        status: status(fields)?,
        output: output(fields.text("Output", usize::MAX)?),
        service: (!service.is_empty()).then(|| Arc::from(service)),
        deregister_after: None,
        active: None,
    })
}
