//! What the engine remembers of messages beyond their groups: ids that were given, and messages that are retained. Asked only where a
//! message brings its id or its subject is retained; all such publishes take turns here.

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use crate::{Limits, Message, MessageId, Retention, Start};

#[derive(Debug)]
pub(crate) struct Ledger {
    known: Known,
    retention: Option<Retention>,
    /// Oldest first.
    retained: VecDeque<Retained>,
    retained_bytes: usize,
    last_sequence: u64,
}

#[derive(Debug)]
struct Retained {
    sequence: u64,
    at: Instant,
    message: Arc<Message>,
}

impl Ledger {
    pub(crate) fn new(limits: Limits, retention: Option<Retention>) -> Self {
        Self {
            known: Known::new(limits.dedup_window, limits.dedup_ids),
            retention,
            retained: VecDeque::new(),
            retained_bytes: 0,
            last_sequence: 0,
        }
    }

    /// Whether a message with this id was noted within the window.
    pub(crate) fn knows(&mut self, id: MessageId, now: Instant) -> bool {
        self.known.contains(id, now)
    }

    /// Called when the message has entered its groups. Its number, if it is retained; what made room for it, to be dropped outside of the lock.
    pub(crate) fn note(
        &mut self,
        message: &Arc<Message>,
        now: Instant,
    ) -> (Option<u64>, Vec<Arc<Message>>) {
        if message.is_known_by_id() {
            self.known.insert(message.id(), now);
        }
        if !self.retention.as_ref().is_some_and(|r| r.subjects.matches(message.subject())) {
            return (None, Vec::new());
        }
        self.last_sequence += 1;
        self.retained_bytes += message.size();
        self.retained.push_back(Retained {
            sequence: self.last_sequence,
            at: now,
            message: message.clone(),
        });
        (Some(self.last_sequence), self.trim(now))
    }

    /// The retained messages from `start` on, oldest first, and when each was published. What has become too old is left out, and goes with the next that
    /// comes: nothing is dropped under the lock.
    pub(crate) fn replay(&self, start: Start, now: Instant) -> Vec<(Instant, Arc<Message>)> {
        let Some(retention) = &self.retention else { return Vec::new() };
        // What follows it came later, even if the wall clock was set back in between.
        let mut begun = false;
        let wanted = |retained: &&Retained| match start {
            Start::New => false,
            Start::First => true,
            Start::Sequence(first) => retained.sequence >= first,
            Start::Time(first) => {
                begun |= retained.message.published_at() >= first;
                begun
            }
        };
        let fresh = |r: &&Retained| now.saturating_duration_since(r.at) <= retention.age;
        let past = self.retained.iter().filter(fresh).filter(wanted);
        past.map(|retained| (retained.at, retained.message.clone())).collect()
    }

    #[cfg(feature = "file")]
    /// Ids that an earlier process was given, with their ages.
    pub(crate) fn restore(&mut self, known: impl Iterator<Item = (MessageId, Instant)>) {
        known.for_each(|(id, at)| self.known.insert(id, at));
    }

    pub(crate) fn retained(&self) -> (usize, usize) {
        (self.retained.len(), self.retained_bytes)
    }

    fn trim(&mut self, now: Instant) -> Vec<Arc<Message>> {
        let Some(retention) = &self.retention else { return Vec::new() };
        let mut gone = Vec::new();
        while let Some(oldest) = self.retained.front() {
            let fits = self.retained.len() <= retention.messages
                && self.retained_bytes <= retention.bytes
                && now.saturating_duration_since(oldest.at) <= retention.age;
            if fits {
                break;
            }
            self.retained_bytes -= oldest.message.size();
            gone.extend(self.retained.pop_front().map(|retained| retained.message));
        }
        gone
    }
}

/// Ids of the last window, the oldest first. At the bound the oldest is forgotten, and a duplicate of it would be taken.
#[derive(Debug)]
struct Known {
    window: Duration,
    most: usize,
    ids: HashSet<MessageId>,
    order: VecDeque<(Instant, MessageId)>,
}

impl Known {
    fn new(window: Duration, most: usize) -> Self {
        Self { window, most, ids: HashSet::new(), order: VecDeque::new() }
    }

    fn contains(&mut self, id: MessageId, now: Instant) -> bool {
        self.forget(now, self.most);
        self.ids.contains(&id)
    }

    fn insert(&mut self, id: MessageId, now: Instant) {
        if self.most > 0 && self.ids.insert(id) {
            self.forget(now, self.most - 1);
            self.order.push_back((now, id));
        }
    }

    fn forget(&mut self, now: Instant, most: usize) {
        while let Some((at, id)) = self.order.front() {
            if self.order.len() <= most && now.saturating_duration_since(*at) < self.window {
                return;
            }
            self.ids.remove(id);
            self.order.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(size: usize) -> Arc<Message> {
        Message::new("s", vec![0; size - 1]).unwrap().into()
    }

    fn keeping(retention: Retention) -> Ledger {
        Ledger::new(Limits::new(), Some(retention))
    }

    fn everything() -> Retention {
        Retention::new(crate::Pattern::new(">").unwrap())
    }

    #[test]
    fn an_id_is_known_within_the_window_and_forgotten_after() {
        let (now, window) = (Instant::now(), Duration::from_secs(10));
        let mut known = Known::new(window, 10);
        let id = message(1).id();
        known.insert(id, now);
        assert!(known.contains(id, now + window - Duration::from_nanos(1)));
        assert!(!known.contains(id, now + window));
        assert!(known.ids.is_empty() && known.order.is_empty());
    }

    #[test]
    fn at_the_bound_the_oldest_id_is_forgotten() {
        let now = Instant::now();
        let mut known = Known::new(Duration::from_secs(10), 3);
        let ids = [(); 5].map(|()| message(1).id());
        for id in ids {
            known.insert(id, now);
            known.insert(id, now);
        }
        assert_eq!(ids.map(|id| known.contains(id, now)), [false, false, true, true, true]);
        assert_eq!((known.ids.len(), known.order.len()), (3, 3));
    }

    #[test]
    fn what_is_retained_is_bounded_in_number_bytes_and_age() {
        let now = Instant::now();
        let mut by_number = keeping(everything().messages(3));
        let mut by_bytes = keeping(everything().bytes(25));
        let mut by_age = keeping(everything().age(Duration::from_secs(4)));
        for second in 0..10 {
            let at = now + Duration::from_secs(second);
            for ledger in [&mut by_number, &mut by_bytes, &mut by_age] {
                assert_eq!(ledger.note(&message(10), at).0, Some(second + 1));
            }
        }
        assert_eq!((by_number.retained(), by_bytes.retained()), ((3, 30), (2, 20)));
        assert_eq!(by_age.retained(), (5, 50));
        assert_eq!(by_age.replay(Start::First, now + Duration::from_secs(60)).len(), 0);
    }

    #[cfg(feature = "file")]
    #[test]
    fn a_wall_clock_that_was_set_back_hides_nothing_of_the_past() {
        let (now, mut ledger) = (Instant::now(), keeping(everything()));
        let at = |second| std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(second);
        for second in [10, 20, 5, 30] {
            let message = Message::new("s", "").unwrap();
            let id = message.id();
            ledger.note(&message.written(id, at(second)).into(), now);
        }
        assert_eq!(ledger.replay(Start::Time(at(20)), now).len(), 3);
    }

    #[test]
    fn the_past_is_told_from_a_number_or_a_time_on() {
        let (now, mut ledger) = (Instant::now(), keeping(everything()));
        let messages = [(); 4].map(|()| message(1));
        for message in &messages {
            ledger.note(message, now);
        }
        let from = |start| ledger.replay(start, now).len();
        assert_eq!((from(Start::New), from(Start::First), from(Start::Sequence(3))), (0, 4, 2));
        let (first, last) = (messages[0].published_at(), messages[3].published_at());
        assert_eq!(from(Start::Time(first)), 4);
        assert_eq!(from(Start::Time(last + Duration::from_secs(1))), 0);
    }
}
