//! What exporters read.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall fail")]

mod common;

use std::collections::HashSet;

use common::{fail, listen, millis, secs, settle};
use gusset_broker::{Broker, Delivery, Message, Policy, Sample, SampleKind, Stats};
use gusset_call::BoxError;
use tower::service_fn;

fn value(samples: &[Sample], name: &str, group: Option<&str>) -> f64 {
    let mut found = samples.iter().filter(|s| s.name == name && s.group.as_deref() == group);
    let value = found.next().map(|sample| sample.value);
    assert!(value.is_some(), "{name} {group:?}");
    assert!(found.next().is_none(), "{name} {group:?} twice");
    value.unwrap()
}

#[tokio::test(start_paused = true)]
async fn what_happens_to_a_group_is_in_its_samples() {
    let broker = Broker::new();
    let (_bad, _) = fail(&broker, "bad", Policy::new().max_attempts(2)).await;
    let hang = service_fn(|_: Delivery<u32>| std::future::pending::<Result<(), BoxError>>());
    let slow = broker.subscribe(">").group("slow").concurrency(1).handle(hang).await.unwrap();
    for n in 0..3 {
        broker.publish("tick", &n).await.unwrap();
    }
    let later = Message::json("tick", &3).unwrap().with_delay(millis(60_000));
    broker.publish_message(later).await.unwrap();
    secs(5).await;
    let samples = broker.stats().samples();
    let of = |name, group| value(&samples, name, Some(group));
    assert_eq!(of("gusset_broker_published_total", "bad"), 4.0);
    assert_eq!(of("gusset_broker_delivered_total", "bad"), 6.0);
    assert_eq!(of("gusset_broker_redelivered_total", "bad"), 3.0);
    assert_eq!(of("gusset_broker_dead_total", "bad"), 3.0);
    assert_eq!(of("gusset_broker_in_flight", "slow"), 1.0);
    assert_eq!((of("gusset_broker_lag", "slow"), of("gusset_broker_lag", "bad")), (3.0, 1.0));
    assert_eq!(value(&samples, "gusset_broker_dead_letters", None), 3.0);
    let stats = broker.stats();
    let oldest = |group: &str| stats.groups.iter().find(|g| &*g.group == group).unwrap().oldest;
    assert!(oldest("slow").is_some() && oldest("bad").is_none(), "what is delayed is not late");
    drop(slow);
    settle().await;
}

#[tokio::test(start_paused = true)]
async fn samples_are_bounded_and_well_named_whatever_groups_there_are() {
    let broker = Broker::new();
    let mut guards = Vec::new();
    for n in 0..300 {
        guards.push(listen(&broker, "tick", &format!("g{n}")).await);
        let handler = service_fn(|_: Delivery<u32>| async { Ok::<_, BoxError>(()) });
        let nameless = broker.subscribe("tick").concurrency(1).handle(handler).await.unwrap();
        guards.push((nameless, Default::default()));
    }
    broker.publish("tick", &1).await.unwrap();
    settle().await;
    let samples = broker.stats().samples();
    let groups: HashSet<_> = samples.iter().filter_map(|s| s.group.clone()).collect();
    assert_eq!(groups.len(), Stats::MAX_LABELLED + 1);
    assert_eq!(value(&samples, "gusset_broker_acked_total", Some("g199")), 1.0);
    assert_eq!(value(&samples, "gusset_broker_subscriptions", Some("_others")), 400.0);
    let others = samples.iter().filter(|s| s.group.as_deref() == Some("_others"));
    assert!(others.clone().count() > 5);
    assert!(others.clone().all(|s| s.kind == SampleKind::Gauge), "their counters come and go");
    for sample in &samples {
        let plain = |c: char| c.is_ascii_lowercase() || c == '_';
        assert!(sample.name.starts_with("gusset_broker_") && sample.name.chars().all(plain));
        assert_eq!(sample.name.ends_with("_total"), sample.kind == SampleKind::Counter);
        assert!(!sample.help.is_empty() && sample.value.is_finite());
    }
}
