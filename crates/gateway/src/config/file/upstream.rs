use std::{net::SocketAddr, num::NonZeroUsize, path::PathBuf, time::Duration};

use serde_json::{Value as Json, json};

use super::{BreakerSection, Eject, Pick, RetrySection, shared::ZONE};
use crate::{
    HostHeader, Upstream,
    config::{Fields, Named, Place, Placed, Schema, Section, Setting, Span, Value},
};

/// Where requests go.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::config) struct UpstreamSection {
    pub(in crate::config) service: Option<Placed<String>>,
    pub(in crate::config) addresses: Vec<Address>,
    pub(in crate::config) part: PartFields,
    pub(in crate::config) zone: Option<String>,
    pub(in crate::config) pick: Option<Pick>,
    pub(in crate::config) eject: Option<Eject>,
    pub(in crate::config) breaker: Option<BreakerSection>,
    pub(in crate::config) retry: Option<RetrySection>,
    pub(in crate::config) wait: Option<Duration>,
    pub(in crate::config) http: Option<HttpVersion>,
    pub(in crate::config) host: Option<HostHeader>,
    pub(in crate::config) tls: Option<UpstreamTlsSection>,
    pub(in crate::config) connect_timeout: Option<Span>,
    pub(in crate::config) answer_idle: Option<Span>,
    pub(in crate::config) connections: Option<ConnectionsSection>,
}

impl Section for UpstreamSection {
    const NAME: &'static str = "upstream";
    const ABOUT: &'static str = "A service, or fixed addresses, and how they are called.";

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let service = fields.optional("service", "A service that the registry knows.");
        let addresses: Vec<_> = fields.list("addresses", "Addresses or names of hosts, with ports. Names are looked up again every 5s; while that fails, what they were goes on.");
        fields.one_of(&["service", "addresses"]);
        Some(Self {
            service,
            addresses,
            part: PartFields::read(fields),
            zone: fields.optional("zone", ZONE),
            eject: fields.optional(
                "eject",
                "Which instances are left out for a while because they fail more than the others; false: none. Default: those whose success rate is far below the mean.",
            ),
            pick: fields.optional("pick", "Which instance takes a request. Default that of defaults."),
            breaker: fields
                .optional("breaker", "When an instance is left alone. Default that of defaults."),
            retry: fields
                .optional("retry", "When requests are tried again. Default that of defaults."),
            wait: fields.optional(
                "wait",
                "How long a call waits for a first healthy instance; \"0s\" refuses at once. Default 1s.",
            ),
            http: fields.optional("http", "1.1 or 2. Default 1.1; gRPC goes by 2 all the same."),
            host: fields.optional(
                "host",
                "What instances see as Host: instance (their own address), client (what the client asked for), or a name. Default instance.",
            ),
            tls: fields.optional("tls", "TLS towards the instances. Default in the clear."),
            connect_timeout: fields
                .optional("connect_timeout", "How long connecting may take, with TLS. Default 2s."),
            answer_idle: fields.optional(
                "answer_idle",
                "How long nothing of an answer's body may come. Default 5m.",
            ),
            connections: fields.optional("connections", "How many there are, and how long."),
        })
    }
}

impl UpstreamSection {
    /// What routes lead to.
    pub(in crate::config) fn upstream(&self) -> Upstream {
        let Some(service) = &self.service else {
            let fixed: Option<Vec<_>> = self.addresses.iter().map(Address::fixed).collect();
            return match fixed {
                Some(addresses) => Upstream::fixed(addresses),
                None => {
                    Upstream::hosts(self.addresses.iter().map(|at| (at.host.as_str(), at.port)))
                }
            };
        };
        let PartFields { tags, without_tags, version, metadata } = &self.part;
        let mut upstream = Upstream::service(service.value.as_str());
        for tag in tags {
            upstream = upstream.with_tag(tag.as_str());
        }
        for tag in without_tags {
            upstream = upstream.without_tag(tag.as_str());
        }
        if let Some(version) = version {
            upstream = upstream.with_version(version.as_str());
        }
        for Named { name, value, .. } in metadata {
            upstream = upstream.with_metadata(name.as_str(), value.as_str());
        }
        upstream
    }
}

/// Where a program listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::config) struct Address {
    /// An address, one of IPv6 without brackets, or a name.
    host: String,
    port: u16,
}

impl Address {
    fn fixed(&self) -> Option<SocketAddr> {
        Some(SocketAddr::new(self.host.parse().ok()?, self.port))
    }
}

impl Setting for Address {
    fn read(value: &Value<'_>) -> Option<Self> {
        const WHAT: &str =
            "address; write \"10.0.0.1:80\", \"[2001:db8::1]:80\" or \"orders.internal:80\"";
        let text = value.text(WHAT)?;
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Some(Self { host: address.ip().to_string(), port: address.port() });
        }
        let named = text.rsplit_once(':').filter(|(name, _)| is_name(name));
        let port = |port: &str| port.parse().ok().filter(|port| *port > 0);
        let read = named.and_then(|(name, digits)| Some((name, port(digits)?)));
        match read {
            Some((name, port)) => Some(Self { host: name.to_owned(), port }),
            None => value.no(WHAT),
        }
    }

    fn describe(_: &mut Schema) -> Json {
        json!({ "type": "string", "examples": ["10.0.0.1:80", "orders.internal:80"] })
    }
}

/// Whether it can be the name of a host: an address that is written wrongly is none.
fn is_name(text: &str) -> bool {
    let last = text.trim_end_matches('.').rsplit('.').next().unwrap_or_default();
    let numeric = last.bytes().all(|byte| byte.is_ascii_digit());
    !text.contains(':') && crate::host::is_host(text) && !numeric
}

/// Which instances of a service.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::config) struct PartFields {
    tags: Vec<String>,
    without_tags: Vec<String>,
    version: Option<String>,
    metadata: Vec<Named<String>>,
}

impl PartFields {
    fn read(fields: &mut Fields<'_>) -> Self {
        let part = Self {
            tags: fields.list("tags", "Only instances with all of these tags."),
            without_tags: fields.list("without_tags", "Only instances with none of these tags."),
            version: fields.optional("version", "Only instances of this version."),
            metadata: fields.named("metadata", "Only instances whose metadata says all of this."),
        };
        for name in ["tags", "without_tags", "version", "metadata", "zone"] {
            if fields.has(name) && !fields.has("service") {
                fields.wrong(name, "addresses say nothing of themselves; it is for service");
            }
        }
        part
    }
}

/// Which HTTP instances speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::config) enum HttpVersion {
    One,
    Two,
}

const VERSIONS: [(&str, HttpVersion); 2] = [("1.1", HttpVersion::One), ("2", HttpVersion::Two)];

impl Setting for HttpVersion {
    fn read(value: &Value<'_>) -> Option<Self> {
        value.one_of(&VERSIONS)
    }

    fn describe(_: &mut Schema) -> Json {
        Schema::choice(&VERSIONS.map(|(name, _)| name))
    }
}

impl Setting for HostHeader {
    fn read(value: &Value<'_>) -> Option<Self> {
        const WHAT: &str = "host; write \"instance\", \"client\", or a name";
        Some(match value.text(WHAT)? {
            "instance" => Self::Instance,
            "client" => Self::Client,
            name if crate::host::is_host(name) => match name.parse() {
                Ok(name) => Self::Fixed(name),
                Err(_) => return value.no(WHAT),
            },
            _ => return value.no(WHAT),
        })
    }

    fn describe(_: &mut Schema) -> Json {
        json!({ "type": "string", "examples": ["instance", "client", "orders.internal"] })
    }
}

/// TLS towards instances.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::config) struct UpstreamTlsSection {
    pub(in crate::config) authorities: PathBuf,
    pub(in crate::config) own: Option<(PathBuf, PathBuf)>,
    pub(in crate::config) expected: Option<Expected>,
    pub(in crate::config) place: Place,
}

/// Who instances must be.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::config) enum Expected {
    Name(String),
    SpiffeId(String),
    TrustDomain(String),
}

impl Section for UpstreamTlsSection {
    const NAME: &'static str = "upstream_tls";
    const ABOUT: &'static str = "TLS towards instances. Files are read again when they change.";

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let authorities = fields.required(
            "authorities",
            "A file in PEM with those who may have signed their certificates.",
        );
        let certificate = fields
            .optional("certificate", "What the gateway shows of itself, in PEM, with its chain.");
        let key = fields.optional("key", "The key of it, in PEM.");
        let name: Option<String> = fields.optional(
            "name",
            "Instances have a certificate for this host. Default that of their address.",
        );
        let id: Option<String> =
            fields.optional("spiffe_id", "Instances have exactly this SPIFFE identifier.");
        let domain: Option<String> =
            fields.optional("trust_domain", "Instances have any SPIFFE identifier of this domain.");
        if fields.has("certificate") != fields.has("key") {
            fields.wrong("certificate", "certificate and key go together; one of them is missing");
        }
        let expected = ["name", "spiffe_id", "trust_domain"];
        let there: Vec<_> = expected.iter().filter(|name| fields.has(name)).collect();
        if let [first, second, ..] = there[..] {
            fields.wrong(second, &format!("{first} is there already; only one of them can be"));
        }
        let place = fields.place("authorities");
        Some(Self {
            authorities: authorities?,
            own: certificate.zip(key),
            expected: name
                .map(Expected::Name)
                .or(id.map(Expected::SpiffeId))
                .or(domain.map(Expected::TrustDomain)),
            place,
        })
    }
}

/// Connections to each instance.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::config) struct ConnectionsSection {
    pub(in crate::config) max: Option<NonZeroUsize>,
    pub(in crate::config) waiting: Option<usize>,
    pub(in crate::config) max_idle: Option<usize>,
    pub(in crate::config) idle: Option<Span>,
    pub(in crate::config) max_age: Option<Span>,
    pub(in crate::config) max_requests: Option<NonZeroUsize>,
    pub(in crate::config) fresh_for_unsafe: bool,
}

impl Section for ConnectionsSection {
    const NAME: &'static str = "connections";
    const ABOUT: &'static str = "Connections to each instance.";

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        Some(Self {
            max: fields.optional("max", "Open at once, from all threads. Default no limit."),
            waiting: fields.optional("waiting", "Calls that may wait for one. Default 1024."),
            max_idle: fields.optional("max_idle", "Idle ones kept by each thread. Default 512."),
            idle: fields.optional("idle", "How long an idle one is kept. Default 4s."),
            max_age: fields.optional("max_age", "How old one may become. Default 1h."),
            max_requests: fields
                .optional("max_requests", "Calls that one serves. Default no limit."),
            fresh_for_unsafe: fields.flag(
                "fresh_for_unsafe",
                "Calls that must not be sent twice get a new one each. Default no.",
            ),
        })
    }
}
