//! What sagas emit, published by the broker.

use gusset_broker::{Broker, Error, Headers, Message, MessageId};
use gusset_saga::{BoxError, OutboxTarget, Outgoing};

/// Publishes what steps [emit](gusset_saga::StepContext::emit): the topic is the subject, and the body is JSON.
///
/// The id is [`gusset_saga::MessageId::uuid`], as with any other target of the relay, and not [`MessageId::named`]: it is the same after restarts, and another one in
/// a saga that was created anew under the id of a purged one.
///
/// From the step to the handler it is **at least once, and twice only if the engine forgets in between**: the relay repeats a message under one id, and the broker recognises it for as long as
/// its engine keeps ids ([`Limits::dedup`](gusset_broker::Limits::dedup), two minutes in memory; on NATS the stream's window). A handler that must not see one twice has to look at
/// [`Delivery::id`](gusset_broker::Delivery::id), or keep an inbox.
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
/// relay.stop().await;
/// ledger.close().await;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
#[derive(Clone, Debug)]
pub struct ToBroker(Broker);

impl ToBroker {
    /// To this broker.
    #[must_use]
    pub const fn new(broker: Broker) -> Self {
        Self(broker)
    }

    /// The message as the broker has it.
    ///
    /// # Errors
    ///
    /// [`Error::Subject`] when the topic is no subject. The relay tries it again for ever, so a definition must not emit to one.
    pub fn message(outgoing: &Outgoing) -> Result<Message, Error> {
        let Outgoing { id, message } = outgoing;
        let published = Message::new(&*message.topic, message.body.get().to_owned())?
            .with_id(MessageId::new(id.uuid()))
            .with_header(Headers::CONTENT_TYPE, "application/json");
        let with =
            |published: Message, (name, value): (&std::sync::Arc<str>, &std::sync::Arc<str>)| {
                published.with_header(name.to_string(), value.to_string())
            };
        Ok(message.headers.iter().fold(published, with))
    }
}

impl OutboxTarget for ToBroker {
    async fn deliver(&self, outgoing: Outgoing) -> Result<(), BoxError> {
        self.0.publish_message(Self::message(&outgoing)?).await?;
        Ok(())
    }
}
