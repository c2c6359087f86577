//! A journal hears of everything: what it was told is what the engine holds.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall fail")]

mod common;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use common::{Log, fail, secs, stats};
use gusset_broker::{
    Broker, DeadLetter, Delivery, Error, Filter, Limits, MemoryEngine, Message, Pattern, Policy,
    Reply, WhenFull, WhenUnheard,
    engine::{BoxFuture, Change, GroupChange, GroupInfo, Journal, LetterChange},
};
use gusset_call::BoxError;
use tower::service_fn;

/// What a log would bring back.
#[derive(Debug, Default)]
struct Recorder(Mutex<Told>);

#[derive(Debug, Default)]
struct Told {
    last: u64,
    groups: BTreeMap<u64, (Arc<str>, bool)>,
    /// Group and attempts of each message that is held.
    entries: BTreeMap<u64, (u64, u32)>,
    letters: BTreeSet<u64>,
    broken: bool,
}

impl Journal for Recorder {
    fn group(&self, group: &GroupInfo, _: &Pattern, change: GroupChange) {
        let mut told = self.0.lock().unwrap();
        match change {
            GroupChange::Made => drop(told.groups.insert(group.id, (group.name.clone(), false))),
            GroupChange::Declared => told.groups.get_mut(&group.id).unwrap().1 = true,
            GroupChange::Undeclared => told.groups.get_mut(&group.id).unwrap().1 = false,
            _ => {
                told.groups.remove(&group.id).unwrap();
                told.entries.retain(|_, (other, _)| *other != group.id);
            }
        }
    }

    fn entered(&self, group: u64, _: &Arc<Message>, _: u32, _: Option<Duration>) -> u64 {
        let mut told = self.0.lock().unwrap();
        told.last += 1;
        let number = told.last;
        told.entries.insert(number, (group, 0));
        number
    }

    fn changed(&self, group: u64, number: u64, change: Change<'_>) {
        let mut told = self.0.lock().unwrap();
        if change.is_end() {
            assert_eq!(told.entries.remove(&number).unwrap().0, group);
            return;
        }
        let entry = told.entries.get_mut(&number).unwrap();
        match change {
            Change::Begun(attempt) => {
                assert_eq!(attempt, entry.1 + 1);
                entry.1 = attempt;
            }
            Change::Returned => entry.1 -= 1,
            _ => {}
        }
    }

    fn letter(&self, letter: &DeadLetter, change: LetterChange) {
        let mut told = self.0.lock().unwrap();
        let id = letter.id.get();
        let known = match change {
            LetterChange::Buried => told.letters.insert(id),
            _ => told.letters.remove(&id),
        };
        assert!(known, "{id} {change:?}");
    }

    fn written(&self) -> BoxFuture<'static, Result<(), Error>> {
        let broken = self.0.lock().unwrap().broken;
        Box::pin(async move {
            tokio::time::sleep(Duration::from_millis(1)).await;
            if broken { Err(Error::Engine("disk full".into())) } else { Ok(()) }
        })
    }
}

fn broker() -> (Broker, Arc<Recorder>) {
    let recorder = Arc::new(Recorder::default());
    let limits = Limits::new().dead_letters(5);
    let engine = MemoryEngine::journaled(limits, None, WhenUnheard::Bury, recorder.clone());
    (Broker::on(engine), recorder)
}

/// What it was told is what there is.
fn agree(broker: &Broker, recorder: &Recorder) {
    let (told, stats) = (recorder.0.lock().unwrap(), broker.stats());
    assert_eq!((told.letters.len(), told.groups.len()), (stats.dead_letters, stats.groups.len()));
    for group in stats.groups {
        let (id, _) = told.groups.iter().find(|(_, (name, _))| *name == group.group).unwrap();
        let held = told.entries.values().filter(|(other, _)| other == id).count();
        assert_eq!(held, group.ready + group.in_flight + group.delayed + group.in_lanes);
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_journal_was_told_is_what_the_engine_holds() {
    let (broker, recorder) = broker();
    broker
        .declare("kept", ">", Policy::new().capacity(20).when_full(WhenFull::DropOldest))
        .await
        .unwrap();
    agree(&broker, &recorder);
    let (failing, _) = fail(&broker, "failing", Policy::new().max_attempts(2)).await;
    let seen = Log::default();
    let noted = seen.clone();
    let handler = service_fn(move |delivery: Delivery<u32>| {
        noted.note(*delivery.body());
        let reply = match delivery.body() % 4 {
            0 => Reply::reject("no"),
            1 if delivery.attempt().number() == 1 => Reply::RetryAfter(Duration::from_secs(1)),
            _ => Reply::Ack,
        };
        async move { Ok::<_, BoxError>(reply) }
    });
    for n in 0..40 {
        broker.publish("tick", &n).await.unwrap();
        agree(&broker, &recorder);
    }
    let guard = broker.subscribe(">").group("kept").handle(handler).await.unwrap();
    for _ in 0..40 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        agree(&broker, &recorder);
    }
    let letters = broker.dead_letters();
    let _ = letters.redrive_all(&Filter::all().group("kept")).await.unwrap();
    agree(&broker, &recorder);
    secs(10).await;
    drop(failing);
    letters.purge(&Filter::all().group("failing")).await.unwrap();
    agree(&broker, &recorder);
    let mut pull = broker.subscribe(">").group("pulled").pull::<u32>().await.unwrap();
    broker.publish("tick", &99).await.unwrap();
    let (late, began) = (pull.next().await.unwrap(), recorder.0.lock().unwrap().entries.len());
    secs(40).await;
    assert!(late.ack().await.is_err() && began > 0);
    agree(&broker, &recorder);
    drop((pull, guard));
    broker.remove("kept").await.unwrap();
    agree(&broker, &recorder);
    broker.publish("tick", &100).await.unwrap();
    agree(&broker, &recorder);
    assert!(stats_are_empty(&broker));
}

fn stats_are_empty(broker: &Broker) -> bool {
    broker.stats().groups.is_empty()
}

#[tokio::test(start_paused = true)]
async fn a_publish_waits_for_the_journal_and_fails_with_it() {
    let (broker, recorder) = broker();
    broker.declare("g", ">", Policy::new()).await.unwrap();
    let began = tokio::time::Instant::now();
    broker.publish("tick", &1).await.unwrap();
    assert_eq!(began.elapsed(), Duration::from_millis(1));
    recorder.0.lock().unwrap().broken = true;
    assert!(matches!(broker.publish("tick", &2).await, Err(Error::Engine(_))));
    assert!(stats(&broker, "g").ready >= 1);
}
