//! The doors of the groups: what each says to a message, and how one gets through all of them or none.

use std::{
    num::NonZeroU64,
    sync::{Arc, MutexGuard},
    task::Waker,
};

use gusset_call::Overloaded;
use tokio::time::Instant;

use super::{
    group::{Group, State},
    morgue::Morgue,
    publisher::Publisher,
    queue::Entry,
    scribe::Event,
    shared::Shared,
};
use crate::{Error, Message, WhenFull, attempt::discard, engine::Keeper, judge, policy::after};

/// Why a message is in no group yet.
pub(super) enum Blocked {
    /// This group has no room, and may have some later for the message, which comes back.
    By(Arc<Group>, Arc<Message>),
    /// For good.
    Refused(Error),
}

/// A message was let through.
pub(super) enum Entered {
    /// By so many groups, at least one.
    Groups(usize),
    /// No group wants it.
    Nowhere(Arc<Message>),
}

/// What a group says to a message that wants in.
#[derive(Debug)]
pub(crate) enum Admission {
    Enter,
    /// There may be room later.
    Full,
    Refuse(Error),
    /// As if the group were not there.
    Gone,
}

/// How a publisher stands to a group.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Standing {
    /// Its place in the line.
    pub(crate) ticket: Option<u64>,
    /// It is a handler that this group might wait for, so it must not wait for this group.
    pub(crate) may_borrow: bool,
    /// It is a handler, which may still publish while the broker drains.
    pub(crate) is_handler: bool,
    /// It brings back what was dead, and drops nothing for that.
    pub(crate) is_again: bool,
}

/// What follows from an entry, for when all locks are free: foreign code runs then.
#[derive(Default)]
#[must_use = "somebody may sleep on"]
pub(super) struct After {
    called: Option<Waker>,
    more: Vec<Waker>,
    dropped: Vec<Entry>,
}

impl After {
    pub(super) fn happen(self) {
        if let Some(worker) = self.called {
            worker.wake();
        }
        self.more.into_iter().for_each(Waker::wake);
        self.dropped.into_iter().for_each(discard);
    }
}

/// One of several groups that want a message.
pub(super) struct Door<'g> {
    group: &'g Arc<Group>,
    lane: Option<NonZeroU64>,
    /// None as long as it was not asked, and if it is not to enter.
    state: Option<MutexGuard<'g, State>>,
}

impl Shared {
    pub(super) fn enter_groups(
        &self,
        message: Arc<Message>,
        publisher: &Publisher,
    ) -> Result<Entered, Blocked> {
        let groups = self.groups.load();
        let mut wanting =
            groups.iter().filter(|group| group.pattern.matches(message.subject())).peekable();
        let Some(first) = wanting.next() else {
            self.dead.write_down(&message, std::iter::empty());
            return Ok(Entered::Nowhere(message));
        };
        let (entered, after) = if wanting.peek().is_none() {
            first.enter_alone(message, publisher)?
        } else {
            let mut doors = Vec::with_capacity(groups.len().min(8));
            doors.extend(std::iter::once(first).chain(wanting).map(|g| Door::of(g, &message)));
            self.enter_all(message, publisher, doors)?
        };
        after.happen();
        Ok(entered)
    }

    /// All locks of groups are held together, for a moment and in the order of their ids, so that nobody sees the message in one and not yet
    /// in another, and no room is reserved in one while another is full.
    pub(super) fn enter_all(
        &self,
        message: Arc<Message>,
        publisher: &Publisher,
        mut doors: Vec<Door<'_>>,
    ) -> Result<(Entered, After), Blocked> {
        let (size, mut blocked) = (message.size(), None);
        for door in &mut doors {
            let mut state = door.group.lock();
            match door.group.admission(&state, size, publisher.standing(door.group)) {
                Admission::Enter => door.state = Some(state),
                Admission::Gone => {}
                Admission::Full => {
                    // One that does not wait refuses for all of them.
                    let refuses = door.group.policy().when_full == WhenFull::Reject;
                    blocked = blocked.filter(|_| !refuses).or(Some(door.group));
                }
                Admission::Refuse(error) => return Err(refusal(&mut state, error)),
            }
        }
        if let Some(group) = blocked {
            return Err(Blocked::By(group.clone(), message));
        }
        doors.retain(|door| door.state.is_some());
        let times = Times::of(&message);
        let serial = self.dead.write_down(&message, doors.iter().map(|door| &**door.group));
        let (count, mut after) = (doors.len(), After::default());
        let mut rest = Some(message);
        for (door, Door { group, lane, state }) in doors.iter_mut().enumerate() {
            // The last one has no need of a clone.
            let message = if door + 1 < count { rest.clone() } else { rest.take() };
            let (Some(state), Some(message)) = (state, message) else { continue };
            let entry = Entry::new(message, 0).in_lane(*lane).until(times.expires);
            let entry = entry.numbered(serial);
            after.dropped.extend(group.put(state, entry, times.due));
            after.more.extend(state.call_worker());
        }
        // All are unlocked before anybody is woken.
        drop(doors);
        Ok((rest.map_or(Entered::Groups(count), Entered::Nowhere), after))
    }
}

impl<'g> Door<'g> {
    /// Of those of the groups that want the message. Runs foreign code, so before any lock.
    pub(super) fn all(groups: &'g [Arc<Group>], message: &Message) -> Vec<Self> {
        let wanting = groups.iter().filter(|group| group.pattern.matches(message.subject()));
        wanting.map(|group| Self::of(group, message)).collect()
    }

    fn of(group: &'g Arc<Group>, message: &Message) -> Self {
        Self { group, lane: group.lane_of(message), state: None }
    }
}

impl Morgue {
    /// Its serial. Called under the locks of the groups, so that nothing is written of it before this.
    fn write_down<'g>(
        &self,
        message: &Arc<Message>,
        entered: impl Iterator<Item = &'g Group>,
    ) -> u64 {
        let Some(scribe) = self.scribe() else { return 0 };
        let groups: Vec<_> =
            entered.filter(|group| group.is_scribed()).map(|group| group.info.id).collect();
        let serial = scribe.serial();
        if !groups.is_empty() || message.is_known_by_id() {
            scribe.note(Event::Published { serial, message: message.clone(), groups });
        }
        serial
    }
}

impl Group {
    /// [`Shared::enter_groups`] where this is the only group that wants the message, as it mostly is.
    fn enter_alone(
        self: &Arc<Self>,
        message: Arc<Message>,
        publisher: &Publisher,
    ) -> Result<(Entered, After), Blocked> {
        let (lane, times, size) = (self.lane_of(&message), Times::of(&message), message.size());
        let mut state = self.lock();
        match self.admission(&state, size, publisher.standing(self)) {
            Admission::Enter => {}
            Admission::Gone => return Ok((Entered::Nowhere(message), After::default())),
            Admission::Full => return Err(Blocked::By(self.clone(), message)),
            Admission::Refuse(error) => return Err(refusal(&mut state, error)),
        }
        let serial = self.morgue.write_down(&message, std::iter::once(&**self));
        let entry = Entry::new(message, 0).in_lane(lane).until(times.expires).numbered(serial);
        let dropped = self.put(&mut state, entry, times.due);
        let called = state.call_worker();
        drop(state);
        Ok((Entered::Groups(1), After { called, more: Vec::new(), dropped }))
    }

    /// Puts in what was admitted; what had to make room for it comes back.
    fn put(&self, state: &mut State, entry: Entry, due: Option<Instant>) -> Vec<Entry> {
        let dropped = match self.policy().when_full {
            WhenFull::DropOldest => state.queue.make_room(entry.size()),
            _ => Vec::new(),
        };
        for entry in &dropped {
            self.note(|group| Event::Gone { group, serial: entry.serial() });
        }
        state.queue.push(entry, due);
        if let Some(due) = due {
            self.expect(state, due);
        }
        dropped
    }

    pub(crate) fn admission(&self, state: &State, size: usize, standing: Standing) -> Admission {
        let queue = &state.queue;
        if state.gone {
            return Admission::Gone;
        }
        if queue.is_stopped() && !standing.is_handler {
            return Admission::Refuse(Error::Closed);
        }
        if size > self.policy().max_bytes {
            let (group, limit) = (self.info.name.clone(), self.policy().max_bytes);
            return Admission::Refuse(Error::TooLarge { group, size, limit });
        }
        let enters = match self.policy().when_full {
            WhenFull::DropOldest if !standing.is_again => queue.can_make_room(size),
            WhenFull::DropOldest => queue.has_room(size),
            WhenFull::Reject if queue.has_room(size) => true,
            WhenFull::Reject => return Admission::Full,
            WhenFull::Wait(_) if standing.may_borrow => queue.has_room_to_borrow(size),
            WhenFull::Wait(_) if state.has_room_for(size, standing.ticket) => true,
            WhenFull::Wait(_) => return Admission::Full,
        };
        if enters { Admission::Enter } else { Admission::Refuse(self.full()) }
    }

    /// Ends messages that are next in line and whose time to live is over, as a worker would: where nobody listens they would hold their places for ever. Whether there were any.
    pub(super) fn let_expired_go(self: &Arc<Self>) -> bool {
        /// For one publisher.
        const MOST: usize = 32;
        let now = Instant::now();
        let expired: Vec<_> = {
            let mut state = self.lock();
            std::iter::from_fn(|| state.queue.take_expired(now)).take(MOST).collect()
        };
        for (token, attempt) in &expired {
            let verdict = judge::expired(self.policy(), *attempt);
            // What cannot be buried waits for its next delivery.
            drop(self.clone().settle(token.to_bits(), verdict));
        }
        !expired.is_empty()
    }

    /// The refusal of a message for which there is no room.
    pub(crate) fn full(&self) -> Error {
        Error::Full(Overloaded::new(format!("group {}", self.info.name)))
    }

    /// Messages of the past come in, however many: what is retained bounds them. Runs foreign code, outside of any lock.
    pub(super) fn enter_past(&self, past: Vec<(Instant, Arc<Message>)>) {
        let now = Instant::now();
        let entries: Vec<_> = past
            .into_iter()
            .map(|(at, message)| {
                let (lane, times) = (self.lane_of(&message), Times::since(at, &message));
                let due = times.due.filter(|due| *due > now);
                (Entry::new(message, 0).in_lane(lane).until(times.expires), due)
            })
            .collect();
        let first_due = entries.iter().filter_map(|(_, due)| *due).min();
        self.locked(|state| {
            state.queue.push_past(entries);
            if let Some(due) = first_due {
                self.expect(state, due);
            }
        });
    }

    /// A dead letter comes back. It waits for nobody and drops nobody.
    pub(super) fn redrive(&self, letter: u64, mut entry: Entry) -> Result<After, Error> {
        let mut state = self.lock();
        if state.gone {
            return Err(Error::NoSuchGroup(self.info.name.clone()));
        }
        if state.queue.is_stopped() {
            return Err(Error::Closed);
        }
        if !state.queue.has_room(entry.size()) {
            return Err(self.full());
        }
        if let Some(scribe) = &self.scribe {
            let (group, serial) = (self.info.id, scribe.serial());
            entry = entry.numbered(serial);
            scribe.note(Event::Redriven { letter, group, serial });
        }
        state.queue.push(entry, None);
        Ok(After { called: state.call_worker(), ..After::default() })
    }
}

fn refusal(state: &mut State, error: Error) -> Blocked {
    if !matches!(error, Error::Closed) {
        state.count_refusal();
    }
    Blocked::Refused(error)
}

/// When a message is to be delivered, and until when.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Times {
    pub(crate) due: Option<Instant>,
    pub(crate) expires: Option<Instant>,
}

impl Times {
    fn of(message: &Message) -> Self {
        let (delay, ttl) = (message.delay(), message.ttl());
        if delay.is_none() && ttl.is_none() {
            return Self::default();
        }
        Self::since(Instant::now(), message)
    }

    /// Of a message that was published then.
    fn since(then: Instant, message: &Message) -> Self {
        let at = |span| after(then, span);
        Self { due: message.delay().map(at), expires: message.ttl().map(at) }
    }
}
