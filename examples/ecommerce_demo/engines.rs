//! The servers that a shop may stand on, started here for as long as the story lasts.

use std::{
    io,
    path::Path,
    process::{Command, Stdio},
};

use gusset_engines::{Etcd, Folder, Nats, Postgres, Redis};
use shop::{
    Carrier, Ground, Hosting, Place,
    chaos::{Server, Servers},
};

use crate::options::{Backend, Options};

/// Those that run. They end with this value, and with the process, however that ends.
#[derive(Debug, Default)]
pub(crate) struct Engines {
    pub(crate) servers: Servers,
    /// What processes share that were given neither a folder nor a database.
    scratch: Option<Folder>,
}

impl Engines {
    /// Starts those that the options ask for and that are nowhere yet, and puts the shop on them. They can be broken by its switches.
    pub(crate) async fn start(options: &Options, ground: Ground) -> io::Result<(Self, Ground)> {
        let options = options.clone();
        let starting = move || start(&options, ground);
        let (engines, ground) =
            tokio::task::spawn_blocking(starting).await.map_err(io::Error::other)??;
        engines.servers.offer_to(&ground.chaos);
        Ok((engines, ground))
    }

    /// What runs, and where.
    pub(crate) fn told(&self) -> Vec<String> {
        let all = self.servers.told().into_iter();
        all.map(|(program, place)| format!("{program:<22} {place}")).collect()
    }
}

fn start(options: &Options, mut ground: Ground) -> io::Result<(Engines, Ground)> {
    let Options { backends, processes, sidecars, .. } = options;
    let (processes, sidecars) = (*processes, *sidecars);
    let mut engines = Engines::default();
    let elsewhere = matches!(ground.broker, Carrier::Nats(_));
    if (backends.contains(&Backend::Nats) || processes) && !elsewhere {
        needs(cfg!(feature = "nats"), "nats")?;
        found("nats-server", Path::new("nats-server"))?;
        let nats = Nats::start();
        ground.broker = Carrier::Nats(nats.url());
        engines.servers.add(Server::Nats(nats));
    }
    // Sidecars have a registry of their own kind.
    if backends.contains(&Backend::Etcd) && !sidecars && !matches!(ground.registry, Place::Etcd(_))
    {
        needs(cfg!(feature = "etcd"), "etcd")?;
        found("etcd-server", Path::new("etcd"))?;
        let etcd = Etcd::start();
        ground.registry = Place::Etcd(vec![etcd.address()]);
        engines.servers.add(Server::Etcd(etcd));
    }
    if backends.contains(&Backend::Redis) && ground.redis.is_none() {
        needs(cfg!(feature = "redis"), "redis")?;
        found("redis-server", Path::new("redis-server"))?;
        let redis = Redis::start();
        ground.redis = Some(redis.url());
        engines.servers.add(Server::Redis(redis));
    }
    let own_database = backends.contains(&Backend::Postgres) && ground.database.is_none();
    if own_database {
        needs(cfg!(feature = "postgres"), "postgres")?;
        found("postgresql", Path::new("psql"))?;
        let postgres = Postgres::start();
        ground.database = Some(postgres.url());
        engines.servers.add(Server::Postgres(postgres));
        // It goes with the shop.
        ground.scratch = ground.data_dir.is_none();
    }
    if sidecars {
        needs(cfg!(feature = "sidecars"), "sidecars")?;
    }
    if processes {
        let program = std::env::current_exe()?;
        ground.hosting = match sidecars {
            true => Hosting::Sidecars(program),
            false => Hosting::Processes(program),
        };
        if ground.data_dir.is_none() && ground.database.is_none() {
            let folder = engines.scratch.insert(Folder::new("shop"));
            ground.data_dir = Some(folder.to_path_buf());
            ground.scratch = true;
        }
    }
    if ground.database.is_some() && ground.broker == Carrier::Memory {
        if !own_database {
            let how = "--database would outlive the messages about its orders: add --data-dir, or --broker nats://HOST:PORT";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, how));
        }
        ground.broker = Carrier::File;
    }
    Ok((engines, ground))
}

fn needs(built: bool, feature: &str) -> io::Result<()> {
    if built {
        return Ok(());
    }
    let how = format!("this needs --features {feature} before the name of the example");
    Err(io::Error::new(io::ErrorKind::Unsupported, how))
}

/// Whether the program of this Debian package is there.
fn found(package: &str, program: &Path) -> io::Result<()> {
    let mut command = Command::new(program);
    command.arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().map(drop).map_err(|error| {
        let how = format!(
            "cannot run {}: {error}; it is in the package {package}, or name a server that runs",
            program.display()
        );
        io::Error::new(error.kind(), how)
    })
}
