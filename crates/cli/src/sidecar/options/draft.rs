//! Settings on their way from where they are said to one that is whole.

use std::{
    ffi::OsString,
    net::SocketAddr,
    num::{NonZeroU32, NonZeroUsize},
    path::{Path, PathBuf},
    time::Duration,
};

use gusset_gateway::config::Rate;
use gusset_ratelimit::Quota;
use lexopt::ValueExt;

use super::{
    super::{file::File, mesh::Mesh, otlp},
    AppHttp, Environment, Health, Labels, Limit, LogTo, OtlpTo, QuotaBy, QuotaOf, Sidecar,
    text::{address, advertised, app_http, number, pair, rate, span},
};

/// What is known so far.
pub(super) struct Draft {
    service: Option<String>,
    app: Option<SocketAddr>,
    registry: Option<String>,
    mesh: Mesh,
    quota: QuotaDraft,
    otlp: OtlpTo,
    pub(super) sidecar: Sidecar,
}

/// How many, how many at once, and who shares them.
#[derive(Default)]
struct QuotaDraft {
    rate: Option<Rate>,
    burst: Option<NonZeroU32>,
    by: Option<QuotaBy>,
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
            quota: None,
            access_log: None,
            cores: NonZeroUsize::MIN,
            ttl: Duration::from_secs(30),
            open_for: None,
            grace: Duration::from_secs(1),
            drain_limit: Duration::from_secs(30),
            log: None,
            otlp: None,
            proxy: false,
            mesh: None,
            command: Vec::new(),
        };
        Self {
            service: None,
            app: None,
            registry: None,
            mesh: Mesh::default(),
            quota: QuotaDraft::default(),
            otlp: OtlpTo::default(),
            sidecar,
        }
    }
}

/// Puts `new` in the place of `old`, if there is any.
fn set<T>(old: &mut T, new: Option<T>) {
    if let Some(new) = new {
        *old = new;
    }
}

impl Draft {
    /// The files that this one names, and that belong to it.
    pub(super) fn file(&mut self, path: &Path) -> Result<Vec<PathBuf>, String> {
        let (file, files) = File::open(path)?;
        let it = &mut self.sidecar;
        (self.service, self.app) = (file.service, file.app);
        set(&mut it.app_http, file.app_http);
        set(&mut it.health, file.health);
        set(&mut it.listen, file.listen);
        set(&mut it.outbound, file.outbound);
        set(&mut it.timeout, file.timeout);
        set(&mut it.cores, file.cores);
        set(&mut it.ttl, file.ttl);
        set(&mut it.open_for, file.open_for.map(Some));
        set(&mut it.grace, file.grace);
        set(&mut it.drain_limit, file.drain_limit);
        (it.in_flight, it.log, it.proxy) = (file.in_flight, file.log, file.proxy);
        (it.access_log, it.command) = (file.access_log, file.command);
        if let Some(quota) = file.quota {
            self.quota = QuotaDraft { rate: Some(quota.rate), burst: quota.burst, by: quota.by };
        }
        set(&mut self.otlp, file.otlp);
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
        Ok(files)
    }

    pub(super) fn environment(&mut self, environment: Environment) {
        let Environment { registry, token, admin_token } = environment;
        self.registry = registry.or(self.registry.take());
        self.sidecar.token = token.or(self.sidecar.token.take());
        self.sidecar.admin_token = admin_token.or(self.sidecar.admin_token.take());
    }

    pub(super) fn option(&mut self, name: &str, value: OsString) -> Result<(), lexopt::Error> {
        let it = &mut self.sidecar;
        let file = match name {
            "ca" => Some(it.authority.insert(PathBuf::new())),
            "mtls-ca" => Some(&mut self.mesh.authorities),
            "mtls-cert" => Some(&mut self.mesh.certificate),
            "mtls-key" => Some(&mut self.mesh.key),
            "otlp-ca" => Some(self.otlp.authority.insert(PathBuf::new())),
            _ => None,
        };
        if let Some(file) = file {
            *file = value.into();
            return Ok(());
        }
        if name == "access-log" {
            it.access_log =
                Some(if value == "-" { LogTo::Output } else { LogTo::File(value.into()) });
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
            "ttl" => it.ttl = span(name, &value)?,
            "circuit-open" => it.open_for = Some(span(name, &value)?),
            "grace" => it.grace = span(name, &value)?,
            "drain-limit" => it.drain_limit = span(name, &value)?,
            "log" => it.log = Some(value),
            "otlp" => self.otlp.url = value,
            "quota" => self.quota.rate = Some(rate(&value)?),
            "quota-burst" => self.quota.burst = Some(number(name, &value)?),
            "quota-by" => {
                let by = QuotaBy::parse(&value);
                self.quota.by = Some(by.ok_or_else(|| {
                    format!("--quota-by: '{value}' is none of all, caller, address, header:NAME")
                })?);
            }
            "trust-domain" => self.mesh.trust_domain = value,
            "allow" => self.mesh.allow.push(value),
            _ => {}
        }
        Ok(())
    }

    pub(super) fn finish(self) -> Result<Sidecar, lexopt::Error> {
        let mut it = self.sidecar;
        let service = self.service.filter(|name| !name.is_empty());
        it.service = service.ok_or("which service is it? --service NAME")?;
        it.app = self.app.ok_or("where does the app listen? --app ADDR, as 127.0.0.1:9000 is")?;
        it.registry =
            self.registry.ok_or("where is the registry? --registry URL, or $GUSSET_REGISTRY")?;
        it.mesh = meshed(self.mesh)?;
        it.quota = self.quota.finish(it.mesh.is_some())?;
        it.otlp = otlp::checked(self.otlp)?;
        // Longer ones are none, and could not be added to a time.
        let spans = [&mut it.timeout.0, &mut it.grace, &mut it.drain_limit];
        for span in spans.into_iter().chain([&mut it.ttl]).chain(&mut it.open_for) {
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

impl QuotaDraft {
    fn finish(self, meshed: bool) -> Result<Option<QuotaOf>, String> {
        let Some(rate) = self.rate else {
            let lone = self.burst.is_some() || self.by.is_some();
            return if lone {
                Err("--quota-burst and --quota-by need --quota".into())
            } else {
                Ok(None)
            };
        };
        let by = self.by.unwrap_or_default();
        if by == QuotaBy::Caller && !meshed {
            return Err("--quota-by caller: callers are known by their certificates; it needs --mtls-cert and its like".into());
        }
        let burst = self.burst.map_or(rate.tokens, NonZeroU32::get);
        let quota = Quota::checked(rate.tokens, rate.per, burst);
        let quota = quota.map_err(|error| format!("--quota: {error}"))?;
        Ok(Some(QuotaOf { quota, by }))
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
