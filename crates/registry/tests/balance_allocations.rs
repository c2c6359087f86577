//! Nothing is allocated on the path of a call.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::{
    convert::Infallible,
    future::{Future, Ready, ready},
    pin::pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use gusset_registry::{
    Balance, Chooser, Consistent, Ejection, Fleet, Instance, LeastLoaded, LocalRoundRobin, Pick,
    Random, RoundRobin, SuccessRate, Watch, WeightedRoundRobin,
};
use tower::Service;

#[derive(Clone)]
struct Echo;

impl Service<u64> for Echo {
    type Response = u64;
    type Error = Infallible;
    type Future = Ready<Result<u64, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: u64) -> Self::Future {
        ready(Ok(request))
    }
}

fn allocates_nothing<P: Pick<u64> + Clone>(pick: P) {
    let instances = (1..=20).map(|port| Instance::new("cart", "10.0.0.7", port));
    let watch = Watch::fixed("cart", instances.map(|i| i.with_zone("z")));
    let fleet = Fleet::new().zone("z").slow_start(Duration::from_secs(30));
    let ejection = Ejection::default().success_rate(SuccessRate::default());
    let mut chooser =
        Chooser::new(watch.clone()).pick(pick.clone()).among(fleet.clone()).eject(ejection.clone());
    let mut balance =
        Balance::new(watch, |_: &Instance| Echo).pick(pick).among(fleet).eject(ejection);
    let mut call = |request| {
        let call = pin!(balance.call(request));
        assert!(call.poll(&mut Context::from_waker(Waker::noop())).is_ready());
        chooser.choose(&request).unwrap().succeeded();
    };
    // The set, its tables, and endpoints are made by those who come first.
    (0..2_000).for_each(&mut call);
    let allocations = allocation_counter::measure(|| (0..1_000).for_each(call)).count_total;
    assert_eq!(allocations, 0);
}

#[test]
fn no_call_and_no_choice_allocates() {
    allocates_nothing(RoundRobin::new());
    allocates_nothing(LocalRoundRobin::new());
    allocates_nothing(WeightedRoundRobin::new());
    allocates_nothing(LeastLoaded::new());
    allocates_nothing(LeastLoaded::peak_ewma(Duration::from_secs(10)));
    allocates_nothing(Consistent::new(|request: &u64| *request));
    allocates_nothing(Random::new());
}
