//! Choreography: what a handler publishes because of what it handled.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    vec,
};

use gusset_call::BoxError;
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use crate::{Broker, Delivery, Headers, Message, MessageId, PublishFuture, Reply};

/// What a handler behind a [`ReactLayer`] answers: what becomes of the message, and which messages follow from it.
///
/// A message, an option or a list of them stands for an acknowledgement with these; `()` and a [`Reply`] for an answer without any.
#[derive(Clone, Debug, Default)]
pub struct Reaction {
    reply: Reply,
    follow_ups: Vec<Message>,
}

impl Reaction {
    /// The same, and this message after those before.
    #[must_use]
    pub fn then(mut self, message: Message) -> Self {
        self.follow_ups.push(message);
        self
    }
}

impl From<Reply> for Reaction {
    fn from(reply: Reply) -> Self {
        Self { reply, follow_ups: Vec::new() }
    }
}

impl From<()> for Reaction {
    fn from((): ()) -> Self {
        Self::default()
    }
}

impl From<Message> for Reaction {
    fn from(message: Message) -> Self {
        Self::default().then(message)
    }
}

impl From<Vec<Message>> for Reaction {
    fn from(follow_ups: Vec<Message>) -> Self {
        Self { reply: Reply::Ack, follow_ups }
    }
}

impl From<Option<Message>> for Reaction {
    fn from(message: Option<Message>) -> Self {
        message.into_iter().collect::<Vec<_>>().into()
    }
}

impl Message {
    /// The same message as one that follows from `cause`: with its id as [`Headers::CAUSATION_ID`], and with its [`Headers::CORRELATION_ID`], or its id where it has none, so that
    /// all that follow from one message have that in common.
    #[must_use]
    pub fn caused_by(self, cause: &Self) -> Self {
        let id = cause.id().to_string();
        let correlation = cause.headers().get(Headers::CORRELATION_ID).unwrap_or(&id).to_owned();
        self.with_header(Headers::CORRELATION_ID, correlation)
            .with_header(Headers::CAUSATION_ID, id)
    }
}

/// Publishes what a handler answers, and only then acknowledges what it handled: the service takes part in a choreography without a call to the broker. All clones publish on
/// the one broker.
///
/// ```
/// use gusset_broker::{Broker, Delivery, Headers, Message, ReactLayer};
/// use tower::{ServiceBuilder, service_fn};
///
/// # tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap().block_on(async {
/// let broker = Broker::new();
/// let charge = service_fn(|order: Delivery<u32>| async move {
///     Message::json("payment.taken", order.body())
/// });
/// let charge = ServiceBuilder::new().layer(ReactLayer::new(&broker)).service(charge);
/// let _guard = broker.subscribe("order.created").group("payments").handle(charge).await?;
///
/// let mut payments = broker.subscribe("payment.*").group("mails").pull::<u32>().await?;
/// let order = broker.publish("order.created", &7).await?;
/// let payment = payments.next().await.expect("the broker is open");
/// assert_eq!(payment.headers().get(Headers::CAUSATION_ID), Some(&*order.id.to_string()));
/// payment.ack().await?;
/// # Ok::<(), gusset_broker::Error>(())
/// # }).unwrap();
/// ```
///
/// **Guarantee.** The message is acknowledged, rejected or answered when all that follows is published, one after the other. If one cannot be published, or the process ends in between,
/// the message is handled again; what was published before is not published twice, if the engine recognises duplicates and it is within its window
/// ([`Limits::dedup`](crate::Limits::dedup)). For that each follow-up has an id made of the message's, the group, its own subject and how many it published with that subject
/// before, so a handler that is asked again should answer the same; a message that has [an id](Message::with_id) keeps it. An answer that asks for another
/// attempt publishes nothing.
///
/// All get the headers of [`Message::caused_by`]. The handler's timeout includes the publishing; a full group that a follow-up goes to makes it
/// wait as [`Broker::publish_message`] says, without a deadlock.
#[derive(Clone, Debug)]
pub struct ReactLayer {
    broker: Broker,
}

impl ReactLayer {
    /// Publishes on this broker.
    #[must_use]
    pub fn new(broker: &Broker) -> Self {
        Self { broker: broker.clone() }
    }
}

impl<S> Layer<S> for ReactLayer {
    type Service = React<S>;

    fn layer(&self, inner: S) -> React<S> {
        React { inner, broker: self.broker.clone() }
    }
}

/// Service of [`ReactLayer`].
///
/// # Readiness
///
/// That of the inner service.
///
/// # Cancellation
///
/// Dropping the future leaves what was published published, and the rest not.
#[derive(Clone, Debug)]
pub struct React<S> {
    inner: S,
    broker: Broker,
}

impl<S, T> Service<Delivery<T>> for React<S>
where
    S: Service<Delivery<T>>,
    S::Response: Into<Reaction>,
    S::Error: Into<BoxError>,
{
    type Response = Reply;
    type Error = BoxError;
    type Future = ReactFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, delivery: Delivery<T>) -> Self::Future {
        let cause = Cause { message: delivery.shared(), group: delivery.group().into() };
        let broker = self.broker.clone();
        ReactFuture { handling: Some(self.inner.call(delivery)), cause, broker, publishing: None }
    }
}

#[derive(Debug)]
struct Cause {
    message: Arc<Message>,
    group: Arc<str>,
}

impl Cause {
    /// The follow-ups as they are published.
    fn name(&self, follow_ups: Vec<Message>) -> Vec<Message> {
        let mut named: Vec<Message> = Vec::with_capacity(follow_ups.len());
        for message in follow_ups {
            let message = message.caused_by(&self.message);
            let message = if message.is_known_by_id() {
                message
            } else {
                let before = named.iter().filter(|m| m.subject() == message.subject()).count();
                let (cause, subject) = (self.message.id(), message.subject());
                // No part but the last has a space in it.
                let name = format!("{cause} {} {before} {subject}", self.group);
                let id = MessageId::named(&name);
                message.with_id(id)
            };
            named.push(message);
        }
        named
    }
}

pin_project! {
    /// Future of [`React`].
    pub struct ReactFuture<F> {
        #[pin]
        handling: Option<F>,
        cause: Cause,
        broker: Broker,
        publishing: Option<Publishing>,
    }
}

/// The first is on its way, the rest waits.
struct Publishing {
    reply: Reply,
    now: Option<PublishFuture>,
    rest: vec::IntoIter<Message>,
}

impl<F, R, E> Future for ReactFuture<F>
where
    F: Future<Output = Result<R, E>>,
    R: Into<Reaction>,
    E: Into<BoxError>,
{
    type Output = Result<Reply, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        if let Some(handling) = this.handling.as_mut().as_pin_mut() {
            let Reaction { reply, follow_ups } =
                ready!(handling.poll(cx)).map_err(Into::into)?.into();
            this.handling.set(None);
            if follow_ups.is_empty() || matches!(reply, Reply::RetryAfter(_)) {
                return Poll::Ready(Ok(reply));
            }
            let rest = this.cause.name(follow_ups).into_iter();
            *this.publishing = Some(Publishing { reply, now: None, rest });
        }
        let Some(publishing) = this.publishing else { return Poll::Pending };
        loop {
            if let Some(now) = &mut publishing.now {
                ready!(Pin::new(now).poll(cx))?;
            }
            publishing.now =
                publishing.rest.next().map(|next| PublishFuture::new(this.broker.clone(), next));
            if publishing.now.is_none() {
                let reply = std::mem::take(&mut publishing.reply);
                *this.publishing = None;
                return Poll::Ready(Ok(reply));
            }
        }
    }
}

impl<F> fmt::Debug for ReactFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReactFuture").field("cause", &self.cause).finish_non_exhaustive()
    }
}
