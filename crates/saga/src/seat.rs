use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
};

use tokio::{sync::Notify, task::AbortHandle};

use crate::{Json, SagaError, Shape, progress::Progress};

/// A saga under way: how others reach its task, and what they are told of it. One allocation for all of it.
pub(crate) struct Seat {
    /// What it runs.
    shape: Arc<Shape>,
    input: Json,
    /// In which epoch this process holds the saga; 0 before it does.
    epoch: AtomicU64,
    lost: AtomicBool,
    mail: AtomicBool,
    /// Wakes the task.
    call: Notify,
    status: Mutex<Status>,
    /// Wakes who waits for another phase.
    moved: Notify,
}

struct Status {
    phase: Phase,
    /// It is not among the live ones any more, and its phase is the last one.
    left: bool,
    aborted: bool,
    /// None as long as whoever began the saga does the work.
    task: Option<AbortHandle>,
}

/// What is known of a saga under way.
#[derive(Clone)]
pub(crate) enum Phase {
    Entered,
    /// The journal exists.
    Begun,
    /// It waits for long: the store has it fetched again.
    Parked,
    Ended(Ended),
}

pub(crate) type Ended = Result<Arc<Progress>, SagaError>;

impl Seat {
    pub(crate) fn new((shape, input): (Arc<Shape>, Json)) -> Self {
        let status = Status { phase: Phase::Entered, left: false, aborted: false, task: None };
        Self {
            shape,
            input,
            epoch: AtomicU64::new(0),
            lost: AtomicBool::new(false),
            mail: AtomicBool::new(false),
            call: Notify::new(),
            status: Mutex::new(status),
            moved: Notify::new(),
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
        self.mail.swap(false, Relaxed)
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
        self.status().phase.clone()
    }

    pub(crate) fn begun(&self) {
        self.status().phase = Phase::Begun;
        self.moved.notify_waiters();
    }

    /// For the one who has given back its place.
    pub(crate) fn leave(&self, ended: Phase) {
        let mut status = self.status();
        (status.phase, status.left, status.task) = (ended, true, None);
        drop(status);
        self.moved.notify_waiters();
    }

    /// The phase once it is `there`, or the last one.
    pub(crate) async fn reached(&self, there: impl Fn(&Phase) -> bool) -> Phase {
        loop {
            // Made before it is looked: what happens in between wakes it.
            let moved = self.moved.notified();
            {
                let status = self.status();
                if status.left || there(&status.phase) {
                    return status.phase.clone();
                }
            }
            moved.await;
        }
    }

    /// Until a saga that was not settled is, or has left.
    pub(crate) async fn moved_on(&self) {
        let entered = matches!(self.phase(), Phase::Entered);
        self.reached(|phase| entered && !matches!(phase, Phase::Entered)).await;
    }

    /// From here on the work is done by a task.
    pub(crate) fn work_is(&self, task: AbortHandle) {
        let mut status = self.status();
        if status.aborted {
            drop(status);
            task.abort();
        } else if !status.left {
            status.task = Some(task);
        }
    }

    pub(crate) fn abort(&self) {
        let mut status = self.status();
        status.aborted = true;
        let task = status.task.take();
        drop(status);
        if let Some(task) = task {
            task.abort();
        }
    }

    fn status(&self) -> MutexGuard<'_, Status> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
