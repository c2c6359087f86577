//! What operators see and do.

mod elsewhere;
mod orders;

use std::sync::Arc;

use tokio::time::sleep;

use crate::{
    Journal, Orchestrator, Query, Record, Report, Retention, SagaError, SagaId, State, StoreError,
    Summary,
    engine::Engine,
    progress::Progress,
    seat::{Phase, Seat},
    work::LOOK_EVERY,
};

pub use elsewhere::{Operator, Ordered};

/// For operators: what there is, and what happened.
impl Orchestrator {
    /// Lists sagas by id.
    ///
    /// # Errors
    ///
    /// When the store fails.
    pub async fn list(&self, query: &Query) -> Result<Vec<Summary>, SagaError> {
        let engine = self.engine();
        Ok(engine.store(engine.store.query(query)).await?)
    }

    /// How many sagas are in each state, in the whole store. [`State::Stuck`] and [`State::Blocked`] wait for somebody: watch them.
    ///
    /// # Errors
    ///
    /// When the store fails.
    pub async fn count(&self) -> Result<Vec<(State, u64)>, SagaError> {
        let engine = self.engine();
        Ok(engine.store(engine.store.count()).await?)
    }

    /// The journal of a saga.
    ///
    /// # Errors
    ///
    /// [`SagaError::NoSuchSaga`], or when the store fails.
    pub async fn history(&self, saga: &SagaId) -> Result<Vec<Record>, SagaError> {
        let journal = load(self.engine(), saga).await?;
        Ok(journal.records.map_err(StoreError::from)?)
    }

    /// Where a saga stands, by its journal.
    ///
    /// # Errors
    ///
    /// [`SagaError::NoSuchSaga`], or when the store fails or has a damaged journal.
    pub async fn report(&self, saga: &SagaId) -> Result<Report, SagaError> {
        Report::replay(saga.clone(), &self.history(saga).await?)
    }

    /// Until a saga is in a final state or stuck, whoever works on it; a blocked one is waited for.
    ///
    /// # Errors
    ///
    /// Those of [`report`](Self::report).
    ///
    /// # Cancellation
    ///
    /// Nothing is lost.
    pub async fn settled(&self, saga: &SagaId) -> Result<Report, SagaError> {
        let settled = settled(self.engine(), saga).await?;
        Ok(Report::of(saga.clone(), settled.progress()?))
    }

    /// Forgets finished sagas that `keep` does not cover. Their ids can be started anew.
    ///
    /// # Errors
    ///
    /// When the store fails.
    pub async fn purge(&self, keep: &Retention) -> Result<u64, SagaError> {
        let engine = self.engine();
        Ok(engine.store(engine.store.purge(keep)).await?)
    }
}

fn refused(saga: &SagaId, why: &str) -> SagaError {
    SagaError::Refused { saga: saga.clone(), why: why.into() }
}

async fn load(engine: &Engine, saga: &SagaId) -> Result<Journal, SagaError> {
    let journal = engine.store(engine.store.load(saga)).await?;
    journal.ok_or_else(|| SagaError::NoSuchSaga(saga.clone()))
}

/// Where a saga stands that is in a final state or stuck.
pub(crate) enum Settled {
    /// As this process left it.
    Here(Arc<Seat>),
    Read(Box<Progress>),
}

impl Settled {
    pub(crate) fn progress(&self) -> Result<&Progress, SagaError> {
        match self {
            Self::Here(seat) => match seat.ended() {
                Some(ended) => ended.map_err(Clone::clone),
                None => Err(SagaError::Interrupted(seat.saga.clone())),
            },
            Self::Read(progress) => Ok(progress),
        }
    }
}

/// Until a saga is in a final state or stuck.
pub(crate) async fn settled(engine: &Engine, saga: &SagaId) -> Result<Settled, SagaError> {
    loop {
        if let Some(seat) = engine.live.seat(saga) {
            seat.reached(|phase| phase >= Phase::Parked).await;
            if let Some(Ok(_)) = seat.ended() {
                return Ok(Settled::Here(seat));
            }
        }
        let progress = Progress::of(&load(engine, saga).await?).map_err(StoreError::from)?;
        if progress.state().is_final() || progress.state() == State::Stuck {
            return Ok(Settled::Read(Box::new(progress)));
        }
        if engine.live.is_closed() {
            return Err(SagaError::Interrupted(saga.clone()));
        }
        tokio::select! {
            () = sleep(LOOK_EVERY) => {}
            () = engine.drained() => {}
        }
    }
}
