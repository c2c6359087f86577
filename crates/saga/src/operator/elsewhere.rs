use std::{fmt, sync::Arc, time::Duration};

use tokio::time::timeout;

use super::{load, orders::new_key, refused};
use crate::{
    Event, Hold, Journal, Options, Orchestrator, Order, Query, Record, Report, SagaError, SagaId,
    State, Store, Summary, blocked, error::shortened, event::Letter, progress::Progress, work,
};

/// Looks at the sagas of other programs, and gives them orders: it needs their store and nothing of their definitions. What an action returned or
/// takes is JSON to it. It runs nothing, and spawns no task.
///
/// ```
/// use std::sync::Arc;
/// use gusset_saga::{MemoryStore, Operator, Order, Query, State};
///
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// let operator = Operator::new(Arc::new(MemoryStore::new()));
/// for saga in operator.list(&Query::in_state(State::Stuck)).await? {
///     let patience = std::time::Duration::from_secs(15);
///     operator.order(&saga.saga, Order::Retry, "the bank is back", patience).await?;
/// }
/// # Ok::<(), gusset_saga::SagaError>(())
/// # }).unwrap();
/// ```
#[derive(Clone)]
pub struct Operator(Orchestrator);

/// What became of an order.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Ordered {
    /// It is in the journal. This is where the saga stands by it; what follows is up to the programs that know its definition.
    Journaled(Box<Report>),
    /// It waits in the saga's mail for the node that holds the saga, which was not heard of within the patience.
    Waiting {
        /// Who that is.
        node: Arc<str>,
    },
}

impl Operator {
    /// Of the sagas in `store`. It may be in use.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self(Orchestrator::with(store, Options::default()))
    }

    /// As [`Orchestrator::list`].
    ///
    /// # Errors
    ///
    /// When the store fails.
    pub async fn list(&self, query: &Query) -> Result<Vec<Summary>, SagaError> {
        self.0.list(query).await
    }

    /// As [`Orchestrator::count`].
    ///
    /// # Errors
    ///
    /// When the store fails.
    pub async fn count(&self) -> Result<Vec<(State, u64)>, SagaError> {
        self.0.count().await
    }

    /// As [`Orchestrator::history`]; [`Report::replay`] tells where a saga stands by it.
    ///
    /// # Errors
    ///
    /// [`SagaError::NoSuchSaga`], or when the store fails or has a journal that cannot be read.
    pub async fn history(&self, saga: &SagaId) -> Result<Vec<Record>, SagaError> {
        self.0.history(saga).await
    }

    /// Gives an order.
    ///
    /// Where nobody holds the saga, it is in the journal at once, and programs that recover sagas go on from there in their next round. Who holds a saga is
    /// sent the order by mail, reads it within a third of its lease, and is waited for for as long as `patience`. An order that waits stands.
    ///
    /// # Errors
    ///
    /// [`SagaError::NoSuchSaga`]; [`SagaError::Refused`] when it does not fit the state of the saga; [`SagaError::Blocked`] when the journal cannot be
    /// read, or no process could carry it on so far, where only [`Order::Close`] has a sense; and when the store fails.
    ///
    /// # Cancellation
    ///
    /// The order may have been given. A saga that was being written to is free again after 30 s.
    pub async fn order(
        &self,
        saga: &SagaId,
        order: Order,
        note: &str,
        patience: Duration,
    ) -> Result<Ordered, SagaError> {
        let (key, note): (Arc<str>, Arc<str>) = (new_key(), shortened(note).into());
        // Whoever holds it may end its lease between two looks.
        for _ in 0..LOOKS {
            let journal = load(self.0.engine(), saga).await?;
            self.fits(&journal, &order)?;
            let node = journal.node.clone();
            let event = Event::Ordered {
                key: key.clone(),
                order: order.clone(),
                note: note.clone(),
                refused: None,
            };
            if let Some(report) = self.journal(saga, &order, event).await? {
                return Ok(Ordered::Journaled(Box::new(report)));
            }
            let Some(node) = node else { continue };
            let letter = Letter::Order { order, note };
            self.0.send(saga, key.clone(), &letter).await?;
            return match timeout(patience, self.0.ordered(saga, &key)).await {
                Ok(report) => Ok(Ordered::Journaled(Box::new(report?))),
                Err(_) => Ok(Ordered::Waiting { node }),
            };
        }
        Err(refused(saga, "changes hands all the time; try again"))
    }

    fn fits(&self, journal: &Journal, order: &Order) -> Result<Progress, SagaError> {
        let blocked = |reason| SagaError::Blocked { saga: journal.saga.clone(), reason };
        let progress = Progress::of(journal).map_err(|error| blocked(error.to_string().into()))?;
        progress.objects_to(order).map_err(|why| refused(&journal.saga, why))?;
        match &progress.blocked {
            Some(reason) if *order != Order::Close => Err(blocked(reason.clone())),
            _ => Ok(progress),
        }
    }

    /// Writes the order into the journal of a saga that nobody holds, and whose mail was read.
    async fn journal(
        &self,
        saga: &SagaId,
        order: &Order,
        event: Event,
    ) -> Result<Option<Report>, SagaError> {
        let engine = self.0.engine();
        engine.sync(false).await?;
        let Some(journal) = work::claim(engine, saga).await? else { return Ok(None) };
        let fits = self.fits(&journal, order);
        let Ok(mut progress) = fits else {
            work::give_back(engine, &journal).await;
            return fits.map(|_| None);
        };
        if progress.apply(&event).is_err() {
            work::give_back(engine, &journal).await;
            return Err(refused(saga, "cannot be told that"));
        }
        let state = progress.state();
        // Mail that is there is read by whoever goes on with it, after this order.
        let due = (state != State::Stuck).then_some(engine.now());
        let hold = Hold::Park { due, note: blocked::note_of(&journal) };
        work::append(engine, &journal, event, state, hold).await?;
        Ok(Some(Report::of(saga.clone(), &progress)))
    }
}

/// How often a saga is looked at that neither could be claimed nor is held.
const LOOKS: usize = 5;

impl fmt::Debug for Operator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Operator").finish_non_exhaustive()
    }
}
