use std::{
    cell::Cell,
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
        Slots::read(|slots| slots.attempt.get())
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

thread_local! {
    /// Whether the call that is being made offers a list, and that list if someone asked for it.
    static OFFER: Cell<Option<Option<Tried>>> = const { Cell::new(None) };
}

/// The instances that earlier tries of one call went to.
///
/// A balancer notes its choice there and prefers an instance that is not in it. It finds the list in the extensions of the request; during the first
/// try, which mostly is the only one, a retry layer has none yet and makes one only for who asks ([`Tried::current`]). Clones share one list, which holds at most
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

    /// Makes a call that offers a list: runs `call`, within which [`Tried::current`] gives one, and returns it if someone asked. Within
    /// another offer the list is that of the outer one.
    pub fn offered<R>(call: impl FnOnce() -> R) -> (R, Option<Self>) {
        /// Ends the offer, also when `call` panics.
        struct Ends;
        impl Drop for Ends {
            fn drop(&mut self) {
                let _ = OFFER.try_with(Cell::take);
            }
        }
        let inside = OFFER.try_with(|offer| {
            let outer = offer.take();
            let inside = outer.is_some();
            offer.set(Some(outer.flatten()));
            inside
        });
        // Not `then_some`, which would make one to drop it.
        let ends = if inside == Ok(false) { Some(Ends) } else { None };
        let made = call();
        let asked = Self::offer(|list| list.clone());
        drop(ends);
        (made, asked)
    }

    /// The list of the call that is being made, if that offers one. It is there while the service is called, not while its future is polled
    /// or in another task.
    #[must_use]
    pub fn current() -> Option<Self> {
        Self::offer(|list| Some(list.get_or_insert_default().clone()))
    }

    fn offer(read: impl FnOnce(&mut Option<Self>) -> Option<Self>) -> Option<Self> {
        let found = OFFER.try_with(|offer| {
            let mut list = offer.take()?;
            let found = read(&mut list);
            offer.set(Some(list));
            found
        });
        found.ok().flatten()
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
    fn a_list_is_made_for_who_asks_while_the_call_is_made() {
        assert!(Tried::current().is_none());
        assert!(Tried::offered(|| ()).1.is_none(), "nobody asked");
        let (inner, asked) = Tried::offered(|| {
            Tried::current().unwrap().insert("a".into());
            Tried::offered(|| Tried::current().unwrap()).0
        });
        assert!(asked.unwrap().contains("a") && inner.contains("a"));
        let panics = std::panic::catch_unwind(|| Tried::offered(|| panic!("the service")));
        assert!(panics.is_err() && Tried::current().is_none());
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
