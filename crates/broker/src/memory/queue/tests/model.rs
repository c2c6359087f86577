//! The queue does what a model does that is kept as plainly as possible: lists that are searched.

use proptest::prelude::*;

use super::*;

const MAX_ATTEMPTS: u32 = 3;
const CAPACITY: usize = 8;
const BYTES: usize = 150;

#[derive(Clone, Debug)]
enum Step {
    Push { size: usize, lane: u64, high: bool, delay: Option<u64>, making_room: bool },
    Take { limit: Option<u64> },
    Settle { which: prop::sample::Index, how: How },
    Wait { millis: u64 },
    Clear,
}

#[derive(Clone, Copy, Debug)]
enum How {
    Ack,
    Fail { millis: u64 },
    Reject,
    Expire,
    GiveBack,
    Extend { millis: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    let how = prop_oneof![
        4 => Just(How::Ack),
        8 => (0..50_u64).prop_map(|millis| How::Fail { millis }),
        2 => Just(How::Reject),
        1 => Just(How::Expire),
        2 => Just(How::GiveBack),
        2 => (0..50_u64).prop_map(|millis| How::Extend { millis }),
    ];
    let push = (
        1..40_usize,
        0..3_u64,
        any::<bool>(),
        prop::option::weighted(0.2, 0..90_u64),
        prop::bool::weighted(0.2),
    );
    prop_oneof![
        24 => push.prop_map(|(size, lane, high, delay, making_room)| Step::Push { size, lane, high, delay, making_room }),
        30 => prop::option::weighted(0.3, 0..60_u64).prop_map(|limit| Step::Take { limit }),
        24 => (any::<prop::sample::Index>(), how).prop_map(|(which, how)| Step::Settle { which, how }),
        6 => (0..60_u64).prop_map(|millis| Step::Wait { millis }),
        1 => Just(Step::Clear),
    ]
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Place {
    /// In line; negative numbers were put back.
    Ready(i64),
    Lane(i64),
    Delayed {
        due: u64,
        since: i64,
    },
    Flying {
        until: Option<u64>,
        since: i64,
    },
    Over(&'static str),
}

#[derive(Clone, Debug)]
struct Held {
    id: MessageId,
    size: usize,
    lane: u64,
    high: bool,
    leads: bool,
    attempts: u32,
    place: Place,
}

/// All messages there ever were.
#[derive(Default)]
struct Model {
    all: Vec<Held>,
    count: i64,
    high_in_a_row: u32,
}

impl Model {
    fn next(&mut self) -> i64 {
        self.count += 1;
        self.count
    }

    fn held(&self) -> impl Iterator<Item = &Held> {
        self.all.iter().filter(|held| !matches!(held.place, Place::Over(_)))
    }

    fn is(&self, f: impl Fn(Place) -> bool) -> usize {
        self.all.iter().filter(|held| f(held.place)).count()
    }

    fn bytes(&self) -> usize {
        self.held().map(|held| held.size).sum()
    }

    fn flying(&self) -> impl Iterator<Item = &Held> {
        self.held().filter(|held| matches!(held.place, Place::Flying { .. }))
    }

    fn fits(&self, size: usize) -> bool {
        self.held().count() < CAPACITY && self.bytes() + size <= BYTES
    }

    fn line_up(&mut self, at: usize) {
        let now = self.next();
        let lane = self.all[at].lane;
        let busy = lane > 0 && self.held().any(|other| other.lane == lane && other.leads);
        let held = &mut self.all[at];
        if busy && !held.leads {
            held.place = Place::Lane(now);
        } else {
            held.leads = lane > 0;
            held.place = Place::Ready(now);
        }
    }

    fn end(&mut self, at: usize, how: &'static str) {
        let (lane, led) = (self.all[at].lane, self.all[at].leads);
        (self.all[at].place, self.all[at].leads) = (Place::Over(how), false);
        let waiting = |held: &Held| match held.place {
            Place::Lane(since) if led && held.lane == lane => Some(since),
            _ => None,
        };
        let next = (0..self.all.len()).filter_map(|at| Some((waiting(&self.all[at])?, at))).min();
        if let Some((_, next)) = next {
            self.line_up(next);
        }
    }

    /// Which is first in line, of those of this priority.
    fn first(&self, high: bool) -> Option<usize> {
        let since = |held: &Held| match held.place {
            Place::Ready(since) if held.high == high => Some(since),
            _ => None,
        };
        let ready = (0..self.all.len()).filter_map(|at| Some((since(&self.all[at])?, at)));
        ready.min().map(|(_, at)| at)
    }

    fn take(&mut self) -> Option<usize> {
        let (high, normal) = (self.first(true), self.first(false));
        if high.is_some() && (self.high_in_a_row < 8 || normal.is_none()) {
            self.high_in_a_row = (self.high_in_a_row + 1).min(8);
            return high;
        }
        self.high_in_a_row = 0;
        normal
    }

    fn least(&self) -> Option<usize> {
        let due = |held: &Held| match held.place {
            Place::Delayed { due, since } => Some((due, since)),
            _ => None,
        };
        let delayed = || (0..self.all.len()).filter_map(|at| Some((due(&self.all[at])?, at))).min();
        self.first(false).or_else(|| self.first(true)).or_else(|| Some(delayed()?.1))
    }

    fn is_first_of_lane(&self, at: usize) -> bool {
        let since = |held: &Held| match held.place {
            Place::Lane(since) if held.lane == self.all[at].lane => Some(since),
            _ => None,
        };
        let first = self.all.iter().filter_map(since).min();
        first.is_some() && first == since(&self.all[at])
    }

    fn promote(&mut self, now: u64) {
        loop {
            let due = |held: &Held| match held.place {
                Place::Delayed { due, since } | Place::Flying { until: Some(due), since } => {
                    (due <= now).then_some((due, since))
                }
                _ => None,
            };
            let first = (0..self.all.len()).filter_map(|at| Some((due(&self.all[at])?, at))).min();
            let Some((_, at)) = first else { return };
            self.line_up(at);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]
    #[test]
    fn it_does_what_the_plain_model_does(steps in prop::collection::vec(step(), 1..200)) {
        let start = Instant::now();
        let (mut now, mut model, mut leases) = (0, Model::default(), Vec::<Taken>::new());
        let mut queue = Queue::new(CAPACITY, BYTES, start);
        for step in steps {
            let after = |millis| start + Duration::from_millis(now + millis);
            match step {
                Step::Push { size, lane, high, delay, making_room } => {
                    prop_assert_eq!(queue.has_room(size), model.fits(size));
                    let flying: usize = model.flying().map(|held| held.size).sum();
                    let could = model.flying().count() < CAPACITY && flying + size <= BYTES;
                    prop_assert_eq!(queue.can_make_room(size), could);
                    if !(model.fits(size) || making_room && could) {
                        continue;
                    }
                    for entry in queue.make_room(size) {
                        let id = entry.message.id();
                        let at = model.all.iter().position(|held| held.id == id).unwrap();
                        match model.least() {
                            Some(least) => prop_assert_eq!(at, least),
                            // Of those that wait for another of their key, the oldest of some key.
                            None => prop_assert!(model.is_first_of_lane(at)),
                        }
                        model.end(at, "dropped");
                    }
                    let priority = if high { Priority::High } else { Priority::Normal };
                    let message = Message::new("s", vec![0; size - 1]).unwrap().with_priority(priority);
                    let entry = Entry::new(message.into(), 0).in_lane(NonZeroU64::new(lane));
                    let id = entry.message.id();
                    queue.push(entry, delay.map(after));
                    let since = model.next();
                    let place = Place::Delayed { due: now + delay.unwrap_or(0), since };
                    model.all.push(Held { id, size, lane, high, leads: false, attempts: 0, place });
                    if delay.is_none() {
                        model.line_up(model.all.len() - 1);
                    }
                }
                Step::Take { limit } => {
                    let expected = model.take();
                    let taken = queue.take(limit.map(after));
                    let taken = taken.map(|(token, entry)| Taken { token, id: entry.message.id(), attempts: entry.attempts() });
                    prop_assert_eq!(taken.map(|taken| taken.id), expected.map(|at| model.all[at].id));
                    let (Some(at), Some(taken)) = (expected, taken) else { continue };
                    let since = model.next();
                    let held = &mut model.all[at];
                    held.attempts += 1;
                    held.place = Place::Flying { until: limit.map(|limit| now + limit), since };
                    prop_assert_eq!(taken.attempts, held.attempts);
                    leases.push(taken);
                }
                Step::Settle { .. } if leases.is_empty() => {}
                Step::Settle { which, how } => {
                    let lease = leases[which.index(leases.len())];
                    let at = model.all.iter().position(|held| held.id == lease.id).unwrap();
                    // Of an earlier delivery, perhaps: then nothing may happen.
                    let held = &model.all[at];
                    let flies = matches!(held.place, Place::Flying { .. }) && held.attempts == lease.attempts
                        && leases.iter().rev().find(|other| other.id == lease.id).is_some_and(|last| last.token == lease.token);
                    let attempts = held.attempts;
                    let known = match how {
                        How::Ack => queue.ack(lease.token).is_some(),
                        How::Fail { millis } if attempts < MAX_ATTEMPTS => queue.retry(lease.token, after(millis)),
                        How::Fail { .. } | How::Reject => queue.bury(lease.token).is_some(),
                        How::Expire => queue.expire(lease.token).is_some(),
                        How::GiveBack => queue.give_back(lease.token),
                        How::Extend { millis } => queue.extend(lease.token, after(millis)),
                    };
                    prop_assert_eq!(known, flies);
                    if !flies {
                        continue;
                    }
                    match how {
                        How::Ack => model.end(at, "acked"),
                        How::Fail { millis } if attempts < MAX_ATTEMPTS => {
                            let since = model.next();
                            model.all[at].place = Place::Delayed { due: now + millis, since };
                        }
                        How::Fail { .. } | How::Reject => model.end(at, "dead"),
                        How::Expire => model.end(at, "expired"),
                        How::GiveBack => {
                            let back = -model.next();
                            model.all[at].attempts -= 1;
                            model.all[at].place = Place::Ready(back);
                        }
                        How::Extend { millis } => {
                            let since = model.next();
                            model.all[at].place = Place::Flying { until: Some(now + millis), since };
                        }
                    }
                }
                Step::Wait { millis } => {
                    now += millis;
                    queue.promote(start + Duration::from_millis(now), failure);
                    model.promote(now);
                }
                Step::Clear => {
                    let mut dropped: Vec<_> = queue.clear().iter().map(|entry| entry.message.id()).collect();
                    let mut expected = Vec::new();
                    for at in 0..model.all.len() {
                        if !matches!(model.all[at].place, Place::Flying { .. } | Place::Over(_)) {
                            model.all[at].place = Place::Over("dropped");
                            model.all[at].leads = false;
                            expected.push(model.all[at].id);
                        }
                    }
                    dropped.sort_unstable();
                    expected.sort_unstable();
                    prop_assert_eq!(dropped, expected);
                    model.high_in_a_row = queue.ready.high_in_a_row;
                }
            }
            prop_assert_eq!(queue.ready(), model.is(|place| matches!(place, Place::Ready(_))));
            prop_assert_eq!(queue.delayed(), model.is(|place| matches!(place, Place::Delayed { .. })));
            prop_assert_eq!(queue.in_lanes(), model.is(|place| matches!(place, Place::Lane(_))));
            prop_assert_eq!(queue.in_flight(), model.flying().count());
            prop_assert_eq!((queue.held(), queue.bytes()), (model.held().count(), model.bytes()));
            // None lost, none twice.
            let (counts, over) = (queue.counts, |how| model.is(|place| place == Place::Over(how)) as u64);
            prop_assert_eq!((counts.acked, counts.dead), (over("acked"), over("dead")));
            prop_assert_eq!((counts.dropped, counts.expired), (over("dropped"), over("expired")));
            prop_assert_eq!(counts.published, model.all.len() as u64);
            prop_assert!(queue.held() <= CAPACITY && queue.bytes() <= BYTES);
        }
    }
}
