//! What the command line asks of a sidecar.

use std::{
    ffi::OsString,
    net::SocketAddr,
    num::{NonZeroU32, NonZeroUsize},
    path::{Path, PathBuf},
    time::Duration,
};

use gusset_registry::Check;
use lexopt::prelude::*;

use super::{file::File, mesh::Mesh};

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
    pub(super) cores: NonZeroUsize,
    pub(super) grace: Duration,
    pub(super) drain_limit: Duration,
    pub(super) log: Option<String>,
    pub(super) proxy: bool,
    pub(super) mesh: Option<Mesh>,
    pub(super) command: Vec<OsString>,
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    Run(Box<Sidecar>),
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
#[derive(Debug, Default)]
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

/// Reads what stands behind `sidecar`, and the file that it names; none if help is wanted. The command line wins over the environment, that over the file.
pub(crate) fn parse(
    args: &mut lexopt::Parser,
    environment: Environment,
) -> Result<Option<Asked>, lexopt::Error> {
    let mut given = Given::default();
    loop {
        // All that stands behind -- is the command's, also what looks like an option.
        if let Some(mut raw) = args.try_raw_args() {
            if raw.peek().is_some_and(|arg| arg == "--") {
                raw.next();
                given.command = raw.collect();
                if given.command.is_empty() {
                    return Err("there is no command behind --".into());
                }
                break;
            }
        }
        match args.next()? {
            None => break,
            Some(Long("help") | Short('h')) => return Ok(None),
            Some(Long("schema")) => return Ok(Some(Asked::Schema)),
            Some(Long("check")) => given.check = true,
            Some(Long("proxy-env")) => given.proxy = true,
            Some(Long("config") | Short('c')) => given.config = Some(args.value()?.into()),
            Some(Long(name)) => {
                let name = name.to_owned();
                let Some(name) = OPTIONS.iter().find(|known| **known == name) else {
                    return Err(format!("invalid option '--{name}'").into());
                };
                let missing = |_| format!("missing argument for option '--{name}'");
                given.values.push((name, args.value().map_err(missing)?));
            }
            Some(other) => return Err(other.unexpected()),
        }
    }
    let check = given.check;
    let sidecar = Box::new(given.resolve(environment)?);
    Ok(Some(if check { Asked::Check(sidecar) } else { Asked::Run(sidecar) }))
}

/// Those with a value.
const OPTIONS: [&str; 28] = [
    "admin",
    "admin-token",
    "advertise",
    "allow",
    "app",
    "app-http",
    "app-version",
    "ca",
    "cores",
    "drain-limit",
    "grace",
    "health",
    "id",
    "in-flight",
    "listen",
    "log",
    "meta",
    "mtls-ca",
    "mtls-cert",
    "mtls-key",
    "outbound",
    "registry",
    "service",
    "tag",
    "timeout",
    "token",
    "trust-domain",
    "zone",
];

/// What stands on the command line.
#[derive(Default)]
struct Given {
    config: Option<PathBuf>,
    check: bool,
    proxy: bool,
    values: Vec<(&'static str, OsString)>,
    command: Vec<OsString>,
}

impl Given {
    fn resolve(self, environment: Environment) -> Result<Sidecar, lexopt::Error> {
        let mut draft = Draft::default();
        if let Some(file) = &self.config {
            draft.file(file)?;
        }
        draft.environment(environment);
        for (name, value) in self.values {
            draft.option(name, value)?;
        }
        draft.sidecar.proxy |= self.proxy;
        if !self.command.is_empty() {
            draft.sidecar.command = self.command;
        }
        draft.finish()
    }
}

/// What is known so far.
struct Draft {
    service: Option<String>,
    app: Option<SocketAddr>,
    registry: Option<String>,
    mesh: Mesh,
    sidecar: Sidecar,
}

impl Default for Draft {
    fn default() -> Self {
        let local = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let sidecar = Sidecar {
            service: String::new(),
            app: local(0),
            registry: String::new(),
            token: None,
            authority: None,
            listen: ([0, 0, 0, 0], 4143).into(),
            outbound: local(4140),
            admin: local(4191),
            admin_token: None,
            advertise: None,
            labels: Labels::default(),
            health: Health::Tcp,
            app_http: AppHttp::One,
            timeout: Limit(Duration::from_secs(30)),
            in_flight: None,
            cores: NonZeroUsize::MIN,
            grace: Duration::from_secs(1),
            drain_limit: Duration::from_secs(30),
            log: None,
            proxy: false,
            mesh: None,
            command: Vec::new(),
        };
        Self { service: None, app: None, registry: None, mesh: Mesh::default(), sidecar }
    }
}

/// Puts `new` in the place of `old`, if there is any.
fn set<T>(old: &mut T, new: Option<T>) {
    if let Some(new) = new {
        *old = new;
    }
}

impl Draft {
    fn file(&mut self, path: &Path) -> Result<(), String> {
        let file = File::open(path)?;
        let it = &mut self.sidecar;
        (self.service, self.app) = (file.service, file.app);
        set(&mut it.app_http, file.app_http);
        set(&mut it.health, file.health);
        set(&mut it.listen, file.listen);
        set(&mut it.outbound, file.outbound);
        set(&mut it.timeout, file.timeout);
        set(&mut it.cores, file.cores);
        set(&mut it.grace, file.grace);
        set(&mut it.drain_limit, file.drain_limit);
        (it.in_flight, it.log, it.proxy) = (file.in_flight, file.log, file.proxy);
        it.command = file.command;
        if let Some(registry) = file.registry {
            self.registry = registry.url;
            it.token = registry.token.map(|token| token.expose().to_owned());
            it.authority = registry.authority;
        }
        if let Some(admin) = file.admin {
            set(&mut it.admin, admin.listen);
            it.admin_token = admin.token.map(|token| token.expose().to_owned());
        }
        if let Some(instance) = file.instance {
            (it.advertise, it.labels) = (instance.advertise, instance.labels);
        }
        set(&mut self.mesh, file.mesh);
        Ok(())
    }

    fn environment(&mut self, environment: Environment) {
        let Environment { registry, token, admin_token } = environment;
        self.registry = registry.or(self.registry.take());
        self.sidecar.token = token.or(self.sidecar.token.take());
        self.sidecar.admin_token = admin_token.or(self.sidecar.admin_token.take());
    }

    fn option(&mut self, name: &str, value: OsString) -> Result<(), lexopt::Error> {
        let it = &mut self.sidecar;
        let file = match name {
            "ca" => Some(it.authority.insert(PathBuf::new())),
            "mtls-ca" => Some(&mut self.mesh.authorities),
            "mtls-cert" => Some(&mut self.mesh.certificate),
            "mtls-key" => Some(&mut self.mesh.key),
            _ => None,
        };
        if let Some(file) = file {
            *file = value.into();
            return Ok(());
        }
        let value = value.string()?;
        match name {
            "service" => self.service = Some(value),
            "app" => self.app = Some(address(name, &value)?),
            "app-http" => it.app_http = app_http(&value)?,
            "registry" => self.registry = Some(value),
            "token" => it.token = Some(value),
            "listen" => it.listen = address(name, &value)?,
            "outbound" => it.outbound = address(name, &value)?,
            "admin" => it.admin = address(name, &value)?,
            "admin-token" => it.admin_token = Some(value),
            "advertise" => it.advertise = Some(advertised(&value)?),
            "id" => it.labels.id = Some(value),
            "zone" => it.labels.zone = Some(value),
            "app-version" => it.labels.version = Some(value),
            "tag" => it.labels.tags.push(value),
            "meta" => it.labels.meta.push(pair(&value)?),
            "health" => it.health = Health::parse(&value)?,
            "timeout" if value == "none" => it.timeout = Limit::NONE,
            "timeout" => it.timeout = Limit(span(name, &value)?),
            "in-flight" => it.in_flight = Some(number(name, &value)?),
            "cores" => it.cores = number(name, &value)?,
            "grace" => it.grace = span(name, &value)?,
            "drain-limit" => it.drain_limit = span(name, &value)?,
            "log" => it.log = Some(value),
            "trust-domain" => self.mesh.trust_domain = value,
            "allow" => self.mesh.allow.push(value),
            _ => {}
        }
        Ok(())
    }

    fn finish(self) -> Result<Sidecar, lexopt::Error> {
        let mut it = self.sidecar;
        let service = self.service.filter(|name| !name.is_empty());
        it.service = service.ok_or("which service is it? --service NAME")?;
        it.app = self.app.ok_or("where does the app listen? --app ADDR, as 127.0.0.1:9000 is")?;
        it.registry =
            self.registry.ok_or("where is the registry? --registry URL, or $GUSSET_REGISTRY")?;
        it.mesh = meshed(self.mesh)?;
        // Longer ones are none, and could not be added to a time.
        for span in [&mut it.timeout.0, &mut it.grace, &mut it.drain_limit] {
            *span = (*span).min(Limit::NONE.0);
        }
        for token in [&it.token, &it.admin_token].into_iter().flatten() {
            if token.is_empty() {
                return Err("a token is empty".into());
            }
        }
        if it.app.port() == 0 {
            return Err("--app: port 0 is no port to be called at".into());
        }
        if !it.outbound.ip().is_loopback() {
            let outbound = it.outbound;
            return Err(format!("not listening on {outbound} for the app: whoever reaches it could call in its name; use an address of loopback").into());
        }
        if it.admin_token.is_none() && !it.admin.ip().is_loopback() {
            let admin = it.admin;
            return Err(format!("not listening on {admin} for operators without a token: give one by --admin-token or $GUSSET_ADMIN_TOKEN").into());
        }
        Ok(it)
    }
}

/// All of it or nothing.
fn meshed(mesh: Mesh) -> Result<Option<Mesh>, String> {
    if mesh == Mesh::default() {
        return Ok(None);
    }
    for (missing, option) in [
        (mesh.trust_domain.is_empty(), "--trust-domain"),
        (mesh.authorities.as_os_str().is_empty(), "--mtls-ca"),
        (mesh.certificate.as_os_str().is_empty(), "--mtls-cert"),
        (mesh.key.as_os_str().is_empty(), "--mtls-key"),
    ] {
        if missing {
            return Err(format!("certificates need {option} as well"));
        }
    }
    let in_name =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-._".contains(&byte);
    if !mesh.trust_domain.bytes().all(in_name) {
        let domain = &mesh.trust_domain;
        return Err(format!("--trust-domain: '{domain}' is no trust domain, as shop.example is"));
    }
    Ok(Some(mesh))
}

fn app_http(text: &str) -> Result<AppHttp, String> {
    match text {
        "1.1" => Ok(AppHttp::One),
        "2" => Ok(AppHttp::Two),
        _ => Err(format!("--app-http: '{text}' is neither 1.1 nor 2")),
    }
}

fn address(name: &str, text: &str) -> Result<SocketAddr, String> {
    text.parse()
        .map_err(|_| format!("--{name}: '{text}' is no address with a port, as 127.0.0.1:9000 is"))
}

/// `host` or `host:port`, where an address of IPv6 stands in brackets if a port follows.
pub(super) fn advertised(text: &str) -> Result<(String, Option<u16>), String> {
    let wrong = || format!("--advertise: '{text}' is none of HOST, HOST:PORT");
    if text.parse::<std::net::IpAddr>().is_ok() {
        return Ok((text.into(), None));
    }
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Ok((address.ip().to_string(), Some(address.port())));
    }
    let (host, port) = match text.split_once(':') {
        Some((host, port)) => (host, Some(port.parse().map_err(|_| wrong())?)),
        None => (text, None),
    };
    let in_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    if host.is_empty() || !host.bytes().all(in_name) || port == Some(0) {
        return Err(wrong());
    }
    Ok((host.into(), port))
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) =
        text.split_once('=').ok_or_else(|| format!("--meta: '{text}' is no KEY=VALUE"))?;
    Ok((key.into(), value.into()))
}

fn number<N: std::str::FromStr>(name: &str, text: &str) -> Result<N, String> {
    text.parse().map_err(|_| format!("--{name}: '{text}' is no number from 1 on"))
}

/// `250ms`, `10s`, `5m`.
fn span(name: &str, text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (count, unit) = text.split_at(digits);
    let span = count.parse::<u64>().ok().and_then(|count| match unit {
        "ms" => Some(Duration::from_millis(count)),
        "s" => Some(Duration::from_secs(count)),
        "m" => Some(Duration::from_secs(count.checked_mul(60)?)),
        _ => None,
    });
    span.ok_or_else(|| format!("--{name}: '{text}' is no time; write 250ms, 10s or 5m"))
}

#[cfg(test)]
mod tests;
