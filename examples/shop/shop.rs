mod instances;
mod told;

use std::{
    collections::BTreeSet,
    future::ready,
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use gusset::{
    broker::{Broker, Filter, Subscription},
    call::Deadline,
    gateway::{Gateway, Split, serve},
    observe,
    registry::{Registry, RemoteKv, RemotePolicy},
    shutdown::Shutdown,
    sidecar::{Recorder, Sidecar},
};
use http::Method;
use serde::{Deserialize, Serialize};
use tokio::{
    net::TcpListener,
    task::{JoinHandle, JoinSet},
    time::{sleep, timeout},
};

use crate::{
    Carrier, Hosting, Place, Quotas,
    api::new_id,
    carrier::Events,
    chaos::{Chaos, Fault},
    choreography::Flow,
    folder::{Folder, Opener},
    front::{self, Door},
    host,
    inventory::Inventory,
    notification::Notifications,
    order::Orders,
    payment::{Bank, Payments},
    place::{Registries, Server},
    plan::{Member, Plan},
    processes::Processes,
    product::Products,
    release,
    service::Running,
    services::{SERVICES, Services, declare_groups},
    token::Tokens,
};

/// How long a shop that closes waits for what its orders have to tell.
const LIMIT: Duration = Duration::from_secs(5);

/// How long a mail takes where the fault says that it is slow.
pub(crate) const SLOW_MAIL: Duration = Duration::from_millis(200);

/// The times that a story has no patience for, and that production has.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Times {
    /// How long an instance may be silent.
    pub ttl: Duration,
    /// How often the registry looks.
    pub sweep: Duration,
    /// How long a circuit stays open.
    pub open_for: Duration,
}

impl Default for Times {
    fn default() -> Self {
        Self {
            ttl: Duration::from_secs(30),
            sweep: Duration::from_secs(10),
            open_for: Duration::from_secs(30),
        }
    }
}

/// What a shop stands on.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Ground {
    /// Where its services find each other.
    pub registry: Place,
    /// What carries their events.
    pub broker: Carrier,
    /// Where it keeps accounts, stock, reservations, payments, orders, what was counted and mailed, and the journals of the sagas. A shop that is opened
    /// there again, after whatever end, finishes or undoes what was under way. Made if it is not there. Without, all that is in memory, and ends with the
    /// process. Needs the feature `files`, and a broker that outlives the process as well.
    pub data_dir: Option<PathBuf>,
    /// Keeps the same in a PostgreSQL database, as tokio-postgres takes it; then the folder is for messages in files only. Needs the feature `postgres`.
    pub database: Option<String>,
    /// Counts there, as `redis://host:port`, what a customer may order and do with a cart, for all gateways of the shop together. See [`Quotas`](crate::Quotas) for what happens while it
    /// is away. Needs the feature `redis`.
    pub redis: Option<String>,
    /// Who knows what is to be done about an order.
    pub flow: Flow,
    /// How patient it is.
    pub times: Times,
    /// What can be broken on purpose. Where the parts are processes, these are told by [`Shop::obey`].
    #[serde(skip)]
    pub chaos: Chaos,
    /// What signs the tokens of its customers, for a gateway in another process. Without, one that nobody else knows.
    pub secret: Option<String>,
    /// Whether the folder is removed in the end, so that nothing in it has to outlive a loss of power.
    pub scratch: bool,
    /// Where the parts of the shop run.
    #[serde(skip)]
    pub hosting: Hosting,
}

impl Ground {
    pub(crate) fn tokens(&self) -> Tokens {
        self.secret.as_deref().map_or_else(Tokens::random, Tokens::signed_by)
    }
}

/// The whole shop: its services on sockets of their own, and everything that a test or a story wants to look at.
#[derive(Debug)]
pub struct Shop {
    /// Who is alive where.
    pub registry: Arc<dyn Registry>,
    /// The store of the settings.
    pub keys: RemoteKv,
    /// Through which the services tell each other what happened.
    pub broker: Broker,
    events: Events,
    folder: Folder,
    /// The front door.
    pub gateway: Gateway,
    /// How the gateway shares what customers read between the present and the next release of the product service.
    pub(crate) split: Split,
    /// The product service.
    pub products: Products,
    /// The payment service.
    pub payments: Payments,
    /// The order service.
    pub orders: Orders,
    /// The notification service.
    pub notifications: Notifications,
    /// The inventory service.
    pub inventory: Inventory,
    /// What is broken on purpose.
    pub chaos: Chaos,
    /// All instances that run in this process.
    pub running: Vec<Running>,
    /// What runs in others.
    pub(crate) processes: Option<Processes>,
    /// Those that a fault has killed.
    killed: BTreeSet<&'static str>,
    members: Vec<Member>,
    consumers: Vec<Subscription>,
    pub(crate) plan: Plan,
    recorder: Recorder,
    shutdown: Shutdown,
    front_door: JoinHandle<io::Result<()>>,
    /// Where Consul's HTTP API is.
    url: String,
    server: Option<Server>,
}

impl Shop {
    /// Opens it, its gateway on `listener`. Every service is registered when this returns; sagas that an earlier process left are taken up by then or a few
    /// seconds later.
    ///
    /// # Errors
    ///
    /// If there are no more ports or threads to be had, an engine cannot be, or the folder is open elsewhere, damaged, or of a newer shop.
    pub async fn open(ground: &Ground, listener: TcpListener) -> io::Result<Self> {
        let program = match &ground.hosting {
            Hosting::Threads => None,
            Hosting::Processes(program) => Some((&**program, false)),
            Hosting::Sidecars(program) => Some((&**program, true)),
        };
        if let Some(program) = program {
            let front = listener.local_addr()?;
            // It is the gateway's from now on.
            drop(listener);
            return Self::of_processes(program, ground, front).await;
        }
        let (place, times) = (&ground.registry, ground.times);
        let server = Server::of(place).await?;
        let registries = Registries::at(place, &server.url, times, &ground.chaos)?;
        let folder = Folder::of(ground, Opener::Shop).await?;
        let events = Events::on(&ground.broker, &folder, &ground.chaos).await?;
        let mut shop = Self::of(ground, registries, (folder, events), Some(server), None)?;
        let door = serve(listener, shop.gateway.clone(), shop.shutdown.begun());
        shop.front_door = tokio::spawn(async { door.await.map_err(io::Error::other) });
        shop.start_services().await?;
        Ok(shop)
    }

    /// Opens one that shares no memory with its parts.
    async fn of_processes(
        program: (&Path, bool),
        ground: &Ground,
        front: SocketAddr,
    ) -> io::Result<Self> {
        let invalid = |why: &str| Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        if !matches!(ground.broker, Carrier::Nats(_)) {
            return invalid("processes tell each other what happened through NATS");
        }
        if ground.data_dir.is_none() && ground.database.is_none() {
            return invalid("processes share a folder or a database");
        }
        if program.1 && matches!(ground.registry, Place::Etcd(_)) {
            return invalid(
                "sidecars find others in a registry that speaks Consul's HTTP API, not in etcd",
            );
        }
        let secret = ground.secret.clone().unwrap_or_else(|| new_id().to_string());
        let ground = Ground { secret: Some(secret), ..ground.clone() };
        if program.1 {
            // It is their sidecars that ask it.
            ground.chaos.withhold(Fault::RegistryFails);
            ground.chaos.withhold(Fault::RegistryFrozen);
        }
        if !matches!(ground.registry, Place::Etcd(_)) {
            ground.chaos.offer(Fault::RegistryStopped);
        }
        // Before they come: what one of them tells waits for the others.
        let folder = Folder::of(&ground, Opener::Shop).await?;
        let events = Events::on(&ground.broker, &folder, &ground.chaos).await?;
        declare_groups(&events.broker, ground.flow, folder.keeps).await?;
        Orders::new(&folder, ground.flow).adopt().await?;
        let processes = Processes::open(program, &ground, front).await?;
        let (place, url) = (processes.place(), processes.url());
        let registries = Registries::at(place, url, ground.times, &ground.chaos)?;
        Self::of(&ground, registries, (folder, events), None, Some(processes))
    }

    fn of(
        ground: &Ground,
        registries: Registries,
        (folder, events): (Folder, Events),
        server: Option<Server>,
        processes: Option<Processes>,
    ) -> io::Result<Self> {
        let url = match (&server, &processes) {
            (Some(server), _) => server.url.clone(),
            (None, Some(processes)) => processes.url().to_owned(),
            (None, None) => return Err(io::Error::other("there is no registry")),
        };
        let registry = registries.connect()?;
        let (breaker, tokens) = (host::breaker(ground.times), ground.tokens());
        let recorder = Recorder::new("gateway");
        let split = release::split();
        let door = Door { tokens: tokens.clone(), quotas: Quotas::of(ground)?, breaker };
        let gateway = front::gateway(registry.clone(), &door, recorder.clone(), &split)
            .map_err(io::Error::other)?;
        let services = Services::new(&folder, &tokens, ground.flow, &events.broker);
        let mut plan = Plan::new(registries, breaker, url.clone())?;
        services.plan(&mut plan, &ground.chaos);
        Ok(Self {
            registry,
            keys: RemoteKv::new(&url, RemotePolicy::default()).map_err(io::Error::other)?,
            broker: events.broker.clone(),
            events,
            gateway,
            split,
            products: services.products,
            payments: services.payments,
            orders: services.orders,
            notifications: services.notifications,
            inventory: services.inventory,
            folder,
            chaos: ground.chaos.clone(),
            running: Vec::new(),
            processes,
            killed: BTreeSet::new(),
            members: Vec::new(),
            consumers: Vec::new(),
            plan,
            recorder,
            shutdown: Shutdown::new(Duration::ZERO),
            front_door: tokio::spawn(ready(Ok(()))),
            url,
            server,
        })
    }

    async fn start_services(&mut self) -> io::Result<()> {
        self.orders.adopt().await?;
        let (inventory, notification) =
            (Sidecar::new("inventory-service"), Sidecar::new("notification-service"));
        // What comes while nobody listens waits for them.
        declare_groups(&self.broker, self.orders.flow(), self.folder.keeps).await?;
        let subscribed = [
            self.inventory.subscribe(&self.broker, &inventory).await.map_err(io::Error::other)?,
            self.notifications
                .subscribe(&self.broker, &notification)
                .await
                .map_err(io::Error::other)?,
        ];
        self.consumers.extend(subscribed);
        let consumer = |sidecar| Member { id: "consumer".into(), sidecar, outbound: None };
        self.members.extend([inventory, notification].map(consumer));
        for (service, instances) in SERVICES {
            for number in 1..=instances {
                self.start_one(service, number).await?;
            }
        }
        // One broker for all, so one of them tells of it.
        for member in self.members.iter().filter(|member| member.id == "inventory-service-1") {
            observe::numbers(&self.broker, member.sidecar.metrics());
        }
        Ok(())
    }

    /// Whether what an order depends on outlives this process.
    #[must_use]
    pub const fn keeps(&self) -> bool {
        self.folder.keeps
    }

    /// The folder where everything is kept, if there is one.
    #[must_use]
    pub fn folder(&self) -> Option<&Path> {
        self.folder.path()
    }

    /// Where a setting is read and written, over HTTP.
    #[must_use]
    pub fn setting_url(&self, key: &str) -> String {
        format!("{}/v1/kv/{key}", self.url)
    }

    /// Changes how the bank behaves, for all instances of the payment service.
    ///
    /// # Errors
    ///
    /// If one of them cannot be told.
    pub async fn set_bank(&self, bank: Bank) -> io::Result<()> {
        self.payments.set_bank(bank);
        match &self.processes {
            Some(processes) => processes.tell("payment-service", Method::PUT, "/bank", &bank).await,
            None => Ok(()),
        }
    }

    /// Repairs the template of the mails.
    ///
    /// # Errors
    ///
    /// If the service cannot be told.
    pub async fn repair_mails(&self) -> io::Result<()> {
        self.notifications.repair();
        match &self.processes {
            Some(processes) => {
                let path = "/template/repair";
                processes.tell("notification-service", Method::POST, path, &()).await
            }
            None => Ok(()),
        }
    }

    /// Closes it: first the front door, then the services, then the broker; each finishes what is under way.
    ///
    /// # Errors
    ///
    /// If something did not end in time.
    pub async fn close(self) -> io::Result<()> {
        self.shutdown.begin();
        // Whoever follows an order would hold the door open for as long.
        self.orders.close();
        let mut result = self.front_door.await.map_err(io::Error::other).and_then(|served| served);
        // While there is still somebody who tells it.
        let told = async {
            while self.orders.untold().await? > 0 || is_dancing(&self.orders, &self.broker).await? {
                sleep(Duration::from_millis(10)).await;
            }
            io::Result::Ok(())
        };
        result = timeout(LIMIT, told).await.map_err(io::Error::other).flatten().and(result);
        if let Some(processes) = self.processes {
            result = processes.close().await.and(result);
        }
        // Those that were started last call those that were started first.
        let mut running = self.running;
        running.sort_by_key(|one| self.plan.place_of(one.service()));
        while let Some(last) = running.last() {
            let service = last.service().to_owned();
            let first = running.iter().position(|one| one.service() == service);
            let mut leaving: JoinSet<_> =
                running.drain(first.unwrap_or(0)..).map(Running::stop).collect();
            while let Some(stopped) = leaving.join_next().await {
                result = stopped.map_err(io::Error::other).and_then(|stopped| stopped).and(result);
            }
        }
        let left = self.broker.close(Deadline::after(Duration::from_secs(5))).await;
        drop((self.consumers, self.broker, self.events));
        if let Some(server) = self.server {
            result = server.close().await.and(result);
        }
        drop(self.folder);
        if !left.is_empty() {
            return Err(io::Error::other(format!("{} messages were not handled", left.messages())));
        }
        result
    }
}

async fn given_up(broker: &Broker) -> io::Result<usize> {
    let listed = broker.dead_letters().list(&Filter::all(), None, 1_000).await;
    listed.map(|letters| letters.len()).map_err(io::Error::other)
}

/// Whether there are orders that the services bring to their end among themselves.
async fn is_dancing(orders: &Orders, broker: &Broker) -> io::Result<bool> {
    let alone = orders.flow() == Flow::Choreography;
    Ok(alone && orders.pending().await? > given_up(broker).await?)
}
