use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const TTL: Duration = Duration::from_secs(30);

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn holdings() -> Holdings {
    Holdings::new(TTL, 100)
}

fn instance(id: &str) -> Instance {
    Instance::new("s", "h", 1).with_id(id).with_health(Health::Healthy)
}

fn key(id: &str) -> InstanceKey<'_> {
    InstanceKey::new("s", id)
}

fn raw_key(name: &Name) -> Vec<u8> {
    name.1.as_bytes().to_vec()
}

/// Has everything done that is due, at this revision.
fn do_all(holdings: &mut Holdings, revision: i64) -> usize {
    let due = holdings.due(true);
    for task in &due {
        let gone = Outcome::Gone(Verdict::Done);
        let outcome = if task.want.is_some() { Outcome::Stored(revision) } else { gone };
        holdings.done(task, outcome);
    }
    due.len()
}

#[test]
fn a_wish_is_due_until_it_is_done_and_then_told() {
    let mut holdings = holdings();
    let mut waiting = holdings.register(instance("a"), at(0)).unwrap();
    let [task] = &holdings.due(false)[..] else { panic!("one is due") };
    assert!(task.may_take && task.expected == 0);
    holdings.done(task, Outcome::Again);
    assert_eq!(holdings.due(false).len(), 1);
    assert!(waiting.try_recv().is_err());
    holdings.done(task, Outcome::Stored(7));
    assert_eq!(waiting.try_recv(), Ok(Verdict::Done));
    assert!(holdings.due(true).is_empty());
    assert!(holdings.heartbeat(key("a"), at(1)).unwrap().is_none());
}

#[test]
fn a_change_while_the_one_before_is_under_way_is_not_lost() {
    let mut holdings = holdings();
    let mut first = holdings.register(instance("a"), at(0)).unwrap();
    let task = holdings.due(false).remove(0);
    let mut second = holdings.drain(key("a")).unwrap();
    holdings.done(&task, Outcome::Stored(7));
    assert!(first.try_recv().is_err() && second.try_recv().is_err());
    let task = holdings.due(false).remove(0);
    assert_eq!(task.expected, 7);
    assert_eq!(task.want.as_ref().unwrap().health, Health::Draining);
    holdings.done(&task, Outcome::Stored(8));
    assert_eq!((first.try_recv(), second.try_recv()), (Ok(Verdict::Done), Ok(Verdict::Done)));
}

#[test]
fn asking_for_the_same_again_does_not_put_off_the_answer() {
    let mut holdings = holdings();
    let mut first = holdings.register(instance("a"), at(0)).unwrap();
    let task = holdings.due(false).remove(0);
    let mut second = holdings.register(instance("a"), at(0)).unwrap();
    holdings.done(&task, Outcome::Stored(7));
    assert_eq!((first.try_recv(), second.try_recv()), (Ok(Verdict::Done), Ok(Verdict::Done)));
    drop(holdings.register(instance("a"), at(0)));
    assert_eq!(do_all(&mut holdings, 8), 1, "somebody else may have drained it");
}

#[test]
fn a_deregistration_that_failed_is_still_due() {
    let mut holdings = holdings();
    drop(holdings.register(instance("a"), at(0)));
    do_all(&mut holdings, 7);
    drop(holdings.deregister(key("a")));
    let task = holdings.due(false).remove(0);
    holdings.done(&task, Outcome::Again);
    assert_eq!(holdings.heartbeat(key("a"), at(1)).unwrap_err(), Refused::NoService);
    assert_eq!(do_all(&mut holdings, 8), 1);
    assert_eq!(do_all(&mut holdings, 9), 0);
}

#[test]
fn one_registered_again_while_it_is_deleted_is_put_again() {
    let mut holdings = holdings();
    drop(holdings.register(instance("a"), at(0)));
    do_all(&mut holdings, 7);
    drop(holdings.deregister(key("a")));
    let deletion = holdings.due(false).remove(0);
    let mut waiting = holdings.register(instance("a"), at(1)).unwrap();
    holdings.done(&deletion, Outcome::Gone(Verdict::Done));
    assert!(waiting.try_recv().is_err());
    assert_eq!(do_all(&mut holdings, 8), 1);
    assert_eq!(waiting.try_recv(), Ok(Verdict::Done));
}

#[test]
fn after_the_lease_is_lost_everything_is_due_again() {
    let mut holdings = holdings();
    for id in ["a", "b"] {
        drop(holdings.register(instance(id), at(0)));
    }
    holdings.granted(1);
    do_all(&mut holdings, 7);
    let mut left = holdings.deregister(key("b")).unwrap();
    holdings.lease_lost();
    assert_eq!(holdings.lease(), None);
    assert_eq!(left.try_recv(), Ok(Verdict::Done), "it is gone with the lease");
    assert_eq!(do_all(&mut holdings, 8), 1);
}

#[test]
fn a_key_that_is_gone_is_put_again_and_one_that_nobody_wants_is_a_stray() {
    let mut holdings = holdings();
    for id in ["a", "b"] {
        drop(holdings.register(instance(id), at(0)));
    }
    do_all(&mut holdings, 7);
    let (missing, strays) = holdings.verify(vec![b"a".to_vec(), b"z".to_vec()], raw_key);
    assert_eq!((missing, strays), (1, vec![b"z".to_vec()]));
    let [task] = &holdings.due(false)[..] else { panic!("one is due") };
    assert_eq!(&*task.name.1, "b");
    assert!(!task.may_take, "a repair takes nothing from others");
}

#[test]
fn one_that_is_kept_out_is_told_so_at_once_and_tried_again_at_its_turn() {
    let mut holdings = holdings();
    let mut waiting = holdings.register(instance("a"), at(0)).unwrap();
    let task = holdings.due(false).remove(0);
    holdings.done(&task, Outcome::Blocked(Verdict::Superseded));
    assert_eq!(waiting.try_recv(), Ok(Verdict::Superseded));
    let mut beat = holdings.heartbeat(key("a"), at(1)).unwrap().unwrap();
    assert_eq!(beat.try_recv(), Ok(Verdict::Superseded));
    let mut again = holdings.register(instance("a"), at(2)).unwrap();
    assert_eq!(again.try_recv(), Ok(Verdict::Superseded), "asking again does not help");
    assert!(holdings.due(false).is_empty());
    assert_eq!(do_all(&mut holdings, 9), 1);
    assert!(holdings.heartbeat(key("a"), at(3)).unwrap().is_none());
}

#[test]
fn what_etcd_refused_is_tried_at_once_with_another_value() {
    let mut holdings = holdings();
    drop(holdings.register(instance("a"), at(0)));
    let task = holdings.due(false).remove(0);
    holdings.done(&task, Outcome::Blocked(Verdict::Failed("too large".into())));
    assert!(holdings.due(false).is_empty());
    drop(holdings.register(instance("a"), at(1)));
    assert_eq!(holdings.due(false).len(), 1);
}

#[test]
fn an_older_run_is_refused_and_a_younger_one_replaces() {
    let mut holdings = holdings();
    let run = |n| instance("a").with_incarnation(n);
    drop(holdings.register(run(7), at(0)));
    drop(holdings.register(run(8), at(0)));
    assert_eq!(holdings.register(run(7), at(0)).unwrap_err(), Refused::Superseded);
    assert_eq!(holdings.drain(key("a").with_incarnation(7)).unwrap_err(), Refused::Superseded);
    assert_eq!(holdings.deregister(key("a").with_incarnation(9)).unwrap_err(), Refused::NoInstance);
    assert!(holdings.deregister(key("a")).is_ok());
}

#[test]
fn a_silent_one_is_taken_out_and_one_that_beats_is_not() {
    let mut holdings = holdings();
    for id in ["beats", "silent"] {
        drop(holdings.register(instance(id), at(0)));
    }
    do_all(&mut holdings, 7);
    for second in (0..=30).step_by(10) {
        drop(holdings.heartbeat(key("beats"), at(second)));
        assert_eq!(holdings.expire(at(second)), 0);
    }
    assert_eq!(holdings.expire(at(31)), 1);
    assert_eq!(do_all(&mut holdings, 8), 1);
    assert!(holdings.heartbeat(key("silent"), at(32)).is_err());
    assert!(holdings.heartbeat(key("beats"), at(32)).is_ok());
}

#[test]
fn a_pause_of_our_own_process_takes_nobody_out() {
    let mut holdings = holdings();
    drop(holdings.register(instance("a"), at(0)));
    assert_eq!(holdings.expire(at(10)), 0);
    assert_eq!(holdings.expire(at(100_000)), 0);
    for second in (0..30).step_by(10) {
        assert_eq!(holdings.expire(at(100_000 + second)), 0);
    }
    assert_eq!(holdings.expire(at(100_031)), 1, "the rest of its TTL has passed");
}

#[test]
fn those_who_no_longer_wait_take_no_room() {
    let mut holdings = holdings();
    for second in 0..1_000 {
        drop(holdings.register(instance("a"), at(second)));
        drop(holdings.heartbeat(key("a"), at(second)));
    }
    let waiters: usize = holdings.held.values().map(|holding| holding.waiters.len()).sum();
    assert!(waiters <= 1, "{waiters}");
}

#[test]
fn at_the_bound_new_ones_are_refused_and_known_ones_are_not() {
    let mut holdings = Holdings::new(TTL, 1);
    assert!(holdings.register(instance("a"), at(0)).is_ok());
    assert_eq!(holdings.register(instance("b"), at(0)).unwrap_err(), Refused::Full);
    assert!(holdings.register(instance("a"), at(0)).is_ok());
}

#[derive(Clone, Debug)]
enum Step {
    Register(usize),
    Drain(usize),
    Deregister(usize),
    /// The keeper writes what is due; each write arrives or not, and its answer arrives or not.
    Write(Vec<(bool, bool)>),
    /// Somebody deletes a key.
    Lose(usize),
    LeaseExpires,
    Verify,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..3_usize).prop_map(Step::Register),
        (0..3_usize).prop_map(Step::Drain),
        (0..3_usize).prop_map(Step::Deregister),
        prop::collection::vec(any::<(bool, bool)>(), 3).prop_map(Step::Write),
        (0..3_usize).prop_map(Step::Lose),
        Just(Step::LeaseExpires),
        Just(Step::Verify),
    ]
}

/// etcd: the value of each key and the revision at which it was put.
#[derive(Default)]
struct Store {
    revision: i64,
    keys: BTreeMap<String, (Health, i64)>,
}

impl Store {
    /// As the keeper does it: whatever of its own it finds, it replaces.
    fn perform(&mut self, task: &Task) -> Outcome {
        self.revision += 1;
        let id = task.name.1.to_string();
        match &task.want {
            Some(instance) => {
                self.keys.insert(id, (instance.health, self.revision));
                Outcome::Stored(self.revision)
            }
            None => {
                self.keys.remove(&id);
                Outcome::Gone(Verdict::Done)
            }
        }
    }
}

proptest! {
    /// Whatever is lost on the way: one verification and one round of writes later, etcd has what is wanted and nothing else.
    #[test]
    fn any_history_of_losses_is_mended_by_one_verification(steps in prop::collection::vec(step(), 0..40)) {
        let (mut holdings, mut store) = (holdings(), Store::default());
        let mut wanted: BTreeMap<String, Health> = BTreeMap::new();
        let ids = ["a", "b", "c"];
        for step in steps {
            match step {
                Step::Register(n) => {
                    drop(holdings.register(instance(ids[n]), at(0)));
                    wanted.insert(ids[n].into(), Health::Healthy);
                }
                Step::Drain(n) => {
                    if holdings.drain(key(ids[n])).is_ok() {
                        wanted.insert(ids[n].into(), Health::Draining);
                    }
                }
                Step::Deregister(n) => {
                    drop(holdings.deregister(key(ids[n])));
                    wanted.remove(ids[n]);
                }
                Step::Write(fates) => {
                    for (task, (arrives, answered)) in holdings.due(false).iter().zip(fates) {
                        let outcome = if arrives { store.perform(task) } else { Outcome::Again };
                        holdings.done(task, if answered { outcome } else { Outcome::Again });
                    }
                }
                Step::Lose(n) => _ = store.keys.remove(ids[n]),
                Step::LeaseExpires => {
                    store.keys.clear();
                    holdings.lease_lost();
                }
                Step::Verify => {
                    let found = store.keys.keys().map(|id| id.clone().into_bytes()).collect();
                    holdings.verify(found, raw_key);
                }
            }
        }
        let found = store.keys.keys().map(|id| id.clone().into_bytes()).collect();
        let (_, strays) = holdings.verify(found, raw_key);
        for stray in strays {
            store.keys.remove(std::str::from_utf8(&stray).unwrap());
        }
        for task in holdings.due(true) {
            let outcome = store.perform(&task);
            holdings.done(&task, outcome);
        }
        let kept: BTreeMap<_, _> = store.keys.into_iter().map(|(id, (health, _))| (id, health)).collect();
        prop_assert_eq!(kept, wanted);
        prop_assert!(holdings.due(true).is_empty());
    }
}
