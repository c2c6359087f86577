use std::{
    fmt,
    num::NonZeroU32,
    sync::{Arc, Mutex, PoisonError},
};

use crate::ambient::Slots;

/// Which try of a call this is; the first is 1.
///
/// A retry layer puts it into the request's extensions. Over HTTP it travels as `x-gusset-attempt`, so that
/// retries on several levels can see each other instead of multiplying.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Attempt(NonZeroU32);

impl Attempt {
    /// The first try.
    pub const FIRST: Self = Self(NonZeroU32::MIN);

    /// The try with this number, counted from 1.
    #[must_use]
    pub const fn new(number: NonZeroU32) -> Self {
        Self(number)
    }

    /// The try after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// Which try the call is that this task works for; the first outside of any.
    #[must_use]
    pub fn current() -> Self {
        Slots::read(|slots| slots.attempt.get()).unwrap_or(Self::FIRST)
    }

    /// Runs `f` with this as what is current. For a future: around each poll.
    pub fn sync_scope<R>(self, f: impl FnOnce() -> R) -> R {
        let _restored = Slots::replace(|slots| &slots.attempt, self);
        f()
    }

    /// The number, counted from 1.
    #[must_use]
    pub const fn number(self) -> u32 {
        self.0.get()
    }

    /// Whether an earlier try of the same call was made.
    #[must_use]
    pub const fn is_retry(self) -> bool {
        self.0.get() > 1
    }
}

/// The first.
impl Default for Attempt {
    fn default() -> Self {
        Self::FIRST
    }
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The instances that earlier tries of one call went to.
///
/// A retry layer puts one handle into the extensions of every try; a balancer notes its choice there and
/// prefers an instance that is not in it. Clones share one list, which holds at most
/// [`Tried::CAPACITY`] ids: later ones replace the oldest.
#[derive(Clone, Debug, Default)]
pub struct Tried(Arc<Mutex<Vec<Arc<str>>>>);

impl Tried {
    /// How many ids a list remembers.
    pub const CAPACITY: usize = 16;

    /// An empty list.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Notes that a try goes to `instance`.
    pub fn insert(&self, instance: Arc<str>) {
        let mut tried = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if tried.contains(&instance) {
            return;
        }
        if tried.len() == Self::CAPACITY {
            tried.remove(0);
        }
        tried.push(instance);
    }

    /// Whether an earlier try went to `instance`.
    #[must_use]
    pub fn contains(&self, instance: &str) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().any(|id| &**id == instance)
    }

    /// Whether no try was noted yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_count_from_one() {
        assert_eq!(Attempt::FIRST.number(), 1);
        assert!(!Attempt::FIRST.is_retry());
        assert!(Attempt::FIRST.next().is_retry());
        assert_eq!(Attempt::FIRST.next().to_string(), "2");
    }

    #[test]
    fn clones_of_tried_share_one_bounded_list() {
        let tried = Tried::new();
        let seen_by_the_balancer = tried.clone();
        seen_by_the_balancer.insert("a".into());
        assert!(tried.contains("a") && !tried.contains("b"));

        for n in 0..Tried::CAPACITY {
            tried.insert(n.to_string().into());
        }
        assert!(!tried.contains("a"), "the oldest made room");
        assert!(tried.contains("15"));
    }
}
