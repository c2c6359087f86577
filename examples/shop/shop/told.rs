//! What a shop tells of itself: figures, traces, what its console shows, whether anything is under way.

use std::io;

use gusset::{
    call::TraceId,
    console::Sources,
    gateway::Live,
    sidecar::{Record, telemetry::Store},
};

use super::{Shop, given_up};
use crate::{
    Answered, choreography, client::Outbound, plan::Member, services::SERVICES, tell::Figures,
};

impl Shop {
    /// What the instances tell of themselves, by their ids.
    async fn figures(&self) -> Vec<(String, Figures)> {
        if let Some(processes) = &self.processes {
            return processes.figures().await;
        }
        let told = |member: &Member| {
            let circuits = member.outbound.as_ref().map(Outbound::circuits);
            (member.id.clone(), Figures::of(&member.sidecar, circuits))
        };
        self.members.iter().map(told).collect()
    }

    /// What the instances of a service have answered, by their ids; of all services for an empty name.
    pub async fn answered_by(&self, service: &str) -> Vec<(String, Answered)> {
        let all = self.figures().await.into_iter();
        let of_service = all.filter(|(id, _)| id.starts_with(service));
        of_service.map(|(id, figures)| (id, figures.answered)).collect()
    }

    /// How many attempts after the first there were, of all services.
    pub async fn retries(&self) -> u64 {
        self.figures().await.iter().map(|(_, figures)| figures.retries).sum()
    }

    /// Whether everybody who keeps circuits would call an instance of this service: one closed circuit is enough, for calls go where the circuit is closed.
    pub async fn trusted(&self, service: &str) -> bool {
        let instances = SERVICES.iter().find(|(name, _)| *name == service);
        let instances = instances.map_or(0, |(_, instances)| *instances);
        let ids: Vec<_> = (1..=instances).map(|number| format!("{service}-{number}")).collect();
        self.figures().await.iter().all(|(_, Figures { circuits, .. })| {
            let open = |id: &str| circuits.iter().any(|(of, closed)| of == id && !closed);
            // An instance that does not reach the bank takes messages all the same.
            !ids.iter().all(|id| open(id)) && !open(choreography::BANK)
        })
    }

    /// What a console shows of the shop, with the instances that there are now, in whatever process. Faults are switched there by its operators.
    pub fn sources(&self) -> Sources {
        let mut sources = Sources::new()
            .registry(self.registry.clone())
            .saga_store(self.orders.journal())
            .broker(&self.broker)
            .switches("faults", self.chaos.clone());
        if let Some(processes) = &self.processes {
            // They tell of themselves.
            return processes.on_console(sources.clone()).unwrap_or(sources);
        }
        sources = sources
            .gateway("gateway", &Live::new(self.gateway.clone()))
            .split("products", &self.split)
            .traces(&Store::of(&self.recorder));
        for member in &self.members {
            let (recorder, metrics) = (member.sidecar.recorder(), member.sidecar.metrics());
            let service = recorder.service().clone();
            sources = sources.traces(&Store::of(recorder)).metrics(service, metrics);
            if let Some(outbound) = &member.outbound {
                sources = sources.circuits(member.id.as_str(), outbound.circuits());
            }
        }
        sources
    }

    /// All that was recorded of one trace, by all services, in the order of their beginnings.
    pub async fn trace(&self, id: TraceId) -> Vec<Record> {
        let services = self.members.iter().map(|member| member.sidecar.recorder());
        let recorders = services.chain([&self.recorder]);
        let mut records: Vec<_> = recorders.flat_map(|recorder| recorder.trace(id)).collect();
        if let Some(processes) = &self.processes {
            records.extend(processes.trace(id).await);
        }
        records.sort_by_key(|record| record.start_unix_nanos);
        records
    }

    /// Whether the broker holds no message that is yet to be handled, as far as this process knows without asking anybody.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        let stats = self.broker.stats();
        stats.groups.iter().all(|group| group.ready + group.in_flight + group.delayed == 0)
    }

    /// Whether nothing is under way: every saga has ended or waits for an operator, and every order that stands was counted, and its mail went out or is a
    /// dead letter.
    ///
    /// # Errors
    ///
    /// If the journal or the dead letters cannot be read.
    pub async fn is_at_rest(&self) -> io::Result<bool> {
        use gusset::saga::State::{Blocked, Running, Stuck, TurningBack};
        let sagas = self.orders.sagas().await?;
        let under_way =
            |(state, count): &(_, u64)| matches!(state, Running | TurningBack) && *count > 0;
        if sagas.iter().any(under_way) || self.orders.untold().await? > 0 || !self.is_quiet() {
            return Ok(false);
        }
        let waits = |(state, count): &(_, u64)| matches!(state, Stuck | Blocked).then_some(*count);
        let waiting: u64 = sagas.iter().filter_map(waits).sum();
        let dead = self.dead_letters().await?;
        if self.orders.pending().await? as u64 > waiting + dead as u64 {
            return Ok(false);
        }
        let confirmed = self.orders.confirmed().await?;
        let (mails, counted) = (self.notifications.mails().await?, self.inventory.counted().await?);
        let unmailed = confirmed.iter().filter(|order| !mails.contains_key(&order.id)).count();
        let all_counted = confirmed.iter().all(|order| counted.contains_key(&order.id));
        Ok(unmailed <= dead && all_counted)
    }

    /// How many messages were given up.
    ///
    /// # Errors
    ///
    /// If they cannot be read.
    pub async fn dead_letters(&self) -> io::Result<usize> {
        given_up(&self.broker).await
    }
}
