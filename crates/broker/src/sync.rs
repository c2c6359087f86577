//! What threads share in machines that the model checker looks at; it puts its own in their place.

pub(crate) use std::sync::{
    Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering},
};
