use std::{error::Error, fmt};

use gusset_call::{BoxError, Limited, Overloaded};

use crate::{Level, TooCostly, limit::TOO_COSTLY};

/// Who decided about a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Judge {
    /// The server, for all processes.
    Redis,
    /// This process, with its share.
    ThisProcess,
    /// Nobody; it passed because of [`WhenAway::Open`](crate::WhenAway::Open).
    Nobody,
}

/// A call that was allowed.
#[derive(Clone, Copy, Debug)]
pub struct Decided {
    pub(super) level: Option<Level>,
    pub(super) by: Judge,
}

impl Decided {
    /// How full the bucket was then; `None` if nobody decided.
    #[must_use]
    pub const fn level(&self) -> Option<Level> {
        self.level
    }

    /// Who decided.
    #[must_use]
    pub const fn by(&self) -> Judge {
        self.by
    }
}

/// Why a call was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RedisDenied {
    /// The tokens are not there now; the refusal says when they will be.
    Limited(Limited),
    /// They never will be.
    TooCostly(TooCostly),
    /// Nobody knows, for Redis does not answer, and by [`WhenAway::Closed`](crate::WhenAway::Closed) the call then does not pass. Over HTTP that is 503 and
    /// not 429: the client has done nothing wrong, and an operator who counts 429s must not be misled. Names the time until Redis
    /// is tried again. With [`WhenAway::Local`](crate::WhenAway::Local) it is the refusal of a cost beyond the burst of the share.
    Away(Overloaded),
}

impl RedisDenied {
    /// The refusal itself, as layers return it: `Limited`, `Overloaded`, or [`Inadmissible`](gusset_call::Inadmissible) for
    /// what is too costly.
    #[must_use]
    pub fn into_refusal(self) -> BoxError {
        match self {
            Self::Limited(limited) => limited.into(),
            Self::TooCostly(_) => TOO_COSTLY.into(),
            Self::Away(overloaded) => overloaded.into(),
        }
    }

    fn refusal(&self) -> &(dyn Error + 'static) {
        match self {
            Self::Limited(limited) => limited,
            Self::TooCostly(costly) => costly,
            Self::Away(overloaded) => overloaded,
        }
    }
}

impl fmt::Display for RedisDenied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self.refusal(), f)
    }
}

impl Error for RedisDenied {
    /// The refusal, so that `gusset_call::refusal_in` finds it.
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(self.refusal())
    }
}
