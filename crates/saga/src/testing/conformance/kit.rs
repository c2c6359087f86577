#![allow(clippy::expect_used, reason = "a test kit: what is not as expected fails the case")]

use std::{sync::Arc, time::Duration};

use tokio::time::sleep;

use super::Bed;
use crate::{
    Begin, Bundle, Claim, Commit, Event, Hold, Json, Mail, Message, MessageId, Outgoing, Query,
    Record, Relay, Relayed, Release, SagaId, Shape, State, StepKind, StepShape, Store, StoreError,
    Wanted,
};

/// A lease that does not end during a test, and one that does.
pub(super) const LONG: Duration = Duration::from_secs(3_600);
pub(super) const SHORT: Duration = Duration::from_millis(200);

pub(super) type Answer<T = ()> = Result<T, StoreError>;

pub(super) async fn open(bed: &dyn Bed) -> Arc<dyn Store> {
    bed.open().await.expect("the store opens")
}

pub(super) fn id(name: &str) -> SagaId {
    name.parse().expect("ids of tests are valid")
}

pub(super) fn json<T: serde::Serialize>(value: T) -> Json {
    Json::encode(&value).expect("values of tests have a JSON form")
}

pub(super) fn started(definition: &str, version: u32) -> Event {
    let (kind, needs, after) = (StepKind::Action, vec![], vec![]);
    let step = StepShape { name: "only".into(), kind, undo: true, needs, after };
    let (name, steps) = (definition.into(), vec![step]);
    let shape = Arc::new(Shape { name, version, deadline: None, steps });
    Event::Started { shape, input: json("input"), trace: None, trace_state: None, life: 0 }
}

/// A saga of definition `test` 1, held by node `one`.
pub(super) fn begin(saga: &str, lease: Duration) -> Begin {
    begin_as(saga, ("test", 1), lease)
}

pub(super) fn begin_as(saga: &str, (definition, version): (&str, u32), lease: Duration) -> Begin {
    Begin {
        saga: id(saga),
        definition: definition.into(),
        version,
        node: "one".into(),
        lease,
        records: Arc::new([Record::new(0, 1, 1_000, started(definition, version))]),
    }
}

pub(super) fn record(epoch: u64, sequence: u64) -> Record {
    let event = Event::Done { step: 0, output: json(sequence) };
    Record::new(sequence, epoch, 1_000 + sequence, event)
}

/// One record that keeps the saga running and held.
pub(super) fn commit(saga: &str, epoch: u64, sequence: u64) -> Commit {
    Commit {
        saga: id(saga),
        epoch,
        records: Arc::new([record(epoch, sequence)]),
        state: State::Running,
        hold: Hold::Keep(LONG),
        mail_taken: 0,
        outbox: Arc::new([]),
    }
}

pub(super) fn end(saga: &str, epoch: u64, sequence: u64) -> Commit {
    Commit { state: State::Completed, ..commit(saga, epoch, sequence) }
}

pub(super) fn park(saga: &str, sequence: u64, due: Option<u64>) -> Commit {
    Commit { hold: Hold::Park { due, note: None }, ..commit(saga, 1, sequence) }
}

pub(super) fn release(saga: &str, epoch: u64, due: Option<u64>) -> Release {
    Release { saga: id(saga), epoch, due, note: None, blocked: false }
}

pub(super) fn mail(saga: &str, key: &str) -> Mail {
    Mail { saga: id(saga), key: key.into(), body: json(key) }
}

pub(super) fn message(saga: &str, sequence: u64, index: u32) -> Outgoing {
    let mut message = Message::new("orders".into(), json((saga, sequence, index)));
    message.headers = [("a".into(), "b".into())].into();
    Outgoing { id: MessageId::new(id(saga), sequence, index).of_life(7), message }
}

/// For the messages of at most a hundred sagas.
pub(super) fn relay(node: &str, lease: Duration, messages: usize) -> Relay {
    Relay { node: node.into(), lease, after: None, sagas: 100, messages }
}

/// All that came of it.
pub(super) fn messages(bundles: Vec<Bundle>) -> Vec<Outgoing> {
    let readable = bundles.into_iter().map(|bundle| bundle.messages);
    readable.flat_map(|messages| messages.expect("messages of tests can be read")).collect()
}

pub(super) fn relayed(saga: &str, node: &str, sent: &[Outgoing]) -> Relayed {
    let sent = sent.iter().map(|message| message.id.clone()).collect();
    Relayed { saga: id(saga), node: node.into(), sent, pause: None }
}

pub(super) fn due() -> Wanted {
    let known = vec![("test".into(), 1)];
    Wanted::Due { known, orphaned: LONG, except: vec![], limit: 100 }
}

/// What node `two` gets, with its epochs.
pub(super) async fn claim(store: &dyn Store, wanted: Wanted) -> Vec<(String, u64)> {
    claim_for(store, wanted, LONG).await
}

pub(super) async fn claim_for(
    store: &dyn Store,
    wanted: Wanted,
    lease: Duration,
) -> Vec<(String, u64)> {
    let claim = Claim { node: "two".into(), lease, wanted };
    let claimed = store.claim(&claim).await.expect("a claim is answered").into_iter();
    claimed.map(|journal| (journal.saga.to_string(), journal.epoch)).collect()
}

pub(super) async fn listed(store: &dyn Store, query: &Query) -> Vec<String> {
    let found = store.query(query).await.expect("a query is answered").into_iter();
    found.map(|summary| summary.saga.to_string()).collect()
}

/// Until `there` is true, at most ten seconds.
pub(super) async fn until(what: &str, mut there: impl AsyncFnMut() -> bool) {
    for _ in 0..1_000 {
        if there().await {
            return;
        }
        sleep(Duration::from_millis(10)).await;
    }
    assert!(there().await, "not within ten seconds: {what}");
}
