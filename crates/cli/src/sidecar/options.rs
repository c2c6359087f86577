//! What is asked of a sidecar: by the command line, the environment and a file.

mod draft;
mod line;
mod text;

use std::{
    ffi::OsString,
    net::SocketAddr,
    num::{NonZeroU32, NonZeroUsize},
    path::PathBuf,
    time::Duration,
};

use gusset_ratelimit::Quota;
use gusset_registry::Check;
use http::HeaderName;

pub(crate) use self::line::parse;
pub(super) use self::{line::Again, text::advertised};
use super::mesh::Mesh;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sidecar {
    pub(super) service: String,
    pub(super) app: SocketAddr,
    pub(super) registry: String,
    pub(super) token: Option<String>,
    pub(super) authority: Option<PathBuf>,
    pub(super) listen: SocketAddr,
    pub(super) outbound: SocketAddr,
    pub(super) admin: SocketAddr,
    pub(super) admin_token: Option<String>,
    /// Host, and port if it is another than that of `listen`.
    pub(super) advertise: Option<(String, Option<u16>)>,
    pub(super) labels: Labels,
    pub(super) health: Health,
    pub(super) app_http: AppHttp,
    pub(super) timeout: Limit,
    pub(super) in_flight: Option<NonZeroU32>,
    pub(super) quota: Option<QuotaOf>,
    pub(super) access_log: Option<LogTo>,
    pub(super) cores: NonZeroUsize,
    /// After which the registry takes the app for gone if it hears nothing.
    pub(super) ttl: Duration,
    /// How long an instance that fails is left alone each time, if not as by default.
    pub(super) open_for: Option<Duration>,
    pub(super) grace: Duration,
    pub(super) drain_limit: Duration,
    pub(super) log: Option<String>,
    pub(super) otlp: Option<OtlpTo>,
    pub(super) proxy: bool,
    pub(super) mesh: Option<Mesh>,
    pub(super) command: Vec<OsString>,
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    Run(Box<Sidecar>, Box<Again>),
    /// Whether all of it is right.
    Check(Box<Sidecar>),
    Schema,
}

/// What the app speaks where nothing asks for another version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum AppHttp {
    #[default]
    One,
    Two,
}

/// How long something may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limit(pub(super) Duration);

impl Limit {
    /// Longer than anything runs, and short enough to be added to any time.
    pub(super) const NONE: Self = Self(Duration::from_secs(10 * 365 * 86_400));

    pub(super) fn shown(self) -> Option<f64> {
        (self != Self::NONE).then_some(self.0.as_secs_f64())
    }
}

/// How many requests the app gets in a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct QuotaOf {
    pub(super) quota: Quota,
    pub(super) by: QuotaBy,
}

/// Who shares a quota.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum QuotaBy {
    #[default]
    All,
    /// Those with the same certificate.
    Caller,
    Address,
    Header(HeaderName),
}

impl QuotaBy {
    pub(super) fn parse(text: &str) -> Option<Self> {
        match text {
            "all" => Some(Self::All),
            "caller" => Some(Self::Caller),
            "address" => Some(Self::Address),
            _ => text.strip_prefix("header:")?.parse().ok().map(Self::Header),
        }
    }

    pub(super) fn text(&self) -> String {
        match self {
            Self::All => "all".into(),
            Self::Caller => "caller".into(),
            Self::Address => "address".into(),
            Self::Header(name) => format!("header:{name}"),
        }
    }
}

/// Where requests are logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum LogTo {
    /// The standard output.
    Output,
    File(PathBuf),
}

/// The collector that gets spans, metrics and logs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct OtlpTo {
    pub(super) url: String,
    pub(super) authority: Option<PathBuf>,
    /// Shown to it; the values may be secrets.
    pub(super) headers: Vec<(String, String)>,
}

/// What the registration says beside the address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Labels {
    pub(super) id: Option<String>,
    pub(super) zone: Option<String>,
    pub(super) version: Option<String>,
    pub(super) tags: Vec<String>,
    pub(super) meta: Vec<(String, String)>,
}

/// How the app is asked whether it works.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Health {
    Tcp,
    /// The path.
    Http(String),
    /// The service, empty for all.
    Grpc(String),
}

impl Health {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        match text.split_once(':').unwrap_or((text, "")) {
            ("tcp", "") => Ok(Self::Tcp),
            ("grpc", service) => Ok(Self::Grpc(service.into())),
            _ if text.starts_with('/') => Ok(Self::Http(text.into())),
            _ => Err(format!("--health: '{text}' is none of tcp, /PATH, grpc, grpc:SERVICE")),
        }
    }

    /// Every 5 s: what breaks is out of use after 15 s at most, by itself; callers' breakers are faster.
    pub(super) fn check(&self) -> Check {
        let check = match self {
            Self::Tcp => Check::tcp(),
            Self::Http(path) => Check::http(path.as_str()),
            Self::Grpc(service) => Check::grpc(service.as_str()),
        };
        check.interval(Duration::from_secs(5)).timeout(Duration::from_secs(2))
    }

    pub(super) fn text(&self) -> String {
        match self {
            Self::Tcp => "tcp".into(),
            Self::Http(path) => path.clone(),
            Self::Grpc(service) if service.is_empty() => "grpc".into(),
            Self::Grpc(service) => format!("grpc:{service}"),
        }
    }
}

/// What the environment says where the command line is silent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Environment {
    pub(crate) registry: Option<String>,
    pub(crate) token: Option<String>,
    pub(crate) admin_token: Option<String>,
}

impl Environment {
    pub(crate) fn read() -> Self {
        let variable = |name| std::env::var(name).ok();
        Self {
            registry: variable("GUSSET_REGISTRY"),
            token: variable("GUSSET_TOKEN"),
            admin_token: variable("GUSSET_ADMIN_TOKEN"),
        }
    }
}

#[cfg(test)]
mod tests;
