//! An engine of messages that can lose and delay them.

use std::{
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use gusset::broker::{
    Capabilities, Error, Leftover, Message, Receipt, Stats,
    engine::{
        BoxFuture, Claim, DeadLetterStore, Engine, GroupInfo, GroupSpec, Lease, Member, Publishing,
        Settling, Source, TakeAnswer, Verdict,
    },
};
use gusset::call::Deadline;

use super::{Chaos, Fault};

/// How much later messages come that are delayed.
const LATER: Duration = Duration::from_millis(500);

/// Stands between a broker and its engine.
#[derive(Debug)]
pub(crate) struct Lossy<E> {
    inner: E,
    chaos: Chaos,
}

impl<E> Lossy<E> {
    pub(crate) fn before(inner: E, chaos: &Chaos) -> Self {
        Self { inner, chaos: chaos.clone() }
    }
}

impl Chaos {
    /// Whether this message, or what is said of it, is lost.
    fn loses(&self) -> bool {
        self.is_on(Fault::MessagesDropped) && rand::random()
    }
}

fn lost() -> Error {
    Error::Engine("lost on purpose".into())
}

impl<E: Engine> Engine for Lossy<E> {
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    fn unable(&self, what: &'static str) -> &'static str {
        self.inner.unable(what)
    }

    fn bring_answers(&self, prefix: &str, take: TakeAnswer) {
        self.inner.bring_answers(prefix, take);
    }

    fn publish(&self, mut message: Message) -> Publishing {
        if self.chaos.is_on(Fault::MessagesDelayed) && message.delay().is_none() {
            message = message.with_delay(LATER);
        }
        if self.chaos.loses() {
            return Publishing::Done(Err(lost()));
        }
        let publishing = self.inner.publish(message);
        if !self.chaos.loses() {
            return publishing;
        }
        // It was taken, and nobody is told.
        Publishing::Waiting(Box::pin(async { publishing.await.and(Err::<Receipt, _>(lost())) }))
    }

    fn declare(&self, group: GroupSpec) -> BoxFuture<'_, Result<(), Error>> {
        self.inner.declare(group)
    }

    fn remove(&self, group: Arc<str>) -> BoxFuture<'_, Result<usize, Error>> {
        self.inner.remove(group)
    }

    fn join(&self, group: GroupSpec) -> BoxFuture<'_, Result<Arc<dyn Member>, Error>> {
        Box::pin(async {
            let inner = self.inner.join(group).await?;
            let member: Arc<dyn Member> = Arc::new(Lossy { inner, chaos: self.chaos.clone() });
            Ok(member)
        })
    }

    fn dead_letters(&self) -> &dyn DeadLetterStore {
        self.inner.dead_letters()
    }

    fn stats(&self) -> Stats {
        self.inner.stats()
    }

    fn close(&self, deadline: Deadline) -> BoxFuture<'_, Leftover> {
        self.inner.close(deadline)
    }

    fn end(&self) -> BoxFuture<'_, ()> {
        self.inner.end()
    }
}

impl Member for Lossy<Arc<dyn Member>> {
    fn group(&self) -> &GroupInfo {
        self.inner.group()
    }

    fn source(&self, ack_wait: Option<Duration>) -> Box<dyn Source> {
        let inner = self.inner.source(ack_wait);
        Box::new(Lossy { inner, chaos: self.chaos.clone() })
    }
}

impl Source for Lossy<Box<dyn Source>> {
    fn take(&mut self) -> Option<Lease> {
        loop {
            let lease = self.inner.take()?;
            if !self.chaos.loses() {
                return Some(lease);
            }
            // It goes back by being dropped, and comes again: as from a connection that broke.
        }
    }

    fn ack(&mut self, claim: Claim) -> Settling {
        if self.chaos.loses() {
            return claim.settle(Verdict::GiveBack);
        }
        self.inner.ack(claim)
    }

    fn let_go(&mut self) {
        self.inner.let_go();
    }

    fn poll_work(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        self.inner.poll_work(cx)
    }

    fn rest(&mut self) {
        self.inner.rest();
    }
}
