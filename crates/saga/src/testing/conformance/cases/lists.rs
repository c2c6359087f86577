//! What is listed, and what is forgotten.

use std::time::Duration;

use tokio::time::sleep;

use super::super::{
    Bed,
    kit::{Answer, LONG, begin, begin_as, end, id, listed, open, park},
};
use crate::{Commit, Query, Retention, State};

pub(super) async fn lists_are_by_id_state_and_definition_and_paged(bed: &dyn Bed) -> Answer {
    let store = open(bed).await;
    for n in (0..6).rev() {
        let saga = format!("s-{n}");
        store.create(&begin_as(&saga, (["even", "odd"][n % 2], 1), LONG)).await?;
        if n < 3 {
            store.append(&end(&saga, 1, 1)).await?;
        }
    }
    let all = Query::all;
    assert_eq!(listed(&*store, &all().limit(2)).await, ["s-0", "s-1"]);
    assert_eq!(listed(&*store, &all().limit(3).after(id("s-1"))).await, ["s-2", "s-3", "s-4"]);
    assert_eq!(listed(&*store, &all().after(id("s-5"))).await, Vec::<String>::new());
    let running = Query::in_state(State::Running);
    assert_eq!(listed(&*store, &running).await, ["s-3", "s-4", "s-5"]);
    assert_eq!(listed(&*store, &running.of("odd")).await, ["s-3", "s-5"]);
    assert_eq!(listed(&*store, &all().of("even").limit(2)).await, ["s-0", "s-2"]);

    let newest = || all().newest_first();
    assert_eq!(listed(&*store, &newest().limit(2)).await, ["s-5", "s-4"]);
    assert_eq!(listed(&*store, &newest().limit(2).after(id("s-4"))).await, ["s-3", "s-2"]);
    assert_eq!(listed(&*store, &newest().after(id("s-0"))).await, Vec::<String>::new());
    let finished = Query::in_state(State::Completed).newest_first();
    assert_eq!(listed(&*store, &finished.clone().limit(2)).await, ["s-2", "s-1"]);
    assert_eq!(listed(&*store, &finished.of("even")).await, ["s-2", "s-0"]);

    let mut counts = store.count().await?;
    counts.retain(|(_, count)| *count > 0);
    counts.sort_unstable();
    assert_eq!(counts, [(State::Running, 3), (State::Completed, 3)]);

    let now = store.now().await?;
    let found = store.query(&all()).await?;
    let (done, open) = (&found[0], &found[5]);
    assert_eq!((&*done.definition, done.version, done.records, done.epoch), ("even", 1, 2, 1));
    assert_eq!((&done.node, done.due, done.state), (&None, None, State::Completed));
    assert_eq!(open.node.as_deref(), Some("one"));
    assert!(open.due.is_some_and(|due| due > now), "{open:?}");
    assert!(done.created_at <= done.changed_at && done.changed_at <= now, "{done:?}");
    assert!(now - done.created_at < 60_000, "by the store's clock, and not the record's");
    Ok(())
}

pub(super) async fn the_oldest_finished_sagas_are_purged_by_number_and_age(
    bed: &dyn Bed,
) -> Answer {
    let store = open(bed).await;
    for saga in ["c", "a", "d", "b"] {
        store.create(&begin(saga, LONG)).await?;
        store.append(&end(saga, 1, 1)).await?;
        sleep(Duration::from_millis(20)).await;
    }
    store.create(&begin("running", Duration::ZERO)).await?;
    store.create(&begin("stuck", LONG)).await?;
    store.append(&Commit { state: State::Stuck, ..park("stuck", 1, None) }).await?;
    assert_eq!(store.purge(&Retention::newest(100).younger_than(LONG)).await?, 0);
    assert_eq!(store.purge(&Retention::newest(2)).await?, 2);
    assert_eq!(listed(&*store, &Query::all()).await, ["b", "d", "running", "stuck"]);
    assert_eq!(store.load(&id("c")).await?, None);
    store.create(&begin("c", LONG)).await?;
    let journal = store.load(&id("c")).await?.expect("begun anew");
    assert_eq!((journal.epoch, journal.records.map(|records| records.len())), (1, Ok(1)));
    sleep(Duration::from_millis(20)).await;
    let young = Duration::from_millis(1);
    assert_eq!(store.purge(&Retention::newest(100).younger_than(young)).await?, 2);
    assert_eq!(listed(&*store, &Query::all()).await, ["c", "running", "stuck"]);
    Ok(())
}
