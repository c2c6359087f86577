//! What the stories have in common.
#![allow(dead_code, reason = "each test binary uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall fail")]

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use gusset_broker::{Broker, Delivery, GroupStats, Policy, Subscription};
use gusset_call::BoxError;
use tokio::time::{Instant, sleep};
use tower::service_fn;

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

/// A subscription that fails always; notes value, attempt and time of each delivery.
pub(crate) async fn fail(
    broker: &Broker,
    group: &str,
    policy: Policy,
) -> (Subscription, Log<(u32, u32, Instant)>) {
    let log = Log::default();
    let noted = log.clone();
    let subscription = broker
        .subscribe(">")
        .group(group)
        .policy(policy)
        .handle(service_fn(move |delivery: Delivery<u32>| {
            noted.note((*delivery.body(), delivery.attempt().number(), Instant::now()));
            async { Err::<(), _>("out of order") }
        }))
        .await
        .unwrap();
    (subscription, log)
}

pub(crate) fn stats(broker: &Broker, group: &str) -> GroupStats {
    broker.stats().groups.into_iter().find(|stats| &*stats.group == group).unwrap()
}

/// Lets everything happen that happens without waiting.
pub(crate) async fn settle() {
    sleep(Duration::from_millis(1)).await;
}

pub(crate) async fn secs(secs: u64) {
    sleep(Duration::from_secs(secs)).await;
}

pub(crate) fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}
