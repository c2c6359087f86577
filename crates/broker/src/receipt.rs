use crate::MessageId;

/// A message was taken over by the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Receipt {
    /// Id of the message.
    pub id: MessageId,
    /// How many groups have got it, as far as the engine knows. In memory 0 means that no pattern matches: what became of the message then says
    /// [`WhenUnheard`](crate::WhenUnheard).
    pub groups: usize,
    /// A message with this id was taken before; this one was not taken again.
    pub duplicate: bool,
    /// Its number among the messages that are retained, if it is.
    pub sequence: Option<u64>,
}

impl Receipt {
    /// For a message that so many groups have got.
    #[must_use]
    pub const fn new(id: MessageId, groups: usize) -> Self {
        Self { id, groups, duplicate: false, sequence: None }
    }

    /// For a message that was taken before.
    #[must_use]
    pub const fn duplicate(mut self) -> Self {
        self.duplicate = true;
        self
    }

    /// The same for a message that is retained under this number.
    #[must_use]
    pub const fn with_sequence(mut self, sequence: u64) -> Self {
        self.sequence = Some(sequence);
        self
    }
}
