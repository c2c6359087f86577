use std::{sync::Arc, time::Duration};

use serde::Serialize;
use tokio::time::sleep;

use super::{load, refused};
use crate::{
    Event, Journal, Json, Mail, Orchestrator, Order, Report, SagaError, SagaId, StoreError,
    blocked,
    error::shortened,
    event::{Envelope, Letter},
    progress::Progress,
    recovery::{TakenOver, take_over},
    work::{self, LOOK_EVERY},
};

/// For operators: what to do about a saga.
///
/// Orders go into the saga's mail, and so reach whichever process works on it; each is in the journal with its note. They answer when they are
/// in the journal: what follows from them is told by [`settled`](Self::settled). All fail with [`SagaError::NoSuchSaga`]; with [`SagaError::Refused`] when they do
/// not fit the state that the saga is in; with [`SagaError::Blocked`] when no process is known that could carry them out; and when the store fails. Once
/// given, an order stands, though the future that gave it be dropped. [`Operator`](crate::Operator) gives them without the definitions.
impl Orchestrator {
    /// Tries all that was given up again, undos as well as steps behind the pivot, and all that pauses between two attempts now. A blocked saga is
    /// carried on, if its definition is known by now.
    ///
    /// # Errors
    ///
    /// [`SagaError::NoSuchSaga`], [`SagaError::Refused`], [`SagaError::Blocked`], or when the store fails.
    pub async fn retry(&self, saga: &SagaId, note: &str) -> Result<Report, SagaError> {
        self.order(saga, Order::Retry, note).await
    }

    /// Settles an undo that was given up or is under way, because it was carried out by hand, or is not needed. Once all are settled the saga is
    /// compensated.
    ///
    /// # Errors
    ///
    /// As [`retry`](Self::retry).
    pub async fn skip(&self, saga: &SagaId, step: &str, note: &str) -> Result<Report, SagaError> {
        self.order(saga, Order::Skip { step: step.into() }, note).await
    }

    /// Takes `output` for what a step returned that is under way or was given up behind the pivot, and goes on. An attempt under way is dropped.
    ///
    /// # Errors
    ///
    /// As [`retry`](Self::retry), and [`SagaError::Input`] when the output cannot be kept.
    pub async fn supply<T: Serialize>(
        &self,
        saga: &SagaId,
        step: &str,
        output: &T,
        note: &str,
    ) -> Result<Report, SagaError> {
        let output = Json::encode(output).map_err(|error| SagaError::Input(error.into()))?;
        self.order(saga, Order::Supply { step: step.into(), output }, note).await
    }

    /// Has a saga turn back whose pivot has not begun.
    ///
    /// # Errors
    ///
    /// As [`retry`](Self::retry).
    pub async fn turn_back(&self, saga: &SagaId, note: &str) -> Result<Report, SagaError> {
        self.order(saga, Order::TurnBack, note).await
    }

    /// Ends a saga as [`State::Closed`](crate::State::Closed), whatever is left to do or to undo. What is under way is dropped.
    ///
    /// # Errors
    ///
    /// As [`retry`](Self::retry).
    pub async fn close(&self, saga: &SagaId, note: &str) -> Result<Report, SagaError> {
        self.order(saga, Order::Close, note).await
    }

    /// Sends a signal to a saga: the output of the step named `name` that [waits](crate::Step::signal) for it, be it waiting already or not. Durable when this
    /// returns. Answers whether it is new: a second one with the same `key` is dropped.
    ///
    /// # Errors
    ///
    /// [`SagaError::Refused`] when no step waits for such a signal or the saga has come to its end; [`SagaError::NoSuchSaga`], [`SagaError::Input`]; or when the
    /// store fails.
    pub async fn signal<T: Serialize>(
        &self,
        saga: &SagaId,
        name: &str,
        key: &str,
        payload: &T,
    ) -> Result<bool, SagaError> {
        let payload = Json::encode(payload).map_err(|error| SagaError::Input(error.into()))?;
        /// What is left for orders.
        const ORDERS: u64 = 100;
        let journal = load(self.engine(), saga).await?;
        if journal.mail_taken + journal.mail.len() as u64 >= Mail::MOST - ORDERS {
            return Err(refused(saga, "has had too many signals"));
        }
        let progress = Progress::of(&journal).map_err(StoreError::from)?;
        let waits = progress.place(name).map(|place| &progress.shape.steps[place as usize].kind);
        if !matches!(waits, Some(crate::StepKind::Signal { .. })) {
            return Err(refused(saga, "waits for no such signal"));
        }
        let letter = Letter::Signal { name: name.into(), payload };
        let new = self.send(saga, format!("signal/{name}/{key}").into(), &letter).await?;
        self.nudge(saga).await?;
        Ok(new)
    }

    /// Gives an order.
    ///
    /// # Errors
    ///
    /// As [`retry`](Self::retry).
    pub async fn order(
        &self,
        saga: &SagaId,
        order: Order,
        note: &str,
    ) -> Result<Report, SagaError> {
        let engine = self.engine();
        let journal = load(engine, saga).await?;
        if let Ok(progress) = Progress::of(&journal) {
            progress.objects_to(&order).map_err(|why| refused(saga, why))?;
        }
        let (key, note): (Arc<str>, Arc<str>) = (new_key(), shortened(note).into());
        if let Err(reason) = blocked::plan_of(engine, &journal) {
            if order == Order::Close && journal.records.is_ok() {
                return self.close_without_a_plan(saga, key, note).await;
            }
            if Progress::of(&journal).is_err() || self.is_blocked(&journal) {
                return Err(SagaError::Blocked { saga: saga.clone(), reason });
            }
        }
        self.send(saga, key.clone(), &Letter::Order { order, note }).await?;
        self.nudge(saga).await?;
        self.ordered(saga, &key).await
    }

    fn is_blocked(&self, journal: &Journal) -> bool {
        Progress::of(journal).is_ok_and(|progress| progress.blocked.is_some())
    }

    async fn close_without_a_plan(
        &self,
        saga: &SagaId,
        key: Arc<str>,
        note: Arc<str>,
    ) -> Result<Report, SagaError> {
        let engine = self.engine();
        engine.sync(false).await?;
        let Some(journal) = work::claim(engine, saga).await? else {
            return Err(refused(saga, "is under way elsewhere"));
        };
        let event = Event::Ordered { key, order: Order::Close, note, refused: None };
        blocked::close(engine, &journal, event).await?;
        self.report(saga).await
    }

    pub(super) async fn send(
        &self,
        saga: &SagaId,
        key: Arc<str>,
        letter: &Letter,
    ) -> Result<bool, SagaError> {
        let engine = self.engine();
        let body = Envelope { format: Envelope::<Letter>::FORMAT, letter };
        let body = Json::encode(&body).map_err(|error| SagaError::Input(error.into()))?;
        let mail = Mail { saga: saga.clone(), key, body };
        match engine.store(engine.store.send(&mail)).await {
            Ok(new) => Ok(new),
            Err(StoreError::NoSuchSaga(saga)) => Err(SagaError::NoSuchSaga(saga)),
            Err(StoreError::Ended(saga)) => Err(refused(&saga, "has come to its end")),
            Err(StoreError::Full(_)) => Err(refused(saga, "has had too much mail")),
            Err(error) => Err(error.into()),
        }
    }

    /// Has the saga's mail read soon: by its task, or by taking it over if nobody holds it.
    async fn nudge(&self, saga: &SagaId) -> Result<(), SagaError> {
        let engine = self.engine();
        if let Some(seat) = engine.live.seat(saga) {
            seat.tell_of_mail();
            return Ok(());
        }
        let journal = load(engine, saga).await?;
        if journal.node.is_some()
            || journal.mail.is_empty()
            || blocked::plan_of(engine, &journal).is_err()
        {
            return Ok(());
        }
        let permit = self.permit().await?;
        let _claims = engine.claims.lock().await;
        let Some(journal) = work::claim(engine, saga).await? else { return Ok(()) };
        match take_over(engine, journal, permit) {
            TakenOver::Yes => {}
            TakenOver::Blocked(journal, _) | TakenOver::Unwanted(journal) => {
                work::give_back(engine, &journal).await;
                if let Some(seat) = engine.live.seat(saga) {
                    seat.tell_of_mail();
                }
            }
        }
        Ok(())
    }

    /// Until an order is in the journal.
    pub(super) async fn ordered(&self, saga: &SagaId, key: &Arc<str>) -> Result<Report, SagaError> {
        let mut pause = Duration::from_millis(5);
        loop {
            let history = self.history(saga).await?;
            let ours = history.iter().rev().find_map(|record| match &record.event {
                Event::Ordered { key: found, refused, .. } if found == key => Some(refused.clone()),
                _ => None,
            });
            let report = Report::replay(saga.clone(), &history)?;
            match ours {
                Some(None) => return Ok(report),
                Some(Some(why)) => return Err(SagaError::Refused { saga: saga.clone(), why }),
                None if report.state.is_final() => {
                    return Err(refused(saga, "has come to its end"));
                }
                None => {}
            }
            sleep(pause).await;
            // Its task may have let go of the saga before it could look.
            self.nudge(saga).await?;
            pause = (2 * pause).min(LOOK_EVERY);
        }
    }
}

/// No other order's.
pub(super) fn new_key() -> Arc<str> {
    format!("order/{}", SagaId::random()).into()
}
