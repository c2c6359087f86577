use std::sync::Arc;

use super::{MemoryRegistry, service::Change};
use crate::{
    Error, InstanceKey,
    table::{Beat, Refused, SlotId},
};

/// Says that one run of an instance is alive, without looking it up each time. Made by [`MemoryRegistry::lease`].
///
/// For who takes heartbeats of many, such as a server: a heartbeat is one atomic exchange of eight bytes, and takes no lock unless it changes how the instance is listed.
#[derive(Clone, Debug)]
pub struct Lease {
    registry: MemoryRegistry,
    slot: SlotId,
    /// Apart, as no heartbeat looks at it that changes nothing: so 100,000 leases are 2.4 MB.
    key: Arc<Key>,
}

#[derive(Debug)]
struct Key {
    service: Box<str>,
    id: Box<str>,
    incarnation: u64,
}

impl MemoryRegistry {
    /// A handle for the heartbeats of the instance, as it is registered now.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchService`], [`Error::NoSuchInstance`], [`Error::Superseded`].
    pub fn lease(&self, key: InstanceKey<'_>) -> Result<Lease, Error> {
        let mut found = None;
        self.change(key, |table, _| {
            found = Some(table.slot(key)?);
            Ok(Change::Nothing)
        })?;
        let slot = found.ok_or_else(|| Refused::Unknown.of(key))?;
        let InstanceKey { service, id, incarnation } = key;
        let key = Arc::new(Key { service: service.into(), id: id.into(), incarnation });
        Ok(Lease { registry: self.clone(), slot, key })
    }
}

impl Lease {
    /// The same as [`Registry::heartbeat`](crate::Registry::heartbeat), to within a sweep interval.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchInstance`] once the instance is not registered any more, or another run of it is: register again, and make another lease.
    #[inline]
    pub fn renew(&self) -> Result<(), Error> {
        match self.registry.0.board.beat(self.slot) {
            Beat::Noted => Ok(()),
            beat => self.renew_slowly(beat),
        }
    }

    #[cold]
    fn renew_slowly(&self, beat: Beat) -> Result<(), Error> {
        let Key { service, id, incarnation } = &*self.key;
        let key = InstanceKey { service, id, incarnation: *incarnation };
        match beat {
            Beat::Noted => Ok(()),
            Beat::Slow => self.registry.heartbeat_now(key),
            Beat::Gone => Err(Refused::Unknown.of(key)),
        }
    }
}
