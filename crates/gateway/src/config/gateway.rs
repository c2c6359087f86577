use std::{
    collections::HashMap,
    fmt,
    fs::OpenOptions,
    net::SocketAddr,
    num::{NonZeroU32, NonZeroUsize},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::available_parallelism,
};

use gusset_ratelimit::ConcurrencyLimiter;
use gusset_registry::Registry;
use gusset_sidecar::{Budget, Metrics, Recorder};

use super::{
    ConfigErrors, Document, Schema,
    build::{Building, Redis},
    file::{
        ApiKeysSection, BreakerSection, FileSection, JwtSection, MirrorSection, Pick, QuotaSection,
        RedisSection, RegistrySection, RetrySection, RolloutSection, ShedSection, UpstreamSection,
    },
};
use crate::{
    AccessLog, AnswersInMemory, ApiKeys, Gateway, Jwt, Mirror, Server, Split, Tls, Upstream,
    Variant, limit::Limit, stats::Counters, transport::Pool, upstream,
};

/// The file of a gateway, read and checked as far as that needs no other file.
#[derive(Clone, Debug)]
pub struct Config {
    pub(super) file: FileSection,
    hash: String,
    /// Secrets and descriptors were read from there.
    files: Vec<PathBuf>,
}

impl Config {
    /// Where it listens unless the file says so.
    const LISTEN: SocketAddr =
        SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 8080);

    /// Reads a file.
    ///
    /// # Errors
    ///
    /// Everything that is wrong in it.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, ConfigErrors> {
        Self::of(&Document::open(path)?)
    }

    /// Reads `text`, which errors call `name`. Relative paths in it are those of the working directory.
    ///
    /// # Errors
    ///
    /// Everything that is wrong in it.
    pub fn parse(name: &str, text: impl Into<String>) -> Result<Self, ConfigErrors> {
        Self::of(&Document::parse(name, text, |name| std::env::var(name).ok()))
    }

    fn of(document: &Document) -> Result<Self, ConfigErrors> {
        let file = document.read()?;
        Ok(Self { file, hash: document.hash(), files: document.files() })
    }

    /// The JSON Schema of such files, for editors.
    #[must_use]
    pub fn schema() -> String {
        Schema::of::<FileSection>()
    }

    /// Builds the gateway. Files that are named are read; connections are made when they are needed.
    ///
    /// What gateways that were built with the same `resources` have in common goes on: the registry, tokens that were verified, keys, answers for
    /// `Idempotency-Key`, and budgets of retries.
    ///
    /// # Errors
    ///
    /// Everything that cannot be.
    ///
    /// # Panics
    ///
    /// With a registry, outside of a tokio runtime.
    pub fn build(&self, resources: &Resources) -> Result<Gateway, ConfigErrors> {
        let mut kept = resources.kept().clone();
        let gateway = Building::new(self, resources, &mut kept).gateway()?;
        *resources.kept() = kept;
        Ok(gateway)
    }

    /// The server, with its certificates.
    ///
    /// # Errors
    ///
    /// Where certificates cannot be read.
    pub fn server(&self) -> Result<Server, ConfigErrors> {
        let Some(section) = &self.file.server else { return Ok(Server::new()) };
        let mut server = Server::new();
        if let Some(connections) = section.max_connections {
            server = server.max_connections(connections.get());
        }
        if let Some(connections) = section.max_connections_per_client {
            server = server.max_connections_per_client(connections.get());
        }
        if let Some(span) = section.head_timeout {
            server = server.head_timeout(span.0);
        }
        if let Some(span) = section.body_timeout {
            server = server.body_timeout(span.0);
        }
        if let Some(span) = section.send_timeout {
            server = server.send_timeout(span.0);
        }
        if let Some(span) = section.linger {
            server = server.linger(span);
        }
        if let Some(span) = section.drain_limit {
            server = server.drain_limit(span);
        }
        if section.early_hints {
            server = server.early_hints();
        }
        let Some((first, others)) = section.tls.split_first() else { return Ok(server) };
        let mut files = Tls::new(&first.certificates, &first.key);
        for other in others {
            files = files.and(&other.certificates, &other.key);
        }
        files = match &section.clients {
            Some(clients) if clients.required => files.require_clients(&clients.authorities),
            Some(clients) => files.know_clients(&clients.authorities),
            None => files,
        };
        let tls = files.read().map_err(|error| section.tls_place.error(error.to_string()))?;
        Ok(server.tls(tls))
    }

    /// Opens the log of requests, if there is one.
    ///
    /// # Errors
    ///
    /// If its file cannot be written.
    pub fn access_log(&self) -> Result<Option<AccessLog>, ConfigErrors> {
        let Some(section) = &self.file.access_log else { return Ok(None) };
        let wrong = |error| section.place.error(format!("it cannot be written: {error}"));
        let log = match &section.file {
            None => AccessLog::to(std::io::stdout()),
            Some(path) => {
                let file = OpenOptions::new().create(true).append(true).open(path);
                AccessLog::to(file.map_err(wrong)?)
            }
        };
        Ok(Some(log.map_err(wrong)?))
    }

    /// Where the server listens. Default `127.0.0.1:8080`.
    #[must_use]
    pub fn listen(&self) -> SocketAddr {
        let server = self.file.server.as_ref();
        server.and_then(|server| server.listen).unwrap_or(Self::LISTEN)
    }

    /// How many threads serve. Default as many as there are cores.
    #[must_use]
    pub fn cores(&self) -> NonZeroUsize {
        let cores = self.file.server.as_ref().and_then(|server| server.cores);
        cores.or_else(|| available_parallelism().ok()).unwrap_or(NonZeroUsize::MIN)
    }

    /// Whether it speaks TLS.
    #[must_use]
    pub fn has_tls(&self) -> bool {
        self.file.server.as_ref().is_some_and(|server| !server.tls.is_empty())
    }

    /// How many routes there are.
    #[must_use]
    pub fn routes(&self) -> usize {
        self.file.routes.len()
    }

    /// How many upstreams there are.
    #[must_use]
    pub fn upstreams(&self) -> usize {
        self.file.upstreams.len()
    }

    /// A hash of the file, of 16 hexadecimal digits, that tells versions apart.
    #[must_use]
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// The other files whose changes are changes of this one: those with secrets, and descriptors.
    #[must_use]
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }
}

/// What the gateways made of one file share, one after the other.
#[derive(Default)]
pub struct Resources {
    pub(super) registry: Option<Arc<dyn Registry>>,
    pub(super) metrics: Metrics,
    pub(super) recorder: Option<Recorder>,
    pub(super) access_log: Option<AccessLog>,
    kept: Mutex<Kept>,
}

/// What goes on in the next gateway, if its settings are the same.
#[derive(Clone, Default)]
pub(super) struct Kept {
    pub(super) registry: Option<(RegistrySection, Arc<dyn Registry>)>,
    pub(super) redis: Option<(RedisSection, Redis)>,
    pub(super) jwt: Vec<(JwtSection, Jwt)>,
    pub(super) api_keys: Option<(ApiKeysSection, ApiKeys)>,
    pub(super) answers: AnswersInMemory,
    /// By the names of upstreams.
    pub(super) budgets: HashMap<String, Budget>,
    pub(super) pool: Option<Pool>,
    pub(super) shed: Option<(ShedSection, ConcurrencyLimiter)>,
    pub(super) upstreams: HashMap<Upstream, (Described, upstream::Shared)>,
    /// By their names.
    pub(super) splits: HashMap<String, (DescribedSplit, Split)>,
    /// By what tells routes apart.
    pub(super) routes: HashMap<String, KeptRoute>,
}

/// All that the circuits and balancers of an upstream depend on.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Described {
    pub(super) section: UpstreamSection,
    pub(super) breaker: Option<BreakerSection>,
    pub(super) retry: Option<RetrySection>,
    pub(super) pick: Option<Pick>,
    pub(super) zone: Option<String>,
    pub(super) registry: Option<RegistrySection>,
}

#[derive(Clone, Default)]
pub(super) struct KeptRoute {
    /// And the server by which it is shared.
    pub(super) limit: Option<((QuotaSection, Option<RedisSection>), Limit)>,
    pub(super) counters: Arc<Counters>,
    pub(super) split: Option<(DescribedSplit, Split)>,
    pub(super) mirror: Option<(MirrorSection, Mirror)>,
    pub(super) in_flight: Option<(NonZeroU32, ConcurrencyLimiter)>,
}

/// All that the weights of a split depend on.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct DescribedSplit {
    pub(super) variants: Vec<Variant>,
    pub(super) rollout: Option<RolloutSection>,
}

impl Resources {
    /// The registry, in place of the one that the file names.
    #[must_use]
    pub fn registry(mut self, registry: impl Registry) -> Self {
        self.registry = Some(Arc::new(registry));
        self
    }

    /// Where requests are counted and timed. Default: metrics of its own.
    #[must_use]
    pub fn metrics(mut self, metrics: Metrics) -> Self {
        self.metrics = metrics;
        self
    }

    /// Where requests and attempts are recorded. Default: nowhere.
    #[must_use]
    pub fn recorder(mut self, recorder: Recorder) -> Self {
        self.recorder = Some(recorder);
        self
    }

    /// Where a line is written for each request. Default nowhere.
    #[must_use]
    pub fn access_log(mut self, log: AccessLog) -> Self {
        self.access_log = Some(log);
        self
    }

    /// How the server fares that gateways share, if there is one.
    pub(super) fn redis(&self) -> Option<serde_json::Value> {
        self.kept().redis.as_ref().map(|(_, redis)| redis.shown())
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Resources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resources").field("registry", &self.registry).finish_non_exhaustive()
    }
}
