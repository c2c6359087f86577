use std::{
    num::{NonZeroU32, NonZeroUsize},
    time::Duration,
};

use crate::Quota;

/// Who decides while Redis does not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WhenAway {
    /// This process, by a limiter of its own with a share of the quota: one part in `instances` of the rate and of the burst,
    /// but at least one token of burst. It keeps apart `capacity` keys at once, at 16 bytes each; see [`Keyed`](crate::Keyed).
    ///
    /// As many processes as that allow the quota together, and up to one token of burst more each.
    Local {
        /// How many processes share the quota.
        instances: NonZeroU32,
        /// How many keys must be kept apart.
        capacity: NonZeroUsize,
    },
    /// Nobody: all calls pass. For limits that spare something which could take more for a while.
    Open,
    /// Nobody: no call passes. For limits without which something breaks, or is paid for.
    Closed,
}

impl WhenAway {
    /// [`Local`](Self::Local) with room for 65,536 keys (1 MiB).
    #[must_use]
    pub const fn local(instances: NonZeroU32) -> Self {
        const ROOM: NonZeroUsize = NonZeroUsize::new(1 << 16).expect("not zero");
        Self::Local { instances, capacity: ROOM }
    }
}

impl Default for WhenAway {
    /// [`WhenAway::local`], as if this process were the only one. A limit that is away should neither refuse what it would have
    /// allowed, for then the limiter is the outage, nor allow all. Who knows how many processes there are should say so.
    fn default() -> Self {
        Self::local(NonZeroU32::MIN)
    }
}

/// The same rate spread over so many processes. It is the period that grows, for tokens cannot be divided without a rest.
pub(super) fn share_of(quota: Quota, instances: NonZeroU32) -> Quota {
    let per = quota.per.checked_mul(instances.get()).unwrap_or(Duration::MAX);
    Quota::new(quota.tokens, per).burst(quota.burst.div_ceil(instances.get()))
}
