//! What every layer of the family promises, checked with one probe service under each of them.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::{
    error::Error,
    fmt,
    future::Future,
    num::{NonZeroU32, NonZeroUsize},
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use gusset::{
    breaker::{BreakerLayer, Circuit, Circuits, Policy},
    call::{AnswerLayer, BoxError},
    ratelimit::{
        Concurrency, ConcurrencyLimitLayer, ConcurrencyLimiter, Keyed, Quota, RateLimitLayer,
        RateLimiter,
    },
    registry::{Balance, Http, Instance, Watch},
    sidecar::{
        BodyDeadlineLayer, DeadlineLayer, FaultLayer, HedgeLayer, HedgePolicy, Metrics,
        MetricsLayer, Recorder, RetryLayer, RetryPolicy, Sidecar, TraceLayer,
    },
    standard::standard,
};
use http::{Request, Response};
use http_body_util::Full;
use tokio_test::{assert_pending, assert_ready_ok, task};
use tower::{Layer, Service, layer::layer_fn};

type Req = Request<Full<Bytes>>;
type Res = Response<Full<Bytes>>;

/// A service that reports every breach of tower's contract.
#[derive(Debug, Default)]
struct Probe {
    shared: Arc<Shared>,
    /// Whether this very instance was polled ready since its last call.
    ready: bool,
}

#[derive(Debug, Default)]
struct Shared {
    script: Mutex<Script>,
    wakers: Mutex<Vec<Waker>>,
    called_unready: AtomicUsize,
    calls: AtomicUsize,
    in_flight: AtomicUsize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Script {
    #[default]
    Answer,
    Unready,
    Hang,
    Fail,
}

/// The error whose identity must survive.
#[derive(Clone, Debug, PartialEq)]
struct ProbeError(u32);

impl fmt::Display for ProbeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "probe error {}", self.0)
    }
}

impl Error for ProbeError {}

impl Shared {
    fn play(&self, script: Script) {
        *self.script.lock().unwrap() = script;
        for waker in self.wakers.lock().unwrap().drain(..) {
            waker.wake();
        }
    }

    fn script(&self) -> Script {
        *self.script.lock().unwrap()
    }
}

impl Clone for Probe {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone(), ready: false }
    }
}

impl<B> Service<Request<B>> for Probe {
    type Response = Res;
    type Error = ProbeError;
    type Future = ProbeFuture;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ProbeError>> {
        if self.shared.script() == Script::Unready {
            self.shared.wakers.lock().unwrap().push(cx.waker().clone());
            return Poll::Pending;
        }
        self.ready = true;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<B>) -> ProbeFuture {
        if !std::mem::take(&mut self.ready) {
            self.shared.called_unready.fetch_add(1, SeqCst);
        }
        self.shared.calls.fetch_add(1, SeqCst);
        self.shared.in_flight.fetch_add(1, SeqCst);
        ProbeFuture(self.shared.clone())
    }
}

struct ProbeFuture(Arc<Shared>);

impl Future for ProbeFuture {
    type Output = Result<Res, ProbeError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.0.script() {
            Script::Answer => Poll::Ready(Ok(Response::new(Full::from("answer")))),
            Script::Fail => Poll::Ready(Err(ProbeError(7))),
            Script::Hang | Script::Unready => {
                self.0.wakers.lock().unwrap().push(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Drop for ProbeFuture {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, SeqCst);
    }
}

fn request() -> Req {
    Request::get("http://probe/").body(Full::default()).unwrap()
}

/// A layer under the contract, and what it does with the errors of the service inside.
struct Case<L> {
    layer: L,
    errors_pass: bool,
}

impl<L> Case<L>
where
    L: Layer<Probe> + Clone + Send + Sync + 'static,
    L::Service: Service<Req, Error: Into<BoxError> + fmt::Debug> + Clone + Send + Sync + 'static,
    <L::Service as Service<Req>>::Future: Send,
    <L::Service as Service<Req>>::Response: fmt::Debug,
{
    async fn holds(self) {
        self.calls_the_readied_instance().await;
        self.a_clone_starts_unready().await;
        self.wakers_are_registered().await;
        self.dropping_gives_back().await;
        if self.errors_pass {
            self.inner_errors_come_out_equal().await;
        }
    }

    fn probe(&self) -> (L::Service, Arc<Shared>) {
        let probe = Probe::default();
        let shared = probe.shared.clone();
        (self.layer.layer(probe), shared)
    }

    async fn calls_the_readied_instance(&self) {
        let (mut service, shared) = self.probe();
        for _ in 0..3 {
            ready(&mut service).await;
            service.call(request()).await.unwrap();
        }
        assert_eq!(shared.calls.load(SeqCst), 3);
        assert_eq!(
            shared.called_unready.load(SeqCst),
            0,
            "an instance that was not ready was called"
        );
    }

    async fn a_clone_starts_unready(&self) {
        let (mut service, shared) = self.probe();
        ready(&mut service).await;
        let mut clone = service.clone();
        ready(&mut clone).await;
        clone.call(request()).await.unwrap();
        service.call(request()).await.unwrap();
        assert_eq!(shared.called_unready.load(SeqCst), 0, "a clone took over readiness");
    }

    async fn wakers_are_registered(&self) {
        let (mut service, shared) = self.probe();
        shared.play(Script::Unready);
        let mut readiness = task::spawn(std::future::poll_fn(|cx| service.poll_ready(cx)));
        // A layer that postpones readiness into the future of its call is ready at once.
        if readiness.poll().is_pending() {
            shared.play(Script::Answer);
            assert!(readiness.is_woken(), "readiness came and nobody was told");
            assert_ready_ok!(readiness.poll());
        }
        drop(readiness);

        shared.play(Script::Answer);
        ready(&mut service).await;
        shared.play(Script::Hang);
        let mut call = task::spawn(service.call(request()));
        assert_pending!(call.poll());
        shared.play(Script::Answer);
        assert!(call.is_woken(), "the answer came and nobody was told");
        assert_ready_ok!(call.poll());
    }

    async fn dropping_gives_back(&self) {
        let (mut service, shared) = self.probe();
        for _ in 0..100 {
            shared.play(Script::Answer);
            ready(&mut service).await;
            shared.play(Script::Hang);
            let mut call = task::spawn(service.call(request()));
            assert_pending!(call.poll());
            drop(call);
            assert_eq!(shared.in_flight.load(SeqCst), 0, "the call goes on without its caller");
        }
        shared.play(Script::Answer);
        ready(&mut service).await;
        service.call(request()).await.unwrap();
    }

    async fn inner_errors_come_out_equal(&self) {
        let (mut service, shared) = self.probe();
        shared.play(Script::Fail);
        ready(&mut service).await;
        let error: BoxError = service.call(request()).await.unwrap_err().into();
        assert_eq!(error.downcast_ref::<ProbeError>(), Some(&ProbeError(7)), "{error:?}");
    }
}

async fn ready<S: Service<Req, Error: fmt::Debug>>(service: &mut S) {
    std::future::poll_fn(|cx| service.poll_ready(cx)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_breaker_holds_it() {
    let circuit = Circuit::new("probe", Policy::default());
    Case { layer: BreakerLayer::new(circuit), errors_pass: true }.holds().await;
}

#[tokio::test(start_paused = true)]
async fn the_answering_layer_holds_it() {
    Case { layer: AnswerLayer::new(), errors_pass: false }.holds().await;
}

#[tokio::test(start_paused = true)]
async fn the_rate_limits_hold_it() {
    let quota = Quota::per_second(1_000_000);
    let one = RateLimitLayer::new(RateLimiter::new(quota));
    Case { layer: one.clone(), errors_pass: true }.holds().await;
    Case { layer: one.headers("default"), errors_pass: true }.holds().await;

    let keyed = Keyed::<String>::new(quota, NonZeroUsize::MIN.saturating_add(99));
    let by_host = |request: &Req| request.uri().host().map(str::to_owned);
    Case { layer: RateLimitLayer::keyed(keyed, by_host), errors_pass: true }.holds().await;
}

#[tokio::test(start_paused = true)]
async fn the_limits_of_concurrency_hold_it() {
    let fixed = Concurrency::fixed(NonZeroU32::MIN.saturating_add(1));
    for policy in [fixed, Concurrency::aimd(), Concurrency::gradient()] {
        let layer = ConcurrencyLimitLayer::new(ConcurrencyLimiter::new("probe", policy));
        Case { layer, errors_pass: true }.holds().await;
    }
}

#[cfg(feature = "redis")]
#[tokio::test(start_paused = true)]
async fn the_limit_in_redis_holds_it() {
    use gusset::ratelimit::{RedisLimitLayer, RedisLimiter, RedisServer, WhenAway};

    // Nobody is there, so nothing waits for the network; with a server, the crate's own tests do.
    let redis = RedisServer::new("redis://127.0.0.1:1").unwrap();
    redis.connect().await;
    let limiter = RedisLimiter::new(&redis, "probe", Quota::per_second(1_000_000));
    let open = limiter.clone().when_away(WhenAway::Open);
    Case { layer: RedisLimitLayer::new(limiter), errors_pass: true }.holds().await;
    let by_host = |request: &Req| request.uri().host().map(str::to_owned);
    Case { layer: RedisLimitLayer::keyed(open, by_host), errors_pass: true }.holds().await;
}

#[tokio::test(start_paused = true)]
async fn the_balancer_holds_it() {
    let layer = layer_fn(|probe: Probe| {
        let fixed =
            Watch::fixed("probe", [Instance::new("probe", "a", 1), Instance::new("probe", "b", 1)]);
        Balance::new(fixed, move |_: &Instance| probe.clone()).protocol(Http)
    });
    Case { layer, errors_pass: true }.holds().await;
}

#[tokio::test(start_paused = true)]
async fn the_layers_of_the_sidecar_hold_it() {
    let recorder = Recorder::new("probe");
    Case { layer: TraceLayer::server(recorder.clone()), errors_pass: true }.holds().await;
    Case { layer: TraceLayer::client(recorder), errors_pass: true }.holds().await;
    let metrics = Metrics::new();
    Case { layer: MetricsLayer::server(metrics.clone()), errors_pass: true }.holds().await;
    Case { layer: MetricsLayer::client(metrics), errors_pass: true }.holds().await;
    let minute = Duration::from_secs(60);
    Case { layer: DeadlineLayer::server(minute), errors_pass: true }.holds().await;
    Case { layer: DeadlineLayer::client(), errors_pass: true }.holds().await;
    let retry = RetryLayer::new(RetryPolicy::default());
    Case { layer: retry, errors_pass: true }.holds().await;
    let hedge = HedgeLayer::new(HedgePolicy::default());
    Case { layer: hedge, errors_pass: true }.holds().await;
    Case { layer: FaultLayer::new(), errors_pass: true }.holds().await;
    Case { layer: BodyDeadlineLayer::new(), errors_pass: true }.holds().await;
    let sidecar = Sidecar::new("probe");
    Case { layer: sidecar.inbound(), errors_pass: false }.holds().await;
    Case { layer: sidecar.outbound("peer"), errors_pass: true }.holds().await;
}

#[tokio::test(start_paused = true)]
async fn the_standard_client_holds_it() {
    let layer = layer_fn(|probe: Probe| {
        let fixed = Watch::fixed("probe", [Instance::new("probe", "a", 1)]);
        let circuits = Circuits::new(Policy::default(), NonZeroUsize::MIN);
        standard(&Sidecar::new("caller"), fixed, &circuits, probe)
    });
    Case { layer, errors_pass: true }.holds().await;
}

/// The types that users write down in their own structs.
#[test]
fn services_and_futures_are_nameable() {
    #[expect(dead_code, reason = "it compiles, which is the test")]
    struct Named<S: Clone, F> {
        breaker: gusset::breaker::Breaker<S>,
        breaking: gusset::breaker::ResponseFuture<F, gusset::breaker::ErrorsFail>,
        limit: gusset::ratelimit::RateLimit<S>,
        limiting: gusset::ratelimit::ResponseFuture<F>,
        at_once: gusset::ratelimit::ConcurrencyLimit<S>,
        running: gusset::ratelimit::ConcurrencyFuture<F>,
        balance: Balance<fn(&Instance) -> S>,
        trace: gusset::sidecar::Trace<S>,
        tracing: gusset::sidecar::TraceFuture<F>,
        measure: gusset::sidecar::Measure<S>,
        measuring: gusset::sidecar::MeasureFuture<F>,
        retry: gusset::sidecar::Retry<S>,
        deadline: gusset::sidecar::WithDeadline<S>,
        meeting: gusset::sidecar::DeadlineFuture<F>,
        standard: gusset::standard::Standard<S>,
        answer: gusset::call::Answer<S>,
        answering: gusset::call::AnswerFuture<F>,
        gateway: gusset::gateway::Gateway,
        passing: gusset::gateway::ResponseFuture,
    }
}

/// What is kept in a state of axum, moved into tasks and shared by threads.
#[test]
fn layers_and_handles_are_clone_send_and_sync() {
    fn is<T: Clone + Send + Sync + fmt::Debug + 'static>() {}
    is::<BreakerLayer>();
    is::<Circuit>();
    is::<Circuits<String>>();
    is::<RateLimitLayer<RateLimiter>>();
    is::<RateLimiter>();
    is::<Keyed<String>>();
    is::<gusset::ratelimit::ExactKeyed<String>>();
    is::<ConcurrencyLimitLayer>();
    is::<ConcurrencyLimiter>();
    is::<gusset::registry::MemoryRegistry>();
    is::<Watch>();
    is::<gusset::broker::Broker>();
    is::<gusset::broker::DeadLetters>();
    is::<gusset::broker::ReactLayer>();
    is::<gusset::broker::TraceLayer>();
    is::<gusset::saga::Orchestrator>();
    is::<gusset::saga::Operator>();
    is::<Sidecar>();
    is::<Metrics>();
    is::<Recorder>();
    is::<TraceLayer>();
    is::<MetricsLayer>();
    is::<DeadlineLayer>();
    is::<BodyDeadlineLayer>();
    is::<RetryLayer>();
    is::<HedgeLayer>();
    is::<FaultLayer>();
    is::<AnswerLayer>();
    is::<gusset::call::Ambient>();
    is::<gusset::gateway::Gateway>();
    is::<gusset::gateway::Live>();
    is::<gusset::health::Health>();
    is::<gusset::shutdown::Shutdown>();
    is::<gusset::config::Live<()>>();
    fn is_error<T: Error + Send + Sync + Clone + PartialEq + 'static>() {}
    is_error::<gusset::call::Open>();
    is_error::<gusset::call::Limited>();
    is_error::<gusset::call::Inadmissible>();
    is_error::<gusset::call::NoInstance>();
    is_error::<gusset::call::Overloaded>();
    is_error::<gusset::call::DeadlineExceeded>();
}
