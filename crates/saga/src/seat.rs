use std::sync::{
    Arc, Mutex, MutexGuard, OnceLock, PoisonError,
    atomic::{
        AtomicBool, AtomicU8, AtomicU64,
        Ordering::{Acquire, Relaxed, Release},
    },
};

use tokio::{sync::Notify, task::AbortHandle};

use crate::{Json, SagaError, SagaId, Shape, engine::Engine, progress::Progress};

/// A saga under way: how others reach its task, and what they are told of it. One allocation for all of it.
pub(crate) struct Seat {
    pub(crate) engine: Arc<Engine>,
    pub(crate) saga: SagaId,
    /// What it runs.
    shape: Arc<Shape>,
    input: Json,
    /// In which epoch this process holds the saga; 0 before it does.
    epoch: AtomicU64,
    lost: AtomicBool,
    mail: AtomicBool,
    /// Wakes the task.
    call: Notify,
    /// A [`Phase`].
    phase: AtomicU8,
    /// How it ended; there before its phase says that it has.
    ended: OnceLock<Result<Progress, SagaError>>,
    /// Wakes who waits for another phase.
    moved: Notify,
    /// Whether there is, or soon will be, a task: as long as there is none, whoever began the saga does the work.
    spawned: AtomicBool,
    task: Mutex<Tasked>,
}

#[derive(Default)]
struct Tasked {
    aborted: bool,
    task: Option<AbortHandle>,
}

/// What is known of a saga under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Phase {
    Entered,
    /// The journal exists.
    Begun,
    /// It waits for long: the store has it fetched again. From here on it is not among the live ones any more.
    Parked,
    Ended,
}

/// What the work on a saga comes to; where that is its end, [`Seat::settle`] was told how.
pub(crate) type Outcome = Result<Left, SagaError>;

pub(crate) enum Left {
    Parked,
    Ended,
}

impl Seat {
    pub(crate) fn new(
        engine: Arc<Engine>,
        saga: SagaId,
        (shape, input): (Arc<Shape>, Json),
    ) -> Self {
        Self {
            engine,
            saga,
            shape,
            input,
            epoch: AtomicU64::new(0),
            lost: AtomicBool::new(false),
            mail: AtomicBool::new(false),
            call: Notify::new(),
            phase: AtomicU8::new(Phase::Entered as u8),
            ended: OnceLock::new(),
            moved: Notify::new(),
            spawned: AtomicBool::new(false),
            task: Mutex::default(),
        }
    }

    /// Whether it runs what `shape` and `input` say.
    pub(crate) fn runs(&self, shape: &Arc<Shape>, input: &Json) -> bool {
        self.shape == *shape && self.input.same_as(input)
    }

    pub(crate) fn hold(&self, epoch: u64) {
        self.epoch.store(epoch, Relaxed);
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.epoch.load(Relaxed)
    }

    /// Another process has the saga.
    pub(crate) fn lose(&self) {
        self.lost.store(true, Relaxed);
        self.call();
    }

    pub(crate) fn is_lost(&self) -> bool {
        self.lost.load(Relaxed)
    }

    pub(crate) fn tell_of_mail(&self) {
        self.mail.store(true, Relaxed);
        self.call();
    }

    pub(crate) fn take_mail(&self) -> bool {
        // Nearly always there is none, and looking is cheaper than taking.
        self.mail.load(Relaxed) && self.mail.swap(false, Relaxed)
    }

    /// Has the task look around.
    pub(crate) fn call(&self) {
        self.call.notify_one();
    }

    /// Until somebody wants something. Only one task may wait.
    pub(crate) async fn called(&self) {
        self.call.notified().await;
    }

    pub(crate) fn phase(&self) -> Phase {
        match self.phase.load(Acquire) {
            0 => Phase::Entered,
            1 => Phase::Begun,
            2 => Phase::Parked,
            _ => Phase::Ended,
        }
    }

    /// How it ended, once it has.
    pub(crate) fn ended(&self) -> Option<Result<&Progress, &SagaError>> {
        self.ended.get().filter(|_| self.phase() == Phase::Ended).map(Result::as_ref)
    }

    pub(crate) fn begun(&self) {
        self.phase.store(Phase::Begun as u8, Release);
        self.moved.notify_waiters();
    }

    /// How the saga ended. Nobody is told before its place is given back.
    pub(crate) fn settle(&self, progress: Progress) {
        // It errs if it is told twice, and then the first was right.
        let _ = self.ended.set(Ok(progress));
    }

    /// For the one who has given back its place.
    pub(crate) fn leave(&self, outcome: Outcome) {
        let phase = match outcome {
            Ok(Left::Parked) => Phase::Parked,
            Ok(Left::Ended) => Phase::Ended,
            Err(error) => {
                let _ = self.ended.set(Err(error));
                Phase::Ended
            }
        };
        self.phase.store(phase as u8, Release);
        if self.spawned.load(Acquire) {
            self.tasked().task = None;
        }
        self.moved.notify_waiters();
    }

    /// The phase once it is `there`, or the last one.
    pub(crate) async fn reached(&self, there: impl Fn(Phase) -> bool) -> Phase {
        loop {
            let there = |phase| phase >= Phase::Parked || there(phase);
            if there(self.phase()) {
                return self.phase();
            }
            // Made before it is looked once more: what happens in between wakes it.
            let moved = self.moved.notified();
            if there(self.phase()) {
                return self.phase();
            }
            moved.await;
        }
    }

    /// Until a saga that was not settled is, or has left.
    pub(crate) async fn moved_on(&self) {
        let entered = self.phase() == Phase::Entered;
        self.reached(|phase| entered && phase != Phase::Entered).await;
    }

    /// From here on a task does the work.
    pub(crate) fn will_be_spawned(&self) {
        self.spawned.store(true, Release);
    }

    pub(crate) fn work_is(&self, task: AbortHandle) {
        let mut tasked = self.tasked();
        if tasked.aborted {
            drop(tasked);
            task.abort();
        } else if self.phase() < Phase::Parked {
            tasked.task = Some(task);
        }
    }

    pub(crate) fn abort(&self) {
        let mut tasked = self.tasked();
        tasked.aborted = true;
        let task = tasked.task.take();
        drop(tasked);
        if let Some(task) = task {
            task.abort();
        }
    }

    fn tasked(&self) -> MutexGuard<'_, Tasked> {
        self.task.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
