//! The instances of a shop, in this process and in others: started, taken away, brought to a standstill.

use std::{io, net::SocketAddr};

use super::Shop;
use crate::{
    chaos::{Fault, Hurt, told::mailing},
    processes::Processes,
    service::Running,
};

impl Shop {
    /// Starts one. One that is started again goes on to count where it stopped.
    pub(crate) async fn start_one(&mut self, service: &str, number: usize) -> io::Result<()> {
        let id = format!("{service}-{number}");
        let known = self.members.iter().position(|member| member.id == id);
        let sidecar = known.map(|at| self.members[at].sidecar.clone());
        let (member, running) = self.plan.start(service, number, sidecar).await?;
        self.running.push(running);
        match known {
            Some(at) => self.members[at] = member,
            None => self.members.push(member),
        }
        Ok(())
    }

    /// Lets an instance leave, if it runs, and starts it again on another port: what a rolling restart does with one after the other.
    ///
    /// # Errors
    ///
    /// If there never was one with this id, if it does not end in time, or cannot be started.
    pub async fn restart(&mut self, id: &str) -> io::Result<()> {
        if let Some(processes) = &mut self.processes {
            return processes.restart(id).await;
        }
        let known = self.members.iter().any(|member| member.id == id);
        let parts = id.rsplit_once('-').filter(|_| known);
        let parts = parts.and_then(|(service, number)| Some((service, number.parse().ok()?)));
        let (service, number) =
            parts.ok_or_else(|| io::Error::other(format!("there is no instance {id}")))?;
        if let Some(running) = self.take(id) {
            running.stop().await?;
        }
        self.start_one(service, number).await
    }

    /// Does to the instances what the faults that are on ask for: kills them, lets them stand still, starts them again; and tells those that are processes what else is on. Here,
    /// what happens to calls and messages needs none of this. To be called after each change of [`chaos`](Self::chaos).
    ///
    /// # Errors
    ///
    /// If an instance cannot be started again, or be told; the next call tries it once more.
    pub async fn obey(&mut self) -> io::Result<()> {
        let on = self.chaos.on();
        self.notifications.set_mailing(mailing(on));
        let mut result = Ok(());
        if let Some(processes) = &mut self.processes {
            result = processes.freeze("registry", on.has(Fault::RegistryStopped)).await;
        }
        for fault in Fault::all() {
            if let Some((id, Hurt::Killed)) = fault.on_instance() {
                result = self.kill_or_start(id, on.has(fault)).await.and(result);
            }
        }
        // Who stands still hears nothing. Those that were just started are told as well.
        for still in [false, true] {
            for fault in Fault::all().filter(|fault| on.has(*fault) == still) {
                if let Some((id, Hurt::Frozen)) = fault.on_instance() {
                    result = self.freeze(id, still).await.and(result);
                }
            }
            if let (false, Some(processes)) = (still, &mut self.processes) {
                result = processes.match_with(on).await.and(result);
            }
        }
        result
    }

    async fn kill_or_start(&mut self, id: &'static str, kill: bool) -> io::Result<()> {
        if kill {
            if self.kill(id).await? {
                self.killed.insert(id);
            }
            return Ok(());
        }
        if self.killed.contains(id) {
            // Somebody else may have started it.
            if self.addr_of(id).is_none() {
                match &mut self.processes {
                    Some(processes) => processes.revive(id).await?,
                    None => self.restart(id).await?,
                }
            }
            self.killed.remove(id);
        }
        Ok(())
    }

    async fn freeze(&mut self, id: &str, still: bool) -> io::Result<()> {
        if let Some(processes) = &mut self.processes {
            return processes.freeze(id, still).await;
        }
        let found = self.running.iter_mut().find(|running| running.id() == id);
        found.into_iter().for_each(|running| running.freeze(still));
        Ok(())
    }

    /// Takes the running instance with this id out of the shop's hands.
    pub fn take(&mut self, id: &str) -> Option<Running> {
        let place = self.running.iter().position(|running| running.id() == id)?;
        Some(self.running.swap_remove(place))
    }

    /// Takes an instance away as `kill -9` does; whether it ran.
    ///
    /// # Errors
    ///
    /// If it cannot be told.
    pub async fn kill(&mut self, id: &str) -> io::Result<bool> {
        match &mut self.processes {
            Some(processes) => processes.kill(id).await,
            None => Ok(self.take(id).map(Running::kill).is_some()),
        }
    }

    /// Each instance that runs, in whatever process, and where it listens.
    #[must_use]
    pub fn instances(&self) -> Vec<(String, SocketAddr)> {
        let here = self.running.iter().map(|one| (one.id().to_owned(), one.addr()));
        here.chain(self.processes.iter().flat_map(Processes::instances)).collect()
    }

    /// Where an instance listens, if it runs.
    #[must_use]
    pub fn addr_of(&self, id: &str) -> Option<SocketAddr> {
        self.instances().into_iter().find(|(known, _)| known == id).map(|(_, addr)| addr)
    }

    /// The processes that the shop consists of beside this one: what they are, and their ids.
    #[must_use]
    pub fn processes(&self) -> Vec<(String, u32)> {
        self.processes.as_ref().map(Processes::ids).unwrap_or_default()
    }
}
