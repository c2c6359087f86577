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
    call::{Deadline, TraceId},
    console::Sources,
    gateway::{Gateway, Live, Split, serve},
    observe,
    registry::{Registry, RemoteKv, RemotePolicy},
    shutdown::Shutdown,
    sidecar::{Record, Recorder, Sidecar, telemetry::Store},
};
use http::Method;
use serde::{Deserialize, Serialize};
use tokio::{
    net::TcpListener,
    task::{JoinHandle, JoinSet},
    time::{sleep, timeout},
};

use crate::{
    Answered, Carrier, Hosting, Place, Quotas,
    api::new_id,
    carrier::Events,
    chaos::{Chaos, Fault, Hurt, told::mailing},
    choreography::{self, Flow},
    client::Outbound,
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
    tell::Figures,
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

    /// Starts one. One that is started again goes on to count where it stopped.
    pub(crate) async fn start_one(&mut self, service: &str, number: usize) -> io::Result<()> {
        let id = format!("{service}-{number}");
        let known = self.members.iter().position(|member| member.id == id);
        let sidecar = known.map(|at| self.members[at].sidecar.clone());
        let (member, running) = self.plan.start(service, number, sidecar).await?;
        self.running.push(running);
        match known {
            Some(at) => self.members[at] = member,
            None => self.members.push(member),
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

    /// Lets an instance leave, if it runs, and starts it again on another port: what a rolling restart does with one after the other.
    ///
    /// # Errors
    ///
    /// If there never was one with this id, if it does not end in time, or cannot be started.
    pub async fn restart(&mut self, id: &str) -> io::Result<()> {
        if let Some(processes) = &mut self.processes {
            return processes.restart(id).await;
        }
        let known = self.members.iter().any(|member| member.id == id);
        let parts = id.rsplit_once('-').filter(|_| known);
        let parts = parts.and_then(|(service, number)| Some((service, number.parse().ok()?)));
        let (service, number) =
            parts.ok_or_else(|| io::Error::other(format!("there is no instance {id}")))?;
        if let Some(running) = self.take(id) {
            running.stop().await?;
        }
        self.start_one(service, number).await
    }

    /// Does to the instances what the faults that are on ask for: kills them, lets them stand still, starts them again; and tells those that are processes what else is on. Here,
    /// what happens to calls and messages needs none of this. To be called after each change of [`chaos`](Self::chaos).
    ///
    /// # Errors
    ///
    /// If an instance cannot be started again, or be told; the next call tries it once more.
    pub async fn obey(&mut self) -> io::Result<()> {
        let on = self.chaos.on();
        self.notifications.set_mailing(mailing(on));
        let mut result = Ok(());
        if let Some(processes) = &mut self.processes {
            result = processes.freeze("registry", on.has(Fault::RegistryStopped)).await;
        }
        for fault in Fault::all() {
            if let Some((id, Hurt::Killed)) = fault.on_instance() {
                result = self.kill_or_start(id, on.has(fault)).await.and(result);
            }
        }
        // Who stands still hears nothing. Those that were just started are told as well.
        for still in [false, true] {
            for fault in Fault::all().filter(|fault| on.has(*fault) == still) {
                if let Some((id, Hurt::Frozen)) = fault.on_instance() {
                    result = self.freeze(id, still).await.and(result);
                }
            }
            if let (false, Some(processes)) = (still, &mut self.processes) {
                result = processes.match_with(on).await.and(result);
            }
        }
        result
    }

    async fn kill_or_start(&mut self, id: &'static str, kill: bool) -> io::Result<()> {
        if kill {
            if self.kill(id).await? {
                self.killed.insert(id);
            }
            return Ok(());
        }
        if self.killed.contains(id) {
            // Somebody else may have started it.
            if self.addr_of(id).is_none() {
                match &mut self.processes {
                    Some(processes) => processes.revive(id).await?,
                    None => self.restart(id).await?,
                }
            }
            self.killed.remove(id);
        }
        Ok(())
    }

    async fn freeze(&mut self, id: &str, still: bool) -> io::Result<()> {
        if let Some(processes) = &mut self.processes {
            return processes.freeze(id, still).await;
        }
        let found = self.running.iter_mut().find(|running| running.id() == id);
        found.into_iter().for_each(|running| running.freeze(still));
        Ok(())
    }

    /// Takes the running instance with this id out of the shop's hands.
    pub fn take(&mut self, id: &str) -> Option<Running> {
        let place = self.running.iter().position(|running| running.id() == id)?;
        Some(self.running.swap_remove(place))
    }

    /// Takes an instance away as `kill -9` does; whether it ran.
    ///
    /// # Errors
    ///
    /// If it cannot be told.
    pub async fn kill(&mut self, id: &str) -> io::Result<bool> {
        match &mut self.processes {
            Some(processes) => processes.kill(id).await,
            None => Ok(self.take(id).map(Running::kill).is_some()),
        }
    }

    /// Each instance that runs, in whatever process, and where it listens.
    #[must_use]
    pub fn instances(&self) -> Vec<(String, SocketAddr)> {
        let here = self.running.iter().map(|one| (one.id().to_owned(), one.addr()));
        here.chain(self.processes.iter().flat_map(Processes::instances)).collect()
    }

    /// Where an instance listens, if it runs.
    #[must_use]
    pub fn addr_of(&self, id: &str) -> Option<SocketAddr> {
        self.instances().into_iter().find(|(known, _)| known == id).map(|(_, addr)| addr)
    }

    /// The processes that the shop consists of beside this one: what they are, and their ids.
    #[must_use]
    pub fn processes(&self) -> Vec<(String, u32)> {
        self.processes.as_ref().map(Processes::ids).unwrap_or_default()
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

    /// What the instances tell of themselves, by their ids.
    async fn figures(&self) -> Vec<(String, Figures)> {
        if let Some(processes) = &self.processes {
            return processes.figures().await;
        }
        let told = |member: &Member| {
            let circuits = member.outbound.as_ref().map(Outbound::circuits);
            (member.id.clone(), Figures::of(&member.sidecar, circuits))
        };
        self.members.iter().map(told).collect()
    }

    /// What the instances of a service have answered, by their ids; of all services for an empty name.
    pub async fn answered_by(&self, service: &str) -> Vec<(String, Answered)> {
        let all = self.figures().await.into_iter();
        let of_service = all.filter(|(id, _)| id.starts_with(service));
        of_service.map(|(id, figures)| (id, figures.answered)).collect()
    }

    /// How many attempts after the first there were, of all services.
    pub async fn retries(&self) -> u64 {
        self.figures().await.iter().map(|(_, figures)| figures.retries).sum()
    }

    /// Whether everybody who keeps circuits would call an instance of this service: one closed circuit is enough, for calls go where the circuit is closed.
    pub async fn trusted(&self, service: &str) -> bool {
        let instances = SERVICES.iter().find(|(name, _)| *name == service);
        let instances = instances.map_or(0, |(_, instances)| *instances);
        let ids: Vec<_> = (1..=instances).map(|number| format!("{service}-{number}")).collect();
        self.figures().await.iter().all(|(_, Figures { circuits, .. })| {
            let open = |id: &str| circuits.iter().any(|(of, closed)| of == id && !closed);
            // An instance that does not reach the bank takes messages all the same.
            !ids.iter().all(|id| open(id)) && !open(choreography::BANK)
        })
    }

    /// What a console shows of the shop, with the instances that there are now, in whatever process. Faults are switched there by its operators.
    pub fn sources(&self) -> Sources {
        let mut sources = Sources::new()
            .registry(self.registry.clone())
            .saga_store(self.orders.journal())
            .broker(&self.broker)
            .switches("faults", self.chaos.clone());
        if let Some(processes) = &self.processes {
            // They tell of themselves.
            return processes.on_console(sources.clone()).unwrap_or(sources);
        }
        sources = sources
            .gateway("gateway", &Live::new(self.gateway.clone()))
            .split("products", &self.split)
            .traces(&Store::of(&self.recorder));
        for member in &self.members {
            let (recorder, metrics) = (member.sidecar.recorder(), member.sidecar.metrics());
            let service = recorder.service().clone();
            sources = sources.traces(&Store::of(recorder)).metrics(service, metrics);
            if let Some(outbound) = &member.outbound {
                sources = sources.circuits(member.id.as_str(), outbound.circuits());
            }
        }
        sources
    }

    /// All that was recorded of one trace, by all services, in the order of their beginnings.
    pub async fn trace(&self, id: TraceId) -> Vec<Record> {
        let services = self.members.iter().map(|member| member.sidecar.recorder());
        let recorders = services.chain([&self.recorder]);
        let mut records: Vec<_> = recorders.flat_map(|recorder| recorder.trace(id)).collect();
        if let Some(processes) = &self.processes {
            records.extend(processes.trace(id).await);
        }
        records.sort_by_key(|record| record.start_unix_nanos);
        records
    }

    /// Whether the broker holds no message that is yet to be handled, as far as this process knows without asking anybody.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        let stats = self.broker.stats();
        stats.groups.iter().all(|group| group.ready + group.in_flight + group.delayed == 0)
    }

    /// Whether nothing is under way: every saga has ended or waits for an operator, and every order that stands was counted, and its mail went out or is a
    /// dead letter.
    ///
    /// # Errors
    ///
    /// If the journal or the dead letters cannot be read.
    pub async fn is_at_rest(&self) -> io::Result<bool> {
        use gusset::saga::State::{Blocked, Running, Stuck, TurningBack};
        let sagas = self.orders.sagas().await?;
        let under_way =
            |(state, count): &(_, u64)| matches!(state, Running | TurningBack) && *count > 0;
        if sagas.iter().any(under_way) || self.orders.untold().await? > 0 || !self.is_quiet() {
            return Ok(false);
        }
        let waits = |(state, count): &(_, u64)| matches!(state, Stuck | Blocked).then_some(*count);
        let waiting: u64 = sagas.iter().filter_map(waits).sum();
        let dead = self.dead_letters().await?;
        if self.orders.pending().await? as u64 > waiting + dead as u64 {
            return Ok(false);
        }
        let confirmed = self.orders.confirmed().await?;
        let (mails, counted) = (self.notifications.mails().await?, self.inventory.counted().await?);
        let unmailed = confirmed.iter().filter(|order| !mails.contains_key(&order.id)).count();
        let all_counted = confirmed.iter().all(|order| counted.contains_key(&order.id));
        Ok(unmailed <= dead && all_counted)
    }

    /// How many messages were given up.
    ///
    /// # Errors
    ///
    /// If they cannot be read.
    pub async fn dead_letters(&self) -> io::Result<usize> {
        given_up(&self.broker).await
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
