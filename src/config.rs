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

/// What the fuzz targets of the workspace's folder `fuzz` call.
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzz;
mod layers;
mod live;

use std::{error::Error, ffi::OsString, fmt, path::PathBuf, sync::Arc};

#[cfg(feature = "remote")]
use gusset_registry::KvWatch;
use serde::de::DeserializeOwned;

use layers::{Layer, text, texts};
pub use live::Live;

/// Where settings come from.
pub struct Config<T> {
    layers: Vec<Layer>,
    checks: Vec<Arc<Check<T>>>,
}

type Check<T> = dyn Fn(&T) -> Result<(), String> + Send + Sync;

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

    /// What settings must fulfil beyond their type. All checks are made, and all that fail are told.
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

/// What is wrong with settings, and where. Its `Debug` is its text, for a `main` that returns it.
#[derive(Clone, PartialEq, Eq)]
pub struct ConfigError(Box<str>);

impl ConfigError {
    fn new(text: impl Into<Box<str>>) -> Self {
        Self(text.into())
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for ConfigError {}
