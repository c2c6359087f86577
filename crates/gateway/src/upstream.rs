//! The instances of one upstream, balanced, and one attempt after the other.

mod attempts;
mod hosts;
mod picker;
mod policy;

use std::{
    collections::HashMap,
    fmt,
    net::SocketAddr,
    num::NonZeroUsize,
    sync::{Arc, OnceLock},
    time::Duration,
};

use gusset_breaker::{Circuit, Circuits, Event, Policy, State};
use gusset_call::{BoxError, NoInstance, Open, Overloaded};
use gusset_registry::{Balance, Fleet, Http, Instance, MakeEndpoint, Registry, Watch};
use gusset_sidecar::{
    Backoff, Budget, Classify, DeadlineLayer, HedgeLayer, HedgePolicy, Metrics, Retry, RetryLayer,
    RetryPolicy, RetryStats, Samples, TraceLayer, Transient, Verdict, WithDeadline,
};
use http::Response;
use tower_layer::Layer;

use attempts::Attempts;
pub(crate) use hosts::Host;
pub use picker::Picker;
pub use policy::UpstreamPolicy;

use crate::{
    Transport, Upstream,
    body::ClientFault,
    endpoint::Endpoint,
    routes::Place,
    transport::{Pool, TransportError},
};

/// What all routes to one upstream share.
#[derive(Clone)]
pub(crate) struct Shared {
    instances: Instances,
    balance: Balanced,
    budget: Budget,
    /// Of its routes that have none of their own.
    retry: Option<RetryPolicy>,
    /// What the retries of all its routes are counted with, and their hedges, if one has some.
    counted: RetryLayer,
    hedges: Arc<OnceLock<HedgeLayer>>,
    /// Whether it is among the figures of upstreams.
    pub(crate) measured: bool,
    /// What tells of its instances, and would end if nobody held it.
    _source: Option<Source>,
}

type Source = Arc<dyn Send + Sync>;

type Balanced = Balance<Instances, Picker, Http>;

/// What all upstreams of a gateway have in common.
pub(crate) struct Setup {
    pub(crate) registry: Arc<dyn Registry>,
    pub(crate) pool: Pool,
    pub(crate) traces: TraceLayer,
    /// Where the calls of instances are counted.
    pub(crate) metrics: Metrics,
    pub(crate) breaker: Policy,
    pub(crate) pick: Picker,
    pub(crate) fleet: Fleet,
    /// Of upstreams that differ from the others.
    pub(crate) policies: HashMap<Upstream, UpstreamPolicy>,
}

/// The call of an upstream as a route makes it: a deadline around all attempts, each to an instance of its own.
pub(crate) type Caller = WithDeadline<Retry<Attempts, Judge>>;

impl Shared {
    pub(crate) fn new(upstream: &Upstream, setup: &Setup) -> Self {
        let policy = setup.policies.get(upstream).cloned().unwrap_or_default();
        let breaker = policy.breaker.unwrap_or(setup.breaker);
        let circuits = Circuits::new(breaker, Instances::CIRCUITS);
        let (watch, source) = watch(upstream, &setup.registry);
        let traces = setup.traces.clone().upstream(watch.service().clone());
        let traces = if policy.measured { traces.metrics(setup.metrics.clone()) } else { traces };
        let transport = Arc::new(policy.transport.clone());
        let named = matches!(upstream.0, Place::Hosts(_));
        let pool = setup.pool.clone();
        let instances = Instances { pool, transport, traces, breaker, circuits, named };
        let mut balance = Balance::new(watch, instances.clone())
            .protocol(Http)
            .pick(policy.pick.clone().unwrap_or_else(|| setup.pick.clone()))
            .among(upstream.narrow(policy.fleet.clone().unwrap_or_else(|| setup.fleet.clone())));
        if let Some(span) = policy.wait {
            balance = balance.wait(span);
        }
        if let Some(ejection) = policy.ejection.clone() {
            balance = balance.eject(ejection);
        }
        let (budget, retry) = (Budget::default(), policy.retry.clone());
        Self {
            instances,
            balance,
            budget,
            retry,
            counted: RetryLayer::new(RetryPolicy::default()),
            hedges: Arc::default(),
            measured: policy.measured,
            _source: source,
        }
    }

    pub(crate) fn caller(
        &self,
        timeout: Duration,
        retry: Option<RetryPolicy>,
        hedge: Option<HedgePolicy>,
    ) -> Caller {
        let retry = retry.or_else(|| self.retry.clone()).unwrap_or_else(|| self.default_retry());
        let judge = Judge { upstream: Arc::new(self.clone()) };
        let hedge = hedge.map(|policy| self.hedge(policy, judge.clone()));
        let attempts = Attempts::new(self.balance.clone(), hedge.as_ref());
        let retry = RetryLayer::new(retry).counted_with(&self.counted);
        let retry = retry.classify(judge).layer(attempts);
        // In its extensions each attempt would have to copy it; nothing between here and there hands a request to another task.
        DeadlineLayer::server(timeout).only_in_context().layer(retry)
    }

    fn hedge(&self, policy: HedgePolicy, judge: Judge) -> HedgeLayer<Judge> {
        let layer = HedgeLayer::new(policy).classify(judge);
        // What counts has no way back to this, or neither would ever go.
        let counts = self.hedges.get_or_init(|| HedgeLayer::new(HedgePolicy::default()));
        layer.counted_with(counts)
    }

    /// Adds what became of its calls, under this name.
    pub(crate) fn retries(&self) -> RetryStats {
        self.counted.stats()
    }

    pub(crate) fn report(&self, name: &str, samples: &mut Samples) {
        self.counted.report(name, samples);
        if let Some(hedges) = self.hedges.get() {
            hedges.report(name, samples);
        }
    }

    fn default_retry(&self) -> RetryPolicy {
        let backoff = Backoff::exponential(Duration::from_millis(25), Duration::from_secs(1));
        RetryPolicy::default().retries(2).backoff(backoff).budget(self.budget.clone())
    }

    /// Whether a call would find an instance.
    pub(crate) fn has_instances(&self) -> bool {
        self.balance.has_instances()
    }

    fn has_eligible(&self) -> bool {
        self.read().iter().any(|(_, circuit)| circuit.as_ref().is_none_or(Circuit::is_eligible))
    }

    /// How the healthy instances fare, and the circuits that there are: those of their calls. It makes none, for which others might have to make room.
    pub(crate) fn read(&self) -> Vec<(gusset_registry::Endpoint, Option<Circuit>)> {
        let services = self.balance.services().into_iter();
        let with_circuit = |(endpoint, service): (gusset_registry::Endpoint, Option<Endpoint>)| {
            let circuit = match service {
                Some(service) => Some(service.circuit().clone()),
                None => self.instances.circuits.find(&Instances::key(&endpoint.instance)),
            };
            (endpoint, circuit)
        };
        services.map(with_circuit).collect()
    }

    /// The same, to give all of them orders as well.
    pub(crate) fn endpoints(&self) -> Vec<(gusset_registry::Endpoint, Circuit)> {
        let to_order = |(endpoint, circuit): (gusset_registry::Endpoint, Option<Circuit>)| {
            let circuit = circuit.unwrap_or_else(|| self.instances.to_order(&endpoint.instance));
            (endpoint, circuit)
        };
        self.read().into_iter().map(to_order).collect()
    }
}

/// Makes the endpoints of one upstream. Their circuits stay when an endpoint is made anew.
#[derive(Clone)]
pub(crate) struct Instances {
    pool: Pool,
    transport: Arc<Transport>,
    traces: TraceLayer,
    breaker: Policy,
    circuits: Circuits<Arc<str>>,
    /// Whether their ids say by which names they were found.
    named: bool,
}

impl Instances {
    /// Circuits per upstream. Where there are more instances, those of others make room.
    const CIRCUITS: NonZeroUsize = NonZeroUsize::MIN.saturating_add(999);

    /// That of this run: a process that died and was started again under its id, perhaps at another port, does not inherit an open one.
    fn circuit(&self, instance: &Instance) -> Circuit {
        self.circuits.get(Self::key(instance))
    }

    fn key(instance: &Instance) -> Arc<str> {
        match instance.incarnation {
            0 => instance.id.clone(),
            run => format!("{}#{run}", instance.id).into(),
        }
    }

    /// That of an instance which has none yet. If another would have to make room for it, one that hands orders on instead, and is kept by nobody.
    fn to_order(&self, instance: &Instance) -> Circuit {
        if self.circuits.len() < Self::CIRCUITS.get() {
            return self.circuit(instance);
        }
        let (circuits, key) = (self.circuits.clone(), Self::key(instance));
        Circuit::with_listener(key.clone(), self.breaker, move |_, event| {
            let Event::Transition { to, .. } = event else { return };
            let circuit = || circuits.get(key.clone());
            match to {
                State::ForcedOpen => circuit().force_open(),
                State::ForcedClosed => circuit().force_closed(),
                State::Disabled => circuit().disable(),
                State::Closed => circuit().reset(),
                _ => {}
            }
        })
    }
}

impl MakeEndpoint for Instances {
    type Service = Endpoint;

    fn make(&self, instance: &Instance) -> Self::Service {
        let circuit = self.circuit(instance);
        let wiring = (self.pool.clone(), self.transport.clone());
        let address = instance.authority();
        let named = if self.named { hosts::named_in(&instance.id) } else { None };
        let authority = named.unwrap_or(&address);
        Endpoint::new((authority, &address), wiring, &self.traces, circuit)
    }

    fn is_eligible(&self, _: &Instance, service: &Self::Service) -> bool {
        service.circuit().is_eligible()
    }
}

impl fmt::Debug for Instances {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Instances").field("circuits", &self.circuits).finish_non_exhaustive()
    }
}

/// What is worth another attempt: as [`Transient`], with what only the gateway knows.
#[derive(Clone)]
pub(crate) struct Judge {
    /// In one place, since every call makes clones.
    upstream: Arc<Shared>,
}

impl<B> Classify<B> for Judge {
    fn classify(&self, result: &Result<Response<B>, BoxError>) -> Verdict {
        let Err(error) = result else { return Transient.classify(result) };
        // The balancer has waited for one already.
        let no_instance = error.is::<NoInstance>();
        if no_instance || ClientFault::in_error(&**error).is_some() {
            return Verdict::Final;
        }
        // A circuit that opened between the choice of its instance and the call says when that one will be back, but there are others. If there are none, nobody
        // waits here for that: all would come back at once. Of one that is being probed soon more is known.
        let opened = error.downcast_ref::<Open>().is_some_and(|open| open.retry_after().is_some());
        if opened && !self.upstream.has_eligible() {
            return Verdict::Final;
        }
        // No connection means, whatever the reason, that nothing was sent. Where there is too much to do, another one may have room.
        let not_connected = error.downcast_ref().is_some_and(TransportError::is_unsent);
        if not_connected || error.is::<Overloaded>() || error.is::<Open>() {
            return Verdict::NotSent { after: None };
        }
        Transient.classify(result)
    }
}

/// The instances that `upstream` speaks of.
fn watch(upstream: &Upstream, registry: &Arc<dyn Registry>) -> (Watch, Option<Source>) {
    match &upstream.0 {
        Place::Service(name) => (registry.watch(name), Some(Arc::new(registry.clone()))),
        Place::Fixed(addresses) => {
            let name: Arc<str> = upstream.to_string().into();
            let instance = |address: &SocketAddr| {
                Instance::new(name.clone(), address.ip().to_string(), address.port())
            };
            (Watch::fixed(name.clone(), addresses.iter().map(instance)), None)
        }
        Place::Hosts(hosts) => {
            let (watch, looking_up) =
                hosts::spawn(upstream.to_string().into(), hosts, hosts::by_system);
            (watch, Some(Arc::new(looking_up)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gusset_registry::MemoryRegistry;
    use gusset_sidecar::Recorder;

    fn setup() -> Setup {
        Setup {
            registry: Arc::new(MemoryRegistry::default()),
            pool: Pool::new(),
            traces: TraceLayer::client(Recorder::with_capacity("test", 0)),
            metrics: Metrics::new(),
            breaker: Policy::default(),
            pick: Picker::default(),
            fleet: Fleet::new(),
            policies: HashMap::new(),
        }
    }

    #[tokio::test]
    async fn a_process_that_was_started_again_under_its_id_does_not_inherit_an_open_circuit() {
        let address = "10.0.0.1:80".parse().unwrap();
        let upstream = Shared::new(&Upstream::fixed([address]), &setup());
        let run = |run| Instance::new("shop", "10.0.0.1", 80).with_incarnation(run);
        let circuit = |of| upstream.instances.circuit(&run(of));
        circuit(7).force_open();
        assert!(!circuit(7).is_eligible() && circuit(8).is_eligible());
        circuit(0).force_open();
        assert!(!circuit(0).is_eligible(), "one of no particular run keeps its own");
    }

    #[tokio::test]
    async fn who_reads_makes_no_circuit() {
        let upstream = Shared::new(&Upstream::fixed(["10.0.0.1:80".parse().unwrap()]), &setup());
        assert!(upstream.read()[0].1.is_none() && upstream.has_eligible());
        assert!(upstream.instances.circuits.is_empty());
        upstream.endpoints()[0].1.force_open();
        assert!(upstream.read()[0].1.is_some() && !upstream.has_eligible());
    }

    #[tokio::test]
    async fn a_circuit_that_opened_meanwhile_is_tried_elsewhere_at_once_if_there_is_an_elsewhere() {
        let addresses = ["10.0.0.1:80", "10.0.0.2:80"].map(|address| address.parse().unwrap());
        let upstream = Shared::new(&Upstream::fixed(addresses), &setup());
        let judge = Judge { upstream: Arc::new(upstream.clone()) };
        let half_a_minute = Duration::from_secs(30);
        let judged = |open: Open| judge.classify(&Err::<Response<()>, BoxError>(open.into()));
        let verdict = || judged(Open::new("10.0.0.1:80").with_retry_after(half_a_minute));
        let circuits = upstream.endpoints();
        circuits[0].1.force_open();
        assert_eq!(verdict(), Verdict::NotSent { after: None });
        circuits[1].1.force_open();
        assert_eq!(verdict(), Verdict::Final);
        let probed = judged(Open::new("10.0.0.1:80"));
        assert_eq!(probed, Verdict::NotSent { after: None }, "it may be back in a moment");
    }
}
