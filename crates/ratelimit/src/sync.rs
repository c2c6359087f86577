//! The atomics of the machines. The models under `tests/` compile the same machines with loom's in their place.

pub(crate) use std::hint;
pub(crate) use std::sync::{
    Mutex, MutexGuard, PoisonError,
    atomic::{
        AtomicBool, AtomicU64,
        Ordering::{self, Acquire, Relaxed, Release, SeqCst},
        fence,
    },
};
