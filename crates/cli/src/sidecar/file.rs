//! The TOML file of a sidecar.

use std::{
    ffi::OsString, net::SocketAddr, num::NonZeroU32, num::NonZeroUsize, path::PathBuf,
    time::Duration,
};

use gusset_gateway::config::{
    Document, Fields, Named, Rate, Schema, Secret, Section, Setting, Value,
};
use serde_json::{Value as Json, json};

use super::{
    mesh::Mesh,
    options::{AppHttp, Health, Labels, Limit, LogTo, OtlpTo, QuotaBy, advertised},
};

/// As it was read; what is not there is left to the command line and to the defaults.
pub(super) struct File {
    pub(super) service: Option<String>,
    pub(super) app: Option<SocketAddr>,
    pub(super) app_http: Option<AppHttp>,
    pub(super) health: Option<Health>,
    pub(super) command: Vec<OsString>,
    pub(super) proxy: bool,
    pub(super) listen: Option<SocketAddr>,
    pub(super) outbound: Option<SocketAddr>,
    pub(super) timeout: Option<Limit>,
    pub(super) in_flight: Option<NonZeroU32>,
    pub(super) quota: Option<QuotaPart>,
    pub(super) access_log: Option<LogTo>,
    pub(super) cores: Option<NonZeroUsize>,
    pub(super) ttl: Option<Duration>,
    pub(super) open_for: Option<Duration>,
    pub(super) grace: Option<Duration>,
    pub(super) drain_limit: Option<Duration>,
    pub(super) log: Option<String>,
    pub(super) otlp: Option<OtlpTo>,
    pub(super) registry: Option<RegistryPart>,
    pub(super) admin: Option<AdminPart>,
    pub(super) instance: Option<InstancePart>,
    pub(super) mesh: Option<Mesh>,
}

impl File {
    /// With the other files whose changes are changes of this one.
    pub(super) fn open(path: &std::path::Path) -> Result<(Self, Vec<PathBuf>), String> {
        let read =
            Document::open(path).and_then(|document| Ok((document.read()?, document.files())));
        read.map_err(|errors| errors.to_string())
    }
}

impl Section for File {
    const NAME: &'static str = "sidecar";
    const ABOUT: &'static str = "A sidecar of gusset.";

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let command: Vec<String> = fields.list("command", "What is started, and its arguments.");
        Some(Self {
            service: fields.optional("service", "Under which others find the app."),
            app: fields.optional("app", "Where the app listens."),
            app_http: fields.optional("app_http", "\"1.1\", or \"2\" for an app that speaks HTTP/2 alone. gRPC goes by HTTP/2 in any case. Default \"1.1\"."),
            health: fields.optional("health", "How the app is asked whether it works: \"tcp\", \"/PATH\", \"grpc\", \"grpc:SERVICE\". Default \"tcp\"."),
            command: command.into_iter().map(Into::into).collect(),
            proxy: fields.flag("proxy_env", "Tells the command by http_proxy and its like that it has an HTTP proxy."),
            listen: fields.optional("listen", "Where others call the app. Default \"0.0.0.0:4143\"."),
            outbound: fields.optional("outbound", "Where the app calls others. Default \"127.0.0.1:4140\"."),
            timeout: fields.optional("timeout", "For a request without a deadline of its own, either way; \"none\" for streams that begin late. Default \"30s\"."),
            in_flight: fields.optional("in_flight", "Requests that the app has at once. Default no limit."),
            quota: fields.optional("quota", "Requests that the app gets in a time; more are answered with 429. Default no limit."),
            access_log: fields.optional("access_log", "A line of JSON for each request to the app, without queries. Default none."),
            cores: fields.optional("cores", "Threads for requests. Default 1."),
            ttl: fields.optional("ttl", "After which the registry takes the app for gone if it hears nothing. Default \"30s\"."),
            open_for: fields.optional("circuit_open", "How long an instance that fails five times in a row is left alone each time, before a call tries it again. Default: 1 s, each time in a row twice as long, up to 30 s."),
            grace: fields.optional("grace", "Between leaving the registry and closing the door. Default \"1s\"."),
            drain_limit: fields.optional("drain_limit", "For the whole end. Default \"30s\"."),
            log: fields.optional("log", "What is logged, as \"info,hyper=warn\"."),
            otlp: fields.optional("otlp", "A collector of OpenTelemetry, which gets spans, metrics and logs. Default none."),
            registry: fields.optional("registry", "Where services are found."),
            admin: fields.optional("admin", "For operators."),
            instance: fields.optional("instance", "What is registered as well."),
            mesh: fields.optional("mtls", "Sidecars know one another by certificates."),
        })
    }
}

pub(super) struct RegistryPart {
    pub(super) url: Option<String>,
    pub(super) token: Option<Secret>,
    pub(super) authority: Option<PathBuf>,
}

impl Section for RegistryPart {
    const NAME: &'static str = "sidecar-registry";
    const ABOUT: &'static str = "A gusset registry, Consul, or etcd.";

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        Some(Self {
            url: fields.optional("url", "http:// or https://, or etcd://HOST:PORT,HOST:PORT"),
            token: fields.optional("token", "What is shown to it; for etcd USER:PASSWORD."),
            authority: fields
                .optional("authorities", "PEM: who may sign its certificate; needed for https://"),
        })
    }
}

pub(super) struct QuotaPart {
    pub(super) rate: Rate,
    pub(super) burst: Option<NonZeroU32>,
    pub(super) by: Option<QuotaBy>,
}

impl Section for QuotaPart {
    const NAME: &'static str = "sidecar-quota";
    const ABOUT: &'static str = "Requests that the app gets in a time.";

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let rate = fields.required("rate", "So many in each period: 100/s, 100/m, 1/10s.");
        let burst = fields.optional(
            "burst",
            "How many may come at once after a pause. Default those of a period.",
        );
        let by = fields.optional("by", "Who shares it: all, or those of the same caller (its certificate, with mtls), address, or header: and the name of a field. Default all.");
        Some(Self { rate: rate?, burst, by })
    }
}

impl Section for LogTo {
    const NAME: &'static str = "sidecar-access-log";
    const ABOUT: &'static str = "A line of JSON for each request to the app, without queries.";

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let file = fields.optional("file", "It is added to. Default the standard output.");
        Some(file.map_or(Self::Output, Self::File))
    }
}

impl Section for OtlpTo {
    const NAME: &'static str = "sidecar-otlp";
    const ABOUT: &'static str = "A collector of OpenTelemetry, over HTTP with protobuf.";

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let url = fields.required("url", "http:// or https://, without the path /v1/traces.");
        let authority = fields.optional(
            "authorities",
            "PEM: who may sign its certificate. Default those that the system knows.",
        );
        let headers: Vec<Named<Secret>> = fields.named("headers", "Shown to it with each request.");
        let header = |entry: Named<Secret>| (entry.name, entry.value.expose().to_owned());
        let headers = headers.into_iter().map(header).collect();
        Some(Self { url: url?, authority, headers })
    }
}

pub(super) struct AdminPart {
    pub(super) listen: Option<SocketAddr>,
    pub(super) token: Option<Secret>,
}

impl Section for AdminPart {
    const NAME: &'static str = "sidecar-admin";
    const ABOUT: &'static str = "What operators ask.";

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        Some(Self {
            listen: fields.optional("listen", "Default \"127.0.0.1:4191\"."),
            token: fields.optional("token", "What they have to show; needed beyond loopback."),
        })
    }
}

pub(super) struct InstancePart {
    pub(super) advertise: Option<(String, Option<u16>)>,
    pub(super) labels: Labels,
}

struct Advertised((String, Option<u16>));

impl Section for InstancePart {
    const NAME: &'static str = "sidecar-instance";
    const ABOUT: &'static str = "What the registry is told.";

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let advertise: Option<Advertised> =
            fields.optional("advertise", "Where others find `listen`, HOST or HOST:PORT.");
        let meta: Vec<Named<String>> = fields.named("meta", "Anything else.");
        let labels = Labels {
            id: fields.optional("id", "Default the address."),
            zone: fields.optional("zone", "Calls go to instances of this one first."),
            version: fields.optional("version", "Of the app."),
            tags: fields.list("tags", "Tags."),
            meta: meta.into_iter().map(|entry| (entry.name, entry.value)).collect(),
        };
        Some(Self { advertise: advertise.map(|place| place.0), labels })
    }
}

impl Section for Mesh {
    const NAME: &'static str = "sidecar-mtls";
    const ABOUT: &'static str =
        "Certificates with SPIFFE identifiers, read again when they change.";

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let trust_domain = fields.required(
            "trust_domain",
            "As \"shop.example\"; the identifier of a service is spiffe://shop.example/SERVICE.",
        );
        let authorities =
            fields.required("authorities", "PEM: who may sign certificates of services.");
        let certificate = fields.required("certificate", "PEM: the chain of this service.");
        let key = fields.required("key", "PEM: its private key.");
        let allow = fields
            .list("allow", "Services that may call this one. Default all of the trust domain.");
        Some(Self {
            trust_domain: trust_domain?,
            authorities: authorities?,
            certificate: certificate?,
            key: key?,
            allow,
        })
    }
}

/// A text that `parse` understands, or a sentence on what would be right.
fn parsed<T>(value: &Value<'_>, right: &str, parse: impl FnOnce(&str) -> Option<T>) -> Option<T> {
    let parsed = parse(value.text(right)?);
    if parsed.is_none() {
        value.wrong(&format!("is no {right}"));
    }
    parsed
}

fn text(example: &str) -> Json {
    json!({ "type": "string", "examples": [example] })
}

impl Setting for Health {
    fn read(value: &Value<'_>) -> Option<Self> {
        let right = "way to ask; write \"tcp\", \"/healthz\", \"grpc\" or \"grpc:SERVICE\"";
        parsed(value, right, |text| Self::parse(text).ok())
    }

    fn describe(_: &mut Schema) -> Json {
        text("/healthz")
    }
}

impl Setting for QuotaBy {
    fn read(value: &Value<'_>) -> Option<Self> {
        let right = "way to share; write \"all\", \"caller\", \"address\" or \"header:x-tenant\"";
        parsed(value, right, Self::parse)
    }

    fn describe(_: &mut Schema) -> Json {
        text("caller")
    }
}

impl Setting for AppHttp {
    fn read(value: &Value<'_>) -> Option<Self> {
        value.one_of(&[("1.1", Self::One), ("2", Self::Two)])
    }

    fn describe(_: &mut Schema) -> Json {
        json!({ "enum": ["1.1", "2"] })
    }
}

impl Setting for Limit {
    fn read(value: &Value<'_>) -> Option<Self> {
        match value.is_text().then(|| value.text("")).flatten() {
            Some("none") => Some(Self::NONE),
            _ => Duration::read(value).map(Self),
        }
    }

    fn describe(_: &mut Schema) -> Json {
        text("30s")
    }
}

impl Setting for Advertised {
    fn read(value: &Value<'_>) -> Option<Self> {
        let right = "place; write \"cart-1\", \"10.0.0.7\" or \"10.0.0.7:8080\"";
        parsed(value, right, |text| advertised(text).ok().map(Self))
    }

    fn describe(_: &mut Schema) -> Json {
        text("10.0.0.7:8080")
    }
}

/// The schema of the file, for editors.
pub(super) fn schema() -> String {
    Schema::of::<File>()
}
