//! A saga of three steps, and participants who keep a ledger of what happened in effect, under a key each, however often they are called.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex},
    time::Duration,
};

use gusset_call::Attempt;
use gusset_saga::{
    Definition, Effect, Finished, Options, Orchestrator, Policy, PostgresStore, Saga, SagaId,
    StepContext, StepError,
};
use tokio::time::sleep;

pub(crate) const STEPS: [&str; 3] = ["reserve", "pay", "ship"];

/// An effect, and whether it was undone. An undo that comes first leaves its mark, so that the action comes too late.
#[derive(Clone, Copy, Default, PartialEq, Debug)]
pub(crate) struct Entry {
    acted: bool,
    undone: bool,
}

#[derive(Clone)]
pub(crate) enum Ledger {
    /// Of participants that outlive the database.
    Here(Arc<Mutex<HashMap<(String, String), Entry>>>),
    /// Of participants that outlive the process.
    Table(Arc<tokio_postgres::Client>),
}

impl Ledger {
    pub(crate) fn here() -> Self {
        Self::Here(Arc::default())
    }

    pub(crate) const TABLE: &str = "CREATE TABLE IF NOT EXISTS ledger \
        (saga text, step text, acted bool NOT NULL, undone bool NOT NULL, PRIMARY KEY (saga, step))";

    async fn note(&self, saga: &str, step: &str, undo: bool) -> Result<(), StepError> {
        match self {
            Self::Here(entries) => {
                let mut entries = entries.lock().unwrap();
                let entry = entries.entry((saga.to_owned(), step.to_owned())).or_default();
                entry.acted |= !entry.undone && !undo;
                entry.undone |= undo;
                Ok(())
            }
            Self::Table(client) => {
                let sql = if undo {
                    "INSERT INTO ledger VALUES ($1, $2, false, true) ON CONFLICT (saga, step) DO UPDATE SET undone = true"
                } else {
                    "INSERT INTO ledger VALUES ($1, $2, true, false) ON CONFLICT (saga, step) DO NOTHING"
                };
                let noted = client.execute(sql, &[&saga, &step]).await;
                noted.map(drop).map_err(StepError::unknown)
            }
        }
    }

    /// All of it happened, or all that did is undone.
    pub(crate) fn balances(&self, orders: usize) {
        let Self::Here(entries) = self else { panic!("that one is in a table") };
        let entries = entries.lock().unwrap();
        let mut sagas: BTreeMap<&str, Vec<(&str, Entry)>> = BTreeMap::new();
        for ((saga, step), entry) in &*entries {
            sagas.entry(saga).or_default().push((step, *entry));
        }
        assert_eq!(sagas.len(), orders);
        for (saga, entries) in sagas {
            let in_effect = entries.iter().filter(|(_, entry)| entry.acted && !entry.undone);
            let expected = if is_refused(number(saga)) { 0 } else { STEPS.len() };
            assert_eq!(in_effect.count(), expected, "{saga}: {entries:?}");
        }
    }
}

pub(crate) fn id(number: u32) -> SagaId {
    format!("order-{number:05}").parse().unwrap()
}

fn number(saga: &str) -> u32 {
    saga.trim_start_matches("order-").parse().unwrap()
}

/// Orders whose last step is rejected, so that the others are undone.
pub(crate) const fn is_refused(number: u32) -> bool {
    number % 3 == 0
}

pub(crate) fn definition(ledger: &Ledger) -> Definition<u32, ()> {
    let mut saga = Saga::define("order", 1);
    let patient = Policy::step().attempts(50).timeout(Duration::from_secs(20));
    let [_, _, last] = STEPS.map(|step| {
        let (acting, undoing) = (ledger.clone(), ledger.clone());
        let step = saga.step(step).policy(patient).undo_policy(Policy::undo().attempts(50));
        step.run(move |cx, number| act(acting.clone(), cx, number))
            .undo(move |cx, number, effect| undo(undoing.clone(), cx, number, effect))
    });
    saga.finish(&last).unwrap()
}

async fn act(ledger: Ledger, cx: StepContext, number: u32) -> Result<(), StepError> {
    sleep(Duration::from_millis(u64::from(number % 7))).await;
    if cx.step() == "ship" && is_refused(number) {
        return Err(StepError::rejected("no such address"));
    }
    ledger.note(cx.saga().as_str(), cx.step(), false).await?;
    if cx.step() == "pay" && number % 4 == 1 && cx.attempt() == Attempt::FIRST {
        return Err(StepError::unknown("the answer was lost"));
    }
    Ok(())
}

async fn undo(
    ledger: Ledger,
    cx: StepContext,
    number: u32,
    _: Effect<()>,
) -> Result<(), StepError> {
    sleep(Duration::from_millis(u64::from(number % 5))).await;
    ledger.note(cx.saga().as_str(), cx.step(), true).await
}

/// The shortest lease that there is.
pub(crate) const LEASE: Duration = Duration::from_secs(1);

pub(crate) fn orchestrator(store: PostgresStore) -> Orchestrator {
    let options = Options::default().lease(LEASE).store_timeout(Duration::from_secs(2));
    Orchestrator::with(Arc::new(store), options)
}

/// Starts it, or finds it started, until it is known how it ended.
pub(crate) async fn place(sagas: Orchestrator, definition: Arc<Definition<u32, ()>>, number: u32) {
    loop {
        let finished = sagas.run_as(&definition, id(number), number).await;
        match finished {
            Ok(Finished::Completed(())) => return assert!(!is_refused(number)),
            Ok(Finished::Compensated { .. }) => return assert!(is_refused(number)),
            Ok(other) => panic!("order {number}: {other:?}"),
            // The store failed, or another node has it.
            Err(_) => sleep(Duration::from_millis(50)).await,
        }
    }
}
