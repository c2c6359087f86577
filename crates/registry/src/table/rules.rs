use std::time::Duration;

use gusset_call::Ratio;

use crate::Policy;

/// The policy in ticks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    /// From the tick of the last heartbeat until the instance counts as silent. One more than the TTL has, as the
    /// heartbeat may have come at the end of its tick.
    pub(crate) span: u64,
    pub(crate) evict: u64,
    pub(crate) rise: u32,
    /// Share of the fleet, and for how long at most.
    pub(crate) protect: Option<(Ratio, u64)>,
}

impl Rules {
    pub(crate) fn new(policy: &Policy) -> Self {
        let interval = policy.sweep_used();
        let ticks = |span: Duration| {
            u64::try_from(span.as_nanos().div_ceil(interval.as_nanos())).unwrap_or(u64::MAX)
        };
        let bound = |(share, bound)| (share, ticks(bound));
        Self {
            span: ticks(policy.ttl_used()).saturating_add(1),
            // More than this is for ever.
            evict: ticks(policy.evict_after).min(1 << 38),
            rise: policy.rise.get(),
            protect: policy.protect.map(bound),
        }
    }
}
