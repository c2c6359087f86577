//! What a log comes to. The same code reads a log and keeps the writer's own account of what must be in one, so what is moved from an old
//! segment into the present one is what reading the old one would have given.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::homes::{Homes, Key};
use crate::{
    DeadLetter, Limits, Message, MessageId,
    engine::GroupInfo,
    memory::{
        queue::History,
        restore::Restored,
        scribe::{Event, GroupRecord, Standing},
    },
};

/// What is written of a message, or of a letter or an id, beside its own bytes; about.
const EACH: u64 = 96;

#[derive(Debug)]
pub(super) struct State {
    groups: BTreeMap<u64, Kept>,
    letters: BTreeMap<u64, (Arc<DeadLetter>, u64)>,
    /// In the order of their coming.
    known: VecDeque<MessageId>,
    /// When each came, and where it lives.
    known_ids: HashMap<MessageId, (SystemTime, u64)>,
    window: Duration,
    most_known: usize,
    last_serial: u64,
    last_letter: u64,
    /// The oldest segment that is needed.
    begins: u64,
    /// Of messages in groups and of letters, about as many bytes as they take in a file.
    bytes: u64,
    homes: Homes,
}

#[derive(Debug)]
struct Kept {
    record: Arc<GroupRecord>,
    messages: BTreeMap<u64, Held>,
}

/// A message in a group, and the segment that has its bytes.
#[derive(Debug)]
struct Held {
    message: Arc<Message>,
    standing: Standing,
    home: u64,
}

impl State {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            groups: BTreeMap::new(),
            letters: BTreeMap::new(),
            known: VecDeque::new(),
            known_ids: HashMap::new(),
            window: limits.dedup_window,
            most_known: limits.dedup_ids,
            last_serial: 0,
            last_letter: 0,
            begins: 0,
            bytes: 0,
            homes: Homes::default(),
        }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes + self.known.len() as u64 * EACH
    }

    pub(super) const fn last_serial(&self) -> u64 {
        self.last_serial
    }

    pub(super) const fn last_letter(&self) -> u64 {
        self.last_letter
    }

    pub(super) const fn begins(&self) -> u64 {
        self.begins
    }

    pub(super) fn letters(&self) -> Vec<Arc<DeadLetter>> {
        self.letters.values().map(|(letter, _)| letter.clone()).collect()
    }

    /// The oldest first.
    pub(super) fn known(&self) -> Vec<(MessageId, SystemTime)> {
        let mut known: Vec<_> = self.known_ids.iter().map(|(id, (at, _))| (*id, *at)).collect();
        known.sort_unstable_by_key(|(id, at)| (*at, id.get()));
        known
    }

    /// What is applied from now on is in this segment.
    pub(super) const fn at(&mut self, segment: u64) {
        self.homes.at(segment);
    }

    pub(super) fn live_in(&self, segment: u64) -> (u64, u64) {
        self.homes.live_in(segment)
    }

    pub(super) fn take_keys(&mut self, segment: u64) -> Vec<Key> {
        self.homes.take_keys(segment)
    }

    /// The groups, under ids of this process, and what tells so to whoever reads the log later.
    pub(super) fn renumber(&mut self) -> (Vec<Restored>, Event) {
        let ids = self.groups.keys().map(|id| (*id, GroupInfo::next_id())).collect();
        let renumbered = Event::Renumbered(ids);
        self.apply(&renumbered);
        let restored = self.groups.iter().map(|(id, kept)| {
            let messages = kept.messages.iter();
            let messages =
                messages.map(|(n, held)| (*n, held.message.clone(), held.standing.clone()));
            (*id, kept.record.clone(), messages.collect())
        });
        (restored.collect(), renumbered)
    }

    /// What concerns a group or a message that is not there concerns nobody: it was over before.
    pub(super) fn apply(&mut self, event: &Event) {
        match event {
            Event::Group(id, record) => self.group(*id, record),
            Event::GroupGone(id) => self.group_gone(*id),
            Event::Published { serial, message, groups } => {
                self.published(*serial, message, groups);
            }
            Event::Attempts { group, serial, attempts } => {
                if let Some(standing) = self.standing(*group, *serial) {
                    standing.attempts = *attempts;
                    standing.waits = None;
                }
            }
            Event::Retried { group, serial, failure, at, after } => {
                if let Some(standing) = self.standing(*group, *serial) {
                    standing.waits = Some((*at, *after));
                    match &mut standing.history {
                        Some(history) => history.later = Some(failure.clone().into()),
                        none => {
                            *none = Some(History { first: failure.clone(), later: None }.into());
                        }
                    }
                }
            }
            Event::Gone { group, serial } => self.gone(*group, *serial),
            Event::Died { group, serial, letter } => self.died(*group, *serial, letter),
            Event::LetterGone(id) => drop(self.letter_gone(*id)),
            Event::Redriven { letter, group, serial } => self.redriven(*letter, *group, *serial),
            Event::Stands { group, serial, standing } => {
                if let Some(present) = self.standing(*group, *serial) {
                    *present = standing.clone();
                }
            }
            Event::Known(id, at) => self.note_id(*id, *at),
            Event::Last { serial, letter } => {
                self.last_serial = self.last_serial.max(*serial);
                self.last_letter = self.last_letter.max(*letter);
            }
            Event::Kept { serial, message, groups } => {
                let now = self.homes.now();
                for (group, standing) in groups {
                    self.put(*group, *serial, message.clone(), standing.clone(), now);
                }
            }
            Event::Renumbered(ids) => self.renumbered(ids),
            Event::Begins(segment) => self.begins = *segment,
        }
    }

    /// With what a segment begins, so that nothing in it needs those before it but the messages and letters that live there.
    pub(super) fn preamble(&self, begins: u64) -> Vec<Event> {
        let last = Event::Last { serial: self.last_serial, letter: self.last_letter };
        let groups = self.groups.iter().map(|(id, kept)| Event::Group(*id, kept.record.clone()));
        [last, Event::Begins(begins)].into_iter().chain(groups).collect()
    }

    /// What the first of these keys is, if it still lives in `segment`, and how many of the keys that covers: a message is written once for all groups.
    pub(super) fn survivor(&self, keys: &[Key], segment: u64) -> (Option<Event>, usize) {
        match keys.first() {
            None => (None, 0),
            Some(Key::Letter(id)) => {
                let letter = self.letters.get(id).filter(|(_, home)| *home == segment);
                let died = |letter: &Arc<DeadLetter>| Event::Died {
                    group: 0,
                    serial: 0,
                    letter: letter.clone(),
                };
                (letter.map(|(letter, _)| died(letter)), 1)
            }
            Some(Key::Known(id)) => {
                let known = self.known_ids.get(id).filter(|(_, home)| *home == segment);
                (known.map(|(at, _)| Event::Known(*id, *at)), 1)
            }
            Some(Key::Message { serial: own, .. }) => {
                let (mut message, mut groups, mut count) = (None, Vec::new(), 0);
                for key in keys {
                    let Key::Message { group, serial } = key else { break };
                    if serial != own {
                        break;
                    }
                    count += 1;
                    let held = self.groups.get(group).and_then(|kept| kept.messages.get(serial));
                    if let Some(held) = held.filter(|held| held.home == segment) {
                        message = Some(held.message.clone());
                        groups.push((*group, held.standing.clone()));
                    }
                }
                (message.map(|message| Event::Kept { serial: *own, message, groups }), count)
            }
        }
    }

    fn standing(&mut self, group: u64, serial: u64) -> Option<&mut Standing> {
        Some(&mut self.groups.get_mut(&group)?.messages.get_mut(&serial)?.standing)
    }

    fn group(&mut self, id: u64, record: &Arc<GroupRecord>) {
        let new = || Kept { record: record.clone(), messages: BTreeMap::new() };
        self.groups.entry(id).or_insert_with(new).record = record.clone();
    }

    fn group_gone(&mut self, id: u64) {
        let Some(kept) = self.groups.remove(&id) else { return };
        for held in kept.messages.values() {
            self.left(cost(&held.message), held.home);
        }
    }

    fn renumbered(&mut self, ids: &[(u64, u64)]) {
        let ids: HashMap<u64, u64> = ids.iter().copied().collect();
        let groups = std::mem::take(&mut self.groups).into_iter();
        self.groups = groups.map(|(id, kept)| (*ids.get(&id).unwrap_or(&id), kept)).collect();
        self.homes.renumber(&ids);
    }

    fn published(&mut self, serial: u64, message: &Arc<Message>, groups: &[u64]) {
        self.last_serial = self.last_serial.max(serial);
        let waits = message.delay().map(|span| (message.published_at(), span));
        let now = self.homes.now();
        for group in groups {
            let standing = Standing { waits, ..Standing::default() };
            self.put(*group, serial, message.clone(), standing, now);
        }
        if message.is_known_by_id() {
            self.note_id(message.id(), message.published_at());
        }
    }

    fn put(
        &mut self,
        group: u64,
        serial: u64,
        message: Arc<Message>,
        standing: Standing,
        home: u64,
    ) {
        let Some(kept) = self.groups.get_mut(&group) else { return };
        let bytes = cost(&message);
        self.bytes += bytes;
        self.homes.enter(home, Key::Message { group, serial }, bytes);
        if let Some(present) = kept.messages.insert(serial, Held { message, standing, home }) {
            self.left(cost(&present.message), present.home);
        }
    }

    fn gone(&mut self, group: u64, serial: u64) {
        let kept = self.groups.get_mut(&group);
        if let Some(held) = kept.and_then(|kept| kept.messages.remove(&serial)) {
            self.left(cost(&held.message), held.home);
        }
    }

    fn left(&mut self, bytes: u64, home: u64) {
        self.bytes -= bytes;
        self.homes.leave(home, bytes);
    }

    fn died(&mut self, group: u64, serial: u64, letter: &Arc<DeadLetter>) {
        let (id, now, bytes) = (letter.id.get(), self.homes.now(), letter.size() as u64);
        self.last_letter = self.last_letter.max(id);
        self.bytes += bytes;
        self.homes.enter(now, Key::Letter(id), bytes);
        if let Some((present, home)) = self.letters.insert(id, (letter.clone(), now)) {
            self.left(present.size() as u64, home);
        }
        self.gone(group, serial);
    }

    fn letter_gone(&mut self, id: u64) -> Option<(Arc<DeadLetter>, u64)> {
        let (letter, home) = self.letters.remove(&id)?;
        self.left(letter.size() as u64, home);
        Some((letter, home))
    }

    /// Its bytes stay where the letter was written.
    fn redriven(&mut self, letter: u64, group: u64, serial: u64) {
        self.last_serial = self.last_serial.max(serial);
        let Some((letter, home)) = self.letters.remove(&letter) else { return };
        let standing = Standing { redrives: letter.redrives + 1, ..Standing::default() };
        // First in, so that the segment is not without anything in between.
        self.put(group, serial, letter.message.clone(), standing, home);
        self.left(letter.size() as u64, home);
    }

    /// By the wall clock, since an id outlives the process. Set forward, the window is shorter by as much.
    fn note_id(&mut self, id: MessageId, at: SystemTime) {
        let now = self.homes.now();
        self.homes.enter(now, Key::Known(id), EACH);
        if let Some((_, home)) = self.known_ids.insert(id, (at, now)) {
            return self.homes.leave(home, EACH);
        }
        self.known.push_back(id);
        while let Some(oldest) = self.known.front() {
            let since = self.known_ids.get(oldest).map_or(at, |(since, _)| *since);
            let age = at.duration_since(since).unwrap_or_default();
            if self.known.len() <= self.most_known && age < self.window {
                break;
            }
            if let Some((_, home)) = self.known_ids.remove(oldest) {
                self.homes.leave(home, EACH);
            }
            self.known.pop_front();
        }
    }
}

fn cost(message: &Message) -> u64 {
    message.size() as u64 + EACH
}

#[cfg(test)]
mod tests;
