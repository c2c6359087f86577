//! Deliveries of which the attempt is written down before the handler sees them.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use super::log::Log;
use crate::engine::{GroupInfo, Lease, Member, Source};

#[derive(Debug)]
pub(super) struct FileMember<M> {
    pub(super) member: M,
    pub(super) log: Arc<Log>,
}

impl<M: Member> Member for FileMember<M> {
    fn group(&self) -> &GroupInfo {
        self.member.group()
    }

    fn source(&self, ack_wait: Option<Duration>) -> Box<dyn Source> {
        let (source, log) = (self.member.source(ack_wait), self.log.clone());
        Box::new(FileSource { source, log, next: None })
    }
}

struct FileSource {
    source: Box<dyn Source>,
    log: Arc<Log>,
    next: Option<Next>,
}

/// A message that is taken, and handed over once its attempt is written.
struct Next {
    lease: Lease,
    /// Events to be written before.
    upto: u64,
    written: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl Source for FileSource {
    fn take(&mut self) -> Option<Lease> {
        if self.next.is_none() {
            let lease = self.source.take()?;
            let upto = self.log.noted();
            let written = Box::pin(self.log.written(upto));
            self.next = Some(Next { lease, upto, written });
        }
        let next = self.next.take_if(|next| self.log.is_written(next.upto))?;
        Some(next.lease)
    }

    fn poll_work(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        match &mut self.next {
            Some(next) => next.written.as_mut().poll(cx).map(|()| true),
            None => self.source.poll_work(cx),
        }
    }

    /// What is not written down, messages of groups without a name, may have been set aside.
    fn let_go(&mut self) {
        self.source.let_go();
    }

    /// Whoever rests holds no message meanwhile: another may be free sooner.
    fn rest(&mut self) {
        self.next = None;
        self.source.rest();
    }
}
