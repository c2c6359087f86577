use std::{borrow::Cow, fmt, hash::Hash, sync::Arc};

use gusset_breaker::{Circuit, Circuits};
use gusset_broker::Broker;
use gusset_call::Door;
use gusset_gateway::{Live, Split};
use gusset_registry::Registry;
use gusset_saga::{Operator, Orchestrator, Store as SagaStore};
use gusset_sidecar::{Metrics, RetryLayer, RetryStats, telemetry::Store};

use crate::{Elsewhere, limits::ReadLimit, sagas::Sagas, switches::Switches};

/// What the console looks at. Whatever is not set has a page that says what would be there.
///
/// Clones of the parts share their state, so that each is handed over beside its use; nothing is copied and nothing asked before somebody looks.
#[derive(Clone, Default)]
#[must_use = "nothing is shown until a router is made of it"]
pub struct Sources {
    pub(crate) registry: Option<Arc<dyn Registry>>,
    pub(crate) metrics: Vec<(Arc<str>, Metrics)>,
    pub(crate) retries: Vec<Retries>,
    pub(crate) gateways: Vec<(Arc<str>, Live)>,
    pub(crate) circuits: Vec<(Arc<str>, Arc<ReadCircuits>)>,
    pub(crate) limits: Vec<(Arc<str>, Arc<dyn ReadLimit>)>,
    pub(crate) traces: Vec<Store>,
    pub(crate) sagas: Option<Sagas>,
    pub(crate) broker: Option<Broker>,
    pub(crate) splits: Vec<(Arc<str>, Split)>,
    pub(crate) switches: Vec<(Arc<str>, Arc<dyn Switches>)>,
    pub(crate) others: Vec<(Arc<str>, Arc<dyn Elsewhere>)>,
    more: Vec<Arc<dyn Fn() -> Self + Send + Sync>>,
    pub(crate) door: Door,
    pub(crate) readers_too: bool,
}

pub(crate) type ReadCircuits = dyn Fn() -> Vec<Circuit> + Send + Sync;

/// The retries of one service's calls to another.
#[derive(Clone)]
pub(crate) struct Retries {
    pub(crate) from: Arc<str>,
    pub(crate) to: Arc<str>,
    pub(crate) read: Arc<dyn Fn() -> RetryStats + Send + Sync>,
}

impl Sources {
    /// Nothing yet: all pages are empty, and nothing can be changed.
    pub fn new() -> Self {
        Self::default()
    }

    /// The services and their instances, on the map.
    pub fn registry(mut self, registry: impl Registry) -> Self {
        self.registry = Some(Arc::new(registry));
        self
    }

    /// What `service` counts of the requests that it answers, and of the calls that it makes, which are its edges on the map.
    /// Those of several instances, under one name, are shown together.
    pub fn metrics(mut self, service: impl Into<Arc<str>>, metrics: &Metrics) -> Self {
        self.metrics.push((service.into(), metrics.clone()));
        self
    }

    /// The retries on the edge between two services: what callers see, beside what happens. Of several callers of one name they are added up.
    pub fn retries<C: Send + Sync + 'static>(
        mut self,
        from: impl Into<Arc<str>>,
        to: impl Into<Arc<str>>,
        layer: &RetryLayer<C>,
    ) -> Self
    where
        RetryLayer<C>: Clone,
    {
        let (from, to, layer) = (from.into(), to.into(), layer.clone());
        self.retries.push(Retries { from, to, read: Arc::new(move || layer.stats()) });
        self
    }

    /// A gateway: a service on the map with its routes, and the circuits of its upstreams.
    pub fn gateway(mut self, name: impl Into<Arc<str>>, gateway: &Live) -> Self {
        self.gateways.push((name.into(), gateway.clone()));
        self
    }

    /// One circuit, in the group of this name.
    pub fn circuit(mut self, group: impl Into<Arc<str>>, circuit: &Circuit) -> Self {
        let circuit = circuit.clone();
        self.circuits.push((group.into(), Arc::new(move || vec![circuit.clone()])));
        self
    }

    /// All circuits of a set, in the group of this name.
    pub fn circuits<K>(mut self, group: impl Into<Arc<str>>, circuits: &Circuits<K>) -> Self
    where
        K: Hash + Eq + Clone + fmt::Display + Send + 'static,
    {
        let circuits = circuits.clone();
        self.circuits.push((group.into(), Arc::new(move || circuits.all())));
        self
    }

    /// A limit.
    pub fn limit(mut self, name: impl Into<Arc<str>>, limit: impl ReadLimit) -> Self {
        self.limits.push((name.into(), Arc::new(limit)));
        self
    }

    /// The last calls and logs of the process. Of several stores the spans of a trace are put together: those of services with recorders of their own ([`Store::of`]).
    pub fn traces(mut self, store: &Store) -> Self {
        self.traces.push(store.clone());
        self
    }

    /// The sagas of a store, and the orders that operators can give.
    pub fn sagas(mut self, sagas: &Orchestrator) -> Self {
        self.sagas = Some(Sagas::Of(sagas.clone()));
        self
    }

    /// The same by the store alone, which other processes may be at work on: it needs none of their definitions. Orders for a saga that one of them holds wait for it, for at most 5 s.
    pub fn saga_store(mut self, store: Arc<dyn SagaStore>) -> Self {
        self.sagas = Some(Sagas::In(Operator::new(store)));
        self
    }

    /// The groups and the dead letters of a broker.
    pub fn broker(mut self, broker: &Broker) -> Self {
        self.broker = Some(broker.clone());
        self
    }

    /// A split of traffic, to promote or to abort.
    pub fn split(mut self, name: impl Into<Arc<str>>, split: &Split) -> Self {
        self.splits.push((name.into(), split.clone()));
        self
    }

    /// What operators turn on and off, or up and down, in the group of this name.
    pub fn switches(mut self, group: impl Into<Arc<str>>, switches: impl Switches) -> Self {
        self.switches.push((group.into(), Arc::new(switches)));
        self
    }

    /// Another process, under this name: what it tells is shown beside the rest. Such processes are asked only while somebody looks, all at once, and for at most 5 s each.
    pub fn other(mut self, name: impl Into<Arc<str>>, other: impl Elsewhere) -> Self {
        self.others.push((name.into(), Arc::new(other)));
        self
    }

    /// What comes and goes while the process runs: asked for at each reading, and shown with the rest. Of parts that are one, such as the registry, the first counts; the token and what else says
    /// who may ask is not taken from there.
    pub fn also(mut self, more: impl Fn() -> Self + Send + Sync + 'static) -> Self {
        self.more.push(Arc::new(more));
        self
    }

    /// All that there is at this moment.
    pub(crate) fn now(&self) -> Cow<'_, Self> {
        if self.more.is_empty() {
            return Cow::Borrowed(self);
        }
        let mut all = self.clone();
        for more in &self.more {
            let more = more().now().into_owned();
            all.registry = all.registry.or(more.registry);
            all.sagas = all.sagas.or(more.sagas);
            all.broker = all.broker.or(more.broker);
            all.traces.extend(more.traces);
            all.metrics.extend(more.metrics);
            all.retries.extend(more.retries);
            all.gateways.extend(more.gateways);
            all.circuits.extend(more.circuits);
            all.limits.extend(more.limits);
            all.splits.extend(more.splits);
            all.switches.extend(more.switches);
            all.others.extend(more.others);
        }
        Cow::Owned(all)
    }

    /// Who shows this token may act. Default: nobody. Take one with 128 bits of chance or more: it is guessed at as fast as the network goes.
    pub fn operator_token(mut self, token: &str) -> Self {
        self.door = self.door.token(token);
        self
    }

    /// Whoever looks has to show the operator's token as well; without one nobody can look. Default: off, for a listener on loopback. Payloads and logs tell secrets of users.
    pub fn readers_need_token(mut self) -> Self {
        self.readers_too = true;
        self
    }

    /// A name by which browsers reach the console, without its port. `localhost` and addresses need none.
    pub fn host(mut self, name: &str) -> Self {
        self.door = self.door.host(name);
        self
    }
}

impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sources")
            .field("registry", &self.registry.is_some())
            .field("gateways", &self.gateways.len())
            .field("traces", &self.traces.len())
            .field("sagas", &self.sagas.is_some())
            .field("broker", &self.broker.is_some())
            .field("can_act", &self.door.has_token())
            .finish_non_exhaustive()
    }
}
