//! Settings of a service, out of layers of which a later one wins, and followed while it runs.
//!
//! ```
//! use gusset::config::Config;
//! use serde::Deserialize;
//!
//! #[derive(Debug, Deserialize)]
//! #[serde(deny_unknown_fields, default)]
//! struct Settings {
//!     port: u16,
//!     greeting: String,
//! }
//!
//! impl Default for Settings {
//!     fn default() -> Self {
//!         Self { port: 8080, greeting: "hello".into() }
//!     }
//! }
//!
//! // In a program: `.env("SHOP")`, for `SHOP_PORT` and its like.
//! let config = Config::<Settings>::new().file_if_there("shop.toml").vars("SHOP", [("SHOP_PORT", "9000")]);
//! let settings = config.load()?;
//! assert_eq!((settings.port, &*settings.greeting), (9000, "hello"));
//!
//! let wrong = Config::<Settings>::new().vars("SHOP", [("SHOP_PORT", "http")]).load().unwrap_err();
//! assert!(wrong.to_string().contains("port") && wrong.to_string().contains("SHOP_PORT"), "{wrong}");
//! # Ok::<(), gusset::config::ConfigError>(())
//! ```
//!
//! | layer | a value of `server.port` |
//! |---|---|
//! | defaults | those of the type: `#[serde(default)]` |
//! | [`Config::file`], [`Config::file_if_there`]: TOML | `[server]` and `port = 80` |
//! | [`Config::env`] | `SHOP_SERVER__PORT=80`: two underscores between the parts |
//! | [`Config::kv`] (feature `remote`): keys of the registry, or of Consul | `shop/server/port` with the value `80` |
//!
//! What the environment and keys say is text, and becomes a number or a boolean where the type wants one. Tables are merged, all else is replaced as a whole. A field
//! that nobody knows is an error if the type denies unknown fields, which catches slips of the finger.
//!
//! # While it runs
//!
//! [`Config::follow`] reads files again every two seconds and follows keys at once. All settings are exchanged in one step, or none: what cannot be read, does not fit
//! the type or fails a [check](Config::check) changes nothing, and [`Live::refused`] says why.

use std::{
    collections::{BTreeMap, HashMap},
    error::Error,
    ffi::OsString,
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use ::config::{Source, Value, ValueKind};
#[cfg(feature = "remote")]
use gusset_registry::{KvSnapshot, KvWatch};
use serde::de::DeserializeOwned;
use tokio::{
    sync::watch,
    task::AbortHandle,
    time::{MissedTickBehavior, interval},
};

/// How often files are read again. As quick as an operator looks, and a file of settings is small.
const LOOK: Duration = Duration::from_secs(2);

/// Where settings come from.
pub struct Config<T> {
    layers: Vec<Layer>,
    checks: Vec<Arc<Check<T>>>,
}

type Check<T> = dyn Fn(&T) -> Result<(), String> + Send + Sync;

#[derive(Clone, Debug)]
enum Layer {
    File {
        path: PathBuf,
        must_be: bool,
    },
    /// What variables say, by the keys that they stand for.
    Vars(BTreeMap<String, Value>),
    #[cfg(feature = "remote")]
    Keys {
        watch: KvWatch,
        prefix: String,
    },
}

impl<T: DeserializeOwned + Send + Sync + 'static> Config<T> {
    /// Without any layer: the defaults of the type.
    #[must_use]
    pub fn new() -> Self {
        Self { layers: Vec::new(), checks: Vec::new() }
    }

    /// A file of TOML, which must be there.
    #[must_use]
    pub fn file(self, path: impl Into<PathBuf>) -> Self {
        self.layer(Layer::File { path: path.into(), must_be: true })
    }

    /// A file of TOML that may be missing.
    #[must_use]
    pub fn file_if_there(self, path: impl Into<PathBuf>) -> Self {
        self.layer(Layer::File { path: path.into(), must_be: false })
    }

    /// Variables of the environment as it is now: those that begin with `prefix` and an underscore. One that is no Unicode is passed over.
    #[must_use]
    pub fn env(self, prefix: &str) -> Self {
        let text = |name: OsString| name.into_string().ok();
        let vars = std::env::vars_os();
        let vars = vars.filter_map(|(name, value)| Some((text(name)?, text(value)?)));
        self.vars(prefix, vars)
    }

    /// The same of variables that come from elsewhere, as in a test.
    #[must_use]
    pub fn vars<N, V>(self, prefix: &str, vars: impl IntoIterator<Item = (N, V)>) -> Self
    where
        N: AsRef<str>,
        V: Into<String>,
    {
        let keys = vars.into_iter().filter_map(|(name, value)| {
            let key = name.as_ref().strip_prefix(prefix)?.strip_prefix('_')?;
            let origin = format!("the variable {}", name.as_ref());
            Some((key.to_lowercase().replace("__", "."), text(&origin, value.into())))
        });
        let vars = keys.filter(|(key, _)| !key.is_empty()).collect();
        self.layer(Layer::Vars(vars))
    }

    /// Keys that begin with `prefix`, such as `shop/`, as `watch` knows them; what follows are the parts of a name. A value that is no UTF-8 is an error.
    #[cfg(feature = "remote")]
    #[must_use]
    pub fn kv(self, watch: KvWatch, prefix: impl Into<String>) -> Self {
        self.layer(Layer::Keys { watch, prefix: prefix.into() })
    }

    /// What settings must fulfil beyond their type. All checks are made; the first that fails is told.
    #[must_use]
    pub fn check(
        mut self,
        check: impl Fn(&T) -> Result<(), String> + Send + Sync + 'static,
    ) -> Self {
        self.checks.push(Arc::new(check));
        self
    }

    fn layer(mut self, layer: Layer) -> Self {
        self.layers.push(layer);
        self
    }

    /// Reads all layers once. Keys are those that are known at the moment: none, if their store was not asked yet.
    ///
    /// # Errors
    ///
    /// [`ConfigError`], with the field, what it says, and the file, variable or key that says so.
    pub fn load(&self) -> Result<T, ConfigError> {
        self.read(&texts(&self.files())?)
    }

    /// Reads all layers, waits until the store of the keys has answered for the first time, and goes on reading as long as the result or a clone of it is there.
    ///
    /// # Errors
    ///
    /// As [`load`](Self::load), of the first reading only.
    ///
    /// # Cancellation
    ///
    /// Dropping the future is safe: nothing was begun. Put a timeout around it to start without a store, then with [`Config::load`].
    pub async fn follow(self) -> Result<Live<T>, ConfigError> {
        #[cfg(feature = "remote")]
        for layer in &self.layers {
            if let Layer::Keys { watch, .. } = layer {
                watch.known().await;
            }
        }
        let files = Arc::new(self.files());
        let seen = texts_later(&files).await?;
        let first = Arc::new(self.read(&seen)?);
        let (told, live) = watch::channel(State { settings: first, refused: None });
        let task = tokio::spawn(self.go_on(files, seen, told)).abort_handle();
        Ok(Live { state: live, _task: Arc::new(Following(task)) })
    }

    async fn go_on(mut self, files: Arc<Files>, mut seen: Texts, told: watch::Sender<State<T>>) {
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut read = self.keys();
        loop {
            tokio::select! {
                _ = looks.tick() => {}
                () = self.key_changes() => {}
            }
            let next = texts_later(&files).await.and_then(|now| {
                let keys = self.keys();
                if now == seen && keys == read && told.borrow().refused.is_none() {
                    return Ok(None);
                }
                (seen, read) = (now, keys);
                self.read(&seen).map(Some)
            });
            match next {
                Ok(None) => {}
                Ok(Some(settings)) => {
                    told.send_replace(State { settings: Arc::new(settings), refused: None });
                }
                Err(error) => {
                    let refused = Some(error);
                    // Only `changed` of those who want to know settings is woken by new ones.
                    told.send_if_modified(|state| {
                        state.refused = refused;
                        false
                    });
                }
            }
        }
    }

    fn files(&self) -> Files {
        let files = self.layers.iter().filter_map(|layer| match layer {
            Layer::File { path, must_be } => Some((path.clone(), *must_be)),
            _ => None,
        });
        files.collect()
    }

    /// Puts all layers together.
    fn read(&self, texts: &Texts) -> Result<T, ConfigError> {
        let mut together = ::config::Config::builder();
        for layer in &self.layers {
            let values = match layer {
                Layer::File { path, .. } => of_file(path, texts.get(path).map_or("", |text| text))?,
                Layer::Vars(vars) => vars.clone(),
                #[cfg(feature = "remote")]
                Layer::Keys { watch, prefix } => of_keys(&watch.snapshot(), prefix)?,
            };
            together = together.add_source(Values(values));
        }
        let settings: T = together.build()?.try_deserialize()?;
        for check in &self.checks {
            check(&settings).map_err(ConfigError::new)?;
        }
        Ok(settings)
    }
}

#[cfg(feature = "remote")]
impl<T> Config<T> {
    /// Ends when a key changes.
    async fn key_changes(&mut self) {
        let watches = self.layers.iter_mut().filter_map(|layer| match layer {
            Layer::Keys { watch, .. } => Some(Box::pin(watch.changed())),
            _ => None,
        });
        let mut changes: Vec<_> = watches.collect();
        std::future::poll_fn(|cx| {
            let changed = changes.iter_mut().any(|change| change.as_mut().poll(cx).is_ready());
            if changed { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
        })
        .await;
    }

    fn keys(&self) -> Vec<u64> {
        let watches = self.layers.iter().filter_map(|layer| match layer {
            Layer::Keys { watch, .. } => Some(watch.snapshot().version()),
            _ => None,
        });
        watches.collect()
    }
}

#[cfg(not(feature = "remote"))]
impl<T> Config<T> {
    async fn key_changes(&mut self) {
        std::future::pending().await
    }

    fn keys(&self) -> Vec<u64> {
        Vec::new()
    }
}

impl<T: DeserializeOwned + Send + Sync + 'static> Default for Config<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> fmt::Debug for Config<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Values may be secrets.
        f.debug_struct("Config").field("layers", &self.layers.len()).finish_non_exhaustive()
    }
}

/// Paths, and whether there must be something.
type Files = Vec<(PathBuf, bool)>;

/// What stands in files.
type Texts = BTreeMap<PathBuf, String>;

fn texts(files: &Files) -> Result<Texts, ConfigError> {
    let read = |(path, must_be): &(PathBuf, bool)| match fs::read_to_string(path) {
        Ok(text) => Ok((path.clone(), text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound && !must_be => {
            Ok((path.clone(), String::new()))
        }
        Err(error) => Err(ConfigError::new(format!("{}: {error}", path.display()))),
    };
    files.iter().map(read).collect()
}

/// The same where a disk that hangs must hold up nothing else.
async fn texts_later(files: &Arc<Files>) -> Result<Texts, ConfigError> {
    let files = files.clone();
    let read = tokio::task::spawn_blocking(move || texts(&files)).await;
    read.unwrap_or_else(|panic| Err(ConfigError::new(panic.to_string())))
}

fn text(origin: &str, value: impl Into<String>) -> Value {
    Value::new(Some(&origin.to_owned()), ValueKind::String(value.into()))
}

fn of_file(path: &Path, text: &str) -> Result<BTreeMap<String, Value>, ConfigError> {
    let origin = path.display().to_string();
    let table: toml::Table = toml::from_str(text)
        .map_err(|error| ConfigError::new(format!("{origin}: {}", error.to_string().trim_end())))?;
    Ok(table.into_iter().map(|(key, value)| (key, of_toml(&origin, value))).collect())
}

fn of_toml(origin: &String, value: toml::Value) -> Value {
    let kind = match value {
        toml::Value::String(text) => ValueKind::String(text),
        toml::Value::Integer(number) => ValueKind::I64(number),
        toml::Value::Float(number) => ValueKind::Float(number),
        toml::Value::Boolean(truth) => ValueKind::Boolean(truth),
        toml::Value::Datetime(time) => ValueKind::String(time.to_string()),
        toml::Value::Array(values) => {
            ValueKind::Array(values.into_iter().map(|value| of_toml(origin, value)).collect())
        }
        toml::Value::Table(table) => {
            let entries = table.into_iter().map(|(key, value)| (key, of_toml(origin, value)));
            ValueKind::Table(entries.collect())
        }
    };
    Value::new(Some(origin), kind)
}

#[cfg(feature = "remote")]
fn of_keys(known: &KvSnapshot, prefix: &str) -> Result<BTreeMap<String, Value>, ConfigError> {
    let mut values = BTreeMap::new();
    for entry in known.entries() {
        let Some(name) = entry.key.strip_prefix(prefix).filter(|name| !name.is_empty()) else {
            continue;
        };
        let origin = format!("the key {}", entry.key);
        let said = std::str::from_utf8(&entry.value)
            .map_err(|_| ConfigError::new(format!("{origin}: its value is no UTF-8")))?;
        values.insert(name.replace('/', "."), text(&origin, said));
    }
    Ok(values)
}

/// A layer as the library that merges them wants it.
#[derive(Clone, Debug)]
struct Values(BTreeMap<String, Value>);

impl Source for Values {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<HashMap<String, Value>, ::config::ConfigError> {
        Ok(self.0.clone().into_iter().collect())
    }
}

/// Settings that are exchanged while the program runs. Clones are told the same.
pub struct Live<T> {
    state: watch::Receiver<State<T>>,
    _task: Arc<Following>,
}

struct State<T> {
    settings: Arc<T>,
    refused: Option<ConfigError>,
}

impl<T> Live<T> {
    /// Those that hold now. Keep the result for the length of a request, so that it sees one state of them.
    #[must_use]
    pub fn get(&self) -> Arc<T> {
        self.state.borrow().settings.clone()
    }

    /// Waits until there are others than those that were last seen by this, and returns them.
    ///
    /// # Cancellation
    ///
    /// Dropping the future loses no change.
    pub async fn changed(&mut self) -> Arc<T> {
        if self.state.changed().await.is_err() {
            // Only when the runtime ends.
            std::future::pending::<()>().await;
        }
        self.state.borrow_and_update().settings.clone()
    }

    /// Why what stands in the layers now does not hold, if it does not.
    #[must_use]
    pub fn refused(&self) -> Option<ConfigError> {
        self.state.borrow().refused.clone()
    }
}

impl<T> Clone for Live<T> {
    fn clone(&self) -> Self {
        Self { state: self.state.clone(), _task: self._task.clone() }
    }
}

impl<T> fmt::Debug for Live<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Live").field("refused", &self.refused()).finish_non_exhaustive()
    }
}

/// Ends the task when the last [`Live`] goes.
struct Following(AbortHandle);

impl Drop for Following {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What is wrong with settings, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError(Box<str>);

impl ConfigError {
    fn new(text: impl Into<Box<str>>) -> Self {
        Self(text.into())
    }
}

impl From<::config::ConfigError> for ConfigError {
    fn from(error: ::config::ConfigError) -> Self {
        Self::new(error.to_string())
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for ConfigError {}
