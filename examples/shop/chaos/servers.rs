//! The servers that a shop stands on, started beside it, and what faults do to them.

use std::{
    io,
    sync::{Arc, Mutex},
};

use gusset_engines::{Etcd, Nats, Postgres, Redis};
use tokio::task::spawn_blocking;

use super::{Chaos, Fault, Faults};
use crate::api::lock;

/// One that runs. It ends with this value.
#[derive(Debug)]
pub enum Server {
    /// Carries messages.
    Nats(Nats),
    /// Knows the instances.
    Etcd(Etcd),
    /// Keeps what orders depend on.
    Postgres(Postgres),
    /// Counts for the quotas.
    Redis(Redis),
}

impl Server {
    /// What breaks it.
    #[must_use]
    pub const fn fault(&self) -> Fault {
        match self {
            Self::Nats(_) => Fault::BrokerDown,
            Self::Etcd(_) => Fault::RegistryStopped,
            Self::Postgres(_) => Fault::PostgresDown,
            Self::Redis(_) => Fault::RedisDown,
        }
    }

    /// Its program, and where it is.
    #[must_use]
    pub fn told(&self) -> (&'static str, String) {
        match self {
            Self::Nats(nats) => ("nats-server", nats.url()),
            Self::Etcd(etcd) => ("etcd", etcd.address()),
            Self::Postgres(postgres) => ("postgres", postgres.url()),
            Self::Redis(redis) => ("redis-server", redis.url()),
        }
    }

    fn hurt(&mut self) {
        match self {
            Self::Nats(nats) => nats.kill(),
            Self::Etcd(etcd) => etcd.pause(),
            Self::Redis(redis) => redis.kill(),
            // At once, and without a last look at what is under way. Killed, it would leave shared memory that nobody removes.
            Self::Postgres(postgres) => {
                postgres.signal("QUIT");
                postgres.ends();
            }
        }
    }

    /// With what is on its disk.
    fn heal(&mut self) {
        match self {
            Self::Nats(nats) => nats.start(),
            Self::Etcd(etcd) => etcd.resume(),
            Self::Redis(redis) => redis.start(),
            Self::Postgres(postgres) => postgres.start(),
        }
    }
}

/// Those of one shop. Clones are one; with the last they end, and with the process, however that ends.
#[derive(Clone, Debug, Default)]
pub struct Servers {
    /// Each, and whether it is broken at present.
    all: Arc<Mutex<Vec<(Server, bool)>>>,
}

impl Servers {
    /// One more.
    pub fn add(&self, server: Server) {
        lock(&self.all).push((server, false));
    }

    /// What runs, and where.
    #[must_use]
    pub fn told(&self) -> Vec<(&'static str, String)> {
        lock(&self.all).iter().map(|(server, _)| server.told()).collect()
    }

    /// From now on these switches can break them, by [`obey`](Self::obey).
    pub fn offer_to(&self, chaos: &Chaos) {
        lock(&self.all).iter().for_each(|(server, _)| chaos.offer(server.fault()));
    }

    /// Breaks and mends them as these faults say. To be called after each change of the switches, before [`Shop::obey`](crate::Shop::obey).
    ///
    /// # Errors
    ///
    /// If one does not come back within a minute.
    ///
    /// # Cancellation
    ///
    /// Dropped, it is done all the same.
    pub async fn obey(&self, on: Faults) -> io::Result<()> {
        let all = self.all.clone();
        let obeyed = spawn_blocking(move || {
            for (server, broken) in lock(&all).iter_mut() {
                let is_to_be = on.has(server.fault());
                if is_to_be == *broken {
                    continue;
                }
                if is_to_be {
                    server.hurt();
                } else {
                    server.heal();
                }
                // One that does not come back is tried again.
                *broken = is_to_be;
            }
        });
        obeyed.await.map_err(io::Error::other)
    }
}
