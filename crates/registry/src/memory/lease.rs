use std::sync::Arc;

use super::{MemoryRegistry, Refused};
use crate::{
    Error, InstanceKey,
    table::{Beat, SlotId},
};

/// Says that one run of an instance is alive, without looking it up each time. Made by [`MemoryRegistry::lease`].
///
/// For who takes heartbeats of many, such as a server: a heartbeat is one atomic exchange, and takes no lock unless it changes how the instance is listed.
#[derive(Clone, Debug)]
pub struct Lease {
    registry: MemoryRegistry,
    slot: SlotId,
    service: Arc<str>,
    id: Arc<str>,
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
            Ok(false)
        })?;
        let slot = found.ok_or_else(|| Refused::Unknown.of(key))?;
        let InstanceKey { service, id, incarnation } = key;
        let (service, id) = (service.into(), id.into());
        Ok(Lease { registry: self.clone(), slot, service, id, incarnation })
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
        let key =
            InstanceKey { service: &self.service, id: &self.id, incarnation: self.incarnation };
        match self.registry.0.board.beat(self.slot) {
            Beat::Noted => Ok(()),
            Beat::Slow => self.registry.heartbeat_now(key),
            Beat::Gone => Err(Refused::Unknown.of(key)),
        }
    }
}
