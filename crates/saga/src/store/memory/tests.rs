use super::*;
use crate::{Event, Json, Shape, StepShape};
use tokio::time::advance;

const LEASE: Duration = Duration::from_secs(30);

fn id(n: u32) -> SagaId {
    format!("saga-{n:04}").parse().unwrap()
}

fn begin(n: u32) -> Begin {
    let step = StepShape { name: "only".into(), undo: true, needs: vec![] };
    let shape = Arc::new(Shape { name: "test".into(), version: 1, steps: vec![step] });
    let input = Json::encode(&n).unwrap();
    let event = Event::Started { shape, input, trace: None, opens: vec![0] };
    Begin { saga: id(n), node: "one".into(), lease: LEASE, record: Record::new(0, 1, event) }
}

fn commit(n: u32, epoch: u64, sequence: u64, state: State) -> Commit {
    let event = Event::Done { step: 0, output: Json::encode(&n).unwrap(), opens: vec![] };
    Commit { saga: id(n), epoch, records: vec![Record::new(sequence, epoch, event)], state }
}

async fn claim(store: &MemoryStore, wanted: Wanted) -> Vec<(SagaId, u64)> {
    let claim = Claim { node: "two".into(), lease: LEASE, wanted };
    let journals = store.claim(&claim).await.unwrap();
    journals.into_iter().map(|journal| (journal.saga, journal.epoch)).collect()
}

fn abandoned() -> Wanted {
    Wanted::Abandoned { after: None, except: vec![], limit: 100 }
}

async fn listed(store: &MemoryStore, query: Query) -> Vec<SagaId> {
    let sagas = store.query(&query).await.unwrap();
    sagas.into_iter().map(|summary| summary.saga).collect()
}

#[tokio::test(start_paused = true)]
async fn an_append_needs_the_epoch_and_the_end_of_the_journal() {
    let store = MemoryStore::new();
    store.create(&begin(1)).await.unwrap();
    assert!(matches!(store.create(&begin(1)).await, Err(StoreError::Exists(_))));

    let early = store.append(&commit(1, 1, 2, State::Running)).await;
    assert!(matches!(early, Err(StoreError::Conflict { next: 1, .. })));
    let unknown = store.append(&commit(2, 1, 1, State::Running)).await;
    assert!(matches!(unknown, Err(StoreError::NoSuchSaga(_))));
    store.append(&commit(1, 1, 1, State::Running)).await.unwrap();
    let again = store.append(&commit(1, 1, 1, State::Running)).await;
    assert!(matches!(again, Err(StoreError::Conflict { next: 2, .. })));

    advance(LEASE).await;
    assert_eq!(claim(&store, abandoned()).await, [(id(1), 2)]);
    let late = store.append(&commit(1, 1, 2, State::Completed)).await;
    assert!(matches!(late, Err(StoreError::Fenced { epoch: 1, .. })));
    store.append(&commit(1, 2, 2, State::Completed)).await.unwrap();
    let after_the_end = store.append(&commit(1, 2, 2, State::Completed)).await;
    assert!(matches!(after_the_end, Err(StoreError::Conflict { next: 3, .. })));
    let late = store.append(&commit(1, 1, 2, State::Completed)).await;
    assert!(matches!(late, Err(StoreError::Fenced { .. })));
    assert_eq!(store.load(&id(1)).await.unwrap().unwrap().records.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn only_what_nobody_holds_can_be_claimed() {
    let store = MemoryStore::new();
    for n in 0..5 {
        store.create(&begin(n)).await.unwrap();
    }
    store.append(&commit(3, 1, 1, State::Stuck)).await.unwrap();
    store.append(&commit(4, 1, 1, State::Compensated)).await.unwrap();
    assert_eq!(claim(&store, abandoned()).await, []);

    store.release(&id(0), 7).await.unwrap();
    assert_eq!(claim(&store, abandoned()).await, [], "not with another epoch");
    store.release(&id(0), 1).await.unwrap();
    assert_eq!(claim(&store, Wanted::One(id(0))).await, [(id(0), 2)]);
    assert_eq!(claim(&store, Wanted::One(id(3))).await, [(id(3), 2)], "stuck, by name");
    assert_eq!(claim(&store, Wanted::One(id(4))).await, [], "finished");

    advance(LEASE / 2).await;
    let held = [(id(1), 1), (id(0), 1), (id(4), 1)];
    assert_eq!(store.renew(&held, LEASE).await.unwrap(), [id(0), id(4)], "lost");
    advance(LEASE / 2).await;
    let wanted = Wanted::Abandoned { after: None, except: vec![id(0)], limit: 9 };
    assert_eq!(claim(&store, wanted).await, [(id(2), 2)], "renewed, excepted, stuck, finished");
    advance(LEASE).await;
    let wanted = Wanted::Abandoned { after: Some(id(0)), except: vec![], limit: 1 };
    assert_eq!(claim(&store, wanted).await, [(id(1), 2)]);
}

#[tokio::test(start_paused = true)]
async fn finished_sagas_make_room_and_unfinished_ones_are_refused() {
    let store = MemoryStore::with_limits(3, 10);
    for n in 0..100 {
        store.create(&begin(n)).await.unwrap();
        store.append(&commit(n, 1, 1, State::Completed)).await.unwrap();
    }
    assert_eq!(store.purged(), 90);
    assert_eq!(listed(&store, Query::all()).await, (90..100).map(id).collect::<Vec<_>>());
    assert!(store.load(&id(89)).await.unwrap().is_none());

    for n in 200..203 {
        store.create(&begin(n)).await.unwrap();
    }
    let full = store.create(&begin(203)).await.unwrap_err();
    assert!(gusset_call::refusal_in(&full).is_some(), "answered as 503");
    store.append(&commit(200, 1, 1, State::Completed)).await.unwrap();
    store.create(&begin(203)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn purging_keeps_the_newest_and_the_young() {
    let store = MemoryStore::new();
    for n in 0..6 {
        store.create(&begin(n)).await.unwrap();
        store.append(&commit(n, 1, 1, State::Completed)).await.unwrap();
        advance(Duration::from_secs(60)).await;
    }
    let keep = Retention::newest(100).younger_than(Duration::from_secs(5 * 60));
    assert_eq!(store.purge(&keep).await.unwrap(), 1);
    assert_eq!(store.purge(&Retention::newest(2)).await.unwrap(), 3);
    assert_eq!(listed(&store, Query::all()).await, [id(4), id(5)]);
    assert_eq!(store.purge(&Retention::newest(0).younger_than(Duration::MAX)).await.unwrap(), 2);
}

#[tokio::test(start_paused = true)]
async fn lists_are_by_id_and_state_and_paged() {
    let store = MemoryStore::new();
    for n in 0..6 {
        store.create(&begin(n)).await.unwrap();
        if n % 2 == 0 {
            store.append(&commit(n, 1, 1, State::Completed)).await.unwrap();
        }
    }
    assert_eq!(listed(&store, Query::all().limit(3)).await, [id(0), id(1), id(2)]);
    assert_eq!(listed(&store, Query::all().limit(3).after(id(2))).await, [id(3), id(4), id(5)]);
    assert_eq!(listed(&store, Query::in_state(State::Running)).await, [id(1), id(3), id(5)]);
    let summary = &store.query(&Query::in_state(State::Completed)).await.unwrap()[0];
    assert_eq!((&*summary.definition, summary.records, summary.epoch), ("test", 2, 1));
}
