use std::{collections::HashMap, time::Duration};

use super::*;
use crate::{FailureKind, MessageId, message::wall_clock};
use proptest::prelude::*;

/// A message that counts as `size` bytes.
fn message(size: usize) -> Arc<Message> {
    Message::new("s", vec![0; size - 1]).unwrap().into()
}

fn entry(size: usize) -> Entry {
    Entry::new(message(size), 0)
}

fn queue(capacity: usize, max_bytes: usize) -> Queue {
    Queue::new(capacity, max_bytes)
}

fn failure(attempt: u32) -> Failure {
    Failure { attempt, at: wall_clock(), kind: FailureKind::Error, error: attempt.to_string() }
}

/// What was taken, in one piece.
#[derive(Clone, Copy, Debug)]
struct Taken {
    token: Token,
    id: MessageId,
    attempts: u32,
}

fn take(queue: &mut Queue) -> Option<Taken> {
    let (token, entry) = queue.take()?;
    Some(Taken { token, id: entry.message.id(), attempts: entry.attempts })
}

fn take_at(queue: &mut Queue, now: Instant) -> Option<Taken> {
    queue.promote(now);
    take(queue)
}

#[test]
fn first_in_is_first_out_and_each_delivery_is_counted() {
    let mut queue = queue(10, 1_000);
    let messages = [(); 3].map(|()| message(1));
    for message in &messages {
        queue.push(Entry::new(message.clone(), 0));
    }
    for message in &messages {
        let lease = take(&mut queue).unwrap();
        assert_eq!((lease.id, lease.attempts), (message.id(), 1));
        drop(queue.ack(lease.token));
    }
    assert!(take(&mut queue).is_none());
    assert_eq!((queue.held(), queue.bytes(), queue.counts.acked), (0, 0, 3));
}

#[test]
fn what_failed_comes_back_when_due_and_lets_others_pass() {
    let (mut queue, now) = (queue(10, 1_000), Instant::now());
    queue.push(entry(1));
    let lease = take(&mut queue).unwrap();
    let (failed, due) = (lease.id, now + Duration::from_millis(100));
    queue.retry(lease.token, due);
    queue.push(entry(1));
    assert_eq!(queue.next_due(), Some(due));
    assert_ne!(take(&mut queue).unwrap().id, failed);
    assert!(take_at(&mut queue, due - Duration::from_nanos(1)).is_none());
    let again = take_at(&mut queue, due).unwrap();
    assert_eq!((again.id, again.attempts), (failed, 2));
    assert_eq!((queue.counts.redelivered, queue.next_due()), (1, None));
}

#[test]
fn what_is_given_back_is_first_in_line_and_not_charged() {
    let mut queue = queue(10, 1_000);
    let first = message(1);
    queue.push(Entry::new(first.clone(), 0));
    queue.push(entry(1));
    let lease = take(&mut queue).unwrap();
    queue.give_back(lease.token);
    let lease = take(&mut queue).unwrap();
    assert_eq!((lease.id, lease.attempts), (first.id(), 1));
    assert_eq!(queue.counts.returned, 1);
}

#[test]
fn the_first_and_the_last_failure_are_kept() {
    let mut entry = entry(1);
    for attempt in 1..=4 {
        entry.note(failure(attempt));
    }
    let history = entry.history.unwrap();
    assert_eq!((history.first.attempt, history.last.attempt), (1, 4));
}

#[test]
fn messages_and_bytes_bound_it_until_they_are_settled() {
    let mut queue = queue(2, 100);
    queue.push(entry(60));
    assert!(queue.has_room(40) && !queue.has_room(41));
    assert!(!queue.has_room(usize::MAX), "no overflow");
    let lease = take(&mut queue).unwrap();
    assert!(!queue.has_room(41), "what is in flight still counts");
    queue.push(entry(1));
    assert!(!queue.has_room(1));
    drop(queue.ack(lease.token));
    assert!(queue.has_room(99) && !queue.has_room(100));
}

#[test]
fn borrowing_goes_beyond_the_bound_by_what_is_in_flight() {
    let mut queue = queue(2, 100);
    queue.push(entry(10));
    queue.push(entry(10));
    assert!(!queue.has_room_to_borrow(10), "nothing is in flight");
    let _one = take(&mut queue).unwrap();
    assert!(queue.has_room_to_borrow(10) && !queue.has_room(10));
    assert!(queue.has_room_to_borrow(90) && !queue.has_room_to_borrow(91));
    queue.push(entry(10));
    assert!(!queue.has_room_to_borrow(10));
}

#[test]
fn making_room_drops_the_oldest_that_nobody_handles() {
    let (mut queue, now) = (queue(4, 100), Instant::now());
    let messages = [(); 4].map(|()| message(20));
    for message in &messages {
        queue.push(Entry::new(message.clone(), 0));
    }
    let handled = take(&mut queue).unwrap();
    let failed = take(&mut queue).unwrap();
    queue.retry(failed.token, now + Duration::from_secs(1));
    assert!(queue.can_make_room(80) && !queue.can_make_room(81));
    let dropped: Vec<_> = queue.make_room(60).iter().map(|entry| entry.message.id()).collect();
    assert_eq!(dropped, [messages[2].id(), messages[3].id()], "ready before delayed");
    assert_eq!(queue.make_room(80).len(), 1);
    assert_eq!((queue.counts.dropped, queue.held()), (3, 1));
    drop(queue.ack(handled.token));
}

#[test]
fn a_stopped_queue_hands_out_nothing_and_loses_nothing() {
    let mut queue = queue(10, 1_000);
    queue.push(entry(1));
    queue.push(entry(1));
    let lease = take(&mut queue).unwrap();
    queue.stop();
    assert!(take(&mut queue).is_none());
    queue.give_back(lease.token);
    assert_eq!(queue.held(), 2);
    assert_eq!((queue.clear().len(), queue.held(), queue.bytes()), (2, 0, 0));
}

#[test]
fn a_delivery_is_settled_once_and_only_by_its_own_token() {
    let mut queue = queue(10, 1_000);
    queue.push(entry(1));
    let first = take(&mut queue).unwrap();
    assert!(queue.give_back(first.token));
    let second = take(&mut queue).unwrap();
    assert!(queue.ack(first.token).is_none() && queue.lent(first.token).is_none());
    assert!(!queue.retry(first.token, Instant::now()) && !queue.give_back(first.token));
    assert!(queue.bury(second.token).is_some() && queue.bury(second.token).is_none());
    // The slot is used again.
    queue.push(entry(1));
    assert!(queue.ack(second.token).is_none());
    assert_eq!((queue.held(), queue.counts.dead), (1, 1));
    assert_eq!(Token::from_bits(second.token.to_bits()), second.token);
}

const MAX_ATTEMPTS: u32 = 3;

#[derive(Clone, Debug)]
enum Step {
    Push { size: usize, making_room: bool },
    Take,
    Settle { which: prop::sample::Index, how: How },
    Wait { millis: u64 },
}

#[derive(Clone, Copy, Debug)]
enum How {
    Ack,
    Fail { millis: u64 },
    Reject,
    GiveBack,
}

fn step() -> impl Strategy<Value = Step> {
    let how = prop_oneof![
        2 => Just(How::Ack),
        4 => (0..50_u64).prop_map(|millis| How::Fail { millis }),
        1 => Just(How::Reject),
        1 => Just(How::GiveBack),
    ];
    prop_oneof![
        4 => (1..40_usize, prop::bool::weighted(0.2)).prop_map(|(size, making_room)| Step::Push { size, making_room }),
        5 => Just(Step::Take),
        4 => (any::<prop::sample::Index>(), how).prop_map(|(which, how)| Step::Settle { which, how }),
        1 => (0..60_u64).prop_map(|millis| Step::Wait { millis }),
    ]
}

/// Where a message is, kept as plainly as possible: lists that are searched.
#[derive(Default)]
struct Model {
    ready: Vec<MessageId>,
    delayed: Vec<(u64, MessageId)>,
    in_flight: Vec<MessageId>,
    attempts: HashMap<MessageId, u32>,
    sizes: HashMap<MessageId, usize>,
    over: HashMap<MessageId, &'static str>,
}

impl Model {
    fn promote(&mut self, now: u64) {
        // Stable: among equals the one that failed first.
        self.delayed.sort_by_key(|(due, _)| *due);
        let due = self.delayed.iter().take_while(|(due, _)| *due <= now).count();
        self.ready.extend(self.delayed.drain(..due).map(|(_, id)| id));
    }

    fn held(&self) -> Vec<MessageId> {
        let delayed = self.delayed.iter().map(|(_, id)| id);
        self.ready.iter().chain(delayed).chain(&self.in_flight).copied().collect()
    }

    fn bytes(&self) -> usize {
        self.held().iter().map(|id| self.sizes[id]).sum()
    }

    fn drop_one(&mut self) -> MessageId {
        let id = if self.ready.is_empty() {
            self.delayed.sort_by_key(|(due, _)| *due);
            self.delayed.remove(0).1
        } else {
            self.ready.remove(0)
        };
        self.over.insert(id, "dropped");
        id
    }
}

proptest! {
    #[test]
    fn it_does_what_the_plain_model_does(steps in prop::collection::vec(step(), 1..300)) {
        const CAPACITY: usize = 8;
        const BYTES: usize = 150;
        let start = Instant::now();
        let (mut now, mut model, mut leases) = (0, Model::default(), Vec::new());
        let mut queue = queue(CAPACITY, BYTES);
        for step in steps {
            let at = start + Duration::from_millis(now);
            match step {
                Step::Push { size, making_room } => {
                    let fits = model.held().len() < CAPACITY && model.bytes() + size <= BYTES;
                    prop_assert_eq!(queue.has_room(size), fits);
                    let flying: usize = model.in_flight.iter().map(|id| model.sizes[id]).sum();
                    let could = model.in_flight.len() < CAPACITY && flying + size <= BYTES;
                    prop_assert_eq!(queue.can_make_room(size), could);
                    let enters = fits || making_room && could;
                    if !enters {
                        continue;
                    }
                    for entry in queue.make_room(size) {
                        prop_assert_eq!(entry.message.id(), model.drop_one());
                    }
                    let message = message(size);
                    model.ready.push(message.id());
                    model.sizes.insert(message.id(), size);
                    queue.push(Entry::new(message, 0));
                }
                Step::Take => {
                    model.promote(now);
                    let lease = take_at(&mut queue, at);
                    let expected = (!model.ready.is_empty()).then(|| model.ready.remove(0));
                    // Taken from ready, where it got only by being published, failing or being given back.
                    prop_assert_eq!(lease.map(|l| l.id), expected);
                    let (Some(id), Some(lease)) = (expected, lease) else { continue };
                    let attempts = model.attempts.entry(id).or_default();
                    *attempts += 1;
                    prop_assert_eq!(lease.attempts, *attempts);
                    prop_assert!(*attempts <= MAX_ATTEMPTS);
                    model.in_flight.push(id);
                    leases.push(lease);
                }
                Step::Settle { .. } if leases.is_empty() => {}
                Step::Settle { which, how } => {
                    let place = which.index(leases.len());
                    let (lease, id) = (leases.remove(place), model.in_flight.remove(place));
                    prop_assert_eq!(lease.id, id);
                    match how {
                        How::Ack => {
                            model.over.insert(id, "acked");
                            drop(queue.ack(lease.token));
                        }
                        How::Fail { millis } if model.attempts[&id] < MAX_ATTEMPTS => {
                            model.delayed.push((now + millis, id));
                            queue.retry(lease.token, at + Duration::from_millis(millis));
                        }
                        How::Fail { .. } | How::Reject => {
                            model.over.insert(id, "dead");
                            drop(queue.bury(lease.token));
                        }
                        How::GiveBack => {
                            model.ready.insert(0, id);
                            *model.attempts.entry(id).or_default() -= 1;
                            queue.give_back(lease.token);
                        }
                    }
                }
                Step::Wait { millis } => now += millis,
            }
            prop_assert_eq!(queue.ready() + queue.delayed(), model.ready.len() + model.delayed.len());
            prop_assert_eq!(queue.in_flight(), model.in_flight.len());
            prop_assert_eq!(queue.bytes(), model.bytes());
            // None lost, none twice.
            let counts = queue.counts;
            let over = |how| model.over.values().filter(|other| **other == how).count() as u64;
            prop_assert_eq!((counts.acked, counts.dead, counts.dropped), (over("acked"), over("dead"), over("dropped")));
            prop_assert_eq!(counts.published, counts.acked + counts.dead + counts.dropped + queue.held() as u64);
            prop_assert!(queue.held() <= CAPACITY && queue.bytes() <= BYTES);
        }
    }
}
