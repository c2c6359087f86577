use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::task::coop::poll_proceed;
use tower_service::Service;

use crate::{Broker, Error, Message, Receipt, engine::Publishing};

/// Publishing as a tower service, so that layers stand around it: a timeout, a circuit breaker, a [`TraceLayer`](crate::TraceLayer). From [`Broker::publisher`].
///
/// # As the target of an outbox
///
/// A relay that reads messages from a table and may crash in between publishes some of them twice. With an [id](Message::with_id) that is made of the message's own,
/// the broker takes each once, within its window:
///
/// ```
/// use gusset_broker::{Broker, Message, MessageId};
/// use tower::{Service, ServiceExt};
///
/// struct Row { key: &'static str, subject: &'static str, payload: &'static str }
///
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// let broker = Broker::new();
/// let mut relay = broker.publisher().map_request(|row: Row| {
///     Message::new(row.subject, row.payload).expect("a subject").with_id(MessageId::named(row.key))
/// });
/// for again in [false, true] {
///     let row = Row { key: "saga 7, message 2", subject: "order.paid", payload: "7" };
///     assert_eq!(relay.ready().await?.call(row).await?.duplicate, again);
/// }
/// # Ok::<(), gusset_broker::Error>(())
/// # }).unwrap();
/// ```
///
/// # Readiness
///
/// Always ready: whether there is room depends on the message, and is asked by the call.
///
/// # Cancellation
///
/// As [`Broker::publish_message`]: dropped before it is ready, no group has got the message, as far as the engine says.
#[derive(Clone, Debug)]
pub struct Publisher(Broker);

impl Publisher {
    pub(crate) const fn new(broker: Broker) -> Self {
        Self(broker)
    }
}

impl Service<Message> for Publisher {
    type Response = Receipt;
    type Error = Error;
    type Future = PublishFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, message: Message) -> PublishFuture {
        PublishFuture::new(self.0.clone(), message)
    }
}

/// Future of [`Publisher`].
#[must_use = "nothing is published until this is polled"]
pub struct PublishFuture {
    /// Nothing is published before the first poll.
    asked: Option<(Broker, Message)>,
    publishing: Option<Publishing>,
}

impl PublishFuture {
    pub(crate) const fn new(broker: Broker, message: Message) -> Self {
        Self { asked: Some((broker, message)), publishing: None }
    }
}

impl Future for PublishFuture {
    type Output = Result<Receipt, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if self.asked.is_some() {
            // A publisher that never waits would otherwise keep the thread from its handlers.
            ready!(poll_proceed(cx)).made_progress();
        }
        if let Some((broker, message)) = self.asked.take() {
            self.publishing = Some(broker.begin(message)?);
        }
        match &mut self.publishing {
            Some(publishing) => Pin::new(publishing).poll(cx),
            None => Poll::Pending,
        }
    }
}

impl fmt::Debug for PublishFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PublishFuture")
            .field("publishing", &self.publishing)
            .finish_non_exhaustive()
    }
}
