//! Blocking queries: what a request waits for, and for how long.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    sync::{
        Arc,
        atomic::{
            AtomicUsize,
            Ordering::{AcqRel, Acquire, Relaxed},
        },
    },
    task::Poll,
};

use http::StatusCode;
use tokio::time::timeout;

use super::{
    answer::Failure,
    kv::Wanted,
    query::Query,
    server::{ConsulServer, State},
    topic::Topic,
};

/// What a request waits for.
#[derive(Debug)]
pub(super) enum Subject {
    Services,
    Nodes,
    Checks,
    Service(Arc<str>),
    Kv(Wanted),
}

impl ConsulServer {
    /// Waits until the subject has another index than that of the query, for as long as the query wants to. An index that is
    /// higher than ours is of another run, and not waited for.
    pub(super) async fn block(&self, query: &Query, subject: &Subject) -> Result<(), Failure> {
        let (index, wait) = (query.number("index")?.unwrap_or(0), query.wait()?);
        if index == 0 {
            return Ok(());
        }
        let mut place = None;
        let wait = wait + wait.mul_f64(rand::random_range(0.0..=1.0 / 16.0));
        let changed = async {
            loop {
                let closed = self.0.closed.clone().notified_owned();
                let (now, changed) = self.read(|state, _| {
                    let topic = state.topic(subject);
                    (topic.index, topic.changed())
                });
                if now != index || self.0.closing.load(Acquire) {
                    return Ok(());
                }
                if place.is_none() {
                    place = Some(self.take_place()?);
                }
                either(changed, closed).await;
            }
        };
        timeout(wait, changed).await.unwrap_or(Ok(()))
    }

    fn take_place(&self) -> Result<Place<'_>, Failure> {
        let most = self.0.policy.watchers;
        let one_more = |held| (held < most).then_some(held + 1);
        match self.0.watchers.fetch_update(AcqRel, Relaxed, one_more) {
            Ok(_) => Ok(Place(&self.0.watchers)),
            Err(_) => {
                let what = "too many blocked requests; try again without an index, or later";
                Err(Failure::new(StatusCode::TOO_MANY_REQUESTS, what))
            }
        }
    }
}

async fn either(a: impl Future<Output = ()>, b: impl Future<Output = ()>) {
    let (mut a, mut b) = (pin!(a), pin!(b));
    poll_fn(|cx| {
        let ready = a.as_mut().poll(cx).is_ready() || b.as_mut().poll(cx).is_ready();
        if ready { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

/// That of a blocked request.
struct Place<'a>(&'a AtomicUsize);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, AcqRel);
    }
}

impl State {
    fn topic(&mut self, subject: &Subject) -> Topic {
        match subject {
            Subject::Services => self.catalog.services_topic.clone(),
            Subject::Nodes => self.catalog.nodes_topic.clone(),
            Subject::Checks => self.catalog.checks_topic.clone(),
            Subject::Service(name) => self.catalog.service_topic(name),
            Subject::Kv(wanted) => self.kv.topic(wanted),
        }
    }
}
