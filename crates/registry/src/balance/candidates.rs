use std::{cell::Cell, fmt, sync::Arc, time::Duration};

use crate::{
    Instance,
    balance::{
        load::{Load, Seat},
        set::{Now, Roster},
        shares::Shares,
    },
};

/// Chooses the instance that a call goes to. Closures `Fn(&Req, &Candidates) -> Option<usize>` do.
pub trait Pick<Req> {
    /// The index of a candidate that [may be picked](Candidates::may_pick), `None` if there is no such one.
    ///
    /// It is asked up to four times for one call: with all preferences, then with fewer and fewer. An index past the
    /// end counts as `None`. A call for which all answers are `None` is refused.
    fn pick(&self, request: &Req, candidates: &Candidates<'_>) -> Option<usize>;

    /// What it wants measured. Default: the calls under way.
    fn needs(&self) -> Needs {
        Needs::default()
    }
}

/// What a [`Pick`] reads of the [`Candidates`], so that nothing is measured in vain.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Needs {
    /// [`Candidates::pending`] for a [`Chooser`](crate::Chooser); [`Balance`](crate::Balance) always counts. Costs about 10 ns a call.
    pub pending: bool,
    /// [`Candidates::latency`], with the span over which a slow call is forgotten by two thirds. Costs two readings of the
    /// clock. Default `None`.
    pub latency: Option<Duration>,
    /// [`Candidates::total_pending`]: a counter that all callers share. Costs about 10 ns a call, more under contention.
    pub total_pending: bool,
}

impl Default for Needs {
    fn default() -> Self {
        Self { pending: true, latency: None, total_pending: false }
    }
}

impl Needs {
    /// Nothing is measured.
    pub const NOTHING: Self = Self { pending: false, latency: None, total_pending: false };
}

impl<Req, F> Pick<Req> for F
where
    F: Fn(&Req, &Candidates<'_>) -> Option<usize>,
{
    fn pick(&self, request: &Req, candidates: &Candidates<'_>) -> Option<usize> {
        self(request, candidates)
    }
}

impl<Req> Pick<Req> for Arc<dyn Pick<Req> + Send + Sync> {
    fn pick(&self, request: &Req, candidates: &Candidates<'_>) -> Option<usize> {
        (**self).pick(request, candidates)
    }

    fn needs(&self) -> Needs {
        (**self).needs()
    }
}

/// The instances that a [`Fleet`](crate::Fleet) leaves, at least one, sorted by id; seen by one call.
pub struct Candidates<'a> {
    pub(crate) roster: &'a Roster,
    pub(crate) turn: &'a Cell<Option<usize>>,
    pub(crate) own_turn: usize,
    pub(crate) now: &'a Now<'a>,
    /// In seconds.
    pub(crate) memory: f32,
    pub(crate) may_pick: &'a dyn Fn(usize) -> bool,
}

/// An instance that can be chosen, and what its calls tell of it.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub(crate) instance: Arc<Instance>,
    pub(crate) seat: Arc<Seat>,
}

impl Candidates<'_> {
    /// How many there are.
    #[must_use]
    #[inline]
    #[expect(clippy::len_without_is_empty, reason = "there is always one")]
    pub const fn len(&self) -> usize {
        self.roster.members.len()
    }

    /// Whether this call may go to that one.
    #[must_use]
    #[inline]
    pub fn may_pick(&self, index: usize) -> bool {
        index < self.len() && (self.may_pick)(index)
    }

    /// The instance itself; `None` past the end.
    #[must_use]
    pub fn instance(&self, index: usize) -> Option<&Instance> {
        self.roster.members.get(index).map(|member| &*member.instance)
    }

    /// How many calls of this balancer it has under way; 0 past the end.
    #[must_use]
    #[inline]
    pub fn pending(&self, index: usize) -> usize {
        self.roster.members.get(index).map_or(0, |member| member.seat.pending())
    }

    /// How many calls of this balancer are under way at all instances together, if the picker
    /// [needs](Needs::total_pending) it, else 0.
    #[must_use]
    pub fn total_pending(&self) -> usize {
        self.load(0).map_or(0, |load| load.hub.total())
    }

    /// Which share of its recent calls failed, from 0 to 1; 0 past the end. Half of it is forgotten every 5 s.
    #[must_use]
    #[inline]
    pub fn failure_ratio(&self, index: usize) -> f64 {
        self.load(index).map_or(0.0, |load| load.failure_ratio(|| self.now.nanos()))
    }

    /// How long its calls take: the peak-sensitive mean of Finagle, up at once, down with time. `None` if nothing was
    /// measured yet, if the picker does not [need](Needs::latency) it, and past the end.
    #[must_use]
    pub fn latency(&self, index: usize) -> Option<Duration> {
        let nanos = self.latency_nanos(index)?;
        Some(Duration::from_nanos(nanos as u64))
    }

    /// The part of the calls it should get, relative to the mean: below 1 for a newcomer in
    /// [slow start](crate::Fleet::slow_start), 0 for one in another zone that is only for calls which have no other way.
    /// `weighted` includes the weights of the instances.
    #[must_use]
    pub fn share(&self, index: usize, weighted: bool) -> f64 {
        self.shares(weighted).relative(index)
    }

    /// The number of this call among all calls that had these candidates: consecutive, with a random start, shared by all
    /// clones of the balancer, and the same however often it is asked for in one call. It goes on as long as the
    /// candidates stay the same.
    #[must_use]
    #[inline]
    pub fn turn(&self) -> usize {
        if let Some(turn) = self.turn.get() {
            return turn;
        }
        let turn = self.roster.take_turn();
        self.turn.set(Some(turn));
        turn
    }

    /// The number of this call among those of its handle: each clone begins at random. Costs nothing, for nobody shares it.
    #[must_use]
    #[inline]
    pub const fn own_turn(&self) -> usize {
        self.own_turn
    }

    /// Whether its [`failure_ratio`](Self::failure_ratio) may be other than 0.
    #[inline]
    pub(crate) fn has_failures(&self, index: usize) -> bool {
        self.load(index).is_some_and(Load::has_failures)
    }

    /// Whether it failed, has nothing under way, and had no call for so long that it is to be tried again.
    pub(crate) fn is_owed_a_trial(&self, index: usize) -> bool {
        self.load(index).is_some_and(|load| load.is_owed_a_trial(self.now.nanos()))
            && self.pending(index) == 0
    }

    #[inline]
    pub(crate) fn shares(&self, weighted: bool) -> &Shares {
        if weighted { &self.roster.shares.weighted } else { &self.roster.shares.even }
    }

    #[inline]
    pub(crate) fn latency_nanos(&self, index: usize) -> Option<f32> {
        self.load(index)?.latency(self.now.nanos(), self.memory)
    }

    #[inline]
    fn load(&self, index: usize) -> Option<&Load> {
        self.roster.members.get(index).map(|member| &**member.seat)
    }

    /// Whoever of those that may be picked has this place in line.
    #[cold]
    pub(crate) fn nth_open(&self, number: usize) -> Option<usize> {
        let open = || (0..self.len()).filter(|&index| self.may_pick(index));
        let place = number.checked_rem(open().count())?;
        open().nth(place)
    }
}

impl fmt::Debug for Candidates<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Candidates").field("members", &self.roster.members).finish_non_exhaustive()
    }
}
