//! Brokers on a NATS server of the test's own, and who looks at what they do.

use std::{
    ops::{Deref, DerefMut},
    path::PathBuf,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use gusset_broker::{
    Broker, DeadLetter, Delivery, Filter, Limits, NatsEngine, NatsOptions, Policy, Subscription,
};
use gusset_call::BoxError;
use gusset_engines::Nats;
use serde_json::{Value, json};
use tower::service_fn;

/// A server of one's own, and who asks it.
pub(crate) struct Server(Nats);

impl Server {
    pub(crate) fn start() -> Self {
        Self(Nats::start())
    }

    pub(crate) fn start_with(arguments: &[&str]) -> Self {
        Self(Nats::start_with(arguments))
    }

    pub(crate) fn configured(configuration: &str) -> Self {
        Self(Nats::configured(configuration))
    }

    pub(crate) fn cluster() -> [Self; 3] {
        Nats::cluster().map(Self)
    }

    pub(crate) fn down() -> Self {
        Self(Nats::down(&[]))
    }

    /// Where it has the messages of the stream, and beside it what it knows of the groups.
    pub(crate) fn messages_on_disk(&self) -> PathBuf {
        self.streams().join("gusset/msgs")
    }

    pub(crate) fn options(&self) -> NatsOptions {
        // The server sets aside what a stream may grow to, and tests have many.
        NatsOptions::new(self.url()).max_bytes(16 << 20)
    }

    pub(crate) async fn broker(&self) -> Broker {
        connect(self.options()).await
    }

    /// A client that knows nothing of brokers.
    pub(crate) async fn operator(&self) -> Operator {
        Operator(async_nats::connect(self.url()).await.unwrap())
    }
}

impl Deref for Server {
    type Target = Nats;

    fn deref(&self) -> &Nats {
        &self.0
    }
}

impl DerefMut for Server {
    fn deref_mut(&mut self) -> &mut Nats {
        &mut self.0
    }
}

pub(crate) async fn connect(options: NatsOptions) -> Broker {
    Broker::on(NatsEngine::connect(options, Limits::new()).await.unwrap())
}

/// Somebody who asks the server by himself.
pub(crate) struct Operator(pub(crate) async_nats::Client);

impl Operator {
    pub(crate) async fn api(&self, subject: &str, question: Value) -> Value {
        let subject = format!("$JS.API.{subject}");
        let answer = self.0.request(subject, question.to_string().into()).await.unwrap();
        serde_json::from_slice(&answer.payload).unwrap()
    }

    pub(crate) async fn group(&self, name: &str) -> Value {
        self.api(&format!("CONSUMER.INFO.gusset.{name}"), json!({})).await
    }

    /// Whether somebody listens to this subject.
    pub(crate) async fn is_heard(&self, subject: &str) -> bool {
        let question = async_nats::Request::new().timeout(Some(Duration::from_millis(200)));
        match self.0.send_request(subject.to_owned(), question).await {
            Ok(_) => true,
            Err(error) => error.kind() != async_nats::RequestErrorKind::NoResponders,
        }
    }

    /// How many messages lie in the stream.
    pub(crate) async fn messages(&self, stream: &str) -> u64 {
        let info = self.api(&format!("STREAM.INFO.{stream}"), json!({})).await;
        info["state"]["messages"].as_u64().unwrap()
    }
}

/// What handlers have seen, in the order of seeing.
#[derive(Clone)]
pub(crate) struct Log<T>(Arc<Mutex<Vec<T>>>);

impl<T> Default for Log<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<T: Clone> Log<T> {
    pub(crate) fn note(&self, seen: T) {
        self.0.lock().unwrap().push(seen);
    }

    pub(crate) fn all(&self) -> Vec<T> {
        self.0.lock().unwrap().clone()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    /// Waits for so many.
    pub(crate) async fn has(&self, many: usize) {
        until(&format!("{many} deliveries"), async || self.len() >= many).await;
    }
}

/// Waits until it is so, a minute at most.
pub(crate) async fn until(what: &str, is_so: impl AsyncFn() -> bool) {
    let begin = Instant::now();
    while !is_so().await {
        assert!(begin.elapsed() < Duration::from_secs(60), "not within a minute: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A subscription that acknowledges everything at once.
pub(crate) async fn listen(
    broker: &Broker,
    pattern: &str,
    group: &str,
) -> (Subscription, Log<u32>) {
    let log = Log::default();
    let noted = log.clone();
    let subscription = broker
        .subscribe(pattern)
        .group(group)
        .handle(service_fn(move |delivery: Delivery<u32>| {
            noted.note(*delivery.body());
            async { Ok::<_, BoxError>(()) }
        }))
        .await
        .unwrap();
    (subscription, log)
}

/// What a handler that failed was given.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Seen {
    pub(crate) body: u32,
    pub(crate) attempt: u32,
    pub(crate) at: Instant,
}

/// A subscription that fails always.
pub(crate) async fn fail(
    broker: &Broker,
    group: &str,
    policy: Policy,
) -> (Subscription, Log<Seen>) {
    let log = Log::default();
    let noted = log.clone();
    let subscription = broker
        .subscribe(">")
        .group(group)
        .policy(policy)
        .handle(service_fn(move |delivery: Delivery<u32>| {
            let attempt = delivery.attempt().number();
            noted.note(Seen { body: *delivery.body(), attempt, at: Instant::now() });
            async move { Err::<(), _>(format!("failure {attempt}")) }
        }))
        .await
        .unwrap();
    (subscription, log)
}

/// Quick to give up.
pub(crate) fn hasty() -> Policy {
    Policy::new().backoff(Duration::from_millis(20), Duration::from_millis(50))
}

/// Waits for so many dead letters.
pub(crate) async fn dead(broker: &Broker, many: usize) -> Vec<Arc<DeadLetter>> {
    let letters = broker.dead_letters();
    let all = Filter::all();
    until(&format!("{many} dead letters"), async || {
        letters.list(&all, None, usize::MAX).await.unwrap().len() >= many
    })
    .await;
    letters.list(&all, None, usize::MAX).await.unwrap()
}

pub(crate) fn soon() -> gusset_call::Deadline {
    gusset_call::Deadline::after(Duration::from_secs(10))
}
