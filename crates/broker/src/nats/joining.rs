//! Groups are made, joined and removed.

use std::sync::Arc;

use serde_json::Value;
use tokio::sync::watch;

use super::{
    ENGINE, NO_PAST, NatsEngine, NatsError,
    core::remade,
    feeder::Feeder,
    groups::{Known, Present},
    jetstream::{CONSUMER_NOT_FOUND, ConsumerInfo, STREAM_NOT_FOUND},
    keeper::{Counts, Ledger},
    layout::{Life, check_format, order_in, token_of},
    member::NatsMember,
};
use crate::{
    Error, MessageId, Start,
    engine::{GroupInfo, GroupSpec, Member},
};

/// The server puts a consumer's name into that of a file.
const LONGEST_CONSUMER: usize = 200;

impl NatsEngine {
    /// Makes the group on the server, or finds it there as it should be.
    pub(super) async fn make(
        &self,
        name: &str,
        spec: &GroupSpec,
        life: Life,
    ) -> Result<(Value, ConsumerInfo), Error> {
        let core = &self.core;
        let (consumer, until) = (token_of(name), core.link.patience());
        if consumer.len() > LONGEST_CONSUMER {
            return Err(Error::GroupName(name.to_owned()));
        }
        // The stream may have been made anew since it was asked for its capabilities.
        if spec.start != Start::New && !core.is_retained() {
            return Err(Error::Unsupported { engine: ENGINE, what: NO_PAST });
        }
        let config = core.layout.group(&consumer, spec, &core.options, life);
        let mut made = core.make_consumer(&consumer, &config, until).await;
        if matches!(&made, Err(NatsError::Refused { code: STREAM_NOT_FOUND, .. })) {
            core.restore().await?;
            made = core.make_consumer(&consumer, &config, core.link.patience()).await;
        }
        made?;
        let until = core.link.patience();
        let mut found = core.link.consumer(&core.layout.messages, &consumer, until).await?;
        check_format(&format!("group {name}"), &found.config.description)?;
        if found.config.filter_subject != core.layout.message(spec.pattern.as_str()) {
            return Err(Error::GroupDiffers { group: name.into(), what: "pattern" });
        }
        if let Some(order) = &spec.order {
            if order_in(&found.config.description) != Some(order.name()) {
                return Err(Error::GroupDiffers { group: name.into(), what: "order" });
            }
        }
        if core.recount(&consumer, &remade(&config), &found).await? {
            let until = core.link.patience();
            found = core.link.consumer(&core.layout.messages, &consumer, until).await?;
        }
        Ok((config, found))
    }

    /// The group as this process knows it from now on.
    pub(super) fn know(
        &self,
        name: &Arc<str>,
        spec: &GroupSpec,
    ) -> Result<(GroupInfo, Arc<Counts>), Error> {
        let mut groups = self.groups();
        if let Some(known) = groups.known.get_mut(name) {
            let differs = |what| Err(Error::GroupDiffers { group: name.clone(), what });
            if known.pattern != spec.pattern {
                return differs("pattern");
            }
            match spec.policy {
                Some(policy) if known.members.is_empty() => known.info.policy = policy,
                Some(policy) if policy != known.info.policy => return differs("policy"),
                _ => {}
            }
            return Ok((known.info.clone(), known.counts.clone()));
        }
        if groups.known.len() >= self.core.limits.groups {
            return Err(Error::TooManyGroups(groups.known.len()));
        }
        let policy = spec.policy.unwrap_or_default();
        let info = GroupInfo { id: GroupInfo::next_id(), name: name.clone(), policy };
        let (counts, pattern) = (Arc::<Counts>::default(), spec.pattern.clone());
        let known = Known {
            info: info.clone(),
            pattern,
            counts: counts.clone(),
            members: Vec::new(),
            stays: false,
            removed: false,
        };
        groups.known.insert(name.clone(), known);
        Ok((info, counts))
    }

    pub(super) async fn join_one(&self, spec: GroupSpec) -> Result<Arc<dyn Member>, Error> {
        self.check_open()?;
        let (name, life): (Arc<str>, _) = match &spec.name {
            Some(name) => (name.clone(), Life::Declared),
            None => (format!("_{}", MessageId::next().0.get().simple()).into(), Life::Subscription),
        };
        let (info, counts) = self.know(&name, &spec)?;
        let consumer = token_of(&name);
        let core = self.core.clone();
        // From here on the group is forgotten again unless a member comes of it.
        let mut member = NatsMember {
            info,
            hall: Arc::default(),
            ledger: None,
            id: GroupInfo::next_id(),
            goes: life == Life::Subscription,
            consumer: consumer.clone(),
            core: core.clone(),
            groups: self.groups.clone(),
            runtime: self.runtime.clone(),
        };
        let (config, found) = self.make(&name, &spec, life).await?;
        let ledger =
            Ledger::new(core.clone(), consumer.clone(), name.clone(), counts, self.chores.clone());
        let (ledger, hall) = (Arc::new(ledger), member.hall.clone());
        member.ledger = Some(ledger.clone());
        let (runs, running) = watch::channel(());
        let delivered = self.delivered_to(&found).await?;
        let feeder = Feeder::new(ledger.clone(), hall.clone(), delivered, runs);
        let feeder = feeder.await.map_err(|_| NatsError::Ended)?;
        let present = Present { id: member.id, hall, ledger, feeder: running };
        {
            let mut groups = self.groups();
            self.check_open()?;
            if let Some(known) = groups.known.get_mut(&name) {
                known.members.push(present);
                known.stays |= life == Life::Declared;
            }
            self.core.need(&consumer, &config);
        }
        // Ends when the member does.
        tokio::spawn(feeder.run());
        Ok(Arc::new(member))
    }

    /// The last message that the group may have been given.
    async fn delivered_to(&self, found: &ConsumerInfo) -> Result<u64, Error> {
        let core = &self.core;
        if found.num_ack_pending == 0 || !core.link.miscounts() {
            return Ok(found.delivered.stream_seq);
        }
        let stream = core.link.stream(&core.layout.messages, core.link.patience()).await?;
        Ok(stream.state.last_seq)
    }

    pub(super) async fn remove_one(&self, name: Arc<str>) -> Result<usize, Error> {
        let (core, consumer) = (&self.core, token_of(&name));
        let until = core.link.patience();
        let info = match core.link.consumer(&core.layout.messages, &consumer, until).await {
            Err(f) if f.is_refusal(CONSUMER_NOT_FOUND) || f.is_refusal(STREAM_NOT_FOUND) => {
                return Err(Error::NoSuchGroup(name));
            }
            info => info?,
        };
        {
            let mut groups = self.groups();
            if let Some(known) = groups.known.get_mut(&name) {
                if !known.members.is_empty() {
                    known.removed = true;
                    return Ok(0);
                }
                groups.known.remove(&name);
            }
            core.need_no_more(&consumer);
        }
        core.link.delete_consumer(&core.layout.messages, &consumer, until).await?;
        Ok(usize::try_from(info.num_pending + info.num_ack_pending).unwrap_or(usize::MAX))
    }
}
