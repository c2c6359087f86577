//! What is under way: attempts, and the pauses between them.

use std::{
    any::Any,
    collections::BTreeMap,
    future::Future,
    num::NonZeroU32,
    panic::AssertUnwindSafe,
    pin::Pin,
    task::{Context as TaskContext, Poll},
    time::Duration,
};

use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use gusset_call::{Attempt, Context, Deadline};
use serde::{Deserialize, Serialize};
use tokio::time::{sleep, timeout_at};
use tracing::Instrument;

use super::Runner;
use crate::{
    Direction, Journal, Json, Message, StepContext, StepError, StepState,
    progress::Progress,
    step::{Call, Outbox},
    tries::Tries,
};

pub(super) enum Happened {
    Attempted(Attempted),
    /// A pause of this step is over.
    Rested(u32),
}

pub(super) struct Attempted {
    pub(super) step: u32,
    pub(super) direction: Direction,
    /// How many attempts have begun, this one included.
    pub(super) begun: u32,
    pub(super) result: Result<Option<Json>, StepError>,
    pub(super) outbox: Vec<Message>,
}

struct Tagged {
    step: u32,
    /// Of a pause: when it is over, by the store's clock.
    rests_until: Option<u64>,
    future: BoxFuture<'static, Happened>,
}

impl Future for Tagged {
    type Output = Happened;

    fn poll(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Happened> {
        self.future.poll_unpin(cx)
    }
}

/// At most one future for each step. Where there is only one, as in a sequence, it costs no more than itself.
#[derive(Default)]
pub(super) struct Running {
    first: Option<Tagged>,
    rest: FuturesUnordered<Tagged>,
    /// How many of them are attempts.
    attempts: usize,
}

impl Running {
    fn push(&mut self, tagged: Tagged) {
        self.attempts += usize::from(tagged.rests_until.is_none());
        if self.first.is_none() {
            self.first = Some(tagged);
        } else {
            self.rest.push(tagged);
        }
    }

    pub(super) fn pause(&mut self, step: u32, span: Duration, now: u64) {
        let rests_until = Some(now.saturating_add(span.as_millis() as u64));
        let future = sleep(span).map(move |()| Happened::Rested(step)).boxed();
        self.push(Tagged { step, rests_until, future });
    }

    /// Whether an attempt is under way.
    pub(super) const fn is_busy(&self) -> bool {
        self.attempts > 0
    }

    pub(super) fn next_due(&self) -> Option<u64> {
        self.all().filter_map(|tagged| tagged.rests_until).min()
    }

    pub(super) fn has(&self, step: u32) -> bool {
        self.all().any(|tagged| tagged.step == step)
    }

    fn all(&self) -> impl Iterator<Item = &Tagged> {
        self.first.iter().chain(self.rest.iter())
    }

    pub(super) fn drop_step(&mut self, step: u32) {
        self.keep_only(|tagged| tagged.step != step);
    }

    fn keep_only(&mut self, keep: impl Fn(&Tagged) -> bool) {
        let all = self.first.take().into_iter().chain(std::mem::take(&mut self.rest));
        let kept: Vec<_> = all.filter(keep).collect();
        self.attempts = 0;
        for tagged in kept {
            self.push(tagged);
        }
    }

    /// Ends all pauses, and tells whose.
    pub(super) fn end_pauses(&mut self) -> Vec<u32> {
        let steps =
            self.all().filter(|one| one.rests_until.is_some()).map(|one| one.step).collect();
        self.keep_only(|tagged| tagged.rests_until.is_none());
        steps
    }

    /// What has happened already.
    pub(super) fn ready(&mut self) -> Option<Happened> {
        if self.first.is_none() && self.rest.is_empty() {
            return None;
        }
        self.next().now_or_never()
    }

    /// What happens next; never, if nothing is under way. Cancelling loses nothing.
    pub(super) const fn next(&mut self) -> Next<'_> {
        Next(self)
    }
}

pub(super) struct Next<'a>(&'a mut Running);

impl Future for Next<'_> {
    type Output = Happened;

    fn poll(self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Happened> {
        let running = &mut *self.get_mut().0;
        let happened = match running.first.as_mut().map(|first| first.poll_unpin(cx)) {
            Some(Poll::Ready(happened)) => {
                running.first = None;
                happened
            }
            _ if running.rest.is_empty() => return Poll::Pending,
            _ => match running.rest.poll_next_unpin(cx) {
                Poll::Ready(Some(happened)) => happened,
                Poll::Ready(None) | Poll::Pending => return Poll::Pending,
            },
        };
        running.attempts -= usize::from(matches!(happened, Happened::Attempted(_)));
        Poll::Ready(happened)
    }
}

impl Runner {
    /// Begins an attempt at a step that a durable record has opened.
    pub(super) fn start(&mut self, step: u32) {
        let direction = match self.progress.steps[step as usize].state {
            StepState::Acting => Direction::Act,
            StepState::Undoing => Direction::Undo,
            _ => return,
        };
        let turned = direction == Direction::Act && self.progress.failure.is_some();
        if turned
            || self.engine.is_draining()
            || self.progress.shape.steps[step as usize].kind.waits()
        {
            return;
        }
        let before = self.tries.get_mut(&step).map_or(0, |tries| {
            tries.pausing = false;
            tries.begun
        });
        let future = self.attempt(step, direction, before.saturating_add(1)).boxed();
        self.running.push(Tagged { step, rests_until: None, future });
    }

    fn attempt(
        &self,
        step: u32,
        direction: Direction,
        begun: u32,
    ) -> impl Future<Output = Happened> + Send + use<> {
        let timeout = self.plan.policy(step, direction).timeout;
        let deadline = Deadline::after(timeout);
        let call = self.call(step, direction, number(begun), deadline);
        let (plan, outbox) = (self.plan.clone(), call.cx.outbox.clone());
        let span = tracing::info_span!(
            "saga step", saga = %self.saga, step = %call.cx.step, ?direction, attempt = begun, epoch = self.epoch
        );
        // Begun inside the future, so that a panic before the first await is caught as well.
        let action = async move { plan.attempt(step, direction, call).await };
        let action = self.context(deadline).scope(AssertUnwindSafe(action).catch_unwind());
        async move {
            let result = match timeout_at(deadline.instant(), action.instrument(span)).await {
                Ok(Ok(result)) => result,
                Ok(Err(panic)) => Err(panicked(&*panic)),
                Err(_) => Err(StepError::unknown(format!("no answer within {timeout:?}"))),
            };
            let outbox = outbox.take();
            Happened::Attempted(Attempted { step, direction, begun, result, outbox })
        }
    }

    fn call(&self, step: u32, direction: Direction, attempt: Attempt, deadline: Deadline) -> Call {
        let progress = &self.progress;
        let output = |place: &u32| progress.steps[*place as usize].output.clone();
        let input = self.plan.steps[step as usize].input_from.as_ref().and_then(output);
        let needs = &progress.shape.steps[step as usize].needs;
        Call {
            cx: StepContext {
                saga: self.saga.clone(),
                step: progress.name(step),
                direction,
                attempt,
                epoch: self.epoch,
                deadline,
                outbox: Outbox::default(),
            },
            input: input.unwrap_or_else(|| progress.input.clone()),
            needed: needs.iter().filter_map(output).collect(),
            output: output(&step),
        }
    }

    /// The saga's trace, and not the deadline of whoever began it: that one has no say here.
    fn context(&self, deadline: Deadline) -> Context {
        let context = Context::default().with_deadline(deadline);
        match self.progress.trace.as_ref().and_then(|trace| trace.parse().ok()) {
            Some(trace) => context.with_trace(trace),
            None => context,
        }
    }
}

fn number(begun: u32) -> Attempt {
    NonZeroU32::new(begun).map_or(Attempt::FIRST, Attempt::new)
}

fn panicked(panic: &(dyn Any + Send)) -> StepError {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    StepError::unknown(format!("panicked: {}", text.unwrap_or("(no text)")))
}

/// What the one who ends its lease tells the next holder, so that attempts are counted across processes without a record for each.
#[derive(Serialize, Deserialize)]
struct Note {
    format: u32,
    steps: BTreeMap<u32, Tries>,
}

const FORMAT: u32 = 1;

/// Steps that call something, and which way.
fn calling(progress: &Progress) -> impl Iterator<Item = (u32, Direction)> {
    let calls = progress.under_way().filter(|step| !progress.waits().contains(step));
    calls.map(|step| match progress.steps[step as usize].state {
        StepState::Undoing => (step, Direction::Undo),
        _ => (step, Direction::Act),
    })
}

pub(super) fn note(progress: &Progress, tries: &BTreeMap<u32, Tries>) -> Option<Json> {
    let tries = |(step, direction)| {
        (step, tries.get(&step).cloned().unwrap_or_else(|| Tries::new(direction)))
    };
    let steps: BTreeMap<_, _> = calling(progress).map(tries).collect();
    if steps.is_empty() {
        return None;
    }
    Json::encode(&Note { format: FORMAT, steps }).ok()
}

/// What those who held the saga until now leave to the next one.
pub(crate) fn note_of(progress: &Progress, journal: &Journal) -> Option<Json> {
    note(progress, &inherited(progress, journal))
}

/// The attempts of those who held the saga before. Who fell silent may have attempted all that was under way.
pub(super) fn inherited(progress: &Progress, journal: &Journal) -> BTreeMap<u32, Tries> {
    let note = journal.note.as_ref().and_then(|note| note.decode::<Note>().ok());
    let note = note.filter(|note| note.format == FORMAT);
    let mut noted = note.map_or_else(BTreeMap::new, |note| note.steps);
    let inherit = |(step, direction)| {
        let noted = noted.remove(&step).filter(|tries: &Tries| tries.direction == direction);
        let known = noted.is_some() && journal.crashes == 0;
        let mut tries = noted.unwrap_or_else(|| Tries::new(direction));
        tries.maybe |= !known;
        tries.begun = tries.begun.saturating_add(journal.crashes);
        tries.crashes = journal.crashes;
        if journal.crashes > 0 {
            tries.note("a process that may have attempted it fell silent".into());
        }
        (step, tries)
    };
    calling(progress).map(inherit).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_dropped_does_not_happen_and_the_rest_does() {
        let mut running = Running::default();
        for step in 0..3 {
            running.pause(step, Duration::from_secs(u64::from(step)), 0);
        }
        assert_eq!((running.next_due(), running.is_busy()), (Some(0), false));
        running.drop_step(0);
        running.drop_step(2);
        assert!(!running.has(0) && running.has(1));
        assert!(matches!(running.next().await, Happened::Rested(1)));
        assert!(running.ready().is_none());
    }
}
