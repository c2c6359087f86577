use std::{
    cell::OnceCell,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use crate::{Instance, balance::load::Load};

/// Chooses the instance that a call goes to. Closures `Fn(&Req, &Candidates) -> Option<usize>` do.
pub trait Pick<Req> {
    /// The index of a candidate that [may be picked](Candidates::may_pick), `None` if there is no such one.
    ///
    /// It is asked up to three times for one call: with all preferences; then with those already tried; then with all
    /// healthy ones. An index past the end counts as `None`. A call for which all answers are `None` is refused.
    fn pick(&self, request: &Req, candidates: &Candidates<'_>) -> Option<usize>;
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
}

/// The healthy instances of a service, at least one, sorted by id; seen by one call.
pub struct Candidates<'a> {
    pub(crate) members: &'a [Member],
    pub(crate) turns: &'a AtomicUsize,
    pub(crate) turn: &'a OnceCell<usize>,
    pub(crate) may_pick: &'a dyn Fn(usize) -> bool,
}

/// A healthy instance and what its calls tell of it.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub(crate) instance: Arc<Instance>,
    pub(crate) load: Arc<Load>,
}

impl Candidates<'_> {
    /// How many there are.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "there is always one")]
    pub const fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether this call may go to that one.
    #[must_use]
    pub fn may_pick(&self, index: usize) -> bool {
        index < self.len() && (self.may_pick)(index)
    }

    /// The instance itself; `None` past the end.
    #[must_use]
    pub fn instance(&self, index: usize) -> Option<&Instance> {
        self.members.get(index).map(|member| &*member.instance)
    }

    /// How many calls of this balancer it has under way; 0 past the end.
    #[must_use]
    pub fn pending(&self, index: usize) -> usize {
        self.members.get(index).map_or(0, |member| member.load.pending())
    }

    /// Which share of its recent calls failed, from 0 to 1; 0 past the end. Half of it is forgotten every 5 s.
    #[must_use]
    pub fn failure_ratio(&self, index: usize) -> f64 {
        self.members.get(index).map_or(0.0, |member| member.load.failure_ratio())
    }

    /// The number of this call among all calls that had these candidates: consecutive, with a random start, shared by all
    /// clones of the balancer, and the same however often it is asked for in one call. It goes on as long as the
    /// set of healthy instances stays the same.
    #[must_use]
    pub fn turn(&self) -> usize {
        *self.turn.get_or_init(|| self.turns.fetch_add(1, Relaxed))
    }
}

impl fmt::Debug for Candidates<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Candidates").field("members", &self.members).finish_non_exhaustive()
    }
}
