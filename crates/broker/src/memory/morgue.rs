//! The dead letters of a broker in memory.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use gusset_call::Overloaded;

use super::{
    entrance::{After, Door},
    queue::{Entry, History},
    scribe::{Event, Scribe},
    shared::Shared,
};
use crate::{
    DeadLetter, DeadLetterId, Error, Filter, Limits, Message, Reason, WhenLettersFull,
    attempt::discard,
    engine::{BoxFuture, DeadLetterStore},
};

impl DeadLetterStore for Shared {
    fn list(
        &self,
        filter: Filter,
        after: Option<DeadLetterId>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<Arc<DeadLetter>>, Error>> {
        let from = after.map_or(0, |id| id.get().saturating_add(1));
        let dead = self.dead.lock();
        let matching = dead.letters.range(from..).map(|(_, letter)| letter);
        let page = matching.filter(|letter| filter.matches(letter)).take(limit).cloned().collect();
        Box::pin(std::future::ready(Ok(page)))
    }

    fn get(&self, id: DeadLetterId) -> BoxFuture<'_, Result<Option<Arc<DeadLetter>>, Error>> {
        let letter = self.dead.lock().letters.get(&id.get()).cloned();
        Box::pin(std::future::ready(Ok(letter)))
    }

    fn redrive(&self, id: DeadLetterId) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(std::future::ready(self.redrive_one(id)))
    }

    fn purge(&self, filter: Filter) -> BoxFuture<'_, Result<usize, Error>> {
        let mut dead = self.dead.lock();
        let ids: Vec<_> =
            dead.letters.values().filter(|l| filter.matches(l)).map(|l| l.id).collect();
        let removed: Vec<_> = ids.iter().filter_map(|id| dead.remove(id.get())).collect();
        removed.iter().for_each(|letter| self.dead.note(Event::LetterGone(letter.id.get())));
        drop(dead);
        let count = removed.len();
        removed.into_iter().for_each(discard);
        Box::pin(std::future::ready(Ok(count)))
    }

    fn newest(&self) -> BoxFuture<'_, Result<Option<DeadLetterId>, Error>> {
        let last = self.dead.lock().last;
        let newest = (last > 0).then(|| DeadLetterId::new(last));
        Box::pin(std::future::ready(Ok(newest)))
    }

    fn max_redrives(&self) -> u32 {
        self.limits.redrives
    }
}

impl Shared {
    fn redrive_one(&self, id: DeadLetterId) -> Result<(), Error> {
        let present = self.dead.lock().letters.get(&id.get()).cloned();
        let letter = present.ok_or(Error::NoSuchDeadLetter)?;
        let after = if letter.reason == Reason::Unheard {
            let groups = self.groups.load_full();
            // Foreign code, so before any lock; the lanes of a letter that goes to its own group as well.
            let doors = Door::all(&groups, &letter.message);
            self.take_back(id, |dead| {
                let after = self.publish_again(&letter.message, doors)?;
                dead.note(Event::LetterGone(id.get()));
                Ok(after)
            })?
        } else {
            let no_group = || Error::NoSuchGroup(letter.group.clone());
            let group = self.group(&letter.group).ok_or_else(no_group)?;
            let lane = group.lane_of(&letter.message);
            let entry = Entry::new(letter.message.clone(), letter.redrives + 1).in_lane(lane);
            self.take_back(id, |_| group.redrive(id.get(), entry))?
        };
        after.happen();
        Ok(())
    }

    /// Under the lock of the dead letters, so that two operators cannot redrive one letter twice. No group's lock is ever held while that lock is
    /// taken. Whoever calls this has the letter as well, so nothing foreign is dropped here.
    fn take_back(
        &self,
        id: DeadLetterId,
        redrive: impl FnOnce(&Morgue) -> Result<After, Error>,
    ) -> Result<After, Error> {
        let mut dead = self.dead.lock();
        if !dead.letters.contains_key(&id.get()) {
            return Err(Error::NoSuchDeadLetter);
        }
        let after = redrive(&self.dead)?;
        drop(dead.remove(id.get()));
        Ok(after)
    }
}

/// What is left of an entry.
#[derive(Debug)]
pub(crate) struct Remains {
    message: Arc<Message>,
    serial: u64,
    attempts: u32,
    redrives: u32,
    history: Option<History>,
}

impl Remains {
    pub(crate) fn of(entry: &Entry) -> Self {
        Self {
            message: entry.message.clone(),
            serial: entry.serial(),
            attempts: entry.attempts(),
            redrives: entry.redrives(),
            history: entry.history().cloned(),
        }
    }
}

/// Where the dead letters are.
#[derive(Debug)]
pub(crate) struct Morgue {
    limits: Limits,
    scribe: Option<Arc<dyn Scribe>>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
pub(crate) struct State {
    letters: BTreeMap<u64, Arc<DeadLetter>>,
    pub(crate) bytes: usize,
    pub(crate) dropped: u64,
    pub(crate) refused: u64,
    last: u64,
}

impl Morgue {
    pub(crate) fn new(limits: Limits, scribe: Option<Arc<dyn Scribe>>) -> Self {
        Self { limits, scribe, state: Mutex::default() }
    }

    pub(crate) const fn scribe(&self) -> Option<&Arc<dyn Scribe>> {
        self.scribe.as_ref()
    }

    fn note(&self, event: Event) {
        if let Some(scribe) = &self.scribe {
            scribe.note(event);
        }
    }

    #[cfg(feature = "file")]
    /// What an earlier process has buried. `last` is the highest id that was given.
    pub(crate) fn restore(&self, letters: Vec<Arc<DeadLetter>>, last: u64) {
        let mut state = self.lock();
        state.last = last;
        for letter in letters {
            state.bytes += letter.size();
            state.letters.insert(letter.id.get(), letter);
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The newest is kept whatever its size, unless it is to be refused. Calls no foreign code; what it returns does.
    ///
    /// # Errors
    ///
    /// [`Error::LettersFull`]. Nothing has changed then.
    pub(crate) fn insert(
        &self,
        group: &Arc<str>,
        id: u64,
        remains: Remains,
        reason: Reason,
    ) -> Result<Buried, Error> {
        let serial = remains.serial;
        let last_failure = remains.history.as_ref().map(|history| history.last().clone());
        let first_failure = remains.history.map(|history| history.first);
        let mut letter = DeadLetter {
            id: DeadLetterId::new(0),
            message: remains.message,
            group: group.clone(),
            reason,
            attempts: remains.attempts,
            first_failure,
            last_failure,
            died_at: crate::message::wall_clock(),
            redrives: remains.redrives,
        };
        let mut evicted = Vec::new();
        let mut state = self.lock();
        if self.limits.when_letters_full == WhenLettersFull::Refuse
            && self.is_full_for(&state, &letter)
        {
            state.refused += 1;
            drop(state);
            return Err(Error::LettersFull(Overloaded::new("the store of dead letters")));
        }
        state.last += 1;
        letter.id = DeadLetterId::new(state.last);
        state.bytes += letter.size();
        let letter = Arc::new(letter);
        self.note(Event::Died { group: id, serial, letter: letter.clone() });
        state.letters.insert(letter.id.get(), letter.clone());
        while state.letters.len() > 1 && self.is_over(&state) {
            let Some((_, oldest)) = state.letters.pop_first() else { break };
            state.bytes -= oldest.size();
            state.dropped += 1;
            self.note(Event::LetterGone(oldest.id.get()));
            evicted.push(oldest);
        }
        drop(state);
        Ok(Buried { letter, evicted })
    }

    fn is_full_for(&self, state: &State, letter: &DeadLetter) -> bool {
        let bytes = state.bytes.saturating_add(letter.size());
        !state.letters.is_empty()
            && (state.letters.len() >= self.limits.dead_letters
                || bytes > self.limits.dead_letter_bytes)
    }

    fn is_over(&self, state: &State) -> bool {
        state.letters.len() > self.limits.dead_letters
            || state.bytes > self.limits.dead_letter_bytes
    }
}

/// What is to be told of a burial, outside of any lock.
#[must_use = "nobody hears of it until this is announced"]
pub(crate) struct Buried {
    letter: Arc<DeadLetter>,
    evicted: Vec<Arc<DeadLetter>>,
}

impl Buried {
    pub(crate) fn announce(self) {
        self.letter.announce();
        for letter in self.evicted {
            tracing::warn!(
                group = &*letter.group,
                id = %letter.message.id(),
                "oldest dead letter dropped to make room"
            );
            discard(letter);
        }
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
