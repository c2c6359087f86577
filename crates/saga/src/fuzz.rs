//! Parts that read what strangers send or stores kept, each as a function of bytes that checks what must hold for all of them.
//!
//! The workspace's folder `fuzz` calls them for as long as somebody likes; a test here calls them with the same corpus and with seeded changes of it.

use crate::{Message, Record, SagaId, StepState, progress::Progress};

#[cfg(feature = "http")]
pub use crate::headers::fuzz::caller;

/// A journal, a record in each line, and messages: what is read is written again as it was, and what the records tell is a saga that makes sense, or is refused.
pub fn journal(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut records = Vec::new();
    for line in text.lines().take(200) {
        if let Ok(message) = Message::from_json(line) {
            let again = message.to_json().ok().and_then(|json| Message::from_json(&json).ok());
            assert_eq!(again, Some(message), "{line:?}");
        }
        let Ok(record) = Record::from_json(line) else { continue };
        let again = record.to_json().ok().and_then(|json| Record::from_json(&json).ok());
        assert_eq!(again.as_ref(), Some(&record), "{line:?}");
        records.push(record);
    }
    let Ok(saga) = Progress::replay(&records) else { return };
    let steps = saga.steps.len();
    assert!(saga.ready().iter().chain(saga.waits()).all(|step| (*step as usize) < steps));
    for step in saga.waits() {
        let _ = (saga.signal_for(*step), saga.wait_ends(*step));
    }
    let _ = (saga.state(), saga.only_waits(), saga.expires_at());
    for step in saga.under_way() {
        let state = saga.steps[step as usize].state;
        assert!(matches!(state, StepState::Acting | StepState::Undoing), "{state:?}");
        assert!(saga.place(&saga.name(step)).is_some());
    }
    // What can come next is taken in.
    let mut next = saga.clone();
    let ready = saga.ready().to_vec();
    assert!(next.open(&ready, 0).is_ok(), "{ready:?} of {saga:?}");
    for length in 1..records.len() {
        assert!(Progress::replay(&records[..length]).is_ok(), "a part of what makes sense does");
    }
}

/// The name of a saga.
pub fn name(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(id) = text.parse::<SagaId>() else { return };
    assert!(id.as_str() == text && (1..=128).contains(&text.len()), "{text:?}");
    let json = serde_json::to_string(&id).unwrap_or_default();
    assert_eq!(serde_json::from_str::<SagaId>(&json).ok(), Some(id));
}

#[cfg(test)]
mod tests {
    use gusset_engines::holds;

    #[test]
    fn a_journal_tells_of_a_saga_that_makes_sense_or_is_refused() {
        holds("journal", super::journal);
    }

    #[cfg(feature = "http")]
    #[test]
    fn a_key_that_is_taken_can_be_sent_again() {
        holds("caller", super::caller);
    }
}
