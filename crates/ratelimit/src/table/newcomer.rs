//! A bucket for a key that has none.

use super::{Attempt, Era, Home, Seen, Table, Word};
use crate::{
    stats::thread_number,
    sync::{Relaxed, SeqCst, fence},
};

/// A slot to be had.
pub(crate) struct Room<'a> {
    pub(crate) seen: Seen<'a>,
    /// When the bucket in it is full, if it is not yet.
    pub(crate) live: Option<u64>,
}

impl Table {
    /// Makes a bucket for a key that has none, and takes from it.
    pub(crate) fn make(&self, home: &Home<'_>, cost: u64, era: &Era) -> Attempt<Result<u64, u64>> {
        let spent = era.now.tick + cost;
        let room = self.room(home, era)?;
        if let (Some(full_at), true) = (room.live, self.refuse_new.load(Relaxed)) {
            self.refused_new.fetch_add(1, Relaxed);
            return Some(Err(full_at));
        }
        let new = self.place(home, &room, thread_number())?;
        self.confirm(home, new, era.word(home.tag, spent)).then_some(Ok(spent))
    }

    /// A free slot; in the first line, as long as that is not crowded, or else in the emptier one. If there is none, that of the bucket that has
    /// been full the longest, so that those of keys that come often stay where they are. If none is full, that of the one that will be soonest, for it
    /// remembers the least.
    pub(crate) fn room<'a>(&'a self, home: &Home<'a>, era: &Era) -> Attempt<Room<'a>> {
        let mut best: Option<((u64, usize), Room<'a>)> = None;
        let mut soonest: Option<Room<'a>> = None;
        for line in self.lines_of(home) {
            let mut taken = 0;
            let mut free: Option<(u64, Room<'a>)> = None;
            for slot in &line.slots {
                let seen = Seen::in_slot(slot);
                let word = seen.word;
                taken += usize::from(word != Word::FREE);
                if word.is_ordinary(home.tag) {
                    // Made meanwhile by another.
                    return None;
                }
                if word.is_unconfirmed() {
                    continue;
                }
                if word != Word::FREE && word.generation() != era.generation % 4 {
                    self.settle(seen, era);
                    return None;
                }
                let live = word.full_at(era.now.tick);
                let room = Room { seen, live };
                let full_since = word.full_since(era.now.tick);
                if live.is_some() {
                    if soonest.as_ref().is_none_or(|least| live < least.live) {
                        soonest = Some(room);
                    }
                } else if free.as_ref().is_none_or(|(least, _)| full_since < *least) {
                    free = Some((full_since, room));
                }
            }
            if let Some((full_since, room)) = free {
                let rank = (full_since, taken);
                if best.as_ref().is_none_or(|(least, _)| rank < *least) {
                    best = Some((rank, room));
                }
                if full_since == 0 && taken < Self::CROWDED {
                    break;
                }
            }
        }
        best.map(|(_, room)| room).or(soonest)
    }

    /// Places a new bucket for a key that has none. Fails if others were faster. No two makers at a time may have the same number.
    pub(crate) fn place<'a>(
        &self,
        home: &Home<'_>,
        room: &Room<'a>,
        maker: u64,
    ) -> Attempt<Seen<'a>> {
        let new = Word::unconfirmed(home.tag, maker);
        if !room.seen.replace(new) {
            return None;
        }
        if room.live.is_some() {
            self.live_evictions.fetch_add(1, Relaxed);
        }
        Some(Seen { word: new, ..room.seen })
    }

    /// Makes a new bucket the key's, unless someone else has made or is making one, too.
    pub(crate) fn confirm(&self, home: &Home<'_>, new: Seen<'_>, ordinary: Word) -> bool {
        // Of two makers, the one whose fence is later sees what the other placed.
        fence(SeqCst);
        for other in self.slots(home).filter(|other| !std::ptr::eq(*other, new.slot)) {
            let other = Seen::in_slot(other);
            let is_new = other.word.is_unconfirmed();
            if other.word.tag() != home.tag || is_new && other.replace(Word::FREE) {
                continue;
            }
            new.replace(Word::FREE);
            return false;
        }
        new.replace(ordinary)
    }
}
