use std::{sync::Arc, time::Duration};

use serde::Serialize;

use crate::{Json, Message, MessageId, Record, SagaId, State, Unreadable};

/// A journal as it was loaded. For stores: make one by [`Journal::new`], and set the rest.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Journal {
    /// The saga.
    pub saga: SagaId,
    /// Its epoch.
    pub epoch: u64,
    /// All records in order, or why they cannot be read.
    pub records: Result<Vec<Record>, Unreadable>,
    /// Who holds it; after a claim, whoever claimed it. A lease that has lapsed is still somebody's until it is claimed.
    pub node: Option<Arc<str>>,
    /// How many holders in a row have fallen silent without an append.
    pub crashes: u32,
    /// What the last one who ended its lease noted.
    pub note: Option<Json>,
    /// Mail that is not in the journal yet, in order.
    pub mail: Vec<Post>,
    /// Mail with a lower number than this is in the journal.
    pub mail_taken: u64,
}

impl Journal {
    /// A journal that nobody holds, without mail and note.
    #[must_use]
    pub const fn new(saga: SagaId, epoch: u64, records: Result<Vec<Record>, Unreadable>) -> Self {
        let mail = Vec::new();
        Self { saga, epoch, records, node: None, crashes: 0, note: None, mail, mail_taken: 0 }
    }
}

/// Mail as it arrived.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Post {
    /// Its number among the mail of its saga, from 0 on without gaps.
    pub number: u64,
    /// Its key.
    pub key: Arc<str>,
    /// What it says.
    pub body: Json,
}

impl Post {
    /// Mail of these parts; for stores.
    #[must_use]
    pub const fn new(number: u64, key: Arc<str>, body: Json) -> Self {
        Self { number, key, body }
    }
}

/// Answer to a renewal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Renewed {
    /// Leases that are over: of an older epoch, ended, of a saga in a final state, or gone.
    pub lost: Vec<SagaId>,
    /// Sagas among the others that have mail which is not in their journal.
    pub mail: Vec<SagaId>,
}

/// A message that waits to be relayed.
#[derive(Clone, Debug, PartialEq)]
pub struct Outgoing {
    /// Its id.
    pub id: MessageId,
    /// What to send.
    pub message: Message,
}

/// Messages of one saga that nobody else relays now.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Bundle {
    /// The saga.
    pub saga: SagaId,
    /// How often in a row relaying has failed, as [`Relayed`](crate::Relayed) says.
    pub failures: u32,
    /// The first ones that wait, in the order of their ids; or why the very first cannot be read. What follows one that cannot be read is not handed out.
    pub messages: Result<Vec<Outgoing>, Unreadable>,
}

impl Bundle {
    /// Messages as they were kept; for stores.
    #[must_use]
    pub fn new<'a>(
        saga: SagaId,
        failures: u32,
        texts: impl IntoIterator<Item = (MessageId, &'a str)>,
    ) -> Self {
        let mut messages = Vec::new();
        for (id, text) in texts {
            match Message::from_json(text) {
                Ok(message) => messages.push(Outgoing { id, message }),
                Err(error) if messages.is_empty() => {
                    return Self { saga, failures, messages: Err(error) };
                }
                Err(_) => break,
            }
        }
        Self { saga, failures, messages: Ok(messages) }
    }
}

/// What waits to be relayed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Pending {
    /// Messages.
    pub messages: u64,
    /// For how long the oldest has waited, by the store's clock.
    pub oldest: Option<Duration>,
    /// Sagas whose messages were tried in vain last time.
    pub failing: u64,
}

impl Pending {
    /// So many messages, the oldest for so long, of them of so many failing sagas; for stores.
    #[must_use]
    pub const fn new(messages: u64, oldest: Option<Duration>, failing: u64) -> Self {
        Self { messages, oldest, failing }
    }
}

/// A saga in a list. For stores: make one by [`Summary::new`], and set the rest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Summary {
    /// The saga.
    pub saga: SagaId,
    /// Name of its definition.
    pub definition: Arc<str>,
    /// Version of its definition.
    pub version: u32,
    /// Where it stands.
    pub state: State,
    /// How often it was taken over, and 1.
    pub epoch: u64,
    /// How many records its journal has.
    pub records: u64,
    /// When it began, by the store's clock, in milliseconds since 1970.
    pub created_at: u64,
    /// When the last record was written, likewise.
    pub changed_at: u64,
    /// Who holds it.
    pub node: Option<Arc<str>>,
    /// Until when somebody holds it, or from when on somebody may; `None` when it waits for mail or an operator, and in a final state.
    pub due: Option<u64>,
}

impl Summary {
    /// A saga that just began and that nobody holds.
    #[must_use]
    pub const fn new(saga: SagaId, definition: Arc<str>, version: u32) -> Self {
        Self {
            saga,
            definition,
            version,
            state: State::Running,
            epoch: 1,
            records: 1,
            created_at: 0,
            changed_at: 0,
            node: None,
            due: None,
        }
    }
}
