use std::{num::NonZeroU64, sync::Arc, time::Duration};

use super::*;
use crate::{Failure, FailureKind, Message, MessageId, Priority, message::wall_clock};

/// A message that counts as `size` bytes.
fn message(size: usize) -> Arc<Message> {
    Message::new("s", vec![0; size - 1]).unwrap().into()
}

fn entry(size: usize) -> Entry {
    Entry::new(message(size), 0)
}

fn queue(capacity: usize, max_bytes: usize) -> Queue {
    Queue::new(capacity, max_bytes, Instant::now())
}

fn failure(attempt: u32) -> Failure {
    Failure {
        attempt,
        at: wall_clock(),
        kind: FailureKind::Error,
        error: attempt.to_string().into(),
    }
}

/// Timers are that exact.
const MILLI: Duration = Duration::from_millis(1);

/// What was taken, in one piece.
#[derive(Clone, Copy, Debug)]
struct Taken {
    token: Token,
    id: MessageId,
    attempts: u32,
}

fn take(queue: &mut Queue) -> Option<Taken> {
    let (token, entry) = queue.take(None)?;
    Some(Taken { token, id: entry.message.id(), attempts: entry.attempts() })
}

fn take_at(queue: &mut Queue, now: Instant) -> Option<Taken> {
    queue.promote(now, failure);
    take(queue)
}

#[test]
fn first_in_is_first_out_and_each_delivery_is_counted() {
    let mut queue = queue(10, 1_000);
    let messages = [(); 3].map(|()| message(1));
    for message in &messages {
        queue.push(Entry::new(message.clone(), 0), None);
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
    queue.push(entry(1), None);
    let lease = take(&mut queue).unwrap();
    let (failed, due) = (lease.id, now + Duration::from_millis(100));
    queue.retry(lease.token, due);
    queue.push(entry(1), None);
    assert!(queue.next_due().unwrap() <= due + MILLI);
    assert_ne!(take(&mut queue).unwrap().id, failed);
    assert!(take_at(&mut queue, due - Duration::from_millis(1)).is_none());
    let again = take_at(&mut queue, due + MILLI).unwrap();
    assert_eq!((again.id, again.attempts), (failed, 2));
    assert_eq!((queue.counts.redelivered, queue.next_due()), (1, None));
}

#[test]
fn what_is_given_back_is_first_in_line_and_not_charged() {
    let mut queue = queue(10, 1_000);
    let first = message(1);
    queue.push(Entry::new(first.clone(), 0), None);
    queue.push(entry(1), None);
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
    let history = entry.history().unwrap();
    assert_eq!((history.first.attempt, history.last().attempt), (1, 4));
}

#[test]
fn messages_and_bytes_bound_it_until_they_are_settled() {
    let mut queue = queue(2, 100);
    queue.push(entry(60), None);
    assert!(queue.has_room(40) && !queue.has_room(41));
    assert!(!queue.has_room(usize::MAX), "no overflow");
    let lease = take(&mut queue).unwrap();
    assert!(!queue.has_room(41), "what is in flight still counts");
    queue.push(entry(1), None);
    assert!(!queue.has_room(1));
    drop(queue.ack(lease.token));
    assert!(queue.has_room(99) && !queue.has_room(100));
}

#[test]
fn borrowing_goes_beyond_the_bound_by_what_is_in_flight() {
    let mut queue = queue(2, 100);
    queue.push(entry(10), None);
    queue.push(entry(10), None);
    assert!(!queue.has_room_to_borrow(10), "nothing is in flight");
    let _one = take(&mut queue).unwrap();
    assert!(queue.has_room_to_borrow(10) && !queue.has_room(10));
    assert!(queue.has_room_to_borrow(90) && !queue.has_room_to_borrow(91));
    queue.push(entry(10), None);
    assert!(!queue.has_room_to_borrow(10));
}

#[test]
fn making_room_drops_the_oldest_that_nobody_handles() {
    let (mut queue, now) = (queue(4, 100), Instant::now());
    let messages = [(); 4].map(|()| message(20));
    for message in &messages {
        queue.push(Entry::new(message.clone(), 0), None);
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
    queue.push(entry(1), None);
    queue.push(entry(1), None);
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
    queue.push(entry(1), None);
    let first = take(&mut queue).unwrap();
    assert!(queue.give_back(first.token));
    let second = take(&mut queue).unwrap();
    assert!(queue.ack(first.token).is_none() && queue.lent(first.token).is_none());
    assert!(!queue.retry(first.token, Instant::now()) && !queue.give_back(first.token));
    assert!(queue.bury(second.token).is_some() && queue.bury(second.token).is_none());
    // The slot is used again.
    queue.push(entry(1), None);
    assert!(queue.ack(second.token).is_none());
    assert_eq!((queue.held(), queue.counts.dead), (1, 1));
    assert_eq!(Token::from_bits(second.token.to_bits()), second.token);
}

#[test]
fn of_each_key_one_is_on_its_way_and_a_failing_one_holds_up_only_its_own() {
    let (mut queue, now) = (queue(10, 1_000), Instant::now());
    let messages = [(); 4].map(|()| message(1));
    for (message, lane) in messages.iter().zip([1, 1, 2, 1]) {
        queue.push(Entry::new(message.clone(), 0).in_lane(NonZeroU64::new(lane)), None);
    }
    let [first, second, other, third] = messages.map(|message| message.id());
    let failing = take(&mut queue).unwrap();
    assert_eq!((failing.id, queue.in_lanes()), (first, 2));
    queue.retry(failing.token, now + Duration::from_secs(1));
    let taken = take(&mut queue).unwrap();
    assert_eq!(taken.id, other);
    assert!(queue.ack(taken.token).is_some() && take(&mut queue).is_none());
    let again = take_at(&mut queue, now + Duration::from_secs(2)).unwrap();
    assert_eq!((again.id, again.attempts), (first, 2));
    assert!(queue.bury(again.token).is_some());
    for expected in [second, third] {
        let taken = take(&mut queue).unwrap();
        assert_eq!((taken.id, take(&mut queue).is_none()), (expected, true));
        assert!(queue.ack(taken.token).is_some());
    }
    assert_eq!((queue.held(), queue.in_lanes()), (0, 0));
}

#[test]
fn what_is_published_for_later_does_not_hold_up_its_key() {
    let (mut queue, now) = (queue(10, 1_000), Instant::now());
    let (later, soon) = (message(1), message(1));
    let lane = NonZeroU64::new(1);
    queue.push(Entry::new(later.clone(), 0).in_lane(lane), Some(now + Duration::from_secs(1)));
    queue.push(Entry::new(soon.clone(), 0).in_lane(lane), None);
    let first = take(&mut queue).unwrap();
    assert_eq!(first.id, soon.id());
    assert!(take_at(&mut queue, now + Duration::from_secs(2)).is_none(), "its key is busy");
    assert!(queue.ack(first.token).is_some());
    assert_eq!(take(&mut queue).unwrap().id, later.id());
}

#[test]
fn one_in_nine_is_not_of_high_priority_while_there_are_both() {
    let mut queue = queue(100, 10_000);
    let message = |priority| Message::new("s", "").unwrap().with_priority(priority);
    for _ in 0..30 {
        for priority in [Priority::Normal, Priority::High] {
            queue.push(Entry::new(message(priority).into(), 0), None);
        }
    }
    let order: Vec<_> = (0..20)
        .map(|_| queue.take(None).unwrap().1.message.priority() == Priority::Normal)
        .collect();
    let normal: Vec<_> = (0..20).filter(|place| order[*place]).collect();
    assert_eq!(normal, [8, 17]);
}

#[test]
fn what_is_not_settled_in_time_comes_back_charged_and_its_token_is_worthless() {
    let (mut queue, now) = (queue(10, 1_000), Instant::now());
    queue.push(entry(1), None);
    let token = queue.take(Some(now + Duration::from_secs(1))).unwrap().0;
    queue.promote(now + Duration::from_millis(900), failure);
    assert!(queue.extend(token, now + Duration::from_secs(5)));
    queue.promote(now + Duration::from_secs(4), failure);
    assert_eq!((queue.in_flight(), queue.ready()), (1, 0));
    queue.promote(now + Duration::from_secs(6), failure);
    assert!(queue.ack(token).is_none() && !queue.extend(token, now));
    let (_, entry) = queue.take(None).unwrap();
    assert_eq!((entry.attempts(), entry.history().unwrap().last().attempt), (2, 1));
    assert_eq!((queue.counts.overdue, queue.next_due()), (1, None));
}

#[test]
fn what_is_being_buried_does_not_come_back_because_its_time_limit_is_over() {
    let (now, mut queue) = (Instant::now(), queue(10, 1_000));
    queue.push(entry(1), None);
    let (token, _) = queue.take(Some(now + MILLI)).unwrap();
    assert!(queue.hold(token));
    assert!(take_at(&mut queue, now + Duration::from_secs(60)).is_none());
    assert!(queue.bury(token).is_some() && !queue.hold(token));
    assert_eq!((queue.counts.overdue, queue.counts.dead), (0, 1));
}

mod model;
