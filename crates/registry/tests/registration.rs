//! A registration as the service that owns it sees it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod faulty;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering::SeqCst},
    },
    time::Duration,
};

use faulty::{Mode, Remote};
use gusset_registry::{
    Balance, Error, Health, Instance, MemoryRegistry, Registration, RegistrationState, Registry,
};
use tokio::time::{Instant, sleep, timeout};
use tower::{ServiceExt, service_fn};

fn spawn(remote: &Remote) -> Registration {
    Registration::spawn(remote.clone(), Instance::new("cart", "h", 1).with_id("a"))
}

async fn retrying(limit: Duration, registration: &Registration) {
    let mut state = registration.subscribe();
    let reached = state.wait_for(|state| matches!(state, RegistrationState::Retrying { .. }));
    timeout(limit, reached).await.unwrap().unwrap();
}

async fn within(limit: Duration, registration: &Registration, wanted: RegistrationState) {
    let mut state = registration.subscribe();
    let reached = state.wait_for(|state| *state == wanted);
    timeout(limit, reached)
        .await
        .unwrap_or_else(|_| panic!("not {wanted:?} in {limit:?}"))
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn heartbeats_come_every_third_of_the_ttl_or_a_fifth_sooner() {
    let remote = Remote::default();
    let _sweeper = remote.engine().spawn_sweeper();
    let registration = spawn(&remote);
    registration.registered().await.unwrap();
    sleep(Duration::from_secs(3_600)).await;
    let beats = remote.heartbeats.load(SeqCst);
    assert!((360..=450).contains(&beats), "{beats} in an hour");
    assert_eq!(remote.registers.load(SeqCst), 1);
    assert_eq!(remote.health().await, Some(Health::Healthy));
}

#[tokio::test(start_paused = true)]
async fn many_registrations_do_not_beat_in_step() {
    let remote = Remote::default();
    let crowd: Vec<_> = (0..100)
        .map(|n| Registration::spawn(remote.clone(), Instance::new("cart", "h", n)))
        .collect();
    sleep(Duration::from_secs(300)).await;
    let before = remote.heartbeats.load(SeqCst);
    sleep(Duration::from_secs(1)).await;
    let within_a_second = remote.heartbeats.load(SeqCst) - before;
    assert!((1..50).contains(&within_a_second), "{within_a_second} of 100");
    drop(crowd);
}

#[tokio::test(start_paused = true)]
async fn one_that_was_forgotten_is_back_within_a_heartbeat() {
    let remote = Remote::default();
    let registration = spawn(&remote);
    registration.registered().await.unwrap();
    remote.restart_empty();
    assert_eq!(remote.health().await, None);
    sleep(Duration::from_secs(10)).await;
    assert_eq!(remote.health().await, Some(Health::Healthy));
    assert_eq!(registration.state(), RegistrationState::Registered);
}

#[tokio::test(start_paused = true)]
async fn one_that_was_evicted_is_back_as_well() {
    let remote = Remote::default();
    let _sweeper = remote.engine().spawn_sweeper();
    let registration = spawn(&remote);
    registration.registered().await.unwrap();
    remote.set(Mode::Frozen);
    retrying(Duration::from_secs(16), &registration).await;
    sleep(Duration::from_secs(120)).await;
    assert_eq!(remote.health().await, None);
    remote.set(Mode::Up);
    within(Duration::from_secs(10), &registration, RegistrationState::Registered).await;
    assert_eq!(remote.health().await, Some(Health::Healthy));
}

#[tokio::test(start_paused = true)]
async fn an_outage_of_hours_is_survived_and_the_registry_is_not_flooded() {
    let remote = Remote::default();
    let registration = spawn(&remote);
    registration.registered().await.unwrap();
    remote.set(Mode::Down);
    retrying(Duration::from_secs(10), &registration).await;
    sleep(Duration::from_secs(3_600)).await;
    let attempts = remote.failed.load(SeqCst);
    assert!((720..1_500).contains(&attempts), "{attempts} in an hour");
    remote.restart_empty();
    remote.set(Mode::Up);
    within(Duration::from_secs(5), &registration, RegistrationState::Registered).await;
    assert_eq!(remote.health().await, Some(Health::Healthy));
}

#[tokio::test(start_paused = true)]
async fn a_service_may_start_before_its_registry() {
    let remote = Remote::default();
    remote.set(Mode::Down);
    let registration = spawn(&remote);
    assert!(timeout(Duration::from_secs(60), registration.registered()).await.is_err());
    retrying(Duration::ZERO, &registration).await;
    assert!(registration.last_error().unwrap().to_string().contains("unavailable"));
    remote.set(Mode::Up);
    timeout(Duration::from_secs(5), registration.registered()).await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn draining_lasts_through_a_registry_that_forgets() {
    let remote = Remote::default();
    let registration = spawn(&remote);
    registration.registered().await.unwrap();
    registration.drain().await;
    assert_eq!(remote.health().await, Some(Health::Draining));
    remote.restart_empty();
    sleep(Duration::from_secs(10)).await;
    assert_eq!(remote.health().await, Some(Health::Draining));
    assert_eq!(registration.state(), RegistrationState::Draining);
}

#[tokio::test(start_paused = true)]
async fn closing_drains_first_and_then_deregisters() {
    let remote = Remote::default();
    let registration = spawn(&remote);
    registration.registered().await.unwrap();
    let state = registration.subscribe();
    let before = remote.watch("cart").snapshot().version();
    registration.close().await.unwrap();
    assert_eq!(remote.health().await, None);
    assert_eq!(remote.watch("cart").snapshot().version(), before + 2, "draining, then gone");
    assert_eq!(*state.borrow(), RegistrationState::Ended);
}

#[tokio::test(start_paused = true)]
async fn closing_ends_within_bounds_when_the_registry_is_frozen_and_says_so() {
    let remote = Remote::default();
    let registration = spawn(&remote);
    registration.registered().await.unwrap();
    remote.set(Mode::Frozen);
    let begin = Instant::now();
    let error = registration.close().await.unwrap_err();
    assert!(matches!(error, Error::Unavailable(_)), "{error}");
    assert!(begin.elapsed() <= Duration::from_millis(10_010), "{:?}", begin.elapsed());
}

#[tokio::test(start_paused = true)]
async fn closing_in_an_outage_says_so_and_the_ttl_does_the_rest() {
    let remote = Remote::default();
    let _sweeper = remote.engine().spawn_sweeper();
    let registration = spawn(&remote);
    registration.registered().await.unwrap();
    remote.set(Mode::Down);
    let error = registration.close().await.unwrap_err();
    assert!(matches!(error, Error::Unavailable(_)), "{error}");
    let failed = remote.failed.load(SeqCst);
    sleep(Duration::from_secs(32)).await;
    assert_eq!(remote.health().await, Some(Health::Unhealthy));
    assert_eq!(remote.failed.load(SeqCst), failed, "nobody keeps trying");
}

/// `close_after` waits for the draining, for the grace, and for the task.
#[tokio::test(start_paused = true)]
async fn a_close_that_is_dropped_in_any_of_its_waits_deregisters_all_the_same() {
    for dropped_after in [0, 50, 100, 150, 1_050, 1_100, 1_150, 1_250] {
        let remote = Remote::default();
        let registration = spawn(&remote);
        registration.registered().await.unwrap();
        remote.answers_after(Duration::from_millis(100));
        let mut state = registration.subscribe();
        let close = registration.close_after(Duration::from_secs(1));
        let _ = timeout(Duration::from_millis(dropped_after), close).await;
        let ended = state.wait_for(|state| *state == RegistrationState::Ended);
        timeout(Duration::from_secs(1), ended).await.unwrap().unwrap();
        assert_eq!(remote.health().await, None, "dropped after {dropped_after} ms");
    }
}

#[tokio::test(start_paused = true)]
async fn a_drain_that_is_dropped_in_its_wait_is_carried_out() {
    let remote = Remote::default();
    let registration = spawn(&remote);
    registration.registered().await.unwrap();
    remote.set(Mode::Down);
    retrying(Duration::from_secs(10), &registration).await;
    assert!(timeout(Duration::from_secs(1), registration.drain()).await.is_err());
    assert!(timeout(Duration::from_secs(1), registration.registered()).await.is_err());
    remote.set(Mode::Up);
    within(Duration::from_secs(5), &registration, RegistrationState::Draining).await;
    assert_eq!(remote.health().await, Some(Health::Draining));
}

#[tokio::test(start_paused = true)]
async fn closing_a_registration_that_is_not_known_is_fine() {
    let remote = Remote::default();
    let registration = spawn(&remote);
    registration.registered().await.unwrap();
    remote.restart_empty();
    registration.close().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn dropping_it_deregisters_and_ends_the_task() {
    let remote = Remote::default();
    let registration = spawn(&remote);
    registration.registered().await.unwrap();
    let mut state = registration.subscribe();
    drop(registration);
    state.wait_for(|state| *state == RegistrationState::Ended).await.unwrap();
    assert_eq!(remote.health().await, None);
    let beats = remote.heartbeats.load(SeqCst);
    sleep(Duration::from_secs(3_600)).await;
    assert_eq!(remote.heartbeats.load(SeqCst), beats);
}

#[tokio::test(start_paused = true)]
async fn a_close_that_is_dropped_deregisters_all_the_same() {
    let remote = Remote::default();
    let registration = spawn(&remote);
    registration.registered().await.unwrap();
    let mut state = registration.subscribe();
    let mut close = tokio_test::task::spawn(registration.close());
    tokio_test::assert_pending!(close.poll());
    drop(close);
    state.wait_for(|state| *state == RegistrationState::Ended).await.unwrap();
    assert_eq!(remote.health().await, None);
}

#[tokio::test(start_paused = true)]
async fn one_that_is_dropped_before_it_was_registered_leaves_nothing_behind() {
    let remote = Remote::default();
    drop(spawn(&remote));
    sleep(Duration::from_secs(60)).await;
    assert_eq!(remote.health().await, None);
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_panics_is_an_outage_like_any_other() {
    let remote = Remote::default();
    remote.set(Mode::Panics);
    let registration = spawn(&remote);
    assert!(timeout(Duration::from_secs(60), registration.registered()).await.is_err());
    assert!(format!("{:?}", registration.last_error()).contains("panicked"));
    remote.set(Mode::Up);
    within(Duration::from_secs(5), &registration, RegistrationState::Registered).await;
    remote.set(Mode::Panics);
    assert!(registration.close().await.is_err());
}

#[tokio::test(start_paused = true)]
async fn the_time_since_when_it_is_retrying_does_not_move() {
    let remote = Remote::default();
    let registration = spawn(&remote);
    registration.registered().await.unwrap();
    remote.set(Mode::Down);
    retrying(Duration::from_secs(10), &registration).await;
    let first = registration.state();
    sleep(Duration::from_secs(600)).await;
    assert_eq!(registration.state(), first);
}

#[tokio::test(start_paused = true)]
async fn of_two_registrations_of_one_id_the_younger_stays_whatever_the_older_does() {
    let remote = Remote::default();
    let old = spawn(&remote);
    old.registered().await.unwrap();
    let young = spawn(&remote);
    young.registered().await.unwrap();
    assert!(young.instance().incarnation > old.instance().incarnation);
    within(Duration::from_secs(10), &old, RegistrationState::Lost).await;
    assert!(matches!(*old.last_error().unwrap(), Error::Superseded { .. }));
    old.close().await.unwrap();
    assert_eq!(remote.health().await, Some(Health::Healthy));
    assert_eq!(young.state(), RegistrationState::Registered);
}

#[tokio::test(start_paused = true)]
async fn the_older_is_back_when_the_younger_has_gone() {
    let remote = Remote::default();
    let old = spawn(&remote);
    old.registered().await.unwrap();
    let young = spawn(&remote);
    young.registered().await.unwrap();
    within(Duration::from_secs(10), &old, RegistrationState::Lost).await;
    young.close().await.unwrap();
    within(Duration::from_secs(10), &old, RegistrationState::Registered).await;
    assert_eq!(remote.health().await, Some(Health::Healthy));
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_cannot_be_is_refused_at_once_and_says_why() {
    let remote = Remote::default();
    let registration = Registration::spawn(remote.clone(), Instance::new("cart", "a b", 1));
    let error = registration.registered().await.unwrap_err().to_string();
    assert_eq!(registration.state(), RegistrationState::Lost);
    assert_eq!(error, "host \"a b\" is neither an IP address nor a host name");
    registration.drain().await;
}

#[tokio::test(start_paused = true)]
async fn a_pause_of_our_own_process_costs_one_heartbeat() {
    let remote = Remote::default();
    let _sweeper = remote.engine().spawn_sweeper();
    let registration = spawn(&remote);
    registration.registered().await.unwrap();
    tokio::time::advance(Duration::from_secs(3_600)).await;
    remote.restart_empty();
    sleep(Duration::from_millis(10)).await;
    assert_eq!(remote.health().await, Some(Health::Healthy));
}

#[tokio::test(start_paused = true)]
async fn a_restarted_registry_has_all_back_within_a_heartbeat_and_a_backoff() {
    let remote = Remote::default();
    let crowd: Vec<_> = (0..20)
        .map(|n| Registration::spawn(remote.clone(), Instance::new("cart", "h", n)))
        .collect();
    for registration in &crowd {
        registration.registered().await.unwrap();
    }
    remote.set(Mode::Down);
    sleep(Duration::from_secs(300)).await;
    remote.restart_empty();
    remote.set(Mode::Up);
    sleep(Duration::from_secs(5)).await;
    let snapshot = remote.engine().discover("cart").await.unwrap();
    assert_eq!(snapshot.healthy().count(), 20);
}

#[tokio::test(start_paused = true)]
async fn two_thousand_clients_come_back_without_a_herd() {
    let remote = Remote::default();
    let crowd: Vec<_> = (0..2_000)
        .map(|n| Registration::spawn(remote.clone(), Instance::new("cart", "h", n)))
        .collect();
    for registration in &crowd {
        registration.registered().await.unwrap();
    }
    remote.set(Mode::Down);
    sleep(Duration::from_secs(60)).await;
    remote.restart_empty();
    remote.set(Mode::Up);
    let (mut peak, mut before) = (0, remote.registers.load(SeqCst));
    for _ in 0..60 {
        sleep(Duration::from_millis(100)).await;
        let now = remote.registers.load(SeqCst);
        (peak, before) = (peak.max(now - before), now);
    }
    assert_eq!(remote.engine().stats().instances, 2_000);
    assert!(peak <= 150, "{peak} within 100 ms");
    drop(crowd);
}

/// A server that answers what reaches it in 20 ms, until it is stopped.
#[derive(Clone, Default)]
struct Server(Arc<AtomicBool>);

#[tokio::test(start_paused = true)]
async fn a_rolling_restart_under_load_loses_no_request() {
    let registry = MemoryRegistry::default();
    let _sweeper = registry.spawn_sweeper();
    let stopped: [Server; 3] = Default::default();
    let start = |n: u16| {
        stopped[usize::from(n)].0.store(false, SeqCst);
        Registration::spawn(registry.clone(), Instance::new("cart", "h", n))
    };
    let mut running: Vec<_> = (0..3).map(start).collect();
    for registration in &running {
        registration.registered().await.unwrap();
    }
    let servers = stopped.clone();
    let balance = Balance::new(registry.watch("cart"), move |instance: &Instance| {
        let server = servers[usize::from(instance.port)].clone();
        service_fn(move |_: ()| {
            let server = server.clone();
            async move {
                // Connecting takes some time, too; then it counts whether it is still there.
                sleep(Duration::from_millis(5)).await;
                let there = !server.0.load(SeqCst);
                sleep(Duration::from_millis(20)).await;
                if there { Ok(()) } else { Err(std::io::Error::other("refused")) }
            }
        })
    });
    let (sent, lost) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let clients: Vec<_> = (0..20)
        .map(|n| {
            let (balance, sent, lost) = (balance.clone(), sent.clone(), lost.clone());
            tokio::spawn(async move {
                sleep(Duration::from_millis(n)).await;
                loop {
                    sent.fetch_add(1, SeqCst);
                    if balance.clone().oneshot(()).await.is_err() {
                        lost.fetch_add(1, SeqCst);
                    }
                }
            })
        })
        .collect();
    for n in 0..3 {
        running.remove(0).close_after(Duration::from_millis(50)).await.unwrap();
        stopped[usize::from(n)].0.store(true, SeqCst);
        sleep(Duration::from_millis(500)).await;
        let registration = start(n);
        registration.registered().await.unwrap();
        running.push(registration);
    }
    let (sent, lost) = (sent.load(SeqCst), lost.load(SeqCst));
    assert!(sent > 1_000, "{sent}");
    assert_eq!(lost, 0, "of {sent}");
    clients.iter().for_each(tokio::task::JoinHandle::abort);
}
