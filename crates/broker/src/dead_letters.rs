use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use crate::{
    Error, Limits, Message, Pattern,
    queue::{Entry, History},
    shared::Shared,
};

/// A message that a group could not handle, and why.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct DeadLetter {
    /// Names this record. Ids grow in the order of dying.
    pub id: DeadLetterId,
    /// The message as it was published: id, subject, payload, headers, time.
    pub message: Arc<Message>,
    /// The group that could not handle it. Other groups have their own copy, which knows nothing of this.
    pub group: Arc<str>,
    /// Why it was given up.
    pub reason: Reason,
    /// How often it was delivered, since it was published or last redriven.
    pub attempts: u32,
    /// The first failure since then; none if it was rejected or undecodable at once.
    pub first_failure: Option<Failure>,
    /// The last failure since then.
    pub last_failure: Option<Failure>,
    /// When it was given up. By the wall clock.
    pub died_at: SystemTime,
    /// How often it was redriven before.
    pub redrives: u32,
}

/// Id of a [`DeadLetter`] within one broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeadLetterId(u64);

impl DeadLetterId {
    /// The id with this value.
    #[must_use]
    pub const fn new(id: u64) -> Self {
        Self(id)
    }

    /// The value, counted from 1.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for DeadLetterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Why a message was given up.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// All attempts failed.
    Exhausted,
    /// The handler rejected it, with this reason.
    Rejected(String),
    /// The payload is none that the handler takes, as this text says.
    Undecodable(String),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exhausted => f.write_str("all attempts failed"),
            Self::Rejected(why) => write!(f, "rejected: {why}"),
            Self::Undecodable(why) => write!(f, "cannot be decoded: {why}"),
        }
    }
}

/// A failed attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Failure {
    /// Number of the attempt, counted from 1.
    pub attempt: u32,
    /// When it failed. By the wall clock.
    pub at: SystemTime,
    /// In which way.
    pub kind: FailureKind,
    /// The error and its sources, or the message of the panic; at most 1,024 bytes of it.
    pub error: String,
}

/// In which way an attempt failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FailureKind {
    /// The handler returned an error.
    Error,
    /// The handler panicked.
    Panic,
    /// The handler took longer than [`Policy::attempt_timeout`](crate::Policy::attempt_timeout).
    Timeout,
    /// The handler asked for another attempt, [`Reply::RetryAfter`](crate::Reply::RetryAfter).
    Retry,
}

/// Which dead letters are meant; by default all.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    group: Option<Arc<str>>,
    subjects: Option<Pattern>,
}

impl Filter {
    /// All dead letters.
    #[must_use]
    pub fn all() -> Self {
        Self::default()
    }

    /// Of these, those of the group with this name.
    #[must_use]
    pub fn group(mut self, name: impl Into<Arc<str>>) -> Self {
        self.group = Some(name.into());
        self
    }

    /// Of these, those with a subject that `pattern` matches.
    #[must_use]
    pub fn subjects(mut self, pattern: Pattern) -> Self {
        self.subjects = Some(pattern);
        self
    }

    fn matches(&self, letter: &DeadLetter) -> bool {
        self.group.as_ref().is_none_or(|name| *name == letter.group)
            && self.subjects.as_ref().is_none_or(|p| p.matches(letter.message.subject()))
    }
}

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
        self.0.dead.lock().letters.get(&id.0).cloned()
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
        let letter = dead.letters.get(&id.0).ok_or(Error::NoSuchDeadLetter)?;
        if letter.redrives >= self.0.limits.redrives {
            return Err(Error::RedrivenTooOften(letter.redrives));
        }
        let no_group = || Error::NoSuchGroup(letter.group.clone());
        let group = self.0.group(&letter.group).ok_or_else(no_group)?;
        // Under the lock of the dead letters, so that two operators cannot redrive one letter twice. No group's lock
        // is ever held while that lock is taken.
        group.redrive(Entry::new(letter.message.clone(), letter.redrives + 1))?;
        let removed = dead.remove(id.0);
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
        let removed: Vec<_> = ids.iter().filter_map(|id| dead.remove(id.0)).collect();
        drop(dead);
        removed.len()
    }

    /// A copy of the matching records is made under the lock, which costs a reference count for each.
    fn matching(
        &self,
        filter: &Filter,
        after: Option<DeadLetterId>,
    ) -> impl Iterator<Item = Arc<DeadLetter>> + use<> {
        let from = after.map_or(0, |id| id.0.saturating_add(1));
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
            id: DeadLetterId(0),
            message: entry.message.clone(),
            group: group.clone(),
            reason,
            attempts: entry.attempts,
            first_failure,
            last_failure,
            died_at: crate::message::wall_clock(),
            redrives: entry.redrives,
        };
        announce(&letter);
        let mut evicted = Vec::new();
        let mut state = self.lock();
        state.last += 1;
        letter.id = DeadLetterId(state.last);
        state.bytes += letter.size();
        state.letters.insert(letter.id.0, letter.into());
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

impl DeadLetter {
    /// What it counts against the bound in bytes.
    fn size(&self) -> usize {
        let reason = match &self.reason {
            Reason::Exhausted => 0,
            Reason::Rejected(why) | Reason::Undecodable(why) => why.len(),
        };
        let failures = [&self.first_failure, &self.last_failure];
        let errors: usize = failures.into_iter().flatten().map(|failure| failure.error.len()).sum();
        size_of::<Self>() + self.message.size() + reason + errors
    }
}

fn announce(letter: &DeadLetter) {
    tracing::warn!(
        group = &*letter.group,
        subject = letter.message.subject().as_str(),
        id = %letter.message.id(),
        attempts = letter.attempts,
        reason = %letter.reason,
        last_error = letter.last_failure.as_ref().map(|failure| &*failure.error),
        "dead letter"
    );
}
