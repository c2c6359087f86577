//! What sections stand for.

use std::{fs, path::Path, sync::Arc, time::Duration};

use gusset_breaker::{Policy, Ratio, Window};
use gusset_registry::{Fleet, Registry, RemotePolicy, RemoteRegistry, RemoteTls};
use gusset_sidecar::{Backoff, RetryPolicy};

use super::{
    ConfigError,
    file::{
        ApiKeysSection, BreakerSection, ConnectionsSection, CorsSection, EtcdFields, Expected,
        HttpVersion, JwtKeys, JwtSection, RegistryAt, RegistrySection, RetrySection,
        UpstreamSection,
    },
};
use crate::{ApiKeys, Connections, Cors, Jwt, JwtKey, Transport, UpstreamTls};

/// Where Debian, Ubuntu and Alpine have the authorities that the system trusts.
const SYSTEM: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Where services are found. It does not connect yet.
pub(super) fn registry(section: &RegistrySection) -> Result<Arc<dyn Registry>, String> {
    let authorities = section.authorities.as_ref().map(|file| read(file)).transpose()?;
    let (url, token) = match &section.at {
        RegistryAt::Url { url, token } => (url, token),
        RegistryAt::Etcd(fields) => return etcd(fields, authorities),
    };
    let mut policy = RemotePolicy::default();
    if let Some(token) = token {
        policy = policy.token(token.expose());
    }
    if let (Some(pem), Some(file)) = (&authorities, &section.authorities) {
        let tls = RemoteTls::new(pem).map_err(|error| format!("{}: {error}", file.display()))?;
        policy = policy.tls(tls);
    }
    let registry = RemoteRegistry::new(url, policy);
    registry.map(|registry| Arc::new(registry) as _).map_err(|error| error.to_string())
}

#[cfg(feature = "etcd")]
fn etcd(fields: &EtcdFields, authorities: Option<Vec<u8>>) -> Result<Arc<dyn Registry>, String> {
    use gusset_registry::{EtcdPolicy, EtcdRegistry, EtcdTls};
    let EtcdFields { endpoints, prefix, user, password, own } = fields;
    let mut policy = EtcdPolicy::default();
    if let Some(prefix) = prefix {
        policy = policy.prefix(prefix);
    }
    if let (Some(user), Some(password)) = (user, password) {
        policy = policy.credentials(user, password.expose());
    }
    if let Some(authorities) = authorities {
        let mut tls = EtcdTls::new(authorities);
        if let Some((certificate, key)) = own {
            tls = tls.identity(read(certificate)?, read(key)?);
        }
        policy = policy.tls(tls);
    }
    let registry = EtcdRegistry::spawn(endpoints, policy);
    registry.map(|registry| Arc::new(registry) as _).map_err(|error| error.to_string())
}

#[cfg(not(feature = "etcd"))]
fn etcd(fields: &EtcdFields, _: Option<Vec<u8>>) -> Result<Arc<dyn Registry>, String> {
    let EtcdFields { endpoints: _, prefix: _, user: _, password: _, own: _ } = fields;
    Err("this program was built without etcd; build it with the feature etcd".into())
}

fn read(file: &Path) -> Result<Vec<u8>, String> {
    fs::read(file).map_err(|error| format!("{}: {error}", file.display()))
}

pub(super) fn jwt(section: &JwtSection) -> Result<Jwt, ConfigError> {
    let mut jwt = match &section.keys {
        JwtKeys::File(file) => Jwt::jwks_file(&file.value).map_err(|error| {
            file.place.error(format!("{}: {}", file.value.display(), told(&error)))
        })?,
        JwtKeys::Url { url, authorities: None } if url.value.starts_with("http://") => {
            Jwt::jwks_url(&url.value).map_err(|error| url.place.error(told(&error)))?
        }
        JwtKeys::Url { url, authorities } => {
            let file = authorities.as_deref().unwrap_or(SYSTEM.as_ref());
            let wrong = |error: String| url.place.error(format!("{}: {error}", file.display()));
            let pem = fs::read(file).map_err(|error| wrong(error.to_string()))?;
            Jwt::jwks_url_tls(&url.value, pem).map_err(|error| url.place.error(told(&error)))?
        }
        JwtKeys::Secret(secret) => {
            let key = JwtKey::secret(secret.value.expose());
            Jwt::new([key.map_err(|error| secret.place.error(told(&error)))?])
        }
        JwtKeys::PublicKey(file) => {
            let wrong =
                |error: String| file.place.error(format!("{}: {error}", file.value.display()));
            let pem = fs::read(&file.value).map_err(|error| wrong(error.to_string()))?;
            Jwt::new([JwtKey::pem(pem).map_err(|error| wrong(told(&error)))?])
        }
    };
    for issuer in &section.issuers {
        jwt = jwt.issuer(issuer.as_str());
    }
    for audience in &section.audiences {
        jwt = jwt.audience(audience.as_str());
    }
    if section.any_audience {
        jwt = jwt.any_audience();
    }
    if let Some(span) = section.leeway {
        jwt = jwt.leeway(span);
    }
    for claim in &section.require {
        jwt = jwt.require(claim.as_str());
    }
    for claim in &section.pass_claims {
        jwt = jwt.pass_claim(claim.as_str());
    }
    if let Some(name) = &section.token_type {
        jwt = jwt.token_type(name.as_str());
    }
    if let Some(claim) = &section.subject_claim {
        jwt = jwt.subject_claim(claim.as_str());
    }
    if let Some(claim) = &section.roles_claim {
        jwt = jwt.roles_claim(claim.as_str());
    }
    Ok(jwt)
}

pub(super) fn api_keys(section: &ApiKeysSection) -> Result<ApiKeys, ConfigError> {
    let file = &section.file;
    let mut keys = ApiKeys::file(&file.value)
        .map_err(|error| file.place.error(format!("{}: {}", file.value.display(), told(&error))))?;
    if let Some(name) = &section.header {
        keys = keys.in_header(name.clone());
    }
    if let Some(parameter) = &section.query {
        keys = keys.in_query(parameter.as_str());
    }
    Ok(keys)
}

pub(super) fn transport(section: &UpstreamSection) -> Result<Transport, ConfigError> {
    let mut transport = match section.http {
        Some(HttpVersion::Two) => Transport::http2(),
        _ => Transport::http1(),
    };
    if let Some(host) = &section.host {
        transport = transport.host(host.clone());
    }
    if let Some(span) = section.connect_timeout {
        transport = transport.connect_timeout(span.0);
    }
    if let Some(span) = section.answer_idle {
        transport = transport.answer_idle(span.0);
    }
    if let Some(section) = &section.connections {
        transport = transport.connections(connections(section));
    }
    let Some(section) = &section.tls else { return Ok(transport) };
    let mut files = UpstreamTls::trusting(&section.authorities);
    if let Some((certificate, key)) = &section.own {
        files = files.certificate(certificate, key);
    }
    files = match &section.expected {
        Some(Expected::Name(host)) => files.name(host),
        Some(Expected::SpiffeId(id)) => files.spiffe_id(id),
        Some(Expected::TrustDomain(domain)) => files.trust_domain(domain),
        None => files,
    };
    let tls = files.read().map_err(|error| section.place.error(error.to_string()))?;
    Ok(transport.tls(tls))
}

/// The instances of a zone before the others, newcomers slowly as where no zone is said.
pub(super) fn fleet(zone: &str) -> Fleet {
    Fleet::new().slow_start(Fleet::SLOW_START).zone(zone)
}

fn connections(section: &ConnectionsSection) -> Connections {
    let mut connections = Connections::new();
    if let Some(most) = section.max {
        connections = connections.max(most.get());
    }
    if let Some(calls) = section.waiting {
        connections = connections.waiting(calls);
    }
    if let Some(most) = section.max_idle {
        connections = connections.max_idle(most);
    }
    if let Some(span) = section.idle {
        connections = connections.idle(span.0);
    }
    if let Some(span) = section.max_age {
        connections = connections.max_age(span.0);
    }
    if let Some(calls) = section.max_requests {
        connections = connections.max_requests(calls.get() as u64);
    }
    connections.fresh_for_unsafe(section.fresh_for_unsafe)
}

pub(super) fn cors(section: &CorsSection) -> Cors {
    let any = section.origins.iter().any(|origin| origin == "*");
    let mut cors = if any { Cors::any() } else { Cors::origins(&section.origins) };
    if let Some(names) = &section.headers {
        cors = cors.headers(names.iter().cloned());
    }
    cors = cors.expose(section.expose.iter().cloned());
    if section.credentials {
        cors = cors.credentials();
    }
    if section.private_network {
        cors = cors.private_network();
    }
    match section.max_age {
        Some(span) => cors.max_age(span),
        None => cors,
    }
}

pub(super) fn retry_policy(section: &RetrySection) -> RetryPolicy {
    let first = section.backoff.map_or(Duration::from_millis(25), |span| span.0);
    let longest = section.longest_backoff.map_or(Duration::from_secs(1), |span| span.0);
    let mut policy = RetryPolicy::default()
        .retries(section.retries.unwrap_or(2))
        .backoff(Backoff::exponential(first, longest.max(first)));
    if let Some(span) = section.attempt_timeout {
        policy = policy.attempt_timeout(span.0);
    }
    match section.body_limit {
        Some(size) => policy.body_limit(size.in_memory()),
        None => policy,
    }
}

pub(super) fn breaker(section: &BreakerSection) -> Policy {
    let mut policy = match section.failure_percent {
        Some(percent) => {
            let span = section.window.map_or(Duration::from_secs(10), |span| span.0);
            let window = Window::time(span).min_calls(section.min_calls.map_or(20, |n| n.get()));
            let policy = Policy::failure_ratio(Ratio::percent(percent.into())).window(window);
            section
                .failures_in_a_row
                .map_or(policy, |failures| policy.or_consecutive(failures.get()))
                .consecutive_for(Duration::from_millis(20))
        }
        None => {
            let failures = section.failures_in_a_row;
            failures.map_or(Policy::instance(), |n| Policy::instance().or_consecutive(n.get()))
        }
    };
    if let Some(open) = section.open {
        let longest = if section.failure_percent.is_some() { 60 } else { 30 };
        let longest = open.0.max(Duration::from_secs(longest));
        policy = policy.open_for(open.0).open_growth(2, longest);
    }
    // As in a gateway that is built by hand: a client that leaves late says nothing of the instance.
    policy.slow_after(Duration::MAX)
}

/// An error, with what caused it.
fn told(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}
