use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{self, Poll},
};

use gusset_call::{Clock, Context, Scope, TraceContext, TraceState};
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use crate::{
    Broker, Delivery, IntoReply, Message, Reply, Span, SpanKind,
    span::{ActiveSpan, End, Listener, begun},
};

/// Makes spans of publishing and of handling, all of one trace. Around a [`Publisher`](crate::Publisher) it makes producer spans, around a handler consumer spans, one of each
/// attempt. All clones tell the one listener.
///
/// ```
/// use gusset_broker::{Broker, Delivery, Message, Span, TraceLayer};
/// use std::sync::mpsc;
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
///
/// # tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap().block_on(async {
/// let broker = Broker::new();
/// let (ended, spans) = mpsc::channel();
/// let trace = TraceLayer::new(&broker, move |span: Span| drop(ended.send(span)));
///
/// let handler = service_fn(|_: Delivery<u32>| async { Ok::<_, std::io::Error>(()) });
/// let handler = ServiceBuilder::new().layer(trace.clone()).service(handler);
/// let _guard = broker.subscribe("order.*").group("stock").handle(handler).await?;
///
/// let publisher = ServiceBuilder::new().layer(trace).service(broker.publisher());
/// publisher.oneshot(Message::json("order.created", &7)?).await?;
/// tokio::time::sleep(std::time::Duration::from_secs(1)).await;
///
/// let (published, handled) = (spans.recv().unwrap(), spans.recv().unwrap());
/// assert_eq!((&*published.name(), &*handled.name()), ("publish order.created", "process order.created"));
/// assert_eq!(handled.parent, Some(published.trace.span_id()));
/// # Ok::<(), gusset_broker::Error>(())
/// # }).unwrap();
/// ```
///
/// **Parent, not link.** A consumer span is the child of the span whose `traceparent` the message carries, in every attempt and after a redrive too: each is of one message,
/// which has one cause. (Links are for batches, which have several.) A producer span is the child of `gusset_call::Context::current()`, and the message
/// carries the producer span; one that brings a `traceparent` keeps it, as one from an outbox does, and the producer span is a child of that. Without any of these a trace
/// begins, which is sampled.
///
/// A handler inside runs with the consumer span as its context, so that what it calls and publishes belongs to it, and with the message's `gusset_call::TraceState`, which goes along. Without
/// this layer it runs with the publisher's span, and the state ends with the message.
///
/// Both also open a `tracing` span (`publish` or `process`, level INFO) with the trace's identifiers and the attributes of [`Span::attributes`].
///
/// The listener is called when a span is over, on the task that ended it and under no lock; a panic in it is swallowed. It decides what is kept or exported.
#[derive(Clone)]
pub struct TraceLayer {
    listener: Arc<Listener>,
    system: &'static str,
    clock: Clock,
}

impl TraceLayer {
    /// Tells `ended` of each span of messages on this broker.
    #[must_use]
    pub fn new(broker: &Broker, ended: impl Fn(Span) + Send + Sync + 'static) -> Self {
        let system = match broker.capabilities().engine {
            "memory" | "file" => "gusset",
            other => other,
        };
        Self { listener: Arc::new(ended), system, clock: Clock::new() }
    }

    fn begin(&self, span: Span, state: Option<TraceState>) -> (Within, Context) {
        let cx = Context::current().with_trace(span.trace);
        let span = ActiveSpan::new(span, self.listener.clone(), self.clock.clone());
        (Within { span, state }, cx)
    }
}

impl fmt::Debug for TraceLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TraceLayer").field("system", &self.system).finish_non_exhaustive()
    }
}

impl<S> Layer<S> for TraceLayer {
    type Service = Trace<S>;

    fn layer(&self, inner: S) -> Trace<S> {
        Trace { inner, settings: self.clone() }
    }
}

/// Service of [`TraceLayer`].
///
/// # Readiness
///
/// That of the inner service.
///
/// # Cancellation
///
/// Dropping the future ends the span as [`End::Cancelled`].
#[derive(Clone, Debug)]
pub struct Trace<S> {
    inner: S,
    settings: TraceLayer,
}

impl<S> Service<Message> for Trace<S>
where
    S: Service<Message>,
    S::Error: fmt::Display,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = TracedPublish<S::Future>;

    fn poll_ready(&mut self, cx: &mut task::Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, message: Message) -> Self::Future {
        let (parent, state) = cause_of(&message);
        let span = begun(&message, parent, SpanKind::Producer, self.settings.system);
        let (within, cx) = self.settings.begin(span, state);
        let inner = within.enter(|| cx.sync_scope(|| self.inner.call(message)));
        TracedPublish { work: Work { inner: cx.scope(inner), within: Some(within) } }
    }
}

impl<S, T> Service<Delivery<T>> for Trace<S>
where
    S: Service<Delivery<T>>,
    S::Response: IntoReply,
    S::Error: fmt::Display,
{
    type Response = Reply;
    type Error = S::Error;
    type Future = TracedHandling<S::Future>;

    fn poll_ready(&mut self, cx: &mut task::Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, delivery: Delivery<T>) -> Self::Future {
        let message = delivery.message();
        let (parent, state) = cause_of(message);
        let mut span = begun(message, parent, SpanKind::Consumer, self.settings.system);
        (span.group, span.attempt) = (Some(delivery.group().into()), Some(delivery.attempt()));
        let (within, cx) = self.settings.begin(span, state);
        let inner = within.enter(|| cx.sync_scope(|| self.inner.call(delivery)));
        TracedHandling { work: Work { inner: cx.scope(inner), within: Some(within) } }
    }
}

/// The span that the message names, or else the current one; and the state that goes with it.
fn cause_of(message: &Message) -> (Option<TraceContext>, Option<TraceState>) {
    match message.trace() {
        Some(trace) => (Some(trace), message.trace_state()),
        None => (Context::current().trace(), TraceState::current()),
    }
}

/// A span, and what is current inside of it beside the context.
#[derive(Debug)]
struct Within {
    span: ActiveSpan,
    state: Option<TraceState>,
}

impl Within {
    fn enter<R>(&self, step: impl FnOnce() -> R) -> R {
        TraceState::sync_scope(self.state.clone(), || self.span.enter(step))
    }
}

pin_project! {
    struct Work<F> {
        // Before the span, so that what its drop logs still belongs to an open one.
        #[pin]
        inner: Scope<F>,
        within: Option<Within>,
    }
}

impl<F: Future> Work<F> {
    /// What came of it, and its span, which is to be ended.
    fn poll(self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<(F::Output, ActiveSpan)> {
        let this = self.project();
        // Taken out while foreign code runs: should it panic, the span is dropped by the unwinding and knows it.
        let Some(within) = this.within.take() else { return Poll::Pending };
        match within.enter(|| this.inner.poll(cx)) {
            Poll::Pending => {
                *this.within = Some(within);
                Poll::Pending
            }
            Poll::Ready(output) => Poll::Ready((output, within.span)),
        }
    }
}

pin_project! {
    /// Future of [`Trace`] around what publishes.
    pub struct TracedPublish<F> {
        #[pin]
        work: Work<F>,
    }
}

impl<F, R, E> Future for TracedPublish<F>
where
    F: Future<Output = Result<R, E>>,
    E: fmt::Display,
{
    type Output = Result<R, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<Self::Output> {
        self.project().work.poll(cx).map(|(result, span)| {
            match &result {
                Ok(_) => span.end(End::Complete, None),
                Err(error) => span.end(End::Error, Some(&error.to_string())),
            }
            result
        })
    }
}

pin_project! {
    /// Future of [`Trace`] around a handler.
    pub struct TracedHandling<F> {
        #[pin]
        work: Work<F>,
    }
}

impl<F, R, E> Future for TracedHandling<F>
where
    F: Future<Output = Result<R, E>>,
    R: IntoReply,
    E: fmt::Display,
{
    type Output = Result<Reply, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<Self::Output> {
        self.project().work.poll(cx).map(|(result, span)| {
            let result = result.map(IntoReply::into_reply);
            match &result {
                Ok(Reply::Ack | Reply::Answer(_)) => span.end(End::Complete, None),
                Ok(Reply::RetryAfter(_)) => span.end(End::Retry, None),
                Ok(Reply::Reject(why)) => span.end(End::Rejected, Some(why)),
                Err(error) => span.end(End::Error, Some(&error.to_string())),
            }
            result
        })
    }
}

macro_rules! opaque {
    ($($name:ident),*) => {$(
        impl<F> fmt::Debug for $name<F> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($name)).field("within", &self.work.within).finish_non_exhaustive()
            }
        }
    )*};
}

opaque!(TracedPublish, TracedHandling);
