//! What follows from a snapshot: whom calls may go to, and what stays from one snapshot to the next.

use std::{
    cell::{Cell, OnceCell},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use gusset_call::Clock;

use crate::{
    Candidates, Fleet, Instance, Needs, Pick, Snapshot,
    balance::{
        candidates::Member,
        connection::Connection,
        fleet::{Plan, Standing, warmth},
        hash::first_turn,
        hub::{Hub, nanos},
        load::{Load, Seat},
        shares::Shares,
    },
};

/// A set holds for ever, but for changes.
pub(crate) const FOR_EVER: u64 = u64::MAX;

/// The instances of one snapshot that take calls, with their services.
pub(crate) struct Set<S> {
    pub(crate) version: u64,
    pub(crate) generation: u64,
    /// When a newcomer gets more or an ejection ends, in nanoseconds.
    pub(crate) until: u64,
    pub(crate) roster: Roster,
    /// In the order of the members.
    pub(crate) connections: Box<[Arc<Connection<S>>]>,
    /// Ejected.
    pub(crate) aside: Box<[(Member, Arc<Connection<S>>)]>,
    pub(crate) panicking: bool,
}

/// Those of a set who can be chosen, sorted by id.
#[derive(Debug)]
pub(crate) struct Roster {
    pub(crate) members: Box<[Member]>,
    pub(crate) shares: Arc<Both>,
    /// Somebody has a share of 0.
    pub(crate) has_reserve: bool,
    /// Goes over to the next set where that has the same instances.
    turns: Arc<Turns>,
}

/// A cache line of its own, for all callers write it.
#[derive(Debug)]
#[repr(align(64))]
struct Turns(AtomicUsize);

/// The shares without and with the weights of the instances.
#[derive(Debug)]
pub(crate) struct Both {
    pub(crate) even: Shares,
    pub(crate) weighted: Shares,
}

/// The time, read at most once in a call, and only if somebody asks.
pub(crate) struct Now<'a> {
    clock: &'a Clock,
    nanos: OnceCell<u64>,
}

impl<'a> Now<'a> {
    pub(crate) const fn new(clock: &'a Clock) -> Self {
        Self { clock, nanos: OnceCell::new() }
    }

    #[inline]
    pub(crate) fn nanos(&self) -> u64 {
        *self.nanos.get_or_init(|| self.clock.nanos())
    }
}

impl Roster {
    fn empty() -> Self {
        let shares = || Shares::new(Vec::new());
        Self {
            members: [].into(),
            shares: Arc::new(Both { even: shares(), weighted: shares() }),
            has_reserve: false,
            turns: Arc::new(Turns(AtomicUsize::new(0))),
        }
    }

    #[inline]
    pub(crate) fn take_turn(&self) -> usize {
        self.turns.0.fetch_add(1, Relaxed)
    }

    fn next(&self, members: Box<[Member]>, plan: Plan) -> Self {
        let (even, weighted) = (Shares::new(plan.even), Shares::new(plan.weighted));
        let same = |(a, b): (&Member, &Member)| a.instance.id == b.instance.id;
        let unchanged =
            members.len() == self.members.len() && members.iter().zip(&self.members).all(same);
        let turns = if unchanged {
            self.turns.clone()
        } else {
            Arc::new(Turns(AtomicUsize::new(first_turn())))
        };
        let has_reserve = (0..members.len()).any(|index| even.get(index) <= 0.0);
        // Tables that were built stay.
        let alike = self.shares.even.is_like(&even) && self.shares.weighted.is_like(&weighted);
        let shares = if unchanged && alike {
            self.shares.clone()
        } else {
            Arc::new(Both { even, weighted })
        };
        Self { members, shares, has_reserve, turns }
    }

    /// Asks `pick` for one of those that `may_pick` allows.
    #[inline]
    pub(crate) fn ask<P: Pick<Req>, Req>(
        &self,
        pick: &P,
        request: &Req,
        asking: &Asking<'_>,
        may_pick: &dyn Fn(usize) -> bool,
    ) -> Option<usize> {
        let Asking { turn, own_turn, now, needs } = asking;
        let memory = needs.latency.map_or(0.0, |memory| memory.as_secs_f32());
        let candidates =
            Candidates { roster: self, turn, own_turn: *own_turn, now, memory, may_pick };
        pick.pick(request, &candidates).filter(|&index| index < self.members.len())
    }
}

/// What stays the same while a picker is asked for one call.
pub(crate) struct Asking<'a> {
    pub(crate) turn: Cell<Option<usize>>,
    pub(crate) own_turn: usize,
    pub(crate) now: &'a Now<'a>,
    pub(crate) needs: Needs,
}

impl<S> Set<S> {
    pub(crate) fn empty() -> Self {
        Self {
            version: 0,
            generation: 0,
            until: FOR_EVER,
            roster: Roster::empty(),
            connections: [].into(),
            aside: [].into(),
            panicking: false,
        }
    }

    /// The set for `snapshot` at `now`. What `self` has and is still good stays.
    pub(crate) fn next(
        &self,
        snapshot: &Snapshot,
        fleet: &Fleet,
        hub: &Arc<Hub>,
        still_reaches: &dyn Fn(&Instance, &Instance) -> bool,
    ) -> Self {
        let now = hub.now();
        let is_first = self.roster.members.is_empty() && self.aside.is_empty();
        let kept = |instance: &Arc<Instance>| self.kept(instance, now, still_reaches);
        let known: Vec<_> = snapshot.instances().iter().map(kept).collect();
        let (standings, untils): (Vec<_>, Vec<_>) = snapshot
            .instances()
            .iter()
            .zip(&known)
            .map(|(instance, kept)| standing(instance, kept.as_deref(), is_first, fleet, now))
            .unzip();
        let plan = fleet.plan(&standings);
        let ejected: Vec<bool> = standings.iter().map(|standing| standing.ejected).collect();
        // Those who take no calls do not get warm either.
        let aside = (0..ejected.len()).filter(|&index| ejected[index]);
        let until = plan.open.iter().copied().chain(aside).map(|index| untils[index]).min();
        let until = until.unwrap_or(FOR_EVER);
        let panicking = plan.panicking;
        let entry = |index: usize, kept: Option<Arc<Connection<S>>>| {
            let connection = kept.unwrap_or_else(|| {
                let since = if is_first { 0 } else { now.max(1) };
                Arc::new(Connection::new(Seat::new(Load::new(since, hub.clone()))))
            });
            let instance = snapshot.instances()[index].clone();
            (Member { instance, seat: connection.seat.clone() }, connection)
        };
        let mut known = known;
        let (members, connections): (Vec<_>, Vec<_>) =
            plan.open.iter().map(|&index| entry(index, known[index].take())).unzip();
        let aside = (0..known.len())
            .filter(|&index| ejected[index])
            .filter_map(|index| Some(entry(index, Some(known[index].take()?))))
            .collect();
        Self {
            version: snapshot.version(),
            generation: self.generation,
            until,
            roster: self.roster.next(members.into(), plan),
            connections: connections.into(),
            aside,
            panicking,
        }
    }

    /// The connection for `instance`, if it has one that still leads there.
    fn kept(
        &self,
        instance: &Instance,
        now: u64,
        still_reaches: &dyn Fn(&Instance, &Instance) -> bool,
    ) -> Option<Arc<Connection<S>>> {
        let members = &self.roster.members;
        let by_id = members.binary_search_by(|member| member.instance.id.cmp(&instance.id));
        let (member, connection) = match by_id {
            Ok(place) => (&members[place], &self.connections[place]),
            Err(_) => {
                let mut aside = self.aside.iter();
                let (member, connection) = aside.find(|(m, _)| m.instance.id == instance.id)?;
                (member, connection)
            }
        };
        if !still_reaches(&member.instance, instance) {
            return None;
        }
        if connection.seat.record.come_back(now) {
            connection.seat.begin_anew(now.max(1));
        }
        Some(connection.replacement(now).unwrap_or_else(|| connection.clone()))
    }

    /// All that are healthy in the eyes of the registry or in panic, ejected or not.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&Member, &Arc<Connection<S>>)> {
        let aside = self.aside.iter().map(|(member, connection)| (member, connection));
        self.roster.members.iter().zip(&self.connections).chain(aside)
    }
}

/// How an instance stands, and until when.
fn standing<'a, S>(
    instance: &'a Instance,
    kept: Option<&Connection<S>>,
    is_first: bool,
    fleet: &Fleet,
    now: u64,
) -> (Standing<'a>, u64) {
    let ejected_until = kept.map_or(0, |connection| connection.seat.record.ejected_until());
    let newcomer = if is_first { 0 } else { now.max(1) };
    let since = kept.map_or(newcomer, |connection| connection.seat.since());
    let mut until = if ejected_until == 0 { FOR_EVER } else { ejected_until };
    let mut share = 1.0;
    if let Some(window) = fleet.slow_start.filter(|_| since != 0) {
        let age = Duration::from_nanos(now.saturating_sub(since));
        if let Some((warm, next)) = warmth(age, window) {
            share = warm;
            until = until.min(since.saturating_add(nanos(next)));
        }
    }
    (Standing { instance, ejected: ejected_until != 0, warmth: share }, until)
}
