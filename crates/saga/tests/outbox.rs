//! What steps emit is sent at least once and in order, whatever fails.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::{
    collections::{HashMap, HashSet},
    future::{Future, pending, poll_fn},
    ops::RangeInclusive,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use gusset_call::{Context, TraceState};
use gusset_saga::{
    BoxError, Definition, MemoryStore, MessageId, Orchestrator, OutboxRelay, Outgoing,
    RelayOptions, Retention, Saga, SagaId, StepContext, StepError, Store,
};
use proptest::prelude::*;
use rand::RngExt;
use tokio::time::{Instant, sleep, timeout};

const SECOND: Duration = Duration::from_secs(1);

/// Two messages from each of three steps.
fn talks() -> Definition<(), ()> {
    let mut saga = Saga::define("talks", 1);
    for step in ["a", "b", "c"] {
        saga.step(step)
            .run(|cx, (): ()| async move {
                cx.emit("first", cx.step()).map_err(StepError::rejected)?;
                cx.emit("second", cx.step()).map_err(StepError::rejected)
            })
            .no_undo();
    }
    saga.finish(()).unwrap()
}

fn id(text: impl ToString) -> SagaId {
    text.to_string().parse().unwrap()
}

/// Whatever it is sent.
#[derive(Clone, Default)]
struct Broker {
    sent: Arc<Mutex<Vec<MessageId>>>,
    busy: Arc<AtomicUsize>,
    busiest: Arc<AtomicUsize>,
}

struct Busy(Arc<AtomicUsize>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl Broker {
    fn enter(&self) -> Busy {
        let busy = self.busy.fetch_add(1, Relaxed) + 1;
        self.busiest.fetch_max(busy, Relaxed);
        Busy(self.busy.clone())
    }

    fn takes(&self, message: Outgoing) {
        self.sent.lock().unwrap().push(message.id);
    }

    fn sent(&self) -> Vec<MessageId> {
        self.sent.lock().unwrap().clone()
    }

    /// How often each came, if the first of each came after the ones before it.
    fn in_order(&self) -> HashMap<MessageId, usize> {
        let mut times = HashMap::new();
        let mut last: HashMap<SagaId, MessageId> = HashMap::new();
        for id in self.sent() {
            let known = times.entry(id.clone()).and_modify(|times| *times += 1).or_insert(1);
            if *known == 1 {
                let before = last.insert(id.saga.clone(), id.clone());
                assert!(before.is_none_or(|before| before < id), "{id} came late");
            }
        }
        times
    }

    /// Each of these sagas has six messages here, and so often.
    fn has_all(&self, sagas: usize, times: RangeInclusive<usize>) {
        let sent = self.in_order();
        assert_eq!(sent.len(), 6 * sagas);
        for (id, came) in sent {
            assert!(times.contains(&came), "{id} came {came} times");
        }
    }
}

async fn talk(sagas: &Orchestrator, names: impl IntoIterator<Item = SagaId>) {
    let talks = talks();
    for saga in names {
        sagas.run_as(&talks, saga, ()).await.unwrap();
    }
}

async fn until_empty(store: &impl Store) {
    let empty = async {
        while store.pending().await.unwrap().messages > 0 {
            sleep(SECOND / 100).await;
        }
    };
    timeout(3_600 * SECOND, empty).await.unwrap();
}

fn on(store: &MemoryStore) -> Arc<dyn Store> {
    Arc::new(store.clone())
}

#[tokio::test(start_paused = true)]
async fn messages_of_many_sagas_arrive_once_and_in_order_and_so_many_at_a_time() {
    let (store, broker) = (MemoryStore::new(), Broker::default());
    let sagas = Orchestrator::new(store.clone());
    let target = {
        let broker = broker.clone();
        move |message| {
            let broker = broker.clone();
            async move {
                let _busy = broker.enter();
                let wait = Duration::from_millis(rand::rng().random_range(0..50));
                sleep(wait).await;
                broker.takes(message);
                Ok::<_, BoxError>(())
            }
        }
    };
    let relay = sagas.spawn_relay(target, RelayOptions::default().at_once(7));
    talk(&sagas, (0..300).map(id)).await;
    until_empty(&store).await;
    broker.has_all(300, 1..=1);
    assert_eq!(broker.busiest.load(Relaxed), 7);
    assert_eq!((relay.stats().relayed, relay.stats().failures), (1_800, 0));
}

#[tokio::test(start_paused = true)]
async fn what_a_step_emits_is_sent_at_once_and_not_when_somebody_looks() {
    let (sagas, broker) = (Orchestrator::new(MemoryStore::new()), Broker::default());
    let relay = {
        let broker = broker.clone();
        let target = move |message| {
            broker.takes(message);
            async { Ok::<_, BoxError>(()) }
        };
        sagas.spawn_relay(target, RelayOptions::default().look_every(3_600 * SECOND))
    };
    sleep(SECOND).await;
    let start = Instant::now();
    talk(&sagas, [id("a")]).await;
    while broker.sent().len() < 6 {
        sleep(Duration::from_millis(1)).await;
    }
    assert!(start.elapsed() < SECOND / 20, "{:?}", start.elapsed());
    relay.close().await;
    broker.has_all(1, 1..=1);
}

#[tokio::test(start_paused = true)]
async fn a_target_that_fails_holds_only_the_later_messages_of_that_saga() {
    let (store, broker) = (MemoryStore::new(), Broker::default());
    let sagas = Orchestrator::new(store.clone());
    let tries = Arc::new(AtomicUsize::new(0));
    let target = {
        let (broker, tries) = (broker.clone(), tries.clone());
        move |message: Outgoing| {
            let (broker, tries) = (broker.clone(), tries.clone());
            async move {
                // Its second message, until the target is well again.
                if message.id.saga.as_str() == "50" && message.id.index == 1 {
                    match tries.fetch_add(1, Relaxed) {
                        0 => return Err("not now"),
                        1 => panic!("a bug"),
                        2 => pending().await,
                        3..20 => return Err("not now"),
                        _ => {}
                    }
                }
                broker.takes(message);
                Ok(())
            }
        }
    };
    let relay = sagas.spawn_relay(target, RelayOptions::default().at_once(2));
    talk(&sagas, (0..100).map(id)).await;
    sleep(SECOND).await;
    let of_it =
        |broker: &Broker| broker.sent().into_iter().filter(|id| id.saga.as_str() == "50").count();
    assert_eq!((broker.sent().len(), of_it(&broker)), (99 * 6 + 1, 1), "all but its later ones");
    let pending = store.pending().await.unwrap();
    assert_eq!((pending.messages, pending.failing), (5, 1));
    assert!(pending.oldest.unwrap() >= SECOND);
    until_empty(&store).await;
    broker.has_all(100, 1..=1);
    // It fails at each of the three messages with that index, but only the first meets a target that fails.
    assert_eq!(relay.stats().failures, 20);
    assert_eq!(store.pending().await.unwrap().failing, 0);
}

#[tokio::test(start_paused = true)]
async fn pauses_between_failures_grow_up_to_the_bound() {
    let store = MemoryStore::new();
    let sagas = Orchestrator::new(store.clone());
    talk(&sagas, [id("a")]).await;
    let target = |_| async { Err::<(), _>("never") };
    let bound = RelayOptions::default().backoff(SECOND / 10, 10 * SECOND);
    let relay = OutboxRelay::spawn(on(&store), target, bound);
    sleep(1_000 * SECOND).await;
    // Seven pauses before the bound, and then one of 5 s in the mean.
    let failures = relay.stats().failures;
    assert!((120..400).contains(&failures), "{failures}");
}

#[tokio::test(start_paused = true)]
async fn a_relay_that_stops_ends_what_is_under_way_and_gives_the_rest_back_at_once() {
    let (store, broker) = (MemoryStore::new(), Broker::default());
    let sagas = Orchestrator::new(store.clone());
    talk(&sagas, (0..20).map(id)).await;
    let target = {
        let broker = broker.clone();
        move |message| {
            let broker = broker.clone();
            async move {
                sleep(SECOND).await;
                broker.takes(message);
                Ok::<_, BoxError>(())
            }
        }
    };
    let relay = OutboxRelay::spawn(on(&store), target.clone(), RelayOptions::default());
    sleep(SECOND * 3 / 2).await;
    let begin = Instant::now();
    relay.close().await;
    assert!(begin.elapsed() < SECOND);
    assert_eq!(broker.sent().len(), 40);
    assert_eq!(store.pending().await.unwrap().messages, 80);
    let other = OutboxRelay::spawn(on(&store), target, RelayOptions::default());
    until_empty(&store).await;
    assert!(begin.elapsed() < 6 * SECOND, "it need not wait for a lease");
    other.close().await;
    broker.has_all(20, 1..=1);
}

#[tokio::test(start_paused = true)]
async fn what_a_dead_relay_had_in_hand_is_sent_again_under_the_same_id_after_its_lease() {
    let (store, broker) = (MemoryStore::new(), Broker::default());
    let sagas = Orchestrator::new(store.clone());
    talk(&sagas, (0..9).map(id)).await;
    let dying = {
        let broker = broker.clone();
        move |message| {
            broker.takes(message);
            pending::<Result<(), BoxError>>()
        }
    };
    let relay = OutboxRelay::spawn(on(&store), dying, RelayOptions::default());
    sleep(SECOND / 10).await;
    drop(relay);
    assert_eq!(broker.sent().len(), 9);
    let living = {
        let broker = broker.clone();
        move |message| {
            broker.takes(message);
            async { Ok::<_, BoxError>(()) }
        }
    };
    let begin = Instant::now();
    let _relay = OutboxRelay::spawn(on(&store), living, RelayOptions::default());
    until_empty(&store).await;
    assert!((29 * SECOND..33 * SECOND).contains(&begin.elapsed()), "{:?}", begin.elapsed());
    broker.has_all(9, 1..=2);
}

#[tokio::test(start_paused = true)]
async fn two_relays_share_the_work_and_send_nothing_twice() {
    let store = MemoryStore::new();
    let sagas = Orchestrator::new(store.clone());
    talk(&sagas, (0..500).map(id)).await;
    let broker = Broker::default();
    let relays = [(); 2].map(|()| {
        let broker = broker.clone();
        let target = move |message| {
            let broker = broker.clone();
            async move {
                sleep(SECOND / 100).await;
                broker.takes(message);
                Ok::<_, BoxError>(())
            }
        };
        OutboxRelay::spawn(on(&store), target, RelayOptions::default().at_once(8))
    });
    until_empty(&store).await;
    broker.has_all(500, 1..=1);
    for relay in relays {
        assert!(relay.stats().relayed > 500, "{:?}", relay.stats());
    }
}

/// A slow target must not be asked by two at once: whoever is slow lets go in time.
#[tokio::test(start_paused = true)]
async fn a_slow_target_is_not_sent_twice_what_it_takes_longer_for_than_a_lease() {
    let (store, broker) = (MemoryStore::new(), Broker::default());
    let sagas = Orchestrator::new(store.clone());
    talk(&sagas, [id("a")]).await;
    let target = {
        let broker = broker.clone();
        move |message| {
            let broker = broker.clone();
            async move {
                let _busy = broker.enter();
                sleep(9 * SECOND).await;
                broker.takes(message);
                Ok::<_, BoxError>(())
            }
        }
    };
    let relays =
        [(); 2].map(|()| OutboxRelay::spawn(on(&store), target.clone(), RelayOptions::default()));
    until_empty(&store).await;
    broker.has_all(1, 1..=1);
    assert_eq!(broker.busiest.load(Relaxed), 1);
    drop(relays);
}

#[test]
fn the_uuid_of_a_message_is_the_same_for_ever_and_no_other_s() {
    let of = |saga: &str, sequence, index| MessageId::new(id(saga), sequence, index).uuid();
    assert_eq!(of("order-1", 2, 3).to_string(), "ffe31ec6-a5f0-5276-b255-88635208c75e");
    assert_ne!(of("order-1", 2, 3), of("order-1", 3, 2));
    assert_ne!(of("order-1", 12, 3), of("order-11", 2, 3));
    let second = MessageId::new(id("order-1"), 2, 3).of_life(5);
    assert_eq!(second.to_string(), "order-1/2/3@5");
    assert_ne!(second.uuid(), of("order-1", 2, 3));
    assert_ne!(second.uuid(), of("order-1@5", 2, 3));
}

#[tokio::test(start_paused = true)]
async fn a_saga_created_anew_under_a_purged_id_has_other_message_ids_and_each_life_keeps_its_own() {
    let (store, broker) = (MemoryStore::new(), Broker::default());
    let sagas = Orchestrator::new(store.clone());
    for life in 1..=2 {
        talk(&sagas, [id("a")]).await;
        // The first relay sends the first message, but the answer is lost each time.
        let target = |lost: bool| {
            let broker = broker.clone();
            move |message: Outgoing| {
                broker.takes(message);
                async move { if lost { Err("lost") } else { Ok(()) } }
            }
        };
        let relay = OutboxRelay::spawn(on(&store), target(true), RelayOptions::default());
        sleep(SECOND / 100).await;
        relay.close().await;
        assert_eq!(sagas.purge(&Retention::newest(0)).await.unwrap(), 0, "its messages wait");
        let relay = OutboxRelay::spawn(on(&store), target(false), RelayOptions::default());
        until_empty(&store).await;
        relay.close().await;
        assert_eq!(sagas.purge(&Retention::newest(0)).await.unwrap(), 1);
        let ids: HashSet<_> = broker.sent().iter().map(MessageId::uuid).collect();
        assert!(broker.sent().len() >= 7 * life, "some came again");
        assert_eq!(ids.len(), 6 * life, "under the same id");
    }
}

#[tokio::test(start_paused = true)]
async fn a_saga_that_another_process_carries_on_is_in_the_same_life() {
    async fn say(cx: StepContext, (): ()) -> Result<(), StepError> {
        cx.emit("said", cx.step()).map_err(StepError::rejected)
    }
    let store = MemoryStore::new();
    let mut saga = Saga::define("hangs", 1);
    saga.step("a").run(say).no_undo();
    let hangs = Arc::new(AtomicBool::new(true));
    let hang_once = move |cx, (): ()| {
        let hang = hangs.swap(false, Relaxed);
        async move {
            if hang {
                pending::<()>().await;
            }
            say(cx, ()).await
        }
    };
    saga.step("b").run(hang_once).no_undo();
    let saga: Definition<(), ()> = saga.finish(()).unwrap();
    let first = Orchestrator::new(store.clone());
    let crashed = timeout(SECOND, first.run_as(&saga, id("a"), ())).await;
    assert!(crashed.is_err());
    drop(first);
    sleep(3_600 * SECOND).await;
    Orchestrator::new(store.clone()).run_as(&saga, id("a"), ()).await.unwrap();
    let broker = Broker::default();
    let takes = broker.clone();
    let target = move |message: Outgoing| {
        takes.takes(message);
        async { Ok::<_, BoxError>(()) }
    };
    let _relay = OutboxRelay::spawn(on(&store), target, RelayOptions::default());
    until_empty(&store).await;
    let sent = broker.sent();
    assert_eq!(sent.len(), 2);
    assert!(sent[0].life > 0 && sent[0].life == sent[1].life, "{sent:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Relays come, die and stop, and the target fails and hangs, all by chance.
    #[test]
    fn all_arrive_in_order_whatever_relays_and_targets_do(
        seeds in prop::collection::vec((0_u8..3, 0_u64..3_000, 0_u8..60), 0..6),
        at_once in 1_usize..5,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let (store, broker) = (MemoryStore::new(), Broker::default());
            let sagas = Orchestrator::new(store.clone());
            let begin = |fails: u8| {
                let broker = broker.clone();
                let target = move |message: Outgoing| {
                    let broker = broker.clone();
                    async move {
                        let chance = rand::rng().random_range(0..100);
                        sleep(Duration::from_millis(chance)).await;
                        if chance >= u64::from(fails) {
                            broker.takes(message);
                            return Ok(());
                        }
                        match chance % 4 {
                            0 => pending().await,
                            1 => panic!("a bug"),
                            // Taken, but the answer is lost.
                            2 => broker.takes(message),
                            _ => {}
                        }
                        Err("failed")
                    }
                };
                let options = RelayOptions::default().at_once(at_once).lease(SECOND).backoff(SECOND / 100, SECOND);
                OutboxRelay::spawn(on(&store), target, options)
            };
            let talking = talk(&sagas, (0..12).map(id));
            let relaying = async {
                let _beside = begin(30);
                for (end, lives, fails) in seeds {
                    let relay = begin(fails);
                    sleep(Duration::from_millis(lives)).await;
                    match end {
                        0 => drop(relay),
                        _ => relay.close().await,
                    }
                }
                let _last = begin(0);
                until_empty(&store).await;
            };
            talking.await;
            relaying.await;
            broker.has_all(12, 1..=usize::MAX);
        });
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_emitted_when_the_attempt_is_over_is_no_message_of_the_next_one() {
    let mut saga = Saga::define("talks", 1);
    let keep = |cx: StepContext, (): ()| async move {
        tokio::spawn(async move {
            sleep(SECOND).await;
            cx.emit("too-late", &1).map_err(|error| error.to_string())
        });
        Ok(())
    };
    saga.step("keep").run(keep).no_undo();
    // By the end of it nobody has the first context any more.
    saga.step("pause").timer(2 * SECOND);
    let say =
        |cx: StepContext, (): ()| async move { cx.emit("said", &2).map_err(StepError::rejected) };
    saga.step("say").run(say).no_undo();
    let saga = saga.finish(()).unwrap();
    let store = MemoryStore::new();
    Orchestrator::new(store.clone()).run_as(&saga, id("a"), ()).await.unwrap();
    assert_eq!(store.pending().await.unwrap().messages, 1);
}

#[tokio::test(start_paused = true)]
async fn messages_carry_the_trace_and_its_state_whoever_sends_them() {
    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    const STATE: &str = "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE";
    let say = |cx: StepContext, (): ()| async move {
        cx.emit(cx.step().to_owned(), &TraceState::current().map(|state| state.to_string()))
            .map_err(StepError::rejected)
    };
    let mut saga = Saga::define("talks", 1);
    saga.step("at-once").run(say).no_undo();
    saga.step("pause").timer(SECOND);
    saga.step("in-a-task").run(say).no_undo();
    saga.step("long-pause").timer(100 * SECOND);
    saga.step("elsewhere").run(say).no_undo();
    let saga: Definition<(), ()> = saga.finish(()).unwrap();
    let store = MemoryStore::new();
    let first = Orchestrator::new(store.clone());
    let (parent, state) = (PARENT.parse().unwrap(), STATE.parse().ok());
    let begin = Context::default().with_trace(parent).scope(first.start(&saga, id("a"), ()));
    let mut begin = Box::pin(begin);
    poll_fn(|cx| TraceState::sync_scope(state.clone(), || begin.as_mut().poll(cx))).await.unwrap();
    drop(begin);
    sleep(2 * SECOND).await;
    drop(first);
    sleep(200 * SECOND).await;
    // By a call of another trace, which is not the saga's.
    let other = || Orchestrator::new(store.clone());
    let (sagas, theirs) = (other(), "theirs=1".parse().ok());
    let mut end = std::pin::pin!(sagas.run_as(&saga, id("a"), ()));
    poll_fn(|cx| TraceState::sync_scope(theirs.clone(), || end.as_mut().poll(cx))).await.unwrap();

    let said = Arc::new(Mutex::new(Vec::new()));
    let target = {
        let said = said.clone();
        move |message: Outgoing| {
            said.lock().unwrap().push(message.message);
            async { Ok::<(), BoxError>(()) }
        }
    };
    let relay = OutboxRelay::spawn(on(&store), target, RelayOptions::default());
    until_empty(&store).await;
    relay.close().await;
    let said = said.lock().unwrap();
    assert_eq!(said.len(), 3);
    for message in &*said {
        let (trace, state) = (&message.headers["traceparent"], &message.headers["tracestate"]);
        assert_eq!((&**trace, &**state), (PARENT, STATE), "{}", message.topic);
        assert_eq!(message.body.decode::<String>().unwrap(), STATE, "{}", message.topic);
    }
}
