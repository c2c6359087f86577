//! The engine ends.

use std::{
    sync::{Arc, atomic::Ordering::SeqCst},
    time::Duration,
};

use gusset_call::Deadline;
use tokio::{
    sync::oneshot,
    time::{Instant, timeout_at},
};

use super::{
    NatsEngine,
    groups::{Known, Present},
    keeper::Chore,
};
use crate::Leftover;

/// How long closing waits for the server beyond its deadline, so that what is given back does come back.
const FLUSH: Duration = Duration::from_secs(1);

impl NatsEngine {
    pub(super) async fn close_all(&self, deadline: Deadline) -> Leftover {
        let core = &self.core;
        let present: Vec<(Arc<str>, Present)> = {
            let groups = self.groups();
            core.closed.store(true, SeqCst);
            let of = |(name, known): (&Arc<str>, &Known)| {
                known.members.iter().map(|m| (name.clone(), m.clone())).collect::<Vec<_>>()
            };
            groups.known.iter().flat_map(of).chain(groups.departing.iter().cloned()).collect()
        };
        for (_, member) in &present {
            drop(member.hall.stop());
        }
        let all_idle = async {
            for (_, member) in &present {
                let mut feeder = member.feeder.clone();
                while feeder.changed().await.is_ok() {}
                member.ledger.idle().await;
            }
        };
        let _ = timeout_at(deadline.instant(), all_idle).await;
        let mut leftover = Leftover::default();
        for (name, member) in &present {
            let cut_short = member.ledger.end_all();
            leftover.cut_short += cut_short;
            if cut_short > 0 {
                leftover.groups.push((name.clone(), cut_short));
            }
        }
        // What was settled is on its way; the server shall have it before the process ends.
        let until = deadline.instant().max(Instant::now() + FLUSH);
        let (done, told) = oneshot::channel();
        if self.chores.send(Chore::Tell(done)).is_ok() {
            let _ = timeout_at(until, told).await;
        }
        if core.link.round_trip(until).await.is_err() {
            tracing::warn!("the NATS server may not know of all that was settled");
        }
        leftover
    }
}
