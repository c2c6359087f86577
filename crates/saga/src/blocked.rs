//! What becomes of a saga that cannot be carried on here.

use std::{sync::Arc, time::Duration};

use crate::{
    Event, Hold, Journal, Json, Release, State, StoreError,
    definition::Plan,
    engine::Engine,
    progress::Progress,
    runner,
    work::{append, release},
};

/// The definition that a journal is to be carried on under, and where it stands; or why not.
pub(crate) fn plan_of(
    engine: &Engine,
    journal: &Journal,
) -> Result<(Arc<Plan>, Progress), Arc<str>> {
    let progress = Progress::of(journal).map_err(|error| Arc::from(error.to_string()))?;
    let (name, version) = (&progress.shape.name, progress.shape.version);
    match engine.plan(name, version) {
        None => Err(format!("definition {name} version {version} is not known").into()),
        Some(plan) if plan.shape != progress.shape => {
            Err(format!("definition {name} version {version} has other steps now").into())
        }
        Some(plan) => Ok((plan, progress)),
    }
}

/// Parks a saga that cannot be carried on here, and lets go of it: who knows its definition may have it at once.
pub(crate) async fn block(engine: &Engine, journal: &Journal, reason: Arc<str>) {
    let progress = Progress::of(journal).ok();
    let known = progress.as_ref().is_some_and(|progress| progress.blocked.is_some());
    if !known {
        engine.counters.blocked.add(1);
        tracing::error!(saga = %journal.saga, %reason, "saga is blocked");
    }
    let here = progress.as_ref().and_then(|one| engine.plan(&one.shape.name, one.shape.version));
    let unknown = progress.is_some() && here.is_none();
    // This process would claim it again at once where it knows the name.
    let due = engine.now() + if unknown { 0 } else { millis(engine.options.orphaned()) };
    if progress.is_some() && !known {
        let hold = Hold::Park { due: Some(due), note: note_of(journal) };
        let event = Event::Blocked { reason };
        match append(engine, journal, event, State::Blocked, hold).await {
            Ok(()) => return,
            Err(error) => {
                tracing::warn!(saga = %journal.saga, %error, "saga could not be parked as blocked");
            }
        }
    }
    let (saga, epoch, note) = (journal.saga.clone(), journal.epoch, journal.note.clone());
    release(engine, Release { saga, epoch, due: Some(due), note, blocked: true }).await;
}

/// The note for whoever comes after a write by one who does not go on with the saga. An append sets the count of crashes back, so what they say about the
/// attempts that were under way has to be in the note.
pub(crate) fn note_of(journal: &Journal) -> Option<Json> {
    let progress = Progress::of(journal).ok()?;
    runner::note_of(&progress, journal)
}

/// Closes a saga that is blocked here: that needs no definition.
pub(crate) async fn close(
    engine: &Engine,
    journal: &Journal,
    event: Event,
) -> Result<(), StoreError> {
    append(engine, journal, event, State::Closed, Hold::Keep(engine.options.lease)).await?;
    engine.counters.closed.add(1);
    Ok(())
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
