//! The atomics of the machines; the model checker puts its own in their place.

pub(crate) use std::sync::atomic::{AtomicU64, Ordering};
