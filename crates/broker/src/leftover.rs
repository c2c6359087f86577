use std::sync::Arc;

/// What was not done when a broker was closed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Leftover {
    /// Handlers that were cut short at the deadline.
    pub cut_short: usize,
    /// Messages left in each group that has any, those whose handlers were cut short included.
    pub groups: Vec<(Arc<str>, usize)>,
}

impl Leftover {
    /// Whether everything was done.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// Messages left in all groups.
    #[must_use]
    pub fn messages(&self) -> usize {
        self.groups.iter().map(|(_, messages)| messages).sum()
    }
}
