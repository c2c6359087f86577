//! Where one call goes.

use gusset_call::Tried;

use crate::{
    MakeEndpoint, Pick, Protocol,
    balance::{
        flight::InFlight,
        service::Shared,
        set::{Asking, Now, Set},
    },
};

/// Where a call goes.
pub(crate) enum Choice<S> {
    Call(S, InFlight),
    /// All services are broken, and made anew in so many nanoseconds.
    Rest(u64),
    Nobody,
}

impl<M: MakeEndpoint, P, T> Shared<M, P, T> {
    /// Picks an endpoint, if there is one now.
    #[inline(always)]
    pub(crate) fn choose<Req, Res>(&self, own_turn: usize, request: &Req) -> Choice<M::Service>
    where
        P: Pick<Req>,
        T: Protocol<Req, Res>,
    {
        let Self { core, make, pick, protocol, .. } = self;
        let set = self.current();
        if set.roster.members.is_empty() {
            return Choice::Nobody;
        }
        let tried = protocol.tried(request);
        let (now, needs) = (Now::new(&core.hub.clock), pick.needs());
        let asking = Asking { turn: None.into(), own_turn, now: &now, needs };
        let Some(place) = prefer(&set, make, pick, request, &asking, tried.as_ref()) else {
            let rests = set.connections.iter().map(|c| c.rests_until(|| now.nanos()));
            let soonest = rests.filter(|until| *until != 0).min();
            return soonest.map_or(Choice::Nobody, |until| Choice::Rest(until - now.nanos()));
        };
        let (member, connection) = (&set.roster.members[place], &set.connections[place]);
        if let Some(tried) = tried {
            tried.insert(member.instance.id.clone());
        }
        let service = connection.service(make, &member.instance).clone();
        let flight = InFlight::begin(&connection.seat, connection.epoch(), needs, &now);
        Choice::Call(service, flight)
    }
}

/// Asks with all preferences first, and then with fewer and fewer. Nobody gets calls while it rests.
#[inline]
fn prefer<M, P, Req>(
    set: &Set<M::Service>,
    make: &M,
    pick: &P,
    request: &Req,
    asking: &Asking<'_>,
    tried: Option<&Tried>,
) -> Option<usize>
where
    M: MakeEndpoint,
    P: Pick<Req>,
{
    let (roster, connections) = (&set.roster, &set.connections);
    let rested = |place: usize| connections[place].rests_until(|| asking.now.nanos()) == 0;
    let eligible = |place: usize| {
        let (connection, instance) = (&connections[place], &*roster.members[place].instance);
        rested(place)
            && !connection.is_connecting()
            && make.is_eligible(instance, connection.service(make, instance))
    };
    let untried =
        |place: usize| !tried.is_some_and(|t| t.contains(&roster.members[place].instance.id));
    let is_reserve = |place: usize| roster.shares.even.get(place) <= 0.0;
    let fresh = |place: usize| untried(place) && eligible(place);
    let ask = |may_pick: &dyn Fn(usize) -> bool| roster.ask(pick, request, asking, may_pick);
    if !roster.has_reserve {
        return ask(&fresh).or_else(|| ask(&eligible)).or_else(|| ask(&rested));
    }
    ask(&|place| !is_reserve(place) && fresh(place))
        .or_else(|| ask(&|place| is_reserve(place) && fresh(place)))
        .or_else(|| ask(&|place| !is_reserve(place) && eligible(place)))
        .or_else(|| ask(&rested))
}
