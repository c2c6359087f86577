use serde::{Serialize, de::DeserializeOwned};

use crate::BoxError;

/// What is the sum of its events: an account, an order.
pub trait Aggregate: Default + Serialize + DeserializeOwned + Send {
    /// Names the kind, for ever: 1 to 128 visible ASCII characters without `/`.
    const KIND: &'static str;

    /// Version of the form that events and state have here: raise it when an older release could not read them.
    const FORMAT: u32;

    /// The form that events are written in, at most [`FORMAT`](Self::FORMAT), which is the default. The one before, while nodes run that know no other: see
    /// [`downcast`](Self::downcast).
    const WRITTEN: u32 = Self::FORMAT;

    /// What happens to it.
    type Event: Serialize + DeserializeOwned + Send + Sync;

    /// Takes in what happened. It cannot say no: it has happened.
    fn apply(&mut self, event: &Self::Event);

    /// An event of an older format as one of [`FORMAT`](Self::FORMAT). Default: as it is, which will do where fields were only added that serde has a default for.
    ///
    /// # Errors
    ///
    /// Any error makes the aggregate unreadable.
    fn upcast(format: u32, event: serde_json::Value) -> Result<serde_json::Value, BoxError> {
        let _ = format;
        Ok(event)
    }

    /// An event in the form that is [`WRITTEN`](Self::WRITTEN); asked only where that is an older one. Default: as it is, which will do where fields were only added.
    ///
    /// # Errors
    ///
    /// What the older form cannot say: nothing is written, and the answer is [`AggregateError::Unwritable`](crate::AggregateError::Unwritable).
    fn downcast(event: serde_json::Value) -> Result<serde_json::Value, BoxError> {
        Ok(event)
    }
}
