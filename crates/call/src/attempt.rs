use std::{
    cell::Cell,
    fmt,
    marker::PhantomData,
    num::NonZeroU32,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{
            AtomicBool,
            Ordering::{Acquire, Release},
        },
    },
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
pub struct Tried(Arc<List>);

/// Most calls are tried once. So the first id is read without a lock, and takes no memory of its own.
#[derive(Debug, Default)]
struct List {
    first: OnceLock<Arc<str>>,
    /// Whether there are others; set under their lock.
    more: AtomicBool,
    others: Mutex<Others>,
}

#[derive(Debug, Default)]
struct Others {
    ids: Vec<Arc<str>>,
    /// The first has made room for one of them.
    first_is_gone: bool,
}

impl Tried {
    /// How many ids a list remembers.
    pub const CAPACITY: usize = 16;

    /// An empty list.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Offers a list to the call that is made next, on this thread and until the offer is dropped: within it [`Tried::current`] gives one. Within
    /// another offer the list is that of the outer one.
    pub fn offer() -> Offer {
        let outermost = OFFER.try_with(|offer| {
            let outer = offer.take();
            let outermost = outer.is_none();
            offer.set(Some(outer.flatten()));
            outermost
        });
        Offer { outermost: outermost == Ok(true), _here: PhantomData }
    }

    /// The list of the call that is being made, if that offers one. It is there while the service is called, not while its future is polled
    /// or in another task.
    #[must_use]
    pub fn current() -> Option<Self> {
        Self::offered(|list| Some(list.get_or_insert_default().clone()))
    }

    fn offered(read: impl FnOnce(&mut Option<Self>) -> Option<Self>) -> Option<Self> {
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
        let Err(instance) = self.0.first.set(instance) else { return };
        let is_first = self.0.first.get() == Some(&instance);
        if is_first && !self.0.more.load(Acquire) {
            return;
        }
        let mut others = self.0.others();
        if is_first && !others.first_is_gone || others.ids.contains(&instance) {
            return;
        }
        if !others.first_is_gone {
            others.first_is_gone = others.ids.len() + 1 == Self::CAPACITY;
        } else if others.ids.len() == Self::CAPACITY {
            others.ids.remove(0);
        }
        others.ids.push(instance);
        self.0.more.store(true, Release);
    }

    /// Whether an earlier try went to `instance`.
    #[must_use]
    pub fn contains(&self, instance: &str) -> bool {
        let is_first = self.0.first.get().is_some_and(|first| **first == *instance);
        if !self.0.more.load(Acquire) {
            return is_first;
        }
        let others = self.0.others();
        is_first && !others.first_is_gone || others.ids.iter().any(|id| **id == *instance)
    }

    /// Whether no try was noted yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.first.get().is_none()
    }
}

impl List {
    fn others(&self) -> MutexGuard<'_, Others> {
        self.others.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A list of instances is offered until this is dropped; see [`Tried::offer`].
#[must_use = "it is over as soon as it is dropped"]
#[derive(Debug)]
pub struct Offer {
    outermost: bool,
    /// It belongs to the thread.
    _here: PhantomData<*const ()>,
}

impl Offer {
    /// Ends the offer. The list, if someone asked for it.
    #[must_use]
    pub fn asked(self) -> Option<Tried> {
        if self.outermost {
            return OFFER.try_with(Cell::take).ok().flatten().flatten();
        }
        Tried::offered(|list| list.clone())
    }
}

impl Drop for Offer {
    fn drop(&mut self) {
        if self.outermost {
            // Dropped after the slot is whole again.
            let _over = OFFER.try_with(Cell::take);
        }
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
        assert!(Tried::offer().asked().is_none(), "nobody asked");
        let outer = Tried::offer();
        Tried::current().unwrap().insert("a".into());
        let inner = Tried::offer();
        assert!(Tried::current().unwrap().contains("a"));
        assert!(inner.asked().unwrap().contains("a"));
        assert!(Tried::current().unwrap().contains("a"), "the outer one is still offered");
        assert!(outer.asked().unwrap().contains("a"));
        assert!(Tried::current().is_none());
        let panics = std::panic::catch_unwind(|| {
            let _offer = Tried::offer();
            Tried::current().unwrap();
            panic!("the service");
        });
        assert!(panics.is_err() && Tried::current().is_none());
    }

    #[test]
    fn clones_of_tried_share_one_bounded_list() {
        let tried = Tried::new();
        let seen_by_the_balancer = tried.clone();
        seen_by_the_balancer.insert("a".into());
        assert!(tried.contains("a") && !tried.contains("b"));

        tried.insert("a".into());
        for n in 1..Tried::CAPACITY {
            tried.insert(n.to_string().into());
            tried.insert(n.to_string().into());
        }
        assert!(tried.contains("a") && tried.contains("15"));
        tried.insert("16".into());
        assert!(!tried.contains("a"), "the oldest made room");
        assert!(tried.contains("1") && tried.contains("16"));
        tried.insert("a".into());
        assert!(!tried.contains("1") && tried.contains("2") && tried.contains("a"));
    }
}
