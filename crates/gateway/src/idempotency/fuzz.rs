use super::wire::{read, write};

/// What a store kept of an answer: it is written again as it was.
pub fn stored(data: &[u8]) {
    let Some(answer) = read(data) else { return };
    let mut written = Vec::new();
    assert!(write(&answer, &mut written).is_some());
    let mut again = Vec::new();
    let read = read(&written).and_then(|answer| write(&answer, &mut again));
    assert!(read.is_some() && again == written, "{}", data.escape_ascii());
}
