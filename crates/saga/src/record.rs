use std::{fmt, ops::Deref, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize};

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
    #[serde(default, skip_serializing_if = "places_none")]
    pub opens: Places,
    /// What happened.
    pub event: Event,
}

impl Record {
    /// The form that this release writes.
    pub const FORMAT: u32 = 1;

    pub(crate) const fn new(sequence: u64, epoch: u64, at: u64, event: Event) -> Self {
        Self { format: Self::FORMAT, sequence, epoch, at, opens: Places::NONE, event }
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

/// Places of steps in their definition: a slice. Up to five take no allocation, which is as many as nearly all records open.
#[derive(Clone)]
pub struct Places(Held);

#[derive(Clone)]
enum Held {
    Few(u8, [u32; Places::FEW]),
    Many(Arc<[u32]>),
}

impl Places {
    const FEW: usize = 5;
    const NONE: Self = Self(Held::Few(0, [0; Self::FEW]));
}

fn places_none(places: &Places) -> bool {
    places.is_empty()
}

impl Default for Places {
    fn default() -> Self {
        Self::NONE
    }
}

impl From<&[u32]> for Places {
    fn from(places: &[u32]) -> Self {
        let mut few = [0; Self::FEW];
        match few.get_mut(..places.len()) {
            Some(room) => {
                room.copy_from_slice(places);
                Self(Held::Few(places.len() as u8, few))
            }
            None => Self(Held::Many(places.into())),
        }
    }
}

impl Deref for Places {
    type Target = [u32];

    fn deref(&self) -> &[u32] {
        match &self.0 {
            Held::Few(count, places) => &places[..usize::from(*count)],
            Held::Many(places) => places,
        }
    }
}

impl fmt::Debug for Places {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl PartialEq for Places {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Places {}

impl Serialize for Places {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (**self).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Places {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Vec::deserialize(deserializer)?.as_slice().into())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_and_many_places_come_back_and_equal_their_own_only() {
        for count in 0..12_u32 {
            let all: Vec<u32> = (0..count).collect();
            let places = Places::from(&all[..]);
            assert_eq!(*places, *all);
            let record = Record { opens: places, ..Record::new(1, 1, 0, Event::Opened) };
            let text = record.to_json().unwrap();
            assert_eq!(text.contains("opens"), count > 0);
            assert_eq!(Record::from_json(&text).unwrap(), record);
            assert_ne!(record.opens, Places::from(&[all, vec![count]].concat()[..]));
        }
    }
}
