//! A process with one of everything, whose services say things that a careless page would run.

#![allow(dead_code, reason = "each test uses its part")]

use std::{
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use gusset_breaker::{Circuit, Circuits, Policy};
use gusset_broker::{Broker, Delivery, Message, Subscription};
use gusset_call::BoxError;
use gusset_console::{LimitReading, ReadLimit, Setting, Sources, Switch, Switches};
use gusset_gateway::{Split, Variant};
use gusset_ratelimit::{Quota, RateLimiter};
use gusset_registry::{Health, Instance, MemoryRegistry, Registry};
use gusset_saga::{Effect, MemoryStore, Orchestrator, Saga, StepContext, StepError};
use gusset_sidecar::{
    OutboundLayer, Recorder, ReplayBody, Sidecar,
    telemetry::{self, Telemetry},
};
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use tower::{Layer, ServiceExt, service_fn};

/// Markup, the end of a script, and a line break of an event stream.
pub(crate) const EVIL: &str = "<img src=x onerror=document.title='owned'></script><b>\n\ndata: {}";
/// The same where a line is asked for.
pub(crate) const MARKUP: &str = "<img src=x onerror=document.title='owned'>";
pub(crate) const TOKEN: &str = "c8d1f1b1b8e94f2ea0d38d1f0f6c7a55";

pub(crate) struct World {
    pub(crate) circuit: Circuit,
    pub(crate) endpoints: Circuits<String>,
    pub(crate) registry: MemoryRegistry,
    pub(crate) limiter: RateLimiter,
    pub(crate) sidecar: Sidecar,
    pub(crate) telemetry: Telemetry,
    pub(crate) outbound: OutboundLayer,
    pub(crate) sagas: Orchestrator,
    pub(crate) broker: Broker,
    pub(crate) split: Split,
    pub(crate) drill: Drill,
    _group: Subscription,
}

/// A fault, a load, and something that nobody can turn.
#[derive(Clone, Default)]
pub(crate) struct Drill(pub(crate) Arc<(AtomicBool, AtomicU64)>);

impl Switches for Drill {
    fn read(&self) -> Vec<Switch> {
        let (slow, rate) = &*self.0;
        vec![
            Switch::toggle("slow bank", EVIL, slow.load(SeqCst)),
            Switch::number("load", "requests a second", rate.load(SeqCst), 0..=500),
            Switch::toggle(MARKUP, "nobody has it", false).locked("there is no Redis"),
        ]
    }

    fn turn(&self, name: &str, to: Setting) -> Result<(), String> {
        let (slow, rate) = &*self.0;
        match to {
            Setting::Toggle(on) => slow.store(on, SeqCst),
            Setting::Number(13) => return Err(format!("{name} brings bad luck")),
            Setting::Number(number) => rate.store(number, SeqCst),
        }
        Ok(())
    }
}

/// A limit that knows who is greedy.
struct Greedy;

impl ReadLimit for Greedy {
    fn read(&self) -> LimitReading {
        let mut reading = LimitReading::new(10, 3);
        reading.top = vec![(EVIL.into(), 3)];
        reading
    }
}

impl World {
    pub(crate) async fn new(traces: usize, instances: u16) -> Self {
        let registry = MemoryRegistry::default();
        for port in 0..instances {
            let health = if port % 7 == 6 { Health::Draining } else { Health::Healthy };
            let orders = Instance::new("orders", "10.0.0.1", 1_000 + port).with_health(health);
            registry.register(orders.with_version(MARKUP)).await.unwrap();
        }
        let recorder = Recorder::with_capacity("orders", 2 * traces.max(100));
        let sidecar = Sidecar::with_recorder(recorder);
        let (dispatch, telemetry) =
            telemetry::init("orders").sidecar(&sidecar).writer(std::io::sink).build().unwrap();
        for number in 0..traces {
            let failed = number % 10 == 9;
            let dispatch = dispatch.clone();
            let work = async move {
                tracing::dispatcher::with_default(&dispatch, || tracing::warn!(number, "{EVIL}"));
                if failed { Err(EVIL) } else { Ok(()) }
            };
            let _ = sidecar.intercept("createOrder", work).await;
        }
        let broker = Broker::new();
        let take = service_fn(|_: Delivery<u32>| async { Ok::<_, String>(()) });
        let group = broker.subscribe("order.*").group("mails").handle(take).await.unwrap();
        let message = Message::json("order.made", EVIL).unwrap().with_header("note", "<b>bold</b>");
        broker.publish_message(message).await.unwrap();
        let stable = Variant::new("stable", "products", 9);
        let split = Split::new([stable, Variant::new(EVIL, "products-next", 1)]);
        let one = NonZeroUsize::new(2_000).unwrap();
        Self {
            circuit: Circuit::new("bank", Policy::consecutive(5).open_for(Duration::from_secs(90))),
            endpoints: Circuits::new(Policy::consecutive(5), one),
            registry,
            limiter: RateLimiter::new(Quota::per_second(100).burst(20)),
            outbound: sidecar.outbound("bank"),
            sidecar,
            telemetry,
            sagas: stuck().await,
            broker,
            split,
            drill: Drill::default(),
            _group: group,
        }
    }

    pub(crate) fn sources(&self) -> Sources {
        let _ = self.endpoints.get(EVIL.to_owned());
        Sources::new()
            .registry(self.registry.clone())
            .metrics("orders", self.sidecar.metrics())
            .retries("orders", "bank", self.outbound.retry())
            .circuit("payments", &self.circuit)
            .circuits("endpoints", &self.endpoints)
            .limit("api", self.limiter.clone())
            .limit(EVIL, Greedy)
            .traces(self.telemetry.store())
            .sagas(&self.sagas)
            .broker(&self.broker)
            .split("products", &self.split)
            .switches("drill", self.drill.clone())
            .operator_token(TOKEN)
    }

    /// Calls to a bank that fails now and then, made by requests that are answered.
    pub(crate) async fn traffic(&self) {
        let number = std::sync::Arc::new(std::sync::atomic::AtomicU32::new(0));
        let bank = service_fn(move |_: Request<ReplayBody<Full<Bytes>>>| {
            let busy = number.fetch_add(1, std::sync::atomic::Ordering::SeqCst) % 5 == 4;
            let status = if busy { 503 } else { 200 };
            let answer = Response::builder().status(status).body(Full::<Bytes>::default());
            async move { Ok::<_, BoxError>(answer.unwrap()) }
        });
        let bank = self.outbound.clone().layer(bank);
        let orders = service_fn(move |request: Request<Full<Bytes>>| {
            let bank = bank.clone();
            async move { bank.oneshot(request).await }
        });
        let orders = self.sidecar.inbound().layer(orders);
        for _ in 0..40 {
            let request =
                Request::get("http://bank/balance").body(Full::<Bytes>::default()).unwrap();
            let answer = orders.clone().oneshot(request).await.unwrap();
            let _ = answer.into_body().collect().await;
        }
    }

    /// Until the broker has buried what it was sent.
    pub(crate) async fn settled(&self) {
        while self.broker.stats().dead_letters == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// Sagas that wait for an operator: `s-1` and `s-2` for an undo, `h-1` for what a step returned, `w-1` for a signal that never comes.
async fn stuck() -> Orchestrator {
    let sagas = Orchestrator::new(MemoryStore::new());
    let mut saga = Saga::define("place-order", 1);
    let once = gusset_saga::Policy::undo().attempts(1);
    let reserve = |_: StepContext, items: u32| async move { Ok::<_, StepError>(items) };
    let release = |_: StepContext, _: u32, _: Effect<u32>| async {
        Err::<(), _>(StepError::transient("the shelf is locked"))
    };
    let stock = saga.step("reserve").undo_policy(once).run(reserve).undo(release);
    let pay = |_: StepContext, _: u32, _: u32| async { Err::<u32, _>(StepError::rejected(EVIL)) };
    let paid = saga.step("pay").needs(&stock).run(pay).no_undo();
    let place_order = saga.finish(&paid).unwrap();
    for id in ["s-1", "s-2"] {
        sagas.run_as(&place_order, id.parse().unwrap(), 3).await.unwrap();
    }

    let mut saga = Saga::define("ship", 1);
    let paid = saga.step("pay").run(reserve).no_undo();
    let mut saga = saga.pivot(&paid);
    let send = |_: StepContext, _: u32| async { Err::<u32, _>(StepError::rejected("no address")) };
    let sent = saga.step("send").run(send);
    let ship = saga.finish(&sent).unwrap();
    sagas.run_as(&ship, "h-1".parse().unwrap(), 3).await.unwrap();

    let mut saga = Saga::define("return-goods", 1);
    let arrived = saga.step("arrives").signal::<u32>();
    let wait = saga.finish(&arrived).unwrap();
    sagas.start(&wait, "w-1".parse().unwrap(), 3).await.unwrap();
    sagas
}
