//! Where the broker is whose dead letters are meant.

use std::path::PathBuf;

use gusset_broker::{Broker, Limits};
#[cfg(feature = "file")]
use gusset_broker::{FileEngine, FileError, FileOptions};
#[cfg(feature = "nats")]
use gusset_broker::{NatsEngine, NatsOptions};

use crate::text::with_cause;

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Not known yet.
    Nowhere,
    #[cfg(feature = "nats")]
    Nats { url: String, namespace: String },
    #[cfg(feature = "file")]
    Folder(PathBuf),
}

/// What the command line says of it.
#[derive(Debug, Default)]
pub(super) struct Named {
    pub(super) dir: Option<PathBuf>,
    pub(super) nats: Option<String>,
    pub(super) namespace: Option<String>,
}

impl Named {
    /// `nats` is the server of the environment.
    pub(super) fn place(self, nats: Option<String>) -> Result<Place, &'static str> {
        match (self.dir, self.nats, self.namespace) {
            (Some(_), Some(_), _) => Err("the broker is in a folder or on NATS: --dir or --nats"),
            (Some(_), None, Some(_)) => Err("--namespace goes with --nats"),
            #[cfg(feature = "file")]
            (Some(dir), None, None) => Ok(Place::Folder(dir)),
            #[cfg(not(feature = "file"))]
            (Some(_), None, None) => Err("this gusset was built without the feature file"),
            (None, named, namespace) => {
                let url = named.or(nats).filter(|url| !url.is_empty());
                let url = url.ok_or("where is the broker? --dir FOLDER or --nats URL")?;
                on_nats(url, namespace)
            }
        }
    }
}

#[cfg(feature = "nats")]
fn on_nats(url: String, namespace: Option<String>) -> Result<Place, &'static str> {
    Ok(Place::Nats { url, namespace: namespace.unwrap_or_else(|| "gusset".into()) })
}

#[cfg(not(feature = "nats"))]
fn on_nats(_: String, _: Option<String>) -> Result<Place, &'static str> {
    Err("this gusset was built without the feature nats")
}

impl Place {
    /// The broker that is there already; none is made.
    pub(super) async fn open(&self) -> Result<Broker, String> {
        match self {
            Self::Nowhere => Err("where is the broker?".into()),
            #[cfg(feature = "nats")]
            Self::Nats { url, namespace } => {
                let options = NatsOptions::new(&**url).namespace(&**namespace).existing();
                let engine = NatsEngine::connect(options, Limits::new()).await;
                engine.map(Broker::on).map_err(with_cause)
            }
            #[cfg(feature = "file")]
            Self::Folder(dir) => {
                let engine = FileEngine::open(dir, FileOptions::new().limits(all()).existing());
                engine.map(Broker::on).map_err(|error| match error {
                    FileError::InUse { .. } => format!(
                        "{error}, which has the dead letters in memory: stop it first, or let it redrive and purge by itself"
                    ),
                    error => with_cause(error),
                })
            }
        }
    }
}

/// What the program has bounded is not for its operator to forget.
#[cfg(feature = "file")]
const fn all() -> Limits {
    let limits = Limits::new().groups(usize::MAX).dead_letters(usize::MAX);
    limits.dead_letter_bytes(usize::MAX).dedup(std::time::Duration::MAX, usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broker_is_in_one_place() {
        let named = |dir: Option<&str>, nats: Option<&str>, namespace: Option<&str>| {
            let (dir, nats) = (dir.map(Into::into), nats.map(str::to_owned));
            Named { dir, nats, namespace: namespace.map(str::to_owned) }
        };
        let env = || Some("nats://env".to_owned());
        assert!(named(Some("d"), Some("nats://h"), None).place(None).is_err());
        assert!(named(Some("d"), None, Some("shop")).place(None).is_err());
        assert!(named(None, Some(""), None).place(env()).is_err());
        assert!(named(None, None, None).place(None).is_err());
        #[cfg(feature = "file")]
        assert_eq!(named(Some("d"), None, None).place(env()), Ok(Place::Folder("d".into())));
        #[cfg(feature = "nats")]
        assert_eq!(
            named(None, None, Some("shop")).place(env()),
            Ok(Place::Nats { url: "nats://env".into(), namespace: "shop".into() })
        );
    }
}
