//! Carries one saga on, as the only one in its epoch.
//!
//! Round by round: what happened is written down together with what it opens ([`journal`]), what was opened is attempted ([`attempt`], [`running`]), and what
//! comes of an attempt is judged ([`verdict`]). Beside that, time passes and signals come ([`waits`], [`mail`]), and others take over ([`handover`]).

mod attempt;
mod handover;
mod journal;
mod mail;
mod running;
mod verdict;
mod waits;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use tokio::task::yield_now;

use crate::{
    Direction, Event, Journal, Post, Record, State, StepState, definition::Plan, few::Few,
    progress::Progress, seat::Seat, step::Ground, tries::Tries,
};

pub(crate) use handover::note_of;
use running::{Happened, Running};

pub(crate) struct Runner {
    pub(crate) seat: Arc<Seat>,
    plan: Arc<Plan>,
    epoch: u64,
    /// Of the next record.
    sequence: u64,
    pub(crate) progress: Progress,
    /// Attempts and pauses under way.
    running: Running,
    /// Steps under way that were attempted in vain, in this process or before.
    tries: BTreeMap<u32, Tries>,
    /// Of an attempt that is over, for the next one.
    ground: Option<Arc<Ground>>,
    mail: VecDeque<Post>,
    mail_taken: u64,
    /// How many holders fell silent since the last record, as the store counts.
    crashes: u32,
    /// Written, and not durable yet.
    batch: journal::Batch,
    /// Whether there may be steps that get no further attempt.
    reconsider: bool,
    /// Whether the lease is ours still.
    held: bool,
    /// Rounds since it last let others have the thread.
    rounds: u32,
}

/// This process must not go on with the saga, or does not want to.
pub(crate) struct Stopped;

/// Why the runner is through with the saga.
pub(crate) enum Parted {
    /// It is at its end, or stuck.
    Ended,
    /// Nothing happens for a while; the store has it fetched again.
    Parked,
}

/// After so many rounds in which neither the store nor an action made it wait, others get their turn.
const ROUNDS: u32 = 64;

impl Runner {
    /// Of a saga that is about to be created.
    pub(crate) fn new(seat: Arc<Seat>, plan: Arc<Plan>, progress: Progress) -> Box<Self> {
        Box::new(Self {
            seat,
            plan,
            epoch: 1,
            sequence: 1,
            progress,
            running: Running::default(),
            tries: BTreeMap::new(),
            ground: None,
            mail: VecDeque::new(),
            mail_taken: 0,
            crashes: 0,
            batch: journal::Batch::default(),
            reconsider: false,
            held: true,
            rounds: 0,
        })
    }

    /// Of a saga that this process has claimed. `progress` is what its journal tells.
    pub(crate) fn resume(
        seat: Arc<Seat>,
        plan: Arc<Plan>,
        journal: Journal,
        progress: Progress,
    ) -> Box<Self> {
        let tries = handover::inherited(&progress, &journal);
        let mut runner = Self::new(seat, plan, progress);
        runner.seat.hold(journal.epoch);
        runner.epoch = journal.epoch;
        runner.sequence = journal.records.map_or(0, |records| records.len()) as u64;
        runner.reconsider = true;
        runner.crashes = journal.crashes;
        runner.tries = tries;
        runner.mail = journal.mail.into();
        runner.mail_taken = journal.mail_taken;
        // What was sent since the saga was claimed found nobody here to tell.
        runner.seat.tell_of_mail();
        runner
    }

    /// The same, with room for its records, if that is free.
    pub(crate) fn reusing(mut self: Box<Self>, room: Arc<[Record]>) -> Box<Self> {
        self.batch.reuse(room);
        self
    }

    /// To the end of the saga, or to where an operator is needed, or to where it waits for long.
    pub(crate) async fn run(&mut self) -> Result<Parted, Stopped> {
        let parted = self.drive().await;
        if self.held && !self.seat.is_lost() {
            // Where nothing was written that says more: stopped, or stuck as before.
            let due = if parted.is_err() { Some(0) } else { self.next_due() };
            Box::pin(self.release(due)).await;
        }
        parted
    }

    async fn drive(&mut self) -> Result<Parted, Stopped> {
        self.take_up()?;
        loop {
            self.read_mail()?;
            self.write_what_is_due()?;
            if let Some(parted) = self.commit().await? {
                return Ok(parted);
            }
            let state = self.progress.state();
            if state.is_final() || state == State::Stuck && !self.running.is_busy() {
                return Ok(Parted::Ended);
            }
            if self.reconsider {
                continue;
            }
            if self.seat.engine.is_draining() && !self.running.is_busy() {
                return Err(Stopped);
            }
            if self.seat.is_lost() {
                return Err(Stopped);
            }
            if self.is_long_wait() {
                let due = self.next_due().map(|due| due.max(1));
                Box::pin(self.release(due)).await;
                self.held = false;
                return Ok(Parted::Parked);
            }
            self.rounds += 1;
            if self.rounds % ROUNDS == 0 {
                yield_now().await;
            }
            self.go_on().await?;
        }
    }

    /// Goes on with the steps that were under way when the journal was loaded.
    fn take_up(&mut self) -> Result<(), Stopped> {
        // Only what earlier records opened: what is written now is not durable yet.
        let under_way: Few = self.progress.under_way().collect();
        if self.progress.state() == State::Blocked {
            self.write(Event::Unblocked)?;
        }
        self.read_mail()?;
        for &step in &*under_way {
            if self.tries.get(&step).is_none_or(|tries| !self.is_over(step, tries)) {
                self.start(step);
            }
        }
        Ok(())
    }

    /// Waits until something happens, and writes all that has happened by then.
    async fn go_on(&mut self) -> Result<(), Stopped> {
        let mut next = self.running.now().await;
        if next.is_none() {
            // In a box, as all that a saga may never come to: who begins many has less to carry.
            next = Box::pin(self.wait()).await;
        }
        while let Some(happened) = next {
            match happened {
                Happened::Rested(step) => self.start(step),
                Happened::Attempted(attempted) => self.attempted(attempted)?,
            }
            next = if self.running.is_idle() { None } else { self.running.now().await };
        }
        Ok(())
    }

    /// Whether a step is under way in this direction still.
    fn is_under_way(&self, step: u32, direction: Direction) -> bool {
        let state = self.progress.steps[step as usize].state;
        state == if direction == Direction::Act { StepState::Acting } else { StepState::Undoing }
    }
}
