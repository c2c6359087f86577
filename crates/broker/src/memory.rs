//! The engine in memory.

mod burial;
mod entrance;
mod entry;
mod group;
mod keeper;
mod lanes;
mod ledger;
mod line;
mod member;
mod morgue;
mod place;
mod publish;
mod publisher;
pub(crate) mod queue;
#[cfg(feature = "file")]
pub(crate) mod restore;
#[cfg_attr(not(feature = "file"), expect(dead_code, reason = "read only by what writes it down"))]
pub(crate) mod scribe;
pub(crate) mod shared;
mod sleepers;
mod slots;
mod source;
mod ticks;
mod turnstile;
mod waits;
mod wheel;

use std::sync::{Arc, atomic::Ordering::Relaxed};

use gusset_call::Deadline;

pub(crate) use self::member::MemoryMember;
use self::shared::{Past, Shared, bury_unhandled};
use crate::{
    Capabilities, Error, Leftover, Limits, Message, Retention, Stats, WhenUnheard,
    engine::{BoxFuture, DeadLetterStore, Engine, GroupSpec, Member, Publishing},
};

/// Keeps messages in the memory of this process, and loses them with it.
///
/// ```
/// use gusset_broker::{Broker, Limits, MemoryEngine, Pattern, Retention, WhenUnheard};
///
/// let audit = Retention::new(Pattern::new("audit.>")?).messages(1_000);
/// let engine = MemoryEngine::new(Limits::new(), Some(audit), WhenUnheard::Bury);
/// let broker = Broker::on(engine);
/// # Ok::<(), gusset_broker::InvalidSubject>(())
/// ```
#[derive(Debug)]
pub struct MemoryEngine {
    shared: Arc<Shared>,
}

impl MemoryEngine {
    /// An engine with these bounds, which retains these messages for groups to come, and does this with those that no group wants.
    #[must_use]
    pub fn new(limits: Limits, retention: Option<Retention>, when_unheard: WhenUnheard) -> Self {
        Self { shared: Arc::new(Shared::new(limits, retention, when_unheard, None)) }
    }
}

impl Engine for MemoryEngine {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            delay: true,
            expiry: true,
            priority: true,
            dedup: true,
            ordered: true,
            replay: true,
            drop_oldest: true,
            requests: true,
            ..Capabilities::new("memory")
        }
    }

    fn publish(&self, message: Message) -> Publishing {
        self.shared.publish(message)
    }

    fn declare(&self, group: GroupSpec) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(std::future::ready(self.shared.declare(group)))
    }

    fn remove(&self, group: Arc<str>) -> BoxFuture<'_, Result<usize, Error>> {
        Box::pin(std::future::ready(self.shared.remove(&group)))
    }

    fn join(&self, group: GroupSpec) -> BoxFuture<'_, Result<Arc<dyn Member>, Error>> {
        let joined = MemoryMember::join(&self.shared, group);
        let joined = joined.map(|member| Arc::new(member) as Arc<dyn Member>);
        Box::pin(std::future::ready(joined))
    }

    fn dead_letters(&self) -> &dyn DeadLetterStore {
        &*self.shared
    }

    /// Each group's numbers are of one instant; those of different groups are not.
    fn stats(&self) -> Stats {
        self.shared.stats()
    }

    fn close(&self, deadline: Deadline) -> BoxFuture<'_, Leftover> {
        Box::pin(self.shared.close(deadline))
    }
}

impl Shared {
    pub(crate) fn declare(&self, group: GroupSpec) -> Result<(), Error> {
        let mut registry = self.registry();
        let (group, past) = self.find_or_add(&mut registry, group)?;
        group.set_declared(&mut group.lock(), true);
        drop(registry);
        past.into_iter().for_each(Past::enter);
        Ok(())
    }

    pub(crate) fn stats(&self) -> Stats {
        let groups = self.groups.load().iter().map(|group| group.stats()).collect();
        let (retained, retained_bytes) = self.ledger().retained();
        let dead = self.dead.lock();
        Stats {
            duplicates: self.duplicates.load(Relaxed),
            retained,
            retained_bytes,
            unroutable: self.unroutable.load(Relaxed),
            discarded: self.discarded.load(Relaxed),
            dead_letters: dead.len(),
            dead_letter_bytes: dead.bytes,
            dead_letters_dropped: dead.dropped,
            dead_letters_refused: dead.refused,
            groups,
        }
    }

    pub(crate) fn remove(&self, group: &str) -> Result<usize, Error> {
        let registry = self.registry();
        let group = self.group(group).ok_or_else(|| Error::NoSuchGroup(group.into()))?;
        let in_use = {
            let mut state = group.lock();
            group.set_declared(&mut state, false);
            state.has_members()
        };
        if in_use {
            return Ok(0);
        }
        let dropped = self.drop_group(&registry, &group);
        drop(registry);
        Ok(bury_unhandled(&group, dropped))
    }

    pub(crate) async fn close(&self, deadline: Deadline) -> Leftover {
        self.refuse_publishers();
        let groups = self.groups.load_full();
        groups.iter().for_each(|group| group.stop());
        let all_idle = async {
            for group in groups.iter() {
                group.idle().await;
            }
        };
        let _ = tokio::time::timeout_at(deadline.instant(), all_idle).await;
        let mut leftover = Leftover::default();
        for group in groups.iter() {
            let (held, in_flight) = {
                let state = group.lock();
                (state.queue.held(), state.queue.in_flight())
            };
            leftover.cut_short += in_flight;
            if held > 0 {
                leftover.groups.push((group.info.name.clone(), held));
            }
        }
        leftover
    }
}
