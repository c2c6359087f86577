use std::{sync::Arc, time::Duration};

use tokio::sync::oneshot;

use super::{Verdict, Waiting};
use crate::Instance;

/// One instance of this process.
#[derive(Debug)]
pub(super) struct Holding {
    /// `None` if it is to be deleted.
    pub(super) want: Option<Arc<Instance>>,
    /// Rises with every change of `want`.
    pub(super) sequence: u64,
    /// The run that was wanted last.
    pub(super) incarnation: u64,
    pub(super) stored: Option<Stored>,
    /// It was just registered, as by a process that has been started again: it may have the place of another.
    pub(super) may_take: bool,
    /// Why it is left alone until its next turn.
    pub(super) blocked: Option<Verdict>,
    /// When its owner was last heard of.
    pub(super) heard: Duration,
    pub(super) waiters: Vec<oneshot::Sender<Verdict>>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Stored {
    pub(super) sequence: u64,
    pub(super) revision: i64,
}

impl Holding {
    pub(super) fn new(heard: Duration) -> Self {
        Self {
            want: None,
            sequence: 0,
            incarnation: 0,
            stored: None,
            may_take: false,
            blocked: None,
            heard,
            waiters: Vec::new(),
        }
    }

    pub(super) fn is_stored(&self) -> bool {
        let sequence = self.stored.map(|stored| stored.sequence);
        self.want.is_some() && sequence == Some(self.sequence)
    }

    pub(super) fn wish(&mut self, want: Option<Arc<Instance>>) -> Waiting {
        // Who asks for the same again and again, because etcd is slow, must not put off the answer each time.
        if self.is_stored() || self.want != want {
            self.sequence += 1;
        }
        self.want = want;
        match &self.want {
            Some(instance) => self.incarnation = instance.incarnation,
            None => self.may_take = false,
        }
        // What etcd refused may have been the value. What another process has is still that one's.
        if self.want.is_none() || self.blocked != Some(Verdict::Superseded) {
            self.blocked = None;
        }
        self.wait()
    }

    /// One that is blocked has its verdict already.
    pub(super) fn wait(&mut self) -> Waiting {
        let (told, waiting) = oneshot::channel();
        match &self.blocked {
            Some(verdict) => drop(told.send(verdict.clone())),
            None => {
                // Those who no longer wait must not pile up through an outage.
                self.waiters.retain(|waiter| !waiter.is_closed());
                self.waiters.push(told);
            }
        }
        waiting
    }

    pub(super) fn tell(&mut self, verdict: Verdict) {
        for waiter in self.waiters.drain(..) {
            let _ = waiter.send(verdict.clone());
        }
    }
}
