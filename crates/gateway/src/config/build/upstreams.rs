use gusset_sidecar::Budget;

use super::Building;
use crate::{
    Upstream, UpstreamPolicy,
    config::{
        file::UpstreamSection,
        gateway::Described,
        made::{breaker, fleet, retry_policy, transport},
        nearest,
        value::Placed,
    },
};

impl Building<'_> {
    pub(super) fn upstreams(&mut self, has_registry: bool) {
        for named in &self.config.file.upstreams {
            let section = &named.value;
            if let (Some(service), false) = (&section.service, has_registry) {
                let error =
                    "there is no registry to find it in; add [registry], or write addresses";
                self.errors.push(service.place.error(error));
            }
            if section.service.is_none() && section.addresses.is_empty() {
                self.errors.push(named.place.error("it has no address"));
                continue;
            }
            let upstream = section.upstream();
            let policy = self.policy(&named.name, section);
            self.policies.insert(upstream.clone(), policy);
            let described = Described {
                section: section.clone(),
                breaker: self.defaults.breaker.clone(),
                retry: self.defaults.retry.clone(),
                pick: self.defaults.pick.clone(),
                zone: self.defaults.zone.clone(),
                registry: section.service.as_ref().and(self.config.file.registry.clone()),
            };
            let before = self.described.insert(upstream.clone(), described.clone());
            if before.is_some_and(|before| before != described) {
                let error = "an earlier upstream leads to the same place and says other things of it; make them one";
                self.errors.push(named.place.error(error));
            }
            self.upstreams.insert(&named.name, upstream);
        }
    }

    /// How an upstream is called.
    fn policy(&mut self, name: &str, section: &UpstreamSection) -> UpstreamPolicy {
        let mut policy = UpstreamPolicy::new();
        if let Some(pick) = &section.pick {
            policy = policy.pick(pick.picker());
        }
        if let Some(zone) = &section.zone {
            policy = policy.among(fleet(zone));
        }
        if let Some(eject) = &section.eject {
            policy = policy.eject(eject.ejection());
        }
        if let Some(section) = &section.breaker {
            policy = policy.breaker(breaker(section));
        }
        if let Some(retry) = section.retry.as_ref().or(self.defaults.retry.as_ref()) {
            policy = policy.retry(retry_policy(retry).budget(self.kept.budget(name)));
        }
        if let Some(span) = section.wait {
            policy = policy.wait(span);
        }
        match transport(section) {
            Ok(transport) => policy.transport(transport),
            Err(error) => {
                self.errors.push(error);
                policy
            }
        }
    }

    /// The upstream of this name; without one, that is told.
    pub(super) fn upstream(&mut self, named: &Placed<String>) -> Option<Upstream> {
        let found = self.upstreams.get(named.value.as_str()).cloned();
        if found.is_none() {
            self.no_upstream(named);
        }
        found
    }

    fn no_upstream(&mut self, to: &Placed<String>) {
        // One that is there and wrong has its own error.
        let name = to.value.as_str();
        let names = || self.config.file.upstreams.iter().map(|named| named.name.as_str());
        if names().any(|known| known == name) {
            return;
        }
        let reason = match nearest(name, names()) {
            Some(known) => format!("there is no upstream {name:?}; {known:?} is meant?"),
            None => format!("there is no upstream {name:?}; add [upstreams.{name}]"),
        };
        self.errors.push(to.place.error(reason));
    }
}

impl super::Kept {
    /// The budget of retries that goes by this name.
    pub(super) fn budget(&mut self, name: &str) -> Budget {
        if let Some(budget) = self.budgets.get(name) {
            return budget.clone();
        }
        self.budgets.entry(name.to_owned()).or_default().clone()
    }
}
