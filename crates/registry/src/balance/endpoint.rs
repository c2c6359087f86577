use std::{sync::Arc, time::Duration};

use crate::{
    Instance,
    balance::{ejector::Ejector, hub::Hub, set::Set},
};

/// How an instance fares in the hands of one balancer.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Endpoint {
    /// The instance.
    pub instance: Arc<Instance>,
    /// Calls under way.
    pub pending: usize,
    /// Share of recent calls that failed, from 0 to 1; half of it is forgotten every 5 s.
    pub failure_ratio: f64,
    /// The part of the calls that it gets without regard to its weight, relative to the mean: less than 1 for a newcomer in slow start, 0
    /// for one in another zone that is not needed.
    pub share: f64,
    /// Its service was ready for a call or for a [`Connector`](crate::Connector), and has not failed since.
    pub ready: bool,
    /// For how long it is still [ejected](crate::Ejection); `None` if it is not.
    pub ejected: Option<Duration>,
}

/// What a balancer did on its own, for metrics; from [`Balance::stats`](crate::Balance::stats).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BalanceStats {
    /// Ejections so far.
    pub ejections: u64,
    /// Ejections that were due, but would have taken out more than the allowed share.
    pub ejections_refused: u64,
    /// Fewer instances are available than [`Fleet::panic_below`](crate::Fleet::panic_below) asks for, so all take calls.
    pub panicking: bool,
}

pub(crate) fn list<S>(hub: &Hub, set: &Set<S>) -> Vec<Endpoint> {
    with_services(hub, set).into_iter().map(|(endpoint, _)| endpoint).collect()
}

/// Each with its service, if that was made.
pub(crate) fn with_services<'s, S>(hub: &Hub, set: &'s Set<S>) -> Vec<(Endpoint, Option<&'s S>)> {
    let now = hub.now();
    let members = set.roster.members.len();
    let mut list: Vec<_> = set
        .all()
        .enumerate()
        .map(|(index, (member, connection))| {
            let until = member.seat.record.ejected_until();
            let endpoint = Endpoint {
                instance: member.instance.clone(),
                pending: member.seat.pending(),
                failure_ratio: member.seat.failure_ratio(|| now),
                share: if index < members { set.roster.shares.even.relative(index) } else { 0.0 },
                ready: connection.is_ready(),
                ejected: (until != 0).then(|| Duration::from_nanos(until.saturating_sub(now))),
            };
            (endpoint, connection.made())
        })
        .collect();
    list.sort_by(|(a, _), (b, _)| a.instance.id.cmp(&b.instance.id));
    list
}

pub(crate) fn stats<S>(hub: &Hub, set: &Set<S>) -> BalanceStats {
    let counts = hub.ejector.as_ref().map(Ejector::counts);
    let (ejections, ejections_refused) = counts.unwrap_or_default();
    BalanceStats { ejections, ejections_refused, panicking: set.panicking }
}
