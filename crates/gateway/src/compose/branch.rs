use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use crate::Upstream;

/// One of the calls of a [`FanOut`](crate::FanOut).
#[derive(Clone, Debug)]
pub struct Branch {
    pub(super) name: Arc<str>,
    pub(super) to: Upstream,
    pub(super) path: String,
    pub(super) query: Vec<Box<str>>,
    pub(super) timeout: Option<Duration>,
    pub(super) required: bool,
    pub(super) pointer: String,
    pub(super) flat: bool,
}

impl Branch {
    /// The member `name` of the answer is what `to` answers at `path`, in which `{parameter}` stands for what the route's path has there: for a whole segment
    /// of the path, or anywhere in the query (`/orders?user={id}`), where it is encoded so that it stays one value.
    pub fn new(
        name: impl Into<Arc<str>>,
        to: impl Into<Upstream>,
        path: impl Into<String>,
    ) -> Self {
        Self {
            name: name.into(),
            to: to.into(),
            path: path.into(),
            query: Vec::new(),
            timeout: None,
            required: true,
            pointer: String::new(),
            flat: false,
        }
    }

    /// Parameters of the client's query that go on, as they are spelled. Default none.
    #[must_use]
    pub fn query<S: Into<Box<str>>>(mut self, names: impl IntoIterator<Item = S>) -> Self {
        self.query = names.into_iter().map(Into::into).collect();
        self
    }

    /// How long it may take, all attempts and its body together. Default, and most: the route's [timeout](crate::Route::timeout).
    #[must_use]
    pub const fn timeout(mut self, span: Duration) -> Self {
        self.timeout = Some(span);
        self
    }

    /// The answer is given without it if need be. The others wait for it no longer than its [timeout](Self::timeout).
    #[must_use]
    pub const fn optional(mut self) -> Self {
        self.required = false;
        self
    }

    /// Takes only this part of what it answers, a JSON pointer (RFC 6901), as `/data/items` or `/data/0`. An answer without it counts as none. Default: all of it.
    #[must_use]
    pub fn at(mut self, pointer: impl Into<String>) -> Self {
        self.pointer = pointer.into();
        self
    }

    /// The members of what it answers, which must be an object, stand in the answer themselves. Of members with the same name the first branch's stays, and a
    /// branch's own name before those.
    #[must_use]
    pub const fn flat(mut self) -> Self {
        self.flat = true;
        self
    }
}

/// What became of the calls of one branch, since the gateway was built.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct BranchStats {
    /// Its name.
    pub name: Arc<str>,
    /// Where it leads.
    pub upstream: Upstream,
    /// Calls that gave what was asked for.
    pub answered: u64,
    /// Calls that did not. Those that were cancelled are in neither.
    pub failed: u64,
    /// The time until the end of all of both, summed up.
    pub latency: Duration,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    answered: AtomicU64,
    failed: AtomicU64,
    nanos: AtomicU64,
}

impl Counters {
    pub(super) fn count(&self, answered: bool, span: Duration) {
        let counter = if answered { &self.answered } else { &self.failed };
        counter.fetch_add(1, Relaxed);
        let nanos = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
        self.nanos.fetch_add(nanos, Relaxed);
    }

    pub(super) fn read(&self, name: Arc<str>, upstream: Upstream) -> BranchStats {
        BranchStats {
            name,
            upstream,
            answered: self.answered.load(Relaxed),
            failed: self.failed.load(Relaxed),
            latency: Duration::from_nanos(self.nanos.load(Relaxed)),
        }
    }
}
