use std::{
    collections::BTreeSet,
    future::{Future, ready},
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use axum::{Router, middleware::from_fn_with_state};
use gusset::{
    breaker::{self, Circuit},
    broker::{Broker, Filter, Subscription},
    call::{Deadline, TraceId},
    console::Sources,
    gateway::{Gateway, Live, serve},
    observe,
    registry::{Registry, RemoteKv, RemotePolicy},
    shutdown::Shutdown,
    sidecar::{Record, Recorder, Sidecar, SpanKind, Summary, telemetry::Store},
};
use tokio::{
    net::TcpListener,
    task::{JoinHandle, JoinSet},
    time::{sleep, timeout},
};

use crate::{
    Carrier, Place,
    carrier::Events,
    cart::Carts,
    chaos::{Chaos, Fault, Hurt, hurt_payments},
    event::OrderCreated,
    folder::Folder,
    front,
    inventory::{self, Inventory},
    notification::{self, Mailing, Notifications},
    order::Orders,
    payment::Payments,
    place::{Registries, Server},
    plan::{Member, Plan, Supplies},
    product::Products,
    service::{App, Running},
    token::Tokens,
    user::Users,
};

/// How long a shop that closes waits for what its orders have to tell.
const LIMIT: Duration = Duration::from_secs(5);

/// How long a mail takes where the fault says that it is slow.
const SLOW_MAIL: Duration = Duration::from_millis(200);

/// The times that a story has no patience for, and that production has.
#[derive(Clone, Copy, Debug)]
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
#[derive(Clone, Debug, Default)]
pub struct Ground {
    /// Where its services find each other.
    pub registry: Place,
    /// What carries their events.
    pub broker: Carrier,
    /// Where it keeps accounts, stock, reservations, payments, orders, what was counted and mailed, and the journals of the sagas. A shop that is opened
    /// there again, after whatever end, finishes or undoes what was under way. Made if it is not there. Without, all that is in memory, and ends with the
    /// process. Needs the feature `files`, and a broker that outlives the process as well.
    pub data_dir: Option<PathBuf>,
    /// How patient it is.
    pub times: Times,
    /// What can be broken on purpose.
    pub chaos: Chaos,
    /// What signs the tokens of its customers, for a gateway in another process. Without, one that nobody else knows.
    pub secret: Option<String>,
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
    /// All instances that run.
    pub running: Vec<Running>,
    /// Those that a fault has killed.
    killed: BTreeSet<&'static str>,
    members: Vec<Member>,
    consumers: Vec<Subscription>,
    plan: Plan,
    recorder: Recorder,
    shutdown: Shutdown,
    front_door: JoinHandle<io::Result<()>>,
    server: Server,
}

impl Shop {
    /// Opens it, its gateway on `listener`. Every service is registered when this returns; sagas that an earlier process left are taken up by then or a few
    /// seconds later.
    ///
    /// # Errors
    ///
    /// If there are no more ports or threads to be had, an engine cannot be, or the folder is open elsewhere, damaged, or of a newer shop.
    pub async fn open(ground: &Ground, listener: TcpListener) -> io::Result<Self> {
        let (place, times) = (&ground.registry, ground.times);
        let mut folder = Folder::at(ground.data_dir.as_deref()).await?;
        let events = Events::on(&ground.broker, &mut folder, &ground.chaos).await?;
        let server = Server::of(place).await?;
        let registries = Registries::at(place, &server.url, times, &ground.chaos)?;
        let registry = registries.connect()?;
        let breaker = breaker::Policy::consecutive(5).open_for(times.open_for);
        let tokens = match &ground.secret {
            Some(secret) => Tokens::signed_by(secret),
            None => Tokens::random(),
        };
        let recorder = Recorder::new("gateway");
        let gateway = front::gateway(registry.clone(), &tokens, breaker, recorder.clone())
            .map_err(io::Error::other)?;
        let shutdown = Shutdown::new(Duration::ZERO);
        let door = serve(listener, gateway.clone(), shutdown.begun());
        let mut shop = Self {
            registry,
            keys: RemoteKv::new(&server.url, RemotePolicy::default()).map_err(io::Error::other)?,
            broker: events.broker.clone(),
            events,
            gateway,
            products: Products::restored(&mut folder)?,
            payments: Payments::restored(&mut folder)?,
            orders: Orders::restored(&mut folder)?,
            notifications: Notifications::restored(&mut folder)?,
            inventory: Inventory::restored(&mut folder)?,
            folder,
            chaos: ground.chaos.clone(),
            running: Vec::new(),
            killed: BTreeSet::new(),
            members: Vec::new(),
            consumers: Vec::new(),
            plan: Plan::new(registries, breaker, server.url.clone())?,
            recorder,
            shutdown,
            front_door: tokio::spawn(async { door.await.map_err(io::Error::other) }),
            server,
        };
        shop.start_services(&tokens).await?;
        Ok(shop)
    }

    async fn start_services(&mut self, tokens: &Tokens) -> io::Result<()> {
        let (inventory, notification) =
            (Sidecar::new("inventory-service"), Sidecar::new("notification-service"));
        // What comes while nobody listens waits for them.
        for (group, policy) in
            [(inventory::GROUP, inventory::policy()), (notification::GROUP, notification::policy())]
        {
            let declared = self.broker.declare(group, OrderCreated::SUBJECT, policy).await;
            declared.map_err(io::Error::other)?;
        }
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

        let users = Users::restored(tokens.clone(), &mut self.folder)?;
        self.start(1, "user-service", move |_| ready(users.router())).await?;
        let products = self.products.clone();
        let app = move |given: Supplies| {
            let products = products.clone();
            async move { products.router(given.settings().await) }
        };
        self.start(3, "product-service", app).await?;
        let carts = Carts::default();
        self.start(1, "cart-service", move |_| ready(carts.router())).await?;
        let payments = from_fn_with_state(self.chaos.clone(), hurt_payments);
        let payments = self.payments.router().layer(payments);
        self.start(2, "payment-service", move |_| ready(payments.clone())).await?;
        let notifications = self.notifications.clone();
        self.start(1, "notification-service", move |_| ready(notifications.router())).await?;
        let inventory = self.inventory.clone();
        self.start(1, "inventory-service", move |_| ready(inventory.router())).await?;
        // One broker for all, so one of them tells of it.
        for member in self.members.iter().filter(|member| member.id == "inventory-service-1") {
            observe::numbers(&self.broker, member.sidecar.metrics());
        }
        let (orders, broker) = (self.orders.clone(), self.broker.clone());
        let app = move |given: Supplies| {
            let (orders, broker) = (orders.clone(), broker.clone());
            async move {
                let settings = given.settings().await;
                // A definition that is not well formed leaves the instance without paths, which every test and story notices.
                let made = orders.spawn_router(&given.outbound, &broker, settings);
                made.map_or_else(
                    |_| Router::new().into(),
                    |(router, end)| App { router, at_last: Box::pin(end) },
                )
            }
        };
        self.start(2, "order-service", app).await
    }

    /// Starts so many instances.
    async fn start<F, R>(&mut self, instances: usize, service: &str, app: F) -> io::Result<()>
    where
        F: Fn(Supplies) -> R + Send + Sync + 'static,
        R: Future<Output: Into<App>> + Send + 'static,
    {
        self.plan.add(service, app);
        for number in 1..=instances {
            self.start_one(service, number).await?;
        }
        Ok(())
    }

    /// Starts one. One that is started again goes on to count where it stopped.
    async fn start_one(&mut self, service: &str, number: usize) -> io::Result<()> {
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

    /// Where everything is kept, if anything is.
    #[must_use]
    pub fn folder(&self) -> Option<&Path> {
        self.folder.path()
    }

    /// Where a setting is read and written, over HTTP.
    #[must_use]
    pub fn setting_url(&self, key: &str) -> String {
        format!("{}/v1/kv/{key}", self.server.url)
    }

    /// Lets an instance leave, if it runs, and starts it again on another port: what a rolling restart does with one after the other.
    ///
    /// # Errors
    ///
    /// If there never was one with this id, if it does not end in time, or cannot be started.
    pub async fn restart(&mut self, id: &str) -> io::Result<()> {
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

    /// Does to the instances what the faults that are on ask for: kills them, lets them stand still, starts them again. What happens to calls and messages
    /// needs none of this. To be called after each change of [`chaos`](Self::chaos).
    ///
    /// # Errors
    ///
    /// If an instance cannot be started again; the next call tries it once more.
    pub async fn obey(&mut self) -> io::Result<()> {
        let on = self.chaos.on();
        self.notifications.set_mailing(match (on.has(Fault::MailFails), on.has(Fault::MailSlow)) {
            (true, _) => Mailing::Down,
            (_, true) => Mailing::Slow(SLOW_MAIL),
            _ => Mailing::Up,
        });
        let mut result = Ok(());
        for fault in Fault::all() {
            if let Some((id, Hurt::Killed)) = fault.on_instance() {
                result = self.kill_or_start(id, on.has(fault)).await.and(result);
            }
        }
        // Those that were just started as well.
        for fault in Fault::all() {
            if let Some((id, Hurt::Frozen)) = fault.on_instance() {
                let found = self.running.iter_mut().find(|running| running.id() == id);
                found.into_iter().for_each(|running| running.freeze(on.has(fault)));
            }
        }
        result
    }

    async fn kill_or_start(&mut self, id: &'static str, kill: bool) -> io::Result<()> {
        if kill {
            if let Some(running) = self.take(id) {
                running.kill();
                self.killed.insert(id);
            }
            return Ok(());
        }
        if self.killed.contains(id) {
            // Somebody else may have started it.
            if self.running.iter().all(|running| running.id() != id) {
                self.restart(id).await?;
            }
            self.killed.remove(id);
        }
        Ok(())
    }

    /// Takes the running instance with this id out of the shop's hands.
    pub fn take(&mut self, id: &str) -> Option<Running> {
        let place = self.running.iter().position(|running| running.id() == id)?;
        Some(self.running.swap_remove(place))
    }

    /// What the instances of a service have answered, by their ids; of all services for an empty name.
    #[must_use]
    pub fn answered_by(&self, service: &str) -> Vec<(String, Summary)> {
        let of_service = self.members.iter().filter(|member| member.id.starts_with(service));
        let counted = |member: &Member| {
            (member.id.clone(), member.sidecar.metrics().snapshot().total(SpanKind::Server))
        };
        of_service.map(counted).collect()
    }

    /// How many attempts after the first there were, of all services.
    #[must_use]
    pub fn retries(&self) -> u64 {
        let text = self.members.iter().map(|member| member.sidecar.metrics().render_prometheus());
        text.flat_map(|text| {
            let values = text.lines().filter(|line| line.starts_with("gusset_retries_total{"));
            values.filter_map(|line| line.rsplit(' ').next()?.parse().ok()).collect::<Vec<f64>>()
        })
        .sum::<f64>() as u64
    }

    /// The circuits that instances of any service keep of this instance.
    #[must_use]
    pub fn circuits_of(&self, instance: &str) -> Vec<Circuit> {
        let outbound = self.members.iter().filter_map(|member| member.outbound.as_ref());
        let callers = outbound.filter(|caller| !caller.circuits().is_empty());
        callers.map(|caller| caller.circuits().get(instance.into())).collect()
    }

    /// What a console shows of the shop, with the instances that there are now.
    pub fn sources(&self) -> Sources {
        let mut sources = Sources::new()
            .registry(self.registry.clone())
            .gateway("gateway", &Live::new(self.gateway.clone()))
            .traces(&Store::of(&self.recorder))
            .saga_store(self.orders.journal())
            .broker(&self.broker);
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
    #[must_use]
    pub fn trace(&self, id: TraceId) -> Vec<Record> {
        let services = self.members.iter().map(|member| member.sidecar.recorder());
        let recorders = services.chain([&self.recorder]);
        let mut records: Vec<_> = recorders.flat_map(|recorder| recorder.trace(id)).collect();
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
        use gusset::saga::State::{Running, TurningBack};
        let sagas = self.orders.sagas().await?;
        let under_way =
            |(state, count): &(_, u64)| matches!(state, Running | TurningBack) && *count > 0;
        if sagas.iter().any(under_way) || self.orders.untold().await? > 0 || !self.is_quiet() {
            return Ok(false);
        }
        let confirmed = self.orders.confirmed();
        let unmailed =
            confirmed.iter().filter(|order| self.notifications.mails_about(order.id) == 0);
        let (unmailed, dead) = (unmailed.count(), self.dead_letters().await?);
        Ok(unmailed <= dead && confirmed.iter().all(|order| self.inventory.has_counted(order.id)))
    }

    /// How many messages were given up.
    ///
    /// # Errors
    ///
    /// If they cannot be read.
    pub async fn dead_letters(&self) -> io::Result<usize> {
        let listed = self.broker.dead_letters().list(&Filter::all(), None, 1_000).await;
        listed.map(|letters| letters.len()).map_err(io::Error::other)
    }

    /// Closes it: first the front door, then the services, then the broker; each finishes what is under way.
    ///
    /// # Errors
    ///
    /// If something did not end in time.
    pub async fn close(self) -> io::Result<()> {
        self.shutdown.begin();
        let mut result = self.front_door.await.map_err(io::Error::other).and_then(|served| served);
        // While there is still somebody who tells it.
        let told = async {
            while self.orders.untold().await? > 0 {
                sleep(Duration::from_millis(10)).await;
            }
            io::Result::Ok(())
        };
        result = timeout(LIMIT, told).await.map_err(io::Error::other).flatten().and(result);
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
        result = self.server.close().await.and(result);
        drop(self.folder);
        if !left.is_empty() {
            return Err(io::Error::other(format!("{} messages were not handled", left.messages())));
        }
        result
    }
}
