use crate::{Deadline, Entered, Scope, TraceContext, ambient::Slots};

/// Trace and deadline of the call that a task works for.
///
/// Layers on the server side put it around the handler; clients, publishers and saga steps inside read it with
/// [`Context::current`] and pass it on. It does not follow `tokio::spawn`, but [`spawn`](crate::spawn).
///
/// ```
/// # use std::time::Duration;
/// use gusset_call::{Context, Deadline, TraceContext};
///
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let cx = Context::default().with_trace(TraceContext::new_root());
/// cx.scope(async {
///     assert_eq!(Context::current().trace(), cx.trace());
/// }).await;
/// assert_eq!(Context::current().trace(), None);
/// # });
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Context {
    trace: Option<TraceContext>,
    deadline: Option<Deadline>,
}

impl Context {
    pub(crate) const EMPTY: Self = Self { trace: None, deadline: None };

    /// The context of the call that this task works for; empty outside of any.
    #[must_use]
    pub fn current() -> Self {
        Slots::read(|slots| slots.context.get())
    }

    /// The same context within `trace`.
    #[must_use]
    pub const fn with_trace(mut self, trace: TraceContext) -> Self {
        self.trace = Some(trace);
        self
    }

    /// The same context, over at `deadline` or at the one it already has, whichever comes first.
    #[must_use]
    pub fn with_deadline(mut self, deadline: Deadline) -> Self {
        self.deadline = Some(self.deadline.map_or(deadline, |present| present.min(deadline)));
        self
    }

    /// The same context, over at no time: for work that goes on when the caller has its answer.
    #[must_use]
    pub const fn without_deadline(mut self) -> Self {
        self.deadline = None;
        self
    }

    /// The span that this work belongs to.
    #[must_use]
    pub const fn trace(&self) -> Option<TraceContext> {
        self.trace
    }

    /// When the caller stops waiting.
    #[must_use]
    pub const fn deadline(&self) -> Option<Deadline> {
        self.deadline
    }

    /// Runs `future` with this as its [`Context::current`].
    pub const fn scope<F: Future>(self, future: F) -> Scope<F> {
        Scope::of_context(self, future)
    }

    /// Runs `f` with this as its [`Context::current`]: for who polls a future by hand, and cannot have it moved into another.
    pub fn sync_scope<R>(self, f: impl FnOnce() -> R) -> R {
        let _entered = self.enter();
        f()
    }

    /// Makes this [`Context::current`] until the guard is dropped: for who calls something with an argument that is too large to be moved
    /// into a function first, as services do with requests. The guard is not to be held across an await, and guards are to be dropped in
    /// reverse order; where that is not plain to see, use [`sync_scope`](Self::sync_scope).
    pub fn enter(self) -> Entered {
        Entered::context(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn the_earlier_deadline_wins_whatever_the_order() {
        let early = Deadline::after(Duration::from_secs(1));
        let late = Deadline::after(Duration::from_secs(9));
        for cx in [
            Context::default().with_deadline(early).with_deadline(late),
            Context::default().with_deadline(late).with_deadline(early),
        ] {
            assert_eq!(cx.deadline(), Some(early));
        }
    }

    #[test]
    fn a_scope_of_a_function_ends_with_it_even_by_a_panic() {
        let cx = Context::default().with_trace(TraceContext::new_root());
        let thrown =
            std::panic::catch_unwind(|| cx.sync_scope(|| panic!("{:?}", Context::current())));
        let text = thrown.unwrap_err();
        assert_eq!(*text.downcast::<String>().unwrap(), format!("{cx:?}"));
        assert_eq!(Context::current(), Context::default());
    }

    #[tokio::test]
    async fn scopes_nest_and_end() {
        let (outer, inner) = (TraceContext::new_root(), TraceContext::new_root());
        Context::default()
            .with_trace(outer)
            .scope(async move {
                Context::current()
                    .with_trace(inner)
                    .scope(async move { assert_eq!(Context::current().trace(), Some(inner)) })
                    .await;
                assert_eq!(Context::current().trace(), Some(outer));
            })
            .await;
        assert_eq!(Context::current(), Context::default());
    }
}
