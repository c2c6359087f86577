//! What a log comes to. The same code reads a log and keeps the writer's own account of what must be in one: a log that is written anew is this
//! account, so it holds what reading the old one would have given.

use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    sync::Arc,
    time::{Duration, SystemTime},
};

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
    letters: BTreeMap<u64, Arc<DeadLetter>>,
    known: VecDeque<(MessageId, SystemTime)>,
    known_ids: HashSet<MessageId>,
    window: Duration,
    most_known: usize,
    last_serial: u64,
    last_letter: u64,
    /// Of messages in groups and of letters, about as many bytes as they take in a file.
    bytes: u64,
}

#[derive(Debug)]
struct Kept {
    record: Arc<GroupRecord>,
    messages: BTreeMap<u64, (Arc<Message>, Standing)>,
}

impl State {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            groups: BTreeMap::new(),
            letters: BTreeMap::new(),
            known: VecDeque::new(),
            known_ids: HashSet::new(),
            window: limits.dedup_window,
            most_known: limits.dedup_ids,
            last_serial: 0,
            last_letter: 0,
            bytes: 0,
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

    pub(super) fn letters(&self) -> Vec<Arc<DeadLetter>> {
        self.letters.values().cloned().collect()
    }

    pub(super) fn known(&self) -> impl Iterator<Item = (MessageId, SystemTime)> {
        self.known.iter().copied()
    }

    /// The groups, under ids of this process.
    pub(super) fn renumber(&mut self) -> Vec<Restored> {
        let groups = std::mem::take(&mut self.groups).into_values();
        self.groups = groups.map(|kept| (GroupInfo::next_id(), kept)).collect();
        let restored =
            |(id, kept): (&u64, &Kept)| (*id, kept.record.clone(), kept.messages.clone());
        self.groups.iter().map(restored).collect()
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
                if let Some((_, standing)) = self.message(*group, *serial) {
                    standing.attempts = *attempts;
                    standing.waits = None;
                }
            }
            Event::Retried { group, serial, failure, at, after } => {
                if let Some((_, standing)) = self.message(*group, *serial) {
                    standing.waits = Some((*at, *after));
                    match &mut standing.history {
                        Some(history) => history.later = Some(failure.clone()),
                        none => {
                            *none = Some(History { first: failure.clone(), later: None }.into());
                        }
                    }
                }
            }
            Event::Gone { group, serial } => self.gone(*group, *serial),
            Event::Died { group, serial, letter } => {
                self.gone(*group, *serial);
                self.last_letter = self.last_letter.max(letter.id.get());
                self.bytes += letter.size() as u64;
                if let Some(present) = self.letters.insert(letter.id.get(), letter.clone()) {
                    self.bytes -= present.size() as u64;
                }
            }
            Event::LetterGone(id) => drop(self.letter_gone(*id)),
            Event::Redriven { letter, group, serial } => self.redriven(*letter, *group, *serial),
            Event::Stands { group, serial, standing } => {
                if let Some((_, present)) = self.message(*group, *serial) {
                    *present = standing.clone();
                }
            }
            Event::Known(id, at) => self.note_id(*id, *at),
            Event::Last { serial, letter } => {
                self.last_serial = self.last_serial.max(*serial);
                self.last_letter = self.last_letter.max(*letter);
            }
        }
    }

    /// Events that come to the same.
    pub(super) fn events(&self) -> Vec<Event> {
        let last = Event::Last { serial: self.last_serial, letter: self.last_letter };
        let mut events = vec![last];
        let mut messages = BTreeMap::<u64, (&Arc<Message>, Vec<u64>)>::new();
        let mut standings = Vec::new();
        for (id, kept) in &self.groups {
            events.push(Event::Group(*id, kept.record.clone()));
            for (serial, (message, standing)) in &kept.messages {
                messages.entry(*serial).or_insert((message, Vec::new())).1.push(*id);
                let (group, serial, standing) = (*id, *serial, standing.clone());
                standings.push(Event::Stands { group, serial, standing });
            }
        }
        events.extend(self.known().map(|(id, at)| Event::Known(id, at)));
        events.extend(messages.into_iter().map(|(serial, (message, groups))| Event::Published {
            serial,
            message: message.clone(),
            groups,
        }));
        events.extend(standings);
        events.extend(self.letters.values().map(|letter| Event::Died {
            group: 0,
            serial: 0,
            letter: letter.clone(),
        }));
        events
    }

    fn message(&mut self, group: u64, serial: u64) -> Option<&mut (Arc<Message>, Standing)> {
        self.groups.get_mut(&group)?.messages.get_mut(&serial)
    }

    fn group(&mut self, id: u64, record: &Arc<GroupRecord>) {
        let new = || Kept { record: record.clone(), messages: BTreeMap::new() };
        self.groups.entry(id).or_insert_with(new).record = record.clone();
    }

    fn group_gone(&mut self, id: u64) {
        let Some(kept) = self.groups.remove(&id) else { return };
        self.bytes -= kept.messages.values().map(|(message, _)| cost(message)).sum::<u64>();
    }

    fn published(&mut self, serial: u64, message: &Arc<Message>, groups: &[u64]) {
        self.last_serial = self.last_serial.max(serial);
        let waits = message.delay().map(|span| (message.published_at(), span));
        for group in groups {
            let standing = Standing { waits, ..Standing::default() };
            self.put(*group, serial, message.clone(), standing);
        }
        if message.is_known_by_id() {
            self.note_id(message.id(), message.published_at());
        }
    }

    fn put(&mut self, group: u64, serial: u64, message: Arc<Message>, standing: Standing) {
        let Some(kept) = self.groups.get_mut(&group) else { return };
        self.bytes += cost(&message);
        if let Some((present, _)) = kept.messages.insert(serial, (message, standing)) {
            self.bytes -= cost(&present);
        }
    }

    fn gone(&mut self, group: u64, serial: u64) {
        let kept = self.groups.get_mut(&group);
        if let Some((message, _)) = kept.and_then(|kept| kept.messages.remove(&serial)) {
            self.bytes -= cost(&message);
        }
    }

    fn letter_gone(&mut self, id: u64) -> Option<Arc<DeadLetter>> {
        let letter = self.letters.remove(&id)?;
        self.bytes -= letter.size() as u64;
        Some(letter)
    }

    fn redriven(&mut self, letter: u64, group: u64, serial: u64) {
        self.last_serial = self.last_serial.max(serial);
        if let Some(letter) = self.letter_gone(letter) {
            let redrives = letter.redrives + 1;
            let standing = Standing { redrives, ..Standing::default() };
            self.put(group, serial, letter.message.clone(), standing);
        }
    }

    /// By the wall clock, since an id outlives the process. Set forward, the window is shorter by as much.
    fn note_id(&mut self, id: MessageId, at: SystemTime) {
        if !self.known_ids.insert(id) {
            return;
        }
        self.known.push_back((id, at));
        while let Some((oldest, since)) = self.known.front() {
            let age = at.duration_since(*since).unwrap_or_default();
            if self.known.len() <= self.most_known && age < self.window {
                break;
            }
            self.known_ids.remove(oldest);
            self.known.pop_front();
        }
    }
}

fn cost(message: &Message) -> u64 {
    message.size() as u64 + EACH
}
