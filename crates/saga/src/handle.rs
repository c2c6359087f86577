use std::{fmt, sync::Arc};

use crate::{
    Finished, SagaError, SagaId,
    needs::Decode,
    operator::settled,
    seat::{Phase, Seat},
};

/// A saga that has begun. Dropping it changes nothing.
pub struct Handle<Out> {
    pub(crate) seat: Arc<Seat>,
    pub(crate) needs: Arc<[u32]>,
    pub(crate) decode: Decode<Out>,
}

impl<Out> Handle<Out> {
    /// The saga.
    #[must_use]
    pub fn saga(&self) -> &SagaId {
        &self.seat.saga
    }

    /// How it ends. May be asked again.
    ///
    /// # Errors
    ///
    /// [`SagaError::Interrupted`] when this process stops working on it before its end, and [`SagaError::Output`]
    /// when the outputs are not what the definition says.
    ///
    /// # Cancellation
    ///
    /// Nothing is lost.
    pub async fn outcome(&self) -> Result<Finished<Out>, SagaError> {
        outcome(&self.seat, &self.needs, self.decode).await
    }
}

/// How a saga ends that is, or was, under way here.
pub(crate) async fn outcome<Out>(
    seat: &Seat,
    needs: &[u32],
    decode: Decode<Out>,
) -> Result<Finished<Out>, SagaError> {
    seat.reached(|phase| phase >= Phase::Parked).await;
    match seat.ended() {
        Some(Ok(progress)) => Finished::of(&seat.saga, progress, needs, decode),
        Some(Err(error)) => Err(error.clone()),
        // It is parked.
        None => {
            let settled = Box::pin(settled(&seat.engine, &seat.saga)).await?;
            Finished::of(&seat.saga, settled.progress()?, needs, decode)
        }
    }
}

impl<Out> fmt::Debug for Handle<Out> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Handle").field(self.saga()).finish()
    }
}
