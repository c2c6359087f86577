//! Writing events down.

use std::{mem, sync::Arc};

use tokio::time::sleep;

use super::{Parted, Runner, Stopped};
use crate::{
    Commit, Event, Hold, Message, MessageId, Outgoing, Places, Record, State, StoreError,
    error::error_line,
};

/// What is written in one commit.
#[derive(Default)]
pub(super) struct Batch {
    records: Vec<Record>,
    outbox: Vec<Outgoing>,
    /// The records of the last commit: the room for the next ones, if the store has not kept them.
    last: Option<Arc<[Record]>>,
}

impl Batch {
    /// What is written, in one piece. It is empty then.
    fn take(&mut self) -> Arc<[Record]> {
        if self.records.len() == 1 {
            if let Some(mut last) = self.last.take() {
                if let Some([room]) = Arc::get_mut(&mut last) {
                    if let Some(record) = self.records.pop() {
                        *room = record;
                    }
                    return last;
                }
            }
        }
        self.records.drain(..).collect()
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
        let now = self.engine.now();
        let forward = self.progress.failure.is_none();
        let draining = self.engine.is_draining();
        let written = self.progress.apply(&event).and_then(|()| {
            let opens = if draining { &[] } else { self.progress.ready() };
            let opens = Places::from(opens);
            self.progress.open(&opens, now).map(|()| opens)
        });
        let opens = match written {
            Ok(opens) => opens,
            Err(error) => {
                tracing::error!(saga = %self.saga, %error, ?event, "saga stopped by a wrong event");
                return Err(Stopped);
            }
        };
        self.reconsider |= forward && self.progress.failure.is_some();
        let sequence = self.sequence + self.batch.records.len() as u64;
        for (index, message) in (0..).zip(messages) {
            let id = MessageId::new(self.saga.clone(), sequence, index).of_life(self.progress.life);
            self.batch.outbox.push(Outgoing { id, message });
        }
        let record = Record { opens, ..Record::new(sequence, self.epoch, now, event) };
        self.batch.records.push(record);
        Ok(())
    }

    /// Makes the batch durable, and begins what it opens.
    pub(super) async fn commit(&mut self) -> Result<Option<Parted>, Stopped> {
        if self.batch.records.is_empty() {
            return Ok(None);
        }
        let end = self.sequence + self.batch.records.len() as u64;
        let (hold, parked) = self.hold();
        let commit = Commit {
            saga: self.saga.clone(),
            epoch: self.epoch,
            records: self.batch.take(),
            state: self.progress.state(),
            hold,
            mail_taken: self.mail_taken,
            outbox: match self.batch.outbox.is_empty() {
                true => Arc::default(),
                false => mem::take(&mut self.batch.outbox).into(),
            },
        };
        self.append(&commit, end).await?;
        if !commit.outbox.is_empty() {
            self.engine.emitted.notify_one();
        }
        (self.sequence, self.crashes) = (end, 0);
        self.held = matches!(commit.hold, Hold::Keep(_)) && !commit.state.is_final();
        for step in commit.records.iter().flat_map(|record| record.opens.iter()) {
            self.start(*step);
        }
        self.batch.last = Some(commit.records);
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
            (Hold::Keep(self.engine.options.lease), false)
        }
    }

    /// Repeats until the store has it, or says that the saga is no longer ours.
    async fn append(&mut self, commit: &Commit, end: u64) -> Result<(), Stopped> {
        let engine = self.engine.clone();
        let mut waiting = None;
        let mut retries = 0;
        loop {
            match engine.store(engine.store.append(commit)).await {
                Ok(()) => return Ok(()),
                // An append that seemed to fail had succeeded: in this epoch nobody else writes.
                Err(StoreError::Conflict { next, .. }) if waiting.is_some() && next == end => {
                    return Ok(());
                }
                Err(error @ (StoreError::Failed(_) | StoreError::Full(_))) => {
                    waiting.get_or_insert_with(|| engine.counters.waiting_for_store.raise());
                    retries += 1;
                    Box::pin(self.wait_for_store(retries, &error)).await?;
                }
                Err(error) => {
                    tracing::warn!(saga = %self.saga, %error, "saga given up to whoever has it");
                    self.seat.lose();
                    return Err(Stopped);
                }
            }
        }
    }

    async fn wait_for_store(&mut self, retries: u32, error: &StoreError) -> Result<(), Stopped> {
        let error = error_line(error);
        tracing::error!(saga = %self.saga, %error, retries, "journal not written yet");
        let pause = self.engine.options.store_policy().pause(retries, &mut rand::rng());
        tokio::select! {
            () = sleep(pause) => Ok(()),
            () = self.engine.drained() => Err(Stopped),
        }
    }
}
