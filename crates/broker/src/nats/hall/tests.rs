use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use tokio::time::Instant;

use super::{Demand, Door, Hall};
use crate::{
    Message,
    engine::{Keeper, Lease, Settling, Source, Verdict},
};

#[derive(Default)]
struct Bell(AtomicUsize);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, SeqCst);
    }
}

impl Bell {
    fn rung(&self) -> usize {
        self.0.load(SeqCst)
    }
}

/// Counts what is given back.
#[derive(Default)]
struct Back(AtomicUsize);

impl Keeper for Back {
    fn settle(self: Arc<Self>, _: u64, verdict: Verdict) -> Settling {
        assert!(matches!(verdict, Verdict::GiveBack));
        self.0.fetch_add(1, SeqCst);
        Settling::Done(Ok(()))
    }

    fn in_progress(self: Arc<Self>, _: u64) -> Settling {
        Settling::Done(Ok(()))
    }
}

fn lease(back: &Arc<Back>) -> (u64, Lease) {
    let lease = Lease::new(Message::new("a", "").unwrap().into(), 1, back.clone(), 0);
    (0, lease)
}

fn ask(door: &mut Door) -> (Arc<Bell>, Poll<bool>) {
    let bell = Arc::<Bell>::default();
    let waker = Waker::from(bell.clone());
    let polled = door.poll_work(&mut Context::from_waker(&waker));
    (bell, polled)
}

fn demand(hall: &Hall) -> (usize, usize) {
    let Demand { asking, ready } = hall.demand();
    (asking, ready)
}

#[test]
fn a_worker_that_finds_nothing_asks_until_it_has_something() {
    let (hall, back) = (Arc::<Hall>::default(), Arc::default());
    let mut door = Door::new(hall.clone(), None);
    assert!(door.take().is_none());
    assert_eq!(demand(&hall), (0, 0));
    let (bell, polled) = ask(&mut door);
    assert_eq!((polled, demand(&hall)), (Poll::Pending, (1, 0)));
    let _ = ask(&mut door);
    assert_eq!(demand(&hall), (1, 0), "asking twice is asking once");
    hall.bring(lease(&back));
    assert_eq!((bell.rung(), demand(&hall)), (0, (1, 1)), "the older waker was replaced");
    assert_eq!(ask(&mut door).1, Poll::Ready(true));
    drop(door.take().unwrap());
    assert_eq!(demand(&hall), (0, 0));
}

#[test]
fn who_is_woken_and_rests_or_is_dropped_wakes_another() {
    let (hall, back) = (Arc::<Hall>::default(), Arc::default());
    let [mut first, mut second, mut third] = [(); 3].map(|()| Door::new(hall.clone(), None));
    let (one, _) = ask(&mut first);
    let (two, _) = ask(&mut second);
    let (three, _) = ask(&mut third);
    hall.bring(lease(&back));
    assert_eq!((one.rung(), two.rung()), (1, 0));
    first.rest();
    assert_eq!((two.rung(), three.rung(), demand(&hall)), (1, 0, (2, 1)));
    drop(second);
    assert_eq!((three.rung(), demand(&hall)), (1, (1, 1)));
    assert!(third.take().is_some());
}

#[test]
fn a_worker_that_takes_what_was_meant_for_another_leaves_it_asking() {
    let (hall, back) = (Arc::<Hall>::default(), Arc::default());
    let (mut asking, mut busy) = (Door::new(hall.clone(), None), Door::new(hall.clone(), None));
    let _ = ask(&mut asking);
    hall.bring(lease(&back));
    assert!(busy.take().is_some());
    assert!(asking.take().is_none());
    assert_eq!((ask(&mut asking).1, demand(&hall)), (Poll::Pending, (1, 0)));
}

#[test]
fn at_the_end_all_are_woken_and_everything_goes_back() {
    let (hall, back) = (Arc::<Hall>::default(), Arc::<Back>::default());
    let [mut first, mut second] = [(); 2].map(|()| Door::new(hall.clone(), None));
    let (one, _) = ask(&mut first);
    let (two, _) = ask(&mut second);
    hall.bring(lease(&back));
    drop(hall.stop());
    hall.bring(lease(&back));
    assert_eq!((one.rung(), two.rung(), back.0.load(SeqCst)), (1, 1, 2));
    assert!(first.take().is_none());
    assert_eq!(ask(&mut second).1, Poll::Ready(false));
}

#[test]
fn what_nobody_takes_in_time_goes_back() {
    let (hall, back) = (Arc::<Hall>::default(), Arc::<Back>::default());
    hall.bring(lease(&back));
    let now = Instant::now();
    assert!(hall.unwanted(now.checked_sub(Duration::from_secs(1)).unwrap()).is_empty());
    assert_eq!(hall.unwanted(now + Duration::from_secs(1)).len(), 1);
    assert_eq!((demand(&hall), back.0.load(SeqCst)), ((0, 0), 1));
}

#[test]
fn the_line_does_not_grow_with_those_who_give_up() {
    let hall = Arc::<Hall>::default();
    let [mut stays, mut goes] = [(); 2].map(|()| Door::new(hall.clone(), None));
    let (bell, _) = ask(&mut stays);
    for _ in 0..1_000 {
        let _ = ask(&mut goes);
        goes.rest();
    }
    assert!(hall.lock().line.len() <= 40, "{}", hall.lock().line.len());
    hall.bring(lease(&Arc::default()));
    assert_eq!(bell.rung(), 1);
}
