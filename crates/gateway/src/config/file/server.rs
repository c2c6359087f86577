use std::{net::SocketAddr, num::NonZeroUsize, path::PathBuf, time::Duration};

use crate::{
    Network,
    config::{Fields, OneOrMore, Place, Placed, Secret, Section, Span},
};

/// Where it listens, and what clients may hold. None of it can change while it runs, but the content of certificates.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::config) struct ServerSection {
    pub(in crate::config) listen: Option<SocketAddr>,
    pub(in crate::config) cores: Option<NonZeroUsize>,
    pub(in crate::config) max_connections: Option<NonZeroUsize>,
    pub(in crate::config) max_connections_per_client: Option<NonZeroUsize>,
    pub(in crate::config) head_timeout: Option<Span>,
    pub(in crate::config) body_timeout: Option<Span>,
    pub(in crate::config) send_timeout: Option<Span>,
    pub(in crate::config) linger: Option<Duration>,
    pub(in crate::config) drain_limit: Option<Duration>,
    pub(in crate::config) early_hints: bool,
    pub(in crate::config) trusted_proxies: Vec<Network>,
    pub(in crate::config) tls: Vec<TlsSection>,
    pub(in crate::config) tls_place: Place,
    pub(in crate::config) clients: Option<ClientsSection>,
}

impl Section for ServerSection {
    const NAME: &'static str = "server";
    const ABOUT: &'static str = "Where it listens, and what clients may hold. But for trusted_proxies, a change needs a restart.";

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let listen = fields.optional("listen", "Address and port. Default 127.0.0.1:8080.");
        let cores = fields.optional(
            "cores",
            "Threads that serve, each with a listener of its own. Default: one for each core.",
        );
        let max_connections =
            fields.optional("max_connections", "Connections at once; more wait. Default 10000.");
        let max_connections_per_client = fields.optional(
            "max_connections_per_client",
            "Of them for each address, or IPv6 network of 64 bits. Default: no limit.",
        );
        let head_timeout = fields.optional(
            "head_timeout",
            "How long a client may take for a head, and idle between two requests. Default 30s.",
        );
        let body_timeout = fields.optional(
            "body_timeout",
            "How long a client may send nothing of a body that is waited for. Default 60s.",
        );
        let send_timeout = fields.optional(
            "send_timeout",
            "How long a client may take nothing of its answer. Default 60s.",
        );
        let linger = fields
            .optional("linger", "How long idle connections stay open when it ends. Default 1s.");
        let drain_limit =
            fields.optional("drain_limit", "How long the end may take in all. Default 30s.");
        let early_hints = fields.flag(
            "early_hints",
            "Clients of HTTP/1.1 are told early hints (103) of instances. Default no, for some take them for the answer.",
        );
        let trusted_proxies = fields.list(
            "trusted_proxies",
            "Proxies before this one, whose word on addresses and timeouts is believed. Default none.",
        );
        let tls = fields.optional::<OneOrMore<_>>(
            "tls",
            "Certificates by name; the first is for all other names. They are read again when they change. Default: in the clear.",
        );
        let clients = fields.optional("clients", "Certificates of clients; needs tls.");
        let tls = tls.unwrap_or_default().0;
        let tls_is_there = fields.has("tls");
        if clients.is_some() && !tls_is_there {
            fields.wrong("clients", "certificates are asked for over TLS only; add [[server.tls]]");
        }
        Some(Self {
            listen,
            cores,
            max_connections,
            max_connections_per_client,
            head_timeout,
            body_timeout,
            send_timeout,
            linger,
            drain_limit,
            early_hints,
            trusted_proxies,
            tls,
            tls_place: fields.place("tls"),
            clients,
        })
    }
}

/// A certificate and its key.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::config) struct TlsSection {
    pub(in crate::config) certificates: PathBuf,
    pub(in crate::config) key: PathBuf,
}

impl Section for TlsSection {
    const NAME: &'static str = "tls";
    const ABOUT: &'static str = "A certificate and its key, both in PEM.";

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let certificates =
            fields.required("certificates", "A file with the certificate, and its chain after it.");
        let key = fields.required("key", "A file with its private key.");
        Some(Self { certificates: certificates?, key: key? })
    }
}

/// Certificates of clients.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::config) struct ClientsSection {
    pub(in crate::config) authorities: PathBuf,
    pub(in crate::config) required: bool,
}

impl Section for ClientsSection {
    const NAME: &'static str = "clients";
    const ABOUT: &'static str = "Which certificates clients may show.";

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let authorities =
            fields.required("authorities", "A file in PEM with those who may have signed them.");
        let required = fields
            .flag("required", "Clients without one are refused in the handshake. Default no.");
        Some(Self { authorities: authorities?, required })
    }
}

/// The listener for operators.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::config) struct AdminSection {
    pub(in crate::config) listen: SocketAddr,
    pub(in crate::config) token: Option<Secret>,
    pub(in crate::config) hosts: Vec<String>,
}

impl Section for AdminSection {
    const NAME: &'static str = "admin";
    const ABOUT: &'static str =
        "A listener for operators: health, metrics, routes, upstreams, drain.";

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let listen: Option<Placed<SocketAddr>> = fields.required("listen", "Address and port.");
        let token: Option<Secret> = fields.optional(
            "token",
            "What operators show as Authorization: Bearer. Needed beyond loopback.",
        );
        let hosts = fields.list(
            "hosts",
            "Names by which operators reach it, besides its address and localhost. Default none.",
        );
        let listen = listen?;
        if !listen.value.ip().is_loopback() && !fields.has("token") {
            fields.wrong(
                "listen",
                "whoever reaches it beyond loopback could change traffic; add token, or listen on 127.0.0.1",
            );
        }
        Some(Self { listen: listen.value, token, hosts })
    }
}

/// A line for each request.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::config) struct AccessLogSection {
    /// `None` for the standard output.
    pub(in crate::config) file: Option<PathBuf>,
    pub(in crate::config) place: Place,
}

impl Section for AccessLogSection {
    const NAME: &'static str = "access_log";
    const ABOUT: &'static str = "A line of JSON for each request, without queries.";

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let about = "It is added to. Default the standard output.";
        Some(Self { file: fields.optional("file", about), place: fields.place("file") })
    }
}

/// Where services are found.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::config) struct RegistrySection {
    pub(in crate::config) at: RegistryAt,
    pub(in crate::config) authorities: Option<PathBuf>,
    pub(in crate::config) place: Place,
}

/// Which registry.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::config) enum RegistryAt {
    /// `gusset registry`, or Consul.
    Url {
        url: String,
        token: Option<Secret>,
    },
    Etcd(EtcdFields),
}

/// An etcd.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::config) struct EtcdFields {
    pub(in crate::config) endpoints: Vec<String>,
    pub(in crate::config) prefix: Option<String>,
    pub(in crate::config) user: Option<String>,
    pub(in crate::config) password: Option<Secret>,
    /// The gateway's own certificate and its key.
    pub(in crate::config) own: Option<(PathBuf, PathBuf)>,
}

impl EtcdFields {
    const NAMES: [&'static str; 5] = ["prefix", "user", "password", "certificate", "key"];

    fn read(fields: &mut Fields<'_>) -> Self {
        let prefix =
            fields.optional("prefix", "Of etcd: what all keys begin with. Default /gusset.");
        let user = fields.optional("user", "Of etcd: who reads there. Default nobody.");
        let password = fields.optional("password", "Of etcd: the password of user.");
        let certificate: Option<PathBuf> =
            fields.optional("certificate", "Of etcd: what the gateway shows of itself, in PEM.");
        let key = fields.optional("key", "Of etcd: the key of it, in PEM.");
        for (one, other) in [("user", "password"), ("certificate", "key")] {
            if fields.has(one) != fields.has(other) {
                let there = if fields.has(one) { one } else { other };
                fields.wrong(
                    there,
                    &format!("{one} and {other} go together; one of them is missing"),
                );
            }
        }
        if fields.has("certificate") && !fields.has("authorities") {
            fields.wrong("certificate", "it is shown over TLS only; add authorities");
        }
        Self { endpoints: Vec::new(), prefix, user, password, own: certificate.zip(key) }
    }
}

impl Section for RegistrySection {
    const NAME: &'static str = "registry";
    const ABOUT: &'static str = "Where services are found by their names.";

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let url: Option<String> = fields
            .optional("url", "`gusset registry` or Consul, as http://127.0.0.1:8500 or https://….");
        let endpoints: Option<Vec<String>> =
            fields.optional("etcd", "Or an etcd, at these addresses: 127.0.0.1:2379.");
        fields.one_of(&["url", "etcd"]);
        let token = fields.optional("token", "Of url: what is shown to it. Default nothing.");
        let authorities = fields.optional(
            "authorities",
            "A file in PEM with those who may have signed its certificate; needed with https, and for TLS to etcd.",
        );
        let etcd = EtcdFields::read(fields);
        let (there, others): (_, &[&str]) = match fields.has("etcd") {
            true => ("url", &["token"]),
            false => ("etcd", &EtcdFields::NAMES),
        };
        for name in others.iter().filter(|name| fields.has(name)) {
            fields.wrong(name, &format!("it is for {there}, which is not there"));
        }
        let place = fields.place(if fields.has("etcd") { "etcd" } else { "url" });
        let at = match (endpoints, url) {
            (Some(endpoints), _) => RegistryAt::Etcd(EtcdFields { endpoints, ..etcd }),
            (None, url) => RegistryAt::Url { url: url?, token },
        };
        Some(Self { at, authorities, place })
    }
}
