//! Deliveries of which the attempt is written down before the handler sees them.

use std::{
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
    /// Whether the group is.
    pub(super) is_written: bool,
}

impl<M: Member> Member for FileMember<M> {
    fn group(&self) -> &GroupInfo {
        self.member.group()
    }

    fn source(&self, ack_wait: Option<Duration>) -> Box<dyn Source> {
        let (source, log) = (self.member.source(ack_wait), self.log.clone());
        if !self.is_written {
            return source;
        }
        Box::new(FileSource { id: log.written.next_id(), source, log, next: None })
    }
}

struct FileSource {
    id: u64,
    source: Box<dyn Source>,
    log: Arc<Log>,
    next: Option<Next>,
}

/// A message that is taken, and handed over once its attempt is written.
struct Next {
    lease: Lease,
    /// Events to be written before.
    upto: u64,
}

impl Source for FileSource {
    fn take(&mut self) -> Option<Lease> {
        if self.next.is_none() {
            let lease = self.source.take()?;
            let upto = self.log.hurry();
            self.next = Some(Next { lease, upto });
        }
        let next = self.next.take_if(|next| self.log.written.is_written(next.upto))?;
        Some(next.lease)
    }

    fn poll_work(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        match &mut self.next {
            Some(next) => self.log.written.poll_written(self.id, next.upto, cx).map(|()| true),
            None => self.source.poll_work(cx),
        }
    }

    /// Whoever rests holds no message meanwhile: another may be free sooner.
    fn rest(&mut self) {
        if self.next.take().is_some() {
            self.log.written.forget(self.id);
        }
        self.source.rest();
    }
}

impl Drop for FileSource {
    fn drop(&mut self) {
        self.log.written.forget(self.id);
    }
}
