//! What the silence of TTL checks means: one by one an instance is gone, many at once we are deaf, again and again it flaps.
//!
//! The same rules as those of the memory engine, see [`crate::Policy`], with the protection that both share.

use std::{sync::Arc, time::Duration};

use gusset_call::Ratio;

use super::{
    catalog::{Catalog, Check},
    record::Status,
    topic::Indexes,
};
use crate::{Policy, table::Census};

#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    /// Heartbeats that one needs which flaps.
    pub(super) rise: u32,
    /// Share of a service, and for how long at most.
    pub(super) protect: Option<(Ratio, Duration)>,
    /// Whether active checks are made.
    #[cfg_attr(
        not(feature = "file"),
        allow(dead_code, reason = "only what is restored may be of before")
    )]
    pub(super) probing: bool,
}

impl Rules {
    pub(super) fn new(policy: &Policy, probing: bool) -> Self {
        Self { rise: policy.rise.get(), protect: policy.protect, probing }
    }
}

/// How often a check fell silent, and what is thought of it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Silence {
    /// When, and what it was before. None if it is heard of.
    fell: Option<(Duration, Status)>,
    /// How often, with little time in between.
    falls: u32,
    /// Since when it is heard of.
    well_since: Duration,
    /// Heartbeats since it fell, each in a second of its own, and when the last of them was.
    beats: u32,
    beaten: Duration,
    /// Shown as it was, though it is silent or was not heard of since a restart.
    pub(super) kept: bool,
    /// Its silence is no news any more.
    written_off: bool,
}

/// What was well for as long begins anew.
const CALM: Duration = Duration::from_secs(900);
/// Heartbeats within it count as one.
const BEAT: Duration = Duration::from_secs(1);
/// How often it is looked whether a protection is over.
const REVIEW: Duration = Duration::from_secs(1);

impl Silence {
    pub(super) fn begun(now: Duration) -> Self {
        Self { well_since: now, ..Self::default() }
    }

    #[cfg(feature = "file")]
    pub(super) fn restored(suspect: bool, now: Duration) -> Self {
        Self { kept: suspect, ..Self::begun(now) }
    }

    /// Notes a heartbeat. Whether it is not yet enough.
    pub(super) fn is_damped(&mut self, rise: u32, now: Duration) -> bool {
        self.written_off = false;
        if self.fell.is_none() {
            return false;
        }
        if self.beats == 0 || now >= self.beaten + BEAT {
            self.beats = self.beats.saturating_add(1);
            self.beaten = now;
        }
        self.beats < self.falls.min(rise)
    }

    /// It is believed to be well again.
    pub(super) fn over(&mut self, now: Duration) {
        if self.fell.take().is_some() {
            self.well_since = now;
            self.beats = 0;
        }
    }

    pub(super) const fn is_heard_of(&self) -> bool {
        self.beats > 0
    }

    fn fall(&mut self, before: Status, now: Duration) {
        let calm = now.saturating_sub(self.well_since) >= CALM;
        self.falls = if calm { 1 } else { self.falls.saturating_add(1) };
        self.fell = Some((now, before));
        self.beats = 0;
    }
}

impl Check {
    /// Whether it was well until a TTL ago at least, and should be heard of.
    fn is_expected(&self, ttl: Duration, now: Duration) -> bool {
        let well = match self.silence.fell {
            Some((at, _)) => at.saturating_add(ttl) > now,
            None => self.record.status != Status::Critical,
        };
        well && !self.silence.written_off
    }

    /// Without word for its TTL and this long.
    fn is_silent(&self, early: Duration, now: Duration) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= now.saturating_add(early))
    }
}

impl Catalog {
    /// A TTL has run out.
    pub(super) fn fell_silent(
        &mut self,
        indexes: &mut Indexes,
        (node, id): (&Arc<str>, &Arc<str>),
        now: Duration,
    ) {
        let Some(check) = self.check(node, id) else { return };
        let service = check.record.service.as_ref().map(|service| service.def.name.clone());
        match service.filter(|service| self.protects(indexes, service, now)) {
            Some(_) => self.keep(indexes, (node, id), None, now),
            None => self.fall(indexes, (node, id), now),
        }
    }

    fn fall(&mut self, indexes: &mut Indexes, (node, id): (&Arc<str>, &Arc<str>), now: Duration) {
        let Some(check) = self.check_mut(node, id) else { return };
        check.silence.fall(check.record.status, now);
        check.silence.kept = false;
        let record = Arc::make_mut(&mut check.record);
        record.suspect = false;
        let before = std::mem::take(&mut record.output);
        record.output = format!("TTL expired (last output before timeout follows): {before}");
        self.move_to(indexes, (node, id), Status::Critical, now);
    }

    /// Shows it as it was, and as suspect.
    fn keep(
        &mut self,
        indexes: &mut Indexes,
        (node, id): (&Arc<str>, &Arc<str>),
        before: Option<Status>,
        now: Duration,
    ) {
        let Some(check) = self.check_mut(node, id) else { return };
        check.silence.kept = true;
        let status = before.unwrap_or(check.record.status);
        Arc::make_mut(&mut check.record).suspect = true;
        self.move_to(indexes, (node, id), status, now);
        // The review looks at it from now on, and not the timers.
        if let Some(check) = self.check_mut(node, id) {
            check.silence.over(now);
            check.scheduled = None;
        }
    }

    /// Whether the silent checks of a service are kept. Begins the protection if it is time.
    fn protects(&mut self, indexes: &mut Indexes, name: &Arc<str>, now: Duration) -> bool {
        let Some((share, _)) = self.rules.protect else { return false };
        let Some(service) = self.services.get_mut(name) else { return false };
        let mut protection = std::mem::take(&mut service.protection);
        let was_on = protection.is_on();
        // Who beats every third of the TTL has missed one by then. So it is seen before the first is given up.
        let is_on = protection.begin(millis(now), || self.census(name, 1, now).is_too_much(share));
        if let Some(service) = self.services.get_mut(name) {
            service.protection = protection;
        }
        if is_on && !was_on {
            tracing::warn!(service = &**name, "most checks fell silent at once, keeping them");
            self.protected.push(name.clone());
            for (node, id) in self.ttl_checks(name) {
                let fell = self.check(&node, &id).and_then(|check| {
                    let (_, before) = check.silence.fell?;
                    check.is_expected(check.record.def.ttl?, now).then_some(before)
                });
                if let Some(before) = fell {
                    self.keep(indexes, (&node, &id), Some(before), now);
                }
            }
        }
        is_on
    }

    /// Looks which protections are over, once a second.
    pub(super) fn review(&mut self, indexes: &mut Indexes, now: Duration) {
        if self.protected.is_empty() || now < self.reviewed + REVIEW {
            return;
        }
        self.reviewed = now;
        for name in std::mem::take(&mut self.protected) {
            if self.is_over(&name, now) {
                tracing::info!(service = &*name, "no longer keeping silent checks");
                self.give_up(indexes, &name, now);
            } else {
                self.protected.push(name);
            }
        }
    }

    fn is_over(&mut self, name: &Arc<str>, now: Duration) -> bool {
        let Some((share, bound)) = self.rules.protect else { return true };
        let (census, mut span, mut suspects) = (self.census(name, 0, now), Duration::ZERO, false);
        for (node, id) in self.ttl_checks(name) {
            let Some(check) = self.check(&node, &id) else { continue };
            span = span.max(check.record.def.ttl.unwrap_or_default());
            suspects |= check.silence.kept && check.is_silent(Duration::ZERO, now);
        }
        let Some(service) = self.services.get_mut(name) else { return true };
        let times = (millis(span), millis(bound));
        service.protection.end(millis(now), times, (census.is_too_much(share), suspects))
    }

    /// What stays silent now is no longer part of what is expected, or it would begin anew.
    fn give_up(&mut self, indexes: &mut Indexes, name: &Arc<str>, now: Duration) {
        for (node, id) in self.ttl_checks(name) {
            let Some(check) = self.check_mut(&node, &id) else { continue };
            if check.silence.kept && check.is_silent(Duration::ZERO, now) {
                check.silence.written_off = true;
                self.fall(indexes, (&node, &id), now);
            }
        }
    }

    /// How many are silent, or will be within so many thirds of their TTL.
    fn census(&self, name: &str, thirds: u32, now: Duration) -> Census {
        let mut census = Census::default();
        for (node, id) in self.ttl_checks(name) {
            let Some(check) = self.check(&node, &id) else { continue };
            let ttl = check.record.def.ttl.unwrap_or_default();
            if check.is_expected(ttl, now) {
                census.expected += 1;
                census.silent += usize::from(check.is_silent(ttl / 3 * thirds, now));
            }
        }
        census
    }

    /// Node and id of the TTL checks of a service.
    fn ttl_checks(&self, name: &str) -> Vec<(Arc<str>, Arc<str>)> {
        let members = self.services.get(name).into_iter().flat_map(|service| &service.members);
        let checks = members.flat_map(|(node, id)| {
            let node = self.nodes.get(node);
            let ids = node.and_then(|node| node.of_service.get(id)).into_iter().flatten();
            ids.filter_map(move |id| node?.checks.get(id))
        });
        let with_ttl = checks.filter(|check| check.record.def.ttl.is_some());
        with_ttl.map(|check| (check.record.node.clone(), check.record.def.id.clone())).collect()
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
