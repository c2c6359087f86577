//! Parts that read what strangers send, each as a function of bytes that checks what must hold for all of them.
//!
//! The workspace's folder `fuzz` calls them for as long as somebody likes; a test here calls them with the same corpus and with seeded changes of it.

use crate::{Message, Pattern, Subject, wall};

#[cfg(feature = "file")]
pub use crate::file::fuzz::events;
#[cfg(feature = "nats")]
pub use crate::nats::fuzz::nats;

/// A subject, a pattern, and headers in lines of `name: value`, then an empty line and the payload: what a message says of itself is read the same again.
pub fn message(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (head, payload) = text.split_once("\n\n").unwrap_or((text, ""));
    let mut lines = head.split('\n');
    let (subject, pattern) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    if let (Ok(subject), Ok(pattern)) = (Subject::new(subject), Pattern::new(pattern)) {
        assert_eq!(pattern.matches(&subject), fits(pattern.as_str(), subject.as_str()), "{text:?}");
    }
    let Ok(mut message) = Message::new("a", payload.as_bytes().to_vec()) else { return };
    for (name, value) in lines.filter_map(|line| line.split_once(':')).take(64) {
        message = message.with_header(name.to_owned(), value.trim());
    }
    let _ = (message.trace(), message.schema_version(), message.patience());
    let _ = <crate::Json as crate::Decode<serde_json::Value>>::decode(&message);
    let Ok(Some(event)) = message.cloud_event() else { return };
    let Ok(bare) = Message::new("a", "") else { return };
    let again = bare.with_cloud_event(event.clone()).cloud_event();
    let whole = |at| wall::read_date(&wall::write_date(at));
    let event = match event.time() {
        // Written to the millisecond, and only up to the year 9999.
        Some(at) => whole(at).map(|at| event.clone().with_time(at)),
        None => Some(event),
    };
    assert_eq!(again.ok().flatten(), event, "{text:?}");
}

/// By the words of the documentation: `*` is one token, `>` all that follow, at least one.
fn fits(pattern: &str, subject: &str) -> bool {
    let (mut pattern, mut subject) = (pattern.split('.'), subject.split('.'));
    loop {
        match (pattern.next(), subject.next()) {
            (None, None) => return true,
            (Some(">"), Some(_)) => return true,
            (Some(wanted), Some(token)) if wanted == "*" || wanted == token => {}
            _ => return false,
        }
    }
}

#[cfg(all(test, feature = "file", feature = "nats"))]
mod tests {
    use gusset_engines::holds;

    #[test]
    fn what_a_message_says_of_itself_is_read_the_same_again() {
        holds("message", super::message);
    }

    #[test]
    fn what_was_read_of_a_log_is_written_as_it_was_read() {
        holds("events", super::events);
    }

    #[test]
    fn what_was_read_of_a_stream_goes_back_into_it_as_it_was() {
        holds("nats", super::nats);
    }
}
