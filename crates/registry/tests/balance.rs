//! The balancer as its callers see it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use std::{
    collections::BTreeMap,
    fmt,
    num::NonZeroU32,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures_core::future::BoxFuture;
use gusset_call::{NoInstance, Tried};
use gusset_registry::{
    Balance, Candidates, Endpoint, Health, Instance, InstanceKey, LeastLoaded, MakeEndpoint,
    MemoryRegistry, Opaque, Pick, Protocol, Publisher, Registry, ResponseFuture, RoundRobin, Watch,
};
use tokio::time::{Instant, sleep, timeout};
use tokio_test::{assert_pending, assert_ready_err, task};
use tower::{Service, ServiceExt};

/// The instances of a service, each playing its script.
#[derive(Clone, Debug, Default)]
struct Backend(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    scripts: Mutex<BTreeMap<String, Script>>,
    calls: Mutex<BTreeMap<String, usize>>,
    made: AtomicUsize,
    alive: AtomicUsize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Script {
    #[default]
    Answer,
    Fail,
    Hang,
    Panic,
    Unready,
    FailReadiness,
}

#[derive(Debug, PartialEq)]
struct Refused(u32);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "refused {}", self.0)
    }
}

impl std::error::Error for Refused {}

impl Backend {
    fn play(&self, id: &str, script: Script) {
        self.0.scripts.lock().unwrap().insert(id.into(), script);
    }

    /// Calls since the last time, by id.
    fn take_calls(&self) -> BTreeMap<String, usize> {
        std::mem::take(&mut *self.0.calls.lock().unwrap())
    }
}

impl MakeEndpoint for Backend {
    type Service = Handle;

    fn make(&self, instance: &Instance) -> Handle {
        self.0.made.fetch_add(1, SeqCst);
        self.0.alive.fetch_add(1, SeqCst);
        let alive = Arc::new(Alive(self.clone()));
        Handle { id: instance.id.to_string(), backend: self.clone(), failed: false, _alive: alive }
    }
}

#[derive(Debug)]
struct Alive(Backend);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.0.alive.fetch_sub(1, SeqCst);
    }
}

/// An endpoint that cannot be used after its readiness failed, nor can its clones.
#[derive(Debug)]
struct Handle {
    id: String,
    backend: Backend,
    failed: bool,
    _alive: Arc<Alive>,
}

impl Clone for Handle {
    fn clone(&self) -> Self {
        Self {
            id: self.id.clone(),
            backend: self.backend.clone(),
            _alive: self._alive.clone(),
            ..*self
        }
    }
}

impl Handle {
    fn script(&self) -> Script {
        self.backend.0.scripts.lock().unwrap().get(&self.id).copied().unwrap_or_default()
    }
}

impl Service<()> for Handle {
    type Response = String;
    type Error = Refused;
    type Future = BoxFuture<'static, Result<String, Refused>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Refused>> {
        assert!(!self.failed, "used after its readiness failed");
        match self.script() {
            Script::Unready => Poll::Pending,
            Script::FailReadiness => {
                self.failed = true;
                Poll::Ready(Err(Refused(1)))
            }
            _ => Poll::Ready(Ok(())),
        }
    }

    fn call(&mut self, (): ()) -> Self::Future {
        *self.backend.0.calls.lock().unwrap().entry(self.id.clone()).or_default() += 1;
        let handle = self.clone();
        Box::pin(async move {
            match handle.script() {
                Script::Fail => Err(Refused(2)),
                Script::Hang => std::future::pending().await,
                Script::Panic => panic!("bug of an endpoint"),
                _ => Ok(handle.id.clone()),
            }
        })
    }
}

fn instance(id: &str) -> Instance {
    Instance::new("s", "h", 1).with_id(id)
}

fn healthy(ids: &str) -> Vec<Arc<Instance>> {
    let healthy = |id: char| Arc::new(instance(&id.to_string()).with_health(Health::Healthy));
    ids.chars().map(healthy).collect()
}

fn published(ids: &str) -> (Publisher, Backend, Balance<Backend>) {
    let (publisher, backend) = (Publisher::new("s"), Backend::default());
    publisher.publish(healthy(ids));
    let balance = Balance::new(publisher.watch(), backend.clone());
    (publisher, backend, balance)
}

fn counts(calls: &[(&str, usize)]) -> BTreeMap<String, usize> {
    calls.iter().map(|(id, count)| ((*id).to_owned(), *count)).collect()
}

async fn call_times<S: Service<()> + Clone>(service: &S, times: usize) {
    for _ in 0..times {
        let _ = service.clone().oneshot(()).await;
    }
}

// What tower's Balance does wrong.

#[tokio::test(start_paused = true)]
async fn an_empty_set_refuses_after_the_wait_and_does_not_hang() {
    let (_publisher, _, balance) = published("");
    let begin = Instant::now();
    let error = balance.clone().oneshot(()).await.unwrap_err();
    assert_eq!(error.downcast_ref::<NoInstance>().unwrap().service(), "s");
    assert!((1_000..1_010).contains(&begin.elapsed().as_millis()), "{:?}", begin.elapsed());

    let begin = Instant::now();
    balance.wait(Duration::ZERO).oneshot(()).await.unwrap_err();
    assert_eq!(begin.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn an_error_of_readiness_does_not_remove_an_endpoint_for_ever() {
    let (_publisher, backend, balance) = published("ab");
    backend.play("a", Script::FailReadiness);
    call_times(&balance, 2).await;
    backend.take_calls();
    backend.play("a", Script::Answer);
    call_times(&balance, 1_000).await;
    assert_eq!(backend.take_calls(), counts(&[("a", 500), ("b", 500)]));
}

#[tokio::test(start_paused = true)]
async fn removal_of_the_endpoint_that_was_chosen_sends_the_call_to_no_other() {
    let (publisher, backend, balance) = published("abc");
    for ids in ["abc", "ab", "bc", "ac", "c", "abc"].iter().cycle().take(600) {
        publisher.publish(healthy("abc"));
        let tried = Tried::new();
        let picking = balance.clone().protocol(Carries(tried.clone()));
        for id in ["a", "b", "c"] {
            backend.play(id, Script::Unready);
        }
        let mut call = task::spawn(picking.oneshot(()));
        assert_pending!(call.poll());
        publisher.publish(healthy(ids));
        for id in ["a", "b", "c"] {
            backend.play(id, Script::Answer);
        }
        let answered_by = call.await.unwrap();
        assert!(tried.contains(&answered_by), "chosen {tried:?}, called {answered_by}");
    }
}

#[tokio::test(start_paused = true)]
async fn one_that_left_before_the_call_was_under_way_is_not_called() {
    let (publisher, backend, balance) = published("abc");
    for _ in 0..300 {
        publisher.publish(healthy("abc"));
        let call = balance.clone().oneshot(());
        publisher.publish(healthy("bc"));
        call.await.unwrap();
    }
    assert!(!backend.take_calls().contains_key("a"));
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_was_not_ready_needs_no_traffic_to_come_back() {
    let (_publisher, backend, balance) = published("ab");
    backend.play("a", Script::Unready);
    let waiting: Vec<_> = (0..4).map(|_| task::spawn(balance.clone().oneshot(()))).collect();
    for mut call in waiting {
        let _ = call.poll();
    }
    backend.take_calls();
    sleep(Duration::from_secs(2)).await;
    backend.play("a", Script::Answer);
    call_times(&balance, 10).await;
    assert_eq!(backend.take_calls(), counts(&[("a", 5), ("b", 5)]));
}

// Round robin.

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn round_robin_is_exact_under_concurrency_and_between_changes() {
    let (publisher, backend, balance) = published("");
    for (ids, calls) in [("abc", 1_000), ("ab", 999), ("abcdefg", 2_003), ("g", 10), ("abc", 3_001)]
    {
        publisher.publish(healthy(ids));
        let left = Arc::new(AtomicUsize::new(calls));
        let tasks: Vec<_> = (0..8)
            .map(|_| {
                let (balance, left) = (balance.clone(), left.clone());
                tokio::spawn(async move {
                    while left.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)).is_ok() {
                        balance.clone().oneshot(()).await.unwrap();
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        let counts = backend.take_calls();
        assert_eq!(counts.values().sum::<usize>(), calls);
        for (id, count) in counts {
            let k = ids.len();
            assert!(ids.contains(&id), "{id} is not there");
            assert!(count == calls / k || count == calls.div_ceil(k), "{id}: {count} of {calls}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn while_the_set_changes_those_who_stay_keep_their_share_and_no_call_fails() {
    let (publisher, backend, balance) = published("abcd");
    let callers: Vec<_> = (0..4)
        .map(|_| {
            let balance = balance.clone();
            tokio::spawn(async move {
                for _ in 0..2_500 {
                    balance.clone().oneshot(()).await.unwrap();
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    let changes = tokio::spawn(async move {
        for n in 0..200 {
            publisher.publish(healthy(if n % 2 == 0 { "abc" } else { "abcd" }));
            tokio::task::yield_now().await;
        }
        publisher
    });
    for caller in callers {
        caller.await.unwrap();
    }
    let _publisher = changes.await.unwrap();
    let counts = backend.take_calls();
    // Each change may cut a round short: one call more or less for each of at most 200 sets.
    let (least, most) = (
        counts["a"].min(counts["b"]).min(counts["c"]),
        counts["a"].max(counts["b"]).max(counts["c"]),
    );
    assert!(most - least <= 2 * 201, "{counts:?}");
    assert!(counts["a"] >= 2_500 - 2 * 201, "{counts:?}");
}

#[tokio::test(start_paused = true)]
async fn an_update_that_changes_no_membership_does_not_begin_anew() {
    let (publisher, backend, balance) = published("abc");
    for n in 0..300 {
        balance.clone().oneshot(()).await.unwrap();
        let mut instances = healthy("abc");
        instances
            .push(Arc::new(instance(&format!("unhealthy-{n}")).with_health(Health::Unhealthy)));
        publisher.publish(instances);
    }
    assert_eq!(backend.take_calls(), counts(&[("a", 100), ("b", 100), ("c", 100)]));
}

#[tokio::test(start_paused = true)]
async fn many_balancers_do_not_all_begin_with_the_same_instance() {
    let backend = Backend::default();
    let watch = Watch::fixed("s", ["a", "b", "c", "d"].map(instance));
    for _ in 0..400 {
        Balance::new(watch.clone(), backend.clone()).oneshot(()).await.unwrap();
    }
    for (id, count) in backend.take_calls() {
        assert!((50..150).contains(&count), "{id}: {count} of 400");
    }
}

// Who is chosen.

#[tokio::test(start_paused = true)]
async fn only_healthy_instances_are_called_and_a_killed_one_is_out_within_a_sweep() {
    let registry = MemoryRegistry::default();
    let _sweeper = registry.spawn_sweeper();
    let backend = Backend::default();
    let balance = Balance::new(registry.watch("s"), backend.clone());
    for id in ["a", "b", "draining", "unknown"] {
        registry.register(instance(id)).await.unwrap();
    }
    for id in ["a", "b"] {
        registry.heartbeat(InstanceKey::new("s", id)).await.unwrap();
    }
    registry.drain(InstanceKey::new("s", "draining")).await.unwrap();
    call_times(&balance, 10).await;
    assert_eq!(backend.take_calls(), counts(&[("a", 5), ("b", 5)]));

    for _ in 0..8 {
        sleep(Duration::from_secs(5)).await;
        registry.heartbeat(InstanceKey::new("s", "a")).await.unwrap();
    }
    sleep(Duration::from_millis(10)).await;
    call_times(&balance, 10).await;
    assert_eq!(backend.take_calls(), counts(&[("a", 10)]));
}

#[tokio::test(start_paused = true)]
async fn a_call_that_waits_goes_on_with_the_first_instance() {
    let (publisher, _, balance) = published("");
    let call = tokio::spawn(balance.clone().oneshot(()));
    sleep(Duration::from_millis(500)).await;
    publisher.publish(vec![Arc::new(instance("a"))]);
    sleep(Duration::from_millis(100)).await;
    assert!(!call.is_finished(), "one of unknown health is not enough");
    publisher.publish(healthy("a"));
    let answer = timeout(Duration::from_millis(1), call).await.unwrap().unwrap();
    assert_eq!(answer.unwrap(), "a");
}

#[tokio::test(start_paused = true)]
async fn an_ineligible_endpoint_is_passed_over_unless_all_are() {
    let (_publisher, backend, balance) = published("abc");
    let open = Arc::new(Mutex::new(String::from("b")));
    let rule = {
        let open = open.clone();
        move |instance: &Instance, handle: &Handle| {
            assert_eq!(&*instance.id, handle.id);
            !open.lock().unwrap().contains(&*instance.id)
        }
    };
    let balance = balance.eligible(rule);
    call_times(&balance, 60).await;
    let calls = backend.take_calls();
    assert_eq!(calls.get("b"), None);
    assert!(calls["a"].abs_diff(calls["c"]) <= 2, "its share is spread evenly: {calls:?}");

    *open.lock().unwrap() = "abc".into();
    call_times(&balance, 60).await;
    assert_eq!(backend.take_calls(), counts(&[("a", 20), ("b", 20), ("c", 20)]));
}

/// Every request carries this list.
#[derive(Clone)]
struct Carries(Tried);

impl<Req, Res> Protocol<Req, Res> for Carries {
    fn tried(&self, _: &Req) -> Option<Tried> {
        Some(self.0.clone())
    }

    fn is_failure(&self, _: &Res) -> bool {
        false
    }
}

#[tokio::test(start_paused = true)]
async fn further_tries_of_a_call_go_to_other_instances_while_there_are_any() {
    let (_publisher, backend, balance) = published("abc");
    for _ in 0..20 {
        let balance = balance.clone().protocol(Carries(Tried::new()));
        call_times(&balance, 3).await;
        assert_eq!(backend.take_calls(), counts(&[("a", 1), ("b", 1), ("c", 1)]));
        balance.clone().oneshot(()).await.unwrap();
        backend.take_calls();
    }
}

#[tokio::test(start_paused = true)]
async fn a_tried_but_eligible_endpoint_is_better_than_an_ineligible_one() {
    let (_publisher, backend, balance) = published("ab");
    let balance = balance
        .eligible(|instance: &Instance, _: &Handle| &*instance.id == "a")
        .pick(LeastLoaded::new())
        .protocol(Carries(Tried::new()));
    call_times(&balance, 5).await;
    assert_eq!(backend.take_calls(), counts(&[("a", 5)]));
}

#[tokio::test(start_paused = true)]
async fn an_own_rule_is_a_closure_and_its_none_or_nonsense_is_a_refusal() {
    let (_publisher, _, balance) = published("ab");
    let second = |_: &(), candidates: &Candidates<'_>| {
        (0..candidates.len()).rev().find(|&index| candidates.may_pick(index))
    };
    assert_eq!(balance.clone().pick(second).oneshot(()).await.unwrap(), "b");
    let chosen: Arc<dyn Pick<()> + Send + Sync> = Arc::new(LeastLoaded::new());
    balance.clone().pick(chosen).oneshot(()).await.unwrap();

    for nonsense in [None, Some(7)] {
        let rule = move |_: &(), _: &Candidates<'_>| nonsense;
        let error = balance.clone().pick(rule).oneshot(()).await.unwrap_err();
        assert!(error.is::<NoInstance>(), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_fails_at_once_is_not_preferred_and_comes_back_by_time_alone() {
    let (_publisher, backend, balance) = published("abc");
    let balance = balance.pick(LeastLoaded::new());
    backend.play("a", Script::Fail);
    // With two calls under way on each of the others, a rule that only counts calls would always choose the failing one.
    for id in ["b", "c"] {
        backend.play(id, Script::Hang);
    }
    let mut hanging = Vec::new();
    while balance
        .endpoints()
        .iter()
        .any(|endpoint| &*endpoint.instance.id != "a" && endpoint.pending < 2)
    {
        let mut call = task::spawn(balance.clone().oneshot(()));
        if call.poll().is_pending() {
            hanging.push(call);
        }
    }
    for id in ["b", "c"] {
        backend.play(id, Script::Answer);
    }
    backend.take_calls();
    call_times(&balance, 1_000).await;
    let failed = backend.take_calls().get("a").copied().unwrap_or_default();
    assert!(failed < 50, "{failed} of 1000 went to the one that fails");

    backend.play("a", Script::Answer);
    drop(hanging);
    sleep(Duration::from_secs(40)).await;
    call_times(&balance, 900).await;
    assert!(backend.take_calls()["a"] > 200);
}

#[tokio::test(start_paused = true)]
async fn the_less_loaded_of_two_is_chosen() {
    let (_publisher, backend, balance) = published("ab");
    let balance = balance.pick(LeastLoaded::new());
    for id in ["a", "b"] {
        backend.play(id, Script::Hang);
    }
    let mut calls: Vec<_> = (0..40).map(|_| task::spawn(balance.clone().oneshot(()))).collect();
    for call in &mut calls {
        assert_pending!(call.poll());
    }
    let pending =
        |endpoints: Vec<Endpoint>| endpoints.iter().map(|e| e.pending).collect::<Vec<_>>();
    assert_eq!(pending(balance.endpoints()), [20, 20]);
    drop(calls);
    assert_eq!(pending(balance.endpoints()), [0, 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_that_comes_just_as_a_call_begins_to_wait_is_not_missed() {
    let (publisher, _, balance) = published("");
    let balance = balance.wait(Duration::from_secs(60));
    for _ in 0..2_000 {
        publisher.publish(vec![]);
        let call = tokio::spawn(balance.clone().oneshot(()));
        let publishing = publisher.clone();
        tokio::spawn(async move { publishing.publish(healthy("a")) });
        timeout(Duration::from_secs(20), call).await.unwrap().unwrap().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_of_the_caller_is_no_failure_of_the_endpoint() {
    let (_publisher, backend, balance) = published("a");
    backend.play("a", Script::Hang);
    let mut call = task::spawn(balance.clone().oneshot(()));
    assert_pending!(call.poll());
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
        let _held = call;
        panic!("bug of the caller");
    }));
    assert!(caught.is_err());
    let endpoint = &balance.endpoints()[0];
    assert_eq!((endpoint.pending, endpoint.failure_ratio), (0, 0.0));
}

// What a call holds, and what endpoints are kept.

#[tokio::test(start_paused = true)]
async fn a_dropped_call_gives_back_its_load_whatever_it_was_waiting_for() {
    let (publisher, backend, balance) = published("");
    let mut waiting = task::spawn(balance.clone().oneshot(()));
    assert_pending!(waiting.poll());
    drop(waiting);
    publisher.publish(healthy("a"));
    for script in [Script::Unready, Script::Hang] {
        backend.play("a", script);
        let mut call = task::spawn(balance.clone().oneshot(()));
        assert_pending!(call.poll());
        assert_eq!(balance.endpoints()[0].pending, 1);
        drop(call);
        let endpoint = &balance.endpoints()[0];
        assert_eq!((endpoint.pending, endpoint.failure_ratio), (0, 0.0), "after {script:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_gives_back_the_load_at_once_and_is_a_failure() {
    let (_publisher, backend, balance) = published("a");
    backend.play("a", Script::Panic);
    let mut call = task::spawn(balance.clone().oneshot(()));
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| call.poll().is_ready()));
    assert!(caught.is_err());
    let endpoint = &balance.endpoints()[0];
    assert_eq!(endpoint.pending, 0, "although the future still exists");
    assert!(endpoint.failure_ratio > 0.0);
    backend.play("a", Script::Answer);
    balance.clone().oneshot(()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_call_to_an_endpoint_that_is_not_ready_is_woken_when_it_is() {
    let make = |_: &Instance| {
        let slow = tower::service_fn(|(): ()| async {
            sleep(Duration::from_secs(1)).await;
            Ok::<_, Refused>(())
        });
        tower::limit::ConcurrencyLimit::new(slow, 1)
    };
    let balance = Balance::fixed([instance("a")], make);
    let begin = Instant::now();
    let calls: Vec<_> = (0..3).map(|_| tokio::spawn(balance.clone().oneshot(()))).collect();
    for call in calls {
        call.await.unwrap().unwrap();
    }
    assert_eq!(begin.elapsed().as_millis(), 3_000);
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_is_ready_has_the_request_before_the_future_is_polled() {
    let (publisher, backend, mut balance) = published("a");
    let answer = balance.call(());
    assert_eq!(backend.take_calls(), counts(&[("a", 1)]));
    // So nothing that happens now sends it elsewhere.
    publisher.publish(healthy("b"));
    assert_eq!(answer.await.unwrap(), "a");
    drop(balance.call(()));
    assert!(balance.endpoints().iter().all(|endpoint| endpoint.pending == 0));
}

#[tokio::test(start_paused = true)]
async fn errors_of_the_endpoint_come_out_as_they_are() {
    let (_publisher, backend, balance) = published("a");
    for (script, error) in [(Script::FailReadiness, Refused(1)), (Script::Fail, Refused(2))] {
        backend.play("a", script);
        let answer = task::spawn(balance.clone().oneshot(())).poll();
        let found: gusset_call::BoxError = assert_ready_err!(answer);
        assert_eq!(found.downcast_ref::<Refused>(), Some(&error));
    }
}

#[tokio::test(start_paused = true)]
async fn endpoints_are_kept_across_updates_and_made_anew_at_another_address() {
    let (publisher, backend, balance) = published("ab");
    call_times(&balance, 4).await;
    assert_eq!(backend.0.made.load(SeqCst), 2);

    let elsewhere = |instance: Instance| Arc::new(instance.with_health(Health::Healthy));
    publisher.publish(vec![
        elsewhere(instance("a").with_zone("z").with_version("2").with_tag("t")),
        elsewhere(instance("b").with_weight(NonZeroU32::MAX).with_metadata("build", "7")),
        elsewhere(instance("c")),
    ]);
    call_times(&balance, 6).await;
    assert_eq!(backend.0.made.load(SeqCst), 3, "only the new one was made");

    let mut made = 3;
    for other in [
        Instance::new("s", "other", 1).with_id("a"),
        Instance::new("s", "other", 2).with_id("a"),
        Instance::new("s", "other", 2).with_id("a").with_incarnation(1),
        Instance::new("s", "other", 2).with_id("a").with_incarnation(2),
    ] {
        publisher.publish(vec![elsewhere(other)]);
        call_times(&balance, 2).await;
        made += 1;
        assert_eq!((backend.0.made.load(SeqCst), backend.0.alive.load(SeqCst)), (made, 1));
    }
}

/// Where the scheme of an instance matters.
#[derive(Clone)]
struct Schemes(Backend);

impl MakeEndpoint for Schemes {
    type Service = Handle;

    fn make(&self, instance: &Instance) -> Handle {
        self.0.make(instance)
    }

    fn still_reaches(&self, made_for: &Instance, now: &Instance) -> bool {
        made_for.metadata.get("scheme") == now.metadata.get("scheme")
    }
}

#[tokio::test(start_paused = true)]
async fn a_maker_that_reads_metadata_says_when_an_endpoint_is_reached_in_another_way() {
    let (publisher, backend) = (Publisher::new("s"), Backend::default());
    let balance = Balance::new(publisher.watch(), Schemes(backend.clone()));
    let ruled = balance.clone().eligible(|_: &Instance, _: &Handle| true);
    for (scheme, build, made) in [("http", "1", 1), ("http", "2", 0), ("https", "2", 1)] {
        let is = instance("a").with_metadata("scheme", scheme).with_metadata("build", build);
        publisher.publish(vec![Arc::new(is.with_health(Health::Healthy))]);
        call_times(&balance, 2).await;
        assert_eq!(backend.0.made.swap(0, SeqCst), made);
        call_times(&ruled, 2).await;
        assert_eq!(backend.0.made.swap(0, SeqCst), made, "a rule changes nothing in that");
    }
}

#[tokio::test(start_paused = true)]
async fn the_endpoint_of_one_that_left_is_dropped_after_its_last_call() {
    let (publisher, backend, balance) = published("a");
    backend.play("a", Script::Hang);
    let mut call = task::spawn(balance.clone().oneshot(()));
    assert_pending!(call.poll());
    publisher.publish(healthy("b"));
    call_times(&balance, 1).await;
    assert_eq!(backend.0.alive.load(SeqCst), 2, "its call is still under way");
    drop(call);
    assert_eq!(backend.0.alive.load(SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn a_service_whose_readiness_failed_is_made_anew_and_its_failures_still_count() {
    let (_publisher, backend, balance) = published("a");
    backend.play("a", Script::FailReadiness);
    call_times(&balance, 3).await;
    assert_eq!(backend.0.made.load(SeqCst), 3);
    assert!(balance.endpoints()[0].failure_ratio > 0.5);
    assert_eq!(backend.0.alive.load(SeqCst), 0, "the last broken one is gone, too");
}

#[tokio::test(start_paused = true)]
async fn clones_share_endpoints_and_turns() {
    let (_publisher, backend, balance) = published("ab");
    let clones: Vec<_> = (0..10).map(|_| balance.clone()).collect();
    for clone in clones {
        clone.oneshot(()).await.unwrap();
    }
    assert_eq!(backend.take_calls(), counts(&[("a", 5), ("b", 5)]));
    assert_eq!(backend.0.made.load(SeqCst), 2);
}

#[cfg(feature = "http")]
#[tokio::test(start_paused = true)]
async fn over_http_the_list_of_tries_is_an_extension_and_5xx_is_a_failure() {
    use http::{Request, Response};

    let watch = Watch::fixed("s", ["a", "b"].map(instance));
    let make = |instance: &Instance| {
        let id = instance.id.clone();
        tower::service_fn(move |_: Request<()>| {
            let status = if &*id == "a" { 503 } else { 200 };
            std::future::ready(Response::builder().status(status).body(id.to_string()))
        })
    };
    let balance = Balance::new(watch, make).protocol(gusset_registry::Http);
    for _ in 0..10 {
        let tried = Tried::new();
        let mut answered_by = Vec::new();
        for _ in 0..2 {
            let mut request = Request::new(());
            request.extensions_mut().insert(tried.clone());
            answered_by.push(balance.clone().oneshot(request).await.unwrap().into_body());
        }
        answered_by.sort();
        assert_eq!(answered_by, ["a", "b"]);
        assert!(tried.contains("a") && tried.contains("b"));
    }
    let ratios: Vec<_> =
        balance.endpoints().iter().map(|endpoint| endpoint.failure_ratio).collect();
    assert!(ratios[0] > 0.5 && ratios[1] == 0.0, "{ratios:?}");
}

#[test]
fn the_types_can_be_named_shared_and_sent() {
    fn shared<T: Clone + Send + Sync + 'static>() {}
    fn sent<T: Send>() {}
    shared::<Balance<Backend>>();
    shared::<Balance<Backend, LeastLoaded, Opaque>>();
    sent::<ResponseFuture<Backend, RoundRobin, Opaque, ()>>();
}
