/// How often what happened. At any time `published + redriven = acked + dead + dropped + expired + held`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) published: u64,
    pub(crate) redriven: u64,
    pub(crate) delivered: u64,
    pub(crate) redelivered: u64,
    pub(crate) acked: u64,
    pub(crate) dead: u64,
    pub(crate) dropped: u64,
    pub(crate) expired: u64,
    pub(crate) returned: u64,
    pub(crate) overdue: u64,
}
