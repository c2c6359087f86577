//! What carries the events of a shop.

use std::{fmt, io, path::PathBuf, str::FromStr};

use gusset::broker::{Broker, Limits, MemoryEngine, WhenUnheard};
use serde::{Deserialize, Serialize};

use crate::{
    chaos::{Chaos, Lossy},
    folder::Folder,
};

/// The engine of a shop's broker.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Carrier {
    /// In this process, lost with it.
    #[default]
    Memory,
    /// Files in the shop's folder, or in a temporary one that goes with the shop. Needs the feature `files`.
    File,
    /// A NATS JetStream server at this address, `nats://host:port`. Needs the feature `nats`. A shop without a folder begins there with nothing, so
    /// there is one of that kind at a time on a server.
    Nats(String),
}

impl FromStr for Carrier {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let is_address = |text: &str| {
            let parts = text.rsplit_once(':');
            parts.is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
        };
        match text.split_once("://") {
            None if text == "memory" => Ok(Self::Memory),
            None if text == "file" => Ok(Self::File),
            Some(("nats", address)) if is_address(address) => Ok(Self::Nats(text.to_owned())),
            _ => Err(format!("memory, file or nats://HOST:PORT, not '{text}'")),
        }
    }
}

impl fmt::Display for Carrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory => f.write_str("memory"),
            Self::File => f.write_str("file"),
            Self::Nats(url) => f.write_str(url),
        }
    }
}

/// The broker, and the folder that goes with it if that is a temporary one.
#[derive(Debug)]
pub(crate) struct Events {
    pub(crate) broker: Broker,
    scratch: Option<PathBuf>,
}

impl Events {
    /// Messages can be lost by the switches of `chaos`.
    pub(crate) async fn on(carrier: &Carrier, folder: &Folder, chaos: &Chaos) -> io::Result<Self> {
        match carrier {
            Carrier::Memory if folder.keeps => Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "events in memory would be lost while the rest is kept: let them be carried by file or nats",
            )),
            Carrier::Memory => {
                let engine = MemoryEngine::new(Limits::new(), None, WhenUnheard::Drop);
                Ok(Self { broker: Broker::on(Lossy::before(engine, chaos)), scratch: None })
            }
            Carrier::File => Self::in_files(folder, chaos).await,
            Carrier::Nats(url) => Self::over_nats(url, folder, chaos).await,
        }
    }

    #[cfg(feature = "files")]
    async fn in_files(folder: &Folder, chaos: &Chaos) -> io::Result<Self> {
        use gusset::broker::{FileEngine, FileOptions};
        let scratch = || std::env::temp_dir().join(format!("gusset-shop-{}", crate::api::new_id()));
        let (path, scratch) = match folder.path() {
            Some(folder) => (folder.join("events"), None),
            None => {
                let scratch = scratch();
                (scratch.clone(), Some(scratch))
            }
        };
        let open = move || FileEngine::open(&path, FileOptions::new());
        let engine = tokio::task::spawn_blocking(open).await.map_err(io::Error::other)?;
        let engine = Lossy::before(engine.map_err(io::Error::other)?, chaos);
        Ok(Self { broker: Broker::on(engine), scratch })
    }

    #[cfg(not(feature = "files"))]
    async fn in_files(_: &Folder, _: &Chaos) -> io::Result<Self> {
        let how = "events in files need the feature files, which is on by default";
        Err(io::Error::new(io::ErrorKind::Unsupported, how))
    }

    #[cfg(feature = "nats")]
    async fn over_nats(url: &str, folder: &Folder, chaos: &Chaos) -> io::Result<Self> {
        use std::time::Duration;

        use gusset::broker::{Error, Filter, Limits, NatsEngine, NatsOptions};

        use crate::{choreography, inventory, notification};

        let namespace = match folder.keeps {
            false => "shop".to_owned(),
            true => namespace_in(&folder.ledger).await?,
        };
        // Servers set aside what a stream may grow to. What a killed shop was at work on comes back soon.
        let options = NatsOptions::new(url).namespace(namespace);
        let options = options.max_bytes(64 << 20).ack_wait(Duration::from_secs(2));
        let engine = NatsEngine::connect(options, Limits::new()).await.map_err(io::Error::other)?;
        let broker = Broker::on(Lossy::before(engine, chaos));
        if !folder.keeps {
            // What an earlier shop left is about orders that are gone.
            let groups = [inventory::GROUP, notification::GROUP].into_iter();
            for group in groups.chain(choreography::GROUPS.map(|(group, _)| group)) {
                match broker.remove(group).await {
                    Ok(_) | Err(Error::NoSuchGroup(_)) => {}
                    Err(error) => return Err(io::Error::other(error)),
                }
            }
            broker.dead_letters().purge(&Filter::all()).await.map_err(io::Error::other)?;
        }
        Ok(Self { broker, scratch: None })
    }

    #[cfg(not(feature = "nats"))]
    async fn over_nats(_: &str, _: &Folder, _: &Chaos) -> io::Result<Self> {
        let how = "events on NATS need --features nats before the name of the example";
        Err(io::Error::new(io::ErrorKind::Unsupported, how))
    }
}

/// What is kept has streams of its own.
#[cfg(feature = "nats")]
async fn namespace_in(ledger: &crate::ledger::Ledger) -> Result<String, crate::NotKept> {
    let (kind, key) = ("namespace", "nats");
    let known = ledger.change([crate::ledger::place(kind, key)], move |page| {
        if let Some(known) = page.get(kind, key)? {
            return Ok(known);
        }
        let namespace = format!("shop-{:08x}", rand::random::<u32>());
        page.put(kind, key, &namespace);
        Ok(namespace)
    });
    known.await
}

impl Drop for Events {
    fn drop(&mut self) {
        let _ = self.scratch.take().map(std::fs::remove_dir_all);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn carriers_are_read_as_they_are_written() {
        for text in ["memory", "file", "nats://127.0.0.1:4222"] {
            assert_eq!(text.parse::<Carrier>().map(|carrier| carrier.to_string()), Ok(text.into()));
        }
        for text in ["", "nats", "nats://", "nats://host", "file://x", "http://a:1"] {
            assert!(text.parse::<Carrier>().unwrap_err().contains(text), "{text}");
        }
    }
}
