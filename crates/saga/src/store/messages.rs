//! Messages for the broker, and who relays them.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{Json, SagaId, Unreadable};

/// A message for the broker.
///
/// Its JSON form is for ever: a release reads what the one before it wrote, and refuses what a later one wrote in a newer format.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Message {
    /// Version of the form it is written in; 1 is not written.
    #[serde(default = "first", skip_serializing_if = "is_first")]
    pub(crate) format: u32,
    /// Where it goes.
    pub topic: Arc<str>,
    /// What goes beside the body.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<Arc<str>, Arc<str>>,
    /// What it says.
    pub body: Json,
}

const fn first() -> u32 {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde wants it")]
const fn is_first(format: &u32) -> bool {
    *format == 1
}

impl Message {
    /// The form that this release writes.
    pub const FORMAT: u32 = 1;

    pub(crate) const fn new(topic: Arc<str>, body: Json) -> Self {
        Self { format: Self::FORMAT, topic, headers: BTreeMap::new(), body }
    }

    /// The message as one line of JSON: what a store keeps.
    ///
    /// # Errors
    ///
    /// None that is known; serde has the last word.
    pub fn to_json(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string(self)
    }

    /// The message that a store kept.
    ///
    /// # Errors
    ///
    /// When its format is newer than [`FORMAT`](Self::FORMAT), or it is no message.
    pub fn from_json(text: &str) -> Result<Self, Unreadable> {
        #[derive(Deserialize)]
        struct Version {
            format: u32,
        }
        let newer = |format: u32| format > Self::FORMAT;
        match serde_json::from_str::<Self>(text) {
            Ok(message) if newer(message.format) => Err(Unreadable::Newer(message.format)),
            Ok(message) => Ok(message),
            Err(error) => match serde_json::from_str(text) {
                Ok(Version { format }) if newer(format) => Err(Unreadable::Newer(format)),
                _ => Err(Unreadable::Damaged(error.to_string().into())),
            },
        }
    }
}

/// Identifies a message for ever: the same one has the same id however often it is relayed, and after a restart. A saga that was purged and created anew has
/// another [`life`](Self::life), so its messages have other ids. Ids of one life sort as their messages were written.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[non_exhaustive]
pub struct MessageId {
    /// The saga.
    pub saga: SagaId,
    /// Which of the sagas that had this id one after the other: the lot in [`Event::Started`](crate::Event::Started).
    #[serde(default)]
    pub life: u64,
    /// Sequence number of the record that it was written with.
    pub sequence: u64,
    /// Place among the messages of that record.
    pub index: u32,
}

impl MessageId {
    /// The id of these parts, in life 0; for stores.
    #[must_use]
    pub const fn new(saga: SagaId, sequence: u64, index: u32) -> Self {
        Self { saga, life: 0, sequence, index }
    }

    /// The same place in another life; for stores.
    #[must_use]
    pub const fn of_life(mut self, life: u64) -> Self {
        self.life = life;
        self
    }

    /// The same as a UUID, by which a receiver tells repetitions: version 5, the SHA-1 of [`Display`](fmt::Display) in a name space of its own.
    #[must_use]
    pub fn uuid(&self) -> Uuid {
        const SPACE: Uuid = Uuid::from_u128(0x6775_7373_6574_4d00_a5a9_0b04_6f75_7462);
        Uuid::new_v5(&SPACE, self.to_string().as_bytes())
    }
}

/// `<saga>/<sequence>/<index>@<life>`, and without the life where that is 0, as it was before there were lives.
impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.saga, self.sequence, self.index)?;
        if self.life > 0 { write!(f, "@{}", self.life) } else { Ok(()) }
    }
}

/// Who wants messages to relay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relay {
    /// Who.
    pub node: Arc<str>,
    /// For how long nobody else gets messages of the same sagas.
    pub lease: Duration,
    /// Only of sagas behind this one, in the order of their ids.
    pub after: Option<SagaId>,
    /// Of at most so many sagas.
    pub sagas: usize,
    /// At most so many of each saga; at least one.
    pub messages: usize,
}

/// What became of the messages of one saga that were handed out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relayed {
    /// The saga.
    pub saga: SagaId,
    /// Who had them.
    pub node: Arc<str>,
    /// The ones that the broker has.
    pub sent: Vec<MessageId>,
    /// `None`: what is left may be handed out at once. Otherwise for so long from now nobody gets messages of this saga, and so often in a row it has failed by now.
    pub pause: Option<(Duration, u32)>,
}
