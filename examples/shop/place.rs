//! Where the services of a shop find each other, and where their settings stand.

use std::{fmt, io, str::FromStr, sync::Arc, time::Duration};

use gusset::{
    call::BoxError,
    gateway,
    registry::{
        ConsulPolicy, ConsulServer, ConsulTicker, MemoryRegistry, Policy, Registry, RemotePolicy,
        RemoteRegistry, Sweeper,
    },
    shutdown::Shutdown,
};
use serde::{Deserialize, Serialize};
use tokio::{net::TcpListener, task::JoinHandle};

use crate::{
    Times,
    chaos::{Broken, Chaos},
};

/// The registry of a shop.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Place {
    /// In this process, without a socket.
    #[default]
    Memory,
    /// Served by this process over HTTP, on a socket of its own.
    Http,
    /// Served over HTTP by `gusset registry`, or by an agent of Consul, at this address. The settings stand there as well.
    Remote(String),
    /// Kept by etcd at these addresses, each `host:port`. Needs the feature `etcd`.
    Etcd(Vec<String>),
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let addresses = |list: &str| list.split(',').map(str::to_owned).collect::<Vec<_>>();
        match text.split_once("://") {
            None if text == "memory" => Ok(Self::Memory),
            None if text == "http" => Ok(Self::Http),
            Some(("http", address)) if is_address(address) => Ok(Self::Remote(text.to_owned())),
            Some(("etcd", list)) if addresses(list).iter().all(|address| is_address(address)) => {
                Ok(Self::Etcd(addresses(list)))
            }
            _ => Err(format!("memory, http, http://HOST:PORT or etcd://HOST:PORT, not '{text}'")),
        }
    }
}

fn is_address(text: &str) -> bool {
    text.rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory => f.write_str("memory"),
            Self::Http => f.write_str("http"),
            Self::Remote(url) => f.write_str(url),
            Self::Etcd(addresses) => write!(f, "etcd://{}", addresses.join(",")),
        }
    }
}

type Connect = dyn Fn() -> Result<Arc<dyn Registry>, BoxError> + Send + Sync;

/// Hands a registry to each instance: a connection of its own, as separate processes would have. Clones are one.
#[derive(Clone)]
pub(crate) struct Registries {
    connect: Arc<Connect>,
    chaos: Chaos,
    _sweeper: Option<Arc<Sweeper>>,
}

impl Registries {
    /// `url` is that of the server. They can be broken by the switches of `chaos`.
    pub(crate) fn at(place: &Place, url: &str, times: Times, chaos: &Chaos) -> io::Result<Self> {
        let whole = match place {
            Place::Memory => Self::in_memory(times),
            Place::Http | Place::Remote(_) => Self::over_http(url, times),
            Place::Etcd(addresses) => Self::in_etcd(addresses, times)?,
        };
        Ok(Self { chaos: chaos.clone(), ..whole })
    }

    /// Within the runtime that is to keep the connection.
    pub(crate) fn connect(&self) -> io::Result<Arc<dyn Registry>> {
        let whole = (self.connect)().map_err(io::Error::other)?;
        Ok(Broken::before(whole, &self.chaos))
    }

    fn in_memory(times: Times) -> Self {
        let policy = Policy::default()
            .ttl(times.ttl)
            .sweep_every(times.sweep)
            .evict_after(times.ttl.saturating_mul(2));
        let registry = MemoryRegistry::new(policy);
        let sweeper = registry.spawn_sweeper();
        let connect = move || Ok::<Arc<dyn Registry>, _>(Arc::new(registry.clone()));
        let (connect, sweeper) = (Arc::new(connect), Some(Arc::new(sweeper)));
        Self { connect, chaos: Chaos::default(), _sweeper: sweeper }
    }

    fn over_http(url: &str, times: Times) -> Self {
        let url = url.to_owned();
        let connect = move || {
            let policy = RemotePolicy::default().ttl(times.ttl);
            Ok::<Arc<dyn Registry>, BoxError>(Arc::new(RemoteRegistry::new(&url, policy)?))
        };
        Self { connect: Arc::new(connect), chaos: Chaos::default(), _sweeper: None }
    }

    #[cfg(feature = "etcd")]
    fn in_etcd(addresses: &[String], times: Times) -> io::Result<Self> {
        use gusset::registry::{EtcdPolicy, EtcdRegistry};
        let addresses = addresses.to_vec();
        let connect = move || {
            let policy = EtcdPolicy::default().ttl(times.ttl);
            let registry = EtcdRegistry::spawn(&addresses, policy)?;
            Ok::<Arc<dyn Registry>, BoxError>(Arc::new(registry))
        };
        Ok(Self { connect: Arc::new(connect), chaos: Chaos::default(), _sweeper: None })
    }

    #[cfg(not(feature = "etcd"))]
    fn in_etcd(_: &[String], _: Times) -> io::Result<Self> {
        let how = "a registry in etcd needs --features etcd before the name of the example";
        Err(io::Error::new(io::ErrorKind::Unsupported, how))
    }
}

impl fmt::Debug for Registries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registries").finish_non_exhaustive()
    }
}

/// Where Consul's HTTP API is: on a socket of this process, as `gusset registry` would serve it, or elsewhere.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) url: String,
    own: Option<Own>,
}

#[derive(Debug)]
struct Own {
    consul: ConsulServer,
    shutdown: Shutdown,
    serving: JoinHandle<io::Result<()>>,
    _ticker: ConsulTicker,
}

impl Server {
    /// That of a place; where that is not a server elsewhere, it is spawned on any free port.
    pub(crate) async fn of(place: &Place) -> io::Result<Self> {
        match place {
            Place::Remote(url) => Ok(Self { url: url.clone(), own: None }),
            Place::Memory | Place::Http | Place::Etcd(_) => Self::spawn("127.0.0.1:0").await,
        }
    }

    pub(crate) async fn spawn(addr: &str) -> io::Result<Self> {
        let listener = TcpListener::bind(addr).await?;
        let url = format!("http://{}", listener.local_addr()?);
        let consul = ConsulServer::new(ConsulPolicy::default());
        let ticker = consul.spawn_ticker();
        let shutdown = Shutdown::new(Duration::ZERO);
        // Who is blocked is answered first, so nobody is lingered for.
        let http = gateway::Server::new().linger(Duration::ZERO);
        let serving = http.run(listener, consul.clone(), shutdown.begun());
        let serving = tokio::spawn(async { serving.await.map_err(io::Error::other) });
        let own = Own { consul, shutdown, serving, _ticker: ticker };
        Ok(Self { url, own: Some(own) })
    }

    /// Answers who is blocked, and ends.
    pub(crate) async fn close(self) -> io::Result<()> {
        let Some(own) = self.own else { return Ok(()) };
        own.consul.close();
        own.shutdown.begin();
        own.serving.await.map_err(io::Error::other)?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_as_they_are_written() {
        let good = ["memory", "http", "http://a:8500", "etcd://127.0.0.1:2379", "etcd://a:1,b:2"];
        for text in good {
            assert_eq!(text.parse::<Place>().map(|place| place.to_string()), Ok(text.into()));
        }
        for text in [
            "",
            "etcd",
            "etcd://",
            "etcd://host",
            "etcd://a:1,b",
            "zk://a:1",
            "memory://",
            "http://",
            "http://a:1/v1",
        ] {
            assert!(text.parse::<Place>().unwrap_err().contains(text), "{text}");
        }
    }
}
