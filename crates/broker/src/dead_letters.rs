use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::{
    DeadLetter, DeadLetterId, Error, Filter, Limits, Reason,
    queue::{Entry, History},
    shared::Shared,
};

/// What became of [`DeadLetters::redrive_all`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Redriven {
    /// Given back to their groups.
    pub redriven: usize,
    /// Still dead letters: the group is full or gone, or they were redriven too often. [`DeadLetters::redrive`] tells
    /// for each.
    pub kept: usize,
}

/// The messages that were given up, for an operator to look at, to redrive or to purge. Clones and the broker share them.
///
/// # Memory
///
/// At most [`Limits::dead_letters`] records of together [`Limits::dead_letter_bytes`]; the newest one is kept whatever its
/// size. At the bound the oldest make room, counted as [`Stats::dead_letters_dropped`](crate::Stats::dead_letters_dropped).
#[derive(Clone, Debug)]
pub struct DeadLetters(Arc<Shared>);

impl DeadLetters {
    pub(crate) const fn new(shared: Arc<Shared>) -> Self {
        Self(shared)
    }

    /// Up to `limit` records, oldest first, of those younger than `after`: pass the last id of one page to get the next.
    #[must_use]
    pub fn list(
        &self,
        filter: &Filter,
        after: Option<DeadLetterId>,
        limit: usize,
    ) -> Vec<Arc<DeadLetter>> {
        self.matching(filter, after).take(limit).collect()
    }

    /// The record with this id.
    #[must_use]
    pub fn get(&self, id: DeadLetterId) -> Option<Arc<DeadLetter>> {
        self.0.dead.lock().letters.get(&id.get()).cloned()
    }

    /// Gives one back to the group that could not handle it, and to no other, behind what is ready there. It keeps its
    /// message id; its attempts are counted anew.
    ///
    /// # Errors
    ///
    /// It stays a dead letter, and this returns [`Error::NoSuchDeadLetter`], [`Error::NoSuchGroup`] if the group is gone,
    /// [`Error::Full`] if it has no room (redriving never waits and never drops another message),
    /// [`Error::RedrivenTooOften`] after [`Limits::redrives`] times, [`Error::Closed`].
    pub fn redrive(&self, id: DeadLetterId) -> Result<(), Error> {
        let mut dead = self.0.dead.lock();
        let letter = dead.letters.get(&id.get()).ok_or(Error::NoSuchDeadLetter)?;
        if letter.redrives >= self.0.limits.redrives {
            return Err(Error::RedrivenTooOften(letter.redrives));
        }
        let no_group = || Error::NoSuchGroup(letter.group.clone());
        let group = self.0.group(&letter.group).ok_or_else(no_group)?;
        // Under the lock of the dead letters, so that two operators cannot redrive one letter twice. No group's lock
        // is ever held while that lock is taken.
        group.redrive(Entry::new(letter.message.clone(), letter.redrives + 1))?;
        let removed = dead.remove(id.get());
        drop(dead);
        drop(removed);
        Ok(())
    }

    /// [`redrive`](Self::redrive) for each that matches and is a dead letter now.
    #[must_use = "some may have been kept"]
    pub fn redrive_all(&self, filter: &Filter) -> Redriven {
        let ids: Vec<_> = self.matching(filter, None).map(|letter| letter.id).collect();
        let redriven = ids.iter().filter(|id| self.redrive(**id).is_ok()).count();
        Redriven { redriven, kept: ids.len() - redriven }
    }

    /// Deletes what matches; how many that were.
    #[expect(
        clippy::must_use_candidate,
        reason = "the deletion is wanted, the number is a courtesy"
    )]
    pub fn purge(&self, filter: &Filter) -> usize {
        let mut dead = self.0.dead.lock();
        let ids: Vec<_> =
            dead.letters.values().filter(|l| filter.matches(l)).map(|l| l.id).collect();
        let removed: Vec<_> = ids.iter().filter_map(|id| dead.remove(id.get())).collect();
        drop(dead);
        removed.len()
    }

    /// A copy of the matching records is made under the lock, which costs a reference count for each.
    fn matching(
        &self,
        filter: &Filter,
        after: Option<DeadLetterId>,
    ) -> impl Iterator<Item = Arc<DeadLetter>> + use<> {
        let from = after.map_or(0, |id| id.get().saturating_add(1));
        let dead = self.0.dead.lock();
        let matching: Vec<_> = dead
            .letters
            .range(from..)
            .map(|(_, l)| l)
            .filter(|l| filter.matches(l))
            .cloned()
            .collect();
        matching.into_iter()
    }
}

/// Where the dead letters are.
#[derive(Debug)]
pub(crate) struct Morgue {
    limits: Limits,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
pub(crate) struct State {
    letters: BTreeMap<u64, Arc<DeadLetter>>,
    pub(crate) bytes: usize,
    pub(crate) dropped: u64,
    last: u64,
}

impl Morgue {
    pub(crate) fn new(limits: Limits) -> Self {
        Self { limits, state: Mutex::default() }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn insert(&self, group: &Arc<str>, entry: &Entry, reason: Reason) {
        let (first_failure, last_failure) = match entry.history.as_deref().cloned() {
            Some(History { first, last }) => (Some(first), Some(last)),
            None => (None, None),
        };
        let mut letter = DeadLetter {
            id: DeadLetterId::new(0),
            message: entry.message.clone(),
            group: group.clone(),
            reason,
            attempts: entry.attempts,
            first_failure,
            last_failure,
            died_at: crate::message::wall_clock(),
            redrives: entry.redrives,
        };
        letter.announce();
        let mut evicted = Vec::new();
        let mut state = self.lock();
        state.last += 1;
        letter.id = DeadLetterId::new(state.last);
        state.bytes += letter.size();
        state.letters.insert(letter.id.get(), letter.into());
        while state.letters.len() > 1 && self.is_over(&state) {
            let Some((_, oldest)) = state.letters.pop_first() else { break };
            state.bytes -= oldest.size();
            state.dropped += 1;
            evicted.push(oldest);
        }
        drop(state);
        for letter in evicted {
            tracing::warn!(
                group = &*letter.group,
                id = %letter.message.id(),
                "oldest dead letter dropped to make room"
            );
        }
    }

    fn is_over(&self, state: &State) -> bool {
        state.letters.len() > self.limits.dead_letters
            || state.bytes > self.limits.dead_letter_bytes
    }
}

impl State {
    pub(crate) fn len(&self) -> usize {
        self.letters.len()
    }

    fn remove(&mut self, id: u64) -> Option<Arc<DeadLetter>> {
        let letter = self.letters.remove(&id)?;
        self.bytes -= letter.size();
        Some(letter)
    }
}
