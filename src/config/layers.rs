//! What the layers say, read and put together.

use std::{
    collections::{BTreeMap, HashMap},
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use ::config::{Source, Value, ValueKind};
#[cfg(feature = "remote")]
use gusset_registry::{KvSnapshot, KvWatch};
use serde::de::DeserializeOwned;

use super::{Config, ConfigError};

#[derive(Clone, Debug)]
pub(super) enum Layer {
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
    pub(super) fn files(&self) -> Files {
        let files = self.layers.iter().filter_map(|layer| match layer {
            Layer::File { path, must_be } => Some((path.clone(), *must_be)),
            _ => None,
        });
        files.collect()
    }

    /// Puts all layers together.
    pub(super) fn read(&self, texts: &Texts) -> Result<T, ConfigError> {
        let mut together = ::config::Config::builder();
        let mut all = Vec::with_capacity(self.layers.len());
        for layer in &self.layers {
            let values = match layer {
                Layer::File { path, .. } => of_file(path, texts.get(path).map_or("", |text| text))?,
                Layer::Vars(vars) => vars.clone(),
                #[cfg(feature = "remote")]
                Layer::Keys { watch, prefix } => of_keys(&watch.snapshot(), prefix)?,
            };
            all.push(values.clone());
            together = together.add_source(Values(values));
        }
        let settings: T = together
            .build()
            .and_then(::config::Config::try_deserialize)
            .map_err(|error| placed(&error.to_string(), &all))?;
        let failed: Vec<_> =
            self.checks.iter().filter_map(|check| check(&settings).err()).collect();
        if failed.is_empty() { Ok(settings) } else { Err(ConfigError::new(failed.join("; "))) }
    }
}

/// Paths, and whether there must be something.
pub(super) type Files = Vec<(PathBuf, bool)>;

/// What stands in files.
pub(super) type Texts = BTreeMap<PathBuf, String>;

pub(super) fn texts(files: &Files) -> Result<Texts, ConfigError> {
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
pub(super) async fn texts_later(files: &Arc<Files>) -> Result<Texts, ConfigError> {
    let files = files.clone();
    let read = tokio::task::spawn_blocking(move || texts(&files)).await;
    read.unwrap_or_else(|panic| Err(ConfigError::new(panic.to_string())))
}

pub(super) fn text(origin: &str, value: impl Into<String>) -> Value {
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

/// The library says of most errors where they are, and of fields that nobody knows only what they are called.
fn placed(error: &str, layers: &[BTreeMap<String, Value>]) -> ConfigError {
    let unknown = error.strip_prefix("unknown field `").and_then(|rest| rest.split('`').next());
    let mut places = Vec::new();
    for values in layers {
        unknown.inspect(|name| find(name, "", values, &mut places));
    }
    match &*places {
        [] => ConfigError::new(error),
        places => ConfigError::new(format!("{error}: there is {}", places.join(", "))),
    }
}

fn find<'v>(
    name: &str,
    within: &str,
    values: impl IntoIterator<Item = (&'v String, &'v Value)>,
    places: &mut Vec<String>,
) {
    for (key, value) in values {
        let path = format!("{within}{key}");
        if key.split('.').any(|part| part == name) {
            places.push(format!("{path} in {}", value.origin().unwrap_or("a layer")));
        } else if let ValueKind::Table(members) = &value.kind {
            find(name, &format!("{path}."), members, places);
        }
    }
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
