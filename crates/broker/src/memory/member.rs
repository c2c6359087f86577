//! Being a member of a group.

use std::{
    sync::{Arc, atomic::Ordering::SeqCst},
    time::Duration,
};

use tokio::{
    runtime::Handle,
    task::AbortHandle,
    time::{Instant, sleep_until},
};

use super::{
    group::Group,
    shared::{Past, Shared, bury_unhandled},
    source::MemorySource,
};
use crate::{
    Error,
    engine::{GroupInfo, GroupSpec, Member, Source},
};

/// Being a member of a group; ends when dropped.
#[derive(Debug)]
pub(crate) struct MemoryMember {
    shared: Arc<Shared>,
    group: Arc<Group>,
    clock: AbortHandle,
}

impl MemoryMember {
    pub(crate) fn join(shared: &Arc<Shared>, spec: GroupSpec) -> Result<Self, Error> {
        let runtime = Handle::try_current().map_err(|_| Error::NoRuntime)?;
        let mut registry = shared.registry();
        let (group, past) = shared.find_or_add(&mut registry, spec)?;
        {
            let mut state = group.lock();
            state.join();
            // What is written down outlasts its members: they come back when the process does.
            if group.is_scribed() {
                group.set_declared(&mut state, true);
            }
        }
        drop(registry);
        past.into_iter().for_each(Past::enter);
        let clock = runtime.spawn(keep_time(group.clone())).abort_handle();
        Ok(Self { shared: shared.clone(), group, clock })
    }

    /// Whether what happens in the group is written down.
    #[cfg(feature = "file")]
    pub(crate) fn is_written(&self) -> bool {
        self.group.is_scribed()
    }
}

impl Member for MemoryMember {
    fn group(&self) -> &GroupInfo {
        &self.group.info
    }

    fn source(&self, ack_wait: Option<Duration>) -> Box<dyn Source> {
        Box::new(MemorySource::new(self.group.clone(), ack_wait))
    }
}

impl Drop for MemoryMember {
    fn drop(&mut self) {
        self.clock.abort();
        let registry = self.shared.registry();
        // What is closed keeps what is written down for the process after this, also of a group that was removed meanwhile.
        let lasts = self.group.is_scribed() && self.shared.closed.load(SeqCst);
        let group_goes = self.group.lock().leave() && !lasts;
        let dropped = group_goes.then(|| self.shared.drop_group(&registry, &self.group));
        drop(registry);
        if let Some(dropped) = dropped {
            bury_unhandled(&self.group, dropped);
        }
    }
}

/// Makes messages of a group ready when they are due. One for each member, so that waiting workers need no timers.
async fn keep_time(group: Arc<Group>) {
    let mut next = group.next_due();
    loop {
        let due = *next.borrow_and_update();
        let due = async {
            match due {
                Some(due) => sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = due => group.tick(Instant::now()),
            changed = next.changed() => if changed.is_err() { return },
        }
    }
}
