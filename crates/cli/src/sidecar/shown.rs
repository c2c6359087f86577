//! What of the settings is shown, and what is not.

use std::{net::SocketAddr, time::Duration};

use gusset_registry::Instance;
use serde_json::{Value, json};

use super::options::{AppHttp, LogTo, Sidecar};

/// What `/config` shows.
pub(super) fn shown(options: &Sidecar, instance: &Instance, doors: [SocketAddr; 3]) -> Value {
    let masked = |secret: &Option<String>| secret.as_ref().map(|_| "***");
    let seconds = |span: Duration| span.as_secs_f64();
    let words: Vec<_> = options.command.iter().map(|word| word.to_string_lossy()).collect();
    let [inbound, outbound, admin] = doors.map(|door| door.to_string());
    json!({
        "service": options.service,
        "app": options.app.to_string(),
        "registry": { "url": without_password(&options.registry), "token": masked(&options.token), "ca": options.authority },
        "listen": inbound, "outbound": outbound, "admin": admin,
        "admin_token": masked(&options.admin_token),
        "instance": {
            "id": &*instance.id, "host": instance.host, "port": instance.port, "zone": instance.zone,
            "version": instance.version, "tags": instance.tags, "meta": instance.metadata,
        },
        "health": options.health.text(),
        "app_http": if options.app_http == AppHttp::Two { "2" } else { "1.1" },
        "mtls": options.mesh.as_ref().map(|mesh| json!({
            "trust_domain": mesh.trust_domain, "authorities": mesh.authorities, "certificate": mesh.certificate, "key": mesh.key, "allow": mesh.allow,
        })),
        "timeout_seconds": options.timeout.shown(),
        "in_flight": options.in_flight,
        "quota": options.quota.as_ref().map(|of| json!({
            "rate": of.quota.tokens(), "per_seconds": seconds(of.quota.period()), "burst": of.quota.capacity(), "by": of.by.text(),
        })),
        "access_log": options.access_log.as_ref().map(|log| match log {
            LogTo::Output => "-".to_owned(),
            LogTo::File(file) => file.display().to_string(),
        }),
        "log": options.log,
        // Their values may be secrets.
        "otlp": options.otlp.as_ref().map(|otlp| json!({
            "url": without_password(&otlp.url), "authorities": otlp.authority, "headers": otlp.headers.iter().map(|(name, _)| name).collect::<Vec<_>>(),
        })),
        "cores": options.cores,
        "ttl_seconds": seconds(options.ttl),
        "circuit_open_seconds": options.open_for.map(seconds),
        "grace_seconds": seconds(options.grace),
        "drain_limit_seconds": seconds(options.drain_limit),
        // Arguments may be secrets.
        "command": words.first(), "command_arguments": words.len().saturating_sub(1),
    })
}

pub(super) fn without_password(url: &str) -> String {
    match url.split_once("://").and_then(|(scheme, rest)| Some((scheme, rest.rsplit_once('@')?))) {
        Some((scheme, (_, place))) => format!("{scheme}://***@{place}"),
        None => url.to_owned(),
    }
}
