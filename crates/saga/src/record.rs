use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::Event;

/// An entry in the journal of a saga.
///
/// Its JSON form is for ever: a release reads what the one before it wrote, and refuses what a later one wrote in a newer [`format`](Self::format).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Record {
    /// Version of the form it is written in.
    pub format: u32,
    /// Place in the journal, counted from 0 without gaps.
    pub sequence: u64,
    /// Epoch of the process that wrote it.
    pub epoch: u64,
    /// When, in milliseconds since 1970, by the store's clock as the process knew it. Timers and the saga's deadline count from here.
    pub at: u64,
    /// Places of steps that may be under way from here on, forward or, if the saga has turned back, backward. The record is durable before
    /// their first attempt begins, so no effect is ever unheard of.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub opens: Vec<u32>,
    /// What happened.
    pub event: Event,
}

impl Record {
    /// The form that this release writes.
    pub const FORMAT: u32 = 1;

    pub(crate) const fn new(sequence: u64, epoch: u64, at: u64, event: Event) -> Self {
        Self { format: Self::FORMAT, sequence, epoch, at, opens: Vec::new(), event }
    }

    /// The record as one line of JSON: what a store keeps.
    ///
    /// # Errors
    ///
    /// None that is known; serde has the last word.
    pub fn to_json(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string(self)
    }

    /// The record that a store kept.
    ///
    /// # Errors
    ///
    /// When its format is newer than [`FORMAT`](Self::FORMAT), or it is no record.
    pub fn from_json(text: &str) -> Result<Self, Unreadable> {
        #[derive(Deserialize)]
        struct Version {
            format: u32,
        }
        match serde_json::from_str::<Self>(text) {
            Ok(record) => record.readable(),
            // Read in full first, since nearly all are fine.
            Err(error) => match serde_json::from_str(text) {
                Ok(Version { format }) if format > Self::FORMAT => Err(Unreadable::Newer(format)),
                _ => Err(Unreadable::Damaged(error.to_string().into())),
            },
        }
    }

    /// A copy, if this release knows the format.
    pub(crate) fn readable(&self) -> Result<Self, Unreadable> {
        if self.format > Self::FORMAT {
            return Err(Unreadable::Newer(self.format));
        }
        Ok(self.clone())
    }
}

/// Why a journal cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unreadable {
    /// A later release wrote it.
    #[error("journal is of format {0}, this release reads up to {max}", max = Record::FORMAT)]
    Newer(u32),
    /// It is no journal.
    #[error("journal is damaged: {0}")]
    Damaged(Arc<str>),
}
