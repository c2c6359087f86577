/// What an engine can do. The broker refuses what is not there with [`Error::Unsupported`](crate::Error::Unsupported), at the publish or the
/// subscription that asks for it; nothing is silently left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capabilities {
    /// Name of the engine, for errors and logs: one lower-case word.
    pub engine: &'static str,
    /// What was published survives the end of the process.
    pub durable: bool,
    /// Messages may be delivered later.
    pub delay: bool,
    /// Messages may expire.
    pub expiry: bool,
    /// Messages may have a high priority.
    pub priority: bool,
    /// A message that comes twice with the same id is taken once.
    pub dedup: bool,
    /// Groups may keep the order of messages that have the same key.
    pub ordered: bool,
    /// Groups may begin with messages of the past.
    pub replay: bool,
    /// Groups may drop their oldest messages when they are full.
    pub drop_oldest: bool,
    /// Messages may be answered.
    pub requests: bool,
}

impl Capabilities {
    /// An engine that publishes, delivers, retries and buries, and nothing else. Set what else it can do.
    #[must_use]
    pub const fn new(engine: &'static str) -> Self {
        Self {
            engine,
            durable: false,
            delay: false,
            expiry: false,
            priority: false,
            dedup: false,
            ordered: false,
            replay: false,
            drop_oldest: false,
            requests: false,
        }
    }
}
