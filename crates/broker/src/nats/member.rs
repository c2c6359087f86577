//! A subscription's place in a group.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::runtime::Handle;

use super::{
    core::Core,
    groups::Groups,
    hall::{Door, Hall},
    keeper::Ledger,
};
use crate::engine::{GroupInfo, Member, Source};

/// Leaves the group when it is dropped.
pub(crate) struct NatsMember {
    pub(crate) info: GroupInfo,
    pub(crate) hall: Arc<Hall>,
    /// None while it is made.
    pub(crate) ledger: Option<Arc<Ledger>>,
    pub(crate) id: u64,
    /// The group goes with it.
    pub(crate) goes: bool,
    pub(crate) consumer: String,
    pub(crate) core: Arc<Core>,
    pub(crate) groups: Arc<Mutex<Groups>>,
    pub(crate) runtime: Handle,
}

impl Member for NatsMember {
    fn group(&self) -> &GroupInfo {
        &self.info
    }

    fn source(&self, ack_wait: Option<Duration>) -> Box<dyn Source> {
        let limit = ack_wait.and_then(|span| Some((self.ledger.clone()?, span)));
        Box::new(Door::new(self.hall.clone(), limit))
    }
}

impl Drop for NatsMember {
    fn drop(&mut self) {
        // The feeder ends by itself, having given back what comes to it still.
        drop(self.hall.stop());
        let mut groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        let mut gone = self.goes;
        if let Some(known) = groups.known.get_mut(&self.info.name) {
            let own = known.members.iter().position(|present| present.id == self.id);
            let own = own.map(|place| known.members.swap_remove(place));
            gone |= known.members.is_empty() && known.removed;
            if let Some(own) = own {
                groups.departing.retain(|(_, present)| present.feeder.has_changed().is_ok());
                groups.departing.push((self.info.name.clone(), own));
            }
        }
        groups.forget(&self.info.name);
        if gone {
            self.core.need_no_more(&self.consumer);
        }
        drop(groups);
        if gone {
            let (core, consumer) = (self.core.clone(), std::mem::take(&mut self.consumer));
            self.runtime.spawn(async move {
                let until = core.link.patience();
                let stream = &core.layout.messages;
                let _ = core.link.delete_consumer(stream, &consumer, until).await;
            });
        }
    }
}

impl fmt::Debug for NatsMember {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NatsMember").field("group", &self.info).finish_non_exhaustive()
    }
}
