//! What sagas emit, published by the broker.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use gusset_broker::{Broker, Error, Headers, Message, MessageId};
use gusset_saga::{BoxError, Json, OutboxTarget, Outgoing};

/// Publishes what steps [emit](gusset_saga::StepContext::emit): the topic is the subject, and the body is JSON.
///
/// The id is [`gusset_saga::MessageId::uuid`], as with any other target of the relay, and not [`MessageId::named`]: it is the same after restarts, and another one in
/// a saga that was created anew under the id of a purged one.
///
/// From the step to the handler it is **at least once, and twice only if the engine forgets in between**: the relay repeats a message under one id, and the broker recognises it for as long as
/// its engine keeps ids ([`Limits::dedup`](gusset_broker::Limits::dedup), two minutes in memory; on NATS the stream's window). A handler that must not see one twice has to look at
/// [`Delivery::id`](gusset_broker::Delivery::id), or keep an inbox.
///
/// A message whose topic is no subject would hold those behind it for ever. It goes to [`UNDELIVERABLE`](Self::UNDELIVERABLE) instead, and
/// [`undeliverable`](Self::undeliverable) counts it.
///
/// ```
/// use gusset::{
///     broker::{Broker, Delivery},
///     outbox::ToBroker,
///     saga::{MemoryStore, Orchestrator, RelayOptions, Saga, StepContext, StepError},
/// };
///
/// async fn pay(cx: StepContext, cents: u64) -> Result<u64, StepError> {
///     cx.emit("order.paid", &cents).map_err(StepError::rejected)?;
///     Ok(cents)
/// }
///
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// let broker = Broker::new();
/// let (seen, mut paid) = tokio::sync::mpsc::channel(1);
/// let ledger = broker.subscribe("order.*").group("ledger").handle(tower::service_fn(move |order: Delivery<u64>| {
///     let seen = seen.clone();
///     async move { seen.send(*order.body()).await }
/// })).await?;
///
/// let mut saga = Saga::define("order", 1);
/// let step = saga.step("pay").run(pay).no_undo();
/// let order = saga.finish(&step)?;
/// let sagas = Orchestrator::new(MemoryStore::new());
/// let relay = sagas.spawn_relay(ToBroker::new(broker.clone()), RelayOptions::default());
/// sagas.run(&order, 1_999).await?;
/// assert_eq!(paid.recv().await, Some(1_999));
/// sagas.shutdown().await;
/// relay.close().await;
/// ledger.close().await;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
#[derive(Clone, Debug)]
pub struct ToBroker {
    broker: Broker,
    undeliverable: Arc<AtomicU64>,
}

impl ToBroker {
    /// Where a message is published whose topic is no subject, as `{"topic":…,"body":…}` under its own id. An engine in memory keeps it for the groups that there are:
    /// subscribe one to this, or the message is only counted.
    pub const UNDELIVERABLE: &'static str = "gusset.undeliverable";

    /// To this broker.
    #[must_use]
    pub fn new(broker: Broker) -> Self {
        Self { broker, undeliverable: Arc::default() }
    }

    /// How many messages this one and its clones have published as [`UNDELIVERABLE`](Self::UNDELIVERABLE).
    #[must_use]
    pub fn undeliverable(&self) -> u64 {
        self.undeliverable.load(Relaxed)
    }

    /// The message as the broker has it.
    ///
    /// # Errors
    ///
    /// [`Error::Subject`] when the topic is no subject.
    pub fn message(outgoing: &Outgoing) -> Result<Message, Error> {
        let message = &outgoing.message;
        Ok(labelled(Message::new(&*message.topic, message.body.get().to_owned())?, outgoing))
    }

    fn aside(outgoing: &Outgoing) -> Result<Message, BoxError> {
        let message = &outgoing.message;
        let (topic, body) = (Json::encode(&*message.topic)?, message.body.get());
        let body = format!(r#"{{"topic":{},"body":{body}}}"#, topic.get());
        Ok(labelled(Message::new(Self::UNDELIVERABLE, body)?, outgoing))
    }
}

fn labelled(message: Message, outgoing: &Outgoing) -> Message {
    let message = message
        .with_id(MessageId::new(outgoing.id.uuid()))
        .with_header(Headers::CONTENT_TYPE, "application/json");
    let headers = outgoing.message.headers.iter();
    headers.fold(message, |message, (name, value)| {
        message.with_header(name.to_string(), value.to_string())
    })
}

impl OutboxTarget for ToBroker {
    async fn deliver(&self, outgoing: Outgoing) -> Result<(), BoxError> {
        match Self::message(&outgoing) {
            Err(Error::Subject(_)) => {
                self.broker.publish_message(Self::aside(&outgoing)?).await?;
                self.undeliverable.fetch_add(1, Relaxed);
            }
            message => {
                self.broker.publish_message(message?).await?;
            }
        }
        Ok(())
    }
}
