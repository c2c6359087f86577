use std::{error::Error, fmt};

use gusset_call::{BoxError, Inadmissible, Limited};

use crate::{Denied, Level, Quota, RateLimiter};

/// Decides about requests.
pub trait Limit<Req> {
    /// Takes `cost` tokens for `request`. Runs on the path of every call; it does not wait.
    ///
    /// # Errors
    ///
    /// [`Refused`] if they are not given. `Ok(None)` lets the request pass without a bucket.
    fn admit(&self, request: &Req, cost: u32) -> Result<Option<Level>, Refused>;

    /// What `request` costs. Default 1.
    fn cost(&self, request: &Req) -> u32 {
        let _ = request;
        1
    }

    /// How full the bucket of `request` is; `None` if it has none. Takes nothing.
    fn peek(&self, request: &Req) -> Option<Level>;

    /// How often the quota was changed. Runs on the path of every call whose client is told of the quota. Default 0: never.
    fn changes(&self) -> u64 {
        0
    }

    /// The quota as it is now, asked for when it has changed. Default `None`: it stays as it was.
    fn quota(&self) -> Option<Quota> {
        None
    }
}

impl<Req> Limit<Req> for RateLimiter {
    fn admit(&self, _: &Req, cost: u32) -> Result<Option<Level>, Refused> {
        match cost {
            1 => Ok(Some(self.check()?)),
            cost => match self.check_n(cost) {
                Err(denied) if denied.is_for_now() => Ok(Some(self.check()?)),
                result => result.map(Some).map_err(Refused::from),
            },
        }
    }

    fn peek(&self, _: &Req) -> Option<Level> {
        Some(self.peek())
    }

    fn changes(&self) -> u64 {
        self.changes()
    }

    fn quota(&self) -> Option<Quota> {
        Some(self.quota())
    }
}

/// Why a request was not admitted.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refused {
    /// There are not enough tokens now. The refusal says when there will be.
    Limited(Limited),
    /// There never will be.
    Inadmissible(Inadmissible),
}

impl Refused {
    /// The refusal itself, as callers of services find it.
    pub(crate) fn into_error(self) -> BoxError {
        match self {
            Self::Limited(limited) => limited.into(),
            Self::Inadmissible(inadmissible) => inadmissible.into(),
        }
    }
}

impl From<Limited> for Refused {
    fn from(limited: Limited) -> Self {
        Self::Limited(limited)
    }
}

impl From<Inadmissible> for Refused {
    fn from(inadmissible: Inadmissible) -> Self {
        Self::Inadmissible(inadmissible)
    }
}

impl From<Denied> for Refused {
    fn from(denied: Denied) -> Self {
        match denied {
            Denied::Limited(limited) => Self::Limited(limited),
            Denied::TooCostly(_) => Self::Inadmissible(TOO_COSTLY),
        }
    }
}

impl Denied {
    /// The same, where no cost is wrong if nothing is allowed at all. The quota is behind a lock, so it is asked for only if it matters.
    pub(crate) fn under(self, quota: impl FnOnce() -> Quota) -> Refused {
        if self.is_for_now() { Limited::new(quota().per).into() } else { self.into() }
    }

    /// Nothing is allowed, so it is not the cost that is wrong: one token is refused as well, and says when to come back.
    pub(crate) fn is_for_now(&self) -> bool {
        matches!(self, Self::TooCostly(costly) if costly.burst() == 0)
    }
}

pub(crate) const TOO_COSTLY: Inadmissible =
    Inadmissible::new("the call costs more than is ever allowed at once");
pub(crate) const NO_KEY: Inadmissible =
    Inadmissible::new("the call lacks what callers are told apart by");

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Limited(limited) => limited.fmt(f),
            Self::Inadmissible(inadmissible) => inadmissible.fmt(f),
        }
    }
}

impl Error for Refused {
    /// The refusal, so that `gusset_call::refusal_in` finds it.
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Limited(limited) => Some(limited),
            Self::Inadmissible(inadmissible) => Some(inadmissible),
        }
    }
}

/// A limit in which requests cost what a closure says. Clones share the limit.
#[derive(Clone)]
pub struct Weighed<L, C> {
    limit: L,
    cost: C,
}

impl<L, C> Weighed<L, C> {
    pub(crate) const fn new(limit: L, cost: C) -> Self {
        Self { limit, cost }
    }
}

impl<L, C, Req> Limit<Req> for Weighed<L, C>
where
    L: Limit<Req>,
    C: Fn(&Req) -> u32,
{
    fn admit(&self, request: &Req, cost: u32) -> Result<Option<Level>, Refused> {
        self.limit.admit(request, cost)
    }

    fn cost(&self, request: &Req) -> u32 {
        (self.cost)(request)
    }

    fn peek(&self, request: &Req) -> Option<Level> {
        self.limit.peek(request)
    }

    fn changes(&self) -> u64 {
        self.limit.changes()
    }

    fn quota(&self) -> Option<Quota> {
        self.limit.quota()
    }
}

impl<L: fmt::Debug, C> fmt::Debug for Weighed<L, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Weighed").field("limit", &self.limit).finish_non_exhaustive()
    }
}
