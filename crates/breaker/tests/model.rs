//! The machine under every order in which threads can take turns, and under weak memory (loom).
//!
//! The files of the machine are compiled here once more, with loom's atomics in place of std's.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used, reason = "a test, of parts of the crate")]

#[path = "../src/machine/mod.rs"]
mod machine;
#[path = "../src/outcome.rs"]
mod outcome;
#[path = "../src/policy.rs"]
mod policy;
#[path = "../src/window.rs"]
mod window;

mod sync {
    pub(crate) use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
}

use std::time::Duration;

use gusset_call::Ratio;
use loom::{sync::Arc, thread};

use self::{
    machine::{Machine, Recorded, State, Ticket, Transition, World},
    outcome::Outcome,
    policy::Policy,
    window::Window,
};

/// A second of the machine's clock.
#[derive(Clone, Copy)]
struct At(u64);

impl World for At {
    fn nanos(&self) -> u64 {
        self.0 * 1_000_000_000
    }

    fn chance(&self) -> u64 {
        0
    }
}

const OPEN_FOR: u64 = 30;

fn check(model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    // All orders with so many interruptions; without a bound it would take hours.
    builder.preemption_bound = Some(3);
    builder.check(model);
}

fn admit(machine: &Machine, now: u64) -> Option<Ticket> {
    machine.admit(&At(now)).ok().map(|(ticket, _)| ticket)
}

fn fail(machine: &Machine, ticket: Ticket, now: u64) -> Recorded {
    machine.record(ticket, Outcome::Failure, false, &At(now))
}

fn succeed(machine: &Machine, ticket: Ticket, now: u64) -> Recorded {
    machine.record(ticket, Outcome::Success, false, &At(now))
}

fn went_to(recorded: Recorded) -> Option<State> {
    match recorded {
        Recorded::Counted(Some(Transition { to, .. })) => Some(to),
        _ => None,
    }
}

/// Runs `one` and `other` at the same time, each with a ticket of the closed circuit.
fn race<R: 'static>(machine: Machine, act: fn(&Machine, Ticket) -> R) -> (Arc<Machine>, [R; 2]) {
    let machine = Arc::new(machine);
    let tickets = [admit(&machine, 0).unwrap(), admit(&machine, 0).unwrap()];
    let other = {
        let machine = machine.clone();
        thread::spawn(move || act(&machine, tickets[1]))
    };
    let one = act(&machine, tickets[0]);
    let other = other.join().unwrap();
    (machine, [one, other])
}

/// Two failures at once are together what the policy calls too many: exactly one of them opens it.
fn no_transition_is_lost(policy: Policy) {
    check(move || {
        let (machine, recorded) =
            race(Machine::new(policy), |machine, ticket| fail(machine, ticket, 0));
        assert_eq!(machine.state(), State::Open);
        assert_eq!(recorded.into_iter().filter_map(went_to).collect::<Vec<_>>(), [State::Open]);
        assert_eq!(machine.successes_and_failures(), (0, 2));
    });
}

#[test]
fn two_failures_in_a_row_open_it_once() {
    no_transition_is_lost(Policy::consecutive(2));
}

#[test]
fn two_failures_of_the_last_two_calls_open_it_once() {
    no_transition_is_lost(Policy::failure_ratio(Ratio::ALL).window(Window::calls(2).min_calls(2)));
}

#[test]
fn two_failures_of_the_last_seconds_open_it_once() {
    let window = Window::time(Duration::from_secs(2)).buckets(2).min_calls(2);
    no_transition_is_lost(Policy::failure_ratio(Ratio::ALL).window(window));
}

/// Each writes to one bucket and reads the other's.
#[test]
fn two_failures_on_either_side_of_a_second_open_it_once() {
    let window = Window::time(Duration::from_secs(2)).buckets(2).min_calls(2);
    let policy = Policy::failure_ratio(Ratio::ALL).window(window);
    check(move || {
        let machine = Arc::new(Machine::new(policy));
        let tickets = [admit(&machine, 0).unwrap(), admit(&machine, 0).unwrap()];
        let other = {
            let machine = machine.clone();
            thread::spawn(move || fail(&machine, tickets[1], 1))
        };
        fail(&machine, tickets[0], 0);
        other.join().unwrap();
        assert_eq!(machine.state(), State::Open);
    });
}

fn open() -> Machine {
    let policy = Policy::consecutive(1)
        .open_for(Duration::from_secs(OPEN_FOR))
        .max_probes(1)
        .successes_to_close(1)
        .probe_lease(Duration::from_secs(10));
    let machine = Machine::new(policy);
    let ticket = admit(&machine, 0).unwrap();
    fail(&machine, ticket, 0);
    machine
}

/// Runs `act` on two threads at once.
fn both<R: 'static>(machine: &Arc<Machine>, act: fn(&Machine) -> R) -> [R; 2] {
    let other = {
        let machine = machine.clone();
        thread::spawn(move || act(&machine))
    };
    let one = act(machine);
    [one, other.join().unwrap()]
}

#[test]
fn of_two_that_come_at_once_one_is_the_probe() {
    check(|| {
        let machine = Arc::new(open());
        let tickets = both(&machine, |machine| admit(machine, OPEN_FOR));
        assert_eq!(tickets.iter().flatten().count(), 1);
    });
}

#[test]
fn every_place_is_given_back_and_taken_again() {
    check(|| {
        let machine = Arc::new(open());
        both(&machine, |machine| {
            if let Some(probe) = admit(machine, OPEN_FOR) {
                machine.record(probe, Outcome::Ignored, false, &At(OPEN_FOR));
            }
        });
        assert_eq!(machine.state(), State::HalfOpen);
        assert!(admit(&machine, OPEN_FOR).is_some(), "the place is free");
        assert!(admit(&machine, OPEN_FOR).is_none(), "and it is only one");
    });
}

/// The lease is over just as the hung probe comes back.
#[test]
fn a_probe_that_lost_its_place_and_the_one_that_took_it_do_not_both_count() {
    check(|| {
        let machine = Arc::new(open());
        let hung = admit(&machine, OPEN_FOR).unwrap();
        let other = {
            let machine = machine.clone();
            thread::spawn(move || admit(&machine, OPEN_FOR + 10))
        };
        let late = fail(&machine, hung, OPEN_FOR + 10);
        match (late, other.join().unwrap()) {
            (Recorded::Late, Some(fresh)) => {
                assert_eq!(machine.state(), State::HalfOpen);
                assert_eq!(went_to(succeed(&machine, fresh, OPEN_FOR + 10)), Some(State::Closed));
            }
            (recorded, None) => assert_eq!(went_to(recorded), Some(State::Open)),
            both => panic!("{both:?}"),
        }
    });
}

/// A failure from before the trip ends while the probe closes the circuit.
#[test]
fn a_late_failure_is_not_in_the_new_window() {
    let policy = Policy::failure_ratio(Ratio::ALL)
        .window(Window::calls(2).min_calls(1))
        .open_for(Duration::from_secs(OPEN_FOR))
        .successes_to_close(1);
    check(move || {
        let machine = Arc::new(Machine::new(policy));
        let tickets = [admit(&machine, 0).unwrap(), admit(&machine, 0).unwrap()];
        fail(&machine, tickets[0], 0);
        let late = {
            let machine = machine.clone();
            thread::spawn(move || fail(&machine, tickets[1], 0))
        };
        let probe = admit(&machine, 2 * OPEN_FOR).unwrap();
        succeed(&machine, probe, 2 * OPEN_FOR);
        assert_eq!(late.join().unwrap(), Recorded::Late);
        assert_eq!(machine.state(), State::Closed);
        assert_eq!(machine.totals(&At(2 * OPEN_FOR)).failed, 0);
    });
}

/// A success ends the row while a failure lengthens it.
#[test]
fn a_success_and_a_failure_at_once_leave_a_row_of_one_or_none() {
    check(|| {
        let machine = Arc::new(Machine::new(Policy::consecutive(3)));
        let tickets = [(); 3].map(|()| admit(&machine, 0).unwrap());
        fail(&machine, tickets[0], 0);
        let other = {
            let machine = machine.clone();
            thread::spawn(move || succeed(&machine, tickets[1], 0))
        };
        fail(&machine, tickets[2], 0);
        other.join().unwrap();
        assert!(machine.word().payload() <= 1, "{:?}", machine.word());
    });
}

#[test]
fn an_order_and_a_trip_at_once_leave_one_of_both() {
    check(|| {
        let machine = Arc::new(Machine::new(Policy::consecutive(1)));
        let ticket = admit(&machine, 0).unwrap();
        let order = {
            let machine = machine.clone();
            thread::spawn(move || machine.force(State::ForcedOpen))
        };
        fail(&machine, ticket, 0);
        order.join().unwrap();
        assert_eq!(machine.state(), State::ForcedOpen, "the order is the last word");
    });
}

/// Whoever looks on must not see more failures than calls, and open the circuit for that.
#[test]
fn no_failure_is_seen_before_its_call() {
    let window = Window::time(Duration::from_secs(2)).buckets(2);
    let policy = Policy::failure_ratio(Ratio::ALL).window(window);
    check(move || {
        let machine = Arc::new(Machine::new(policy));
        let ticket = admit(&machine, 0).unwrap();
        let other = {
            let machine = machine.clone();
            thread::spawn(move || fail(&machine, ticket, 0))
        };
        let seen = machine.totals(&At(0));
        assert!(seen.failed <= seen.calls, "{seen:?}");
        other.join().unwrap();
    });
}

/// An order comes between a trip and its being counted.
#[test]
fn after_an_order_the_open_time_begins_anew() {
    let policy = Policy::consecutive(1)
        .open_for(Duration::from_secs(1))
        .open_growth(2, Duration::from_secs(1_000));
    check(move || {
        let machine = Arc::new(Machine::new(policy));
        let ticket = admit(&machine, 0).unwrap();
        let order = {
            let machine = machine.clone();
            thread::spawn(move || machine.force(State::Closed))
        };
        let tripped = went_to(fail(&machine, ticket, 0)) == Some(State::Open);
        order.join().unwrap();
        if tripped && machine.state() == State::Closed {
            let ticket = admit(&machine, 0).unwrap();
            fail(&machine, ticket, 0);
            assert!(admit(&machine, 1).is_some(), "not after two seconds");
        }
    });
}
