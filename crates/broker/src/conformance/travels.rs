//! What travels with messages, and what follows from them.

use std::{
    task::{Context, Poll},
    time::Duration,
};

use gusset_call::{Deadline, TraceContext};
use tower_layer::Layer;
use tower_service::Service;

use super::{ACK, Failed, Result, ensure, eventually, listen, policy};
use crate::{
    Broker, CloudEvent, Delivery, Headers, Message, React, ReactLayer, Reaction, Reply,
    engine::BoxFuture,
};

pub(super) async fn what_travels_with_a_message_arrives(broker: Broker) -> Result {
    let mut pull = broker.subscribe("travel").group("travellers").pull::<u32>().await?;
    let odd = |error| Failed(format!("{error}"));
    let event = CloudEvent::new("/a b", "com.example.t").map_err(odd)?.with_subject("\u{e9} 7");
    let cause = Message::json("cause", &0)?;
    let message = Message::json("travel", &7)?
        .with_cloud_event(event)
        .with_deadline(Deadline::after(Duration::from_secs(60)))
        .caused_by(&cause);
    let sent = message.cloud_event().map_err(odd)?;
    let trace = TraceContext::new_root();
    let cx = gusset_call::Context::default().with_trace(trace);
    cx.scope(broker.publish_message(message)).await?;
    let got = pull.next().await.ok_or_else(|| Failed("the stream ended".to_owned()))?;
    let message = got.message();
    ensure(message.trace() == Some(trace), || format!("trace: {:?}", message.trace()))?;
    let event = message.cloud_event().map_err(odd)?;
    ensure(event.is_some() && event == sent, || format!("{event:?} is not {sent:?}"))?;
    let left = message.patience().unwrap_or_default();
    let sane = left > Duration::from_secs(30) && left <= Duration::from_secs(60);
    ensure(sane, || format!("deadline: {left:?}"))?;
    let id = cause.id().to_string();
    for name in [Headers::CORRELATION_ID, Headers::CAUSATION_ID] {
        ensure(message.headers().get(name) == Some(&*id), || format!("{name} is lost"))?;
    }
    Ok(got.ack().await?)
}

/// Reacts, and fails the first time when all is published.
#[derive(Clone)]
struct Forgetful(React<Reactor>);

#[derive(Clone)]
struct Reactor;

impl Service<Delivery<u32>> for Reactor {
    type Response = Reaction;
    type Error = crate::Error;
    type Future = std::future::Ready<std::result::Result<Reaction, crate::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<std::result::Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, cause: Delivery<u32>) -> Self::Future {
        let follow_ups: std::result::Result<Vec<_>, _> =
            (0..3).map(|n| Message::json("follows", &(cause.body() + n))).collect();
        std::future::ready(follow_ups.map(Reaction::from))
    }
}

impl Service<Delivery<u32>> for Forgetful {
    type Response = Reply;
    type Error = gusset_call::BoxError;
    type Future = BoxFuture<'static, std::result::Result<Reply, gusset_call::BoxError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<std::result::Result<(), Self::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, cause: Delivery<u32>) -> Self::Future {
        let fails = cause.attempt().number() == 1;
        let reacting = self.0.call(cause);
        Box::pin(async move {
            let reply = reacting.await?;
            if fails { Err("crashed before it was acknowledged".into()) } else { Ok(reply) }
        })
    }
}

pub(super) async fn what_follows_from_a_message_that_is_repeated_is_published_once(
    broker: Broker,
) -> Result {
    if !broker.capabilities().dedup {
        return Ok(());
    }
    let (_guard, seen) = listen(&broker, "follows", "followers", ACK).await?;
    let handler = Forgetful(ReactLayer::new(&broker).layer(Reactor));
    let subscribe = broker.subscribe("causes").group("reactors").policy(policy());
    let reactors = subscribe.handle(handler).await?;
    broker.publish("causes", &10).await?;
    eventually("all that follows came", async || seen.all().len() >= 3).await?;
    eventually("the cause was repeated and is done", async || {
        let stats = broker.stats().groups;
        stats.iter().any(|group| &*group.group == "reactors" && group.acked == 1)
    })
    .await?;
    reactors.close().await;
    ensure(seen.values() == [10, 11, 12], || format!("{:?}", seen.all()))
}
