//! The atomics of the machine; the model checker puts its own in their place.

pub(crate) use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
