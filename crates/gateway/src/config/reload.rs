use std::{
    fmt,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use tokio::time::sleep;

use serde_json::{Value, json};

use super::{Changes, Config, ConfigErrors, Resources, Stamps};
use crate::{Admin, Gateway, Live};

/// How often the file is looked at for changes.
const LOOK: Duration = Duration::from_secs(1);

/// A gateway that follows its file. Clones are one.
///
/// A file is read, checked and built as a whole, away from requests, and then takes the place of the one before in one step. One that is wrong changes nothing.
/// These go on: registry, circuits, balancers, connections and budgets of upstreams that are described alike; quotas, counters, mirrors and what is in flight of routes
/// that are alike; the weights and the rollout of a split whose variants and rollout are described alike, also weights that an operator has set; verified tokens, keys, answers for `Idempotency-Key`, metrics. What `server` and `admin` say, but for trusted proxies, and the content of certificates,
/// needs a restart; [`Reloaded::needs_restart`] says so.
#[derive(Clone)]
pub struct Reloading(Arc<Shared>);

struct Shared {
    path: PathBuf,
    resources: Resources,
    live: Live,
    /// As it was started with.
    first: Arc<Config>,
    /// Held by whoever reloads: one after the other.
    turn: Mutex<Turn>,
    state: Mutex<State>,
}

struct State {
    config: Arc<Config>,
    at: SystemTime,
    reloads: u64,
    error: Option<String>,
}

#[derive(Default)]
struct Turn {
    changes: Changes,
    /// Gateways that still had requests when they were replaced.
    retired: Vec<Gateway>,
}

/// What a reload did.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Reloaded {
    /// That of the file, [`Config::hash`].
    pub hash: String,
    /// The tables whose changes have no effect before a restart.
    pub needs_restart: Vec<&'static str>,
}

/// Which file is in force, and what became of later ones.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ReloadStatus {
    /// That of the file in force, [`Config::hash`].
    pub hash: String,
    /// Since when.
    pub at: SystemTime,
    /// How often it has changed.
    pub reloads: u64,
    /// What is wrong with the file as it was read last, if something is.
    pub error: Option<String>,
}

impl Reloading {
    /// Reads the file, and builds the first gateway of it.
    ///
    /// # Errors
    ///
    /// Everything that is wrong.
    ///
    /// # Panics
    ///
    /// As [`Config::build`].
    pub fn open(path: impl Into<PathBuf>, resources: Resources) -> Result<Self, ConfigErrors> {
        let path = path.into();
        let before = Stamps::of([&path]);
        let config = Arc::new(Config::open(&path)?);
        let resources = match config.access_log()? {
            Some(log) => resources.access_log(log),
            None => resources,
        };
        let live = Live::new(config.build(&resources)?);
        resources.metrics.report_process();
        live.report_to(&resources.metrics);
        let mut turn = Turn::default();
        turn.changes.read(before.and(config.files()));
        let turn = Mutex::new(turn);
        let state = State { config: config.clone(), at: now(), reloads: 0, error: None };
        let state = Mutex::new(state);
        let this = Self(Arc::new(Shared { path, resources, live, first: config, turn, state }));
        this.report();
        Ok(this)
    }

    /// What serves.
    #[must_use]
    pub fn live(&self) -> &Live {
        &self.0.live
    }

    /// The file in force.
    #[must_use]
    pub fn config(&self) -> Arc<Config> {
        self.state().config.clone()
    }

    /// Which file is in force.
    #[must_use]
    pub fn status(&self) -> ReloadStatus {
        let state = self.state();
        let (hash, error) = (state.config.hash().to_owned(), state.error.clone());
        ReloadStatus { hash, at: state.at, reloads: state.reloads, error }
    }

    /// Reads the file again, changed or not. It reads files and computes, so it is called where that may be: in `spawn_blocking`.
    ///
    /// # Errors
    ///
    /// Everything that is wrong; then all is as it was.
    ///
    /// # Panics
    ///
    /// As [`Config::build`].
    pub fn reload(&self) -> Result<Reloaded, ConfigErrors> {
        self.reload_in_turn(&mut self.turn())
    }

    /// Waits until all requests that have ended are in their log, at most for `limit`. It blocks.
    pub fn flush(&self, limit: Duration) {
        if let Some(log) = &self.0.resources.access_log {
            log.flush(limit);
        }
    }

    /// Where operators are listened to, and what answers them.
    #[must_use]
    pub fn admin(&self) -> Option<(SocketAddr, Admin)> {
        let section = self.0.first.file.admin.as_ref()?;
        let (shown, reloaded) = (self.clone(), self.clone());
        let mut admin = Admin::builder(self.live().clone())
            .reports()
            .config(move || {
                let mut config = shown.status().shown();
                if let Some(redis) = shown.0.resources.redis() {
                    config["redis"] = redis;
                }
                config
            })
            .reload(move || match reloaded.reload() {
                Ok(done) => Ok(json!({ "hash": done.hash, "needs_restart": done.needs_restart })),
                Err(errors) => Err(errors.to_string()),
            });
        if let Some(token) = &section.token {
            admin = admin.token(token.expose());
        }
        for host in &section.hosts {
            admin = admin.host(host);
        }
        Some((section.listen, admin.build()))
    }

    /// Reloads when the file, or one with a secret or descriptors, has changed, and did not change again within a second. It looks each second, in a thread that may block, and
    /// logs what came of it. Never ends.
    pub async fn follow(&self) {
        loop {
            sleep(LOOK).await;
            let this = self.clone();
            let _ = tokio::task::spawn_blocking(move || this.look()).await;
        }
    }

    /// Shows on the page of metrics what became of the file.
    fn report(&self) {
        let shared = Arc::downgrade(&self.0);
        self.0.resources.metrics.on_render(move |samples| {
            let Some(shared) = shared.upgrade() else { return };
            let status = Self(shared).status();
            let (name, help) = ("gusset_config_reloads_total", "How often the file has changed.");
            samples.counter(name, help, &[], status.reloads as f64);
            let name = "gusset_config_last_reload_successful";
            let help = "1 if the file is in force as it was read last, 0 if it was wrong then.";
            let good = if status.error.is_none() { 1.0 } else { 0.0 };
            samples.gauge(name, help, &[], good);
        });
    }

    fn look(&self) {
        let mut turn = self.turn();
        // Dropped here, so that no request pays for it.
        turn.retired.retain(|gateway| !gateway.is_left());
        if turn.changes.are_settled(self.stamps()) {
            let _ = self.reload_in_turn(&mut turn);
        }
    }

    fn reload_in_turn(&self, turn: &mut Turn) -> Result<Reloaded, ConfigErrors> {
        // Before it is read: what is written meanwhile is another change.
        let before = Stamps::of([&self.0.path]);
        turn.changes.read(before.clone().and(self.config().files()));
        let read = Config::open(&self.0.path)
            .and_then(|config| config.build(&self.0.resources).map(|gateway| (config, gateway)));
        let (config, gateway) = match read {
            Ok(read) => read,
            Err(errors) => {
                tracing::warn!(%errors, "the old configuration stays");
                self.state().error = Some(errors.to_string());
                return Err(errors);
            }
        };
        let config = Arc::new(config);
        turn.changes.read(before.and(config.files()));
        let needs_restart = self.0.first.unlike(&config);
        let hash = config.hash().to_owned();
        turn.retired.push(self.0.live.swap(gateway));
        turn.retired.retain(|gateway| !gateway.is_left());
        let mut state = self.state();
        let reloads = state.reloads + 1;
        *state = State { config, at: now(), reloads, error: None };
        drop(state);
        tracing::info!(hash, reloads, "the configuration is in force");
        for table in &needs_restart {
            tracing::warn!(table, "what has changed here needs a restart");
        }
        Ok(Reloaded { hash, needs_restart })
    }

    fn stamps(&self) -> Stamps {
        Stamps::of([&self.0.path]).and(self.config().files())
    }

    fn turn(&self) -> MutexGuard<'_, Turn> {
        self.0.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ReloadStatus {
    fn shown(&self) -> Value {
        let since = self.at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        json!({
            "hash": self.hash,
            "in_force_since": since.as_secs(),
            "reloads": self.reloads,
            "error": self.error,
        })
    }
}

impl Config {
    /// The tables that differ where only a restart helps.
    fn unlike(&self, later: &Self) -> Vec<&'static str> {
        let server = |config: &Self| {
            config.file.server.clone().map(|mut server| {
                server.trusted_proxies.clear();
                server
            })
        };
        let differ = [
            ("server", server(self) != server(later)),
            ("admin", self.file.admin != later.file.admin),
            ("access_log", self.file.access_log != later.file.access_log),
        ];
        differ.into_iter().filter(|(_, differs)| *differs).map(|(table, _)| table).collect()
    }
}

#[allow(clippy::disallowed_methods, reason = "people are told of it")]
fn now() -> SystemTime {
    SystemTime::now()
}

impl fmt::Debug for Reloading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reloading").field("path", &self.0.path).finish_non_exhaustive()
    }
}
