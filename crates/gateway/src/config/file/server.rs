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
    pub(in crate::config) send_timeout: Option<Span>,
    pub(in crate::config) linger: Option<Duration>,
    pub(in crate::config) drain_limit: Option<Duration>,
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
        let send_timeout = fields.optional(
            "send_timeout",
            "How long a client may take nothing of its answer. Default 60s.",
        );
        let linger = fields
            .optional("linger", "How long idle connections stay open when it ends. Default 1s.");
        let drain_limit =
            fields.optional("drain_limit", "How long the end may take in all. Default 30s.");
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
            send_timeout,
            linger,
            drain_limit,
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
    pub(in crate::config) url: Placed<String>,
    pub(in crate::config) token: Option<Secret>,
    pub(in crate::config) authorities: Option<PathBuf>,
}

impl Section for RegistrySection {
    const NAME: &'static str = "registry";
    const ABOUT: &'static str = "Where services are found by their names.";

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let url = fields
            .required("url", "`gusset registry` or Consul, as http://127.0.0.1:8500 or https://….");
        let token = fields.optional("token", "What is shown to it. Default nothing.");
        let authorities = fields.optional(
            "authorities",
            "A file in PEM with those who may have signed its certificate; needed with https.",
        );
        Some(Self { url: url?, token, authorities })
    }
}
