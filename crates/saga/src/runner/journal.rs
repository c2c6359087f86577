//! Writing events down.

use std::sync::Arc;

use tokio::time::sleep;

use super::{Parted, Runner, Stopped};
use crate::{
    Commit, Event, Hold, Message, MessageId, Outgoing, Places, Record, State, StoreError,
    StoreFuture, engine::at_once, error::error_line, seat::Seat,
};

/// What is written in one commit.
#[derive(Default)]
pub(super) struct Batch {
    /// Where the first record is, which nearly always is the only one. The room of the last commit, if the store has not kept it.
    room: Option<Arc<[Record]>>,
    /// Whether there is a first one.
    begun: bool,
    rest: Vec<Record>,
    outbox: Vec<Outgoing>,
    /// No messages, for most commits.
    silence: Option<Arc<[Outgoing]>>,
}

impl Batch {
    fn len(&self) -> u64 {
        u64::from(self.begun) + self.rest.len() as u64
    }

    fn push(&mut self, record: Record) {
        if std::mem::replace(&mut self.begun, true) {
            return self.rest.push(record);
        }
        match self.room.as_mut().and_then(Arc::get_mut) {
            Some([room]) => *room = record,
            _ => self.room = Some(Arc::new([record])),
        }
    }

    /// What is written, in one piece. It is empty then.
    fn take(&mut self) -> Arc<[Record]> {
        self.begun = false;
        let first = self.room.take().unwrap_or_default();
        if self.rest.is_empty() {
            return first;
        }
        first.iter().cloned().chain(self.rest.drain(..)).collect()
    }

    /// The messages, likewise.
    fn take_outbox(&mut self) -> Arc<[Outgoing]> {
        if self.outbox.is_empty() {
            return self.silence.take().unwrap_or_default();
        }
        std::mem::take(&mut self.outbox).into()
    }

    /// Takes back what was written.
    pub(super) fn reuse(&mut self, room: Arc<[Record]>) {
        self.room = Some(room);
    }
}

impl Runner {
    pub(super) fn write(&mut self, event: Event) -> Result<(), Stopped> {
        self.write_with(event, Vec::new())
    }

    /// Adds an event to the batch, and opens what follows from it.
    pub(super) fn write_with(
        &mut self,
        event: Event,
        messages: Vec<Message>,
    ) -> Result<(), Stopped> {
        let now = self.seat.engine.now();
        let forward = self.progress.failure.is_none();
        let draining = self.seat.engine.is_draining();
        let written = self.progress.apply(&event).and_then(|()| {
            let opens = if draining { &[] } else { self.progress.ready() };
            let opens = Places::from(opens);
            self.progress.open(&opens, now).map(|()| opens)
        });
        let opens = match written {
            Ok(opens) => opens,
            Err(error) => {
                tracing::error!(saga = %self.seat.saga, %error, ?event, "saga stopped by a wrong event");
                return Err(Stopped);
            }
        };
        self.reconsider |= forward && self.progress.failure.is_some();
        let sequence = self.sequence + self.batch.len();
        for (index, message) in (0..).zip(messages) {
            let id =
                MessageId::new(self.seat.saga.clone(), sequence, index).of_life(self.progress.life);
            self.batch.outbox.push(Outgoing { id, message });
        }
        let record = Record { opens, ..Record::new(sequence, self.epoch, now, event) };
        self.batch.push(record);
        Ok(())
    }

    /// Makes the batch durable, and begins what it opens.
    pub(super) async fn commit(&mut self) -> Result<Option<Parted>, Stopped> {
        if self.batch.len() == 0 {
            return Ok(None);
        }
        let end = self.sequence + self.batch.len();
        let (hold, parked) = self.hold();
        let commit = Commit {
            saga: self.seat.saga.clone(),
            epoch: self.epoch,
            records: self.batch.take(),
            state: self.progress.state(),
            hold,
            mail_taken: self.mail_taken,
            outbox: self.batch.take_outbox(),
        };
        let mut writing = self.seat.engine.store.append(&commit);
        match at_once(writing.as_mut()).await {
            Some(Ok(())) => drop(writing),
            // In a box: a store that has it at once needs no room for the others.
            first => Box::pin(append(&self.seat, (&commit, end), first, writing)).await?,
        }
        if !commit.outbox.is_empty() {
            self.seat.engine.emitted.notify_one();
        }
        (self.sequence, self.crashes) = (end, 0);
        self.held = matches!(commit.hold, Hold::Keep(_)) && !commit.state.is_final();
        for step in commit.records.iter().flat_map(|record| record.opens.iter()) {
            self.start(*step);
        }
        self.batch.reuse(commit.records);
        self.batch.silence = Some(commit.outbox).filter(|outbox| outbox.is_empty());
        Ok(parked.then_some(Parted::Parked))
    }

    /// What becomes of the lease: a saga that waits for long gives it up in the same write.
    fn hold(&self) -> (Hold, bool) {
        let state = self.progress.state();
        let stuck = state == State::Stuck && !self.running.is_busy();
        let waits = state == State::Running && self.progress.only_waits();
        if stuck || waits && self.is_long_wait() {
            (Hold::Park { due: self.next_due(), note: None }, !stuck)
        } else {
            (Hold::Keep(self.seat.engine.options.lease), false)
        }
    }
}

/// Repeats until the store has it, or says that the saga is no longer ours. `first` is what it said when `writing` was polled once.
async fn append(
    seat: &Seat,
    (commit, end): (&Commit, u64),
    first: Option<Result<(), StoreError>>,
    writing: StoreFuture<'_, ()>,
) -> Result<(), Stopped> {
    let engine = &*seat.engine;
    let mut waiting = None;
    let mut retries = 0;
    let mut answer = match first {
        Some(answer) => engine.noted(answer),
        None => engine.awaited(writing).await,
    };
    loop {
        match answer {
            Ok(()) => return Ok(()),
            // An append that seemed to fail had succeeded: in this epoch nobody else writes.
            Err(StoreError::Conflict { next, .. }) if waiting.is_some() && next == end => {
                return Ok(());
            }
            Err(error @ (StoreError::Failed(_) | StoreError::Full(_))) => {
                waiting.get_or_insert_with(|| engine.counters.waiting_for_store.raise());
                retries += 1;
                wait_for_store(seat, retries, &error).await?;
            }
            Err(error) => {
                tracing::warn!(saga = %seat.saga, %error, "saga given up to whoever has it");
                seat.lose();
                return Err(Stopped);
            }
        }
        answer = engine.store(engine.store.append(commit)).await;
    }
}

async fn wait_for_store(seat: &Seat, retries: u32, error: &StoreError) -> Result<(), Stopped> {
    let error = error_line(error);
    tracing::error!(saga = %seat.saga, %error, retries, "journal not written yet");
    let pause = seat.engine.options.store_policy().pause(retries, &mut rand::rng());
    tokio::select! {
        () = sleep(pause) => Ok(()),
        () = seat.engine.drained() => Err(Stopped),
    }
}
