use std::{io, sync::Arc, time::Duration};

use axum::{Router, extract::MatchedPath, routing::get};
use gusset::{
    breaker::{self, Circuit},
    broker::{Broker, Subscription},
    call::{Deadline, TraceId},
    gateway::{Gateway, serve},
    registry::{self, MemoryRegistry, Registry, Sweeper},
    shutdown::Shutdown,
    sidecar::{Record, Recorder, Route, Sidecar, SpanKind, Summary},
};
use tokio::{net::TcpListener, task::JoinHandle};

use crate::{
    cart::Carts, client::Outbound, front, inventory::Inventory, notification::Notifications,
    order::Orders, payment::Payments, product::Products, service::Running, token::Tokens,
    user::Users,
};

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

/// The whole shop: its services on sockets of their own, and everything that a test or a story wants to look at.
#[derive(Debug)]
pub struct Shop {
    /// Who is alive where.
    pub registry: MemoryRegistry,
    /// Through which the services tell each other what happened.
    pub broker: Broker,
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
    /// All instances that run.
    pub running: Vec<Running>,
    sidecars: Vec<(String, Sidecar)>,
    outbound: Vec<Outbound>,
    breaker: breaker::Policy,
    recorder: Recorder,
    consumers: Vec<Subscription>,
    shutdown: Shutdown,
    front_door: JoinHandle<io::Result<()>>,
    _sweeper: Sweeper,
}

impl Shop {
    /// Opens it, its gateway on `listener`. Every service is registered when this returns.
    ///
    /// # Errors
    ///
    /// If there are no more ports or threads to be had.
    pub async fn open(listener: TcpListener, times: Times) -> io::Result<Self> {
        let policy = registry::Policy::default()
            .ttl(times.ttl)
            .sweep_every(times.sweep)
            .evict_after(times.ttl * 2);
        let registry = MemoryRegistry::new(policy);
        let sweeper = registry.spawn_sweeper();
        let breaker = breaker::Policy::consecutive(5).open_for(times.open_for);
        let tokens = Tokens::random();
        let broker = Broker::new();
        let recorder = Recorder::new("gateway");
        let gateway =
            front::gateway(Arc::new(registry.clone()), &tokens, breaker, recorder.clone())
                .map_err(io::Error::other)?;
        let shutdown = Shutdown::new(Duration::ZERO);
        let door = serve(listener, gateway.clone(), shutdown.begun());
        let mut shop = Self {
            products: Products::default(),
            payments: Payments::default(),
            orders: Orders::default(),
            notifications: Notifications::default(),
            inventory: Inventory::default(),
            running: Vec::new(),
            sidecars: Vec::new(),
            consumers: Vec::new(),
            front_door: tokio::spawn(async { door.await.map_err(io::Error::other) }),
            _sweeper: sweeper,
            registry,
            broker,
            gateway,
            breaker,
            outbound: Vec::new(),
            recorder,
            shutdown,
        };
        shop.start_services(&tokens).await?;
        Ok(shop)
    }

    async fn start_services(&mut self, tokens: &Tokens) -> io::Result<()> {
        let (inventory, notification) =
            (Sidecar::new("inventory-service"), Sidecar::new("notification-service"));
        let subscribed = [
            self.inventory.subscribe(&self.broker, &inventory).map_err(io::Error::other)?,
            self.notifications.subscribe(&self.broker, &notification).map_err(io::Error::other)?,
        ];
        self.consumers.extend(subscribed);
        let consumers = [inventory, notification];
        self.sidecars.extend(consumers.map(|sidecar| ("consumer".to_owned(), sidecar)));

        let users = Users::new(tokens.clone());
        self.start(1, "user-service", move |_| users.router()).await?;
        let products = self.products.clone();
        self.start(3, "product-service", move |_| products.router()).await?;
        let carts = Carts::default();
        self.start(1, "cart-service", move |_| carts.router()).await?;
        let payments = self.payments.clone();
        self.start(2, "payment-service", move |_| payments.router()).await?;
        let notifications = self.notifications.clone();
        self.start(1, "notification-service", move |_| notifications.router()).await?;
        let inventory = self.inventory.clone();
        self.start(1, "inventory-service", move |_| inventory.router()).await?;
        let (orders, broker) = (self.orders.clone(), self.broker.clone());
        // A definition that is not well formed leaves the instance without paths, which every test and story notices.
        let router =
            move |calls: Outbound| orders.spawn_router(&calls, &broker).unwrap_or_default();
        self.start(2, "order-service", router).await
    }

    /// Starts so many instances, each with a sidecar and connections of its own, as separate processes would have.
    async fn start(
        &mut self,
        instances: usize,
        service: &str,
        app: impl Fn(Outbound) -> Router + Clone + Send + 'static,
    ) -> io::Result<()> {
        for number in 1..=instances {
            let sidecar = Sidecar::new(service).route_of(|extensions| {
                let path = extensions.get::<MatchedPath>()?;
                Some(Route::from(Arc::<str>::from(path.as_str())))
            });
            let registry: Arc<dyn Registry> = Arc::new(self.registry.clone());
            let outbound = Outbound::new(sidecar.clone(), registry.clone(), self.breaker);
            self.sidecars.push((format!("{service}-{number}"), sidecar.clone()));
            self.outbound.push(outbound.clone());
            let app = app.clone();
            let layered = move || {
                let metrics = sidecar.metrics().clone();
                app(outbound)
                    .layer(sidecar.inbound())
                    .route("/metrics", get(async move || metrics.render_prometheus()))
            };
            self.running.push(Running::start(registry, service, number, layered).await?);
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
        let of_service = |(id, _): &&(String, Sidecar)| id.starts_with(service);
        let counted = |(id, sidecar): &(String, Sidecar)| {
            (id.clone(), sidecar.metrics().snapshot().total(SpanKind::Server))
        };
        self.sidecars.iter().filter(of_service).map(counted).collect()
    }

    /// How many attempts after the first there were, of all services.
    #[must_use]
    pub fn retries(&self) -> u64 {
        let text = self.sidecars.iter().map(|(_, sidecar)| sidecar.metrics().render_prometheus());
        text.flat_map(|text| {
            let values = text.lines().filter(|line| line.starts_with("gusset_retries_total{"));
            values.filter_map(|line| line.rsplit(' ').next()?.parse().ok()).collect::<Vec<f64>>()
        })
        .sum::<f64>() as u64
    }

    /// The circuits that instances of any service keep of this instance.
    #[must_use]
    pub fn circuits_of(&self, instance: &str) -> Vec<Circuit> {
        let callers = self.outbound.iter().filter(|caller| !caller.circuits().is_empty());
        callers.map(|caller| caller.circuits().get(instance.into())).collect()
    }

    /// All that was recorded of one trace, by all services, in the order of their beginnings.
    #[must_use]
    pub fn trace(&self, id: TraceId) -> Vec<Record> {
        let services = self.sidecars.iter().map(|(_, sidecar)| sidecar.recorder());
        let recorders = services.chain([&self.recorder]);
        let mut records: Vec<_> = recorders.flat_map(|recorder| recorder.trace(id)).collect();
        records.sort_by_key(|record| record.start_unix_nanos);
        records
    }

    /// Whether every message that was published is handled or a dead letter.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        let stats = self.broker.stats();
        stats.groups.iter().all(|group| group.ready + group.in_flight + group.delayed == 0)
    }

    /// Closes it: first the front door, then the services, then the broker; each finishes what is under way.
    ///
    /// # Errors
    ///
    /// If something did not end in time.
    pub async fn close(self) -> io::Result<()> {
        self.shutdown.begin();
        let mut result = self.front_door.await.map_err(io::Error::other).and_then(|served| served);
        // Those that were started last call those that were started first.
        for running in self.running.into_iter().rev() {
            result = running.stop().await.and(result);
        }
        let left = self.broker.close(Deadline::after(Duration::from_secs(5))).await;
        drop(self.consumers);
        if !left.is_empty() {
            return Err(io::Error::other(format!("{} messages were not handled", left.messages())));
        }
        result
    }
}
