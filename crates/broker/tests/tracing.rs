//! Spans of publishers and handlers, and what travels with a message.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall fail")]

mod common;

use std::time::Duration;

use common::{Log, listen, millis, secs, settle, stats};
use gusset_broker::{
    Broker, Delivery, End, Error, Filter, Headers, Message, Policy, Reason, Reply, Span, SpanKind,
    Subscription, TraceLayer, WhenExpired,
};
use gusset_call::{BoxError, Context, Deadline, TraceContext, TraceState};
use tokio::time::{Instant, sleep};
use tower::{Layer, ServiceExt, service_fn};

fn tracing(broker: &Broker) -> (TraceLayer, Log<Span>) {
    let spans = Log::default();
    let noted = spans.clone();
    (TraceLayer::new(broker, move |span| noted.note(span)), spans)
}

fn tick() -> Message {
    Message::json("tick", &1).unwrap()
}

/// Two attempts; notes the context of each.
async fn twice(broker: &Broker, trace: &TraceLayer) -> (Subscription, Log<Context>) {
    let seen = Log::default();
    let noted = seen.clone();
    let handler = service_fn(move |delivery: Delivery<u32>| {
        // Read in `call` itself as well as in its future.
        let sync = Context::current();
        let noted = noted.clone();
        async move {
            assert_eq!(Context::current(), sync);
            noted.note(sync);
            if delivery.is_last_attempt() { Ok(()) } else { Err("once more") }
        }
    });
    let policy = Policy::new().max_attempts(2);
    let subscribe = broker.subscribe(">").group("g").policy(policy);
    (subscribe.handle(trace.layer(handler)).await.unwrap(), seen)
}

#[tokio::test(start_paused = true)]
async fn publisher_and_all_attempts_are_spans_of_one_trace() {
    let broker = Broker::new();
    let (trace, spans) = tracing(&broker);
    let (_guard, contexts) = twice(&broker, &trace).await;
    let caller = TraceContext::new_root();
    let publish =
        trace.layer(broker.publisher()).oneshot(tick().with_header("correlation-id", "c"));
    let receipt = Context::default().with_trace(caller).scope(publish).await.unwrap();
    secs(1).await;

    let [published, first, second] = &spans.all()[..] else { panic!() };
    assert_eq!(published.parent, Some(caller.span_id()));
    for (attempt, handled) in [(1, first), (2, second)] {
        assert_eq!(handled.parent, Some(published.trace.span_id()));
        assert_eq!(handled.attempt.unwrap().number(), attempt);
        assert_eq!(handled.trace.trace_id(), caller.trace_id());
    }
    let inside: Vec<_> = contexts.all().iter().map(Context::trace).collect();
    assert_eq!(inside, [Some(first.trace), Some(second.trace)], "what is called belongs to it");
    assert_eq!((published.end, first.end, second.end), (End::Complete, End::Error, End::Complete));
    assert_eq!(first.error.as_deref(), Some("once more"));

    let text = |span: &Span| {
        let all = span.attributes();
        all.into_iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>()
    };
    let id = format!("messaging.message.id={}", receipt.id);
    assert_eq!(published.name(), "publish tick");
    assert_eq!(
        text(published),
        [
            "messaging.system=gusset",
            "messaging.operation.name=publish",
            "messaging.operation.type=send",
            "messaging.destination.name=tick",
            &id,
            "messaging.message.body.size=1",
            "messaging.message.conversation_id=c",
        ]
    );
    assert_eq!(
        text(first),
        [
            "messaging.system=gusset",
            "messaging.operation.name=process",
            "messaging.operation.type=process",
            "messaging.destination.name=tick",
            &id,
            "messaging.message.body.size=1",
            "messaging.consumer.group.name=g",
            "messaging.message.conversation_id=c",
            "gusset.attempt=1",
            "error.type=error",
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_message_that_brings_its_trace_keeps_it_and_one_without_begins_one() {
    let broker = Broker::new();
    let (trace, spans) = tracing(&broker);
    let (_guard, _) = twice(&broker, &trace).await;
    let made = TraceContext::new_root();
    let outbox = tick().with_header(Headers::TRACEPARENT, made.to_string());
    let publish = trace.layer(broker.publisher()).oneshot(outbox);
    Context::default().with_trace(TraceContext::new_root()).scope(publish).await.unwrap();
    secs(1).await;
    let parents: Vec<_> = spans.all().iter().map(|span| span.parent).collect();
    assert_eq!(parents, [Some(made.span_id()); 3]);

    broker.publish_message(tick()).await.unwrap();
    secs(1).await;
    let begun = &spans.all()[3];
    assert_eq!((begun.kind, begun.parent), (SpanKind::Consumer, None));
    assert!(begun.trace.is_sampled());
}

#[tokio::test(start_paused = true)]
async fn the_state_of_a_trace_goes_along_to_what_a_handler_publishes() {
    let broker = Broker::new();
    let (trace, _) = tracing(&broker);
    let (within, seen) = (broker.clone(), Log::default());
    let noted = seen.clone();
    let handler = service_fn(move |delivery: Delivery<u32>| {
        noted.note((delivery.attempt().number(), TraceState::current()));
        let publish = within.publish("tock", &1);
        async move {
            // Read after it has waited, too.
            sleep(millis(1)).await;
            if !delivery.is_last_attempt() {
                return Err("again");
            }
            publish.await.unwrap();
            Ok(())
        }
    });
    let policy = Policy::new().max_attempts(2);
    let subscribe = broker.subscribe("tick").group("tick").policy(policy);
    let _tick = subscribe.handle(trace.layer(handler)).await.unwrap();
    let mut tock = broker.subscribe("tock").pull::<u32>().await.unwrap();

    let state: TraceState = "rojo=00f067aa0ba902b7".parse().unwrap();
    let cx = Context::default().with_trace(TraceContext::new_root());
    let mut publish = std::pin::pin!(trace.layer(broker.publisher()).oneshot(tick()));
    let published = std::future::poll_fn(|task| {
        TraceState::sync_scope(Some(state.clone()), || {
            cx.sync_scope(|| publish.as_mut().poll(task))
        })
    });
    published.await.unwrap();
    let told = tock.next().await.unwrap();
    assert_eq!(told.message().trace_state(), Some(state.clone()));
    assert_eq!(seen.all(), [(1, Some(state.clone())), (2, Some(state))]);
    assert_eq!(TraceState::current(), None);
}

#[tokio::test(start_paused = true)]
async fn a_span_ends_once_however_its_handler_does() {
    let broker = Broker::new();
    let (trace, spans) = tracing(&broker);
    let handler = service_fn(|delivery: Delivery<u32>| async move {
        sleep(millis(10)).await;
        match *delivery.body() {
            0 => Ok(Reply::Ack),
            1 => Ok(Reply::reject("no use")),
            2 => Ok(Reply::RetryAfter(secs_of(1_000))),
            3 => Err("broken"),
            4 => panic!("oh no"),
            _ => std::future::pending().await,
        }
    });
    let policy = Policy::new()
        .max_attempts(2)
        .attempt_timeout(millis(50))
        .backoff(secs_of(1_000), secs_of(1_000));
    let subscribe = broker.subscribe(">").group("g").policy(policy).concurrency(8);
    let _guard = subscribe.handle(trace.layer(handler)).await.unwrap();
    for n in 0..6 {
        broker.publish("tick", &n).await.unwrap();
    }
    sleep(millis(100)).await;
    let mut ends: Vec<_> =
        spans.all().into_iter().map(|span| (span.end, span.duration, span.error)).collect();
    ends.sort_by_key(|(end, ..)| format!("{end:?}"));
    let expected = [
        (End::Cancelled, millis(50), None),
        (End::Complete, millis(10), None),
        (End::Error, millis(10), Some("broken".to_owned())),
        (End::Panicked, millis(10), None),
        (End::Rejected, millis(10), Some("no use".to_owned())),
        (End::Retry, millis(10), None),
    ];
    let close = |a: Duration, b: Duration| a.abs_diff(b) <= millis(2);
    for (found, expected) in ends.iter().zip(&expected) {
        assert!(
            found.0 == expected.0 && close(found.1, expected.1) && found.2 == expected.2,
            "{found:?}"
        );
    }
    assert_eq!(ends.len(), 6);
}

fn secs_of(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

#[tokio::test(start_paused = true)]
async fn a_listener_that_panics_costs_nobody_anything() {
    let broker = Broker::new();
    let trace = TraceLayer::new(&broker, |_| panic!("listener"));
    let handler = service_fn(|delivery: Delivery<u32>| async move {
        assert!(delivery.attempt().number() > 1, "a panic while the listener panics, too");
        Ok::<_, BoxError>(())
    });
    let _guard = broker.subscribe(">").group("g").handle(trace.layer(handler)).await.unwrap();
    trace.layer(broker.publisher()).oneshot(tick()).await.unwrap();
    secs(1).await;
    assert_eq!((stats(&broker, "g").acked, stats(&broker, "g").delivered), (1, 2));
}

#[tokio::test(start_paused = true)]
async fn a_refused_publish_is_a_failed_span_and_an_abandoned_one_a_cancelled() {
    let broker = Broker::new();
    let (trace, spans) = tracing(&broker);
    broker.declare("g", ">", Policy::new().capacity(1)).await.unwrap();
    broker.publish_message(tick()).await.unwrap();
    let publisher = trace.layer(broker.publisher());
    let publish = publisher.clone().oneshot(tick());
    let _ = tokio::time::timeout(millis(5), publish).await.unwrap_err();
    assert!(matches!(publisher.oneshot(tick()).await, Err(Error::Full(_))));
    let ends: Vec<_> = spans.all().into_iter().map(|span| span.end).collect();
    assert_eq!(ends, [End::Cancelled, End::Error]);
}

#[tokio::test(start_paused = true)]
async fn what_is_left_of_a_deadline_travels_with_the_message() {
    let broker = Broker::new();
    let seen = Log::default();
    let noted = seen.clone();
    let handler = service_fn(move |_: Delivery<u32>| {
        noted.note(Context::current().deadline().unwrap().remaining());
        async { Ok::<_, BoxError>(()) }
    });
    broker.declare("g", ">", Policy::new()).await.unwrap();
    let patient = tick().with_deadline(Deadline::after(secs_of(10)));
    broker.publish_message(patient).await.unwrap();
    let cx = Context::default().with_deadline(Deadline::after(secs_of(2)));
    cx.scope(broker.publish_message(tick())).await.unwrap();
    secs(4).await;
    let _guard = broker.subscribe(">").group("g").handle(handler).await.unwrap();
    settle().await;
    let [left, own] = seen.all()[..] else { panic!() };
    assert!(left.abs_diff(secs_of(6)) <= millis(2), "{left:?}");
    assert!(own > secs_of(29), "an event outlives the call that caused it: {own:?}");
}

#[tokio::test(start_paused = true)]
async fn a_message_after_its_deadline_reaches_no_handler_until_it_is_redriven() {
    for when_expired in [WhenExpired::Bury, WhenExpired::Drop] {
        let broker = Broker::new();
        let policy = Policy::new().when_expired(when_expired);
        broker.declare("g", ">", policy).await.unwrap();
        let late = tick().with_deadline(Deadline::after(secs_of(1)));
        broker.publish_message(late).await.unwrap();
        secs(2).await;
        let (_guard, seen) = listen(&broker, ">", "g").await;
        settle().await;
        assert_eq!(seen.len(), 0);
        let stats = stats(&broker, "g");
        let buried = when_expired == WhenExpired::Bury;
        assert_eq!((stats.dead, stats.expired), (u64::from(buried), u64::from(!buried)));
        if buried {
            let letters = broker.dead_letters().list(&Filter::all(), None, 9).await.unwrap();
            assert_eq!(letters[0].reason, Reason::Expired);
            broker.dead_letters().redrive(letters[0].id).await.unwrap();
            settle().await;
            assert_eq!(seen.all(), [1], "an operator wants it all the same");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_question_whose_asker_has_gone_is_not_handled_and_counted() {
    let broker = Broker::new();
    broker.declare("g", "ask", Policy::new()).await.unwrap();
    let asked = Instant::now();
    let answer = broker.request::<_, _, u32>("ask", &1, secs_of(1)).await;
    assert!(matches!(answer, Err(Error::DeadlineExceeded(_))));
    assert!(asked.elapsed() <= secs_of(1) + millis(2));
    settle().await;
    let (_guard, seen) = listen(&broker, "ask", "g").await;
    settle().await;
    assert_eq!((seen.len(), stats(&broker, "g").expired, stats(&broker, "g").dead), (0, 1, 0));
}
