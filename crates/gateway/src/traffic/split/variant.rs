use std::{sync::Arc, time::Duration};

use thiserror::Error;

use crate::Upstream;

/// One of the upstreams of a [`Split`](super::Split).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variant {
    pub(super) name: Arc<str>,
    pub(super) upstream: Upstream,
    pub(super) weight: u32,
}

impl Variant {
    /// `weight` is its part of the sum of all; with 0 it gets nothing until that changes.
    pub fn new(name: impl Into<Arc<str>>, upstream: impl Into<Upstream>, weight: u32) -> Self {
        Self { name: name.into(), upstream: upstream.into(), weight }
    }
}

/// What became of the requests of one variant, since its split was made.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct VariantStats {
    /// Its name.
    pub name: Arc<str>,
    /// Where it leads.
    pub upstream: Upstream,
    /// Its weight at present.
    pub weight: u64,
    /// Calls that it answered, or failed to; not those that clients gave up.
    pub calls: u64,
    /// Those of them that failed.
    pub failures: u64,
    /// What 95 % of its calls took at most until the head of the answer, to an eighth.
    pub p95: Duration,
}

/// Why a split cannot change so.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SplitError {
    /// There is no such variant.
    #[error("there is no variant {name:?}; there are {known}")]
    Unknown {
        /// The name.
        name: String,
        /// Those that there are.
        known: String,
    },
    /// Nobody would get the requests, or nobody but the variant that is to be compared with the others.
    #[error("no other variant has a weight")]
    NoWeight,
    /// The plan makes no sense.
    #[error("{reason}")]
    Plan {
        /// What is wrong.
        reason: String,
    },
}
